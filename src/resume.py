"""Exact resume: which checkpoint to continue from, whether the options fit, and putting the state back.

A resumed run equals the uninterrupted one bit for bit on CPU: everything that changes during training is in the
checkpoint (weights, moments, average, loss scale, step), and everything random is drawn from (seed, epoch, index).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from src.checkpoint import read_checkpoint
from src.config import Config, option_fields
from src.errors import UserError, first_few
from src.picture_files import Pair

Arrays = dict[str, np.ndarray]
BUFFERS = "gradient."  # accumulated within one step, so not part of the state between steps


def _state_parameters(step: nn.Cell) -> dict[str, Parameter]:
    return {p.name: p for p in step.get_parameters() if not p.name.startswith(BUFFERS)}


def training_state(step: nn.Cell) -> Arrays:
    """All that a training step carries from one step to the next, by name."""
    return {name: p.asnumpy() for name, p in _state_parameters(step).items()}


def restore_state(step: nn.Cell, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Put a saved state back into a training step.

    Raises:
        UserError: the file lacks something: it holds weights alone, or was trained with other options.
    """
    params = _state_parameters(step)
    missing = [name for name in params if name not in arrays]
    if missing:
        raise UserError(
            f"--resume {path}: not the state of such a training, {len(missing)} entries are missing: "
            f"{first_few(missing)}. To start from its network alone use --pretrained."
        )
    wrong = [name for name, p in params.items() if arrays[name].shape != tuple(p.shape)]
    if wrong:
        raise UserError(
            f"--resume {path}: {wrong[0]} has shape {arrays[wrong[0]].shape}, expected {params[wrong[0]].shape}"
        )
    for name, param in params.items():
        param.set_data(Tensor(arrays[name], param.dtype))


def find_checkpoint(resume: str, folder: Path) -> tuple[Path, Arrays, dict[str, Any]] | None:
    """The checkpoint that `--resume` means, read.

    Args:
        resume: a path, or `auto` for the newest good checkpoint of `folder`; damaged ones are named and passed over.

    Returns:
        (path, arrays, description), or None for `auto` where there is no checkpoint yet.

    Raises:
        UserError: the named file is missing, damaged or of another kind; `auto` found damaged files only.
    """
    if resume != "auto":
        arrays, meta = read_checkpoint(resume)
        if "step" not in meta:
            raise UserError(
                f"--resume {resume}: not written by a training. To start from its network use --pretrained."
            )
        return Path(resume), arrays, meta
    newest_first = sorted(
        folder.glob("[!.]*.ckpt"), key=lambda p: (p.stat().st_mtime_ns, p.name == "last.ckpt"), reverse=True
    )
    for path in newest_first:
        try:
            arrays, meta = read_checkpoint(path)
        except UserError as e:
            print(f"passed over: {e}", flush=True)
            continue
        if "step" in meta:
            return path, arrays, meta
    if newest_first:
        raise UserError(f"--resume auto: none of the {len(newest_first)} checkpoints in {folder} can be resumed from")
    return None


def restore(
    step: nn.Cell,
    found: tuple[Path, Arrays, dict[str, Any]],
    description: Mapping[str, Any],
    folder: Path,
    force: bool,
    quiet: bool = False,
) -> tuple[int, float | None]:
    """Put a found checkpoint into a training step.

    Returns:
        (steps done, best validation PSNR so far in dB).

    Raises:
        UserError: it does not fit the network, or options that shape the result differ and `force` is not set.
    """
    path, arrays, meta = found
    problems = check_compatible(meta, description)
    if problems and not force:
        raise UserError(
            f"--resume {path}: this would not continue the same run: {'; '.join(problems)}. Use the run's own options "
            f"(they are in {folder / 'config.yaml'}), or --force."
        )
    restore_state(step, arrays, path)
    best = meta.get("best_psnr")
    if not quiet:
        for problem in problems:
            print(f"--force: {problem}")
        print(f"resumed from {path}: epoch {meta['epoch']}, step {meta['step']}", flush=True)
    return int(meta["step"]), best


def describe_run(config: Config, pairs: Sequence[Pair], world_size: int, steps_per_epoch: int) -> dict[str, Any]:
    """What a checkpoint remembers of the run, to be compared when it is resumed."""
    names = "\n".join(pair.name for pair in pairs)
    return {
        "variant": config.model_name,
        "config": {f.name: getattr(config, f.name) for f in option_fields("train")},
        "batch": config.train_batch_size * config.accumulate_steps * world_size,
        "pairs": len(pairs),
        "pairs_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "steps_per_epoch": steps_per_epoch,
    }


def check_compatible(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two `describe_run`s that would change the result, one text each.

    The batch counts as a whole: two ranks with batch 4 see what one rank with batch 8 sees. More epochs are allowed
    with step decay, which they only continue; a cosine would have run differently from the start.
    """
    old, new = saved.get("config", {}), now["config"]
    shaping = [f for f in option_fields("train") if f.metadata["shapes_result"]]
    of_batch = ("train_batch_size", "accumulate_steps")
    problems = [
        f"--{f.name} was {old.get(f.name, f.default)}, is {new[f.name]}"
        for f in shaping
        if f.name not in of_batch and old.get(f.name, f.default) != new[f.name]
    ]
    if saved.get("batch", now["batch"]) != now["batch"]:
        problems.append(f"ranks x --train_batch_size x --accumulate_steps was {saved['batch']}, is {now['batch']}")
    if saved.get("pairs_sha256", now["pairs_sha256"]) != now["pairs_sha256"]:
        problems.append(f"the training pairs are others than before ({saved['pairs']} then, {now['pairs']} now)")
    epochs_before = old.get("epochs_num", new["epochs_num"])
    if new["lr_schedule"] == "cosine" and new["epochs_num"] != epochs_before:
        problems.append(f"--epochs_num was {epochs_before}, is {new['epochs_num']}: the cosine depends on it")
    return problems
