"""The one room for device matters: which devices are here, choosing one, ranks, and what a CPU needs.

MindSpore is imported inside functions, so that asking for the best device costs nothing and settings that must precede
the import can be made in time.
"""

import contextlib
import ctypes
import os
import platform
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.config import ROOT
from src.errors import Restart, UserError, reason_of

if TYPE_CHECKING:
    from mindspore import nn

MICRO_BATCH_PIXELS = {"framework": 128 * 128, "native": 4 * 256 * 256}  # on CPU; see micro_batches()
RESTARTED = "MIMO_UNET_RESTARTED"  # in the environment of a process that has been restarted for its libraries


@dataclass(frozen=True)
class Runtime:
    """Where this process runs. A single process is rank 0 of 1: nobody needs to ask whether ranks exist."""

    target: str
    rank: int = 0
    world_size: int = 1
    float32_products: bool = True
    """Whether matrices are multiplied in float32; see `has_float32_products`."""


def best_device() -> tuple[str, str]:
    """(device target, reason) of the best device present: Ascend, then GPU, then CPU. Does not import MindSpore."""
    if ascend_devices():
        return "Ascend", "an Ascend device is present"
    if gpu_driver_present():
        return "GPU", "an NVIDIA GPU is present"
    return "CPU", "no Ascend device and no NVIDIA GPU is present"


def ascend_devices() -> list[str]:
    return sorted(glob("/dev/davinci[0-9]*"))


def gpu_driver_present() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or bool(glob("/dev/nvidia[0-9]*"))


def cuda_libraries_present() -> bool:
    """MindSpore's GPU plug-in is linked against CUDA 11 and cuDNN 8."""
    try:
        for name in ("libcudart.so.11.0", "libcudnn.so.8"):
            ctypes.CDLL(name)
    except OSError:
        return False
    return True


def cuda_libraries_installed() -> bool:
    """Whether `setup.sh --gpu` has put CUDA into .venv; scripts/gpu_env.sh makes it known."""
    return (ROOT / ".venv/cuda").is_dir()


def _require_cuda_libraries() -> None:
    """Restart through scripts/gpu_env.sh if that can help: the loader reads LD_LIBRARY_PATH when a process starts."""
    if cuda_libraries_present():
        return
    tried = RESTARTED in os.environ
    if cuda_libraries_installed() and not tried:
        line = f"restarting with the CUDA libraries of {ROOT / '.venv'} (scripts/gpu_env.sh)"
        shell = ["bash", "-c", 'source "$1" && shift && exec "$@"', "bash", str(ROOT / "scripts/gpu_env.sh")]
        command = [*shell, sys.executable, *sys.orig_argv[1:]]
        raise Restart(line if early_rank() == 0 else "", command, {RESTARTED: "1"})
    found = f"those in {ROOT / '.venv'} do not load" if tried else "no CUDA 11 libraries are found"
    raise UserError(
        f"an NVIDIA GPU is present, but {found}. Run once: bash scripts/setup.sh --gpu. "
        "Or add --device_target CPU to use the processor."
    )


def core_count() -> int:
    """Cores this process may use (a container's share, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes this process may still take: of the machine or, if that is less, of its container."""
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0, min(free, default=4 * 2**30))


