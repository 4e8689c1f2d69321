"""Score a checkpoint on a test set, and save the restored images if asked.

    python eval.py --dataset_root D [--ckpt_file F] [--img_save_directory R] [--report_file REPORT.json]
    python eval.py --model_name MIMO-UNetPlus --self_ensemble rot4 ...        # MIMO-UNet++

Without F the sample weights are scored. Every score comes with the blurred input's own and the gain. `psnr` is the
paper's protocol; see `src/metric.py`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from src import device
from src.config import Config, load_config
from src.data.datasets import choose_pairs, choose_root, need_outside_data
from src.data.pairs import Pair, check_pairs
from src.data.sources import find_list
from src.engine import load_engine, runs_on_mindspore
from src.errors import UserError, need_writable_folder, run_main
from src.formats.weights import need_file, sample_model
from src.interrupts import Interrupts
from src.streams import need_reader


def main(argv: list[str] | None = None) -> None:
    config = load_config("eval", argv, device.best_device)
    if not config.report_file:
        need_reader()
    chosen = ""
    if not config.ckpt_file:
        model, why = sample_model("--ckpt_file")
        chosen = f"model: {model}{why}\n"
        config = replace(config, ckpt_file=str(model))
    need_file(Path(config.ckpt_file), "checkpoint or exported network")
    on_mindspore = runs_on_mindspore(config.ckpt_file)
    if on_mindspore:
        device.require_device(config.device_target)
    print(f"{chosen}settings: {config.origin}", flush=True)
    sources = config.test_list, config.blur_directory, config.sharp_directory
    root = choose_root(config.dataset_root, *sources)
    pairs, source = choose_pairs(root, "test", *sources)
    pairs = pairs[: config.slice_dataset or None]
    scored = 2 * config.crop_border + max(1, config.center_crop)  # pixels of the smallest side that has them all
    changes = check_pairs(pairs, scored, lambda side: "a smaller --crop_border or --center_crop")
    print(f"data: {len(pairs)} test pairs from {source}{changes}")
    check_outputs(config, pairs, root)

    with Interrupts():
        if on_mindspore:
            device.setup(config.device_target, config.device_id, debug=config.debug)
        report(config, score(config, pairs))


def check_outputs(config: Config, pairs: list[Pair], root: Path | str) -> None:
    """A place that cannot be written, or must not be, is said before the long run, not after.

    Args:
        pairs, root: what is read, the data set's folder or "".
    """
    options = ("img_save_directory", "strip_save_directory")
    folders = {f"--{option}": Path(getattr(config, option)) for option in options if getattr(config, option)}
    report = Path(config.report_file) if config.report_file else None
    if report and (report.suffix != ".json" or report.is_dir()):
        raise UserError(f"--report_file: got {report}, expected a file name that ends with .json")
    reports = [("--report_file", path) for path in (report, report.with_suffix(".csv"))] if report else []
    need_outside_data(
        pairs, root, config.blur_directory, config.sharp_directory, config.ckpt_file,
        find_list(config.test_list, root) if config.test_list else "", files=reports, folders=folders.items(),
    )  # fmt: skip
    for option, folder in (folders | ({"--report_file": report.parent} if report else {})).items():
        need_writable_folder(folder, option)


def score(config: Config, pairs: list[Pair]) -> list[dict]:
    """One row per image; writes the pictures that were asked for."""
    # MindSpore takes seconds to import; --help and bad input are answered without it.
    from tqdm import tqdm

    from src.drawing import save_png, save_scored_strip
    from src.evaluation import evaluate, make_scorer
    from src.restore import TimedEngine, restore

    engine = load_engine(
        config.ckpt_file, model_name=config.model_name, weights=config.weights, precision=config.precision
    )
    print(engine.description)
    timed = TimedEngine(engine)

    def save(pair, blur, restored, sharp):
        if config.img_save_directory:
            save_png(Path(config.img_save_directory) / f"{pair.name}.png", restored)
        if config.strip_save_directory:
            save_scored_strip(Path(config.strip_save_directory) / f"{pair.name}.png", blur, restored, sharp)

    restored_by = partial(
        restore,
        engine=timed,
        ensemble=config.self_ensemble,
        max_pixels=int(device.available_memory() // 2 // engine.bytes_per_pixel),
    )
    scorer = make_scorer(config.metric_names(), config.crop_border, config.center_crop, config.align)
    with tqdm(total=len(pairs), unit="image", disable=None) as bar:
        rows = []
        for row in evaluate(pairs, restored_by, scorer, config.eval_batch_size, save, lambda: timed.seconds):
            rows.append(row)
            bar.update()
    return rows


def report(config: Config, rows: list[dict]) -> None:
    """Print the summary and the worst images, write JSON and CSV."""
    from src.evaluation import summarize, worst, write_csv, write_json

    summary = summarize(rows)
    if config.align == "ecc":
        count = sum(row["aligned"] for row in rows)
        print(f"aligned: {count:.0f} of {len(rows)} (the others did not converge and are scored as they are)")
    changed = [f"{name} {value}" for name in ("crop_border", "center_crop") if (value := getattr(config, name))]
    changed += ["align ecc"] if config.align == "ecc" else []
    changed += [f"self_ensemble {config.self_ensemble}"] if config.self_ensemble != "none" else []
    settings = f" [{', '.join(changed)}]" if changed else ""
    for metric in config.metric_names():
        blurred, restored, gain = (_show(summary[f"{metric}{part}"]) for part in ("_input", "", "_gain"))
        left_out = summary.get(f"{metric}_inf", 0)
        note = f" ({left_out} images without a finite score are not in the mean)" if left_out else ""
        print(f"{metric}{settings}: {restored} (blurred input {blurred}, gain {gain}){note}")
    alone = f"the network alone {summary['network_seconds_per_image']:.4f} s"
    if summary["warm_up_images"]:
        alone += f" (without warm-up, the first {summary['warm_up_images']})"
    print(f"{summary['images']} images, {summary['seconds_per_image']:.3f} s per image; {alone}")
    metric = config.metric_names()[0]
    print(f"worst by {metric}: " + ", ".join(f"{row['name']} {row[metric]:.2f}" for row in worst(rows, metric)))
    for folder in filter(None, (config.img_save_directory, config.strip_save_directory)):
        print(f"pictures: {folder}")
    if config.report_file:
        path = Path(config.report_file)
        protocol = {
            name: getattr(config, name)
            for name in ("crop_border", "center_crop", "align", "self_ensemble", "weights", "model_name")
        }
        write_json(path, summary | protocol | {"checkpoint": config.ckpt_file, "worst": worst(rows, metric)})
        write_csv(path.with_suffix(".csv"), rows)
        print(f"report: {path}, all images: {path.with_suffix('.csv')}")


def _show(value: float | None) -> str:
    return "no finite score" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_main(main)
