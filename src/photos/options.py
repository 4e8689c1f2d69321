"""Options that `deblur.py` and `app.py` share: the network, its precision, tiles and limits."""

import argparse
import re
from pathlib import Path

from src import device
from src.command_line import WEIGHTS_OPTIONS, ArgumentParser, shown
from src.config import DEVICES, ENGINES, ENSEMBLE_NAMES, LARGEST_SIDE, MODEL_NAMES, PRECISIONS
from src.engine import Choice, Engine, choose_engine, load_engine
from src.errors import UserError
from src.formats.weights import SAMPLE_MODEL, need_file, sample_model
from src.photos.jobs import nearest_file
from src.photos.read import MAX_PIXELS
from src.photos.video import CRF, WORST_CRF
from src.restore import LARGEST_TILE, OVERLAP, SMALLEST_TILE


def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    model = f"checkpoint of train.py or exported file of export.py [{SAMPLE_MODEL.name}]"
    add(*WEIGHTS_OPTIONS, metavar="FILE", group="network", help=model)
    add("--model_name", choices=MODEL_NAMES, group="network", help="variant, which a weights file must match")
    target = "device that runs the network [the best one that is usable]"
    add("--device_target", choices=DEVICES, group="network", help=target)
    engine = "runtime of the network, auto = OpenVINO on CPU, else MindSpore [auto]"
    add("--engine", default="auto", choices=ENGINES, group="network", help=engine)
    precision = "precision of OpenVINO, auto = bf16 if possible [auto]"
    add("--precision", default="auto", choices=PRECISIONS, group="network", help=precision)
    threads = "threads of OpenVINO [0: all cores]"
    add("--threads", type=int, high=1024, default=0, metavar="N", group="network", help=threads)
    ensemble = "mean over 4 rotations, x8: mirrored too [none]"
    add("--self_ensemble", default="none", choices=ENSEMBLE_NAMES, group="network", help=ensemble)
    quality = "quality of JPEG and WebP; 100 makes WebP lossless [95]"
    add("--quality", type=int, low=1, high=100, default=95, metavar="1-100", group="photos", help=quality)
    crf = f"quality of videos as CRF of H.264: lower is better and larger [{CRF}: no visible loss]"
    add("--video_quality", type=int, high=WORST_CRF, default=CRF, metavar="0-51", group="videos", help=crf)
    pixels = f"largest photo or frame that is accepted, in pixels [{MAX_PIXELS}]"
    add("--max_pixels", type=int, low=1, high=10**10, default=MAX_PIXELS, metavar="N", group="photos", help=pixels)
    tile = "side of the tiles in pixels, 0 = no tiles [auto: by memory]"
    add("--tile", type=tile_side, default="auto", metavar="auto|0|N", group="photos", help=tile)
    overlap = f"pixels that neighbouring tiles share [{OVERLAP}]"
    add("--tile_overlap", type=int, metavar="N", group="photos", help=overlap)


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
    """The file with the network, and a remark for the first line of output."""
    if not given:
        return sample_model("--ckpt_file")
    path = Path(given)
    if path.is_dir():
        need_file(path, "checkpoint or exported network")  # its message lists the weights in the folder
    if not path.is_file():
        expected = "a checkpoint of train.py or a file of export.py"
        raise UserError(f"--ckpt_file: no file {given}; expected {expected}.{nearest_file(path)}")
    return path, ""


def engine_for(model: Path, args: argparse.Namespace) -> Choice:
    """What runs a file.

    Raises:
        UserError, Restart: as `choose_engine` and `device.require_device`.
    """
    target, why = (args.device_target, "as asked (--device_target)") if args.device_target else device.usable_device()
    choice = choose_engine(model, args.engine, target, why)
    if not choice.with_openvino:
        device.require_device(choice.target)
    return choice


def open_engine(model: Path, args: argparse.Namespace, choice: Choice) -> Engine:
    """The engine of a file; sets up MindSpore if it is chosen. Raises like `load_engine`."""
    if not choice.with_openvino:
        if args.threads:
            print(f"--threads {args.threads}: only for OpenVINO; MindSpore chooses its own number")
        device.setup(choice.target, debug=args.debug)
    given = {"model_name": args.model_name or "", "precision": args.precision, "threads": args.threads}
    return load_engine(model, choice=choice, **given)
