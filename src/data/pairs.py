"""Image files on disk: reading any of them as RGB, and pairing the folders {train,test}/{blur,sharp} by name.

Everything here speaks of 8-bit RGB, (H, W, 3). A pair is turned upright only if both images carry the same EXIF
orientation: they must stay aligned pixel by pixel when only one of them still has the tag.
"""

import functools
import os
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from src.data.tiff_kind import refuse_unknown_tiff
from src.errors import UserError, first_few

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
NO_FILE = "a pipe, socket or device; expected a file"
SPLITS = ("train", "test")
KINDS = ("blur", "sharp")
# Written by src/preprocessing.py: the first while it works, the second when every file is in its place.
PARTIAL_MANIFEST = "manifest.csv.partial"
MANIFEST = "manifest.csv"

READABLE_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
# The bytes a whole file ends with, and how far from the end they may lie: some cameras append notes.
END_MARKS = {
    "PNG": (b"\0\0\0\0IEND\xaeB`\x82", 4096, "its last chunk, IEND,"),
    "JPEG": (b"\xff\xd9", 65536, "its end marker"),
}

ORIENTATION = 0x0112  # the EXIF tag
TIFF_SIZE_TAGS = (256, 257)  # ImageWidth, ImageLength
# What takes back the turn or flip that Pillow's TIFF reader, alone among its readers, makes by itself.
UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says: size in pixels as stored (before any EXIF orientation), Pillow's name of its mode."""

    width: int
    height: int
    mode: str
    orientation: int = 1
    """The EXIF tag, 1 to 8; 1 is upright."""
    sixteen_bit_colour: bool = False
    """Cut to 8 bits by Pillow, which calls the mode RGB all the same."""

    @property
    def kind(self) -> str:
        return f"16-bit {self.mode}" if self.sixteen_bit_colour else self.mode


@dataclass(frozen=True)
class Pair:
    """One blurred image and its sharp partner."""

    name: str
    """Unique in its set: the common file name without suffix, or as `src.data.sources` makes it. May hold slashes."""
    blur: Path
    sharp: Path

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of blur and sharp, (H, W, 3) uint8 RGB. They may be read-only."""
        blur, sharp = probe(self.blur), probe(self.sharp)
        turn = blur.orientation if blur.orientation == sharp.orientation else 1
        return upright(_read(self.blur, blur), turn), upright(_read(self.sharp, sharp), turn)

    def probe(self) -> "list[ImageInfo | UserError]":
        """What the headers of blur and sharp say, with the sizes that `read` gives, or what is wrong with the files."""
        infos = [_probe_or_error(self.blur), _probe_or_error(self.sharp)]
        turns = {info.orientation if isinstance(info, ImageInfo) else 1 for info in infos}
        if len(turns) == 1 and turns.pop() >= 5:
            return [replace(info, width=info.height, height=info.width) for info in infos]  # type: ignore
        return infos


@dataclass(frozen=True)
class SharpPhoto(Pair):
    """A photograph without a blurred partner, `SharpPhoto(name, file)`: training blurs it. Both files are its own."""

    blur: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blur", self.sharp)


def natural_key(name: str) -> tuple:
    """Sort key with digits as numbers: 1, 2, 10. The name itself comes last, so that 01 and 1 have a fixed order."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name


# ---- one file


def is_special(path: Path | str) -> bool:
    """Whether opening it may wait without end: a pipe, a socket or a device. False for a folder and a broken link."""
    return not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path)


def read_rgb(path: Path | str) -> np.ndarray:
    """Pixels of an image file as (H, W, 3) uint8, RGB, as they are stored: EXIF orientation is not applied.

    Grey is repeated, a palette looked up, alpha dropped (not blended with any background). 16-bit grey is scaled to 8
    bits by rounding value * 255 / 65535; 16-bit colour reaches Python as 8-bit already, Pillow keeps the upper byte.

    Raises:
        UserError: as `probe`, or the file is damaged.
    """
    return _read(path, probe(path))


