"""Train MIMO-UNet.

    python train.py                                              # the sample set, on the best device present
    python train.py --dataset_root D --ckpt_save_directory C     # {train,test}/{blur,sharp} below D
    python train.py --config_path configs/ascend_config.yaml --recipe improved ...
    python train.py --ckpt_save_directory C --resume auto        # go on where the run in C was stopped

The run folder C gets config.yaml, log.csv, curves.png and the checkpoints last.ckpt, best.ckpt,
MIMO-UNet_<epoch>_<step>.ckpt. MindSpore takes seconds to import, so the functions do it: --help and bad input are
answered without it.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from src import device, run_folder
from src.config import Config, load_config
from src.datasets import choose_pairs, split_validation
from src.errors import UserError, run_main
from src.picture_files import Pair, check_pairs, describe_conversion
from src.sample_data import dataset_or_samples


@dataclass(frozen=True)
class Plan:
    """One launch of a run: where it lives, and which of its steps are done here."""

    folder: Path
    batch: int  # samples a rank and step
    steps_per_epoch: int
    first_step: int  # done before this launch
    stop_step: int
    last_step: int  # of the whole schedule
    best: float | None  # validation PSNR so far, dB
    description: dict  # what a checkpoint remembers of the run
    resumed_from: Path | None


def main(argv: list[str] | None = None) -> int:
    config = load_config("train", argv, device.best_device)
    is_main = device.early_rank() == 0
    if is_main:
        print(f"settings: {config.origin}", flush=True)
    device.require_device(config.device_target)
    pairs, val_pairs = find_data(config, is_main)
    if is_main:
        run_folder.check(config.ckpt_save_directory, config.overwrite or bool(config.resume))
    runtime = device.setup(config.device_target, config.device_id, config.is_train_distributed, config.debug)
    return train(config, runtime, pairs, val_pairs)


def find_data(config: Config, is_main: bool) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs, checked."""
    root = config.dataset_root
    if not (config.train_list or config.blur_directory or config.sharp_directory):
        root = dataset_or_samples(root)
    pairs, place = choose_pairs(root, "train", config.train_list, config.blur_directory, config.sharp_directory)
    pairs, val_pairs = pairs[: config.slice_dataset or None], []
    rule = ""
    if config.val_fraction or config.val_list:
        split = split_validation(pairs, config.val_fraction, config.val_list, config.seed, root)
        pairs, val_pairs, rule = split.train, split.val, f" ({split.rule})"
    elif config.val_acc_monitor_interval:
        try:
            val_pairs = choose_pairs(root, "test", config.test_list)[0][: config.slice_dataset or None]
        except UserError as e:
            raise UserError(f"{e} Without validation pairs: --val_fraction 0.1 or --val_acc_monitor_interval 0.") from e
    converted = describe_conversion(check_pairs(pairs, min_side=config.crop_size))
    check_pairs(val_pairs)
    if is_main:
        print(f"data: {len(pairs)} training pairs from {place}{converted}, {len(val_pairs)} for validation{rule}")
    return pairs, val_pairs


