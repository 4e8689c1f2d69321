"""Runs the project's scripts in forked children of one process that has imported them.

A child starts in milliseconds and is a process like any other: it has its own standard streams, working directory,
resource limits and exit status. The server speaks JSON, one line per job and one per answer.
"""

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    name: name.removesuffix(".py").replace("/", ".")
    for name in (
        "deblur.py",
        "app.py",
        "eval.py",
        "export.py",
        "convert.py",
        "train.py",
        "src.data.sample_data",
        "src/preprocessing.py",
        "src.data.synthetic_blur",
        "scripts/compare_runs.py",
        "scripts/doctor.py",
    )
}
# Imported by functions of the scripts. With them here, a child does not spend its time on them.
LIGHT = ("onnx", "openvino", "cv2", "tqdm", "matplotlib.pyplot", "src.engine", "src.evaluation", "src.data.packing")
HEAVY = ("mindspore", "torch", "src.checkpoint", "src.formats.mindir", "src.resume", "src.data_load", "src.validation")
MEMORY = 8 * 2**30  # bytes of address space: a bomb ends its own process


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    status: int | str
    """The exit status, negative for a signal, or 'hang'."""
    stdout: str
    stderr: str
    seconds: float


class ForkServer:
    """The client's side.

    Args:
        heavy: import MindSpore and PyTorch, too, which takes seconds.
    """

    def __init__(self, heavy: bool = False):
        command = [sys.executable, __file__, *(["--heavy"] if heavy else [])]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOG_v": "3", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate(timeout=60)

    def run(self, script: str, args: list[str], cwd: Path, streams: Path, timeout: float = 30, **more: object) -> Ended:
        """Run a script to its end.

        Args:
            script: a key of `SCRIPTS`, or 'module:function' for a function that takes the arguments.
            streams: folder for the files that stdout and stderr go to, not below `cwd`.
            timeout: seconds, after which the process is killed.
            more: `file_size`: bytes that a file of the process may have; `broken`: stream -> what it is in place of a
                file: 'closed', 'full' (/dev/full) or 'unread' (a pipe whose reader has gone).
        """
        job = {"script": script, "args": args, "cwd": str(cwd), "streams": str(streams), "timeout": timeout} | more
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        out, err = (
            path.read_text(encoding="utf-8", errors="replace") if (path := streams / name).exists() else ""
            for name in ("stdout", "stderr")
        )
        return Ended(answer["status"], out, err, answer["seconds"])


def serve(heavy: bool) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the imports print
    for name in (*SCRIPTS.values(), *LIGHT, *(HEAVY if heavy else ())):
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            run_child(job)
        status = wait(pid, job["timeout"])
        replies.write(json.dumps({"status": status, "seconds": time.monotonic() - start}) + "\n")
        replies.flush()


def wait(pid: int, timeout: float) -> int | str:
    """The status of a child, which is killed after a time, with all that it has started."""
    descriptor = os.pidfd_open(pid)
    try:
        in_time = bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if in_time else "hang"


def run_child(job: dict) -> None:
    """Become the script, as `python script.py` does, and never return."""
    status = 1
    try:
        os.setsid()
        os.chdir(job["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        broken = job.get("broken", {})
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(open_stream(broken.get(name), os.path.join(job["streams"], name)), number)
        sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = sys.__stderr__ = open(
            2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
        )
        for number, name in ((1, "stdout"), (2, "stderr")):
            if broken.get(name) == "closed":
                os.close(number)
                setattr(sys, name, None)  # as Python does at its start
                setattr(sys, f"__{name}__", None)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if "mindspore" not in sys.modules:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if job.get("file_size"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
        sys.argv = [job["script"], *job["args"]]
        status = call(job["script"], job["args"])
        try:
            if sys.stdout:
                sys.stdout.flush()
        except OSError as e:  # as Python does at its end
            print(f"Exception ignored: {type(e).__name__}", file=sys.stderr)
            status = 120
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def open_stream(broken: str | None, path: str) -> int:
    if broken == "unread":
        reader, writer = os.pipe()
        os.close(reader)
        return writer
    return os.open("/dev/full" if broken else path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def call(script: str, args: list[str]) -> int:
    if ":" in script:
        module, function = script.split(":")
        getattr(importlib.import_module(module), function)(*args)
        return 0
    from src.errors import run_main

    try:
        run_main(importlib.import_module(SCRIPTS[script]).main)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


if __name__ == "__main__":
    serve("--heavy" in sys.argv)
