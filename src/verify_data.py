"""Is a dataset whole, and is it what its folders claim? A dry run that only reads.

    python src/preprocessing.py --verify --root_src GOPRO_Large
    python src/preprocessing.py --verify --root_dst dataset --report_file report.json
    python src/preprocessing.py --verify --root_src GOPRO_Large --root_dst dataset

`scan` lists a folder in either layout, `look_at` decodes every file once, and the `check_*` functions, which open no
file, turn what was seen into findings. An error is a fact that spoils training or scores; a warning is a sign that a
person has to judge. Errors end the command with status 1, warnings alone with 0. With both folders given, the pictures
of the source are looked at, and those of the arranged dataset compared with them byte by byte.
"""

import filecmp
import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops
from tqdm import tqdm

from src.errors import UserError, first_few, need_writable_folder
from src.picture_files import KINDS, MANIFEST, PARTIAL_MANIFEST, list_images, read_rgb, subfolders
from src.preprocessing import SPLITS, Row, read_manifest

GOPRO_PAIRS = {"train": 2103, "test": 1111}
GOPRO_SIZE = (1280, 720)
GOPRO_SEQUENCES = {
    "train": frozenset(
        "GOPR0372_07_00 GOPR0372_07_01 GOPR0374_11_00 GOPR0374_11_01 GOPR0374_11_02 GOPR0374_11_03 GOPR0378_13_00 "
        "GOPR0379_11_00 GOPR0380_11_00 GOPR0384_11_01 GOPR0384_11_02 GOPR0384_11_03 GOPR0384_11_04 GOPR0385_11_00 "
        "GOPR0386_11_00 GOPR0477_11_00 GOPR0857_11_00 GOPR0868_11_01 GOPR0868_11_02 GOPR0871_11_01 GOPR0881_11_00 "
        "GOPR0884_11_00".split()
    ),
    "test": frozenset(
        "GOPR0384_11_00 GOPR0384_11_05 GOPR0385_11_01 GOPR0396_11_00 GOPR0410_11_00 GOPR0854_11_00 GOPR0862_11_00 "
        "GOPR0868_11_00 GOPR0869_11_00 GOPR0871_11_00 GOPR0881_11_01".split()
    ),
}
GOPRO_NAME = re.compile(r"GOPR\d{4}_\d{2}_\d{2}(?=\D|$)")  # at the start of a file name, as some arrange the dataset

# blur or blur_gamma? Both are made from the same frames x of a recording: blur is mean(x), blur_gamma is
# mean(x ^ 2.2) ^ (1 / 2.2). So the mean level of blur is that of the sharp frame, but for what moves in and out of the
# picture, and its mean light, mean(x ^ 2.2), is below; of blur_gamma the light is the same, the level above (Jensen).
# With the differences of the means, blurred minus sharp, in levels, position = sum(level) / sum(level - light) is 0 for
# blur and 1 for blur_gamma, and level + light is negative for blur, positive for blur_gamma.
# Measured (256 levels; t is the mean of level + light over its standard error):
#     blur        -0.04, t =  -5.6   27 real GoPro pairs;     0.00, t = -16.9   136 pairs of `src.sample_data`'s camera
#     blur_gamma   0.96, t =  15.5   136 pairs of the same camera along the same paths, over 68 photographs
#     10 GoPro pairs of 8 to 10 frames 0.17, t = -1.5; 20 pairs of REDS, which was made in light of its own, 3.2, t = 17
# 4000 times 8 of the 136 pairs: t -15.8 to -1.8 (blur), 1.7 to 15.9 (blur_gamma); 16 pairs: 3.1 and more (blur_gamma).
# Any 8 successive real blur pairs: -1.4 and less. PSNR cannot tell the two: 24.75 and 24.17 dB, pairs spread by 3.9 dB.
GAMMA_EXPONENT = 2.2
GAMMA_MIN_PAIRS = 8
GAMMA_T = 3.0
GAMMA_MIN_LEVELS = 0.1  # of level + light, else rounding could decide where nothing moves; the sets above have 0.6 to 8
LIGHT = 255 * (np.arange(256) / 255) ** GAMMA_EXPONENT  # (256,), in levels

