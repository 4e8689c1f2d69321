"""From the folders of GOPRO_Large to paired folders, {train,test}/{blur,sharp}/1.png, ..., that training reads.

Files are copied or linked, never decoded. A run that was interrupted goes on where it stopped.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from src.data.gopro_large import find_splits, list_rows
from src.data.manifest import ManifestRow, read_manifest, write_manifest
from src.data.pairs import KINDS, MANIFEST, PARTIAL_MANIFEST, SPLITS, list_images
from src.errors import UserError, need_writable_folder
from src.files import NoRoom, need_apart, whole_file


def arrange(root_src: Path | str, root_dst: Path | str, link: bool = False, progress: bool = True) -> dict[str, int]:
    """Make `root_dst`/{train,test}/{blur,sharp} and its manifest from a folder in the layout of GOPRO_Large.

    Args:
        root_src: holds train, test or both; it is only read.
        root_dst: made if missing. What a run before has finished stays as it is.
        link: link instead of copying, see `place`.
        progress: show a bar and say what was done.

    Returns:
        Pairs per split, of the splits that `root_src` has.

    Raises:
        UserError: the source is incomplete, the destination belongs to something else, cannot be written or is full.
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
    how: Counter = Counter()
    try:
        todo = [(source, target) for source, target in files if not is_there(source, target)]
        if todo or old != merged or not manifest.exists():
            write_manifest(partial, merged)  # first, so that an interrupted run knows its own work
            for folder in {target.parent for _, target in files}:
                folder.mkdir(parents=True, exist_ok=True)
            how = place_all(todo, link, progress)
        if partial.exists():
            os.replace(partial, manifest)
    except OSError as e:
        raise UserError(f"--root_dst: cannot write into {root_dst} ({e.strerror})") from e
    if progress:
        _tell(how, len(files) - len(todo), root_src, splits)
    return {split: sum(row.split == split for row in rows) for split in splits}


def _tell(how: Counter, kept: int, root_src: Path, splits: Sequence[str]) -> None:
    done = [f"{count} files {way}" for way, count in how.items()] + (
        [f"{kept} files were there already"] if kept else []
    )
    print(", ".join(done))
    for split in SPLITS:
        if split not in splits:
            print(f"{root_src} has no {split}: only {splits[0]} was arranged")


# ---- what was there before


def merge_rows(old: Sequence[ManifestRow], new: Sequence[ManifestRow], root_dst: Path) -> list[ManifestRow]:
    """`new` and the splits that only `old` has: train and test may be arranged one after the other into one folder.

    Raises:
        UserError: a split of `old` differs from the same one of `new`, or there are images that `old` does not know of.
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


def is_there(source: Path, target: Path) -> bool:
    """A file of the same size: an interrupted run leaves whole files only, but a power cut may not."""
    try:
        return target.stat().st_size == source.stat().st_size
    except FileNotFoundError:
        return False


# ---- the files


def place(source: Path, target: Path, link: bool) -> str:
    """Copy or link one file, and say how: 'copied', 'hard-linked' or 'symlinked'.

    A hard link stays good when the source is moved or removed, but needs the same disk; else a symbolic link is tried,
    else the file is copied (some file systems know neither).
    """
    source = source.resolve()  # a link to a link would break with the first
    with whole_file(target) as part:
        for how, way in (("hard-linked", os.link), ("symlinked", os.symlink)) if link else ():
            try:
                way(source, part)
                return how
            except FileNotFoundError:  # a symbolic link to nothing would hide it
                raise
            except OSError:
                continue
        shutil.copyfile(source, part)
    return "copied"


def place_all(todo: Sequence[tuple[Path, Path]], link: bool, progress: bool) -> Counter:
    """Copy or link (source, target) pairs of files; returns how often each way was taken.

    Raises:
        UserError: the disk is full or a file cannot be read or written. What is done stays.
    """
    how: Counter = Counter()
    with tqdm(todo, unit="file", disable=not progress) as bar:
        for i, (source, target) in enumerate(bar):
            try:
                how[place(source, target, link)] += 1
            except NoRoom as e:
                missing = sum(s.stat().st_size for s, _ in todo[i:])
                raise UserError(
                    f"--root_dst: disk full after {i} of {len(todo)} files, {missing / 1e9:.2f} GB are still needed. "
                    "Make room and run the same command again, it goes on from here; --link needs next to no room."
                ) from e
    return how
