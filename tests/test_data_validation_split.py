"""Validation pairs taken out of the training pairs."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.gopro import arrange
from src.data.pairs import Pair, find_pairs
from src.data.sources import pairs_from_list
from src.data.validation_split import ValidationSplit, sequences_of, split_by_fraction, split_by_list, split_validation
from src.errors import UserError
from tests.data_trees import error_of, named_pairs, realblur, touch, write_list

# ---- sequences


def test_file_names_define_no_sequences():
    assert sequences_of(named_pairs("1", "2", "3")) == ([], "")
    assert sequences_of(named_pairs("clip1_01", "clip1_02", "clip2_01")) == ([], "")


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


def in_sequences(**sizes):
    """Pairs `S_i` of sequences `S`, each a folder with this many frames."""
    return [
        Pair(f"{s}_{i}", Path(f"d/{s}/blur/{i}.png"), Path(f"d/{s}/sharp/{i}.png"))
        for s, size in sizes.items()
        for i in range(1, size + 1)
    ]


def many(sequences=22, frames=95):
    return in_sequences(**{f"S{s:02d}": frames + s % 3 for s in range(sequences)})


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
        r"\d+ of 2111 training pairs \(9\.\d %\), 2 of 22 sequences by folder: S\d\d, S\d\d",
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
    assert wanted / 2 <= len(split.val) <= 2 * wanted and "neighbours (sequences are unknown)" in split.rule
    numbers = [int(pair.name) for pair in split.val]
    runs = 1 + sum(b - a > 1 for a, b in zip(numbers, numbers[1:], strict=False))
    assert runs <= max(1, wanted // 40)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.floats(0.01, 0.5), st.integers(0, 9))
def test_any_sizes_of_sequences_leave_both_parts_something_and_are_not_torn(sizes, fraction, seed):
    pairs = in_sequences(**{f"s{k}": size for k, size in enumerate(sizes)})
    try:
        split = split_by_fraction(pairs, fraction, seed)
    except UserError:
        assert min(sizes) > 2 * max(1, int(fraction * len(pairs) + 0.5))
    else:
        assert split.train and 0 < len(split.val) <= 2 * max(1, fraction * len(pairs) + 0.5)
        assert sorted(split.train + split.val, key=pairs.index) == pairs
        assert not {p.name.split("_")[0] for p in split.train} & {p.name.split("_")[0] for p in split.val}


def test_fractions_that_cannot_be_are_reported_with_numbers():
    pairs = in_sequences(a=10, b=10)
    assert "--val_fraction: got 0.6, expected more than 0, up to 0.5" in error_of(split_by_fraction, pairs, 0.6, 1)
    assert "got -0.1" in error_of(split_by_fraction, pairs, -0.1, 1)
    assert "got nan" in error_of(split_by_fraction, pairs, float("nan"), 1)
    assert "needs two pairs or more, one for each part, got 1" in error_of(split_by_fraction, pairs[:1], 0.5, 1)
    text = error_of(split_by_fraction, pairs, 0.1, 1)
    assert "asks for 2 of 20 pairs, but the 2 sequences by folder hold 10 or more each" in text
    assert "Give --val_fraction 0.5 or name single pairs in --val_list." in text
    assert len(split_by_fraction(pairs, 0.5, 1).val) == 10


# ---- by list


def test_list_names_pairs_and_sequences(tmp_path):
    pairs = many(3, 4)
    file = write_list(tmp_path, "\ufeff# validation\r\nS01\r\nS02_3\r\nS00_1.png\r\n")
    split = split_by_list(pairs, file)
    assert [p.name for p in split.val] == ["S00_1", *(f"S01_{i}" for i in range(1, 6)), "S02_3"]
    assert len(split.train) == len(pairs) - 7 and split.rule == f"7 of 15 training pairs (46.7 %), {file}"
    assert split_validation(pairs, 0.0, "list.txt", 1, root=tmp_path).val == split.val


def test_list_errors_name_line_and_nearest(tmp_path):
    pairs = many(3, 4)
    text = error_of(split_by_list, pairs, write_list(tmp_path, "S01\n\nS02_33\nS09\n"))
    assert text.endswith("line 3: S02_33, line 4: S09. Did you mean S02_3?") and "(like S00_1)" in text
    assert "one of the sequences by folder (S00, S01, S02)" in text
    assert "names all 15 pairs, none is left" in error_of(split_by_list, pairs, write_list(tmp_path, "S00\nS01\nS02"))
    assert "contains no entry" in error_of(split_by_list, pairs, write_list(tmp_path, "\n"))
    assert "both name the validation pairs" in error_of(split_validation, pairs, 0.1, "list.txt", 1)
    assert split_validation(pairs, 0.3, "", 1) == split_by_fraction(pairs, 0.3, 1)
