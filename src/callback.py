"""What happens around the training steps.

`Loop` is the program: the framework calls it before and after each step, and its `on_train_step_end` reads top to
bottom. The other classes are its parts; each does one thing and returns what the loop needs to know.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore.train import Callback, RunContext
from tqdm import tqdm

from src.drawing import save_curves
from src.errors import UserError
from src.files import whole_file
from src.interrupts import Interrupts, describe, say
from src.run_folder import (
    Decoration,
    RunLog,
    age,
    checkpoint_name,
    numbered_checkpoints,
    read_log,
    why_not_importable,
)
from src.train_step import VALUES


@dataclass
class RunState:
    """Where a run stands. Steps count from the start of the run, not of the launch.

    The framework's own counters restart when a run is resumed, and advance by whole sinks with data sink on. So "every
    N steps" means: a multiple of N was reached or passed since the loop last looked.
    """

    first_step: int  # done before this launch
    steps_per_epoch: int
    stop_step: int  # of this launch
    last_step: int  # of the whole schedule
    step: int = 0
    previous_step: int = 0
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
    def is_last(self) -> bool:
        return self.step >= self.stop_step

    @property
    def epoch(self) -> int:
        return self.epoch_of(self.step)


@dataclass(frozen=True)
class Intervals:
    """Steps between two rounds of each kind of work; 0 = never."""

    log: int
    validate: int
    save: Sequence[int]
    look: int = 1  # at the results of the steps and at the other ranks; each look waits for the device


class Reading(NamedTuple):
    """What one step returned, by `VALUES`, and its times in seconds: `seconds_per_step`, of them `data_wait` and
    `callbacks`."""

    step: int
    epoch: int
    values: dict[str, float]


Score = Callable[[int, Callable[[], bool]], Mapping[str, Any] | None]
Save = Callable[[Path, RunState, Mapping[str, float]], None]


class Loop(Callback):
    """The training loop's only callback. Every rank has one; rank 0 alone logs, draws and saves.

    Args:
        recent: number of last steps -> their results (`TrainStep.recent`); None = take what each step returns.
        score: (step, should_stop) -> summary of `psnr`, or None if it was stopped halfway (src.validation.Validator);
            None = no validation.
        save: (path, state, sums of the steps that are not logged yet) -> None (src.resume.Saver).
        log, checkpoints, progress: None on ranks that only compute.
        validate_first: also score before the first step.
    """

    def __init__(
        self,
        state: RunState,
        every: Intervals,
        *,
        signals: "StopSignal",
        bad_loss: "BadLoss",
        means: "Means",
        recent: Callable[[int], np.ndarray] | None = None,
        score: Score | None = None,
        save: Save | None = None,
        log: RunLog | None = None,
        checkpoints: "Checkpoints | None" = None,
        progress: "Progress | None" = None,
        validate_first: bool = False,
    ):
        self.state, self.every = state, every
        self.signals, self.bad_loss, self.means = signals, bad_loss, means
        self.recent, self.score, self.validate_first = recent, score, validate_first
        self.save, self.log, self.checkpoints, self.progress = save, log, checkpoints, progress
        self.watch = Stopwatch()
        self.read_step = self.saved_step = state.first_step
        self.has_warned = self.has_reported = False
        self.decoration = Decoration(log.folder / "curves.png" if log else Path())

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
        """Whether the results are read after this step: what is logged, scored or saved includes all steps so far, and
        a run that cannot work fails after its first step."""
        state, every = self.state, self.every
        intervals = (every.look, every.log, every.validate, *every.save)
        return state.previous_step == state.first_step or any(state.passed(n) for n in intervals)

    def read(self, outputs: Any) -> list[Reading]:
        """The results of all steps since the last reading, oldest first. Makes the host wait for the device."""
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
        """Score on the validation images. Returns the score's columns of the log, {} without validation or where a
        signal cut it short."""
        summary = self.score(self.state.step, lambda: self.signals.received > 0) if self.score else None
        if summary is None:
            return {}
        state, psnr, psnr_input = self.state, summary["psnr"], summary["psnr_input"]
        if psnr is not None and (state.best is None or psnr > state.best):
            state.best, state.best_step = psnr, state.step
        if psnr is None and not self.has_warned:
            self.has_warned = True
            tqdm.write(
                "warning: the network returns NaN or infinity for validation images, so these weights have no score "
                "and are not saved as best.ckpt. If it lasts, lower --learning_rate or add --clip_norm 1."
            )
        if self.log:
            tqdm.write(
                f"epoch {state.epoch} validation: psnr {_db(psnr)} (blurred input {_db(psnr_input)}) on "
                f"{summary['images']} images, {summary['seconds_per_image']:.2f} s each"
                + (", the best so far" if state.best_step == state.step else "")
            )
        return {"psnr": psnr, "psnr_input": psnr_input}

    def record(self, row: Mapping[str, float | None]) -> None:
        """Write a row of the log, unless it is empty, and `best.ckpt` if its score is the best so far."""
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
        """`curves.png` of the log so far."""
        if self.log and not why_not_importable("matplotlib"):  # `run_folder.check` has reported it at the start
            path = self.log.folder / "curves.png"
            with self.decoration:
                save_curves(path, {self.log.folder.name: read_log(self.log.path, self.report)})

    def report(self, line: str) -> None:
        """What cannot be read of a log that somebody has edited, once."""
        if not self.has_reported:
            tqdm.write(line)
        self.has_reported = True


def _db(value: float | None) -> str:
    return "without a finite score" if value is None else f"{value:.2f} dB"


class Stopwatch:
    """Seconds per step between two readings, and what they were spent on.

    The work between two steps (validation, checkpoints) is no part of them; it counts as `callbacks` of the next step.
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
        self._add()

    def lap(self, steps: int) -> dict[str, float]:
        """Means over the last `steps` steps, once their results have been read, which waits for the device."""
        self._add()
        spent, waited, called = (total / max(1, steps) for total in (self.spent, self.waited, self.called))
        self.spent = self.waited = self.called = 0.0
        return {"seconds_per_step": spent, "data_wait": waited, "callbacks": called}

    def resume(self) -> None:
        now = time.perf_counter()
        self.between = now - self.last_end
        self.last_end = now

    def _add(self) -> None:
        now = time.perf_counter()
        self.spent += now - self.last_end
        self.last_end = now


