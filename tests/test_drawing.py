import numpy as np
import pytest

from src.data.images import read_rgb
from src.drawing import CAPTION, GAP, save_curves, save_png, save_strip

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def as_floats(levels):
    return levels.astype(np.float32) / np.float32(255)


# ---- restored images


@pytest.mark.parametrize("shift", [-0.45, 0, 0.45])
def test_png_holds_the_nearest_level(tmp_path, shift):
    save_png(tmp_path / "a.png", as_floats(LEVELS) + np.float32(shift / 255))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), LEVELS)


def test_png_is_clipped_and_rgb(tmp_path):
    image = np.zeros((2, 2, 3), np.float32)
    image[..., 0], image[..., 1] = 1.7, -0.7
    save_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.broadcast_to(np.uint8([255, 0, 0]), (2, 2, 3)))


def test_folders_are_made(tmp_path):
    image = as_floats(LEVELS)
    save_png(tmp_path / "a" / "b" / "c.png", image)
    save_strip(tmp_path / "d" / "e.png", {"x": image})
    save_curves(tmp_path / "f" / "g.png", {})
    assert all((tmp_path / name).is_file() for name in ("a/b/c.png", "d/e.png", "f/g.png"))


def test_saving_does_not_change_the_image(tmp_path):
    image = as_floats(LEVELS) * 2 - np.float32(0.5)
    before = image.copy()
    image.setflags(write=False)
    save_png(tmp_path / "a.png", image)
    save_strip(tmp_path / "b.png", {"x": image})
    np.testing.assert_array_equal(image, before)


# ---- strips


def test_strip_shows_the_images_side_by_side(tmp_path):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (30, 70, 3), dtype=np.uint8) for _ in range(3)]
    save_strip(tmp_path / "s.png", {f"image {i}": as_floats(image) for i, image in enumerate(images)})
    sheet = read_rgb(tmp_path / "s.png")
    assert sheet.shape == (30 + CAPTION, 3 * 70 + 2 * GAP, 3)
    for i, image in enumerate(images):
        left = i * (70 + GAP)
        np.testing.assert_array_equal(sheet[CAPTION:, left : left + 70], image)
        assert sheet[:CAPTION, left : left + 70].min() < 128, "no caption"
    for i in (0, 1):
        gap = sheet[CAPTION:, i * (70 + GAP) + 70 : (i + 1) * (70 + GAP)]
        assert gap.min() == 255


def test_strip_of_one_image_has_no_gap(tmp_path):
    save_strip(tmp_path / "s.png", {"": as_floats(LEVELS)})
    assert read_rgb(tmp_path / "s.png").shape == (6 + CAPTION, 5, 3)


# ---- curves


def log(**columns):
    """Columns of a log with four rows, None where not given."""
    empty = {name: [None] * 4 for name in ("step", "loss", "psnr", "psnr_input")}
    return empty | {"step": [10, 20, 30, 40]} | columns


def ink(path, axes):
    """How many pixels of a half of the picture (0 = loss, 1 = PSNR) are coloured: grid and letters are grey."""
    pixels = read_rgb(path).astype(int)
    half = np.array_split(pixels, 2, axis=1)[axes]
    return int((half.max(axis=2) - half.min(axis=2) > 60).sum())


def draw(path, runs):
    save_curves(path, runs)
    return ink(path, 0), ink(path, 1)


def test_curves_show_loss_and_psnr_with_missing_values(tmp_path):
    nothing = draw(tmp_path / "0.png", {"run": log()})
    loss_only = draw(tmp_path / "1.png", {"run": log(loss=[4.0, None, 1.0, 0.5])})
    both = draw(
        tmp_path / "2.png",
        {"run": log(loss=[4.0, None, 1.0, 0.5], psnr=[None, 20.0, None, 25.0], psnr_input=[None, 18.0, None, 18.0])},
    )
    assert loss_only[0] > nothing[0] + 100 and loss_only[1] == nothing[1]
    assert both[0] == pytest.approx(loss_only[0], rel=0.1) and both[1] > nothing[1] + 100


def test_single_values_are_visible(tmp_path):
    nothing = draw(tmp_path / "0.png", {"run": log()})
    one = draw(tmp_path / "1.png", {"run": log(loss=[None, 1.0, None, None], psnr=[None, 20.0, None, None])})
    assert one[0] > nothing[0] + 5 and one[1] > nothing[1] + 5


def test_every_run_has_a_line(tmp_path):
    first, second = log(loss=[4.0, 3.0, 2.0, 1.0]), log(loss=[1.0, 2.0, 3.0, 4.0])
    one = draw(tmp_path / "1.png", {"a": first})
    two = draw(tmp_path / "2.png", {"a": first, "b": second})
    assert two[0] > one[0] * 1.5


def test_curves_of_a_log_file(tmp_path):
    from src.run_log import RunLog, read_log

    run_log = RunLog(tmp_path)
    empty = draw(tmp_path / "0.png", {"run": read_log(tmp_path / "log.csv")})
    for step in (10, 20, 30):
        run_log.add(1, step, loss=1 / step)
    assert draw(tmp_path / "1.png", {"run": read_log(tmp_path / "log.csv")})[0] > empty[0] + 100


def test_curves_of_a_folder_whose_name_is_no_text(tmp_path):
    save_curves(tmp_path / "a.png", {"caf\udce9": {"step": [1.0], "loss": [2.0], "psnr": [3.0], "psnr_input": [None]}})
    assert (tmp_path / "a.png").stat().st_size > 1000
