"""Faults in pictures. Those of whole trees, one each, are in tests/test_verify_report.py."""

from pathlib import Path

import numpy as np
import pytest

from src.data.gopro import GOPRO_SEQUENCES
from src.verify.pixels import (
    NEAR,
    check_neighbours,
    check_shared,
    distances,
    nearest_in,
)
from src.verify.walk import THUMB, Item, Look

# ---- train and test


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
