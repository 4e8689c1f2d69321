"""Reads image files of a dataset as 8-bit RGB, (H, W, 3) uint8, and their headers without decoding."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from src.data.tiff_kind import refuse_unknown_tiff
from src.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff")
NO_FILE = "a pipe, socket or device; expected a file"

READABLE_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
# The last bytes of a complete file, and how far from the end they may lie: some cameras append notes.
END_MARKS = {
    "PNG": (b"\0\0\0\0IEND\xaeB`\x82", 4096, "its last chunk, IEND,"),
    "JPEG": (b"\xff\xd9", 65536, "its end marker"),
}

ORIENTATION = 0x0112  # the EXIF tag
TIFF_SIZE_TAGS = (256, 257)  # ImageWidth, ImageLength


@dataclass(frozen=True)
class ImageInfo:
    """Header of an image file."""

    width: int
    """Pixels as stored, before any EXIF orientation."""
    height: int
    mode: str
    """Pillow's name of the pixel type."""
    orientation: int = 1
    """The EXIF tag, 1 to 8; 1 is upright."""
    kind: str = "RGB"
    """The mode, with a note if Pillow cuts 16-bit colours to the upper 8 bits."""


def is_special(path: Path | str) -> bool:
    """Whether opening the path may block forever: a pipe, socket or device. False for folders and broken links."""
    return not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path)


def read_rgb(path: Path | str) -> np.ndarray:
    """Pixels of an image file, (H, W, 3) uint8 RGB, as stored: EXIF orientation is not applied.

    Grey is repeated, a palette looked up, alpha dropped (not blended with any background). 16-bit grey is scaled to 8
    bits by rounding value * 255 / 65535; of 16-bit colour Pillow keeps the upper byte.

    Raises:
        UserError: as `probe`, or the file is damaged.
    """
    return decode(path, probe(path))


def read_upright(path: Path | str) -> np.ndarray:
    """As `read_rgb`, with the EXIF orientation applied."""
    info = probe(path)
    return upright(decode(path, info), info.orientation)


def decode(path: Path | str, info: ImageInfo) -> np.ndarray:
    """As `read_rgb`, of a file whose header has been read."""
    try:
        with Image.open(path) as image:
            return _rgb_pixels(image, info.mode)
    except Exception as e:  # on damaged files Pillow raises anything from struct.error to SyntaxError
        raise UserError(f"{path}: cannot be read ({_reason(e)}). Fetch or save this file again.") from e


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to an array of shape (H, W, ...)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)  # 5 mirrors at the main diagonal
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def orientation_of(image: Image.Image) -> int:
    """1 to 8; 1, upright, if the EXIF tag is missing or damaged."""
    try:
        # PNG's own method would decode the pixels to look behind them.
        value = int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except Exception:  # damaged EXIF may raise anything
        return 1
    return value if 1 <= value <= 8 else 1


def _rgb_pixels(image: Image.Image, mode: str) -> np.ndarray:
    orientation = image.getexif().get(ORIENTATION, 1) if image.format == "TIFF" else 1
    image.load()
    # Pillow's TIFF reader, unlike its others, applies the orientation and drops the tag. 6 and 8 undo each other.
    applied = orientation if ORIENTATION not in image.getexif() else 1
    undo = {6: 8, 8: 6}.get(applied, applied)
    if _is_sixteen_bit_grey(mode, image.format):
        # 255 / 65535 = 1 / 257, and 257 is odd: adding its half and dividing rounds to the nearest, without ties.
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)  # (H, W)
        return upright(np.repeat(grey[..., None], 3, axis=2), undo)
    image.info.pop("transparency", None)  # otherwise Pillow warns about the alpha of palettes
    if mode in ("RGBa", "La"):  # Pillow divides premultiplied colours by alpha only on the way to these modes
        image = image.convert(mode.upper())
    return upright(np.array(image.convert("RGB")), undo)  # a writable copy


def probe(path: Path | str) -> ImageInfo:
    """Read size and mode from the header without decoding, and check that the end of a PNG or JPEG file is present.

    Raises:
        UserError: the file is missing, truncated, not an image, too large, or of an unsupported pixel type.
    """
    if is_special(path):
        raise UserError(f"{path}: {NO_FILE}")
    try:
        refuse_unknown_tiff(path)
        with Image.open(path) as image:
            (width, height), mode, file_format = image.size, image.mode, image.format
            orientation = orientation_of(image)
            sixteen = mode not in SIXTEEN_BIT_MODES and mode != "I" and any(";16" in str(tile) for tile in image.tile)
            if isinstance(image, TiffImageFile):  # its `size` is that of the upright image
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
    except Exception as e:  # see `decode`
        raise UserError(f"{path}: not a readable image ({_reason(e)}). Fetch or save this file again.") from e
    if mode not in READABLE_MODES and not _is_sixteen_bit_grey(mode, file_format):
        raise UserError(
            f"{path}: got pixels of mode {mode}, which have no fixed range; expected 8 or 16 bits. Save it as PNG."
        )
    if file_format in END_MARKS:
        mark, distance, words = END_MARKS[file_format]
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - distance))
            if mark not in file.read():
                raise UserError(
                    f"{path}: this {file_format} file is cut off, {words} is missing. Fetch or save this file again."
                )
    return ImageInfo(width, height, mode, orientation, f"16-bit {mode}" if sixteen else mode)


def _is_sixteen_bit_grey(mode: str, file_format: str | None) -> bool:
    # Older Pillow opens 16-bit grey PNG as 32-bit integers; in other formats those may have any range.
    return mode in SIXTEEN_BIT_MODES or (mode == "I" and file_format == "PNG")


def _reason(error: Exception) -> str:
    """One line, without the path, which the caller adds."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is of no known image format"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
