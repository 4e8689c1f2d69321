"""Exact resume. The refusals run in this process; what must repeat bit for bit runs in real ones."""

import json
import os
import shlex
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_dataset
from mindspore import nn
from real_runs import PLAIN, ROOT, TINY, assert_same_run, end, logged_steps, start, train, train_command, wait_for_step

import convert
import deblur
import eval as eval_script
import export
import train as train_script
from src import resume, run_folder, run_log
from src.checkpoint import read_checkpoint, save_checkpoint
from src.config import Config, Launch, load_config, option_fields
from src.data.pairs import Pair
from src.errors import UserError

# ---- whether the options fit


def description(world_size=1, names=("a", "b", "c"), **options):
    pairs = [Pair(name, None, None) for name in names]
    return resume.describe_run(Config().with_options(**options).options(), pairs, world_size, steps_per_epoch=5)


def differences(then, now):
    return resume.check_compatible(description(**then), description(**now))


def test_equal_runs_have_no_differences():
    assert differences({"seed": 3}, {"seed": 3}) == []
    assert differences({}, {"num_worker": 1, "log_frequency": 1, "resume": "auto", "keep_checkpoint_max": 9}) == []


def test_names_that_are_no_utf8_differ():
    first = {"names": ("caf\udce9",)}
    assert differences(first, first) == []
    assert "the training pairs differ" in differences(first, {"names": ("caf\udce8",)})[0]


@pytest.mark.parametrize(
    "name,value",
    [("model_name", "MIMO-UNetPlus"), ("seed", 2), ("crop_size", 128), ("learning_rate", 2e-4), ("fft_weight", 0.0),
     ("clip_norm", 1.0), ("ema_decay", 0.9), ("amp_level", "O3"), ("lr_decay_epochs", 9), ("random_rotate90", True)],
)  # fmt: skip
def test_each_option_that_shapes_the_result_is_named(name, value):
    assert differences({}, {name: value}) == [f"--{name} was {Config().options()[name]}, is {value}"]


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
    assert "pairs differ from before" in differences({}, {"names": ("a", "b", "d")})[0]


def test_data_in_another_place_are_reported_and_allowed_where_the_pairs_are_the_same():
    then = {"train_list": "/disk/a.txt", "dataset_root": "/disk"}
    for now in ({"train_list": "/b.txt", "dataset_root": "/c"}, {"blur_directory": "/c", "sharp_directory": "/d"}):
        assert differences(then, now) == []
    assert "pairs differ from before" in differences(then, {"train_list": "/b.txt", "names": ("a", "b", "d")})[0]
    moved = resume.moved_data(description(**then), description(train_list="/b.txt", dataset_root="/disk"))
    assert moved == ["the data have moved: --train_list was /disk/a.txt, is /b.txt"]
    relative = description(train_list="a.txt", dataset_root="")  # as older versions kept them
    assert resume.moved_data(relative, description(**then)) == []


def test_the_advice_at_the_end_is_a_command_for_wherever_the_user_is(tmp_path, monkeypatch):
    plan = resume.Plan(tmp_path / "a run", 2, 0, 3, 4, None, {}, None, None, {})
    for folder, script in ((ROOT, "train.py"), (tmp_path, str(ROOT / "train.py"))):
        monkeypatch.chdir(folder)
        advice = resume.closing_words(plan, 3, 1).splitlines()[-1]
        command = ["python", script, "--ckpt_save_directory", str(tmp_path / "a run"), "--resume", "auto"]
        assert shlex.split(advice.removeprefix("to continue: ")) == command


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


