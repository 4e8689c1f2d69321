"""What `src.verify.report` may find wrong with a dataset, and the words for it: `TEXTS` has every kind of fault."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import first_few

# Every kind of finding: its severity, and what is said after the place: what was got, what was expected, how to mend
# it.
TEXTS = {
    # folders and names
    "half": ("warning", "not there, so only the other half was checked. Right if it lies elsewhere."),
    "sequences": ("error", "no sequence in it, expected <sequence>/{{blur,sharp}}. Unpack the dataset again."),
    "folders": ("error", "missing folders: {few}. Expected blur and sharp in each place; unpack the dataset again."),
    "empty": ("error", "no image in blur and sharp of {few}. Unpack the dataset again, or remove what is empty."),
    "names": ("error", "{reason}"),
    "partner": (
        "error",
        "{n} without a partner: {few}. Expected the same names in blur and sharp; add what is missing or remove these.",
    ),
    "count": (
        "error",
        "{n}, expected the {expected} of GOPRO_Large{which}. Unpack the dataset again; scores on a part of it compare "
        "with no published ones.",
    ),
    "sequence": (
        "warning",
        "{n} in train and in test: {few}. Frames of one sequence are nearly alike, so scores on them say little; keep "
        "each in one half. Right if different scenes have one name.",
    ),
    # single pairs
    "unreadable": ("error", "{n} cannot be read: {few}. The first: {reason}"),
    "size": (
        "error",
        "blur and sharp of different sizes in {n}: {few}; in the first {blur} and {sharp}. Expected one size; fetch or "
        "save them again.",
    ),
    "frame_size": (
        "warning",
        "got {got} in {n}: {few}; expected the {expected} of GOPRO_Large. Scores on resized or cut frames compare with "
        "no published ones; unpack the dataset again.",
    ),
    "equal": (
        "error",
        "blur is the same picture as sharp in {n}: {few}. Expected a blurred one; was one copied over the other? Fetch "
        "them again or remove the pairs.",
    ),
    "content": (
        "warning",
        "blur and sharp seem to show different pictures in {n}: {few}. Were they numbered separately? Pair them by "
        "name, from the original dataset.",
    ),
    "gamma_copy": (
        "warning",
        "blur is the same file as blur_gamma in {n}: {few}. Training and published scores are of blur, the plain mean "
        "of the frames; unpack the dataset again.",
    ),
    # train and test
    "shared": (
        "error",
        "{n} also in train, pixel by pixel: {few}. Scores on them are of no use; remove the pairs from one half.",
    ),
    "neighbours": (
        "warning",
        "{n} look like neighbours of training images: {few}. Scores on them say little; keep each sequence in one "
        "half.",
    ),
    # the arranged dataset
    "manifest": ("error", "not a manifest of src/preprocessing.py. Remove it, or arrange into a new folder."),
    "missing": (
        "error",
        "{n} of the manifest missing: {few}. Run src/preprocessing.py without --verify, it makes what is missing.",
    ),
    "interrupted": (
        "error",
        "src/preprocessing.py was interrupted here{which}. Run it again without --verify, it goes on where it stopped.",
    ),
    "stray": (
        "error",
        "{n} unknown to the manifest: {few}. Training would use them; move them out of the folder.",
    ),
    "no_manifest": (
        "error",
        "no manifest, so nothing tells which file came from where. Arrange --root_src into a new folder.",
    ),
    "origin": (
        "error",
        "the manifest does not fit {source}: {which}. Run src/preprocessing.py without --verify, it adds a half that "
        "is lacking; anything else needs a new folder.",
    ),
    "copy": (
        "error",
        "{n} not as in {source}: {few}; the first has {got:,} bytes, its source {expected:,}. Remove these files and "
        "run src/preprocessing.py without --verify.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one place."""

    kind: str
    severity: str
    """error or warning"""
    message: str
    """One line: where, what was got, what was expected, the first five files, how to mend it."""
    files: tuple[str, ...] = ()
    """All files, or sequences, that it is about."""

    def __str__(self) -> str:
        return f"{self.severity} [{self.kind}] {self.message}"


def finding(kind: str, where: Path, files: Iterable[Path | str] = (), **words: Any) -> Finding:
    """With its text from `TEXTS`, filled with `words`."""
    severity, text = TEXTS[kind]
    return Finding(kind, severity, f"{where}: {text.format(**words)}", tuple(str(file) for file in files))


# ---- words


def few_of(paths: Iterable[Path], root: Path) -> str:
    return first_few(path.relative_to(root).as_posix() for path in paths)


def count_of(things: Sequence, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def size_of(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
