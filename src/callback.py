"""Training callbacks, one job each.

`Clock` comes first: it turns the framework's counters, which restart when a run is resumed and advance by whole sinks
with data sink on, into `global_step`, `previous_step`, `epoch`, `readings` and `scalars` of the run, and leaves them in
`cb_params` for the others. "Every N" therefore means: a multiple of N was reached or passed since the last call.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore.train import Callback, RunContext
from tqdm import tqdm

from src.interrupts import Interrupts, describe
from src.picture import save_curves
from src.run_folder import RunLog, age, checkpoint_name, numbered_checkpoints, read_log, why_not_importable
from src.train_step import VALUES


def passed(state: Any, interval: int) -> bool:
    """Whether a multiple of `interval` steps lies in (previous_step, global_step]; never for 0."""
    return interval > 0 and state.global_step // interval > state.previous_step // interval


class Reading(NamedTuple):
    """What one step returned, by `VALUES`, and its times."""

    step: int
    epoch: int
    values: dict[str, float]


class Clock(Callback):
    """Steps, epochs, results and times of the run.

    Reading a result makes the host wait for the device. So a device keeps those of several steps, and they are read
    together: `readings` are those since the last time, oldest first, none where nothing was read.

    Args:
        read_intervals: steps between two readings; whatever needs all results so far adds its own.
        recent: number of last steps -> their results (`TrainStep.recent`); None = what the step returns, after each.
    """

    def __init__(self, first_step: int, steps_per_epoch: int, read_intervals: Sequence[int] = (1,),
                 recent: Callable[[int], np.ndarray] | None = None):  # fmt: skip
        self.first_step, self.steps_per_epoch = first_step, steps_per_epoch
        self.read_intervals, self.recent = read_intervals, recent
        self.global_step = self.read_step = first_step
        self.in_callbacks = 0.0  # seconds, after the last step
        self.spent = self.waited = self.called = 0.0  # seconds since the last reading

    def on_train_begin(self, run_context: RunContext) -> None:
        self.last_end = time.perf_counter()
        self.begin = self.last_end

    def on_train_step_begin(self, run_context: RunContext) -> None:
        self.begin = time.perf_counter()

    def on_train_step_end(self, run_context: RunContext) -> None:
        state = run_context.original_args()
        state.previous_step, self.global_step = self.global_step, self.first_step + state.cur_step_num
        state.global_step = self.global_step
        state.epoch = self.epoch_of(self.global_step)
        state.readings = []
        self.waited += self.begin - self.last_end
        self.called += self.in_callbacks
        # After the first step too: a run that cannot work should say so then.
        if state.previous_step == self.first_step or any(passed(state, n) for n in self.read_intervals):
            self.read(state)
        else:
            self.lap()

    def read(self, state: Any) -> None:
        """Fill in `readings`, and `scalars` from the last of them."""
        steps = self.global_step - self.read_step
        if self.recent is None:
            outputs = state.net_outputs if isinstance(state.net_outputs, tuple | list) else (state.net_outputs,)
            rows = [[float(v.asnumpy()) for v in outputs]]
        else:
            rows = self.recent(steps).astype(float).tolist()
        self.lap()  # reading has waited for the device
        steps = max(1, steps)
        times = {
            "seconds_per_step": self.spent / steps, "data_wait": self.waited / steps, "callbacks": self.called / steps,
        }  # fmt: skip
        numbers = range(self.global_step - len(rows) + 1, self.global_step + 1)
        state.readings = [
            Reading(n, self.epoch_of(n), dict(zip(VALUES, row, strict=True)) | times)
            for n, row in zip(numbers, rows, strict=True)
        ]
        state.scalars = state.readings[-1].values
        self.read_step = self.global_step
        self.spent = self.waited = self.called = 0.0

    def lap(self) -> None:
        now = time.perf_counter()
        self.spent += now - self.last_end
        self.last_end = now

    def epoch_of(self, step: int) -> int:
        return (step - 1) // self.steps_per_epoch + 1  # counted from 1


class LastReading(Callback):
    """Where the run stops, the results since the last reading are read. Comes after the callbacks that stop it."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_step_end(self, run_context: RunContext) -> None:
        if run_context.get_stop_requested() and self.clock.read_step < self.clock.global_step:
            self.clock.read(run_context.original_args())