class Means:
    """Means over the steps of an interval.

    Where a run stops inside an interval, its last row has the steps so far. A checkpoint carries their sums to the
    launch that resumes the run, which logs them again together with the rest of the interval.

    Args:
        sums: of the steps before this launch, and their `count`.
    """

    def __init__(self, sums: Mapping[str, float] | None = None):
        self.sums = dict(sums or {})

    def row(self, readings: Sequence[Reading], is_whole: bool, is_end: bool) -> dict[str, Any]:
        """The columns of the log if the interval is whole or the run ends, else {}."""
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
    """SIGTERM, SIGHUP and Ctrl-C finish the step, save and end the training.

    Args:
        agree: signal number or 0 of this rank -> the largest of all ranks, so that all stop at the same step; None = it
            is the only rank.
        interval: steps between two agreements, each of which waits for the device and the other ranks.
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
        """The signal that ends the run after this step, or 0. Ranks also agree where the run ends."""
        if self.agree is None:
            return self.received
        return self.agree(self.received) if state.is_last or state.passed(self.interval) else 0


class BadLoss:
    """Ends a run that cannot recover, while its checkpoints are good.

    That is: a loss of NaN or infinity, gradients that are not finite although there is no loss scale to lower, or more
    than `max_overflows` overflows in a row. None of these steps was applied to the weights.

    Args:
        has_scaler: whether the loss is scaled, so that single overflows are normal.
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
        for reading in readings:
            reason = self._reason(reading.values)
            if reason:
                raise UserError(
                    f"{reason} at epoch {reading.epoch}, step {reading.step}, lr {reading.values['lr']:.2e}, scale "
                    f"{reading.values['scale']:g}; batch: {', '.join(self.batch_names(reading.step - 1))}. The update "
                    "was not applied, the checkpoints are good. Lower --learning_rate, or look at these images."
                )

    def _reason(self, v: Mapping[str, float]) -> str:
        self.overflows = 0 if v["finite"] else self.overflows + 1
        if not np.isfinite(v["loss"]):
            return f"the loss is {v['loss']}"
        if self.has_scaler and self.overflows > self.max_overflows:
            return f"{self.overflows} steps in a row overflowed (--max_overflows {self.max_overflows})"
        return "" if v["finite"] or self.has_scaler else "the gradients are not finite"


