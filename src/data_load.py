"""Turns pairs of images into a MindSpore dataset of training batches.

Batches are (blur, sharp, channel_mask): blur and sharp (B, 3, crop, crop) uint8 RGB, which `src.train_step.TrainStep`
converts to float32 in [0, 1], the mask (B, 96) float32 as `src.mimo_unet.MIMOUNet` takes it.

Workers return whole uint8 batches: passing single float32 samples took several times as long as cropping them, see
docs/performance.md.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mindspore.dataset as ds
import numpy as np

from src import data_augment as augment
from src.config import Data
from src.data.pairs import Pair, SharpPhoto
from src.data.synthetic_blur import MOTIONS, random_pair, read_sharp_photo
from src.errors import UserError
from src.mimo_unet import MASK_CHANNELS

COLUMNS = ["blur", "sharp", "channel_mask"]
PREFETCH = 4  # batches waiting in each queue; the default of 16 would only use memory


@dataclass(frozen=True)
class TrainPairs:
    """Random-access source of augmented crops. Item `epoch * len(pairs) + index` is sample `index` in epoch `epoch`.

    One number encodes both, so that workers are stateless and cannot disagree.
    """

    pairs: Sequence[Pair]
    data: Data
    seed: int
    dropout: float

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blur and sharp, (crop, crop, 3) uint8, possibly views, and the channel mask."""
        epoch, index = divmod(int(item), len(self.pairs))
        rng = augment.sample_rng(self.seed, epoch, index)
        pair, size = self.pairs[index], self.data.crop_size
        if isinstance(pair, SharpPhoto):
            photo = read_sharp_photo(pair.sharp, size)
            blur, sharp = random_pair(rng, photo, size, size, MOTIONS[self.data.synthetic_motion])
        else:
            blur, sharp = augment.paired_crop(*pair.read(), size, rng)
        blur, sharp = augment.paired_flip(blur, sharp, rng)
        if self.data.random_rotate90:
            blur, sharp = augment.paired_rotate90(blur, sharp, rng)
        if self.data.random_rgb_permutation:
            blur, sharp = augment.paired_rgb_permutation(blur, sharp, rng)
        return blur, sharp, augment.draw_channel_mask(rng, MASK_CHANNELS, self.dropout)


@dataclass(frozen=True)
class TrainBatches:
    """Random-access source of the batches of one rank: item `step` belongs to a step of the run, counted from 0.

    Step s of an epoch takes samples [s * G, (s + 1) * G) of that epoch's order, G = batch_size * world_size; rank r
    takes the r-th batch of them, so two ranks with batch b use the same samples as one rank with batch 2b. The last,
    incomplete G samples of an epoch are dropped; they differ every epoch.
    """

    source: TrainPairs
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return steps_per_epoch(len(self.source), self.batch_size, world_size=self.world_size)

    def items(self, step: int) -> list[int]:
        """Items of `source` in the batch of a step."""
        epoch, step_in_epoch = divmod(int(step), len(self))
        start = (step_in_epoch * self.world_size + self.rank) * self.batch_size
        order = augment.epoch_order(self.source.seed, epoch, len(self.source))
        return [epoch * len(self.source) + int(i) for i in order[start : start + self.batch_size]]

    def names(self, step: int) -> list[str]:
        """Blurred files in the batch of a step."""
        return [str(self.source.pairs[item % len(self.source)].blur) for item in self.items(step)]

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = self.source.data.crop_size
        blur = np.empty((self.batch_size, 3, size, size), np.uint8)
        sharp = np.empty_like(blur)
        mask = np.empty((self.batch_size, MASK_CHANNELS), np.float32)
        for k, item in enumerate(self.items(step)):
            b, s, mask[k] = self.source[item]
            blur[k], sharp[k] = b.transpose(2, 0, 1), s.transpose(2, 0, 1)  # the only copy of the pixels
        return blur, sharp, mask


class StepSampler(ds.Sampler):
    """Steps of the run, epoch by epoch; the first epoch starts at `step`."""

    def __init__(self, steps_per_epoch: int, epoch: int, step: int):
        self.steps_per_epoch, self.next_epoch, self.first_step = steps_per_epoch, epoch, step
        super().__init__()

    def __iter__(self) -> Iterator[int]:
        start = self.next_epoch * self.steps_per_epoch
        steps = range(start + self.first_step, start + self.steps_per_epoch)
        self.next_epoch, self.first_step = self.next_epoch + 1, 0
        return iter(steps)


def steps_per_epoch(count: int, batch_size: int, accumulate_steps: int = 1, world_size: int = 1) -> int:
    """Number of complete steps in an epoch.

    Raises:
        UserError: there are fewer samples than one step of all ranks needs.
    """
    needed = batch_size * accumulate_steps * world_size
    if count < needed:
        parts = f" x --accumulate_steps {accumulate_steps}" if accumulate_steps > 1 else ""
        ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
        fitting = count // (accumulate_steps * world_size)
        smaller = f"Add --train_batch_size {fitting}, or use" if fitting else "Use"
        raise UserError(
            f"--train_batch_size {batch_size}{parts}{ranks} needs {needed} training pairs, got {count}. "
            f"{smaller} fewer ranks or more images."
        )
    return count // needed


def train_dataset(batches: TrainBatches, *, workers: int = 1, epoch: int = 0, step: int = 0) -> ds.Dataset:
    """Dataset of training batches, from step `step` of epoch `epoch`, both counted from 0.

    Raises:
        UserError: there are fewer samples than one batch of all ranks.
    """
    sampler = StepSampler(len(batches), epoch, step)
    ds.config.set_prefetch_size(PREFETCH)
    # Decoding and numpy release the interpreter lock, so threads are as fast as processes and need no shared memory.
    return ds.GeneratorDataset(
        batches, COLUMNS, sampler=sampler, num_parallel_workers=workers, python_multiprocessing=False
    )


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """Raise the UserError of a loader worker (an unreadable image), which the framework turns into text in a long
    RuntimeError."""
    try:
        yield
    except RuntimeError as e:
        found = re.findall(rf"{UserError.__module__}\.UserError: (.+)", str(e))
        if found:
            raise UserError(found[-1]) from e
        raise
