"""Restoring images of any size: padding for the network and cropping, self-ensembles, tiles.

Images are (N, H, W, 3) float32 RGB in [0, 1].
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np


class Engine(Protocol):
    """(N, 3, H, W) float32 in [0, 1], H and W multiples of `multiple` -> the same shape, not clipped: `src.engine`."""

    multiple: int

    def __call__(self, images: np.ndarray, /) -> np.ndarray: ...


class TimedEngine:
    """An engine that adds up the seconds of its calls, from the images in the host's memory to the result there."""

    def __init__(self, engine: Engine):
        self.engine, self.multiple, self.seconds = engine, engine.multiple, 0.0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        restored = self.engine(images)
        self.seconds += time.perf_counter() - start
        return restored


# name -> (quarter turns, flipped left to right first) of each pass. The results are turned back and averaged.
ENSEMBLES: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "rot4": ((0, False), (1, False), (2, False), (3, False)),  # the paper's MIMO-UNet++: rotations, no flips
    "x8": tuple((turns, flipped) for flipped in (False, True) for turns in range(4)),
}


def pad_to_multiple(images: np.ndarray, multiple: int) -> np.ndarray:
    """(N, 3, H, W) -> mirrored at the bottom and right so that the sides are multiples of `multiple`."""
    height, width = images.shape[2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return images
    return np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")


def restore_once(images: np.ndarray, engine: Engine) -> np.ndarray:
    """One pass of the network over (N, H, W, 3) images of any size; not clipped: the metric or the file clips."""
    height, width = images.shape[1:3]
    batch = pad_to_multiple(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), engine.multiple)
    restored = engine(batch)
    return np.ascontiguousarray(restored[:, :, :height, :width].transpose(0, 2, 3, 1))


def restore(images: np.ndarray, engine: Engine, ensemble: str = "none", max_pixels: int = 0) -> np.ndarray:
    """Restore a batch of any size, with a self-ensemble.

    Args:
        images: (N, H, W, 3).
        ensemble: one of `ENSEMBLES`.
        max_pixels: passes of one shape form a batch of up to this many pixels (the turns of a frame that is not square
            have two shapes, so rot4 runs as two batches of two); 0 = one at a time. The result is the same to float
            rounding.

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


# ---- photos of any size, in bounded memory

SMALLEST_TILE = 64  # pixels; below, the overlap would be most of the work
LARGEST_TILE = 768  # pixels; larger tiles are not faster and need more memory: this one 2.7 GB with MindSpore
LARGEST_WHOLE = 1_000_000  # pixels of a photo without tiles: 4.5 GB with MindSpore, less with others
OVERLAP = 32  # pixels that neighbouring tiles share
TILE_STEP = 32  # pixels; automatic tiles are multiples of it, so that few sizes are compiled


def auto_tile(height: int, width: int, free_bytes: int, bytes_per_pixel: float) -> int:
    """Side of the largest square tile, up to `LARGEST_TILE`, that 60 % of the free memory is enough for; 0 for a small
    photo that needs no tiles."""
    pixels = 0.6 * free_bytes / bytes_per_pixel
    if height * width <= min(pixels, LARGEST_WHOLE):
        return 0
    return int(min(max(math.isqrt(int(pixels)) // TILE_STEP * TILE_STEP, SMALLEST_TILE), LARGEST_TILE))


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of `tile` pixels begin along a side of `length`; neighbours share at least `overlap` pixels.
    All tiles have one size, and the last one ends at the border.
    """
    if tile >= length:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_weights(length: int, starts: list[int], tile: int) -> list[np.ndarray]:
    """Weights of the pixels of each tile along one side, (min(tile, length),) float32, whose sum is 1 at every pixel.

    Where two tiles overlap, the quarter next to a tile's edge has weight 0 (the network saw zeros beyond the edge), and
    the central half blends linearly.
    """
    tile = min(tile, length)
    weights = [np.ones(tile) for _ in starts]
    for i in range(len(starts) - 1):
        shared = starts[i] + tile - starts[i + 1]
        ramp = np.clip((np.arange(shared) + 0.5) / shared * 2 - 0.5, 0, 1)
        weights[i][tile - shared :] *= 1 - ramp
        weights[i + 1][:shared] *= ramp
    return [w.astype(np.float32) for w in weights]


def restore_photo(
    pixels: np.ndarray,
    engine: Engine,
    tile: int = 0,
    overlap: int = OVERLAP,
    ensemble: str = "none",
    on_tile: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Restore an 8- or 16-bit photo, optionally in tiles, so that the tile and not the photo bounds the memory.

    Args:
        pixels: (H, W, 3) uint8 or uint16 RGB.
        tile: side of the square tiles in pixels, 0 = the whole photo at once.
        overlap: smallest number of pixels that neighbouring tiles share, less than half a tile.
        on_tile: called with (tiles done, tiles in all).

    Returns:
        (H, W, 3) of the same type, clipped and rounded.

    Raises:
        ValueError: `overlap` is not below half of `tile`.
    """
    height, width = pixels.shape[:2]
    tile = tile or max(height, width)
    if tile < max(height, width) and not 0 <= overlap < tile / 2:
        raise ValueError(f"overlap {overlap}: expected less than half of the tile, {tile}")
    top_of, left_of = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    row_weights, column_weights = tile_weights(height, top_of, tile), tile_weights(width, left_of, tile)
    rows, columns = min(tile, height), min(tile, width)
    scale = np.float32(np.iinfo(pixels.dtype).max)
    restored = np.empty_like(pixels)
    band = np.zeros((rows, width, 3), np.float32)  # the rows that the current row of tiles covers
    for i, top in enumerate(top_of):
        for j, left in enumerate(left_of):
            part = pixels[None, top : top + rows, left : left + columns].astype(np.float32) / scale
            weight = row_weights[i][:, None, None] * column_weights[j][None, :, None]
            band[:, left : left + columns] += weight * np.clip(restore(part, engine, ensemble)[0], 0, 1)
            if on_tile:
                on_tile(i * len(left_of) + j + 1, len(top_of) * len(left_of))
        finished = (top_of[i + 1] if i + 1 < len(top_of) else height) - top
        restored[top : top + finished] = np.round(band[:finished] * scale)
        band[: rows - finished] = band[finished:]
        band[rows - finished :] = 0
    return restored