def read_upright(path: Path | str) -> np.ndarray:
    """As `read_rgb`, with the EXIF orientation applied."""
    info = probe(path)
    return upright(_read(path, info), info.orientation)


def _read(path: Path | str, info: ImageInfo) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _rgb_pixels(image, info.mode)
    except Exception as e:  # on damaged files Pillow raises anything from struct.error to SyntaxError
        raise UserError(f"{path}: cannot be read ({_reason(e)}). Fetch or save this file again.") from e


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> as seen."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)  # 5: mirrored at the main diagonal
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def orientation_of(image: Image.Image) -> int:
    """1 to 8; 1, upright, also when the EXIF tag is missing or damaged."""
    try:
        # Not the method of PNG's own class, which decodes the pixels to look behind them.
        value = int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except Exception:  # damaged EXIF: anything may be raised
        return 1
    return value if 1 <= value <= 8 else 1


def _rgb_pixels(image: Image.Image, mode: str) -> np.ndarray:
    orientation = image.getexif().get(ORIENTATION, 1) if image.format == "TIFF" else 1
    image.load()
    if (
        orientation in UNDO_ORIENTATION and ORIENTATION not in image.getexif()
    ):  # Pillow has turned it and dropped the tag
        image = image.transpose(UNDO_ORIENTATION[orientation])
    if _is_sixteen_bit(mode, image.format):
        # 255 / 65535 = 1 / 257, and 257 is odd: adding its half and dividing rounds to the nearest, without ties.
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)  # (H, W)
        return np.repeat(grey[..., None], 3, axis=2)
    image.info.pop("transparency", None)  # else Pillow warns about palettes with alpha: it is dropped on purpose
    if mode in ("RGBa", "La"):  # premultiplied: Pillow divides by alpha on the way to these only
        image = image.convert(mode.upper())
    return np.array(image.convert("RGB"))  # a copy of its own: writable, and free of Pillow's buffer


def probe(path: Path | str) -> ImageInfo:
    """Size and mode from the header, without decoding, and a look whether the end of a PNG or JPEG file is there.

    Raises:
        UserError: naming the file, when it is missing, cut off, not an image, too large, or of a pixel type that would
            not be read rightly.
    """
    if is_special(path):
        raise UserError(f"{path}: {NO_FILE}")
    try:
        refuse_unknown_tiff(path)
        with Image.open(path) as image:
            (width, height), mode, file_format = image.size, image.mode, image.format
            orientation = orientation_of(image)
            sixteen = mode not in SIXTEEN_BIT_MODES and mode != "I" and any(";16" in str(tile) for tile in image.tile)
            if isinstance(image, TiffImageFile):
                # `size` is that after the turn that `read_rgb` takes back; the tags tell the stored one.
                width, height = (int(image.tag_v2[tag]) for tag in TIFF_SIZE_TAGS)
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file{', a broken link' if Path(path).is_symlink() else ''}") from e
    except UserError:
        raise
    except Image.DecompressionBombError as e:
        got, limit = (int(number) / 1e6 for number in re.findall(r"(\d+) pixels", str(e)))
        raise UserError(
            f"{path}: {got:.0f} megapixels, expected {limit:.0f} at most in a data set. Cut it and its partner into "
            "smaller images; deblur.py restores single photos of any size, see its --max_pixels."
        ) from e
    except Exception as e:  # see `_read`
        raise UserError(f"{path}: not a readable image ({_reason(e)}). Fetch or save this file again.") from e
    if mode not in READABLE_MODES and not _is_sixteen_bit(mode, file_format):
        raise UserError(
            f"{path}: got pixels of mode {mode}, which have no fixed range; expected 8 or 16 bits. Save it as PNG."
        )
    if file_format in END_MARKS:
        mark, reach, words = END_MARKS[file_format]
        if mark not in _tail(path, reach):
            raise UserError(
                f"{path}: this {file_format} file is cut off, {words} is missing. Fetch or save this file again."
            )
    return ImageInfo(width, height, mode, orientation, sixteen)


