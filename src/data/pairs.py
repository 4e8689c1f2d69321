"""Pairs of blurred and sharp images: the folders {train,test}/{blur,sharp}, paired by name, and checks of their files.

A pair is turned upright only if both images carry the same EXIF orientation: they must stay aligned pixel by pixel
when only one of them still has the tag.
"""

import functools
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.data.image_files import ImageInfo, upright
from src.data.images import IMAGE_SUFFIXES, NO_FILE, decode, is_special, probe
from src.errors import UserError, first_few

SPLITS = ("train", "test")
KINDS = ("blur", "sharp")
# src/preprocessing.py writes the first while it works and renames it to the second when every file is in place.
PARTIAL_MANIFEST = "manifest.csv.partial"
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Pair:
    """One blurred image and its sharp partner."""

    name: str
    """Unique in its set: the common file name without suffix, or as in `src.data.sources`. May contain slashes."""
    blur: Path
    sharp: Path

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of blur and sharp, (H, W, 3) uint8 RGB, possibly read-only."""
        blur, sharp = probe(self.blur), probe(self.sharp)
        turn = blur.orientation if blur.orientation == sharp.orientation else 1
        return upright(decode(self.blur, blur), turn), upright(decode(self.sharp, sharp), turn)

    def probe(self) -> list[ImageInfo | UserError]:
        """Headers of blur and sharp, with the sizes that `read` returns, or the error of an unreadable file."""
        infos: list[ImageInfo | UserError] = []
        for path in (self.blur, self.sharp):
            try:
                infos.append(probe(path))
            except UserError as e:
                infos.append(e)
        turns = {info.orientation if isinstance(info, ImageInfo) else 1 for info in infos}
        if len(turns) == 1 and turns.pop() >= 5:
            return [replace(info, width=info.height, height=info.width) for info in infos]  # type: ignore
        return infos


class SharpPhoto(Pair):
    """A sharp photograph, which training blurs; both files are the photograph."""


def natural_key(name: str) -> tuple:
    """Sort key that orders digits as numbers: 1, 2, 10. The name itself comes last and orders 01 and 1."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name


# ---- folders


