"""Exact resume: find the checkpoint, compare the options, restore the state.

On CPU a resumed run equals the uninterrupted one bit for bit: the checkpoint holds everything that changes during
training (weights, moments, average, loss scale, step), and all random numbers are drawn from (seed, epoch, index).
"""

import hashlib
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from src import run_folder
from src.callback import RunState
from src.checkpoint import read_checkpoint, save_checkpoint
from src.config import ROOT, Launch, option_fields
from src.data.pairs import Pair
from src.errors import UserError, first_few
from src.formats.weights import read_meta
from src.run_log import SavedAt
from src.train_step import HISTORY

Arrays = dict[str, np.ndarray]
# No step needs the gradients accumulated within the previous one, or the results of past steps.
NOT_STATE = ("gradient.", HISTORY)
STATED = {"step", "epoch"}  # in the description of every checkpoint of a training


def _state_parameters(step: nn.Cell) -> dict[str, Parameter]:
    return {p.name: p for p in step.get_parameters() if not p.name.startswith(NOT_STATE)}


def training_state(step: nn.Cell) -> Arrays:
    """Everything that a training step carries from one step to the next, by name."""
    return {name: p.asnumpy() for name, p in _state_parameters(step).items()}


def restore_state(step: nn.Cell, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Restore a saved state into a training step.

    Raises:
        UserError: the file is incomplete, because it has only weights or comes from a training with other options.
    """
    params = _state_parameters(step)
    if missing := [name for name in params if name not in arrays]:
        raise UserError(
            f"--resume {path}: not the state of such a training, {len(missing)} entries are missing: "
            f"{first_few(missing)}. To start from its network only, use --pretrained."
        )
    for name, param in params.items():
        if arrays[name].shape != tuple(param.shape):
            raise UserError(f"--resume {path}: {name} has shape {arrays[name].shape}, expected {param.shape}")
        param.set_data(Tensor(arrays[name], param.dtype))


def find_checkpoint(resume: str, folder: Path) -> tuple[Path, Arrays, dict[str, Any]] | None:
    """Read the checkpoint that `--resume` selects.

    Args:
        resume: a path, or `auto` for the newest intact checkpoint of `folder`; others are skipped with a message.

    Returns:
        (path, arrays, description), or None if `auto` finds no checkpoint.

    Raises:
        UserError: the given file is missing, damaged or of another kind; `auto` finds only damaged files.
    """
    if resume != "auto":
        arrays, meta = read_checkpoint(resume)
        if not STATED <= meta.keys():
            raise UserError(
                f"--resume {resume}: not written by a training. To start from its network, use --pretrained."
            )
        return Path(resume), arrays, meta
    ages = {path: run_folder.age(path) for path in run_folder.run_checkpoints(folder)}
    # A checkpoint without a step may be damaged and the newest, so it comes first and is reported.
    newest_first = sorted(ages, key=lambda path: (ages[path][0] < 0, ages[path]), reverse=True)
    for path in newest_first:
        if not run_folder.is_of_run(path, folder):
            print(f"skipped: {path} is of another run", flush=True)
            continue
        try:
            arrays, meta = read_checkpoint(path)
        except UserError as e:
            print(f"skipped: {e}", flush=True)
            continue
        if STATED <= meta.keys():
            return path, arrays, meta
        print(f"skipped: {path} does not record the step of its training", flush=True)
    if newest_first:
        raise UserError(f"--resume auto: none of the {len(newest_first)} checkpoints in {folder} can be resumed from")
    return None


@dataclass(frozen=True)
class Plan:
    """The steps of a run that one launch does."""

    folder: Path
    steps_per_epoch: int
    first_step: int  # done before this launch
    stop_step: int
    last_step: int  # of the whole schedule
    best: float | None  # validation PSNR so far, dB
    description: Mapping[str, Any]  # from `describe_run`, for the checkpoints
    resumed_from: Path | None
    saved: SavedAt | None  # where `resumed_from` was saved
    log_part: Mapping[str, float]  # the sums for `src.callback.Means`


def make_plan(
    step: nn.Cell, folder: Path | str, description: Mapping[str, Any], launch: Launch, quiet: bool = False
) -> Plan:
    """Decide which steps this launch does, and restore the state of a resumed run into the training step.

    Args:
        description: from `describe_run`.
        launch: without `resume` a new run starts; `max_steps` stops early without changing the schedule.

    Raises:
        UserError: as `find_checkpoint`; or the checkpoint does not fit the network; or options that affect the result
            differ and `launch.force` is not set.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name, and would follow a renamed folder
    steps = description["steps_per_epoch"]
    first_step, best, path, log_part, run, saved, lines = 0, None, None, {}, "", None, []
    found = find_checkpoint(launch.resume, folder) if launch.resume else None
    if found:
        path, arrays, meta = found
        problems = check_compatible(meta, description)
        if problems and not launch.force:
            raise UserError(
                f"--resume {path}: this would not continue the same run: {'; '.join(problems)}. Use the run's own "
                f"options (they are in {folder / 'config.yaml'}), or --force."
            )
        restore_state(step, arrays, path)
        saved = SavedAt(int(meta["step"]), meta.get("steps_per_epoch", steps))
        first_step, best, log_part = saved.step_now(steps), meta.get("best_psnr"), meta.get("log_part", {})
        lines = [f"--force: {problem}" for problem in problems]
        lines += moved_data(meta, description)
        lines.append(f"resumed from {path}: epoch {meta['epoch']}, step {saved.step}")
        if saved.steps_per_epoch != steps:
            set_global_step(step, saved.step, first_step)
            lines.append(
                f"--force: an epoch has {steps} steps, it had {saved.steps_per_epoch}: to keep the progress in epochs, "
                f"step {saved.step} counts as step {first_step} now, and the steps in log.csv are converted"
            )
        is_at_home = path.resolve().parent == folder.resolve()
        run = run_folder.identity(folder) or (meta.get("run", "") if is_at_home else "")
    elif launch.resume:
        lines = [f"--resume auto: no checkpoint in {folder} yet, a new run starts"]
    last_step = description["config"]["epochs_num"] * steps
    stop_step = min(last_step, launch.max_steps or last_step)
    if first_step >= stop_step:
        lines.append(f"nothing left to do: step {first_step} of {stop_step} is done (--epochs_num, --max_steps)")
    if lines and not quiet:
        print(*lines, sep="\n", flush=True)
    launches = [read_meta(path).get("launch", 0) for path in run_folder.run_checkpoints(folder)] if found else []
    description = {**description, "run": run or secrets.token_hex(8), "launch": 1 + max(launches, default=0)}
    return Plan(folder, steps, first_step, stop_step, last_step, best, description, path, saved, log_part)


def set_global_step(step: nn.Cell, old: int, new: int) -> None:
    """Let a restored training step count from `new` instead of `old`.

    Adam divides its moments by 1 - beta^steps. They are scaled so that the quotients, and therefore the size of the
    next updates, do not change.
    """
    optimizer = step.optimizer
    for moments, beta in ((optimizer.moment1, optimizer.beta1), (optimizer.moment2, optimizer.beta2)):
        factor = (1 - beta**new) / (1 - beta**old) if old else 1.0
        for moment in moments:
            moment.set_data(Tensor(moment.asnumpy() * np.float32(factor)))
    step.global_step.set_data(Tensor(new, step.global_step.dtype))


def save(
    step: nn.Cell, description: Mapping[str, Any], path: Path, state: RunState, log_part: Mapping[str, float]
) -> None:
    """Write a checkpoint, with the sums over the steps that are not in the log yet (`src.callback.Means`)."""
    at = {"epoch": state.epoch, "step": state.step, "best_psnr": state.best, "log_part": dict(log_part)}
    save_checkpoint(path, training_state(step), {**description, **at})


def closing_words(plan: Plan, step: int, world_size: int) -> str:
    """The last output of a launch that ends after `step` steps of the run: done, or how to continue."""
    if step >= plan.last_step:
        return f"done: {plan.folder}"
    script = "train.py" if Path.cwd() == ROOT else str(ROOT / "train.py")
    again = shlex.join(["python", script, "--ckpt_save_directory", str(plan.folder)])
    again = again if world_size == 1 else "the same command with"
    return f"stopped at step {step} of {plan.last_step}\nto continue: {again} --resume auto"


def describe_run(
    options: Mapping[str, Any], pairs: Sequence[Pair], world_size: int, steps_per_epoch: int
) -> dict[str, Any]:
    """What checkpoints record of a run, to be compared when it is resumed; `options` of train.py by name."""
    names = "\n".join(pair.name for pair in pairs)
    return {
        "variant": options["model_name"],
        "config": {f.name: options[f.name] for f in option_fields("train")},
        "batch": options["train_batch_size"] * options["accumulate_steps"] * world_size,
        "pairs": len(pairs),
        "pairs_sha256": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
        "steps_per_epoch": steps_per_epoch,
    }


def check_compatible(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two `describe_run`s that would change the result, one text each.

    Only the total batch counts: two ranks with batch 4 equal one rank with batch 8. More epochs are allowed with step
    decay, which they only continue, but would change a cosine from the start. The data may move as long as the names of
    the pairs stay the same; `moved_data` reports it.
    """
    old, new = saved.get("config", {}), now["config"]
    shaping = [f for f in option_fields("train") if f.metadata["shapes_result"]]
    of_batch = ("train_batch_size", "accumulate_steps")
    problems = [
        f"--{f.name} was {_shown(old.get(f.name, f.default))}, is {new[f.name]}"
        for f in shaping
        if f.name not in of_batch and old.get(f.name, f.default) != new[f.name]
    ]
    if saved.get("batch", now["batch"]) != now["batch"]:
        problems.append(f"ranks x --train_batch_size x --accumulate_steps was {saved['batch']}, is {now['batch']}")
    if saved.get("pairs_sha256", now["pairs_sha256"]) != now["pairs_sha256"]:
        problems.append(f"the training pairs differ from before ({saved.get('pairs', '?')} then, {now['pairs']} now)")
    epochs_before = old.get("epochs_num", new["epochs_num"])
    if new["lr_schedule"] == "cosine" and new["epochs_num"] != epochs_before:
        problems.append(f"--epochs_num was {epochs_before}, is {new['epochs_num']}: the cosine schedule depends on it")
    return problems


def _shown(value: Any) -> str:
    """An option from a checkpoint, possibly a crafted one, for use within one line."""
    return " ".join(str(value).splitlines())[:300]


def moved_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Data paths that differ from an earlier `describe_run`, one text each. Relative paths, which older versions
    recorded, cannot be compared."""
    old, new = saved.get("config", {}), now["config"]
    of_run = ("ckpt_save_directory", "resume", "pretrained")
    names = [f.name for f in option_fields("train") if f.metadata["is_path"] and f.name not in of_run]
    return [
        f"the data have moved: --{name} was {_shown(old[name])}, is {new[name]}"
        for name in names
        if Path(old.get(name, "")).is_absolute() and Path(new[name]).is_absolute() and old[name] != new[name]
    ]
