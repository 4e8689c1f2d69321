"""Exact resume: which checkpoint to continue from, whether the options fit, and putting the state back.

A resumed run equals the uninterrupted one bit for bit on CPU: everything that changes during training is in the
checkpoint (weights, moments, average, loss scale, step), and everything random is drawn from (seed, epoch, index).
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
from src.config import ROOT, option_fields
from src.data.pairs import Pair
from src.errors import UserError, first_few
from src.run_log import SavedAt
from src.train_step import HISTORY

Arrays = dict[str, np.ndarray]
# Gradients are accumulated within one step, and the results of past steps go into the log: no step needs them.
NOT_STATE = ("gradient.", HISTORY)
STATED = {"step", "epoch"}  # in the description of every checkpoint of a training


def _state_parameters(step: nn.Cell) -> dict[str, Parameter]:
    return {p.name: p for p in step.get_parameters() if not p.name.startswith(NOT_STATE)}


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
        if not STATED <= meta.keys():
            raise UserError(
                f"--resume {resume}: not written by a training. To start from its network use --pretrained."
            )
        return Path(resume), arrays, meta
    ages = {path: run_folder.age(path) for path in run_folder.run_checkpoints(folder)}
    # What states nothing may be damaged and have been the newest: it is looked at first, and named.
    newest_first = sorted(ages, key=lambda path: (ages[path][0] < 0, ages[path]), reverse=True)
    for path in newest_first:
        if not run_folder.is_of_run(path, folder):
            print(f"passed over: {path} is of another run", flush=True)
            continue
        try:
            arrays, meta = read_checkpoint(path)
        except UserError as e:
            print(f"passed over: {e}", flush=True)
            continue
        if STATED <= meta.keys():
            return path, arrays, meta
        print(f"passed over: {path} does not state where its training stood", flush=True)
    if newest_first:
        raise UserError(f"--resume auto: none of the {len(newest_first)} checkpoints in {folder} can be resumed from")
    return None


@dataclass(frozen=True)
class Plan:
    """Which steps of a run one launch does."""

    folder: Path
    steps_per_epoch: int
    first_step: int  # done before this launch
    stop_step: int
    last_step: int  # of the whole schedule
    best: float | None  # validation PSNR so far, dB
    description: Mapping[str, Any]  # what a checkpoint remembers of the run
    resumed_from: Path | None
    saved: SavedAt | None  # where `resumed_from` was saved
    log_part: Mapping[str, float]  # as `src.callback.Means` takes it


def make_plan(
    step: nn.Cell, folder: Path | str, description: Mapping[str, Any], *, resume: str = "", force: bool = False,
    max_steps: int = 0, quiet: bool = False,
) -> Plan:  # fmt: skip
    """Decide which steps this launch does; puts the state of a resumed run into the training step.

    Args:
        description: from `describe_run`.
        resume: as for `find_checkpoint`; "" starts a new run.
        max_steps: stop there, without changing the schedule; 0 = at its end.

    Raises:
        UserError: as `find_checkpoint`; or the checkpoint does not fit the network; or options that shape the result
            differ and `force` is not set.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name, and would follow a renamed folder
    steps = description["steps_per_epoch"]
    first_step, best, path, log_part, run, saved, lines = 0, None, None, {}, "", None, []
    found = find_checkpoint(resume, folder) if resume else None
    if found:
        path, arrays, meta = found
        problems = check_compatible(meta, description)
        if problems and not force:
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
                f"--force: an epoch has {steps} steps, it had {saved.steps_per_epoch}: to keep its place, "
                f"step {saved.step} counts as step {first_step} now, and the steps in log.csv are converted alike"
            )
        is_at_home = path.resolve().parent == folder.resolve()
        run = run_folder.identity(folder) or (meta.get("run", "") if is_at_home else "")
    elif resume:
        lines = [f"--resume auto: no checkpoint in {folder} yet, a new run starts"]
    last_step = description["config"]["epochs_num"] * steps
    stop_step = min(last_step, max_steps or last_step)
    if first_step >= stop_step:
        lines.append(f"nothing left to do: step {first_step} of {stop_step} is done (--epochs_num, --max_steps)")
    if lines and not quiet:
        print(*lines, sep="\n", flush=True)
    launch = run_folder.next_launch(folder) if found else 1
    description = {**description, "run": run or secrets.token_hex(8), "launch": launch}
    return Plan(folder, steps, first_step, stop_step, last_step, best, description, path, saved, log_part)


