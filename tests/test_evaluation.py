import csv
import json
import math
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from eval import main as eval_main
from src.data.images import read_rgb
from src.data.pairs import Pair
from src.errors import BadOutput, UserError
from src.evaluation import (
    evaluate,
    make_scorer,
    scored_window,
    summarize,
    summary_of_sums,
    sums,
    worst,
    write_csv,
    write_json,
)
from src.metric import METRICS
from src.restore import TimedEngine, restore

SIZES = [(16, 20), (16, 20), (16, 20), (13, 17), (16, 20), (9, 30)]


@pytest.fixture
def pairs(tmp_path):
    """Six pairs of noise images, the third identical, in three sizes."""
    rng = np.random.default_rng(0)
    found = []
    for i, size in enumerate(SIZES):
        for kind in ("blur", "sharp"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / kind / f"{i}.png")
        found.append(Pair(str(i), tmp_path / "blur" / f"{i}.png", tmp_path / "sharp" / f"{i}.png"))
    found[2] = replace(found[2], blur=found[2].sharp)
    return found


class Engine:
    """Per-pixel arithmetic that leaves [0, 1]; remembers the shapes it got."""

    multiple = 4

    def __init__(self, gain=1.3, offset=-0.1):
        self.gain, self.offset, self.shapes = np.float32(gain), np.float32(offset), []

    def __call__(self, images):
        self.shapes.append(images.shape)
        return images * self.gain + self.offset


identity = Engine(1, 0)


def as_floats(path):
    return read_rgb(path).astype(np.float32) / np.float32(255)


def scores(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def run(pairs, engine, metrics=("psnr", "ssim"), batch_size=1, on_image=None):
    return evaluate(pairs, partial(restore, engine=engine), make_scorer(metrics), batch_size, on_image)


# ---- per image


def test_scores_are_the_metrics_of_the_images(pairs):
    rows = list(run(pairs, Engine(), tuple(METRICS)))
    assert [row["name"] for row in rows] == [pair.name for pair in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        blur, sharp = as_floats(pair.blur), as_floats(pair.sharp)
        restored = blur * np.float32(1.3) + np.float32(-0.1)
        for name, metric in METRICS.items():
            np.testing.assert_equal(row[name], metric(restored, sharp))
            np.testing.assert_equal(row[f"{name}_input"], metric(blur, sharp))
        assert row["seconds"] >= 0


def test_gain_is_the_difference(pairs):
    for row in run(pairs[:2], Engine()):
        for metric in ("psnr", "ssim"):
            assert row[f"{metric}_gain"] == row[metric] - row[f"{metric}_input"] != 0


def test_identity_gains_nothing_even_from_inf(pairs):
    rows = list(run(pairs, identity, ["psnr", "psnr_uint8"]))
    for row in rows:
        for metric in ("psnr", "psnr_uint8"):
            assert row[metric] == row[f"{metric}_input"]
            assert row[f"{metric}_gain"] == 0
    assert rows[2]["psnr"] == rows[2]["psnr_uint8"] == math.inf


def test_only_the_asked_metrics(pairs):
    (row,) = run(pairs[:1], identity, ["psnr"])
    assert list(row) == ["name", "seconds", "psnr_input", "psnr", "psnr_gain"]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 100])
def test_scores_do_not_depend_on_the_batch_size(pairs, batch_size):
    one_by_one = scores(run(pairs, Engine(), tuple(METRICS)))
    np.testing.assert_equal(scores(run(pairs, Engine(), tuple(METRICS), batch_size)), one_by_one)


def test_neighbours_of_one_size_go_together(pairs):
    def batches(batch_size):
        engine = Engine()
        list(run(pairs, engine, ["psnr"], batch_size))
        return engine.shapes

    big, odd, flat = (3, 16, 20), (3, 16, 20), (3, 12, 32)  # 13x17 and 9x30, padded
    assert batches(1) == [(1, *s) for s in (big, big, big, odd, big, flat)]
    # the odd one has the padded size of its neighbours, but is not mixed with them
    assert batches(2) == [(2, *big), (1, *big), (1, *odd), (1, *big), (1, *flat)]
    assert batches(100) == [(3, *big), (1, *odd), (1, *big), (1, *flat)]


def test_images_are_read_as_they_are_needed(pairs, monkeypatch):
    read, real = [], Pair.read
    monkeypatch.setattr(Pair, "read", lambda pair: read.append(pair) or real(pair))
    rows = run(pairs, identity, ["psnr"])
    next(rows)
    assert 0 < len(read) < len(pairs)
    rows.close()


