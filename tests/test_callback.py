import json
import math
import os
import signal
import sys
import types

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import Model, RunContext

from src import callback
from src.callback import (
    VALUES,
    Clock,
    ClockRestart,
    Curves,
    LastReading,
    LogWriter,
    Progress,
    SaveCheckpoints,
    StopAt,
    StopOnBadLoss,
    StopOnSignal,
    Validate,
    passed,
)
from src.checkpoint import save_checkpoint
from src.interrupts import describe
from src.run_folder import RunLog, SavedAt, cut_log, read_log


class Params(dict):
    """Like the framework's `cb_params`: a dictionary with attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Scalar:
    """An output of the training step."""

    def __init__(self, value):
        self.value = value

    def asnumpy(self):
        return np.array(self.value)


def outputs(loss=1.0, content=0.5, fft=5.0, lr=1e-4, scale=1.0, norm=2.0, finite=True):
    return tuple(Scalar(v) for v in (loss, content, fft, lr, scale, norm, finite))


def train(callbacks, losses, sink=1):
    """The framework's loop: one call of each callback's hooks for every entry of `losses`, `sink` steps at once."""
    context = RunContext(Params(cur_step_num=0))
    for c in callbacks:
        c.on_train_begin(context)
    for loss in losses:
        for c in callbacks:
            c.on_train_step_begin(context)
        context.original_args().cur_step_num += sink
        context.original_args().net_outputs = loss if isinstance(loss, tuple) else outputs(loss)
        for c in callbacks:
            c.on_train_step_end(context)
        if context.get_stop_requested():
            break
    for c in callbacks:
        c.on_train_end(context)
    return context.original_args()


def stop_on_signal(agree=int):
    """Gets its signals from the test: through `interrupts.answer`."""
    return StopOnSignal(types.SimpleNamespace(answer=None), agree)


class Device:
    """Keeps what its steps return, as `TrainStep.recent` does; `read` has the number of steps of each reading."""

    def __init__(self):
        self.results, self.read = [], []

    def recent(self, steps):
        self.read.append(steps)
        return np.array(self.results[-steps:], np.float32)


def result(loss=1.0, scale=1.0, norm=2.0, finite=True):
    return (loss, loss / 2, 10 * loss, 1e-4, scale, norm, finite)


def train_on_device(callbacks, device, results, sink=1):
    """As `train`; the device has the results of all steps, the host sees nothing of them but by `device.recent`."""

    class Work(callback.Callback):
        def on_train_step_begin(self, run_context):
            device.results += results[len(device.results) :][:sink]

    return train([Work(), *callbacks], [()] * (len(results) // sink), sink)


class Spy(callback.Callback):
    """Remembers what the clock left for the other callbacks."""

    def __init__(self, *names):
        self.names, self.seen = names, []

    def on_train_step_end(self, run_context):
        state = run_context.original_args()
        self.seen.append(tuple(state[n] if n in state else state.scalars[n] for n in self.names))


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path)


@pytest.fixture
def fake_time(monkeypatch):
    """Seconds that pass only when `fake_time.now` is moved."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(callback, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def rows(log):
    """Columns of the log once its last row is written, which `Curves` sees to in a run."""
    log.flush()
    return read_log(log.path)


# ---- every N steps


@pytest.mark.parametrize(
    "previous,now,interval,expected",
    [(0, 1, 1, True), (8, 9, 10, False), (9, 10, 10, True), (10, 11, 10, False), (5, 25, 10, True), (11, 19, 10, False),
     (10, 20, 10, True), (0, 100, 0, False), (20, 20, 10, False), (499, 500, 500, True)],
)  # fmt: skip
def test_passed(previous, now, interval, expected):
    assert passed(types.SimpleNamespace(previous_step=previous, global_step=now), interval) is expected


# ---- the clock


