"""The files of `deblur.py`: finding photos and videos, naming their outputs, and checking for finished ones.

No output ever replaces an input or another output.
"""

import glob
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.data.image_files import FORMATS, SUFFIXES
from src.data.images import NO_FILE, is_special
from src.data.pairs import natural_key
from src.errors import UserError, first_few, nearest
from src.files import identity, need_apart
from src.photos.read import read_header
from src.photos.video import CONTAINERS, SUFFIX_OF, is_video

WRITTEN_AS_JPEG = ("HEIC", "AVIF")  # unless another format is asked for
LONGEST_NAME = 255  # bytes of one file name, on nearly every file system


@dataclass(frozen=True)
class Source:
    """A photo or video to restore."""

    path: Path
    name: Path
    """The path of its output below the output folder, before any renaming."""


@dataclass(frozen=True)
class Job:
    """One photo or video and its outputs."""

    source: Path
    target: Path
    file_format: str
    """A key of `src.data.image_files.SUFFIXES`, or a value of `src.photos.video.CONTAINERS`."""
    strip: Path | None = None
    """The before/after picture of a photo."""

    @property
    def outputs(self) -> list[Path]:
        return [self.target, self.strip] if self.strip else [self.target]

    @property
    def is_video(self) -> bool:
        return self.file_format in CONTAINERS.values()


# ---- finding photos


@dataclass
class Found:
    """The photos and videos in the inputs, each once."""

    sources: list[Source] = field(default_factory=list)
    passed_over: dict[Path, str] = field(default_factory=dict)
    """Links that were not followed and special files, with the reason."""
    failures: list[str] = field(default_factory=list)
    """Unreadable inputs and folders, one line each."""
    other_files: set[Path] = field(default_factory=set)
    """Files in the inputs whose names are not those of photos or videos, without hidden ones."""

    def lines(self) -> list[str]:
        """Messages about files that are not restored, one for each reason however many files there are."""
        lines = [f"left out: {_by_suffix(self.other_files)}"] if self.other_files else []
        for reason in dict.fromkeys(self.passed_over.values()):
            paths = (path for path, why in self.passed_over.items() if why == reason)
            lines.append(f"passed over, {reason}: {first_few(paths)}")
        return lines

    def take(self, source: Source, sources: list[Source]) -> None:
        """Add a file of a folder or pattern to `sources`, or note what it is instead."""
        if is_special(source.path):
            self.passed_over[source.path] = NO_FILE
        elif source.path.suffix.lower() in FORMATS or is_video(source.path):
            sources.append(source)
        elif not source.path.name.startswith("."):
            self.other_files.add(_place(source.path))


def find_photos(inputs: Sequence[str], output: Path) -> Found:
    """The photos and videos that files, folders and patterns stand for, in natural order within each input.

    Args:
        inputs: a file counts whatever its name is; a folder is searched by suffix, with its sub-folders; a pattern is
            expanded unless a file has exactly that name, and its files count by suffix too.
        output: not searched, so that a second run does not take results for inputs.

    Raises:
        UserError: an input does not exist, or holds or matches neither a photo nor a video.
    """
    found = Found()
    by_place: dict[Path, Source] = {}
    for given in inputs:
        others = set(found.other_files)
        if os.path.isdir(given):  # unlike `Path.is_dir`, this raises nothing
            sources = _in_folder(Path(given), output, found)
            if not sources and found.failures:
                raise UserError(found.failures[-1])
            if not sources:
                raise UserError(f"{given}: no photo or video in it{_expected(found.other_files - others)}")
        elif is_special(Path(given)):
            found.failures.append(f"{given}: {NO_FILE}")
            continue
        elif os.path.lexists(given):  # a broken link fails when it is read, with its name
            sources = [Source(Path(given), Path(Path(given).name))]
        elif glob.has_magic(given):
            sources = _matching(given, output, found)
            if not sources:
                raise UserError(f"{given}: matches no photo or video{_expected(found.other_files - others)}")
        else:
            raise UserError(f"{given}: no such file or folder.{nearest_file(Path(given))}")
        for source in sources:
            by_place.setdefault(_place(source.path), source)
    found.sources = list(by_place.values())
    found.other_files -= by_place.keys()
    return found


