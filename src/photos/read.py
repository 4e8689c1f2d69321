"""Reading photos with their metadata, so that `src.photos.write` can change nothing except the pixels.

Pixels are (H, W, 3) uint8 or uint16 RGB, upright: the EXIF orientation is applied. Alpha, colour profile, EXIF, XMP,
resolution and texts are kept beside them. No function makes an unnecessary full-size copy, or one of floats: a photo
may have 100 megapixels. `src.data.image_files` decodes the pixels.
"""

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.data.image_files import (
    EXIF_IFD,
    GPS_IFD,
    ICC_PROFILE,
    INTEROP_IFD,
    ORIENTATION,
    XMP_PACKET,
    NoImage,
    bands,
    exif_of,
    missing,
    open_by_pillow,
    png_chunks,
    png_info,
    read_info,
    read_pixels,
    reason_of,
    tiff_tags,
    to_eight_bits,
    upright,
)
from src.errors import UserError

MAX_PIXELS = 120_000_000

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
# Tags of a TIFF's directory that describe the photo; the others describe the storage of the pixels.
DESCRIPTIVE_TAGS = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 33723, *range(40091, 40096)}
DESCRIPTIVE_TAGS |= {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, EXIF_IFD, GPS_IFD}

# What phones append to a JPEG file, by the XMP property that announces it: as an attribute or as an element.
APPENDED = {
    "video (Motion Photo)": rb"""\bG?Camera:(?:MotionPhoto|MicroVideo)(?:\s*=\s*["']|>)\s*1""",
    "gain map (Ultra HDR)": rb"""\bhdrgm:Version(?:\s*=|>)""",
}
_NAMES = rb"G?Camera:(?:MotionPhoto|MicroVideo)\w*|hdrgm:\w+"
APPENDED_PROPERTIES = (
    rb"""\s(?:%b)\s*=\s*(?:"[^"]*"|'[^']*')""" % _NAMES,
    rb"<(%b|G?Container:Directory)\b[^>]*?(?:/>|>.*?</\1\s*>)" % _NAMES,  # the directory lists what is appended
)


COLOUR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")  # of PNG


@dataclass(frozen=True)
class Carried:
    """The metadata of a file. Empty values mean that it has none."""

    icc: bytes = b""
    exif: Image.Exif = field(default_factory=Image.Exif)
    """Without a thumbnail, which would show the blurred photo, and without an orientation other than upright."""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    """Dots per inch along x and y of the upright photo."""
    texts: dict[str, str] = field(default_factory=dict)
    """PNG's text chunks."""
    comment: bytes = b""
    """JPEG's comment."""
    png_colours: dict[bytes, bytes] = field(default_factory=dict)
    """PNG's chunks that describe its colours, other than a profile."""


@dataclass(frozen=True)
class Photo:
    """One photo, upright."""

    pixels: np.ndarray
    """(H, W, 3) uint8 or uint16 RGB; a grey photo has three equal channels."""
    alpha: np.ndarray | None = None
    """(H, W) of the same type, straight (not multiplied into the colours)."""
    grey: bool = False
    """Whether to save one channel."""
    lossless_webp: bool = False
    """Whether the photo comes from a lossless WebP file, and is written as one."""
    carried: Carried = field(default_factory=Carried)
    notes: tuple[str, ...] = ()
    """Messages about what reading changed or left out."""

    def with_pixels(self, pixels: np.ndarray) -> "Photo":
        return dataclasses.replace(self, pixels=pixels)


@dataclass(frozen=True)
class Header:
    """Facts from a file's header, without decoding."""

    width: int
    """Pixels, upright."""
    height: int
    file_format: str
    """A key of `src.data.image_files.SUFFIXES`."""


