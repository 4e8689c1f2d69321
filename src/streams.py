"""stdout and stderr of a script, either of which may be closed, full or without a reader.

Python's own streams raise an error from whichever `print` comes next, which ends hours of work for the sake of a line,
and a closed descriptor 1 or 2 goes to the next file that is opened, into which compiled code then prints. `guard`
replaces them: what cannot be written is dropped and the work goes on, unless the script has said by `need_reader` that
its output is its product.
"""

import errno
import io
import os
import select
import sys
from typing import Any, NoReturn

READER_GONE = 128 + 13  # what a shell reports for a program that SIGPIPE ended


class _Output(io.FileIO):
    """Descriptor 1 or 2, and `spare`, /dev/null, in its place after the first failure: also for compiled code and for
    child processes, and if no further file can be opened by then."""

    is_product = False

    def __init__(self, descriptor: int, spare: int, is_closed: bool):
        super().__init__(descriptor, "wb", closefd=False)
        self.spare = spare
        self.lost = errno.EBADF if is_closed else 0  # the number of the first error

    def write(self, data: Any, /) -> int:
        if not self.lost:
            try:
                while (count := super().write(data)) is None:  # another program made a pipe that we share non-blocking
                    select.select([], [self], [])
                return count
            except OSError as e:
                self.lost = e.errno or errno.EIO
                os.dup2(self.spare, self.fileno())
            if self.is_product:
                self.end()
            if self.fileno() == 1:
                print(f"stdout is lost ({self.reason()}): the work goes on without it", file=sys.stderr)
        return len(data)

    def end(self) -> NoReturn:
        """Without a word if the reader has gone, as other programs do: `| head` is no mistake."""
        if self.lost == errno.EPIPE:
            raise SystemExit(READER_GONE)
        print(f"error: stdout cannot be written ({self.reason()}), but what it gets is all that this command "
              "makes. Send it to a terminal or to a file on a disk with free space.", file=sys.stderr)  # fmt: skip
        raise SystemExit(2)

    def reason(self) -> str:
        return {errno.EPIPE: "its reader has gone", errno.EBADF: "it is closed"}.get(self.lost, os.strerror(self.lost))


_stdout: _Output | None = None  # None where no script runs: in tests and notebooks


def guard() -> None:
    """Replace `sys.stdout` and `sys.stderr`, where nobody else has. Names that cannot be printed are escaped."""
    global _stdout
    spare = os.open(os.devnull, os.O_RDWR)
    while spare <= 2:  # the lowest free number, so a closed one of the three is filled
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
    """What this script prints is its product. From now on it ends when stdout cannot be written: with status 141 if the
    reader has gone, and else with an error and 2. At once if that has happened already."""
    if _stdout:
        _stdout.is_product = True
        if _stdout.lost:
            _stdout.end()


def need_no_reader() -> None:
    """The script ends with another status, which what Python flushes at last must not replace."""
    if _stdout:
        _stdout.is_product = False
