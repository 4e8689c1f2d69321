"""Score a network on a test set, and save the restored images if asked.

    python eval.py --dataset_root D [--ckpt_file F] [--img_save_directory R] [--report_file REPORT.json]
    python eval.py --ckpt_file MIMO-UNetPlus.ckpt --self_ensemble rot4 ...    # MIMO-UNet++

Without F the sample weights are scored. Every score comes with the blurred input's score and the gain. `psnr` follows
the paper's protocol; see `src/metric.py`. MindSpore takes seconds to import, so functions import it: --help and bad
input are answered without it.
"""

from functools import partial
from pathlib import Path

from src import device
from src.config import Config, load_config
from src.data.datasets import choose_pairs, choose_root, need_outside_data
from src.data.pairs import Pair, check_pairs
from src.data.sources import find_list
from src.engine import Engine, choose_engine, load_engine
from src.errors import need_json_name, need_writable_folder, run_main
from src.formats.weights import need_file, sample_model
from src.interrupts import Interrupts
from src.streams import need_reader


def main(argv: list[str] | None = None) -> None:
    config = load_config("eval", argv, device.best_device)
    if not config.evaluation.report_file:
        need_reader()
    chosen = ""
    if not config.network.ckpt_file:
        model, why = sample_model("--ckpt_file")
        chosen = f"model: {model}{why}\n"
        config = config.with_options(ckpt_file=str(model))
    network, data, evaluation = config.network, config.data, config.evaluation
    need_file(Path(network.ckpt_file), "checkpoint or exported network")
    choice = choose_engine(network.ckpt_file, evaluation.engine, config.device.device_target)
    if not choice.with_openvino:
        device.require_device(choice.target)
    print(f"engine: {choice}\n{chosen}settings: {config.origin}", flush=True)
    sources = data.test_list, data.blur_directory, data.sharp_directory
    root = choose_root(data.dataset_root, *sources)
    pairs, source = choose_pairs(root, "test", *sources)
    pairs = pairs[: data.slice_dataset or None]
    smallest_side = 2 * evaluation.crop_border + max(1, evaluation.center_crop)  # pixels
    changes = check_pairs(pairs, smallest_side, lambda side: "a smaller --crop_border or --center_crop")
    print(f"data: {len(pairs)} test pairs from {source}{changes}")
    check_outputs(config, pairs, root)

    with Interrupts():
        if not choice.with_openvino:
            device.setup(choice.target, config.device.device_id, debug=config.debug)
        # Scores are in fp32 unless asked otherwise, so that they do not depend on the processor.
        precision = "bf16" if evaluation.precision == "bf16" else "fp32"
        given = {"model_name": network.model_name, "weights": network.weights, "precision": precision}
        engine = load_engine(network.ckpt_file, choice=choice, **given)
        print(engine.description)
        report(config, engine, score(config, engine, pairs))


def check_outputs(config: Config, pairs: list[Pair], root: Path | str) -> None:
    """Raise a UserError for an output that cannot or must not be written, before the long run.

    Args:
        pairs, root: the images to read, and the data set's folder or "".
    """
    data, evaluation = config.data, config.evaluation
    report = Path(evaluation.report_file)
    if evaluation.report_file:
        need_json_name(report, "--report_file")
    files = [report, report.with_suffix(".csv")] if evaluation.report_file else []
    names = "img_save_directory", "strip_save_directory"
    folders = [(f"--{name}", Path(getattr(evaluation, name))) for name in names if getattr(evaluation, name)]
    test_list = find_list(data.test_list, root) if data.test_list else ""
    read = data.blur_directory, data.sharp_directory, config.network.ckpt_file, test_list
    need_outside_data(pairs, root, *read, files=[("--report_file", file) for file in files], folders=folders)
    for option, folder in [*folders, *(("--report_file", file.parent) for file in files)]:
        need_writable_folder(folder, option)


def score(config: Config, engine: Engine, pairs: list[Pair]) -> list[dict]:
    """Score every image and write the pictures that were asked for. Returns one row per image."""
    from tqdm import tqdm

    from src.drawing import save_png, save_scored_strip
    from src.evaluation import evaluate, make_scorer
    from src.restore import TimedEngine, restore

    options = config.evaluation
    timed = TimedEngine(engine)

    def save(pair, blur, restored, sharp):
        if options.img_save_directory:
            save_png(Path(options.img_save_directory) / f"{pair.name}.png", restored)
        if options.strip_save_directory:
            save_scored_strip(Path(options.strip_save_directory) / f"{pair.name}.png", blur, restored, sharp)

    max_pixels = int(device.available_memory() // 2 // engine.bytes_per_pixel)
    restore_batch = partial(restore, engine=timed, ensemble=options.self_ensemble, max_pixels=max_pixels)
    scorer = make_scorer(options.metric_names(), options.crop_border, options.center_crop, options.align)
    rows = evaluate(pairs, restore_batch, scorer, options.eval_batch_size, save, lambda: timed.seconds)
    return list(tqdm(rows, total=len(pairs), unit="image", disable=None))


def report(config: Config, engine: Engine, rows: list[dict]) -> None:
    """Print the summary and the worst images, write JSON and CSV."""
    from src.evaluation import summarize, summary_lines, worst, write_csv, write_json

    options, summary = config.evaluation, summarize(rows)
    metric_names = options.metric_names()
    protocol = {name: getattr(options, name) for name in ("crop_border", "center_crop", "align", "self_ensemble")}
    if options.align == "ecc":
        count = sum(row["aligned"] for row in rows)
        print(f"aligned: {count:.0f} of {len(rows)} (the others did not converge and are scored as they are)")
    print(*summary_lines(summary, metric_names, protocol), sep="\n")
    metric = metric_names[0]
    print(f"worst by {metric}: " + ", ".join(f"{row['name']} {row[metric]:.2f}" for row in worst(rows, metric)))
    for folder in filter(None, (options.img_save_directory, options.strip_save_directory)):
        print(f"pictures: {folder}")
    if options.report_file:
        path, network = Path(options.report_file), config.network
        described = protocol | {"weights": network.weights, "model_name": engine.variant}
        described |= {"checkpoint": network.ckpt_file, "engine": engine.runtime, "precision": engine.precision}
        write_json(path, summary | described | {"worst": worst(rows, metric)})
        write_csv(path.with_suffix(".csv"), rows)
        print(f"report: {path}, all images: {path.with_suffix('.csv')}")


if __name__ == "__main__":
    run_main(main)
