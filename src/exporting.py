"""Writes the file of `export.py` and compares it with its checkpoint."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint import parameter_arrays
from src.config import Export
from src.engine import Engine, has_bf16, load_engine
from src.errors import UserError
from src.formats.exported import sealed
from src.formats.mindir import export_mindir, to_float16
from src.mimo_unet import MIMOUNet
from src.restore import restore_once

# fp32: the largest difference. 16 bits: root mean square, -60 and -50 dB; single pixels differ by five times as much.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 3e-3}


def write_export(
    options: Export, network: MIMOUNet, path: Path, size: tuple[int, int] | None, metadata: Mapping[str, str]
) -> None:
    """Write a network in the format of `options`; a MINDIR or AIR in float16 leaves `network` in float16. The caller
    makes the file appear whole, as by `whole_file`.

    Args:
        size: the (H, W) that the file takes; None = every multiple of the variant's.
        metadata: texts that describe the file.
    """
    shapes: Any = {"size": size, "all_scales": options.all_scales, "metadata": metadata}
    is_float16, batch_size = options.export_precision == "fp16", options.export_batch_size
    if options.export_file_format == "ONNX":
        from src.formats.onnx_graph import build_onnx  # needs the package onnx, which MINDIR does not

        arrays = parameter_arrays(network)
        model = build_onnx(arrays, network.variant.num_res, batch=batch_size, float16=is_float16, **shapes)
        path.write_bytes(sealed(model.SerializeToString()))
    else:
        cell = to_float16(network) if is_float16 else network
        export_mindir(cell, path.with_suffix(""), batch_size, file_format=options.export_file_format, **shapes)


def check_export(options: Export, path: Path, reference: Engine, sizes: Iterable[tuple[int, int]]) -> None:
    """Run a file through its own runtime and compare it with its checkpoint, on random images of some sizes (H, W).
    With `options.verify` an ONNX file also runs in bfloat16 if the processor has it.

    Raises:
        UserError: the difference is above `TOLERANCE`, or NaN.
    """
    engines = {options.export_precision: load_engine(path, precision="fp32" if path.suffix == ".onnx" else "auto")}
    if options.verify and path.suffix == ".onnx" and has_bf16():
        engines["bf16"] = load_engine(path, precision="bf16")
    for height, width in sizes:
        images = np.random.default_rng(0).random((options.export_batch_size or 1, height, width, 3), dtype=np.float32)
        expected = restore_once(images, reference)
        for precision, engine in engines.items():
            difference = restore_once(images, engine) - expected
            largest, rms = np.abs(difference).max(), np.sqrt(np.square(difference, dtype=np.float64).mean())
            found = f"largest difference from the checkpoint {largest:.1e}, rms {rms:.1e}"
            found += f" ({20 * np.log10(rms):.0f} dB)" if rms else ""
            print(f"{height}x{width} {precision}: {found}", flush=True)
            kind, value = ("largest", largest) if precision == "fp32" else ("rms", rms)
            if not value <= TOLERANCE[precision]:  # written this way so that NaN fails too
                raise UserError(
                    f"{path} at {height}x{width}, {precision}: {found}; expected {kind} {TOLERANCE[precision]:.0e} at "
                    "most."
                )
