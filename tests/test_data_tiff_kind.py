"""TIFFs written by tifffile, which shares no code with the readers, through both of them: right values or a refusal."""

import struct

import numpy as np
import pytest
import tifffile

from src.data.images import read_rgb
from src.data.pairs import Pair, check_pairs
from src.data.tiff_kind import refuse_unknown_tiff
from src.errors import UserError
from src.photos.read import read_header, read_photo, to_eight_bits

RNG = np.random.default_rng(3)
WIDE = RNG.integers(0, 65536, (13, 22, 5)).astype(np.uint16)
NARROW = RNG.integers(0, 256, (13, 22, 5)).astype(np.uint8)


def write(path, values, photometric="rgb", byteorder="<", **options):
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(values, 2, 0)
    values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder(byteorder))
    tifffile.imwrite(path, values, photometric=photometric, byteorder=byteorder, **options)
    return path


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "values,options",
    [
        (NARROW[..., 0], {"photometric": "minisblack"}),
        (NARROW[..., 0], {"photometric": "miniswhite"}),
        (NARROW[..., :3], {}),
        (NARROW[..., :3], {"planarconfig": "separate"}),
        (NARROW[..., :4], {"extrasamples": ["unassalpha"]}),
        (WIDE[..., 0], {"photometric": "minisblack"}),
        (WIDE[..., 0], {"photometric": "minisblack", "tile": (16, 16)}),
        (WIDE[..., :3], {}),
        (WIDE[..., :3], {"compression": "zlib", "predictor": True}),
        (WIDE[..., :3], {"tile": (16, 16)}),
        (WIDE[..., :4], {"extrasamples": ["unassalpha"]}),
    ],
)
def test_known_kinds_keep_their_values(tmp_path, values, options, byteorder):
    path = write(tmp_path / "a.tif", values, byteorder=byteorder, **options)
    expected = values[..., :3] if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    if options.get("photometric") == "miniswhite":
        expected = 255 - expected
    np.testing.assert_array_equal(read_photo(path).pixels, expected)
    if values.dtype == np.uint16 and values.ndim == 3:
        expected = (expected >> 8).astype(np.uint8)  # Pillow keeps the upper byte
    np.testing.assert_array_equal(read_rgb(path), to_eight_bits(np.ascontiguousarray(expected)))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "values,options,words",
    [
        (WIDE[..., 0], {"photometric": "miniswhite"}, "16-bit samples in which 0 is white (MinIsWhite)"),
        (WIDE[..., :3], {"planarconfig": "separate"}, "16-bit samples in separate planes (PlanarConfiguration 2)"),
        (WIDE[..., :4], {"planarconfig": "separate", "extrasamples": ["unassalpha"]}, "16-bit samples in separate"),
        (WIDE[..., :4], {"extrasamples": ["assocalpha"]}, "16-bit colours multiplied by alpha"),
        (WIDE[..., :5], {"extrasamples": ["unspecified"] * 2}, "16-bit samples, 5 per pixel"),
        (WIDE[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, "16-bit grey and 1 further"),
        (WIDE[..., :4], {"photometric": "separated"}, "16-bit CMYK samples"),
        (WIDE[..., :3], {"photometric": "cielab"}, "CIELAB colours"),
        (NARROW[..., :3], {"photometric": "cielab"}, "CIELAB colours"),
        (NARROW[..., :3], {"photometric": "ycbcr"}, "uncompressed YCbCr colours"),
        (WIDE[..., 0].astype(np.float32), {"photometric": "minisblack"}, "32-bit floating-point samples"),
        (WIDE[..., :3].astype(np.float32), {}, "32-bit floating-point samples"),
        (WIDE[..., :3].astype(np.float16), {}, "16-bit floating-point samples"),
        (WIDE[..., :3].astype(np.float64), {}, "64-bit floating-point samples"),
        (WIDE[..., 0].astype(np.uint32), {"photometric": "minisblack"}, "32-bit samples"),
        (WIDE[..., 0].astype(np.int16), {"photometric": "minisblack"}, "16-bit signed samples"),
        (NARROW[..., 0].astype(np.int8), {"photometric": "minisblack"}, "8-bit signed samples"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, values, options, words, byteorder):
    path = write(tmp_path / "a.tif", values, byteorder=byteorder, **options)
    for reader in (read_rgb, read_photo, read_header):
        with pytest.raises(UserError) as caught:
            reader(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: a TIFF with {words}") and text.endswith(": magick IN.tif OUT.png")
        assert "\n" not in text


def test_big_tiff(tmp_path):
    path = write(tmp_path / "a.tif", WIDE[..., :3], bigtiff=True)
    np.testing.assert_array_equal(read_photo(path).pixels, WIDE[..., :3])
    write(path, WIDE[..., :3], bigtiff=True, planarconfig="separate")
    with pytest.raises(UserError, match="in separate planes"):
        read_rgb(path)
    write(path, WIDE[..., :3], bigtiff=True, byteorder=">")
    with pytest.raises(UserError, match="64-bit offsets in big-endian order"):
        read_rgb(path)


def test_twelve_bits_are_not_taken_for_dark_sixteen(tmp_path):
    path = write(tmp_path / "a.tif", WIDE[..., 0], photometric="minisblack")
    bits = struct.pack("<HHI", 258, 3, 1)
    path.write_bytes(path.read_bytes().replace(bits + b"\x10\0", bits + b"\x0c\0"))
    with pytest.raises(UserError, match="a TIFF with 12-bit samples"):
        read_rgb(path)


def test_a_data_set_with_one_is_refused_before_anything_is_scored(tmp_path):
    good = write(tmp_path / "good.tif", WIDE[..., :3])
    bad = write(tmp_path / "bad.tif", WIDE[..., :3], planarconfig="separate")
    with pytest.raises(UserError, match=r"bad\.tif: a TIFF with 16-bit samples in separate planes"):
        check_pairs([Pair("1", good, bad)])
    assert check_pairs([Pair("1", good, good)]) == " (converted to 8-bit RGB: 2 16-bit RGB)"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
def test_damaged_files_are_left_to_the_readers(tmp_path, share):
    path = write(tmp_path / "a.tif", WIDE[..., :3])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse_unknown_tiff(path)
    path.write_bytes(b"II*\0" + b"\xff" * 60)
    refuse_unknown_tiff(path)
    path.write_bytes(b"")
    refuse_unknown_tiff(path)
