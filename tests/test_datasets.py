"""Pairs by list file and by two folders, and validation pairs taken out of the training pairs."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.datasets import (
    ValidationSplit,
    choose_pairs,
    choose_root,
    mix_in_photos,
    pairs_from_folders,
    pairs_from_list,
    pairs_from_photos,
    sequences_of,
    split_by_fraction,
    split_by_list,
    split_validation,
    training_and_validation_pairs,
)
from src.errors import UserError
from src.picture_files import Pair, check_pairs, find_pairs
from src.preprocessing import arrange


def touch(root, *names):
    """Empty files: the names are all that is looked at."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def realblur(root, scenes=3, frames=4):
    """Files and list as RealBlur has them; the list lies beside the folder it speaks of."""
    names = [
        (f"RealBlur-J/scene{s:03d}/gt/gt_{i}.png", f"RealBlur-J/scene{s:03d}/blur/blur_{i}.png")
        for s in range(1, scenes + 1)
        for i in range(1, frames + 1)
    ]
    touch(root, *(name for pair in names for name in pair))
    return write_list(root, "\n".join(" ".join(pair) for pair in names))


def write_list(root, text, name="list.txt"):
    (root / name).write_bytes(text.encode())
    return root / name


def named_pairs(*names, folder="train/blur"):
    return [Pair(name, Path(folder) / f"{name}.png", Path("train/sharp") / f"{name}.png") for name in names]