def _by_suffix(paths: Iterable[Path]) -> str:
    """'3 .gif, 1 .psd, 2 without suffix'"""
    counts = Counter(path.suffix.lower() or "without suffix" for path in paths)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return first_few((f"{count} {suffix}" for suffix, count in ordered), 8)


def _expected(others: set[Path]) -> str:
    """The end of the message about an input that has only `others` instead of photos."""
    got = f" (got {_by_suffix(others)})" if others else ""
    return f"{got}; expected files ending in {' '.join([*FORMATS, *CONTAINERS])}"


def _place(path: Path) -> Path:
    """One path for all spellings of a file's path."""
    return Path(os.path.realpath(path.parent)) / path.name


def _in_folder(root: Path, output: Path, found: Found) -> list[Source]:
    """Photos and videos below `root`, without hidden ones. Links to folders are followed, but each folder is searched
    once."""
    if identity(root) == identity(output):
        raise UserError(f"--output {output}: is the input folder; give another one, e.g. {root / 'deblurred'}")
    sources: list[Source] = []
    seen = {identity(output), identity(root)}

    def search(folder: Path) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
        except OSError as e:
            found.failures.append(f"{folder}: cannot be listed ({e.strerror})")
            return
        paths = [folder / entry.name for entry in entries if not entry.name.startswith(".")]
        for path in paths:
            if not os.path.isdir(path):
                found.take(Source(path, path.relative_to(root)), sources)
        for path in filter(os.path.isdir, paths):
            if identity(path) not in seen:
                seen.add(identity(path))
                search(path)
            elif path.is_symlink():
                found.passed_over[path] = "a link to a folder that is searched anyway, or to the output"

    search(root)
    return sources