def train(config: Config, runtime: device.Runtime, pairs: list[Pair], val_pairs: list[Pair]) -> int:
    """Build everything, resume if asked, and hand it to the framework's loop. Returns the exit status."""
    from mindspore.train import Model

    from src import data_load

    steps = data_load.steps_per_epoch(
        len(pairs), config.train_batch_size, config.accumulate_steps, world_size=runtime.world_size
    )
    step = build_step(config, runtime, steps)
    plan = make_plan(config, runtime, step, pairs, steps)
    source = build_source(config, pairs)
    workers = min(config.num_worker, max(1, device.core_count() // runtime.world_size))
    dataset = data_load.train_dataset(
        source, plan.batch, rank=runtime.rank, world_size=runtime.world_size, workers=workers,
        processes=config.worker_type == "process", epoch=plan.first_step // steps, step=plan.first_step % steps,
    )  # fmt: skip
    sink = config.train_use_data_sink and runtime.target != "CPU"
    if runtime.rank == 0:
        if workers < config.num_worker:
            print(f"--num_worker {config.num_worker}: {workers} are used, one per core")
        if config.train_use_data_sink and not sink:
            print("--train_use_data_sink: a CPU has no data sink, running without")
        run_folder.begin(plan.folder, config.to_yaml(), plan.first_step if plan.resumed_from else None)
        print(
            f"training {config.model_name} ({sum(p.size for p in step.network.get_parameters()):,} parameters) on "
            f"{runtime.target}, {runtime.world_size} rank(s): {steps} steps an epoch, batch {plan.batch} a rank in "
            f"{step.micro_batches} part(s), steps {plan.first_step + 1} to {plan.stop_step}; run folder {plan.folder}",
            flush=True,
        )
    if plan.first_step >= plan.stop_step:
        if runtime.rank == 0:
            print(f"nothing left to do: step {plan.first_step} of {plan.stop_step} is done (--epochs_num, --max_steps)")
        return 0

    callbacks, clock, stopper, guard = build_callbacks(config, runtime, step, source, val_pairs, plan)
    sink_size = min(config.sink_size, steps) if sink else -1
    epochs = (
        -(-(plan.stop_step - plan.first_step) // sink_size) if sink else config.epochs_num - plan.first_step // steps
    )
    with guard, data_load.loader_errors():
        Model(step).train(epochs, dataset, callbacks=callbacks, dataset_sink_mode=sink, sink_size=sink_size)
    if runtime.world_size > 1:
        device.agree(0)  # nobody leaves before rank 0 has saved: launchers kill all ranks when one has ended
    if runtime.rank == 0:
        done = clock.global_step >= plan.last_step
        print(f"done: {plan.folder}" if done else f"stopped at step {clock.global_step} of {plan.last_step}")
        if not done:
            again = shlex.join(["python", "train.py", "--ckpt_save_directory", str(plan.folder)])
            print(f"to go on: {again if runtime.world_size == 1 else 'the same command with'} --resume auto")
    return 128 + stopper.received if stopper.received else 0


def build_step(config: Config, runtime: device.Runtime, steps: int):
    """Network, loss, optimizer and schedule as one training step; `steps` in an epoch."""
    import mindspore as ms

    from src.checkpoint import load_network
    from src.init_weights import init_weights
    from src.loss import MultiScaleLoss
    from src.mimo_unet import build_net
    from src.train_step import Adam, CosineDecay, StepDecay, TrainStep, make_scaler

    ms.set_seed(config.seed)
    if config.pretrained:
        network = load_network(config.pretrained, config.model_name)[0]
    else:
        network = build_net(config.model_name, config.num_res)
        init_weights(network, config.seed)
    if config.amp_level != "O0":
        network.to_float(ms.float16)
    rate = config.learning_rate * (runtime.world_size if config.lr_scaling == "linear" else 1)
    if config.lr_schedule == "cosine":
        schedule = CosineDecay(rate, config.lr_min, config.epochs_num * steps)
    else:
        schedule = StepDecay(rate, config.lr_decay_epochs * steps)
    parts = device.micro_batches(runtime.target, config.train_batch_size, config.crop_size)
    return TrainStep(
        network,
        MultiScaleLoss(config.fft_weight),
        Adam(network.trainable_params()),
        schedule,
        micro_batches=config.accumulate_steps * parts,
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        scaler=make_scaler(config.loss_scale) if config.amp_level != "O0" else None,
        world_size=runtime.world_size,
    )


def build_source(config: Config, pairs: list[Pair]):
    from src.data_load import TrainPairs
    from src.mimo_unet import MASK_CHANNELS, MODELS

    return TrainPairs(
        pairs, config.crop_size, config.seed, MASK_CHANNELS, MODELS[config.model_name].dropout,
        rotate90=config.random_rotate90, rgb_permutation=config.random_rgb_permutation,
    )  # fmt: skip


def make_plan(config: Config, runtime: device.Runtime, step, pairs: list[Pair], steps: int) -> Plan:
    """Decide which steps this launch does; restores the state of a resumed run into `step`."""
    from src import resume

    folder = Path(os.path.abspath(config.ckpt_save_directory))  # "." has no name, and would follow a renamed folder
    description = resume.describe_run(config, pairs, runtime.world_size, steps)
    found = resume.find_checkpoint(config.resume, folder) if config.resume else None
    first_step, best = 0, None
    if config.resume and not found and runtime.rank == 0:
        print(f"--resume auto: no checkpoint in {folder} yet, a new run starts")
    if found:
        first_step, best = resume.restore(step, found, description, folder, config.force, quiet=runtime.rank > 0)
    last_step = config.epochs_num * steps
    stop_step = min(last_step, config.max_steps or last_step)
    batch = config.train_batch_size * config.accumulate_steps
    return Plan(folder, batch, steps, first_step, stop_step, last_step, best, description, found and found[0])


def build_callbacks(config: Config, runtime: device.Runtime, step, source, val_pairs: list[Pair], plan: Plan):
    """What happens around the steps, in this order. Rank 0 alone writes."""
    from src import callback
    from src.checkpoint import save_checkpoint
    from src.data_load import batch_names
    from src.resume import training_state
    from src.validation import Validator

    def save(path: Path, epoch: int, global_step: int) -> None:
        log.flush()  # a run resumed here takes the log up to this step as written
        meta = plan.description | {"epoch": epoch, "step": global_step, "best_psnr": validate.best}
        save_checkpoint(path, training_state(step), meta)

    def names(index: int) -> list[str]:
        return batch_names(source, plan.batch, runtime.rank, runtime.world_size, index)

    log = run_folder.RunLog(plan.folder, plan.first_step) if runtime.rank == 0 else None
    clock = callback.Clock(plan.first_step, plan.steps_per_epoch)
    stopper = callback.StopOnSignal(device.agree if runtime.world_size > 1 else int)
    guard = callback.StopOnDeadWorker(clock, stopper, UserError)
    val_interval = config.val_acc_monitor_interval * plan.steps_per_epoch
    validate = callback.Validate(
        Validator(step, val_pairs, config.eval_batch_size, runtime, plan.folder), val_interval, log,
        lambda *at: save(plan.folder / "best.ckpt", *at), stopper, plan.last_step, plan.best,
        first=config.val_first and not plan.resumed_from,
    )  # fmt: skip
    callbacks = [
        clock,
        guard,
        stopper,
        callback.StopOnBadLoss(step.scaler is not None, config.max_overflows, names, UserError),
    ]
    if log:
        callbacks.append(callback.LogWriter(log, config.log_frequency, plan.stop_step))
    if val_pairs:
        callbacks.append(validate)
    if log:
        callbacks += [
            callback.SaveCheckpoints(
                plan.folder, config.model_name, save, clock, config.ckpt_save_frequency, config.ckpt_save_steps,
                config.keep_checkpoint_max, plan.resumed_from,
            ),
            callback.Curves(log, val_interval),
            callback.Progress(plan.first_step, plan.stop_step),
        ]  # fmt: skip
    return [*callbacks, callback.StopAt(plan.stop_step), callback.ClockRestart(clock)], clock, stopper, guard


if __name__ == "__main__":
    run_main(main)