class Checkpoints:
    """The numbered checkpoints of a run, of which the newest stay, and `last.ckpt`, which is the newest of them.

    Args:
        keep: numbered checkpoints that stay.
        protected: the file this run was resumed from, which stays, too.
    """

    def __init__(self, folder: Path, model_name: str, keep: int, protected: Path | None = None):
        self.folder, self.model_name, self.keep = folder, model_name, keep
        self.protected = protected and protected.resolve()
        # Oldest first. What this launch writes comes last: a run resumed from an older step writes smaller numbers than
        # it finds.
        self.numbered = sorted(numbered_checkpoints(folder, model_name), key=age)

    def path(self, state: RunState) -> Path:
        return self.folder / checkpoint_name(self.model_name, state.epoch, state.step)

    def rotate(self, newest: Path) -> None:
        """Make `newest` the `last.ckpt`, and remove the oldest beyond `keep`."""
        _replace_by_copy(self.folder / "last.ckpt", newest)
        self.numbered = [p for p in self.numbered if p != newest] + [newest]
        for old in self.numbered[: -self.keep]:
            if old.resolve() != self.protected:
                old.unlink(missing_ok=True)
                self.numbered.remove(old)


def _replace_by_copy(target: Path, source: Path) -> None:
    """Make `target` the same file as `source`, in one step: a link where the file system has them, else a copy."""
    with whole_file(target, source.stat().st_size) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


DATA_BOUND = 0.25  # share of the time spent waiting for data that deserves a warning
DATA_BOUND_STEPS = 20  # steps that it takes to judge
SECONDS_PER_LINE = 10


class Progress:
    """A progress bar on a terminal, elsewhere a line every ten seconds; one warning if training is data-bound."""

    def __init__(self, first_step: int, last_step: int):
        self.first_step, self.last_step = first_step, last_step
        self.steps, self.spent, self.waited = 0, 0.0, 0.0  # seconds, of them for data; without the first, slow steps
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
        share = self.data_share(readings) if state.previous_step > self.first_step else 0.0
        if share > DATA_BOUND and self.steps >= DATA_BOUND_STEPS and not self.has_warned:
            self.has_warned = True
            tqdm.write(
                f"data-bound: {share:.0%} of the time goes into waiting for data; try --pack (python -m "
                "src.preprocessing --pack ...) / --num_worker"
            )
        now = time.perf_counter()
        begin, done = self.since
        if done == self.first_step:  # this step compiled, so only later ones can predict the time left
            self.since = now, state.step
        if not self.bar.disable:
            self.bar.set_description(f"epoch {state.epoch} {self.text} data {share:.0%}", refresh=False)
            self.bar.update(state.step - self.bar.n)
        elif now >= self.next_line or state.step >= self.last_step:
            self.next_line = now + SECONDS_PER_LINE
            per_step = (now - begin) / (state.step - done)
            left = _clock(max(0, self.last_step - state.step) * per_step)  # the last sink may reach past it
            print(
                f"epoch {state.epoch} step {state.step}/{self.last_step} {self.text} "
                f"{self.values['seconds_per_step']:.2f} s/step (data {share:.0%}), {left} left",
                flush=True,
            )

    def data_share(self, readings: Sequence[Reading]) -> float:
        """Part of the steps' time so far that was spent waiting for data."""
        for reading in readings:
            self.steps += 1
            self.spent += reading.values["seconds_per_step"]
            self.waited += reading.values["data_wait"]
        return self.waited / self.spent if self.spent else 0.0

    def close(self) -> None:
        self.bar.close()


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
