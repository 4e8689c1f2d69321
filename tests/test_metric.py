import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from src.config import METRIC_NAMES
from src.metric import METRICS, psnr, psnr_uint8, ssim, to_uint8

SIZE = (24, 31, 3)


@pytest.fixture
def pair():
    """(prediction that leaves [0, 1] on both sides, ground truth)."""
    rng = np.random.default_rng(0)
    sharp = rng.random(SIZE, dtype=np.float32)
    prediction = sharp + rng.normal(0, 0.2, SIZE).astype(np.float32)
    assert prediction.min() < 0 and prediction.max() > 1
    return prediction, sharp


def eight_bit(seed=0):
    """A ground truth as it is read from a file."""
    levels = np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)
    return levels.astype(np.float32) / np.float32(255)


# ---- PSNR


def test_psnr_is_skimages_on_the_clipped_frame(pair):
    prediction, sharp = pair
    clipped = np.clip(prediction, 0, 1).astype(np.float64)
    expected = peak_signal_noise_ratio(sharp.astype(np.float64), clipped, data_range=1)
    assert psnr(prediction, sharp) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("error,db", [(0.1, 20), (0.01, 40), (0.5, 10 * math.log10(4)), (1.0, 0)])
def test_psnr_of_a_constant_error(error, db):
    assert psnr(np.full(SIZE, error, np.float32), np.zeros(SIZE, np.float32)) == pytest.approx(db, abs=1e-5)


def test_psnr_covers_the_whole_frame_and_all_channels():
    sharp = np.full(SIZE, 0.5, np.float32)
    for index in ((0, 0, 0), (-1, -1, 2), (0, -1, 1)):
        prediction = sharp.copy()
        prediction[index] = 0.75
        expected = -10 * math.log10(0.25**2 / np.prod(SIZE))
        assert psnr(prediction, sharp) == pytest.approx(expected, abs=1e-9)


def test_psnr_is_not_the_mean_of_the_channels():
    prediction, sharp = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    prediction[..., 0] = 0.1
    assert psnr(prediction, sharp) == pytest.approx(20 + 10 * math.log10(3), abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, psnr_uint8])
def test_identical_images_give_inf(metric):
    sharp = eight_bit()
    assert metric(sharp, sharp) == math.inf
    assert metric(np.where(sharp == 1, 7, sharp), sharp) == math.inf  # what is clipped away is no error


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_broken_prediction_is_no_perfect_one(metric):
    sharp = eight_bit()
    prediction = sharp.copy()
    prediction[3, 4, 1] = np.nan
    assert math.isnan(metric(prediction, sharp))


def test_prediction_is_clipped(pair):
    prediction, sharp = pair
    clipped = np.clip(prediction, 0, 1)
    for metric in METRICS.values():
        assert metric(prediction, sharp) == metric(clipped, sharp)
    far = np.where(clipped == 1, 1000, np.where(clipped == 0, -1000, clipped)).astype(np.float32)
    assert psnr(far, sharp) == psnr(clipped, sharp)


def test_psnr_does_not_round_and_psnr_uint8_does():
    sharp = np.zeros(SIZE, np.float32)
    for level, rounded in ((0.4, 0), (0.6, 1), (1.6, 2)):
        prediction = np.full(SIZE, level / 255, np.float32)
        assert psnr(prediction, sharp) == pytest.approx(-20 * math.log10(level / 255), abs=1e-5)
        expected = -20 * math.log10(rounded / 255) if rounded else math.inf
        assert psnr_uint8(prediction, sharp) == pytest.approx(expected, abs=1e-5)


def test_psnr_uint8_is_that_of_the_saved_picture(pair, tmp_path):
    from src.data.images import read_rgb
    from src.drawing import save_png

    prediction, sharp = pair
    save_png(tmp_path / "a.png", prediction)
    saved = read_rgb(tmp_path / "a.png").astype(np.float32) / np.float32(255)
    assert psnr_uint8(prediction, sharp) == psnr(saved, sharp)


# ---- SSIM


def test_ssim_is_skimages_with_the_protocols_arguments(pair):
    prediction, sharp = pair
    expected = structural_similarity(
        sharp.astype(np.float64),
        np.clip(prediction, 0, 1).astype(np.float64),
        win_size=11,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=2,
    )
    assert ssim(prediction, sharp) == pytest.approx(expected, abs=1e-9)


def test_ssim_is_the_mean_of_the_channels(pair):
    prediction, sharp = pair
    channels = [ssim(np.repeat(prediction[..., [c]], 3, 2), np.repeat(sharp[..., [c]], 3, 2)) for c in range(3)]
    assert ssim(prediction, sharp) == pytest.approx(np.mean(channels), abs=1e-9)


def test_ssim_of_constant_images():
    # no variance: only the luminance term is left, (2ab + c1) / (a^2 + b^2 + c1) with c1 = 0.01^2
    a, b = np.full(SIZE, 0.25, np.float32), np.full(SIZE, 0.5, np.float32)
    assert ssim(a, b) == pytest.approx((2 * 0.125 + 1e-4) / (0.0625 + 0.25 + 1e-4), abs=1e-9)
    assert ssim(b, b) == pytest.approx(1)


def test_ssim_under_its_window_is_nan_not_an_error():
    for size in ((10, 40, 3), (40, 10, 3), (1, 1, 3)):
        assert math.isnan(ssim(np.zeros(size, np.float32), np.zeros(size, np.float32)))
    assert ssim(np.zeros((11, 11, 3), np.float32), np.zeros((11, 11, 3), np.float32)) == pytest.approx(1)


# ---- all of them


@pytest.mark.parametrize("name", METRICS)
def test_shapes_must_agree(name):
    with pytest.raises(ValueError, match=r"\(24, 31, 3\).*\(24, 30, 3\)"):
        METRICS[name](np.zeros(SIZE, np.float32), np.zeros((24, 30, 3), np.float32))


@pytest.mark.parametrize("name", METRICS)
def test_no_broadcasting(name):
    with pytest.raises(ValueError):
        METRICS[name](np.zeros((24, 31, 1), np.float32), np.zeros(SIZE, np.float32))


@pytest.mark.parametrize("name", METRICS)
def test_inputs_are_not_modified(name, pair):
    prediction, sharp = pair
    before = prediction.copy(), sharp.copy()
    for image in pair:
        image.setflags(write=False)
    assert type(METRICS[name](prediction, sharp)) is float
    np.testing.assert_array_equal(prediction, before[0])
    np.testing.assert_array_equal(sharp, before[1])


# ---- 8 bits


def test_to_uint8_rounds_and_clips():
    values = np.array([-3, 0, 0.49, 0.51, 1.49, 1.51, 126.9, 254.4, 254.6, 255, 256, 9000], np.float32) / 255
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 1, 2, 127, 254, 255, 255, 255, 255]


def test_to_uint8_gives_back_every_level():
    levels = np.arange(256, dtype=np.uint8)
    assert to_uint8(levels.astype(np.float32) / np.float32(255)).tolist() == levels.tolist()
    assert to_uint8(levels.astype(np.float32) / np.float32(255) + np.float32(0.4 / 255)).tolist() == levels.tolist()
    assert to_uint8(levels.astype(np.float32) / np.float32(255) - np.float32(0.4 / 255)).tolist() == levels.tolist()


def test_config_knows_the_metrics():
    assert tuple(METRICS) == METRIC_NAMES
