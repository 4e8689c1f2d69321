"""Networks behind one call: (N, 3, H, W) float32 numpy -> restored (N, 3, H, W) float32 numpy.

    engine = load_engine("best.ckpt")        # or .safetensors, .mindir, .onnx
    restored = engine(images)

OpenVINO runs `.onnx`, and on a CPU checkpoints too, without importing MindSpore. MindSpore runs `.mindir`, and
checkpoints on other devices or where OpenVINO is not installed, after `src.device.setup`. docs/performance.md compares
their times and memory.
"""

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.checkpoint import build_filled, describe_loading, read_weights
from src.device import takes_any_size
from src.errors import BadOutput, UserError, reason_of
from src.formats.exported import Description, check_export
from src.formats.weights import CHECKPOINT_SUFFIXES, CRC, EXPORTED_SUFFIXES, need_file, refuse_torch
from src.variants import Variant

if TYPE_CHECKING:  # importing MindSpore takes seconds, and OpenVINO does without
    from src.mimo_unet import MIMOUNet

SUFFIXES = CHECKPOINT_SUFFIXES + EXPORTED_SUFFIXES
# OpenVINO keeps the compiled kernels of each image size, 3.5 MB per size, thousands of kernels by default. A size needs
# about 25, so this is enough for four sizes in turn.
KERNEL_CACHE = 100
PACKAGES = ("onnx", "openvino")


class Choice(NamedTuple):
    """What runs a file. Its text is one line for the user."""

    with_openvino: bool
    target: str
    """The device: CPU for OpenVINO."""
    why: str

    def __str__(self) -> str:
        return f"{'OpenVINO' if self.with_openvino else 'MindSpore'} on {self.target}: {self.why}"


def choose_engine(path: Path | str, wanted: str = "auto", target: str = "CPU", why: str = "") -> Choice:
    """What runs a file, by its suffix, the device and the packages that are installed.

    Args:
        wanted: `auto` | `mindspore` | `openvino`.
        target: the device that MindSpore would use.
        why: the reason for this device, for the user.

    Raises:
        UserError: no engine runs files of this kind, or the wanted one does not.
    """
    refuse_torch(Path(path))
    suffix, of_device = Path(path).suffix, f"; {why}" if why else ""
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: got *{suffix}, expected a network, one of *{', *'.join(SUFFIXES)}")
    if suffix in EXPORTED_SUFFIXES:
        only = "openvino" if suffix == ".onnx" else "mindspore"
        if wanted not in ("auto", only):
            raise UserError(f"--engine {wanted}: got {path}, but only --engine {only} runs {suffix} files")
        return Choice(only == "openvino", "CPU" if only == "openvino" else target, f"the one for {suffix} files")
    if wanted == "openvino":
        return Choice(True, "CPU", "as asked (--engine)")
    if wanted == "mindspore":
        return Choice(False, target, f"as asked (--engine){of_device}")
    if target != "CPU":
        return Choice(False, target, why or f"the device is {target}")
    if missing := missing_packages():
        return Choice(False, "CPU", f"OpenVINO, which is faster, needs {install_hint(missing)}{of_device}")
    return Choice(True, "CPU", f"the fastest there{of_device}")


