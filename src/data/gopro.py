"""GOPRO_Large, the dataset of the paper, and arranging it into the paired folders that training reads.

    GOPRO_Large/{train,test}/<sequence>/{blur,blur_gamma,sharp}/000001.png, ...   as unpacked
    dataset/{train,test}/{blur,sharp}/1.png, ...                                  arranged
    dataset/manifest.csv                                                          the origin of every arranged pair

Arranging copies or links files and never decodes them. The next run resumes an interrupted one.
"""

import csv
import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from src.data.pairs import KINDS, MANIFEST, PARTIAL_MANIFEST, SPLITS, check_partners, list_images, subfolders
from src.errors import UserError, first_few, need_writable_folder
from src.files import NoRoom, need_apart, unescaped, whole_file, write_whole

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
GOPRO_NAME = re.compile(r"GOPR\d{4}_\d{2}_\d{2}(?=\D|$)")  # some arrangements start file names with the sequence


# ---- the manifest


class ManifestRow(NamedTuple):
    """One pair of an arranged dataset. All fields are text, so that rows read from a file equal those written."""

    split: str
    new_name: str
    """Number in the new folders and the name of the pair in `pairs.find_pairs`; the files keep their suffixes."""
    sequence: str
    frame: str
    """Name in the sequence's folders, without suffix."""
    blur: str
    """Path relative to root_src, with forward slashes."""
    sharp: str

    def target(self, kind: str) -> str:
        """Path of the new file relative to root_dst; `kind` is blur or sharp."""
        return f"{self.split}/{kind}/{self.new_name}{Path(getattr(self, kind)).suffix}"


def read_manifest(path: Path) -> list[ManifestRow]:
    """Rows of a manifest, [] if the file does not exist.

    Raises:
        UserError: the file is not a manifest.
    """
    try:
        header, *lines = csv.reader(io.StringIO(unescaped(path.read_text(encoding="utf-8")), newline=""))
        if tuple(header) != ManifestRow._fields:
            raise ValueError(header)
        return [ManifestRow(*line) for line in lines]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError, csv.Error) as e:  # TypeError: a line with too few or too many fields
        raise UserError(f"{path}: not a manifest of this script. Choose another --root_dst.") from e


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([ManifestRow._fields, *rows])
    write_whole(path, text.getvalue())


# ---- the dataset as unpacked


def find_splits(root: Path, option: str = "--root_src") -> list[str]:
    """Which of train and test are folders of `root`.

    Args:
        option: the option that named `root`, for messages.

    Raises:
        UserError: `root` is not a folder, or contains neither.
    """
    if not root.is_dir():
        raise UserError(f"{option}: no folder {root}. Give the folder that holds train and test.")
    splits = [split for split in SPLITS if (root / split).is_dir()]
    if not splits:
        folders = subfolders(root)
        deeper = next((f" Perhaps {f}?" for f in folders if any((f / split).is_dir() for split in SPLITS)), "")
        inside = first_few(f.name for f in folders) or "no folder"
        raise UserError(
            f"{option}: neither train nor test in {root}, got {inside}. Give the folder that holds them.{deeper}"
        )
    return splits


def is_arranged(root: Path, split: str) -> bool:
    """Whether `root`/`split` holds blur or sharp itself, instead of one folder per sequence."""
    return any((root / split / kind).is_dir() for kind in KINDS)


def list_rows(root_src: Path, split: str) -> list[ManifestRow]:
    """All pairs of a split, paired by name and numbered from 1 along (sequence, frame) in natural order.

    Sequences are the folders that hold blur, sharp or blur_gamma; other folders are ignored.

    Raises:
        UserError: there is no sequence, or one lacks a folder, frames or partners.
    """
    folder = root_src / split
    sequences = [s for s in subfolders(folder) if any((s / kind).is_dir() for kind in (*KINDS, "blur_gamma"))]
    if not sequences:
        hint = " It looks arranged already." if is_arranged(root_src, split) else ""
        raise UserError(f"{folder}: no sequence in it, expected folders <sequence>/{{blur,sharp}}.{hint}")
    lacking = [f"{s.name} lacks {kind}" for s in sequences for kind in KINDS if not (s / kind).is_dir()]
    if lacking:
        raise UserError(f"{folder}: {first_few(lacking)}. Expected both in each sequence; unpack the dataset again.")
    rows: list[ManifestRow] = []
    for sequence in sequences:
        blur, sharp = (list_images(sequence / kind) for kind in KINDS)
        check_partners(blur, sharp, sequence)
        if not blur:
            raise UserError(f"{sequence}: blur and sharp hold no image. Unpack the dataset again.")
        for name in blur:
            files = (path.relative_to(root_src).as_posix() for path in (blur[name], sharp[name]))
            rows.append(ManifestRow(split, str(len(rows) + 1), sequence.name, name, *files))
    return rows


