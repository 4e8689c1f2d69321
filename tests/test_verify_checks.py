"""Checks of a dataset. Those of whole trees, one problem each, are in tests/test_verify_report.py."""

from pathlib import Path

import numpy as np
import pytest

from src.data.gopro import GOPRO_PAIRS, GOPRO_SEQUENCES
from src.verify.checks import (
    NEAR,
    check_counts,
    check_neighbours,
    check_partners,
    check_sequence_names,
    check_shared,
    distances,
    nearest_in,
)
from src.verify.walk import THUMB, Item, Look, Place

# ---- names


def gopro_items(root=Path("GOPRO_Large")):
    """The 3214 pairs by name; no test opens them."""
    items = []
    for split, sequences in GOPRO_SEQUENCES.items():
        for i in range(GOPRO_PAIRS[split]):
            sequence = sorted(sequences)[i % len(sequences)]
            items.append(Item(root / split, sequence, f"{sequence}/{i}", Path("b"), Path("s")))
    return items


def test_counts_of_gopro_large():
    items = gopro_items()
    assert (len(items), len(GOPRO_SEQUENCES["train"]), len(GOPRO_SEQUENCES["test"])) == (3214, 22, 11)
    assert check_counts(items) == []
    (finding,) = check_counts(items[1:])
    assert finding.severity == "error"
    assert "GOPRO_Large/train: 2102 pairs, expected the 2103 of GOPRO_Large. Unpack" in finding.message
    (finding,) = check_counts([item for item in items if item.sequence != "GOPR0410_11_00"])
    assert "GOPRO_Large/test: 1010 pairs, expected the 1111 of GOPRO_Large; sequences missing: GOPR0410_11_00." in (
        finding.message
    )


def test_gopro_large_has_no_sequence_in_both_halves():
    items = gopro_items()
    assert check_sequence_names(items) == []
    moved = Item(Path("GOPRO_Large/test"), items[0].sequence, "moved", Path("b"), Path("s"))
    (finding,) = check_sequence_names([*items, moved])
    assert finding.files == (items[0].sequence,) and "1 sequence in train and in test" in finding.message


def test_the_partner_of_a_missing_file_is_not_reported_again():
    half = Path("set/train")
    place = Place(half, "", {"blur": {"1": half / "blur/1.png"}, "sharp": {}})
    (finding,) = check_partners([place])
    assert finding.files == ("set/train/blur/1.png",)
    assert check_partners([place], reported=[half / "sharp/1.png"]) == []


# ---- pixels


def test_distances_of_thumbnails():
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 255, (5, THUMB[0] * THUMB[1])).astype(np.float32)
    flat = np.full((1, a.shape[1]), 90, np.float32)
    d = distances(np.concatenate([a, flat]), np.concatenate([a + 1, flat]))
    by_hand = np.sqrt(((a[0] - a[3] - 1) ** 2).mean() / (a[0].std() * a[3].std()))
    assert d.shape == (6, 6) and d[0, 3] == pytest.approx(by_hand, rel=1e-5)
    assert np.isinf(d[5]).all() and np.isinf(d[:, 5]).all()  # nothing to compare
    assert (np.diag(d)[:5] < 0.05).all() and (d[:5, :5][~np.eye(5, dtype=bool)] > 1).all()
    numbers, near = nearest_in(a, a[::-1], block=2)
    np.testing.assert_array_equal(numbers, [4, 3, 2, 1, 0])
    assert (near < NEAR).all()


def thumb_look(split, number, sequence, thumb):
    item = Item(Path("set") / split, sequence, str(number), Path("b"), Path("s"))
    return Look(item, thumbs=(thumb, thumb), digest=f"{split}{number}".encode())


def test_the_halves_of_gopro_large_are_taken_as_they_are():
    thumb = np.arange(THUMB[0] * THUMB[1], dtype=np.float32)
    train, test = (sorted(GOPRO_SEQUENCES[split])[0] for split in ("train", "test"))
    couple = [thumb_look("train", 1, train, thumb), thumb_look("test", 1, test, thumb + 1)]
    assert check_neighbours(couple) == []
    unknown = [thumb_look("train", 1, "", thumb), thumb_look("test", 1, "", thumb + 1)]
    assert [finding.kind for finding in check_neighbours(unknown)] == ["neighbours"]
    wrong_half = [thumb_look("train", 1, test, thumb), thumb_look("test", 1, test, thumb + 1)]
    assert [finding.kind for finding in check_neighbours(wrong_half)] == ["neighbours"]


def test_black_frames_are_no_shared_pictures():
    black = np.zeros(THUMB[0] * THUMB[1], np.float32)
    looks = [thumb_look(split, 1, "", black) for split in ("train", "test")]
    looks = [Look(look.item, thumbs=look.thumbs, digest=b"same") for look in looks]
    assert check_shared(looks) == [] and check_neighbours(looks) == []
