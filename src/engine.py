"""Networks behind one call: (N, 3, H, W) float32 numpy -> restored (N, 3, H, W) float32 numpy.

    engine = load_engine("best.ckpt")        # or .safetensors, .mindir, .onnx
    restored = engine(images)

MindSpore runs checkpoints and `.mindir`, on the device that `src.device.setup` chose; it is imported only then.
OpenVINO runs `.onnx`, on the CPU. A 1280x720 frame through MIMO-UNet on two cores, with memory beyond the weights:
MindSpore 14 s, 4.0 GB; ONNX Runtime 8.9 s, 4.7 GB; OpenVINO 6.2 s, 2.1 GB in float32 and 3.0 s, 1.1 GB in
bfloat16. Hours differ by a factor of two; the README has ratios to PyTorch, side by side.
"""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.device import takes_any_size
from src.errors import BadOutput, UserError, first_few, reason_of
from src.formats.weights import (
    CHECKPOINT_SUFFIXES,
    CRC,
    EXPORTED_SUFFIXES,
    TORCH_SUFFIXES,
    check_seal,
    need_file,
    need_finite,
)

if TYPE_CHECKING:  # importing MindSpore takes seconds, and .onnx files do without
    from src.mimo_unet import MIMOUNet

SUFFIXES = CHECKPOINT_SUFFIXES + EXPORTED_SUFFIXES
PRECISIONS = ("auto", "fp32", "bf16")
# OpenVINO keeps compiled kernels for each size that it has met, 3.5 MB a size, thousands of them by default. A size
# needs about 25, so this serves four sizes in turn.
KERNEL_CACHE = 100


class Engine:
    """One call for every kind of file. Subclasses fill in `run`, the attributes and nothing else."""

    description: str = ""
    """One line for the user: file, variant, runtime, precision."""
    name: str = "the network"
    """In messages: the file's path."""
    bytes_per_pixel: int = 4500
    """Peak memory of a call, per pixel of its input: 4.0 GB for a 1280x720 frame, MindSpore on CPU."""
    multiple: int = 4
    """H and W of the input are multiples of it."""
    fixed_size: tuple[int, int] | None = None
    """The (H, W) that the file was exported for; None takes every multiple of `multiple`."""
    fixed_batch: int = 0
    """Likewise N; 0 takes any. Calls with another N are cut into parts, the last one filled up."""

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
            BadOutput: the network's answer has another shape or type, or holds NaN or infinity.
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
        """`run`, its answer checked: 0.2 ms for a 1280x720 frame."""
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
    """What is wrong with a network's answer, '' if nothing."""
    if restored.shape != images.shape or restored.dtype != np.float32:
        return f"{restored.dtype} {restored.shape} for float32 {images.shape}"
    return "" if np.isfinite(restored).all() else "NaN or infinity"


class MindSporeEngine(Engine):
    """Full-resolution output of a MindSpore network.

    Args:
        name: in messages.
        one_graph: compile one graph for all sizes, with dynamic batch, height and width, so that images of many sizes
            do not compile one each. False compiles each size when it first occurs; None lets the device decide.
    """

    def __init__(
        self,
        network: "MIMOUNet",
        description: str = "MindSpore, fp32",
        name: str = Engine.name,
        one_graph: bool | None = None,
    ):
        from src.formats.mindir import FullResolution, any_size

        one_graph = takes_any_size() if one_graph is None else one_graph
        self.description = description if one_graph else f"{description}, compiled for each image size"
        self.name, self.multiple = name, network.variant.multiple
        self.cell = FullResolution(network).set_train(False)
        if one_graph:
            self.cell.set_inputs(any_size())
            self(np.zeros((1, 3, 8, 8), np.float32))  # compile now, so that the first image's time is its own

    def run(self, images: np.ndarray) -> np.ndarray:
        from mindspore import Tensor

        return self.cell(Tensor(images)).asnumpy()


