"""What goes wrong in a long run, done to real processes: signals, dead workers, kill -9, damaged files, full disks."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import write_dataset
from real_runs import (
    PLAIN,
    assert_same_run,
    end,
    left_behind,
    log_rows,
    logged_steps,
    start,
    train,
    train_command,
    wait_for,
    wait_for_step,
)

from src.checkpoint import read_checkpoint
from src.run_log import read_log

LONG = [*PLAIN, "--epochs_num", 500, "--ckpt_save_frequency", 500]


@pytest.fixture
def running(make_dataset, tmp_path):
    """Start a long run and wait until some steps are logged: running(options) -> (process, log)."""
    make_dataset(train=9, test=1, root="data")
    started = []

    def run(*options, step=3):
        log = tmp_path / "run.txt"
        process = start(train_command("--ckpt_save_directory", "run", *LONG, *options), tmp_path, log, "plain")
        started.append(process)
        wait_for_step(tmp_path / "run", step, process, log)
        return process, log

    yield run
    for process in started:
        end(process)


# ---- signals


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signal_to_the_group_finishes_the_step_saves_and_leaves_nobody(number, status, running, tmp_path):
    process, log = running("--num_worker", 2)
    children = psutil.Process(process.pid).children(recursive=True)
    # All threads but the one that waits for them hold the signals back: else one of them might run a handler of
    # MindSpore's, which makes every Ctrl-C a SIGTERM.
    masks = [re.search(r"SigBlk:\t(\w+)", f.read_text())[1] for f in Path(f"/proc/{process.pid}/task").glob("*/status")]
    assert len(masks) > 4 and sum(mask[-4:] == "4003" for mask in masks) >= len(masks) - 1
    os.killpg(process.pid, number)
    assert process.wait(60) == status, log.read_text()
    text = log.read_text()
    step = read_checkpoint(tmp_path / "run/last.ckpt")[1]["step"]
    assert f"stopped at step {step} of 2000" in text and "Traceback" not in text
    assert f"--ckpt_save_directory {tmp_path / 'run'} --resume auto" in text
    assert read_log(tmp_path / "run/log.csv")["step"][-1] == step
    assert left_behind(children) == []


@pytest.mark.slow
def test_second_training_in_the_folder_of_a_live_one_is_refused_and_harms_nothing(running, tmp_path):
    process, _ = running()
    first = log_rows(tmp_path / "run")
    for number, options in enumerate((["--overwrite"], ["--resume", "auto"], [])):
        second, log = ["--ckpt_save_directory", "run", *LONG, *options], tmp_path / f"second{number}.txt"
        if "auto" in options:
            second = ["--ckpt_save_directory", "run", *options]
        other = start(train_command(*second), tmp_path, log)
        assert other.wait(120) == 2
        error = log.read_text().splitlines()[-1]
        assert error.startswith("error: --ckpt_save_directory ") and f": process {process.pid} on " in error
    process.kill()
    process.wait()
    assert not (tmp_path / "run.old1").exists() and log_rows(tmp_path / "run")[: len(first)] == first
    train("run", *LONG, "--overwrite", "--max_steps", 1, cwd=tmp_path, graph="plain")  # the kill has freed the folder
    assert sorted(p.name for p in tmp_path.glob("run*/.lock")) == [] and (tmp_path / "run.old1/log.csv").exists()


# ---- files

SHORT = [*PLAIN, "--epochs_num", 2, "--ckpt_save_steps", 1]


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A folder with a data set, a run that was stopped after 4 of 8 steps, and the same run to its end."""
    folder = tmp_path_factory.mktemp("half")
    write_dataset(folder / "data", train=9, test=0)
    train("half", *SHORT, "--max_steps", 4, cwd=folder)
    shutil.copytree(folder / "half", folder / "whole", copy_function=shutil.copy2)
    train("whole", "--resume", "auto", cwd=folder, graph="plain")
    return folder


