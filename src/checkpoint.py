"""Checkpoints: written so that a crash cannot hurt an older file, read with errors that say what is wrong.

A checkpoint is one `.ckpt` file with a checksum: the network's parameters under their published names, the training
state (`moment1.*`, `moment2.*`, `global_step`, ...) under names of its own, and one JSON text `meta` that describes it
all.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.errors import UserError, first_few
from src.mimo_unet import MODELS, MIMOUNet, build_net

META = "meta"
STAGE_BLOCK = re.compile(r"^Encoder\.0\.layers\.(\d+)\.")


def save_checkpoint(path: Path | str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint: to a temporary file beside it, synced, then renamed over `path`.

    Args:
        meta: what `json` can write; stored as text, since the format keeps bare floats in single precision only.

    Raises:
        UserError: no space or no permission; a checkpoint that was there before is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp.ckpt")
    try:
        with _quiet():
            ms.save_checkpoint(
                [{"name": name, "data": Tensor(a)} for name, a in arrays.items()],
                str(temporary),
                append_dict={META: json.dumps(meta)},
                crc_check=True,
            )
        os.chmod(temporary, 0o644)  # the framework makes it read-only, which surprises people who copy or delete runs
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        size = sum(a.nbytes for a in arrays.values())
        reason = e.strerror or str(e)
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(path.parent).free
            reason += f": {size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise UserError(f"cannot save {path} ({reason}). What was saved before is untouched.") from e
    finally:
        for leftover in (temporary, temporary.with_suffix(".tmp")):  # the framework writes the second, then renames it
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def read_checkpoint(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the description of a checkpoint; {} as description if another program wrote it.

    Raises:
        UserError: no such file, empty, cut off, damaged, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}.{_missing_hint(path)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: got 0 bytes, expected a MindSpore checkpoint")
    if path.suffix != ".ckpt":
        raise UserError(f"{path}: got *{path.suffix}, expected a MindSpore checkpoint, *.ckpt")
    try:
        with _quiet():
            loaded = ms.load_checkpoint(str(path), crc_check=True)
    except (ValueError, TypeError, RuntimeError) as e:
        raise UserError(
            f"{path} is damaged, cut off or not a MindSpore checkpoint ({path.stat().st_size} bytes; the checksum or "
            "the format does not fit). Take another checkpoint of the run, or copy the file again."
        ) from e
    try:
        meta = json.loads(loaded.pop(META, "{}"))
    except (TypeError, ValueError):
        meta = {}
    arrays = {name: value.asnumpy() for name, value in loaded.items() if isinstance(value, Tensor)}
    return arrays, meta if isinstance(meta, dict) else {}


def identify(names: Iterable[str], meta: Mapping[str, Any] | None = None) -> tuple[str | None, int]:
    """(variant, residual blocks per stage) of a network from its parameter names; (None, 0) if it is no MIMO-UNet at
    all."""
    blocks = {int(m.group(1)) for m in map(STAGE_BLOCK.match, names) if m}
    num_res = max(blocks, default=-1) + 1
    by_depth = {v.num_res: name for name, v in MODELS.items()}
    variant = (meta or {}).get("variant") or by_depth.get(num_res)
    return (variant, num_res) if num_res else (None, 0)


def load_network(path: Path | str, model_name: str) -> tuple[MIMOUNet, dict[str, Any], list[str]]:
    """Build the network of a checkpoint and fill it.

    Returns:
        network, description of the checkpoint, names in the file that are not the network's (optimizer and the like).

    Raises:
        UserError: what `read_checkpoint` raises, or another variant or network than `model_name`.
    """
    arrays, meta = read_checkpoint(path)
    variant, num_res = identify(arrays, meta)
    if variant is None and num_res == 0:
        raise UserError(
            f"{path} holds no MIMO-UNet: expected names like Encoder.0.layers.0.main.0.main.0.weight, "
            f"got {first_few(arrays)}"
        )
    if variant not in (None, model_name):
        raise UserError(
            f"{path} holds {variant} ({num_res} residual blocks a stage), expected {model_name}. "
            f"Add --model_name {variant}"
        )
    network = build_net(model_name, num_res)
    fill_network(network, arrays, path)
    own = {p.name for p in network.get_parameters()}
    return network, meta, [name for name in arrays if name not in own]


def fill_network(network: nn.Cell, arrays: Mapping[str, np.ndarray], path: Path | str) -> None:
    """Set every parameter of `network` from `arrays`, which may hold more.

    Raises:
        UserError: a parameter is missing or has another shape.
    """
    params = {p.name: p for p in network.get_parameters()}
    missing = [name for name in params if name not in arrays]
    if missing:
        extra = [name for name in arrays if name not in params]
        raise UserError(
            f"{path}: {len(missing)} parameters are missing: {first_few(missing)}; not used: {first_few(extra)}"
        )
    wrong = [n for n, p in params.items() if tuple(arrays[n].shape) != tuple(p.shape)]
    if wrong:
        name = wrong[0]
        raise UserError(f"{path}: {name} has shape {arrays[name].shape}, expected {tuple(params[name].shape)}")
    for name, param in params.items():
        param.set_data(Tensor(arrays[name].astype(np.float32)))


def parameter_arrays(cell: nn.Cell) -> dict[str, np.ndarray]:
    """All parameters of a network or a training step, by name."""
    return {p.name: p.asnumpy() for p in cell.get_parameters()}


def _missing_hint(path: Path) -> str:
    """Checkpoints beside a path that does not exist."""
    there = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
    return f" In {path.parent}: {first_few(there)}" if there else ""


@contextlib.contextmanager
def _quiet():
    """The framework logs lines of its own before it raises; our one line says it all."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
