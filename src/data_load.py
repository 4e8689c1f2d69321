"""Pairs of images -> a MindSpore dataset of training batches.

Batches are (blur, sharp, channel_mask): blur and sharp (B, 3, crop, crop) uint8 RGB, which `src.train_step.TrainStep`
turns into float32 in [0, 1], the mask (B, 96) float32 as `src.mimo_unet.MIMOUNet` takes it.

A worker hands over whole batches of bytes. One by one as float32, as they used to be, handing them over took several
times as long as cropping did: docs/performance.md has the figures.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mindspore.dataset as ds
import numpy as np

from src.data.pairs import Pair, SharpPhoto
from src.data.synthetic_blur import random_pair, read_sharp_photo
from src.data_augment import (
    draw_channel_mask,
    epoch_order,
    paired_crop,
    paired_flip,
    paired_rgb_permutation,
    paired_rotate90,
    sample_rng,
)
from src.errors import UserError

COLUMNS = ["blur", "sharp", "channel_mask"]
PREFETCH = 4  # batches that wait in each queue; the framework's own 16 would only take memory


@dataclass(frozen=True)
class TrainPairs:
    """Random-access source of augmented crops. Item `epoch * len(pairs) + index` is sample `index` as epoch `epoch`
    sees it: both come in one number, so that workers need no state and cannot disagree.
    """

    pairs: Sequence[Pair]
    crop_size: int
    seed: int
    mask_channels: int
    dropout: float
    rotate90: bool = False
    rgb_permutation: bool = False

    def __len__(self) -> int:
        return len(self.pairs)

    def crop(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(pair, SharpPhoto):
            return random_pair(rng, read_sharp_photo(pair.sharp, self.crop_size), self.crop_size, self.crop_size)
        return paired_crop(*pair.read(), self.crop_size, rng)

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blur and sharp, (crop, crop, 3) uint8, maybe views into the image, and the channel mask."""
        epoch, index = divmod(int(item), len(self.pairs))
        rng = sample_rng(self.seed, epoch, index)
        blur, sharp = self.crop(self.pairs[index], rng)
        blur, sharp = paired_flip(blur, sharp, rng)
        if self.rotate90:
            blur, sharp = paired_rotate90(blur, sharp, rng)
        if self.rgb_permutation:
            blur, sharp = paired_rgb_permutation(blur, sharp, rng)
        return blur, sharp, draw_channel_mask(rng, self.mask_channels, self.dropout)


@dataclass(frozen=True)
class TrainBatches:
    """Random-access source of the batches of one rank: item `step` is that of a step of the run, counted from 0.

    Step s of an epoch takes samples [s * G, (s + 1) * G) of that epoch's order, G = batch_size * world_size; rank r
    takes the r-th batch of them, so two ranks with batch b see what one rank with batch 2b sees. The last, incomplete G
    samples of an epoch are left out; the order changes every epoch, so none is left out for good.
    """

    source: TrainPairs
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return steps_per_epoch(len(self.source), self.batch_size, world_size=self.world_size)

    def items(self, step: int) -> list[int]:
        """Which items of the source make the batch."""
        epoch, step_in_epoch = divmod(int(step), len(self))
        start = (step_in_epoch * self.world_size + self.rank) * self.batch_size
        order = epoch_order(self.source.seed, epoch, len(self.source))
        return [epoch * len(self.source) + int(i) for i in order[start : start + self.batch_size]]

    def names(self, step: int) -> list[str]:
        """Blurred files of the batch."""
        return [str(self.source.pairs[item % len(self.source)].blur) for item in self.items(step)]

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = self.source.crop_size
        blur = np.empty((self.batch_size, 3, size, size), np.uint8)
        sharp = np.empty_like(blur)
        mask = np.empty((self.batch_size, self.source.mask_channels), np.float32)
        for k, item in enumerate(self.items(step)):
            b, s, mask[k] = self.source[item]
            blur[k], sharp[k] = b.transpose(2, 0, 1), s.transpose(2, 0, 1)  # the only copy of the pixels
        return blur, sharp, mask


class StepSampler(ds.Sampler):
    """Steps of the run, epoch after epoch: the first epoch from `step` on."""

    def __init__(self, steps_per_epoch: int, epoch: int, step: int):
        self.steps_per_epoch, self.next_epoch, self.first_step = steps_per_epoch, epoch, step
        super().__init__()

    def __iter__(self) -> Iterator[int]:
        start = self.next_epoch * self.steps_per_epoch
        steps = range(start + self.first_step, start + self.steps_per_epoch)
        self.next_epoch, self.first_step = self.next_epoch + 1, 0
        return iter(steps)


def steps_per_epoch(count: int, batch_size: int, accumulate_steps: int = 1, world_size: int = 1) -> int:
    """Whole steps in an epoch.

    Raises:
        UserError: fewer samples than one step of all ranks takes.
    """
    needed = batch_size * accumulate_steps * world_size
    if count < needed:
        parts = f" x --accumulate_steps {accumulate_steps}" if accumulate_steps > 1 else ""
        ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
        fitting = count // (accumulate_steps * world_size)
        smaller = f"Add --train_batch_size {fitting}, or take" if fitting else "Take"
        raise UserError(
            f"--train_batch_size {batch_size}{parts}{ranks} needs {needed} training pairs, got {count}. "
            f"{smaller} fewer ranks or more images."
        )
    return count // needed


def train_dataset(batches: TrainBatches, *, workers: int = 1, epoch: int = 0, step: int = 0) -> ds.Dataset:
    """Dataset of training batches that starts at step `step` of epoch `epoch`, both counted from 0.

    Raises:
        UserError: fewer samples than one batch of all ranks.
    """
    sampler = StepSampler(len(batches), epoch, step)
    ds.config.set_prefetch_size(PREFETCH)
    # Threads, since decoding and numpy release the interpreter's lock: as fast as processes, without shared memory.
    return ds.GeneratorDataset(
        batches, COLUMNS, sampler=sampler, num_parallel_workers=workers, python_multiprocessing=False
    )


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """A UserError of a loader worker (an image that cannot be read) reaches us as text inside the framework's
    RuntimeError, below pages of traceback; this brings it back."""
    try:
        yield
    except RuntimeError as e:
        found = re.findall(rf"{UserError.__module__}\.UserError: (.+)", str(e))
        if found:
            raise UserError(found[-1]) from e
        raise
