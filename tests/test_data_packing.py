"""Packing: the effects of an interruption, a changed source or a full disk, and their repair by packing again."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from src.data import packing
from src.data.datasets import choose_pairs
from src.data.gopro import arrange
from src.data.packed import open_pairs
from src.data.packing import pack
from src.data.pairs import check_pairs, find_pairs
from src.data.validation_split import split_validation
from src.errors import UserError
from tests.data_trees import assert_equal_pixels, error_of, overwrite

# ---- the same pictures


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


def test_conversions_are_reported_and_orientations_applied(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("blur", "sharp"):
        (tmp_path / "d/train" / kind).mkdir(parents=True)
        Image.fromarray(np.arange(24 * 16, dtype=np.uint8).reshape(24, 16)).save(
            tmp_path / f"d/train/{kind}/1.png", exif=exif
        )
    pack(tmp_path / "d", tmp_path / "packed")
    expected = "packing 1 train pairs (converted to 8-bit RGB: 2 L; 1 turned upright by their EXIF orientation) into "
    assert expected in capsys.readouterr().out
    pairs = open_pairs(tmp_path / "packed", "train")
    assert_equal_pixels(pairs, find_pairs(tmp_path / "d", "train"))
    assert pairs[0].read()[0].shape == (16, 24, 3)


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
    for pair_folder, name in ((gopro, "direct"), (tmp_path / "dataset", "arranged")):
        pack(pair_folder, tmp_path / name, progress=False)
        pairs = open_pairs(tmp_path / name, "train")
        assert_equal_pixels(pairs, find_pairs(tmp_path / "dataset", "train"))
        files = split_validation(find_pairs(tmp_path / "dataset", "train"), 0.25, "", seed=1)
        frames = split_validation(pairs, 0.25, "", seed=1)
        assert [p.name for p in frames.val] == [p.name for p in files.val]
        assert frames.rule == files.rule and "sequences by manifest.csv" in frames.rule


def test_training_pairs_become_patches_and_test_pairs_stay_whole(pair_folder, tmp_path):
    pack(pair_folder, tmp_path / "packed", patch_size=32, progress=False)
    pairs, files = open_pairs(tmp_path / "packed", "train"), find_pairs(pair_folder, "train")
    assert [p.name for p in pairs[:4]] == ["1_y0_x0", "1_y0_x16", "1_y8_x0", "1_y8_x16"] and len(pairs) == 5 * 4
    for got, expected in zip(pairs[-1].read(), files[-1].read(), strict=True):
        np.testing.assert_array_equal(got, expected[8:40, 16:48])
    assert_equal_pixels(open_pairs(tmp_path / "packed", "test"), find_pairs(pair_folder, "test"))


# ---- again, interrupted, changed


@pytest.fixture
def decoded(monkeypatch):
    """Names of the pairs that are decoded from here on."""
    names, content = [], packing._content
    monkeypatch.setattr(packing, "_content", lambda e, *rest: names.append(e.key) or content(e, *rest))
    return names


def test_second_run_decodes_nothing(pair_folder, packed, decoded):
    before = {p.name: p.read_bytes() for p in packed.iterdir()}
    pack(pair_folder, packed, progress=False)
    assert decoded == [] and {p.name: p.read_bytes() for p in packed.iterdir()} == before


def test_an_interrupted_set_is_rejected_and_resumed(pair_folder, tmp_path, monkeypatch):
    packed, content, done = tmp_path / "packed", packing._content, []

    def stop_at_the_fourth(entry, *rest):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(entry.key)
        return content(entry, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_content", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            pack(pair_folder, packed, progress=False)
    assert "packing was interrupted here. Rerun the same command" in error_of(choose_pairs, packed, "train")
    with open(packed / "index.jsonl.partial", "a") as file:
        file.write('{"split":"train","na')  # as a power cut leaves it
    again = []
    monkeypatch.setattr(packing, "_content", lambda e, *rest: again.append(e.key) or content(e, *rest))
    pack(pair_folder, packed, progress=False)
    assert len(done) == 3 and not set(done) & set(again) and len(again) == 4
    for split in ("train", "test"):
        assert_equal_pixels(open_pairs(packed, split), find_pairs(pair_folder, split))


def test_an_old_index_does_not_outlive_its_pixels(pair_folder, packed, monkeypatch):
    overwrite(pair_folder / "train/blur/2.png")
    monkeypatch.setattr(packing, "_content", no_room)
    error_of(pack, pair_folder, packed, progress=False)
    assert not (packed / "index.jsonl").exists() and (packed / "index.jsonl.partial").exists()


def test_pixels_that_an_interrupted_run_lost_are_written_again(pair_folder, packed, decoded):
    (packed / "index.jsonl").rename(packed / "index.jsonl.partial")
    with open(packed / "train.npy", "rb+") as file:
        file.seek(-10, os.SEEK_END)
        file.write(bytes(10))
    pack(pair_folder, packed, progress=False)
    assert decoded == [("train", "5")]
    assert_equal_pixels(open_pairs(packed, "train"), find_pairs(pair_folder, "train"))


def test_stale_sets_are_rejected_and_repaired(pair_folder, packed, decoded):
    overwrite(pair_folder / "train/blur/2.png")
    text = error_of(choose_pairs, packed, "train")
    assert f"{packed} is stale: {pair_folder} has 1 changed pair (2)" in text and f"--root_dst {packed} --pack" in text
    assert len(choose_pairs(packed, "test")[0]) == 2  # that half is as it was
    pack(pair_folder, packed, progress=False)
    assert decoded == [("train", "2")]
    for kind in ("blur", "sharp"):
        overwrite(pair_folder / f"train/{kind}/3b.png", seed=len(kind))
        (pair_folder / f"train/{kind}/5.png").unlink()
    assert "has 1 new pair (3b), 1 removed pair (5)" in error_of(choose_pairs, packed, "train")
    pack(pair_folder, packed, progress=False)
    assert_equal_pixels(open_pairs(packed, "train"), find_pairs(pair_folder, "train"))


# ---- bad files


def cut(path, count):
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - count)


def test_truncated_files_are_rejected_and_repaired(pair_folder, packed):
    size = (packed / "train.npy").stat().st_size
    cut(packed / "train.npy", 1)
    text = error_of(choose_pairs, packed, "train")
    assert f"{packed / 'train.npy'} is cut off: got {size - 1} bytes, expected {size}. To repair it: python -m" in text
    pack(pair_folder, packed, progress=False)
    (packed / "test.npy").unlink()
    assert "test.npy is cut off: got 0 bytes" in error_of(choose_pairs, packed, "test")
    pack(pair_folder, packed, progress=False)
    for count in (2, 5, 300):
        cut(packed / "index.jsonl", count)
        assert "index.jsonl is cut off or damaged" in error_of(choose_pairs, packed, "train")
        pack(pair_folder, packed, progress=False)
    (packed / "index.jsonl").unlink()
    assert "packed frames without their index.jsonl" in error_of(choose_pairs, packed, "train")


def test_another_version_is_rejected_and_packed_again(pair_folder, packed, decoded):
    lines = (packed / "index.jsonl").read_text().splitlines(keepends=True)
    lines[0] = json.dumps(json.loads(lines[0]) | {"version": 2}) + "\n"
    (packed / "index.jsonl").write_text("".join(lines))
    assert "packed in version 2, expected 1. To repair it" in error_of(choose_pairs, packed, "train")
    pack(pair_folder, packed, progress=False)
    assert len(decoded) == 7 and len(open_pairs(packed, "train")) == 5


def test_unreadable_sources_are_named_and_nothing_is_made(pair_folder, tmp_path):
    (pair_folder / "train/sharp/4.png").write_bytes(b"no image")
    assert "sharp/4.png: not a readable image" in error_of(pack, pair_folder, tmp_path / "packed", progress=False)
    assert not (tmp_path / "packed").exists()


def test_other_files_stay_unchanged(pair_folder, packed, make_dataset, tmp_path):
    other = make_dataset(train=2, test=2, root="other")
    before = {p.name: p.read_bytes() for p in packed.iterdir()}
    assert f"was packed from {pair_folder}" in error_of(pack, other, packed, progress=False)
    shutil.rmtree(pair_folder / "test")
    assert "holds test pairs that --root_src no longer has" in error_of(pack, pair_folder, packed, progress=False)
    assert {p.name: p.read_bytes() for p in packed.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.npy").write_bytes(b"mine")
    assert "files not written by this script" in error_of(pack, pair_folder, tmp_path / "mine", progress=False)
    assert (tmp_path / "mine/train.npy").read_bytes() == b"mine"
    assert f"lies in {pair_folder}" in error_of(pack, pair_folder, pair_folder / "packed")


# ---- no room


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_reported_before_the_work_and_leaves_nothing(pair_folder, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    text = error_of(pack, pair_folder, tmp_path / "packed", progress=False)
    assert "no room for" in text and "train.npy 0.00 GB, test.npy 0.00 GB; 0.00 GB more are needed" in text
    assert "are free. Make room and rerun the same command" in text
    assert decoded == [] and list((tmp_path / "packed").iterdir()) == []


def test_full_disk_while_a_set_grows_leaves_it_whole(pair_folder, packed, monkeypatch):
    before = {p.name: p.read_bytes() for p in packed.iterdir()}
    for kind in ("blur", "sharp"):
        overwrite(pair_folder / f"train/{kind}/6.png")

    def grow_then_fail(descriptor, start, count):
        os.truncate(descriptor, start + count // 2)
        no_room()

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", grow_then_fail)
        error_of(pack, pair_folder, packed, progress=False)
    assert {p.name: p.read_bytes() for p in packed.iterdir()} == before
    assert len(choose_pairs(packed, "test")[0]) == 2
    pack(pair_folder, packed, progress=False)
    assert len(open_pairs(packed, "train")) == 6


def test_disk_that_fills_up_on_the_way_is_no_whole_set(pair_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        assert "no room for" in error_of(pack, pair_folder, tmp_path / "packed", progress=False)
    assert "was interrupted" in error_of(choose_pairs, tmp_path / "packed", "train")
    pack(pair_folder, tmp_path / "packed", progress=False)
    assert_equal_pixels(open_pairs(tmp_path / "packed", "train"), find_pairs(pair_folder, "train"))
