"""What the tests of real training processes share: a tiny data set, starting, waiting for a step, comparing results."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
TINY = ["--device_target", "CPU", "--num_res", "1", "--crop_size", "32", "--dataset_root", "data", "--num_worker", "1"]
PLAIN = [*TINY, "--train_batch_size", "2", "--log_frequency", "1", "--val_acc_monitor_interval", "0"]
TIMEOUT = 600  # of a process that takes ten seconds on an idle machine


def train_command(*options):
    return [sys.executable, str(ROOT / "train.py"), *map(str, options)]


def start(command, cwd, log, graph="", **kwargs):
    """Start a process in a group of its own; its output goes to the file `log`.

    The first run with a name `graph` leaves its compiled graph to the others of that name, which start in half the
    time. They must have the same network, batch, precision and data set.
    """
    env = {k: v for k, v in os.environ.items() if k != "GLOG_v"}
    if graph:
        env |= {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(Path(cwd).parent / f"graph_{graph}")}
    with open(log, "w") as f:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdout=f,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **kwargs,
        )


def train(folder, *options, cwd, expect=0, **kwargs):
    """Run train.py to its end; returns what it printed."""
    log = Path(cwd) / f"{Path(folder).name}.txt"
    process = start(train_command("--ckpt_save_directory", folder, *options), cwd, log, **kwargs)
    try:
        status = process.wait(TIMEOUT)
    finally:
        end(process)
    text = log.read_text()
    assert status == expect, f"exit {status}\n{text[-4000:]}"
    return text


def end(process):
    """Kill a process that is still there, with all it has started."""
    if process.poll() is None:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        process.wait()


def wait_for(condition, process, log, timeout=TIMEOUT):
    """Wait until `condition()` holds while the process lives."""
    limit = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}\n{Path(log).read_text()[-3000:]}"
        assert time.monotonic() < limit, f"nothing came\n{Path(log).read_text()[-3000:]}"
        time.sleep(0.02)


def logged_steps(folder):
    """Steps whose rows of log.csv are written."""
    try:
        with open(Path(folder) / "log.csv", newline="") as f:
            return [int(row["step"]) for row in csv.DictReader(f) if row["step"]]
    except FileNotFoundError:
        return []


def wait_for_step(folder, step, process, log):
    wait_for(lambda: (logged_steps(folder) or [-1])[-1] >= step, process, log)


def left_behind(processes, patience=60):
    """Those of `processes` that still run after a while, by their command lines."""
    limit = time.monotonic() + patience
    while True:
        alive = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not alive or time.monotonic() > limit:
            return [p.as_dict(("pid", "status", "cmdline")) for p in alive]
        time.sleep(0.2)


UNTIMED = ("epoch", "step", "loss", "content", "fft", "lr", "scale", "grad_norm", "skipped", "psnr", "psnr_input")


def log_rows(folder):
    """Rows of log.csv, as text, without the times."""
    with open(Path(folder) / "log.csv", newline="") as f:
        return [tuple(row[name] for name in UNTIMED) for row in csv.DictReader(f)]


def assert_same_run(one, other, name="last.ckpt"):
    """Equal in every bit: all arrays of the checkpoint, where it stands, and the log."""
    from src.checkpoint import read_checkpoint

    (arrays, meta), (arrays2, meta2) = (read_checkpoint(Path(folder) / name) for folder in (one, other))
    assert arrays.keys() == arrays2.keys()
    different = [key for key in arrays if not np.array_equal(arrays[key], arrays2[key])]
    assert not different, f"{len(different)} of {len(arrays)} arrays differ, such as {different[0]}"
    assert [meta[k] for k in ("epoch", "step", "best_psnr")] == [meta2[k] for k in ("epoch", "step", "best_psnr")]
    assert log_rows(one) == log_rows(other)
