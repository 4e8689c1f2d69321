"""Photos as files, for the tests that read and write them."""

from pathlib import Path

import numpy as np
from PIL import Image

from src.data import image_files
from src.photos import index as deblur_index
from src.photos.write import fit_format, write_photo

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (13, 22, 3), np.uint8)
RGB16 = RNG.integers(0, 65536, (13, 22, 3)).astype(np.uint16)
ALPHA = RNG.integers(0, 256, (13, 22), np.uint8)
ICC = b"a colour profile" * 20
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6">caf\xc3\xa9</rdf></x:xmpmeta>'


def save(path, array=RGB, mode=None, **kwargs):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    image.save(path, **kwargs)
    return path


def files(folder="out"):
    """All but the record of `deblur.py`."""
    found = (p for p in Path(folder).rglob("*") if p.is_file() and p.name != deblur_index.NAME)
    return sorted(str(p.relative_to(folder)) for p in found)


def write(path, photo, quality=95):
    """As deblur.py does: fit, then write; returns the notes."""
    file_format = image_files.FORMATS[path.suffix]
    fitted, notes = fit_format(photo, file_format)
    with open(path, "wb") as file:
        write_photo(file, fitted, file_format, quality)
    return notes


def same(a, b):
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert a.pixels.dtype == b.pixels.dtype and a.grey == b.grey and (a.alpha is None) == (b.alpha is None)
    if a.alpha is not None:
        np.testing.assert_array_equal(a.alpha, b.alpha)


def make_exif():
    exif = Image.Exif()
    exif[270], exif[271], exif[272], exif[306] = "a walk", "Maker", "Camera 1", "2021:03:04 05:06:07"
    exif[0x8769] = {0x829A: (1, 30), 0x9003: "2021:03:04 05:06:07", 0x927C: b"maker's note \0\1", 0xA434: "35mm"}
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 29.5)}
    return exif
