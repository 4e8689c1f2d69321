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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.errors import UserError, first_few
from src.files import whole_file
from src.formats.ckpt import read_ckpt
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
from src.variants import MODELS, Variant, parameter_shapes, variant_of

if TYPE_CHECKING:  # importing MindSpore takes seconds, and reading does without
    from mindspore import nn

    from src.mimo_unet import MIMOUNet

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
    import mindspore as ms

    with whole_file(path, sum(a.nbytes for a in arrays.values())) as part, _quiet():
        ms.save_checkpoint(
            [{"name": name, "data": ms.Tensor(a)} for name, a in arrays.items()],
            str(part),
            append_dict={META: json.dumps(meta)},
            crc_check=True,
        )


def read_checkpoint(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the description of a checkpoint, which is {} if another program wrote it. Needs no MindSpore.

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
        arrays, texts = read_ckpt(path)
    except ValueError as e:
        raise UserError(
            f"{path} is damaged, cut off or not a MindSpore checkpoint ({path.stat().st_size} bytes; the checksum or "
            "the format does not fit). Take another checkpoint of the run, or copy the file again."
        ) from e
    return arrays, parse_meta(texts.get(META), path)


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


class Weights(NamedTuple):
    """The network of a checkpoint."""

    arrays: dict[str, np.ndarray]
    """Every parameter of the network and no other, float32."""
    variant: Variant
    meta: dict[str, Any]
    """Description of the checkpoint, with the name of the variant as `variant` and `ema` or `raw` as `weights`."""
    left_out: list[str]
    """Names in the file that are not the network's, for `describe_left_out`."""


def read_weights(path: Path | str, model_name: str, weights: str = "raw") -> Weights:
    """Read the network of a checkpoint. Needs no MindSpore.

    Args:
        model_name: expected variant; '' takes the file's, or a MIMO-UNet of the file's depth.
        weights: `ema` takes the moving average if the file has one, `raw` never.

    Raises:
        UserError: as `read_checkpoint` and `network_arrays`, or the file holds another variant or network than
            `model_name`.
    """
    arrays, meta = read_checkpoint(path)
    found, num_res = require_network(arrays, meta, path)
    model_name = model_name or found or "MIMO-UNet"
    if found not in (None, model_name):
        raise UserError(
            f"{path} holds {found} ({num_res} residual blocks per stage), expected {model_name}. "
            f"Add --model_name {found}"
        )
    variant = variant_of(model_name, num_res)
    chosen, taken, left_out = choose_weights(arrays, parameter_shapes(variant).keys(), weights)
    meta = meta | {"variant": model_name, "weights": taken}
    return Weights(network_arrays(chosen, variant, path), variant, meta, left_out)


def load_network(
    path: Path | str, model_name: str, weights: str = "raw"
) -> tuple["MIMOUNet", dict[str, Any], list[str]]:
    """(network, description, names left out) of a checkpoint: `read_weights` in a network of MindSpore."""
    read = read_weights(path, model_name, weights)
    return build_filled(read), read.meta, read.left_out


def build_filled(weights: Weights) -> "MIMOUNet":
    """The network of MindSpore with these weights."""
    from mindspore import Tensor

    from src.mimo_unet import MIMOUNet

    network = MIMOUNet(weights.variant)
    for param in network.get_parameters():
        param.set_data(Tensor(weights.arrays[param.name]))
    return network


def choose_weights(
    arrays: dict[str, np.ndarray], own: Set[str], weights: str
) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """The arrays of a checkpoint with which to fill a network.

    Args:
        own: names of the network's parameters.
        weights: as for `read_weights`.

    Returns:
        arrays by the network's names, with others; `ema` or `raw`; names in the file that are not the network's.
    """
    left_out = [name for name in arrays if name not in own]
    averages = {name.removeprefix(EMA): arrays[name] for name in left_out if name.startswith(EMA)}
    if weights == "ema" and averages.keys() >= own:
        return averages, "ema", [name for name in left_out if not name.startswith(EMA)]
    return arrays, "raw", left_out


def describe_loading(path: Path | str, meta: Mapping[str, Any], left_out: Sequence[str]) -> str:
    """One line about what `read_weights` used and left out."""
    taken = "moving average of the weights (--weights raw takes the others)" if meta["weights"] == "ema" else "weights"
    return f"{path}: {taken}" + (f"; {describe_left_out(left_out)}" if left_out else "")


def network_arrays(arrays: Mapping[str, np.ndarray], variant: Variant, path: Path | str) -> dict[str, np.ndarray]:
    """The parameters of a network in float32, from `arrays`, which may contain others.

    Raises:
        UserError: a parameter is missing, has another shape, or contains NaN or infinity.
    """
    check_parameters(variant, {name: a.shape for name, a in arrays.items()}, path)
    own = {name: arrays[name].astype(np.float32) for name in parameter_shapes(variant)}
    need_finite(own, path)
    return own


def check_parameters(variant: Variant, shapes: Mapping[str, tuple[int, ...]], path: Path | str) -> None:
    """Raise a UserError unless `shapes`, which may contain others, has every parameter of a network in its shape."""
    expected = parameter_shapes(variant)
    missing = [name for name in expected if name not in shapes]
    if missing:
        extra = [name for name in shapes if name not in expected]
        variants = ", ".join(f"{name} {v.num_res}" for name, v in MODELS.items())
        raise UserError(
            f"{path}: {len(missing)} parameters are missing: {first_few(missing)}; "
            f"not used: {first_few(extra) or 'none'}. By its names the network has {variant.num_res} residual blocks "
            f"per stage ({variants}) and {len(expected)} parameters."
        )
    wrong = [name for name in expected if tuple(shapes[name]) != expected[name]]
    if wrong:
        name = wrong[0]
        more = f"; also wrong: {first_few(wrong[1:])}" if wrong[1:] else ""
        raise UserError(f"{path}: {name} has shape {tuple(shapes[name])}, expected {expected[name]}{more}")


def describe_left_out(names: Iterable[str], group: int = 2, limit: int | None = 8) -> str:
    """'490 entries left out: 244 moment1.*, 244 moment2.*, global_step, learning_rate': one line about
    `Weights.left_out`.

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


def parameter_arrays(cell: "nn.Cell") -> dict[str, np.ndarray]:
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
