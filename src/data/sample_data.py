"""Makes a small dataset in the layout of GOPRO_Large, to try the code without a download.

    python -m src.data.sample_data --root sample_set --seed 1

The photographs come with scikit-image; those for training differ from those for testing. As in a camera, the blurred
image is the mean of many frames along the path of a shaking hand, and the sharp image is the middle frame. A network
trained on six photographs does not deblur other pictures well.
"""

import importlib.util
import itertools
import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from src.command_line import COUNT, ArgumentParser
from src.config import LARGEST_SEED
from src.data.gopro import arrange
from src.data.images import probe, read_rgb
from src.data.synthetic_blur import GAMMA, INTERPOLATION_REACH, frames_along, mean_frame, random_place, shake_path
from src.errors import UserError, need_writable_folder, run_main
from src.files import in_threads, need_apart, parse_json, whole_folder

# Colour photographs in the wheel of scikit-image. The other images of skimage.data are downloads, grey, drawings,
# almost empty or of the same scenes.
PHOTOGRAPHS = {
    "train": ("astronaut.png", "motorcycle_left.png", "ihc.png", "rocket.jpg"),
    "test": ("coffee.png", "chelsea.png"),
}
KINDS = ("blur", "blur_gamma", "sharp")
PATH_LENGTH = (3.0, 20.0)  # pixels, uniformly distributed
MAX_TURN = 0.012  # radians between the outermost frames: about 2 pixels in the corners of a 256x384 frame
MARKER = "sample_set.json"
FORMAT = 2  # to be increased whenever the same parameters give other pictures


# ---- one pair


