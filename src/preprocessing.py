"""From the folders of the GoPro dataset to the paired folders that training reads.

    python src/preprocessing.py --root_src GOPRO_Large --root_dst dataset [--link]
    python src/preprocessing.py --root_src GOPRO_Large --root_dst packed --pack [--patch_size 512]
    python src/preprocessing.py --verify [--root_src GOPRO_Large] [--root_dst dataset] [--report_file REPORT.json]

GOPRO_Large/{train,test}/<sequence>/{blur,sharp}/000001.png, ... become dataset/{train,test}/{blur,sharp}/1.png, ...,
numbered along the sequences. `blur_gamma` is left out: the paper trains and is scored on `blur`. The source is only
read. A run that was interrupted goes on where it stopped, and `manifest.csv` tells where every pair came from.
`--pack` decodes the frames once, for training at speed: see src/packed_data.py. `--verify` writes nothing but the
report: src/verify_data.py looks into either folder, or both.
"""

import argparse
import csv
import errno
import functools
import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tqdm import tqdm

if not __package__:  # run as a file: Python has put src/ on its path, where the package itself cannot be found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from src.config import ArgumentParser
from src.errors import UserError, first_few, need_writable_folder, run_main
from src.picture_files import (
    KINDS,
    MANIFEST,
    PARTIAL_MANIFEST,
    check_partners,
    list_images,
    subfolders,
)

SPLITS = ("train", "test")
MIN_PATCH = 16  # pixels, the smallest crop that training takes


@dataclass(frozen=True)
class Row:
    """One pair, one line of the manifest. All texts, so that a manifest read back compares equal."""

    split: str
    new_name: str
    """Number in the new folders, the name of the pair in `picture_files.find_pairs`; the files keep their suffixes."""
    sequence: str
    frame: str
    """Name in the sequence's folders, without suffix."""
    blur: str
    """Path relative to root_src, with forward slashes."""
    sharp: str

    def target(self, kind: str) -> str:
        """Path of the new file relative to root_dst; `kind` is blur or sharp."""
        return f"{self.split}/{kind}/{self.new_name}{Path(getattr(self, kind)).suffix}"


HEADER = [f.name for f in fields(Row)]


# ---- what there is


def list_sequences(root_src: Path, split: str) -> list[Path]:
    """Folders of `root_src`/`split` that hold blur, sharp or blur_gamma, in natural order; other folders do not count.

    Raises:
        UserError: there is none, or one lacks blur or sharp.
    """
    folder = root_src / split
    sequences = [s for s in subfolders(folder) if any((s / kind).is_dir() for kind in (*KINDS, "blur_gamma"))]
    if not sequences:
        hint = " It looks arranged already." if all((folder / kind).is_dir() for kind in KINDS) else ""
        raise UserError(f"{folder}: no sequence in it, expected folders <sequence>/{{blur,sharp}}.{hint}")
    lacking = [f"{s.name} lacks {kind}" for s in sequences for kind in KINDS if not (s / kind).is_dir()]
    if lacking:
        raise UserError(f"{folder}: {first_few(lacking)}. Expected both in each sequence; unpack the dataset again.")
    return sequences


def list_frames(sequence: Path) -> list[tuple[str, Path, Path]]:
    """(name, blur, sharp) of one sequence, paired by name and in natural order.

    Raises:
        UserError: no frames, or frames without a partner.
    """
    blur, sharp = (list_images(sequence / kind) for kind in KINDS)
    check_partners(blur, sharp, sequence)
    if not blur:
        raise UserError(f"{sequence}: blur and sharp hold no image. Unpack the dataset again.")
    return [(name, path, sharp[name]) for name, path in blur.items()]


def list_rows(root_src: Path, split: str) -> list[Row]:
    """All pairs of a split, numbered from 1 along (sequence, frame)."""
    found = [(sequence, *frame) for sequence in list_sequences(root_src, split) for frame in list_frames(sequence)]
    return [
        Row(split, str(i), sequence.name, name, *(p.relative_to(root_src).as_posix() for p in (blur, sharp)))
        for i, (sequence, name, blur, sharp) in enumerate(found, start=1)
    ]


def find_splits(root_src: Path) -> list[str]:
    """Which of train and test are folders of `root_src`.

    Raises:
        UserError: no such folder, or neither is in it.
    """
    if not root_src.is_dir():
        raise UserError(f"--root_src: no folder {root_src}. Give the folder that holds train and test of GOPRO_Large.")
    splits = [split for split in SPLITS if (root_src / split).is_dir()]
    if not splits:
        deeper = [f for f in subfolders(root_src) if any((f / split).is_dir() for split in SPLITS)]
        hint = f" Perhaps {deeper[0]}?" if deeper else ""
        raise UserError(f"--root_src: neither train nor test in {root_src}. Give the folder that holds them.{hint}")
    return splits


def is_arranged(root: Path, split: str) -> bool:
    """Whether `root`/`split` holds the folders that `arrange` makes, not one folder for each sequence."""
    return any((root / split / kind).is_dir() for kind in KINDS)


def need_outside(root_src: Path, root_dst: Path) -> None:
    """Raise a UserError if `root_dst` is `root_src` or lies in it."""
    if root_dst.resolve().is_relative_to(root_src.resolve()):
        raise UserError(
            f"--root_dst: {root_dst} lies in --root_src {root_src}, which is only read. Choose a folder outside it."
        )


# ---- the manifest


