"""Data-parallel training: samples per second of one process and of several, each with the same number of cores.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json
    python benchmarks/scaling.py --device_target GPU --processes 8 --batch 4 --size 256

Runs of 1 and N processes alternate; msrun starts the N processes. Efficiency is the samples per second of N processes
divided by N times those of one. On a CPU the processes share memory bandwidth, so the result depends on the machine as
much as on the exchange of gradients, whose bytes are also reported.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import (  # noqa: E402
    add_step_options,
    check_step_options,
    make_parser,
    median_spread,
    parse,
    show,
    write_json,
)
from src import device  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402

TIMEOUT = 600  # seconds per run


def main(argv: list[str] | None = None) -> None:
    args = parse_options(argv)
    if args.result:
        return work(args)
    times: dict[int, list[float]] = {1: [], args.processes: []}
    for _ in range(args.rounds):
        for count, seconds in times.items():
            found = run(args, count)
            seconds += found["seconds"]
    one = args.batch / median_spread(times[1])["median"]
    results = {}
    for count, seconds in times.items():
        spread = median_spread(seconds)
        speed = count * args.batch / spread["median"]
        results[str(count)] = {"step_s": spread, "samples_per_s": speed, "efficiency": speed / (count * one)}
    settings = {
        "shape": (args.batch, 3, args.size, args.size),
        "threads": args.threads,
        "device_target": args.device_target,
        "bytes_reduced": found["bytes_reduced"],
    }
    report(settings, results)
    if args.json:
        write_json(args.json, "scaling", settings | {"processes": results})


def parse_options(argv: list[str] | None):
    parser = make_parser("Training with one process and with several, each with the same number of cores.")
    parser.add_argument(
        "--processes", type=int, default=2, metavar="INT", help="number of processes of the larger run [2]"
    )
    add_step_options(parser, "crops per process and step", 128, "runs of each", 2)
    parser.add_argument("--steps", type=int, low=1, default=5, metavar="INT", help="timed steps per run [5]")
    parser.add_argument("--result", help=argparse.SUPPRESS)  # makes this process one of the ranks, which writes here
    parser.set_defaults(threads=max(1, device.core_count() // 2))
    args = parse(parser, argv)
    check_step_options(args)
    if args.processes < 2:
        raise UserError(f"--processes: got {args.processes}, expected 2 or more; a single process is always measured")
    if args.device_target == "CPU" and not args.result and args.processes * args.threads > device.core_count():
        raise UserError(
            f"--processes {args.processes} with --threads {args.threads}: more than the {device.core_count()} cores "
            "that this process may use"
        )
    return args


def report(settings: dict, results: dict) -> None:
    shape = "x".join(map(str, settings["shape"]))
    print(f"training, {shape} per process, {settings['device_target']}, {settings['threads']} core(s) per process")
    for count, found in results.items():
        print(
            f"{count:>3} process(es)  step {show(found['step_s'], 3)} s, {found['samples_per_s']:.2f} samples/s, "
            f"efficiency {found['efficiency']:.0%}"
        )
    print(f"gradients and losses reduced per step: {settings['bytes_reduced'] / 1e6:.1f} MB per process")


def run(args, count: int) -> dict:
    """Train with `count` processes and return the result of rank 0.

    Raises:
        UserError: a process failed, after printing the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        names = ("device_target", "threads", "batch", "size", "num_res", "steps")
        worker = [str(Path(__file__).resolve()), *(f"--{name}={getattr(args, name)}" for name in names)]
        worker += [f"--result={result}"]
        command, env = [sys.executable, *worker], {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
        # On a busy machine, ranks that spin on one core each miss heartbeats for more than the default 30 s.
        env |= {"OMP_NUM_THREADS": str(args.threads), "MS_NODE_TIMEOUT": str(TIMEOUT)}
        if count > 1:
            folder_of_python = Path(sys.executable).parent
            env["PATH"] = f"{folder_of_python}{os.pathsep}{env['PATH']}"  # because msrun starts its ranks as `python`
            msrun = shutil.which("msrun", path=env["PATH"])
            if not msrun:
                raise UserError(f"no msrun beside {sys.executable}; it comes with MindSpore: bash scripts/setup.sh")
            ranks = [f"--worker_num={count}", f"--local_worker_num={count}", f"--master_port={free_port()}"]
            command = [sys.executable, msrun, *ranks, f"--log_dir={folder}/logs", "--join=True", *worker]
        done = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT
        )
        if done.returncode or not result.exists():
            logs = [log.read_text(errors="replace") for log in sorted(Path(folder).glob("logs/worker_*.log"))]
            print(*(text[-2000:] for text in (done.stdout, *logs)), sep="\n---\n", file=sys.stderr)
            raise UserError(f"{count} process(es): ended with {done.returncode}")
        return json.loads(result.read_text())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def work(args) -> None:
    """Train as one rank; rank 0 writes the result."""
    count = int(os.environ.get("MS_WORKER_NUM", 1))
    if args.device_target == "CPU" and hasattr(os, "sched_setaffinity"):  # the ranks share these cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: count * args.threads])
    from benchmarks.step import MindSporeStep

    shape = (args.batch, 3, args.size, args.size)
    step = MindSporeStep(shape, args.device_target, args.num_res, "auto", distributed=count > 1)
    for _ in range(2):  # the first compiles the graph, the second still allocates memory
        step.step()
    seconds = [step.step() for _ in range(args.steps)]
    if device.early_rank() == 0:
        Path(args.result).write_text(json.dumps({"seconds": seconds, "bytes_reduced": step.bytes_reduced()}))


if __name__ == "__main__":
    run_main(main)
