"""Mistakes of the user, told in one line: what was got, what was expected, where, and how to mend it."""

import contextlib
import difflib
import errno
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from src import streams


class UserError(Exception):
    """Something the user can mend. Entry scripts print its text as one line and exit with 2, without a traceback."""


class BadOutput(UserError):
    """A network returned NaN, infinity or another shape.

    Args:
        always: it does so for every picture, not only for the one at hand.
    """

    def __init__(self, message: str, always: bool = True):
        super().__init__(message)
        self.always = always


class Restart(Exception):
    """The process has to start again with another environment, which only `run_main` does: a test or a notebook that
    calls `main` must not be replaced.

    Args:
        command: what replaces the process.
        environment: variables to add.
    """

    def __init__(self, message: str, command: Sequence[str], environment: Mapping[str, str]):
        super().__init__(message)
        self.command, self.environment = list(command), dict(environment)


LONGEST_LINE = 2000
"""Characters of a message; what a user sees of a longer one is its beginning and its end."""


def printable(text: object) -> str:
    """A message that stays one line, and that does to a terminal nothing but show, whatever names it quotes: control
    characters and what is no text appear as escapes, and the middle of a huge message is left out."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known word, or '' when nothing is near."""
    known = {k.lower(): k for k in known}  # cpu is near to CPU
    match = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f" Did you mean {known[match[0]]}?" if match else ""


def first_few(items: Iterable, count: int = 5) -> str:
    """'a, b, c, ... (9 in all)': enough to find the fault, short enough for one line."""
    items = [str(i) for i in items]
    return ", ".join(items[:count]) + (f", ... ({len(items)} in all)" if len(items) > count else "")


# Lines of C++ in front of the reason: 'Exception from src/core.cpp:84:', 'Check ... failed at src/node.cpp:7:'.
CPP_NOISE = re.compile(r"\.(cpp|cc|hpp|h):\d+:$|^While validating |^-*$")


def reason_of(error: Exception, length: int = 300) -> str:
    """Why a framework failed, in one line: its message without the places in its C++ sources, which OpenVINO puts
    before the reason and MindSpore behind it, after a line of dashes."""
    text = re.split(r"\n-{5,}\n", str(error).strip())[0]
    lines = [" ".join(line.split()) for line in text.splitlines() if not CPP_NOISE.search(line.strip())]
    return " ".join(lines)[:length] or type(error).__name__


def need_writable_folder(folder: Path | str, option: str) -> Path:
    """Make `folder` if it is missing and prove that a file can be written there, before a long run starts.

    Raises:
        UserError: naming the option and the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # without a name where the system can, so that no crash leaves it
            pass
        _remove_stale_probes(folder)
    except OSError as e:
        raise UserError(f"{option}: cannot write into {folder} ({e.strerror}). Give a folder you may write to.") from e
    return folder


def _remove_stale_probes(folder: Path) -> None:
    """Empty probe files that runs, also of earlier versions, left when they were killed."""
    for pattern in (".write_test", ".case_test*"):
        for probe in folder.glob(pattern):
            with contextlib.suppress(OSError):
                status = probe.lstat()
                if status.st_size == 0 and time.time() - status.st_mtime > 60:  # no other run is just using it
                    probe.unlink()


# What the system refuses and the user can change; any other error number is a fault of the program.
ADVICE = {
    errno.ENOSPC: "Free some space there, or choose a folder on another disk",
    errno.EDQUOT: "Your quota is used up: remove files of yours, or choose a folder on another disk",
    errno.EFBIG: "The file system or `ulimit -f` limits the size of files: choose a folder on another disk",
    errno.EACCES: "Change its permissions, or choose a place that you may use",
    errno.EPERM: "Change its permissions or its owner, or choose a place that you may use",
    errno.EROFS: "This disk is mounted read-only: choose a folder on another one",
    errno.EMFILE: "Allow more open files: ulimit -n 4096",
    errno.ENFILE: "The whole machine has too many files open: end other programs",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOENT: "Check the name; another program may have removed it",
    errno.EEXIST: "Remove it, or choose another name",
    errno.ENOTEMPTY: "Empty it, or choose another folder",
    errno.EISDIR: "Expected a file, not a folder",
    errno.ENOTDIR: "Expected a folder, but a part of this path is a file",
    errno.ELOOP: "Its symbolic links lead in a circle: remove one of them",
    errno.EIO: "The disk or its connection fails: look at `dmesg`, and use another disk",
    errno.ESTALE: "The network share was mounted again: run the same command again",
    errno.ETIMEDOUT: "The network share does not answer: check its connection",
    errno.EBUSY: "Another program uses it: end that first",
    errno.ETXTBSY: "Another program runs it: end that first",
    errno.EXDEV: "Both must lie on one disk: choose another folder",
    errno.EAGAIN: "Too many processes: end other programs, or allow more with `ulimit -u`",
    errno.ENOMEM: "End other programs, or use smaller images and batches",
}


def system_error(error: OSError) -> str:
    """'file: reason. What to do' for an error number of `ADVICE`, '' for any other."""
    if error.errno not in ADVICE:
        return ""
    files = [os.fsdecode(f) for f in (error.filename, error.filename2) if isinstance(f, str | bytes | os.PathLike)]
    where = f"{' -> '.join(files)}: " if files else ""
    return f"{where}{error.strerror}. {ADVICE[error.errno]}.{'' if files else ' --debug shows where it happened.'}"


def run_main(main: Callable[[], int | None]) -> None:
    """Run an entry script's `main` and end the process: 0, its own int, or

        2    one line for a UserError, an error of the system that the user can mend (`ADVICE`), and too little memory
        130  Ctrl-C
        141  a script whose output is its product (`streams.need_reader`) has lost its reader, as at the end of `| head`

    Any other script goes on without its reader. A `Restart` starts the process again.
    """
    streams.guard()
    try:
        if not {"-h", "--help", "--version"}.isdisjoint(sys.argv):
            streams.need_reader()
        status = main()
        sys.stdout.flush()
    except SystemExit:  # of --help, too
        sys.stdout.flush()
        raise
    except Restart as e:
        if str(e):
            print(e, flush=True)
        os.execvpe(e.command[0], e.command, os.environ | e.environment)
    except UserError as e:
        status = _fail(str(e))
    except MemoryError as e:
        status = _fail(f"not enough memory{f' ({e})' if str(e) else ''}. {ADVICE[errno.ENOMEM]}.")
    except OSError as e:
        if not (line := system_error(e)):
            raise
        status = _fail(line)
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr)
        status = 130
    finally:
        streams.need_no_reader()
    sys.exit(status if isinstance(status, int) else 0)


def _fail(line: str) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"error: {printable(line)}", file=sys.stderr)
    return 2
