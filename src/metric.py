"""Image quality by the protocol of the deblurring literature.

Images are (H, W, 3) float32. The ground truth is in [0, 1], and predictions are clipped to that range, as in the
paper's evaluation.
"""

import math

import numpy as np
from skimage.metrics import structural_similarity

# Gaussian window of sigma 1.5 (11x11), population covariance, data range 1, per channel.
SSIM = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2)
SMALLEST_SIDE = 11  # pixels, for the SSIM


def psnr(prediction: np.ndarray, sharp: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: whole frame, all of RGB together, data range 1, prediction not rounded.

    This is the protocol of the published 31.73 / 32.45 / 32.68 dB. Identical images give inf.
    """
    _check_shapes(prediction, sharp)
    return decibels(np.clip(prediction, 0, 1).astype(np.float64) - sharp)


def decibels(error: np.ndarray) -> float:
    """PSNR of a float64 error at data range 1: inf for an error of 0, nan for nan."""
    mse = float(np.mean(error**2))
    return math.inf if mse == 0 else -10 * math.log10(mse)


def psnr_uint8(prediction: np.ndarray, sharp: np.ndarray) -> float:
    """`psnr` of the prediction rounded to 8 bits, as a saved PNG has it."""
    return psnr(rounded(prediction), sharp)


def ssim(prediction: np.ndarray, sharp: np.ndarray) -> float:
    """Structural similarity, 2-D per channel, mean of the channels; nan for a side under `SMALLEST_SIDE`.

    The paper's 0.951 is a 3-D MATLAB number; this one is about 0.03 lower at equal quality.
    """
    _check_shapes(prediction, sharp)
    if min(sharp.shape[:2]) < SMALLEST_SIDE:
        return math.nan
    return float(structural_similarity(np.clip(prediction, 0, 1).astype(np.float64), sharp.astype(np.float64), **SSIM))


METRICS = {"psnr": psnr, "psnr_uint8": psnr_uint8, "ssim": ssim}


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] float -> 8 bits, rounded (truncation would darken by half a level)."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def rounded(image: np.ndarray) -> np.ndarray:
    """[0, 1] float -> the nearest values of 8 bits, as float32 like images from files: in float64, an identical image
    would differ by rounding."""
    return to_uint8(image).astype(np.float32) / np.float32(255)


def _check_shapes(prediction: np.ndarray, sharp: np.ndarray) -> None:
    if prediction.shape != sharp.shape:
        raise ValueError(f"prediction is {prediction.shape}, ground truth {sharp.shape}")
