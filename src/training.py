"""Builds the parts of a training from its settings: the step that is compiled, and the loop around it."""

from functools import partial

import mindspore as ms

from src import device, resume
from src.callback import BadLoss, Checkpoints, Intervals, Loop, Means, Progress, RunState, Score, StopSignal
from src.config import Config
from src.data_load import TrainBatches
from src.init_weights import initial_network
from src.interrupts import Interrupts
from src.loss import MultiScaleLoss
from src.resume import Plan
from src.run_log import RunLog
from src.train_step import Adam, TrainStep, make_scaler, make_schedule


def build_step(config: Config, runtime: device.Runtime, steps_per_epoch: int, history: int = 0) -> TrainStep:
    """Network, loss, optimizer and schedule as one training step; `history` as for `TrainStep`."""
    schedule, precision = config.schedule, config.precision
    ms.set_seed(schedule.seed)
    network = initial_network(
        config.network.model_name, config.network.num_res, schedule.seed, config.launch.pretrained
    )
    is_float16 = precision.amp_level != "O0"
    if is_float16:
        network.to_float(ms.float16)
    native = device.native_convolutions(network, precision.conv_kernels, runtime, is_float16, config.debug)
    parts = device.micro_batches(runtime.target, schedule.train_batch_size, config.data.crop_size, native)
    return TrainStep(
        network,
        MultiScaleLoss(schedule.fft_weight, split_products=not runtime.float32_products),
        Adam(network.trainable_params()),
        make_schedule(
            schedule.lr_schedule,
            schedule.learning_rate,
            schedule.lr_min,
            decay_steps=schedule.lr_decay_epochs * steps_per_epoch,
            total_steps=schedule.epochs_num * steps_per_epoch,
        ),
        micro_batches=schedule.accumulate_steps * parts,
        clip_norm=schedule.clip_norm,
        ema_decay=schedule.ema_decay,
        scaler=make_scaler(precision.loss_scale) if is_float16 else None,
        world_size=runtime.world_size,
        reduce_together=runtime.target == "GPU",
        history=history,
    )


def build_loop(
    config: Config,
    runtime: device.Runtime,
    interrupts: Interrupts,
    plan: Plan,
    step: TrainStep,
    score: Score | None,
    batches: TrainBatches,
    pace: device.Pace,
) -> Loop:
    """The work around the steps. Rank 0 alone logs, draws and saves."""
    run, epoch = config.run_folder, plan.steps_per_epoch
    is_main = runtime.rank == 0
    return Loop(
        RunState(plan.first_step, epoch, plan.stop_step, plan.last_step, best=plan.best),
        Intervals(
            log=run.log_frequency,
            validate=run.val_acc_monitor_interval * epoch,
            save=(run.ckpt_save_frequency * epoch, run.ckpt_save_steps),
            read=pace.readings,
        ),
        signals=StopSignal(interrupts, device.agree if runtime.world_size > 1 else None, pace.readings),
        bad_loss=BadLoss(step.scaler is not None, config.precision.max_overflows, batches.names),
        means=Means(plan.log_part),
        recent=step.recent if pace.history else None,
        score=score,
        save=partial(resume.save, step, plan.description),
        log=RunLog(plan.folder, plan.first_step) if is_main else None,
        checkpoints=Checkpoints(plan.folder, config.network.model_name, run.keep_checkpoint_max, plan.resumed_from)
        if is_main
        else None,
        progress=Progress(plan.first_step, plan.stop_step) if is_main else None,
        validate_first=run.val_first and not plan.resumed_from,
    )
