"""Pairs by list file, by two folders, and photographs."""

import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.data.pairs import Pair, SharpPhoto, check_pairs
from src.data.sources import pairs_from_folders, pairs_from_list, pairs_from_photos
from tests.data_trees import error_of, realblur, touch, write_list, write_photos

# ---- list files


def test_list_as_realblur_ships_it(tmp_path):
    pairs = pairs_from_list(realblur(tmp_path), tmp_path)
    assert len(pairs) == 12 and pairs[0] == Pair(
        "scene001_blur_1",
        tmp_path / "RealBlur-J/scene001/blur/blur_1.png",
        tmp_path / "RealBlur-J/scene001/gt/gt_1.png",
    )
    assert [pair.name for pair in pairs][3:6] == ["scene001_blur_4", "scene002_blur_1", "scene002_blur_2"]


def test_paths_are_relative_to_the_root_else_to_the_list_or_absolute(tmp_path, monkeypatch):
    file = realblur(tmp_path, 1, 1)
    assert pairs_from_list(file) == pairs_from_list(file, tmp_path / "elsewhere") == pairs_from_list(file, tmp_path)
    moved = write_list(touch(tmp_path, "lists/a") / "lists", file.read_text())
    assert pairs_from_list(moved, tmp_path) == pairs_from_list(file)
    absolute = write_list(tmp_path, " ".join(str(tmp_path / part) for part in file.read_text().split()), "absolute.txt")
    assert pairs_from_list(absolute) == pairs_from_list(file)
    assert pairs_from_list("list.txt", tmp_path) == pairs_from_list(file)  # a list is looked for in the root too
    monkeypatch.chdir(tmp_path)
    assert [p.blur.resolve() for p in pairs_from_list("list.txt")] == [p.blur for p in pairs_from_list(file)]


@pytest.mark.parametrize("line", ["{s}\t{b}", "{s} \t {b}", '"{s}" "{b}"', '"{s}"\t"{b}"'])
def test_names_with_spaces_comments_windows_lines_and_byte_order_mark(tmp_path, line):
    names = ("my set/sharp/John's cat 1.png", "my set/blur/John's cat 1.png")
    touch(tmp_path, *names)
    text = "\ufeff# sharp blur\r\n\r\n  " + line.format(s=names[0], b=names[1]) + "  \r\n\r\n"
    (pair,) = pairs_from_list(write_list(tmp_path, text))
    assert pair == Pair("my set_John's cat 1", tmp_path / names[1], tmp_path / names[0])


NAMES = st.text("ab12 _-.'é#", min_size=1, max_size=8).filter(lambda name: name == name.strip())


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6, unique_by=lambda names: names[1]), st.booleans())
def test_any_names_come_back_from_a_list(names, by_tab):
    lines = [(f"gt/{sharp}.png", f"blur/{blur}.png") for sharp, blur in names]
    with tempfile.TemporaryDirectory() as folder:
        root = touch(Path(folder), *(name for line in lines for name in line))
        text = "\n".join("\t".join(line) if by_tab else " ".join(f'"{name}"' for name in line) for line in lines)
        pairs = pairs_from_list(write_list(root, text), root)
        assert [(pair.sharp, pair.blur) for pair in pairs] == [(root / sharp, root / blur) for sharp, blur in lines]
    assert len({pair.name for pair in pairs}) == len(pairs) and not any("/" in pair.name for pair in pairs)


def test_an_apostrophe_and_an_accent_need_no_quotes(tmp_path):
    touch(tmp_path, "sharp/l'été.png", "blur/l'été.png")
    (pair,) = pairs_from_list(write_list(tmp_path, "sharp/l'été.png blur/l'été.png"))
    assert pair.name == "l'été"


@pytest.mark.parametrize(
    "blurred, names",
    [
        (["blur/1.png", "blur/2.png"], ["1", "2"]),
        (["a/blur/1.png", "b/blur/1.png"], ["a_1", "b_1"]),
        (["train/a/1.png", "test/a/1.png"], ["train_a_1", "test_a_1"]),
        (["a/blur/1.png", "a/blur_gamma/1.png"], ["a_blur_1", "a_blur_gamma_1"]),
        (["a/1.png", "a/1.jpg"], ["a_1.png", "a_1.jpg"]),
        (["./a/1.png"], ["a_1"]),
    ],
)
def test_names_are_short_and_different(tmp_path, blurred, names):
    touch(tmp_path, *blurred, *(f"sharp/{i}.png" for i in range(len(blurred))))
    lines = "\n".join(f"sharp/{i}.png {name}" for i, name in enumerate(blurred))
    pairs = pairs_from_list(write_list(tmp_path, lines))
    assert [pair.name for pair in pairs] == names
    assert not any("/" in pair.name for pair in pairs)


