"""Scores after alignment, by the protocol of RealBlur: `eval.py --align ecc`.

RealBlur's blurred and sharp images come from two cameras; the remaining differences in position and brightness lower
the scores of even the best restoration. Its authors (Rim et al., "Real-World Blur Dataset for Learning and Benchmarking
Deblurring Algorithms", ECCV 2020; https://github.com/rimchang/RealBlur) therefore align each restored image to the
sharp one before they score it, as Koehler's benchmark does:

1. gain: the prediction times sum(sharp * prediction) / sum(prediction^2), one number for all pixels and channels;
2. homography: the enhanced correlation coefficient between the grey images is maximised, from the identity, after a
   Gaussian filter of 5x5, in 100 iterations;
3. the prediction is resampled by it, bicubic, with mirrored borders; the sharp image is unchanged;
4. the pixels that lie in the prediction, by nearest neighbour, are valid;
5. PSNR: the mean square error of the valid pixels, all channels together, not clipped again;
6. SSIM: both images are set to 0 where they are not valid; the map of Gaussian windows (`src.metric.SSIM`), without
   the 5 pixels along the borders, is averaged over the valid pixels.

Differences: they score PNG files (`psnr_uint8` here) with OpenCV 4.2.0 and do not align the blurred input; here it is
aligned like the restored image, so that the gain compares like with like. They always run 100 iterations; here the
search ends when the correlation no longer changes, about four times sooner, without a change in the third decimal of
the dB. Their script aborts when the search fails; here such an image is scored without alignment, and counted. As in
their script, the gain precedes the homography, so images that are far apart keep a small error of brightness.

Images are (H, W, 3) float32, as in `src.metric`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from src.errors import UserError
from src.metric import METRICS, SMALLEST_SIDE, SSIM, decibels, rounded

ITERATIONS = 100
TOLERANCE = 1e-8  # change of the correlation that ends the search; theirs is 0
FILTER_SIZE = 5  # pixels, of the Gaussian filter before the search
MIN_VALID = 0.5  # share of the image; a homography that keeps less is wrong. The authors have no such limit.


class Aligned(NamedTuple):
    """The result of `align`."""

    prediction: np.ndarray
    """(H, W, 3) float32, on the sharp image's pixels and of its brightness; may exceed [0, 1] slightly."""
    mask: np.ndarray
    """(H, W) bool: the pixels to score."""
    converged: bool
    """If False, the prediction is only clipped, and all of it is valid."""


def align(prediction: np.ndarray, sharp: np.ndarray) -> Aligned:
    """Align a prediction to the ground truth and match its brightness, steps 1 to 4 above.

    If the search does not converge (a flat image, nan, nothing in common) or leaves less than `MIN_VALID` of the image,
    the prediction is only clipped: its scores are then those of `src.metric`.

    Args:
        prediction: (H, W, 3) float32, clipped to [0, 1] here.
        sharp: (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: the two differ in shape.
    """
    if prediction.shape != sharp.shape:
        raise ValueError(f"prediction is {prediction.shape}, ground truth {sharp.shape}")
    prediction = np.clip(prediction, 0, 1).astype(np.float32)
    sharp = np.ascontiguousarray(sharp, np.float32)
    height, width = sharp.shape[:2]
    unaligned = Aligned(prediction, np.ones((height, width), bool), False)
    power = float(np.sum(prediction.astype(np.float64) ** 2))
    if not power > 0:  # black, or nan
        return unaligned
    gain = float(np.sum(sharp.astype(np.float64) * prediction)) / power
    bright = prediction * np.float32(gain)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, TOLERANCE)
    template, moved = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (sharp, bright))
    try:
        _, homography = cv2.findTransformECC(  # type: ignore[call-overload]  # its types forget that the mask may be None
            template, moved, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, FILTER_SIZE
        )
    except cv2.error as e:
        if e.code != cv2.Error.StsNoConv:
            raise
        return unaligned

    def warp(image: np.ndarray, interpolation: int, border: int) -> np.ndarray:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(image, homography, (width, height), flags=flags, borderMode=border)

    mask = warp(np.ones((height, width), np.float32), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
    if mask.mean() < MIN_VALID:
        return unaligned
    return Aligned(warp(bright, cv2.INTER_CUBIC, cv2.BORDER_REFLECT), mask, True)


def masked_psnr(prediction: np.ndarray, sharp: np.ndarray, mask: np.ndarray) -> float:
    """Step 5 above, in dB, on the pixels of the (H, W) bool mask; inf if the images are equal there."""
    return decibels(prediction[mask].astype(np.float64) - sharp[mask])


def masked_ssim(prediction: np.ndarray, sharp: np.ndarray, mask: np.ndarray) -> float:
    """Step 6 above, on the pixels of the (H, W) bool mask; mean of the channels; nan for a side under 11 pixels."""
    if min(sharp.shape[:2]) < SMALLEST_SIDE:
        return math.nan
    kept = mask[..., None].astype(np.float64)
    _, similarity = structural_similarity(prediction * kept, sharp * kept, full=True, **SSIM)
    border = SMALLEST_SIDE // 2
    inner = slice(border, -border)
    return float(np.mean(similarity[inner, inner][mask[inner, inner]]))


def aligned_scores(prediction: np.ndarray, sharp: np.ndarray, metrics: Iterable[str]) -> tuple[dict[str, float], bool]:
    """Scores of one image after alignment, by the names of `src.metric.METRICS`, and whether the alignment converged.

    psnr and ssim score the float prediction; psnr_uint8 scores the one rounded to 8 bits before the alignment, as the
    authors of RealBlur do.

    Raises:
        UserError: a metric has no aligned form.
    """
    scores: dict[str, float] = {}
    aligned: dict[bool, Aligned] = {}  # by whether the prediction is rounded first
    for metric in metrics:
        if metric not in MASKED:
            raise UserError(f"--align ecc: no aligned form of {metric}, only of {', '.join(MASKED)}")
        eight_bits = metric == "psnr_uint8"
        if eight_bits not in aligned:
            aligned[eight_bits] = align(rounded(prediction) if eight_bits else prediction, sharp)
        moved, mask, converged = aligned[eight_bits]
        scores[metric] = MASKED[metric](moved, sharp, mask) if converged else METRICS[metric](prediction, sharp)
    return scores, all(a.converged for a in aligned.values())


MASKED = {"psnr": masked_psnr, "psnr_uint8": masked_psnr, "ssim": masked_ssim}
