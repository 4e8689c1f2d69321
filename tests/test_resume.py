"""Exact resume. The refusals run in this process; what must repeat bit for bit runs in real ones."""

import signal

import pytest
from conftest import write_dataset
from real_runs import PLAIN, TINY, assert_same_run, end, logged_steps, start, train, train_command, wait_for_step

from src import resume
from src.checkpoint import read_checkpoint, save_checkpoint
from src.config import Config
from src.errors import UserError
from src.picture_files import Pair

# ---- whether the options fit


def description(world_size=1, names=("a", "b", "c"), **options):
    pairs = [Pair(name, None, None) for name in names]
    return resume.describe_run(vars(Config(**options)), pairs, world_size, steps_per_epoch=5)


def differences(then, now):
    return resume.check_compatible(description(**then), description(**now))


def test_equal_runs_have_no_differences():
    assert differences({"seed": 3}, {"seed": 3}) == []
    assert differences({}, {"num_worker": 1, "log_frequency": 1, "resume": "auto", "keep_checkpoint_max": 9}) == []


def test_names_that_are_no_utf8_are_told_apart():
    first = {"names": ("caf\udce9",)}
    assert differences(first, first) == []
    assert "the training pairs are others" in differences(first, {"names": ("caf\udce8",)})[0]


@pytest.mark.parametrize(
    "name,value",
    [("model_name", "MIMO-UNetPlus"), ("seed", 2), ("crop_size", 128), ("learning_rate", 2e-4), ("fft_weight", 0.0),
     ("clip_norm", 1.0), ("ema_decay", 0.9), ("amp_level", "O3"), ("lr_decay_epochs", 9), ("random_rotate90", True)],
)  # fmt: skip
def test_each_option_that_shapes_the_result_is_named(name, value):
    assert differences({}, {name: value}) == [f"--{name} was {getattr(Config(), name)}, is {value}"]


def test_several_differences_are_all_named():
    found = " ".join(differences({}, {"seed": 2, "crop_size": 128}))
    assert "--seed was 1, is 2" in found and "--crop_size was 256, is 128" in found


def test_the_batch_counts_as_a_whole():
    two_ranks = {"train_batch_size": 4, "world_size": 2}
    assert differences(two_ranks, {"train_batch_size": 8}) == []
    assert differences(two_ranks, {"train_batch_size": 2, "accumulate_steps": 4}) == []
    assert "was 8, is 4" in differences(two_ranks, {"train_batch_size": 4})[0]


def test_other_images_are_noticed():
    assert "3 then, 2 now" in differences({}, {"names": ("a", "b")})[0]
    assert "others than before" in differences({}, {"names": ("a", "b", "d")})[0]


def test_more_epochs_go_with_step_decay_and_not_with_a_cosine():
    assert differences({"epochs_num": 10}, {"epochs_num": 20}) == []
    cosine = {"lr_schedule": "cosine", "epochs_num": 10}
    assert "--epochs_num was 10, is 20" in differences(cosine, cosine | {"epochs_num": 20})[0]
    assert differences(cosine, cosine) == []


def test_option_that_is_newer_than_the_checkpoint_counts_as_its_default():
    then = description()
    del then["config"]["ema_decay"]
    assert resume.check_compatible(then, description()) == []
    assert resume.check_compatible(then, description(ema_decay=0.5)) == ["--ema_decay was 0.0, is 0.5"]


# ---- the state


def test_results_kept_on_the_device_are_no_state(cpu, tmp_path):
    """A run may go on with another --log_frequency, and on a device that keeps none."""
    from src.loss import MultiScaleLoss
    from src.mimo_unet import build_net
    from src.train_step import Adam, StepDecay, TrainStep

    def make(history):
        network = build_net("MIMO-UNet", 1)
        return TrainStep(
            network, MultiScaleLoss(), Adam(network.trainable_params()), StepDecay(1e-4, 10), history=history
        )

    one, other = make(0), make(7)
    assert resume.training_state(one).keys() == resume.training_state(other).keys()
    resume.restore_state(other, resume.training_state(one), tmp_path)


# ---- real runs

