"""The folder of one training run: `config.yaml`, `versions.json`, `log.csv`, `curves.png`, checkpoints, samples.

The folder alone is enough to repeat the run, to resume it and to draw it.
"""

import contextlib
import csv
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src import __version__, run_lock
from src.errors import UserError, first_few, need_writable_folder
from src.files import parse_json, write_whole
from src.formats.weights import need_file, read_meta

COLUMNS = ["epoch", "step", "loss", "content", "fft", "lr", "scale", "grad_norm", "skipped", "seconds_per_step",
           "data_wait", "callbacks", "psnr", "psnr_input"]  # fmt: skip


def check(folder: Path | str, overwrite: bool, resume: str = "") -> Path:
    """Find out, without touching anything, whether `begin` will succeed, and say what the run will do without.

    Args:
        resume: as the option: "", `auto`, or a checkpoint.

    Raises:
        UserError: another process is training in the folder; it already holds a run, which is neither to be set aside
            (`overwrite`) nor that of the checkpoint to resume from; there is no such checkpoint; or the folder cannot
            be written.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name, and would follow a renamed folder
    run_lock.refuse_held(folder)
    _refuse_other_run(folder, overwrite, resume)
    ancestor = next(p for p in (folder, *folder.parents) if p.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise UserError(
            f"--ckpt_save_directory {folder}: cannot write into {ancestor}. Give a folder you may write to."
        )
    for package, product in (("tensorboardX", "events/"), ("matplotlib", "curves.png")):
        if reason := why_not_importable(package):
            print(f"{package} cannot be imported ({reason}): {product} is left out; pip install {package} adds it")
    return folder


@contextlib.contextmanager
def hold(folder: Path | str, overwrite: bool, resume: str = "") -> Iterator[None]:
    """Keep other trainings out of the folder (`src.run_lock`) while this one is in it. Arguments as for `check`.

    Raises:
        UserError: as `check`, whose answer another training may have changed meanwhile.
    """
    folder = Path(os.path.abspath(folder))
    with run_lock.hold(folder):
        _refuse_other_run(folder, overwrite, resume)
        yield


def _refuse_other_run(folder: Path, overwrite: bool, resume: str) -> None:
    if resume and resume != "auto":
        path = Path(resume)
        need_file(path, "checkpoint")
        # A file that states no step is damaged or not of a training: it is refused with that reason when it is read.
        if holds_run(folder) and "step" in read_meta(path) and not is_of_run(path, folder):
            raise UserError(
                f"--resume {path}: this checkpoint is not of the run in {folder}, whose log and checkpoints would be "
                f"overwritten. Name a new folder (--ckpt_save_directory), or continue the run that is there with "
                "--resume auto."
            )
    elif holds_run(folder) and not overwrite and not resume:
        raise UserError(
            f"--ckpt_save_directory {folder} already holds a run. Name another folder, or rename the old run aside "
            "with --overwrite."
        )


def why_not_importable(package: str) -> str:
    try:
        import_module(package)
    except Exception as e:  # a package whose own needs are not met raises what it likes
        return " ".join(str(e).split())
    return ""


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
        need_writable_folder(folder, "--ckpt_save_directory")
        run_lock.follow(folder, aside)
    return need_writable_folder(folder, "--ckpt_save_directory")


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "log.csv").exists() or any(folder.glob("*.ckpt"))


def describe(folder: Path, config_yaml: str, run: str) -> None:
    """Write the resolved settings, and with the run's identity the versions of everything that could change the
    result."""
    write_whole(folder / "config.yaml", config_yaml)
    write_whole(folder / "versions.json", json.dumps({"run": run} | versions(), indent=2) + "\n")


def identity(folder: Path) -> str:
    """What tells the run in a folder from all others, also when the folder is moved or copied; "" if there is no run,
    or one begun by a version that gave none."""
    try:
        return str(parse_json((folder / "versions.json").read_bytes()).get("run", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def is_of_run(path: Path, folder: Path) -> bool:
    """Whether a checkpoint is of the run in a folder: both state the same identity or, where one states none, the
    checkpoint lies in the folder."""
    run, stated = identity(folder), read_meta(path).get("run")
    return run == stated if run and stated else path.resolve().parent == folder.resolve()


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


@dataclass(frozen=True)
class SavedAt:
    """The place in a run that a checkpoint states. Its step belongs to the batch and the data of that time."""

    step: int
    steps_per_epoch: int

    def step_now(self, steps_per_epoch: int) -> int:
        """The step at which as much of the schedule is done when an epoch has another number of steps."""
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        return epochs * steps_per_epoch + rest * steps_per_epoch // self.steps_per_epoch


def begin(
    folder: Path, config_yaml: str, run: str, resumed: SavedAt | None = None, drop_part: bool = False,
    steps_per_epoch: int = 0,
) -> None:  # fmt: skip
    """Claim the folder for a new run, or cut its log back to where it is resumed; write settings and versions.

    Args:
        run: its identity.
        resumed: None for a new run.
        drop_part, steps_per_epoch: as for `cut_log`.

    Raises:
        UserError: the folder cannot be made, renamed or written.
    """
    if resumed is None:
        claim(folder)
    else:
        need_writable_folder(folder, "--ckpt_save_directory")
        cut_log(folder / "log.csv", resumed, drop_part, steps_per_epoch)
    describe(folder, config_yaml, run)


class Decoration:
    """`with` around what a training can do without: an error there is reported, once, and ends nothing.

    Args:
        product: the file or folder that is then missing or old.
    """

    def __init__(self, product: Path):
        self.product, self.has_failed = product, False

    def __enter__(self) -> "Decoration":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> bool:
        if not isinstance(error, Exception):  # packages for pictures raise what they like; Ctrl-C is none of it
            return False
        if not self.has_failed:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            tqdm.write(f"{self.product} cannot be written ({reason}); the training goes on without it")
        self.has_failed = True
        return True


class Events:
    """TensorBoard's events, written by the thread that calls: tensorboardX's own writer thread dies when a disk is
    full, and the training would then wait for it without end.

    Args:
        first_step: later steps of earlier event files are hidden.
    """

    def __init__(self, folder: Path, first_step: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}"
        self.writer: Any = RecordWriter(str(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self.writer.flush()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self.writer.write(event.SerializeToString())

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it could not be opened, or what is left to write finds the disk full
            self.writer.close()


class RunLog:
    """`log.csv` and TensorBoard events: one row per logged step.

    A row stays readable if the process is killed.

    Raises:
        UserError: `log.csv` cannot be written. Without events a training goes on.
    """

    def __init__(self, folder: Path, first_step: int = 0):
        self.folder = folder
        self.path = folder / "log.csv"
        self.events: Events | None = None
        self.decoration = Decoration(folder / "events")
        if not why_not_importable("tensorboardX"):
            with self.decoration:
                self.events = Events(folder / "events", first_step + 1)
        self._append({})

    def add(self, epoch: int, step: int, **values: float | None) -> None:
        self._append({"epoch": epoch, "step": step, **values})
        if self.events and not self.decoration.has_failed:  # after half an event no reader finds the next one
            with self.decoration:
                scalars = {name: value for name, value in {"epoch": epoch, **values}.items() if value is not None}
                self.events.add(step, scalars)

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            is_new = not self.path.exists()
            with open(self.path, "a", newline="", encoding="utf-8") as f:
                writer = csv.DictWriter(f, COLUMNS)
                if is_new:
                    writer.writeheader()
                if row:
                    writer.writerow(row)
        except OSError as e:
            raise UserError(
                f"cannot write {self.path} ({e.strerror}). The checkpoints stand; when it can be written, "
                "continue with --resume auto."
            ) from e


@dataclass
class LogContent:
    """What a `log.csv` holds, whoever has edited it."""

    rows: list[dict[str, str]] = field(default_factory=list)
    """Column -> the text of a number, or "". Every row has a `step`, a whole number."""
    unread: list[str] = field(default_factory=list)
    """Lines that are no such rows, by number and beginning."""
    columns: list[str] = field(default_factory=list)
    """Those of the header, known or not."""
    is_cut: bool = False
    """Whether a crash has cut off the last of `rows`."""


def parse_log(path: Path) -> LogContent:
    """Rows of a log as `RunLog` writes it, or as a spreadsheet has saved it: with a byte-order mark, semicolons and
    decimal commas, or tabs. Nothing that a line holds is an error.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "backslashreplace")
    except OSError as e:
        raise UserError(f"{path}: got no readable file ({e.strerror}), expected the log of a run") from e
    content = LogContent()
    header: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        cells = _cells(line)
        if not any(cells):
            continue
        if not header and "step" in cells:
            header = cells
        elif header and (row := _row(header, cells)):
            content.rows.append(row)
            content.is_cut = not line.endswith(("\n", "\r")) and len(cells) < len(header)
        else:
            content.unread.append(f"line {number} ({line.strip()[:30]!r})")
    content.columns = [name for name in header if name]
    return content


