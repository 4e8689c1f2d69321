"""One uploaded photo or video of the page of `app.py`, restored as `deblur.py` does, to the same bytes."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from src.photos.jobs import LONGEST_NAME, Job, Source, plan
from src.photos.read import preview, read_header, read_photo
from src.photos.run import one_line, restore_file
from src.photos.video import first_picture, restore_video

PREVIEW_SIDE = 2000  # pixels: longest side of the pictures on the page


@dataclass(frozen=True)
class Restored:
    """What the page shows of a photo or video."""

    line: str
    """Name, size and time, or the error."""
    target: Path | None = None
    """The file to download; None for a failure, and so are the previews."""
    before: Path | None = None
    """Upright, 8 bits, at most `PREVIEW_SIDE` pixels a side, in a format that every browser shows; of a video the first
    frame."""
    after: Path | None = None


@dataclass(frozen=True)
class VideoOptions:
    """How to restore a video: arguments of `restore_video`."""

    quality: int
    max_pixels: int
    max_seconds: float
    on_frame: Callable[[int, int], None] | None = None


def restore_upload(
    upload: Path,
    given_name: str,
    folder: Path,
    restore: Callable[[np.ndarray, Path], np.ndarray],
    quality: int,
    max_pixels: int,
    debug: bool = False,
    video: VideoOptions | None = None,
) -> Restored:
    """Restore one uploaded photo or video.

    Args:
        upload: the file on the server, under a name that the server chose.
        given_name: the user's name for it, not trusted; decides the format as a file's name does for `deblur.py`.
        folder: an empty folder for the result and the previews.
        restore: see `src.photos.run.restore_file`.
        debug: print tracebacks of failures to standard error.
        video: None refuses videos.

    Returns:
        The result, or the reason for its absence in `line`: no file makes this function raise.
    """
    name = file_name(given_name, upload)
    results, previews = folder / "result", folder / "preview"
    job = Job(upload, results / name, "")
    try:
        results.mkdir()
        previews.mkdir()
        (job,), _ = plan([Source(upload, Path(name))], results)
        start = time.perf_counter()
        if job.is_video and video:
            limits = video.max_pixels, video.max_seconds
            notes = restore_video(upload, job.target, restore, video.quality, *limits, video.on_frame)
        else:
            notes = restore_file(job, restore, quality, max_pixels)
        seconds = time.perf_counter() - start
        before = write_preview(upload, previews / "before.png", max_pixels, job.is_video)
        after = write_preview(job.target, previews / "after.png", max_pixels, job.is_video)
        if job.is_video:
            height, width = first_picture(job.target).shape[:2]
        else:
            header = read_header(job.target)
            width, height = header.width, header.height
        size = job.target.stat().st_size
    except Exception as e:  # one strange file must not end the page
        if debug:
            traceback.print_exc()
        line = f"error: {one_line(e, job)}"
        return Restored(line.replace(str(upload), name).replace(str(job.target), job.target.name))
    parts = [f"{job.target.name}: {width}x{height} pixels, {size / 1e6:.2f} MB, {seconds:.1f} s", *notes]
    return Restored("; ".join(parts), job.target, before, after)


def file_name(given: str, upload: Path) -> str:
    """The last part of the name that came with an upload, or the server's name if no file can have that one."""
    name = PurePosixPath(given.replace("\\", "/")).name
    usable = name not in ("", "..") and name.isprintable() and len(name.encode()) <= LONGEST_NAME
    return name if usable else upload.name


def write_preview(path: Path, target: Path, max_pixels: int, of_video: bool = False) -> Path:
    """A photo, or the first frame of a video, as PNG for the page; transparency is left out."""
    if of_video:
        preview(first_picture(path), PREVIEW_SIDE).save(target, "PNG", compress_level=1)
        return target
    photo = read_photo(path, max_pixels)
    profile = None if photo.grey else photo.carried.icc or None  # the preview has three channels, a grey profile one
    preview(photo.pixels, PREVIEW_SIDE).save(target, "PNG", compress_level=1, icc_profile=profile)
    return target