def test_clock_counts_steps_and_epochs_from_1():
    spy = Spy("previous_step", "global_step", "epoch")
    train([Clock(0, 2), spy], [1.0] * 5)
    assert spy.seen == [(0, 1, 1), (1, 2, 1), (2, 3, 2), (3, 4, 2), (4, 5, 3)]


def test_clock_goes_on_where_a_resumed_run_starts():
    spy = Spy("previous_step", "global_step", "epoch")
    clock = Clock(7, 4)
    train([clock, spy], [1.0] * 2)
    assert spy.seen == [(7, 8, 2), (8, 9, 3)]
    assert clock.global_step == 9


def test_clock_jumps_by_whole_sinks():
    spy = Spy("previous_step", "global_step", "epoch")
    train([Clock(20, 50), spy], [1.0] * 3, sink=100)
    assert spy.seen == [(20, 120, 3), (120, 220, 5), (220, 320, 7)]


def test_clock_names_the_outputs():
    state = train([Clock(0, 1)], [outputs(3.0, 1.0, 20.0, 2e-4, 1024.0, 7.0, False)])
    assert [state.scalars[name] for name in VALUES] == [3.0, 1.0, 20.0, 2e-4, 1024.0, 7.0, 0.0]
    assert all(type(v) is float for v in state.scalars.values())


def test_clock_splits_time_into_step_and_data(fake_time):
    class Work(callback.Callback):
        """50 s before the first step; 1 s of waiting for data, 2 s of computing, 7 s of other callbacks."""

        def on_train_begin(self, run_context):
            fake_time.now += 50

        def on_train_step_begin(self, run_context):
            fake_time.now += 2

        def on_train_step_end(self, run_context):
            fake_time.now += 7

    class Data(callback.Callback):
        def on_train_step_begin(self, run_context):
            fake_time.now += 1

    clock, spy = Clock(0, 10), Spy("seconds_per_step", "data_wait", "callbacks")
    train([Data(), clock, Work(), spy, ClockRestart(clock)], [1.0] * 3)
    assert spy.seen == [(3.0, 1.0, 0.0), (3.0, 1.0, 7.0), (3.0, 1.0, 7.0)]
    clock, spy = Clock(0, 10), Spy("seconds_per_step", "data_wait")
    train([Data(), clock, Work(), spy], [1.0] * 3)
    assert spy.seen == [(53.0, 51.0), (10.0, 8.0), (10.0, 8.0)]
    clock, spy = Clock(0, 10), Spy("seconds_per_step", "data_wait")
    train([Data(), clock, Work(), spy, ClockRestart(clock)], [1.0] * 2, sink=10)
    assert spy.seen == [(0.3, 0.1)] * 2


def test_clock_on_the_frameworks_own_loop(cpu, tmp_path):
    class Step(nn.Cell):
        def construct(self, x):
            loss = x.sum()
            return loss, loss, loss, loss * 0 + 0.5, loss * 0 + 1, loss, loss < 1000

    def dataset():
        rows = [np.full(1, i, np.float32) for i in range(4)]
        return ms.dataset.NumpySlicesDataset(rows, ["x"], shuffle=False).batch(1)

    spy, log = Spy("global_step", "epoch", "loss"), RunLog(tmp_path)
    Model(Step()).train(3, dataset(), [Clock(10, 4), spy, LogWriter(log, 2), StopAt(16)], dataset_sink_mode=False)
    assert spy.seen == [(11, 3, 0), (12, 3, 1), (13, 4, 2), (14, 4, 3), (15, 4, 0), (16, 4, 1)]
    columns = rows(log)
    assert (columns["step"], columns["loss"]) == ([12, 14, 16], [0.5, 2.5, 0.5])


# ---- the log


