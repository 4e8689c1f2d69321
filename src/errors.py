"""One-line messages for errors that users can fix: what was given, what was expected, where, and how to fix it."""

import difflib
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from src import streams


class UserError(Exception):
    """An error that the user can fix. Entry scripts print its text on one line and exit with 2, without a traceback."""


class BadOutput(UserError):
    """A network returned NaN, infinity or an unexpected shape.

    Args:
        always: for every image, not only for the current one.
    """

    def __init__(self, message: str, always: bool = True):
        super().__init__(message)
        self.always = always


class Restart(Exception):
    """The process must restart with another environment. Only `run_main` does that, so that a test or notebook that
    calls `main` is not replaced.

    Args:
        command: replaces the process.
        environment: variables to add.
    """

    def __init__(self, message: str, command: Sequence[str], environment: Mapping[str, str]):
        super().__init__(message)
        self.command, self.environment = list(command), dict(environment)


def printable(text: object) -> str:
    """`text` as one line that is safe to print, whatever names it quotes: control characters and undecodable bytes are
    escaped, and beyond 2,000 characters the middle is left out."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return line if len(line) <= 2000 else f"{line[:1000]} ... {line[-1000:]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known word, or '' if none is similar."""
    known = {k.lower(): k for k in known}  # so that cpu suggests CPU
    match = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f" Did you mean {known[match[0]]}?" if match else ""


def first_few(items: Iterable, count: int = 5) -> str:
    """'a, b, c, ... (9 in all)': a list for a one-line message."""
    items = [str(i) for i in items]
    return ", ".join(items[:count]) + (f", ... ({len(items)} in all)" if len(items) > count else "")


# C++ context lines before the reason: 'Exception from src/core.cpp:84:', 'Check ... failed at src/node.cpp:7:'.
CPP_NOISE = re.compile(r"\.(cpp|cc|hpp|h):\d+:$|^While validating |^-*$")


def reason_of(error: Exception, length: int = 300) -> str:
    """Why a framework failed, in one line: its message without C++ source locations, which OpenVINO puts before the
    reason and MindSpore after it, below a line of dashes."""
    text = re.split(r"\n-{5,}\n", str(error).strip())[0]
    lines = [" ".join(line.split()) for line in text.splitlines() if not CPP_NOISE.search(line.strip())]
    return " ".join(lines)[:length] or type(error).__name__


def need_writable_folder(folder: Path | str, option: str) -> Path:
    """Create `folder` if it is missing and check that files can be written there, before a long run starts.

    Raises:
        UserError: naming the option and the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # unnamed where possible, so that a crash leaves nothing
    except OSError as e:
        raise UserError(f"{option}: cannot write into {folder} ({e.strerror}). Choose a writable folder.") from e
    return folder


def need_json_name(path: Path, option: str) -> None:
    """Raise a UserError, naming the option, unless `path` ends with .json and is not a folder."""
    if path.suffix != ".json" or os.path.isdir(path):
        raise UserError(f"{option}: got {path}, expected a file name that ends with .json")


# System errors that the user can fix; any other error number is a bug in the program.
ADVICE = {
    errno.ENOSPC: "Free some space there, or choose a folder on another disk",
    errno.EDQUOT: "Your quota is exhausted: remove some files, or choose a folder on another disk",
    errno.EFBIG: "The file system or `ulimit -f` limits the file size: choose a folder on another disk",
    errno.EACCES: "Change its permissions, or choose a writable place",
    errno.EPERM: "Change its permissions or its owner, or choose a writable place",
    errno.EROFS: "This disk is mounted read-only: choose a folder on another one",
    errno.EMFILE: "Allow more open files: ulimit -n 4096",
    errno.ENFILE: "The machine has too many open files: end other programs",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOENT: "Check the name; another program may have removed it",
    errno.EEXIST: "Remove it, or choose another name",
    errno.ENOTEMPTY: "Empty it, or choose another folder",
    errno.EISDIR: "Expected a file, not a folder",
    errno.ENOTDIR: "Expected a folder, but a part of this path is a file",
    errno.ELOOP: "Its symbolic links form a loop: remove one of them",
    errno.EIO: "The disk or its connection is failing: check `dmesg`, and use another disk",
    errno.ESTALE: "The network share was remounted: run the command again",
    errno.ETIMEDOUT: "The network share does not respond: check its connection",
    errno.EBUSY: "Another program is using it: end that program first",
    errno.EAGAIN: "There are too many processes: end other programs, or allow more with `ulimit -u`",
    errno.ENOMEM: "End other programs, or use smaller images and batches",
}


def system_error(error: OSError) -> str:
    """'file: reason. Advice' for an error number in `ADVICE`, '' for any other."""
    if error.errno not in ADVICE:
        return ""
    files = [os.fsdecode(f) for f in (error.filename, error.filename2) if isinstance(f, str | bytes | os.PathLike)]
    where = f"{' -> '.join(files)}: " if files else ""
    return f"{where}{error.strerror}. {ADVICE[error.errno]}.{'' if files else ' --debug prints the location.'}"


def run_main(main: Callable[[], int | None]) -> None:
    """Run an entry script's `main` and exit with 0, the int that it returns, or

        2    after a one-line UserError, a system error that the user can fix (`ADVICE`), or insufficient memory
        130  after Ctrl-C
        141  if stdout of a script that only prints (`streams.need_reader`) has lost its reader, for example `| head`

    Other scripts continue without a reader. A `Restart` replaces the process.
    """
    streams.guard()
    try:
        if not {"-h", "--help", "--version"}.isdisjoint(sys.argv):
            streams.need_reader()
        status = main()
        sys.stdout.flush()
    except SystemExit:  # also from --help
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
