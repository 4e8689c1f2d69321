"""Recording the sample weights from reports and run folders made up here."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from src.config import CONFIG_DIR, Config, read_yaml
from src.drawing import CAPTION, GAP, save_strip
from src.errors import UserError
from src.evaluation import write_csv, write_json
from src.run_log import COLUMNS
from weights_pretrained import model_card, record_weights

STAGES = ("weights_cpu", "weights_cpu_stage2")


def write_run(folder, recipe, step_times, **changes):
    folder.mkdir()
    settings = read_yaml(CONFIG_DIR / "recipes" / f"{recipe}.yaml") | {"max_steps": 0} | changes
    (folder / "config.yaml").write_text(Config().with_options(**settings).to_yaml())
    (folder / "versions.json").write_text(
        json.dumps({"git_commit": None, "python": "3", "mindspore": "2", "numpy": "1"})
    )
    with open(folder / "log.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        for i, seconds in enumerate(step_times, start=1):
            row = {"epoch": 1, "step": 10 * i, "loss": 1 / i, "seconds_per_step": seconds}
            writer.writerow(row | ({"psnr": 25.5, "psnr_input": 25} if i == 2 else {}))
    return f"{recipe}={folder}"


@pytest.fixture
def work(tmp_path):
    """work() -> options of the script, with everything that they name; folder with weights and an empty card."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(model_card.SETS):
        rows = [
            {"name": f"{name}{k}", "seconds": 1.0, "psnr_input": 20.0, "psnr": 20 + i + k / 4, "psnr_gain": i + k / 4,
             "ssim_input": 0.5, "ssim": 0.75, "ssim_gain": 0.25} for k in range(2)
        ]  # fmt: skip
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "name"}
        write_json(tmp_path / f"{name}.json", {"images": 2, "checkpoint": "/somewhere/last.ckpt"} | means)
        write_csv(tmp_path / f"{name}.csv", rows)
        for row in rows:
            image = rng.random((400, 380, 3), dtype=np.float32)
            save_strip(tmp_path / f"{name}_strips" / f"{row['name']}.png", {"a": image, "b": image, "c": image})
    card = tmp_path / "card"
    card.mkdir()
    (card / model_card.WEIGHTS).write_bytes(b"weights" * 1000)
    (card / model_card.CARD).write_text(f"# Card\n\n{model_card.BEGIN}\n{model_card.END}\n\nend\n")
    return tmp_path


def options(work, **changes):
    runs = [
        write_run(work / "run1", STAGES[0], [2.0, 1400.0, 4.0], **changes), write_run(work / "run2", STAGES[1], [3.0])
    ]  # fmt: skip
    return ["--reports", str(work), "--hardware", "a lathe", *(word for run in runs for word in ("--run", run))]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("run1/log.csv", "# step\n", "run1/log.csv has no rows that can be read"),
        (
            "run2/log.csv",
            "epoch,step,loss,psnr\n1,10,0.5,\n",
            "weights_cpu_stage2: its log.csv has no seconds_per_step",
        ),
        ("run2/versions.json", "[" * 100000, "versions.json: got no JSON object with python, mindspore, numpy"),
        ("reds.json", "[1]", "reds.json: got no JSON object with images, psnr_input"),
    ],
)
def test_edited_files_are_one_line(work, name, content, words):
    arguments = options(work)
    (work / name).write_text(content)
    with pytest.raises(UserError, match=words) as e:
        record_weights.main(arguments, work / "card")
    assert "\n" not in str(e.value)


def test_everything_is_written_and_agrees(work):
    record_weights.main(options(work), work / "card")
    card = work / "card"
    assert {path.name for path in card.iterdir()} == {
        "MIMO-UNet_sample.ckpt", "MIMO-UNet_sample.json", "MODEL_CARD.md", "training_log.csv", "training_curve.png",
        "largest_gain.jpg", "smallest_gain.jpg",
    }  # fmt: skip
    figures = json.loads((card / model_card.FIGURES).read_text())
    assert [(s["recipe"], s["steps"], s["seconds"], s["seed"]) for s in figures["stages"]] == [
        ("weights_cpu", 30, 120, 1), ("weights_cpu_stage2", 10, 30, 2),  # the pause of the first counts as a step does
    ]  # fmt: skip
    assert figures["held_out"]["reds"]["rows"][1] == {
        "name": "reds1", "psnr_input": 20.0, "psnr": 21.25, "ssim_input": 0.5, "ssim": 0.75,
    }  # fmt: skip
    assert "somewhere" not in json.dumps(figures)
    text = (card / model_card.CARD).read_text()
    assert text.startswith("# Card\n") and text.endswith("\n\nend\n")
    for words in (
        "| REDS | 2 | 20.00 | 21.12 | +1.12 (+1.00 to +1.25) | 0.5000 | 0.7500 |",
        figures["sha256"],
        "a lathe",
        "| `weights_cpu` | 30 | 2 of 128x128 | 0.0003 | step | 60% | 1 | 0.0 |",
        "`sample1`, 20.00 dB to 23.25 dB",
        "`sample0`, 20.00 dB to 23.00 dB",
        "numpy 1",
    ):
        assert words in text, words
    model_card.main(["--check"], card)


def test_log_holds_all_stages(work):
    record_weights.main(options(work), work / "card")
    with open(work / "card/training_log.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(row["recipe"], row["step"]) for row in rows] == [
        ("weights_cpu", "10"), ("weights_cpu", "20"), ("weights_cpu", "30"), ("weights_cpu_stage2", "10"),
    ]  # fmt: skip
    assert (rows[0]["psnr"], rows[1]["psnr"], rows[2]["loss"]) == ("", "25.5", "0.333333")


def test_pictures_are_the_middle_of_the_strips(work):
    record_weights.main(options(work), work / "card")
    height, width = record_weights.PICTURE
    with Image.open(work / "card/largest_gain.jpg") as image, Image.open(work / "sample_strips/sample1.png") as strip:
        assert image.size == (3 * (width + GAP) - GAP, height + CAPTION)
        cut, whole = np.asarray(image, np.float32), np.asarray(strip, np.float32)
    top, left = CAPTION + (400 - height) // 2, (380 - width) // 2
    for i in range(3):
        part = cut[CAPTION:, i * (width + GAP) :][:, :width]
        there = whole[top:, i * (380 + GAP) + left :][:height, :width]
        smooth = [a.reshape(10, 30, 10, 32, 3).mean((1, 3)) for a in (part, there)]  # JPEG changes noise, not its means
        np.testing.assert_allclose(*smooth, atol=3)


def test_run_of_another_recipe_is_refused(work):
    with pytest.raises(UserError, match="--run weights_cpu: the run has another crop_size, seed than"):
        record_weights.main(options(work, seed=7, crop_size=64), work / "card")
    assert not (work / "card" / model_card.FIGURES).exists()


def test_what_is_missing_is_named(work):
    with pytest.raises(UserError, match="--run a=nowhere: expected RECIPE=FOLDER"):
        record_weights.main(["--reports", str(work), "--run", "a=nowhere", "--hardware", "x"], work / "card")
    (work / "reds.json").unlink()
    with pytest.raises(UserError, match="--reports .*: no reds.json"):
        record_weights.main(options(work), work / "card")
