"""The training loss of MIMO-UNet: multi-scale L1 plus 0.1 x L1 between Fourier transforms (paper, section 3.4).

The transform consists of real float32 matrix products because `ops.fft2` has no GPU kernel and complex gradients are
fragile on Ascend. On CPU, both give the same value and gradient to 5e-7, at under 1 % of a training step's cost.
"""

import functools
from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn, ops

FFT_WEIGHT = 0.1  # the paper's lambda


@ops.constexpr
@functools.cache
def dft_constants(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matrices of the 2-D DFT of a real image, built once per size, at compile time.

    Returns:
        rows: (W, 2F) with F = W // 2 + 1: cosines, then negated sines, for the transform along the width. The other
            half of a real image's spectrum is the conjugate of this one.
        cos, sin: (H, H), for the transform along the height.
        count: (F,), how often each column occurs in the two-sided spectrum: once or twice.
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


def transform(diff: Tensor, product: Callable[[Tensor, Tensor], Tensor] = ops.matmul) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of the left half of FFT2(diff), (N, C, H, F) each, by matrix products."""
    rows, cos, sin, _ = dft_constants(*diff.shape[-2:])
    num_freq = rows.shape[1] // 2
    spectrum = product(diff, rows)  # (N, C, H, 2F): real | imaginary part of the transform along the width
    by_cos = product(cos, spectrum)
    by_sin = product(sin, spectrum)
    return by_cos[..., :num_freq] + by_sin[..., num_freq:], by_cos[..., num_freq:] - by_sin[..., :num_freq]


def split_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, for devices that round the operands to float16 but add up their products in float32.

    Scaled to +-2048, an operand is an integer, which float16 represents exactly, plus a remainder of at most 0.5, of
    which float16 keeps 11 bits. The product of the two remainders, 2**-24 of the largest product, is omitted. The scale
    also keeps the operands away from both ends of float16's range: the DC term of a 256x256 difference reaches 65,536,
    and gradients without a loss scale are below 1e-7.
    """
    scale_a, whole_a, rest_a = _split(a)
    scale_b, whole_b, rest_b = _split(b)
    parts = ops.matmul(whole_a, whole_b) + (ops.matmul(whole_a, rest_b) + ops.matmul(rest_a, whole_b))
    return parts * scale_a * scale_b


def _split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(scale, whole, rest) with x = scale * (whole + rest)."""
    scale = ops.maximum(ops.abs(x).max(), 1e-30) / 2048  # an all-black difference has no largest value to divide by
    scaled = x / scale
    whole = ops.round(scaled)
    return scale, whole, scaled - whole


class SplitTransform(nn.Cell):
    """`transform` by `split_product`. Its gradient is the transposed transform, also by `split_product`."""

    def construct(self, diff: Tensor) -> tuple[Tensor, Tensor]:
        return transform(diff, split_product)

    def bprop(self, diff: Tensor, output: tuple[Tensor, Tensor], gradient: tuple[Tensor, Tensor]) -> tuple[Tensor]:
        rows, cos, sin, _ = dft_constants(*diff.shape[-2:])
        real, imag = gradient
        spectrum = split_product(cos, ops.concat((real, imag), -1)) + split_product(sin, ops.concat((-imag, real), -1))
        return (split_product(spectrum, rows.T),)


class FourierL1(nn.Cell):
    """Mean over all real and imaginary parts of |FFT2(diff)|, two-sided and unnormalised.

    Args:
        split_products: use a `SplitTransform`.
    """

    def __init__(self, split_products: bool = False):
        super().__init__()
        self.transform = SplitTransform() if split_products else transform

    def construct(self, diff: Tensor) -> Tensor:
        """`diff` (N, C, H, W) float32. The transform is linear, so FFT(prediction) - FFT(label) = FFT(prediction -
        label)."""
        n, c, h, w = diff.shape
        real, imag = self.transform(diff)
        return ops.sum((ops.abs(real) + ops.abs(imag)) * dft_constants(h, w)[3]) / (2 * n * c * h * w)


def label_pyramid(sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels for the three outputs, coarse to fine, from (N, 3, H, W); H and W are multiples of 4.

    x0.5 is the mean of each 2x2 block, x0.25 the mean of the central 2x2 of each 4x4 block. This is bilinear resizing
    with half-pixel centres and without antialiasing, as in the paper's code (which resizes inputs by nearest).
    """
    return _mean_of_four(sharp, 4), _mean_of_four(sharp, 2), sharp


def _mean_of_four(image: Tensor, size: int) -> Tensor:
    """Mean of the central 2x2 pixels of each block of `size`, (N, 3, H/size, W/size).

    Bit-equal to `ops.avg_pool2d` on CPU, which runs as AvgPool3D: Ascend 910 has it in float16 only, and MindSpore's
    documentation excludes it from Atlas A2 (910B).
    """
    n, c, h, w = image.shape
    blocks = image.reshape(n, c, h // size, size, w // size, size)
    i, j = size // 2 - 1, size // 2
    top = blocks[:, :, :, i, :, i] + blocks[:, :, :, i, :, j]
    return (top + blocks[:, :, :, j, :, i] + blocks[:, :, :, j, :, j]) * 0.25


class MultiScaleLoss(nn.Cell):
    """Sum over the three scales of L1 + `fft_weight` x Fourier L1, always in float32.

    Predictions are cast to float32 first: the DC term of a 256x256 difference reaches 65,536, above float16's largest
    number.

    Args:
        split_products: use `split_product`, for devices that multiply matrices in float16 only.
    """

    def __init__(self, fft_weight: float = FFT_WEIGHT, split_products: bool = False):
        super().__init__()
        self.fft_weight = fft_weight
        self.fourier_l1 = FourierL1(split_products)

    def construct(self, predictions: tuple[Tensor, Tensor, Tensor], sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions (coarse to fine) and sharp (N, 3, H, W) -> scalars (total, content, fft), where total = content +
        fft_weight * fft."""
        content, fft = 0.0, 0.0
        for prediction, label in zip(predictions, label_pyramid(sharp.float())):  # noqa: B905  (unknown to the graph compiler)
            diff = prediction.float() - label
            content += ops.abs(diff).mean()
            fft += self.fourier_l1(diff)
        return content + self.fft_weight * fft, content, fft
