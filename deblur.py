"""Deblur photos and videos.

    python deblur.py INPUT... --ckpt_file FILE --output DIR
    python deblur.py holiday 'scans/*.tif' --ckpt_file runs/gpu/best.ckpt --output deblurred --compare

An INPUT is a file, a folder with its sub-folders, or a pattern in quotes: PNG, JPEG, TIFF, WebP, BMP, HEIC and AVIF of
any size, 8 and 16 bits. Results keep transparency, colour profile, EXIF and resolution. Videos (MP4, MOV, Matroska,
WebM and AVI) keep sound, subtitles and time stamps; they need PyAV: bash scripts/setup.sh --video. Re-running the
command restores only what is missing. Exit status: 0, 1 if a file failed, 2 for a mistake in the command.
"""

import sys
from pathlib import Path

from src.command_line import ArgumentParser
from src.engine import Choice
from src.errors import UserError, first_few, need_writable_folder, printable, run_main
from src.formats.weights import sha256_of
from src.interrupts import Interrupts, interrupt_main
from src.photos.index import Index
from src.photos.jobs import Found, Job, find_photos, plan
from src.photos.options import add_options, check_overlap, choose_model, engine_for, open_engine
from src.photos.run import Restorer, kinds, restore_files
from src.photos.video import import_av

PHOTOS_ONLY = ("format", "compare", "quality", "verify_tiles")
FORMAT_NAMES = {"same": "", "png": "PNG", "jpg": "JPEG", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP"}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser("Deblur photos and videos: files, folders, patterns. Exit status 1 if any failed.")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="file, folder (with its sub-folders) or pattern in quotes")
    add("--output", required=True, metavar="DIR", help="folder for the results; names and sub-folders are kept")
    text = "file format of the photos [that of each input, JPEG for HEIC and AVIF]"
    add("--format", default="same", choices=FORMAT_NAMES, help=text)
    add("--compare", action="store_true", help="additional NAME_compare.png with before and after side by side")
    add("--overwrite", action="store_true", help="results of an earlier run too")
    add("--verify_tiles", action="store_true", help="second restoration without tiles, and the difference in dB")
    add_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    check_overlap(args)
    model, why = choose_model(args.ckpt_file)
    choice = engine_for(model, args)
    print(f"engine: {choice}\nmodel: {model}{why}", flush=True)
    found = find_photos(args.inputs, Path(args.output))
    output = need_writable_folder(args.output, "--output")
    jobs, renamed = plan(found.sources, output, FORMAT_NAMES[args.format], args.compare)
    for line in (*found.lines(), *renamed):
        print(printable(line))
    jobs = without_videos_that_need_av(args, jobs, found)
    for line in found.failures:
        print(f"failed: {printable(line)}", file=sys.stderr)
    made_by = {"weights": sha256_of(model), "self_ensemble": args.self_ensemble}
    made_by |= {"quality": args.quality, "video_quality": args.video_quality}
    # Without the tiles: they hardly change a photo, and one that failed for lack of memory needs smaller ones.
    index = Index(output, made_by | {"precision": args.precision, "engine": args.engine})
    earlier = index.sort([] if args.overwrite else jobs)
    todo = jobs if args.overwrite else earlier.todo
    for line in filter(None, (index.problem, *earlier.lines())):
        print(printable(line))
    done = f", {len(jobs) - len(todo)} done by an earlier run" if len(todo) < len(jobs) else ""
    print(printable(f"{kinds(jobs)}: {len(todo)} to restore into {output}{done}"), flush=True)
    with Interrupts(interrupt_main):
        failed = deblur(args, todo, model, choice, index) if todo else 0
    return 1 if failed or found.failures else 0


def without_videos_that_need_av(args, jobs: list[Job], found: Found) -> list[Job]:
    """`jobs`, without the videos if PyAV is missing, which becomes one of the failures. Prints which options videos do
    not have, if there are only videos."""
    videos = [job for job in jobs if job.is_video]
    default = make_parser().get_default
    given = [f"--{name}" for name in PHOTOS_ONLY if getattr(args, name) != default(name)]
    if given and videos == jobs:
        print(f"without effect on videos: {', '.join(given)}")
    try:
        if videos:
            import_av()
    except UserError as e:
        found.failures.append(f"{first_few(job.source for job in videos)}: {e}")
        return [job for job in jobs if not job.is_video]
    return jobs


def deblur(args, jobs: list[Job], model: Path, choice: Choice, index: Index) -> int:
    """Restore all jobs; returns how many failed."""
    from tqdm import tqdm

    engine = open_engine(model, args, choice)
    print(f"network: {engine.description}", flush=True)
    unit = "file" if any(job.is_video for job in jobs) else "image"
    with tqdm(total=len(jobs), unit=unit, disable=None) as bar:

        def on_tile(done: int, count: int) -> None:
            if count > 1:
                bar.set_postfix_str(f"tile {done}/{count}")

        def report(line: str) -> None:
            bar.write(printable(line))

        restore = Restorer(engine, args.tile, args.tile_overlap, args.self_ensemble, on_tile, args.verify_tiles, report)
        failed, seconds = restore_files(
            jobs,
            restore,
            index,
            bar=bar,
            quality=args.quality,
            max_pixels=args.max_pixels,
            video_quality=args.video_quality,
            debug=args.debug,
        )
    restored = len(jobs) - failed
    failures = f", {failed} failed" if failed else ""
    print(f"{restored} restored{failures}; {restored / max(seconds, 1e-9):.3g} {unit}s/s")
    return failed


if __name__ == "__main__":
    run_main(main)
