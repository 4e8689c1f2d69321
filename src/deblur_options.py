"""What `deblur.py` and `app.py` let the user choose alike: the network, how it runs, tiles, limits."""

import argparse
from pathlib import Path

from src import device
from src.config import ENSEMBLE_NAMES, MODEL_NAMES, ArgumentParser
from src.deblur_files import nearest_file
from src.engine import PRECISIONS, Engine, load_engine, runs_on_mindspore
from src.errors import UserError
from src.photo import MAX_PIXELS
from src.restore import LARGEST_TILE, OVERLAP, SMALLEST_TILE
from src.weight_files import SAMPLE_MODEL, need_file, sample_model


def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="", metavar="FILE", help=f"what export.py or train.py wrote [{SAMPLE_MODEL.name}, if there]")
    add("--model_name", default="", choices=MODEL_NAMES, help="variant, for files that do not say it")
    add("--quality", type=int, default=95, metavar="1-100", help="of JPEG and WebP; WebP is lossless at 100 [95]")
    add(
        "--tile", default="auto", metavar="auto|0|N", help="side of the tiles in pixels, 0 = no tiles [auto: by memory]"
    )
    add("--tile_overlap", type=int, metavar="N", help=f"pixels that neighbouring tiles share [{OVERLAP}]")
    add("--self_ensemble", default="none", choices=ENSEMBLE_NAMES, help="mean over turned and mirrored photos [none]")
    add("--precision", default="auto", choices=PRECISIONS, help="of the engines that offer it [auto]")
    add("--threads", type=int, default=0, metavar="N", help="of the engines that offer it [0: all cores]")
    add("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help=f"larger photos are refused [{MAX_PIXELS}]")


def check_options(args: argparse.Namespace, **lowest: int) -> int | None:
    """The tile's side in pixels, None for auto.

    Args:
        lowest: of further options of the script, numbers all.

    Raises:
        UserError: listing all problems.
    """
    problems = []
    tile = None if args.tile == "auto" else int(args.tile) if args.tile.isdecimal() else -1
    if tile is not None and tile != 0 and tile < SMALLEST_TILE:
        problems.append(f"--tile: got {args.tile}, expected auto, 0 or a number of {SMALLEST_TILE} or more")
    elif args.tile_overlap is not None and not 0 <= args.tile_overlap < (tile or LARGEST_TILE) / 2:
        problems.append(f"--tile_overlap: got {args.tile_overlap}, expected 0 or more and less than half of the tile")
    if not 1 <= args.quality <= 100:
        problems.append(f"--quality: got {args.quality}, expected 1 to 100")
    for name, low in {"threads": 0, "max_pixels": 1, **lowest}.items():
        if getattr(args, name) < low:
            problems.append(f"--{name}: got {getattr(args, name)}, expected {low} or more")
    if problems:
        raise UserError("; ".join(problems))
    return tile


def choose_model(given: str) -> tuple[Path, str]:
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
    return load_engine(model, model_name=args.model_name, precision=args.precision, threads=args.threads)