def test_log_rows_are_means_of_their_steps(log):
    losses = [outputs(loss, content=loss / 2, lr=1 / loss, scale=loss * 8) for loss in (1.0, 2.0, 6.0, 4.0, 5.0, 9.0)]
    train([Clock(0, 4), LogWriter(log, 3)], losses)
    columns = rows(log)
    assert (columns["step"], columns["epoch"]) == ([3, 6], [1, 2])
    assert (columns["loss"], columns["content"]) == ([3.0, 6.0], [1.5, 3.0])
    assert (columns["lr"], columns["scale"]) == ([1 / 6, 1 / 9], [48.0, 72.0])  # those of the last step
    assert columns["psnr"] == [None, None]
    assert all(v >= 0 for name in ("seconds_per_step", "data_wait") for v in columns[name])


def test_skipped_steps_are_counted(log):
    train([Clock(0, 9), LogWriter(log, 3)], [outputs(finite=f) for f in (True, False, False, True, True, True)])
    assert rows(log)["skipped"] == [2.0, 0.0]


def test_last_incomplete_interval_is_logged(log):
    train([Clock(0, 9), StopAt(5), LogWriter(log, 3)], [1.0, 2.0, 3.0, 7.0, 8.0])
    columns = rows(log)
    assert (columns["step"], columns["loss"]) == ([3, 5], [2.0, 7.5])


def test_interval_that_a_stop_cuts_in_two_is_one_row_after_the_resume(log, tmp_path):
    losses = [1.0, 2.0, 3.0, 7.0, 8.0, 0.3]
    train([Clock(0, 9), StopAt(5), LogWriter(log, 3)], losses)
    log.flush()
    cut_log(log.path, SavedAt(5, 9), drop_part=bool(log.part))
    resumed = RunLog(tmp_path, 5, json.loads(json.dumps(log.part)))  # as in a checkpoint's description
    train([Clock(5, 9), StopAt(8), LogWriter(resumed, 3)], losses[5:] + [4.0, 5.0])
    columns = rows(resumed)
    assert (columns["step"], columns["loss"]) == ([3, 6, 8], [2.0, (7.0 + 8.0 + 0.3) / 3, 4.5])
    assert columns["skipped"] == [0, 0, 0]


def test_row_of_a_stop_and_of_a_score_at_the_same_step_is_one_row(log):
    class Save(Saves):
        def __call__(self, *_):
            log.flush()

    validate = validation(lambda *_: summary(19.0), 2, log, Save())
    train([Clock(0, 9), StopAt(4), LogWriter(log, 3), validate], [1.0] * 4)
    assert (rows(log)["step"], rows(log)["psnr"]) == ([2, 3, 4], [19.0, None, 19.0])
    cut_log(log.path, SavedAt(4, 9), drop_part=True)
    assert (read_log(log.path)["step"], read_log(log.path)["loss"]) == ([2, 3, 4], [None, 1.0, None])


def test_log_keeps_its_multiples_after_a_resume(log):
    train([Clock(5, 9), StopAt(13), LogWriter(log, 4)], [1.0] * 8)
    assert rows(log)["step"] == [8, 12, 13]


def test_one_row_per_sink(log):
    train([Clock(0, 9), LogWriter(log, 10)], [1.0, 3.0], sink=100)
    columns = rows(log)
    assert (columns["step"], columns["loss"]) == ([100, 200], [1.0, 3.0])


def test_finished_row_survives_a_crash_in_the_next_step(log):
    class Crash(callback.Callback):
        def on_train_step_end(self, run_context):
            if run_context.original_args().global_step == 3:
                raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        train([Clock(0, 9), LogWriter(log, 2), Crash()], [1.0] * 5)
    assert read_log(log.path)["step"] == [2]


# ---- results that stay on the device for some steps


def test_log_row_of_a_sink_is_the_mean_of_its_steps_and_counts_all_that_were_skipped(log):
    results = [result(loss, scale=loss, finite=loss not in (2, 3, 7)) for loss in range(1, 9)]
    device = Device()
    train_on_device([Clock(0, 9, [3], device.recent), LogWriter(log, 3)], device, results, sink=4)
    columns = rows(log)
    assert (columns["step"], columns["loss"], columns["fft"]) == ([4, 8], [2.5, 6.5], [25, 65])
    assert (columns["skipped"], columns["scale"]) == ([2, 1], [4, 8])


