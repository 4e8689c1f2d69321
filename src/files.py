"""Files in parallel; files and folders that are written completely or not at all, and never into the inputs."""

import contextlib
import errno
import fcntl
import filecmp
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
UNFINISHED = ".mimo_unet_unfinished_"  # and a number: a hidden folder beside the file that is being written


def in_threads(work: Callable, todo: Sequence, unit: str, progress: bool) -> list:
    """`work` on each of `todo`, in order. Decoding releases the interpreter lock, so threads use all cores."""
    from tqdm import tqdm  # because scripts/doctor.py must run without it

    with ThreadPoolExecutor((os.cpu_count() or 1) + 2) as pool:  # two more, because some wait for the disk
        try:
            return list(tqdm(pool.map(work, todo), total=len(todo), unit=unit, disable=None if progress else True))
        except BaseException:  # Ctrl-C: start no more of them
            pool.shutdown(cancel_futures=True)
            raise


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files have the same content or are the same file. An unreadable file equals no other."""
    try:
        return os.path.samefile(a, b) or filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def parse_json(text: str | bytes) -> Any:
    """`json.loads`.

    Raises:
        ValueError: not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def escaped(text: str) -> str:
    """Text that can be encoded as UTF-8: undecodable bytes of a file name, `\\udcff` in Python, become six letters."""
    return text.encode("utf-8", "backslashreplace").decode()


def unescaped(text: str) -> str:
    """The inverse of `escaped`, except for names that contain such six letters."""
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda match: chr(int(match[1], 16)), text)


# ---- complete or not at all


class NoRoom(UserError):
    """The disk is full, or a quota or the file size limit is reached."""


@contextlib.contextmanager
def whole_file(path: Path, size: int = 0) -> Iterator[Path]:
    """Write a file completely or not at all: `with whole_file(path) as part: ... write the file `part` ...`.

    If the block succeeds, `part` is synced and renamed to `path`; otherwise it is removed. `part` has the suffix of
    `path` and lies in a separate folder, so that other programs can write it by name and their temporary files are
    removed, too. Permissions are those that `open` would give: of the replaced file, or by the umask; a hard link keeps
    its own. A symbolic link at `path` is replaced, not followed.

    Args:
        path: missing parent folders are created.
        size: bytes to be written, for the message about a full disk; 0 = unknown.

    Raises:
        UserError: the file cannot be written, `NoRoom` for a full disk. An existing file is untouched.
    """
    path = Path(path)
    with write_errors(path, size), _own_folder(path.parent) as (folder, mode):
        if path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
            if not path.is_file():
                raise UserError(f"cannot save {path}: it is a folder or device. Give a file name.")
        part = folder / f"n{path.suffix}"  # short, however long the name of `path` is
        yield part
        status = part.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # a link shares the permissions of its source
            if stat.S_IMODE(status.st_mode) != mode:
                with contextlib.suppress(OSError):  # some network file systems have no permissions
                    part.chmod(mode)
            _sync(part)
        os.replace(part, path)


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """`whole_file` with bytes, or with `escaped` text in UTF-8 without newline conversion.

    Raises:
        UserError: as `whole_file`.
    """
    data = escaped(content).encode() if isinstance(content, str) else content
    with whole_file(path, len(data)) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Create a complete folder or none: `with whole_folder(path) as part: ... fill the empty folder `part` ...`.

    If `path` is a non-empty folder, the new files are moved into it one by one, those in sub-folders first, and nothing
    else in it changes.

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
    """Turn system errors while `path` is written into a one-line UserError; `size` as for `whole_file`."""
    try:
        yield
    except OSError as e:
        reason = e.strerror or str(e)
        untouched = "Existing files are untouched."
        if e.errno in NO_ROOM:
            place = next(p for p in Path(os.path.abspath(path)).parents if p.is_dir())
            needed = f"{_amount(size)} are needed, " if size else ""
            reason += f": {needed}{_amount(shutil.disk_usage(place).free)} are free"
            raise NoRoom(f"cannot save {path} ({reason}). Make room or choose another disk. {untouched}") from e
        named = str(e.filename or path)
        if UNFINISHED not in named and named != str(path):  # a source file, or a parent folder
            reason = f"{named}: {reason}"
        raise UserError(f"cannot save {path} ({reason}). {untouched}") from e


def _amount(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


@contextlib.contextmanager
def _own_folder(parent: Path) -> Iterator[tuple[Path, int]]:
    """A temporary hidden folder in `parent` for this writer, and the permissions of a new file there."""
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _claim(parent)
    try:
        mode = folder.stat().st_mode & 0o666
        folder.chmod(0o700)  # the umask may deny access to it
        yield folder, mode
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim(parent: Path) -> tuple[Path, int]:
    """A new hidden folder and its lock. An existing one without a lock was left by a killed process and is removed, if
    the file system has locks."""
    number = 0
    while True:
        folder, is_new = parent / f"{UNFINISHED}{number}", True
        try:
            folder.mkdir()
        except FileExistsError:
            is_new = False
        try:
            lock = lock_folder(folder, is_new)
        except OSError:
            folder.rmdir()
            raise
        if lock is not None and is_new:
            return folder, lock
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        number += 1


def lock_folder(folder: Path, is_new: bool) -> int | None:
    """A descriptor that locks a folder until it is closed; None if another writer holds the lock.

    Raises:
        OSError: a new folder cannot be opened, for example for lack of descriptors; the next could not be either.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:  # ENOENT: another process has just removed it; an old one may be no folder, or not ours
        if is_new and e.errno != errno.ENOENT:
            raise
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


# ---- outputs separate from inputs


def identity(path: Path) -> tuple[int, int] | None:
    """Equal for all names of one file or folder: links, other case, other path. None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


Outputs = Iterable[tuple[str, Path]]
"""(option, path to be written), which need not exist."""


def need_apart(read: Iterable[Path], files: Outputs = (), folders: Outputs = (), shallow: Iterable[Path] = ()) -> None:
    """Raise a UserError if an output is, lies in or contains an input, or if two options write to the same path. Links
    and other names of the same file or folder are resolved.

    An input folder includes everything below it, because an output there would replace data or be read as data later.
    Outputs may lie beside input folders, for example below the root of a dataset, and an output folder may contain
    single input *files*, for example a checkpoint, because outputs have other names.

    Args:
        read: input files, and input folders with their sub-folders; missing ones are ignored.
        files, folders: the outputs.
        shallow: input folders of which only the direct files are read, so outputs may lie in sub-folders.
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
                raise UserError(f"{option} and {other} are both {output}. Choose different paths.")
            near = [real.parent]
            if os.path.islink(output):  # the link itself is replaced
                near.append(Path(os.path.realpath(output.parent)))
            above = [folder for place in near for folder in (place, *place.parents) if os.path.isdir(folder)]
            checks = [("is", deep, [real]), ("lies in", deep, above)]
            checks += [("is", flat, [real]), ("holds", holders, [real])] if is_folder else [("lies in", flat, near)]
            for relation, known, places in checks:
                if found := next((known[key] for key in map(identity, places) if key and key in known), None):
                    raise UserError(f"{option}: {output} {relation} {found}, which is only read. Choose another place.")
