"""Many files at once, and whole files only."""

import filecmp
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm


def in_threads(work: Callable, todo: Sequence, unit: str, progress: bool) -> list:
    """`work` on each of `todo`, in order. Decoding runs without the interpreter's lock, so threads use all cores."""
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


def appear(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a hidden file beside `path`, then give it that name: nobody ever sees half a file."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a run that was killed
        make(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
