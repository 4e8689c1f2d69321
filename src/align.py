"""Scores after alignment, by the protocol of RealBlur: `eval.py --align ecc`.

RealBlur's blurred and sharp images come from two cameras; what is left of their offset and of their brightness lowers
the scores of the best restoration. Its authors (Rim et al., "Real-World Blur Dataset for Learning and Benchmarking
Deblurring Algorithms", ECCV 2020; https://github.com/rimchang/RealBlur) therefore move each restored image onto the
sharp one before they score it, as Koehler's benchmark does:

1. gain: the prediction times sum(sharp * prediction) / sum(prediction^2), one number for all pixels and channels;
2. homography: the enhanced correlation coefficient is maximised between the grey images, from the identity on, after a
   Gaussian filter of 5x5, in 100 iterations;
3. the prediction is resampled by it, bicubic, borders mirrored; the sharp image stays as it is;
4. valid are the pixels that lie in the prediction, by nearest neighbour;
5. PSNR: the mean square error of the valid pixels, all channels together, not clipped again;
6. SSIM: both images set to 0 where they are not valid; the map of Gaussian windows (sigma 1.5, 11x11, population
   covariance, range 1), without the 5 pixels along the borders, averaged over the valid pixels.

Differences: they score PNG files (`psnr_uint8` here), with OpenCV 4.2.0, and leave the blurred input unaligned; here it
is aligned like the restored image, so that the gain compares like with like. They always make 100 iterations; here the
search ends when the correlation no longer changes, about four times sooner, without a change in the third decimal of
the dB. Their script ends where the search fails; here such an image is scored as it is, without alignment, and counted.
The gain comes before the homography, as with them: far apart images keep a small error of brightness.

Images are (H, W, 3) float32, as in `src.metric`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from src.errors import UserError
from src.metric import METRICS, to_uint8

ITERATIONS = 100
TOLERANCE = 1e-8  # change of the correlation that ends it sooner; theirs is 0
FILTER_SIZE = 5  # pixels, of the Gaussian filter before the search
SSIM_BORDER = 5  # pixels: half of the 11x11 window
# A homography that throws out half of the image has gone astray. The authors have no such limit.
MIN_VALID = 0.5


class Aligned(NamedTuple):
    """What `align` returns."""

    prediction: np.ndarray
    """(H, W, 3) float32, on the sharp image's pixels and of its brightness; may leave [0, 1] a little."""
    mask: np.ndarray
    """(H, W) bool: the pixels to score."""
    converged: bool
    """False: the prediction is only clipped, and all of it is valid."""


def align(prediction: np.ndarray, sharp: np.ndarray) -> Aligned:
    """Move a prediction onto the ground truth and match its brightness, steps 1 to 4 above.

    Where the search does not converge (a flat image, nan, nothing in common), or leaves less than half of the
    image, the prediction comes back clipped but otherwise as it is: its scores are then those of `src.metric`.

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
    """Step 5 above, in dB, on the pixels of the (H, W) bool mask. inf where the images are equal."""
    mse = float(np.mean((prediction[mask].astype(np.float64) - sharp[mask]) ** 2))
    return math.inf if mse == 0 else -10 * math.log10(mse)


def masked_ssim(prediction: np.ndarray, sharp: np.ndarray, mask: np.ndarray) -> float:
    """Step 6 above, on the pixels of the (H, W) bool mask; mean of the channels. nan for a side under 11 pixels."""
    if min(sharp.shape[:2]) <= 2 * SSIM_BORDER:
        return math.nan
    kept = mask[..., None].astype(np.float64)
    _, similarity = structural_similarity(
        prediction * kept, sharp * kept, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, channel_axis=2, full=True,
    )  # fmt: skip
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    return float(np.mean(similarity[inner, inner][mask[inner, inner]]))


def aligned_scores(prediction: np.ndarray, sharp: np.ndarray, metrics: Iterable[str]) -> tuple[dict[str, float], bool]:
    """Scores of one image after alignment, by the names of `src.metric.METRICS`, and whether the alignment converged.

    psnr and ssim are of the float prediction; psnr_uint8 is of the one rounded to 8 bits before the alignment, which is
    what the authors of RealBlur score.

    Raises:
        UserError: OpenCV is not installed, or a metric has no aligned form.
    """
    scores: dict[str, float] = {}
    aligned: dict[bool, Aligned] = {}  # by whether the prediction is rounded first
    for metric in metrics:
        if metric not in MASKED:
            raise UserError(f"--align ecc: no aligned form of {metric}, only of {', '.join(MASKED)}")
        rounded = metric == "psnr_uint8"
        if rounded not in aligned:
            # float32, as the image files are read: see `src.metric.psnr_uint8`.
            image = to_uint8(prediction).astype(np.float32) / np.float32(255) if rounded else prediction
            aligned[rounded] = align(image, sharp)
        moved, mask, converged = aligned[rounded]
        scores[metric] = MASKED[metric](moved, sharp, mask) if converged else METRICS[metric](prediction, sharp)
    return scores, all(a.converged for a in aligned.values())


MASKED = {"psnr": masked_psnr, "psnr_uint8": masked_psnr, "ssim": masked_ssim}