def micro_batches(target: str, batch_size: int, crop_size: int, native_convolutions: bool = False) -> int:
    """In how many equal parts a step runs its batch.

    On CPU every convolution of the framework keeps a scratchpad in proportion to its input: batch 1 of 256x256 takes
    10.5 GB, batch 4 would take 27. So a CPU step goes through its batch in parts of at most 16,384 pixels, or single
    crops, and adds up the gradients, which is the same to float rounding. With native convolutions batch 4 takes
    5.7 GB, and a part has up to 262,144 pixels. Other devices take the batch whole.
    """
    if target != "CPU":
        return 1
    fitting = max(1, MICRO_BATCH_PIXELS["native" if native_convolutions else "framework"] // crop_size**2)
    return next(
        parts for parts in range(1, batch_size + 1) if batch_size % parts == 0 and batch_size // parts <= fitting
    )


def reduces_together(target: str) -> bool:
    """Whether ranks exchange all gradients in one piece. GPU must (`src.train_step.ReduceTogether`); elsewhere one by
    one is faster."""
    return target == "GPU"


@dataclass(frozen=True)
class Pace:
    """How many steps a device does without waiting for the host."""

    sink: int  # handed over together; 0 = each by itself
    readings: int  # between two readings of losses and overflows
    history: int  # steps whose results the device keeps until they are read; 0 = they are read at once


def pace(target: str, data_sink: bool, sink_size: int, steps_per_epoch: int, log_frequency: int) -> Pace:
    """A CPU is read after each step: nothing waits meanwhile. It knows no sink."""
    if target == "CPU":
        return Pace(0, 1, 0)
    sink = min(sink_size, steps_per_epoch) if data_sink else 0
    readings = min(log_frequency, 100)
    return Pace(sink, readings, readings + sink)  # a sink may end just before the next reading


def native_convolutions(network: "nn.Cell", wanted: str, runtime: Runtime, is_float16: bool, debug: bool) -> bool:
    """Give a network in training on CPU the kernels of `src.native.conv`, if they are wanted and possible; rank 0 says
    what became of it.

    Raises:
        UserError: they were asked for by name and cannot be had.
    """
    if runtime.target != "CPU" and wanted in ("auto", "framework"):
        return False
    from src.native import conv as native_conv

    refused = ""
    if runtime.target != "CPU":
        refused = f"they are for CPU, this is {runtime.target}"
    elif is_float16:
        refused = "they know no float16, --amp_level O0 is float32"
    elif debug:
        refused = "they need a compiled step, --debug runs operator by operator"
    threads = max(1, core_count() // runtime.world_size)
    native, line = native_conv.choose(network, wanted, refused, threads)
    if runtime.rank == 0:
        print(line, flush=True)
    return native


def setup(target: str, device_id: int = 0, distributed: bool = False, debug: bool = False) -> Runtime:
    """Make `target` the device of this process and join the other ranks.

    Args:
        debug: run operator by operator and wait for each, so that an error shows at its cause.

    Raises:
        UserError: the device is not there, or the ranks cannot meet.
    """
    require_device(target)
    os.environ.setdefault("GLOG_v", "3")  # the framework's warnings are not ours to show; GLOG_v=2 brings them back
    import mindspore as ms

    try:
        if distributed:
            ms.set_device(target)  # communication decides which one
        else:
            ms.set_device(target, device_id)
    except (RuntimeError, ValueError) as e:
        raise UserError(
            f"--device_target {target}: MindSpore cannot use device {device_id} ({reason_of(e)}). "
            "python scripts/doctor.py names the cause; --device_target CPU runs anywhere."
        ) from e
    ms.set_context(mode=ms.PYNATIVE_MODE if debug else ms.GRAPH_MODE)
    if debug:
        ms.runtime.launch_blocking()
    if target == "CPU":
        disarm_convolution_trap()
    float32_products = target != "Ascend" or _set_ascend_precision(device_id)
    rank, world_size = _join_ranks(target) if distributed else (0, 1)
    return Runtime(target, rank, world_size, float32_products)


def has_float32_products(chip: str) -> bool:
    """Whether the matrix unit of an Ascend chip, by its name in CANN, multiplies float32.

    That of the first generation (Ascend910A, Ascend910B, Ascend910ProA, ...) and of 310P does not. 910B and 910C do;
    CANN calls them Ascend910B1 to Ascend910B4 and Ascend910_9391 or the like, so Ascend910B without a number is not a
    910B.
    """
    return re.fullmatch(r"Ascend(910((Pro|Premium)?[AB])?|310(P.*)?)", chip) is None


def takes_any_size() -> bool:
    """Whether graphs with an open input shape run on the device of `setup`.

    Not on Ascend: where CANN's GraphEngine compiles whole graphs, dynamic shapes are excluded (docs/devices.md), and
    fixed ones suit every backend.
    """
    import mindspore as ms

    return ms.get_context("device_target") != "Ascend"


def _set_ascend_precision(device_id: int) -> bool:
    """Prepare the matrix unit; returns `has_float32_products`.

    MindSpore's default, must_keep_origin_dtype, keeps float32 where it is written (the loss) and leaves the network's
    precision to --amp_level. Where the matrix unit has no float32 that mode ends in errors or on the host's slow
    kernels; CANN documents force_fp32 as float16 operands and float32 results, which `src.loss.split_product` needs.
    """
    import mindspore as ms

    chip = ms.hal.get_device_name(device_id, "Ascend")
    if has_float32_products(chip):
        return True
    ms.device_context.ascend.op_precision.precision_mode("force_fp32")
    if early_rank() == 0:
        print(
            f"{chip} multiplies matrices in float16: results are float32 (precision_mode force_fp32), and the Fourier "
            "loss splits its operands to keep float32 precision",
            flush=True,
        )
    return False


@contextlib.contextmanager
def operator_by_operator() -> Iterator[None]:
    """Cells called within are not compiled, so that their hooks are called."""
    import mindspore as ms

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


def require_device(target: str) -> None:
    """Check that the device can be used, before the framework does, whose message is a page long.

    Raises:
        UserError: it is not there, or lacks its libraries.
        Restart: its libraries are in .venv, and the process has to start again to find them.
    """
    hint = "Add --device_target CPU to run the same command on this machine."
    if target == "GPU" and not gpu_driver_present():
        raise UserError(f"--device_target GPU: no NVIDIA driver on this machine. {hint}")
    if target == "GPU":
        _require_cuda_libraries()
    if target == "Ascend" and not ascend_devices():
        raise UserError(f"--device_target Ascend: no Ascend device (/dev/davinci*) on this machine. {hint}")


def disarm_convolution_trap() -> None:
    """Give MindSpore's CPU convolutions their fast kernels.

    oneDNN 3.10, which MindSpore 2.9 and 2.10 carry, falls to a reference loop for plain-layout float32 convolutions on
    a CPU with AVX-512: 1,200 ms instead of 10 ms for one 3x3 convolution of 32 channels at 256x256. Asked to stop at
    AVX2 it picks its fast kernel. oneDNN reads the variable once, at its first primitive, so a tiny convolution runs
    here and the old environment is restored: other libraries in this process or its children would be slowed down, or
    broken, by the setting. A value that the user has set is respected.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ or not has_avx512():
        return
    import mindspore as ms

    with _environment(ONEDNN_MAX_CPU_ISA="AVX2_VNNI"):
        ones = ms.ops.ones((1, 1, 4, 4), ms.float32)
        ms.ops.conv2d(ones, ms.ops.ones((1, 1, 3, 3), ms.float32)).asnumpy()


def has_avx512() -> bool:
    try:
        return platform.machine() == "x86_64" and " avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    old = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def early_rank() -> int:
    """Rank of this process as its launcher tells it, before the ranks have met; 0 for a single process."""
    names = ("OMPI_COMM_WORLD_RANK", "RANK_ID", "MS_NODE_ID")
    return next((int(os.environ[n]) for n in names if os.environ.get(n, "").isdigit()), 0)


def gather(values: Sequence[float]) -> np.ndarray:
    """The numbers of all ranks, (world size, n) float64, exact. Every rank must call it, with equally many."""
    from mindspore import Tensor, ops

    # No backend reduces float64 everywhere, but every one moves int32: the bits travel as they are.
    bits = np.array(values, np.float64).view(np.int32)
    return ops.AllGather()(Tensor(bits)).asnumpy().reshape(-1, len(bits)).view(np.float64)


def agree(number: int) -> int:
    """The largest of all ranks' numbers; every rank must call it."""
    return int(gather([number]).max())


SCHEDULER = """
import os, threading, time
rank_0 = os.getppid()
def leave_with_rank_0():
    while os.getppid() == rank_0:
        time.sleep(1)
    time.sleep(5)  # the other ranks sign off meanwhile; then it has ended by itself, unless a rank was killed
    os._exit(0)
threading.Thread(target=leave_with_rank_0, daemon=True).start()
import mindspore as ms
ms.set_device("CPU")
from mindspore.communication import init
init()
"""


def _cluster_from_mpirun() -> None:
    """Map Open MPI's variables to those of MindSpore's own cluster, which CPU ranks meet in.

    On GPU and Ascend the framework reads Open MPI's variables itself. Rank 0 also starts the cluster's scheduler, a
    process that ends when the ranks have left.
    """
    env = os.environ
    job = env.get("PMIX_NAMESPACE") or env.get("OMPI_MCA_ess_base_jobid") or "0"
    env.setdefault("MS_SCHED_HOST", "127.0.0.1")
    env.setdefault("MS_SCHED_PORT", str(20000 + zlib.crc32(job.encode()) % 12000))  # the same on all ranks of a job
    env["MS_WORKER_NUM"] = env["OMPI_COMM_WORLD_SIZE"]
    env["MS_NODE_ID"] = env["OMPI_COMM_WORLD_RANK"]
    if env["MS_NODE_ID"] == "0":
        clean = {k: v for k, v in env.items() if not k.startswith(("OMPI_", "PMIX_"))} | {"MS_ROLE": "MS_SCHED"}
        subprocess.Popen([sys.executable, "-c", SCHEDULER], env=clean, stdout=subprocess.DEVNULL)
    env["MS_ROLE"] = "MS_WORKER"


def _join_ranks(target: str) -> tuple[int, int]:
    """(rank, world size)"""
    import mindspore as ms
    from mindspore import communication

    if not any(name in os.environ for name in ("MS_ROLE", "OMPI_COMM_WORLD_SIZE", "RANK_TABLE_FILE")):
        raise UserError(
            "--is_train_distributed: this process was not started by mpirun or msrun. "
            f"Use bash scripts/run_distribute_train_{target.lower()}.sh DATASET CKPT_DIR [N]"
        )
    if target == "CPU" and "OMPI_COMM_WORLD_SIZE" in os.environ and "MS_ROLE" not in os.environ:
        _cluster_from_mpirun()
    try:
        communication.init()
    except (RuntimeError, ValueError) as e:
        raise UserError(f"the ranks could not meet ({reason_of(e)}); see the log folder named by the launcher") from e
    world_size = communication.get_group_size()
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world_size
    )
    rank = communication.get_rank()
    if "OMPI_COMM_WORLD_RANK" not in os.environ:  # of a rank that dies mpirun tells the number, msrun only the process
        print(f"rank {rank} is process {os.getpid()}", flush=True)
    return rank, world_size
