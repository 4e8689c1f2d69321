"""Restoring photo and video files one at a time. Outputs are written as by `whole_file`, and a failing file does not
stop the others.
"""

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import device
from src.errors import BadOutput, UserError, printable, reason_of
from src.files import NoRoom, whole_file
from src.photos.index import Index, stamp
from src.photos.jobs import WRITTEN_AS_JPEG, Job
from src.photos.read import read_header, read_photo, save_before_after
from src.photos.video import CRF, is_video, restore_video
from src.photos.write import check_fits, fit_format, write_photo
from src.restore import OVERLAP, auto_tile, restore_photo


def restore_file(
    job: Job, restore: Callable[[np.ndarray, Path], np.ndarray], quality: int, max_pixels: int
) -> tuple[str, ...]:
    """Read, restore and write a photo; returns notes on what could not be kept.

    Args:
        restore: (pixels (H, W, 3) uint8 or uint16, the photo's path) -> the same shape and type.

    Raises:
        UserError, OSError: nothing was written, or the photo without its strip if only renaming the strip failed.
    """
    header = read_header(job.source)
    check_fits(header.width, header.height, job.file_format, job.source)
    photo = read_photo(job.source, max_pixels)
    try:
        restored = photo.with_pixels(restore(photo.pixels, job.source))
    except MemoryError as e:  # smaller tiles would not help the decoder or the writer
        raise UserError(f"{job.source}: not enough memory; give a smaller --tile") from e
    notes = photo.notes
    if header.file_format in WRITTEN_AS_JPEG and job.file_format == "JPEG":
        notes += (f"{header.file_format} is written as JPEG of quality {quality}, deblur.py --format chooses another",)
    with contextlib.ExitStack() as stack:  # at its end both files get their names, the photo first
        if job.strip:
            save_before_after(stack.enter_context(whole_file(job.strip)), photo.pixels, restored.pixels)
        del photo  # frees its pixels while writing
        restored, left_out = fit_format(restored, job.file_format)
        part = stack.enter_context(whole_file(job.target))
        write_photo(stack.enter_context(open(part, "xb+")), restored, job.file_format, quality)
    return notes + left_out


# ---- all files


def restore_files(
    jobs: Sequence[Job],
    restore: Callable[[np.ndarray, Path], np.ndarray],
    index: Index,
    *,
    bar: Any,
    quality: int,
    max_pixels: int,
    video_quality: int = CRF,
    debug: bool = False,
) -> tuple[int, float]:
    """Restore photos and videos one at a time. A failure is reported in one line and does not stop the others.

    Args:
        index: where to record finished jobs.
        bar: a tqdm bar over the files; a video has a second one over its frames.
        debug: print tracebacks of failures.

    Returns:
        The number of failures, and the seconds for all files.

    Raises:
        UserError: the network fails on every photo; the disk is too full for a video.
    """
    failed, start = 0, time.perf_counter()
    for done, job in enumerate(jobs):
        try:
            before = stamp(job.source)
            if job.is_video:
                made = restore_with_bar(job, restore, video_quality, max_pixels)
            else:
                made = restore_file(job, restore, quality, max_pixels)
            notes = [*made, index.add(job, before)]
            if notes := list(filter(None, notes)):
                bar.write(printable(f"{job.source}: {'; '.join(notes)}"))
        except Exception as e:  # anything may be raised for an unusual photo
            if (isinstance(e, BadOutput) and e.always) or (isinstance(e, NoRoom) and job.is_video):
                raise UserError(one_line(e, job)) from e
            failed += 1
            if debug:
                traceback.print_exc()
            bar.write(f"failed: {printable(one_line(e, job))}", file=sys.stderr)
        except KeyboardInterrupt:
            lost = f", nothing of {job.target.name} is written" if job.is_video else ""
            line = f"{done} of {len(jobs)} {kinds(jobs)} are done{lost}; the same command does the rest"
            bar.write(printable(line), file=sys.stderr)
            raise
        bar.update()
    return failed, time.perf_counter() - start


def restore_with_bar(
    job: Job, restore: Callable[[np.ndarray, Path], np.ndarray], quality: int, max_pixels: int
) -> tuple[str, ...]:
    """`restore_video` with a bar over the frames."""
    from tqdm import tqdm

    with tqdm(desc=printable(job.source.name), unit="frame", leave=False, disable=None) as frames:

        def on_frame(done: int, count: int) -> None:
            frames.total = count or None
            frames.update()

        return restore_video(job.source, job.target, restore, quality, max_pixels, on_frame=on_frame)


def kinds(jobs: Sequence[Job]) -> str:
    """'photos', 'videos' or 'photos and videos'"""
    names = {"videos" if job.is_video else "photos" for job in jobs}
    return " and ".join(sorted(names)) or "photos"


def one_line(error: Exception, job: Job) -> str:
    """The message about a file that failed."""
    if isinstance(error, BadOutput):
        return f"{job.source}: {error}"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{job.source}: not enough memory to read it and write the result; close other programs"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or job.target}: {error.strerror}"
    return f"{job.source}: {type(error).__name__}: {reason_of(error)} (--debug shows where)"


# ---- the pixels


@dataclass(frozen=True)
class Restorer:
    """The way to restore every photo and frame of a run."""

    engine: Any
    """An engine from `src.engine.load_engine`."""
    tile: int | None
    """Side of the tiles in pixels, 0 = no tiles, None = by the free memory."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; None = `OVERLAP`, or less for small tiles."""
    ensemble: str = "none"
    on_tile: Callable[[int, int], None] | None = None
    """Called with (tiles done, tiles in all)."""
    verify: bool = False
    """Also restore photos without tiles, and report the difference."""
    report: Callable[[str], None] = print

    def __call__(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        """(H, W, 3) uint8 or uint16 -> the same, restored."""
        height, width = pixels.shape[:2]
        free = max(0, device.available_memory() - pixels.nbytes)  # the result is as large as the photo
        fitting = auto_tile(height, width, free, self.engine.bytes_per_pixel)
        tile = fitting if self.tile is None else self.tile
        overlap = OVERLAP if self.overlap is None else self.overlap
        if self.overlap is None or self.tile is None:  # an automatic tile may be too small for it
            overlap = min(overlap, max(0, tile - 1) // 2)
        restored = restore_photo(pixels, self.engine, tile, overlap, self.ensemble, self.on_tile)
        if self.verify and not is_video(path) and 0 < tile < max(height, width):
            if fitting:
                self.report(f"{path}: too large for the free memory without tiles, so not compared")
            else:
                whole = restore_photo(pixels, self.engine, ensemble=self.ensemble)
                self.report(f"{path}: tiles of {tile} against the whole: {difference_in_db(restored, whole)}")
        return restored


def difference_in_db(a: np.ndarray, b: np.ndarray) -> str:
    """PSNR of two photos of 8 or 16 bits, as text. Row by row, since float copies of large photos need much memory."""
    squares = sum(float(np.square(x.astype(np.float64) - y).sum()) for x, y in zip(a, b, strict=True))
    if squares == 0:
        return "equal"
    return f"{10 * np.log10(float(np.iinfo(a.dtype).max) ** 2 * a.size / squares):.2f} dB"
