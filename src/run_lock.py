"""One training per run folder: a lock of the operating system on a file in it, which ends with its holder, also by
kill -9.

It is a record lock (`lockf`): it belongs to the process, so neither forked loader workers nor a process that replaces
this one keep it, as they would keep a lock of `flock`. docs/several_machines.md says what holds on network disks.
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
    """Keep other trainings out of a run folder, an absolute path; a new folder that is still empty at the end goes.

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
        if _is_at(file, folder / NAME):
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()  # before the lock ends: whoever comes next makes a file of its own
        file.close()
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def follow(folder: Path, aside: Path) -> None:
    """Hold the new `folder`, too, after the one that this process held was renamed to `aside`."""
    if old := _held.pop(folder, None):
        _take(folder)
        (aside / NAME).unlink(missing_ok=True)
        old.close()


def refuse_held(folder: Path) -> None:
    """Raise a UserError if another process holds a run folder; touches nothing."""
    if folder not in _held:  # to open and close its file would end our own lock
        with contextlib.suppress(OSError), open(folder / NAME, "r+", encoding="utf-8", errors="replace") as file:
            _lock(file, folder)


def _take(folder: Path) -> None:
    path = folder / NAME
    while True:
        try:
            file = open(path, "a+", encoding="utf-8", errors="replace")
        except OSError as e:
            raise UserError(
                f"{path}: cannot be opened ({e.strerror}). A training locks this file; remove what is there."
            ) from e
        try:
            _lock(file, folder)
        except OSError as e:
            reason = f"{folder}: this file system has no locks ({e.strerror})"
            print(f"{reason}: make sure that no second training writes there", flush=True)
        except UserError:
            file.close()
            raise
        if _is_at(file, path):
            break
        file.close()  # of a training that has just ended and removed it
    host, pid = _holder(file)
    if host not in ("", socket.gethostname()):
        print(f"{folder}: process {pid} on {host} was training here and did not finish; if it still runs, the disk "
              "does not share locks between machines: stop one of the two", flush=True)  # fmt: skip
    with contextlib.suppress(OSError):  # of a full disk: the lock is held all the same
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
    _held[folder] = file


def _lock(file: TextIO, folder: Path) -> None:
    """Raise a UserError if another process has the lock, an OSError where there are no locks."""
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
    """(host, process number) that a lock file names, as texts; empty if it names none."""
    file.seek(0)
    host, _, pid = file.readline(300).strip().partition(" ")
    return (host, pid) if pid.isdigit() else ("", "")


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