def _is_sixteen_bit(mode: str, file_format: str | None) -> bool:
    # Older Pillow opens 16-bit grey PNG as 32-bit integers; in other formats those may hold any range.
    return mode in SIXTEEN_BIT_MODES or (mode == "I" and file_format == "PNG")


def _tail(path: Path | str, count: int) -> bytes:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - count))
        return file.read()


def _reason(error: Exception) -> str:
    """One line, without the path that the caller names anyway."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is of no known image format"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


# ---- folders


def _entries(folder: Path, folders: bool) -> list[os.DirEntry[str]]:
    """What is directly in `folder`, folders or everything else, in natural order.

    Hidden ones are skipped: copying from a Mac leaves `._1.png` beside `1.png`. Broken links and circles of links count
    as files, so that reading them fails with their name.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if os.path.isdir(entry.path) is folders]
    except OSError as e:
        raise UserError(f"{folder}: cannot be listed ({e.strerror})") from e
    return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: natural_key(entry.name))


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder` except hidden ones, in natural order."""
    return [folder / entry.name for entry in _entries(folder, folders=True)]


def list_images(folder: Path) -> dict[str, Path]:
    """Image files directly in `folder` except hidden ones, by name without suffix, in natural order.

    What has the name of an image but is a pipe, socket or device is passed over, and printed once.

    Raises:
        UserError: the folder cannot be read, or two files differ in the suffix only.
    """
    images: dict[str, Path] = {}
    for entry in _entries(folder, folders=False):
        path = folder / entry.name
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not entry.is_file() and is_special(path):
            _pass_over(path)
            continue
        if path.stem in images:
            raise UserError(
                f"{folder}: two images of one name, {images[path.stem].name} and {path.name}. Keep one of them."
            )
        images[path.stem] = path
    # By the name without suffix, so that blur and sharp of other suffixes are in one order.
    return dict(sorted(images.items(), key=lambda item: natural_key(item[0])))


@functools.cache  # a folder is listed several times in a run
def _pass_over(path: Path) -> None:
    print(f"{path}: passed over, {NO_FILE}")


def list_image_tree(folder: Path) -> dict[str, Path]:
    """Images in a folder and its sub-folders, by path without suffix, with forward slashes, in natural order."""
    images: dict[str, Path] = {}
    todo, seen = [(folder, "")], set()
    while todo:
        here, prefix = todo.pop(0)
        if (real := here.resolve()) in seen:  # a symbolic link to a folder above would never end
            continue
        seen.add(real)
        images |= {f"{prefix}{name}": path for name, path in list_images(here).items()}
        todo += [(sub, f"{prefix}{sub.name}/") for sub in subfolders(here)]
    return dict(sorted(images.items(), key=lambda item: natural_key(item[0])))


def check_partners(blur: Iterable[str], sharp: Iterable[str], folder: Path, list_option: str = "") -> None:
    """Raise a UserError unless `folder`/blur and `folder`/sharp hold the same names.

    Args:
        list_option: the option that takes a list of pairs of other names, if there is one.
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

    Only names are looked at; `check_pairs` looks into the files.

    Raises:
        UserError: a folder is missing or empty, an image has no partner, a name occurs twice, or
            `src/preprocessing.py` was interrupted there.
    """
    root = Path(root)
    folder = root / split
    _check_layout(root, split)
    if (root / PARTIAL_MANIFEST).exists():
        raise UserError(
            f"{root}: src/preprocessing.py was interrupted here. Run the same command again, it will go on."
        )
    images = {kind: list_images(folder / kind) for kind in KINDS}
    for kind in KINDS:
        if not images[kind]:
            deeper = first_few(f.name for f in subfolders(folder / kind))
            hint = f" Sub-folders are not searched: {deeper}." if deeper else ""
            if kind == "sharp":
                hint += f" {_without_sharp(folder / 'blur')}"
            raise UserError(f"{folder / kind}: no image, expected files ending in {' '.join(IMAGE_SUFFIXES)}.{hint}")
    check_partners(images["blur"], images["sharp"], folder, _list_option(split))
    return [Pair(name, path, images["sharp"][name]) for name, path in images["blur"].items()]


def _check_layout(root: Path, split: str) -> None:
    """Raise a UserError with a hint for the usual slips unless `root`/`split`/{blur,sharp} are folders."""
    folder = root / split
    expected = f"expected {folder}/{{blur,sharp}}"
    missing = [kind for kind in KINDS if not (folder / kind).is_dir()]
    if not missing:
        return
    if not root.is_dir():
        raise UserError(f"{root}: no such folder, {expected}. src/preprocessing.py makes it from GOPRO_Large.")
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
    """Look into every file's header and end, and at the sizes of each pair.

    Args:
        pairs: from `find_pairs`.
        min_side: smallest width and height allowed, pixels, e.g. the side of the crops.
        remedy: the smallest side that was found -> the option that allows it.

    Returns:
        `changes_by_reading`.

    Raises:
        UserError: unreadable files; else pairs of two sizes; else images below `min_side`. The first five are named.
    """
    infos = probe_pairs(pairs)
    paths = [path for pair in pairs for path in (pair.blur, pair.sharp)]
    sides = [min(blur.width, blur.height) for blur, _ in infos]
    small = [
        f"{pair.name} ({blur.width}x{blur.height})"
        for pair, (blur, _), side in zip(pairs, infos, sides, strict=True)
        if side < min_side
    ]
    if small:
        raise UserError(
            f"{_common_folder(paths)}: expected images of {min_side}x{min_side} or more, "
            f"but got {first_few(small)}. Remove them or give {remedy(min(sides))}."
        )
    return changes_by_reading(infos)


def changes_by_reading(infos: Sequence[tuple[ImageInfo, ImageInfo]]) -> str:
    """For a line of output: ' (converted to 8-bit RGB: 3 L, 1 RGBA)'; '' if all files are upright 8-bit RGB."""
    kinds = Counter(info.kind for both in infos for info in both if info.kind != "RGB").most_common()
    turned = sum(blur.orientation == sharp.orientation > 1 for blur, sharp in infos)
    unlike = sum(blur.orientation != sharp.orientation for blur, sharp in infos)
    notes = [f"converted to 8-bit RGB: {', '.join(f'{count} {kind}' for kind, count in kinds)}"] if kinds else []
    notes += [f"{turned} turned upright by their EXIF orientation"] if turned else []
    notes += [f"{unlike} with different EXIF orientations in blur and sharp, read as stored"] if unlike else []
    return f" ({'; '.join(notes)})" if notes else ""


def probe_pairs(pairs: Sequence[Pair]) -> list[tuple[ImageInfo, ImageInfo]]:
    """What every file's header says, (blur, sharp) of each pair.

    Raises:
        UserError: unreadable files; else pairs of two sizes. The first five are named.
    """
    # Pillow's warning speaks of an attack at half the size that `probe` refuses.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
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
        folder = _common_folder([path for pair in pairs for path in (pair.blur, pair.sharp)])
        hint = ". Turn the pixels of both the same way" if any("EXIF" in text for text in differ) else ""
        raise UserError(f"{folder}: blur and sharp must be of one size, but are not in {first_few(differ)}{hint}")
    return infos


def _common_folder(paths: Sequence[Path]) -> str:
    """The folder that holds all of them, {root}/{split} of the standard layout; files of a list may have none."""
    try:
        folder = os.path.commonpath(paths)
    except ValueError:  # a list file may mix absolute and relative paths
        folder = os.path.commonpath([os.path.abspath(path) for path in paths])
    return "the pairs" if folder == os.path.dirname(folder) else folder


def _size(info: ImageInfo, partner: ImageInfo) -> str:
    tag = f" with EXIF orientation {info.orientation}" if info.orientation != partner.orientation else ""
    return f"{info.width}x{info.height}{tag}"


def _probe_or_error(path: Path) -> ImageInfo | UserError:
    try:
        return probe(path)
    except UserError as e:
        return e
