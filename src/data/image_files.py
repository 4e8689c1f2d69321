"""Decodes image files of every format, for data sets (`src.data.images`) and for photos (`src.photos.read`).

libvips decodes PNG and TIFF, which have up to 16 bits and many layouts; Pillow decodes the formats of 8 bits. Errors of
the decoders pass through: the callers add the file's name.
"""

import functools
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import AvifImagePlugin, BmpImagePlugin, Image, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin

from src.errors import UserError

SUFFIXES = {  # the first one names new files
    "PNG": [".png"],
    "JPEG": [".jpg", ".jpeg", ".jpe", ".jfif"],
    "TIFF": [".tif", ".tiff"],
    "WEBP": [".webp"],
    "BMP": [".bmp"],
    "HEIC": [".heic", ".heif"],
    "AVIF": [".avif"],
}
FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
LONGEST_TEXT = 2**26  # bytes of a text or profile in PNG, unpacked
BAND_PIXELS = 2**20  # rows are converted in bands of about so many pixels, instead of the whole image at once

MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
MAGIC |= {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II\x2b\0": "TIFF", b"MM\0\x2b": "TIFF"}
BRANDS = {  # of photos among ISO base media files, most of which are videos
    "AVIF": {b"avif", b"avis"},
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
    "a CR3 raw photo, which is not supported; convert it to JPEG first": {b"crx "},
}
VIDEO_MARKS = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (8, b"AVI "),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
)

PNG_KINDS = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
BY_PILLOW: dict[str, Callable] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
DECODED_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA"} | {mode: mode for mode in ("L", "LA", "RGBA", "CMYK", "LAB")}
"""Modes of Pillow and those that they are decoded to; all others become RGB."""
NUMBERS = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}  # libvips' formats

# ---- tags of EXIF and TIFF
ORIENTATION, EXIF_IFD, INTEROP_IFD, GPS_IFD = 0x0112, 0x8769, 0xA005, 0x8825
ICC_PROFILE, XMP_PACKET = 34675, 700
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, TILE_WIDTH, EXTRA, FORMAT = (
    256, 257, 258, 259, 262, 277, 284, 322, 338, 339,
)  # fmt: skip
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8  # values of PHOTOMETRIC
OTHER_COLOURS = {
    4: "a transparency mask",
    9: "ICCLAB colours",
    10: "ITULAB colours",
    32803: "raw sensor data",
    32844: "LogL",
    32845: "LogLuv colours",
    34892: "raw linear data",
}
TIFF_KINDS = {MIN_IS_WHITE: "L", MIN_IS_BLACK: "L", PALETTE: "P", CMYK: "CMYK", CIELAB: "LAB"}  # others are RGB
JPEG_COMPRESSIONS, UNKNOWN_TO_LIBVIPS = (6, 7), (34925, 50000, 50001)  # LZMA, ZSTD, WebP
SEPARATE, PREMULTIPLIED, UNASSOCIATED = 2, 1, 2
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@dataclass(frozen=True)
class ImageInfo:
    """Header of an image file."""

    width: int
    """Pixels as stored, before any EXIF orientation."""
    height: int
    kind: str = "RGB"
    """Channels by Pillow's name of the mode, after their depth if it is not 8 bits, e.g. 16-bit RGB."""
    orientation: int = 1
    """The EXIF tag, 1 to 8; 1 is upright."""
    file_format: str = "PNG"
    """A key of `SUFFIXES`, by content."""


@dataclass(frozen=True)
class Decoded:
    """Pixels as stored, without the EXIF orientation."""

    values: np.ndarray
    """(H, W, channels) uint8 or uint16: 1 channel for grey or 3 for RGB, and one more for straight alpha."""
    notes: tuple[str, ...] = ()
    """Messages about what was converted or left out."""
    is_srgb: bool = False
    """Whether the colours were converted to sRGB, so that the file's profile no longer describes them."""


class NoImage(Exception):
    """The content is not that of a supported image; the message says what it is."""


class CutOff(Exception):
    """The end of the file is missing; the message names the missing part."""


