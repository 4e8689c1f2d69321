"""Shared parts of the benchmarks: the machine, processes that take turns, medians, JSON files.

Each contestant works in a separate process, so that its memory and environment do not affect the others, and waits
while they work. All are started and warmed up before the first timing.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from src import device, run_folder
from src.command_line import ArgumentParser
from src.config import DEVICES
from src.errors import UserError, nearest, need_writable_folder
from src.files import write_whole
from src.streams import need_reader

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")  # decide which kernels the libraries use
GB = 2**30


# ---- the machine and the results -------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Processor, memory, accelerators and versions, without host names or paths."""
    cpuinfo = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.M)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.M)
    gpus = [_read(p) for p in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "threads": device.core_count(),
        "cpu_flags": [f for f in CPU_FLAGS if flags and f in flags[1].split()],
        "memory_gb": round(int(memory[1]) / 2**20, 1) if memory else None,
        "accelerators": [m[1].strip() for text in gpus if (m := re.search(r"^Model:\s*(.+)$", text, re.M))]
        + ["Ascend"] * len(device.ascend_devices()),
        "os": system,
        "versions": run_folder.versions() | {name: _version(name) for name in ("torch", "onnxruntime", "openvino")},
    }


def median_spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median, smallest, largest and number of some timings."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "count": len(values)}


def show(spread: dict[str, float | int], digits: int = 2) -> str:
    """'1.52 (1.49 to 1.60)'"""
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f} to {spread['max']:.{digits}f})"


def write_json(path: Path | str, name: str, results: Any) -> None:
    """Write {"benchmark": name, "machine": ..., "results": ...}. Numbers are rounded to five digits.

    Raises:
        UserError: the folder cannot be written.
    """
    path = Path(path)
    need_writable_folder(path.parent, "--json")
    content = {"benchmark": name, "machine": machine(), "results": _rounded(results)}
    write_whole(path, json.dumps(content, indent=1) + "\n")


def make_parser(description: str) -> ArgumentParser:
    """A parser with the options common to all benchmarks."""
    parser = ArgumentParser(description)
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    parser.add_argument("--device_target", default="CPU", metavar="STR", help=f"{' | '.join(DEVICES)} [CPU]")
    parser.add_argument("--threads", type=int, metavar="INT", help="cores of each process [2 on CPU, else all]")
    return parser


def parse(parser: ArgumentParser, argv: Sequence[str] | None):
    """The checked options.

    Raises:
        UserError: an option is wrong, the device is absent, or the JSON file cannot be written.
    """
    args = parser.parse_args(argv)
    if args.device_target not in DEVICES:
        hint = nearest(args.device_target, DEVICES)
        raise UserError(f"--device_target: got {args.device_target!r}, expected one of {', '.join(DEVICES)}.{hint}")
    device.require_device(args.device_target)
    cores = device.core_count()
    if args.threads is None:
        args.threads = min(2, cores) if args.device_target == "CPU" else cores
    if not 1 <= args.threads <= cores:
        raise UserError(f"--threads: got {args.threads}, expected 1 to {cores}, the cores this process may use")
    if args.json:
        need_writable_folder(Path(args.json).parent, "--json")
    else:
        need_reader()
    return args


def add_step_options(parser: ArgumentParser, crops: str, size: int, timings: str, rounds: int) -> None:
    """Add the options of benchmarks that train: --batch, --size, --num_res, --rounds.

    Args:
        crops, timings: the units of --batch and --rounds, for --help.
        size, rounds: the defaults.
    """
    parser.add_argument("--batch", type=int, low=1, default=1, metavar="INT", help=f"{crops} [1]")
    size_help = f"side of the square crops, pixels [{size}]"
    parser.add_argument("--size", type=int, low=16, default=size, metavar="INT", help=size_help)
    parser.add_argument("--num_res", type=int, default=0, metavar="INT", help="residual blocks per stage [8, Lite 4]")
    parser.add_argument("--rounds", type=int, low=1, default=rounds, metavar="INT", help=f"{timings} [{rounds}]")


