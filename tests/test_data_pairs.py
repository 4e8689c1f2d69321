"""Reading image files of every kind, and pairing folders by name."""

import io
import os
import shutil
import signal
import stat
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from src import preprocessing
from src.data import synthetic_blur
from src.data.images import probe, read_rgb
from src.data.pairs import KINDS, Pair, check_pairs, find_pairs, list_images, natural_key
from src.data.sources import pairs_from_list
from src.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def save(path, array=RGB, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)
    return path


def make_pairs(root, names=("1", "2", "10"), split="train"):
    for name in names:
        for kind in ("blur", "sharp"):
            save(root / split / kind / f"{name}.png")
    return root


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


# ---- read_rgb


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.tif", "a.tiff"])
def test_lossless_files_come_back_as_they_were(tmp_path, name):
    pixels = read_rgb(save(tmp_path / name))
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, RGB)


def test_jpeg_and_webp_are_read(tmp_path):
    smooth = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    for name in ("a.jpg", "b.jpeg", "c.jpe", "d.JFIF", "e.webp"):
        pixels = read_rgb(save(tmp_path / name, smooth, quality=95))
        assert pixels.shape == (40, 60, 3) and np.abs(pixels.astype(int) - smooth).max() <= 4
    assert list(list_images(tmp_path)) == ["a", "b", "c", "d", "e"]


def test_grey_is_repeated_and_alpha_dropped_not_blended(tmp_path):
    grey = RGB[..., 0]
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "l.png", grey)), np.stack([grey] * 3, axis=2))
    alpha = np.zeros((40, 60, 1), np.uint8)
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "rgba.png", np.concatenate([RGB, alpha], axis=2))), RGB)
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha[..., 0])])
    la.save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "la.png"), np.stack([grey] * 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path):
    Image.fromarray(RGB[..., 0] > 127).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "1.png")[..., 1], np.where(RGB[..., 0] > 127, 255, 0))


@pytest.mark.filterwarnings("error")
def test_palette_is_looked_up_with_and_without_transparency(tmp_path):
    index = (np.arange(40 * 60).reshape(40, 60) % 3).astype(np.uint8)
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 7]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "p.png")
    image.save(tmp_path / "t.png", transparency=bytes([0, 128, 255]))
    assert probe(tmp_path / "t.png").kind == "P"
    for name in ("p.png", "t.png"):
        np.testing.assert_array_equal(read_rgb(tmp_path / name), colours[index])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_rounded_to_the_nearest(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 385, 386, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = np.rint(values.astype(float) * 255 / 65535)
    assert expected.tolist() == [[0, 0, 1, 1, 1, 2, 127, 128, 254, 255, 255]]  # not value >> 8, not clipped at 255
    np.testing.assert_array_equal(read_rgb(tmp_path / name), np.stack([expected] * 3, axis=2))


def test_sixteen_bit_grey_over_its_whole_range(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png")[..., 0], np.rint(values * (255 / 65535)))


def declare_size(path, width, height):
    """Write a PNG whose header promises this size."""
    data = bytearray(save(path).read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def test_images_beyond_the_limit_name_it_and_the_way_out(tmp_path):
    with pytest.raises(UserError) as caught:
        probe(declare_size(tmp_path / "a.png", 14000, 13000))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a.png'}: 182 megapixels, expected 179 at most in a data set. ")
    assert "--max_pixels" in text and "bomb" not in text


def test_images_below_the_limit_raise_no_alarm(tmp_path, recwarn):
    path = declare_size(tmp_path / "a.png", 14000, 7000)
    assert check_pairs([Pair("1", path, path)]) == ""
    assert not recwarn.list


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_exif_orientation_is_not_applied(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / name, exif=exif)
    info = probe(tmp_path / name)
    assert (info.width, info.height) == (60, 40)
    np.testing.assert_array_equal(read_rgb(tmp_path / name), RGB)


def oriented(path, orientation, array=RGB):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("names", [("a.png", "b.png"), ("a.tif", "b.png"), ("a.tif", "b.tif")])
def test_pair_with_one_orientation_is_turned_upright(tmp_path, names, orientation):
    pair = Pair("1", *(oriented(tmp_path / name, orientation) for name in names))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(oriented(tmp_path / "c.png", orientation))))
    for image, info in zip(pair.read(), pair.probe(), strict=True):
        np.testing.assert_array_equal(image, expected)
        assert (info.height, info.width) == expected.shape[:2]
    assert check_pairs([pair]) == " (1 turned upright by their EXIF orientation)"


def test_pair_of_which_one_has_lost_its_orientation_stays_aligned(tmp_path):
    pair = Pair("1", oriented(tmp_path / "a.png", 6), save(tmp_path / "b.png"))
    assert all(np.array_equal(image, RGB) for image in pair.read())
    assert check_pairs([pair]) == " (1 with different EXIF orientations in blur and sharp, read as stored)"


def test_pair_of_which_one_is_turned_already_is_reported_with_the_tag(tmp_path):
    pair = Pair("1", oriented(tmp_path / "a.png", 6), save(tmp_path / "b.png", np.rot90(RGB, -1)))
    with pytest.raises(UserError) as caught:
        check_pairs([pair])
    assert str(caught.value).endswith(
        "1 (blur 60x40 with EXIF orientation 6, sharp 40x60 with EXIF orientation 1). Turn the pixels of both the same "
        "way"
    )


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_cut_off_files_are_named_even_when_pillow_is_tolerant(tmp_path, monkeypatch, name, tolerant):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    path = cut(save(tmp_path / name))
    for look in (read_rgb, probe):
        with pytest.raises(UserError, match=f"{name}: this .* file is cut off"):
            look(path)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.webp"])
def test_other_cut_off_formats_are_named_when_read(tmp_path, name):
    with pytest.raises(UserError, match=name):
        read_rgb(cut(save(tmp_path / name)))


def test_damage_in_the_middle_is_named(tmp_path):
    path = save(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    assert probe(path).width == 60
    with pytest.raises(UserError, match="a.png: cannot be read"):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="a.png: not a readable image"):
        read_rgb(tmp_path / "a.png")


def test_missing_file_and_broken_link(tmp_path):
    with pytest.raises(UserError, match="a.png: no such file$"):
        read_rgb(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match="b.png: no such file, a broken link"):
        probe(tmp_path / "b.png")


def test_notes_after_the_end_marker_are_allowed(tmp_path):
    for name in ("a.png", "a.jpg"):
        path = save(tmp_path / name)
        path.write_bytes(path.read_bytes() + b"camera notes" * 20)
        assert read_rgb(path).shape == (40, 60, 3)


def test_content_counts_not_the_suffix(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), RGB)


