"""The checks of a dataset. Each `check_*` returns its findings, [] if there are none.

Those of names work on the lists of `src.verify.walk.scan`, those of pixels on the data that `look_at` kept.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from src.data.gopro import GOPRO_PAIRS, GOPRO_SEQUENCES, GOPRO_SIZE, ManifestRow, read_manifest
from src.data.pairs import KINDS, MANIFEST, PARTIAL_MANIFEST, SPLITS
from src.errors import UserError, first_few
from src.files import in_threads, same_bytes
from src.verify.findings import Finding, count_of, finding, size_of
from src.verify.walk import Item, Look, Place, by_half, is_gopro

# Distance of two grey thumbnails: RMS difference over the geometric mean of their contrasts. Independent pictures of
# equal mean have 1.41. Measured on sharp frames with 16x9 thumbnails:
#     different scenes, 7129 pairs          at least 0.67, 0.92 for the nearest 0.1 %, half of them above 1.66
#     neighbouring GoPro pairs (46 ms)      0.26 to 0.68, half of them below 0.42: one panning sequence of 27 frames
#     frames 6 to 13 apart, slower motion   0.21, 0.24, 0.31
#     neighbouring REDS frames              0.07 to 0.41
#     two more distant frames of the first  0.54 to 0.97: not found, and not meant to be
#     a blurred picture and its sharp one   at most 0.12 for GoPro, 0.24 for REDS
# NEAR is half the smallest distance of different scenes, because the halves of a large set make millions of pairs. If a
# sequence is split between the halves, many frames fall below it, and one is enough for the warning: with every third
# of those 27 frames in test, 2 of 9 do.
NEAR = 0.35
UNLIKE = 0.7
MIN_CONTRAST = 2.0  # standard deviation of a thumbnail, levels, below which it is not compared


# ---- folders and names


def check_folders(places: Sequence[Place]) -> list[Finding]:
    """Places without a folder blur or sharp, and places without any image."""
    findings = []
    for half, group in by_half(places):
        missing = [place.folder / kind for place in group for kind in KINDS if kind not in place.images]
        if missing:
            findings.append(finding("folders", half, missing))
        empty = [p.folder for p in group if p.is_whole and not any(p.images[kind] for kind in KINDS)]
        if empty:
            few = first_few(folder.relative_to(half.parent).as_posix() for folder in empty)
            findings.append(finding("empty", half, empty, few=few))
    return findings


def check_partners(places: Sequence[Place], reported: Iterable[Path] = ()) -> list[Finding]:
    """Images in blur without an image of the same name in sharp, and the reverse.

    Args:
        places: those without a folder blur or sharp are left to `check_folders`.
        reported: files that another finding reports as missing; their partners are not reported again.
    """
    known = {(path.parent, path.stem) for path in reported}
    findings = []
    for half, group in by_half(place for place in places if place.is_whole):
        lonely = [
            path
            for place in group
            for kind, other in (KINDS, KINDS[::-1])
            for name, path in place.images[kind].items()
            if name not in place.images[other] and (place.folder / other, name) not in known
        ]
        if lonely:
            findings.append(finding("partner", half, lonely, "image"))
    return findings


def check_counts(items: Sequence[Item]) -> list[Finding]:
    """Number of pairs and sequences of GOPRO_Large, 2103 of 22 and 1111 of 11. Other datasets are not checked."""
    findings = []
    for half, group in by_half(items if is_gopro(items) else ()):
        expected, known = GOPRO_PAIRS[half.name], GOPRO_SEQUENCES[half.name]
        there = {item.sequence for item in group}
        missing, foreign = sorted(known - there), sorted(there - known)
        if len(group) != expected or missing or foreign:
            which = f"; sequences missing: {first_few(missing)}" if missing else ""
            which += f"; sequences that belong elsewhere: {first_few(foreign)}" if foreign else ""
            n = count_of(group, "pair")
            findings.append(finding("count", half, missing + foreign, n=n, expected=expected, which=which))
    return findings


def check_sequence_names(items: Sequence[Item]) -> list[Finding]:
    """Sequences of the same name in train and test."""
    train, test = ({item.sequence: item for item in items if item.half.name == split} for split in SPLITS)
    both = [name for name in train if name and name in test]
    return [finding("sequence", train[both[0]].half.parent, both, "sequence")] if both else []


# ---- the arranged dataset


def read_rows(root: Path) -> tuple[list[ManifestRow], list[Finding]]:
    """The manifest of an arranged dataset, complete or not; no rows for other datasets, which need none."""
    for path in (root / PARTIAL_MANIFEST, root / MANIFEST):
        try:
            rows = read_manifest(path)
        except UserError:
            return [], [finding("manifest", path, [path])]
        if rows:
            return rows, []
    return [], []


def missing_files(root: Path, rows: Sequence[ManifestRow]) -> list[Path]:
    """Files of the manifest that `root` lacks."""
    return [path for row in rows for kind in KINDS if not (path := root / row.target(kind)).exists()]


def check_manifest(
    root: Path, rows: Sequence[ManifestRow], places: Sequence[Place], missing: Sequence[Path]
) -> list[Finding]:
    """Whether the files of an arranged dataset are those of its manifest; `missing` is from `missing_files`."""
    findings = []
    if (root / PARTIAL_MANIFEST).exists():
        few = first_few(path.relative_to(root).as_posix() for path in missing)
        which = f"; {count_of(missing, 'file')} missing: {few}" if missing else ""
        findings.append(finding("interrupted", root, missing, which=which))
    elif missing:
        findings.append(finding("missing", root, missing, "file"))
    expected = {root / row.target(kind) for row in rows for kind in KINDS}
    found = [path for place in places for kind in KINDS for path in place.images.get(kind, {}).values()]
    stray = [path for path in found if path not in expected]
    if rows and stray:
        findings.append(finding("stray", root, stray, "image"))
    return findings


def check_origin(root_src: Path, root_dst: Path, rows: Sequence[ManifestRow], items: Sequence[Item]) -> list[Finding]:
    """Whether the manifest lists exactly the pairs of the source, in the halves that the source has."""
    if not rows:
        return [finding("no_manifest", root_dst)]
    halves = {item.half.name for item in items}
    source = [f"{item.half.name}/{item.label}" for item in items]
    manifest = [f"{row.split}/{row.sequence}/{row.frame}" for row in rows if row.split in halves]
    new, gone = ([name for name in a if name not in b] for a, b in ((source, {*manifest}), (manifest, {*source})))
    parts = [f"it lacks {count_of(new, 'pair')}: {first_few(new)}"] if new else []
    parts += [f"{count_of(gone, 'pair')} only in the manifest: {first_few(gone)}"] if gone else []
    return [finding("origin", root_dst, new + gone, source=root_src, which="; ".join(parts))] if parts else []


def check_copies(root_src: Path, root_dst: Path, rows: Sequence[ManifestRow], progress: bool = False) -> list[Finding]:
    """Whether arranged files equal their sources. If one of the two is missing, other checks report it."""
    couples = [(root_src / getattr(row, kind), root_dst / row.target(kind)) for row in rows for kind in KINDS]
    couples = [couple for couple in couples if all(path.is_file() for path in couple)]
    same = in_threads(lambda couple: same_bytes(*couple), couples, "file", progress)
    differ = [couple for couple, equal in zip(couples, same, strict=True) if not equal]
    if not differ:
        return []
    expected, got = (path.stat().st_size for path in differ[0])
    files = [target for _, target in differ]
    return [finding("copy", root_dst, files, "file", source=root_src, got=got, expected=expected)]


# ---- single pairs


def check_readable(looks: Sequence[Look]) -> list[Finding]:
    """Files that cannot be decoded completely."""
    findings = []
    for half, group in by_half(look for look in looks if look.unreadable):
        bad = [file for look in group for file in look.unreadable]
        findings.append(finding("unreadable", half, [path for path, _ in bad], "file", reason=bad[0][1]))
    return findings


def check_sizes(looks: Sequence[Look]) -> list[Finding]:
    """Pairs of different sizes, and frames of GOPRO_Large that are not 1280x720."""
    sized = [look for look in looks if look.sizes]
    differ = [look for look in sized if look.sizes[0] != look.sizes[1]]
    findings = _per_half("size", differ, lambda look: {"blur": size_of(look.sizes[0]), "sharp": size_of(look.sizes[1])})
    if is_gopro(look.item for look in looks):
        other = [look for look in sized if look.sizes[0] == look.sizes[1] != GOPRO_SIZE]
        words = {"expected": size_of(GOPRO_SIZE)}
        findings += _per_half("frame_size", other, lambda look: words | {"got": size_of(look.sizes[0])})
    return findings


def check_contents(looks: Sequence[Look]) -> list[Finding]:
    """Pairs of equal images or of different pictures, and copies of blur_gamma in blur."""
    shown = [look for look in looks if look.thumbs]
    unlike = [look for look in shown if UNLIKE < distances(*np.stack(look.thumbs)[:, None]) < math.inf]
    return [
        *_per_half("equal", (look for look in looks if look.mse == 0)),
        *_per_half("content", unlike),
        *_per_half("gamma_copy", (look for look in looks if look.copies_gamma)),
    ]


def _per_half(kind: str, looks: Iterable[Look], words: Callable[[Look], dict] = lambda first: {}) -> list[Finding]:
    """One finding per half about the given pairs; `words` of the first pair complete the message."""
    findings = []
    for half, group in by_half(looks):
        files = [path for look in group for path in (look.item.blur, look.item.sharp)]
        few = first_few(look.item.label for look in group)
        findings.append(finding(kind, half, files, n=count_of(group, "pair"), few=few, **words(group[0])))
    return findings


# ---- train and test


def check_shared(looks: Sequence[Look]) -> list[Finding]:
    """Sharp images in both train and test, equal in every pixel."""
    train, test = _comparable(looks)
    in_train = {look.digest: look for look in train}
    couples = [(look, in_train[look.digest]) for look in test if look.digest in in_train]
    return _of_couples("shared", couples, count_of(couples, "test image"))


def check_neighbours(looks: Sequence[Look]) -> list[Finding]:
    """Sharp images of test that are similar to one of train, like neighbours in one recording.

    The original halves of GOPRO_Large are not checked.
    """
    train, test = _comparable(looks)
    if not train or not test or all(look.item.sequence in GOPRO_SEQUENCES[look.half.name] for look in (*train, *test)):
        return []
    test_thumbs, train_thumbs = (np.stack([look.thumbs[1] for look in half]) for half in (test, train))
    numbers, near = nearest_in(test_thumbs, train_thumbs)
    couples = [(look, train[i]) for look, i, distance in zip(test, numbers, near, strict=True) if distance < NEAR]
    couples = [(a, b) for a, b in couples if a.digest != b.digest]  # `check_shared` reports those
    return _of_couples("neighbours", couples, f"{len(couples)} of {count_of(test, 'test image')}")


def _comparable(looks: Iterable[Look]) -> list[list[Look]]:
    """Looks of train and of test whose sharp image has enough contrast."""
    looks = [look for look in looks if look.thumbs and look.thumbs[1].std() >= MIN_CONTRAST]
    return [[look for look in looks if look.half.name == split] for split in SPLITS]


def _of_couples(kind: str, couples: Sequence[tuple[Look, Look]], n: str) -> list[Finding]:
    """At most one finding about (test, train) couples of sharp images."""
    few = first_few(f"test {a.item.label} and train {b.item.label}" for a, b in couples)
    files = [look.item.sharp for couple in couples for look in couple]
    return [finding(kind, couples[0][0].half.parent, files, n=n, few=few)] if couples else []


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of thumbnails, (N, P) and (M, P) -> (N, M), inf for those without contrast, see `NEAR`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    spread_a, spread_b = a.std(axis=1), b.std(axis=1)
    squares = (a * a).mean(axis=1)[:, None] + (b * b).mean(axis=1) - a @ b.T * (2 / a.shape[1])
    contrast = np.outer(spread_a, spread_b)
    flat = np.logical_or.outer(spread_a < MIN_CONTRAST, spread_b < MIN_CONTRAST)
    return np.where(flat, np.inf, np.sqrt(np.maximum(squares, 0) / np.maximum(contrast, MIN_CONTRAST**2)))


def nearest_in(a: np.ndarray, b: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Index and distance of the nearest in `b` for each of `a`. 1111 and 2103 thumbnails take 0.05 s."""
    found = [distances(a[i : i + block], b) for i in range(0, len(a), block)]
    return tuple(np.concatenate([f(d, axis=1) for d in found]) for f in (np.argmin, np.min))


PICTURE_CHECKS = (check_readable, check_sizes, check_contents, check_shared, check_neighbours)  # in report order
