"""Train MIMO-UNet.

    python train.py                                              # the sample set, on the best device present
    python train.py --dataset_root D --ckpt_save_directory C     # {train,test}/{blur,sharp} below D
    python train.py --config_path configs/ascend_config.yaml --recipe improved ...

The run folder C gets config.yaml, log.csv, curves.png and the checkpoints last.ckpt, best.ckpt,
MIMO-UNet_<epoch>_<step>.ckpt.
"""

from functools import partial
from pathlib import Path

from src import device, run_folder
from src.config import Config, load_config
from src.errors import UserError, run_main
from src.picture_files import check_pairs, find_pairs
from src.sample_data import dataset_or_samples


def main(argv: list[str] | None = None) -> None:
    config = load_config("train", argv, device.best_device)
    print(f"settings: {config.origin}", flush=True)
    device.require_device(config.device_target)
    dataset_root = dataset_or_samples(config.dataset_root)
    pairs = find_pairs(dataset_root, "train")[: config.slice_dataset or None]
    converted = check_pairs(pairs, min_side=config.crop_size)
    val_pairs = []
    if config.val_acc_monitor_interval:
        val_pairs = find_pairs(dataset_root, "test")[: config.slice_dataset or None]
        check_pairs(val_pairs)
    print(f"data: {len(pairs)} training and {len(val_pairs)} validation pairs from {dataset_root}")
    if converted:
        print(f"converted to 8-bit RGB: {', '.join(f'{n} {mode}' for mode, n in converted.items())}")
    folder = run_folder.check(config.ckpt_save_directory, config.overwrite)

    runtime = device.setup(config.device_target, config.device_id, config.is_train_distributed, config.debug)
    train(config, runtime, pairs, val_pairs, folder)


def train(config: Config, runtime: device.Runtime, pairs: list, val_pairs: list, folder: Path) -> None:
    """Build everything and hand it to the framework's loop."""
    # MindSpore takes seconds to import; --help and bad input are answered without it.
    import mindspore as ms
    from mindspore.train import Model

    from src import callback, checkpoint
    from src.data_load import TrainPairs, loader_errors, steps_per_epoch, train_dataset
    from src.engine import MindSporeEngine
    from src.evaluation import evaluate, summarize
    from src.init_weights import init_weights
    from src.loss import MultiScaleLoss
    from src.mimo_unet import MASK_CHANNELS, MODELS, build_net
    from src.train_step import Adam, StepDecay, TrainStep

    steps = steps_per_epoch(len(pairs), config.train_batch_size, runtime.world_size)
    last_step = config.epochs_num * steps
    stop_step = min(last_step, config.max_steps or last_step)

    ms.set_seed(config.seed)
    if config.pretrained:
        network = checkpoint.load_network(config.pretrained, config.model_name)[0]
    else:
        network = build_net(config.model_name, config.num_res)
        init_weights(network, config.seed)
    scaler = None
    if config.amp_level != "O0":
        ms.amp.auto_mixed_precision(network, config.amp_level)
        is_dynamic = config.loss_scale == "dynamic"
        scaler = (
            ms.amp.DynamicLossScaler(2**16, 2, 2000)
            if is_dynamic
            else ms.amp.StaticLossScaler(float(config.loss_scale))
        )
    step = TrainStep(
        network,
        MultiScaleLoss(config.fft_weight),
        Adam(network.trainable_params()),
        StepDecay(config.learning_rate, config.lr_decay_epochs * steps),
        micro_batches=device.micro_batches(runtime.target, config.train_batch_size, config.crop_size),
        scaler=scaler,
        world_size=runtime.world_size,
    )
    workers = min(config.num_worker, max(1, device.core_count() // runtime.world_size))
    if workers < config.num_worker:
        print(f"--num_worker {config.num_worker}: {workers} are used, one per core")
    source = TrainPairs(pairs, config.crop_size, config.seed, MASK_CHANNELS, MODELS[config.model_name].dropout)
    dataset = train_dataset(
        source, config.train_batch_size, rank=runtime.rank, world_size=runtime.world_size, workers=workers,
        processes=config.worker_type == "process",
    )  # fmt: skip
    parameters = sum(p.size for p in network.get_parameters())
    print(
        f"training {config.model_name} ({parameters:,} parameters) on {runtime.target}, {runtime.world_size} rank(s): "
        f"{steps} steps an epoch, batch {config.train_batch_size} a rank in {step.micro_batches} part(s), "
        f"{stop_step} steps; run folder {folder}",
        flush=True,
    )

    def save(path: Path, epoch: int, global_step: int, best: float | None = None) -> None:
        meta = {"variant": config.model_name, "epoch": epoch, "step": global_step, "best_psnr": best}
        checkpoint.save_checkpoint(path, checkpoint.parameter_arrays(step), meta)

    def score() -> dict:
        return summarize(list(evaluate(val_pairs, engine, ["psnr"], config.eval_batch_size)))

    def bad_loss(epoch: int, global_step: int, values: dict) -> UserError:
        return UserError(
            f"the loss is {values['loss']} at epoch {epoch}, step {global_step} "
            f"(lr {values['lr']:.2e}, scale {values['scale']:g}). The update was not applied; {folder} keeps the last "
            "good checkpoint. Lower --learning_rate or check the data."
        )

    clock = callback.Clock(0, steps)
    callbacks = [clock, callback.StopOnBadLoss(bad_loss)]
    if runtime.rank == 0:
        run_folder.claim(folder)
        run_folder.describe(folder, config.to_yaml())
        log = run_folder.RunLog(folder / "log.csv")
        callbacks.append(callback.LogWriter(log, config.log_frequency, stop_step))
        if val_pairs:
            engine = MindSporeEngine(network)
            interval = config.val_acc_monitor_interval * steps
            save_best = partial(save, folder / "best.ckpt")
            callbacks.append(callback.Validate(score, interval, log, save_best, first=config.val_first))
        callbacks.append(
            callback.SaveCheckpoints(
                folder,
                config.model_name,
                save,
                clock,
                config.ckpt_save_frequency,
                config.ckpt_save_steps,
                config.keep_checkpoint_max,
            )  # fmt: skip
        )
        callbacks.append(callback.Curves(log, folder / "curves.png", config.val_acc_monitor_interval * steps))
        callbacks.append(callback.Progress(0, stop_step))
    callbacks += [callback.StopAt(stop_step), callback.ClockRestart(clock)]
    sink = config.train_use_data_sink and runtime.target != "CPU"
    if config.train_use_data_sink and not sink:
        print("--train_use_data_sink: a CPU has no data sink, running without")
    sink_size = min(config.sink_size, steps) if sink else -1
    epochs = -(-last_step // sink_size) if sink else config.epochs_num
    with loader_errors():
        Model(step).train(epochs, dataset, callbacks=callbacks, dataset_sink_mode=sink, sink_size=sink_size)
    print(f"done: {folder}")


if __name__ == "__main__":
    run_main(main)