# How unlike two grey thumbnails are: RMS difference over the geometric mean of their contrasts. Independent pictures of
# equal mean have 1.41. Measured on sharp frames with 16x9 thumbnails:
#     different scenes, 7129 pairs          0.67 at least, 0.92 for the nearest 0.1 %, half of them above 1.66
#     neighbouring GoPro pairs (46 ms)      0.26 to 0.68, half of them below 0.42: one panning sequence of 27 frames
#     frames 6 to 13 apart, slower motion   0.21, 0.24, 0.31
#     neighbouring REDS frames              0.07 to 0.41
#     two further frames along the former   0.54 to 0.97: not found, and not meant to be
#     a blurred picture and its sharp one   0.12 at most for GoPro, 0.24 for REDS
# NEAR is half the least distance of different scenes, because the halves of a large set make millions of pairs. Of a
# sequence that is torn apart many frames fall below it, and one is enough for the warning: of those 27 frames, every
# third put into test, 2 of 9.
THUMB = (16, 9)  # width, height
NEAR = 0.35
UNLIKE = 0.7
MIN_CONTRAST = 2.0  # standard deviation of a thumbnail, levels: below it there is nothing to compare

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
    "gamma": (
        "warning",
        "the blurred images look like GoPro's blur_gamma: brighter than a plain mean of frames ({numbers}). Training "
        "and published scores are of blur; take the folders of that name. Right for other datasets whose blur is a "
        "mean of light, as that of REDS.",
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


@dataclass(frozen=True)
class Place:
    """A folder that holds blur and sharp: a sequence of GOPRO_Large, or one half of an arranged dataset."""

    half: Path
    """The folder train or test."""
    sequence: str
    """Name of the sequence's folder, "" for an arranged dataset."""
    images: dict[str, dict[str, Path]]
    """blur, sharp or blur_gamma -> name without suffix -> file; without the kinds whose folder is missing."""

    @property
    def folder(self) -> Path:
        return self.half / self.sequence

    @property
    def is_whole(self) -> bool:
        """It has both folders, blur and sharp."""
        return all(kind in self.images for kind in KINDS)


@dataclass(frozen=True)
class Item:
    """One pair of files."""

    half: Path
    """The folder train or test."""
    sequence: str
    """"" when nothing tells it"""
    label: str
    """How messages call the pair: its path below `half`, without suffix and kind."""
    blur: Path
    sharp: Path
    gamma: Path | None = None
    """The file of blur_gamma beside them, if there is one."""


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen in the files of one pair; `None` or empty where a file could not be read or the sizes differ."""

    item: Item
    unreadable: tuple[tuple[Path, str], ...] = ()
    """(file, reason)"""
    copies_gamma: bool = False
    """The file of blur_gamma has the same bytes as that of blur."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of blur and of sharp, pixels."""
    mse: float | None = None
    """Mean squared difference of blur and sharp, levels squared: 0 when they are equal."""
    level: float | None = None
    """mean(blur) - mean(sharp), levels, over all pixels and colours."""
    light: float | None = None
    """The same of `LIGHT`."""
    thumbs: tuple[np.ndarray, ...] = field(default=(), repr=False)
    """Grey thumbnails of blur and sharp, each (9 * 16,) float32, in levels."""
    digest: bytes = b""
    """Of the pixels of sharp."""

    @property
    def half(self) -> Path:
        return self.item.half


@dataclass(frozen=True)
class GammaEvidence:
    """Which of the two blurs a set of pairs looks like, see the top of this file."""

    pairs: int
    position: float | None
    """0 = blur, 1 = blur_gamma"""
    t: float | None
    levels: float | None
    """Mean of level + light, levels."""

    @property
    def verdict(self) -> str:
        """blur, blur_gamma or undecided"""
        if self.t is None or self.levels is None or abs(self.t) < GAMMA_T or abs(self.levels) < GAMMA_MIN_LEVELS:
            return "undecided"
        return "blur_gamma" if self.t > 0 else "blur"


@dataclass(frozen=True)
class Report:
    findings: list[Finding]
    summary: dict[str, dict[str, Any]]
    """Per half that was looked into: pairs, sequences, sizes, PSNR of the blurred input, blur or blur_gamma."""

    def count(self, severity: str) -> int:
        return sum(f.severity == severity for f in self.findings)


# ---- what there is


def need_layout(root: Path, option: str) -> None:
    """Raise a UserError unless `root` holds train or test and could be what `option` asks for.

    --root_src is {train,test}/<sequence>/{blur,sharp}, --root_dst is {train,test}/{blur,sharp}.
    """
    if not root.is_dir():
        raise UserError(f"{option}: no folder {root}. Give the folder that holds train and test.")
    halves = [root / split for split in SPLITS if (root / split).is_dir()]
    if not halves:
        inside = first_few(folder.name for folder in subfolders(root)) or "no folder"
        raise UserError(f"{option}: neither train nor test in {root}, got {inside}. Give the folder that holds them.")
    if any((half / kind).is_dir() for half in halves for kind in KINDS):
        if option == "--root_src":
            raise UserError(f"--root_src: {root} holds blur and sharp, so it is arranged. Give it as --root_dst.")
    elif option == "--root_dst":
        if any((sequence / kind).is_dir() for half in halves for sequence in subfolders(half) for kind in KINDS):
            raise UserError(f"--root_dst: {root} holds one folder per sequence. Give it as --root_src.")


def scan(root: Path, arranged: bool) -> tuple[list[Place], list[Finding]]:
    """All places below `root`, and the faults of folders that could not be listed or are not there."""
    places, findings = [], []
    kinds = KINDS if arranged else (*KINDS, "blur_gamma")
    for half in (root / split for split in SPLITS):
        if not half.is_dir():
            findings.append(finding("half", half, [half]))
            continue
        folders = [half] if arranged else subfolders(half)
        folders = [folder for folder in folders if arranged or any((folder / kind).is_dir() for kind in kinds)]
        if not folders:
            findings.append(finding("sequences", half, [half]))
        for folder in folders:
            try:
                images = {kind: list_images(folder / kind) for kind in kinds if (folder / kind).is_dir()}
            except UserError as e:
                findings.append(finding("names", folder, [folder], reason=str(e).removeprefix(f"{folder}/")))
            else:
                places.append(Place(half, "" if arranged else folder.name, images))
    return places, findings


def items_of(places: Sequence[Place], rows: Sequence[Row] = ()) -> list[Item]:
    """The pairs of `places`; `rows` of the manifest tell the sequences of an arranged dataset."""
    sequences = {(row.split, row.new_name): row.sequence for row in rows}
    items = []
    for place in places:
        blur, sharp, gamma = (place.images.get(kind, {}) for kind in ("blur", "sharp", "blur_gamma"))
        for name in (name for name in blur if name in sharp):
            in_name = GOPRO_NAME.match(name)
            sequence = place.sequence or sequences.get((place.half.name, name), in_name[0] if in_name else "")
            label = f"{place.sequence}/{name}" if place.sequence else name
            items.append(Item(place.half, sequence, label, blur[name], sharp[name], gamma.get(name)))
    return items


def look_at(item: Item) -> Look:
    """Decode both files of a pair, once, and keep what the checks need."""
    images, unreadable = [], []
    for path in (item.blur, item.sharp):
        try:
            images.append(read_rgb(path))
        except UserError as e:
            unreadable.append((path, str(e).removeprefix(f"{path}: ")))
    copies_gamma = item.gamma is not None and same_bytes(item.gamma, item.blur)
    if unreadable:
        return Look(item, tuple(unreadable), copies_gamma)
    sizes = tuple((image.shape[1], image.shape[0]) for image in images)
    if sizes[0] != sizes[1]:
        return Look(item, copies_gamma=copies_gamma, sizes=sizes)
    blur, sharp = (Image.fromarray(image) for image in images)
    shares = _histogram(blur) - _histogram(sharp)  # (256,)
    return Look(
        item,
        copies_gamma=copies_gamma,
        sizes=sizes,
        mse=float(_histogram(ImageChops.difference(blur, sharp)) @ np.arange(256.0) ** 2),
        level=float(shares @ np.arange(256)),
        light=float(shares @ LIGHT),
        thumbs=(_thumbnail(blur), _thumbnail(sharp)),
        digest=hashlib.blake2b(images[1].data, digest_size=16, person=str(sizes[1]).encode()[:16]).digest(),
    )


def _histogram(image: Image.Image) -> np.ndarray:
    """Shares of the 256 levels among all pixels and colours, (256,) float64."""
    counts = np.reshape(image.histogram(), (3, 256)).sum(axis=0)
    return counts / counts.sum()


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize(THUMB, Image.Resampling.BOX), np.float32).ravel()


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files hold the same bytes, or are one file. A file that cannot be read is like no other."""
    try:
        return os.path.samefile(a, b) or filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def in_threads(work: Callable, todo: Sequence, unit: str, progress: bool) -> list:
    """`work` on each of `todo`, in order. Decoding runs without the interpreter's lock, so threads use all cores."""
    with ThreadPoolExecutor((os.cpu_count() or 1) + 2) as pool:  # two more: some wait for the disk
        try:
            return list(tqdm(pool.map(work, todo), total=len(todo), unit=unit, disable=None if progress else True))
        except BaseException:  # Ctrl-C: what has not begun is not begun
            pool.shutdown(cancel_futures=True)
            raise


