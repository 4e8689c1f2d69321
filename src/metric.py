"""Image quality by the protocol of the deblurring literature.

Images are (H, W, 3) float32; the ground truth lies in [0, 1]; a prediction is clipped to it, as the paper's evaluation
does.
"""

import math

import numpy as np
from skimage.metrics import structural_similarity


def psnr(prediction: np.ndarray, sharp: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: whole frame, all of RGB together, data range 1, prediction not rounded.

    This is the protocol of the published 31.73 / 32.45 / 32.68 dB. Identical images give inf.
    """
    _check_shapes(prediction, sharp)
    error = np.clip(prediction, 0, 1).astype(np.float64) - sharp
    mse = float(np.mean(error**2))
    return math.inf if mse == 0 else -10 * math.log10(mse)  # a prediction of nan scores nan, not inf


def psnr_uint8(prediction: np.ndarray, sharp: np.ndarray) -> float:
    """The same after rounding the prediction to 8 bits: what a saved PNG scores."""
    # float32, as the image files are read: in float64 an identical image would differ by rounding and miss inf.
    return psnr(to_uint8(prediction).astype(np.float32) / np.float32(255), sharp)


def ssim(prediction: np.ndarray, sharp: np.ndarray) -> float:
    """Structural similarity, 2-D per channel, mean of the channels: Gaussian window of sigma 1.5 (11x11), population
    covariance, data range 1.

    The paper's 0.951 is a 3-D MATLAB number; this one is about 0.03 lower at equal quality. nan for a side under 11
    pixels.
    """
    _check_shapes(prediction, sharp)
    if min(sharp.shape[:2]) < 11:
        return math.nan
    return float(
        structural_similarity(
            np.clip(prediction, 0, 1).astype(np.float64), sharp.astype(np.float64), gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=1.0, channel_axis=2,
        )
    )  # fmt: skip


METRICS = {"psnr": psnr, "psnr_uint8": psnr_uint8, "ssim": ssim}


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] float -> 8 bits, rounded (truncation would darken by half a level)."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _check_shapes(prediction: np.ndarray, sharp: np.ndarray) -> None:
    if prediction.shape != sharp.shape:
        raise ValueError(f"prediction is {prediction.shape}, ground truth {sharp.shape}")
