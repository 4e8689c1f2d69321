"""The kinds of problems that `src.verify.report` finds in a dataset, and their messages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import first_few

# Kind -> message after the place: what was found, what was expected, and the fix.
ERRORS = {
    "sequences": "no sequence in it, expected <sequence>/{{blur,sharp}}. Unpack the dataset again.",
    "folders": "missing folders: {few}. Expected blur and sharp in each place; unpack the dataset again.",
    "empty": "no image in blur and sharp of {few}. Unpack the dataset again, or remove the empty folders.",
    "names": "{reason}",
    "partner": "{n} without a partner: {few}. Expected the same names in blur and sharp; add the missing images or "
    "remove these.",
    "count": "{n}, expected the {expected} of GOPRO_Large{which}. Unpack the dataset again; scores on a part of it "
    "are not comparable with published ones.",
    "unreadable": "{n} cannot be read: {few}. The first: {reason}",
    "size": "blur and sharp of different sizes in {n}: {few}; the first have {blur} and {sharp}. Expected one size; "
    "fetch or save them again.",
    "equal": "blur is the same picture as sharp in {n}: {few}. Expected a blurred one; one may have been copied over "
    "the other. Fetch them again or remove the pairs.",
    "shared": "{n} also in train, pixel by pixel: {few}. Scores on them are meaningless; remove the pairs from one "
    "half.",
    "manifest": "not a manifest of src/preprocessing.py. Remove it, or arrange into a new folder.",
    "missing": "{n} of the manifest missing: {few}. Run src/preprocessing.py without --verify to restore the missing "
    "files.",
    "interrupted": "src/preprocessing.py was interrupted here{which}. Rerun it without --verify to resume.",
    "stray": "{n} not in the manifest: {few}. Training would use them; move them out of the folder.",
    "no_manifest": "no manifest, so the origin of the files is unknown. Arrange --root_src into a new folder.",
    "origin": "the manifest does not match {source}: {which}. Run src/preprocessing.py without --verify to add a "
    "missing half; for other differences arrange into a new folder.",
    "copy": "{n} different from {source}: {few}; the first has {got:,} bytes, its source {expected:,}. Remove these "
    "files and run src/preprocessing.py without --verify.",
}
WARNINGS = {
    "half": "missing, so only the other half was checked. Ignore this if it is elsewhere.",
    "sequence": "{n} in train and in test: {few}. Frames of one sequence are almost equal, so scores on them are too "
    "high; keep each sequence in one half. Ignore this if different scenes share a name.",
    "frame_size": "got {got} in {n}: {few}; expected the {expected} of GOPRO_Large. Scores on resized or cropped "
    "frames are not comparable with published ones; unpack the dataset again.",
    "content": "blur and sharp seem to show different pictures in {n}: {few}. They may have been numbered separately; "
    "pair them by name, from the original dataset.",
    "gamma_copy": "blur is the same file as blur_gamma in {n}: {few}. Training and published scores use blur, the "
    "plain mean of the frames; unpack the dataset again.",
    "neighbours": "{n} look like neighbours of training images: {few}. Scores on them are too high; keep each "
    "sequence in one half.",
}


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one place."""

    kind: str
    severity: str
    """error or warning"""
    message: str
    """One line: the place, what was found, what was expected, the first five files, and the fix."""
    files: tuple[str, ...] = ()
    """All files or sequences with the problem."""

    def __str__(self) -> str:
        return f"{self.severity} [{self.kind}] {self.message}"


def finding(kind: str, where: Path, files: Iterable[Path | str] = (), unit: str = "", **words: Any) -> Finding:
    """A finding with its message from `ERRORS` or `WARNINGS`.

    Args:
        where: the place, usually a folder.
        files: all files or sequences with the problem.
        unit: what `files` are, for {n}, their number; {few} are the first five, relative to `where`.
        words: the other words of the message, which override {n} and {few}.
    """
    files = tuple(files)
    if "few" not in words:
        words["few"] = first_few(f.relative_to(where).as_posix() if isinstance(f, Path) else f for f in files)
    severity, text = ("error", ERRORS[kind]) if kind in ERRORS else ("warning", WARNINGS[kind])
    message = f"{where}: {text.format(**{'n': count_of(files, unit)} | words)}"
    return Finding(kind, severity, message, tuple(map(str, files)))


def count_of(things: Sequence, unit: str) -> str:
    return f"{len(things)} {unit}{'' if len(things) == 1 else 's'}"


def size_of(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