# ---- folders and names


def by_half(things: Iterable) -> Iterable[tuple[Path, list]]:
    """Places, items or looks of train, then those of test, as far as there are any."""
    groups = defaultdict(list)
    for thing in things:
        groups[thing.half].append(thing)
    return groups.items()


def check_folders(places: Sequence[Place]) -> list[Finding]:
    """Places without the folder blur or sharp, and such with nothing in either."""
    findings = []
    for half, group in by_half(places):
        lacking = [place.folder / kind for place in group for kind in KINDS if kind not in place.images]
        if lacking:
            findings.append(finding("folders", half, lacking, few=_few(lacking, half)))
        empty = [p.folder for p in group if p.is_whole and not any(p.images[kind] for kind in KINDS)]
        if empty:
            findings.append(finding("empty", half, empty, few=_few(empty, half.parent)))
    return findings


def check_partners(places: Sequence[Place], told: Iterable[Path] = ()) -> list[Finding]:
    """Images of blur without one of the same name in sharp, and the other way round.

    Args:
        places: those without a folder blur or sharp are left to `check_folders`.
        told: files that another finding reports as missing; their partners are not reported again.
    """
    told_names = {(path.parent, path.stem) for path in told}
    findings = []
    for half, group in by_half(place for place in places if place.is_whole):
        lonely = [
            path
            for place in group
            for kind, other in (KINDS, KINDS[::-1])
            for name, path in place.images[kind].items()
            if name not in place.images[other] and (place.folder / other, name) not in told_names
        ]
        if lonely:
            findings.append(finding("partner", half, lonely, n=_count(lonely, "image"), few=_few(lonely, half)))
    return findings