RUN = [*PLAIN, "--epochs_num", 4, "--val_acc_monitor_interval", 2, "--log_frequency", 5]  # 12 steps an epoch
PLUS = ["--model_name", "MIMO-UNetPlus", "--ema_decay", 0.9, "--amp_level", "O3", "--accumulate_steps", 2,
        "--train_batch_size", 1, "--clip_norm", 0.1]  # fmt: skip
# Options, and how each launch loads its data and is stopped at about which step: --max_steps stops at it, SIGTERM soon
# after it. All in the middle of an epoch and of an interval of the log. Every two of variant, number of workers, their
# kind and the way to stop meet somewhere.
CASES = {
    "MIMO-UNet": ([], [(1, "thread", "max_steps", 6), (2, "process", "SIGTERM", 14), (2, "thread", "max_steps", 27),
                       (1, "process", "SIGTERM", 32)]),
    "MIMO-UNetPlus, all extras": (PLUS, [(1, "thread", "SIGTERM", 3), (2, "process", "max_steps", 14),
                                         (2, "thread", "SIGTERM", 16), (1, "process", "max_steps", 33)]),
}  # fmt: skip


def stop_by_signal(folder, step, options, cwd, graph):
    """Go on with the run, and end it by SIGTERM once this step is done; what it printed."""
    log = cwd / "signal.txt"
    process = start(train_command("--ckpt_save_directory", folder, *options), cwd, log, graph)
    try:
        wait_for_step(cwd / folder, step, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143, log.read_text()
    finally:
        end(process)
    return log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one_in_every_bit(case, make_dataset, tmp_path):
    make_dataset(train=25, test=2, root="data")
    extras, launches = CASES[case]
    options = [*RUN, *extras]
    train("whole", *options, cwd=tmp_path)  # compiled afresh
    graph, reached = "" if extras else "resume", 0  # a stored graph forgets the state of the loss scale
    for workers, kind, way, step in launches:
        launch = ["--resume", "auto", "--num_worker", workers, "--worker_type", kind, *([] if reached else options)]
        if way == "SIGTERM":
            out = stop_by_signal("cut", step, launch, tmp_path, graph)
        else:
            out = train("cut", *launch, "--max_steps", step, cwd=tmp_path, graph=graph)
        expected = f"step {reached}\n" if reached else "no checkpoint in"
        assert expected in out and f"steps {reached + 1} to" in out
        reached = read_checkpoint(tmp_path / "cut/last.ckpt")[1]["step"]
        assert f"stopped at step {reached} of 48" in out and "--resume auto" in out
        assert step <= reached < 48 and logged_steps(tmp_path / "cut")[-1] == reached
    out = train("cut", "--resume", "auto", cwd=tmp_path, graph=graph)
    assert f"steps {reached + 1} to 48" in out and "done:" in out
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut", "best.ckpt")
    assert logged_steps(tmp_path / "cut") == sorted([*range(5, 50, 5), 24, 48])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a data set and a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    write_dataset(folder / "data", train=4, test=0)
    train("run", *PLAIN, "--epochs_num", 2, cwd=folder)
    return folder


def test_resuming_a_finished_run_says_so(finished):
    before = (finished / "run/log.csv").read_bytes()
    out = train("run", "--resume", "auto", cwd=finished)
    assert "nothing left to do: step 4 of 4 is done" in out
    assert (finished / "run/log.csv").read_bytes() == before


def in_this_process(finished, monkeypatch, *options):
    """train.main without the training: (plan, printed by the caller's capsys)."""
    import train as script

    plans = []
    monkeypatch.chdir(finished)
    original = resume.make_plan

    def make_plan(*args, **kwargs):
        plans.append(original(*args, **kwargs))
        raise StopIteration

    monkeypatch.setattr(resume, "make_plan", make_plan)
    with pytest.raises(StopIteration):
        script.main([str(o) for o in ("--ckpt_save_directory", "run", *options)])
    return plans[0]


REFUSED = {
    "another variant": (["--model_name", "MIMO-UNetPlus"], "--model_name was MIMO-UNet, is MIMO-UNetPlus"),
    "another seed": (["--seed", 2], "--seed was 1, is 2"),
    "two shaping options": (["--fft_weight", 0, "--clip_norm", 1], "--fft_weight was 0.1, is 0.0; --clip_norm was"),
    "fewer images": (["--slice_dataset", 3], "(4 then, 3 now)"),
    "another schedule": (["--lr_schedule", "cosine", "--epochs_num", 3], "--epochs_num was 2, is 3: the cosine"),
    "a missing file": (["--resume", "run/none.ckpt"], "none.ckpt"),
    "a fresh start too": (["--pretrained", "run/last.ckpt"], "does not go together with --pretrained"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_resume_is_refused_with(case, finished, monkeypatch, cpu):
    options, expected = REFUSED[case]
    if "--resume" not in options:
        options = ["--resume", "auto", *options]
    before = sorted((p, p.stat().st_mtime_ns) for p in (finished / "run").iterdir())
    with pytest.raises(UserError) as e:
        in_this_process(finished, monkeypatch, *options)
    assert expected in str(e.value) and "\n" not in str(e.value)
    assert sorted((p, p.stat().st_mtime_ns) for p in (finished / "run").iterdir()) == before


def test_a_refusal_ends_with_one_line(finished):
    out = train("run", "--resume", "auto", "--seed", 2, cwd=finished, expect=2)
    assert out.splitlines()[-1].startswith("error: --resume") and "--seed was 1, is 2" in out and "--force" in out
    assert "Traceback" not in out


def test_force_goes_on_all_the_same_and_says_what_differs(finished, monkeypatch, cpu, capsys):
    plan = in_this_process(finished, monkeypatch, "--resume", "auto", "--seed", 2, "--force")
    assert plan.first_step == 4 and "--force: --seed was 1, is 2" in capsys.readouterr().out


def test_more_epochs_are_allowed_with_step_decay(finished, monkeypatch, cpu):
    plan = in_this_process(finished, monkeypatch, "--resume", "auto", "--epochs_num", 3)
    assert (plan.first_step, plan.last_step, plan.best) == (4, 6, None)


def test_weights_alone_cannot_be_resumed_from(finished, monkeypatch, cpu, tmp_path):
    arrays, meta = read_checkpoint(finished / "run/last.ckpt")
    weights = {k: v for k, v in arrays.items() if not k.startswith(("moment", "global_step", "skipped"))}
    save_checkpoint(tmp_path / "w.ckpt", weights, meta)
    with pytest.raises(UserError, match="entries are missing: .*moment1.*use --pretrained"):
        in_this_process(finished, monkeypatch, "--resume", tmp_path / "w.ckpt", *TINY, "--train_batch_size", 2)
    save_checkpoint(tmp_path / "w.ckpt", arrays, {})  # from another program
    with pytest.raises(UserError, match="not written by a training.*--pretrained"):
        in_this_process(finished, monkeypatch, "--resume", tmp_path / "w.ckpt", *TINY, "--train_batch_size", 2)


# ---- which checkpoint


def write(folder, name, step, damage=None, **meta):
    import numpy as np

    save_checkpoint(folder / name, {"a": np.ones(1000, np.float32)}, {"epoch": 1, "step": step, **meta})
    content = bytearray((folder / name).read_bytes())
    if damage == "cut":
        (folder / name).write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    elif damage == "empty":
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_auto_takes_the_newest_good_checkpoint_and_names_the_bad_one(damage, tmp_path, cpu, capsys):
    write(tmp_path, "MIMO-UNet_9_90.ckpt", 90)  # of an older, longer run: not the newest
    write(tmp_path, "MIMO-UNet_1_10.ckpt", 10)
    write(tmp_path, "last.ckpt", 20, damage)
    path, _, meta = resume.find_checkpoint("auto", tmp_path)
    assert (path.name, meta["step"]) == ("MIMO-UNet_1_10.ckpt", 10)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("passed over:") and "last.ckpt" in out


def test_auto_without_a_good_checkpoint(tmp_path, cpu):
    assert resume.find_checkpoint("auto", tmp_path) is None
    write(tmp_path, "last.ckpt", 20, "cut")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        resume.find_checkpoint("auto", tmp_path)


def test_a_named_checkpoint_that_is_damaged_is_an_error(tmp_path, cpu):
    write(tmp_path, "last.ckpt", 20, "flip")
    with pytest.raises(UserError, match="last.ckpt is damaged"):
        resume.find_checkpoint(str(tmp_path / "last.ckpt"), tmp_path)
