"""Lists the folders and pairs of a dataset to be verified, and decodes every file once.

The data is kept in `Place`, `Item` and `Look` for src/verify/checks.py.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from src.data.gopro import GOPRO_NAME, GOPRO_SEQUENCES, ManifestRow, find_splits, is_arranged
from src.data.images import read_rgb
from src.data.pairs import KINDS, SPLITS, list_images, subfolders
from src.errors import UserError
from src.files import same_bytes
from src.verify.findings import Finding, finding

THUMB = (16, 9)  # width, height


# ---- folders and names


@dataclass(frozen=True)
class Place:
    """A folder that holds blur and sharp: a sequence of GOPRO_Large, or one half of an arranged dataset."""

    half: Path
    """The folder train or test."""
    sequence: str
    """Name of the sequence's folder, "" for an arranged dataset."""
    images: dict[str, dict[str, Path]]
    """blur, sharp or blur_gamma -> name without suffix -> file; only for existing folders."""

    @property
    def folder(self) -> Path:
        return self.half / self.sequence

    @property
    def is_whole(self) -> bool:
        """Whether both folders, blur and sharp, exist."""
        return all(kind in self.images for kind in KINDS)


@dataclass(frozen=True)
class Item:
    """One pair of files."""

    half: Path
    """The folder train or test."""
    sequence: str
    """"" if unknown."""
    label: str
    """Name of the pair in messages: its path in `half`, without suffix and kind."""
    blur: Path
    sharp: Path
    gamma: Path | None = None
    """The file of blur_gamma, if there is one."""


def need_layout(root: Path, option: str) -> None:
    """Raise a UserError unless `root` holds train or test in the layout that `option` needs.

    --root_src is {train,test}/<sequence>/{blur,sharp}, --root_dst is {train,test}/{blur,sharp}.
    """
    splits = find_splits(root, option)
    if any(is_arranged(root, split) for split in splits):
        if option == "--root_src":
            raise UserError(f"--root_src: {root} holds blur and sharp, so it is arranged. Give it as --root_dst.")
    elif option == "--root_dst":
        if any((folder / kind).is_dir() for split in splits for folder in subfolders(root / split) for kind in KINDS):
            raise UserError(f"--root_dst: {root} holds one folder per sequence. Give it as --root_src.")


def scan(root: Path, arranged: bool) -> tuple[list[Place], list[Finding]]:
    """All places in `root`, and findings about folders that are missing or cannot be listed."""
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


def items_of(places: Sequence[Place], rows: Sequence[ManifestRow] = ()) -> list[Item]:
    """The pairs of `places`; the sequences of an arranged dataset come from `rows` of its manifest."""
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


def by_half(things: Iterable) -> Iterable[tuple[Path, list]]:
    """Groups places, items or looks by half."""
    groups = defaultdict(list)
    for thing in things:
        groups[thing.half].append(thing)
    return groups.items()


def is_gopro(items: Iterable[Item]) -> bool:
    """Whether any sequence is one of GOPRO_Large."""
    return not {item.sequence for item in items}.isdisjoint(frozenset.union(*GOPRO_SEQUENCES.values()))


# ---- pixels


@dataclass(frozen=True, eq=False)
class Look:
    """Properties of the files of one pair; `None` or empty if a file is unreadable or the sizes differ."""

    item: Item
    unreadable: tuple[tuple[Path, str], ...] = ()
    """(file, reason)"""
    copies_gamma: bool = False
    """Whether the files of blur_gamma and blur are equal."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of blur and of sharp, pixels."""
    mse: float | None = None
    """Mean squared difference of blur and sharp, levels squared."""
    thumbs: tuple[np.ndarray, ...] = field(default=(), repr=False)
    """Grey thumbnails of blur and sharp, each (9 * 16,) float32, in levels."""
    digest: bytes = b""
    """Hash of the pixels of sharp."""

    @property
    def half(self) -> Path:
        return self.item.half


def look_at(item: Item) -> Look:
    """Decode both files of a pair once, and keep what the checks need."""
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
    return Look(
        item,
        copies_gamma=copies_gamma,
        sizes=sizes,
        mse=cv2.norm(images[0], images[1], cv2.NORM_L2SQR) / images[0].size,
        thumbs=tuple(map(_thumbnail, images)),
        digest=hashlib.blake2b(images[1].data, digest_size=16, person=str(sizes[1]).encode()[:16]).digest(),
    )


def _thumbnail(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L").resize(THUMB, Image.Resampling.BOX), np.float32).ravel()
