"""What a training writes while it runs: `log.csv`, TensorBoard events, and pictures that it can do without."""

import contextlib
import csv
import io
import itertools
import math
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.errors import UserError, first_few
from src.files import write_whole

TIMES = ("seconds_per_step", "data_wait", "callbacks")
SCORES = ("psnr", "psnr_input")
COLUMNS = ["epoch", "step", "loss", "content", "fft", "lr", "scale", "grad_norm", "skipped", *TIMES, *SCORES]


def why_not_importable(package: str) -> str:
    try:
        import_module(package)
    except Exception as e:  # a package with broken dependencies may raise anything
        return " ".join(str(e).split())
    return ""


class Decoration:
    """`with` around optional output: the first error is reported, and none ends the training.

    Args:
        product: the file or folder that is missing or outdated after an error.
    """

    def __init__(self, product: Path):
        self.product, self.has_failed = product, False

    def __enter__(self) -> "Decoration":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> bool:
        if not isinstance(error, Exception):  # plotting packages raise many kinds; Ctrl-C is not among them
            return False
        if not self.has_failed:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            tqdm.write(f"{self.product} cannot be written ({reason}); the training continues without it")
        self.has_failed = True
        return True


class RunLog:
    """`log.csv` and TensorBoard events, one row per logged step. Rows survive if the process is killed.

    Args:
        first_step: number of finished steps; TensorBoard hides later steps of earlier event files.

    Raises:
        UserError: `log.csv` cannot be written. Events are optional.
    """

    def __init__(self, folder: Path, first_step: int = 0):
        self.folder, self.path = folder, folder / "log.csv"
        self.events: Any = None
        self.decoration = Decoration(folder / "events")
        if not why_not_importable("tensorboardX"):
            with self.decoration:
                self.events = _open_events(folder / "events", first_step + 1)
        self._append({})

    def add(self, epoch: int, step: int, **values: float | None) -> None:
        self._append({"epoch": epoch, "step": step, **values})
        if self.events and not self.decoration.has_failed:  # readers find nothing after a truncated event
            with self.decoration:
                from tensorboardX.summary import scalar

                for name, value in {"epoch": epoch, **values}.items():
                    if value is not None:
                        self.events.write(_event(step=step, summary=scalar(name, value)))
                self.events.flush()

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
                f"cannot write {self.path} ({e.strerror}). The checkpoints are intact; once the file is writable, "
                "continue with --resume auto."
            ) from e

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it was never opened, or the disk is full
            self.events.close()


