"""Scores after alignment: a shifted, turned and darkened image scores as it did before it was moved."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from src import align as align_module
from src.align import align, aligned_scores, masked_psnr, masked_ssim
from src.data.images import read_rgb
from src.data.sample_data import find_photographs
from src.errors import UserError
from src.metric import METRICS, psnr, psnr_uint8, ssim, to_uint8

SIZE = (160, 200)
MARGIN = 24  # pixels around the window, from which a moved one is sampled
TURN = math.radians(0.4)
# Pixel of the moved image -> pixel of the window: a turn, a shift of parts of a pixel, a little perspective.
MOVE = np.array([[math.cos(TURN), -math.sin(TURN), 1.6], [math.sin(TURN), math.cos(TURN), -1.3], [4e-6, -3e-6, 1]])


@pytest.fixture(scope="module")
def photo():
    """Sharp and slightly blurred, (H, W, 3) float64 with the margin: what a network leaves is a smooth error."""
    path = sorted(find_photographs("test").values())[0]
    sharp = read_rgb(path)[60 : 60 + SIZE[0] + 2 * MARGIN, 150 : 150 + SIZE[1] + 2 * MARGIN] / 255
    return sharp, ndimage.gaussian_filter(sharp, (1.2, 0.8, 0))


def window(image, move=None, gain=1.0):
    """The window of `image`, seen through a homography: quintic interpolation, all of it from real pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    points = (np.eye(3) if move is None else move) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    at = (points[1::-1] / points[2] + MARGIN).reshape(2, *SIZE)
    channels = [ndimage.map_coordinates(image[..., k], at, order=5, mode="mirror") for k in range(3)]
    return (gain * np.stack(channels, axis=2)).astype(np.float32)


# ---- alignment


@pytest.mark.parametrize("gain", [1 / 1.03, 1.0, 1.03])
def test_a_moved_and_darkened_image_returns_to_its_score(photo, gain):
    sharp, restored = window(photo[0]), window(photo[1])
    moved = window(photo[1], MOVE, gain)
    scores, converged = aligned_scores(moved, sharp, ("psnr", "ssim"))
    assert converged and psnr(moved, sharp) < psnr(restored, sharp) - 2  # the move costs decibels ...
    assert abs(scores["psnr"] - psnr(restored, sharp)) < 0.1  # ... that alignment gives back
    assert abs(scores["ssim"] - ssim(restored, sharp)) < 0.005


def test_an_aligned_image_keeps_its_score(photo):
    sharp, restored = window(photo[0]), window(photo[1])
    scores, converged = aligned_scores(restored, sharp, METRICS)
    assert converged
    assert abs(scores["psnr"] - psnr(restored, sharp)) < 0.05
    assert abs(scores["psnr_uint8"] - psnr_uint8(restored, sharp)) < 0.05
    assert abs(scores["ssim"] - ssim(restored, sharp)) < 0.002


def test_noise_keeps_its_score(photo):
    sharp = window(photo[0])
    noisy = np.clip(sharp + np.random.default_rng(0).normal(0, 0.03, sharp.shape).astype(np.float32), 0, 1)
    scores, _ = aligned_scores(noisy, sharp, ["psnr"])
    assert abs(scores["psnr"] - psnr(noisy, sharp)) < 0.05


def test_the_mask_leaves_out_what_came_from_outside(photo):
    sharp, shift = window(photo[0]), np.array([[1.0, 0, 6], [0, 1, 0], [0, 0, 1]])
    moved = window(photo[0], shift)
    aligned = align(moved, sharp)
    # moved[y, x] shows what sharp has at x + 6: the first six columns of sharp are nowhere in it.
    assert aligned.converged and not aligned.mask[:, :6].any() and aligned.mask[2:-2, 8:].all()
    # The gain, found before the images lie on each other, is what remains wrong.
    assert masked_psnr(aligned.prediction, sharp, aligned.mask) > psnr(moved, sharp) + 10
    assert aligned.prediction.dtype == np.float32 and aligned.prediction.shape == sharp.shape
    np.testing.assert_array_equal(sharp, window(photo[0]))


def test_one_gain_for_all_channels_before_the_homography(photo):
    sharp = window(photo[0])
    dark = sharp * np.float32(0.8)
    np.testing.assert_allclose(align(dark, sharp).prediction[8:-8, 8:-8], sharp[8:-8, 8:-8], atol=2e-3)
    tinted = sharp * np.float32([0.8, 1, 1])
    gain = np.sum(sharp.astype(float) * tinted) / np.sum(tinted.astype(float) ** 2)
    means = align(tinted, sharp).prediction.mean((0, 1)) / sharp.mean((0, 1))
    np.testing.assert_allclose(means, gain * np.array([0.8, 1, 1]), rtol=2e-3)  # the tint is not taken away


