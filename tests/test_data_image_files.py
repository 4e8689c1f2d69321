"""Every file of the zoo through both readers: right values, or a refusal by name."""

import os
import signal
import struct

import numpy as np
import pytest
from PIL import Image

from src.data.image_files import to_eight_bits, upright
from src.data.images import read_rgb
from src.data.pairs import Pair, check_pairs
from src.errors import UserError
from src.photos.read import read_header, read_photo
from tests.photo_zoo import FLOATS, NARROW, WIDE, make_zoo, tiff


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo"))


def test_the_zoo_has_right_values_in_photos_and_in_data_sets(zoo):
    assert len(zoo) >= 60
    wrong = []
    for animal in zoo:
        photo, stored = read_photo(animal.path), read_rgb(animal.path)
        values = upright(animal.values, animal.orientation)
        channels = values.shape[2]
        alpha = values[..., -1] if channels in (2, 4) else None
        colours = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, axis=2)
        # A data set keeps the upper byte of colours, and what it stores is not turned.
        one = channels == 1 or "key_grey" in animal.name
        eight = to_eight_bits if one else lambda x: (x >> 8 * (x.itemsize - 1)).astype(np.uint8)
        in_set = upright(eight(colours), {6: 8, 8: 6}.get(animal.orientation, animal.orientation))
        header = read_header(animal.path)
        problems = {
            "pixels": differs(photo.pixels, colours, animal.tolerance),
            "alpha": (photo.alpha is None) != (alpha is None)
            or (alpha is not None and differs(photo.alpha, alpha, animal.tolerance)),
            "grey": photo.grey != (channels < 3),
            "notes": "; ".join(photo.notes) != animal.notes,
            "size": (header.height, header.width) != colours.shape[:2],
            "data set": differs(stored, in_set, animal.tolerance if stored.dtype == values.dtype else 2),
        }
        wrong += [f"{animal.name}: {what} {value}" for what, value in problems.items() if value]
    assert not wrong, "\n".join(wrong)