def read_info(path: Path | str) -> ImageInfo:
    """The header, without decoding.

    Raises:
        UserError: a TIFF of an unsupported kind.
        NoImage, CutOff, OSError, and anything else on damaged files.
    """
    with open(path, "rb") as file:
        file_format = _format_of(file.read(64))
        if file_format == "PNG":
            chunks = png_chunks(file)
            width, height, bits, colours = struct.unpack_from(">IIBB", chunks[b"IHDR"][0])
            kind = "1" if (bits, colours) == (1, 0) else PNG_KINDS[colours]
            kind = f"16-bit {kind}" if bits == 16 else kind
            return ImageInfo(width, height, kind, orientation_of(png_info(chunks)))
        if file_format == "TIFF":
            tags = tiff_tags(file)
            if problem := _problem_of(tags):
                raise UserError(
                    f"{path}: a TIFF with {problem}, which is not supported; expected 8 or 16 bits, or floating-point "
                    "samples. Save it as PNG, e.g. with ImageMagick: magick IN.tif OUT.png"
                )
            return ImageInfo(tags[WIDTH], tags[HEIGHT], _tiff_kind(tags), orientation_of(tags), "TIFF")
    with open_by_pillow(path, file_format) as image:
        return ImageInfo(*image.size, image.mode, orientation_of(image.info), file_format)


def read_pixels(path: Path | str, info: ImageInfo) -> Decoded:
    """Decode a file whose header has been read.

    Raises:
        UserError: floating-point samples outside 0 to 1.
        MemoryError, and anything else on damaged files.
    """
    if info.file_format == "PNG":
        return Decoded(_fetch(_opened_by_vips("pngload", path)))
    if info.file_format == "TIFF":
        return _read_tiff(path, info)
    with open_by_pillow(path, info.file_format) as image:
        notes = _left_out(image, path)
        values = _loaded(image)
        if image.mode == "CMYK":
            values, note = _rgb_of_cmyk(values, image.info.get("icc_profile") or b"")
            return Decoded(values, (*notes, note), is_srgb=True)
        return Decoded(values, tuple(notes))


def bands(height: int, width: int) -> Iterator[slice]:
    """Slices of rows, about `BAND_PIXELS` pixels each, that cover an image from the top."""
    rows = max(1, BAND_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to an array of shape (H, W, ...)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)  # 5 mirrors at the main diagonal
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """(H, W, ...) uint16 -> uint8, rounded; uint8 is returned as it is."""
    if values.dtype == np.uint8:
        return values
    rounded = np.empty(values.shape, np.uint8)
    for rows in bands(*values.shape[:2]):
        # 255 / 65535 = 1 / 257, and 257 is odd: adding 128 and dividing rounds to the nearest, without ties.
        rounded[rows] = (values[rows].astype(np.uint32) + 128) // 257
    return rounded


def missing(path: Path | str) -> str:
    """The message about a file that does not exist."""
    return f"{path}: no such file{', a broken link' if Path(path).is_symlink() else ''}"


def reason_of(error: Exception) -> str:
    """One line, without the path, which the caller adds."""
    if isinstance(error, CutOff):
        return f"{error.args[1]} is missing"
    lines = str(error).split("\n") if type(error).__module__.startswith("pyvips") else [str(error)]
    last = next((line for line in reversed(lines) if line.strip()), "")  # libvips reports the cause first
    return getattr(error, "strerror", None) or " ".join(last.split()) or type(error).__name__


def _format_of(head: bytes) -> str:
    """A key of `SUFFIXES` by the first bytes of a file, whatever its name is. Raises NoImage."""
    if not head:
        raise NoImage("empty, 0 bytes. Fetch or save this file again.")
    for mark, file_format in MAGIC.items():
        if head.startswith(mark):
            return file_format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":  # ISO base media: the box lists the brands to which the file conforms, four bytes each
        box = head[8 : min(len(head), int.from_bytes(head[:4], "big"))]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
        for kind, own in BRANDS.items():
            if brands & own and kind in SUFFIXES:
                return kind
            if brands & own:
                raise NoImage(kind)
    if any(head[start:].startswith(mark) for start, mark in VIDEO_MARKS):
        raise NoImage("a video, not a photo; for deblur.py, rename it to end in .mp4, .mov, .mkv, .webm or .avi")
    raise NoImage("not a photo; expected the content of a PNG, JPEG, TIFF, WebP, BMP, HEIC or AVIF file")


# ---- Pillow


def open_by_pillow(path: Path | str, file_format: str) -> Image.Image:
    """The file with its header read. Unlike `Image.open`, without Pillow's limit of pixels, which the callers set."""
    if file_format == "HEIC":
        from pillow_heif import HeifImageFile

        return HeifImageFile(path)
    return BY_PILLOW[file_format](path, None)


def orientation_of(source: Image.Exif | dict) -> int:
    """1 to 8 of EXIF or of an `info` with it; 1, upright, if the tag is missing or damaged."""
    try:
        value = int((source if isinstance(source, Image.Exif) else exif_of(source)).get(ORIENTATION, 1))
    except Exception:  # damaged EXIF may raise anything
        return 1
    return value if 1 <= value <= 8 else 1


