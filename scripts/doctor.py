"""Check this machine and this installation, one row per fact, and suggest a fix for each problem.

    python scripts/doctor.py              # half a minute on two cores
    python scripts/doctor.py --quick      # without running the network
    python scripts/doctor.py --json report.json

The exit status is 1 if a row is FAIL, otherwise 0. WARN marks what works slowly or for small jobs only. Packages are
imported only by the check that reports on them, so that a broken installation becomes a row, too.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees scripts/ only

from src import __version__  # noqa: E402
from src.errors import need_json_name, need_writable_folder, run_main  # noqa: E402
from src.files import write_whole  # noqa: E402
from src.streams import need_reader  # noqa: E402

OK, WARN, FAIL = "OK", "WARN", "FAIL"
PYTHONS = ((3, 10), (3, 11), (3, 12))  # the wheels of MindSpore 2.10
CANN_VERSIONS = ("8.2", "8.3", "8.5", "9.0", "9.1")  # as in setup.sh; a test holds the two together
SETUP = "bash scripts/setup.sh"
# The Python that runs this script may not be the one that setup.sh installed packages for.
OTHER_PYTHON = ROOT / ".venv/bin/python"
WRONG_PYTHON = OTHER_PYTHON.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve()
INSTALL = f"run it with {OTHER_PYTHON}" if WRONG_PYTHON else SETUP
GB = 2**30
SLOW_CONVOLUTION = 0.3  # seconds; 10 to 60 ms is healthy, the reference loop takes more than one second


@dataclass(frozen=True)
class Row:
    """One fact; `fix` is a command or advice."""

    name: str
    status: str
    found: str
    fix: str = ""


def judge(name: str, good: bool, found: str, fix: str, otherwise: str = FAIL) -> Row:
    return Row(name, OK if good else otherwise, found, "" if good else fix)


# ---- Python and packages ---------------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...] = sys.version_info[:3], name: str = platform.python_implementation()) -> Row:
    found = f"{name} {'.'.join(map(str, version))}, {sys.executable}"
    fix = f"MindSpore 2.10 needs CPython 3.10, 3.11 or 3.12: {SETUP}, then .venv/bin/python"
    return judge("Python", version[:2] in PYTHONS and name == "CPython", found, fix)


def required_packages(file: Path = ROOT / "requirements.txt") -> list[str]:
    """The lines of a requirements file, without comments: 'numpy>=1.24,<2'."""
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def check_packages(
    wanted: Iterable[str] | None = None, version_of: Callable[[str], str] = importlib.metadata.version
) -> list[Row]:
    """MindSpore, numpy and packages with problems have one row each; the other packages share one."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Row("packages", FAIL, "no package 'packaging', which comes with MindSpore", INSTALL)]
    rows, good = [], []
    for text in required_packages() if wanted is None else wanted:
        need = Requirement(text)
        if need.marker and not need.marker.evaluate():  # not for this platform
            continue
        range_ = str(need.specifier) or "any version"
        try:
            version = version_of(need.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        fits = version is not None and need.specifier.contains(version, prereleases=True)
        if fits and need.name not in ("mindspore", "numpy"):
            good.append(f"{need.name} {version}")
        else:
            why = " (2.x breaks MindSpore's complex operators)" if need.name == "numpy" else ""
            fix = f"{INSTALL}, or {Path(sys.executable).name} -m pip install '{text}'"
            rows.append(judge(need.name, fits, f"{version or 'not installed'}, wanted {range_}{why}", fix))
    return rows + ([Row("other packages", OK, ", ".join(good))] if good else [])


def check_import(python: str = sys.executable) -> Row:
    """Import in a separate process, which an incompatible plug-in may crash."""
    start = time.perf_counter()
    command = [python, "-c", "import mindspore; print('version', mindspore.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=quiet())
    except (OSError, subprocess.TimeoutExpired) as e:
        return Row("import mindspore", FAIL, f"{type(e).__name__}: {e}", INSTALL)
    if done.returncode:
        fix = INSTALL if WRONG_PYTHON else f"{SETUP}; if the installation is incomplete: rm -r .venv first"
        return Row("import mindspore", FAIL, error_line(done.stderr) or f"exit status {done.returncode}", fix)
    return Row("import mindspore", OK, f"{last_line(done.stdout)}, {time.perf_counter() - start:.1f} s")


def quiet() -> dict[str, str]:
    return {"GLOG_v": "3", **os.environ}


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def error_line(text: str) -> str:
    """The line of an error output that contains the error. MindSpore writes a page after it."""
    named = [line.strip() for line in text.splitlines() if re.match(r"error: |[A-Za-z.]*(Error|Exception)\b", line)]
    return (named[-1] if named else last_line(text))[:300]


# ---- devices ---------------------------------------------------------------------------------------------------------


def check_gpu() -> list[Row]:
    from src import device

    if not device.gpu_driver_present():
        return [
            Row("NVIDIA GPU", OK, "not present"),
            Row("CUDA 11 libraries", OK, "not present, and not needed without a GPU"),
        ]
    proc = Path("/proc/driver/nvidia/version")
    found = proc.read_text().splitlines()[0] if proc.exists() else "a device file, no /proc/driver/nvidia/version"
    loadable = device.cuda_libraries_present()
    found_libraries = "libcudart.so.11.0 and libcudnn.so.8 " + ("load" if loadable else "are not on LD_LIBRARY_PATH")
    if not loadable and device.cuda_libraries_installed():
        loadable, found_libraries = True, "in .venv; train.py and eval.py restart themselves to load them"
    rows = [Row("NVIDIA GPU", OK, found), judge("CUDA 11 libraries", loadable, found_libraries, f"once: {SETUP} --gpu")]
    if os.environ.get("MS_DISABLE_KERNEL_BACKOFF") == "1":
        found = "MS_DISABLE_KERNEL_BACKOFF=1: evaluation and validation fail on a GPU"
        rows.append(Row("kernel back-off", WARN, found, "unset MS_DISABLE_KERNEL_BACKOFF"))
    return rows


def check_ascend(homes: Iterable[str] | None = None) -> list[Row]:
    from src import device

    devices = device.ascend_devices()
    if homes is None:
        toolkit = "Ascend/ascend-toolkit/latest"
        homes = [os.environ.get("ASCEND_HOME_PATH", ""), f"/usr/local/{toolkit}", "/usr/local/Ascend/cann"]
        homes += [str(Path.home() / toolkit)]
    home = next((Path(folder) for folder in homes if folder and Path(folder).is_dir()), None)
    rows = [Row("Ascend devices", OK, ", ".join(devices) or "not present")]
    if home is None:
        fix = f"install a CANN toolkit, {' or '.join(CANN_VERSIONS[-2:])}, then {SETUP} --ascend"
        return [*rows, judge("CANN", not devices, "not present", fix)]
    file = home / "compiler/version.info"
    lines = file.read_text().splitlines() if file.is_file() else []
    version = next((line[8:].strip() for line in lines if line.lower().startswith("version=")), "unknown version")
    if devices and not os.environ.get("ASCEND_OPP_PATH"):
        fix = f"in each shell: source {home}/set_env.sh (the _ascend scripts do it automatically)"
        return [*rows, Row("CANN", WARN, f"{version} in {home}, its environment is not set", fix)]
    known = version.startswith(tuple(f"{v}." for v in CANN_VERSIONS)) or version in CANN_VERSIONS
    fix = f"MindSpore 2.10 was tested with CANN {', '.join(CANN_VERSIONS)}"
    return [*rows, judge("CANN", known, f"{version} in {home}", fix, WARN)]


def check_cpu(cpuinfo: str | None = None) -> Row:
    if cpuinfo is None:
        file = Path("/proc/cpuinfo")
        cpuinfo = file.read_text() if file.exists() else ""
    flags = next((line.split(":")[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    setting = os.environ.get("ONEDNN_MAX_CPU_ISA")
    own = f"; ONEDNN_MAX_CPU_ISA={setting}, set by the user" if setting else ""
    found = f"{platform.machine()}, " + ", ".join(f"{f}: {'yes' if f in flags else 'no'}" for f in ("avx2", "avx512f"))
    fix = "none: convolutions run without AVX2, several times slower"
    return judge("CPU", "avx2" in flags or platform.machine() != "x86_64", found + own, fix, WARN)


# ---- resources -------------------------------------------------------------------------------------------------------


def check_cores_and_memory() -> list[Row]:
    from src import device

    cores, memory = device.core_count(), device.available_memory() / GB
    fix = "close other programs, or train with smaller --crop_size and --train_batch_size"
    return [
        Row("cores", OK, f"{cores} of {os.cpu_count()} may be used"),
        judge("memory", memory >= 4, f"{memory:.1f} GB available", fix, WARN),
    ]


def check_shared_memory(folder: str = "/dev/shm") -> Row:
    name = f"shared memory, {folder}"
    try:
        free = shutil.disk_usage(folder).free / GB
    except OSError as e:
        return Row(name, WARN, f"none ({e.strerror})", "needed by several GPUs, which exchange gradients through it")
    fix = "several GPUs exchange gradients through it and need 1 GB: docker run --shm-size=8g"
    return judge(name, free >= 1, f"{free:.2f} GB free", fix, WARN)


def check_limits(limit_of: Callable[[int], tuple[int, int]] = resource.getrlimit) -> list[Row]:
    rows = []
    limits = ("open files", resource.RLIMIT_NOFILE, "-n"), ("processes", resource.RLIMIT_NPROC, "-u")
    for name, limit, option in limits:
        soft = limit_of(limit)[0]
        unlimited = soft == resource.RLIM_INFINITY
        found = f"{'unlimited' if unlimited else soft} (ulimit {option})"
        rows.append(judge(name, unlimited or soft >= 1024, found, f"in this shell: ulimit {option} 4096", WARN))
    return rows


def check_mpi(find: Callable[[str], str | None] = shutil.which) -> Row:
    path = find("mpirun")
    if path is None:
        return Row("mpirun", OK, "not present; only --launcher mpirun needs it (apt-get install openmpi-bin)")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as e:
        return Row("mpirun", WARN, f"{path} does not start: {e}", "use --launcher msrun")
    lines = done.stdout.splitlines()
    fix = "apt-get install openmpi-bin, or --launcher msrun"
    return judge("mpirun", bool(lines), f"{path}, {lines[0] if lines else 'prints no version'}", fix, WARN)


def check_msrun(folder: Path | None = None) -> Row:
    path = (folder or Path(sys.executable).parent) / "msrun"
    found = str(path) if path.is_file() else f"not beside {sys.executable}"
    return judge("msrun", path.is_file(), found, f"it comes with MindSpore: {INSTALL}", WARN)


def check_folder(folder: Path | None = None) -> list[Row]:
    """The current folder, where runs are written by default."""
    folder = folder or Path.cwd()
    free = shutil.disk_usage(folder).free / GB
    try:
        with tempfile.TemporaryFile(dir=folder):
            problem = ""
    except OSError as e:
        problem = e.strerror or type(e).__name__
    fix = "cd to a writable folder, or give --ckpt_save_directory an absolute path"
    return [
        judge(
            "disk", free >= 5, f"{free:.1f} GB free in {folder}", "free some space: a long run needs several GB", WARN
        ),
        judge("write permission", not problem, f"{folder}{problem and ': ' + problem}", fix),
    ]


def check_repository() -> Row:
    from src.run_folder import versions

    commit = versions()["git_commit"]
    return Row("repository", OK, f"version {__version__}, commit {commit or 'unknown (no git, or not a clone)'}")


# ---- runs on the devices ---------------------------------------------------------------------------------------------


def check_devices() -> list[Row]:
    """A tiny training step on each device present, each in a separate process, because MindSpore cannot change its
    device and an incompatible plug-in may crash the process."""
    from src import device

    targets = ["CPU"]
    if device.gpu_driver_present() and (device.cuda_libraries_present() or device.cuda_libraries_installed()):
        targets.append("GPU")
    if device.ascend_devices():
        targets.append("Ascend")
    return [row for target in targets for row in run_probe(target)]


def run_probe(target: str, python: str = sys.executable, timeout: float = 600) -> list[Row]:
    name = f"{target}: training step"
    fix = {
        "GPU": f"{SETUP} --gpu; nvidia-smi must list the GPU",
        "Ascend": "npu-smi info must list the device; driver, firmware and CANN must be of one release",
    }.get(target, INSTALL)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "rows.json"
        command = [python, str(Path(__file__).resolve()), "--probe", target, "--json", str(report)]
        try:  # in that folder, because MindSpore leaves files after a failure
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=quiet(), cwd=folder)
        except (OSError, subprocess.TimeoutExpired) as e:
            return [Row(name, FAIL, f"not finished after {timeout:.0f} s" if "timed out" in str(e) else str(e), fix)]
        if not report.exists():
            return [Row(name, FAIL, error_line(done.stderr) or f"exit status {done.returncode}", fix)]
        return [Row(**row) for row in json.loads(report.read_text())]


def probe(target: str) -> list[Row]:
    """The rows of one device, in the child process."""
    from src import device

    split_products = not device.setup(target).float32_products
    rows = [check_convolution(), check_native_convolutions(), check_complex()] if target == "CPU" else []
    return [*rows, check_training_step(target, split_products), check_fourier(target, split_products)]


def check_convolution() -> Row:
    import mindspore as ms

    x, w = ms.ops.ones((1, 32, 256, 256)), ms.ops.ones((32, 32, 3, 3))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ms.ops.conv2d(x, w, pad_mode="pad", padding=1).asnumpy()
        times.append(time.perf_counter() - start)
    return judge_convolution(min(times))


def judge_convolution(seconds: float) -> Row:
    """The row for the time of a 3x3 convolution of 32 channels at 256x256."""
    slow = seconds > SLOW_CONVOLUTION
    found = f"{1000 * seconds:.0f} ms" + (": oneDNN's slow path" if slow else "")
    fix = "unset ONEDNN_MAX_CPU_ISA, which src/device.py then sets; or set it to AVX2 before Python starts"
    return judge("CPU: convolution", not slow, found, fix, WARN)


def check_native_convolutions() -> Row:
    """Build them if necessary."""
    from src.native import conv as native_conv

    name = "CPU: convolutions for training"
    try:
        return Row(name, OK, f"native, {native_conv.library().name}")
    except native_conv.Unavailable as e:
        return Row(name, WARN, f"the framework's; {e}", "training takes 1.5 times as long until this is fixed")


def check_complex() -> Row:
    import mindspore as ms
    import numpy as np

    name, fix = "CPU: complex operators", "numpy below 2: " + SETUP
    try:
        x = ms.Tensor(np.array([2 + 1j], np.complex64))
        value = complex((x * x).asnumpy()[0])
    except (RuntimeError, TypeError, ValueError) as e:
        return Row(name, FAIL, str(e).strip().splitlines()[0], fix)
    return judge(name, abs(value - (3 + 4j)) < 1e-5, f"(2 + i)^2 = {value:.6g}", fix)


def check_training_step(target: str, split_products: bool = False) -> Row:
    """Forward and backward pass of MIMO-UNet with one residual block per stage, twice: compiled, then timed."""
    import mindspore as ms
    import numpy as np

    from src.init_weights import init_weights
    from src.loss import MultiScaleLoss
    from src.mimo_unet import MASK_CHANNELS, build_net
    from src.train_step import ForwardLoss

    network = build_net("MIMO-UNet", 1)
    init_weights(network, 1)
    blur, sharp = (ms.Tensor(np.random.default_rng(i).random((1, 3, 32, 32), np.float32)) for i in range(2))
    mask, scale = ms.Tensor(np.ones((1, MASK_CHANNELS), np.float32)), ms.Tensor(1.0, ms.float32)
    loss = MultiScaleLoss(split_products=split_products)
    step = ms.value_and_grad(ForwardLoss(network, loss), None, network.trainable_params(), has_aux=True)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        (value, *_), gradients = step(blur, sharp, mask, scale)
        finite = all(np.isfinite(g.asnumpy()).all() for g in (value, *gradients))
        times.append(time.perf_counter() - start)
    found = f"loss {float(value.asnumpy()):.4f}, compiled in {times[0]:.1f} s, then {1000 * times[1]:.0f} ms"
    fix = "the device computes wrong results: check its driver and library versions above"
    return judge(f"{target}: training step", finite, found + ("" if finite else ", not finite"), fix)


def check_fourier(target: str, split_products: bool = False) -> Row:
    """The Fourier term of the loss against numpy's transform, in float64."""
    import mindspore as ms
    import numpy as np

    from src.loss import FourierL1

    diff = np.random.default_rng(2).standard_normal((1, 3, 32, 48)).astype(np.float32)
    spectrum = np.fft.fft2(diff.astype(np.float64))
    expected = (np.abs(spectrum.real) + np.abs(spectrum.imag)).mean() / 2
    relative = abs(float(FourierL1(split_products)(ms.Tensor(diff)).asnumpy()) / expected - 1)
    fix = "float32 products are not computed in float32: check the TF32 or HF32 settings of the device"
    return judge(f"{target}: Fourier term", relative < 1e-3, f"relative difference {relative:.0e} to numpy", fix)


# ---- all checks -----------------------------------------------------------------------------------------------------


def guarded(name: str, check: Callable[[], Row | list[Row]]) -> list[Row]:
    """The rows of a check, or one row if it fails to run."""
    try:
        rows = check()
    except Exception as e:  # a broken installation may raise anything
        reason = last_line(str(e)) or type(e).__name__
        return [Row(name, FAIL, f"cannot be checked: {reason}", INSTALL)]
    return rows if isinstance(rows, list) else [rows]


def examine(quick: bool) -> Iterable[Row]:
    checks: dict[str, Callable[[], Row | list[Row]]] = {
        "Python": check_python,
        "packages": check_packages,
        "import mindspore": check_import,
        "GPU": check_gpu,
        "Ascend": check_ascend,
        "CPU": check_cpu,
        "cores and memory": check_cores_and_memory,
        "shared memory": check_shared_memory,
        "limits": check_limits,
        "mpirun": check_mpi,
        "msrun": check_msrun,
        "current folder": check_folder,
        "repository": check_repository,
    }
    if not quick:
        checks["devices"] = check_devices
    for name, check in checks.items():
        yield from guarded(name, check)


def line(row: Row) -> str:
    text = f"{row.status:<5} {row.name:<24} {row.found}"
    return f"{text}  -> {row.fix}" if row.fix else text


def make_parser():
    try:
        from src.command_line import ArgumentParser
    except ImportError:  # its packages may be missing
        from argparse import ArgumentParser
    parser = ArgumentParser(
        description="Check this machine and this installation. The exit status is 1 if a row is FAIL."
    )
    parser.add_argument("--quick", action="store_true", help="skip the checks that run on the devices")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to this file")
    parser.add_argument(
        "--probe", metavar="DEVICE", choices=("CPU", "GPU", "Ascend"), help="only the checks that run on this device"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    if args.json:
        need_json_name(Path(args.json), "--json")
        need_writable_folder(Path(args.json).parent, "--json")
    else:
        need_reader()
    rows = []
    for row in probe(args.probe) if args.probe else examine(args.quick):
        print(line(row), flush=True)
        rows.append(row)
    counts = {status: sum(row.status == status for row in rows) for status in (OK, WARN, FAIL)}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if args.json:
        write_whole(Path(args.json), json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    return 1 if counts[FAIL] else 0


if __name__ == "__main__":
    run_main(main)
