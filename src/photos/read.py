"""Reading photos with their metadata, so that `src.photos.write` can change nothing except the pixels.

Pixels are (H, W, 3) uint8 or uint16 RGB, upright: the EXIF orientation is applied. Alpha, colour profile, EXIF, XMP,
resolution and texts are kept beside them. No function makes an unnecessary full-size copy, or one of floats: a photo
may have 100 megapixels. `src.data.images` reads training pairs, by other rules.
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
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from src.data.images import READABLE_MODES, SIXTEEN_BIT_MODES, TIFF_SIZE_TAGS, orientation_of, upright
from src.data.tiff_kind import refuse_unknown_tiff
from src.errors import UserError

SUFFIXES = {  # the first one names new files
    "PNG": [".png"],
    "JPEG": [".jpg", ".jpeg", ".jpe", ".jfif"],
    "TIFF": [".tif", ".tiff"],
    "WEBP": [".webp"],
    "BMP": [".bmp"],
}
FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
READ_AS = tuple(SUFFIXES)
MAX_PIXELS = 120_000_000
BAND_PIXELS = 2**20  # rows are converted in bands of about so many pixels, instead of the whole photo at once

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 282, 283, 296
EXIF_IFD, INTEROP_IFD, GPS_IFD = 0x8769, 0xA005, 0x8825
BITS_PER_SAMPLE = 258
GREY, GREY_WITH_ALPHA = 0, 4  # colour types of PNG
# Tags of a TIFF's directory that describe the photo; the others describe the storage of the pixels.
DESCRIPTIVE_TAGS = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 33723, *range(40091, 40096)}
DESCRIPTIVE_TAGS |= {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, EXIF_IFD, GPS_IFD}

STILL_BRANDS = {
    "an AVIF photo": {b"avif", b"avis"},
    "a HEIC photo": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
    "a CR3 raw photo": {b"crx "},
}
"""Brands of the photos among ISO base media files, most of which are videos."""
VIDEO_MARKS = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (8, b"AVI "),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
)

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
    """A value of `FORMATS`."""


# ---- opening


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """The file as Pillow opens it, with the header only and without two limits of Pillow: that of pixels, which
    --max_pixels replaces, and that of 1 MB for a colour profile in PNG.

    Raises:
        UserError: with the file's name, for all errors on opening and in the `with` block except a lack of memory.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    text_limit, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; `Photo.notes` mentions losses
            refuse_unknown_tiff(path)
            with Image.open(path, formats=READ_AS) as image:
                yield image
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file{', a broken link' if Path(path).is_symlink() else ''}") from e
    except Image.UnidentifiedImageError as e:
        raise UserError(f"{path}: {_what_it_is(path)}") from e
    except Exception as e:  # on damaged files Pillow raises anything from struct.error to SyntaxError
        if isinstance(e, OSError) and e.strerror:
            raise UserError(f"{path}: cannot be read ({e.strerror})") from e
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"{path}: damaged or cut off ({reason}). Fetch or save this file again.") from e
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limit, text_limit


def _what_it_is(path: Path | str) -> str:
    """A message about a file that is none of `READ_AS`, by its first bytes, whatever its name is."""
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        return "empty, 0 bytes. Fetch or save this file again."
    if head[4:8] == b"ftyp":  # ISO base media: the box lists the brands to which the file conforms, four bytes each
        box = head[8 : min(len(head), int.from_bytes(head[:4], "big"))]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
        for kind, own in STILL_BRANDS.items():
            if brands & own:
                return f"{kind}, which is not supported; convert it to JPEG first"
    if any(head[start:].startswith(mark) for start, mark in VIDEO_MARKS):
        return "a video, not a photo; rename it to end in .mp4, .mov, .mkv, .webm or .avi"
    return "not a photo; expected the content of a PNG, JPEG, TIFF, WebP or BMP file"


def read_header(path: Path | str) -> Header:
    """Upright size and format.

    Raises:
        UserError: the file is missing or not a photo.
    """
    with _opened(path) as image:
        width, height = _stored_size(image)
        if orientation_of(image) >= 5:
            width, height = height, width
        return Header(width, height, _format(image))


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a phone's JPEG followed by further pictures


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImageFile):  # newer Pillow reports the size of the upright image
        width, height = (int(image.tag_v2[tag]) for tag in TIFF_SIZE_TAGS)
        return width, height
    return image.size


def _exif(image: Image.Image) -> Image.Exif:
    return Image.Image.getexif(image)  # not PNG's method, which decodes the pixels to find what follows them


# ---- reading


