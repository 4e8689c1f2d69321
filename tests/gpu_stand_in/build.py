"""A MindSpore whose GPU plug-in runs without a GPU, so that any machine can say whether a training starts on one.

The plug-in is the real one: it chooses the device, compiles the graph, selects a kernel for every operator, initialises
the kernels and links them. Under it lies cuda.c in place of CUDA, cuDNN, NCCL and MindSpore's own kernels. It computes
nothing, so neither values nor times mean anything.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
# What the plug-in for CUDA 11.6 is linked against, and NCCL, which it opens later.
LIBRARIES = [
    "libcudart.so.11.0",
    "libcuda.so.1",
    "libcublas.so.11",
    "libcudnn.so.8",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libcufft.so.10",
    "libcusparse.so.11",
    "libnvrtc.so.11.2",
    "libnccl.so.2",
]
KERNELS = "libcuda_ops.so.11"
CUDA_FUNCTION = re.compile(r"(cu|__cuda|nvrtc|nccl)[A-Za-z_]+")


def build(mindspore: Path, folder: Path) -> dict[str, str]:
    """Make `folder`, with a copy of the installed package `mindspore` that costs no space, its files being links.

    Returns:
        What the environment needs: PYTHONPATH, LD_LIBRARY_PATH, CUDA_HOME, and PATH with a nvidia-smi that lists two
        GPUs.
    """
    shutil.copytree(mindspore, folder / "mindspore", copy_function=_link)
    libraries = folder / "mindspore/lib"
    plugin = libraries / "plugin"
    asked = _symbols("--undefined-only", plugin / "libmindspore_gpu.so.11.6")
    asked |= _symbols("--undefined-only", plugin / "gpu11.6/libnvidia_collective.so")
    kernels = _symbols("--defined-only", plugin / "gpu" / KERNELS)
    names = sorted(name for name in asked if name in kernels or CUDA_FUNCTION.match(name))

    # Weak, so that what cuda.c answers takes their place; 128 bits, since a C++ result may fill two registers.
    zeros = [f"__attribute__((weak)) unsigned __int128 {name}(void) {{ return 0; }}\n" for name in names]
    (folder / "zeros.c").write_text("".join(zeros))
    for source in (HERE / "cuda.c", folder / "zeros.c"):
        subprocess.run(["gcc", "-c", "-fPIC", "-o", folder / f"{source.stem}.o", source], check=True)
    for name in LIBRARIES:
        _make_library(folder, plugin / "gpu11.6" / name)
    _make_library(folder, plugin / "gpu" / KERNELS)

    # MindSpore asks nvcc for the version of CUDA, and the launchers ask nvidia-smi for the number of GPUs.
    _make_command(folder / "cuda/bin/nvcc", "Cuda compilation tools, release 11.6, V11.6.124")
    _make_command(folder / "cuda/bin/nvidia-smi", "GPU 0: stand-in\\nGPU 1: stand-in")
    found = f"{plugin / 'gpu11.6'}:{libraries}:{plugin / 'gpu'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return {
        "PYTHONPATH": str(folder),
        "LD_LIBRARY_PATH": found.rstrip(":"),
        "CUDA_HOME": str(folder / "cuda"),
        "PATH": f"{folder / 'cuda/bin'}:{os.environ['PATH']}",
    }


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)


def _symbols(kind: str, library: Path) -> set[str]:
    done = subprocess.run(["nm", "-D", kind, library], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}


def _make_library(folder: Path, path: Path) -> None:
    """All functions under the name of one library: NVIDIA's versions of symbols are the names of their libraries."""
    versions = folder / f"{path.name}.map"
    versions.write_text(f"{path.name} {{ global: *; }};\n")
    path.unlink(missing_ok=True)  # a link: the installed file stays
    subprocess.run(
        [
            "gcc",
            "-shared",
            f"-Wl,-soname,{path.name}",
            f"-Wl,--version-script={versions}",
            "-o",
            path,
            folder / "cuda.o",
            folder / "zeros.o",
        ],
        check=True,
    )


def _make_command(path: Path, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '{answer}\\n'\n")
    path.chmod(0o755)