def test_several_blurred_images_may_share_a_sharp_one(tmp_path):
    touch(tmp_path, "gt/1.png", "blur/1_a.png", "blur/1_b.png")
    pairs = pairs_from_list(write_list(tmp_path, "gt/1.png blur/1_a.png\ngt/1.png blur/1_b.png\n"))
    assert [pair.sharp.name for pair in pairs] == ["1.png", "1.png"]


def test_missing_files_are_named_with_their_lines(tmp_path):
    lines = "\n".join(f"gt/{i}.png blur/{i}.png" for i in range(1, 5))
    touch(tmp_path, "gt/1.png", "blur/1.png", "gt/2.png")
    text = error_of(pairs_from_list, write_list(tmp_path, "# first\n" + lines), tmp_path / "other")
    assert text.startswith(f"{tmp_path}/list.txt: 5 of 8 files are not there: line 3: blur/2.png, line 4: gt/3.png, ")
    assert f"Looked in {tmp_path}/other and in {tmp_path};" in text
    many = "\n".join(f"gt/{i} blur/{i}" for i in range(9))
    assert "line 3: gt/2, ... (18 in all)" in error_of(pairs_from_list, write_list(tmp_path, many))


def test_lines_without_two_paths_are_named(tmp_path):
    text = error_of(pairs_from_list, write_list(tmp_path, "gt/1.png blur/1.png\n\n2.png\ngt/my 3.png blur/3.png\n"))
    assert "list.txt: expected two paths per line, sharp and blurred, but line 3 has 1, line 4 has 3." in text
    assert "tab" in text and "--blur_directory" in text


def test_repeated_and_own_partners_are_named(tmp_path):
    text = error_of(pairs_from_list, write_list(tmp_path, "gt/1.png blur/1.png\ngt/2.png ./blur/1.png\n"))
    assert "listed twice: line 2 repeats line 1 (./blur/1.png)" in text
    text = error_of(pairs_from_list, write_list(tmp_path, "a/1.png a/1.png\n"))
    assert "the same file as sharp and as blurred image: line 1: a/1.png" in text


def test_blurred_images_of_one_name_are_named(tmp_path):
    touch(tmp_path, "gt/1.png", "gt/2.png", "a/b_1.png", "a_b/1.png")
    text = error_of(pairs_from_list, write_list(tmp_path, "gt/1.png a/b_1.png\n\ngt/2.png a_b/1.png\n"))
    assert "one name: lines 1 and 3 (a_b_1.png)" in text


@pytest.mark.parametrize(
    "line",
    ["RealBlur-J/s/blur/blur_1.png RealBlur-J/s/gt/gt_1.png", "train/A/blur/1.png train/A/sharp/1.png",
     "set/input/1.png set/target/1.png"],
)  # fmt: skip
def test_swapped_columns_are_noticed(tmp_path, line):
    touch(tmp_path, *line.split())
    text = error_of(pairs_from_list, write_list(tmp_path, line))
    assert "1 of 1 lines look swapped, first line 1: " in text and "Swap the columns" in text
    swapped = " ".join(reversed(line.split()))
    assert len(pairs_from_list(write_list(tmp_path, swapped))) == 1


@pytest.mark.parametrize("line", ["RealBlur/deblurred/1.png RealBlur/gt/1.png", "a/1.png b/1.png", "GT/1.png t/1.png"])
def test_other_names_are_not_taken_for_swapped(tmp_path, line):
    touch(tmp_path, *line.split())
    assert len(pairs_from_list(write_list(tmp_path, line))) == 1


def test_lists_that_are_missing_empty_or_no_text(tmp_path):
    realblur(tmp_path, 1, 1)
    text = error_of(pairs_from_list, tmp_path / "lst.txt")
    assert re.search("lst.txt: no such list file.*has list.txt. Did you mean list.txt?", text)
    assert "nowhere/list.txt: no such list file." in error_of(pairs_from_list, tmp_path / "nowhere" / "list.txt")
    assert "contains no entry" in error_of(pairs_from_list, write_list(tmp_path, "\r\n# nothing\r\n"))
    (tmp_path / "utf16.txt").write_text("gt/1.png blur/1.png", encoding="utf-16")
    assert "utf16.txt: not a text in UTF-8 (byte 0)" in error_of(pairs_from_list, tmp_path / "utf16.txt")
    assert "cannot be read (Is a directory)" in error_of(pairs_from_list, tmp_path)