def check_step_options(args: argparse.Namespace) -> None:
    """Raise a UserError unless the crops of `add_step_options` fit the network."""
    if args.size % 8:
        raise UserError(f"--size: got {args.size}, expected a multiple of 8")


LITE = "lite_"  # prefix of contestants that use MIMO-UNetLite


def split_name(name: str) -> tuple[str, str]:
    """'lite_torch' -> ('lite_', 'torch'), 'torch' -> ('', 'torch')."""
    return (LITE, name.removeprefix(LITE)) if name.startswith(LITE) else ("", name)


def choose(asked: str | None, known: Iterable[str], default: Sequence[str]) -> list[str]:
    """The contestants of `--contestants a,b`, or `default`.

    Raises:
        UserError: one is unknown.
    """
    chosen = [name.strip() for name in asked.split(",")] if asked else list(default)
    if unknown := [name for name in chosen if name not in known]:
        hint = nearest(unknown[0], known)
        raise UserError(f"--contestants: got {unknown[0]!r}, expected some of {','.join(known)}.{hint}")
    return list(dict.fromkeys(chosen))


# ---- processes that take turns ---------------------------------------------------------------------------------------


class Contestant:
    """An object in a separate process, whose methods this process calls.

    Args:
        name: its name in the results.
        make: called in the new process with `args`; imports its framework there.
        threads: cores the process may use.
        environment: variables for that process only. ONEDNN_MAX_CPU_ISA is never inherited: a limit meant for MindSpore
            slows down the other frameworks, and `src.device.setup` sets it where it is needed.
        daemon: False if the object starts processes.
    """

    def __init__(
        self,
        name: str,
        make: Callable,
        *args,
        threads: int,
        environment: dict[str, str] | None = None,
        daemon: bool = True,
    ):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, theirs = context.Pipe()
        settings = {"OMP_NUM_THREADS": str(threads), **(environment or {})}
        self.process = context.Process(target=_serve, args=(theirs, make, args, threads, settings), daemon=daemon)
        self.process.start()
        theirs.close()
        self._receive()

    def ask(self, method: str, *args) -> Any:
        """Call a method in the process and wait for its result.

        Raises:
            UserError: it failed, or its process ended, for example for lack of memory.
        """
        self.pipe.send((method, args))
        return self._receive()

    def _receive(self) -> Any:
        try:
            good, result = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise UserError(f"{self.name}: its process ended with {code}{' (out of memory?)' * (code == -9)}") from None
        if not good:
            raise UserError(f"{self.name}: {result}")
        return result

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.join(5)
        self.process.kill()  # because MindSpore's loader handles SIGTERM
        self.process.join()


def take_turns(contestants: Sequence[Contestant], rounds: int, method: str, *args) -> dict[str, list]:
    """Call a method of each, in turn, `rounds` times (A B A B), so that slow phases affect all equally.

    Returns:
        name -> the results.
    """
    results: dict[str, list] = {c.name: [] for c in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            results[contestant.name].append(contestant.ask(method, *args))
    return results


def ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float | int]:
    """Median and spread of one / other per round."""
    return median_spread([a / b for a, b in zip(one, other, strict=True)])


def peak_memory_gb() -> float:
    """Peak resident memory of this process."""
    peak = re.search(r"^VmHWM:\s*(\d+)", _read("/proc/self/status"), re.M)
    return int(peak[1]) / 2**20 if peak else 0.0


def _serve(pipe, make: Callable, args: tuple, threads: int, environment: dict[str, str]) -> None:
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    os.environ.update(environment)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    call: Callable = make
    while True:
        try:
            result = call(*args)
        except Exception as e:
            traceback.print_exc(file=sys.stderr)
            pipe.send((False, f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"))
            return
        if call is make:
            made, result = result, None
        pipe.send((True, result))
        try:
            method, args = pipe.recv()
        except EOFError:  # the parent has ended
            return
        call = getattr(made, method)


# ---- small helpers ---------------------------------------------------------------------------------------------------


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value