def is_gopro(items: Iterable[Item]) -> bool:
    """Whether any sequence is one of GOPRO_Large."""
    return not {item.sequence for item in items}.isdisjoint(frozenset.union(*GOPRO_SEQUENCES.values()))


def check_counts(items: Sequence[Item]) -> list[Finding]:
    """GOPRO_Large has 2103 and 1111 pairs of 22 and 11 sequences. Other datasets have any number."""
    findings = []
    for half, group in by_half(items if is_gopro(items) else ()):
        expected, known = GOPRO_PAIRS[half.name], GOPRO_SEQUENCES[half.name]
        there = {item.sequence for item in group}
        missing, foreign = sorted(known - there), sorted(there - known)
        if len(group) != expected or missing or foreign:
            which = f"; sequences missing: {first_few(missing)}" if missing else ""
            which += f"; sequences that belong elsewhere: {first_few(foreign)}" if foreign else ""
            words = {"n": _count(group, "pair"), "expected": expected, "which": which}
            findings.append(finding("count", half, missing + foreign, **words))
    return findings


def check_sequence_names(items: Sequence[Item]) -> list[Finding]:
    """Sequences of one name in train and in test."""
    train, test = ({item.sequence: item for item in items if item.half.name == split} for split in SPLITS)
    both = [name for name in train if name and name in test]
    if not both:
        return []
    return [finding("sequence", train[both[0]].half.parent, both, n=_count(both, "sequence"), few=first_few(both))]


