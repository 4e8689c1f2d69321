"""Faults of a dataset that its folders, names and manifest tell; no picture is opened here.

Each `check_*` returns its findings, [] where all is well.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from src.data.gopro import GOPRO_PAIRS, GOPRO_SEQUENCES, ManifestRow, read_manifest
from src.data.pairs import KINDS, MANIFEST, PARTIAL_MANIFEST, SPLITS
from src.errors import UserError, first_few
from src.files import in_threads, same_bytes
from src.verify.findings import Finding, count_of, few_of, finding
from src.verify.walk import Item, Place, by_half, is_gopro

# ---- folders and names


def check_folders(places: Sequence[Place]) -> list[Finding]:
    """Places without the folder blur or sharp, and such with nothing in either."""
    findings = []
    for half, group in by_half(places):
        lacking = [place.folder / kind for place in group for kind in KINDS if kind not in place.images]
        if lacking:
            findings.append(finding("folders", half, lacking, few=few_of(lacking, half)))
        empty = [p.folder for p in group if p.is_whole and not any(p.images[kind] for kind in KINDS)]
        if empty:
            findings.append(finding("empty", half, empty, few=few_of(empty, half.parent)))
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
            findings.append(finding("partner", half, lonely, n=count_of(lonely, "image"), few=few_of(lonely, half)))
    return findings


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
            words = {"n": count_of(group, "pair"), "expected": expected, "which": which}
            findings.append(finding("count", half, missing + foreign, **words))
    return findings


def check_sequence_names(items: Sequence[Item]) -> list[Finding]:
    """Sequences of one name in train and in test."""
    train, test = ({item.sequence: item for item in items if item.half.name == split} for split in SPLITS)
    both = [name for name in train if name and name in test]
    if not both:
        return []
    return [finding("sequence", train[both[0]].half.parent, both, n=count_of(both, "sequence"), few=first_few(both))]


# ---- the arranged dataset


def read_rows(root: Path) -> tuple[list[ManifestRow], list[Finding]]:
    """The manifest of an arranged dataset, finished or not; [] for other datasets, which need none."""
    for path in (root / PARTIAL_MANIFEST, root / MANIFEST):
        try:
            rows = read_manifest(path)
        except UserError:
            return [], [finding("manifest", path, [path])]
        if rows:
            return rows, []
    return [], []


def missing_files(root: Path, rows: Sequence[ManifestRow]) -> list[Path]:
    """What the manifest names and `root` lacks."""
    return [path for row in rows for kind in KINDS if not (path := root / row.target(kind)).exists()]


def check_manifest(
    root: Path, rows: Sequence[ManifestRow], places: Sequence[Place], missing: Sequence[Path]
) -> list[Finding]:
    """Whether the files of an arranged dataset are those of its manifest; `missing` is from `missing_files`."""
    findings = []
    words = {"n": count_of(missing, "file"), "few": few_of(missing, root)}
    if (root / PARTIAL_MANIFEST).exists():
        which = "; {n} missing: {few}".format(**words) if missing else ""
        findings.append(finding("interrupted", root, missing, which=which))
    elif missing:
        findings.append(finding("missing", root, missing, **words))
    expected = {root / row.target(kind) for row in rows for kind in KINDS}
    there = [path for place in places for kind in KINDS for path in place.images.get(kind, {}).values()]
    stray = [path for path in there if path not in expected]
    if rows and stray:
        findings.append(finding("stray", root, stray, n=count_of(stray, "image"), few=few_of(stray, root)))
    return findings


def check_origin(root_src: Path, root_dst: Path, rows: Sequence[ManifestRow], items: Sequence[Item]) -> list[Finding]:
    """Whether the manifest names the pairs of the source, all and no others, in the halves that the source has."""
    if not rows:
        return [finding("no_manifest", root_dst)]
    halves = {item.half.name for item in items}
    here = [f"{item.half.name}/{item.label}" for item in items]
    told = [f"{row.split}/{row.sequence}/{row.frame}" for row in rows if row.split in halves]
    new, gone = ([name for name in a if name not in b] for a, b in ((here, {*told}), (told, {*here})))
    parts = [f"it lacks {count_of(new, 'pair')}: {first_few(new)}"] if new else []
    parts += [f"{count_of(gone, 'pair')} only in it: {first_few(gone)}"] if gone else []
    return [finding("origin", root_dst, new + gone, source=root_src, which="; ".join(parts))] if parts else []


def check_copies(root_src: Path, root_dst: Path, rows: Sequence[ManifestRow], progress: bool = False) -> list[Finding]:
    """Whether arranged files hold the bytes of their sources. Where one of the two is missing, other checks tell."""
    couples = [(root_src / getattr(row, kind), root_dst / row.target(kind)) for row in rows for kind in KINDS]
    couples = [couple for couple in couples if all(path.is_file() for path in couple)]
    same = in_threads(lambda couple: same_bytes(*couple), couples, "file", progress)
    differ = [couple for couple, equal in zip(couples, same, strict=True) if not equal]
    if not differ:
        return []
    expected, got = (path.stat().st_size for path in differ[0])
    files = [target for _, target in differ]
    words = {"n": count_of(files, "file"), "few": few_of(files, root_dst), "got": got, "expected": expected}
    return [finding("copy", root_dst, files, source=root_src, **words)]
