"""Everything about devices: detection and choice, ranks, and settings for CPU.

The functions import MindSpore, so that `best_device` is fast and settings that must precede the import are possible.
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
RESTARTED = "MIMO_UNET_RESTARTED"  # an environment variable, set in a process that was restarted to find its libraries


@dataclass(frozen=True)
class Runtime:
    """Where this process runs. A single process is rank 0 of 1."""

    target: str
    rank: int = 0
    world_size: int = 1
    float32_products: bool = True
    """Whether the device multiplies matrices in float32; see `has_float32_products`."""


def best_device() -> tuple[str, str]:
    """(device target, reason) of the best available device: Ascend, then GPU, then CPU. Does not import MindSpore."""
    if ascend_devices():
        return "Ascend", "an Ascend device is present"
    if gpu_driver_present():
        return "GPU", "an NVIDIA GPU is present"
    return "CPU", "no Ascend device and no NVIDIA GPU is present"


def usable_device() -> tuple[str, str]:
    """`best_device`, but the CPU if a GPU is present without its libraries."""
    target, why = best_device()
    if target == "GPU" and not (cuda_libraries_installed() or cuda_libraries_present()):
        return "CPU", "an NVIDIA GPU is present, but its CUDA 11 libraries are not (bash scripts/setup.sh --gpu)"
    return target, why


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
    """Whether `setup.sh --gpu` has installed CUDA in .venv, for scripts/gpu_env.sh."""
    return (ROOT / ".venv/cuda").is_dir()


def _require_cuda_libraries() -> None:
    """Restart through scripts/gpu_env.sh if that may help, because LD_LIBRARY_PATH is read when a process starts."""
    if cuda_libraries_present():
        return
    tried = RESTARTED in os.environ
    if cuda_libraries_installed() and not tried:
        line = f"restarting with the CUDA libraries of {ROOT / '.venv'} (scripts/gpu_env.sh)"
        shell = ["bash", "-c", 'source "$1" && shift && exec "$@"', "bash", str(ROOT / "scripts/gpu_env.sh")]
        command = [*shell, sys.executable, *sys.orig_argv[1:]]
        raise Restart(line if early_rank() == 0 else "", command, {RESTARTED: "1"})
    found = f"the CUDA 11 libraries in {ROOT / '.venv'} do not load" if tried else "no CUDA 11 libraries were found"
    raise UserError(
        f"an NVIDIA GPU is present, but {found}. Run once: bash scripts/setup.sh --gpu. "
        "Or add --device_target CPU to use the CPU."
    )


def core_count() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Free bytes of the machine or, if less, of the container."""
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
    """Number of equal parts in which a step processes its batch.

    On CPU every convolution of the framework allocates a scratchpad in proportion to its input: batch 1 of 256x256
    needs 10.5 GB, batch 4 would need 27. Therefore a CPU step splits its batch into parts of at most 16,384 pixels, or
    single crops, and adds up the gradients, which is equal up to float rounding. With native convolutions batch 4 needs
    5.7 GB, and a part has up to 262,144 pixels. Other devices do not split the batch.
    """
    if target != "CPU":
        return 1
    fitting = max(1, MICRO_BATCH_PIXELS["native" if native_convolutions else "framework"] // crop_size**2)
    return next(
        parts for parts in range(1, batch_size + 1) if batch_size % parts == 0 and batch_size // parts <= fitting
    )


@dataclass(frozen=True)
class Pace:
    """Steps that a device does without waiting for the host."""

    sink: int  # steps per data sink; 0 = no data sink
    readings: int  # steps between two readings of losses and overflows
    history: int  # steps whose results the device keeps until they are read; 0 = read each step


def pace(target: str, data_sink: bool, sink_size: int, steps_per_epoch: int, log_frequency: int) -> Pace:
    """A CPU has no data sink, and is read after each step because that costs nothing."""
    if target == "CPU":
        return Pace(0, 1, 0)
    sink = min(sink_size, steps_per_epoch) if data_sink else 0
    readings = min(log_frequency, 100)
    return Pace(sink, readings, readings + sink)  # a sink may end just before the next reading


def native_convolutions(network: "nn.Cell", wanted: str, runtime: Runtime, is_float16: bool, debug: bool) -> bool:
    """Let a network that trains on CPU use the kernels of `src.native.conv`, if wanted and possible. Rank 0 prints the
    outcome.

    Raises:
        UserError: they were requested explicitly and are not possible.
    """
    if runtime.target != "CPU" and wanted in ("auto", "framework"):
        return False
    from src.native import conv as native_conv

    refused = ""
    if runtime.target != "CPU":
        refused = f"they are for CPU, this device is {runtime.target}"
    elif is_float16:
        refused = "they do not support float16, --amp_level O0 is float32"
    elif debug:
        refused = "they need a compiled step, but --debug runs operator by operator"
    threads = max(1, core_count() // runtime.world_size)
    native, line = native_conv.choose(network, wanted, refused, threads)
    if runtime.rank == 0:
        print(line, flush=True)
    return native


def setup(target: str, device_id: int = 0, distributed: bool = False, debug: bool = False) -> Runtime:
    """Make `target` the device of this process and join the other ranks.

    Args:
        debug: run operator by operator and wait for each, so that errors appear where they are caused.

    Raises:
        UserError: the device is not available, or the ranks cannot connect.
    """
    require_device(target)
    os.environ.setdefault("GLOG_v", "3")  # hides the framework's warnings; GLOG_v=2 shows them
    import mindspore as ms

    try:
        ms.set_device(target, None if distributed else device_id)  # None: the communication chooses it
    except (RuntimeError, ValueError) as e:
        raise UserError(
            f"--device_target {target}: MindSpore cannot use device {device_id} ({reason_of(e)}). "
            "python scripts/doctor.py reports the cause; --device_target CPU runs anywhere."
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
    """Whether the matrix unit of an Ascend chip, given its name in CANN, multiplies float32.

    The first generation (Ascend910A, Ascend910B, Ascend910ProA, ...) and 310P do not. 910B and 910C do; CANN calls them
    Ascend910B1 to Ascend910B4 and, for example, Ascend910_9391, so Ascend910B without a number is not a 910B.
    """
    return re.fullmatch(r"Ascend(910((Pro|Premium)?[AB])?|310(P.*)?)", chip) is None


def takes_any_size() -> bool:
    """Whether graphs with a dynamic input shape run on the device of `setup`.

    They do not on Ascend if CANN's GraphEngine compiles whole graphs (docs/devices.md); fixed shapes always work.
    """
    import mindspore as ms

    return ms.get_context("device_target") != "Ascend"


def _set_ascend_precision(device_id: int) -> bool:
    """Set the precision mode of the matrix unit; returns `has_float32_products`.

    MindSpore's default, must_keep_origin_dtype, keeps explicit float32 (the loss) and leaves the network's precision to
    --amp_level. If the matrix unit has no float32, that mode causes errors or uses slow kernels on the host; CANN
    documents force_fp32 as float16 operands with float32 results, which `src.loss.split_product` needs.
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
    """Do not compile cells within this context, so that their hooks are called."""
    import mindspore as ms

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


def require_device(target: str) -> None:
    """Check that the device is available, before the framework does, whose message is a page long.

    Raises:
        UserError: it is absent, or its libraries are.
        Restart: its libraries are in .venv, and the process must restart to find them.
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

    oneDNN 3.10, which MindSpore 2.9 and 2.10 include, uses a reference loop for plain-layout float32 convolutions on a
    CPU with AVX-512: 1,200 ms instead of 10 ms for a 3x3 convolution of 32 channels at 256x256. Limited to AVX2, it
    uses its fast kernel. oneDNN reads the variable only at its first primitive, so a tiny convolution runs here and the
    environment is restored: the setting would slow down or break other libraries in this process and its children. A
    value set by the user is respected.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ or not has_avx512():
        return
    import mindspore as ms

    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2_VNNI"
    try:
        ones = ms.ops.ones((1, 1, 4, 4), ms.float32)
        ms.ops.conv2d(ones, ms.ops.ones((1, 1, 3, 3), ms.float32)).asnumpy()
    finally:
        del os.environ["ONEDNN_MAX_CPU_ISA"]


def has_avx512() -> bool:
    try:
        return platform.machine() == "x86_64" and " avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def early_rank() -> int:
    """Rank of this process according to its launcher, before the ranks connect; 0 for a single process."""
    names = ("OMPI_COMM_WORLD_RANK", "RANK_ID", "MS_NODE_ID")
    return next((int(os.environ[n]) for n in names if os.environ.get(n, "").isdigit()), 0)


def gather(values: Sequence[float]) -> np.ndarray:
    """The numbers of all ranks, (world size, n) float64, exact. Every rank must call it, with the same n."""
    from mindspore import Tensor, ops

    # Not every backend reduces float64, but all gather int32, so the bits are sent as int32.
    bits = np.array(values, np.float64).view(np.int32)
    return ops.AllGather()(Tensor(bits)).asnumpy().reshape(-1, len(bits)).view(np.float64)


def agree(number: int) -> int:
    """The largest number of all ranks. Every rank must call it."""
    return int(gather([number]).max())


SCHEDULER = """
import os, threading, time
rank_0 = os.getppid()
def leave_with_rank_0():
    while os.getppid() == rank_0:
        time.sleep(1)
    time.sleep(5)  # the other ranks sign off and the scheduler ends, unless a rank was killed
    os._exit(0)
threading.Thread(target=leave_with_rank_0, daemon=True).start()
import mindspore as ms
ms.set_device("CPU")
from mindspore.communication import init
init()
"""


def _cluster_from_mpirun() -> None:
    """Map Open MPI's variables to those of MindSpore's cluster, through which CPU ranks connect.

    On GPU and Ascend the framework reads Open MPI's variables. Rank 0 also starts the cluster's scheduler, a process
    that ends after the ranks.
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
        raise UserError(
            f"the ranks could not connect ({reason_of(e)}); see the log folder that the launcher printed"
        ) from e
    world_size = communication.get_group_size()
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world_size
    )
    rank = communication.get_rank()
    if "OMPI_COMM_WORLD_RANK" not in os.environ:  # if a rank dies, mpirun reports its number, msrun only its process
        print(f"rank {rank} is process {os.getpid()}", flush=True)
    return rank, world_size