def set_global_step(step: nn.Cell, old: int, new: int) -> None:
    """Let a restored training step count from `new` on instead of `old`.

    Adam divides its moments by 1 - beta^steps. They are scaled so that the quotients, and with them the size of the
    next updates, stay.
    """
    optimizer = step.optimizer
    for moments, beta in ((optimizer.moment1, optimizer.beta1), (optimizer.moment2, optimizer.beta2)):
        factor = (1 - beta**new) / (1 - beta**old) if old else 1.0
        for moment in moments:
            moment.set_data(Tensor(moment.asnumpy() * np.float32(factor)))
    step.global_step.set_data(Tensor(new, step.global_step.dtype))


class Saver:
    """Writes the checkpoints of a run.

    The log up to their step counts as written when a run resumes from them.
    """

    def __init__(self, step: nn.Cell, description: Mapping[str, Any]):
        self.step, self.description = step, description

    def __call__(self, path: Path, state: RunState, log_part: Mapping[str, float]) -> None:
        """
        Args:
            log_part: sums over the steps that are not in the log yet (`src.callback.Means`).
        """
        at = {"epoch": state.epoch, "step": state.step, "best_psnr": state.best, "log_part": dict(log_part)}
        save_checkpoint(path, training_state(self.step), {**self.description, **at})


def closing_words(plan: Plan, step: int, world_size: int) -> str:
    """What a launch says when it ends after `step` steps of the run: done, or how to go on."""
    if step >= plan.last_step:
        return f"done: {plan.folder}"
    script = "train.py" if Path.cwd() == ROOT else str(ROOT / "train.py")
    again = shlex.join(["python", script, "--ckpt_save_directory", str(plan.folder)])
    again = again if world_size == 1 else "the same command with"
    return f"stopped at step {step} of {plan.last_step}\nto go on: {again} --resume auto"


def describe_run(
    options: Mapping[str, Any], pairs: Sequence[Pair], world_size: int, steps_per_epoch: int
) -> dict[str, Any]:
    """What a checkpoint remembers of the run, to be compared when it is resumed; `options` of train.py by name."""
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

    The batch counts as a whole: two ranks with batch 4 see what one rank with batch 8 sees. More epochs are allowed
    with step decay, which they only continue; a cosine would have run differently from the start. Where the data lie is
    free as long as the pairs have the same names; `moved_data` tells.
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
        problems.append(
            f"the training pairs are others than before ({saved.get('pairs', '?')} then, {now['pairs']} now)"
        )
    epochs_before = old.get("epochs_num", new["epochs_num"])
    if new["lr_schedule"] == "cosine" and new["epochs_num"] != epochs_before:
        problems.append(f"--epochs_num was {epochs_before}, is {new['epochs_num']}: the cosine depends on it")
    return problems


def _shown(value: Any) -> str:
    """An option of a checkpoint, whoever has written that, as a part of one line."""
    return " ".join(str(value).splitlines())[:300]


def moved_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Data that are read from another place than in an earlier `describe_run`, one text each. Relative paths, which
    older versions kept, cannot be compared."""
    old, new = saved.get("config", {}), now["config"]
    of_run = ("ckpt_save_directory", "resume", "pretrained")
    names = [f.name for f in option_fields("train") if f.metadata["is_path"] and f.name not in of_run]
    return [
        f"the data have another place: --{name} was {_shown(old[name])}, is {new[name]}"
        for name in names
        if Path(old.get(name, "")).is_absolute() and Path(new[name]).is_absolute() and old[name] != new[name]
    ]