def test_device_is_read_at_the_first_step_at_intervals_and_where_the_run_stops(log):
    device, clock = Device(), None
    clock = Clock(10, 99, [4, 10], device.recent)
    callbacks = [clock, StopAt(23), LastReading(clock), LogWriter(log, 10), ClockRestart(clock)]
    train_on_device(callbacks, device, [result(loss) for loss in range(11, 24)])
    assert device.read == [1, 1, 4, 4, 3]  # after steps 11, 12, 16, 20 and 23
    columns = rows(log)
    assert (columns["step"], columns["loss"]) == ([20, 23], [np.mean(range(11, 21)), 22])


def test_times_are_means_over_the_steps_between_two_readings(fake_time):
    class Data(callback.Callback):
        """1 s, but 4 s for the third step."""

        def on_train_step_begin(self, run_context):
            fake_time.now += 4 if run_context.original_args().cur_step_num == 2 else 1

    class Work(callback.Callback):
        def on_train_step_begin(self, run_context):
            fake_time.now += 2

        def on_train_step_end(self, run_context):
            fake_time.now += 7

    device, spy = Device(), Spy("global_step", "seconds_per_step", "data_wait", "callbacks")
    clock = Clock(0, 9, [3], device.recent)
    train_on_device([Data(), clock, Work(), spy, ClockRestart(clock)], device, [result()] * 6)
    first, second, third = (3, 1, 0), (4.5, 2.5, 7), (3, 1, 7)
    assert [seen[1:] for seen in spy.seen] == [first, first, second, second, second, third]


def test_signal_is_agreed_upon_at_intervals_and_where_the_run_ends():
    asked = []
    clock, device = Clock(0, 9, [3], (device := Device()).recent), device
    stopper = stop_on_signal(lambda mine: asked.append(clock.global_step) or 0)
    stopper.interval = 3
    train_on_device([clock, StopAt(7), stopper], device, [result()] * 9)
    assert asked == [3, 6, 7]


@pytest.mark.parametrize("sink", [1, 4])
def test_bad_loss_between_two_readings_is_found_with_its_step_and_files(sink):
    device = Device()
    results = [result(math.nan if step == 6 else 1.0, finite=step != 6) for step in range(1, 9)]
    with pytest.raises(ZeroDivisionError, match="^the loss is nan at epoch 2, step 6, .*batch: 5a.png, 5b.png"):
        train_on_device([Clock(0, 5, [4], device.recent), bad_loss()], device, results, sink)


def test_overflows_in_a_row_are_counted_in_steps_whatever_the_readings():
    overflow, good = result(norm=math.inf, finite=False), result()

    def run(*results):
        device = Device()
        train_on_device([Clock(0, 99, [4], device.recent), bad_loss()], device, results, sink=4)
        return device.read

    assert run(overflow, overflow, good, overflow, overflow, good, good, overflow) == [4, 4]
    with pytest.raises(ZeroDivisionError, match=r"^3 steps in a row overflowed \(--max_overflows 2\) at .* step 5, "):
        run(good, good, overflow, overflow, overflow, good, good, good)


# ---- when to stop


@pytest.mark.parametrize("first,sink,made", [(0, 1, 3), (2, 1, 1), (0, 2, 2), (5, 1, 1)])
def test_stop_at(first, sink, made):
    clock = Clock(first, 9)
    train([clock, StopAt(3)], [1.0] * 10, sink)
    assert clock.global_step == first + made * sink


def bad_loss(has_scaler=True, max_overflows=2):
    """Names two files of every step, which is counted from 0."""
    return StopOnBadLoss(has_scaler, max_overflows, lambda step: [f"{step}a.png", f"{step}b.png"], ZeroDivisionError)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("has_scaler", [True, False])
