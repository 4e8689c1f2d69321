"""Convolutions for training on CPU by oneDNN with blocked layouts, as custom operators of MindSpore.

MindSpore 2.10's CPU convolution also uses oneDNN, but in the plain layout, which has no AVX-512 kernel, and with one
scratchpad per layer: a training step takes 1.5 times as long as PyTorch's, and 10.5 GB for one crop of 256x256. The
operators in `conv.cc` take PyTorch's time and 2.1 GB; docs/performance.md has the figures. They are compiled on first
use if a C++ compiler and the packages onednn-cpu-gomp and onednn-devel-cpu-gomp are installed; otherwise training uses
the framework's convolutions.

They are for training steps only: the shapes of a custom operator must be known when the graph is compiled, so
validation and evaluation, whose graph takes images of any size, use the framework's operators.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from mindspore import Tensor, nn, ops

from src.errors import UserError
from src.files import whole_file
from src.layers import BasicConv, ResBlocks

SOURCE = Path(__file__).with_name("conv.cc")
COMPILE = ["-O2", "-shared", "-fPIC", "-std=c++17", "-fopenmp"]


class Unavailable(Exception):
    """The native operators cannot be used here; the message gives the reason."""


def choose(network: nn.Cell, wanted: str, refused: str = "", threads: int = 0) -> tuple[bool, str]:
    """Install native convolutions if they are wanted and possible.

    Args:
        wanted: the setting conv_kernels, `auto` | `native` | `native_bf16` | `framework`.
        refused: why the device or precision of this training excludes them, '' if it does not.
        threads: see `install`.

    Returns:
        Whether they are installed, and a line about that for the log.

    Raises:
        UserError: `native` or `native_bf16` is not possible.
    """
    if wanted == "framework":
        return False, "convolutions: MindSpore's own, as asked"
    try:
        if refused:
            raise Unavailable(refused)
        install(network, wanted == "native_bf16", threads)
    except Unavailable as e:
        if wanted != "auto":
            raise UserError(f"--conv_kernels {wanted}: {e}. --conv_kernels auto trains without.") from e
        return False, f"convolutions: MindSpore's own; native ones: {e}"
    return True, f"convolutions: native, {'bfloat16' if wanted == 'native_bf16' else 'float32'}"


def library() -> Path:
    """The compiled operators, built now if they do not exist yet.

    Raises:
        Unavailable: the system or processor is another one, or the compiler or oneDNN is missing.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"for Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    # Ranks and tests share the compiled file; its name depends on everything that it is made from.
    onednn, headers = Path(sys.prefix, "lib/libdnnl.so.3"), Path(sys.prefix, "include")
    if not onednn.exists() or not (headers / "dnnl.hpp").exists():
        raise Unavailable("no oneDNN in this environment (pip install -r requirements.txt)")
    key = hashlib.sha256("\0".join([SOURCE.read_text(), str(onednn), *COMPILE]).encode()).hexdigest()[:16]
    folder = Path(sys.prefix, "lib/mimo_unet")
    built = folder / f"native_conv_{key}.so"
    if built.exists():
        return built
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if not compiler:
        raise Unavailable("no C++ compiler (apt-get install g++)")
    try:
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # if several ranks start at once, the first one builds
            if built.exists():
                return built
            with whole_file(built) as made:
                # An empty library under oneDNN's full path makes the linker record that path. For the plain name,
                # libdnnl.so.3, the loader would take MindSpore's copy: another version, limited to AVX2 by
                # src.device.disarm_convolution_trap().
                stub = made.with_name("stub.so")
                _compile(compiler, "-shared", "-x", "c++", "/dev/null", f"-Wl,-soname,{onednn}", "-o", stub)
                _compile(compiler, *COMPILE, f"-I{headers}", SOURCE, "-Wl,--no-as-needed", stub, "-o", made)
    except OSError as e:
        raise Unavailable(f"cannot write {e.filename or folder} ({e.strerror})") from e
    except UserError as e:
        raise Unavailable(str(e)) from e
    return built


