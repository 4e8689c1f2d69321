"""Packed sets: equal to the files they were made of, and never read when they are not."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import packed_data
from src.data_load import TrainPairs
from src.datasets import choose_pairs, split_validation, training_and_validation_pairs
from src.errors import UserError
from src.evaluation import evaluate, make_scorer
from src.packed_data import damaged_entries, npy_header, open_pairs, pack, windows
from src.picture_files import check_pairs, find_pairs
from src.preprocessing import arrange, main


@pytest.fixture
def source(make_dataset):
    return make_dataset(train=5, test=2)


@pytest.fixture
def packed(source, tmp_path):
    pack(source, tmp_path / "packed", progress=False)
    return tmp_path / "packed"


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as e:
        function(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def assert_equal_pixels(packed_pairs, pairs):
    assert [p.name for p in packed_pairs] == [p.name for p in pairs]
    for one, other in zip(packed_pairs, pairs, strict=True):
        for got, expected in zip(one.read(), other.read(), strict=True):
            np.testing.assert_array_equal(got, expected)


def overwrite(path, seed=9, size=(40, 48)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


# ---- the same pictures


def test_both_halves_hold_what_the_files_hold(source, packed):
    for split in ("train", "test"):
        pairs, place = choose_pairs(packed, split)
        assert_equal_pixels(pairs, find_pairs(source, split))
        assert place == f"{packed} (packed)" and check_pairs(pairs, min_side=40) == {}
    assert not pairs[0].read()[0].flags.writeable
    flat = np.load(packed / "test.npy")  # an ordinary .npy file, for other programs too
    assert flat.shape == (2 * 2 * 40 * 48 * 3,) and flat.dtype == np.uint8
    assert sorted(p.name for p in packed.iterdir()) == ["index.jsonl", "test.npy", "train.npy"]


@pytest.mark.parametrize("options", [{}, {"rotate90": True, "rgb_permutation": True}])
def test_crops_are_bit_identical_for_seed_epoch_and_index(source, packed, options):
    loaders = [
        TrainPairs(pairs, crop_size=16, seed=3, mask_channels=96, dropout=0.1, **options)
        for pairs in (find_pairs(source, "train"), open_pairs(packed, "train"))
    ]
    for item in range(3 * 5):
        for files, frames in zip(loaders[0][item], loaders[1][item], strict=True):
            np.testing.assert_array_equal(files, frames)


def test_scores_are_the_same(source, packed):
    def half_sharpened(blur):
        return blur * np.float32(0.5) + np.float32(0.2)

    scorer = make_scorer(["psnr", "psnr_uint8", "ssim"])
    files, frames = (
        list(evaluate(pairs, half_sharpened, scorer, batch_size=2))
        for pairs in (find_pairs(source, "test"), open_pairs(packed, "test"))
    )
    assert [row | {"seconds": 0} for row in frames] == [row | {"seconds": 0} for row in files]


def test_one_of_its_files_means_the_set(packed):
    for name in ("train.npy", "index.jsonl"):
        assert len(choose_pairs(packed / name, "train")[0]) == 5


def test_images_of_many_sizes_and_kinds(tmp_path):
    for kind in ("blur", "sharp"):
        (tmp_path / "d/train" / kind).mkdir(parents=True)
        overwrite(tmp_path / f"d/train/{kind}/1.png", size=(20, 30))
        overwrite(tmp_path / f"d/train/{kind}/2.bmp", size=(33, 17))
        Image.fromarray(np.arange(24 * 16, dtype=np.uint8).reshape(24, 16)).save(tmp_path / f"d/train/{kind}/10.png")
    pack(tmp_path / "d", tmp_path / "packed", progress=False)
    pairs = open_pairs(tmp_path / "packed", "train")
    assert_equal_pixels(pairs, find_pairs(tmp_path / "d", "train"))
    assert [p.read()[0].shape for p in pairs] == [(20, 30, 3), (33, 17, 3), (24, 16, 3)]
    assert pairs[1].blur == tmp_path / "packed/train/blur/2.bmp"  # as messages and sequences name it
    with pytest.raises(UserError, match=r"64x64 or more.*got 1 \(30x20\), 2"):
        check_pairs(pairs, min_side=64)


def make_gopro(root, sequences=4, frames=5):
    for s in range(sequences):
        for kind in ("blur", "sharp"):
            folder = root / "train" / f"GOPR00{s}" / kind
            folder.mkdir(parents=True)
            for i in range(frames):
                overwrite(folder / f"{i + 1:06}.png", seed=100 * s + 10 * i + len(kind))
    return root


def test_gopro_large_is_packed_as_if_it_had_been_arranged(tmp_path):
    gopro = make_gopro(tmp_path / "GOPRO_Large")
    arrange(gopro, tmp_path / "dataset", progress=False)
    for source, name in ((gopro, "direct"), (tmp_path / "dataset", "arranged")):
        pack(source, tmp_path / name, progress=False)
        pairs = open_pairs(tmp_path / name, "train")
        assert_equal_pixels(pairs, find_pairs(tmp_path / "dataset", "train"))
        files = split_validation(find_pairs(tmp_path / "dataset", "train"), 0.25, "", seed=1)
        frames = split_validation(pairs, 0.25, "", seed=1)
        assert [p.name for p in frames.val] == [p.name for p in files.val]
        assert frames.rule == files.rule and "sequences by manifest.csv" in frames.rule


def test_training_and_validation_pairs_come_from_it(packed):
    train, val, words = training_and_validation_pairs(str(packed), min_side=16)
    assert (len(train), len(val)) == (5, 2) and "(packed)" in words
    train, val, _ = training_and_validation_pairs(str(packed), val_fraction=0.4, min_side=16)
    assert len(train) + len(val) == 5 and val


# ---- patches


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


def test_training_pairs_become_patches_and_test_pairs_stay_whole(source, tmp_path):
    pack(source, tmp_path / "packed", patch_size=32, progress=False)
    pairs, files = open_pairs(tmp_path / "packed", "train"), find_pairs(source, "train")
    assert [p.name for p in pairs[:4]] == ["1_y0_x0", "1_y0_x16", "1_y8_x0", "1_y8_x16"] and len(pairs) == 5 * 4
    for got, expected in zip(pairs[-1].read(), files[-1].read(), strict=True):
        np.testing.assert_array_equal(got, expected[8:40, 16:48])
    assert_equal_pixels(open_pairs(tmp_path / "packed", "test"), find_pairs(source, "test"))


# ---- again, interrupted, changed


@pytest.fixture
def decoded(monkeypatch):
    """Names of the pairs that are decoded from here on."""
    names, content = [], packed_data._content
    monkeypatch.setattr(packed_data, "_content", lambda e, *rest: names.append(e.key) or content(e, *rest))
    return names


def test_second_run_decodes_nothing(source, packed, decoded):
    before = {p.name: p.read_bytes() for p in packed.iterdir()}
    pack(source, packed, progress=False)
    assert decoded == [] and {p.name: p.read_bytes() for p in packed.iterdir()} == before


def test_interrupted_run_is_refused_and_goes_on_where_it_stopped(source, tmp_path, monkeypatch):
    packed, content, done = tmp_path / "packed", packed_data._content, []

    def stop_at_the_fourth(entry, *rest):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(entry.key)
        return content(entry, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(packed_data, "_content", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            pack(source, packed, progress=False)
    assert "packing was interrupted here. Run the same command again" in error_of(choose_pairs, packed, "train")
    with open(packed / "index.jsonl.partial", "a") as file:
        file.write('{"split":"train","na')  # as a power cut leaves it
    again = []
    monkeypatch.setattr(packed_data, "_content", lambda e, *rest: again.append(e.key) or content(e, *rest))
    pack(source, packed, progress=False)
    assert len(done) == 3 and not set(done) & set(again) and len(again) == 4
    for split in ("train", "test"):
        assert_equal_pixels(open_pairs(packed, split), find_pairs(source, split))


def test_an_old_index_does_not_outlive_the_pixels_it_tells_of(source, packed, monkeypatch):
    overwrite(source / "train/blur/2.png")
    monkeypatch.setattr(packed_data, "_content", no_room)
    error_of(pack, source, packed, progress=False)
    assert not (packed / "index.jsonl").exists() and (packed / "index.jsonl.partial").exists()


def test_pixels_that_an_interrupted_run_lost_are_written_again(source, packed, decoded):
    (packed / "index.jsonl").rename(packed / "index.jsonl.partial")
    with open(packed / "train.npy", "rb+") as file:
        file.seek(-10, os.SEEK_END)
        file.write(bytes(10))
    pack(source, packed, progress=False)
    assert decoded == [("train", "5")]
    assert_equal_pixels(open_pairs(packed, "train"), find_pairs(source, "train"))


def test_stale_sets_are_named_and_mended(source, packed, decoded):
    overwrite(source / "train/blur/2.png")
    text = error_of(choose_pairs, packed, "train")
    assert f"{packed} is stale: {source} has 1 changed pair (2)" in text and f"--root_dst {packed} --pack" in text
    assert len(choose_pairs(packed, "test")[0]) == 2  # that half is as it was
    pack(source, packed, progress=False)
    assert decoded == [("train", "2")]
    for kind in ("blur", "sharp"):
        overwrite(source / f"train/{kind}/3b.png", seed=len(kind))
        (source / f"train/{kind}/5.png").unlink()
    assert "has 1 new pair (3b), 1 removed pair (5)" in error_of(choose_pairs, packed, "train")
    pack(source, packed, progress=False)
    assert_equal_pixels(open_pairs(packed, "train"), find_pairs(source, "train"))


def test_a_packed_set_alone_is_enough(source, packed, tmp_path):
    expected = [pair.read()[0].copy() for pair in open_pairs(packed, "train")]
    shutil.copytree(packed, tmp_path / "other/machine/packed")
    shutil.rmtree(source)
    for root in (packed, tmp_path / "other/machine/packed"):
        for pair, blur in zip(open_pairs(root, "train"), expected, strict=True):
            np.testing.assert_array_equal(pair.read()[0], blur)


# ---- bad files


def cut(path, count):
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - count)


def test_cut_off_files_are_named_and_mended(source, packed):
    size = (packed / "train.npy").stat().st_size
    cut(packed / "train.npy", 1)
    text = error_of(choose_pairs, packed, "train")
    assert f"{packed / 'train.npy'} is cut off: got {size - 1} bytes, expected {size}. Mend it: python -m" in text
    pack(source, packed, progress=False)
    (packed / "test.npy").unlink()
    assert "test.npy is cut off: got 0 bytes" in error_of(choose_pairs, packed, "test")
    pack(source, packed, progress=False)
    for count in (2, 5, 300):
        cut(packed / "index.jsonl", count)
        assert "index.jsonl is cut off or damaged" in error_of(choose_pairs, packed, "train")
        pack(source, packed, progress=False)
    (packed / "index.jsonl").unlink()
    assert "packed frames without their index.jsonl" in error_of(choose_pairs, packed, "train")


def test_an_index_that_was_edited_is_not_believed(packed):
    text = (packed / "index.jsonl").read_text()
    (packed / "index.jsonl").write_text(text.replace('"offset":11520,', '"offset":11521,'))
    assert "cut off or damaged" in error_of(choose_pairs, packed, "train")
    for content in ("", "[1]\n", '{"format":"another"}\n'):
        (packed / "index.jsonl").write_text(content)
        assert "not the index of a packed data set" in error_of(choose_pairs, packed, "train")


def test_another_version_is_named_and_made_anew(source, packed, decoded):
    lines = (packed / "index.jsonl").read_text().splitlines(keepends=True)
    lines[0] = json.dumps(json.loads(lines[0]) | {"version": 2}) + "\n"
    (packed / "index.jsonl").write_text("".join(lines))
    assert "packed in version 2, expected 1. Mend it" in error_of(choose_pairs, packed, "train")
    pack(source, packed, progress=False)
    assert len(decoded) == 7 and len(open_pairs(packed, "train")) == 5


def test_a_half_that_is_not_there(source, tmp_path):
    shutil.rmtree(source / "test")
    pack(source, tmp_path / "packed", progress=False)
    assert "no test pairs in it, got train" in error_of(choose_pairs, tmp_path / "packed", "test")


def test_flipped_bytes_are_found_by_verify(packed, capsys):
    assert main(["--verify", "--root_dst", str(packed)]) == 0 and damaged_entries(packed) == []
    with open(packed / "train.npy", "rb+") as file:
        file.seek(128 + 2 * 2 * 40 * 48 * 3 + 7)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert main(["--verify", "--root_dst", str(packed)]) == 1
    assert f"{packed}: damaged: train/3" in capsys.readouterr().out


def test_unreadable_sources_are_named_and_nothing_is_made(source, tmp_path):
    (source / "train/sharp/4.png").write_bytes(b"no image")
    assert "sharp/4.png: not a readable image" in error_of(pack, source, tmp_path / "packed", progress=False)
    assert not (tmp_path / "packed").exists()


def test_files_of_others_are_left_alone(source, packed, make_dataset, tmp_path):
    other = make_dataset(train=2, test=2, root="other")
    before = {p.name: p.read_bytes() for p in packed.iterdir()}
    assert f"was packed from {source}" in error_of(pack, other, packed, progress=False)
    shutil.rmtree(source / "test")
    assert "holds test pairs, which --root_src has no more" in error_of(pack, source, packed, progress=False)
    assert {p.name: p.read_bytes() for p in packed.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.npy").write_bytes(b"mine")
    assert "files of another origin" in error_of(pack, source, tmp_path / "mine", progress=False)
    assert (tmp_path / "mine/train.npy").read_bytes() == b"mine"
    assert "lies in --root_src" in error_of(pack, source, source / "packed")


# ---- no room


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_told_before_the_work_and_leaves_nothing(source, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    text = error_of(pack, source, tmp_path / "packed", progress=False)
    assert "no room for" in text and "train.npy 0.00 GB, test.npy 0.00 GB; 0.00 GB more are needed" in text
    assert "are free. Make room and run the same command again" in text
    assert decoded == [] and list((tmp_path / "packed").iterdir()) == []


def test_full_disk_while_a_set_grows_leaves_it_whole(source, packed, monkeypatch):
    before = {p.name: p.read_bytes() for p in packed.iterdir()}
    for kind in ("blur", "sharp"):
        overwrite(source / f"train/{kind}/6.png")

    def grow_then_fail(descriptor, start, count):
        os.truncate(descriptor, start + count // 2)
        no_room()

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", grow_then_fail)
        error_of(pack, source, packed, progress=False)
    assert {p.name: p.read_bytes() for p in packed.iterdir()} == before
    assert len(choose_pairs(packed, "test")[0]) == 2
    pack(source, packed, progress=False)
    assert len(open_pairs(packed, "train")) == 6


def test_disk_that_fills_up_on_the_way_is_no_whole_set(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        assert "no room for" in error_of(pack, source, tmp_path / "packed", progress=False)
    assert "was interrupted" in error_of(choose_pairs, tmp_path / "packed", "train")
    pack(source, tmp_path / "packed", progress=False)
    assert_equal_pixels(open_pairs(tmp_path / "packed", "train"), find_pairs(source, "train"))


# ---- the command line, and the header


def test_options(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--root_src", str(source), "--pack"]) == 0
    out = capsys.readouterr().out
    assert "packing 5 train pairs, 2 test pairs into packed: 0.00 GB" in out and "7 pairs decoded" in out
    assert "next: python train.py --dataset_root packed" in out and len(open_pairs(Path("packed"), "train")) == 5
    assert main(["--root_src", str(source), "--root_dst", "patches", "--pack", "--patch_size", "16"]) == 0
    assert len(open_pairs("patches", "train")) == 5 * 4 * 5
    for options, words in (
        (["--patch_size", "32"], "--patch_size: needs --pack"),
        (["--pack", "--patch_size", "-4"], "--patch_size: got -4, expected 0 or 16 or more"),
        (["--pack", "--link"], "--link and --pack"),
        (["--pack", "--verify"], "--pack: means nothing with --verify"),
    ):
        assert words in error_of(main, ["--root_src", str(source), *options])


@pytest.mark.parametrize("size", [1, 12345, 10**15])
def test_header_is_that_of_numpy(size, tmp_path):
    header = npy_header(size)
    assert len(header) == 128
    (tmp_path / "a.npy").write_bytes(header)
    with open(tmp_path / "a.npy", "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((size,), False, np.uint8)
