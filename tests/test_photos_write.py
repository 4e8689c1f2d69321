"""Photos are written as their format allows, and what it cannot hold is said."""

import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from conftest import full_disk
from PIL import Image

from src.data import image_files
from src.data.image_files import to_eight_bits
from src.errors import UserError
from src.photos import read as photo_module
from src.photos.read import read_header, read_photo
from src.photos.write import check_fits
from tests.photo_zoo import png
from tests.photos import RGB, RGB16, make_exif, same, write


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """Bands of 5 rows, so that every image here has several, the last one shorter."""
    monkeypatch.setattr(image_files, "BAND_PIXELS", 110)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".jpg"])
def test_one_pixel_wide_photos(tmp_path, size, suffix):
    for dtype in (np.uint8, np.uint16):
        first = photo_module.Photo(np.full((*size, 3), 77, dtype), lossless_webp=True)
        write(tmp_path / f"a{suffix}", first)
        assert read_photo(tmp_path / f"a{suffix}").pixels.shape == (*size, 3)
        if suffix in (".png", ".tif"):
            same(read_photo(tmp_path / f"a{suffix}"), first)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".png", ".webp", ".tif"])
def test_the_last_bytes_that_find_no_room_are_an_error(tmp_path, suffix):
    photo = photo_module.Photo(RGB)
    write(tmp_path / f"a{suffix}", photo)
    size = (tmp_path / f"a{suffix}").stat().st_size
    with full_disk(size - 1), pytest.raises(OSError, match="too large"):
        write(tmp_path / f"b{suffix}", photo)


def test_jpeg_keeps_colours_at_full_resolution(tmp_path):
    checks = np.zeros((32, 32, 3), np.uint8)
    checks[:, ::2] = (255, 0, 0)
    checks[:, 1::2] = (0, 0, 255)
    write(tmp_path / "a.jpg", photo_module.Photo(checks))
    assert np.abs(read_photo(tmp_path / "a.jpg").pixels.astype(int) - checks).max() < 25  # halved, they mix to purple
    with Image.open(tmp_path / "a.jpg") as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}


def test_quality_and_lossless_webp(tmp_path):
    plain = photo_module.Photo(RGB)
    sizes = []
    for quality in (30, 95):
        write(tmp_path / "a.jpg", plain, quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1]
    write(tmp_path / "lossy.webp", plain)
    assert not read_photo(tmp_path / "lossy.webp").lossless_webp
    write(tmp_path / "best.webp", plain, quality=100)
    assert read_photo(tmp_path / "best.webp").lossless_webp
    same(read_photo(tmp_path / "best.webp"), photo_module.Photo(RGB))


def test_too_long_metadata_for_jpeg_is_left_out_and_said(tmp_path):
    exif = make_exif()
    exif[0x8769] = {0x927C: bytes(70000)}
    carried = photo_module.Carried(exif=exif, xmp=b"x" * 70000, icc=bytes(200000))
    notes = write(tmp_path / "a.jpg", photo_module.Photo(RGB, carried=carried))
    assert notes == ("its EXIF and XMP is left out, it is too long for JPEG",)
    assert len(read_photo(tmp_path / "a.jpg").carried.icc) == 200000  # a profile may take several segments


def exif_of(size):
    """EXIF data of so many bytes."""
    exif = Image.Exif()
    exif[270] = 1000 * "x"
    exif[270] = (size - len(exif.tobytes()) + 1000) * "x"
    assert len(exif.tobytes()) == size
    return exif


def test_what_just_fits_into_a_jpeg_file_is_kept(tmp_path):
    """A segment holds 65533 bytes, with the mark that says what it is."""
    carried = photo_module.Carried(exif=exif_of(65532), xmp=bytes(65504), icc=bytes(255 * 65519), comment=bytes(65533))
    assert write(tmp_path / "a.jpg", photo_module.Photo(RGB, carried=carried)) == ()
    back = read_photo(tmp_path / "a.jpg").carried
    assert (back.xmp, back.icc, back.comment) == (carried.xmp, carried.icc, carried.comment)
    assert back.exif.tobytes() == carried.exif.tobytes()
    carried = photo_module.Carried(exif=exif_of(65534), xmp=bytes(65505), comment=b"kept")
    notes = write(tmp_path / "a.jpg", photo_module.Photo(RGB, carried=carried))
    assert notes == ("its EXIF and XMP is left out, it is too long for JPEG",)
    assert read_photo(tmp_path / "a.jpg").carried.comment == b"kept"


