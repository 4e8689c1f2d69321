"""One uploaded photo of the page of `app.py`, restored as `deblur.py` does, to the same bytes."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from src.photos.jobs import LONGEST_NAME, Job, Source, plan
from src.photos.read import preview, read_header, read_photo
from src.photos.run import one_line, restore_file

PREVIEW_SIDE = 2000  # pixels: longest side of the pictures on the page


@dataclass(frozen=True)
class Restored:
    """What the page shows of a photo."""

    line: str
    """Name, size and time, or the error."""
    target: Path | None = None
    """The file to download; None for a failure, and so are the previews."""
    before: Path | None = None
    """Upright, 8 bits, at most `PREVIEW_SIDE` pixels a side, in a format that every browser shows."""
    after: Path | None = None


def restore_upload(
    upload: Path,
    given_name: str,
    folder: Path,
    restore: Callable[[np.ndarray, Path], np.ndarray],
    quality: int,
    max_pixels: int,
    debug: bool = False,
) -> Restored:
    """Restore one uploaded photo.

    Args:
        upload: the file on the server, under a name that the server chose.
        given_name: the user's name for it, not trusted; decides the format as a file's name does for `deblur.py`.
        folder: an empty folder for the result and the previews.
        restore: see `src.photos.run.restore_file`.
        debug: print tracebacks of failures to standard error.

    Returns:
        The result, or the reason for its absence in `line`: no photo makes this function raise.
    """
    name = file_name(given_name, upload)
    results, previews = folder / "result", folder / "preview"
    job = Job(upload, results / name, "")
    try:
        results.mkdir()
        previews.mkdir()
        (job,), _ = plan([Source(upload, Path(name))], results)
        start = time.perf_counter()
        notes = restore_file(job, restore, quality, max_pixels)
        seconds = time.perf_counter() - start
        before = write_preview(upload, previews / "before.png", max_pixels)
        after = write_preview(job.target, previews / "after.png", max_pixels)
        header, size = read_header(job.target), job.target.stat().st_size
    except Exception as e:  # one strange photo must not end the page
        if debug:
            traceback.print_exc()
        line = f"error: {one_line(e, job)}"
        return Restored(line.replace(str(upload), name).replace(str(job.target), job.target.name))
    parts = [f"{job.target.name}: {header.width}x{header.height} pixels, {size / 1e6:.2f} MB, {seconds:.1f} s", *notes]
    return Restored("; ".join(parts), job.target, before, after)


def file_name(given: str, upload: Path) -> str:
    """The last part of the name that came with an upload, or the server's name if no file can have that one."""
    name = PurePosixPath(given.replace("\\", "/")).name
    usable = name not in ("", "..") and name.isprintable() and len(name.encode()) <= LONGEST_NAME
    return name if usable else upload.name


def write_preview(path: Path, target: Path, max_pixels: int) -> Path:
    """A photo as PNG for the page; transparency is left out."""
    photo = read_photo(path, max_pixels)
    profile = None if photo.grey else photo.carried.icc or None  # the preview has three channels, a grey profile one
    preview(photo.pixels, PREVIEW_SIDE).save(target, "PNG", compress_level=1, icc_profile=profile)
    return target