def read_manifest(path: Path) -> list[Row]:
    """Rows of a manifest, [] when there is no such file.

    Raises:
        UserError: it is not one of ours.
    """
    try:
        header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        if header != HEADER:
            raise ValueError(header)
        return [Row(*line) for line in lines]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError, csv.Error) as e:  # of a header or a line with other columns, too
        raise UserError(f"{path}: not a manifest of this script. Choose another --root_dst.") from e


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """CSV with a header; appears whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(astuple(row) for row in rows)
    appear(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8", newline=""))


def merge_rows(old: Sequence[Row], new: Sequence[Row], root_dst: Path) -> list[Row]:
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


# ---- the files


def appear(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a hidden file beside `path`, then give it that name: nobody ever sees half a file."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a run that was killed
        make(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def place(source: Path, target: Path, link: bool) -> str:
    """Copy or link one file, and say how: 'copied', 'hard-linked' or 'symlinked'.

    A hard link stays good when the source is moved or removed, but needs the same disk; else a symbolic link is tried,
    else the file is copied (some file systems know neither).
    """
    source = source.resolve()  # a link to a link would break with the first
    for how, way in (("hard-linked", os.link), ("symlinked", os.symlink)) if link else ():
        try:
            appear(target, functools.partial(way, source))
            return how
        except FileNotFoundError:  # a symbolic link to nothing would hide it
            raise
        except OSError:
            continue
    appear(target, functools.partial(shutil.copyfile, source))
    return "copied"


def is_there(source: Path, target: Path) -> bool:
    """A file of the same size: an interrupted run leaves whole files only, but a power cut may not."""
    try:
        return target.stat().st_size == source.stat().st_size
    except FileNotFoundError:
        return False


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
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"cannot put {source} at {target} ({e.strerror})") from e
                missing = sum(s.stat().st_size for s, _ in todo[i:])
                raise UserError(
                    f"--root_dst: disk full after {i} of {len(todo)} files, {missing / 1e9:.2f} GB are still needed. "
                    "Make room and run the same command again, it goes on from here; --link needs next to no room."
                ) from e
    return how


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
    need_outside(root_src, root_dst)
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; `argv` without the program's name, None reads the process's own."""
    parser = ArgumentParser(
        "Arrange GOPRO_Large as {train,test}/{blur,sharp}/1.png, ... Interrupted runs can be repeated. "
        "Or --verify a dataset: exit status 1 if something is wrong with it, 0 if nothing is, warnings aside."
    )
    parser.add_argument("--root_src", metavar="FOLDER", help="GOPRO_Large; it is only read")
    parser.add_argument("--root_dst", metavar="FOLDER", help="the arranged dataset, made if missing [dataset]")
    link_help = "hard links instead of copies; across disks symbolic links, which need the source to stay where it is"
    parser.add_argument("--link", action="store_true", help=link_help)
    pack_help = (
        "decode the frames of --root_src, arranged or not, into the folder --root_dst [packed], for train.py and "
    )
    parser.add_argument("--pack", action="store_true", help=f"{pack_help}eval.py; again to bring it up to date")
    patch_help = "with --pack: cut training pairs into overlapping patches of this side, pixels, 0 = whole frames [0]"
    parser.add_argument("--patch_size", type=int, default=0, metavar="INT", help=patch_help)
    verify_help = "arrange nothing, check the folders that are given: counts, pairs, sizes, every file's content"
    parser.add_argument("--verify", action="store_true", help=verify_help)
    parser.add_argument("--report_file", metavar="FILE", help="with --verify: the findings as JSON")
    args = parser.parse_args(argv)
    _check_combination(args)
    if args.verify:
        return _verify(args.root_src, args.root_dst, args.report_file)
    if not args.root_src:
        raise UserError("--root_src: expected the folder of GOPRO_Large (--help lists the options)")
    if args.pack:
        from src.packed_data import pack  # it imports this module

        root_dst = args.root_dst or "packed"
        sizes = pack(args.root_src, root_dst, args.patch_size)
        print(f"{root_dst}: " + ", ".join(f"{split} {size / 1e9:.2f} GB" for split, size in sizes.items()))
        print(f"next: python train.py --dataset_root {root_dst}")
        return 0
    root_dst = args.root_dst or "dataset"
    pairs = arrange(args.root_src, root_dst, args.link)
    print(f"{root_dst}: " + ", ".join(f"{count} {split} pairs" for split, count in pairs.items()))
    return 0


def _check_combination(args: argparse.Namespace) -> None:
    if args.verify and (args.link or args.pack):
        raise UserError(f"--{'link' if args.link else 'pack'}: means nothing with --verify, which writes no images")
    if args.link and args.pack:
        raise UserError("--link and --pack: give one of them; packed frames are decoded, not linked")
    if args.report_file and not args.verify:
        raise UserError("--report_file: needs --verify")
    if args.patch_size and not args.pack:
        raise UserError("--patch_size: needs --pack")
    if args.patch_size and args.patch_size < MIN_PATCH:
        raise UserError(f"--patch_size: got {args.patch_size}, expected 0 or {MIN_PATCH} or more")


def _verify(root_src: str | None, root_dst: str | None, report_file: str | None) -> int:
    from src import packed_data  # they import this module
    from src.verify_data import run

    if not root_src and not root_dst:
        root_dst = "dataset"
    if root_dst and packed_data.is_packed(root_dst):
        if root_src or report_file:
            raise UserError(f"--verify: {root_dst} is packed; give it alone, its checksums tell whether it is whole")
        damaged = packed_data.damaged_entries(root_dst)
        print(f"{root_dst}: damaged: {first_few(damaged)}" if damaged else f"{root_dst}: nothing wrong was found")
        return 1 if damaged else 0
    source, arranged, report = (Path(path) if path else None for path in (root_src, root_dst, report_file))
    return run(source, arranged, report)


if __name__ == "__main__":
    run_main(main)
