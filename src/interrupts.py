"""SIGTERM, SIGHUP and Ctrl-C in a process that runs MindSpore's compiled code.

MindSpore replaces Python's signal handlers: its loader when it starts, and its executor turns every Ctrl-C during a
compiled graph into a SIGTERM to its own process. Therefore this module uses no handlers. All threads block the signals,
and one thread receives them with `sigwaitinfo`. It never waits for anything else, so a second signal ends the process
whatever hangs.
"""

import _thread
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds during which a repeated signal is ignored: `timeout`, a closing terminal and systemd send theirs twice.
ONE_REQUEST = 0.5


class Interrupts:
    """`with` around all work with MindSpore. The main thread must enter it before MindSpore starts threads.

    Child processes inherit the blocked signals, so loader workers ignore a signal to the process group. Under `nohup`
    SIGHUP stays ignored. A second signal ends the process at once.

    Args:
        answer: called in a new thread with the number of the first signal; may be replaced at any time.
    """

    def __init__(self, answer: Callable[[int], None] | None = None):
        self.answer = answer or end_process
        self.received = 0  # the first signal
        self.ended = False
        self.thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> "Interrupts":
        is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self.signals = [number for number in SIGNALS if not (is_nohup and number == signal.SIGHUP)]
        self.old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        self.old_handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # for `interrupt_main`
        _restart_numpy_threads()
        self.thread.start()
        return self

    def _wait(self) -> None:
        since = 0.0
        while True:
            info = signal.sigwaitinfo(self.signals)
            if self.ended and info.si_pid == os.getpid():  # from __exit__
                return
            if not self.received:
                self.received, since = info.si_signo, time.monotonic()
                threading.Thread(target=self.answer, args=(self.received,), daemon=True).start()
            elif self.received == info.si_signo == signal.SIGINT or time.monotonic() - since > ONE_REQUEST:
                _leave(info.si_signo)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        self.ended = True
        assert self.thread.ident is not None  # `__enter__` started it
        signal.pthread_kill(self.thread.ident, signal.SIGTERM)
        self.thread.join()
        signal.signal(signal.SIGINT, self.old_handler if self.old_handler is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.old_mask)
        if kind is KeyboardInterrupt and self.received not in (0, signal.SIGINT):
            raise SystemExit(128 + self.received) from error


def end_process(number: int) -> None:
    """End the process now, with status 143 for SIGTERM, 129 for SIGHUP, 130 for Ctrl-C."""
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(1)  # which blocks if the reader has stopped reading
    _leave(number)


def _leave(number: int) -> None:
    say(f"\nstopped by {describe(number)}\n")
    os._exit(128 + number)


def say(text: str) -> None:
    """Write to stderr from any thread, bypassing the lock of `sys.stderr`. Drops the text rather than fail or wait."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode())


def interrupt_main(number: int) -> None:
    """Raise KeyboardInterrupt in the main thread as soon as it runs Python code. After SIGTERM or SIGHUP, `Interrupts`
    turns it into the exit status 143 or 129."""
    _thread.interrupt_main()


def describe(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _restart_numpy_threads() -> None:
    """Make numpy's OpenBLAS threads block the signals, too. They start with the import; OpenBLAS ends them before every
    fork and starts new ones, which inherit the block, at their next use."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
