"""Plot the curves of several runs in one figure and print a table.

python scripts/compare_runs.py runs/a runs/b ... [--output compare.png]
"""

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees scripts/ only

from src.command_line import ArgumentParser  # noqa: E402
from src.drawing import save_curves  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.files import need_apart  # noqa: E402
from src.run_log import read_log  # noqa: E402
from src.streams import need_reader  # noqa: E402

Log = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Summary:
    """Figures from the log of a run; None if it has no such values."""

    steps: int
    last_loss: float | None
    best_psnr: float | None
    best_step: int | None
    lr: float | None
    seconds_per_step: float | None


def read_run(folder: Path) -> Log:
    """The log of a run folder; unreadable lines are reported and skipped.

    Raises:
        UserError: there is no log, or it has no valid rows.
    """
    path = folder / "log.csv"
    if not path.is_file():
        what = "is not a folder" if not folder.is_dir() else "is not a run folder (it has no log.csv)"
        raise UserError(f"{folder} {what}; expected a --ckpt_save_directory of train.py")
    return read_log(path, need_rows=True)


def summarise(log: Log) -> Summary:
    psnr = [(value, step) for value, step in zip(log["psnr"], log["step"], strict=True) if value is not None]
    best = max(psnr, default=(None, None))
    seconds = [value for value in log["seconds_per_step"] if value is not None]
    return Summary(
        steps=int(max(step for step in log["step"] if step is not None)),
        last_loss=last(log["loss"]),
        best_psnr=best[0],
        best_step=None if best[1] is None else int(best[1]),
        lr=last(log["lr"]),
        seconds_per_step=statistics.median(seconds) if seconds else None,
    )


def last(column: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


def labels(folders: Sequence[Path]) -> list[str]:
    """The shortest suffixes of the paths that are unique, usually the names of the folders."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for count in range(1, max(len(p.parts) for p in paths) + 1):
        short = ["/".join(p.parts[-count:]) for p in paths]
        if len(set(short)) == len(short):
            return short
    raise UserError(f"a run is given twice: {', '.join(map(str, folders))}")


def table(summaries: Mapping[str, Summary]) -> str:
    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    rows = [["run", "steps", "last loss", "best PSNR", "at step", "lr", "s/step"]]
    for name, s in summaries.items():
        best = [text(s.best_psnr, ".2f"), text(s.best_step, "d")]
        rows.append(
            [name, str(s.steps), text(s.last_loss, ".4f"), *best, text(s.lr, ".2e"), text(s.seconds_per_step, ".3f")]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]).rstrip() for r in rows]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser("Plot the curves of several runs in one figure and print a table.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--output", default="compare.png", metavar="FILE", help="the figure [compare.png]")
    args = parser.parse_args(argv)
    need_reader()
    folders = [Path(run) for run in args.runs]
    logs = dict(zip(labels(folders), map(read_run, folders), strict=True))
    output = Path(args.output)
    if output.is_dir():
        raise UserError(f"--output: {output} is a folder, expected a file name")
    if not output.suffix:
        output = output.with_name(f"{output.name}.png")  # as matplotlib would, so that the printed path is right
    read = [folder / name for folder in folders for name in ("log.csv", "curves.png")]
    need_apart(read, files=[("--output", output)])
    try:
        save_curves(output, logs)
    except ValueError as e:  # matplotlib does not support the suffix
        raise UserError(f"--output: cannot write {output} ({e})") from e
    print(table({name: summarise(log) for name, log in logs.items()}))
    print(f"picture: {output}")


if __name__ == "__main__":
    run_main(main)
