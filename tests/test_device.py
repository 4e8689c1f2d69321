import os
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
    monkeypatch.setattr(device, "cuda_libraries_present", lambda: False)
    target, reason = device.best_device()
    assert target == "CPU" and "setup.sh --gpu" in reason
    monkeypatch.setattr(device, "cuda_libraries_present", lambda: True)
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
        (device.Runtime("GPU"), False, False, "this is GPU"),
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