class MindirEngine(Engine):
    """An exported `.mindir`, run by MindSpore without the network's source.

    Raises:
        UserError: damaged, no MINDIR file, or another network or variant than `model_name` ('' takes any).
    """

    def __init__(self, path: Path | str, model_name: str = ""):
        import mindspore as ms

        from src.formats.mindir import describe_mindir

        metadata, shapes, names = describe_mindir(Path(path))
        self.fixed_batch, self.fixed_size, self.multiple = check_export(path, metadata, shapes, names, model_name)
        self.name = str(path)
        precision = metadata.get("precision", "fp32")
        self.description = f"{path}: {metadata['variant']}, MindSpore, {precision}{_unchecked(metadata)}"
        try:
            self.cell = ms.nn.GraphCell(ms.load(str(path)))
        except (RuntimeError, ValueError, TypeError) as e:
            raise UserError(f"{path}: MindSpore cannot load it ({reason_of(e)}). Export it again.") from e

    def run(self, images: np.ndarray) -> np.ndarray:
        from mindspore import Tensor

        outputs = self.cell(Tensor(images))
        return (outputs[0] if isinstance(outputs, tuple) else outputs).asnumpy()


class OnnxEngine(Engine):
    """An exported `.onnx`, run by OpenVINO on the CPU.

    The model stays dynamic in its shape: it was as fast as one compiled for each size.

    Args:
        model_name: expected variant, '' takes any.
        precision: `bf16` computes convolutions in bfloat16, half the time for a difference of about 5e-4 (rms) in
            [0, 1]; `auto` does so where the processor can.
        threads: 0 leaves it to OpenVINO: all cores that this process may use.

    Raises:
        UserError: OpenVINO is missing, the file is damaged or no ONNX, another network or variant, or bf16 is asked of
            a processor without it.
    """

    def __init__(self, path: Path | str, model_name: str = "", precision: str = "auto", threads: int = 0):
        _, openvino = import_fast()
        if precision == "bf16" and not has_bf16():
            raise UserError(
                "--precision bf16: this processor has no bfloat16 (avx512_bf16 or amx_bf16 in /proc/cpuinfo)"
            )
        bf16 = precision != "fp32" and has_bf16()
        metadata, shapes, names = describe_onnx(Path(path))
        self.fixed_batch, self.fixed_size, self.multiple = check_export(path, metadata, shapes, names, model_name)
        self.name = str(path)
        computed = "bf16" if bf16 else "fp32"
        self.description = f"{path}: {metadata['variant']}, OpenVINO on CPU, {computed}{_unchecked(metadata)}"
        self.bytes_per_pixel = 1300 if bf16 else 2500
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE,
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            with _without_isa_limit():
                core = openvino.Core()
                self.request = core.compile_model(core.read_model(str(path)), "CPU", options).create_infer_request()
        except RuntimeError as e:
            raise UserError(f"{path}: OpenVINO cannot load it ({reason_of(e)}). Export it again.") from e

    def run(self, images: np.ndarray) -> np.ndarray:
        with _without_isa_limit():
            return self.request.infer({0: images}, share_inputs=True)[0]


def load_engine(
    path: Path | str, *, model_name: str = "", weights: str = "ema", precision: str = "auto", threads: int = 0
) -> Engine:
    """The engine of a file, chosen by its suffix.

    A checkpoint or a `.mindir` runs on the device of `src.device.setup`, which must have been called before;
    `runs_on_mindspore` tells whether.

    Args:
        model_name: expected variant; '' takes the one that the file names.
        weights: of a checkpoint: `ema` takes the moving average where there is one, `raw` never.
        precision: see `OnnxEngine`; MindSpore runs in the precision of the file.
        threads: of OpenVINO; MindSpore chooses its own.

    Raises:
        UserError: no such file, unknown suffix, no network of ours, another variant, or bf16 asked of MindSpore.
    """
    path = Path(path)
    on_mindspore = runs_on_mindspore(path)
    need_file(path, "checkpoint or exported network")
    if on_mindspore and precision == "bf16":
        raise UserError(f"--precision bf16: for .onnx files, got {path}, which MindSpore runs in its own precision")
    if path.suffix == ".onnx":
        return OnnxEngine(path, model_name, precision, threads)
    if path.suffix == ".mindir":
        return MindirEngine(path, model_name)
    return _checkpoint_engine(path, model_name, weights)


def runs_on_mindspore(path: Path | str) -> bool:
    """Whether a file needs MindSpore.

    Raises:
        UserError: no engine knows the suffix.
    """
    suffix = Path(path).suffix
    if suffix in TORCH_SUFFIXES:
        command = shlex.join([str(path), str(Path(path).with_suffix(".ckpt"))])
        raise UserError(f"{path} is a PyTorch file; once: python convert.py {command}")
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: got *{suffix}, expected a network, one of *{', *'.join(SUFFIXES)}")
    return suffix != ".onnx"


