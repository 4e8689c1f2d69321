"""Checkpoints: saving the state of a training, and loading networks from it.

A checkpoint is one file with a checksum, `.ckpt` or `.safetensors`. It contains the network's parameters under their
published names, the training state (`moment1.*`, `moment2.*`, `global_step`, ...), and a JSON text, `meta`, that
describes both.
"""

import contextlib
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.errors import UserError, first_few
from src.files import whole_file
from src.formats.state_dicts import PARAMETER
from src.formats.weights import (
    CHECKPOINT_SUFFIXES,
    META,
    need_file,
    need_finite,
    parse_meta,
    read_safetensors,
    refuse_torch,
    write_safetensors,
)
from src.mimo_unet import MODELS, MIMOUNet, build_net

EMA = "ema."  # prefix of the moving averages, as src.train_step names them
STAGE_BLOCK = re.compile(r"^(?:Encoder|Decoder)\.[012]\.layers\.(\d{1,4})\.")
# 'moment1' of 'moment1.Encoder.0. ...': a state that the optimizer keeps for each parameter.
STATE_OF_PARAMETER = re.compile(r"^(.+?)\.(?:Encoder|Decoder|feat_extract|Convs|ConvsOut|AFFs|FAM[12]|SCM[12])\.")
MAX_BLOCKS = 200  # ten times the published networks, so that a misread file does not build an endless network