def test_list_names_files_that_are_no_utf8(tmp_path):
    sharp, blur = (os.fsdecode(name) for name in (b"gt/n\xe9.png", b"blur/n\xe9.png"))
    touch(tmp_path, sharp, blur)
    (tmp_path / "list.txt").write_bytes(os.fsencode(f"{sharp} {blur}\n"))
    assert pairs_from_list(tmp_path / "list.txt")[0].blur == tmp_path / blur


def test_sizes_are_checked_as_those_of_folders(tmp_path):
    touch(tmp_path, "s1/gt/1.png", "s2/blur/1.png")
    for name, width in (("s1/gt/1.png", 8), ("s2/blur/1.png", 9)):
        Image.fromarray(np.zeros((8, width, 3), np.uint8)).save(tmp_path / name)
    pairs = pairs_from_list(write_list(tmp_path, "s1/gt/1.png s2/blur/1.png"))
    assert error_of(check_pairs, pairs).startswith(f"{tmp_path}: blur and sharp must be of one size")


# ---- two folders


def test_folders_are_paired_by_name_in_natural_order(tmp_path):
    touch(tmp_path, *(f"input/{i}.png" for i in (10, 2, 1)), *(f"target/{i}.jpg" for i in (1, 2, 10)))
    pairs = pairs_from_folders(tmp_path / "input", str(tmp_path / "target"))[0]
    assert [pair.name for pair in pairs] == ["1", "2", "10"]
    assert pairs[2] == Pair("10", tmp_path / "input/10.png", tmp_path / "target/10.jpg")


def test_hide_keeps_all_sharp_images_in_one_folder(tmp_path):
    touch(tmp_path, "test/test-close-ups/1fromG.MP4.png", "test/test-long-shot/2fromG.MP4.png", "train/3fromG.MP4.png")
    touch(tmp_path, *(f"GT/{i}fromG.MP4.png" for i in (1, 2, 3)))
    pairs = pairs_from_folders(tmp_path / "test", tmp_path / "GT")[0]
    assert [pair.name for pair in pairs] == ["test-close-ups/1fromG.MP4", "test-long-shot/2fromG.MP4"]
    assert [pair.sharp.name for pair in pairs] == ["1fromG.MP4.png", "2fromG.MP4.png"]


def test_bad_folders_are_reported_in_one_line(tmp_path):
    touch(tmp_path, "blur/1.png", "blur/a/2.png", "blur/b/2.png", "sharp/2.png", "empty/notes.txt")
    blur, sharp = tmp_path / "blur", tmp_path / "sharp"
    assert "2 of 3 images without" not in (text := error_of(pairs_from_folders, blur, sharp))
    assert f"{blur}: 3 of 3 images without a partner of the same name in {sharp}: 1, a/2, b/2." in text
    assert "--blur_directory: no folder" in error_of(pairs_from_folders, tmp_path / "blurr", sharp)
    assert "empty: no image in it" in error_of(pairs_from_folders, blur, tmp_path / "empty")
    assert "one contains the other" in error_of(pairs_from_folders, tmp_path, sharp)
    assert "look swapped by their names" in error_of(pairs_from_folders, sharp, blur)


def test_a_link_to_a_folder_above_is_followed_once(tmp_path):
    touch(tmp_path, "blur/1.png", "sharp/1.png")
    (tmp_path / "blur" / "loop").symlink_to(tmp_path / "blur")
    assert len(pairs_from_folders(tmp_path / "blur", tmp_path / "sharp")[0]) == 1


# ---- sharp photographs


def test_photographs_are_pairs_without_a_blurred_file(tmp_path):
    folder = write_photos(tmp_path / "photos", "10.png", "2.jpg", "sea/1.png")
    pairs = pairs_from_photos(folder, "--sharp_photos")
    assert [pair.name for pair in pairs] == ["photo/2", "photo/10", "photo/sea/1"]
    assert all(isinstance(pair, SharpPhoto) and pair.blur == pair.sharp for pair in pairs)


def test_folders_that_are_no_photographs_are_reported(tmp_path, make_dataset):
    assert "--sharp_photos: no folder" in error_of(pairs_from_photos, tmp_path / "none", "--sharp_photos")
    (tmp_path / "empty").mkdir()
    assert "no image in it" in error_of(pairs_from_photos, tmp_path / "empty", "--sharp_photos")
    text = error_of(pairs_from_photos, make_dataset(), "--dataset_root")
    assert "expected only sharp photographs, but it has folders called blur" in text