def test_early_end_changes_nothing_that_is_printed(photo, monkeypatch):
    sharp, moved = window(photo[0]), window(photo[1], MOVE)
    early = aligned_scores(moved, sharp, ["psnr"])[0]["psnr"]
    monkeypatch.setattr(align_module, "TOLERANCE", 0)
    assert abs(early - aligned_scores(moved, sharp, ["psnr"])[0]["psnr"]) < 1e-3


# ---- what cannot be aligned


@pytest.mark.parametrize("kind", ["black", "grey", "nan", "one nan"])
def test_what_does_not_converge_is_scored_as_it_is(photo, kind):
    sharp = window(photo[0])
    prediction = np.full_like(sharp, {"black": 0, "grey": 0.5}.get(kind, math.nan))
    if kind == "one nan":
        prediction[1:] = sharp[1:]
    scores, converged = aligned_scores(prediction, sharp, ("psnr", "ssim"))
    assert not converged
    for name, value in scores.items():
        np.testing.assert_equal(value, METRICS[name](prediction, sharp))


def test_an_alignment_that_throws_the_image_out_does_not_count(photo, monkeypatch):
    sharp = window(photo[0])
    away = np.array([[1, 0, 0.6 * SIZE[1]], [0, 1, 0], [0, 0, 1]], np.float32)
    monkeypatch.setattr(cv2, "findTransformECC", lambda *args: (0.1, away))
    aligned = align(sharp + 1, sharp)
    assert not aligned.converged and aligned.mask.all()
    np.testing.assert_array_equal(aligned.prediction, np.ones_like(sharp))  # clipped, nothing else


def test_other_faults_of_opencv_are_not_taken_for_convergence(photo, monkeypatch):
    def fail(*args):
        cv2.cvtColor(np.zeros((2, 2, 7), np.float32), cv2.COLOR_RGB2GRAY)

    monkeypatch.setattr(cv2, "findTransformECC", fail)
    with pytest.raises(cv2.error):
        align(window(photo[0]), window(photo[0]))


def test_tiny_images_have_no_ssim():
    tiny = np.random.default_rng(0).random((10, 40, 3), np.float32)
    scores, _ = aligned_scores(tiny, tiny, ["ssim"])
    assert math.isnan(scores["ssim"])


def test_wrong_use_is_reported(photo):
    sharp = window(photo[0])
    with pytest.raises(ValueError, match="prediction is .*ground truth"):
        align(sharp[:-1], sharp)
    with pytest.raises(UserError, match="no aligned form of lpips, only of psnr, psnr_uint8, ssim"):
        aligned_scores(sharp, sharp, ["lpips"])


# ---- scores with a mask


def test_with_a_full_mask_they_are_the_usual_scores(photo):
    sharp, restored = window(photo[0]), window(photo[1]).clip(0, 1)
    everything = np.ones(SIZE, bool)
    assert masked_psnr(restored, sharp, everything) == pytest.approx(psnr(restored, sharp), abs=1e-9)
    # scikit-image leaves out the same 5 pixels along the borders when it takes the mean
    assert masked_ssim(restored, sharp, everything) == pytest.approx(ssim(restored, sharp), abs=1e-9)
    assert masked_psnr(sharp, sharp, everything) == math.inf


def test_pixels_outside_the_mask_change_nothing(photo):
    sharp, restored = window(photo[0]), window(photo[1]).clip(0, 1)
    mask = np.ones(SIZE, bool)
    mask[:, :30] = False
    spoilt = restored.copy()
    spoilt[:, :30] = np.random.default_rng(0).random(spoilt[:, :30].shape)
    for metric in (masked_psnr, masked_ssim):
        assert metric(spoilt, sharp, mask) == metric(restored, sharp, mask)
    assert masked_psnr(spoilt, sharp, mask) == pytest.approx(psnr(restored[:, 30:], sharp[:, 30:]), abs=1e-9)


def test_masked_psnr_by_hand():
    sharp, mask = np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), bool)
    mask[0, :2] = True
    prediction = np.full_like(sharp, 0.7)
    prediction[0, 0] = 0.1  # valid: 0.1 in all channels and 0.7 in all channels
    assert masked_psnr(prediction, sharp, mask) == pytest.approx(-10 * math.log10((0.01 + 0.49) / 2), abs=1e-5)


def test_uint8_score_is_that_of_the_rounded_image(photo):
    sharp, moved = window(photo[0]), window(photo[1], MOVE)
    rounded = to_uint8(moved).astype(np.float32) / np.float32(255)
    both, _ = aligned_scores(moved, sharp, ("psnr", "psnr_uint8"))
    assert both["psnr_uint8"] == aligned_scores(rounded, sharp, ["psnr"])[0]["psnr"] != both["psnr"]