# ---- find_pairs


def test_natural_order():
    assert sorted(["10", "2", "1", "a10", "a9", "01"], key=natural_key) == ["01", "1", "2", "10", "a9", "a10"]


def test_pairs_are_found_by_name_in_natural_order(tmp_path):
    make_pairs(tmp_path)
    for kind in ("blur", "sharp"):
        save(tmp_path / f"train/{kind}/20-b.png")  # after 20, though "20-b.png" is before "20.png"
    save(tmp_path / "train/blur/20.JPG")
    save(tmp_path / "train/sharp/20.png")
    save(tmp_path / "train/blur/._1.png")  # left by a Mac
    (tmp_path / "train/sharp/notes.txt").write_text("x")
    (tmp_path / "train/sharp/3.png.d").mkdir()
    pairs = find_pairs(tmp_path, "train")
    assert [p.name for p in pairs] == ["1", "2", "10", "20", "20-b"]
    assert pairs[3] == Pair("20", tmp_path / "train/blur/20.JPG", tmp_path / "train/sharp/20.png")
    assert all(p.blur.stem == p.sharp.stem for p in pairs)


@given(st.text(), st.lists(st.integers(0, 10**9), unique=True))
def test_numbers_are_in_order_after_any_name(name, numbers):
    names = [f"{name}-{number}" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{name}-{number}" for number in sorted(numbers)]


STEMS = st.text("aB1029 _-.é'#\"", min_size=1, max_size=8).filter(lambda name: name[0] != "." and name == name.strip())


@given(st.dictionaries(STEMS, st.tuples(*[st.sampled_from(["", ".png", ".JPG", ".tiff"])] * 2), min_size=1, max_size=8))
def test_any_names_are_paired_or_the_lonely_are_named(files):
    """Name without suffix -> the suffix in blur and in sharp, "" = no such file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i, kind in enumerate(("blur", "sharp")):
            (root / "train" / kind).mkdir(parents=True)
            for name, suffixes in files.items():
                if suffixes[i]:
                    (root / "train" / kind / f"{name}{suffixes[i]}").touch()
        whole = [name for name, suffixes in files.items() if all(suffixes)]
        lonely = [name for name, suffixes in files.items() if any(suffixes) and name not in whole]
        if whole and not lonely:
            expected = [
                Pair(name, *(root / "train" / kind / f"{name}{files[name][i]}" for i, kind in enumerate(KINDS)))
                for name in sorted(whole, key=natural_key)
            ]
            assert find_pairs(root, "train") == expected
        else:
            with pytest.raises(UserError) as e:
                find_pairs(root, "train")
            text = str(e.value)
            assert "\n" not in text and ("no image" in text or all(name in text for name in lonely[:1]))


def test_missing_folders_say_what_was_expected(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder, expected .*nowhere/test/{blur,sharp}"):
        find_pairs(tmp_path / "nowhere", "test")
    make_pairs(tmp_path)
    with pytest.raises(UserError, match="no folder test in it, got train;"):
        find_pairs(tmp_path, "test")
    with pytest.raises(UserError, match="Give the folder above it"):
        find_pairs(tmp_path / "train", "test")
    (tmp_path / "test/blur").mkdir(parents=True)
    with pytest.raises(UserError, match="test: no folder sharp in it.*--test_list.*`python deblur.py .*test/blur` "):
        find_pairs(tmp_path, "test")


def test_folder_of_images_alone_points_to_deblur(tmp_path):
    save(tmp_path / "my photos/1.png")
    with pytest.raises(UserError, match=r"got no folder but 1 images; .* `python deblur.py '.*/my photos'` "):
        find_pairs(tmp_path / "my photos", "test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_names_with_affixes_point_to_a_list_which_then_works(tmp_path, split):
    for name in ("1", "2"):
        for kind in KINDS:
            save(tmp_path / f"{split}/{kind}/{name}_{kind}.png")
    with pytest.raises(UserError, match=f"2 in blur without a partner in sharp: .*--{split}_list FILE, one line"):
        find_pairs(tmp_path, split)
    (tmp_path / "list.txt").write_text(
        "".join(f"{split}/sharp/{i}_sharp.png {split}/blur/{i}_blur.png\n" for i in "12")
    )
    assert len(pairs_from_list(tmp_path / "list.txt")) == 2


def test_gopro_large_itself_is_recognised(tmp_path):
    save(tmp_path / "train/GOPR0372_07_00/blur/000047.png")
    with pytest.raises(UserError, match="python src/preprocessing.py --root_src"):
        find_pairs(tmp_path, "train")


def test_empty_folder_and_images_in_sub_folders(tmp_path):
    make_pairs(tmp_path)
    for path in (tmp_path / "train/sharp").iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match=r"sharp: no image, expected files ending in .png .*`python deblur.py .*/blur` "
    ):
        find_pairs(tmp_path, "train")
    save(tmp_path / "train/sharp/deep/1.png")
    with pytest.raises(UserError, match="Sub-folders are not searched: deep"):
        find_pairs(tmp_path, "train")


def test_lonely_images_of_both_sides_are_listed(tmp_path):
    make_pairs(tmp_path, [str(i) for i in range(1, 13)])
    for i in range(1, 8):
        (tmp_path / f"train/sharp/{i}.png").unlink()
    (tmp_path / "train/blur/12.png").unlink()
    with pytest.raises(UserError) as e:
        find_pairs(tmp_path, "train")
    assert "7 in blur without a partner in sharp: 1, 2, 3, 4, 5, ... (7 in all)" in str(e.value)
    assert "1 in sharp without a partner in blur: 12" in str(e.value)
    assert "\n" not in str(e.value)


def test_one_name_twice_is_refused(tmp_path):
    make_pairs(tmp_path)
    save(tmp_path / "train/blur/2.jpg")
    with pytest.raises(UserError, match="two images of one name, 2.jpg and 2.png"):
        find_pairs(tmp_path, "train")


def test_an_interrupted_preprocessing_is_not_taken_for_a_small_dataset(tmp_path):
    make_pairs(tmp_path)
    (tmp_path / "manifest.csv.partial").touch()
    with pytest.raises(UserError, match="was interrupted here"):
        find_pairs(tmp_path, "train")


# ---- check_pairs


def test_good_pairs_report_what_will_be_converted(tmp_path):
    make_pairs(tmp_path)
    assert check_pairs(find_pairs(tmp_path, "train"), min_side=40) == ""
    for name in ("1", "2"):
        save(tmp_path / f"train/blur/{name}.png", RGB[..., 0])
    save(tmp_path / "train/sharp/10.png", np.concatenate([RGB, RGB[..., :1]], axis=2))
    assert check_pairs(find_pairs(tmp_path, "train")) == " (converted to 8-bit RGB: 2 L, 1 RGBA)"
    cv2.imwrite(str(tmp_path / "train/sharp/10.png"), np.zeros((40, 60, 3), np.uint16))
    assert check_pairs(find_pairs(tmp_path, "train")) == " (converted to 8-bit RGB: 2 L, 1 16-bit RGB)"


def test_different_sizes_are_reported_with_both(tmp_path):
    make_pairs(tmp_path)
    save(tmp_path / "train/sharp/2.png", RGB[:20, :32])
    with pytest.raises(UserError, match=r"2 \(blur 60x40, sharp 32x20\)"):
        check_pairs(find_pairs(tmp_path, "train"))


def test_images_below_the_crop_are_reported(tmp_path):
    make_pairs(tmp_path)
    small = rf"{tmp_path}/train: expected images of 64x64 or more.*got 1 \(60x40\), 2 .*give --crop_size 40 or less"
    with pytest.raises(UserError, match=small):
        check_pairs(find_pairs(tmp_path, "train"), min_side=64)
    files = save(tmp_path / "a/1.png"), save(Path("/dev/shm") / f"{tmp_path.name}.png")  # of a list, in two places
    try:
        with pytest.raises(UserError, match="^the pairs: expected images of 64x64 or more"):
            check_pairs([Pair("1", *files)], min_side=64)
    finally:
        files[1].unlink()


def test_bad_files_are_reported_first_and_counted(tmp_path):
    make_pairs(tmp_path, [str(i) for i in range(1, 9)])
    cut(tmp_path / "train/blur/3.png")
    save(tmp_path / "train/sharp/2.png", RGB[:20])
    with pytest.raises(UserError, match="blur/3.png: this PNG file is cut off"):
        check_pairs(find_pairs(tmp_path, "train"))
    for i in range(1, 7):
        (tmp_path / f"train/sharp/{i}.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"^7 bad files: .*1.png.*blur/3.png.*\(7 in all\)$") as e:
        check_pairs(find_pairs(tmp_path, "train"))
    assert "6.png" not in str(e.value)


def test_a_circle_of_links_is_named_when_it_is_read(tmp_path):
    for folder in ("blur", "sharp"):
        save(tmp_path / "test" / folder / "1.png")
    (tmp_path / "test/blur/2.png").symlink_to("1.png")
    (tmp_path / "test/sharp/2.png").symlink_to("2.png")
    with pytest.raises(UserError, match=r"sharp/2.png: not a readable image \(Too many levels of symbolic links\)"):
        check_pairs(find_pairs(tmp_path, "test"))


# ---- pipes, sockets and devices


@pytest.fixture
def special_files():
    """special_files(folder): puts a pipe, a socket and links to a pipe and a device there. A read that waits for them
    fails after a while."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(60)

    def make(folder):
        os.mkfifo(folder / "pipe.png")
        os.mknod(folder / "socket.jpg", 0o600 | stat.S_IFSOCK)
        (folder / "link.tif").symlink_to("pipe.png")
        (folder / "null.png").symlink_to(os.devnull)

    yield make
    signal.alarm(0)


NOT_FILES = ("link.tif", "null.png", "pipe.png", "socket.jpg")


def test_pairs_leave_out_what_is_no_file_and_name_it_once(tmp_path, special_files, capsys):
    make_pairs(tmp_path)
    for kind in KINDS:
        special_files(tmp_path / "train" / kind)
    for _ in range(2):
        pairs = find_pairs(tmp_path, "train")
        assert [pair.name for pair in pairs] == ["1", "2", "10"] and check_pairs(pairs) == ""
    lines = capsys.readouterr().out.splitlines()
    expected = [f"{tmp_path / 'train' / kind / name}: skipped, a pipe, " for kind in KINDS for name in NOT_FILES]
    assert len(lines) == 8 and all(line.startswith(words) for line, words in zip(lines, expected, strict=True))


@pytest.mark.parametrize("read", [probe, read_rgb, lambda path: check_pairs([Pair("a", path, path)])])
def test_a_pipe_given_by_its_name_is_refused(read, tmp_path, special_files):
    special_files(tmp_path)
    for name in NOT_FILES:
        with pytest.raises(UserError, match=f"{name}: a pipe, socket or device; expected a file"):
            read(tmp_path / name)


def test_a_pipe_of_a_list_is_refused(tmp_path, special_files):
    special_files(save(tmp_path / "a.png").parent)
    (tmp_path / "list.txt").write_text("a.png pipe.png\n")
    with pytest.raises(UserError, match="pipe.png"):
        check_pairs(pairs_from_list(tmp_path / "list.txt"))


def test_no_preparation_waits_for_a_pipe(sample_trees, tmp_path, special_files, capsys):
    source = tmp_path / "GOPRO_Large"
    shutil.copytree(sample_trees / "GOPRO_Large", source)
    folder = next(source.glob("train/*/blur"))
    special_files(folder)
    commands = {
        "arranged": (preprocessing.main, ["--root_src", str(source), "--root_dst"]),
        "packed": (preprocessing.main, ["--pack", "--root_src", str(source), "--root_dst"]),
        "source": (
            preprocessing.main,
            ["--verify", "--root_dst", str(tmp_path / "arranged"), "--root_src", str(source)],
        ),
        "synthetic": (
            synthetic_blur.main,
            ["--photos", str(folder), "--count=1", "--height=16", "--width=16", "--root"],
        ),
    }
    for name, (main, options) in commands.items():
        assert main([*options, str(tmp_path / name)] if name != "source" else options) == 0
    assert capsys.readouterr().out.count("pipe.png: skipped") == 1