def read_photo(path: Path | str, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a photo and collect its metadata.

    Supported are grey (8 and 16 bits), grey with alpha, RGB and RGBA (8 and 16 bits), palettes, black and white, CMYK
    and YCbCr. Only the first of several pictures in one file is read.

    Args:
        max_pixels: a photo with more pixels is refused by its header, before decoding.

    Raises:
        UserError: the file is missing, cut off, too large, not a photo or of another pixel type.
    """
    with _opened(path) as image:
        width, height = _stored_size(image)
        if width * height > max_pixels:
            raise UserError(
                f"{path}: {width}x{height} are {width * height / 1e6:.0f} megapixels, expected {max_pixels / 1e6:g} at "
                "most; --max_pixels raises the limit"
            )
        _check_mode(image, path)
        notes = _frames_note(image)
        orientation = orientation_of(image) if image.format == "TIFF" else 1  # newer Pillow turns it and drops the tag
        lossless_webp = image.format == "WEBP" and _is_lossless_webp(path)
        sixteen_bit_colour = _has_sixteen_bit_colour(image, path)
        image.load()  # also for 16-bit colour: finds damage, and metadata after the pixels of a PNG
        if image.format != "TIFF":
            orientation = orientation_of(image)
        carried, lost = _carried(image, orientation)
        if sixteen_bit_colour:
            pixels, alpha, grey = _read_sixteen_bit_colour(image, path)
        else:
            pixels, alpha, grey = _decode(image)
        if pixels.dtype == np.uint16 and alpha is None and "transparency" in image.info:
            notes.append("its transparent colour is left out")
        turned = image.format == "TIFF" and (sixteen_bit_colour or _exif(image).get(ORIENTATION, 1) == 1)
        if image.mode == "CMYK":
            notes.append("CMYK is written as RGB")
            carried = dataclasses.replace(carried, icc=b"")  # a CMYK profile says nothing about RGB
    if turned:  # by OpenCV, or by newer Pillow, which then drops the tag
        orientation = 1
    if alpha is not None:
        alpha = upright(alpha, orientation)
    return Photo(upright(pixels, orientation), alpha, grey, lossless_webp, carried, tuple(notes + lost))


def _frames_note(image: Image.Image) -> list[str]:
    count = getattr(image, "n_frames", 1)
    return [f"the first of its {count} pictures only"] if count > 1 else []


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


def _check_mode(image: Image.Image, path: Path | str) -> None:
    if image.mode not in READABLE_MODES and not _is_sixteen_bit_grey(image):
        raise UserError(
            f"{path}: got pixels of mode {image.mode}, without a fixed range; expected 8 or 16 bits. Save it as PNG."
        )


def _is_sixteen_bit_grey(image: Image.Image) -> bool:
    # Older Pillow opens 16-bit grey PNG as 32-bit integers, which have no fixed range in other formats.
    return image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG")


def bands(height: int, width: int) -> Iterator[slice]:
    """Slices of rows, about `BAND_PIXELS` pixels each, that cover a photo from the top."""
    rows = max(1, BAND_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """(pixels, alpha or None, grey) of a loaded image. Converted in bands, since a second Pillow image in another mode
    would take 4 bytes per pixel."""
    width, height = image.size
    dtype = np.uint16 if _is_sixteen_bit_grey(image) else np.uint8
    grey = dtype == np.uint16 or image.mode in ("L", "LA", "La", "1")
    see_through = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or (
        dtype == np.uint8 and "transparency" in image.info
    )
    pixels = np.empty((height, width, 3), dtype)
    alpha = np.empty((height, width), dtype) if see_through else None
    for rows in bands(height, width):
        band = image.crop((0, rows.start, width, rows.stop))
        if dtype == np.uint16:
            pixels[rows] = np.asarray(band)[..., None]
            continue
        if band.mode in ("RGBa", "La"):  # premultiplied: only this conversion divides by alpha
            band = band.convert(band.mode.upper())
        values = np.asarray(band.convert("RGBA" if see_through else "RGB"))  # (rows, W, 3 or 4)
        pixels[rows] = values[..., :3]
        if alpha is not None:
            alpha[rows] = values[..., 3]
    return pixels, alpha, grey


def _has_sixteen_bit_colour(image: Image.Image, path: Path | str) -> bool:
    """Whether there are several channels of 16 bits, which Pillow would reduce to 8."""
    if image.format == "PNG":
        bits, colour_type = _png_kind(path)
        return bits == 16 and colour_type != GREY
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
        return len(bits) > 1 and max(bits) == 16
    return False


def _png_kind(path: Path | str) -> tuple[int, int]:
    """(bits per channel, colour type)"""
    with open(path, "rb") as file:
        bits, colour_type = file.read(26)[24:26]  # of IHDR, always the first chunk
    return bits, colour_type


def _read_sixteen_bit_colour(image: Image.Image, path: Path | str) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """(pixels, alpha or None, grey) uint16, by OpenCV."""
    import cv2  # half a second, unnecessary for photos of 8 bits

    with contextlib.suppress(AttributeError):
        cv2.setLogLevel(0)  # it logs odd tags
    if image.format == "PNG":
        with Image.open(path, formats=READ_AS) as fresh:
            fresh.verify()  # checks the checksums: OpenCV returns what it can read of a damaged file without an error
    elif not (isinstance(image, TiffImageFile) and _is_whole_tiff(image, path)):
        raise UserError(f"{path}: cut off, pixels are missing at its end. Fetch or save this file again.")
    try:
        values = cv2.imdecode(np.memmap(path, np.uint8, "r"), cv2.IMREAD_UNCHANGED)  # (H, W, 3 or 4), blue first
    except cv2.error as e:
        if e.code == cv2.Error.StsNoMem:
            raise MemoryError(str(e)) from e
        raise
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in (3, 4):
        raise UserError(f"{path}: 16-bit colours of a kind that is not supported. Save it as plain RGB.")
    grey = image.format == "PNG" and _png_kind(path)[1] == GREY_WITH_ALPHA
    alpha = values[..., 3].copy() if values.shape[2] == 4 else None
    if alpha is None:
        for rows in bands(*values.shape[:2]):  # in place, since a copy would take 6 bytes per pixel
            values[rows] = values[rows, :, ::-1].copy()
        return values, None, grey
    return np.ascontiguousarray(values[..., 2::-1]), alpha, grey


def _is_whole_tiff(image: TiffImageFile, path: Path | str) -> bool:
    tags = image.tag_v2
    starts, counts = (tags.get(273), tags.get(279)) if 273 in tags else (tags.get(324), tags.get(325))  # strips, tiles
    if not starts or not counts:
        return False
    return max(s + c for s, c in zip(starts, counts, strict=False)) <= Path(path).stat().st_size


# ---- metadata


def _carried(image: Image.Image, orientation: int) -> tuple[Carried, list[str]]:
    """The metadata for the output, and notes on what is left out."""
    notes = []
    try:
        exif = _upright_exif(image, orientation)
    except Exception:  # damaged EXIF: anything may be raised
        exif, notes = Image.Exif(), ["its EXIF data is damaged and left out"]
    info = image.info
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    xmp = re.sub(rb"""(tiff:Orientation(?:=["']|>))[2-8]""", rb"\g<1>1", xmp)
    if _format(image) == "JPEG":
        xmp, lost = _without_appended(xmp)
        notes += lost
    dpi = _resolution(info.get("dpi"), exif)
    texts = (getattr(image, "text", None) or {}) if image.format == "PNG" else {}
    binary = ("XML:com.adobe.xmp", "Raw profile type")  # these texts are kept as XMP and EXIF
    texts = {str(key): str(value) for key, value in texts.items() if not key.startswith(binary)}
    comment = info.get("comment", b"") if _format(image) == "JPEG" else b""
    if (count := [marker for marker, _ in getattr(image, "applist", ())].count("COM")) > 1:
        notes.append(f"the last of its {count} comments only")
    carried = Carried(
        icc=info.get("icc_profile") or b"",
        exif=exif,
        xmp=xmp,
        dpi=dpi[::-1] if dpi and orientation >= 5 else dpi,
        texts=texts,
        comment=comment if isinstance(comment, bytes) else b"",
    )
    return carried, notes


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


def _upright_exif(image: Image.Image, orientation: int) -> Image.Exif:
    """A copy of the image's EXIF with an upright orientation. Raises anything on damaged data."""
    source, exif = _exif(image), Image.Exif()
    is_tiff = image.format == "TIFF"
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
    image = Image.fromarray(to_eight_bits(pixels))
    size = max(1, round(width * share)), max(1, round(height * share))
    return image if image.size == size else image.resize(size, Image.Resampling.BOX)


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """(H, W, ...) uint16 -> uint8, rounded; uint8 is returned as it is."""
    if values.dtype == np.uint8:
        return values
    rounded = np.empty(values.shape, np.uint8)
    for rows in bands(*values.shape[:2]):
        # 255 / 65535 = 1 / 257, and 257 is odd: adding 128 and dividing rounds to the nearest, without ties.
        rounded[rows] = (values[rows].astype(np.uint32) + 128) // 257
    return rounded
