"""Train MIMO-UNet.

    python train.py                                              # the sample set, on the best device present
    python train.py --dataset_root D --ckpt_save_directory C     # {train,test}/{blur,sharp} below D
    python train.py --config_path configs/ascend_config.yaml --recipe improved ...
    python train.py --ckpt_save_directory C --resume auto        # go on where the run in C was stopped

The run folder C gets config.yaml, log.csv, curves.png and the checkpoints last.ckpt, best.ckpt,
MIMO-UNet_<epoch>_<step>.ckpt. MindSpore takes seconds to import, so the functions do it: --help and bad input are
answered without it.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from src import device, run_folder
from src.config import Config, absolute_paths, load_config
from src.data.datasets import choose_root, need_outside_data, training_and_validation_pairs
from src.data.pairs import Pair
from src.errors import run_main
from src.interrupts import Interrupts


def main(argv: list[str] | None = None) -> int:
    config = load_config("train", argv, device.best_device)
    is_main = device.early_rank() == 0
    device.require_device(config.device_target)
    if is_main:
        print(f"settings: {config.origin}", flush=True)
    sources = config.train_list, config.blur_directory, config.sharp_directory
    config = absolute_paths(config, choose_root(config.dataset_root, *sources, config.blur == "synthetic"))
    pairs, val_pairs, described = training_and_validation_pairs(config)
    if is_main:
        print(f"data: {described}")
        photos = config.sharp_photos, config.dataset_root if config.blur == "synthetic" else ""
        need_outside_data(
            pairs + val_pairs, config.dataset_root, config.blur_directory, config.sharp_directory, *photos,
            folders=[("--ckpt_save_directory", Path(config.ckpt_save_directory))],
        )  # fmt: skip
        run_folder.check(config.ckpt_save_directory, config.overwrite, config.resume)
    with Interrupts() as interrupts:
        runtime = device.setup(config.device_target, config.device_id, config.is_train_distributed, config.debug)
        alone = run_folder.hold(config.ckpt_save_directory, config.overwrite, config.resume)
        with alone if runtime.rank == 0 else nullcontext():
            return train(config, runtime, interrupts, pairs, val_pairs)


def train(config: Config, runtime: device.Runtime, interrupts: Interrupts, pairs: list[Pair], val_pairs: list[Pair]):
    """Build everything, resume if asked, and hand it to the framework's loop. Returns the exit status."""
    from mindspore.train import Model

    from src import data_load, resume
    from src.mimo_unet import MASK_CHANNELS, MODELS
    from src.validation import Validator

    is_main, world_size = runtime.rank == 0, runtime.world_size
    batch = config.train_batch_size * config.accumulate_steps  # samples a rank and step
    steps = data_load.steps_per_epoch(len(pairs), config.train_batch_size, config.accumulate_steps, world_size)
    pace = device.pace(runtime.target, config.train_use_data_sink, config.sink_size, steps, config.log_frequency)
    step = build_step(config, runtime, steps, pace.history)
    plan = resume.make_plan(
        step, config.ckpt_save_directory, resume.describe_run(vars(config), pairs, world_size, steps),
        resume=config.resume, force=config.force, max_steps=config.max_steps, quiet=not is_main,
    )  # fmt: skip
    if plan.first_step >= plan.stop_step:
        return 0
    source = data_load.TrainPairs(
        pairs, config.crop_size, config.seed, MASK_CHANNELS, MODELS[config.model_name].dropout,
        rotate90=config.random_rotate90, rgb_permutation=config.random_rgb_permutation,
    )  # fmt: skip
    workers = min(config.num_worker, max(1, device.core_count() // world_size))
    batches = data_load.TrainBatches(source, batch, runtime.rank, world_size)
    dataset = data_load.train_dataset(
        batches, workers=workers, epoch=plan.first_step // steps, step=plan.first_step % steps
    )
    if is_main:
        run = plan.description["run"]
        run_folder.begin(plan.folder, config.to_yaml(), run, plan.saved, bool(plan.log_part), steps)
        if workers < config.num_worker:
            print(f"--num_worker {config.num_worker}: {workers} are used, one per core")
        if config.train_use_data_sink and not pace.sink:
            print("--train_use_data_sink: a CPU has no data sink, running without")
        size = sum(p.size for p in step.network.get_parameters())
        print(f"training {config.model_name} ({size:,} parameters) on {runtime.target}, {world_size} rank(s): {steps} "
              f"steps an epoch, batch {batch} a rank in {step.micro_batches} part(s), steps {plan.first_step + 1} to "
              f"{plan.stop_step}; run folder {plan.folder}", flush=True)  # fmt: skip
    score = Validator(step, val_pairs, config.eval_batch_size, runtime, plan.folder) if val_pairs else None
    loop = build_loop(config, runtime, interrupts, plan, step, score, batches, pace)
    sinks = -(-(plan.stop_step - plan.first_step) // (pace.sink or 1))  # an "epoch" of the framework is one of them
    epochs = sinks if pace.sink else config.epochs_num - plan.first_step // steps
    with data_load.loader_errors():
        Model(step).train(epochs, dataset, loop, dataset_sink_mode=pace.sink > 0, sink_size=pace.sink or -1)
    if world_size > 1:
        device.agree(0)  # nobody leaves before rank 0 has saved: launchers kill all ranks when one has ended
    if is_main:
        print(resume.closing_words(plan, loop.state.step, world_size))
    return 128 + loop.state.signal if loop.state.signal else 0


def build_step(config: Config, runtime: device.Runtime, steps: int, history: int = 0):
    """Network, loss, optimizer and schedule as one training step; `steps` in an epoch."""
    import mindspore as ms

    from src.init_weights import initial_network
    from src.loss import MultiScaleLoss
    from src.train_step import Adam, TrainStep, make_scaler, make_schedule

    ms.set_seed(config.seed)
    network = initial_network(config.model_name, config.num_res, config.seed, config.pretrained)
    is_float16 = config.amp_level != "O0"
    if is_float16:
        network.to_float(ms.float16)
    native = device.native_convolutions(network, config.conv_kernels, runtime, is_float16, config.debug)
    parts = device.micro_batches(runtime.target, config.train_batch_size, config.crop_size, native)
    decay_steps, all_steps = config.lr_decay_epochs * steps, config.epochs_num * steps
    return TrainStep(
        network, MultiScaleLoss(config.fft_weight, split_products=not runtime.float32_products),
        Adam(network.trainable_params()),
        make_schedule(config.lr_schedule, config.learning_rate, config.lr_min, decay_steps, all_steps),
        micro_batches=config.accumulate_steps * parts, clip_norm=config.clip_norm, ema_decay=config.ema_decay,
        scaler=make_scaler(config.loss_scale) if is_float16 else None, world_size=runtime.world_size,
        reduce_together=runtime.target == "GPU", history=history,
    )  # fmt: skip


def build_loop(config: Config, runtime: device.Runtime, interrupts: Interrupts, plan, step, score, batches, pace):
    """What happens around the steps. Rank 0 alone writes."""
    from src import resume
    from src.callback import BadLoss, Checkpoints, Intervals, Loop, Means, Progress, RunState, StopSignal
    from src.run_log import RunLog

    epoch = plan.steps_per_epoch
    every = Intervals(
        log=config.log_frequency,
        validate=config.val_acc_monitor_interval * epoch,
        save=(config.ckpt_save_frequency * epoch, config.ckpt_save_steps),
        read=pace.readings,
    )
    outputs: dict = {}
    if runtime.rank == 0:
        outputs = {
            "log": RunLog(plan.folder, plan.first_step),
            "checkpoints": Checkpoints(plan.folder, config.model_name, config.keep_checkpoint_max, plan.resumed_from),
            "progress": Progress(plan.first_step, plan.stop_step),
        }
    return Loop(
        RunState(plan.first_step, epoch, plan.stop_step, plan.last_step, best=plan.best),
        every,
        signals=StopSignal(interrupts, device.agree if runtime.world_size > 1 else None, pace.readings),
        bad_loss=BadLoss(step.scaler is not None, config.max_overflows, batches.names),
        means=Means(plan.log_part),
        recent=step.recent if pace.history else None,
        score=score,
        save=partial(resume.save, step, plan.description),
        validate_first=config.val_first and not plan.resumed_from,
        **outputs,
    )


if __name__ == "__main__":
    run_main(main)
