"""What is known of GOPRO_Large, and its frames by their names."""

import pytest

from src.data.gopro_large import (
    GOPRO_NAME,
    GOPRO_PAIRS,
    GOPRO_SEQUENCES,
    find_splits,
    is_arranged,
    list_frames,
    list_rows,
    list_sequences,
)
from src.errors import UserError
from tests.data_trees import make_source, touch, write


def test_numbers_of_the_paper():
    assert sum(GOPRO_PAIRS.values()) == 3214
    assert {split: len(names) for split, names in GOPRO_SEQUENCES.items()} == {"train": 22, "test": 11}
    assert not GOPRO_SEQUENCES["train"] & GOPRO_SEQUENCES["test"]


@pytest.mark.parametrize(
    "name, sequence",
    [("GOPR0384_11_00-000001", "GOPR0384_11_00"), ("GOPR0384_11_00", "GOPR0384_11_00"), ("GOPR0384_11_000001", None),
     ("my_GOPR0384_11_00", None)],
)  # fmt: skip
def test_sequence_at_the_start_of_a_name(name, sequence):
    match = GOPRO_NAME.match(name)
    assert (match and match[0]) == sequence


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "GOPRO_Large")


def test_other_files_and_folders_are_ignored(source):
    write(source / "train/notes.txt", "x")
    write(source / "train/__MACOSX/deep/1.png", "x")
    write(source / "train/.hidden/blur/1.png", "x")
    write(source / "train/GOPR0374_11_9/blur/._000001.png", "x")
    write(source / "train/GOPR0374_11_9/blur/Thumbs.db", "x")
    assert [s.name for s in list_sequences(source, "train")] == ["GOPR0374_11_02", "GOPR0374_11_9", "GOPR0374_11_10"]
    assert [name for name, _, _ in list_frames(source / "train/GOPR0374_11_10")] == ["9", "10", "100"]
    assert [row.new_name for row in list_rows(source, "train")] == list("123456")


def test_no_source_or_no_splits(tmp_path, source):
    with pytest.raises(UserError, match="--root_src: no folder .*nowhere"):
        find_splits(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither train nor test in .* Perhaps .*GOPRO_Large?"):
        find_splits(tmp_path)
    assert find_splits(source) == ["train", "test"]


def test_no_sequences(tmp_path):
    (tmp_path / "src/train/stray").mkdir(parents=True)
    with pytest.raises(UserError, match="train: no sequence in it, expected folders <sequence>/{blur,sharp}"):
        list_rows(tmp_path / "src", "train")


def test_incomplete_sequences_are_named(source):
    (source / "train/GOPR0374_11_9/sharp").rename(source / "train/GOPR0374_11_9/elsewhere")
    (source / "train/GOPR0500_11_00/blur_gamma").mkdir(parents=True)
    with pytest.raises(
        UserError, match="GOPR0374_11_9 lacks sharp, GOPR0500_11_00 lacks blur, GOPR0500_11_00 lacks sharp"
    ):
        list_rows(source, "train")


def test_empty_sequence_is_named(source):
    for kind in ("blur", "sharp"):
        (source / "test/GOPR0390_11_00" / kind).mkdir(parents=True)
    with pytest.raises(UserError, match="GOPR0390_11_00: blur and sharp hold no image"):
        list_rows(source, "test")


def test_an_arranged_half_is_known_by_its_folders(source, tmp_path):
    assert not is_arranged(source, "train")
    touch(tmp_path / "dataset", "train/blur/1.png")
    assert is_arranged(tmp_path / "dataset", "train") and not is_arranged(tmp_path / "dataset", "test")
