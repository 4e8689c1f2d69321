"""GOPRO_Large, the dataset of the paper, as it is unpacked: {train,test}/<sequence>/{blur,blur_gamma,sharp}/*.png."""

import re
from pathlib import Path

from src.data.manifest import ManifestRow
from src.data.pairs import KINDS, SPLITS, check_partners, list_images, subfolders
from src.errors import UserError, first_few

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


def list_rows(root_src: Path, split: str) -> list[ManifestRow]:
    """All pairs of a split, numbered from 1 along (sequence, frame)."""
    found = [(sequence, *frame) for sequence in list_sequences(root_src, split) for frame in list_frames(sequence)]
    return [
        ManifestRow(split, str(i), sequence.name, name, *(p.relative_to(root_src).as_posix() for p in (blur, sharp)))
        for i, (sequence, name, blur, sharp) in enumerate(found, start=1)
    ]
