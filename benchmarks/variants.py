"""Which variant to train on a small budget: runs of equal processor time, scored on the same held-out sets.

    taskset -c 0 python train.py --model_name MIMO-UNetLite --ckpt_save_directory runs/lite ...
    taskset -c 1 python train.py --model_name MIMO-UNet --ckpt_save_directory runs/full ...    # at the same time
    python benchmarks/variants.py --run runs/lite=45 --run runs/full=45 --set "GoPro=--dataset_root D --test_list L"

SIGTERM stops a run after saving. The number after a run is its processor time in minutes; each set is a name and the
options of eval.py that select its pairs.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import make_parser, parse, write_json  # noqa: E402
from src.config import read_yaml  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.run_log import read_log  # noqa: E402

SHARED = ("crop_size", "train_batch_size", "learning_rate", "synthetic_fraction", "conv_kernels", "ema_decay", "seed")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Compares training runs of equal processor time on held-out sets.")
    parser.add_argument("--run", action="append", default=[], metavar="FOLDER=MINUTES", help="run folder of train.py")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=OPTIONS", help="options of eval.py")
    args = parse(parser, argv)
    sets = dict(text.partition("=")[::2] for text in args.set)
    runs = [describe(*text.partition("=")[::2]) for text in args.run]
    if not runs or not sets:
        raise UserError("expected at least one --run FOLDER=MINUTES and one --set NAME=OPTIONS")
    settings = {name: runs[0]["config"][name] for name in SHARED}
    for run in runs:
        if other := [name for name in SHARED if run["config"][name] != settings[name]]:
            raise UserError(
                f"--run {run['folder']}: another {', '.join(other)} than {runs[0]['folder']}; not comparable"
            )
    results = {}
    for run in runs:
        name = run["config"]["model_name"]
        results[name] = run["done"] | {
            "sets": {title: score(run["folder"], options) for title, options in sets.items()}
        }
        for title, found in results[name]["sets"].items():
            gain = found["psnr"] - found["psnr_input"]
            print(f"{name:15} {title:12} {found['images']:3} images, gain {gain:+.2f} dB", flush=True)
    if args.json:
        write_json(args.json, "variants", {"settings": settings, "variants": results})


def describe(folder: str, minutes: str) -> dict[str, Any]:
    """Settings and progress of a run.

    Raises:
        UserError: `folder` is not a run folder, or `minutes` is not a number.
    """
    path = Path(folder)
    if not all((path / name).is_file() for name in ("config.yaml", "log.csv", "last.ckpt")):
        raise UserError(f"--run {folder}: expected a run folder of train.py, with config.yaml, log.csv and last.ckpt")
    try:
        spent = float(minutes)
    except ValueError as e:
        raise UserError(f"--run {folder}={minutes}: expected the processor time in minutes after the =") from e
    config, log = read_yaml(path / "config.yaml"), read_log(path / "log.csv", need_rows=True)
    steps = int(log["step"][-1])
    crops = steps * config["train_batch_size"] * config["accumulate_steps"]
    return {"folder": path, "config": config, "done": {"minutes": spent, "steps": steps, "crops": crops}}


def score(folder: Path, options: str) -> dict[str, float]:
    """Mean scores of a run's last checkpoint, its moving average if it has one, by eval.py."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        model = "--model_name", read_yaml(folder / "config.yaml")["model_name"], "--ckpt_file", folder / "last.ckpt"
        outputs = "--metrics", "psnr", "--report_file", report
        command = [sys.executable, ROOT / "eval.py", "--device_target", "CPU", *model, *outputs, *shlex.split(options)]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"eval.py {options}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
        summary = json.loads(report.read_text(encoding="utf-8"))
    return {name: summary[name] for name in ("images", "psnr_input", "psnr")}


if __name__ == "__main__":
    run_main(main)
