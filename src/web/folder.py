"""The folder of one running web page: every upload, result and temporary file of the process, deleted by age."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError

PREFIX = "deblur_page_"
BLOCK = 4096  # bytes that the smallest file, or a folder, takes on the disk


@dataclass(eq=False)
class Incoming:
    """An upload under way: the bytes that are still to come."""

    left: int


class WebFolder:
    """`with` makes the folder the process's temporary folder, sweeps it in a thread, and removes it at the end.

    A lock shows that the folder's process lives, so the next start removes what a killed page has left.

    Args:
        keep: seconds that an upload or a result stays after its last change.
        limit: bytes that all files together may take.

    Raises:
        UserError: on entry, when the system's temporary folder cannot be written to.
    """

    def __init__(self, keep: float, limit: int):
        self.keep, self.limit = keep, limit
        self.incoming: list[Incoming] = []
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

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        tempfile.tempdir, variables = self.before
        for name, value in variables.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        _remove_locked(self.path)
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
        """Remove what has not changed since `before`, seconds since 1970, unless it is in use. A folder goes as a
        whole, by its newest file."""
        for entry in [*_entries(self.path), *_entries(self.uploads)]:
            with self.lock:
                if entry != self.uploads and entry not in self.in_use and _last_change(entry) < before:
                    _remove(entry)

    @contextlib.contextmanager
    def using(self, upload: Path) -> Iterator[Path]:
        """A new folder for the results of an upload; neither is swept meanwhile.

        Raises:
            UserError: the upload has been deleted, is no upload, or the page is full.
        """
        if not self.holds(upload) or not upload.is_file():
            raise UserError(f"the photo is no longer here, after {duration(self.keep)} it is deleted; upload it again")
        if self.room() <= 0:
            raise UserError(self.full())
        with self.lock:
            results = Path(tempfile.mkdtemp(dir=self.uploads))
            entries = {results, self.uploads / upload.resolve().relative_to(self.uploads).parts[0]}
            self.in_use |= entries
        try:
            yield results
        finally:
            self.in_use -= entries

    def holds(self, path: Path) -> bool:
        """Whether a path, links followed, is that of a whole upload or a result."""
        try:
            return len(path.resolve().relative_to(self.uploads).parts) > 1  # half an upload lies at the top
        except (ValueError, OSError):
            return False

    # ---- size

    def room(self) -> int:
        """Bytes that may still be announced; below 0 when the folder is over its limit."""
        used = sum(_size(path) for path in _tree(self.path))
        return min(self.limit - used, shutil.disk_usage(self.path).free) - sum(i.left for i in self.incoming)

    def full(self) -> str:
        """Why there is no room, and when there will be."""
        limit, wait = f"{self.limit / 2**20:g} MB", duration(self.keep)
        return f"the page or its disk is full (limit {limit}); try again in {wait} at the latest"

    @contextlib.contextmanager
    def receiving(self, size: int) -> Iterator[Incoming]:
        """Hold room for an upload of `size` bytes; what it leaves half written is removed when no other comes in."""
        incoming = Incoming(size)
        self.incoming.append(incoming)
        try:
            yield incoming
        finally:
            self.incoming.remove(incoming)
            if not self.incoming:
                for entry in _entries(self.uploads):
                    if entry.is_file():
                        _remove(entry)


def duration(seconds: float) -> str:
    """'90 seconds', '5 minutes', '1 hour': the largest unit that divides it."""
    for size, unit in ((3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}{'s' if seconds > size else ''}"
    return f"{seconds:g} second{'s' if seconds != 1 else ''}"


def remove_stale(base: Path) -> None:
    """Remove the page folders in `base` that are this user's and whose process has ended."""
    for path in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # BlockingIOError: its process lives
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_locked(path)
            finally:
                os.close(descriptor)


def _make_locked(base: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock, which ends with the process however that ends."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():  # else another start has taken it for stale, just before the lock
            return path, descriptor
        os.close(descriptor)


def _remove_locked(path: Path) -> None:
    for _ in range(3):  # a restore that still runs may write between listing and removing
        shutil.rmtree(path, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return list(folder.iterdir())
    return []


def _tree(top: Path) -> Iterator[Path]:
    """A file, or a folder and all below it; what is removed meanwhile is no error."""
    yield top
    for folder, folders, files in os.walk(top):
        yield from (Path(folder, name) for name in (*folders, *files))


def _last_change(entry: Path) -> float:
    """Seconds since 1970 of the newest change below `entry`, by the clock that no sender sets; 0 if it has gone."""
    found = (_status(path) for path in _tree(entry))
    return max((status.st_ctime for status in found if status), default=0)


def _size(path: Path) -> int:
    status = _status(path)
    return max(status.st_size, BLOCK) if status else 0


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(OSError):  # removed meanwhile
        return path.lstat()
    return None


def _remove(entry: Path) -> None:
    status = _status(entry)
    if status and stat.S_ISDIR(status.st_mode):
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