def error_of(call, *args, **options):
    """The text of the UserError that a call must raise, one line."""
    with pytest.raises(UserError) as e:
        call(*args, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


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
    assert "list.txt: expected two paths on each line, sharp and blurred, but line 3 has 1, line 4 has 3." in text
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
    assert re.search("lst.txt: no such list file.*has list.txt. Did you mean list.txt?", error_of(
        pairs_from_list, tmp_path / "lst.txt"))  # fmt: skip
    assert "nowhere/list.txt: no such list file." in error_of(pairs_from_list, tmp_path / "nowhere" / "list.txt")
    assert "holds no entry" in error_of(pairs_from_list, write_list(tmp_path, "\r\n# nothing\r\n"))
    (tmp_path / "utf16.txt").write_text("gt/1.png blur/1.png", encoding="utf-16")
    assert "utf16.txt: not a text in UTF-8 (byte 0)" in error_of(pairs_from_list, tmp_path / "utf16.txt")
    assert "cannot be read (Is a directory)" in error_of(pairs_from_list, tmp_path)


def test_sizes_are_checked_as_those_of_folders(tmp_path):
    touch(tmp_path, "s1/gt/1.png", "s2/blur/1.png")
    for name, width in (("s1/gt/1.png", 8), ("s2/blur/1.png", 9)):
        Image.fromarray(np.zeros((8, width, 3), np.uint8)).save(tmp_path / name)
    pairs = pairs_from_list(write_list(tmp_path, "s1/gt/1.png s2/blur/1.png"))
    assert error_of(check_pairs, pairs).startswith(f"{tmp_path}: blur and sharp must be of one size")


# ---- two folders


def test_folders_are_paired_by_name_in_natural_order(tmp_path):
    touch(tmp_path, *(f"input/{i}.png" for i in (10, 2, 1)), *(f"target/{i}.jpg" for i in (1, 2, 10)))
    pairs = pairs_from_folders(tmp_path / "input", str(tmp_path / "target"))
    assert [pair.name for pair in pairs] == ["1", "2", "10"]
    assert pairs[2] == Pair("10", tmp_path / "input/10.png", tmp_path / "target/10.jpg")


def test_sub_folders_stay_in_the_name(tmp_path):
    touch(tmp_path, "blur/000/1.png", "blur/001/1.png", "sharp/000/1.png", "sharp/001/1.png", "sharp/001/2.png")
    pairs, where = choose_pairs(None, "train", "", str(tmp_path / "blur"), str(tmp_path / "sharp"))
    assert [(pair.name, pair.sharp.parent.name) for pair in pairs] == [("000/1", "000"), ("001/1", "001")]
    assert where.endswith("sharp (1 sharp images without a blurred partner are not used)")


def test_hide_keeps_all_sharp_images_in_one_folder(tmp_path):
    touch(tmp_path, "test/test-close-ups/1fromG.MP4.png", "test/test-long-shot/2fromG.MP4.png", "train/3fromG.MP4.png")
    touch(tmp_path, *(f"GT/{i}fromG.MP4.png" for i in (1, 2, 3)))
    pairs = pairs_from_folders(tmp_path / "test", tmp_path / "GT")
    assert [pair.name for pair in pairs] == ["test-close-ups/1fromG.MP4", "test-long-shot/2fromG.MP4"]
    assert [pair.sharp.name for pair in pairs] == ["1fromG.MP4.png", "2fromG.MP4.png"]


def test_bad_folders_are_told_in_one_line(tmp_path):
    touch(tmp_path, "blur/1.png", "blur/a/2.png", "blur/b/2.png", "sharp/2.png", "empty/notes.txt")
    blur, sharp = tmp_path / "blur", tmp_path / "sharp"
    assert "2 of 3 images without" not in (text := error_of(pairs_from_folders, blur, sharp))
    assert f"{blur}: 3 of 3 images without a partner of the same name in {sharp}: 1, a/2, b/2." in text
    assert "--blur_directory: no folder" in error_of(pairs_from_folders, tmp_path / "blurr", sharp)
    assert "empty: no image in it" in error_of(pairs_from_folders, blur, tmp_path / "empty")
    assert "lie in one another" in error_of(pairs_from_folders, tmp_path, sharp)
    assert "look swapped by their names" in error_of(pairs_from_folders, sharp, blur)


def test_a_link_to_a_folder_above_does_not_go_on_for_ever(tmp_path):
    touch(tmp_path, "blur/1.png", "sharp/1.png")
    (tmp_path / "blur" / "loop").symlink_to(tmp_path / "blur")
    assert len(pairs_from_folders(tmp_path / "blur", tmp_path / "sharp")) == 1


# ---- which of them


def test_choose_takes_list_then_folders_then_the_standard_layout(tmp_path):
    touch(tmp_path, "train/blur/1.png", "train/sharp/1.png", "b/2.png", "s/2.png")
    folders = (str(tmp_path / "b"), str(tmp_path / "s"))
    file = str(write_list(tmp_path, "s/2.png b/2.png"))
    assert choose_pairs(tmp_path, "train") == (find_pairs(tmp_path, "train"), str(tmp_path))
    assert choose_pairs(tmp_path, "train", file) == (pairs_from_list(file), file)
    assert choose_pairs("", "test", "", *folders) == (pairs_from_folders(*folders), " and ".join(folders))
    assert "--test_list and --blur_directory" in error_of(choose_pairs, "", "test", file, *folders)
    assert "--blur_directory needs --sharp_directory" in error_of(choose_pairs, "", "test", "", folders[0])
    assert "--sharp_directory needs --blur_directory" in error_of(choose_pairs, "", "test", "", "", folders[1])
    assert "--dataset_root: expected a folder with test/{blur,sharp}" in error_of(choose_pairs, "", "test")


def test_folders_of_other_names_in_the_standard_place_get_a_hint(tmp_path):
    touch(tmp_path, "test/input/1.png", "test/target/1.png")
    text = error_of(choose_pairs, tmp_path, "test")
    assert "got input, target;" in text and "--blur_directory" in text


# ---- sequences


@pytest.mark.parametrize(
    "name, sequence",
    [
        ("GOPR0477_11_00-000001", "GOPR0477_11_00"),
        ("GOPR0477_11_00_000001", "GOPR0477_11_00"),
        ("GOPR0477_11_00-000001-3", "GOPR0477_11_00"),
        ("GOPR0477_11_00-000001_s003", "GOPR0477_11_00"),
        ("GOPR0374_11_00-k0614-n8", "GOPR0374_11_00"),
        ("000-00000001", "000"),
        ("12fromGOPR1055.MP4", "GOPR1055.MP4"),
        ("clip3_12", "clip3"),
        ("walk frame7", "walk"),
    ],
)
def test_sequence_in_the_name(name, sequence):
    sequences, rule = sequences_of(named_pairs(name, "other_1"))
    assert sequences == [sequence, "other"] and rule == "sequences by the start of the file names"


def test_names_without_sequences():
    assert sequences_of(named_pairs("1", "2", "3")) == ([], "")
    assert sequences_of(named_pairs("a_1", "a_2")) == ([], "")  # a single one tells nothing apart
    assert sequences_of(named_pairs("a_1", "b_1", "photo")) == ([], "")


def test_sequences_by_folder(tmp_path):
    sequences, rule = sequences_of(pairs_from_list(realblur(tmp_path, 2, 2)))
    assert rule == "sequences by folder" and sequences == ["scene001", "scene001", "scene002", "scene002"]
    deep = [Pair(str(i), Path(f"d/{a}/{b}/blur/1.png"), Path("s.png")) for i, (a, b) in enumerate(["xm", "ym", "xm"])]
    assert sequences_of(deep)[0] == ["x/m", "y/m", "x/m"]


def test_sequences_by_manifest(tmp_path):
    for sequence in ("GOPR1", "GOPR2"):
        touch(tmp_path, *(f"G/train/{sequence}/{k}/{i:06d}.png" for k in ("blur", "sharp") for i in (1, 2, 3)))
    arrange(tmp_path / "G", tmp_path / "d", progress=False)
    pairs = find_pairs(tmp_path / "d", "train")
    assert sequences_of(pairs) == (["GOPR1"] * 3 + ["GOPR2"] * 3, "sequences by manifest.csv")
    touch(tmp_path, "d/train/blur/7.png", "d/train/sharp/7.png")  # the manifest does not know all: it is no guide
    assert sequences_of(find_pairs(tmp_path / "d", "train")) == ([], "")
    (tmp_path / "d" / "manifest.csv").write_text("of,another,program\n")
    assert sequences_of(pairs) == ([], "")


# ---- by fraction


def many(sequences=22, frames=95):
    return named_pairs(*(f"S{s:02d}-{i:06d}" for s in range(sequences) for i in range(1, frames + 1 + s % 3)))


def test_whole_sequences_near_the_fraction_the_same_for_a_seed():
    pairs = many()
    first = split_by_fraction(pairs, 0.1, seed=1)
    assert first == split_by_fraction(pairs, 0.1, seed=1) and isinstance(first, ValidationSplit)
    assert abs(len(first.val) - 0.1 * len(pairs)) < 50
    sequence = {pair.name: pair.name[:3] for pair in pairs}
    assert not {sequence[p.name] for p in first.train} & {sequence[p.name] for p in first.val}
    assert sorted(first.train + first.val, key=pairs.index) == pairs
    assert [pairs.index(p) for p in first.train] == sorted(pairs.index(p) for p in first.train)
    assert len({split_by_fraction(pairs, 0.1, seed).rule for seed in range(5)}) > 1
    assert re.fullmatch(
        r"\d+ of 2111 training pairs \(9\.\d %\), 2 of 22 sequences by the start of the file names: S\d\d, S\d\d",
        first.rule,
    )


def test_order_of_the_pairs_does_not_matter():
    pairs = many(6, 5)
    assert set(split_by_fraction(pairs[::-1], 0.3, 3).val) == set(split_by_fraction(pairs, 0.3, 3).val)


@pytest.mark.parametrize("count", [2, 3, 7, 16, 101, 1000])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.33, 0.5])
def test_blocks_are_contiguous_and_no_part_is_ever_empty(count, fraction):
    pairs = named_pairs(*map(str, range(1, count + 1)))
    split = split_by_fraction(pairs, fraction, seed=0)
    assert split.train and split.val and len(split.train) + len(split.val) == count
    wanted = max(1, round(fraction * count))
    assert wanted / 2 <= len(split.val) <= 2 * wanted and "neighbours (nothing tells sequences apart)" in split.rule
    numbers = [int(pair.name) for pair in split.val]
    runs = 1 + sum(b - a > 1 for a, b in zip(numbers, numbers[1:], strict=False))
    assert runs <= max(1, wanted // 40)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.floats(0.01, 0.5), st.integers(0, 9))
def test_any_sizes_of_sequences_leave_both_parts_something_and_are_not_torn(sizes, fraction, seed):
    pairs = named_pairs(*(f"s{k}_{i}" for k, size in enumerate(sizes) for i in range(size)))
    try:
        split = split_by_fraction(pairs, fraction, seed)
    except UserError:
        assert min(sizes) > 2 * max(1, int(fraction * len(pairs) + 0.5))
    else:
        assert split.train and 0 < len(split.val) <= 2 * max(1, fraction * len(pairs) + 0.5)
        assert sorted(split.train + split.val, key=pairs.index) == pairs
        assert not {p.name.split("_")[0] for p in split.train} & {p.name.split("_")[0] for p in split.val}


def test_fractions_that_cannot_be_are_told_with_numbers():
    pairs = named_pairs(*(f"{s}-{i:08d}" for s in ("000", "001") for i in range(10)))
    assert "--val_fraction: got 0.6, expected more than 0, up to 0.5" in error_of(split_by_fraction, pairs, 0.6, 1)
    assert "got -0.1" in error_of(split_by_fraction, pairs, -0.1, 1)
    assert "got nan" in error_of(split_by_fraction, pairs, float("nan"), 1)
    assert "needs two pairs or more, one for each part, got 1" in error_of(split_by_fraction, pairs[:1], 0.5, 1)
    text = error_of(split_by_fraction, pairs, 0.1, 1)
    assert "asks for 2 of 20 pairs, but the 2 sequences by the start of the file names hold 10 or more each" in text
    assert "Give --val_fraction 0.5 or name single pairs in --val_list." in text
    assert len(split_by_fraction(pairs, 0.5, 1).val) == 10


# ---- by list


def test_list_names_pairs_and_sequences(tmp_path):
    pairs = many(3, 4)
    file = write_list(tmp_path, "\ufeff# validation\r\nS01\r\nS02-000003\r\nS00-000001.png\r\n")
    split = split_by_list(pairs, file)
    assert [p.name for p in split.val] == ["S00-000001", *(f"S01-00000{i}" for i in range(1, 6)), "S02-000003"]
    assert len(split.train) == len(pairs) - 7 and split.rule == f"7 of 15 training pairs (46.7 %), {file}"
    assert split_validation(pairs, 0.0, "list.txt", 1, root=tmp_path).val == split.val


def test_list_errors_name_line_and_nearest(tmp_path):
    pairs = many(3, 4)
    text = error_of(split_by_list, pairs, write_list(tmp_path, "S01\n\nS02-00003\nS09\n"))
    assert text.endswith("line 3: S02-00003, line 4: S09. Did you mean S02-000003?") and "(like S00-000001)" in text
    assert "one of the sequences by the start of the file names (S00, S01, S02)" in text
    assert "names all 15 pairs, none is left" in error_of(split_by_list, pairs, write_list(tmp_path, "S00\nS01\nS02"))
    assert "holds no entry" in error_of(split_by_list, pairs, write_list(tmp_path, "\n"))
    assert "both name the validation pairs" in error_of(split_validation, pairs, 0.1, "list.txt", 1)
    assert split_validation(pairs, 0.3, "", 1) == split_by_fraction(pairs, 0.3, 1)


# ---- sharp photographs


def write_photos(folder, *names, size=(40, 48)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / name)
    return folder


def test_photographs_are_pairs_without_a_blurred_file(tmp_path):
    folder = write_photos(tmp_path / "photos", "10.png", "2.jpg", "sea/1.png")
    pairs = pairs_from_photos(folder, "--sharp_photos")
    assert [pair.name for pair in pairs] == ["photo/2", "photo/10", "photo/sea/1"]
    assert all(pair.is_photo and pair.blur == pair.sharp for pair in pairs)
    assert not Pair("1", Path("blur/1.png"), Path("sharp/1.png")).is_photo


def test_folders_that_are_no_photographs_are_told(tmp_path, make_dataset):
    assert "--sharp_photos: no folder" in error_of(pairs_from_photos, tmp_path / "none", "--sharp_photos")
    (tmp_path / "empty").mkdir()
    assert "no image in it" in error_of(pairs_from_photos, tmp_path / "empty", "--sharp_photos")
    text = error_of(pairs_from_photos, make_dataset(), "--dataset_root")
    assert "expected sharp photographs only, but it has folders called blur" in text


@pytest.mark.parametrize(
    "pairs, photos, fraction, expected", [(20, 60, 0.5, (60, 60)), (60, 20, 0.25, (60, 20)), (9, 2, 0.1, (18, 2))]
)
def test_the_share_of_photographs_is_kept_and_none_is_left_out(pairs, photos, fraction, expected):
    real = [Pair(str(i), Path("b"), Path("s")) for i in range(pairs)]
    some = [Pair(f"photo/{i}", Path("p"), Path("p")) for i in range(photos)]
    mixed = mix_in_photos(real, some, fraction)
    assert (len([p for p in mixed if not p.is_photo]), len([p for p in mixed if p.is_photo])) == expected
    assert set(mixed) == {*real, *some}
    for wrong in (0.0, 1.0, -1.0):
        assert f"--synthetic_fraction: got {wrong:g}" in error_of(mix_in_photos, real, some, wrong)


def test_synthetic_training_pairs_and_their_validation(tmp_path, make_dataset):
    photos, root = write_photos(tmp_path / "photos", "1.png", "2.png"), make_dataset(train=4, test=2)
    pairs, val, text = training_and_validation_pairs(str(photos), blur="synthetic", validate=False, min_side=40)
    assert len(pairs) == 2 and not val and text.startswith(f"2 training pairs from {photos}, blurred anew each time")
    pairs, val, text = training_and_validation_pairs(str(root), sharp_photos=str(photos), synthetic_fraction=0.5)
    assert [pair.is_photo for pair in pairs] == [False] * 4 + [True] * 4 and len(val) == 2
    assert "8 training pairs" in text and "4 of them of the 2 photographs in" in text
    assert "expected images of 44x44" in error_of(
        training_and_validation_pairs, str(photos), blur="synthetic", validate=False, min_side=44
    )
    assert "--blur synthetic: validation pairs" in error_of(
        training_and_validation_pairs, str(photos), blur="synthetic"
    )
    for other in ({"val_fraction": 0.1}, {"train_list": "list.txt"}, {"sharp_photos": "more"}):
        assert "it does not go with" in error_of(
            training_and_validation_pairs, str(photos), blur="synthetic", validate=False, **other
        )


def test_the_sample_set_stands_in_only_where_nothing_is_named(monkeypatch):
    monkeypatch.setattr("src.datasets.dataset_or_samples", lambda root: f"samples instead of {root!r}")
    assert choose_root("") == choose_root("", "", "") == "samples instead of ''"
    assert choose_root("", "list.txt") == choose_root("", "", "folder") == ""
