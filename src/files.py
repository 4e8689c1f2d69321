"""Many files at once; files and folders that appear whole or not at all, and apart from what is read."""

import contextlib
import errno
import fcntl
import filecmp
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNFINISHED = ".mimo_unet_unfinished_"  # and a number: a hidden folder beside a file that is being written


def in_threads(work: Callable, todo: Sequence, unit: str, progress: bool) -> list:
    """`work` on each of `todo`, in order. Decoding runs without the interpreter's lock, so threads use all cores."""
    from tqdm import tqdm  # scripts/doctor.py writes files where it is not installed

    with ThreadPoolExecutor((os.cpu_count() or 1) + 2) as pool:  # two more: some wait for the disk
        try:
            return list(tqdm(pool.map(work, todo), total=len(todo), unit=unit, disable=None if progress else True))
        except BaseException:  # Ctrl-C: what has not begun is not begun
            pool.shutdown(cancel_futures=True)
            raise


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files hold the same bytes, or are one file. A file that cannot be read is like no other."""
    try:
        return os.path.samefile(a, b) or filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def escaped(text: str) -> str:
    """Text that can be written as UTF-8: what is not UTF-8 in a file name, `\\udcff` in Python, becomes six letters."""
    return text.encode("utf-8", "backslashreplace").decode()


def unescaped(text: str) -> str:
    """The inverse of `escaped`, but for names that hold such six letters themselves."""
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda match: chr(int(match[1], 16)), text)


# ---- whole or not at all


class NoRoom(UserError):
    """The disk is full, or a quota or the limit on the size of a file is reached."""


@contextlib.contextmanager
def whole_file(path: Path, size: int = 0) -> Iterator[Path]:
    """Write a file whole or not at all: `with whole_file(path) as part: ... write the file `part` ...`.

    When the block ends well, `part` is synced and renamed to `path`; otherwise nothing of it is left. `part` has the
    suffix of `path` and lies in a folder of its own, so that other programs can write it by its name and whatever else
    they put there is removed, too. Permissions are as `open` would leave them: those of the file that is replaced, or
    by the umask; a hard link keeps its own. A symbolic link at `path` is replaced, not followed.

    Args:
        path: folders that are missing are made.
        size: bytes that will be written, for the message of a full disk; 0 = unknown.

    Raises:
        UserError: it cannot be written, `NoRoom` for a full disk. A file that was there before is untouched.
    """
    path = Path(path)
    with write_errors(path, size), _own_folder(path.parent) as (folder, mode):
        if path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
            if not path.is_file():
                raise UserError(f"cannot save {path}: it is a folder or device. Give the name of a file.")
        part = folder / f"n{path.suffix}"  # short, however long the name of `path` is
        yield part
        status = part.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # a link's permissions are those of its source
            if stat.S_IMODE(status.st_mode) != mode:
                with contextlib.suppress(OSError):  # some network file systems have no permissions
                    part.chmod(mode)
            _sync(part)
        os.replace(part, path)


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """`whole_file` with bytes, or a text in UTF-8 as `escaped`, its ends of line as they are.

    Raises:
        UserError: as `whole_file`.
    """
    data = escaped(content).encode() if isinstance(content, str) else content
    with whole_file(path, len(data)) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Let a folder appear whole: `with whole_folder(path) as part: ... fill the empty folder `part` ...`.

    Into a folder that holds something already, the new files are renamed one by one, those in sub-folders first, and
    nothing else is touched.

    Raises:
        UserError: as `whole_file`.
    """
    path = Path(os.path.abspath(path))  # "." has no parent
    with write_errors(path), _own_folder(path.parent) as (folder, _):
        part = folder / "n"
        part.mkdir()
        yield part
        files = sorted((f for f in part.rglob("*") if f.is_file()), key=lambda file: -len(file.parts))
        for file in files:
            _sync(file)
        try:
            os.replace(part, path)
        except OSError:
            if not path.is_dir():
                raise
            for file in files:
                target = path / file.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)


