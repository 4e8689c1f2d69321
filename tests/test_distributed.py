"""Several ranks as real processes, through the launch script."""

import shutil
import signal
import socket
import sys

import numpy as np
import psutil
import pytest
from PIL import Image
from real_runs import (
    PLAIN,
    ROOT,
    TIMEOUT,
    end,
    left_behind,
    log_rows,
    logged_steps,
    start,
    train,
    wait_for_step,
)

from src.checkpoint import read_checkpoint

LAUNCHERS = [
    "msrun",
    pytest.param("mpirun", marks=pytest.mark.skipif(not shutil.which("mpirun"), reason="mpirun is not installed")),
]
DISTRIBUTED = [o for o in PLAIN if o not in ("--device_target", "CPU", "--dataset_root", "data")]
# What each rank holds at the end, as a hash, written by the ranks themselves.
SPY = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import train
from src import training
from src.errors import run_main

original = training.build_loop

def build_loop(config, runtime, interrupts, plan, step, *args):
    loop = original(config, runtime, interrupts, plan, step, *args)

    class Spy(type(loop)):
        def on_train_end(self, run_context):
            super().on_train_end(run_context)
            digest = hashlib.sha256()
            for p in step.get_parameters():
                digest.update(p.asnumpy().tobytes())
            Path(f"hash_{{runtime.rank}}").write_text(digest.hexdigest())

    loop.__class__ = Spy
    return loop

