"""A small set in the layout of GOPRO_Large, for trials without a download.

    python src/data/sample_data.py --root sample_set --seed 1

The pictures are photographs that scikit-image ships in its package, other ones for training than for testing. The blur
is made as a camera makes it: the mean of many frames along the path of a shaking hand; the sharp image is the middle
frame. The set is for trying the code out: six photographs teach a network no general deblurring.
"""

import importlib.util
import json
import math
import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

if not __package__:  # run as a file: Python has put src/ on its path, where the package itself cannot be found
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from src.config import COUNT, LARGEST_SEED, ArgumentParser
from src.data.gopro import arrange
from src.data.images import probe, read_rgb
from src.data.synthetic_blur import GAMMA, INTERPOLATION_REACH, frames_along, mean_frame, reach, shake_path
from src.errors import UserError, need_writable_folder, run_main
from src.files import need_apart, parse_json, whole_folder

# Colour photographs in the wheel of scikit-image; the rest of skimage.data is downloaded, grey, drawn, nearly empty or
# of a scene that is here already.
PHOTOGRAPHS = {
    "train": ("astronaut.png", "motorcycle_left.png", "ihc.png", "rocket.jpg"),
    "test": ("coffee.png", "chelsea.png"),
}
KINDS = ("blur", "blur_gamma", "sharp")
PATH_LENGTH = (3.0, 20.0)  # pixels, drawn evenly
MAX_TURN = 0.012  # radians between the outermost frames: some 2 pixels in the corners of a 256x384 frame
MARKER = "sample_set.json"
FORMAT = 2  # raise it when the same parameters begin to give other pictures


# ---- one pair, pure functions