@contextlib.contextmanager
def _errors_of(path: Path | str) -> Iterator[None]:
    """Turns the errors of reading, except a lack of memory, into a UserError with the file's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; `Photo.notes` mentions losses
            yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as e:
        raise UserError(missing(path)) from e
    except NoImage as e:
        raise UserError(f"{path}: {e}") from e
    except Exception as e:  # on damaged files the decoders raise anything
        if isinstance(e, OSError) and e.strerror:
            raise UserError(f"{path}: cannot be read ({e.strerror})") from e
        raise UserError(f"{path}: damaged or cut off ({reason_of(e)}). Fetch or save this file again.") from e


def read_header(path: Path | str) -> Header:
    """Upright size and format.

    Raises:
        UserError: the file is missing or not a photo.
    """
    with _errors_of(path):
        info = read_info(path)
    width, height = (info.width, info.height) if info.orientation < 5 else (info.height, info.width)
    return Header(width, height, info.file_format)


def read_photo(path: Path | str, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a photo and collect its metadata. Only the first of several pictures in one file is read.

    Args:
        max_pixels: a photo with more pixels is refused by its header, before decoding.

    Raises:
        UserError: the file is missing, cut off, too large, not a photo or of another pixel type.
    """
    with _errors_of(path):
        info = read_info(path)
        if info.width * info.height > max_pixels:
            raise UserError(
                f"{path}: {info.width}x{info.height} are {info.width * info.height / 1e6:.0f} megapixels, expected "
                f"{max_pixels / 1e6:g} at most; --max_pixels raises the limit"
            )
        decoded = read_pixels(path, info)
        carried, lost = _carried(path, info.file_format, info.orientation)
        lossless_webp = info.file_format == "WEBP" and _is_lossless_webp(path)
    if decoded.is_srgb:
        carried = dataclasses.replace(carried, icc=b"", png_colours={})
    channels = decoded.values.shape[2]
    alpha = upright(decoded.values[..., -1], info.orientation) if channels in (2, 4) else None
    grey = channels < 3
    colours = np.repeat(decoded.values[..., :1], 3, axis=2) if grey else decoded.values[..., :3]
    return Photo(upright(colours, info.orientation), alpha, grey, lossless_webp, carried, decoded.notes + lost)


def _is_lossless_webp(path: Path | str) -> bool:
    with open(path, "rb") as file:  # the pixels' chunk is the first one, except in an extended file
        head = file.read(16)
        if head[12:16] != b"VP8X":
            return head[12:16] == b"VP8L"
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            if chunk[:4] in (b"VP8 ", b"VP8L"):
                return chunk[:4] == b"VP8L"
            size = int.from_bytes(chunk[4:], "little")
            # A frame of an animation consists of 16 bytes and further chunks.
            file.seek(16 if chunk[:4] == b"ANMF" else size + size % 2, 1)
    return False


# ---- metadata


def _carried(path: Path | str, file_format: str, orientation: int) -> tuple[Carried, tuple[str, ...]]:
    """The metadata for the output, and notes on what is left out."""
    notes: list[str] = []
    info: dict[Any, Any] = {}
    png_colours: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        if file_format == "PNG":
            chunks = png_chunks(file)
            info, png_colours = png_info(chunks), {kind: chunks[kind][0] for kind in COLOUR_CHUNKS if kind in chunks}
            if "icc_profile" in info:
                png_colours.pop(b"sRGB", None)  # PNG allows one of the two
            notes += [f"its {name!r} is damaged or too long and left out" for name in info["lost"]]
            if b"acTL" in chunks:
                notes.append(f"the first of its {int.from_bytes(chunks[b'acTL'][0][:4], 'big')} pictures only")
        elif file_format == "TIFF":
            tags = tiff_tags(file)
            info = {"icc_profile": tags.get(ICC_PROFILE), "xmp": tags.get(XMP_PACKET)}
        else:
            with open_by_pillow(path, file_format) as image:
                info = image.info
                if (count := [marker for marker, _ in getattr(image, "applist", ())].count("COM")) > 1:
                    notes.append(f"the last of its {count} comments only")
    try:
        exif = _upright_exif(tags if file_format == "TIFF" else exif_of(info), orientation, file_format == "TIFF")
    except Exception:  # damaged EXIF: anything may be raised
        exif, notes = Image.Exif(), [*notes, "its EXIF data is damaged and left out"]
    xmp = re.sub(rb"""(tiff:Orientation(?:=["']|>))[2-8]""", rb"\g<1>1", bytes(info.get("xmp") or b""))
    if file_format in ("JPEG", "HEIC"):
        xmp, lost = _without_appended(xmp)
        notes += lost
    dpi, comment = _resolution(info.get("dpi"), exif), info.get("comment", b"")
    carried = Carried(
        icc=info.get("icc_profile") or b"",
        exif=exif,
        xmp=xmp,
        dpi=dpi[::-1] if dpi and orientation >= 5 else dpi,
        texts=info.get("texts", {}),
        comment=comment if isinstance(comment, bytes) and file_format == "JPEG" else b"",
        png_colours=png_colours,
    )
    return carried, tuple(notes)