def differs(got, expected, tolerance):
    """'' or how two arrays differ."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{got.shape} {got.dtype}, expected {expected.shape} {expected.dtype}"
    most = int(np.abs(got.astype(int) - expected).max())
    return f"differs by {most}" if most > tolerance else ""


def test_eight_bit_png_and_jpeg_have_the_values_of_pillow(zoo):
    """Bit by bit those of former versions, which read them by Pillow: scores and trainings can be compared."""
    for animal in zoo:
        if animal.path.suffix in (".png", ".jpg") and "profile" not in animal.name and animal.values.dtype == np.uint8:
            with Image.open(animal.path) as image:
                expected = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(read_rgb(animal.path), expected, animal.name)
            np.testing.assert_array_equal(
                read_photo(animal.path).pixels, upright(expected, animal.orientation), animal.name
            )


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "values, options, words",
    [
        (WIDE[..., :3], {"planarconfig": "separate", "tile": (16, 16)}, "tiles in separate planes"),
        (WIDE[..., :3], {"photometric": "icclab"}, "ICCLAB colours"),
        (NARROW[..., :3], {"photometric": "ycbcr"}, "YCbCr colours that are not compressed as JPEG"),
        (FLOATS[..., :3].astype(np.float64), {}, "64-bit floating-point samples"),
        (FLOATS[..., 0], {"photometric": "miniswhite"}, "floating-point samples other than grey and RGB"),
        (FLOATS[..., :4], {"extrasamples": ["assocalpha"]}, "floating-point colours multiplied by alpha"),
        (WIDE[..., 0].astype(np.uint32), {"photometric": "minisblack"}, "32-bit samples"),
        (WIDE[..., 0].astype(np.int16), {"photometric": "minisblack"}, "16-bit signed samples"),
        (NARROW[..., 0].astype(np.int8), {"photometric": "minisblack"}, "8-bit signed samples"),
        (NARROW[..., 0].astype(np.complex64), {"photometric": "minisblack"}, "64-bit complex or untyped samples"),
    ],
)
def test_other_kinds_of_tiff_are_refused_by_name(tmp_path, values, options, words, byteorder):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, byteorder=byteorder, **options))
    for reader in (read_rgb, read_photo, read_header):
        with pytest.raises(UserError) as caught:
            reader(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: a TIFF with {words}") and text.endswith(": magick IN.tif OUT.png")
        assert "\n" not in text


def test_twelve_bits_and_big_endian_bigtiff_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    bits = struct.pack("<HHI", 258, 3, 1)
    path.write_bytes(tiff(WIDE[..., 0], "minisblack").replace(bits + b"\x10\0", bits + b"\x0c\0"))
    with pytest.raises(UserError, match="a TIFF with 12-bit samples"):
        read_rgb(path)
    path.write_bytes(tiff(WIDE[..., :3], byteorder=">", bigtiff=True))
    with pytest.raises(UserError, match="64-bit offsets in big-endian order"):
        read_rgb(path)


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_floating_point_values_outside_of_0_to_1_are_refused_with_their_range(tmp_path, value):
    values = FLOATS[..., :3].copy()
    values[3, 4, 1] = value
    (tmp_path / "a.tif").write_bytes(tiff(values))
    for reader in (read_rgb, read_photo):
        with pytest.raises(UserError, match=r"floating-point samples from .*; expected 0 to 1\. Scale them") as caught:
            reader(tmp_path / "a.tif")
        assert np.isinf(value) or f"{value:.4g}" in str(caught.value)


def test_a_data_set_with_an_unsupported_file_is_refused_before_anything_is_scored(tmp_path):
    good, bad = tmp_path / "good.tif", tmp_path / "bad.tif"
    good.write_bytes(tiff(WIDE[..., :3]))
    bad.write_bytes(tiff(FLOATS[..., :3].astype(np.float64)))
    with pytest.raises(UserError, match=r"bad\.tif: a TIFF with 64-bit floating-point samples"):
        check_pairs([Pair("1", good, bad)])
    assert check_pairs([Pair("1", good, good)]) == " (converted to 8-bit RGB: 2 16-bit RGB)"


DAMAGEABLE = ("rgb16_le.tif", "predictor16_be.tif", "tiff_lzw.tif", "jpeg.tif", "colour6_16.png", "progressive.jpg")
DAMAGEABLE += ("rgb.webp", "rgb.bmp", "rgb.avif", "rgb.heic", "zstd.tif", "lab16_le.tif")


@pytest.mark.parametrize("name", DAMAGEABLE)
def test_cut_off_files_are_errors_of_one_line(zoo, tmp_path, name):
    content = next(animal.path for animal in zoo if animal.name == name).read_bytes()
    for share in (0.02, 0.3, 0.7, 0.95):
        path = tmp_path / f"{share}{name}"
        path.write_bytes(content[: int(len(content) * share)])
        for reader in (read_rgb, read_photo):
            with pytest.raises(UserError) as caught:
                reader(path)
            assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rgb16_le.tif", "colour6_16.png", "rgb.webp", "444.jpg", "rgb.heic", "rgb.bmp"])
def test_content_counts_not_the_suffix(zoo, tmp_path, name):
    animal = next(animal for animal in zoo if animal.name == name)
    path = tmp_path / ("a.jpg" if "jpg" not in name else "a.HEIC")
    path.write_bytes(animal.path.read_bytes())
    np.testing.assert_array_equal(read_photo(path).pixels, read_photo(animal.path).pixels)
    assert read_header(path).file_format == read_header(animal.path).file_format


def test_names_that_are_no_text_or_look_like_options(tmp_path):
    for name in (b"\xe4\xff.png", "ä[page=3].png".encode(), b"%s.png", b"a:b.png"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Image.fromarray(NARROW[..., :3]).save(path)
        np.testing.assert_array_equal(read_rgb(path), NARROW[..., :3])


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.tif"
    for values in (WIDE[..., :3], WIDE[..., 1:4]):
        path.write_bytes(tiff(values))
        np.testing.assert_array_equal(read_photo(path).pixels, values)


def test_a_forked_child_reads_on(zoo):
    """libvips' own threads would be missing in it, and it would wait for them forever."""
    some = zoo[::5]
    for animal in some:
        read_rgb(animal.path)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            for animal in some:
                read_rgb(animal.path)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