def _checkpoint_engine(path: Path, model_name: str, weights: str) -> MindSporeEngine:
    from src.checkpoint import describe_loading, load_network

    network, meta, left_out = load_network(path, model_name, weights)
    loading = describe_loading(path, meta, left_out)
    described = loading.replace(f"{path}:", f"{path}: {meta['variant']}, MindSpore, fp32,", 1)
    return MindSporeEngine(network, described, str(path))


def describe_onnx(path: Path) -> tuple[dict[str, str], list[list[int]], list[str]]:
    """(metadata, input shapes with -1 for free sides, input names) of a file.

    Raises:
        UserError: it is damaged or no ONNX file, or its weights are not finite or lie in other files.
    """
    onnx, _ = import_fast()
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if not i.external_data}
    except Exception as e:  # protobuf's error class depends on its implementation
        raise UserError(
            f"{path} is damaged, cut off or not an ONNX file ({len(content)} bytes). "
            "Export it again: python export.py --export_file_format ONNX --ckpt_file F"
        ) from e
    metadata = {p.key: p.value for p in model.metadata_props}
    check_seal(path, content, metadata)
    if elsewhere := [i.name for i in model.graph.initializer if i.external_data]:
        raise UserError(
            f"{path}: the weights {first_few(elsewhere, 2)} are in another file, which no checksum covers; expected "
            "all in one file, as export.py writes it. Export it again."
        )
    need_finite(weights, path)
    inputs = model.graph.input
    shapes = [[d.dim_value or -1 for d in i.type.tensor_type.shape.dim] for i in inputs]
    return metadata, shapes, [i.name for i in inputs]


class ExportedShape(NamedTuple):
    """What an exported file takes: `Engine.fixed_batch`, `Engine.fixed_size`, `Engine.multiple`."""

    batch: int
    size: tuple[int, int] | None
    multiple: int


def check_export(
    path: Path | str,
    metadata: Mapping[str, str],
    shapes: Sequence[Sequence[int]],
    names: Sequence[str],
    model_name: str,
) -> ExportedShape:
    """What an exported file takes; sides that are free have -1 in `shapes`. Files of versions that had no variant with
    another multiple do not name it: it is 4.

    Raises:
        UserError: the file is not one that `export.py` wrote, or of another variant than `model_name`.
    """
    shape = list(shapes[0]) if len(shapes) == 1 else []
    if "variant" not in metadata or len(shape) != 4 or shape[1] != 3:
        found = ", ".join(f"{n} {_show_shape(s)}" for n, s in zip(names, shapes, strict=True)) or "no input"
        raise UserError(
            f"{path} holds another network: its input is {found[:200]}, expected (N, 3, H, W) "
            "and the name of a variant, as export.py writes them"
        )
    if model_name not in ("", metadata["variant"]):
        raise UserError(
            f"{path} holds {metadata['variant']}, expected {model_name}. Add --model_name {metadata['variant']}"
        )
    multiple = metadata.get("multiple", "4")
    if not re.fullmatch(r"[1-9]\d?", multiple):
        raise UserError(f"{path} is damaged: its multiple is {multiple[:20]!r}, expected a number. Export it again.")
    size = (shape[2], shape[3]) if shape[2] > 0 and shape[3] > 0 else None
    return ExportedShape(max(0, shape[0]), size, int(multiple))


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16)\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False


def import_fast() -> tuple[Any, Any]:
    """The modules onnx and openvino, or a UserError that says how to install them."""
    try:
        import onnx

        with _without_telemetry():
            import openvino
    except ImportError as e:
        raise UserError(f".onnx files need {e.name}, which is not installed: bash scripts/setup.sh --fast") from e
    return onnx, openvino


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Importing OpenVINO reports it to Google Analytics, unasked, if a package that comes with it can be imported."""
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
    """Hide a limit that is meant for MindSpore (`src.device.disarm_convolution_trap`) and that the user has exported:
    with it OpenVINO is 1.5 times slower, and in bfloat16 does not compile."""
    limit = os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    try:
        yield
    finally:
        if limit is not None:
            os.environ["ONEDNN_MAX_CPU_ISA"] = limit


def _show_shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if s < 0 else str(s) for s in shape) + ")"


def _unchecked(metadata: Mapping[str, str]) -> str:
    return "" if CRC in metadata else ", without a checksum"
