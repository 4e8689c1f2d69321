"""Paired folders -> a MindSpore dataset of training batches.

A dataset is `root/{train,test}/{blur,sharp}` with equal file names. Batches are (blur, sharp, channel_mask): blur and
sharp (B, 3, crop, crop) float32 RGB in [0, 1], the mask (B, 96) float32 as `src.mimo_unet.MIMOUNet` takes it.
"""

import contextlib
import multiprocessing
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mindspore.dataset as ds
import numpy as np

from src.data_augment import (
    draw_channel_mask,
    epoch_order,
    paired_crop,
    paired_flip,
    paired_rgb_permutation,
    paired_rotate90,
    sample_rng,
    to_chw,
)
from src.errors import UserError
from src.picture_files import Pair, read_rgb

COLUMNS = ["blur", "sharp", "channel_mask"]


@dataclass(frozen=True)
class TrainPairs:
    """Random-access source of augmented crops. Item `epoch * len(pairs) + index` is sample `index` as epoch `epoch`
    sees it: the sampler hands over both in one number, so that a worker needs no state and forked workers cannot
    disagree.
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

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if multiprocessing.parent_process():  # a SIGTERM to the whole process group is for the main process to answer
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        epoch, index = divmod(int(item), len(self.pairs))
        rng = sample_rng(self.seed, epoch, index)
        blur, sharp = read_rgb(self.pairs[index].blur), read_rgb(self.pairs[index].sharp)
        blur, sharp = paired_crop(blur, sharp, self.crop_size, rng)
        blur, sharp = paired_flip(blur, sharp, rng)
        if self.rotate90:
            blur, sharp = paired_rotate90(blur, sharp, rng)
        if self.rgb_permutation:
            blur, sharp = paired_rgb_permutation(blur, sharp, rng)
        mask = draw_channel_mask(rng, self.mask_channels, self.dropout)
        return to_chw(blur), to_chw(sharp), mask


class EpochSampler(ds.Sampler):
    """Order of the samples, epoch after epoch, for one rank.

    Step s of an epoch takes samples [s * G, (s + 1) * G) of that epoch's order, G = batch_size * world_size; rank r
    takes the r-th batch of them, so two ranks with batch b see what one rank with batch 2b sees. The last, incomplete G
    samples of an epoch are left out; the order changes every epoch, so none is left out for good.
    """

    def __init__(self, count: int, seed: int, batch_size: int, rank: int, world_size: int, epoch: int, step: int):
        self.count, self.seed, self.batch_size, self.rank, self.world_size = count, seed, batch_size, rank, world_size
        self.next_epoch, self.first_step = epoch, step
        super().__init__()

    def __iter__(self) -> Iterator[int]:
        epoch, step = self.next_epoch, self.first_step
        self.next_epoch, self.first_step = epoch + 1, 0
        return iter(self.indices(epoch, step))

    def indices(self, epoch: int, first_step: int = 0) -> list[int]:
        """Items of one epoch, from step `first_step` on."""
        order = epoch_order(self.seed, epoch, self.count) + epoch * self.count
        steps = self.count // (self.batch_size * self.world_size)
        order = order[: steps * self.batch_size * self.world_size]
        batches = order.reshape(steps, self.world_size, self.batch_size)
        return batches[first_step:, self.rank].ravel().tolist()


def steps_per_epoch(count: int, batch_size: int, accumulate_steps: int = 1, world_size: int = 1) -> int:
    """Whole steps in an epoch.

    Raises:
        UserError: fewer samples than one step of all ranks takes.
    """
    needed = batch_size * accumulate_steps * world_size
    if count < needed:
        parts = f" x --accumulate_steps {accumulate_steps}" if accumulate_steps > 1 else ""
        ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
        raise UserError(
            f"--train_batch_size {batch_size}{parts}{ranks} needs {needed} training pairs, got {count}. "
            "Use a smaller batch, fewer ranks or more images."
        )
    return count // needed


def batch_names(source: "TrainPairs", batch_size: int, rank: int, world_size: int, step: int) -> list[str]:
    """File names of the batch that one rank takes at a step of the run, counted from 0."""
    epoch, step_in_epoch = divmod(step, steps_per_epoch(len(source), batch_size, world_size=world_size))
    sampler = EpochSampler(len(source), source.seed, batch_size, rank, world_size, 0, 0)
    items = sampler.indices(epoch, step_in_epoch)[:batch_size]
    return [str(source.pairs[item % len(source)].blur) for item in items]


def train_dataset(source: TrainPairs, batch_size: int, *, rank: int = 0, world_size: int = 1, workers: int = 1,
                  processes: bool = False, epoch: int = 0, step: int = 0) -> ds.Dataset:  # fmt: skip
    """Dataset of training batches that starts at step `step` of epoch `epoch`, both counted from 0.

    Raises:
        UserError: fewer samples than one batch of all ranks.
    """
    steps_per_epoch(len(source), batch_size, world_size=world_size)
    ds.config.set_enable_watchdog(False)  # src.callback.StopOnDeadWorker does its work
    sampler = EpochSampler(len(source), source.seed, batch_size, rank, world_size, epoch, step)
    dataset = ds.GeneratorDataset(
        source, COLUMNS, sampler=sampler, num_parallel_workers=workers, python_multiprocessing=processes and workers > 1
    )
    return dataset.batch(batch_size, drop_remainder=True)


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
