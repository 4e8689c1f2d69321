"""Reads image files of a data set as 8-bit RGB, (H, W, 3) uint8, and their headers without decoding."""

import os
from pathlib import Path

import numpy as np

from src.data.image_files import (
    FORMATS,
    CutOff,
    ImageInfo,
    missing,
    read_info,
    read_pixels,
    reason_of,
    to_eight_bits,
    upright,
)
from src.errors import UserError

IMAGE_SUFFIXES = tuple(FORMATS)
NO_FILE = "a pipe, socket or device; expected a file"
MOST_PIXELS = 178_956_970


def is_special(path: Path | str) -> bool:
    """Whether opening the path may block forever: a pipe, socket or device. False for folders and broken links."""
    return not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path)


def read_rgb(path: Path | str) -> np.ndarray:
    """Pixels of an image file, (H, W, 3) uint8 RGB, as stored: EXIF orientation is not applied.

    Grey is repeated, a palette looked up, alpha dropped (not blended with any background). 16-bit grey is scaled to 8
    bits by rounding value * 255 / 65535; 16-bit colours keep their upper byte.

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
        values = read_pixels(path, info).values
    except UserError:
        raise
    except Exception as e:  # on damaged files the decoders raise anything
        raise UserError(f"{path}: cannot be read ({reason_of(e)}). Fetch or save this file again.") from e
    if values.dtype == np.uint16:
        values = to_eight_bits(values) if info.kind.endswith(" L") else (values >> 8).astype(np.uint8)
    if values.shape[2] < 3:
        return np.repeat(values[..., :1], 3, axis=2)
    return np.ascontiguousarray(values[..., :3])


def probe(path: Path | str) -> ImageInfo:
    """Read size and kind from the header without decoding, and check that the end of a PNG or JPEG file is present.

    Raises:
        UserError: the file is missing, truncated, not an image, too large, or of an unsupported kind.
    """
    if is_special(path):
        raise UserError(f"{path}: {NO_FILE}")
    try:
        info = read_info(path)
        if info.file_format == "JPEG":
            with open(path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))  # some cameras append notes
                if b"\xff\xd9" not in file.read():
                    raise CutOff("JPEG", "its end marker")
    except FileNotFoundError as e:
        raise UserError(missing(path)) from e
    except UserError:
        raise
    except CutOff as e:
        text = f"this {e.args[0]} file is cut off, {reason_of(e)}"
        raise UserError(f"{path}: {text}. Fetch or save this file again.") from e
    except Exception as e:  # see `decode`
        raise UserError(f"{path}: not a readable image ({reason_of(e)}). Fetch or save this file again.") from e
    if (pixels := info.width * info.height) > MOST_PIXELS:
        raise UserError(
            f"{path}: {pixels / 1e6:.0f} megapixels, expected {MOST_PIXELS / 1e6:.0f} at most in a data set. Cut it "
            "and its partner into smaller images; deblur.py restores single photos of any size, see its --max_pixels."
        )
    return info
