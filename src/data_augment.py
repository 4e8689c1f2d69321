"""Augmentation of one blurred/sharp pair. All random numbers come from the generator of the sample.

Arrays are (H, W, 3) uint8 unless stated otherwise; both images of a pair are treated equally.
"""

import functools

import numpy as np


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Generator of one sample in one epoch, so that results do not depend on the number of workers or ranks."""
    return np.random.default_rng([seed, epoch, index])


@functools.lru_cache(maxsize=2)  # every batch of an epoch needs it
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Order of the `count` samples in one epoch, (count,) int64, read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.setflags(write=False)
    return order


def paired_crop(
    blur: np.ndarray, sharp: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same `size` x `size` window of both at a uniformly random place. Sides must be at least `size`."""
    height, width = blur.shape[:2]
    top = int(rng.integers(height - size + 1))
    left = int(rng.integers(width - size + 1))
    window = np.s_[top : top + size, left : left + size]
    return blur[window], sharp[window]


def paired_flip(blur: np.ndarray, sharp: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Left-right flip of both with probability 0.5, as in the paper."""
    if rng.random() < 0.5:
        return blur[:, ::-1], sharp[:, ::-1]
    return blur, sharp


def paired_rotate90(blur: np.ndarray, sharp: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rotate both by the same 0, 90, 180 or 270 degrees."""
    turns = int(rng.integers(4))
    return np.rot90(blur, turns), np.rot90(sharp, turns)


def paired_rgb_permutation(
    blur: np.ndarray, sharp: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Permute the colour channels of both in the same way."""
    order = rng.permutation(3)
    return blur[..., order], sharp[..., order]


def draw_channel_mask(rng: np.random.Generator, channels: int, dropout: float) -> np.ndarray:
    """Channel dropout of one sample, (channels,) float32: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    return ((rng.random(channels) >= dropout) / (1 - dropout)).astype(np.float32)