# ---- arranging


def arrange(root_src: Path | str, root_dst: Path | str, link: bool = False, progress: bool = True) -> dict[str, int]:
    """Make `root_dst`/{train,test}/{blur,sharp} and its manifest from a folder in the layout of GOPRO_Large.

    Args:
        root_src: holds train, test or both; it is only read.
        root_dst: created if missing. Files that an earlier run finished stay unchanged.
        link: link instead of copying, see `place`.
        progress: show a progress bar and print a summary.

    Returns:
        Number of pairs per split of `root_src`.

    Raises:
        UserError: the source is incomplete, or the destination has other contents, cannot be written or is full.
    """
    root_src, root_dst = Path(root_src), Path(root_dst)
    splits = find_splits(root_src)
    need_apart([root_src], folders=[("--root_dst", root_dst / split) for split in splits])
    rows = [row for split in splits for row in list_rows(root_src, split)]
    manifest, partial = root_dst / MANIFEST, root_dst / PARTIAL_MANIFEST
    old = read_manifest(partial) or read_manifest(manifest)
    merged = merge_rows(old, rows, root_dst)
    need_writable_folder(root_dst, "--root_dst")

    files = [(root_src / getattr(row, kind), root_dst / row.target(kind)) for row in rows for kind in KINDS]
    # Interrupted runs leave whole files only, but a power cut may not: compare sizes, too.
    todo = [(source, dst) for source, dst in files if not dst.exists() or dst.stat().st_size != source.stat().st_size]
    how: Counter[str] = Counter()
    if todo or old != merged or not manifest.exists():
        write_manifest(partial, merged)  # first, so that the next run recognises the files of an interrupted one
        how = place_all(todo, link, progress)
    if partial.exists():
        os.replace(partial, manifest)
    if progress:
        kept = [f"{len(files) - len(todo)} files were there already"] if len(files) > len(todo) else []
        print(", ".join([f"{count} files {way}" for way, count in how.items()] + kept))
        for split in set(SPLITS) - set(splits):
            print(f"{root_src} has no {split}: only {splits[0]} was arranged")
    return dict(Counter(row.split for row in rows))


def merge_rows(old: Sequence[ManifestRow], new: Sequence[ManifestRow], root_dst: Path) -> list[ManifestRow]:
    """`new` and the splits that only `old` has: train and test may be arranged one after the other into one folder.

    Raises:
        UserError: `old` and `new` differ within a split, or `root_dst` has images that `old` does not list.
    """
    merged = []
    for split in SPLITS:
        old_split, new_split = ([row for row in rows if row.split == split] for rows in (old, new))
        if old_split and new_split and old_split != new_split:
            raise UserError(
                f"--root_dst: {root_dst} was made from another source: {len(old_split)} {split} pairs by its manifest, "
                f"{len(new_split)} in --root_src, and not the same ones. Choose another folder."
            )
        if new_split and not old_split:
            for folder in (root_dst / split / kind for kind in KINDS):
                if folder.is_dir() and list_images(folder):
                    raise UserError(f"--root_dst: {folder} holds images of another origin. Choose another folder.")
        merged += new_split or old_split
    return merged


def place(source: Path, target: Path, link: bool) -> str:
    """Copy or link one file and return the method: 'copied', 'hard-linked' or 'symlinked'.

    A hard link survives when the source is moved or removed, but needs the same disk. Where it fails, a symbolic link
    is tried, then a copy: some file systems support neither.
    """
    source = source.resolve()  # a link to a link would break with the first
    with whole_file(target) as part:
        for how, way in (("hard-linked", os.link), ("symlinked", os.symlink)) if link else ():
            try:
                way(source, part)
                return how
            except FileNotFoundError:  # a symbolic link would hide that the source is missing
                raise
            except OSError:
                continue
        shutil.copyfile(source, part)
    return "copied"


def place_all(todo: Sequence[tuple[Path, Path]], link: bool, progress: bool) -> Counter[str]:
    """Copy or link (source, target) pairs of files; returns the number of files per method.

    Raises:
        UserError: the disk is full, or a file cannot be read or written. Finished files stay.
    """
    how: Counter[str] = Counter()
    with tqdm(todo, unit="file", disable=not progress) as bar:
        for i, (source, target) in enumerate(bar):
            try:
                how[place(source, target, link)] += 1
            except NoRoom as e:
                missing = sum(s.stat().st_size for s, _ in todo[i:])
                raise UserError(
                    f"--root_dst: disk full after {i} of {len(todo)} files, {missing / 1e9:.2f} GB are still needed. "
                    "Make room and rerun the command to resume; --link needs almost no room."
                ) from e
    return how
