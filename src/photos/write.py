"""Writing photos: PNG, JPEG, TIFF, WebP and BMP, 8 bits or 16 where the format has them.

Pillow writes what it can. It has no 16-bit colour, and its compressed TIFF loses EXIF, so this module writes these two
itself, band by band.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from src.data.image_files import bands, to_eight_bits
from src.errors import UserError
from src.photos.read import DESCRIPTIVE_TAGS, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, Carried, Photo

LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}  # pixels
HOLD_SIXTEEN_BITS = ("PNG", "TIFF")
HOLD_ALPHA = ("PNG", "TIFF", "WEBP")
SEGMENT = 65533  # bytes in one segment of a JPEG file, with its mark
XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
DEFLATE = 6  # zlib's compromise between size and time
INCHES = 2  # a value of ResolutionUnit


SRGB_CHUNKS = {  # of PNG, by https://www.w3.org/TR/png-3/
    b"cICP": struct.pack(">4B", 1, 13, 0, 1),
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}


def check_fits(width: int, height: int, file_format: str, path: Any) -> None:
    """Raise a UserError, before the restoring, if a photo is too large for `file_format`."""
    side = LARGEST_SIDE.get(file_format, 2**31)
    if max(width, height) > side:
        raise UserError(f"{path}: {width}x{height}, and {file_format} holds {side} pixels a side; use --format png")


def fit_format(photo: Photo, file_format: str) -> tuple[Photo, tuple[str, ...]]:
    """`photo` without what `file_format` cannot hold, and notes on that."""
    notes = []
    if photo.pixels.dtype == np.uint16 and file_format not in HOLD_SIXTEEN_BITS:
        alpha = None if photo.alpha is None else to_eight_bits(photo.alpha)
        photo = dataclasses.replace(photo, pixels=to_eight_bits(photo.pixels), alpha=alpha)
        notes.append(f"{file_format} has 8 bits, 16 are rounded to them")
    if photo.alpha is not None and file_format not in HOLD_ALPHA:
        photo = dataclasses.replace(photo, alpha=None)
        notes.append(f"its transparency is left out, {file_format} is written without")
    if file_format != "PNG" and (names := _unlike_srgb(photo.carried)):
        notes.append(f"its {names} is left out, so that {file_format} shows other colours; --format png keeps it")
    if file_format == "JPEG":
        carried = photo.carried
        sizes = {"exif": len(_exif_bytes(carried)), "xmp": len(XMP_MARK + carried.xmp)}
        long = [name for name, size in sizes.items() if size > SEGMENT]
        if long:
            exif = Image.Exif() if "exif" in long else carried.exif
            carried = dataclasses.replace(carried, exif=exif, xmp=b"" if "xmp" in long else carried.xmp)
            photo = dataclasses.replace(photo, carried=carried)
            notes.append(f"its {' and '.join(name.upper() for name in long)} is left out, it is too long for JPEG")
    return photo, tuple(notes)


def _unlike_srgb(carried: Carried) -> str:
    """Names of PNG's colour chunks that say something else than sRGB and are not overruled by others."""
    colours = carried.png_colours
    if b"cICP" in colours:
        kinds = [b"cICP"]
    else:
        kinds = [] if carried.icc or b"sRGB" in colours else [kind for kind in (b"gAMA", b"cHRM") if kind in colours]
    return " and ".join(kind.decode() for kind in kinds if colours[kind] != SRGB_CHUNKS[kind])