def _compile(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        error = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
        raise Unavailable(f"the compiler failed: {error}")


def install(network: nn.Cell, bfloat16: bool = False, threads: int = 0) -> None:
    """Replace every convolution of a network by a native one. Parameters, their names and order, and the results (to
    float rounding) stay the same.

    Args:
        bfloat16: multiply in bfloat16 and accumulate in float32; weights and activations stay float32.
        threads: for all convolutions in this process, 0 = one per core.

    Raises:
        Unavailable: as `library`, or the processor has no bfloat16 instructions.
    """
    path = library()
    if ctypes.CDLL(str(path)).native_conv_configure(threads, bfloat16):
        raise Unavailable("this processor has no bfloat16 instructions (AVX512_BF16)")
    _swap(network, Operators(path))


class NativeConv(nn.Cell):
    """A `BasicConv` with its ReLU as one native operator."""

    def __init__(self, layer: BasicConv, operator: ops.Custom):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.main, self.operator = layer.main, operator

    def construct(self, x: Tensor) -> Tensor:
        return self.operator(x, self.main[0].weight, self.main[0].bias)


class BlockedStage(nn.Cell):
    """`ResBlocks` whose native convolutions pass on a blocked memory layout, with conversions at both ends."""

    def __init__(self, stage: ResBlocks, operators: "Operators"):
        super().__init__(auto_prefix=False)
        self.layers, self.enter, self.leave = stage.layers, operators.to_blocked, operators.from_blocked

    def construct(self, x: Tensor) -> Tensor:
        return self.leave(self.layers(self.enter(x)))


def _swap(parent: nn.Cell, operators: "Operators", blocked: bool = False) -> None:
    for name, cell in parent.name_cells().items():
        if isinstance(cell, BasicConv):
            native = NativeConv(cell, operators.conv(cell, blocked))
        elif isinstance(cell, ResBlocks):
            _swap(cell, operators, blocked=True)
            native = BlockedStage(cell, operators)
        else:
            _swap(cell, operators, blocked)
            continue
        names = [(p, p.name) for p in native.get_parameters()]
        if isinstance(parent, nn.SequentialCell | nn.CellList):
            parent[int(name)] = native
        else:
            setattr(parent, name, native)
        for p, known in names:  # the parent renamed them after itself alone
            p.name = known


class Operators:
    """The functions of a compiled library as primitives with gradients."""

    def __init__(self, path: Path):
        self.path = path
        leave, enter = self._primitive("from_blocked"), self._primitive("to_blocked")

        def gradient_of_enter(x: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor]:
            return (leave(dy),)

        def gradient_of_leave(x: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor]:
            return (enter(dy),)

        self.to_blocked = self._primitive("to_blocked", gradient_of_enter)
        self.from_blocked = self._primitive("from_blocked", gradient_of_leave)

    def _primitive(
        self, name: str, bprop: Any = None, shape: Any = lambda x: x, dtype: Any = lambda x: x
    ) -> ops.Custom:
        return ops.Custom(f"{self.path}:{name}", shape, dtype, "aot", bprop)

    def conv(self, layer: BasicConv, blocked: bool) -> ops.Custom:
        """(x, weight, bias) -> y of one layer with its ReLU."""
        conv, relu = layer.main[0], len(layer.main) > 1
        transposed = isinstance(conv, nn.Conv2dTranspose)
        stride = conv.stride[0]
        # Operators that differ need different names: in a loop, the framework infers the shapes of all operators of one
        # name by the function of the first.
        name = ("deconv" if transposed else "conv") + ("_relu" if relu else "") + ("_blocked" if blocked else "")
        if stride > 1 and not transposed:
            name += f"_stride{stride}"
        gradient = self._primitive(
            f"{name}_grad", None, lambda x, w, y, dy: (x, w, [y[1]]), lambda x, w, y, dy: (x, w, x)
        )

        def bprop(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
            return gradient(x, weight, y, dy)

        def shape(x: list[int], weight: list[int], bias: list[int]) -> list[int]:
            sides = [n if n < 0 else n * stride if transposed else n // stride for n in x[2:]]  # -1: not known yet
            return [x[0], weight[1] if transposed else weight[0], *sides]

        return self._primitive(name, bprop, shape, lambda x, w, b: x)