def test_long_profiles_of_png_are_read_again(tmp_path):
    for array in (RGB, RGB16):
        write(tmp_path / "a.png", photo_module.Photo(array, carried=photo_module.Carried(icc=bytes(2 * 2**20))))
        assert len(read_photo(tmp_path / "a.png").carried.icc) == 2 * 2**20


def test_what_a_format_cannot_hold_is_said(tmp_path):
    full = photo_module.Photo(RGB16, RGB16[..., 0].copy())
    assert len(write(tmp_path / "a.jpg", full)) == len(write(tmp_path / "a.bmp", full)) == 2
    np.testing.assert_array_equal(read_photo(tmp_path / "a.bmp").pixels, np.round(RGB16 / 257).astype(np.uint8))
    (note,) = write(tmp_path / "a.webp", full, quality=100)
    assert note == "WEBP has 8 bits, 16 are rounded to them"
    np.testing.assert_array_equal(read_photo(tmp_path / "a.webp").alpha, to_eight_bits(RGB16[..., 0]))
    assert write(tmp_path / "a.png", full) == write(tmp_path / "a.tif", full) == ()


def test_sides_too_long_for_a_format():
    check_fits(16383, 16383, "WEBP", "a")
    for file_format, side in (("WEBP", 16384), ("JPEG", 65501)):
        with pytest.raises(UserError, match="use --format png"):
            check_fits(side, 5, file_format, "a")
    check_fits(10**6, 1, "PNG", "a")


def test_own_png_is_what_the_standard_says(tmp_path):
    write(tmp_path / "a.png", photo_module.Photo(RGB16))
    data = (tmp_path / "a.png").read_bytes()
    at, kinds = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kinds.append(data[at + 4 : at + 8])
        assert (
            zlib.crc32(data[at + 4 : at + 8 + length])
            == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        )
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND" and set(kinds[1:-1]) == {b"IDAT"}


LINEAR = (b"gAMA", struct.pack(">I", 100000))
WIDE_GAMUT = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
PQ = (b"cICP", bytes([9, 16, 0, 1]))
SRGB = ((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)))


@pytest.mark.parametrize(
    "chunks, left_out",
    [((LINEAR, WIDE_GAMUT), "gAMA and cHRM"), ((PQ, LINEAR), "cICP"), (SRGB, ""), (((b"sRGB", b"\0"), LINEAR), "")],
)
@pytest.mark.parametrize("depth", [8, 16])
def test_colour_chunks_of_png_are_kept_in_png_and_else_named(tmp_path, depth, chunks, left_out):
    (tmp_path / "a.png").write_bytes(png(depth, 2, RGB if depth == 8 else RGB16, *chunks))
    photo = read_photo(tmp_path / "a.png")
    assert write(tmp_path / "b.png", photo) == ()
    again = read_photo(tmp_path / "b.png")
    same(photo, again)
    assert again.carried.png_colours == dict(chunks)
    for suffix in (".tif", ".jpg"):
        notes = [note for note in write(tmp_path / f"b{suffix}", photo) if "8 bits" not in note]
        assert len(notes) == bool(left_out) and all(note.startswith(f"its {left_out} is left out") for note in notes)


def test_iphone_photos_become_jpeg_with_time_and_place(tmp_path):
    rgb = np.repeat(np.arange(22, dtype=np.uint8)[None, :, None] * 9, 13, axis=0).repeat(3, axis=2)
    exif = make_exif()
    exif[0x0112] = 6
    image = Image.fromarray(rgb)
    pillow_heif.from_pillow(image).save(tmp_path / "a.HEIC", quality=-1, chroma=444, exif=exif.tobytes())
    image.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=exif)
    for name in ("a.HEIC", "a.avif"):
        photo = read_photo(tmp_path / name)
        write(tmp_path / "b.jpg", photo)
        with Image.open(tmp_path / "b.jpg") as written:
            back = written.getexif()
            assert back[0x0112] == 1 and back.get_ifd(0x8769)[0x9003] == "2021:03:04 05:06:07"
            assert tuple(map(float, back.get_ifd(0x8825)[2])) == (48.0, 51.0, 29.5)
        header = read_header(tmp_path / name)
        assert (header.height, header.width) == (22, 13) and photo.notes == ()
        assert np.abs(photo.pixels.astype(int) - np.rot90(rgb, -1)).max() < 4
