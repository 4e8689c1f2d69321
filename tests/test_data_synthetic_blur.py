"""The camera of the synthetic blur on known values, its random pairs, and the set that it writes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import full_disk
from PIL import Image

from src.data import synthetic_blur
from src.data.images import read_rgb
from src.data.pairs import find_pairs
from src.data.synthetic_blur import (
    MOTIONS,
    frames_along,
    main,
    mean_frame,
    random_pair,
    random_place,
    random_shape,
    reach,
    read_sharp_photo,
    recorded,
    shake_path,
    with_object,
)
from src.errors import UserError
from src.metric import psnr


def rng(seed=0):
    return np.random.default_rng(seed)


def straight(*shifts):
    """A path along x, no turn."""
    return np.array([(dx, 0, 0) for dx in shifts], float)


def smooth_value(y, x):
    """Waves of 40 pixels, with known values between the pixels too."""
    waves = [np.sin(2 * np.pi * x / 40), np.sin(2 * np.pi * y / 40), np.cos(2 * np.pi * (x + y) / 40)]
    return 128 + 100 * np.stack(waves, axis=-1)


@pytest.fixture(scope="module")
def noise():
    return rng(1).integers(0, 256, (80, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def photo():
    """Blocks of colour with sharp edges, (200, 240, 3)."""
    return np.kron(rng(2).integers(0, 256, (25, 30, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


# ---- paths


@pytest.mark.parametrize("num_frames, smoothness", [(2, 0.3), (11, 0.3), (11, 0.0), (12, 1.0), (60, 0.05)])
def test_path_has_the_length_and_the_turn_asked_for(num_frames, smoothness):
    path = shake_path(rng(), num_frames, 17.5, 0.02, smoothness)
    assert path.shape == (num_frames, 3)
    assert np.hypot(*np.diff(path[:, :2], axis=0).T).sum() == pytest.approx(17.5)
    assert np.ptp(path[:, 2]) == pytest.approx(0.02)
    np.testing.assert_array_equal(path[num_frames // 2], 0)


def test_path_without_length_or_with_one_frame_stays():
    np.testing.assert_array_equal(shake_path(rng(), 11, 0.0), 0)
    np.testing.assert_array_equal(shake_path(rng(), 1, 20.0, 0.1), 0)


def test_length_and_turn_only_scale_the_path():
    small, large = shake_path(rng(5), 11, 4.0, 0.001), shake_path(rng(5), 11, 8.0, 0.003)
    np.testing.assert_allclose(large, small * [2, 2, 3])
    assert not np.allclose(shake_path(rng(6), 11, 4.0), shake_path(rng(5), 11, 4.0))


def test_smooth_paths_bend_less():
    def net(smoothness):  # how far the ends are apart, per length
        ends = [shake_path(rng(i), 31, 1.0, smoothness=smoothness)[[0, -1], :2] for i in range(50)]
        return np.mean([np.hypot(*(b - a)) for a, b in ends])

    assert net(0.0) < 0.4 < 0.7 < net(0.5)


def test_nonsense_paths_are_refused():
    for args in ((0, 1.0), (5, -1.0), (5, 1.0, -0.1), (5, 1.0, 0.1, -1.0)):
        with pytest.raises(ValueError, match="expected num_frames >= 1"):
            shake_path(rng(), *args)


def test_reach_is_what_the_frames_need():
    up, down, before, after = reach(straight(-3, 0, 5), 20, 30)
    assert (before - up, after - down) == (3, 5)
    assert reach(np.array([[0, 0, 0.1]]), 21, 201)[0] > 0.09 * 100  # the far corners of a turned window


# ---- frames and their mean


@pytest.mark.parametrize("num_frames", [3, 31])
def test_no_movement_gives_the_window_itself(noise, num_frames):
    for frame in frames_along(noise, np.zeros((num_frames, 3)), 24, 32, 11, 21):
        np.testing.assert_array_equal(frame, noise[11:35, 21:53])


@pytest.mark.parametrize("others", [0, 20])  # few frames are resampled in another way than many
def test_whole_pixel_steps_show_neighbouring_windows(noise, others):
    path = np.concatenate([np.array([[-3, 0, 0], [0, 0, 0], [2, 5, 0]], float), np.zeros((others, 3))])  # right, down
    frames = list(frames_along(noise, path, 24, 32, top=10, left=20))
    for frame, (y, x) in zip(frames, [(10, 17), (10, 20), (15, 22)], strict=False):
        np.testing.assert_array_equal(frame, noise[y : y + 24, x : x + 32])


@pytest.mark.parametrize("num_frames", [1, 31])
def test_parts_of_pixels_and_turns_are_where_they_should_be(num_frames):
    dx, dy, angle = 2.3, -1.6, 0.05
    photo = np.rint(smooth_value(*np.mgrid[:80, :90])).astype(np.uint8)
    frame = next(frames_along(photo, np.array([[dx, dy, angle]] * num_frames), 25, 35, top=20, left=30))
    y, x = np.mgrid[-12:13, -17:18].astype(float)  # from the centre of the window, which is at (32, 47)
    turned_x = np.cos(angle) * x - np.sin(angle) * y  # clockwise on a screen: to the right goes a little down
    turned_y = np.sin(angle) * x + np.cos(angle) * y
    expected = smooth_value(32 + dy + turned_y, 47 + dx + turned_x)
    assert np.abs(frame - expected).max() < 2.5  # rounded twice, the place to a 32nd of a pixel


def test_few_frames_stay_as_detailed_as_the_middle_one(noise):
    def detail(frame):
        return np.abs(np.diff(frame.astype(float), axis=1)).mean()

    few, many = (next(frames_along(noise, straight(*[0.5] * n), 40, 40, 20, 20)) for n in (13, 15))
    still = noise[20:60, 20:60]
    assert detail(many) < 0.7 * detail(still) and detail(few) > 1.15 * detail(many)


def test_beyond_the_edge_the_photo_is_mirrored(noise):
    frame = list(frames_along(noise, straight(-3, 0, 0), 24, 32, 0, 0))[0]
    np.testing.assert_array_equal(frame[:, :3], noise[:24, 3:0:-1])


def test_mean_of_known_values():
    frames = np.array([0, 10, 251], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    blur, middle = mean_frame(frames)
    np.testing.assert_allclose(blur, 87, rtol=1e-6)  # 261 / 3
    np.testing.assert_array_equal(middle, 10)
    gamma = 255 * (((10 / 255) ** 2.2 + (251 / 255) ** 2.2) / 3) ** (1 / 2.2)
    np.testing.assert_allclose(mean_frame(frames, 2.2)[0], gamma, rtol=1e-5)


def test_an_edge_is_smeared_over_the_path_around_its_sharp_place():
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:, 30:] = 250
    blur, sharp = mean_frame(frames_along(photo, straight(-2, -1, 0, 1, 2), 20, 40, 10, 10))
    assert sharp[10, :, 0].tolist() == [0] * 20 + [250] * 20
    np.testing.assert_allclose(blur[10, 17:23, 0], [0, 50, 100, 150, 200, 250], atol=1e-3)


def test_an_object_covers_and_uncovers_what_lies_behind():
    wall, ball = np.full((1, 5, 3), 10, np.uint8), np.full((1, 5, 3), 200, np.uint8)
    masks = [np.array([row], np.uint8) for row in ([255, 255, 0, 0, 0], [0, 255, 255, 0, 0], [0, 0, 128, 0, 0])]
    first, second, third = with_object([wall] * 3, [ball] * 3, masks)
    assert first[0, :, 0].tolist() == [200, 200, 10, 10, 10]
    assert second[0, :, 0].tolist() == [10, 200, 200, 10, 10]
    assert third[0, 2, 0] == round(10 + 190 * 128 / 255)


# ---- what is drawn


def test_same_generator_same_pair_whatever_the_threads(photo):
    first = random_pair(rng(3), photo, 64, 80)
    cv2.setNumThreads(4)
    again = random_pair(rng(3), photo, 64, 80)
    for a, b in zip(first, again, strict=True):
        assert a.shape == (64, 80, 3) and a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)
    assert (random_pair(rng(4), photo, 64, 80)[1] != first[1]).any()


def clean(monkeypatch, **constants):
    """The recording without noise and JPEG, photographs as they are; and other constants."""
    for name, value in ({"READ_NOISE": 0, "SHOT_NOISE": 0, "JPEG": 0, "MAX_REDUCTION": 1} | constants).items():
        monkeypatch.setattr(synthetic_blur, name, value)


def test_the_sharp_image_is_a_window_of_the_photo(photo, monkeypatch):
    clean(monkeypatch)
    for seed in range(5):
        _, sharp = random_pair(rng(seed), photo, 64, 64, replace(MOTIONS["shake"], with_object=0))
        left, top = cv2.minMaxLoc(cv2.matchTemplate(photo, sharp, cv2.TM_SQDIFF))[2]
        np.testing.assert_array_equal(photo[top : top + 64, left : left + 64], sharp)


def test_an_object_moves_over_a_still_background(photo, monkeypatch):
    clean(monkeypatch, STILL_CAMERA=1, LINEAR_LIGHT=0)
    shares = []
    for seed in range(8):
        blur, sharp = random_pair(rng(seed), photo, 96, 96, replace(MOTIONS["shake"], with_object=1))
        shares.append((blur == sharp).all(axis=2).mean())
    assert 0.2 < np.mean(shares) < 0.95 and min(shares) < 0.9


def test_blur_of_the_light_is_brighter(photo, monkeypatch):
    clean(monkeypatch, LINEAR_LIGHT=0)
    plain = [random_pair(rng(seed), photo, 64, 64)[0].mean() for seed in range(5)]
    clean(monkeypatch, LINEAR_LIGHT=1)
    light = [random_pair(rng(seed), photo, 64, 64)[0].mean() for seed in range(5)]
    assert all(b > a for a, b in zip(plain, light, strict=True))


def test_blur_is_as_strong_as_real_one():
    """Crops of 256 of GOPRO_Large and REDS have a median of 25 to 31 dB, nine of ten lie above 20 dB."""
    image = read_rgb(Path(__import__("skimage").__file__).parent / "data/coffee.png")
    scores = [psnr(*(x.astype(np.float32) / 255 for x in random_pair(rng(i), image, 128, 128))) for i in range(40)]
    assert 23 < np.median(scores) < 32 and np.mean(np.array(scores) > 18) > 0.85
    assert np.percentile(scores, 90) > np.percentile(scores, 10) + 8


@pytest.fixture
def paths(monkeypatch):
    """Collects the path along which each series of frames is made."""
    paths, real = [], synthetic_blur.frames_along
    monkeypatch.setattr(
        synthetic_blur, "frames_along", lambda image, path, *rest: paths.append(path) or real(image, path, *rest)
    )
    return paths


def test_a_slow_camera_takes_a_frame_for_every_pixel(photo, paths):
    for seed in range(30):
        random_pair(rng(seed), photo, 32, 32, replace(MOTIONS["shake"], with_object=0))
    assert {7, 9, 11, 13} < {len(path) for path in paths}
    for path in paths:
        assert len(path) % 2 == 1 and len(path) <= 61
        if len(path) > 13:
            assert np.hypot(*np.diff(path[:, :2], axis=0).T).max() < 2.5


def test_lines_blur_along_one_direction(photo, paths):
    for seed in range(20):
        random_pair(rng(seed), photo, 32, 32, MOTIONS["lines"])
    assert len(paths) == 20  # no objects
    for path in paths:
        steps = np.diff(path[:, :2], axis=0)
        length, reached = np.hypot(*steps.T).sum(), np.hypot(*(path[-1] - path[0])[:2])
        assert 5 <= length <= 15 and reached > 0.9 * length


def test_windows_lie_within_the_photo_if_there_is_room(photo):
    path = shake_path(rng(1), 9, 30.0, 0.05, 1.0)
    up, down, before, after = reach(path, 64, 64)
    for seed in range(50):
        top, left = random_place(rng(seed), photo, path, 64, 64)
        assert up <= top <= 200 - 64 - down and before <= left <= 240 - 64 - after
    assert random_place(rng(0), photo, path, 200, 64)[0] == 0  # no room at all above and below


def test_small_photos_are_used_to_the_edge_and_smaller_ones_refused(photo):
    assert random_pair(rng(0), photo, 200, 240)[0].shape == (200, 240, 3)
    with pytest.raises(ValueError, match=r"a window of \(201, 240\) does not fit into a photo of \(200, 240\)"):
        random_pair(rng(0), photo, 201, 240)


def test_shapes_have_an_inside_an_outside_and_a_soft_edge():
    masks = [random_shape(rng(i), 60, 80) for i in range(30)]
    assert all(mask.shape == (60, 80) and mask.dtype == np.uint8 for mask in masks)
    shares = np.array([(mask > 127).mean() for mask in masks])
    assert 0.05 < np.median(shares) < 0.5 and shares.max() < 0.9
    edge = np.mean([((mask > 0) & (mask < 255)).mean() for mask in masks])
    assert 0 < edge < 0.1


def test_noise_is_light_grows_with_the_light_and_jpeg_falls_on_some():
    dark, bright = (np.full((64, 64, 3), value, np.float32) for value in (20, 230))
    spread = [[recorded(rng(i), image).std() for i in range(60)] for image in (dark, bright)]
    assert np.mean(spread[0]) < np.mean(spread[1]) and np.max(spread) < 3.2
    stripes = np.tile(np.array([0, 0, 0, 255, 30, 0], np.float32), (48, 8))[..., None].repeat(3, axis=2)
    stripes[..., 1] = stripes[::-1, ::-1, 1]
    errors = [np.abs(recorded(rng(i), stripes) - stripes).max() for i in range(60)]
    assert 0.1 < np.mean(np.array(errors) > 25) < 0.5  # only JPEG does that


# ---- photographs and the set


def test_large_photos_are_reduced_on_reading_but_not_below_the_crop(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_blur, "MAX_PIXELS", 100 * 100)
    Image.fromarray(np.full((400, 400, 3), 77, np.uint8)).save(tmp_path / "square.png")
    Image.fromarray(np.zeros((80, 2000, 3), np.uint8)).save(tmp_path / "wide.png")
    square = read_sharp_photo(tmp_path / "square.png", 32)
    assert square.shape == (100, 100, 3) and (square == 77).all()
    assert min(read_sharp_photo(tmp_path / "wide.png", 64).shape[:2]) == 64
    with pytest.raises(ValueError, match="read-only"):
        square[0] = 0


def write_photos(folder, count=3):
    folder.mkdir()
    for i in range(count):
        Image.fromarray(rng(i).integers(0, 256, (64, 80, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_written_set_is_a_test_set_and_repeats(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos")
    for root, count in (("a", 5), ("b", 4)):
        main(["--photos", str(photos), "--root", str(tmp_path / root), f"--count={count}", "--height=32", "--width=48"])
    assert "5 pairs of 48x32 pixels from 3 photographs" in capsys.readouterr().out
    a, b = (find_pairs(tmp_path / root, "test") for root in "ab")
    assert [pair.name for pair in a] == ["1", "2", "3", "4", "5"]
    assert read_rgb(a[0].blur).shape == (32, 48, 3)
    for mine, other in zip(a, b, strict=False):
        assert mine.blur.read_bytes() == other.blur.read_bytes()
    assert len({pair.sharp.read_bytes() for pair in a}) == 5
    assert (tmp_path / "a/test/pairs.txt").read_text().splitlines()[4] == "sharp/5.png blur/5.png"


def test_mistakes_are_named(tmp_path):
    photos = write_photos(tmp_path / "photos")
    ok = ["--photos", str(photos), "--root", str(tmp_path / "set"), "--height=32", "--width=32", "--count=1"]
    for wrong, message in (
        (["--count=0"], "--count: got 0, expected 1 to 1000000"),
        (["--photos", str(tmp_path / "none")], "--photos: no folder .*none"),
        (["--width=72"], "expected images of 72x72 or more"),
    ):
        with pytest.raises(UserError, match=message):
            main([*ok, *wrong])
    with (
        full_disk(1000),
        pytest.raises(UserError, match="cannot save .*set/test .File too large.*Make room"),
    ):
        main(ok)
    assert list((tmp_path / "set").iterdir()) == []
    main(ok)
    with pytest.raises(UserError, match="--root: .*test already exists"):
        main(ok)


def test_the_module_runs_as_a_script():
    command = [sys.executable, "-m", "src.data.synthetic_blur", "--photos=a", "--root=b", "--cuont=3"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "Did you mean --count?" in done.stderr and done.stderr.count("\n") == 1


def test_photographs_are_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = rng().integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_sharp_photo(tmp_path / "a.png", 16), np.rot90(pixels, -1))