def _matching(pattern: str, output: Path, found: Found) -> list[Source]:
    """Photos and videos that a pattern matches, named relative to its folders without wildcards."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    results = None if _is_inside(root, identity(output)) else identity(output)  # not excluded if it is above
    sources: list[Source] = []
    for path in (Path(p) for p in sorted(glob.glob(pattern, recursive=True), key=natural_key)):
        if os.path.isdir(path):
            if identity(path) != results and "**" not in parts:  # ** matches all files in it
                inside = _in_folder(path, output, found)
                sources += [Source(s.path, s.path.relative_to(root)) for s in inside]
        elif not _is_inside(path.parent, results):
            found.take(Source(path, path.relative_to(root)), sources)
    return sources


def _is_inside(folder: Path, other: tuple[int, int] | None) -> bool:
    """Whether `folder` is, or lies in, the folder whose `identity` is `other`."""
    if other is None:
        return False
    folder = folder.resolve()
    return any(identity(path) == other for path in (folder, *folder.parents))


def nearest_file(path: Path) -> str:
    """' Did you mean X?' with a name from the nearest existing folder above, or ''."""
    while not path.parent.is_dir():
        path = path.parent
    try:
        known = [entry.name for entry in os.scandir(path.parent) if not entry.name.startswith(".")]
    except OSError:
        return ""
    hint = nearest(path.name, known)
    return hint.replace("Did you mean ", f"Did you mean {path.parent}{os.sep}") if str(path.parent) != "." else hint


# ---- naming outputs


def plan(
    sources: Sequence[Source], output: Path, file_format: str = "", compare: bool = False
) -> tuple[list[Job], list[str]]:
    """One job per photo or video. No output is another output or an input.

    Args:
        output: an existing folder.
        file_format: a value of `FORMATS`, '' = that of each input. Videos keep theirs.
        compare: also write a strip for each photo.

    Returns:
        The jobs, and lines about outputs that could not have the names of their inputs.

    Raises:
        UserError: an output would lie in a folder that holds inputs.
    """
    key = _name_key(output)
    wanted = {source: _target_name(source, file_format) for source in sources}
    wished = {key(name) for name, _ in wanted.values()}
    taken: set[str] = set()
    renamed: list[str] = []

    def claim(source: Source, wish: Path) -> Path:
        """`wish`, or the first of wish_2, wish_3, ... that no other output has or wants."""
        numbered = (_with_ending(wish, f"_{n}{wish.suffix}") for n in itertools.count(2))
        free = (name for name in numbered if key(name) not in taken | wished)
        name = next(free) if key(wish) in taken else wish
        taken.add(key(name))
        if name != wish:
            renamed.append(f"{source.path} -> {name}")
        return name

    names: dict[Source, Path] = {}
    for source, (name, _) in sorted(wanted.items(), key=lambda item: item[1][0] != item[0].name):
        names[source] = claim(source, name)  # outputs that keep the names of their photos come first
    jobs, shortened = [], []
    for source, (_, kind) in wanted.items():
        written = [names[source]]
        if compare and not is_video(source.name):
            written.append(claim(source, _with_ending(names[source], "_compare.png")))
        shortened += [f"{source.path} -> {name}" for name in written if not name.name.startswith(source.name.stem)]
        jobs.append(Job(source.path, output / written[0], kind, output / written[1] if written[1:] else None))
    outputs = [(f"--output {output}", path) for job in jobs for path in job.outputs]
    need_apart([job.source for job in jobs], files=outputs, shallow={job.source.parent for job in jobs})
    lines = {"outputs of one name, numbered": renamed, f"names shortened to {LONGEST_NAME} bytes": shortened}
    return jobs, [f"{title}: {first_few(items)}" for title, items in lines.items() if items]


def _target_name(source: Source, file_format: str) -> tuple[Path, str]:
    """(path below the output folder, format)"""
    if is_video(source.name):
        suffix = source.name.suffix.lower()
        name = _with_ending(source.name, SUFFIX_OF[suffix]) if suffix in SUFFIX_OF else source.name
        return name, CONTAINERS[suffix]
    own = FORMATS.get(source.name.suffix.lower())
    kind = file_format or own
    if not kind:  # the name does not show it, but the content does
        try:
            kind = read_header(source.path).file_format
        except UserError:  # reported when the photo is read
            kind = "PNG"
    kind = "JPEG" if kind in WRITTEN_AS_JPEG else kind
    if kind == own:
        return source.name, own
    return _with_ending(source.name, SUFFIXES[kind][0], "" if own else source.name.name), kind


def _with_ending(name: Path, ending: str, stem: str = "") -> Path:
    """`ending` in place of the suffix, or after `stem`, which loses characters from its end if the name is too long."""
    stem = stem or name.stem
    while stem and len(os.fsencode(stem + ending)) > LONGEST_NAME:
        stem = stem[:-1]
    return name.with_name(stem + ending)


def _name_key(output: Path) -> Callable[[Path], str]:
    """A function that is equal for two names of one file in `output`: some file systems ignore case."""
    with tempfile.NamedTemporaryFile(prefix=".case_test_", dir=output) as file:
        probe = Path(file.name)
        return (lambda name: str(name).casefold()) if probe.with_name(probe.name.upper()).exists() else str


# ---- finished outputs


def is_complete(job: Job) -> bool:
    """Whether all outputs exist, and a restored photo has the right size and format."""
    if not all(os.path.isfile(path) for path in job.outputs):
        return False
    if job.is_video:
        return True
    try:
        before, after = read_header(job.source), read_header(job.target)
    except UserError:
        return False
    return (before.width, before.height, job.file_format) == (after.width, after.height, after.file_format)


def is_newer(job: Job) -> bool:
    """Whether all outputs are at least as new as the input."""
    try:
        return min(path.stat().st_mtime for path in job.outputs) >= job.source.stat().st_mtime
    except OSError:
        return False