class ClockRestart(Callback):
    """Last in the list: leaves what the other callbacks did (validation, checkpoints) out of the next step's time, and
    counts it as `callbacks` there."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_begin(self, run_context: RunContext) -> None:
        self.clock.on_train_begin(run_context)  # again: the others may have validated before the first step

    def on_train_step_end(self, run_context: RunContext) -> None:
        now = time.perf_counter()
        self.clock.in_callbacks = now - self.clock.last_end
        self.clock.last_end = now


DATA_BOUND = 0.25  # share of the time spent waiting for data that deserves a word
DATA_BOUND_STEPS = 20  # steps that it takes to judge


class Progress(Callback):
    """A progress bar on a terminal; elsewhere a line at most every ten seconds. Says so, once, if data-bound."""

    def __init__(self, first_step: int, last_step: int):
        self.first_step, self.last_step = first_step, last_step
        self.bar: tqdm | None = None
        self.steps, self.spent, self.waited = 0, 0.0, 0.0  # seconds, of them for data; without the first, slow steps
        self.is_told = False

    def on_train_begin(self, run_context: RunContext) -> None:
        is_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            initial=self.first_step, total=self.last_step, unit="step", dynamic_ncols=True, disable=not is_terminal
        )
        self.next_line = 0.0
        self.since = time.perf_counter(), self.first_step
        if not is_terminal:
            print("compiling the training step ...", flush=True)

    def on_train_step_end(self, run_context: RunContext) -> None:
        state = run_context.original_args()
        v = state.scalars
        share = self.data_share(state)
        text = f"loss {v['loss']:.4f} (content {v['content']:.4f}, fft {v['fft']:.3f}) lr {v['lr']:.2e}"
        if share > DATA_BOUND and self.steps >= DATA_BOUND_STEPS and not self.is_told:
            self.is_told = True
            tqdm.write(f"data-bound: {share:.0%} of the time goes into waiting for data; try --pack (python -m "
                       "src.preprocessing --pack ...) / --num_worker")  # fmt: skip
        now = time.perf_counter()
        begin, done = self.since
        if done == self.first_step:  # this step compiled, so later ones alone tell the time left
            self.since = now, state.global_step
        assert self.bar is not None  # `on_train_begin` made it
        if not self.bar.disable:
            self.bar.set_description(f"epoch {state.epoch} {text} data {share:.0%}", refresh=False)
            self.bar.update(state.global_step - self.bar.n)
        elif now >= self.next_line or state.global_step >= self.last_step:
            self.next_line = now + 10
            per_step = (now - begin) / (state.global_step - done)
            left = _clock(max(0, self.last_step - state.global_step) * per_step)  # the last sink may reach past it
            print(
                f"epoch {state.epoch} step {state.global_step}/{self.last_step} {text} "
                f"{v['seconds_per_step']:.2f} s/step (data {share:.0%}), {left} left",
                flush=True,
            )

    def data_share(self, state: Any) -> float:
        """Part of the steps' time so far that went into waiting for data."""
        for reading in state.readings:
            if state.previous_step > self.first_step:
                self.steps += 1
                self.spent += reading.values["seconds_per_step"]
                self.waited += reading.values["data_wait"]
        return self.waited / self.spent if self.spent else 0.0

    def on_train_end(self, run_context: RunContext) -> None:
        if self.bar is not None:
            self.bar.close()


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


class LogWriter(Callback):
    """Means of every `interval` steps into `log.csv`. Where the run stops in between, those of the steps so far: a run
    that goes on logs them again, together with the rest of the interval.

    Comes after the callbacks that stop the run.
    """

    def __init__(self, log: RunLog, interval: int):
        self.log, self.interval = log, interval

    def on_train_step_begin(self, run_context: RunContext) -> None:
        self.log.flush()  # every callback has added to the last step's row; a crash in this step must not lose it

    def on_train_step_end(self, run_context: RunContext) -> None:
        state = run_context.original_args()
        sums = self.log.part
        for reading in state.readings:
            for name, value in [*reading.values.items(), ("count", 1)]:
                sums[name] = sums.get(name, 0) + value
        is_whole = passed(state, self.interval)
        if is_whole or run_context.get_stop_requested():
            self.write(state)
        if is_whole:
            sums.clear()

    def write(self, state: Any) -> None:
        sums = self.log.part
        means = {name: total / sums["count"] for name, total in sums.items() if name not in ("finite", "count")}
        means |= {"lr": state.scalars["lr"], "scale": state.scalars["scale"]}
        self.log.add(state.epoch, state.global_step, **means, skipped=sums["count"] - sums["finite"])