training.build_loop = build_loop
run_main(train.main)
"""


# Each rank draws the numbers of both, and holds the means that it gets against its own.
REDUCE = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from mindspore import Parameter, Tensor
from src import device
from src.train_step import ReduceEach, ReduceTogether

rank = device.setup("CPU", distributed=True).rank
shapes = [(3,), (4, 3, 2, 2), (1,), (5, 7), (2, 1, 1, 1)]
drawn = [[np.random.default_rng(r).normal(size=s).astype(np.float32) for s in shapes] for r in (0, 1)]
losses, *gradients = (Tensor(a) for a in drawn[rank])
parameters = tuple(Parameter(g, name=f"p{{i}}") for i, g in enumerate(gradients))
for reduce in (ReduceEach(parameters, 2), ReduceTogether(2)):
    mean_losses, mean_gradients = reduce(losses, tuple(gradients))
    for got, one, two in zip([mean_losses, *mean_gradients], *drawn, strict=True):
        np.testing.assert_allclose(got.asnumpy(), (one + two) / 2, rtol=1e-6, atol=1e-7)
print("equal on rank", rank)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A data set of 27 training and 5 test pairs, and the run of a single process: batch 4, ten steps, two scores."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    for split, count in (("train", 27), ("test", 5)):  # 27: three are left over in each epoch
        for i in range(count):
            sharp = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            blur = ((sharp.astype(int) + np.roll(sharp, 1, 1)) // 2).astype(np.uint8)
            for kind, image in (("blur", blur), ("sharp", sharp)):
                path = folder / "data" / split / kind / f"{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    train("one", *PLAIN, *RUN, "--train_batch_size", 4, cwd=folder)
    return folder


RUN = ["--epochs_num", 2, "--max_steps", 10, "--val_acc_monitor_interval", 1, "--val_first"]


def launch(folder, launcher, *options, cwd, ranks=2):
    command = ["bash", ROOT / "scripts/run_distribute_train_cpu.sh", "data", folder, ranks, "--launcher", launcher]
    return start([str(o) for o in [*command, *DISTRIBUTED, *options]], cwd, cwd / f"{folder}.txt")


def launch_a_long_run(launcher, work, folder):
    """Start two ranks in a folder of their own and wait for step 3: (process, log)."""
    shutil.copytree(work / "data", folder / "data")
    log = folder / "run.txt"
    process = launch("run", launcher, "--epochs_num", 100, cwd=folder)
    try:
        wait_for_step(folder / "run", 3, process, log)
    except AssertionError:
        end(process)
        raise
    return process, log


def finish(process, log, expect=0, timeout=TIMEOUT):
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    try:
        status = process.wait(timeout)
    finally:
        end(process)
    text = log.read_text()
    assert (status == 0) == (expect == 0) and (expect is None or status == expect), f"exit {status}\n{text[-4000:]}"
    assert left_behind(family) == []
    return text


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_are_one_process_with_twice_the_batch(launcher, work):
    folder = f"two_{launcher}"
    text = finish(launch(folder, launcher, *RUN, "--train_batch_size", 2, cwd=work), work / f"{folder}.txt")
    assert "[INFO] DISTRIBUTED" not in text
    assert "2 rank(s): 6 steps per epoch" in text  # the last 3 of 27 are dropped, as in one process
    assert text.count("settings:") == text.count("stopped at step 10 of 12") == 1  # rank 0 alone speaks
    one, two = log_rows(work / "one"), log_rows(work / folder)
    assert [row[:2] for row in two] == [row[:2] for row in one] and len(two) == 11
    for a, b in zip(one[1:], two[1:], strict=True):
        assert float(b[2]) == pytest.approx(float(a[2]), rel=1e-5)  # the loss
    # The first score is that of the same weights; the second is that of nearly the same.
    assert float(two[0][-2]) == pytest.approx(float(one[0][-2]), abs=1e-6)
    assert float(two[6][-2]) == pytest.approx(float(one[6][-2]), abs=1e-2)
    (single, _), (double, meta) = (read_checkpoint(work / run / "last.ckpt") for run in ("one", folder))
    assert meta["step"] == 10
    for name, value in single.items():
        np.testing.assert_allclose(double[name], value, rtol=1e-3, atol=2e-5, err_msg=name)
    samples = sorted(str(p.relative_to(work / folder)) for p in (work / folder).glob("samples/*/*"))
    assert samples == [f"samples/{step:08}/{i:02}.png" for step in (0, 6) for i in (0, 2, 4)]  # those of rank 0
    assert not list((work / folder).glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_stops_all_ranks_at_one_step_with_equal_weights_saved(launcher, work, tmp_path):
    process, log = launch_a_long_run(launcher, work, tmp_path)
    process.send_signal(signal.SIGTERM)
    text = finish(process, log, expect=143, timeout=90)
    step = read_checkpoint(tmp_path / "run/last.ckpt")[1]["step"]
    assert step >= 3 and logged_steps(tmp_path / "run")[-1] == step
    assert f"stopped at step {step} of 600" in text and "--resume auto" in text


def run_on_two_ranks(code, *options, cwd):
    """Run a script, given as text, by msrun; returns what rank 0 printed."""
    (cwd / "script.py").write_text(code.format(root=str(ROOT)))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    msrun = [
        shutil.which("msrun", path=str(ROOT / ".venv/bin")) or "msrun",
        "--worker_num=2",
        "--local_worker_num=2",
        "--master_addr=127.0.0.1",
        f"--master_port={port}",
        "--log_dir=logs",
        "--join=True",
    ]
    command = ["env", f"PATH={ROOT / '.venv/bin'}:/usr/bin:/bin", sys.executable, *msrun, "script.py", *options]
    finish(start(command, cwd, cwd / "out.txt"), cwd / "out.txt")
    return (cwd / "logs/worker_0.log").read_text()


@pytest.mark.slow
def test_both_ways_to_reduce_give_the_means_of_the_ranks(tmp_path):
    assert "equal on rank 0" in run_on_two_ranks(REDUCE, cwd=tmp_path)


@pytest.mark.slow
def test_weights_are_equal_on_all_ranks(work, tmp_path):
    shutil.copytree(work / "data", tmp_path / "data")
    options = ["--is_train_distributed", "--max_steps", "4", "--ckpt_save_directory", "run", "--ema_decay", "0.9"]
    run_on_two_ranks(SPY, *PLAIN, *options, cwd=tmp_path)
    assert (tmp_path / "hash_0").read_text() == (tmp_path / "hash_1").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_is_killed_ends_the_run_and_is_named(launcher, work, tmp_path):
    process, log = launch_a_long_run(launcher, work, tmp_path)
    ranks = psutil.Process(process.pid).children(recursive=True)
    next(p for p in ranks if is_rank(p, "1")).kill()
    text = finish(process, log, expect=None, timeout=60)
    assert process.returncode not in (0, None)
    error = text.splitlines()[-1]
    assert error.startswith(f"error: {launcher} ended with status ") and " rank 1" in error and "with -9; " in error
    assert "run_logs" in error
    assert left_behind(ranks) == []


def is_rank(process, number):
    env, words = process.environ(), process.cmdline()
    if not any(w.endswith("train.py") for w in words) or any("msrun" in w or "mpirun" in w for w in words[:3]):
        return False
    mine = env.get("OMPI_COMM_WORLD_RANK") or (env.get("RANK_ID") if env.get("MS_ROLE") == "MS_WORKER" else None)
    return mine == number


@pytest.mark.slow
def test_more_ranks_than_the_data_set_can_feed(work, tmp_path):
    shutil.copytree(work / "data", tmp_path / "data")
    process = launch("run", "msrun", "--train_batch_size", 20, cwd=tmp_path)
    text = finish(process, tmp_path / "run.txt", expect=None)
    assert process.returncode != 0
    assert "--train_batch_size 20 on each of 2 ranks needs 40 training pairs, got 27" in text
    assert not (tmp_path / "run").exists()