def _cells(line: str) -> list[str]:
    separator = next((s for s in ";\t" if s in line), ",")
    cells = [cell.strip().strip('"') for cell in line.split(separator)]
    return [cell.replace(",", ".") for cell in cells] if separator == ";" else cells


def _row(header: list[str], cells: list[str]) -> dict[str, str] | None:
    """A line by the names of its columns; None if it is no row of a log."""
    row = {name: cell for name, cell in zip(header, cells, strict=False) if name in COLUMNS}
    try:
        numbers = {name: float(cell) for name, cell in row.items() if cell}
    except ValueError:
        return None
    step = numbers.get("step", math.nan)
    if any(cells[len(header) :]) or not 0 <= step < 2**53 or step % 1:
        return None
    return row | {"step": f"{step:.0f}"}


def cut_log(path: Path, last: SavedAt, drop_part: bool = False, steps_per_epoch: int = 0) -> None:
    """Drop the rows of a `log.csv` after the step `last`, which a run resumed there writes again, and a row cut off by
    a crash. A log with anything else that cannot be kept is first copied aside, which one line reports.

    Args:
        drop_part: also the means at that step: those of an interval that goes on; a score there stays.
        steps_per_epoch: convert the steps if an epoch has another number of them from now on; 0 = it has not.

    Raises:
        UserError: the file cannot be read or copied.
    """
    if not path.exists():
        return
    content = parse_log(path)
    if lost := content.unread + [f"column {name}" for name in content.columns if name not in COLUMNS]:
        _copy_aside(path, lost)
    rows = [row for row in content.rows[: -1 if content.is_cut else None] if int(row["step"]) <= last.step]
    if drop_part and rows and int(rows[-1]["step"]) == last.step:
        scores = {name: rows[-1].get(name, "") for name in ("epoch", "step", "psnr", "psnr_input")}
        rows[-1:] = [scores] if scores["psnr"] else []
    if steps_per_epoch not in (0, last.steps_per_epoch):
        for row in rows:
            row["step"] = str(replace(last, step=int(row["step"])).step_now(steps_per_epoch))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def _copy_aside(path: Path, lost: list[str]) -> None:
    number = 1
    while (aside := path.with_name(f"{path.stem}.old{number}{path.suffix}")).exists():
        number += 1
    try:
        shutil.copy2(path, aside)
    except OSError as e:
        raise UserError(f"{path} cannot be kept whole: cannot write {aside} ({e.strerror}). Move the log away.") from e
    print(f"{path}: without {first_few(lost, 3)} from now on; the file as it was is {aside.name}", flush=True)


