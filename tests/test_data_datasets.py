"""Which pairs a run uses."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from src.config import Data
from src.data.datasets import choose_pairs, choose_root, mix_in_photos, training_and_validation_pairs
from src.data.pairs import Pair, SharpPhoto, find_pairs
from src.data.sources import pairs_from_folders, pairs_from_list
from tests.data_trees import error_of, touch, write_list, write_photos


def training_pairs(root, validate=True, crop_size=16, **options):
    return training_and_validation_pairs(Data(str(root), crop_size=crop_size, **options), validate=validate)


# ---- two folders


def test_sub_folders_stay_in_the_name(tmp_path):
    touch(tmp_path, "blur/000/1.png", "blur/001/1.png", "sharp/000/1.png", "sharp/001/1.png", "sharp/001/2.png")
    pairs, where = choose_pairs(None, "train", "", str(tmp_path / "blur"), str(tmp_path / "sharp"))
    assert [(pair.name, pair.sharp.parent.name) for pair in pairs] == [("000/1", "000"), ("001/1", "001")]
    assert where.endswith("sharp (1 sharp images without a blurred partner are not used)")


# ---- which of them


def test_choose_takes_list_then_folders_then_the_standard_layout(tmp_path):
    touch(tmp_path, "train/blur/1.png", "train/sharp/1.png", "b/2.png", "s/2.png")
    folders = (str(tmp_path / "b"), str(tmp_path / "s"))
    file = str(write_list(tmp_path, "s/2.png b/2.png"))
    assert choose_pairs(tmp_path, "train") == (find_pairs(tmp_path, "train"), str(tmp_path))
    assert choose_pairs(tmp_path, "train", file) == (pairs_from_list(file), file)
    assert choose_pairs("", "test", "", *folders) == (pairs_from_folders(*folders)[0], " and ".join(folders))
    assert "--test_list and --blur_directory" in error_of(choose_pairs, "", "test", file, *folders)
    assert "--blur_directory needs --sharp_directory" in error_of(choose_pairs, "", "test", "", folders[0])
    assert "--sharp_directory needs --blur_directory" in error_of(choose_pairs, "", "test", "", "", folders[1])
    assert "--dataset_root: expected a folder with test/{blur,sharp}" in error_of(choose_pairs, "", "test")


def test_folders_of_other_names_in_the_standard_place_get_a_hint(tmp_path):
    touch(tmp_path, "test/input/1.png", "test/target/1.png")
    text = error_of(choose_pairs, tmp_path, "test")
    assert "got input, target;" in text and "--blur_directory" in text


# ---- sharp photographs


@pytest.mark.parametrize(
    "pairs, photos, fraction, expected", [(20, 60, 0.5, (60, 60)), (60, 20, 0.25, (60, 20)), (9, 2, 0.1, (18, 2))]
)
def test_the_share_of_photographs_is_kept_and_none_is_left_out(pairs, photos, fraction, expected):
    real = [Pair(str(i), Path("b"), Path("s")) for i in range(pairs)]
    some = [SharpPhoto(f"photo/{i}", Path("p"), Path("p")) for i in range(photos)]
    mixed = mix_in_photos(real, some, fraction)
    assert (len([p for p in mixed if p in real]), len([p for p in mixed if p in some])) == expected
    assert set(mixed) == {*real, *some}
    for wrong in (0.0, 1.0, -1.0):
        assert f"--synthetic_fraction: got {wrong:g}" in error_of(mix_in_photos, real, some, wrong)


def test_synthetic_training_pairs_and_their_validation(tmp_path, make_dataset):
    photos, root = write_photos(tmp_path / "photos", "1.png", "2.png"), make_dataset(train=4, test=2)
    pairs, val, text = training_pairs(photos, False, blur="synthetic", crop_size=40)
    assert (
        len(pairs) == 2
        and not val
        and text.startswith(f"2 training pairs from {photos}, blurred differently in every epoch")
    )
    pairs, val, text = training_pairs(root, sharp_photos=str(photos), synthetic_fraction=0.5)
    assert [isinstance(pair, SharpPhoto) for pair in pairs] == [False] * 4 + [True] * 4 and len(val) == 2
    assert "8 training pairs" in text and "4 of them of the 2 photographs in" in text
    assert "expected images of 44x44" in error_of(training_pairs, photos, False, blur="synthetic", crop_size=44)
    assert "--blur synthetic: validation needs --test_list" in error_of(training_pairs, photos, blur="synthetic")
    for other in ({"val_fraction": 0.1}, {"train_list": "list.txt"}, {"sharp_photos": "more"}):
        assert "it does not go with" in error_of(training_pairs, photos, False, blur="synthetic", **other)


def test_validation_pairs_are_those_of_valid_or_the_choice_by_test_is_reported(make_dataset, tmp_path):
    root = make_dataset(train=4, test=2)
    _, val, text = training_pairs(root)
    assert {pair.blur.parent for pair in val} == {root / "test/blur"}
    assert (
        f"2 for validation (the test pairs of {root}, so best.ckpt is chosen by its score on them; --val_frac" in text
    )
    shutil.copytree(root / "train", root / "valid")
    _, val, text = training_pairs(root)
    assert {pair.blur.parent for pair in val} == {root / "valid/blur"}
    assert text.endswith(f"4 for validation (those of {root / 'valid'})")
    # Other options that name the validation pairs come first.
    file = write_list(root, "test/sharp/1.png test/blur/1.png")
    _, val, text = training_pairs(root, test_list=str(file))
    assert len(val) == 1 and f"the test pairs of {file}" in text
    train, val, _ = training_pairs(root, val_fraction=0.5)
    assert len(train) == len(val) == 2 and val[0].blur.parent == root / "train/blur"
    assert training_pairs(root, False)[1] == []


def test_conversions_of_the_validation_pairs_are_reported(make_dataset):
    root = make_dataset(train=4, test=2)
    Image.new("L", (48, 40)).save(root / "test/blur/1.png")
    assert training_pairs(root)[2].endswith(" (converted to 8-bit RGB: 1 L)")


def test_the_sample_set_stands_in_only_where_nothing_is_named(monkeypatch):
    monkeypatch.setattr("src.data.datasets.dataset_or_samples", lambda root: f"samples instead of {root!r}")
    assert choose_root("") == choose_root("", "", "") == "samples instead of ''"
    assert choose_root("", "list.txt") == choose_root("", "", "folder") == ""