def _open_events(folder: Path, first_step: int) -> Any:
    """A writer for TensorBoard events that works in the calling thread. The writer thread of tensorboardX's
    `SummaryWriter` dies when the disk is full, after which `add_scalar` blocks forever."""
    from tensorboardX.proto.event_pb2 import SessionLog
    from tensorboardX.record_writer import RecordWriter

    folder.mkdir(exist_ok=True)
    writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time():.0f}.{platform.node()}"))
    writer.write(_event(file_version="brain.Event:2"))
    writer.write(_event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
    return writer


def _event(**fields: Any) -> bytes:
    from tensorboardX.proto.event_pb2 import Event

    return Event(wall_time=time.time(), **fields).SerializeToString()


def parse_log(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Read a log that `RunLog` wrote, possibly saved again by a spreadsheet with a byte-order mark, tabs, or semicolons
    and decimal commas. Malformed content is never an error.

    Returns:
        The rows, column -> the text of a number or "", each with an integer `step`; and descriptions of the lines and
        columns that are not part of a log. A last row that a crash truncated is in neither.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "backslashreplace")
    except OSError as e:
        raise UserError(f"{path}: got no readable file ({e.strerror}), expected the log of a run") from e
    rows, unread = [], []
    header: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        separator = next((s for s in ";\t" if s in line), ",")
        cells = [cell.strip().strip('"') for cell in line.split(separator)]
        if separator == ";":
            cells = [cell.replace(",", ".") for cell in cells]
        if not header and "step" in cells:
            header = cells
            unread += [f"column {name}" for name in header if name and name not in COLUMNS]
        elif header and (row := _row(header, cells)):
            if len(cells) >= len(header) or line.endswith(("\n", "\r")):
                rows.append(row)
        elif any(cells):
            unread.append(f"line {number} ({line.strip()[:30]!r})")
    return rows, unread


def _row(header: list[str], cells: list[str]) -> dict[str, str] | None:
    """The cells by column; None if they are not a row of a log."""
    row = {name: cell for name, cell in zip(header, cells, strict=False) if name in COLUMNS}
    try:
        numbers = {name: float(cell) for name, cell in row.items() if cell}
    except ValueError:
        return None
    step = numbers.get("step", math.nan)
    if any(cells[len(header) :]) or not 0 <= step < 2**53 or step % 1:
        return None
    return row | {"step": f"{step:.0f}"}


def read_log(
    path: Path, report: Callable[[str], object] = print, need_rows: bool = False
) -> dict[str, list[float | None]]:
    """Columns of a `log.csv` as numbers, None for an empty cell. Every row has a step.

    Args:
        report: receives one line about missing columns and unreadable lines, if there are any.

    Raises:
        UserError: the file cannot be read, or `need_rows` is set and it has no valid rows.
    """
    rows, problems = parse_log(path)
    if rows:
        problems += [f"no column {name}" for name in ("loss", "psnr") if not any(name in row for row in rows)]
    if problems:
        report(f"{path}: got {first_few(problems, 3)}, expected rows of numbers; the rest is read")
    if need_rows and not rows:
        raise UserError(f"{path} has no rows that can be read, expected a training log with at least one logged step")
    return {name: [float(row[name]) if row.get(name) else None for row in rows] for name in COLUMNS}


@dataclass(frozen=True)
class SavedAt:
    """The position in a run that a checkpoint records, with the number of steps per epoch at that time."""

    step: int
    steps_per_epoch: int

    def step_now(self, steps_per_epoch: int) -> int:
        """The step with the same progress through the schedule for another number of steps per epoch."""
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        return epochs * steps_per_epoch + rest * steps_per_epoch // self.steps_per_epoch


def cut_log(path: Path, last: SavedAt, drop_part: bool = False, steps_per_epoch: int = 0) -> None:
    """Drop the rows of a `log.csv` after the step `last`, because the resumed run writes them again, and a truncated
    row. If anything else cannot be kept, the log is first copied to `log.old<N>.csv`, with one line of output.

    Args:
        drop_part: also drop the means at that step, which belong to an unfinished interval; its score stays.
        steps_per_epoch: convert the steps to this number of steps per epoch; 0 = it is unchanged.

    Raises:
        UserError: the file cannot be read or copied.
    """
    if not path.exists():
        return
    rows, lost = parse_log(path)
    if lost:
        aside = unused_name(path, ".csv")
        try:
            shutil.copy2(path, aside)
        except OSError as e:
            raise UserError(
                f"{path} cannot be preserved: cannot write {aside} ({e.strerror}). Move the log away."
            ) from e
        print(f"{path}: dropped {first_few(lost, 3)}; the original file is now {aside.name}", flush=True)
    rows = [row for row in rows if int(row["step"]) <= last.step]
    if drop_part and rows and int(rows[-1]["step"]) == last.step:
        row = rows.pop()
        if row.get("psnr"):
            rows.append({name: row.get(name, "") for name in ("epoch", "step", *SCORES)})
    if steps_per_epoch not in (0, last.steps_per_epoch):
        for row in rows:
            row["step"] = str(replace(last, step=int(row["step"])).step_now(steps_per_epoch))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def unused_name(path: Path, suffix: str = "") -> Path:
    """`path` with .old1, .old2, ... before its `suffix`: the first of them that does not exist."""
    names = (path.with_name(f"{path.name.removesuffix(suffix)}.old{n}{suffix}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())