class StopAt(Callback):
    """End after `step` steps, without changing the schedule."""

    def __init__(self, step: int):
        self.step = step

    def on_train_step_end(self, run_context: RunContext) -> None:
        if run_context.original_args().global_step >= self.step:
            run_context.request_stop()


class StopOnSignal(Callback):
    """SIGTERM and Ctrl-C finish the step, save (`SaveCheckpoints` does at the end of a run) and end the training.
    `received` is the signal that does, 0 if none.

    Args:
        agree: signal number or 0 of this rank -> the largest of all ranks, so that all stop at the same step.
        interval: steps between two agreements, each of which waits for the device and the other ranks. They also agree
            where the run ends, so this comes after `StopAt`.
    """

    def __init__(self, interrupts: Interrupts, agree: Callable[[int], int] = int, interval: int = 1):
        self.interrupts, self.agree, self.interval = interrupts, agree, interval
        self.received = 0

    def on_train_begin(self, run_context: RunContext) -> None:
        self.interrupts.answer = self.note

    def note(self, number: int) -> None:
        self.received = number
        os.write(2, f"\n{describe(number)}: finishing this step\n".encode())

    def on_train_step_end(self, run_context: RunContext) -> None:
        if passed(run_context.original_args(), self.interval) or run_context.get_stop_requested():
            self.received = self.agree(self.received)
            if self.received:
                run_context.request_stop()


class StopOnBadLoss(Callback):
    """Ends the run, while its checkpoints are good, when it cannot heal by itself.

    That is: a loss of NaN or infinity, gradients that are not finite although there is no loss scale to lower, or more
    than `max_overflows` overflows in a row. None of these steps was applied to the weights.

    Args:
        has_scaler: whether the loss is scaled, so that single overflows are normal.
        batch_names: step -> file names of its batch.
        fail: message -> the exception to raise.
    """

    def __init__(self, has_scaler: bool, max_overflows: int, batch_names: Callable[[int], list[str]],
                 fail: Callable[[str], Exception]):  # fmt: skip
        self.has_scaler, self.max_overflows, self.batch_names, self.fail = has_scaler, max_overflows, batch_names, fail
        self.overflows = 0

    def on_train_step_end(self, run_context: RunContext) -> None:
        for reading in run_context.original_args().readings:
            self.look(reading)

    def look(self, reading: Reading) -> None:
        v = reading.values
        self.overflows = 0 if v["finite"] else self.overflows + 1
        if self.has_scaler and np.isfinite(v["loss"]) and self.overflows <= self.max_overflows:
            return
        if v["finite"] and np.isfinite(v["loss"]):
            return
        if not np.isfinite(v["loss"]):
            what = f"the loss is {v['loss']}"
        elif self.has_scaler:
            what = f"{self.overflows} steps in a row overflowed (--max_overflows {self.max_overflows})"
        else:
            what = "the gradients are not finite"
        raise self.fail(
            f"{what} at epoch {reading.epoch}, step {reading.step}, lr {v['lr']:.2e}, scale {v['scale']:g}; batch: "
            f"{', '.join(self.batch_names(reading.step - 1))}. The update was not applied, the checkpoints "
            "are good. Lower --learning_rate, or look at these images."
        )


Score = Callable[[int, Callable[[], bool]], Mapping[str, Any] | None]


