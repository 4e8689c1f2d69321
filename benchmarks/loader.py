"""Training pairs per second: from PNG files, from a packed set, and with PyTorch's DataLoader from the same two.

    python benchmarks/loader.py --json benchmarks/results/loader.json
    python benchmarks/loader.py --dataset_root dataset

All of them crop, flip and mask with the same code; only the loaders differ. PyTorch's workers return float32, as is
usual there. Without --dataset_root the benchmark makes frames of 1280x720 from photographs of scikit-image. All files
are read before the timing starts, so they come from memory, not from the disk.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import (  # noqa: E402
    Contestant,
    choose,
    make_parser,
    median_spread,
    parse,
    ratio,
    show,
    take_turns,
    write_json,
)
from src.errors import run_main  # noqa: E402

CONTESTANTS = ("png", "packed", "torch_png", "torch_packed")
YARDSTICK = "png"
EPOCH = 2103  # pairs, as in GOPRO's training set; fewer are repeated, so that the start of an epoch has the same weight
MASK_CHANNELS, DROPOUT = 96, 0.1  # as in src.mimo_unet, which is not imported because no network is measured


def main(argv: list[str] | None = None) -> None:
    args = parse_options(argv)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = Path(args.dataset_root) if args.dataset_root else make_frames(work / "frames", args.count)
        if any(name.endswith("packed") for name in args.contestants):
            from src.data.packing import pack

            pack(root, work / "packed", progress=False)
        folders = {"png": root, "packed": work / "packed"}
        settings = {"batch": args.batch, "size": args.size, "threads": args.threads}
        contestants = []
        for name in args.contestants:
            make = TorchLoader if name.startswith("torch") else MindSporeLoader
            folder = folders[name.removeprefix("torch_")]
            made = Contestant(name, make, folder, settings, threads=args.threads, daemon=False)
            contestants.append(stack.enter_context(made))
        take_turns(contestants, 1, "rate", args.seconds)
        rates = take_turns(contestants, args.rounds, "rate", args.seconds)
        settings |= {"frame": contestants[0].ask("frame")}
    results = {name: {"pairs_per_s": median_spread(found)} for name, found in rates.items()}
    for name in results if YARDSTICK in rates else ():
        results[name]["times_png"] = ratio(rates[name], rates[YARDSTICK])
    report(settings, results)
    if args.json:
        write_json(args.json, "loader", settings | {"contestants": results})


def parse_options(argv: list[str] | None):
    parser = make_parser("Training pairs a second by way of loading, in turn.")
    parser.add_argument("--dataset_root", metavar="STR", help="folder with train/{blur,sharp} [made]")
    parser.add_argument(
        "--count", type=int, low=1, default=24, metavar="INT", help="pairs to make without a folder [24]"
    )
    parser.add_argument("--batch", type=int, low=1, default=4, metavar="INT", help="crops per step [4]")
    size_help = "side of the square crops, pixels [256]"
    parser.add_argument("--size", type=int, low=16, default=256, metavar="INT", help=size_help)
    parser.add_argument("--rounds", type=int, low=1, default=5, metavar="INT", help="timed turns of each [5]")
    parser.add_argument("--seconds", type=float, low=0.01, default=5.0, metavar="FLOAT", help="length of a turn [5]")
    parser.add_argument("--contestants", metavar="STR", help=f"some of {','.join(CONTESTANTS)} [all]")
    args = parse(parser, argv)
    args.contestants = choose(args.contestants, CONTESTANTS, CONTESTANTS)
    return args


def report(settings: dict, results: dict) -> None:
    height, width = settings["frame"]
    print(
        f"{settings['size']}x{settings['size']} pairs per second from frames of {width}x{height}, batch "
        f"{settings['batch']}, {settings['threads']} workers on as many cores; median (least to most)"
    )
    for name, found in results.items():
        times = f", {show(found['times_png'], 1)} x {YARDSTICK}" if "times_png" in found else ""
        print(f"{name:14} {show(found['pairs_per_s'], 0)}{times}")


def make_frames(root: Path, count: int, height: int = 720, width: int = 1280) -> Path:
    """Write photographs at the size of GoPro's frames to `root`/train/{blur,sharp}, with camera noise, so that the PNG
    files are not much smaller and faster to read than GoPro's. The blur is a moving mean."""
    from PIL import Image
    from scipy import ndimage

    from src.data.sample_data import find_photographs

    rng = np.random.default_rng(0)
    photos = [Image.open(path).convert("RGB") for path in find_photographs("train").values()]
    for kind in ("blur", "sharp"):
        (root / "train" / kind).mkdir(parents=True)
    for i in range(count):
        photo = photos[i % len(photos)].resize((width + 120, height + 80), Image.Resampling.BICUBIC)
        top, left = int(rng.integers(80)), int(rng.integers(120))
        sharp = np.asarray(photo, np.float32)[top : top + height, left : left + width]
        for kind, image in (("blur", ndimage.uniform_filter1d(sharp, 9, axis=1)), ("sharp", sharp)):
            noisy = image + rng.standard_normal(image.shape, dtype=np.float32) * 0.7
            Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8)).save(root / "train" / kind / f"{i + 1}.png")
    return root


class Loader:
    """`rate` starts a new loader, so that none works while others are timed."""

    def __init__(self, root: Path, settings: dict):
        from src.config import Data
        from src.data.datasets import choose_pairs
        from src.data_load import TrainPairs

        self.settings = settings
        pairs = choose_pairs(root, "train")[0]
        for pair in pairs:
            self.shape = [image[::16].sum() and image.shape[:2] for image in pair.read()][
                0
            ]  # now it is cached in memory
        pairs = (pairs * -(-EPOCH // len(pairs)))[:EPOCH]
        self.source = TrainPairs(pairs, Data(crop_size=settings["size"]), 1, DROPOUT)

    def frame(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.shape

    def batches(self) -> Iterator:
        """An endless iterator."""
        raise NotImplementedError

    def rate(self, seconds: float) -> float:
        """Pairs per second, measured for `seconds`."""
        batches = self.batches()
        for _ in range(4 * self.settings["threads"]):  # while the workers start and fill their queues
            next(batches)
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            next(batches)
            count += 1
        batches.close()
        return count * self.settings["batch"] / elapsed


class MindSporeLoader(Loader):
    def batches(self) -> Iterator:
        from src.data_load import TrainBatches, train_dataset

        batches = TrainBatches(self.source, self.settings["batch"])
        dataset = train_dataset(batches, workers=self.settings["threads"])
        iterator = dataset.create_tuple_iterator(num_epochs=-1, do_copy=False)  # as in `Model.train`
        while True:
            yield from iterator


class TorchLoader(Loader):
    def batches(self) -> Iterator:
        import torch
        from torch.utils.data import DataLoader, Dataset

        source = self.source

        class Pairs(Dataset):
            def __len__(self) -> int:
                return len(source)

            def __getitem__(self, item: int):
                blur, sharp, mask = source[item]
                images = (torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in (blur, sharp))
                return *(image.float() / 255 for image in images), torch.from_numpy(mask)

        workers = {"num_workers": self.settings["threads"], "persistent_workers": True}
        workers["multiprocessing_context"] = "fork"
        loader = DataLoader(Pairs(), self.settings["batch"], shuffle=True, drop_last=True, **workers)
        while True:
            yield from loader


if __name__ == "__main__":
    run_main(main)
