"""stdout and stderr of a script, either of which may be closed, full or without a reader.

With Python's own streams the next `print` would raise and end hours of work for one line, and the next file to be
opened would get a closed descriptor 1 or 2, so that compiled code would print into it. `guard` replaces the streams:
they drop what cannot be written and the work continues, unless the script has called `need_reader` because its printed
output is its result.
"""

import errno
import io
import os
import select
import sys
from typing import Any, NoReturn


class _Output(io.FileIO):
    """Descriptor 1 or 2, replaced by `spare`, /dev/null, after the first failure, also for compiled code and child
    processes. `spare` is opened in advance, in case no further file can be opened by then."""

    is_product = False

    def __init__(self, descriptor: int, spare: int, is_closed: bool):
        super().__init__(descriptor, "wb", closefd=False)
        self.spare = spare
        self.lost = errno.EBADF if is_closed else 0  # error number of the first failure

    def write(self, data: Any, /) -> int:
        if not self.lost:
            try:
                while (count := super().write(data)) is None:  # another program made our shared pipe non-blocking
                    select.select([], [self], [])
                return count
            except OSError as e:
                self.lost = e.errno or errno.EIO
                os.dup2(self.spare, self.fileno())
            if self.is_product:
                self.end()
            if self.fileno() == 1:
                print(f"stdout is lost ({self.reason()}): the work continues without it", file=sys.stderr)
        return len(data)

    def end(self) -> NoReturn:
        """End the script; silently if the reader has gone, as other programs do, because `| head` is not an error."""
        if self.lost == errno.EPIPE:
            raise SystemExit(128 + 13)  # as for a program that SIGPIPE ended
        print(
            f"error: stdout cannot be written ({self.reason()}), but it is the only output of this command. Send "
            "it to a terminal or to a file on a disk with free space.",
            file=sys.stderr,
        )
        raise SystemExit(2)

    def reason(self) -> str:
        return {errno.EPIPE: "its reader has gone", errno.EBADF: "it is closed"}.get(self.lost, os.strerror(self.lost))


_stdout: _Output | None = None  # None in tests and notebooks, which do not call `guard`


def guard() -> None:
    """Replace `sys.stdout` and `sys.stderr` unless they were replaced before. They escape unencodable characters."""
    global _stdout
    spare = os.open(os.devnull, os.O_RDWR)
    while spare <= 2:  # the lowest free number, so this fills those of 0, 1, 2 that are closed
        os.set_inheritable(spare, True)
        spare = os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout, _stdout = _wrap(sys.__stdout__, 1, spare)
    if sys.stderr is sys.__stderr__:
        sys.stderr, _ = _wrap(sys.__stderr__, 2, spare)


def _wrap(old: io.TextIOWrapper | None, descriptor: int, spare: int) -> tuple[io.TextIOWrapper, _Output]:
    raw = _Output(descriptor, spare, is_closed=old is None)
    at_once = old is not None and (old.line_buffering or old.write_through)
    encoding = old.encoding if old else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=at_once), raw


def need_reader() -> None:
    """Declare that the printed output is the script's result: end the script when stdout cannot be written, now or
    later, with status 141 if the reader has gone, otherwise with an error and 2."""
    if _stdout:
        _stdout.is_product = True
        if _stdout.lost:
            _stdout.end()


def need_no_reader() -> None:
    """Undo `need_reader`: the script exits with another status, which Python's final flush must not replace."""
    if _stdout:
        _stdout.is_product = False