def write_photo(file: BinaryIO, photo: Photo, file_format: str, quality: int = 95) -> None:
    """Write a photo that `fit_format` returned.

    Args:
        file: an empty file, open for writing and seeking.
        file_format: a key of `src.data.image_files.SUFFIXES`.
        quality: 1 to 100, for JPEG and WebP. JPEG keeps the colours at full resolution (4:4:4). WebP is lossless at 100
            and for photos from lossless WebP files.
    """
    carried = photo.carried
    if file_format == "TIFF":
        _write_tiff(file, photo)
    elif file_format == "PNG" and photo.pixels.dtype == np.uint16:
        _write_sixteen_bit_png(file, photo)
    elif file_format == "PNG":
        exif = {"exif": _exif_bytes(carried)} if len(carried.exif) else {}
        dpi = {"dpi": carried.dpi} if carried.dpi else {}
        _as_image(photo).save(file, "PNG", icc_profile=carried.icc or None, pnginfo=_png_info(carried), **dpi, **exif)
    elif file_format == "JPEG":
        options: dict[str, Any] = {"exif": _exif_bytes(carried), "xmp": carried.xmp}
        options |= {"icc_profile": carried.icc or None, "extra": _comment_segment(carried.comment)}
        if carried.dpi:
            options["dpi"] = (round(carried.dpi[0]), round(carried.dpi[1]))
        _as_image(photo).save(_checked(file), "JPEG", quality=quality, subsampling=0, **options)
    elif file_format == "WEBP":
        lossless = quality == 100 or photo.lossless_webp
        quality = 80 if lossless else quality
        options = {"exif": _exif_bytes(carried, with_dpi=True), "xmp": carried.xmp, "icc_profile": carried.icc}
        _as_image(photo).save(file, "WEBP", lossless=lossless, quality=quality, exact=True, **options)
    else:
        _as_image(photo).save(_checked(file), file_format, **({"dpi": carried.dpi} if carried.dpi else {}))


def _checked(file: BinaryIO) -> Any:
    """A file without a file number, by which Pillow would write past Python and miss that the last bytes of a JPEG or
    BMP do not fit on the disk."""
    return SimpleNamespace(write=file.write, flush=file.flush)


def _comment_segment(comment: bytes) -> bytes:
    """A JPEG comment of up to `SEGMENT` bytes: Pillow's option fails for the longest."""
    return b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment if comment else b""


def _as_image(photo: Photo) -> Image.Image:
    """An 8-bit photo as a Pillow image: L, LA, RGB or RGBA."""
    if photo.grey:
        height, width = photo.pixels.shape[:2]
        grey = np.empty((height, width), np.uint8)
        for rows in bands(height, width):
            grey[rows] = _luma(photo.pixels[rows])
        image = Image.fromarray(grey)
    else:
        image = Image.fromarray(photo.pixels)
    if photo.alpha is not None:
        image.putalpha(Image.fromarray(photo.alpha))
    return image


def _luma(colours: np.ndarray) -> np.ndarray:
    """(rows, W, 3) -> (rows, W) of the same type, by ITU-R 601; exact for equal channels."""
    # The weights add up to 2**16, so that 65535 with the half for rounding just fits into 32 bits.
    weighted = colours.astype(np.uint32) * np.array([19595, 38470, 7471], np.uint32)
    return ((weighted.sum(axis=2, dtype=np.uint32) + 32768) >> 16).astype(colours.dtype)


def _samples(photo: Photo) -> Iterator[np.ndarray]:
    """Bands from the top, (rows, W, channels), with 1 channel for grey or 3 for colour, and one more for alpha."""
    for rows in bands(*photo.pixels.shape[:2]):
        part = photo.pixels[rows]
        parts = [_luma(part)[..., None] if photo.grey else part]
        if photo.alpha is not None:
            parts.append(photo.alpha[rows][..., None])
        yield np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def _exif_bytes(carried: Carried, with_dpi: bool = False) -> bytes:
    """EXIF with its mark, as all formats except TIFF store it; b'' if there is none.

    Args:
        with_dpi: include the resolution, for formats that have no other place for it.
    """
    exif = carried.exif
    if with_dpi and carried.dpi and X_RESOLUTION not in exif:
        exif = Image.Exif()
        exif.update(carried.exif)
        exif.update(_resolution_tags(carried.dpi))
    return exif.tobytes() if len(exif) else b""


