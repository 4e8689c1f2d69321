"""Photos come back pixel by pixel and with all they carried, in every format and mode."""

import io
import struct
import zlib
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import pyvips
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from src.data import image_files
from src.data.image_files import to_eight_bits
from src.errors import UserError
from src.photos import read as photo_module
from src.photos.read import read_header, read_photo, save_before_after
from tests.photos import ALPHA, ICC, RGB, RGB16, RNG, XMP, make_exif, same, save, write


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """Bands of 5 rows, so that every image here has several, the last one shorter."""
    monkeypatch.setattr(image_files, "BAND_PIXELS", 110)


def through(path, suffix=None, quality=95):
    """Read a photo, write it unchanged under another name, read it again: (first, second, new path)."""
    first = read_photo(path)
    target = path.with_name(f"written{suffix or path.suffix}")
    write(target, first, quality)
    return first, read_photo(target), target


def sixteen_bit(path, channels):
    """Write (13, 22, channels) uint16 with OpenCV or tifffile, which share no code with ours; returns the array."""
    values = RNG.integers(0, 65536, (13, 22, channels)).astype(np.uint16)
    if path.suffix == ".tif":
        tifffile = pytest.importorskip("tifffile")
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        tifffile.imwrite(path, values, photometric="rgb", **extra)
    else:
        cv2.imwrite(str(path), values[..., [2, 1, 0, 3][:channels]])
    return values


# ---- pixels


MODES = ("RGB", "L", "P", "1")
WRITTEN = {  # by Pillow, with its alpha
    ".png": (*MODES, "RGBA", "LA"), ".tif": (*MODES, "RGBA"), ".bmp": MODES, ".webp": (*MODES, "RGBA", "LA"),
}  # fmt: skip


@pytest.mark.parametrize("suffix, mode", [(suffix, mode) for suffix, modes in WRITTEN.items() for mode in modes])
def test_lossless_formats_give_back_every_mode(tmp_path, suffix, mode):
    array = np.dstack([RGB, ALPHA]) if "A" in mode else RGB
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    source = save(tmp_path / f"a{suffix}", array, mode, **options)
    first, second, target = through(source)
    with Image.open(source) as image:
        np.testing.assert_array_equal(first.pixels, np.asarray(image.convert("RGB")))
        assert (first.alpha is not None) == ("A" in image.mode)
    same(first, second)
    with Image.open(target) as image:
        expected = {"P": "RGB", "1": "L"}.get(mode, mode)
        if suffix == ".webp":
            expected = {"L": "RGB", "LA": "RGBA"}.get(expected, expected)  # WebP has colour only
        assert image.mode == expected and image.size == (22, 13)


@pytest.mark.parametrize("key", [bytes([0, 128, 255]), 1])
def test_transparency_of_a_palette_becomes_alpha(tmp_path, key):
    image = Image.fromarray((np.arange(286).reshape(13, 22) % 3).astype(np.uint8))
    image.putpalette(bytes([10, 20, 30, 200, 100, 50, 0, 255, 7]))
    image.save(tmp_path / "a.png", transparency=key)
    first, second, _ = through(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.dstack([first.pixels, first.alpha]), np.asarray(image.convert("RGBA")))
    same(first, second)


def test_transparent_colour_becomes_alpha(tmp_path):
    for name, array, key in (("rgb.png", RGB, tuple(RGB[3, 4].tolist())), ("grey.png", ALPHA, int(ALPHA[3, 4]))):
        save(tmp_path / name, array, transparency=key)
        first, second, _ = through(tmp_path / name)
        assert first.alpha[3, 4] == 0 and first.alpha.max() == 255
        same(first, second)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_is_kept(tmp_path, suffix, channels):
    values = sixteen_bit(tmp_path / f"a{suffix}", channels)
    first, second, target = through(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(first.pixels, values[..., :3])
    assert (first.alpha is None) == (channels == 3)
    if channels == 4:
        np.testing.assert_array_equal(first.alpha, values[..., 3])
    same(first, second)
    same(first, read_other_way(target))


def test_memory_that_the_decoder_lacks_is_no_damage(tmp_path, monkeypatch):
    def fail(*_):
        raise pyvips.Error("", "vips_tracked: out of memory --- size == 600MB")

    sixteen_bit(tmp_path / "a.png", 3)
    monkeypatch.setattr(pyvips.Region, "fetch", fail)
    with pytest.raises(MemoryError):
        read_photo(tmp_path / "a.png")


def read_other_way(path):
    """A 16-bit file by a reader that is not ours: tifffile or OpenCV's file reader."""
    if path.suffix == ".tif":
        values = pytest.importorskip("tifffile").imread(path)
    else:
        values = cv2.imread(str(path), -1)
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return photo_module.Photo(values[..., :3], values[..., 3] if values.shape[2] == 4 else None)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_kept_with_and_without_alpha(tmp_path, suffix):
    grey = RGB16[..., 0]
    save(tmp_path / f"a{suffix}", grey)
    first, second, target = through(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(first.pixels, np.repeat(grey[..., None], 3, axis=2))
    assert first.grey
    same(first, second)
    with Image.open(target) as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), grey)
    with_alpha = photo_module.Photo(first.pixels, RGB16[..., 1].copy(), grey=True)
    write(tmp_path / "la.png", with_alpha)
    same(read_photo(tmp_path / "la.png"), with_alpha)


