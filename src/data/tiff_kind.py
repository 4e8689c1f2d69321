"""Refuses the kinds of TIFF that Pillow and OpenCV silently misread.

They take, for example, 16-bit planes for interleaved pixels, MinIsWhite for MinIsBlack, or 12 bits for 16.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from src.errors import UserError

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT = 258, 259, 262, 277, 284, 338, 339  # tags
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # values of PHOTOMETRIC
COLOURS = {
    4: "a transparency mask",
    8: "CIELAB colours",
    9: "ICCLAB colours",
    10: "ITULAB colours",
    32803: "raw sensor data",
    32844: "LogL",
    32845: "LogLuv colours",
    34892: "raw linear data",
}
UNCOMPRESSED, SEPARATE, PREMULTIPLIED = 1, 2, 1
SIGNED, FLOAT = 2, 3
NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of tags


def refuse_unknown_tiff(path: Path | str) -> None:
    """Raise a UserError if a file is a TIFF of an unsupported kind.

    Other files pass, including damaged ones, whose problems the readers report.
    """
    with open(path, "rb") as file:
        try:
            kind = _unknown_kind(file)
        except (struct.error, KeyError, ValueError, OverflowError):
            return
    if kind:
        raise UserError(
            f"{path}: a TIFF with {kind}, which is not supported; expected 8- or 16-bit grey or RGB, interleaved. Save "
            "it as PNG, e.g. with ImageMagick: magick IN.tif OUT.png"
        )


def _unknown_kind(file: BinaryIO) -> str:
    """The unsupported property of a TIFF; '' if it is supported or no TIFF."""
    head = file.read(16)
    if head[:4] == b"MM\0\x2b":
        return "64-bit offsets in big-endian order (BigTIFF)"
    if head[:4] not in (b"II*\0", b"MM\0*", b"II\x2b\0"):
        return ""
    tags = _tags(file, head)
    samples = tags.get(SAMPLES, (1,))[0]
    bits = tags.get(BITS, (1,) * samples)
    deep, colour = max(bits) > 8, tags[PHOTOMETRIC][0]
    kinds = set(tags.get(FORMAT, ()))
    words = f"{'/'.join(map(str, dict.fromkeys(bits)))}-bit"
    if FLOAT in kinds:
        return f"{words} floating-point samples"
    if SIGNED in kinds:
        return f"{words} signed samples"
    if len(set(bits)) > 1 or bits[0] not in (1, 2, 4, 8, 16):
        return f"{words} samples"
    if colour in COLOURS or colour > YCBCR:
        return COLOURS.get(colour, f"colours of kind {colour} (PhotometricInterpretation)")
    if colour == YCBCR and tags.get(COMPRESSION, (UNCOMPRESSED,))[0] == UNCOMPRESSED:
        return "uncompressed YCbCr colours"
    if not deep:
        return ""
    if colour == MIN_IS_WHITE:
        return f"{words} samples in which 0 is white (MinIsWhite)"
    if colour in (PALETTE, CMYK, YCBCR):
        return f"{words} {dict([(PALETTE, 'palette'), (CMYK, 'CMYK'), (YCBCR, 'YCbCr')])[colour]} samples"
    if colour == MIN_IS_BLACK and samples > 1:
        return f"{words} grey and {samples - 1} further channel(s)"
    if samples > 1 and tags.get(PLANAR, (1,))[0] == SEPARATE:
        return f"{words} samples in separate planes (PlanarConfiguration 2)"
    if PREMULTIPLIED in tags.get(EXTRA, ()):
        return f"{words} colours multiplied by alpha"
    return f"{words} samples, {samples} per pixel" if samples not in (1, 3, 4) else ""


def _tags(file: BinaryIO, head: bytes) -> dict[int, tuple[int, ...]]:
    """Values of the first directory by tag. Raises struct.error, KeyError and others if it is damaged."""
    order, is_big = "<" if head[:2] == b"II" else ">", head[2] == 43
    offset, count, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")
    (start,) = struct.unpack_from(order + offset, head, 8 if is_big else 4)
    file.seek(start)
    (entries,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
    size = struct.calcsize(order + entry)
    found = {}
    for i in range(min(entries, 4096)):
        file.seek(start + struct.calcsize(order + count) + i * size)
        tag, kind, length, value = struct.unpack(order + entry, file.read(size))
        if tag not in (BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT) or not 0 < length <= 64:
            continue
        numbers = f"{order}{length}{NUMBERS[kind]}"
        if struct.calcsize(numbers) > len(value):
            file.seek(struct.unpack(order + offset, value)[0])
            value = file.read(struct.calcsize(numbers))
        found[tag] = struct.unpack_from(numbers, value)
    return found