def _without_appended(xmp: bytes) -> tuple[bytes, list[str]]:
    """XMP of a JPEG file without the properties of a video or gain map after the picture, which no output has, and a
    note on what the file had.

    https://developer.android.com/media/platform/motion-photo-format (its first version was MicroVideo),
    https://developer.android.com/media/platform/hdr-image-format
    """
    lost = [part for part, claim in APPENDED.items() if re.search(claim, xmp)]
    if not lost:
        return xmp, []
    for claim in APPENDED_PROPERTIES:
        xmp = re.sub(claim, b"", xmp, flags=re.DOTALL)
    return xmp, [f"written without its {' and '.join(lost)}"]


def _upright_exif(source: Image.Exif, orientation: int, is_tiff: bool) -> Image.Exif:
    """A copy of EXIF with an upright orientation. Raises anything on damaged data."""
    exif = Image.Exif()
    for tag, value in source.items():
        if tag not in (EXIF_IFD, GPS_IFD, ORIENTATION) and (tag in DESCRIPTIVE_TAGS or not is_tiff):
            exif[tag] = value
    for tag in (EXIF_IFD, GPS_IFD):
        if directory := dict(source.get_ifd(tag)):
            exif[tag] = directory
    if EXIF_IFD in exif:
        directory = exif[EXIF_IFD]
        if INTEROP_IFD in directory:
            directory[INTEROP_IFD] = dict(source.get_ifd(INTEROP_IFD))
        if orientation >= 5 and 0xA002 in directory and 0xA003 in directory:  # PixelXDimension, PixelYDimension
            directory[0xA002], directory[0xA003] = directory[0xA003], directory[0xA002]
    if ORIENTATION in source and not is_tiff:
        exif[ORIENTATION] = 1
    exif.tobytes()  # raises an error if it cannot be written
    return exif


def _resolution(dpi: Any, exif: Image.Exif) -> tuple[float, float] | None:
    """Dots per inch from the file itself or from its EXIF; None if neither is usable."""
    try:
        if not dpi and X_RESOLUTION in exif and exif.get(RESOLUTION_UNIT, 2) in (2, 3):
            scale = 2.54 if exif.get(RESOLUTION_UNIT) == 3 else 1.0  # 3: dots per centimetre
            dpi = [float(exif[tag]) * scale for tag in (X_RESOLUTION, Y_RESOLUTION)]
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


# ---- before and after


STRIP_SIDE = 4000  # pixels: longest side of each half of a strip
STRIP_GAP = 8  # pixels between the halves


def save_before_after(file: Any, before: np.ndarray, after: np.ndarray) -> None:
    """Two (H, W, 3) uint8 or uint16 photos of one size side by side as PNG, reduced to `STRIP_SIDE` if they are
    larger."""
    left = preview(before, STRIP_SIDE)
    sheet = Image.new("RGB", (2 * left.width + STRIP_GAP, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(preview(after, STRIP_SIDE), (left.width + STRIP_GAP, 0))
    sheet.save(file, "PNG")


def preview(pixels: np.ndarray, side: int) -> Image.Image:
    """(H, W, 3) uint8 or uint16 -> 8-bit RGB, reduced if its longer side has more than `side` pixels."""
    height, width = pixels.shape[:2]
    share = min(1.0, side / max(height, width))
    image = Image.new("RGB", (width, height))
    for rows in bands(height, width):
        image.paste(Image.fromarray(to_eight_bits(pixels[rows])), (0, rows.start))
    size = max(1, round(width * share)), max(1, round(height * share))
    return image if image.size == size else image.resize(size, Image.Resampling.BOX)
