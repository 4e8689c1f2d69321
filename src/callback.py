"""The work around the training steps: log, validation, checkpoints, progress, and stopping.

The framework calls `Loop` before and after each step; its `on_train_step_end` is the training loop. The other classes
are its parts, with one task each.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore.train import Callback, RunContext
from tqdm import tqdm

from src.drawing import save_curves
from src.errors import UserError
from src.files import whole_file
from src.interrupts import Interrupts, describe, say
from src.run_folder import age, run_checkpoints
from src.run_log import TIMES, Decoration, RunLog, read_log, why_not_importable
from src.train_step import VALUES


@dataclass
class RunState:
    """The position in a run. Steps count from the start of the run, not of the launch.

    The framework's own counters restart when a run is resumed, and advance by whole sinks with data sink on. "Every N
    steps" therefore means: a multiple of N was reached or passed since the last call of the loop.
    """

    first_step: int  # done before this launch
    steps_per_epoch: int
    stop_step: int  # of this launch
    last_step: int  # of the whole schedule
    best: float | None = None  # validation PSNR, dB
    best_step: int = -1  # where this launch reached it
    signal: int = 0  # that ends the run; 0 = none

    def __post_init__(self) -> None:
        self.step = self.previous_step = self.first_step

    def advance(self, steps_of_launch: int) -> None:
        self.previous_step, self.step = self.step, self.first_step + steps_of_launch

    def passed(self, interval: int) -> bool:
        """Whether a multiple of `interval` lies in (previous_step, step]; never for 0."""
        return interval > 0 and self.step // interval > self.previous_step // interval

    def epoch_of(self, step: int) -> int:
        return (step - 1) // self.steps_per_epoch + 1  # counted from 1

    @property
    def epoch(self) -> int:
        return self.epoch_of(self.step)

    @property
    def is_last(self) -> bool:
        return self.step >= self.stop_step


@dataclass(frozen=True)
class Intervals:
    """Steps between two actions of each kind; 0 = never."""

    log: int
    validate: int
    save: Sequence[int]
    read: int = 1  # the results of the steps and the signals of other ranks, which waits for the device


class Reading(NamedTuple):
    """The results of one step, by `VALUES`, and its `TIMES` in seconds, of which the first includes `data_wait`."""

    step: int
    epoch: int
    values: dict[str, float]


Score = Callable[[int, Callable[[], bool]], Mapping[str, Any] | None]
Save = Callable[[Path, RunState, Mapping[str, float]], None]


@dataclass(eq=False)
class Loop(Callback):
    """The only callback of a training. Every rank has one; rank 0 alone logs, plots and saves."""

    state: RunState
    every: Intervals
    _: KW_ONLY
    signals: "StopSignal"
    bad_loss: "BadLoss"
    means: "Means"
    recent: Callable[[int], np.ndarray] | None = None
    """(n) -> results of the last n steps (`TrainStep.recent`); None = use the outputs of each step."""
    score: Score | None = None
    """(step, should_stop) -> summary of `psnr`, None if stopped early (src.validation.Validator)."""
    save: Save | None = None
    """(path, state, sums of the steps that are not logged yet) -> None (src.resume.save)."""
    log: RunLog | None = None  # as the next two, None on ranks other than 0
    checkpoints: "Checkpoints | None" = None
    progress: "Progress | None" = None
    validate_first: bool = False  # also before the first step

    def __post_init__(self) -> None:
        self.watch = Stopwatch()
        self.read_step = self.saved_step = self.state.first_step
        self.warned: set[str] = set()
        self.decoration = Decoration(self.log.folder / "curves.png" if self.log else Path())

    def on_train_begin(self, run_context: RunContext) -> None:
        self.signals.listen()
        if self.validate_first:
            self.record(self.validate())
        if self.progress:
            self.progress.start()
        self.watch.start()

    def on_train_step_begin(self, run_context: RunContext) -> None:
        self.watch.step_begins()

    def on_train_step_end(self, run_context: RunContext) -> None:
        state, every = self.state, self.every
        state.advance(run_context.original_args().cur_step_num)
        self.watch.step_ends()
        state.signal = self.signals.agreed(state)
        is_end = state.is_last or state.signal > 0

        readings = self.read(run_context.original_args().net_outputs) if is_end or self.is_read() else []
        self.bad_loss.check(readings)

        row = self.means.row(readings, state.passed(every.log), is_end)
        if state.passed(every.validate) or state.step >= state.last_step:
            row |= self.validate()
        self.record(row)
        if any(state.passed(n) for n in every.save):
            self.save_numbered()
        if state.passed(every.validate):
            self.draw()
        if self.progress:
            self.progress.show(state, readings)
        if is_end:
            run_context.request_stop()
        self.watch.resume()

    def on_train_end(self, run_context: RunContext) -> None:
        if self.state.step > self.saved_step:
            self.save_numbered()
        self.draw()
        if self.progress:
            self.progress.close()

    def is_read(self) -> bool:
        """Whether to read the results after this step. A log row, score or checkpoint includes all steps before it, and
        a run that cannot succeed fails after its first step."""
        state, every = self.state, self.every
        intervals = (every.read, every.log, every.validate, *every.save)
        return state.previous_step == state.first_step or any(state.passed(n) for n in intervals)

    def read(self, outputs: Any) -> list[Reading]:
        """The results of all steps since the last reading, oldest first. Waits for the device."""
        steps = self.state.step - self.read_step
        if self.recent is None:
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            rows = [[float(v.asnumpy()) for v in outputs]]
        else:
            rows = self.recent(steps).astype(float).tolist()
        self.read_step = self.state.step
        times = self.watch.lap(steps)
        numbers = range(self.state.step - len(rows) + 1, self.state.step + 1)
        return [
            Reading(n, self.state.epoch_of(n), dict(zip(VALUES, row, strict=True)) | times)
            for n, row in zip(numbers, rows, strict=True)
        ]

    def validate(self) -> dict[str, float | None]:
        """Score on the validation images. Returns the columns `SCORES` of the log, or {} without validation or after a
        signal."""
        summary = self.score(self.state.step, lambda: self.signals.received > 0) if self.score else None
        if summary is None:
            return {}
        state, psnr, psnr_input = self.state, summary["psnr"], summary["psnr_input"]
        if psnr is not None and (state.best is None or psnr > state.best):
            state.best, state.best_step = psnr, state.step
        if psnr is None:
            self.warn_once(
                "warning: the network returns NaN or infinity for validation images, so these weights have no score "
                "and are not saved as best.ckpt. If this persists, lower --learning_rate or add --clip_norm 1."
            )
        if self.log:
            tqdm.write(
                f"epoch {state.epoch} validation: psnr {_db(psnr)} (blurred input {_db(psnr_input)}) on "
                f"{summary['images']} images, {summary['seconds_per_image']:.2f} s each"
                + (", the best so far" if state.best_step == state.step else "")
            )
        return {"psnr": psnr, "psnr_input": psnr_input}

    def record(self, row: Mapping[str, float | None]) -> None:
        """Write a non-empty row to the log, and `best.ckpt` if its score is the best so far."""
        if not self.log or not self.save or not row:
            return
        self.log.add(self.state.epoch, self.state.step, **row)
        if "psnr" in row and self.state.best_step == self.state.step:
            self.save(self.log.folder / "best.ckpt", self.state, self.means.sums)

    def save_numbered(self) -> None:
        self.saved_step = self.state.step
        if self.checkpoints and self.save:
            path = self.checkpoints.path(self.state)
            self.save(path, self.state, self.means.sums)
            self.checkpoints.rotate(path)

    def draw(self) -> None:
        """Plot the log so far as `curves.png`."""
        if self.log and not why_not_importable("matplotlib"):  # which `run_folder.check` reports at the start
            with self.decoration:
                columns = read_log(self.log.path, self.warn_once)
                save_curves(self.log.folder / "curves.png", {self.log.folder.name: columns})

    def warn_once(self, line: str) -> None:
        if line not in self.warned:
            tqdm.write(line)
        self.warned.add(line)


def _db(value: float | None) -> str:
    return "without a finite score" if value is None else f"{value:.2f} dB"


class Stopwatch:
    """Seconds per step between two readings, and how they were spent.

    Validation and checkpoints run between two steps and are not part of `seconds_per_step`; their time counts as
    `callbacks` of the next step.
    """

    def start(self) -> None:
        self.last_end = self.begin = time.perf_counter()
        self.between = 0.0  # the loop's own work after the last step
        self.spent = self.waited = self.called = 0.0  # since the last reading

    def step_begins(self) -> None:
        self.begin = time.perf_counter()

    def step_ends(self) -> None:
        self.waited += self.begin - self.last_end
        self.called += self.between
        self.spent += self._elapsed()

    def lap(self, steps: int) -> dict[str, float]:
        """Means over the last `steps` steps. To be called after reading their results, which waits for the device."""
        self.spent += self._elapsed()
        means = [total / max(1, steps) for total in (self.spent, self.waited, self.called)]
        self.spent = self.waited = self.called = 0.0
        return dict(zip(TIMES, means, strict=True))

    def resume(self) -> None:
        self.between = self._elapsed()

    def _elapsed(self) -> float:
        begin, self.last_end = self.last_end, time.perf_counter()
        return self.last_end - begin


class Means:
    """Means over the steps of an interval.

    If a run stops inside an interval, its last row covers the steps so far. A checkpoint carries their sums to the
    launch that resumes the run, which logs them again together with the rest of the interval.

    Args:
        sums: of the steps before this launch, and their `count`.
    """

    def __init__(self, sums: Mapping[str, float] | None = None):
        self.sums = dict(sums or {})

    def row(self, readings: Sequence[Reading], is_whole: bool, is_end: bool) -> dict[str, Any]:
        """The columns of the log if the interval is complete or the run ends, else {}."""
        for reading in readings:
            for name, value in [*reading.values.items(), ("count", 1)]:
                self.sums[name] = self.sums.get(name, 0) + value
        if not (is_whole or is_end):
            return {}
        count, finite, last = self.sums["count"], self.sums["finite"], readings[-1].values
        row = {name: total / count for name, total in self.sums.items() if name not in ("finite", "count")}
        if is_whole:
            self.sums = {}
        return row | {"lr": last["lr"], "scale": last["scale"], "skipped": count - finite}


class StopSignal:
    """On SIGTERM, SIGHUP or Ctrl-C the training finishes the step, saves and ends.

    Args:
        agree: signal number or 0 of this rank -> the largest of all ranks, so that all stop at the same step; None
            without other ranks.
        interval: steps between two agreements, which wait for the device and the other ranks.
    """

    def __init__(self, interrupts: Interrupts, agree: Callable[[int], int] | None = None, interval: int = 1):
        self.interrupts, self.agree, self.interval = interrupts, agree, interval
        self.received = 0  # by this rank

    def listen(self) -> None:
        self.interrupts.answer = self.note

    def note(self, number: int) -> None:
        self.received = number
        say(f"\n{describe(number)}: finishing this step\n")

    def agreed(self, state: RunState) -> int:
        """The signal that ends the run after this step, or 0. Ranks also agree at the end of the run."""
        if self.agree is None:
            return self.received
        return self.agree(self.received) if state.is_last or state.passed(self.interval) else 0


class BadLoss:
    """Ends a run that cannot recover, while its checkpoints are good.

    That is: a loss of NaN or infinity, gradients that are not finite without a loss scale to lower, or more than
    `max_overflows` consecutive overflows. None of these steps was applied to the weights.

    Args:
        has_scaler: the loss is scaled, so single overflows are normal.
        batch_names: step, counted from 0 -> file names of its batch.
    """

    def __init__(self, has_scaler: bool, max_overflows: int, batch_names: Callable[[int], list[str]]):
        self.has_scaler, self.max_overflows, self.batch_names = has_scaler, max_overflows, batch_names
        self.overflows = 0

    def check(self, readings: Sequence[Reading]) -> None:
        """
        Raises:
            UserError: naming the step and the files of its batch.
        """
        for step, epoch, values in readings:
            if reason := self._reason(values):
                raise UserError(
                    f"{reason} at epoch {epoch}, step {step}, lr {values['lr']:.2e}, scale {values['scale']:g}; "
                    f"batch: {', '.join(self.batch_names(step - 1))}. The update was not applied, and the checkpoints "
                    "are good. Lower --learning_rate, or inspect these images."
                )

    def _reason(self, v: Mapping[str, float]) -> str:
        self.overflows = 0 if v["finite"] else self.overflows + 1
        if not np.isfinite(v["loss"]):
            return f"the loss is {v['loss']}"
        if self.has_scaler and self.overflows > self.max_overflows:
            return f"{self.overflows} consecutive steps overflowed (--max_overflows {self.max_overflows})"
        return "" if v["finite"] or self.has_scaler else "the gradients are not finite"


class Checkpoints:
    """The numbered checkpoints of a run, of which the newest are kept, and `last.ckpt`, a link to the newest.

    Args:
        keep: how many numbered checkpoints to keep.
        protected: the file this run was resumed from, which is also kept.
    """

    def __init__(self, folder: Path, model_name: str, keep: int, protected: Path | None = None):
        self.folder, self.model_name, self.keep = folder, model_name, keep
        self.protected = protected and protected.resolve()
        name = re.compile(rf"{re.escape(model_name)}_([0-9]+)_([0-9]+)\.ckpt")
        found = [(age(path), int(m[2]), path) for path in run_checkpoints(folder) if (m := name.fullmatch(path.name))]
        # Oldest first. New ones are appended whatever their numbers: a run resumed from an older step writes smaller
        # numbers than those it finds.
        self.numbered = [path for _, _, path in sorted(found)]

    def path(self, state: RunState) -> Path:
        return self.folder / f"{self.model_name}_{state.epoch}_{state.step}.ckpt"

    def rotate(self, newest: Path) -> None:
        """Make `newest` the `last.ckpt`, a copy where the file system has no links, and remove the oldest beyond
        `keep`."""
        with whole_file(self.folder / "last.ckpt", newest.stat().st_size) as part:
            try:
                os.link(newest, part)
            except OSError:
                shutil.copyfile(newest, part)
        self.numbered = [p for p in self.numbered if p != newest] + [newest]
        for old in self.numbered[: -self.keep]:
            if old.resolve() != self.protected:
                old.unlink(missing_ok=True)
                self.numbered.remove(old)


DATA_BOUND = 0.25  # share of the time spent waiting for data that triggers a warning
DATA_BOUND_STEPS = 20  # measured steps before it
SECONDS_PER_LINE = 10


class Progress:
    """A progress bar on a terminal, otherwise a line every ten seconds. Warns once if training is data-bound."""

    def __init__(self, first_step: int, last_step: int):
        self.first_step, self.last_step = first_step, last_step
        self.steps, self.spent, self.waited = 0, 0.0, 0.0  # seconds, of them for data; without the slow first reading
        self.has_warned = False

    def start(self) -> None:
        is_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            initial=self.first_step, total=self.last_step, unit="step", dynamic_ncols=True, disable=not is_terminal
        )
        self.next_line = 0.0
        self.since = time.perf_counter(), self.first_step
        if not is_terminal:
            print("compiling the training step ...", flush=True)

    def show(self, state: RunState, readings: Sequence[Reading]) -> None:
        if readings:
            self.values = v = readings[-1].values
            self.text = f"loss {v['loss']:.4f} (content {v['content']:.4f}, fft {v['fft']:.3f}) lr {v['lr']:.2e}"
        if state.previous_step > self.first_step:
            self.steps += len(readings)
            self.spent += sum(reading.values["seconds_per_step"] for reading in readings)
            self.waited += sum(reading.values["data_wait"] for reading in readings)
        share = self.waited / self.spent if self.spent else 0.0
        if share > DATA_BOUND and self.steps >= DATA_BOUND_STEPS and not self.has_warned:
            self.has_warned = True
            tqdm.write(
                f"data-bound: {share:.0%} of the time is spent waiting for data; try --pack (python -m "
                "src.preprocessing --pack ...) / --num_worker"
            )
        now = time.perf_counter()
        begin, done = self.since
        if done == self.first_step:  # this step included compilation; estimate the time left from later ones
            self.since = now, state.step
        if not self.bar.disable:
            self.bar.set_description(f"epoch {state.epoch} {self.text} data {share:.0%}", refresh=False)
            self.bar.update(state.step - self.bar.n)
        elif now >= self.next_line or state.step >= self.last_step:
            self.next_line = now + SECONDS_PER_LINE
            steps_left = max(0, self.last_step - state.step)  # the last sink may pass the end
            left = timedelta(seconds=int(steps_left * (now - begin) / (state.step - done)))
            print(
                f"epoch {state.epoch} step {state.step}/{self.last_step} {self.text} "
                f"{self.values['seconds_per_step']:.2f} s/step (data {share:.0%}), {left} left",
                flush=True,
            )

    def close(self) -> None:
        self.bar.close()