def _resolution_tags(dpi: tuple[float, float]) -> dict[int, Any]:
    x, y = (Fraction(value).limit_denominator(1000) for value in dpi)
    return {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: INCHES}


# ---- PNG with 16 bits


def _png_info(carried: Carried) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for kind, data in carried.png_colours.items():
        info.add(kind, data)
    for key, value in carried.texts.items():
        info.add_text(key, value)
    if carried.xmp:
        info.add_itxt("XML:com.adobe.xmp", carried.xmp.decode("utf-8", "replace"))
    return info


def _write_sixteen_bit_png(file: BinaryIO, photo: Photo) -> None:
    height, width = photo.pixels.shape[:2]
    colour_type = (0 if photo.grey else 2) + (0 if photo.alpha is None else 4)
    file.write(b"\x89PNG\r\n\x1a\n")
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    carried = photo.carried
    if carried.icc:
        _write_chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(carried.icc))
    if carried.dpi:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(v / 0.0254) for v in carried.dpi), 1))  # dots per metre
    if exif := _exif_bytes(carried):
        _write_chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    for kind, data, *_ in _png_info(carried).chunks:
        _write_chunk(file, kind, data)
    packer = zlib.compressobj(DEFLATE)
    for samples in _samples(photo):
        rows, _, channels = samples.shape
        stored = np.ascontiguousarray(samples, ">u2").view(np.uint8).reshape(rows, -1)  # (rows, bytes of a row)
        filtered = np.empty((rows, 1 + stored.shape[1]), np.uint8)
        filtered[:, 0] = 1  # filter "Sub": each byte is the difference from the pixel to the left
        step = 2 * channels
        filtered[:, 1 : 1 + step] = stored[:, :step]
        np.subtract(stored[:, step:], stored[:, :-step], out=filtered[:, 1 + step :])
        _write_chunk(file, b"IDAT", packer.compress(filtered.data))
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if data or kind == b"IEND":
        file.write(struct.pack(">I", len(data)) + kind)
        file.write(data)
        file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


# ---- TIFF


def _write_tiff(file: BinaryIO, photo: Photo) -> None:
    """One directory, then strips compressed by deflate with the horizontal predictor, as photo programs do."""
    height, width = photo.pixels.shape[:2]
    strips, rows_per_strip, channels = [], 0, 1
    for samples in _samples(photo):
        rows_per_strip = rows_per_strip or len(samples)
        channels = samples.shape[2]
        differences = samples.astype(samples.dtype.newbyteorder("<"))
        differences[:, 1:] -= samples[:, :-1]
        strips.append(zlib.compress(differences.data, DEFLATE))
    lengths = [len(strip) for strip in strips]
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in photo.carried.exif.items():
        if tag in DESCRIPTIVE_TAGS:
            directory[tag] = value
    if photo.carried.dpi:
        for tag, value in _resolution_tags(photo.carried.dpi).items():
            directory[tag] = value
    bits, colours = (8 * photo.pixels.itemsize,) * channels, 1 if photo.grey else 2
    layout = {256: width, 257: height, 258: bits, 259: 8, 262: colours, 277: channels, 278: rows_per_strip, 284: 1}
    for tag, value in (layout | {317: 2, 339: (1,) * channels}).items():
        directory[tag] = value
    if photo.alpha is not None:
        directory[338] = 2  # straight alpha
    for tag, data, kind in ((700, photo.carried.xmp, 1), (34675, photo.carried.icc, 7)):
        if data:
            directory.tagtype[tag] = kind
            directory[tag] = data
    for tag, values in ((273, np.cumsum([0, *lengths[:-1]]).tolist()), (279, lengths)):
        directory.tagtype[tag] = 4  # 32 bits, even if the first strips would fit into 16
        directory[tag] = tuple(values)
    directory.save(file)  # adds its length to the strips' positions
    file.writelines(strips)
