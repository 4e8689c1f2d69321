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
    BadLoss,
    Checkpoints,
    Intervals,
    Loop,
    Means,
    Progress,
    Reading,
    RunState,
    StopSignal,
    Stopwatch,
)
from src.checkpoint import save_checkpoint
from src.errors import UserError
from src.interrupts import describe
from src.run_log import RunLog, SavedAt, cut_log, read_log
from src.train_step import VALUES

ENDLESS = 10**9


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


def result(loss=1.0, scale=1.0, norm=2.0, finite=True, lr=1e-4):
    """What a step returns, in the order of `VALUES`."""
    return loss, loss / 2, 10 * loss, lr, scale, norm, finite


def readings(*results, first=1, steps_per_epoch=9):
    epoch_of = RunState(0, steps_per_epoch, ENDLESS, ENDLESS).epoch_of
    return [
        Reading(n, epoch_of(n), dict(zip(VALUES, map(float, r), strict=True))) for n, r in enumerate(results, first)
    ]


class Saves:
    """Instead of `resume.save`: remembers what it is called with, and writes the step into the file."""

    def __init__(self):
        self.calls, self.parts = [], []

    def __call__(self, path, state, log_part):
        path.write_text(str(state.step))
        self.calls.append((path.name, state.epoch, state.step))
        self.parts.append(dict(log_part))


class Run:
    """A loop on rank 0 and the framework around it.

    Args:
        results: of the steps, in order.
        before: called with the number of the step before each step, which it may delay, for instance.
        kept: the results stay on a device until they are read.
    """

    def __init__(
        self,
        folder,
        results,
        *,
        first=0,
        epoch=9,
        stop=ENDLESS,
        last=ENDLESS,
        sink=1,
        log=1,
        validate=0,
        save=(),
        look=1,
        best=None,
        part=None,
        kept=False,
        before=lambda step: None,
        **parts,
    ):
        self.log = RunLog(folder)
        self.results, self.sink, self.before = list(results), sink, before
        self.seen, self.read = [], []
        self.saves = parts.pop("saves", None) or Saves()
        self.interrupts = types.SimpleNamespace(answer=None)
        parts = {
            "signals": StopSignal(self.interrupts),
            "bad_loss": BadLoss(True, 10**9, lambda step: []),
            "checkpoints": Checkpoints(folder, "MIMO-UNet", 99),
        } | parts
        self.loop = Loop(
            RunState(first, epoch, stop, last, best=best),
            Intervals(log, validate, save, look),
            means=Means(part),
            save=self.saves,
            log=self.log,
            recent=self.recent if kept else None,
            **parts,
        )
        self.state = self.loop.state

    def recent(self, steps):
        self.read.append(steps)
        return np.array(self.returned[-steps:], np.float32)

    def __call__(self):
        context = RunContext(Params(cur_step_num=0))
        self.loop.on_train_begin(context)
        self.returned = []
        while len(self.returned) < len(self.results) and not context.get_stop_requested():
            self.before(context.original_args().cur_step_num + 1)
            self.loop.on_train_step_begin(context)
            self.returned = self.results[: len(self.returned) + self.sink]
            context.original_args().cur_step_num = len(self.returned)
            context.original_args().net_outputs = tuple(map(Scalar, self.returned[-1]))
            self.loop.on_train_step_end(context)
            self.seen.append(self.state.step)
        self.loop.on_train_end(context)
        return self

    def columns(self, *names):
        log = read_log(self.log.path)
        return [log[name] for name in names]