def read_log(
    path: Path, report: Callable[[str], object] = print, need_rows: bool = False
) -> dict[str, list[float | None]]:
    """Columns of a `log.csv` as numbers, None for an empty cell. Every row has a step.

    Args:
        report: gets one line about what is missing or cannot be read, if anything.

    Raises:
        UserError: the file cannot be read, or has no rows that can, and there must be some.
    """
    content = parse_log(path)
    missing = [f"no column {name}" for name in ("loss", "psnr") if content.columns and name not in content.columns]
    if content.unread or missing:
        report(f"{path}: got {first_few(content.unread + missing, 3)}, expected rows of numbers; read without")
    if need_rows and not content.rows:
        raise UserError(f"{path} has no rows that can be read, expected those of a training after its first steps")
    return {name: [float(row[name]) if row.get(name) else None for row in content.rows] for name in COLUMNS}


def checkpoint_name(model_name: str, epoch: int, step: int) -> str:
    return f"{model_name}_{epoch}_{step}.ckpt"


def numbered_checkpoints(folder: Path, model_name: str) -> list[Path]:
    """Numbered checkpoints of a run, oldest first."""
    name = re.compile(rf"{re.escape(model_name)}_([0-9]+)_([0-9]+)\.ckpt")
    found = [(int(m[2]), int(m[1]), path) for path in folder.glob("*.ckpt") if (m := name.fullmatch(path.name))]
    return [path for _, _, path in sorted(found)]


def age(path: Path) -> tuple[int, bool, float, bool]:
    """Orders the checkpoints of a run, newest last, by what they state: a copied folder has other times. Files that
    state nothing come first.

    The launch counts before the step, since a run may be resumed at an earlier step than others have reached, and the
    step in epochs, since --force may change their length. Older versions did not count launches: there `last.ckpt` is
    the newest.
    """
    meta, is_last = read_meta(path), path.name == "last.ckpt"
    if "step" not in meta:
        return -1, False, 0.0, False
    launch = meta.get("launch", 0)
    return launch, is_last and not launch, meta["step"] / meta.get("steps_per_epoch", 1), is_last


def next_launch(folder: Path) -> int:
    """The number of the launch that goes on in a run folder."""
    return 1 + max((read_meta(path).get("launch", 0) for path in run_checkpoints(folder)), default=0)


def run_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a run folder, but for those that a crash left unfinished."""
    return list(folder.glob("[!.]*.ckpt"))