def _loaded(image: Image.Image) -> np.ndarray:
    """(H, W, channels) uint8, converted in bands: a second Pillow image would take 4 bytes per pixel."""
    image.load()
    mode = DECODED_MODES.get(image.mode, "RGB")
    values = np.empty((image.height, image.width, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
    for rows in bands(image.height, image.width):
        whole = rows == slice(0, image.height)
        band = image if whole else image.crop((0, rows.start, image.width, rows.stop))
        values[rows] = np.asarray(band if band.mode == mode else band.convert(mode)).reshape(values[rows].shape)
    return values


def _left_out(image: Image.Image, path: Path | str) -> list[str]:
    """Notes on further pictures in the file and on bits that Pillow leaves out."""
    notes = []
    if (count := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"the first of its {count} pictures only")
    bits = image.info.get("bit_depth", 8)
    if image.format == "AVIF":
        bits = _opened_by_vips("heifload", path).get("bits-per-sample")
    if bits > 8:
        notes.append(f"its {bits} bits are read as 8")
    if image.info.get("aux") or image.info.get("depth_images"):
        notes.append("written without its gain map, depth map or other auxiliary images")
    return notes


# ---- libvips


@functools.cache
def _vips() -> Any:
    """pyvips without its cache of operations: a file may change between two readings."""
    import pyvips

    logging.getLogger("pyvips").setLevel(logging.ERROR)  # it warns of details of profiles and tags
    pyvips.cache_set_max(0)
    return pyvips


def _opened_by_vips(loader: str, path: Path | str) -> Any:
    """The file as a pyvips.Image with its header read."""
    options = {} if loader == "heifload" else {"unlimited": True}  # for large strips and profiles
    return getattr(_vips().Image, loader)(os.fsencode(path), access="sequential", fail_on="error", **options)


def _fetch(image: Any, convert: Callable[[np.ndarray], np.ndarray] = lambda band: band) -> np.ndarray:
    """(H, W, channels) of a pyvips.Image, after `convert` of each band of rows.

    A region computes in this thread. `Image.numpy` would start libvips' threads, without which a forked child hangs.
    """
    region, values = _vips().Region.new(image), None
    for rows in bands(image.height, image.width):
        height = rows.stop - rows.start
        try:
            data = region.fetch(0, rows.start, image.width, height)
        except _vips().Error as e:
            if "out of memory" in str(e):
                raise MemoryError(str(e)) from e
            raise
        band = convert(np.frombuffer(data, NUMBERS[image.format]).reshape(height, image.width, image.bands))
        if values is None:
            values = np.empty((image.height, *band.shape[1:]), band.dtype)
        values[rows] = band
    assert values is not None  # no image has 0 rows
    return values


def _rgb_of_cmyk(values: np.ndarray, icc: bytes) -> tuple[np.ndarray, str]:
    """(H, W, 4) uint8 or uint16 -> (H, W, 3) of the same type, and a note.

    Through the profile if there is one, else as Pillow and browsers convert, by 1 - min(1, ink + black).
    """
    if icc[16:20] == b"CMYK" and icc[36:40] == b"acsp":
        image = _vips().Image.new_from_array(values, interpretation="cmyk").copy()
        image.set_type(_vips().GValue.blob_type, "icc-profile-data", icc)
        options = {"embedded": True, "intent": "relative", "black_point_compensation": True}
        image = image.icc_transform("srgb", depth=8 * values.itemsize, **options)
        return _fetch(image), "CMYK is converted to sRGB through its profile"
    white = np.iinfo(values.dtype).max
    rgb = np.empty((*values.shape[:2], 3), values.dtype)
    for rows in bands(*values.shape[:2]):
        light = white - values[rows, :, 3:].astype(np.uint32)
        rgb[rows] = light - (values[rows, :, :3] * light + white // 2) // white
    return rgb, "CMYK is written as RGB"


# ---- PNG


def png_chunks(file: BinaryIO) -> dict[bytes, list[bytes]]:
    """The chunks of a PNG file by kind, without those of pixels.

    Raises:
        CutOff, ValueError: the last or the first chunk is missing.
    """
    chunks: dict[bytes, list[bytes]] = {}
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if not chunks and kind != b"IHDR":
            break
        if kind in (b"IDAT", b"fdAT"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        chunks.setdefault(kind, []).append(file.read(length))
        file.seek(4, os.SEEK_CUR)  # the checksum
        if kind == b"IEND":
            return chunks
    if not chunks:
        raise ValueError("its header, IHDR, is missing")
    raise CutOff("PNG", "its last chunk, IEND,")


def png_info(chunks: dict[bytes, list[bytes]]) -> dict[str, Any]:
    """What the chunks carry: exif, icc_profile and xmp as bytes, texts by key, dpi, and the keys of lost texts.

    https://www.w3.org/TR/png-3/
    """
    texts, lost = {}, []
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        for chunk in chunks.get(kind, []):
            name, _, value = chunk.partition(b"\0")
            key = name.decode("latin-1")
            packed = kind == b"zTXt" or (kind == b"iTXt" and value[:1] == b"\1")
            if kind == b"iTXt":  # whether and how it is packed, language, translated key
                value = value[2:].split(b"\0", 2)[-1]
            try:
                value = _unpacked(value[kind == b"zTXt" :]) if packed else value
                texts[key] = value.decode("utf-8" if kind == b"iTXt" else "latin-1")
            except (zlib.error, ValueError):
                lost.append(key)
    info: dict[str, Any] = {"texts": texts, "lost": lost}
    for key in [key for key in texts if key.startswith(("XML:com.adobe.xmp", "Raw profile type"))]:
        info[key] = texts.pop(key)
    if b"eXIf" in chunks:
        info["exif"] = chunks[b"eXIf"][0]
    info["xmp"] = info.get("XML:com.adobe.xmp", "").encode()
    if b"iCCP" in chunks:  # its name, a byte, and the profile
        try:
            info["icc_profile"] = _unpacked(chunks[b"iCCP"][0].partition(b"\0")[2][1:])
        except (zlib.error, ValueError):
            lost.append("ICC profile")
    if len(size := chunks.get(b"pHYs", [b""])[0]) == 9 and size[8] == 1:  # dots per metre
        info["dpi"] = tuple(dots * 0.0254 for dots in struct.unpack(">II", size[:8]))
    return info


def _unpacked(data: bytes) -> bytes:
    """Raises zlib.error or ValueError if it is damaged or longer than `LONGEST_TEXT`."""
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, LONGEST_TEXT)
    if not unpacker.eof:
        raise ValueError("too long")
    return text


def exif_of(info: dict) -> Image.Exif:
    """EXIF from what Pillow's `info` or `png_info` has, with the orientation that only XMP has. Raises anything."""
    image = Image.new("1", (1, 1))
    image.info.update(info)
    return image.getexif()


# ---- TIFF


def tiff_tags(file: BinaryIO) -> Image.Exif:
    """The tags of the first directory, and its EXIF and GPS directories, read as far as they are whole.

    Raises:
        UserError: BigTIFF in big-endian order. Anything else on damaged files.
    """
    file.seek(0)
    head = file.read(16)
    order, is_big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    if is_big and order == ">":  # Pillow does not recognize it
        raise UserError(
            f"{file.name}: a TIFF with 64-bit offsets in big-endian order (BigTIFF), which is not supported; expected "
            "little-endian order. Save it as PNG, e.g. with ImageMagick: magick IN.tif OUT.png"
        )
    tags = Image.Exif()
    tags.endian, tags.bigtiff = order, is_big
    tags.load_from_fp(file, struct.unpack_from(order + ("Q" if is_big else "I"), head, 8 if is_big else 4)[0])
    for directory in (EXIF_IFD, GPS_IFD, INTEROP_IFD):  # read now, since the file will be closed
        try:
            tags.get_ifd(directory)
        except Exception:  # anything on damaged data, which `src.photos.read` reports
            break
    return tags


def _many(tags: Image.Exif, tag: int, default: Any = ()) -> tuple:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def _problem_of(tags: Image.Exif) -> str:
    """The unsupported property of a TIFF; '' if it is supported."""
    samples = tags.get(SAMPLES, 1)
    bits, kinds = _many(tags, BITS, (1,) * samples), set(_many(tags, FORMAT, UNSIGNED))
    words, colours = f"{'/'.join(map(str, dict.fromkeys(bits)))}-bit", tags[PHOTOMETRIC]
    if kinds == {FLOAT}:
        if bits[0] not in (16, 32):
            return f"{words} floating-point samples"
        if PREMULTIPLIED in _many(tags, EXTRA):
            return "floating-point colours multiplied by alpha"
        if colours not in (MIN_IS_BLACK, RGB):
            return "floating-point samples other than grey and RGB"
    elif kinds != {UNSIGNED}:
        return f"{words} {'signed' if SIGNED in kinds else 'complex or untyped'} samples"
    elif len(set(bits)) > 1 or bits[0] not in (1, 2, 4, 8, 16) or (samples > 1 and bits[0] < 8):
        return f"{words} samples"
    if colours in OTHER_COLOURS or colours > CIELAB or colours == 7:
        return OTHER_COLOURS.get(colours, f"colours of kind {colours} (PhotometricInterpretation)")
    if colours == YCBCR and tags.get(COMPRESSION, 1) not in JPEG_COMPRESSIONS:
        return "YCbCr colours that are not compressed as JPEG"
    if samples > 1 and tags.get(PLANAR, 1) == SEPARATE and TILE_WIDTH in tags:
        return "tiles in separate planes (PlanarConfiguration 2)"
    by_pillow = _needs_pillow(tags)
    if by_pillow and (bits[0] != 8 or orientation_of(tags) > 1):
        return f"{by_pillow}, {words} and of orientation {orientation_of(tags)}"
    return ""


def _needs_pillow(tags: Image.Exif) -> str:
    """The property by which libvips cannot read a TIFF of 8 bits, but Pillow can; '' if libvips reads it."""
    if tags.get(COMPRESSION, 1) in UNKNOWN_TO_LIBVIPS:
        return "LZMA, ZSTD or WebP compression"
    return "CIELAB colours" if tags[PHOTOMETRIC] == CIELAB and _many(tags, BITS)[0] == 8 else ""


def _tiff_kind(tags: Image.Exif) -> str:
    bits, extra = _many(tags, BITS, 1)[0], tags.get(SAMPLES, 1)
    kind = TIFF_KINDS.get(tags[PHOTOMETRIC], "RGB")
    extra -= {"L": 1, "P": 1, "CMYK": 4}.get(kind, 3)
    kind = "1" if (kind, bits, extra) == ("L", 1, 0) else kind + ("A" if extra and kind in ("L", "RGB") else "")
    if FLOAT in _many(tags, FORMAT):
        return f"floating-point {kind}"
    return f"16-bit {kind}" if bits == 16 else kind


def _read_tiff(path: Path | str, info: ImageInfo) -> Decoded:
    with open(path, "rb") as file:
        tags = tiff_tags(file)
    if _needs_pillow(tags):
        with open_by_pillow(path, "TIFF") as opened:
            notes, values = _left_out(opened, path), _loaded(opened)
        if info.kind != "LAB":
            return Decoded(values, tuple(notes))
        values ^= np.array([0, 128, 128], np.uint8)  # a and b are signed: now 128 is neutral
        image = _vips().Image.new_from_array(values).linear([100 / 255, 1, 1], [0, -128, -128])
    else:
        image = _opened_by_vips("tiffload", path)
        pages = image.get_n_pages()
        notes = [f"the first of its {pages} pictures only"] if pages > 1 else []
    if "LAB" in info.kind:  # relative to D50, like the space that connects profiles
        image = image[:3].colourspace("lab") if image.format == "short" else image.copy(interpretation="lab")
        image = image.icc_export(pcs="lab", output_profile="srgb", depth=16 if "16" in info.kind else 8)
        return Decoded(_fetch(image), (*notes, "CIELAB is converted to sRGB"), is_srgb=True)
    colours = {"L": 1, "LA": 1, "1": 1, "CMYK": 4}.get(info.kind.split()[-1], 3)
    extra = _many(tags, EXTRA)
    alpha = colours != 4 and image.bands > colours and (not extra or extra[0] in (PREMULTIPLIED, UNASSOCIATED))
    if image.bands > colours + alpha:
        notes.append("its extra channels, which are no transparency, are left out")
        image = image[: colours + alpha]
    if info.kind.startswith("floating-point"):
        notes.append("floating-point values are written as 16 bits")
        return Decoded(_fetch(image, functools.partial(_from_float, path)), tuple(notes))
    values = _fetch(image)
    if colours == 4:
        icc = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
        values, note = _rgb_of_cmyk(values, bytes(icc))
        return Decoded(values, (*notes, note), is_srgb=True)
    return Decoded(values, tuple(notes))


def _from_float(path: Path | str, band: np.ndarray) -> np.ndarray:
    """(rows, W, channels) float32 in 0 to 1 -> uint16. The scale is the file's own: no transfer curve is applied."""
    low, high = band.min(), band.max()
    if not (low >= 0 and high <= 1):  # written this way so that NaN fails too
        raise UserError(
            f"{path}: a TIFF with floating-point samples from {low:.4g} to {high:.4g}; expected 0 to 1. Scale them, or "
            "save it with 16 bits"
        )
    return np.rint(band.astype(np.float64) * 65535).astype(np.uint16)
