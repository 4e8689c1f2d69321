"""One training per run folder: what other processes see of the lock, however its holder ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from src import run_folder, run_lock
from src.config import ROOT
from src.errors import UserError
from tests.data_trees import error_of

# Holds the folder until its input ends. `worker` leaves a child behind, as a loader's worker is; `restart` replaces the
# process while it holds, as src.errors.Restart does.
HOLDER = """
import os, sys, time
from pathlib import Path
from src import run_lock
folder, mode = sys.argv[1:]
with run_lock.hold(Path(folder)):
    if mode == "restart":
        os.execv(sys.executable, [*sys.orig_argv[:-1], ""])
    child = os.fork() if mode == "worker" else 0
    if mode == "worker" and not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """start(folder, mode) -> (process that holds the folder, process number of its worker or 0)."""
    started = []

    def hold(folder, mode=""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), mode],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, int(process.stdout.readline())

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def end(process):
    process.communicate(timeout=60)
    assert process.returncode == 0


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_second_training_is_refused_until_the_first_ends(start, tmp_path):
    folder = tmp_path / "run"
    process, _ = start(folder)
    expected = (
        f"--ckpt_save_directory {folder}: process {process.pid} on {socket.gethostname()} is training in this folder. "
        f"Wait until it ends, stop it (kill {process.pid}), or name another folder."
    )
    (folder / "config.yaml").write_text("old")
    for overwrite, resume in ((False, ""), (True, ""), (False, "auto")):
        assert error_of(run_folder.check, folder, overwrite, resume) == expected
        assert error_of(lambda o=overwrite, r=resume: run_folder.hold(folder, o, r).__enter__()) == expected
    assert names(tmp_path) == ["run"] and process.poll() is None
    end(process)
    assert names(folder) == ["config.yaml"]
    with run_folder.hold(folder, overwrite=True):
        pass


def test_kill_9_frees_the_folder_though_a_worker_lives_on(start, tmp_path):
    process, worker = start(tmp_path / "run", "worker")
    process.kill()
    process.wait()
    try:
        assert psutil.Process(worker).is_running()
        with run_lock.hold(tmp_path / "run"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_restarted_process_does_not_block_itself(start, tmp_path):
    process, _ = start(tmp_path / "run", "restart")
    assert f"process {process.pid} on" in error_of(run_lock.refuse_held, tmp_path / "run")
    end(process)


def test_a_run_renamed_aside_is_free_and_the_new_folder_held(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("old")
    with run_folder.hold(folder, overwrite=True):
        run_folder.begin(folder, "seed: 1\n", "1")
        assert names(tmp_path / "run.old1") == ["config.yaml"] and names(folder) == [
            ".lock",
            "config.yaml",
            "versions.json",
        ]
        second = [sys.executable, "-c", HOLDER, str(folder), ""]
        found = subprocess.run(second, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert f"process {os.getpid()} on" in found.stderr.splitlines()[-1]
        (folder / "config.yaml").write_text("new")
    assert names(folder) == ["config.yaml", "versions.json"]


def test_a_run_that_came_and_went_since_the_check_is_not_renamed_aside(tmp_path):
    folder = run_folder.check(tmp_path / "run", overwrite=False)
    folder.mkdir()
    (folder / "log.csv").write_text("of another training")
    with pytest.raises(UserError, match="already holds a run"), run_folder.hold(folder, overwrite=False):
        raise AssertionError("in the folder of another run")
    assert names(tmp_path) == ["run"] and names(folder) == ["log.csv"]


def test_a_new_folder_that_stays_empty_goes(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock.hold(tmp_path / "run"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, capsys):
    def lockf(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", lockf)
    run_lock.refuse_held(tmp_path)
    with run_lock.hold(tmp_path):
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{tmp_path}: this file system has no locks (No locks available): make sure that no ")
    assert names(tmp_path) == []


@pytest.mark.parametrize("left, lines", [("elsewhere 12\n", 1), (f"{socket.gethostname()} 12\n", 0), ("\0\xff", 0)])
def test_what_a_killed_training_left_is_reported_where_the_disk_may_not_share_locks(left, lines, tmp_path, capsys):
    (tmp_path / ".lock").write_text(left, encoding="latin-1")
    with run_lock.hold(tmp_path):
        out = capsys.readouterr().out.splitlines()
        assert len(out) == lines and all("process 12 on elsewhere was training here" in line for line in out)
    assert names(tmp_path) == []


def test_something_else_under_the_name_of_the_lock(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(UserError, match=r"\.lock: cannot open this lock file \(Is a directory\)"),
        run_lock.hold(tmp_path),
    ):
        pass
    assert Path(tmp_path / ".lock").is_dir()