# ---- single pairs


def _per_half(kind: str, looks: Iterable[Look], words: Callable[[Look], dict] = lambda first: {}) -> list[Finding]:
    """One finding of this kind per half, about these pairs; `words` of the first pair complete the text."""
    findings = []
    for half, group in by_half(looks):
        files = [path for look in group for path in (look.item.blur, look.item.sharp)]
        few = first_few(look.item.label for look in group)
        findings.append(finding(kind, half, files, n=_count(group, "pair"), few=few, **words(group[0])))
    return findings


def check_readable(looks: Sequence[Look]) -> list[Finding]:
    """Files that cannot be decoded to the end."""
    findings = []
    for half, group in by_half(look for look in looks if look.unreadable):
        bad = [file for look in group for file in look.unreadable]
        files = [path for path, _ in bad]
        words = {"n": _count(bad, "file"), "few": _few(files, half), "reason": bad[0][1]}
        findings.append(finding("unreadable", half, files, **words))
    return findings


def check_sizes(looks: Sequence[Look]) -> list[Finding]:
    """Pairs of two sizes; and frames of GOPRO_Large that are not 1280x720."""
    sized = [look for look in looks if look.sizes]
    differ = [look for look in sized if look.sizes[0] != look.sizes[1]]
    findings = _per_half("size", differ, lambda look: {"blur": _size(look.sizes[0]), "sharp": _size(look.sizes[1])})
    if is_gopro(look.item for look in looks):
        other = [look for look in sized if look.sizes[0] == look.sizes[1] != GOPRO_SIZE]
        words = {"expected": _size(GOPRO_SIZE)}
        findings += _per_half("frame_size", other, lambda look: words | {"got": _size(look.sizes[0])})
    return findings


def check_equal(looks: Sequence[Look]) -> list[Finding]:
    """Pairs whose blurred image is the sharp one, pixel by pixel."""
    return _per_half("equal", (look for look in looks if look.mse == 0))


def check_content(looks: Sequence[Look]) -> list[Finding]:
    """Pairs whose images show different pictures."""
    shown = [look for look in looks if look.thumbs]
    return _per_half("content", (k for k in shown if UNLIKE < distances(*np.stack(k.thumbs)[:, None]) < math.inf))


# ---- blur or blur_gamma


def check_gamma_copies(looks: Sequence[Look]) -> list[Finding]:
    """Files of blur that are those of blur_gamma."""
    return _per_half("gamma_copy", (look for look in looks if look.copies_gamma))


def gamma_evidence(looks: Iterable[Look]) -> GammaEvidence:
    """From all pairs that could be compared and are not equal. `None` where it needs more pairs or more blur."""
    means = np.array([(look.level, look.light) for look in looks if look.mse])  # (N, 2)
    if not len(means):
        return GammaEvidence(0, None, None, None)
    gap = float((means[:, 0] - means[:, 1]).sum())
    both = means.sum(axis=1)  # (N,)
    position = float(means[:, 0].sum()) / gap if gap > GAMMA_MIN_LEVELS * len(means) else None
    t, spread = None, both.std(ddof=1) if len(both) > 1 else 0.0
    if len(both) >= GAMMA_MIN_PAIRS and spread > 0:
        t = float(both.mean() / (spread / math.sqrt(len(both))))
    return GammaEvidence(len(means), position, t, float(both.mean()))


