"""What `deblur.py` and `app.py` let the user choose alike: the network, how it runs, tiles, limits."""

import argparse
import re
from pathlib import Path

from src import device
from src.config import ENSEMBLE_NAMES, LARGEST_SIDE, MODEL_NAMES, ArgumentParser, shown
from src.engine import PRECISIONS, Engine, load_engine, runs_on_mindspore
from src.errors import UserError
from src.formats.weights import SAMPLE_MODEL, need_file, sample_model
from src.photos.jobs import nearest_file
from src.photos.read import MAX_PIXELS
from src.restore import LARGEST_TILE, OVERLAP, SMALLEST_TILE


def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="FILE", help=f"what export.py or train.py wrote [{SAMPLE_MODEL.name}, if there]")
    add("--model_name", choices=MODEL_NAMES, help="variant, for files that do not say it")
    quality_help = "of JPEG and WebP; WebP is lossless at 100 [95]"
    add("--quality", type=int, low=1, high=100, default=95, metavar="1-100", help=quality_help)
    tile_help = "side of the tiles in pixels, 0 = no tiles [auto: by memory]"
    add("--tile", type=tile_side, default="auto", metavar="auto|0|N", help=tile_help)
    add("--tile_overlap", type=int, metavar="N", help=f"pixels that neighbouring tiles share [{OVERLAP}]")
    add("--self_ensemble", default="none", choices=ENSEMBLE_NAMES, help="mean over turned and mirrored photos [none]")
    add("--precision", default="auto", choices=PRECISIONS, help="of the engines that offer it [auto]")
    add("--threads", type=int, high=1024, default=0, metavar="N", help="of the engines that offer it [0: all cores]")
    pixels_help = f"larger photos are refused [{MAX_PIXELS}]"
    add("--max_pixels", type=int, low=1, high=10**10, default=MAX_PIXELS, metavar="N", help=pixels_help)


def tile_side(text: str) -> int | None:
    """Pixels; None for auto."""
    if text == "auto":
        return None
    if re.fullmatch("0|[1-9][0-9]{1,4}", text) and (side := int(text)) in (0, *range(SMALLEST_TILE, LARGEST_SIDE + 1)):
        return side
    expected = f"auto, 0 or {SMALLEST_TILE} to {LARGEST_SIDE}"
    raise argparse.ArgumentTypeError(f"got {shown(text)}, expected {expected}")


def check_overlap(args: argparse.Namespace) -> None:
    """Raise a UserError if the tiles would overlap by half or more."""
    if args.tile_overlap is not None and not args.tile_overlap < (args.tile or LARGEST_TILE) / 2:
        raise UserError(f"--tile_overlap: got {args.tile_overlap}, expected less than half of the tile")


def choose_model(given: str | None) -> tuple[Path, str]:
    """(file, remark for the first line)"""
    if given:
        if Path(given).is_dir():
            need_file(Path(given), "checkpoint or exported network")  # its message lists the weights in the folder
        if not Path(given).is_file():
            hint = nearest_file(Path(given))
            raise UserError(
                f"--model: no file {given}; expected a checkpoint of train.py or a file of export.py.{hint}"
            )
        return Path(given), ""
    return sample_model("--model")


def open_engine(model: Path, args: argparse.Namespace) -> Engine:
    """The engine of a file, on the CPU, MindSpore set up if it needs that. Raises what `load_engine` raises."""
    if runs_on_mindspore(model):
        device.setup("CPU", debug=args.debug)
    return load_engine(model, model_name=args.model_name or "", precision=args.precision, threads=args.threads)