def random_exposure(
    rng: np.random.Generator, photo: np.ndarray, height: int, width: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(blur, blur_gamma, sharp) as in the GoPro dataset, each (height, width, 3) uint8.

    The camera moves along a random path of 3 to 20 pixels, at a random place of `photo`.
    """
    length, turn = rng.uniform(*PATH_LENGTH), rng.uniform(0, MAX_TURN)
    path = shake_path(rng, num_frames, length, turn)
    frames = list(frames_along(photo, path, height, width, *random_place(rng, photo, path, height, width)))
    (blur, sharp), (blur_gamma, _) = mean_frame(frames), mean_frame(frames, GAMMA)
    return np.rint(blur).astype(np.uint8), np.rint(blur_gamma).astype(np.uint8), sharp


def largest_frame(height: int, width: int) -> tuple[int, int]:
    """Largest (height, width), multiples of 4, for which every random path has room in a photo of the given size."""
    corner = math.hypot(height, width) / 2
    # Sum of both sides, since opposite corners turn in opposite directions.
    room = math.ceil(PATH_LENGTH[1] + 2 * MAX_TURN * corner) + 2 * (INTERPOLATION_REACH + 1)
    return (height - room) // 4 * 4, (width - room) // 4 * 4


# ---- the set


def find_photographs(split: str) -> dict[str, Path]:
    """Photographs of the installed scikit-image by name. It is not imported, since its loaders may download.

    Raises:
        UserError: scikit-image is missing.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the sample set needs the photographs of scikit-image: pip install -r requirements.txt")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return {Path(name).stem: folder / name for name in PHOTOGRAPHS[split]}


def write_sample(folder: Path, sequence: str, frame: str, photo: np.ndarray, params: dict[str, int]) -> None:
    """Write blur, blur_gamma and sharp of one pair, drawn from the seed and the pair's name.

    Pairs are independent of each other, so a larger set of the same seed includes the pairs of a smaller one.
    """
    rng = np.random.default_rng((params["seed"], zlib.crc32(f"{sequence}/{frame}".encode())))
    images = random_exposure(rng, photo, params["height"], params["width"], params["frames"])
    for kind, image in zip(KINDS, images, strict=True):
        path = folder / sequence / kind / f"{frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def write_set(folder: Path, params: dict[str, int]) -> None:
    """Write all samples into the new folder `folder`, then the marker with `params` and all file sizes in bytes."""
    samples: list[tuple[Path, str, str, np.ndarray, dict[str, int]]] = []
    photos: dict[str, np.ndarray] = {}
    for split in PHOTOGRAPHS:
        found = find_photographs(split)
        photos |= {name: read_rgb(path) for name, path in found.items()}
        for i, name in zip(range(params[split]), itertools.cycle(found), strict=False):
            sequence = f"SAMPLE_{split}_{name}_{params['frames']:02d}_00"
            samples.append((folder / split, sequence, f"{i // len(found) + 1:06d}", photos[name], params))
    in_threads(lambda sample: write_sample(*sample), samples, "pair", progress=False)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.png"))}
    (folder / MARKER).write_text(json.dumps({"params": params, "files": files}, indent=1) + "\n", encoding="utf-8")


def check_params(params: dict[str, int]) -> None:
    """Raise a UserError that names the option with an invalid value."""
    infos = [probe(path) for split in PHOTOGRAPHS for path in find_photographs(split).values()]
    rooms = [largest_frame(info.height, info.width) for info in infos]
    limits = {"height": (16, min(h for h, _ in rooms)), "width": (16, min(w for _, w in rooms)), "frames": (1, 99)}
    for name, (low, high) in limits.items():
        got = f"--{name}: got {params[name]}, expected"
        if not low <= params[name] <= high:
            raise UserError(f"{got} {low} to {high}")
        if name != "frames" and params[name] % 4:
            raise UserError(f"{got} a multiple of 4 (the network has three scales)")
        if name == "frames" and params[name] % 2 == 0:
            raise UserError(f"{got} an odd number: the sharp image is the middle frame")
    if not any(params[split] for split in PHOTOGRAPHS):
        raise UserError("--train and --test: got 0 pairs of each, expected some")


def is_complete(root: Path, params: dict[str, int]) -> bool:
    """Whether `root` contains all files of the set with these parameters, judged by their sizes.

    Raises:
        UserError: `root` contains a set with other parameters, or other files.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        marker = parse_json((root / MARKER).read_bytes())
        there, files = marker["params"], marker["files"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"--root: {root} exists and is no sample set. Choose another folder.") from e
    if there == params | {"format": there.get("format")} != params:
        return False  # an earlier version made it
    if there != params:
        differ = ", ".join(f"{k} {there.get(k)} instead of {v}" for k, v in params.items() if there.get(k) != v)
        raise UserError(f"--root: {root} contains a sample set with other parameters: {differ}. Choose another folder.")
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
    """Make `root`/{train,test}/<sequence>/{blur,blur_gamma,sharp}/000001.png, ..., by default 8 MB in a few seconds.

    The same arguments give the same bytes on one installation. A complete set stays unchanged; if files are missing,
    all are made again. A killed run leaves no incomplete set.

    Args:
        root: created if missing. `src/preprocessing.py --root_src root` arranges it for training.
        seed: seed of crops and paths.
        train, test: number of pairs, distributed evenly over the photographs; each photograph is one sequence.
        height, width: size of every image, pixels, multiples of 4.
        frames: number of frames averaged into one blurred image, odd.

    Raises:
        UserError: an argument is out of range, or `root` contains something else or cannot be written.
    """
    root = Path(root)
    params = {"format": FORMAT, "seed": seed, "train": train, "test": test}
    params |= {"height": height, "width": width, "frames": frames}
    check_params(params)
    if is_complete(root, params):
        return root
    need_writable_folder(Path(os.path.abspath(root)).parent, "--root")
    # An older set may exist, or another process may have just made the same one, so the marker is written last.
    with whole_folder(root) as made:
        write_set(made, params)
    return root


def dataset_or_samples(dataset_root: Path | str) -> Path:
    """`dataset_root` if given, else ./dataset if it exists, else the arranged sample set, which is made on demand."""
    if dataset_root or Path("dataset").is_dir():
        return Path(dataset_root or "dataset")
    print(
        "no --dataset_root and no ./dataset: using the sample set, photographs that come with scikit-image", flush=True
    )
    root = make_sample_set("sample_set")
    arranged = root.with_name("sample_set_arranged")
    arrange(root, arranged, link=True, progress=False)
    return arranged


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; `argv` has the arguments without the program name, None means those of the process."""
    parser = ArgumentParser("Make a small dataset in the layout of GOPRO_Large from photographs of scikit-image.")
    parser.add_argument("--root", metavar="FOLDER", default="sample_set", help="output folder [sample_set]")
    for name, default, text in (
        ("seed", 1, "seed of crops and camera paths"),
        ("train", 16, "number of training pairs"),
        ("test", 4, "number of test pairs, of other photographs"),
        ("height", 256, "height of the images, pixels, a multiple of 4"),
        ("width", 384, "width of the images, pixels, a multiple of 4"),
        ("frames", 11, "number of frames averaged into one blurred image, odd"),
    ):
        high, text = LARGEST_SEED if name == "seed" else COUNT, f"{text} [{default}]"
        parser.add_argument(f"--{name}", type=int, high=high, metavar="INT", default=default, help=text)
    args = parser.parse_args(argv)
    photographs = [path for split in PHOTOGRAPHS for path in find_photographs(split).values()]
    need_apart({path.parent for path in photographs}, folders=[("--root", Path(args.root))])
    root = make_sample_set(args.root, args.seed, args.train, args.test, args.height, args.width, args.frames)
    print(f"{root}: {args.train} train and {args.test} test pairs of {args.width}x{args.height} pixels")
    print(f"next: python src/preprocessing.py --root_src {root} --root_dst dataset")
    return 0


if __name__ == "__main__":
    run_main(main)