def test_big_endian_sixteen_bit_grey(tmp_path):
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", RGB16[..., 0].astype(">u2"), byteorder=">")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels[..., 2], RGB16[..., 0])


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    save(tmp_path / "a.jpg", RGB, "CMYK", icc_profile=ICC)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.pixels.shape == RGB.shape and photo.carried.icc == b""
    assert photo.notes == ("CMYK is written as RGB",)


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_orientation_is_applied_and_reset(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x8769] = {0xA002: 22, 0xA003: 13}
    options = {"lossless": True} if suffix == ".webp" else {}
    save(tmp_path / f"a{suffix}", RGB, exif=exif.tobytes(), dpi=(100, 200), **options)
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    first, second, target = through(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(first.pixels, expected)
    header = read_header(tmp_path / f"a{suffix}")
    assert (header.height, header.width) == expected.shape[:2]
    assert second.pixels.shape == expected.shape
    if suffix != ".jpg":
        same(first, second)
    with Image.open(target) as image:
        assert image.getexif().get(0x0112, 1) == 1
        directory = image.getexif().get_ifd(0x8769)
        assert (directory[0xA003], directory[0xA002]) == expected.shape[:2]
    if suffix in (".png", ".jpg", ".tif"):
        assert second.carried.dpi == pytest.approx((200, 100) if orientation >= 5 else (100, 200), rel=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_sixteen_bit_colour(tmp_path, orientation):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", RGB16, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.dstack([ImageOps.exif_transpose(_with_exif(RGB16[..., i].astype(np.int32), exif)) for i in range(3)])
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, expected)
    header = read_header(tmp_path / "a.tif")
    assert (header.height, header.width) == expected.shape[:2]
    photo = photo_module.Photo(RGB16, carried=photo_module.Carried(exif=exif))
    write(tmp_path / "a.png", photo)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png").pixels, expected)


def _with_exif(array, exif):
    image = Image.fromarray(array)
    image.getexif()[0x0112] = exif[0x0112]
    return image


# ---- what a photo carries


SUFFIXES = [".png", ".jpg", ".tif", ".webp"]


@pytest.mark.parametrize("sixteen", [False, True])
@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_metadata_goes_from_every_format_to_every_other(tmp_path, source, target, sixteen):
    carried = photo_module.Carried(icc=ICC, exif=make_exif(), xmp=XMP.replace(b'"6"', b'"1"'), dpi=(300.0, 300.0))
    pixels = RGB16 if sixteen and source in (".png", ".tif") else RGB
    write(tmp_path / f"a{source}", photo_module.Photo(pixels, carried=carried))
    _, _, path = through(tmp_path / f"a{source}", target)
    with Image.open(path) as image:
        image.load()
        exif = image.getexif()
        assert image.info["icc_profile"] == ICC
        assert (exif[270], exif[271], exif[272]) == ("a walk", "Maker", "Camera 1")
        directory, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert (directory[0x9003], directory[0xA434]) == ("2021:03:04 05:06:07", "35mm")
        assert directory[0x927C] == b"maker's note \0\1" and tuple(map(float, place[2])) == (48.0, 51.0, 29.5)
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp").encode()
        assert xmp == carried.xmp
    assert read_photo(path).carried.dpi == pytest.approx((300, 300), rel=1e-3)


def test_files_of_pillow_keep_their_metadata(tmp_path):
    for suffix in SUFFIXES:
        save(tmp_path / f"a{suffix}", RGB, exif=make_exif().tobytes(), icc_profile=ICC, dpi=(72, 72))
        carried = through(tmp_path / f"a{suffix}")[1].carried
        assert carried.icc == ICC and carried.exif[272] == "Camera 1" and carried.exif[0x8769][0xA434] == "35mm"
    save(tmp_path / "a.bmp", RGB, dpi=(72, 72))
    assert through(tmp_path / "a.bmp")[1].carried.dpi == pytest.approx((72, 72), rel=1e-3)


def test_orientation_in_xmp_is_reset_too(tmp_path):
    save(tmp_path / "a.jpg", RGB, xmp=XMP)
    first, second, _ = through(tmp_path / "a.jpg")
    assert first.pixels.shape == second.pixels.shape
    assert b'tiff:Orientation="1"' in second.carried.xmp and "café".encode() in second.carried.xmp


MOTION = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" dc:source="a walk" %b>%b
</rdf:Description></rdf:RDF></x:xmpmeta>"""
DIRECTORY = b"""<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource">
<Container:Item Item:Mime="video/mp4" Item:Semantic="MotionPhoto" Item:Length="4"/>
</rdf:li></rdf:Seq></Container:Directory>"""
VIDEO, GAIN_MAP = "video (Motion Photo)", "gain map (Ultra HDR)"


@pytest.mark.parametrize(
    "attributes, elements, lost",
    [
        (b'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" hdrgm:Version="1.0"', DIRECTORY, [VIDEO, GAIN_MAP]),
        (b"GCamera:MicroVideo = '1'\n GCamera:MicroVideoOffset='4'", b"", [VIDEO]),
        (b"", b"<GCamera:MotionPhoto>1</GCamera:MotionPhoto><GCamera:MotionPhotoVersion/>" + DIRECTORY, [VIDEO]),
        (b"", b"<hdrgm:Version>1.0</hdrgm:Version><hdrgm:Gamma><rdf:Seq/></hdrgm:Gamma>", [GAIN_MAP]),
        (b'GCamera:MotionPhoto="0"', b"", []),
    ],
)
def test_a_video_or_gain_map_after_the_picture_is_named_and_claimed_no_more(tmp_path, attributes, elements, lost):
    path = save(tmp_path / "a.jpg", RGB, xmp=MOTION % (attributes, elements))
    with path.open("ab") as file:
        file.write(b"\0\0\0\x18ftypmp42")
    for suffix in (".jpg", ".png"):
        first, second, _ = through(path, suffix)
        assert first.notes == ((f"written without its {' and '.join(lost)}",) if lost else ())
        written = second.carried.xmp
        assert second.notes == () and b'dc:source="a walk"' in written
        if lost:
            meta = ElementTree.fromstring(written)
            assert len(list(meta.iter())) == 3 and len(meta[0][0].attrib) == 2  # rdf:about and dc:source are left


@pytest.mark.parametrize("bits", [8, 16])
def test_metadata_behind_the_pixels(tmp_path, bits):
    """PNG allows it, and some programs write it so."""
    exif = Image.Exif()
    exif[0x0112], exif[272] = 6, "Camera 1"
    if bits == 8:
        data = save(tmp_path / "a.png", RGB).read_bytes()
    else:
        sixteen_bit(tmp_path / "a.png", 3)
        data = (tmp_path / "a.png").read_bytes()
    late = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(late) - 4) + late + struct.pack(">I", zlib.crc32(late))
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    first, second, _ = through(tmp_path / "a.png")
    assert first.pixels.shape == (22, 13, 3) and first.carried.exif[272] == "Camera 1"
    same(first, second)


def test_texts_and_comments(tmp_path):
    info = PngInfo()
    info.add_text("Title", "dawn")
    info.add_itxt("Author", "Zoë 李")
    save(tmp_path / "a.png", RGB, pnginfo=info)
    assert through(tmp_path / "a.png")[1].carried.texts == {"Title": "dawn", "Author": "Zoë 李"}
    save(tmp_path / "a.jpg", RGB, comment=b"a note")
    assert through(tmp_path / "a.jpg")[1].carried.comment == b"a note"


def test_plain_files_get_nothing_they_had_not(tmp_path):
    save(tmp_path / "a.png", RGB)
    _, _, target = through(tmp_path / "a.png")
    with Image.open(target) as image:
        image.load()
        assert image.info == {} and not image.getexif()


def test_damaged_exif_is_left_out_and_said(tmp_path):
    save(tmp_path / "a.jpg", RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert through(tmp_path / "a.jpg")[0].pixels.shape == RGB.shape
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFF) + bytes(4)
    save(tmp_path / "b.jpg", RGB, exif=exif)
    assert through(tmp_path / "b.jpg")[1].pixels.shape == RGB.shape


# ---- bad files


def test_too_many_pixels_are_refused_from_the_header(tmp_path):
    data = bytearray(save(tmp_path / "bomb.png", RGB).read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(UserError, match=r"60000x60000 are 3600 megapixels, expected 120 at most; --max_pixels"):
        read_photo(tmp_path / "bomb.png")
    assert Image.MAX_IMAGE_PIXELS  # Pillow's own limit is back
    save(tmp_path / "a.png", RGB)
    read_photo(tmp_path / "a.png", max_pixels=13 * 22)
    with pytest.raises(UserError, match="max_pixels"):
        read_photo(tmp_path / "a.png", max_pixels=13 * 22 - 1)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "sixteen.png", "sixteen.tif"])
def test_cut_off_files(tmp_path, name):
    path = tmp_path / name
    if name.startswith("sixteen"):
        sixteen_bit(path, 3)
    else:
        save(path, RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    if path.suffix == ".tif":  # tifffile and Pillow put the directory first: cut off the pixels
        data = data[: len(data) - 300]
    path.write_bytes(data[: int(len(data) * 0.7)] if path.suffix != ".tif" else data)
    with pytest.raises(UserError, match=name) as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)


def test_bad_files_are_one_line(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    save(tmp_path / "a.gif", RGB)
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    expected = {
        "text.png": "not a photo", "empty.jpg": "empty", "folder.png": "directory", "broken.png": "a broken link",
        "loop.png": "symbolic links", "a.gif": "not a photo", "float.tif": "floating-point", "none.png": "no such file",
    }  # fmt: skip
    for name, words in expected.items():
        with pytest.raises(UserError, match=words) as caught:
            read_photo(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "head, words",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "damaged or cut off"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0heix", "damaged or cut off"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "damaged or cut off"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "a CR3 raw photo"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video, not a photo; for deblur.py, rename it to end in .mp4"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp42", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\x1aE\xdf\xa3\x01", "a video"),
    ],
)
def test_other_files_under_the_name_of_a_photo_are_called_what_they_are(tmp_path, head, words):
    path = tmp_path / "a.jpg"
    path.write_bytes(head + bytes(100))
    for read in (read_header, read_photo):
        with pytest.raises(UserError, match=f"a.jpg: {words}"):
            read(path)


def test_damaged_sixteen_bit_png_is_noticed(tmp_path):
    sixteen_bit(tmp_path / "a.png", 3)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_photo(tmp_path / "a.png")


def test_first_of_several_pictures(tmp_path):
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for name, options in (("a.tif", {}), ("a.webp", {"lossless": True}), ("a.png", {})):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
        photo = read_photo(tmp_path / name)
        np.testing.assert_array_equal(photo.pixels, RGB)
        assert photo.notes == ("the first of its 2 pictures only",)
        assert photo.lossless_webp == (name == "a.webp")
    pages[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pages[1:])
    assert read_header(tmp_path / "a.jpg").file_format == "JPEG"
    assert read_photo(tmp_path / "a.jpg").notes == ("the first of its 2 pictures only",)


# ---- strips


def test_strip_is_before_and_after_and_reduced_when_large(tmp_path, monkeypatch):
    file = io.BytesIO()
    save_before_after(file, RGB16, RGB16[::-1])
    strip = np.asarray(Image.open(file))
    assert strip.shape == (13, 22 + 8 + 22, 3)
    np.testing.assert_array_equal(strip[:, :22], to_eight_bits(RGB16))
    np.testing.assert_array_equal(strip[:, 30:], to_eight_bits(RGB16)[::-1])
    monkeypatch.setattr(photo_module, "STRIP_SIDE", 11)
    file = io.BytesIO()
    save_before_after(file, RGB, RGB)
    assert Image.open(file).size == (11 + 8 + 11, 6)
