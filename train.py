"""Train MIMO-UNet.

    python train.py                                              # the sample set, on the best device present
    python train.py --dataset_root D --ckpt_save_directory C     # {train,test}/{blur,sharp} in D
    python train.py --config_path configs/ascend_config.yaml --recipe improved ...
    python train.py --ckpt_save_directory C --resume auto        # continue the run in C

The run folder C gets config.yaml, log.csv, curves.png and the checkpoints last.ckpt, best.ckpt,
MIMO-UNet_<epoch>_<step>.ckpt.
"""

from contextlib import nullcontext
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
    device.require_device(config.device.device_target)
    if is_main:
        print(f"settings: {config.origin}", flush=True)
    data, is_synthetic = config.data, config.data.blur == "synthetic"
    root = choose_root(data.dataset_root, data.train_list, data.blur_directory, data.sharp_directory, is_synthetic)
    config = absolute_paths(config, root)
    data, launch, folder = config.data, config.launch, Path(config.run_folder.ckpt_save_directory)
    validate = config.run_folder.val_acc_monitor_interval > 0
    pairs, val_pairs, described = training_and_validation_pairs(data, config.schedule.seed, validate)
    if is_main:
        print(f"data: {described}")
        read = data.blur_directory, data.sharp_directory, data.sharp_photos, data.dataset_root if is_synthetic else ""
        outputs = [("--ckpt_save_directory", folder)]
        need_outside_data(pairs + val_pairs, data.dataset_root, *read, folders=outputs)
        run_folder.check(folder, launch.overwrite, launch.resume)
    with Interrupts() as interrupts:
        target, number = config.device.device_target, config.device.device_id
        runtime = device.setup(target, number, config.device.is_train_distributed, config.debug)
        alone = run_folder.hold(folder, launch.overwrite, launch.resume)
        with alone if runtime.rank == 0 else nullcontext():
            return train(config, runtime, interrupts, pairs, val_pairs)


def train(
    config: Config, runtime: device.Runtime, interrupts: Interrupts, pairs: list[Pair], val_pairs: list[Pair]
) -> int:
    """Build everything, resume if asked, and run the framework's loop. Returns the exit status."""
    # Importing MindSpore takes seconds, so --help and bad input are answered without it.
    from mindspore.train import Model

    from src import data_load, resume
    from src.training import build_loop, build_step
    from src.validation import Validator
    from src.variants import MODELS

    is_main, world_size, data = runtime.rank == 0, runtime.world_size, config.data
    parts, use_sink = config.schedule.accumulate_steps, config.device.train_use_data_sink
    steps = data_load.steps_per_epoch(len(pairs), config.schedule.train_batch_size, parts, world_size)
    pace = device.pace(runtime.target, use_sink, config.device.sink_size, steps, config.run_folder.log_frequency)
    step = build_step(config, runtime, steps, pace.history)

    run = resume.describe_run(config.options(), pairs, world_size, steps)
    plan = resume.make_plan(step, config.run_folder.ckpt_save_directory, run, config.launch, quiet=not is_main)
    if plan.first_step >= plan.stop_step:
        return 0

    batch = config.schedule.train_batch_size * parts  # samples per rank and step
    source = data_load.TrainPairs(pairs, data, config.schedule.seed, MODELS[config.network.model_name].dropout)
    batches = data_load.TrainBatches(source, batch, runtime.rank, world_size)
    workers = min(data.num_worker, max(1, device.core_count() // world_size))
    epochs_done, steps_done = divmod(plan.first_step, steps)
    dataset = data_load.train_dataset(batches, workers=workers, epoch=epochs_done, step=steps_done)
    if is_main:
        identity, drop_part = plan.description["run"], bool(plan.log_part)
        run_folder.begin(plan.folder, config.to_yaml(), identity, plan.saved, drop_part, steps)
        if workers < data.num_worker:
            print(f"--num_worker {data.num_worker}: {workers} are used, one per core")
        if use_sink and not pace.sink:
            print("--train_use_data_sink: a CPU has no data sink, running without")
        size = sum(p.size for p in step.network.get_parameters())
        print(
            f"training {config.network.model_name} ({size:,} parameters) on {runtime.target}, {world_size} rank(s): "
            f"{steps} steps per epoch, batch {batch} per rank in {step.micro_batches} part(s), steps "
            f"{plan.first_step + 1} to {plan.stop_step}; run folder {plan.folder}",
            flush=True,
        )
    eval_batch = config.evaluation.eval_batch_size
    score = Validator(step, val_pairs, eval_batch, runtime, plan.folder) if val_pairs else None
    loop = build_loop(config, runtime, interrupts, plan, step, score, batches, pace)

    epochs = config.schedule.epochs_num - epochs_done
    if pace.sink:  # an "epoch" of the framework is one sink
        epochs = -(-(plan.stop_step - plan.first_step) // pace.sink)
    with data_load.loader_errors():
        Model(step).train(epochs, dataset, loop, dataset_sink_mode=pace.sink > 0, sink_size=pace.sink or -1)
    if world_size > 1:
        device.agree(0)  # every rank waits until rank 0 has saved: launchers kill all ranks when one has ended
    if is_main:
        print(resume.closing_words(plan, loop.state.step, world_size))
    return 128 + loop.state.signal if loop.state.signal else 0


if __name__ == "__main__":
    run_main(main)
