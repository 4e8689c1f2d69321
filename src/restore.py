"""From a photo to a restored photo: any size is padded to what the network takes, and cropped back."""

from collections.abc import Callable

import numpy as np

Engine = Callable[[np.ndarray], np.ndarray]
"""(N, 3, H, W) float32 in [0, 1], H and W multiples of 4 -> the same shape, not clipped. See `src.engine`."""

MULTIPLE = 4  # the network halves its input twice


def pad_to_multiple(images: np.ndarray, multiple: int = MULTIPLE) -> np.ndarray:
    """(N, 3, H, W) -> mirrored at the bottom and right to sides that are multiples of `multiple`."""
    height, width = images.shape[2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return images
    return np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")


def restore(images: np.ndarray, engine: Engine) -> np.ndarray:
    """Restore a batch of any size.

    Args:
        images: (N, H, W, 3) float32 RGB in [0, 1].

    Returns:
        The same shape, not clipped: clipping belongs to the metric or to the file.
    """
    height, width = images.shape[1:3]
    batch = pad_to_multiple(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    restored = engine(batch)
    return np.ascontiguousarray(restored[:, :, :height, :width].transpose(0, 2, 3, 1))