def missing_packages() -> list[str]:
    """Those of OpenVINO's packages that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def install_hint(packages: list[str]) -> str:
    return f"{' and '.join(packages)} (python -m pip install {' '.join(packages)})"


class Engine:
    """One call for every kind of file. Subclasses define `run` and set the attributes."""

    description: str = ""
    """One line for the user: file, variant, runtime, precision."""
    runtime: str = ""
    """What computes where, as 'OpenVINO on CPU'."""
    precision: str = "fp32"
    """`fp32`, `bf16`, or `fp16` for such a MINDIR file."""
    variant: str = ""
    """Name of the file's variant."""
    name: str = "the network"
    """In messages: the file's path."""
    bytes_per_pixel: int = 4500
    """Peak memory of a call, per pixel of its input: 4.0 GB for a 1280x720 frame, MindSpore on CPU."""
    multiple: int = 4
    """H and W of the input are multiples of this."""
    fixed_size: tuple[int, int] | None = None
    """The (H, W) of an export with a fixed size; None takes all multiples of `multiple`."""
    fixed_batch: int = 0
    """N of an export with a fixed batch; 0 takes any. Other batches are split, and the last part is filled up."""

    def run(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Restore a batch.

        Args:
            images: RGB, (N, 3, H, W) float32 in [0, 1]; `src.restore` pads sides to multiples of `multiple`.

        Returns:
            The same shape, not clipped.

        Raises:
            UserError: the file was exported for another size.
            BadOutput: the network's output has another shape or type, or contains NaN or infinity.
        """
        multiple = self.multiple
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % multiple or images.shape[3] % multiple:
            raise ValueError(f"got images {images.shape}, expected (N, 3, H, W), H and W multiples of {multiple}")
        height, width = images.shape[2:]
        if self.fixed_size and (height, width) != self.fixed_size:
            fixed = "x".join(map(str, self.fixed_size))
            raise UserError(
                f"{self.description}: exported for images of {fixed} (height x width), got {height}x{width}. "
                "Export it with --export_size dynamic, or take the checkpoint."
            )
        images = np.ascontiguousarray(images, np.float32)
        count, step = len(images), self.fixed_batch
        if not step or count == step:
            return self._run_checked(images)
        parts = []
        for start in range(0, count, step):
            part = images[start : start + step]
            filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
            parts.append(self._run_checked(filled)[: len(part)])
        return np.concatenate(parts)

    def _run_checked(self, images: np.ndarray) -> np.ndarray:
        """`run` with a check of its output, which takes 0.2 ms for a 1280x720 frame."""
        restored = self.run(images)
        fault = _fault(images, restored)
        if not fault:
            return restored
        grey = np.full((self.fixed_batch or 1, 3, *(self.fixed_size or [2 * self.multiple] * 2)), 0.5, np.float32)
        if _fault(grey, self.run(grey)):
            raise BadOutput(f"{self.name} is unusable: it returns {fault}, whatever the picture. Take other weights.")
        raise BadOutput(
            f"{self.name} returns {fault} for this picture, but not for a plain grey one. Try fp32 where a network or "
            "its export is in 16 bits, or other weights.",
            always=False,
        )


def _fault(images: np.ndarray, restored: np.ndarray) -> str:
    """What is wrong with a network's output, '' if nothing is."""
    if restored.shape != images.shape or restored.dtype != np.float32:
        return f"{restored.dtype} {restored.shape} for float32 {images.shape}"
    return "" if np.isfinite(restored).all() else "NaN or infinity"


class ExportedEngine(Engine):
    """What the engines of exported files have in common."""

    def take(self, path: Path | str, described: Description, model_name: str) -> None:
        """Set the attributes from the file's description; `model_name` is the expected variant, '' takes any."""
        self.fixed_batch, self.fixed_size, self.multiple = check_export(path, described, model_name)
        self.name, self.variant = str(path), described.metadata["variant"]
        checked = "" if CRC in described.metadata else ", without a checksum"
        self.description = f"{path}: {self.variant}, {self.runtime}, {self.precision}{checked}"


class MindSporeEngine(Engine):
    """Full-resolution output of a MindSpore network.

    Args:
        name: in messages.
        one_graph: compile one graph with dynamic batch, height and width, instead of one for each image size when it
            first occurs; None lets the device decide.
    """

    def __init__(self, network: "MIMOUNet", name: str = Engine.name, one_graph: bool | None = None):
        from src.formats.mindir import FullResolution, any_size

        one_graph = takes_any_size() if one_graph is None else one_graph
        self.runtime = mindspore_on() + ("" if one_graph else ", compiled for each image size")
        self.description = f"{self.runtime}, {self.precision}"
        self.name, self.multiple = name, network.variant.multiple
        self.cell = FullResolution(network).set_train(False)
        if one_graph:
            self.cell.set_inputs(any_size())
            self(np.zeros((1, 3, 8, 8), np.float32))  # compile now, so that the first image's time does not include it

    def run(self, images: np.ndarray) -> np.ndarray:
        from mindspore import Tensor

        return self.cell(Tensor(images)).asnumpy()


class MindirEngine(ExportedEngine):
    """An exported `.mindir`, run by MindSpore without the network's source code.

    Raises:
        UserError: as `describe_mindir` and `check_export`, or MindSpore cannot load it.
    """

    def __init__(self, path: Path | str, model_name: str = ""):
        import mindspore as ms

        from src.formats.mindir import describe_mindir

        described = describe_mindir(Path(path))
        self.runtime, self.precision = mindspore_on(), described.metadata.get("precision", "fp32")
        self.take(path, described, model_name)
        try:
            self.cell = ms.nn.GraphCell(ms.load(str(path)))
        except (RuntimeError, ValueError, TypeError) as e:
            raise UserError(f"{path}: MindSpore cannot load it ({reason_of(e)}). Export it again.") from e

    def run(self, images: np.ndarray) -> np.ndarray:
        from mindspore import Tensor

        outputs = self.cell(Tensor(images))
        return (outputs[0] if isinstance(outputs, tuple) else outputs).asnumpy()


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU.

    The model keeps its dynamic shape: one compiled for each size was no faster.

    Args:
        precision: `bf16` computes convolutions in bfloat16, in half the time, with a difference of about 5e-4 (rms) in
            [0, 1]; `auto` does so if the processor supports it.
        threads: 0 lets OpenVINO use all cores of this process.

    Raises:
        UserError: OpenVINO is missing, or the processor does not support bf16.
    """

    runtime = "OpenVINO on CPU"

    def __init__(self, precision: str = "auto", threads: int = 0):
        _, self.openvino = import_fast()
        if precision == "bf16" and not has_bf16():
            raise UserError(
                "--precision bf16: this processor has no bfloat16 (avx512_bf16 or amx_bf16 in /proc/cpuinfo)"
            )
        bf16 = precision != "fp32" and has_bf16()
        self.precision, self.bytes_per_pixel = ("bf16", 1300) if bf16 else ("fp32", 2500)
        self.options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE,
        }
        if threads:
            self.options["INFERENCE_NUM_THREADS"] = threads

    def compile(self, model: str | bytes) -> None:
        """Compile a model in ONNX, given by its file or its content. Raises a RuntimeError if OpenVINO cannot."""
        with _without_isa_limit():
            core = self.openvino.Core()
            self.request = core.compile_model(core.read_model(model), "CPU", self.options).create_infer_request()

    def run(self, images: np.ndarray) -> np.ndarray:
        with _without_isa_limit():
            return self.request.infer({0: images}, share_inputs=True)[0]


class WeightsEngine(OpenVinoEngine):
    """The network of a variant with these weights, by their names, handed to OpenVINO without a file."""

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        variant: Variant,
        name: str = Engine.name,
        precision: str = "auto",
        threads: int = 0,
    ):
        super().__init__(precision, threads)
        from src.formats.onnx_graph import build_onnx

        self.name, self.multiple = name, variant.multiple
        self.compile(build_onnx(weights, variant.num_res).SerializeToString())


class OnnxEngine(ExportedEngine, OpenVinoEngine):
    """An exported `.onnx`; `model_name` is the expected variant, '' takes any.

    Raises:
        UserError: as `OpenVinoEngine`, `describe_onnx` and `check_export`, or OpenVINO cannot load the file.
    """

    def __init__(self, path: Path | str, model_name: str = "", precision: str = "auto", threads: int = 0):
        super().__init__(precision, threads)
        from src.formats.onnx_graph import describe_onnx

        self.take(path, describe_onnx(Path(path)), model_name)
        try:
            self.compile(str(path))
        except RuntimeError as e:
            raise UserError(f"{path}: OpenVINO cannot load it ({reason_of(e)}). Export it again.") from e


def load_engine(
    path: Path | str,
    *,
    choice: Choice | None = None,
    model_name: str = "",
    weights: str = "ema",
    precision: str = "auto",
    threads: int = 0,
) -> Engine:
    """The engine for a file.

    Args:
        choice: from `choose_engine`; None = as that chooses for a CPU. If it is MindSpore, `src.device.setup` must have
            been called for its device.
        model_name: expected variant; '' takes the file's.
        weights: for a checkpoint, `ema` takes the moving average if there is one, `raw` never.
        precision: see `OpenVinoEngine`; MindSpore uses the precision of the file.
        threads: for OpenVINO; MindSpore chooses its own number.

    Raises:
        UserError: the file is missing, has an unknown suffix or another network or variant, or bf16 is requested from
            MindSpore.
    """
    path = Path(path)
    with_openvino = (choice or choose_engine(path)).with_openvino
    need_file(path, "checkpoint or exported network")
    if not with_openvino and precision == "bf16":
        raise UserError(f"--precision bf16: only OpenVINO computes in it, but MindSpore runs {path}; leave it out")
    if path.suffix == ".onnx":
        return OnnxEngine(path, model_name, precision, threads)
    if path.suffix == ".mindir":
        return MindirEngine(path, model_name)
    read = read_weights(path, model_name, weights)
    engine: Engine
    if with_openvino:
        engine = WeightsEngine(read.arrays, read.variant, str(path), precision, threads)
    else:
        engine = MindSporeEngine(build_filled(read), str(path))
    engine.variant = read.meta["variant"]
    loading = describe_loading(path, read.meta, read.left_out)
    described = f"{path}: {engine.variant}, {engine.runtime}, {engine.precision},"
    engine.description = loading.replace(f"{path}:", described, 1)
    return engine


def mindspore_on() -> str:
    import mindspore as ms

    return f"MindSpore on {ms.get_context('device_target')}"


def has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16)\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False


def import_fast() -> tuple[Any, Any]:
    """The modules onnx and openvino, or a UserError with the command that installs them."""
    try:
        import onnx

        with _without_telemetry():
            import openvino
    except ImportError as e:
        name = e.name or "openvino"
        raise UserError(f"OpenVINO and .onnx files need {install_hint([name])}, which cannot be imported") from e
    return onnx, openvino


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """OpenVINO reports its import to Google Analytics, unasked, if this package can be imported."""
    name = "openvino_telemetry"
    known = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None  # type: ignore[assignment]  # documented: such an import fails
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(known)


@contextlib.contextmanager
def _without_isa_limit() -> Iterator[None]:
    """Hide a limit that the user has exported for MindSpore (`src.device.disarm_convolution_trap`): it makes OpenVINO
    1.5 times slower and keeps its bfloat16 kernels from compiling."""
    limit = os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    try:
        yield
    finally:
        if limit is not None:
            os.environ["ONEDNN_MAX_CPU_ISA"] = limit
