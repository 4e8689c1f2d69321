"""The figures in the model card of the sample weights, weights_pretrained/MODEL_CARD.md, from MIMO-UNet_sample.json.

    python weights_pretrained/model_card.py            # writes them between the markers
    python weights_pretrained/model_card.py --check    # writes nothing; status 2 if card, JSON and weights disagree

The JSON is written by `weights_pretrained/record_weights.py`.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees weights_pretrained/ only

from benchmarks.report import markdown, with_tables  # noqa: E402
from src.command_line import ArgumentParser  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.files import parse_json, write_whole  # noqa: E402
from src.formats.weights import SAMPLE_MODEL, sha256_of  # noqa: E402

FOLDER, WEIGHTS = SAMPLE_MODEL.parent, SAMPLE_MODEL.name
FIGURES, CARD = "MIMO-UNet_sample.json", "MODEL_CARD.md"
BEGIN, END = "<!-- figures: made by python weights_pretrained/model_card.py, not by hand -->", "<!-- /figures -->"
SETS = {"gopro": "GoPro", "reds": "REDS", "kodak": "Kodak, synthetic blur", "sample": "sample set, first three pairs"}
PICTURED = "sample"  # the only set whose images may be published here


def main(argv: list[str] | None = None, folder: Path = FOLDER) -> None:
    parser = ArgumentParser("Writes the figures of the sample weights' model card from their JSON.")
    parser.add_argument("--check", action="store_true", help="only check whether card, JSON and weights agree")
    check = parser.parse_args(argv).check
    try:
        figures = parse_json((folder / FIGURES).read_bytes())
        text = tables(figures)
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise UserError(
            f"{FIGURES}: not in the format of weights_pretrained/record_weights.py ({type(e).__name__}: {e})"
        ) from e
    if figures["sha256"] != sha256_of(folder / WEIGHTS):
        raise UserError(
            f"{FIGURES}: its sha256 is not that of {WEIGHTS}. bash weights_pretrained/score_sample_weights.sh"
        )
    old = (folder / CARD).read_text(encoding="utf-8")
    new = with_tables(old, text, CARD, BEGIN, END)
    if check and new != old:
        raise UserError(f"{CARD}: its tables differ from {FIGURES}. python weights_pretrained/model_card.py")
    if not check:
        write_whole(folder / CARD, new)
    print(f"{CARD}: {'as recorded' if new == old else 'written'}")


def gain(row: dict[str, Any]) -> float:
    return row["psnr"] - row["psnr_input"]


def extremes(figures: dict[str, Any]) -> dict[str, dict]:
    """Rows of the images with the largest and smallest gain, which the card shows."""
    rows = figures["held_out"][PICTURED]["rows"]
    return {"largest_gain": max(rows, key=gain), "smallest_gain": min(rows, key=gain)}


def tables(figures: dict[str, Any]) -> str:
    """Everything between the card's markers, as Markdown."""
    total = sum(s["steps"] for s in figures["stages"]), sum(s["seconds"] for s in figures["stages"]) / 3600
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    header = ["held out", "images", "PSNR of the blurred input, dB", "restored, dB", "gain, dB"]
    scores = markdown([*header, "SSIM of the input", "restored"], [score_row(*f) for f in figures["held_out"].items()])
    header = ["recipe", "steps", "crops per step", "learning rate", "schedule", "synthetic blur", "seed", "hours"]
    parts = [
        f"`{figures['file']}`: {figures['bytes'] / 1e6:.1f} MB, network only, moving average of the weights; sha256\n"
        f"`{figures['sha256']}`",
        f"**Scores**, as `eval.py` prints them; gain: mean (least to most)\n\n{scores}",
        f"**Training**: {total[0]:,} steps in {total[1]:.1f} hours, steps times the median step, on "
        f"{figures['hardware']}; {versions}\n\n{markdown(header, list(map(stage_row, figures['stages'])))}",
    ]
    for name, row in extremes(figures).items():
        words = name.replace("_", " ")
        parts.append(
            f"**The {words}** in the sample set: `{row['name']}`, {row['psnr_input']:.2f} dB to {row['psnr']:.2f} dB "
            f"(the middle of the frame)\n\n![{words}]({name}.jpg)"
        )
    rows = [[SETS[n], f"`{r['name']}`", *numbers(r)] for n, f in figures["held_out"].items() for r in f["rows"]]
    header = ["set", "image", "PSNR of the input, dB", "restored, dB", "gain, dB", "SSIM of the input", "restored"]
    return "\n\n".join([*parts, "**Every image**\n\n" + markdown(header, rows)])


def numbers(row: dict[str, Any]) -> list[str]:
    psnr = [f"{row['psnr_input']:.2f}", f"{row['psnr']:.2f}", f"{gain(row):+.2f}"]
    return [*psnr, f"{row['ssim_input']:.4f}", f"{row['ssim']:.4f}"]


def score_row(name: str, found: dict[str, Any]) -> list[str]:
    gains = [gain(row) for row in found["rows"]]
    cells = numbers(found)
    cells[2] += f" ({min(gains):+.2f} to {max(gains):+.2f})"
    return [SETS[name], str(found["images"]), *cells]


def stage_row(s: dict[str, Any]) -> list[str]:
    crops = f"{s['train_batch_size']} of {s['crop_size']}x{s['crop_size']}"
    rate, share, hours = f"{s['learning_rate']:g}", f"{s['synthetic_fraction']:.0%}", f"{s['seconds'] / 3600:.1f}"
    return [f"`{s['recipe']}`", f"{s['steps']:,}", crops, rate, s["lr_schedule"], share, str(s["seed"]), hours]


if __name__ == "__main__":
    run_main(main)