def test_bad_loss_ends_the_run_and_names_the_batch(bad, has_scaler):
    spy = Spy("global_step")
    with pytest.raises(ZeroDivisionError) as e:
        train([Clock(0, 2), bad_loss(has_scaler), spy], [1.0, 1e30, bad, 1.0])
    assert len(spy.seen) == 2
    text = str(e.value)
    assert text.startswith(f"the loss is {bad} at epoch 2, step 3, lr 1.00e-04, scale 1; batch: 2a.png, 2b.png. ")


def test_overflows_are_endured_only_in_a_short_row():
    overflow, good = outputs(norm=math.inf, finite=False, scale=64.0), outputs()
    spy = Spy("global_step")
    train([Clock(0, 9), bad_loss(), spy], [overflow, overflow, good, overflow, overflow, good])
    assert len(spy.seen) == 6
    with pytest.raises(
        ZeroDivisionError, match=r"^3 steps in a row overflowed \(--max_overflows 2\).*step 4.*scale 64"
    ):
        train([Clock(0, 9), bad_loss(), spy], [good, overflow, overflow, overflow])
    assert len(spy.seen) == 9


def test_gradients_that_are_not_finite_end_a_run_without_loss_scale():
    with pytest.raises(ZeroDivisionError, match=r"^the gradients are not finite at epoch 1, step 1"):
        train([Clock(0, 9), bad_loss(has_scaler=False)], [outputs(norm=math.inf, finite=False)])


class Raise(callback.Callback):
    """Sends signals while step 2 runs."""

    def __init__(self, stopper, *numbers):
        self.interrupts, self.numbers = stopper.interrupts, numbers

    def on_train_step_begin(self, run_context):
        if run_context.original_args().cur_step_num == 1:
            for number in self.numbers:
                self.interrupts.answer(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_step(number, capfd):
    clock, stopper = Clock(0, 9), stop_on_signal()
    train([clock, stopper, Raise(stopper, number)], [1.0] * 4)
    assert (clock.global_step, stopper.received) == (2, number)
    assert f"{describe(number)}: finishing this step" in capfd.readouterr().err


def test_signal_to_another_rank_stops_this_one_too():
    clock = Clock(0, 9)
    numbers = iter([0, 0, signal.SIGTERM, 0])
    stopper = stop_on_signal(lambda mine: max(mine, next(numbers)))
    train([clock, stopper], [1.0] * 4)
    assert (clock.global_step, stopper.received) == (3, signal.SIGTERM)


# ---- validation


def summary(psnr, psnr_input=20.0):
    return {"psnr": psnr, "psnr_input": psnr_input, "images": 3, "seconds_per_image": 0.1}


class Saves:
    """Instead of `resume.Saver`: remembers (epoch, step) of each call."""

    def __init__(self, best=None):
        self.best, self.calls = best, []

    def __call__(self, path, epoch, step):
        assert path.name == "best.ckpt"
        self.calls.append((epoch, step))


def validation(score, interval, log, save=None, stopper=None, last_step=10**9, **kwargs):
    return Validate(score, interval, log, save or Saves(), stopper or stop_on_signal(), last_step, **kwargs)


def validate(log, scores, interval=2, best=None, **kwargs):
    """Train for `interval` steps a score; the calls of save_best and the best score kept."""
    save, left = Saves(best), iter(scores)
    callback = validation(lambda *_: summary(next(left)), interval, log, save, **kwargs)
    train([Clock(0, 4), LogWriter(log, 1), callback], [1.0] * interval * len(scores))
    return save.calls, save.best


def test_best_is_the_highest_so_far(log, capsys):
    saved, best = validate(log, [21.0, 20.0, 23.0, 23.0, 22.0])
    assert saved == [(1, 2), (2, 6)]  # (epoch, step); an equal score is no new best
    assert best == 23.0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1 validation: psnr 21.00 dB (blurred input 20.00 dB) on 3 images")
    assert ["best" in line for line in lines] == [True, False, True, False, False]


def test_validation_joins_the_row_of_its_step(log):
    validate(log, [21.0, 20.0])
    columns = rows(log)
    assert columns["step"] == [1, 2, 3, 4]
    assert columns["psnr"] == [None, 21.0, None, 20.0] and columns["psnr_input"] == [None, 20.0, None, 20.0]
    assert columns["loss"] == [1.0] * 4


def test_best_of_a_resumed_run_is_kept(log):
    saved, best = validate(log, [21.0, 25.0], best=24.0)
    assert (saved, best) == ([(1, 4)], 25.0)


def test_no_finite_score_is_never_the_best(log, capsys):
    saved, best = validate(log, [None, 21.0, None])
    assert (saved, best) == ([(1, 4)], 21.0)
    assert rows(log)["psnr"][1::2] == [None, 21.0, None]
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]  # once
    assert "returns NaN or infinity" in warning and "--learning_rate" in warning


