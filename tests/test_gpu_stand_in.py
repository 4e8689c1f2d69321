"""Trainings that compile, start and end on GPUs, through the launchers, with a stand-in for CUDA (`gpu_stand_in`).

They show that every operator of the training step has a GPU kernel and that GPU ranks can be linked together; what is
computed, the CPU tests show.
"""

import csv
import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import write_dataset
from gpu_stand_in.build import build
from real_runs import ROOT, TIMEOUT, end, start

pytestmark = pytest.mark.slow
# Two steps of the smallest network, without validation, whose graph of any size computes shapes on the host.
SMALL = (
    "--num_res 1 --crop_size 32 --train_batch_size 2 --num_worker 1 --max_steps 2 --epochs_num 1 "
    "--val_acc_monitor_interval 0 --log_frequency 2"
)
NO_FALL_TO_CPU = {"MS_DISABLE_KERNEL_BACKOFF": "1"}  # an operator without a GPU kernel is an error


class Machine:
    """A copy of the project on a machine with two GPUs."""

    def __init__(self, folder: Path, env: dict[str, str]):
        self.folder, self.env = folder, env
        write_dataset(folder / "data", train=8, size=(40, 48))
        for name in ("src", "scripts", "configs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("train.py", "eval.py"):
            shutil.copy(ROOT / name, folder)
        python = folder / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        real, start_py = sys.executable, ROOT / "tests/gpu_stand_in/start.py"  # `python -c ...` needs no GPU
        python.write_text(f'#!/bin/sh\ncase $1 in -*) exec "{real}" "$@" ;; esac\nexec "{real}" "{start_py}" "$@"\n')
        python.chmod(0o755)
        shutil.copy(Path(sys.executable).with_name("msrun"), python.parent)

    def run(self, action: str, arguments: str, name: str, **env: str) -> str:
        """Run a launcher to its end; returns what it and its ranks said."""
        log = self.folder / f"{name}.txt"
        settings = [f"{k}={v}" for k, v in {**self.env, **env}.items()]
        command = ["env", *settings, "bash", f"scripts/run_{action}_gpu.sh", *arguments.split()]
        process = start(command, self.folder, log)
        try:
            status = process.wait(TIMEOUT)
        finally:
            end(process)
        logs = [log, *self.folder.glob(f"{name}_logs/**/*")]
        text = "\n".join(path.read_text(errors="replace") for path in logs if path.is_file())
        assert status == 0, f"exit {status}\n{text[-6000:]}"
        return text

    def train(self, folder: str, options: str = "", ranks: int = 1) -> str:
        script, number = ("distribute_train", f" {ranks}") if ranks > 1 else ("standalone_train", "")
        text = self.run(script, f"data {folder}{number} {SMALL} {options}", folder, **NO_FALL_TO_CPU)
        assert f"on GPU, {ranks} rank(s)" in text and (self.folder / folder / "last.ckpt").exists()
        return text

    def logged_steps(self, folder: str) -> list[int]:
        with open(self.folder / folder / "log.csv", newline="") as f:
            return [int(row["step"]) for row in csv.DictReader(f)]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """The environment of the stand-in."""
    missing = [tool for tool in ("gcc", "nm", "mpirun") if not shutil.which(tool)]
    if missing:
        pytest.fail(f"the GPU stand-in needs {', '.join(missing)}, which is not here: bash scripts/setup.sh --system")
    mindspore = Path(find_spec("mindspore").submodule_search_locations[0])
    if platform.machine() != "x86_64":
        pytest.skip("MindSpore has its GPU backend in the wheels for x86-64 only")
    return build(mindspore, tmp_path_factory.mktemp("stand_in") / "packages")


@pytest.fixture(scope="session")
def machine(stand_in, tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("machine"), stand_in)


def test_an_operator_without_a_gpu_kernel_is_refused(stand_in):
    code = "import mindspore as ms; ms.set_device('GPU'); ms.jit(ms.ops.fft2)(ms.ops.ones((4, 4), ms.float32))"
    env = {**os.environ, **stand_in, **NO_FALL_TO_CPU}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode != 0 and "Unsupported op [FFT2] on GPU" in done.stderr


def test_one_gpu_trains_in_float32_and_evaluates(machine):
    machine.train("float32")
    assert machine.logged_steps("float32") == [2]
    text = machine.run("eval", "data float32/last.ckpt --report_file report.json", "eval")
    assert "2 images" in text and (machine.folder / "report.json").exists()


def test_one_gpu_trains_the_large_network_with_everything_on(machine):
    precision = "--amp_level O3 --loss_scale dynamic"
    others = "--accumulate_steps 2 --clip_norm 1 --ema_decay 0.99 --lr_schedule cosine"
    machine.train("plus", f"--model_name MIMO-UNetPlus {precision} {others}")


def test_one_gpu_trains_the_light_network_in_sinks(machine):
    machine.train("lite", "--model_name MIMO-UNetLite --train_use_data_sink true --sink_size 2 --max_steps 4")
    assert machine.logged_steps("lite") == [2, 4]


@pytest.mark.parametrize("launcher, precision", [("mpirun", "O0"), ("msrun", "O3")])
def test_two_gpus_train_together(machine, launcher, precision):
    text = machine.train(launcher, f"--launcher {launcher} --amp_level {precision}", ranks=2)
    assert all(f"stand-in NCCL: rank {rank} of 2" in text for rank in (0, 1))
