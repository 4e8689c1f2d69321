"""From a photo to a restored photo: any size is padded to what the network takes and cropped back; self-ensembles.

Images are (N, H, W, 3) float32 RGB in [0, 1].
"""

from collections.abc import Callable

import numpy as np

Engine = Callable[[np.ndarray], np.ndarray]
"""(N, 3, H, W) float32 in [0, 1], H and W multiples of 4 -> the same shape, not clipped. See `src.engine`."""

MULTIPLE = 4  # the network halves its input twice
BYTES_PER_PIXEL = 4500  # peak memory of one call: 4.0 GB for a 1280x720 frame, MindSpore on CPU

# name -> (quarter turns, flipped left to right first) of each pass, whose results are turned back and averaged.
ENSEMBLES: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "rot4": ((0, False), (1, False), (2, False), (3, False)),  # the paper's MIMO-UNet++: rotations, no flips
    "flip4": ((0, False), (0, True), (2, False), (2, True)),  # both mirror images and both: no turn of 90 degrees
    "x8": tuple((turns, flipped) for flipped in (False, True) for turns in range(4)),
}


def pad_to_multiple(images: np.ndarray, multiple: int = MULTIPLE) -> np.ndarray:
    """(N, 3, H, W) -> mirrored at the bottom and right to sides that are multiples of `multiple`."""
    height, width = images.shape[2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return images
    return np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")


def restore_once(images: np.ndarray, engine: Engine) -> np.ndarray:
    """One pass of the network over a batch of any size; not clipped: clipping belongs to the metric or to the file."""
    height, width = images.shape[1:3]
    batch = pad_to_multiple(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    restored = engine(batch)
    return np.ascontiguousarray(restored[:, :, :height, :width].transpose(0, 2, 3, 1))


def restore(images: np.ndarray, engine: Engine, ensemble: str = "none", max_pixels: int = 0) -> np.ndarray:
    """Restore a batch of any size, with a self-ensemble.

    Args:
        images: (N, H, W, 3).
        ensemble: one of `ENSEMBLES`.
        max_pixels: passes of one shape go through the network together while they have no more pixels than this (the
            turns of a frame that is not square have two shapes, so rot4 runs as two batches of two); 0 = one after the
            other. The answer is the same to float rounding.

    Returns:
        The same shape, not clipped.
    """
    passes = ENSEMBLES[ensemble]
    if len(passes) == 1:
        return restore_once(images, engine)
    count, height, width, _ = images.shape
    together = max(1, max_pixels // (count * height * width))
    total = np.zeros(images.shape, np.float64)
    by_shape = [[p for p in passes if p[0] % 2 == odd] for odd in (0, 1)]
    for same_shape in by_shape:
        for start in range(0, len(same_shape), together):
            group = same_shape[start : start + together]
            restored = restore_once(np.concatenate([_turn(images, *p) for p in group]), engine)
            for p, part in zip(group, np.split(restored, len(group)), strict=True):
                total += _turn_back(part, *p)
    return (total / len(passes)).astype(np.float32)


def _turn(images: np.ndarray, turns: int, flipped: bool) -> np.ndarray:
    return np.rot90(images[:, :, ::-1] if flipped else images, turns, axes=(1, 2))


def _turn_back(images: np.ndarray, turns: int, flipped: bool) -> np.ndarray:
    back = np.rot90(images, -turns, axes=(1, 2))
    return back[:, :, ::-1] if flipped else back
