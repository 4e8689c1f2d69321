"""Record the sample weights: scores, training and pictures, into weights_pretrained, then the figures of their card.

    bash weights_pretrained/score_sample_weights.sh    # scores the weights and calls this script

What is read: the reports of `eval.py`, the strips that it saved, and the run folders of the stages. What is written:
MIMO-UNet_sample.json, training_log.csv, training_curve.png, largest_gain.jpg, smallest_gain.jpg, MODEL_CARD.md.
"""

import csv
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees weights_pretrained/ only

from src.command_line import ArgumentParser  # noqa: E402
from src.config import find_recipe, read_yaml  # noqa: E402
from src.drawing import CAPTION, GAP, save_curves  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.files import parse_json, write_whole  # noqa: E402
from src.formats.weights import sha256_of  # noqa: E402
from src.run_log import COLUMNS, read_log  # noqa: E402
from weights_pretrained import model_card  # noqa: E402

SETTINGS = ("seed", "crop_size", "train_batch_size", "synthetic_fraction", "learning_rate", "lr_schedule")
ONE_LAUNCH = ("max_steps", "num_worker")  # they do not affect the weights of a complete run
PICTURE = (300, 320)  # height, width of each part, pixels


def main(argv: list[str] | None = None, folder: Path = model_card.FOLDER) -> None:
    parser = ArgumentParser("Records the sample weights' scores, training and pictures in weights_pretrained.")
    add = parser.add_argument
    add("--reports", required=True, metavar="FOLDER", help="NAME.json, NAME.csv, NAME_strips of each held-out set")
    add("--run", required=True, action="append", metavar="RECIPE=FOLDER", help="a stage and its run, in order")
    add("--hardware", required=True, metavar="TEXT", help="what the training ran on")
    args = parser.parse_args(argv)
    record(Path(args.reports), [run.partition("=")[::2] for run in args.run], args.hardware, folder)
    model_card.main([], folder)


def record(reports: Path, runs: list[tuple[str, str]], hardware: str, folder: Path) -> None:
    """Write JSON, log, curve and pictures into `folder`, beside the weights.

    Raises:
        UserError: a report or a run is missing, or a run was not made with its recipe.
    """
    for recipe, run in runs:
        if not (Path(run) / "log.csv").is_file():
            raise UserError(f"--run {recipe}={run}: expected RECIPE=FOLDER, a run folder of train.py with its log.csv")
    if missing := [name for name in model_card.SETS if not (reports / f"{name}.json").is_file()]:
        raise UserError(
            f"--reports {reports}: no {missing[0]}.json. bash weights_pretrained/score_sample_weights.sh writes it"
        )
    logs = {recipe: read_log(Path(run) / "log.csv", need_rows=True) for recipe, run in runs}
    versions = read_object(Path(runs[-1][1]) / "versions.json", "python", "mindspore", "numpy")
    figures = {
        "file": model_card.WEIGHTS,
        "bytes": (folder / model_card.WEIGHTS).stat().st_size,
        "sha256": sha256_of(folder / model_card.WEIGHTS),
        "hardware": hardware,
        "versions": {name: versions[name] for name in ("python", "mindspore", "numpy")},
        "stages": [stage(recipe, read_yaml(Path(run) / "config.yaml"), logs[recipe]) for recipe, run in runs],
        "held_out": {name: held_out(reports / f"{name}.json") for name in model_card.SETS},
    }
    write_whole(folder / model_card.FIGURES, json.dumps(figures, indent=1) + "\n")
    write_log(folder / "training_log.csv", logs)
    done, curves = 0.0, {}
    for recipe, log in logs.items():
        steps = [done + step for step in log["step"]]
        curves[recipe], done = log | {"step": steps}, steps[-1]
    save_curves(folder / "training_curve.png", curves)
    for name, row in model_card.extremes(figures).items():
        save_part(reports / f"{model_card.PICTURED}_strips" / f"{row['name']}.png", folder / f"{name}.jpg")


def stage(recipe: str, config: dict[str, Any], log: dict[str, list]) -> dict[str, Any]:
    """Settings and length of one run. Its seconds are steps times the median step, to exclude pauses."""
    asked = read_yaml(find_recipe(recipe))
    if other := [key for key in asked if key not in ONE_LAUNCH and asked[key] != config[key]]:
        raise UserError(f"--run {recipe}: the run has another {', '.join(other)} than the recipe")
    times = [s for s in log["seconds_per_step"] if s is not None]
    if not times:
        raise UserError(f"--run {recipe}: its log.csv has no seconds_per_step")
    steps, step_s = int(log["step"][-1]), statistics.median(times)
    return {"recipe": recipe, "steps": steps, "seconds": round(steps * step_s)} | {k: config[k] for k in SETTINGS}


def read_object(path: Path, *names: str) -> dict[str, Any]:
    """A JSON object with these names, or a UserError."""
    try:
        content = parse_json(path.read_bytes())
        if lacking := [name for name in names if name not in content]:
            raise ValueError(f"no {', '.join(lacking)}")
        return dict(content)
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"{path}: got no JSON object with {', '.join(names)} ({e})") from e


def held_out(report: Path) -> dict[str, Any]:
    """Means and rows of one report of `eval.py`."""
    scores = [f"{metric}{part}" for metric in ("psnr", "ssim") for part in ("_input", "")]
    summary = read_object(report, "images", *scores)
    with open(report.with_suffix(".csv"), newline="", encoding="utf-8") as f:
        rows = [{"name": row["name"]} | {s: round(float(row[s]), 4) for s in scores} for row in csv.DictReader(f)]
    return {"images": summary["images"]} | {s: round(summary[s], 4) for s in scores} | {"rows": rows}


def write_log(path: Path, logs: dict[str, dict[str, list]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["recipe", *COLUMNS])
    for recipe, log in logs.items():
        for row in zip(*(log[name] for name in COLUMNS), strict=True):
            writer.writerow([recipe, *("" if value is None else f"{value:.6g}" for value in row)])
    write_whole(path, text.getvalue())


def save_part(strip: Path, target: Path) -> None:
    """The middle of each of a strip's three images, unscaled, with its caption, as JPEG."""
    with Image.open(strip) as image:
        whole = image.convert("RGB")
    width, height = (whole.width + GAP) // 3 - GAP, whole.height - CAPTION
    h, w = min(PICTURE[0], height), min(PICTURE[1], width)
    sheet = Image.new("RGB", (3 * (w + GAP) - GAP, h + CAPTION), "white")
    top, left = CAPTION + (height - h) // 2, (width - w) // 2
    for i in range(3):
        x, to = i * (width + GAP), i * (w + GAP)
        sheet.paste(whole.crop((x, 0, x + w, CAPTION)), (to, 0))
        sheet.paste(whole.crop((x + left, top, x + left + w, top + h)), (to, CAPTION))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=92)
    write_whole(target, content.getbuffer())


if __name__ == "__main__":
    run_main(main)