@pytest.fixture
def fake_time(monkeypatch):
    """Seconds that pass only when `fake_time.now` is moved."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(callback, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


# ---- where a run stands


@pytest.mark.parametrize(
    "previous,now,interval,expected",
    [(0, 1, 1, True), (8, 9, 10, False), (9, 10, 10, True), (10, 11, 10, False), (5, 25, 10, True), (11, 19, 10, False),
     (10, 20, 10, True), (0, 100, 0, False), (20, 20, 10, False), (499, 500, 500, True)],
)  # fmt: skip
def test_passed(previous, now, interval, expected):
    state = RunState(previous, 9, ENDLESS, ENDLESS)
    state.advance(now - previous)
    assert state.passed(interval) is expected


def test_steps_and_epochs_go_on_where_a_resumed_run_starts():
    state = RunState(7, 4, 9, 12)
    seen = []
    for steps in (1, 2):
        state.advance(steps)
        seen.append((state.previous_step, state.step, state.epoch, state.is_last))
    assert seen == [(7, 8, 2, False), (8, 9, 3, True)]


def test_sinks_advance_by_many_steps(tmp_path):
    run = Run(tmp_path, [result(loss) for loss in range(300)], first=20, epoch=50, sink=100)()
    assert (run.seen, run.state.epoch) == ([120, 220, 320], 7)


@pytest.mark.parametrize("first,sink,seen", [(0, 1, [1, 2, 3]), (2, 1, [3]), (0, 2, [2, 4]), (5, 1, [6])])
def test_a_run_ends_at_its_stop_step(tmp_path, first, sink, seen):
    assert Run(tmp_path, [result()] * 10, first=first, sink=sink, stop=3)().seen == seen


# ---- times


def test_stopwatch_separates_step_data_and_the_loop(fake_time):
    watch, laps = Stopwatch(), []
    watch.start()
    for data, step in ((1, 2), (1, 2), (4, 2)):
        fake_time.now += data
        watch.step_begins()
        fake_time.now += step
        watch.step_ends()
        laps.append(watch.lap(1))
        fake_time.now += 7  # validation, checkpoints
        watch.resume()
    assert [tuple(lap.values()) for lap in laps] == [(3, 1, 0), (3, 1, 7), (6, 4, 7)]
    assert list(laps[0]) == ["seconds_per_step", "data_wait", "callbacks"]


def test_stopwatch_takes_means_over_the_steps_since_the_last_lap(fake_time):
    watch = Stopwatch()
    watch.start()
    for data in (1, 4, 1):
        fake_time.now += data
        watch.step_begins()
        fake_time.now += 2
        watch.step_ends()
        watch.resume()
    fake_time.now += 3  # the device finishes
    assert watch.lap(3) == {"seconds_per_step": 5, "data_wait": 2, "callbacks": 0}


def test_validation_and_checkpoints_are_no_part_of_a_step(tmp_path, fake_time):
    class Slow(Saves):
        def __call__(self, *arguments):
            super().__call__(*arguments)
            fake_time.now += 50

    def step(_):
        fake_time.now += 1

    run = Run(tmp_path, [result()] * 3, save=(1,), saves=Slow(), before=step)()
    assert run.columns("seconds_per_step", "callbacks") == [[1, 1, 1], [0, 50, 50]]


# ---- the log


def test_log_rows_are_means_of_their_steps(tmp_path):
    losses = (1.0, 2.0, 6.0, 4.0, 5.0, 9.0)
    run = Run(tmp_path, [result(loss, scale=loss * 8, lr=1 / loss) for loss in losses], epoch=4, log=3)()
    assert run.columns("step", "epoch", "loss", "content") == [[3, 6], [1, 2], [3, 6], [1.5, 3]]
    assert run.columns("lr", "scale") == [[1 / 6, 1 / 9], [48.0, 72.0]]  # those of the last step
    assert run.columns("psnr") == [[None, None]]


def test_skipped_steps_are_counted(tmp_path):
    finite = (True, False, False, True, True, True)
    assert Run(tmp_path, [result(finite=f) for f in finite], log=3)().columns("skipped") == [[2, 0]]


def test_last_incomplete_interval_is_logged(tmp_path):
    run = Run(tmp_path, [result(loss) for loss in (1.0, 2.0, 3.0, 7.0, 8.0)], log=3, stop=5)()
    assert run.columns("step", "loss") == [[3, 5], [2.0, 7.5]]


def test_interval_that_a_stop_cuts_in_two_is_one_row_after_the_resume(tmp_path):
    losses = [1.0, 2.0, 3.0, 7.0, 8.0, 0.3, 4.0, 5.0]
    run = Run(tmp_path, map(result, losses), log=3, stop=5)()
    part = json.loads(json.dumps(run.saves.parts[-1]))  # as in a checkpoint's description
    cut_log(run.log.path, SavedAt(5, 9), drop_part=bool(part))
    resumed = Run(tmp_path, map(result, losses[5:]), first=5, log=3, stop=8, part=part)()
    expected = [[3, 6, 8], [2.0, (7.0 + 8.0 + 0.3) / 3, 4.5], [0, 0, 0]]
    assert resumed.columns("step", "loss", "skipped") == expected


def test_row_of_a_stop_and_of_a_score_at_the_same_step_is_one_row(tmp_path):
    run = Run(tmp_path, [result()] * 4, log=3, validate=2, stop=4, score=lambda *_: summary(19.0))()
    assert run.columns("step", "psnr") == [[2, 3, 4], [19.0, None, 19.0]]
    cut_log(run.log.path, SavedAt(4, 9), drop_part=True)
    assert run.columns("step", "loss") == [[2, 3, 4], [None, 1.0, None]]


def test_log_keeps_its_multiples_after_a_resume(tmp_path):
    assert Run(tmp_path, [result()] * 8, first=5, log=4, stop=13)().columns("step") == [[8, 12, 13]]


def test_a_row_is_written_before_the_next_step(tmp_path):
    def crash(step):
        if step == 3:
            raise RuntimeError("crash")

    run = Run(tmp_path, [result()] * 5, log=2, before=crash)
    with pytest.raises(RuntimeError):
        run()
    assert run.columns("step") == [[2]]


def test_the_frameworks_own_loop(cpu, tmp_path):
    class Step(nn.Cell):
        def construct(self, x):
            loss = x.sum()
            return loss, loss, loss, loss * 0 + 0.5, loss * 0 + 1, loss, loss < 1000

    rows = [np.full(1, i, np.float32) for i in range(4)]
    data = ms.dataset.NumpySlicesDataset(rows, ["x"], shuffle=False).batch(1)
    run = Run(tmp_path, [], first=10, epoch=4, log=2, stop=16)
    Model(Step()).train(3, data, run.loop, dataset_sink_mode=False)
    assert run.columns("step", "epoch", "loss") == [[12, 14, 16], [3, 4, 4], [0.5, 2.5, 0.5]]


# ---- results that stay on the device for some steps


def test_log_row_of_a_sink_is_the_mean_of_its_steps_and_counts_all_that_were_skipped(tmp_path):
    results = [result(loss, scale=loss, finite=loss not in (2, 3, 7)) for loss in range(1, 9)]
    run = Run(tmp_path, results, log=3, look=3, sink=4, kept=True)()
    assert run.columns("step", "loss", "fft", "skipped", "scale") == [[4, 8], [2.5, 6.5], [25, 65], [2, 1], [4, 8]]


def test_device_is_read_at_the_first_step_at_intervals_and_where_the_run_stops(tmp_path):
    run = Run(tmp_path, map(result, range(11, 24)), first=10, log=10, look=4, stop=23, kept=True)()
    assert run.read == [1, 1, 4, 4, 3]  # after steps 11, 12, 16, 20 and 23
    assert run.columns("step", "loss") == [[20, 23], [np.mean(range(11, 21)), 22]]


@pytest.mark.parametrize("sink", [1, 4])
def test_bad_loss_between_two_readings_is_found_with_its_step_and_files(tmp_path, sink):
    results = [result(math.nan if step == 6 else 1.0, finite=step != 6) for step in range(1, 9)]
    run = Run(tmp_path, results, epoch=5, look=4, sink=sink, kept=True, bad_loss=bad_loss())
    with pytest.raises(UserError, match="^the loss is nan at epoch 2, step 6, .*batch: 5a.png, 5b.png"):
        run()


# ---- when to stop


def bad_loss(has_scaler=True, max_overflows=2):
    """Names two files of every step, which is counted from 0."""
    return BadLoss(has_scaler, max_overflows, lambda step: [f"{step}a.png", f"{step}b.png"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("has_scaler", [True, False])
def test_bad_loss_ends_the_run_and_names_the_batch(bad, has_scaler):
    check = bad_loss(has_scaler).check
    check(readings(result(1.0), result(1e30)))
    with pytest.raises(UserError) as e:
        check(readings(result(bad), first=3, steps_per_epoch=2))
    text = f"the loss is {bad} at epoch 2, step 3, lr 1.00e-04, scale 1; batch: 2a.png, 2b.png. "
    assert str(e.value).startswith(text)


@pytest.mark.parametrize("at_once", [True, False])
def test_overflows_are_accepted_only_in_a_short_row(at_once):
    overflow, good = result(norm=math.inf, finite=False, scale=64.0), result()

    def run(*results):
        check = bad_loss().check
        for part in [readings(*results)] if at_once else [[r] for r in readings(*results)]:
            check(part)

    run(overflow, overflow, good, overflow, overflow, good)
    with pytest.raises(UserError, match=r"^3 consecutive steps overflowed \(--max_overflows 2\).*step 4.*scale 64"):
        run(good, overflow, overflow, overflow, good)


def test_gradients_that_are_not_finite_end_a_run_without_loss_scale():
    with pytest.raises(UserError, match=r"^the gradients are not finite at epoch 1, step 1"):
        bad_loss(has_scaler=False).check(readings(result(norm=math.inf, finite=False)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_finishes_the_step(tmp_path, number, capfd):
    run = Run(tmp_path, [result()] * 4, before=lambda step: step == 2 and run.interrupts.answer(number))
    run()
    assert (run.state.step, run.state.signal) == (2, number)
    assert run.saves.calls == [("MIMO-UNet_1_2.ckpt", 1, 2)]
    assert f"{describe(number)}: finishing this step" in capfd.readouterr().err


def test_signal_to_another_rank_stops_this_one_too(tmp_path):
    numbers = iter([0, 0, signal.SIGTERM, 0])
    signals = StopSignal(types.SimpleNamespace(), lambda mine: max(mine, next(numbers)))
    run = Run(tmp_path, [result()] * 4, signals=signals)()
    assert (run.state.step, run.state.signal) == (3, signal.SIGTERM)


def test_ranks_agree_at_intervals_and_where_the_run_ends(tmp_path):
    asked = []
    signals = StopSignal(types.SimpleNamespace(), lambda mine: asked.append(run.state.step) or 0, 3)
    run = Run(tmp_path, [result()] * 9, stop=7, signals=signals)
    run()
    assert asked == [3, 6, 7]


# ---- validation


def summary(psnr, psnr_input=20.0):
    return {"psnr": psnr, "psnr_input": psnr_input, "images": 3, "seconds_per_image": 0.1}


def validated(folder, scores, **options):
    """A run with a score every two steps."""
    left = iter(scores)
    return Run(
        folder, [result()] * 2 * len(scores), epoch=4, validate=2, score=lambda *_: summary(next(left)), **options
    )()


def test_best_is_the_highest_so_far(tmp_path, capsys):
    run = validated(tmp_path, [21.0, 20.0, 23.0, 23.0, 22.0])
    assert run.saves.calls[:2] == [("best.ckpt", 1, 2), ("best.ckpt", 2, 6)]  # an equal score is no new best
    assert run.state.best == 23.0
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert lines[0].startswith("epoch 1 validation: psnr 21.00 dB (blurred input 20.00 dB) on 3 images")
    assert ["best" in line for line in lines] == [True, False, True, False, False]


def test_validation_joins_the_row_of_its_step(tmp_path):
    run = validated(tmp_path, [21.0, 20.0])
    assert run.columns("step", "psnr") == [[1, 2, 3, 4], [None, 21.0, None, 20.0]]
    assert run.columns("psnr_input", "loss") == [[None, 20.0, None, 20.0], [1.0] * 4]


@pytest.mark.parametrize("scores,best,final", [([21.0, 25.0], 24.0, 25.0), ([None, 21.0, None], None, 21.0)])
def test_best_of_a_resumed_run_and_scores_that_are_not_finite(tmp_path, capsys, scores, best, final):
    run = validated(tmp_path, scores, best=best)
    assert [call for call in run.saves.calls if call[0] == "best.ckpt"] == [("best.ckpt", 1, 4)]
    assert run.state.best == final and run.columns("psnr")[0][1::2] == scores
    warnings = [line for line in capsys.readouterr().out.splitlines() if "returns NaN or infinity" in line]
    assert len(warnings) == (None in scores) and all("--learning_rate" in line for line in warnings)


def test_validation_comes_at_the_end_of_the_schedule_but_not_where_a_run_is_stopped(tmp_path):
    options = {"validate": 4, "score": lambda *_: summary(21.0)}
    assert Run(tmp_path, [result()] * 6, stop=6, last=6, **options)().columns("psnr") == [
        [None] * 3 + [21] + [None, 21]
    ]
    stopped = Run(tmp_path / ".." / tmp_path.name, [result()] * 2, first=6, stop=7, last=9, **options)()
    assert stopped.columns("psnr")[0][-1] is None


def test_validation_before_the_first_step(tmp_path):
    run = Run(tmp_path, [result()] * 2, stop=2, validate=9, score=lambda *_: summary(21.0), validate_first=True)()
    assert run.columns("step", "epoch", "psnr") == [[0, 1, 2], [0, 1, 1], [21, None, None]]
    assert run.saves.calls[0] == ("best.ckpt", 0, 0)


def test_validation_that_a_signal_cuts_short_leaves_no_score(tmp_path):
    def score(step, should_stop):
        run.interrupts.answer(signal.SIGTERM)
        return None if should_stop() else summary(21.0)

    run = Run(tmp_path, [result()] * 9, validate=2, score=score)
    run()
    assert run.columns("step", "psnr") == [[1, 2, 3], [None] * 3]


def test_ranks_that_only_help_write_nothing(tmp_path):
    run = Run(tmp_path, [result()] * 4, validate=2, save=(2,), score=lambda *_: summary(21.0), checkpoints=None)
    run.loop.log = run.loop.save = None
    run()
    assert (run.state.best, run.saves.calls, run.columns("step")) == (21.0, [], [[]])


# ---- checkpoints


def numbered(folder):
    return sorted(int(p.stem.split("_")[-1]) for p in folder.glob("MIMO-UNet_*.ckpt"))


def checkpoints(folder, keep=99, protected=None):
    return Checkpoints(folder, "MIMO-UNet", keep, protected)


def test_numbered_checkpoints_are_sorted_by_number(tmp_path):
    for numbers in ("10_1000", "3_200", "2_200", "1_99", "9_900"):
        (tmp_path / f"MIMO-UNet_{numbers}.ckpt").touch()
    found = [p.name for p in checkpoints(tmp_path).numbered]
    assert found == [f"MIMO-UNet_{n}.ckpt" for n in ("1_99", "2_200", "3_200", "9_900", "10_1000")]


@pytest.mark.parametrize(
    "name", ["last.ckpt", "best.ckpt", "MIMO-UNetPlus_1_10.ckpt", "MIMO-UNet_1_x.ckpt", "MIMO-UNet_1_10.ckpt.bak",
             "MIMO-UNet_5_.ckpt", "MIMO-UNet__5.ckpt", "MIMO-UNet_1_2_3.ckpt", "MIMO-UNet_1_².ckpt",
             "old_MIMO-UNet_1_10.ckpt", ".MIMO-UNet_1_10.tmp.ckpt", "MIMO-UNet_10.ckpt",
             "MIMO-UNet_1_10.ckpt.ckpt"],
)  # fmt: skip
def test_other_names_are_no_numbered_checkpoints(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "MIMO-UNet_1_10.ckpt").touch()
    assert [p.name for p in checkpoints(tmp_path).numbered] == ["MIMO-UNet_1_10.ckpt"]


def test_checkpoints_every_epoch_and_at_the_end(tmp_path):
    run = Run(tmp_path, [result()] * 9, epoch=4, save=(4, 0))()
    assert run.saves.calls == [("MIMO-UNet_1_4.ckpt", 1, 4), ("MIMO-UNet_2_8.ckpt", 2, 8), ("MIMO-UNet_3_9.ckpt", 3, 9)]
    assert (tmp_path / "last.ckpt").read_text() == "9"


@pytest.mark.parametrize("links", [True, False])
def test_last_is_the_newest_also_where_files_cannot_be_linked(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(callback.os, "link", refuse)
    Run(tmp_path, [result()] * 9, epoch=4, save=(4,))()
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "MIMO-UNet_3_9.ckpt") == links
    assert ((tmp_path / "last.ckpt").read_text(), (tmp_path / "MIMO-UNet_2_8.ckpt").read_text()) == ("9", "8")
    assert not list(tmp_path.glob(".*"))


def test_checkpoints_every_few_steps_too_and_none_twice(tmp_path):
    run = Run(tmp_path, [result()] * 9, save=(8, 3))()
    assert [step for _, _, step in run.saves.calls] == [3, 6, 8, 9]


def test_sinks_are_saved_when_a_multiple_was_passed(tmp_path):
    assert numbered(Run(tmp_path, [result()] * 9, sink=3, save=(4,))().log.folder) == [6, 9]


def test_resumed_run_without_a_step_saves_nothing(tmp_path):
    assert Run(tmp_path, [], first=8, save=(4,))().saves.calls == []


def test_newest_are_kept_and_last_best_and_others_stay(tmp_path):
    others = ["best.ckpt", "MIMO-UNetPlus_1_1.ckpt", "notes_1_1.txt"]
    for name in others:
        (tmp_path / name).touch()
    Run(tmp_path, [result()] * 12, epoch=1, save=(1,), checkpoints=checkpoints(tmp_path, 3))()
    assert numbered(tmp_path) == [10, 11, 12]
    assert all((tmp_path / name).exists() for name in [*others, "last.ckpt"])


def test_nothing_is_deleted_before_the_new_ones_are_saved(tmp_path):
    class FullDisk(Saves):
        def __call__(self, path, state, log_part):
            if state.step == 4:
                raise OSError("no space")
            super().__call__(path, state, log_part)

    with pytest.raises(OSError):
        Run(tmp_path, [result()] * 4, save=(1,), saves=FullDisk(), checkpoints=checkpoints(tmp_path, 2))()
    assert numbered(tmp_path) == [2, 3]
    assert (tmp_path / "last.ckpt").read_text() == "3"


def test_file_a_run_was_resumed_from_stays(tmp_path):
    source = tmp_path / "MIMO-UNet_1_1.ckpt"
    source.touch()
    Run(tmp_path, [result()] * 5, first=1, save=(1,), checkpoints=checkpoints(tmp_path, 2, source))()
    assert numbered(tmp_path) == [1, 5, 6]


def test_what_this_launch_has_written_stays_although_larger_numbers_are_there(tmp_path):
    for step in range(1, 10):
        path = tmp_path / f"MIMO-UNet_{step}_{step}.ckpt"
        path.touch()
        os.utime(path, (2**32, 2**32))  # whatever the clock says
    Run(tmp_path, [result()] * 2, first=2, save=(1,), checkpoints=checkpoints(tmp_path, 2))()
    assert numbered(tmp_path) == [3, 4]


def test_oldest_of_a_copied_folder_go_by_what_they_state(tmp_path):
    for launch, step in ((1, 90), (2, 11), (1, 80), (2, 12)):  # copied in no order
        meta = {"launch": launch, "step": step}
        save_checkpoint(tmp_path / f"MIMO-UNet_1_{step}.ckpt", {"a": np.ones(3, np.float32)}, meta)
    Run(tmp_path, [result()], first=12, save=(1,), checkpoints=checkpoints(tmp_path, 3))()
    assert numbered(tmp_path) == [11, 12, 13]


# ---- curves and progress


def test_curves_are_drawn_at_validation_and_at_the_end(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        callback, "save_curves", lambda path, logs: drawn.append((path.name, logs[tmp_path.name]["step"]))
    )
    Run(tmp_path, [result()] * 3, validate=2)()
    assert drawn == [("curves.png", [1, 2]), ("curves.png", [1, 2, 3])]


def test_without_matplotlib_a_run_ends_without_curves(tmp_path, monkeypatch):
    Run(tmp_path, [result()] * 3)()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    (tmp_path / "curves.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert Run(tmp_path, [result()] * 3)().columns("step") == [[1, 2, 3, 1, 2, 3]]
    assert not (tmp_path / "curves.png").exists()


def test_curves_that_cannot_be_written_and_an_edited_log_are_reported_once_and_end_nothing(tmp_path, capsys):
    (tmp_path / "curves.png").mkdir()
    run = Run(tmp_path, [result()] * 3, validate=1)
    with open(run.log.path, "a") as f:
        f.write("# a note\n")
    run()
    edited, curves = capsys.readouterr().out.splitlines()
    assert edited.startswith(f"{run.log.path}: got line 2 ('# a note'), expected")
    assert curves.startswith(f"{tmp_path / 'curves.png'} cannot be written (") and "continues without it" in curves
    assert run.columns("step") == [[1, 2, 3]]


def test_progress_away_from_a_terminal(tmp_path, fake_time, capsys):
    def step(number):
        fake_time.now += 4 if number > 1 else 20  # the first compiles

    Run(tmp_path, [result(2.0)] * 6, first=100, epoch=50, stop=106, before=step, progress=Progress(100, 106))()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("compiling")
    # One in ten seconds, and the last.
    assert [line.split()[3] for line in lines[1:]] == ["101/106", "104/106", "106/106"]
    assert "loss 2.0000 (content 1.0000, fft 20.000) lr 1.00e-04 20.00 s/step (data 0%), 0:01:40 left" in lines[1]
    assert lines[2].endswith("0:00:08 left") and lines[-1].endswith("0:00:00 left")


@pytest.mark.parametrize("wait, words", [(3, "data-bound: 75% of the time"), (0.2, "")])
def test_waiting_for_data_is_reported_once_when_it_takes_long(fake_time, capsys, wait, words):
    progress = Progress(0, 60)
    progress.start()
    for step in range(1, 61):
        fake_time.now += 1 + wait
        seconds = (9e9, 9e9) if step == 1 else (1 + wait, wait)  # the first waits for the workers and the compiler
        reading = readings(result(), first=step)[0]
        reading.values.update(zip(("seconds_per_step", "data_wait"), seconds, strict=True))
        state = RunState(0, 50, 60, 60)
        state.advance(step - 1)
        state.advance(step)
        progress.show(state, [reading])
    out = capsys.readouterr().out
    assert out.count("data-bound: ") == bool(words) and words in out
    assert f"{1 + wait:.2f} s/step (data {wait / (1 + wait):.0%})" in out
    if words:
        assert "try --pack (python -m src.preprocessing --pack ...) / --num_worker" in out
        assert len(out.split("data-bound")[0].splitlines()) < len(out.splitlines()) - 5


def test_progress_of_a_sink_past_the_end(tmp_path, fake_time, capsys):
    def sink(_):
        fake_time.now += 60

    Run(tmp_path, [result(2.0)] * 200, epoch=50, stop=150, sink=100, before=sink, progress=Progress(0, 150))()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("epoch 4 step 200/150") and lines[-1].endswith("0:00:00 left")