def scored_steps(log, steps, start=0, last_step=10**9, **kwargs):
    at = []
    score = lambda step, should_stop: at.append(step) or summary(20.0)  # noqa: E731
    train([Clock(start, 2), validation(score, 2, log, last_step=last_step, **kwargs)], [1.0] * steps)
    return at


def test_end_of_the_schedule_is_scored_once_and_a_stop_before_it_is_not(log):
    assert scored_steps(log, 4, last_step=4) == [2, 4]
    assert scored_steps(log, 5, last_step=5) == [2, 4, 5]
    assert scored_steps(log, 1, last_step=1) == [1]
    assert scored_steps(log, 5) == [2, 4]  # a resumed run must score where the uninterrupted one does
    assert scored_steps(log, 0) == []
    assert scored_steps(log, 2, first=True) == [0, 2]
    assert scored_steps(log, 3, start=6, last_step=9) == [8, 9]


def test_validation_that_a_signal_stops_half_way_counts_for_nothing(log):
    stopper, save, asked = stop_on_signal(), Saves(), []

    def score(step, should_stop):
        asked.append(should_stop())
        stopper.received = signal.SIGTERM
        return None if should_stop() else summary(20.0)

    train([Clock(0, 4), LogWriter(log, 1), validation(score, 1, log, save, stopper)], [1.0])
    assert (asked, save.calls, save.best) == ([False], [], None)
    assert rows(log)["psnr"] == [None]


def test_helping_rank_knows_the_best_and_writes_nothing():
    save = Saves()
    train([Clock(0, 4), validation(lambda *_: summary(21.0), 1, None, save)], [1.0])
    assert (save.best, save.calls) == (21.0, [])


def test_score_before_the_first_step_is_logged_as_step_0(log):
    save = Saves()
    train([Clock(0, 4), validation(lambda *_: summary(19.0), 2, log, save, first=True)], [1.0] * 2)
    assert save.calls == [(0, 0)]
    assert (rows(log)["epoch"], rows(log)["step"]) == ([0, 1], [0, 2])


def test_score_at_the_end_joins_the_last_row(log):
    validate = validation(lambda *_: summary(19.0), 100, log, last_step=4)
    train([Clock(0, 9), StopAt(4), LogWriter(log, 3), validate], [1.0] * 4)
    assert (rows(log)["step"], rows(log)["psnr"]) == ([3, 4], [None, 19.0])


# ---- checkpoints