@contextlib.contextmanager
def write_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn what the system says while `path` is written into a UserError of one line; `size` as for `whole_file`."""
    try:
        yield
    except OSError as e:
        reason = e.strerror or str(e)
        untouched = "What was saved before is untouched."
        if e.errno in NO_ROOM:
            place = next(p for p in Path(os.path.abspath(path)).parents if p.is_dir())
            needed = f"{_amount(size)} are needed, " if size else ""
            reason += f": {needed}{_amount(shutil.disk_usage(place).free)} are free"
            raise NoRoom(f"cannot save {path} ({reason}). Make room or choose another disk. {untouched}") from e
        named = str(e.filename or path)
        if UNFINISHED not in named and named != str(path):  # a source, or a folder above
            reason = f"{named}: {reason}"
        raise UserError(f"cannot save {path} ({reason}). {untouched}") from e


def _amount(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


@contextlib.contextmanager
def _own_folder(parent: Path) -> Iterator[tuple[Path, int]]:
    """A new hidden folder in `parent` for this writer alone, which is removed at the end, and the permissions that a
    new file has there."""
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _claim(parent)
    try:
        mode = folder.stat().st_mode & 0o666
        folder.chmod(0o700)  # the umask may forbid to enter it
        yield folder, mode
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim(parent: Path) -> tuple[Path, int]:
    """A new hidden folder and its lock. One that nobody has locked is of a killed process, and is removed; where the
    file system has no locks, it stays."""
    for number in itertools.count():
        folder, is_new = parent / f"{UNFINISHED}{number}", True
        try:
            folder.mkdir()
        except FileExistsError:
            is_new = False
        lock = lock_folder(folder, is_new)
        if lock is not None and is_new:
            return folder, lock
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    raise AssertionError("there are no more numbers")


def lock_folder(folder: Path, is_new: bool) -> int | None:
    """The descriptor that holds the lock of a folder until it is closed; None if another writer has it."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # its writer has just removed it, or it is no folder of ours
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(lock), os.stat(folder))
    except (BlockingIOError, FileNotFoundError):
        mine = False
    except OSError:  # a file system without locks
        mine = is_new
    if mine:
        return lock
    os.close(lock)
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- apart from what is read


def identity(path: Path) -> tuple[int, int] | None:
    """The same for all names of one file or folder: links, other case, other path. None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


Outputs = Iterable[tuple[str, Path]]
"""(option, place that will be written): the place need not exist."""


def need_apart(read: Iterable[Path], files: Outputs = (), folders: Outputs = (), shallow: Iterable[Path] = ()) -> None:
    """Raise a UserError if something that will be written is, lies in or holds what is read, or two options write to
    one place. Links and other names of one file or folder are seen through.

    A folder that is read counts with all that is in it, since what is written there replaces data now or is taken for
    data later. Outputs may lie beside such folders, as below the root of a data set, and a folder of outputs may hold
    single *files* that are read, as a checkpoint: outputs have other names.

    Args:
        read: files, and folders with their sub-folders; those that do not exist do not count.
        files, folders: that will be written.
        shallow: folders of which only the files directly in them are read: outputs may lie deeper.
    """
    deep, flat = ({identity(Path(place)): Path(place) for place in places} for places in (read, shallow))
    holders = {
        identity(above): place
        for place in (*deep.values(), *flat.values())
        if os.path.isdir(place)
        for above in place.resolve().parents
    }
    options: dict[Path, str] = {}
    for outputs, is_folder in ((files, False), (folders, True)):
        for option, output in outputs:
            real = Path(os.path.realpath(output))
            if (other := options.setdefault(real, option)) != option:
                raise UserError(f"{option} and {other} are both {output}. Give each a place of its own.")
            near = [real.parent]
            if os.path.islink(output):  # it is replaced where it lies itself
                near.append(Path(os.path.realpath(output.parent)))
            above = [folder for place in near for folder in (place, *place.parents) if os.path.isdir(folder)]
            checks = [("is", deep, [real]), ("lies in", deep, above)]
            checks += [("is", flat, [real]), ("holds", holders, [real])] if is_folder else [("lies in", flat, near)]
            for relation, known, places in checks:
                if found := next((known[key] for key in map(identity, places) if key and key in known), None):
                    raise UserError(f"{option}: {output} {relation} {found}, which is only read. Choose another place.")