def fresh_copy(half, tmp_path):
    shutil.copytree(half / "data", tmp_path / "data")
    shutil.copytree(half / "half", tmp_path / "run", copy_function=shutil.copy2)
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_last_checkpoint_is_named_and_the_run_still_ends_as_it_would(damage, half, tmp_path):
    run = fresh_copy(half, tmp_path)
    content = bytearray((run / "last.ckpt").read_bytes())
    content[len(content) // 3] ^= 1
    (run / "MIMO-UNet_1_4.ckpt").unlink()
    (run / "last.ckpt").write_bytes(content if damage == "flip" else content[: len(content) // 2])
    os.utime(run / "last.ckpt")
    text = train("run", "--resume", "auto", cwd=tmp_path, graph="plain")
    assert f"skipped: {run / 'last.ckpt'} is damaged" in text and "epoch 1, step 3" in text
    assert_same_run(run, half / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_full_disk_while_saving_keeps_the_old_files_and_can_be_resumed(kind, half, tmp_path):
    """A limit on the size of a file, which any user can set, and a small disk, which needs root."""
    run = fresh_copy(half, tmp_path)
    options = {}
    if kind == "disk":
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(disk)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("cannot mount a small disk here")
        moved = disk / "run"
    else:
        moved = run
        options = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))}
    try:
        if kind == "disk":
            shutil.copytree(run, moved, copy_function=shutil.copy2)
        size = (run / "last.ckpt").stat().st_size
        assert size > 10 << 20
        before = {p.name: p.read_bytes() for p in moved.glob("*.ckpt")}
        text = train(moved, "--resume", "auto", cwd=tmp_path, expect=2, graph="plain", **options)
        error = text.splitlines()[-1]
        assert error.startswith("error: ") and ".ckpt" in error and "Traceback" not in text
        assert ("No space" in error) or ("too large" in error) or ("space" in error)
        for name in ("last.ckpt",):
            assert read_checkpoint(moved / name)
        assert kind == "disk" or {p.name: p.read_bytes() for p in moved.glob("*.ckpt")} == before
        assert not list(moved.glob(".*"))
        if kind == "disk":
            subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        train(moved, "--resume", "auto", cwd=tmp_path, graph="plain")
        assert_same_run(moved, half / "whole")
    finally:
        if kind == "disk":
            subprocess.run(["umount", "-l", str(disk)], check=False)


# ---- kill -9

KILLS = 10


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(make_dataset, tmp_path):
    """A checkpoint every step: each kill may cost the step at hand and no more, and the end is that of a run that was
    never killed. Four kills come at start-up, the others while steps and saves alternate."""
    make_dataset(train=9, test=1, root="data")
    options = [*PLAIN, "--epochs_num", 12, "--ckpt_save_steps", 1, "--keep_checkpoint_max", 2]  # 48 steps
    options += ["--val_acc_monitor_interval", 4]
    train("whole", *options, cwd=tmp_path, graph="kills")
    rng = random.Random(0)
    run, log = tmp_path / "run", tmp_path / "run.txt"

    def last_step():
        found = [read_checkpoint(p)[1]["step"] for p in (run / "last.ckpt",) if p.exists()]
        return found[0] if found else 0

    command = train_command("--ckpt_save_directory", "run", *options, "--resume", "auto")
    reached = 0
    for kill in range(KILLS):
        process = start(command, tmp_path, log, "kills")
        try:
            if kill % 5 in (2, 4):
                time.sleep(rng.uniform(0.5, 5))
            else:
                before = os.stat(run / "log.csv").st_mtime_ns if (run / "log.csv").exists() else 0
                target = reached + rng.choice((1, 2, 3))
                wait_for(lambda b=before, t=target: grown(run, b, t), process, log)
                time.sleep(rng.uniform(0, 0.25))  # a step takes about as long, and so does a save
            assert process.poll() is None, log.read_text()
        finally:
            end(process)
        assert process.returncode == -signal.SIGKILL
        now = last_step()
        assert now >= reached, f"kill {kill + 1}: {reached} steps were saved, now {now}"
        assert now >= max(logged_steps(run), default=0) - 1  # one step at most is lost
        reached = now
    assert reached > KILLS // 2
    assert reached < 48, "the run was over before all kills were done"
    text = train("run", *options, "--resume", "auto", cwd=tmp_path, graph="kills")
    assert f"step {reached}" in text
    assert_same_run(tmp_path / "whole", run)


def grown(run, before, step):
    log = run / "log.csv"
    try:
        return log.stat().st_mtime_ns != before and log_rows(run)[-1][1] == str(step)
    except (FileNotFoundError, IndexError):
        return False


# ---- numbers that go wrong


@pytest.mark.slow
def test_overflows_are_skipped_counted_and_end_the_run_when_they_do_not_cease(make_dataset, tmp_path):
    make_dataset(train=9, test=1, root="data")
    options = [*PLAIN, "--epochs_num", 2, "--amp_level", "O3"]
    text = train("huge", *options, "--loss_scale", "1e30", "--max_overflows", 3, cwd=tmp_path, expect=2)
    error = text.splitlines()[-1]
    assert error.startswith(
        "error: 4 consecutive steps overflowed (--max_overflows 3) at epoch 1, step 4, lr 1.00e-04,"
    )
    assert "scale 1e+30" in error and error.count(".png") == 2 and "Traceback" not in text
    columns = read_log(tmp_path / "huge/log.csv")
    assert columns["skipped"] == [1.0] * len(columns["step"]) and columns["step"][:3] == [1, 2, 3]
    train("dynamic", *options, cwd=tmp_path)
    columns = read_log(tmp_path / "dynamic/log.csv")
    assert columns["scale"][0] == 2.0**16 and len(columns["step"]) == 8
    skipped = int(sum(columns["skipped"]))
    arrays, _ = read_checkpoint(tmp_path / "dynamic/last.ckpt")
    assert arrays["skipped_steps"] == skipped and columns["scale"][-1] <= 2.0**16