class Validate(Callback):
    """Score on the validation images every `interval` steps and at the end of the schedule; remembers the best.

    Not where --max_steps or a signal ends it: a resumed run must score when the uninterrupted one does. Weights without
    a finite score are never the best; the first ones are reported with advice.

    Args:
        score: (step, should_stop) -> summary of `psnr`, or None if it was stopped half way (src.validation.Validator).
        log: None on ranks that only help to score.
        save: (path, epoch, step) -> None, with the best score so far as `best` (src.resume.Saver).
        last_step: end of the schedule.
        first: also score before the first step.
    """

    def __init__(self, score: Score, interval: int, log: RunLog | None, save: Any, stopper: StopOnSignal,
                 last_step: int, first: bool = False):  # fmt: skip
        self.score, self.interval, self.log, self.save = score, interval, log, save
        self.stopper, self.last_step, self.first = stopper, last_step, first
        self.warned = False

    def on_train_begin(self, run_context: RunContext) -> None:
        if self.first:
            self.validate(0, 0)

    def on_train_step_end(self, run_context: RunContext) -> None:
        state = run_context.original_args()
        if passed(state, self.interval) or state.global_step >= self.last_step:
            self.validate(state.epoch, state.global_step)

    def validate(self, epoch: int, step: int) -> None:
        summary = self.score(step, lambda: bool(self.stopper.received))
        if summary is None:
            return
        psnr = summary["psnr"]
        is_best = psnr is not None and (self.save.best is None or psnr > self.save.best)
        if is_best:
            self.save.best = psnr
        if self.log is None:
            return
        self.log.add(epoch, step, psnr=psnr, psnr_input=summary["psnr_input"])
        tqdm.write(
            f"epoch {epoch} validation: psnr {_db(psnr)} (blurred input {_db(summary['psnr_input'])}) on "
            f"{summary['images']} images, {summary['seconds_per_image']:.2f} s each"
            + (", the best so far" if is_best else "")
        )
        if psnr is None and not self.warned:
            self.warned = True
            tqdm.write(
                "warning: the network returns NaN or infinity for validation images, so these weights have no score "
                "and are not saved as best.ckpt. If it lasts, lower --learning_rate or add --clip_norm 1."
            )
        if is_best:
            self.save(self.log.folder / "best.ckpt", epoch, step)


def _db(value: float | None) -> str:
    return "without a finite score" if value is None else f"{value:.2f} dB"


class SaveCheckpoints(Callback):
    """`last.ckpt` and a numbered checkpoint every so many epochs or steps and at the end; old numbered ones go.

    Args:
        save: (path, epoch, step) -> None.
        keep: numbered checkpoints that stay; `best.ckpt`, `last.ckpt` and `protected` always do.
        protected: the file this run was resumed from.
    """

    def __init__(self, folder: Path, model_name: str, save: Callable[[Path, int, int], None], clock: Clock,
                 epoch_interval: int, step_interval: int, keep: int, protected: Path | None = None):  # fmt: skip
        self.folder, self.model_name, self.save, self.clock = folder, model_name, save, clock
        self.intervals = (epoch_interval * clock.steps_per_epoch, step_interval)
        self.keep, self.protected = keep, protected and protected.resolve()
        # Oldest first. What this launch writes comes last: a run resumed from an older step writes smaller numbers than
        # it finds.
        self.numbered = sorted(numbered_checkpoints(folder, model_name), key=age)
        self.saved_step = clock.first_step

    def on_train_step_end(self, run_context: RunContext) -> None:
        state = run_context.original_args()
        if any(passed(state, interval) for interval in self.intervals):
            self.write(state)

    def on_train_end(self, run_context: RunContext) -> None:
        state = run_context.original_args()
        if self.clock.global_step > self.saved_step:
            self.write(state)

    def write(self, state: Any) -> None:
        path = self.folder / checkpoint_name(self.model_name, state.epoch, state.global_step)
        self.save(path, state.epoch, state.global_step)
        _replace_by_copy(self.folder / "last.ckpt", path)
        self.saved_step = state.global_step
        self.numbered = [p for p in self.numbered if p != path] + [path]
        for old in self.numbered[: -self.keep]:
            if old.resolve() != self.protected:
                old.unlink(missing_ok=True)
                self.numbered.remove(old)


def _replace_by_copy(target: Path, source: Path) -> None:
    """Make `target` the same file as `source`, in one step: a link where the file system has them, else a copy."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
    os.replace(temporary, target)


class Curves(Callback):
    """`curves.png`, redrawn every `interval` steps and at the end."""

    def __init__(self, log: RunLog, interval: int):
        self.log, self.interval = log, interval

    def on_train_step_end(self, run_context: RunContext) -> None:
        if passed(run_context.original_args(), self.interval):
            self.draw()

    def on_train_end(self, run_context: RunContext) -> None:
        self.draw()

    def draw(self) -> None:
        self.log.flush()
        if why_not_importable("matplotlib"):
            return  # as `run_folder.check` has said at the start
        save_curves(self.log.folder / "curves.png", {self.log.folder.name: read_log(self.log.path)})
