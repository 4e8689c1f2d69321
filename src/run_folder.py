"""The folder of one training run: `config.yaml`, `versions.json`, `log.csv`, `curves.png`, checkpoints, samples.

The folder alone is enough to repeat the run, to resume it and to draw it.
"""

import csv
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from src import __version__
from src.errors import UserError, need_writable_folder

COLUMNS = ["epoch", "step", "loss", "content", "fft", "lr", "scale", "grad_norm", "skipped", "seconds_per_step",
           "data_wait", "callbacks", "psnr", "psnr_input"]  # fmt: skip


def check(folder: Path | str, overwrite: bool) -> Path:
    """Find out, without touching anything, whether `claim` will succeed.

    Raises:
        UserError: the folder already holds a run and `overwrite` is not set, or it cannot be written.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name, and would follow a renamed folder
    if holds_run(folder) and not overwrite:
        raise UserError(
            f"--ckpt_save_directory {folder} already holds a run. Name another folder, or rename the old run aside "
            "with --overwrite."
        )
    ancestor = next(p for p in (folder, *folder.parents) if p.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise UserError(
            f"--ckpt_save_directory {folder}: cannot write into {ancestor}. Give a folder you may write to."
        )
    return folder


def claim(folder: Path) -> Path:
    """Make a run folder for a new run; a run that is there is renamed aside, never deleted.

    Raises:
        UserError: the folder cannot be made, renamed or written.
    """
    if holds_run(folder):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        try:
            folder.rename(aside)
        except OSError as e:
            raise UserError(f"--overwrite: cannot rename {folder} to {aside} ({e.strerror})") from e
        print(f"the run that was in {folder} is now {aside}")
    return need_writable_folder(folder, "--ckpt_save_directory")


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "log.csv").exists() or any(folder.glob("*.ckpt"))


def describe(folder: Path, config_yaml: str) -> None:
    """Write the resolved settings and the versions of everything that could change the result."""
    (folder / "config.yaml").write_text(config_yaml, encoding="utf-8", errors="backslashreplace")
    (folder / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str | None]:
    """Versions of this repository, its git commit, Python and the packages; None for what is absent."""
    found: dict[str, str | None] = {
        "mimo_unet": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
    }
    for package in ("mindspore", "numpy", "Pillow", "scikit-image"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def begin(folder: Path, config_yaml: str, resumed_step: int | None, drop_part: bool = False) -> None:
    """Claim the folder for a new run, or cut its log back to the step at which it is resumed; write settings and
    versions. `drop_part`: as for `cut_log`.

    Raises:
        UserError: the folder cannot be made, renamed or written.
    """
    if resumed_step is None:
        claim(folder)
    else:
        need_writable_folder(folder, "--ckpt_save_directory")
        cut_log(folder / "log.csv", resumed_step, drop_part)
    describe(folder, config_yaml)


class RunLog:
    """`log.csv` and TensorBoard events: one row per logged step.

    Values of one step may come from several callbacks; a row is written when the next step begins, and stays readable
    if the process is killed.

    Args:
        part: sums over the steps of an interval that the next row will tell of, and their `count`; a checkpoint carries
            them to the run that goes on.
    """

    def __init__(self, folder: Path, first_step: int = 0, part: Mapping[str, float] | None = None):
        from tensorboardX import SummaryWriter

        self.folder = folder
        self.path = folder / "log.csv"
        self.part = dict(part or {})
        self.row: dict[str, Any] = {}
        self.events = SummaryWriter(str(folder / "events"), purge_step=first_step + 1)
        if not self.path.exists():
            with open(self.path, "w", newline="", encoding="utf-8") as f:
                csv.writer(f).writerow(COLUMNS)

    def add(self, epoch: int, step: int, **values: Any) -> None:
        if self.row and self.row["step"] != step:
            self.flush()
        self.row |= {"epoch": epoch, "step": step, **values}

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """An (H, W, 3) uint8 picture for the events."""
        self.events.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        if not self.row:
            return
        with open(self.path, "a", newline="", encoding="utf-8") as f:
            csv.DictWriter(f, COLUMNS).writerow(self.row)
        for name, value in self.row.items():
            if name != "step" and value is not None:
                self.events.add_scalar(name, value, self.row["step"])
        self.events.flush()
        self.row = {}


def cut_log(path: Path, last_step: int, drop_part: bool = False) -> None:
    """Drop the rows of a `log.csv` after `last_step`, which a run resumed there writes again, and a row cut off by a
    crash. With `drop_part` also the means at `last_step`: those of an interval that goes on; a score there stays."""
    if not path.exists():
        return
    whole_rows = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    rows = [
        row for row in csv.DictReader(whole_rows) if row.get("step", "").isdigit() and int(row["step"]) <= last_step
    ]
    if drop_part and rows and int(rows[-1]["step"]) == last_step:
        scores = {name: rows[-1][name] for name in ("epoch", "step", "psnr", "psnr_input")}
        rows[-1:] = [scores] if scores["psnr"] else []
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def read_log(path: Path) -> dict[str, list[float | None]]:
    """Columns of a `log.csv` as numbers, None for an empty cell."""
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return {name: [float(row[name]) if row.get(name) else None for row in rows] for name in COLUMNS}


def checkpoint_name(model_name: str, epoch: int, step: int) -> str:
    return f"{model_name}_{epoch}_{step}.ckpt"


def numbered_checkpoints(folder: Path, model_name: str) -> list[Path]:
    """Numbered checkpoints of a run, oldest first."""
    name = re.compile(rf"{re.escape(model_name)}_([0-9]+)_([0-9]+)\.ckpt")
    found = [(int(m[2]), int(m[1]), path) for path in folder.glob("*.ckpt") if (m := name.fullmatch(path.name))]
    return [path for _, _, path in sorted(found)]
