"""The training loss of MIMO-UNet: multi-scale L1 plus 0.1 x L1 between Fourier transforms (paper, section 3.4).

The transform is written as real float32 matrix products because `ops.fft2` has no GPU kernel and complex gradients are
fragile on Ascend; on CPU both give the same value and gradient to 5e-7, and the cost is under 1 % of a training step.
"""

import functools

import numpy as np
from mindspore import Tensor, nn, ops

FFT_WEIGHT = 0.1  # the paper's lambda


@ops.constexpr
@functools.cache
def dft_constants(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matrices of the 2-D DFT of a real image, made once a size, at compile time.

    Returns:
        rows: (W, 2F) with F = W // 2 + 1: cosines, then negated sines, of a transform along the width. The other half
            of the spectrum of a real image is the conjugate of this one.
        cos, sin: (H, H), of a transform along the height.
        count: (F,), how often each column occurs in the two-sided spectrum, once or twice.
    """
    num_freq = width // 2 + 1
    # k * x modulo n keeps the angles small, so that float64 -> float32 is the only rounding.
    row_angle = 2 * np.pi / width * (np.outer(np.arange(width), np.arange(num_freq)) % width)
    col_angle = 2 * np.pi / height * (np.outer(np.arange(height), np.arange(height)) % height)
    count = np.full(num_freq, 2.0)
    count[0] = 1
    if width % 2 == 0:
        count[-1] = 1
    rows = np.concatenate([np.cos(row_angle), -np.sin(row_angle)], axis=1)
    return tuple(Tensor(a.astype(np.float32)) for a in (rows, np.cos(col_angle), np.sin(col_angle), count))


def fft_l1(diff: Tensor) -> Tensor:
    """Mean over all real and imaginary parts of |FFT2(diff)|, two-sided and unnormalised.

    Args:
        diff: (N, C, H, W) float32. The transform is linear, so FFT(prediction) - FFT(label) = FFT(prediction - label).
    """
    n, c, h, w = diff.shape
    rows, cos, sin, count = dft_constants(h, w)
    num_freq = w // 2 + 1
    spectrum = ops.matmul(diff, rows)  # (N, C, H, 2F): real | imaginary part of the transform along the width
    by_cos = ops.matmul(cos, spectrum)
    by_sin = ops.matmul(sin, spectrum)
    real = by_cos[..., :num_freq] + by_sin[..., num_freq:]  # (N, C, H, F)
    imag = by_cos[..., num_freq:] - by_sin[..., :num_freq]
    return ops.sum((ops.abs(real) + ops.abs(imag)) * count) / (2 * n * c * h * w)


def label_pyramid(sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels for the three outputs, coarse to fine, from (N, 3, H, W).

    x0.5 is the mean of each 2x2 block, x0.25 the mean of the central 2x2 of each 4x4 block: what bilinear resizing with
    half-pixel centres and no antialiasing gives, as the paper's code does to labels (inputs are resized by nearest).
    """
    half = ops.avg_pool2d(sharp, 2, 2)  # (N, 3, H/2, W/2)
    centre = sharp[:, :, 1:-1, 1:-1]  # its 2x2 blocks at stride 4 are the central ones
    quarter = ops.avg_pool2d(centre, 2, 4)  # (N, 3, H/4, W/4)
    return quarter, half, sharp


class MultiScaleLoss(nn.Cell):
    """Sum over the three scales of L1 + `fft_weight` x Fourier L1, always in float32.

    The DC term of a 256x256 difference reaches 65,536, above float16's largest number, so predictions are cast up
    first.
    """

    def __init__(self, fft_weight: float = FFT_WEIGHT):
        super().__init__()
        self.fft_weight = fft_weight

    def construct(self, predictions: tuple[Tensor, Tensor, Tensor], sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(total, content, fft) scalars; total = content + fft_weight * fft. Predictions coarse to fine, sharp (N, 3,
        H, W)."""
        content, fft = 0.0, 0.0
        for prediction, label in zip(predictions, label_pyramid(sharp.float())):  # noqa: B905  (unknown to the graph compiler)
            diff = prediction.float() - label
            content += ops.abs(diff).mean()
            fft += fft_l1(diff)
        return content + self.fft_weight * fft, content, fft
