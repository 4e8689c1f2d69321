import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src import device
from src.errors import UserError

ROOT = Path(__file__).parent.parent


def in_a_new_process(code, **environment):
    """Run Python code with the repository importable; its stdout."""
    env = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_convolution_setting_is_there_at_the_first_operator_and_not_after():
    code = """
import os
from src import device
import mindspore as ms
seen = []
first = ms.ops.conv2d
def spy(*args, **kwargs):
    seen.append(os.environ.get("ONEDNN_MAX_CPU_ISA"))
    return first(*args, **kwargs)
ms.ops.conv2d = spy
device.has_avx512 = lambda: True
device.setup("CPU")
print(seen, os.environ.get("ONEDNN_MAX_CPU_ISA"))
"""
    assert in_a_new_process(code) == "['AVX2_VNNI'] None"
    # a value of the user's is left alone, and no operator is run for it
    assert in_a_new_process(code, ONEDNN_MAX_CPU_ISA="AVX2") == "[] AVX2"


@pytest.mark.skipif(not device.has_avx512(), reason="the slow reference loop only exists on CPUs with AVX-512")
def test_convolutions_are_fast_after_setup(cpu):
    import mindspore as ms

    x = ms.Tensor(np.ones((1, 32, 256, 256), np.float32))
    conv = ms.nn.Conv2d(32, 32, 3, pad_mode="pad", padding=1)
    conv(x).asnumpy()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        conv(x).asnumpy()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3  # about 0.01 s; the reference loop takes 1.2 s


def test_best_device_is_the_best_present(monkeypatch):
    monkeypatch.setattr(device, "ascend_devices", lambda: [])
    monkeypatch.setattr(device, "gpu_driver_present", lambda: False)
    assert device.best_device()[0] == "CPU"
    monkeypatch.setattr(device, "gpu_driver_present", lambda: True)
    assert device.best_device()[0] == "GPU"
    monkeypatch.setattr(device, "ascend_devices", lambda: ["/dev/davinci0"])
    assert device.best_device()[0] == "Ascend"


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
def test_absent_device_is_one_line(monkeypatch, target):
    monkeypatch.setattr(device, "ascend_devices", lambda: [])
    monkeypatch.setattr(device, "gpu_driver_present", lambda: False)
    with pytest.raises(UserError, match="--device_target CPU") as e:
        device.setup(target)
    assert "\n" not in str(e.value)


@pytest.fixture
def gpu_machine(tmp_path):
    """run(script, *options): an entry script in a copy of the repository, on a machine with an NVIDIA driver and no
    CUDA of its own."""
    for name in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, tmp_path)
    code = """
import sys
from src import device
from src.errors import run_main
device.gpu_driver_present = lambda: True
device.ascend_devices = lambda: []
sys.argv = sys.argv[1:]
run_main(__import__(sys.argv[0]).main)
"""
    hidden = ("LD_LIBRARY_PATH", "CUDA_HOME", device.RESTARTED)
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"PYTHONPATH": str(tmp_path)}

    def run(script, *options):
        command = [sys.executable, "-c", code, script, "--dataset_root", "nowhere", *options]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    return run


def install_cuda(folder, loadable=True):
    """What setup.sh --gpu leaves in .venv, with any library in place of those of CUDA."""
    site = folder / ".venv/lib/python3.11/site-packages/nvidia/cudnn/lib"
    site.mkdir(parents=True)
    maps = Path("/proc/self/maps").read_text().splitlines()
    real = next(line.split()[-1] for line in maps if "/libc.so" in line)
    for name in ("libcudart.so.11.0", "libcudnn.so.8"):
        (site / name).symlink_to(real) if loadable else (site / name).touch()
    nvcc = folder / ".venv/cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(0o755)


@pytest.mark.parametrize("script", ["train", "eval"])
@pytest.mark.parametrize("options", [[], ["--device_target", "GPU"]])
def test_cuda_in_the_venv_is_found_by_a_restart(gpu_machine, tmp_path, script, options):
    install_cuda(tmp_path)
    if script == "eval":
        (tmp_path / "net.ckpt").write_bytes(b"weights")
        options = [*options, "--ckpt_file", "net.ckpt"]
    done = gpu_machine(script, *options)
    restart, *engine, settings = done.stdout.splitlines()
    assert restart == f"restarting with the CUDA libraries of {tmp_path / '.venv'} (scripts/gpu_env.sh)"
    assert settings.startswith("settings: configs/gpu_config.yaml: ")
    assert engine == (["engine: MindSpore on GPU: the device is GPU"] if script == "eval" else [])
    assert done.returncode == 2 and "nowhere" in done.stderr  # the options have arrived


def test_a_gpu_without_cuda_restores_photos_on_the_cpu_and_says_why(monkeypatch):
    monkeypatch.setattr(device, "ascend_devices", lambda: [])
    monkeypatch.setattr(device, "gpu_driver_present", lambda: True)
    for name in ("cuda_libraries_present", "cuda_libraries_installed"):
        monkeypatch.setattr(device, name, lambda: False)
    target, why = device.usable_device()
    assert target == "CPU" and "setup.sh --gpu" in why
    monkeypatch.setattr(device, "cuda_libraries_installed", lambda: True)
    assert device.usable_device() == device.best_device() == ("GPU", "an NVIDIA GPU is present")