def save_checkpoint(path: Path | str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint as `whole_file`.

    Args:
        path: its suffix, .ckpt or .safetensors, decides the format.
        meta: JSON values; stored as text, since `.ckpt` keeps floats in single precision only.

    Raises:
        UserError: as `whole_file`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        write_safetensors(path, arrays, meta)
        return
    with whole_file(path, sum(a.nbytes for a in arrays.values())) as part, _quiet():
        ms.save_checkpoint(
            [{"name": name, "data": Tensor(a)} for name, a in arrays.items()],
            str(part),
            append_dict={META: json.dumps(meta)},
            crc_check=True,
        )


def read_checkpoint(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the description of a checkpoint, which is {} if another program wrote it.

    Raises:
        UserError: the file is missing, empty, cut off, damaged or not a checkpoint, or as `parse_meta`.
    """
    path = Path(path)
    need_file(path, "checkpoint")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    refuse_torch(path)
    if path.suffix != ".ckpt":
        raise UserError(f"{path}: got *{path.suffix}, expected a checkpoint, *{' or *'.join(CHECKPOINT_SUFFIXES)}")
    try:
        with _quiet():
            loaded = ms.load_checkpoint(str(path), crc_check=True)
    except (ValueError, TypeError, RuntimeError) as e:
        raise UserError(
            f"{path} is damaged, cut off or not a MindSpore checkpoint ({path.stat().st_size} bytes; the checksum or "
            "the format does not fit). Take another checkpoint of the run, or copy the file again."
        ) from e
    meta = parse_meta(loaded.pop(META, None), path)
    return {name: value.asnumpy() for name, value in loaded.items() if isinstance(value, Tensor)}, meta


def identify(shapes: Mapping[str, Sequence[int]], meta: Mapping[str, Any] | None = None) -> tuple[str | None, int]:
    """(variant, residual blocks per stage) of a network from its parameters' names and shapes; (None, depth) if no
    variant has that depth, (None, 0) if it is not a MIMO-UNet.

    The description identifies a shallower network, for tests and trials. The first layer, which reads twelve channels,
    identifies MIMO-UNetLite.
    """
    # All six stages count, so that a file that lacks a block is not taken for a shallower network.
    blocks = [int(m.group(1)) for m in map(STAGE_BLOCK.match, shapes) if m]
    num_res = max(blocks, default=-1) + 1
    if not num_res:
        return None, 0
    shape = shapes.get("feat_extract.0.main.0.weight", ())
    alike = {name: v for name, v in MODELS.items() if len(shape) != 4 or shape[1] == 3 * v.shuffle**2}
    described = (meta or {}).get("variant")
    if described in alike:
        return described, num_res
    by_depth = {v.num_res: name for name, v in alike.items()}
    return next(iter(alike)) if len(alike) == 1 else by_depth.get(num_res), num_res


def require_network(arrays: Mapping[str, Any], meta: Mapping[str, Any], path: Path | str) -> tuple[str | None, int]:
    """`identify` for arrays. Raises a UserError if their names are not those of a MIMO-UNet."""
    variant, num_res = identify({name: tuple(a.shape) for name, a in arrays.items()}, meta)
    if num_res == 0 or num_res > MAX_BLOCKS:
        target = Path(path).with_name(f"{Path(path).stem}_converted.ckpt")
        command = f"python convert.py {shlex.join([str(path), str(target)])}"
        has_prefix = any((match := PARAMETER.match(name)) and match[1] for name in arrays)
        hint = f". To remove the prefix: {command}" if has_prefix else ""
        raise UserError(
            f"{path} holds no MIMO-UNet: expected names like Encoder.0.layers.0.main.0.main.0.weight, "
            f"got {first_few(arrays) or 'none'}{hint}"
        )
    return variant, num_res


def load_network(path: Path | str, model_name: str, weights: str = "raw") -> tuple[MIMOUNet, dict[str, Any], list[str]]:
    """Build the network of a checkpoint and fill it.

    Args:
        model_name: expected variant; '' takes the file's, or a MIMO-UNet of the file's depth.
        weights: `ema` takes the moving average if the file has one, `raw` never.

    Returns:
        network; description of the checkpoint, with the chosen weights as `weights`; names in the file that are not the
        network's, for `describe_left_out`.

    Raises:
        UserError: as `read_checkpoint`, or the file holds another variant or network than `model_name`.
    """
    arrays, meta = read_checkpoint(path)
    variant, num_res = require_network(arrays, meta, path)
    model_name = model_name or variant or "MIMO-UNet"
    if variant not in (None, model_name):
        raise UserError(
            f"{path} holds {variant} ({num_res} residual blocks per stage), expected {model_name}. "
            f"Add --model_name {variant}"
        )
    network = build_net(model_name, num_res)
    chosen, taken, left_out = choose_weights(arrays, {p.name for p in network.get_parameters()}, weights)
    fill_network(network, chosen, path)
    return network, meta | {"variant": model_name, "weights": taken}, left_out


def choose_weights(
    arrays: dict[str, np.ndarray], own: Set[str], weights: str
) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """The arrays of a checkpoint with which to fill a network.

    Args:
        own: names of the network's parameters.
        weights: as for `load_network`.

    Returns:
        arrays by the network's names, with others; `ema` or `raw`; names in the file that are not the network's.
    """
    left_out = [name for name in arrays if name not in own]
    averages = {name.removeprefix(EMA): arrays[name] for name in left_out if name.startswith(EMA)}
    if weights == "ema" and averages.keys() >= own:
        return averages, "ema", [name for name in left_out if not name.startswith(EMA)]
    return arrays, "raw", left_out


def describe_loading(path: Path | str, meta: Mapping[str, Any], left_out: Sequence[str]) -> str:
    """One line about what `load_network` used and left out."""
    taken = "moving average of the weights (--weights raw takes the others)" if meta["weights"] == "ema" else "weights"
    return f"{path}: {taken}" + (f"; {describe_left_out(left_out)}" if left_out else "")


def fill_network(network: nn.Cell, arrays: Mapping[str, np.ndarray], path: Path | str) -> None:
    """Set every parameter of `network` from `arrays`, which may contain others.

    Raises:
        UserError: a parameter is missing, has another shape, or contains NaN or infinity.
    """
    check_parameters(network, {name: a.shape for name, a in arrays.items()}, path)
    own = {param: arrays[param.name].astype(np.float32) for param in network.get_parameters()}
    need_finite({param.name: array for param, array in own.items()}, path)
    for param, array in own.items():
        param.set_data(Tensor(array))


def check_parameters(network: nn.Cell, shapes: Mapping[str, tuple[int, ...]], path: Path | str) -> None:
    """Raise a UserError unless `shapes`, which may contain others, has every parameter of `network` in its shape."""
    expected = {p.name: tuple(p.shape) for p in network.get_parameters()}
    missing = [name for name in expected if name not in shapes]
    if missing:
        extra = [name for name in shapes if name not in expected]
        depth = identify(expected)[1]
        variants = ", ".join(f"{name} {v.num_res}" for name, v in MODELS.items())
        raise UserError(
            f"{path}: {len(missing)} parameters are missing: {first_few(missing)}; "
            f"not used: {first_few(extra) or 'none'}. By its names the network has {depth} residual blocks per stage "
            f"({variants}) and {len(expected)} parameters."
        )
    wrong = [name for name in expected if tuple(shapes[name]) != expected[name]]
    if wrong:
        name = wrong[0]
        more = f"; also wrong: {first_few(wrong[1:])}" if wrong[1:] else ""
        raise UserError(f"{path}: {name} has shape {tuple(shapes[name])}, expected {expected[name]}{more}")


def describe_left_out(names: Iterable[str], group: int = 2, limit: int | None = 8) -> str:
    """'490 entries left out: 244 moment1.*, 244 moment2.*, global_step, learning_rate': one line about
    the third result of `load_network`.

    Args:
        group: smallest number of names for which the optimizer's states of one kind are counted instead of listed.
        limit: largest number of counts and names in the line, None = all.
    """
    names = list(names)
    states = {name: match[1] for name in names if (match := STATE_OF_PARAMETER.match(name))}
    counts = Counter(states.values())
    counted = {name: f"{counts[state]} {state}.*" for name, state in states.items() if counts[state] >= group}
    items = dict.fromkeys(counted.get(name, name) for name in names)  # an ordered set
    entries = "1 entry" if len(names) == 1 else f"{len(names)} entries"
    return f"{entries} left out: {first_few(items, limit or len(items))}"


def parameter_arrays(cell: nn.Cell) -> dict[str, np.ndarray]:
    """All parameters of a network or a training step by name."""
    return {p.name: p.asnumpy() for p in cell.get_parameters()}


@contextlib.contextmanager
def _quiet():
    """Silence the framework, which logs several lines before it raises."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