def test_no_pairs_no_rows():
    assert list(run([], identity)) == []


class Overflowing(Engine):
    """Cannot do pictures with a red corner."""

    def __call__(self, images):
        if (images[:, 0, 0, 0] == 1).any():
            raise BadOutput("net.onnx returns NaN", always=False)
        return super().__call__(images)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_picture_that_a_network_cannot_do_is_named(pairs, batch_size):
    pixels = read_rgb(pairs[1].blur).copy()
    pixels[0, 0] = 255, 0, 0
    Image.fromarray(pixels).save(pairs[1].blur)
    with pytest.raises(BadOutput) as caught:
        list(run(pairs, Overflowing(), ["psnr"], batch_size))
    assert str(caught.value) == f"{pairs[1].blur}: net.onnx returns NaN" and not caught.value.always


# ---- what on_image gets


def test_on_image_gets_the_images(pairs):
    got = {}
    list(run(pairs, Engine(), ["psnr"], 2, lambda pair, *images: got.update({pair: images})))
    assert list(got) == pairs
    for pair, (blur, restored, sharp) in got.items():
        np.testing.assert_array_equal(blur, as_floats(pair.blur))
        np.testing.assert_array_equal(sharp, as_floats(pair.sharp))
        np.testing.assert_array_equal(restored, blur * np.float32(1.3) + np.float32(-0.1))
        assert restored.max() > 1  # not clipped
        assert {image.dtype for image in (blur, restored, sharp)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("engine", [identity, Engine()])
def test_on_image_cannot_change_a_score(pairs, engine):
    def spoil(pair, *images):
        for image in images:
            image[:] = 0.5

    for batch_size in (1, 3):
        untouched = scores(run(pairs, engine, tuple(METRICS), batch_size))
        np.testing.assert_equal(scores(run(pairs, engine, tuple(METRICS), batch_size, spoil)), untouched)


# ---- summary


def test_summary_is_the_mean_of_the_values():
    rows = [{"name": "a", "seconds": 1.0, "psnr": 20.0}, {"name": "b", "seconds": 2.0, "psnr": 30.0}]
    assert summarize(rows) == {"images": 2, "seconds_per_image": 1.5, "psnr": 25.0}


def test_summary_counts_what_is_not_finite_apart():
    rows = [
        {"name": str(i), "seconds": 0.0, "psnr": p, "ssim": s}
        for i, (p, s) in enumerate([(20.0, math.nan), (math.inf, math.nan), (30.0, math.nan)])
    ]
    summary = summarize(rows)
    assert (summary["psnr"], summary["psnr_inf"]) == (25.0, 1)
    assert (summary["ssim"], summary["ssim_inf"]) == (None, 3)
    assert "seconds_per_image_inf" not in summary


@pytest.mark.parametrize("count,skipped", [(1, 0), (2, 1), (5, 2), (40, 20), (200, 20)])
def test_network_is_timed_without_warm_up(count, skipped):
    rows = [{"name": str(i), "seconds": 9.0, "network_seconds": 50.0 if i < skipped else 0.1} for i in range(count)]
    summary = summarize(rows)
    assert summary["network_seconds_per_image"] == pytest.approx(0.1) and summary["warm_up_images"] == skipped
    assert summary["seconds_per_image"] == 9.0


def test_network_seconds_are_its_own_alone(pairs):
    def slow(images, engine):
        time.sleep(0.05)  # padding, turning, a self-ensemble
        return restore(images, engine)

    timed = TimedEngine(Engine())
    rows = list(
        evaluate(pairs, partial(slow, engine=timed), make_scorer(["psnr"]), network_clock=lambda: timed.seconds)
    )
    assert sum(row["network_seconds"] for row in rows) == pytest.approx(timed.seconds)
    assert all(0 < row["network_seconds"] <= row["seconds"] - 0.05 for row in rows)


def test_summary_of_nothing():
    assert summarize([]) == {"images": 0}


def test_psnr_is_averaged_in_db_not_in_mse():
    rows = [{"name": str(i), "psnr": db} for i, db in enumerate((10.0, 50.0))]
    assert summarize(rows)["psnr"] == 30.0


# ---- files


def test_csv_mean_is_the_json_figure(pairs, tmp_path):
    rows = list(run(pairs, Engine(), tuple(METRICS)))
    write_csv(tmp_path / "all.csv", rows)
    write_json(tmp_path / "report.json", summarize(rows))
    summary = json.loads((tmp_path / "report.json").read_text())
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as f:
        table = list(csv.DictReader(f))
    assert [row["name"] for row in table] == [pair.name for pair in pairs]
    for column in ("psnr", "psnr_input", "psnr_gain", "psnr_uint8", "ssim", "ssim_gain"):
        values = [float(row[column]) for row in table]
        finite = [v for v in values if math.isfinite(v)]
        assert summary[column] == np.mean(finite)
        assert summary.get(f"{column}_inf", 0) == len(values) - len(finite)
    assert summary["psnr_input_inf"] == 1 and summary["ssim_inf"] == 1
    assert summary["seconds_per_image"] == np.mean([float(row["seconds"]) for row in table])


def test_json_has_no_words_outside_the_standard(pairs, tmp_path):
    def fail(word):
        raise AssertionError(f"{word} is no JSON")

    for engine in (identity, Engine(np.nan)):
        rows = list(run(pairs, engine))
        write_json(tmp_path / "report.json", summarize(rows))
        json.loads((tmp_path / "report.json").read_text(), parse_constant=fail)


def test_csv_of_no_images(tmp_path):
    write_csv(tmp_path / "all.csv", [])
    assert (tmp_path / "all.csv").read_text().split() == ["name"]


# ---- what counts


def test_border_and_centre_are_what_is_scored(pairs):
    prediction, sharp = np.random.default_rng(0).random((2, 12, 16, 3), dtype=np.float32)
    for border, centre, window in ((2, 0, np.s_[2:10, 2:14]), (0, 6, np.s_[3:9, 5:11]), (1, 4, np.s_[4:8, 6:10])):
        score = make_scorer(["psnr"], border, centre)(prediction, sharp)["psnr"]
        assert score == METRICS["psnr"](prediction[window], sharp[window])


@pytest.mark.parametrize(
    "options", [["--crop_border", "20"], ["--center_crop", "41"], ["--crop_border=16", "--center_crop=9"]]
)
def test_images_that_lack_what_is_scored_are_named_before_the_work(make_dataset, tmp_path, options):
    root = make_dataset(train=0, test=1, size=(40, 48))
    (tmp_path / "model.ckpt").write_bytes(b"x")
    words = r"expected images of 41x41 or more, but got .* \(48x40\). .* give a smaller --crop_border or --center_crop"
    with pytest.raises(UserError, match=words):
        eval_main(["--device_target=CPU", f"--dataset_root={root}", f"--ckpt_file={tmp_path / 'model.ckpt'}", *options])


def test_a_window_that_an_image_has_not_is_an_error():
    assert scored_window(5, 7, 2, 0) == np.s_[2:3, 2:5] and scored_window(5, 7, 1, 3) == np.s_[1:4, 2:5]
    with pytest.raises(ValueError, match="5x7 pixels, crop_border 3"):
        scored_window(5, 7, 3, 0)


def test_sums_of_parts_are_the_summary_of_all(pairs):
    rows = list(run(pairs, identity, ["psnr"]))
    whole = summarize(rows)
    total = np.sum([sums(rows[:1]), sums(rows[1:]), sums([])], axis=0)
    parts = summary_of_sums(total)
    assert parts.keys() == whole.keys()
    for key, value in whole.items():
        assert parts[key] == pytest.approx(value, rel=1e-12)
    assert parts["psnr_inf"] == 1  # the identical pair


def test_one_nan_leaves_no_score(pairs):
    """The mean of the others could be the best of a training."""
    rows = list(run(pairs, identity, ["psnr"]))
    rows[4]["psnr"] = math.nan
    summary = summary_of_sums(np.sum([sums(rows[:2]), sums(rows[2:])], axis=0))
    assert summary["psnr"] is None and summary["psnr_input"] > 0 and summary["psnr_inf"] == 1


def test_worst_are_the_lowest_finite_scores():
    rows = [{"name": str(i), "psnr": v} for i, v in enumerate([30.0, math.inf, 20.0, 25.0])]
    assert [row["name"] for row in worst(rows, "psnr", 2)] == ["2", "3"]


def test_reports_of_file_names_that_are_no_utf8(tmp_path):
    rows = [{"name": "caf\udce9", "psnr": 30.0}, {"name": "a", "psnr": 31.0}]
    write_csv(tmp_path / "all.csv", rows)
    write_json(tmp_path / "report.json", {"worst": rows})
    assert (tmp_path / "all.csv").read_text(encoding="utf-8").splitlines()[1] == "caf\\udce9,30.0"
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["worst"] == rows