def test_a_run_of_an_earlier_version_resumes(tmp_path, capsys):
    """Its files list fewer options, in another order; `last.ckpt` is made here from what that version wrote into it."""
    folder = shutil.copytree(Path(__file__).parent / "data" / "earlier_run", tmp_path / "run")
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    config = load_config("train", ["--ckpt_save_directory", str(folder), "--resume", "auto"])
    options = config.options()
    changed = {name for name, value in recorded.items() if options[name] != value}
    assert options.keys() >= recorded.keys() and changed == {"ckpt_save_directory", "resume", "max_steps"}

    pairs = [Pair(f"{n}", None, None) for n in range(8)]
    now = resume.describe_run(options, pairs, world_size=1, steps_per_epoch=4)
    identity = json.loads((folder / "versions.json").read_text())["run"]
    stated = {"epoch": 2, "step": 6, "best_psnr": None, "log_part": {}, "run": identity, "launch": 1}
    trained = {f.name: recorded[f.name] for f in option_fields("train") if f.name in recorded}
    save_checkpoint(folder / "last.ckpt", {"global_step": np.int32(6)}, now | stated | {"config": trained})

    plan = resume.make_plan(nn.Cell(), folder, now, config.launch)
    assert (plan.first_step, plan.stop_step, plan.last_step) == (6, 12, 12)
    assert (plan.description["run"], plan.description["launch"]) == (identity, 2)
    assert capsys.readouterr().out == f"resumed from {folder / 'last.ckpt'}: epoch 2, step 6\n"
    run_folder.begin(folder, config.to_yaml(), identity, plan.saved, False, 4)
    assert run_log.read_log(folder / "log.csv")["step"] == [2, 4, 6]


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
PLUS = [
    "--model_name",
    "MIMO-UNetPlus",
    "--ema_decay",
    0.9,
    "--amp_level",
    "O3",
    "--accumulate_steps",
    2,
    "--train_batch_size",
    1,
    "--clip_norm",
    0.1,
]
# Options, and how each launch loads its data and is stopped at about which step: --max_steps stops at it, SIGTERM soon
# after it. All in the middle of an epoch and of an interval of the log. Every two of variant, number of workers and the
# way to stop meet somewhere.
CASES = {
    "MIMO-UNet": ([], [(1, "max_steps", 6), (2, "SIGTERM", 14), (2, "max_steps", 27),
                       (1, "SIGTERM", 32)]),
    "MIMO-UNetPlus, all extras": (PLUS, [(1, "SIGTERM", 3), (2, "max_steps", 14),
                                         (2, "SIGTERM", 16), (1, "max_steps", 33)]),
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
    for workers, way, step in launches:
        launch = ["--resume", "auto", "--num_worker", workers, *([] if reached else options)]
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


def in_this_process(finished, monkeypatch, *options, folder=("--ckpt_save_directory", "run")):
    """train.main without the training: the plan."""
    import train as script

    plans = []
    monkeypatch.chdir(finished)
    original = resume.make_plan

    def make_plan(*args, **kwargs):
        plans.append(original(*args, **kwargs))
        raise StopIteration

    with monkeypatch.context() as m, pytest.raises(StopIteration):
        m.setattr(resume, "make_plan", make_plan)
        script.main([str(o) for o in (*folder, *options)])
    return plans[0]


REFUSED = {
    "another variant": (["--model_name", "MIMO-UNetPlus"], "--model_name was MIMO-UNet, is MIMO-UNetPlus"),
    "another seed": (["--seed", 2], "--seed was 1, is 2"),
    "two shaping options": (["--fft_weight", 0, "--clip_norm", 1], "--fft_weight was 0.1, is 0.0; --clip_norm was"),
    "fewer images": (["--slice_dataset", 3], "(4 then, 3 now)"),
    "another schedule": (["--lr_schedule", "cosine", "--epochs_num", 3], "--epochs_num was 2, is 3: the cosine"),
    "a missing file": (["--resume", "run/none.ckpt"], "none.ckpt"),
    "a fresh start too": (["--pretrained", "run/last.ckpt"], "cannot be combined with --pretrained"),
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


def test_a_training_holds_its_folder_from_before_it_reads_a_checkpoint(finished, monkeypatch, cpu):
    seen = []
    original = resume.find_checkpoint
    monkeypatch.setattr(
        resume, "find_checkpoint", lambda *args: (seen.append((finished / "run/.lock").read_text()), original(*args))[1]
    )
    in_this_process(finished, monkeypatch, "--resume", "auto")
    assert seen == [f"{socket.gethostname()} {os.getpid()}\n"] and not (finished / "run/.lock").exists()


def test_force_goes_on_all_the_same_and_says_what_differs(finished, monkeypatch, cpu, capsys):
    plan = in_this_process(finished, monkeypatch, "--resume", "auto", "--seed", 2, "--force")
    assert plan.first_step == 4 and "--force: --seed was 1, is 2" in capsys.readouterr().out


@pytest.mark.parametrize("batch, per_epoch, first_step", [(4, 1, 1), (1, 4, 6), (2, 2, 3)])
def test_force_with_another_batch_keeps_the_place_in_the_schedule(
    batch, per_epoch, first_step, finished, monkeypatch, cpu, tmp_path, capsys
):
    from src.init_weights import initial_network
    from src.loss import MultiScaleLoss
    from src.train_step import Adam, TrainStep, make_schedule

    shutil.copytree(finished / "run", tmp_path / "run")
    arrays, meta = read_checkpoint(tmp_path / "run/last.ckpt")
    state = arrays | {"global_step": np.int32(3)}
    save_checkpoint(tmp_path / "run/last.ckpt", state, meta | {"step": 3})  # one epoch and a half
    network = initial_network("MIMO-UNet", 1, 1, "")
    step = TrainStep(
        network, MultiScaleLoss(0.1), Adam(network.trainable_params()), make_schedule("step", 1e-4, 0, 9, 9)
    )
    now = {**meta, "config": meta["config"] | {"train_batch_size": batch}, "batch": batch, "steps_per_epoch": per_epoch}
    plan = resume.make_plan(step, tmp_path / "run", now, Launch(resume=str(tmp_path / "run/last.ckpt"), force=True))
    out = capsys.readouterr().out
    assert (plan.first_step, plan.last_step, step.global_step.asnumpy()) == (first_step, 2 * per_epoch, first_step)
    assert (
        (f"an epoch has {per_epoch} steps, it had 2: " in out)
        == (f"step 3 counts as step {first_step}" in out)
        == (batch != 2)
    )
    # Adam sees the same corrected moments as before
    for number, beta in ((1, 0.9), (2, 0.999)):
        for moment in getattr(step.optimizer, f"moment{number}"):
            expected = arrays[moment.name] / (1 - beta**3) * (1 - beta**first_step)
            np.testing.assert_allclose(moment.asnumpy(), expected, rtol=1e-5)


def test_more_epochs_are_allowed_with_step_decay(finished, monkeypatch, cpu):
    plan = in_this_process(finished, monkeypatch, "--resume", "auto", "--epochs_num", 3)
    assert (plan.first_step, plan.last_step, plan.best) == (4, 6, None)


def test_a_run_is_resumed_from_another_working_directory(finished, monkeypatch, cpu, tmp_path, capsys):
    folder = ["--ckpt_save_directory", finished / "run"]
    plan = in_this_process(tmp_path, monkeypatch, "--resume", "auto", folder=folder)
    assert plan.first_step == 4 and f"4 training pairs from {finished / 'data'}," in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # such as a sample set


def test_a_run_is_continued_where_it_lies_whatever_a_configuration_says(finished, monkeypatch, cpu):
    """Also one that was moved. In an empty folder a checkpoint begins a run of its own, which that checkpoint
    cannot cut back later on."""
    shutil.copytree(finished / "run", finished / "moved/run")
    config = ["--config_path", str(ROOT / "configs/cpu_config.yaml"), "--epochs_num", 3]
    plans = {}
    for name, folder in (("run", []), ("moved/run", []), ("branch", ["--ckpt_save_directory", "branch"])):
        file = "run/last.ckpt" if name == "branch" else f"{name}/last.ckpt"
        plans[name] = in_this_process(finished, monkeypatch, "--resume", file, *config, *folder, folder=[])
        assert plans[name].folder == finished / name and plans[name].first_step == 4
    runs = {name: plan.description["run"] for name, plan in plans.items()}
    assert runs["run"] == runs["moved/run"] == run_folder.identity(finished / "run") != runs["branch"]
    run_folder.begin(plans["branch"].folder, "seed: 1\n", runs["branch"], plans["branch"].saved)
    shutil.copy(finished / "run/last.ckpt", finished / "branch/of_the_run.ckpt")
    for file in ("run/last.ckpt", "branch/of_the_run.ckpt"):
        options = ["--resume", file, *config, "--ckpt_save_directory", "branch"]
        with pytest.raises(UserError, match=f"not of the run in {finished / 'branch'}, whose log"):
            in_this_process(finished, monkeypatch, *options, folder=[])


def test_weights_alone_cannot_be_resumed_from(finished, monkeypatch, cpu, tmp_path):
    arrays, meta = read_checkpoint(finished / "run/last.ckpt")
    weights = {k: v for k, v in arrays.items() if not k.startswith(("moment", "global_step", "skipped"))}
    save_checkpoint(tmp_path / "w.ckpt", weights, meta)
    with pytest.raises(UserError, match="entries are missing: .*moment1.*use --pretrained"):
        in_this_process(finished, monkeypatch, "--resume", tmp_path / "w.ckpt", *TINY, "--train_batch_size", 2)
    save_checkpoint(tmp_path / "w.ckpt", arrays, {})  # from another program
    with pytest.raises(UserError, match="not written by a training.*--pretrained"):
        in_this_process(finished, monkeypatch, "--resume", tmp_path / "w.ckpt", *TINY, "--train_batch_size", 2)


CRAFTED = {
    "train --resume": (train_script, [*TINY, "--ckpt_save_directory", "new", "--resume", "{file}"]),
    "train --resume auto": (train_script, [*TINY, "--ckpt_save_directory", "run", "--resume", "auto"]),
    "train --pretrained": (train_script, [*TINY, "--ckpt_save_directory", "new", "--pretrained", "{file}"]),
    "eval": (eval_script, ["--device_target", "CPU", "--dataset_root", "data", "--ckpt_file", "{file}"]),
    "export": (export, ["--ckpt_file", "{file}", "--export_file_name", "network"]),
    "deblur": (deblur, ["photo.png", "--model", "{file}", "--output", "out"]),
    "convert": (convert, ["{file}", "converted.ckpt"]),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_description_is_one_line_from(case, finished, monkeypatch, cpu, tmp_path, capsys):
    """tests/test_formats_weights.py has more of what may be in one."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", train=4, test=1)
    shutil.copy("data/test/blur/1.png", "photo.png")
    (tmp_path / "run").mkdir()
    arrays, meta = read_checkpoint(finished / "run/last.ckpt")
    save_checkpoint("run/last.ckpt", arrays, meta | {"config": meta["config"] | {"dataset_root": ["a\nb"]}})
    script, options = CRAFTED[case]
    with pytest.raises(UserError) as e:
        script.main([option.format(file="run/last.ckpt") for option in options])
    error, out = str(e.value), capsys.readouterr().out
    refused = "last.ckpt: its description has a list for config.dataset_root, expected a text. "
    assert refused in (out if "auto" in case else error) and "\n" not in error
    assert sorted(p.name for p in Path("run").iterdir()) == ["last.ckpt"]
    assert not Path("new").exists() and not Path("converted.ckpt").exists()


# ---- which checkpoint


def write(folder, name, step, damage=None, **meta):
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
    write(tmp_path, "last.ckpt", 20, damage, launch=2)
    write(tmp_path, "MIMO-UNet_1_10.ckpt", 10, launch=2)
    write(tmp_path, "MIMO-UNet_9_90.ckpt", 90, launch=1)  # the user has gone back to an earlier step
    path, _, meta = resume.find_checkpoint("auto", tmp_path)
    assert (path.name, meta["step"]) == ("MIMO-UNet_1_10.ckpt", 10)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("skipped:") and "last.ckpt" in out


def test_newest_is_what_the_files_state_in_whatever_order_they_were_copied(tmp_path, cpu):
    write(tmp_path, "last.ckpt", 6, steps_per_epoch=2, launch=2)  # resumed with a batch twice as large
    write(tmp_path, "MIMO-UNet_3_6.ckpt", 6, steps_per_epoch=2, launch=2)
    write(tmp_path, "best.ckpt", 5, steps_per_epoch=2, launch=2)
    write(tmp_path, "MIMO-UNet_2_8.ckpt", 8, steps_per_epoch=4, launch=1)
    assert resume.find_checkpoint("auto", tmp_path)[0].name == "last.ckpt"
    (tmp_path / "last.ckpt").unlink()
    assert resume.find_checkpoint("auto", tmp_path)[0].name == "MIMO-UNet_3_6.ckpt"


def test_newest_of_a_run_of_a_version_that_did_not_count_launches(tmp_path, cpu):
    write(tmp_path, "last.ckpt", 20)
    write(tmp_path, "MIMO-UNet_1_10.ckpt", 10)
    write(tmp_path, "MIMO-UNet_9_90.ckpt", 90)  # before the user went back to step 10
    assert resume.find_checkpoint("auto", tmp_path)[0].name == "last.ckpt"


def test_auto_without_a_good_checkpoint(tmp_path, cpu):
    assert resume.find_checkpoint("auto", tmp_path) is None
    write(tmp_path, "last.ckpt", 20, "cut")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        resume.find_checkpoint("auto", tmp_path)


def test_a_named_checkpoint_that_is_damaged_is_an_error(tmp_path, cpu):
    write(tmp_path, "last.ckpt", 20, "flip")
    with pytest.raises(UserError, match="last.ckpt is damaged"):
        resume.find_checkpoint(str(tmp_path / "last.ckpt"), tmp_path)