def expose(
    photo: np.ndarray, path: np.ndarray, height: int, width: int, top: int, left: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(blur, blur_gamma, sharp) as in the GoPro dataset, each (height, width, 3) uint8, of the frames along a path.

    Raises:
        ValueError: a frame would look over the edge of `photo`; `reach` tells how much room it needs.
    """
    up, down, before, after = reach(path, height, width)
    y0, y1, x0, x1 = top - up, top + height + down, left - before, left + width + after
    if y0 < 0 or x0 < 0 or y1 > photo.shape[0] or x1 > photo.shape[1]:
        raise ValueError(f"frames need rows {y0}..{y1} and columns {x0}..{x1} of a photo of {photo.shape[:2]}")
    frames = list(frames_along(photo, path, height, width, top, left))
    blur, sharp = mean_frame(frames)
    blur_gamma, _ = mean_frame(frames, GAMMA)
    return np.rint(blur).astype(np.uint8), np.rint(blur_gamma).astype(np.uint8), sharp


def random_exposure(
    rng: np.random.Generator, photo: np.ndarray, height: int, width: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`expose` along a random path of 3 to 20 pixels, at a random place of `photo` that has room for it."""
    length, turn = rng.uniform(*PATH_LENGTH), rng.uniform(0, MAX_TURN)
    path = shake_path(rng, num_frames, length, turn)
    up, down, before, after = reach(path, height, width)
    top = rng.integers(up, photo.shape[0] - height - down, endpoint=True)
    left = rng.integers(before, photo.shape[1] - width - after, endpoint=True)
    return expose(photo, path, height, width, top, left)


def largest_frame(height: int, width: int) -> tuple[int, int]:
    """(height, width), multiples of 4, up to which `random_exposure` finds room in such a photo, whatever it draws."""
    corner = math.hypot(height, width) / 2
    # On both sides together; opposite corners turn opposite ways.
    room = math.ceil(PATH_LENGTH[1] + 2 * MAX_TURN * corner) + 2 * (INTERPOLATION_REACH + 1)
    return (height - room) // 4 * 4, (width - room) // 4 * 4


# ---- the set


def find_photographs(split: str) -> dict[str, Path]:
    """Files by name, in the installed scikit-image. It is not imported: its own loaders may download.

    Raises:
        UserError: scikit-image is missing.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the sample set needs the photographs of scikit-image: pip install -r requirements.txt")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return {Path(name).stem: folder / name for name in PHOTOGRAPHS[split]}


def list_samples(split: str, count: int, num_frames: int) -> list[tuple[str, str, str]]:
    """(photograph, sequence, frame) of `count` pairs, spread evenly over the photographs of a split."""
    names = [Path(name).stem for name in PHOTOGRAPHS[split]]
    return [
        (name, f"SAMPLE_{split}_{name}_{num_frames:02d}_00", f"{i:06d}")
        for k, name in enumerate(names)
        for i in range(1, len(range(k, count, len(names))) + 1)
    ]


def write_sample(folder: Path, sequence: str, frame: str, photo: np.ndarray, params: dict[str, int]) -> None:
    """Blur, blur_gamma and sharp of one pair below `folder`, drawn from the seed and the pair's own name.

    The other pairs of the set play no part, so a larger set of the same seed begins with the pairs of a smaller one.
    """
    rng = np.random.default_rng((params["seed"], zlib.crc32(f"{sequence}/{frame}".encode())))
    images = random_exposure(rng, photo, params["height"], params["width"], params["frames"])
    for kind, image in zip(KINDS, images, strict=True):
        path = folder / sequence / kind / f"{frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def write_set(folder: Path, params: dict[str, int]) -> None:
    """All samples into the new folder `folder`, then the marker with `params` and the size of every file, bytes."""
    for split in PHOTOGRAPHS:
        photos = {name: read_rgb(path) for name, path in find_photographs(split).items()}
        samples = list_samples(split, params[split], params["frames"])
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV works without the interpreter's lock
            jobs = [
                pool.submit(write_sample, folder / split, sequence, frame, photos[name], params)
                for name, sequence, frame in samples
            ]
            for job in jobs:
                job.result()
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.png"))}
    (folder / MARKER).write_text(json.dumps({"params": params, "files": files}, indent=1) + "\n", encoding="utf-8")


def check_params(params: dict[str, int]) -> None:
    """Raise a UserError that names the option unless a set can be made so."""
    infos = [probe(path) for split in PHOTOGRAPHS for path in find_photographs(split).values()]
    rooms = [largest_frame(info.height, info.width) for info in infos]
    limits = {"height": (16, min(h for h, _ in rooms)), "width": (16, min(w for _, w in rooms)), "frames": (1, 99)}
    for name, (low, high) in limits.items():
        if not low <= params[name] <= high:
            raise UserError(f"--{name}: got {params[name]}, expected {low} to {high}")
    for name in ("height", "width"):
        if params[name] % 4:
            raise UserError(f"--{name}: got {params[name]}, expected a multiple of 4 (the network has three scales)")
    if params["frames"] % 2 == 0:
        raise UserError(
            f"--frames: got {params['frames']}, expected an odd number: the sharp image is the middle frame"
        )
    for name in ("seed", *PHOTOGRAPHS):
        if params[name] < 0:
            raise UserError(f"--{name}: got {params[name]}, expected 0 or more")
    if not any(params[split] for split in PHOTOGRAPHS):
        raise UserError("--train and --test: got 0 pairs of each, expected some")


def is_complete(root: Path, params: dict[str, int]) -> bool:
    """Whether `root` holds all files of the set of `params`, by their sizes.

    Raises:
        UserError: it holds a set of other parameters, or anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        marker = parse_json((root / MARKER).read_bytes())
        there, files = marker["params"], marker["files"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"--root: {root} is there already and is no sample set. Choose another folder.") from e
    if there == params | {"format": there.get("format")} != params:
        return False  # made by an earlier version: made anew
    if there != params:
        differ = ", ".join(f"{k} {there.get(k)} instead of {v}" for k, v in params.items() if there.get(k) != v)
        raise UserError(f"--root: {root} holds a sample set of other parameters: {differ}. Choose another folder.")
    return all((root / name).is_file() and (root / name).stat().st_size == size for name, size in files.items())


def make_sample_set(
    root: Path | str,
    seed: int = 1,
    train: int = 16,
    test: int = 4,
    height: int = 256,
    width: int = 384,
    frames: int = 11,
) -> Path:
    """`root`/{train,test}/<sequence>/{blur,blur_gamma,sharp}/000001.png, ...: some seconds and 8 MB by default.

    The same arguments give the same bytes on one installation. The folder appears whole; one that is there and complete
    is left as it is, one with missing files gets all of them anew.

    Args:
        root: made if missing. `src/preprocessing.py --root_src root` arranges it for training.
        seed: of crops and paths.
        train, test: pairs, spread evenly over the photographs; one sequence a photograph.
        height, width: of every image, pixels, multiples of 4.
        frames: averaged into one blurred image, odd.

    Raises:
        UserError: an argument is out of range, or `root` holds something else or cannot be written.
    """
    root = Path(root)
    params = {"format": FORMAT, "seed": seed, "train": train, "test": test}
    params |= {"height": height, "width": width, "frames": frames}
    check_params(params)
    if is_complete(root, params):
        return root
    need_writable_folder(Path(os.path.abspath(root)).parent, "--root")
    # A set of other files may be there, or another process has just made the same one: the marker comes last.
    with whole_folder(root) as made:
        write_set(made, params)
    return root


def dataset_or_samples(dataset_root: Path | str) -> Path:
    """The data set to use: `dataset_root` if given, else ./dataset if it is there, else the sample set, made on the
    spot."""
    if dataset_root:
        return Path(dataset_root)
    if Path("dataset").is_dir():
        return Path("dataset")
    print(
        "no --dataset_root and no ./dataset: using the sample set, photographs that ship with scikit-image", flush=True
    )
    root = make_sample_set("sample_set")
    arrange(root, root.with_name("sample_set_arranged"), link=True, progress=False)
    return root.with_name("sample_set_arranged")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; `argv` without the program's name, None reads the process's own."""
    parser = ArgumentParser("Make a small set in the layout of GOPRO_Large from photographs that scikit-image ships.")
    parser.add_argument("--root", metavar="FOLDER", default="sample_set", help="made if missing [sample_set]")
    for name, default, text in (
        ("seed", 1, "of crops and camera paths"),
        ("train", 16, "pairs for training"),
        ("test", 4, "pairs for testing, of other photographs"),
        ("height", 256, "of the images, pixels, a multiple of 4"),
        ("width", 384, "of the images, pixels, a multiple of 4"),
        ("frames", 11, "averaged into one blurred image, odd"),
    ):
        high = LARGEST_SEED if name == "seed" else COUNT
        parser.add_argument(
            f"--{name}", type=int, high=high, metavar="INT", default=default, help=f"{text} [{default}]"
        )
    args = parser.parse_args(argv)
    photographs = [path for split in PHOTOGRAPHS for path in find_photographs(split).values()]
    need_apart({path.parent for path in photographs}, folders=[("--root", Path(args.root))])
    root = make_sample_set(args.root, args.seed, args.train, args.test, args.height, args.width, args.frames)
    print(f"{root}: {args.train} train and {args.test} test pairs of {args.width}x{args.height} pixels")
    print(f"next: python src/preprocessing.py --root_src {root} --root_dst dataset")
    return 0


if __name__ == "__main__":
    run_main(main)
