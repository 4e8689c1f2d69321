"""SIGTERM, SIGHUP and Ctrl-C, sent to real processes: the tests' own process must not be hit."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from src.interrupts import Interrupts, describe

ROOT = Path(__file__).parent.parent


def run(code, *numbers, pause=0.3):
    """Run Python code, send the signals once it has printed `ready`; (exit status, output)."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        lines = [process.stdout.readline()]
        while lines[-1] not in ("", "ready\n"):
            lines.append(process.stdout.readline())
        for number in numbers:
            os.killpg(process.pid, number)
            time.sleep(pause)
        rest, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, "".join(lines) + rest


@pytest.mark.parametrize(
    "number, status, name",
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP"), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_by_default_a_signal_ends_the_process_also_while_it_waits_in_c(number, status, name):
    code = """
    import threading
    from src.interrupts import Interrupts
    with Interrupts():
        print("ready", flush=True)
        lock = threading.Lock()
        lock.acquire()
        lock.acquire(timeout=20)
        print("survived")
    """
    assert run(code, number) == (status, f"ready\n\nstopped by {name}\n")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_work_can_be_interrupted_in_order_and_the_status_says_by_what(number, status):
    code = """
    import time
    from src.errors import run_main
    from src.interrupts import Interrupts, interrupt_main
    def main():
        with Interrupts(interrupt_main):
            try:
                print("ready", flush=True)
                for _ in range(200):
                    time.sleep(0.1)
            finally:
                print("cleaned up", flush=True)
    run_main(main)
    """
    got, text = run(code, number)
    assert got == status and "cleaned up" in text and "Traceback" not in text


NOTED = """
import time
from src.interrupts import Interrupts
with Interrupts(lambda number: print(int(number), flush=True)):
    print("ready", flush=True)
    time.sleep(2)
"""


def test_second_ctrl_c_ends_at_once():
    assert run(NOTED, signal.SIGINT, signal.SIGINT) == (130, "ready\n2\n\nstopped by Ctrl-C\n")


@pytest.mark.parametrize("first, second, status", [
    (signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGHUP, signal.SIGHUP, 129), (signal.SIGTERM, signal.SIGINT, 130),
])  # fmt: skip
def test_second_signal_ends_at_once(first, second, status):
    expected = f"ready\n{int(first)}\n\nstopped by {describe(second)}\n"
    assert run(NOTED, first, second, pause=1) == (status, expected)


def test_one_request_that_is_sent_two_times_over_is_one():
    """As `timeout` does, and systemd with SIGHUP."""
    assert run(NOTED, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, pause=0.02) == (0, "ready\n15\n")


def test_under_nohup_a_closed_terminal_is_no_matter():
    code = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{NOTED}"
    assert run(code, signal.SIGHUP, signal.SIGHUP, pause=0.6) == (0, "ready\n")


@pytest.mark.parametrize("answer, hang", [
    ("end_process", "print('x' * 10_000_000)"),
    ("end_process", "os.write(2, b'x' * 10_000_000)"),
    ("interrupt_main", "open('pipe')"),
    ("lambda number: time.sleep(60)", "open('pipe')"),
])  # fmt: skip
def test_whatever_hangs_a_second_sigterm_ends_it(answer, hang, tmp_path):
    """A read without an end, and output that its reader has stopped reading."""
    os.mkfifo(tmp_path / "pipe")
    code = f"""
    import os, sys, time
    sys.path.insert(0, {str(ROOT)!r})
    from src.errors import run_main
    from src.interrupts import *
    def main():
        with Interrupts({answer}):
            open("ready", "w").close()
            {hang}
    run_main(main)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        limit = time.monotonic() + 30
        while not (tmp_path / "ready").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 143
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_evaluation_ends_with_the_status_of_the_signal(number, status, make_dataset):
    code = f"""
    import time
    import eval as script
    from src.errors import run_main
    script.score = lambda *_: print("ready", flush=True) or time.sleep(20)
    run_main(lambda: script.main(["--dataset_root", {str(make_dataset(train=0))!r}, "--device_target", "CPU"]))
    """
    got, text = run(code, number)
    assert got == status and text.endswith(f"stopped by {describe(number)}\n") and "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_of_others_are_never_called(number):
    """As MindSpore's, which makes every Ctrl-C a SIGTERM; in threads of numpy's, too, which are there before."""
    code = """
    import os, signal, time
    import numpy as np
    from src.interrupts import Interrupts
    seen = []
    with Interrupts(seen.append) as interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        np.ones((300, 300)) @ np.ones((300, 300))
        print("ready", flush=True)
        limit = time.monotonic() + 20
        while not seen and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print([int(n) for n in seen], int(interrupts.received))
    """
    assert run(code, number) == (0, f"ready\n[{int(number)}] {int(number)}\n")


def test_processes_started_meanwhile_leave_signals_to_the_group_to_us():
    code = """
    import subprocess, sys, time
    from src.interrupts import Interrupts
    seen = []
    with Interrupts(seen.append):
        child = subprocess.Popen([sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(1)"])
        print("child ended with", child.wait(), flush=True)
    """
    status, text = run(code, signal.SIGINT, signal.SIGTERM, pause=0.1)
    assert (status, text) == (0, "ready\nchild ended with 0\n")


def test_everything_is_as_before_afterwards():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT), threading.active_count()
    with Interrupts():
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    after = signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT), threading.active_count()
    assert after == before


def test_names():
    assert [describe(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == ["Ctrl-C", "SIGTERM", "SIGHUP"]
