"""One training per run folder: a lock on a file in it, which the operating system releases when its holder ends.

It is a record lock (`lockf`), which belongs to the process: neither forked loader workers nor a process that replaces
this one keep it, unlike a lock of `flock`. For network disks see docs/several_machines.md.
"""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from src.errors import UserError, need_writable_folder

NAME = ".lock"
_held: dict[Path, TextIO] = {}  # by this process


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder, an absolute path. Removes a new folder if it is still empty at the end.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    is_new = not folder.exists()
    need_writable_folder(folder, "--ckpt_save_directory")
    _take(folder)
    try:
        yield
    finally:
        file = _held.pop(folder)
        with contextlib.suppress(OSError):
            if _is_at(file, folder / NAME):
                (folder / NAME).unlink()  # before releasing the lock, so that the next training creates its own file
        file.close()
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def follow(folder: Path, aside: Path) -> None:
    """Move the lock to the new `folder` after the held one was renamed to `aside`."""
    if old := _held.pop(folder, None):
        _take(folder)
        (aside / NAME).unlink(missing_ok=True)
        old.close()


def refuse_held(folder: Path) -> None:
    """Raise a UserError if another process holds a run folder; changes nothing."""
    if folder not in _held:  # opening and closing its file would release our own lock
        with contextlib.suppress(OSError), open(folder / NAME, "r+", encoding="utf-8", errors="replace") as file:
            _lock(file, folder)


def _take(folder: Path) -> None:
    path = folder / NAME
    while True:
        try:
            file = open(path, "a+", encoding="utf-8", errors="replace")
        except OSError as e:
            raise UserError(f"{path}: cannot open this lock file ({e.strerror}). Remove it.") from e
        try:
            _lock(file, folder)
        except OSError as e:
            warning = f"{folder}: this file system has no locks ({e.strerror})"
            print(f"{warning}: make sure that no second training writes there", flush=True)
        except UserError:
            file.close()
            raise
        if _is_at(file, path):
            break
        file.close()  # a training that just ended has removed it
    host, pid = _holder(file)
    if host not in ("", socket.gethostname()):
        print(
            f"{folder}: process {pid} on {host} was training here and did not finish; if it is still running, the disk "
            "does not share locks between machines: stop one of the two",
            flush=True,
        )
    with contextlib.suppress(OSError):  # the lock holds even if the disk is full
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
    _held[folder] = file


def _lock(file: TextIO, folder: Path) -> None:
    """Raise a UserError if another process holds the lock, an OSError if the file system has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        host, pid = _holder(file)
        who = f"process {pid} on {host}" if host else "another process"
        raise UserError(
            f"--ckpt_save_directory {folder}: {who} is training in this folder. Wait until it ends, stop it"
            + (f" (kill {pid})" if host == socket.gethostname() else "")
            + ", or name another folder."
        ) from e


def _holder(file: TextIO) -> tuple[str, str]:
    """(host, process id) from a lock file, empty if it has none."""
    file.seek(0)
    host, _, pid = file.readline(300).strip().partition(" ")
    return (host, pid) if pid.isdigit() else ("", "")


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
