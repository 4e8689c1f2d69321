"""Packed sets: equal to the files they were made of, and never read when they are not."""

import os
import shutil

import numpy as np
import pytest

from src.config import Data
from src.data.datasets import choose_pairs, training_and_validation_pairs
from src.data.packed import damaged_entries, open_pairs, windows
from src.data.packing import pack
from src.data.pairs import check_pairs, find_pairs
from src.data_load import TrainPairs
from src.evaluation import evaluate, make_scorer
from tests.data_trees import assert_equal_pixels, error_of

# ---- the same pictures


def test_both_halves_hold_what_the_files_hold(pair_folder, packed):
    for split in ("train", "test"):
        pairs, place = choose_pairs(packed, split)
        assert_equal_pixels(pairs, find_pairs(pair_folder, split))
        assert place == f"{packed} (packed)" and check_pairs(pairs, min_side=40) == ""
    assert not pairs[0].read()[0].flags.writeable
    flat = np.load(packed / "test.npy")  # an ordinary .npy file, for other programs too
    assert flat.shape == (2 * 2 * 40 * 48 * 3,) and flat.dtype == np.uint8
    assert sorted(p.name for p in packed.iterdir()) == ["index.jsonl", "test.npy", "train.npy"]


@pytest.mark.parametrize("options", [{}, {"random_rotate90": True, "random_rgb_permutation": True}])
def test_crops_are_bit_identical_for_seed_epoch_and_index(pair_folder, packed, options):
    data = Data(crop_size=16, **options)
    loaders = [
        TrainPairs(pairs, data, seed=3, dropout=0.1)
        for pairs in (find_pairs(pair_folder, "train"), open_pairs(packed, "train"))
    ]
    for item in range(3 * 5):
        for files, frames in zip(loaders[0][item], loaders[1][item], strict=True):
            np.testing.assert_array_equal(files, frames)


def test_scores_are_the_same(pair_folder, packed):
    def half_sharpened(blur):
        return blur * np.float32(0.5) + np.float32(0.2)

    scorer = make_scorer(["psnr", "psnr_uint8", "ssim"])
    files, frames = (
        list(evaluate(pairs, half_sharpened, scorer, batch_size=2))
        for pairs in (find_pairs(pair_folder, "test"), open_pairs(packed, "test"))
    )
    assert [row | {"seconds": 0} for row in frames] == [row | {"seconds": 0} for row in files]


def test_one_of_its_files_means_the_set(packed):
    for name in ("train.npy", "index.jsonl"):
        assert len(choose_pairs(packed / name, "train")[0]) == 5


def test_training_and_validation_pairs_come_from_it(packed):
    train, val, words = training_and_validation_pairs(Data(str(packed), crop_size=16))
    assert (len(train), len(val)) == (5, 2) and "(packed)" in words
    train, val, _ = training_and_validation_pairs(Data(str(packed), val_fraction=0.4, crop_size=16))
    assert len(train) + len(val) == 5 and val


def test_a_packed_set_alone_is_enough(pair_folder, packed, tmp_path):
    expected = [pair.read()[0].copy() for pair in open_pairs(packed, "train")]
    shutil.copytree(packed, tmp_path / "other/machine/packed")
    shutil.rmtree(pair_folder)
    for root in (packed, tmp_path / "other/machine/packed"):
        for pair, blur in zip(open_pairs(root, "train"), expected, strict=True):
            np.testing.assert_array_equal(pair.read()[0], blur)


@pytest.mark.parametrize("size, patch", [((720, 1280), 512), ((40, 48), 16), ((16, 100), 16), ((10, 12), 16)])
def test_patches_stay_inside_and_hold_every_window_of_half_their_size(size, patch):
    found = windows(*size, patch)
    assert all(top >= 0 and left >= 0 and top + h <= size[0] and left + w <= size[1] for top, left, h, w in found)
    assert {(h, w) for _, _, h, w in found} == {(min(patch, size[0]), min(patch, size[1]))}
    for axis in (0, 1):
        starts = sorted({window[axis] for window in found})
        half = min(patch // 2, size[axis])
        for first in range(size[axis] - half + 1):
            assert any(start <= first and first + half <= start + min(patch, size[axis]) for start in starts)
    assert windows(*size, 0) == [(0, 0, *size)]


# ---- bad files


def test_an_index_that_was_edited_is_not_believed(packed):
    text = (packed / "index.jsonl").read_text()
    (packed / "index.jsonl").write_text(text.replace('"offset":11520,', '"offset":11521,'))
    assert "cut off or damaged" in error_of(choose_pairs, packed, "train")
    for content in ("", "[1]\n", '{"format":"another"}\n'):
        (packed / "index.jsonl").write_text(content)
        assert "not the index of a packed dataset" in error_of(choose_pairs, packed, "train")


def test_a_half_that_is_not_there(pair_folder, tmp_path):
    shutil.rmtree(pair_folder / "test")
    pack(pair_folder, tmp_path / "packed", progress=False)
    assert "no test pairs in it, got train" in error_of(choose_pairs, tmp_path / "packed", "test")


def test_flipped_bytes_are_found(packed):
    assert damaged_entries(packed) == []
    with open(packed / "train.npy", "rb+") as file:
        file.seek(128 + 2 * 2 * 40 * 48 * 3 + 7)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert damaged_entries(packed) == ["train/3"]