def test_cuda_that_does_not_load_is_tried_once(gpu_machine, tmp_path):
    install_cuda(tmp_path, loadable=False)
    done = gpu_machine("train")
    assert done.returncode == 2 and done.stdout.count("restarting") == 1
    assert len(done.stderr.splitlines()) == 1
    assert "do not load" in done.stderr and "bash scripts/setup.sh --gpu" in done.stderr


@pytest.mark.parametrize("script", ["train", "eval"])
def test_a_gpu_without_cuda_does_not_train_on_the_cpu_unasked(gpu_machine, tmp_path, script):
    (tmp_path / "net.ckpt").write_bytes(b"weights")
    model = ["--ckpt_file", "net.ckpt"] if script == "eval" else []
    done = gpu_machine(script, *model)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "bash scripts/setup.sh --gpu" in done.stderr and "--device_target CPU" in done.stderr
    asked = gpu_machine(script, "--device_target", "CPU", *model)
    engine = "engine: OpenVINO on CPU: the fastest there\n" if script == "eval" else ""
    assert asked.stdout == f"{engine}settings: configs/cpu_config.yaml: as asked\n" and "nowhere" in asked.stderr


@pytest.mark.parametrize(
    "target, batch, crop, parts",
    [
        ("CPU", 4, 256, 4),
        ("CPU", 4, 128, 4),
        ("CPU", 8, 64, 2),
        ("CPU", 6, 64, 2),  # four fit, but parts must be equal
        ("CPU", 7, 128, 7),
        ("CPU", 1, 512, 1),
        ("GPU", 4, 256, 1),
        ("Ascend", 64, 256, 1),
    ],
)
def test_micro_batches(target, batch, crop, parts):
    assert device.micro_batches(target, batch, crop) == parts


@pytest.mark.parametrize("batch, crop, parts", [(4, 256, 1), (8, 256, 2), (16, 128, 1), (1, 1024, 1)])
def test_micro_batches_of_native_convolutions(batch, crop, parts):
    assert device.micro_batches("CPU", batch, crop, native_convolutions=True) == parts


@pytest.mark.parametrize(
    "runtime, is_float16, debug, reason",
    [
        (device.Runtime("GPU"), False, False, "this device is GPU"),
        (device.Runtime("CPU"), True, False, "--amp_level O0"),
        (device.Runtime("CPU"), False, True, "--debug"),
    ],
)
def test_native_convolutions_are_refused_with_the_reason(capsys, runtime, is_float16, debug, reason):
    with pytest.raises(UserError, match=f"--conv_kernels native: .*{reason}"):
        device.native_convolutions(None, "native", runtime, is_float16, debug)
    assert not device.native_convolutions(None, "auto", runtime, is_float16, debug)
    assert (reason in capsys.readouterr().out) == (runtime.target == "CPU")  # other devices need no word of it


def test_distributed_without_a_launcher_is_one_line(monkeypatch, cpu):
    for name in ("MS_ROLE", "OMPI_COMM_WORLD_SIZE", "RANK_TABLE_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="run_distribute_train_cpu.sh"):
        device.setup("CPU", distributed=True)


@pytest.mark.parametrize(
    "chip", ["Ascend910", "Ascend910A", "Ascend910B", "Ascend910ProB", "Ascend910PremiumA", "Ascend310P3"]
)
def test_chips_without_float32_products(chip):
    assert not device.has_float32_products(chip)


@pytest.mark.parametrize("chip", ["Ascend910B1", "Ascend910B4", "Ascend910B2C", "Ascend910_9391", "Ascend950PR"])
def test_chips_with_float32_products(chip):
    assert device.has_float32_products(chip)


@pytest.mark.parametrize("chip, modes", [("Ascend910ProA", ["force_fp32"]), ("Ascend910B3", [])])
def test_ascend_precision_is_the_chips(monkeypatch, capsys, cpu, chip, modes):
    """MindSpore's own functions are replaced: there is no Ascend here."""
    import mindspore as ms

    monkeypatch.setattr(device, "ascend_devices", lambda: ["/dev/davinci0"])
    monkeypatch.setattr(ms, "set_device", lambda *args: None)
    monkeypatch.setattr(ms.hal, "get_device_name", lambda device_id, target: chip)
    seen = []
    monkeypatch.setattr(ms.device_context.ascend.op_precision, "precision_mode", seen.append)
    runtime = device.setup("Ascend")
    assert seen == modes
    assert runtime.float32_products == (not modes)
    assert capsys.readouterr().out.count(chip) == len(modes)


@pytest.mark.parametrize(
    "target, data_sink, log_frequency, expected",
    [
        ("CPU", True, 10, device.Pace(0, 1, 0)),
        ("GPU", False, 10, device.Pace(0, 10, 10)),
        ("GPU", False, 5000, device.Pace(0, 100, 100)),
        ("Ascend", True, 10, device.Pace(50, 10, 60)),
        ("Ascend", False, 1, device.Pace(0, 1, 1)),
    ],
)
def test_pace(target, data_sink, log_frequency, expected):
    assert device.pace(target, data_sink, 50, 500, log_frequency) == expected
    assert device.pace("Ascend", True, 100, 7, 10).sink == 7  # an epoch at most
