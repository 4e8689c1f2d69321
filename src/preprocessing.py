"""Arranges, packs or verifies the GoPro dataset.

    python src/preprocessing.py --root_src GOPRO_Large --root_dst dataset [--link]
    python src/preprocessing.py --root_src GOPRO_Large --root_dst packed --pack [--patch_size 512]
    python src/preprocessing.py --verify [--root_src GOPRO_Large] [--root_dst dataset] [--report_file REPORT.json]

GOPRO_Large/{train,test}/<sequence>/{blur,sharp}/000001.png, ... become dataset/{train,test}/{blur,sharp}/1.png, ...,
numbered along the sequences. `blur_gamma` is not used: the paper trains and evaluates on `blur`. The source is only
read. The next run resumes an interrupted one, and `manifest.csv` records the origin of every pair (src/data/gopro.py).
`--pack` decodes the frames once for fast training (src/data/packing.py). `--verify` checks one folder or both, and
writes only the report (src/verify/report.py).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: Python has put src/ on its path instead of the folder above
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from src.command_line import ArgumentParser
from src.config import LARGEST_SIDE
from src.data.gopro import arrange
from src.data.packed import damaged_entries, is_packed
from src.data.packing import pack
from src.errors import UserError, first_few, run_main
from src.streams import need_reader
from src.verify.report import run

MIN_PATCH = 16  # pixels, the smallest crop that training takes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; `argv` has the arguments without the program name, None means those of the process."""
    parser = ArgumentParser(
        "Arrange GOPRO_Large as {train,test}/{blur,sharp}/1.png, ... Rerun the command to resume an interruption. "
        "Or --verify a dataset: exit status 1 after an error, 0 without errors, even with warnings."
    )
    add = parser.add_argument
    add("--root_src", metavar="FOLDER", help="GOPRO_Large, which is only read")
    add("--root_dst", metavar="FOLDER", help="output folder [dataset, with --pack packed]")
    link_help = "hard links instead of copies; across disks symbolic links, which need the source to stay in place"
    add("--link", action="store_true", help=link_help)
    pack_help = "decode the frames of --root_src, arranged or not, for train.py and eval.py; rerun to update"
    add("--pack", action="store_true", help=pack_help)
    patch_help = "with --pack: side of overlapping training patches, pixels, 0 = whole frames [0]"
    add("--patch_size", type=int, high=LARGEST_SIDE, default=0, metavar="INT", help=patch_help)
    verify_help = "check the given folders only: counts, pairs, sizes, every file's content"
    add("--verify", action="store_true", help=verify_help)
    add("--report_file", metavar="FILE", help="with --verify: JSON file of the findings")
    args = parser.parse_args(argv)
    _check_combination(args)
    if args.verify:
        if not args.report_file:
            need_reader()
        return _verify(args.root_src, args.root_dst, args.report_file)
    if not args.root_src:
        raise UserError("--root_src: expected the folder of GOPRO_Large (--help lists the options)")
    root_dst = args.root_dst or ("packed" if args.pack else "dataset")
    if args.pack:
        sizes = pack(args.root_src, root_dst, args.patch_size)
        print(f"{root_dst}: " + ", ".join(f"{split} {size / 1e9:.2f} GB" for split, size in sizes.items()))
        print(f"next: python train.py --dataset_root {root_dst}")
    else:
        pairs = arrange(args.root_src, root_dst, args.link)
        print(f"{root_dst}: " + ", ".join(f"{count} {split} pairs" for split, count in pairs.items()))
    return 0


def _check_combination(args: argparse.Namespace) -> None:
    if args.verify and (args.link or args.pack):
        raise UserError(f"--{'link' if args.link else 'pack'}: has no effect with --verify, which writes no images")
    if args.link and args.pack:
        raise UserError("--link and --pack: give only one; packed frames are decoded, not linked")
    if args.report_file and not args.verify:
        raise UserError("--report_file: needs --verify")
    if args.patch_size and not args.pack:
        raise UserError("--patch_size: needs --pack")
    if args.patch_size and args.patch_size < MIN_PATCH:
        raise UserError(f"--patch_size: got {args.patch_size}, expected 0 or {MIN_PATCH} or more")


def _verify(root_src: str | None, root_dst: str | None, report_file: str | None) -> int:
    if not root_src and not root_dst:
        root_dst = "dataset"
    if root_dst and is_packed(root_dst):
        if root_src or report_file:
            raise UserError(f"--verify: {root_dst} is packed; give it alone, since its checksums are enough")
        damaged = damaged_entries(root_dst)
        print(f"{root_dst}: damaged: {first_few(damaged)}" if damaged else f"{root_dst}: nothing wrong was found")
        return 1 if damaged else 0
    source, arranged, report = (Path(path) if path else None for path in (root_src, root_dst, report_file))
    return run(source, arranged, report)


if __name__ == "__main__":
    run_main(main)
