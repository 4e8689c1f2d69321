"""Score a checkpoint on a test set, and save the restored images if asked.

    python eval.py --dataset_root D --ckpt_file F [--img_save_directory R] [--report_file REPORT.json]

Scores: psnr (float, the paper's protocol) and ssim (2-D), each beside the blurred input's own and the gain.
"""

from pathlib import Path

from src import device
from src.config import Config, load_config
from src.errors import UserError, need_writable_folder, run_main
from src.picture_files import check_pairs, find_pairs
from src.sample_data import dataset_or_samples


def main(argv: list[str] | None = None) -> None:
    config = load_config("eval", argv, device.best_device)
    print(f"settings: {config.origin}", flush=True)
    device.require_device(config.device_target)
    if not config.ckpt_file:
        raise UserError("--ckpt_file: expected a checkpoint, e.g. runs/MIMO-UNet/best.ckpt")
    dataset_root = dataset_or_samples(config.dataset_root)
    pairs = find_pairs(dataset_root, "test")[: config.slice_dataset or None]
    converted = check_pairs(pairs)
    print(f"data: {len(pairs)} test pairs from {dataset_root}")
    if converted:
        print(f"converted to 8-bit RGB: {', '.join(f'{n} {mode}' for mode, n in converted.items())}")
    for option in ("img_save_directory", "strip_save_directory"):
        if getattr(config, option):
            need_writable_folder(getattr(config, option), f"--{option}")
    if config.report_file:
        need_writable_folder(Path(config.report_file).parent, "--report_file")
        if Path(config.report_file).suffix != ".json" or Path(config.report_file).is_dir():
            raise UserError(f"--report_file: got {config.report_file}, expected a file name that ends with .json")
    if config.eval_use_data_sink:
        print("--eval_use_data_sink: scores are computed on the host, so images are not sunk to the device")

    device.setup(config.device_target, config.device_id, debug=config.debug)
    evaluate_checkpoint(config, pairs)


def evaluate_checkpoint(config: Config, pairs: list) -> None:
    # MindSpore takes seconds to import; --help and bad input are answered without it.
    from tqdm import tqdm

    from src.checkpoint import load_network
    from src.engine import MindSporeEngine
    from src.evaluation import evaluate, summarize, write_csv, write_json
    from src.metric import psnr
    from src.picture import save_png, save_strip

    network, _, left_out = load_network(config.ckpt_file, config.model_name)
    if left_out:
        print(f"{config.ckpt_file}: {len(left_out)} entries of the training state left out")

    def save(pair, blur, restored, sharp):
        if config.img_save_directory:
            save_png(Path(config.img_save_directory) / f"{pair.name}.png", restored)
        if config.strip_save_directory:
            captions = (f"blurred {psnr(blur, sharp):.2f} dB", f"restored {psnr(restored, sharp):.2f} dB", "sharp")
            save_strip(
                Path(config.strip_save_directory) / f"{pair.name}.png",
                dict(zip(captions, (blur, restored, sharp), strict=True)),
            )

    rows = []
    engine = MindSporeEngine(network)
    with tqdm(total=len(pairs), unit="image", disable=None) as bar:
        for row in evaluate(pairs, engine, ("psnr", "ssim"), config.eval_batch_size, save):
            rows.append(row)
            bar.update()
    summary = summarize(rows)

    for metric in ("psnr", "ssim"):
        blurred, restored, gain = (_show(summary[f"{metric}{part}"]) for part in ("_input", "", "_gain"))
        equal = summary.get(f"{metric}_inf", 0)
        note = f" ({equal} without a finite score left out of the mean)" if equal else ""
        print(f"{metric}: {restored} (blurred input {blurred}, gain {gain}){note}")
    print(f"{summary['images']} images, {summary['seconds_per_image']:.3f} s per image")
    for folder in filter(None, (config.img_save_directory, config.strip_save_directory)):
        print(f"pictures: {folder}")
    if config.report_file:
        report = Path(config.report_file)
        write_json(report, summary)
        write_csv(report.with_suffix(".csv"), rows)
        print(f"report: {report}, all images: {report.with_suffix('.csv')}")


def _show(value: float | None) -> str:
    return "no finite score" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_main(main)