def check_gamma(looks: Sequence[Look]) -> list[Finding]:
    """Halves whose blurred images look like blur_gamma, as far as `check_gamma_copies` does not tell it."""
    findings = []
    for half, group in by_half(look for look in looks if not look.copies_gamma):
        evidence = gamma_evidence(group)
        if evidence.verdict == "blur_gamma":
            numbers = f"t = {evidence.t:.1f}, {evidence.pairs} pairs"
            if evidence.position is not None:
                numbers = f"at {evidence.position:.2f} where blur is 0 and blur_gamma 1, {numbers}"
            findings.append(finding("gamma", half, numbers=numbers))
    return findings


# ---- train and test


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How unlike thumbnails are: (N, P) and (M, P) -> (N, M), inf where one is without contrast. See `NEAR`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    spread_a, spread_b = a.std(axis=1), b.std(axis=1)
    squares = (a * a).mean(axis=1)[:, None] + (b * b).mean(axis=1) - a @ b.T * (2 / a.shape[1])
    contrast = np.outer(spread_a, spread_b)
    flat = np.logical_or.outer(spread_a < MIN_CONTRAST, spread_b < MIN_CONTRAST)
    return np.where(flat, np.inf, np.sqrt(np.maximum(squares, 0) / np.maximum(contrast, MIN_CONTRAST**2)))


