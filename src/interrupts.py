"""SIGTERM and Ctrl-C in a process that runs MindSpore's compiled code.

MindSpore puts handlers of its own in place of Python's: its loader does when it starts, and its executor turns every
Ctrl-C that arrives while a compiled graph runs into a SIGTERM to the own process. So no handler is used here. Both
signals are blocked in all threads, and a thread of ours takes them from the kernel.
"""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """`with` around all work with MindSpore; to be entered by the main thread, before MindSpore starts threads.

    Processes that are started meanwhile inherit the block: workers leave a signal to the whole process group to us. A
    second Ctrl-C ends the process at once.

    Args:
        answer: called with the number of every signal, in a thread of its own; may be replaced at any time.
            Default: `end_process`.
    """

    def __init__(self, answer: Callable[[int], None] | None = None):
        self.answer = answer or end_process
        self.received = 0  # the last signal
        self.ended = False
        self.thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> "Interrupts":
        self.old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.old_handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # what `interrupt_main` calls
        _restart_numpy_threads()
        self.thread.start()
        return self

    def _wait(self) -> None:
        while True:
            info = signal.sigwaitinfo(SIGNALS)
            if self.ended and info.si_pid == os.getpid():  # from __exit__
                return
            before, self.received = self.received, info.si_signo
            if before == self.received == signal.SIGINT:
                end_process(self.received)
            self.answer(self.received)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        self.ended = True
        assert self.thread.ident is not None  # `__enter__` started it
        signal.pthread_kill(self.thread.ident, signal.SIGTERM)
        self.thread.join()
        signal.signal(signal.SIGINT, self.old_handler if self.old_handler is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.old_mask)
        if kind is KeyboardInterrupt and self.received == signal.SIGTERM:
            raise SystemExit(128 + self.received) from error


def end_process(number: int) -> None:
    """End the process now, with the status that says so: 143 for SIGTERM, 130 for Ctrl-C."""
    sys.stdout.flush()
    os.write(2, f"\nstopped by {describe(number)}\n".encode())
    os._exit(128 + number)


def interrupt_main(number: int) -> None:
    """Raise KeyboardInterrupt in the main thread, as soon as it runs Python code. `Interrupts` turns it into the status
    143 if the signal was SIGTERM."""
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
