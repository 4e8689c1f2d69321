"""The folder of one running web page: every upload, result and temporary file of the process, deleted by age."""

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from src.files import lock_folder

PREFIX = "deblur_page_"
BLOCK = 4096  # bytes that the smallest file, or a folder, takes on the disk


class WebFolder:
    """As a context manager: makes the folder, points the process's temporary files to it, deletes old files in a
    thread, and removes the folder at the end.

    A lock shows that the folder is in use, so that the next start removes what a killed page left.

    Args:
        keep: seconds that an upload or a result stays after its last change.
        limit: bytes that all files together may take.

    Raises:
        UserError: on entry, when the system's temporary folder is not writable.
    """

    def __init__(self, keep: float, limit: int):
        self.keep, self.limit = keep, limit
        self.announced: list[int] = []  # bytes of each upload under way
        self.in_use: set[Path] = set()
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def __enter__(self) -> "WebFolder":
        try:
            base = Path(tempfile.gettempdir()).resolve()
            remove_stale(base)
            self.path, self.descriptor = _make_locked(base)
        except OSError as e:
            raise UserError(f"TMPDIR: cannot make a temporary folder ({e.strerror}). Set it to one you own.") from e
        self.uploads = self.path / "uploads"
        self.uploads.mkdir()
        self.before = tempfile.tempdir, {name: os.environ.get(name) for name in ("TMPDIR", "GRADIO_TEMP_DIR")}
        tempfile.tempdir = str(self.path)
        os.environ |= {"TMPDIR": str(self.path), "GRADIO_TEMP_DIR": str(self.uploads)}
        self.thread = threading.Thread(target=self._sweep_until_ended, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()
        tempfile.tempdir, variables = self.before
        for name, value in variables.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        for _ in range(3):  # a restore that is still running may write between listing and removing
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.descriptor)

    # ---- age

    @property
    def interval(self) -> float:
        """Seconds between two sweeps."""
        return min(self.keep / 4, 60)

    def _sweep_until_ended(self) -> None:
        while not self.ended.wait(self.interval):
            self.sweep(time.time() - self.keep)

    def sweep(self, before: float) -> None:
        """Remove what has not changed since `before` (seconds since 1970) and is not in use. A folder's age is that of
        its newest file, by ctime, which no sender can set."""
        for entry in [*self.path.glob("*"), *self.uploads.glob("*")]:
            with self.lock:
                newest = max((status.st_ctime for status in _statuses(entry)), default=0)
                if entry != self.uploads and entry not in self.in_use and newest < before:
                    _remove(entry)

    @contextlib.contextmanager
    def using(self, upload: Path) -> Iterator[Path]:
        """A new folder for the results of an upload; the sweep leaves both alone meanwhile.

        Raises:
            UserError: the upload has been deleted, the path is not that of an upload, or the page is full.
        """
        if not self.holds(upload) or not upload.is_file():
            raise UserError(f"the photo is no longer here, after {duration(self.keep)} it is deleted; upload it again")
        with self.new_results(self.uploads / upload.resolve().relative_to(self.uploads).parts[0]) as results:
            yield results

    @contextlib.contextmanager
    def new_results(self, *others: Path) -> Iterator[Path]:
        """A new folder for results; the sweep leaves it and `others` alone meanwhile.

        Raises:
            UserError: the page is full.
        """
        if self.room() <= 0:
            raise UserError(self.full())
        with self.lock:
            results = Path(tempfile.mkdtemp(dir=self.uploads))
            entries = {results, *others}
            self.in_use |= entries
        try:
            yield results
        finally:
            self.in_use -= entries

    def holds(self, path: Path) -> bool:
        """Whether a path, links followed, is that of a complete upload or a result."""
        try:
            return len(path.resolve().relative_to(self.uploads).parts) > 1  # incomplete uploads lie at the top
        except (ValueError, OSError):
            return False

    # ---- size

    def room(self) -> int:
        """Bytes that a new upload may have; negative when the folder exceeds its limit. An upload under way counts with
        its announced size instead of what has arrived; what aborted uploads have left counts as any other file."""
        unfinished = sum(_size(entry) for entry in self.uploads.glob("*") if entry.is_file())
        announced = sum(self.announced)
        arrived = min(unfinished, announced)
        free = shutil.disk_usage(self.path).free
        return min(self.limit - _size(self.path), free) + arrived - announced

    def full(self) -> str:
        """Why there is no room, and when there will be."""
        limit, wait = f"{self.limit / 2**20:g} MB", duration(self.keep)
        return f"the page or its disk is full (limit {limit}); try again in {wait} at the latest"

    @contextlib.contextmanager
    def receiving(self, size: int) -> Iterator[None]:
        """Reserve room for an upload of `size` bytes. At the end of the last upload under way, incomplete files are
        removed."""
        self.announced.append(size)
        try:
            yield
        finally:
            self.announced.remove(size)
            if not self.announced:
                for entry in self.uploads.glob("*"):
                    if entry.is_file():
                        _remove(entry)


def duration(seconds: float) -> str:
    """'90 seconds', '5 minutes', '1 hour': in the largest unit that divides it."""
    for size, unit in ((3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}{'s' if seconds > size else ''}"
    return f"{seconds:g} second{'s' if seconds != 1 else ''}"


def remove_stale(base: Path) -> None:
    """Remove the page folders in `base` whose process has ended."""
    for path in base.glob(f"{PREFIX}*"):
        lock = lock_folder(path, is_new=False)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _make_locked(base: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock, which is released when the process ends, however it ends."""
    while True:  # another start may take the new folder for a stale one before it is locked
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = lock_folder(path, is_new=True)
        if lock is not None:
            return path, lock


def _statuses(top: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and everything below it, except what is removed meanwhile."""
    below = (Path(folder, name) for folder, folders, files in os.walk(top) for name in (*folders, *files))
    for path in itertools.chain([top], below):
        with contextlib.suppress(OSError):
            yield path.lstat()


def _size(top: Path) -> int:
    return sum(max(status.st_size, BLOCK) for status in _statuses(top))


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