def _entries(folder: Path, folders: bool) -> list[Path]:
    """Folders, or everything else, directly in `folder`, in natural order.

    Hidden entries are skipped: copying from a Mac leaves `._1.png` beside `1.png`. Broken and circular links count as
    files, so that reading them fails with their name.
    """
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as e:
        raise UserError(f"{folder}: cannot be listed ({e.strerror})") from e
    return [folder / name for name in sorted(names, key=natural_key) if os.path.isdir(folder / name) is folders]


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder` except hidden ones, in natural order."""
    return _entries(folder, folders=True)


def list_images(folder: Path) -> dict[str, Path]:
    """Image files directly in `folder` except hidden ones, by name without suffix, in natural order.

    Pipes, sockets and devices with the name of an image are skipped with one notice each.

    Raises:
        UserError: the folder cannot be read, or two files differ only in their suffix.
    """
    images: dict[str, Path] = {}
    for path in _entries(folder, folders=False):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if is_special(path):
            _skip(path)
            continue
        if path.stem in images:
            raise UserError(
                f"{folder}: two images of one name, {images[path.stem].name} and {path.name}. Keep one of them."
            )
        images[path.stem] = path
    # The suffix must not affect the order, which is the same for blur and sharp.
    return dict(sorted(images.items(), key=lambda item: natural_key(item[0])))


@functools.cache  # a run lists the same folder several times
def _skip(path: Path) -> None:
    print(f"{path}: skipped, {NO_FILE}")


def list_image_tree(folder: Path, option: str) -> dict[str, Path]:
    """Images in a folder and its sub-folders, by path without suffix, with forward slashes, in natural order.

    Raises:
        UserError: as `list_images`, or `folder`, which `option` named, is missing or has no image.
    """
    if not folder.is_dir():
        raise UserError(f"{option}: no folder {folder}, expected one with images")
    images: dict[str, Path] = {}
    todo, seen = [(folder, "")], set()
    while todo:
        here, prefix = todo.pop(0)
        if (real := here.resolve()) in seen:  # a symbolic link to a folder above would never end
            continue
        seen.add(real)
        images |= {f"{prefix}{name}": path for name, path in list_images(here).items()}
        todo += [(sub, f"{prefix}{sub.name}/") for sub in subfolders(here)]
    if not images:
        raise UserError(f"{option} {folder}: no image in it, expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    return dict(sorted(images.items(), key=lambda item: natural_key(item[0])))


def check_partners(blur: Iterable[str], sharp: Iterable[str], folder: Path, list_option: str = "") -> None:
    """Raise a UserError unless `folder`/blur and `folder`/sharp hold the same names.

    Args:
        list_option: the option for a list of pairs with other names, if there is one.
    """
    blur, sharp = set(blur), set(sharp)
    problems = [
        f"{len(lonely)} in {kind} without a partner in {other}: {first_few(sorted(lonely, key=natural_key))}"
        for lonely, kind, other in ((blur - sharp, "blur", "sharp"), (sharp - blur, "sharp", "blur"))
        if lonely
    ]
    if problems:
        way_out = "add the missing images or remove these"
        if list_option:
            way_out += (
                f", or pair files of other names (1_blur.png, 1_sharp.png) with {list_option} FILE, one line "
                "`sharp-path blurred-path` for each pair"
            )
        raise UserError(f"{folder}: {'; '.join(problems)}. Expected the same names in both; {way_out}.")


def find_pairs(root: Path | str, split: str) -> list[Pair]:
    """Pairs of `root`/`split`/{blur,sharp}, by name without suffix (a.jpg belongs to a.png), in natural order 1, 2, 10.

    Only names are checked; `check_pairs` opens the files.

    Raises:
        UserError: a folder is missing or empty, an image has no partner, a name occurs twice, or
            `src/preprocessing.py` was interrupted there.
    """
    root = Path(root)
    folder = root / split
    _check_layout(root, split)
    if (root / PARTIAL_MANIFEST).exists():
        raise UserError(f"{root}: src/preprocessing.py was interrupted here. Rerun the same command to resume.")
    images = {kind: list_images(folder / kind) for kind in KINDS}
    for kind in KINDS:
        if not images[kind]:
            deeper = first_few(f.name for f in subfolders(folder / kind))
            hint = f" Sub-folders are not searched: {deeper}." if deeper else ""
            hint += f" {_without_sharp(folder / 'blur')}" if kind == "sharp" else ""
            raise UserError(f"{folder / kind}: no image, expected files ending in {' '.join(IMAGE_SUFFIXES)}.{hint}")
    check_partners(images["blur"], images["sharp"], folder, _list_option(split))
    return [Pair(name, path, images["sharp"][name]) for name, path in images["blur"].items()]


def _check_layout(root: Path, split: str) -> None:
    """Raise a UserError with a hint for the usual mistakes unless `root`/`split`/{blur,sharp} are folders."""
    folder = root / split
    expected = f"expected {folder}/{{blur,sharp}}"
    missing = [kind for kind in KINDS if not (folder / kind).is_dir()]
    if not missing:
        return
    if not root.is_dir():
        raise UserError(f"{root}: no such folder, {expected}. src/preprocessing.py creates it from GOPRO_Large.")
    if not folder.is_dir():
        if any((root / kind).is_dir() for kind in KINDS):
            raise UserError(f"{root}: holds blur or sharp itself, {expected}. Give the folder above it.")
        inside = first_few(f.name for f in subfolders(root)) or "no folder"
        if images := list_images(root):
            inside += f" but {len(images)} images"
        raise UserError(
            f"{root}: no folder {split} in it, got {inside}; {expected}. Sharp photographs alone can be trained on "
            f"with --blur synthetic. {_without_sharp(root)}"
        )
    if any((sequence / kind).is_dir() for sequence in subfolders(folder) for kind in KINDS):
        raise UserError(
            f"{root}: holds one folder per sequence, like GOPRO_Large itself; {expected}. Run "
            f"`python src/preprocessing.py --root_src {root} --root_dst dataset` and give that folder."
        )
    inside = first_few(f.name for f in subfolders(folder)) or "none"
    alone = folder / "blur" if missing == ["sharp"] else folder
    raise UserError(
        f"{folder}: no folder {' and no folder '.join(missing)} in it, got {inside}; {expected}. For folders of other "
        "names give --blur_directory and --sharp_directory, for pairs in one folder a list with "
        f"{_list_option(split)}. {_without_sharp(alone)}"
    )


def _list_option(split: str) -> str:
    return "--train_list" if split == "train" else "--test_list"


def _without_sharp(folder: Path) -> str:
    return f"`python deblur.py {shlex.quote(str(folder))}` restores images without sharp ones."


def check_pairs(
    pairs: Sequence[Pair],
    min_side: int = 0,
    remedy: Callable[[int], str] = lambda side: f"--crop_size {side // 4 * 4} or less",
) -> str:
    """Check every file's header and end, and the sizes of each pair.

    Args:
        min_side: smallest width and height allowed, pixels, e.g. the side of the crops.
        remedy: smallest side found -> the option that allows it.

    Returns:
        `changes_by_reading`.

    Raises:
        UserError: as `probe_pairs`; or images are smaller than `min_side`.
    """
    infos = probe_pairs(pairs)
    small = [
        (min(info.width, info.height), f"{pair.name} ({info.width}x{info.height})")
        for pair, (info, _) in zip(pairs, infos, strict=True)
        if min(info.width, info.height) < min_side
    ]
    if small:
        raise UserError(
            f"{_common_folder(pairs)}: expected images of {min_side}x{min_side} or more, "
            f"but got {first_few(text for _, text in small)}. Remove them or give {remedy(min(small)[0])}."
        )
    return changes_by_reading(infos)


def changes_by_reading(infos: Sequence[tuple[ImageInfo, ImageInfo]]) -> str:
    """A note for the summary line: ' (converted to 8-bit RGB: 3 L, 1 RGBA)'; '' if all files are upright 8-bit RGB."""
    kinds = Counter(info.kind for both in infos for info in both if info.kind != "RGB").most_common()
    turned = sum(blur.orientation == sharp.orientation > 1 for blur, sharp in infos)
    unlike = sum(blur.orientation != sharp.orientation for blur, sharp in infos)
    notes = [f"converted to 8-bit RGB: {', '.join(f'{count} {kind}' for kind, count in kinds)}"] if kinds else []
    notes += [f"{turned} turned upright by their EXIF orientation"] if turned else []
    notes += [f"{unlike} with different EXIF orientations in blur and sharp, read as stored"] if unlike else []
    return f" ({'; '.join(notes)})" if notes else ""


def probe_pairs(pairs: Sequence[Pair]) -> list[tuple[ImageInfo, ImageInfo]]:
    """Headers of blur and sharp of each pair.

    Raises:
        UserError: the first five unreadable files, or the first five pairs of different sizes.
    """
    with ThreadPoolExecutor(max_workers=8) as pool:  # network disks answer slowly: ask for several files at once
        infos = [tuple(both) for both in pool.map(lambda pair: pair.probe(), pairs)]
    unreadable = [str(info) for both in infos for info in both if isinstance(info, UserError)]
    if unreadable:
        raise UserError(
            unreadable[0] if len(unreadable) == 1 else f"{len(unreadable)} bad files: {first_few(unreadable)}"
        )
    differ = [
        f"{pair.name} (blur {_size(blur, sharp)}, sharp {_size(sharp, blur)})"
        for pair, (blur, sharp) in zip(pairs, infos, strict=True)
        if (blur.width, blur.height) != (sharp.width, sharp.height)
    ]
    if differ:
        hint = ". Turn the pixels of both the same way" if any("EXIF" in text for text in differ) else ""
        raise UserError(
            f"{_common_folder(pairs)}: blur and sharp must be of one size, but are not in {first_few(differ)}{hint}"
        )
    return infos


def _common_folder(pairs: Sequence[Pair]) -> str:
    """The folder that holds all files, {root}/{split} in the standard layout; files of a list may share none."""
    paths = [path for pair in pairs for path in (pair.blur, pair.sharp)]
    if len({path.is_absolute() for path in paths}) == 2:  # a list file may mix both
        paths = [path.absolute() for path in paths]
    folder = os.path.commonpath(paths)
    return "the pairs" if folder == os.path.dirname(folder) else folder


def _size(info: ImageInfo, partner: ImageInfo) -> str:
    tag = f" with EXIF orientation {info.orientation}" if info.orientation != partner.orientation else ""
    return f"{info.width}x{info.height}{tag}"
