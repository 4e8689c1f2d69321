"""SIGTERM, SIGHUP and Ctrl-C in a process that runs MindSpore's compiled code.

MindSpore puts handlers of its own in place of Python's: its loader does when it starts, and its executor turns every
Ctrl-C that arrives while a compiled graph runs into a SIGTERM to the own process. So no handler is used here. The
signals are blocked in all threads, and a thread of ours takes them from the kernel. It never waits for anything else:
whatever hangs, a second signal ends the process.
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
# Seconds in which a signal is no second one: `timeout`, a closing terminal and systemd send theirs two times over.
ONE_REQUEST = 0.5


class Interrupts:
    """`with` around all work with MindSpore; to be entered by the main thread, before MindSpore starts threads.

    Processes that are started meanwhile inherit the block: workers leave a signal to the whole process group to us.
    Under `nohup` SIGHUP stays ignored. A second signal ends the process at once.

    Args:
        answer: called with the number of the first signal, in a thread of its own; may be replaced at any time.
            Default: `end_process`.
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
        self.old_handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # what `interrupt_main` calls
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
    """End the process now, with the status that says so: 143 for SIGTERM, 129 for SIGHUP, 130 for Ctrl-C."""
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(1)  # the reader may have stopped reading
    _leave(number)


def _leave(number: int) -> None:
    say(f"\nstopped by {describe(number)}\n")
    os._exit(128 + number)


def say(text: str) -> None:
    """Write to stderr from any thread, whatever another one is writing; nothing if that would fail or wait."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode())


def interrupt_main(number: int) -> None:
    """Raise KeyboardInterrupt in the main thread, as soon as it runs Python code. `Interrupts` turns it into the status
    143 or 129 if the signal was SIGTERM or SIGHUP."""
    _thread.interrupt_main()


def describe(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _restart_numpy_threads() -> None:
    """numpy's OpenBLAS starts its threads when it is imported; they would take the signals that others block. It ends
    them before every fork and starts new ones, which inherit the block, when they are needed next."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
