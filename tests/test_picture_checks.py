"""Faults in pictures. Those of whole trees, one each, are in tests/test_verify_data.py."""

from pathlib import Path

import numpy as np
import pytest

from src.dataset_walk import THUMB, Item, Look, items_of, look_at, scan
from src.gopro_large import GOPRO_SEQUENCES
from src.picture_checks import (
    GAMMA_MIN_PAIRS,
    NEAR,
    check_gamma,
    check_neighbours,
    check_shared,
    distances,
    gamma_evidence,
    nearest_in,
)

# ---- blur or blur_gamma


def looks_of(means):
    item = Item(Path("set/train"), "", "1", Path("b"), Path("s"))
    return [Look(item, mse=1.0, level=level, light=light) for level, light in means]


def test_gamma_verdict_needs_pairs_and_a_clear_sign():
    rng = np.random.default_rng(0)
    motion = rng.normal(0, 0.3, 40)  # what moves in and out of the picture changes both means alike
    gap = rng.uniform(0.3, 3, 40)
    blur, gamma = np.stack([motion, motion - gap], axis=1), np.stack([motion + gap, motion], axis=1)
    for means, verdict, position in ((blur, "blur", 0), (gamma, "blur_gamma", 1)):
        evidence = gamma_evidence(looks_of(means))
        assert (evidence.pairs, evidence.verdict) == (40, verdict)
        assert evidence.position == pytest.approx(position, abs=0.1)
        few = gamma_evidence(looks_of(means[: GAMMA_MIN_PAIRS - 1]))
        assert (few.t, few.verdict) == (None, "undecided")
    assert gamma_evidence(looks_of((blur + gamma) / 2)).verdict == "undecided"
    assert gamma_evidence([]).verdict == "undecided"
    # Next to no blur: rounding may be of one sign in all pairs, and is no evidence.
    assert gamma_evidence(looks_of([(0.02, 0.02 + 0.001 * i) for i in range(20)])).verdict == "undecided"


def test_both_blurs_of_the_sample_set_are_told_apart_in_each_half(sample_trees):
    items = items_of(scan(sample_trees / "GOPRO_Large", arranged=False)[0])
    for split, count in (("train", 16), ("test", 8)):
        half = [item for item in items if item.half.name == split]
        swapped = [Item(i.half, i.sequence, i.label, i.gamma, i.sharp) for i in half]
        assert len(half) == count
        linear, gamma = (gamma_evidence([look_at(item) for item in some]) for some in (half, swapped))
        assert linear.position < 0.25 < 0.75 < gamma.position
        assert linear.t < -2 and gamma.t > 2
        assert check_gamma([look_at(item) for item in half]) == []


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
