"""Deblur photos.

    python deblur.py INPUT... --model FILE --output DIR
    python deblur.py holiday 'scans/*.tif' --model runs/gpu/best.ckpt --output deblurred --compare

An INPUT is a file, a folder with its sub-folders, or a pattern in quotes. PNG, JPEG, TIFF, WebP and BMP of any size, 8
and 16 bits; transparency, colour profile, EXIF and resolution are kept. A second run does what is missing. Exit status:
0, 1 if a photo failed, 2 for a mistake in the command.
"""

import sys
from pathlib import Path

from src import device
from src.config import ENSEMBLE_NAMES, MODEL_NAMES, ROOT, ArgumentParser
from src.deblur_files import Job, find_photos, is_done, nearest_file, plan
from src.deblur_run import Restorer, ctrl_c_in_compiled_code, restore_files
from src.errors import UserError, need_writable_folder, run_main
from src.photo import MAX_PIXELS
from src.restore import LARGEST_TILE, SMALLEST_TILE

SAMPLE_MODEL = ROOT / "weights_pretrained" / "MIMO-UNet_sample.ckpt"
FORMAT_NAMES = {"same": "", "png": "PNG", "jpg": "JPEG", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP"}
RUN_WITHOUT_MINDSPORE = (".onnx", ".xml")


def make_parser() -> ArgumentParser:
    parser = ArgumentParser("Deblur photos: files, folders, patterns. Exit status 1 if any photo failed.")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="file, folder (with its sub-folders) or pattern in quotes")
    add("--model", default="", metavar="FILE", help=f"what export.py or train.py wrote [{SAMPLE_MODEL.name}, if there]")
    add("--model_name", default="", choices=MODEL_NAMES, help="variant, for files that do not say it")
    add("--output", required=True, metavar="DIR", help="folder for the results; names and sub-folders are kept")
    add("--format", default="same", choices=FORMAT_NAMES, help="file format of the results [same as each input]")
    add("--quality", type=int, default=95, metavar="1-100", help="of JPEG and WebP; WebP is lossless at 100 [95]")
    add("--compare", action="store_true", help="also write NAME_compare.png: before and after, side by side")
    add("--overwrite", action="store_true", help="also photos that an earlier run has done")
    add(
        "--tile", default="auto", metavar="auto|0|N", help="side of the tiles in pixels, 0 = no tiles [auto: by memory]"
    )
    add("--tile_overlap", type=int, metavar="N", help="pixels that neighbouring tiles share [32]")
    add("--verify_tiles", action="store_true", help="also restore without tiles, and print the difference in dB")
    add("--self_ensemble", default="none", choices=ENSEMBLE_NAMES, help="mean over turned and mirrored photos [none]")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of the engines that offer it [auto]")
    add("--threads", type=int, default=0, metavar="N", help="of the engines that offer it [0: all cores]")
    add("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help=f"larger photos are refused [{MAX_PIXELS}]")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    tile = check_options(args)
    model, why = choose_model(args.model)
    print(f"model: {model}{why}", flush=True)
    found = find_photos(args.inputs, Path(args.output))
    output = need_writable_folder(args.output, "--output")
    jobs, renamed = plan(found.sources, output, FORMAT_NAMES[args.format], args.compare)
    for line in filter(None, (*found.passed_over, renamed)):
        print(line)
    for line in found.failures:
        print(f"failed: {line}", file=sys.stderr)
    todo = jobs if args.overwrite else [job for job in jobs if not is_done(job)]
    done = (
        f", {len(jobs) - len(todo)} done by an earlier run (--overwrite repeats them)" if len(todo) < len(jobs) else ""
    )
    print(f"photos: {len(todo)} to restore into {output}{done}", flush=True)
    with ctrl_c_in_compiled_code():
        failed = deblur(args, todo, model, tile) if todo else 0
    return 1 if failed or found.failures else 0


def check_options(args) -> int | None:
    """The tile's side in pixels, None for auto. Raises a UserError that lists all problems."""
    problems = []
    tile = None if args.tile == "auto" else int(args.tile) if args.tile.isdecimal() else -1
    if tile is not None and tile != 0 and tile < SMALLEST_TILE:
        problems.append(f"--tile: got {args.tile}, expected auto, 0 or a number of {SMALLEST_TILE} or more")
    elif args.tile_overlap is not None and not 0 <= args.tile_overlap < (tile or LARGEST_TILE) / 2:
        problems.append(f"--tile_overlap: got {args.tile_overlap}, expected 0 or more and less than half of the tile")
    if not 1 <= args.quality <= 100:
        problems.append(f"--quality: got {args.quality}, expected 1 to 100")
    for name, low in (("threads", 0), ("max_pixels", 1)):
        if getattr(args, name) < low:
            problems.append(f"--{name}: got {getattr(args, name)}, expected {low} or more")
    if problems:
        raise UserError("; ".join(problems))
    return tile


def choose_model(given: str) -> tuple[Path, str]:
    """(file, remark for the first line)"""
    if given:
        if not Path(given).is_file():
            hint = nearest_file(Path(given))
            raise UserError(
                f"--model: no file {given}; expected a checkpoint of train.py or a file of export.py.{hint}"
            )
        return Path(given), ""
    if SAMPLE_MODEL.is_file():
        return SAMPLE_MODEL, " (the sample that comes with the repository; --model FILE takes another)"
    raise UserError(
        "--model: a trained network is needed, e.g. runs/MIMO-UNet/best.ckpt from train.py, or the authors' weights; "
        "weights_pretrained/README.md tells how to get them"
    )


def deblur(args, jobs: list[Job], model: Path, tile: int | None) -> int:
    """Restore all jobs; returns how many failed."""
    # Engines take seconds to import; --help, bad input and finished work are answered without them.
    from tqdm import tqdm

    if model.suffix.lower() not in RUN_WITHOUT_MINDSPORE:
        device.setup("CPU", debug=args.debug)
    from src.engine import load_engine

    engine = load_engine(str(model), model_name=args.model_name, precision=args.precision, threads=args.threads)
    print(f"engine: {engine.description}", flush=True)
    with tqdm(total=len(jobs), unit="photo", disable=None) as bar:
        restore = Restorer(engine, tile, args.tile_overlap, args.self_ensemble, args.verify_tiles, bar)
        failed, seconds = restore_files(
            jobs, restore, bar=bar, quality=args.quality, max_pixels=args.max_pixels, debug=args.debug
        )
    restored = len(jobs) - failed
    failures = f", {failed} failed" if failed else ""
    print(f"{restored} restored{failures}; {restored / max(seconds, 1e-9):.3g} images/s")
    return failed


if __name__ == "__main__":
    run_main(main)