def nearest_in(a: np.ndarray, b: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """For each of `a` the number and the distance of its nearest in `b`. 1111 and 2103 thumbnails take 0.05 s."""
    found = [distances(a[i : i + block], b) for i in range(0, len(a), block)]
    return tuple(np.concatenate([f(d, axis=1) for d in found]) for f in (np.argmin, np.min))


def check_shared(looks: Sequence[Look]) -> list[Finding]:
    """Sharp images that are in train and in test, equal in every pixel."""
    train, test = _comparable(looks)
    in_train = {look.digest: look for look in train}
    couples = [(look, in_train[look.digest]) for look in test if look.digest in in_train]
    return _of_couples("shared", couples, _count(couples, "test image"))


def check_neighbours(looks: Sequence[Look]) -> list[Finding]:
    """Sharp images of test that are nearly like one of train, as neighbours in one recording are.

    Nothing is said of GOPRO_Large where all sequences are known: its halves are as its authors made them.
    """
    train, test = _comparable(looks)
    if not train or not test or all(look.item.sequence in GOPRO_SEQUENCES[look.half.name] for look in (*train, *test)):
        return []
    test_thumbs, train_thumbs = (np.stack([look.thumbs[1] for look in half]) for half in (test, train))
    numbers, near = nearest_in(test_thumbs, train_thumbs)
    couples = [(look, train[i]) for look, i, distance in zip(test, numbers, near, strict=True) if distance < NEAR]
    couples = [(a, b) for a, b in couples if a.digest != b.digest]  # `check_shared` tells those
    return _of_couples("neighbours", couples, f"{len(couples)} of {_count(test, 'test image')}")


def _comparable(looks: Iterable[Look]) -> list[list[Look]]:
    """Those of train and those of test whose sharp image has something to compare."""
    looks = [look for look in looks if look.thumbs and look.thumbs[1].std() >= MIN_CONTRAST]
    return [[look for look in looks if look.half.name == split] for split in SPLITS]


def _of_couples(kind: str, couples: Sequence[tuple[Look, Look]], n: str) -> list[Finding]:
    """One finding, or none, about (test, train) couples of sharp images."""
    few = first_few(f"test {a.item.label} and train {b.item.label}" for a, b in couples)
    files = [look.item.sharp for couple in couples for look in couple]
    return [finding(kind, couples[0][0].half.parent, files, n=n, few=few)] if couples else []


# ---- the arranged dataset


def read_rows(root: Path) -> tuple[list[Row], list[Finding]]:
    """The manifest of an arranged dataset, finished or not; [] for other datasets, which need none."""
    for path in (root / PARTIAL_MANIFEST, root / MANIFEST):
        try:
            rows = read_manifest(path)
        except UserError:
            return [], [finding("manifest", path, [path])]
        if rows:
            return rows, []
    return [], []


def missing_files(root: Path, rows: Sequence[Row]) -> list[Path]:
    """What the manifest names and `root` lacks."""
    return [path for row in rows for kind in KINDS if not (path := root / row.target(kind)).exists()]


def check_manifest(root: Path, rows: Sequence[Row], places: Sequence[Place], missing: Sequence[Path]) -> list[Finding]:
    """Whether the files of an arranged dataset are those of its manifest; `missing` is from `missing_files`."""
    findings = []
    words = {"n": _count(missing, "file"), "few": _few(missing, root)}
    if (root / PARTIAL_MANIFEST).exists():
        which = "; {n} missing: {few}".format(**words) if missing else ""
        findings.append(finding("interrupted", root, missing, which=which))
    elif missing:
        findings.append(finding("missing", root, missing, **words))
    expected = {root / row.target(kind) for row in rows for kind in KINDS}
    there = [path for place in places for kind in KINDS for path in place.images.get(kind, {}).values()]
    stray = [path for path in there if path not in expected]
    if rows and stray:
        findings.append(finding("stray", root, stray, n=_count(stray, "image"), few=_few(stray, root)))
    return findings


def check_origin(root_src: Path, root_dst: Path, rows: Sequence[Row], items: Sequence[Item]) -> list[Finding]:
    """Whether the manifest names the pairs of the source, all and no others, in the halves that the source has."""
    if not rows:
        return [finding("no_manifest", root_dst)]
    halves = {item.half.name for item in items}
    here = [f"{item.half.name}/{item.label}" for item in items]
    told = [f"{row.split}/{row.sequence}/{row.frame}" for row in rows if row.split in halves]
    new, gone = ([name for name in a if name not in b] for a, b in ((here, {*told}), (told, {*here})))
    parts = [f"it lacks {_count(new, 'pair')}: {first_few(new)}"] if new else []
    parts += [f"{_count(gone, 'pair')} only in it: {first_few(gone)}"] if gone else []
    return [finding("origin", root_dst, new + gone, source=root_src, which="; ".join(parts))] if parts else []


def check_copies(root_src: Path, root_dst: Path, rows: Sequence[Row], progress: bool = False) -> list[Finding]:
    """Whether arranged files hold the bytes of their sources. Where one of the two is missing, other checks tell."""
    couples = [(root_src / getattr(row, kind), root_dst / row.target(kind)) for row in rows for kind in KINDS]
    couples = [couple for couple in couples if all(path.is_file() for path in couple)]
    same = in_threads(lambda couple: same_bytes(*couple), couples, "file", progress)
    differ = [couple for couple, equal in zip(couples, same, strict=True) if not equal]
    if not differ:
        return []
    expected, got = (path.stat().st_size for path in differ[0])
    files = [target for _, target in differ]
    words = {"n": _count(files, "file"), "few": _few(files, root_dst), "got": got, "expected": expected}
    return [finding("copy", root_dst, files, source=root_src, **words)]


# ---- all of it


def verify(root_src: Path | None, root_dst: Path | None, progress: bool = True) -> Report:
    """Look into a dataset in the layout of GOPRO_Large, an arranged one, or one and what was arranged from it.

    Raises:
        UserError: a folder is missing, or is of the other layout.
    """
    findings, items = [], []
    for root, option in ((root_src, "--root_src"), (root_dst, "--root_dst")):
        if root:
            need_layout(root, option)
    if root_src:
        places, found = scan(root_src, arranged=False)
        findings += found + check_folders(places) + check_partners(places)
        items = items_of(places)
    if root_dst:
        places, found = scan(root_dst, arranged=True)
        rows, found_in_manifest = read_rows(root_dst)
        missing = missing_files(root_dst, rows)
        findings += found + check_folders(places) + check_partners(places, missing) + found_in_manifest
        findings += check_manifest(root_dst, rows, places, missing)
        if not root_src:
            gone = set(missing)  # broken links among them would be unreadable, too
            items = [item for item in items_of(places, rows) if not {item.blur, item.sharp} & gone]
        elif not found_in_manifest:
            findings += check_origin(root_src, root_dst, rows, items) + check_copies(root_src, root_dst, rows, progress)
    findings += check_counts(items) + check_sequence_names(items)
    looks = in_threads(look_at, items, "pair", progress)
    for check in LOOK_CHECKS:
        findings += check(looks)
    findings.sort(key=lambda found: found.severity != "error")
    return Report(findings, {str(half): summarize(group) for half, group in by_half(looks)})


LOOK_CHECKS = (
    check_readable, check_sizes, check_equal, check_content, check_gamma_copies, check_gamma, check_shared,
    check_neighbours,
)  # fmt: skip


def summarize(looks: Sequence[Look]) -> dict[str, Any]:
    """What one half holds. PSNR is the mean over the pairs whose images differ, dB, None without any."""
    evidence = gamma_evidence(looks)
    psnr = [10 * math.log10(255**2 / look.mse) for look in looks if look.mse]
    return {
        "pairs": len(looks),
        "sequences": len({look.item.sequence for look in looks} - {""}),
        "sizes": dict(Counter(_size(look.sizes[1]) for look in looks if look.sizes).most_common()),
        "psnr_input": sum(psnr) / len(psnr) if psnr else None,
        "averaged_like": evidence.verdict,
        "gamma_position": evidence.position,
        "gamma_t": evidence.t,
    }


def run(root_src: Path | None, root_dst: Path | None, report_file: Path | None = None, progress: bool = True) -> int:
    """`verify`, told on the screen and in a JSON file. Returns the exit status: 1 after an error, else 0.

    Raises:
        UserError: as `verify`, or the report cannot be written, which is tried before the pictures are read.
    """
    if report_file:
        if report_file.suffix != ".json" or report_file.is_dir():
            raise UserError(f"--report_file: got {report_file}, expected a file name that ends with .json")
        need_writable_folder(report_file.parent, "--report_file")
    report = verify(root_src, root_dst, progress)
    for half, facts in report.summary.items():
        print(f"{half}: {_describe(facts)}")
    if root_src and root_dst:
        print(f"{root_dst}: compared with {root_src}, byte by byte")
    for found in report.findings:
        print(found)
    counts = {severity: report.count(severity) for severity in ("error", "warning")}
    told = [f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in counts.items() if n]
    print(", ".join(told) or "nothing wrong was found")
    if report_file:
        roots = {"root_src": str(root_src or ""), "root_dst": str(root_dst or "")}
        content = roots | {f"{severity}s": n for severity, n in counts.items()} | asdict(report)
        write_json(report_file, content)
        print(f"report: {report_file}")
    return 1 if counts["error"] else 0


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        raise UserError(f"--report_file: cannot write {path} ({e.strerror})") from e
    finally:
        part.unlink(missing_ok=True)


def _describe(facts: dict[str, Any]) -> str:
    parts = [f"{facts['pairs']} pairs" + (f" of {facts['sequences']} sequences" if facts["sequences"] else "")]
    sizes = [f"{n} of {size}" for size, n in facts["sizes"].items()]
    parts.append(next(iter(facts["sizes"])) if len(sizes) == 1 else first_few(sizes) or "no size")
    if facts["psnr_input"] is not None:
        parts.append(f"blurred input {facts['psnr_input']:.2f} dB")
    if facts["averaged_like"] != "undecided":
        parts.append(f"averaged like {facts['averaged_like']}")
    else:
        parts.append("too few pairs or too little blur to tell blur from blur_gamma")
    return ", ".join(parts)


# ---- words


def _few(paths: Iterable[Path], root: Path) -> str:
    return first_few(path.relative_to(root).as_posix() for path in paths)


def _count(things: Sequence, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