class Saver:
    """Writes empty files and remembers what was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, path, epoch, step):
        self.calls.append((path.name, epoch, step))
        path.write_text(str(step))


def save_run(folder, losses, first=0, sink=1, steps_per_epoch=4, epochs=1, steps=0, keep=99, save=None):
    clock, save = Clock(first, steps_per_epoch), save or Saver()
    train([clock, SaveCheckpoints(folder, "MIMO-UNet", save, clock, epochs, steps, keep)], losses, sink)
    return save


def numbered(folder):
    return sorted(int(p.stem.split("_")[-1]) for p in folder.glob("MIMO-UNet_*.ckpt"))


def test_checkpoints_every_epoch_and_at_the_end(tmp_path):
    save = save_run(tmp_path, [1.0] * 9)
    assert save.calls == [("MIMO-UNet_1_4.ckpt", 1, 4), ("MIMO-UNet_2_8.ckpt", 2, 8), ("MIMO-UNet_3_9.ckpt", 3, 9)]
    assert (tmp_path / "last.ckpt").read_text() == "9"


@pytest.mark.parametrize("links", [True, False])
def test_last_is_the_newest_also_where_files_cannot_be_linked(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(callback.os, "link", refuse)
    save_run(tmp_path, [1.0] * 9)
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "MIMO-UNet_3_9.ckpt") == links
    assert (tmp_path / "last.ckpt").read_text() == "9"
    assert (tmp_path / "MIMO-UNet_2_8.ckpt").read_text() == "8"
    assert not list(tmp_path.glob(".*"))


def test_checkpoints_every_few_steps_too(tmp_path):
    save_run(tmp_path, [1.0] * 9, epochs=2, steps=3)
    assert numbered(tmp_path) == [3, 6, 8, 9]


def test_end_is_not_saved_twice(tmp_path):
    save = save_run(tmp_path, [1.0] * 4)
    assert [step for _, _, step in save.calls] == [4]


def test_sinks_are_saved_when_a_multiple_was_passed(tmp_path):
    save_run(tmp_path, [1.0] * 3, sink=3)
    assert numbered(tmp_path) == [6, 9]  # 4 and 8 lie inside the second and third sink


def test_resumed_run_without_a_step_saves_nothing(tmp_path):
    assert save_run(tmp_path, [], first=8).calls == []
    save_run(tmp_path, [1.0] * 5, first=6)
    assert numbered(tmp_path) == [8, 11]


def test_newest_are_kept_and_last_best_and_others_stay(tmp_path):
    others = ["best.ckpt", "MIMO-UNetPlus_1_1.ckpt", "notes_1_1.txt"]
    for name in others:
        (tmp_path / name).touch()
    save_run(tmp_path, [1.0] * 12, steps_per_epoch=1, keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*others, "last.ckpt", "MIMO-UNet_10_10.ckpt", "MIMO-UNet_11_11.ckpt", "MIMO-UNet_12_12.ckpt"]
    )


def test_nothing_is_deleted_before_the_new_ones_are_saved(tmp_path):
    def full_disk(path, epoch, step):
        if step == 4:
            raise OSError("no space")
        path.write_text(str(step))

    with pytest.raises(OSError):
        save_run(tmp_path, [1.0] * 4, steps_per_epoch=1, keep=2, save=full_disk)
    assert numbered(tmp_path) == [2, 3]
    assert (tmp_path / "last.ckpt").read_text() == "3"


def test_file_a_run_was_resumed_from_stays(tmp_path):
    save_run(tmp_path, [1.0] * 2, steps_per_epoch=1)
    clock = Clock(1, 1)
    source = tmp_path / "MIMO-UNet_1_1.ckpt"
    train([clock, SaveCheckpoints(tmp_path, "MIMO-UNet", Saver(), clock, 1, 0, 2, protected=source)], [1.0] * 5)
    assert numbered(tmp_path) == [1, 5, 6]


def test_what_this_launch_has_written_stays_although_larger_numbers_are_there(tmp_path):
    save_run(tmp_path, [1.0] * 9, steps_per_epoch=1)
    for path in tmp_path.glob("*.ckpt"):
        os.utime(path, (2**32, 2**32))  # whatever the clock says
    clock = Clock(2, 1)
    train([clock, SaveCheckpoints(tmp_path, "MIMO-UNet", Saver(), clock, 1, 0, 2)], [1.0] * 2)
    assert numbered(tmp_path) == [3, 4]


def test_oldest_of_a_copied_folder_go_by_what_they_state(tmp_path):
    for launch, step in ((1, 90), (2, 11), (1, 80), (2, 12)):  # copied in no order
        meta = {"launch": launch, "step": step}
        save_checkpoint(tmp_path / f"MIMO-UNet_1_{step}.ckpt", {"a": np.ones(3, np.float32)}, meta)
    clock = Clock(12, 99)
    train([clock, SaveCheckpoints(tmp_path, "MIMO-UNet", Saver(), clock, 1, 1, 3)], [1.0])
    assert numbered(tmp_path) == [11, 12, 13]


# ---- curves and progress


def test_curves_are_drawn_at_validation_and_at_the_end(log, tmp_path):
    class Count(Curves):
        drawn = ()

        def draw(self):
            super().draw()
            self.drawn += (read_log(log.path)["step"],)

    curves = Count(log, 2)
    train([Clock(0, 2), LogWriter(log, 1), curves], [1.0] * 3)
    assert curves.drawn == ([1, 2], [1, 2, 3])
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_without_matplotlib_a_run_ends_without_curves(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train([Clock(0, 2), LogWriter(log, 1), Curves(log, 2)], [1.0] * 3)
    assert read_log(log.path)["step"] == [1, 2, 3] and not (tmp_path / "curves.png").exists()


def test_progress_away_from_a_terminal(fake_time, capsys):
    class Minute(callback.Callback):
        """Steps of 4 s."""

        def on_train_step_begin(self, run_context):
            fake_time.now += 4 if run_context.original_args().cur_step_num else 20  # the first compiles

    train([Clock(100, 50), Minute(), Progress(100, 106)], [2.0] * 6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("compiling")
    assert [line.split()[3] for line in lines[1:]] == [
        "101/106",
        "104/106",
        "106/106",
    ]  # one in ten seconds, and the last
    assert "loss 2.0000 (content 0.5000, fft 5.000) lr 1.00e-04 20.00 s/step (data 0%), 0:01:40 left" in lines[1]
    assert lines[2].endswith("4.00 s/step (data 0%), 0:00:08 left")
    assert lines[-1].endswith("0:00:00 left")


class Loading(callback.Callback):
    """Data takes `wait` s and a step 1 s, but the first, which waits for the workers and the compiler, 1000 s each."""

    def __init__(self, fake_time, wait):
        self.fake_time, self.wait = fake_time, wait

    def on_train_begin(self, run_context):
        self.fake_time.now += 1000

    def on_train_step_begin(self, run_context):
        self.fake_time.now += 1000 if run_context.original_args().cur_step_num == 0 else 1

    def on_train_step_end(self, run_context):
        self.fake_time.now += self.wait


@pytest.mark.parametrize("wait, words", [(3, "data-bound: 75% of the time"), (0.2, "")])
def test_waiting_for_data_is_told_once_when_it_takes_long(fake_time, capsys, wait, words):
    clock = Clock(0, 50)
    train([clock, Progress(0, 60), ClockRestart(clock), Loading(fake_time, wait)], [2.0] * 60)
    out = capsys.readouterr().out
    assert out.count("data-bound: ") == bool(words) and words in out
    if words:
        before = out.split("data-bound")[0].splitlines()
        assert "try --pack (python -m src.preprocessing --pack ...) / --num_worker" in out
        assert len(before) < len(out.splitlines()) - 5
    share = round(100 * wait / (1 + wait))
    assert f"1.00 s/step (data {share}%)" in out or f"{1 + wait:.2f} s/step (data {share}%)" in out


def test_progress_of_a_sink_past_the_end(fake_time, capsys):
    train([Clock(0, 50), Progress(0, 150)], [2.0] * 2, sink=100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("epoch 4 step 200/150") and lines[-1].endswith("0:00:00 left")
