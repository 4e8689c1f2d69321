"""Inference time: every engine of this repository compared with the same network in PyTorch.

Contestants run MIMO-UNet, those named lite_* MIMO-UNetLite. The reference is MIMO-UNet in PyTorch.

    python benchmarks/inference.py --json benchmarks/results/inference.json
    python benchmarks/inference.py --sizes 256x256 --contestants onnx_fp32,torch --threads 1

All have the same random weights and get the same image. The benchmark prints each one's largest difference from
PyTorch's output, so that a fast but wrong result is noticed.
"""

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import (  # noqa: E402
    LITE,
    Contestant,
    choose,
    make_parser,
    median_spread,
    parse,
    peak_memory_gb,
    ratio,
    show,
    split_name,
    take_turns,
    write_json,
)
from src.engine import has_bf16  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402

# name -> (suffix of the file, precision) of an engine, or None for the twin
ENGINES = {
    "mindspore": (".ckpt", "auto"),
    "mindir": (".mindir", "auto"),
    "onnx_fp32": (".onnx", "fp32"),
    "onnx_bf16": (".onnx", "bf16"),
    "torch": None,
    "torch_channels_last": None,
}
VARIANTS = {"": "MIMO-UNet", LITE: "MIMO-UNetLite"}
CONTESTANTS = [prefix + name for prefix in VARIANTS for name in ENGINES]
YARDSTICK = "torch"
CHECKED = (1, 3, 64, 96)  # the size at which outputs are compared


def main(argv: list[str] | None = None) -> None:
    args = parse_options(argv)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = {}
        for prefix in {split_name(name)[0] for name in args.contestants}:
            variant = VARIANTS[prefix]
            with Contestant("export", Files, folder, variant, args.num_res, threads=args.threads) as files:
                weights[variant] = files.ask("weights")
        contestants = []
        for name in args.contestants:
            prefix, engine = split_name(name)
            variant, options = VARIANTS[prefix], ENGINES[engine]
            if options is None:
                made_from = TorchRun, engine == "torch_channels_last", weights[variant]
            else:
                made_from = EngineRun, folder / f"{variant}{options[0]}", options[1], args.threads
            make, *words = made_from
            made = Contestant(name, make, args.device_target, *words, threads=args.threads)
            contestants.append(stack.enter_context(made))
        results = [measure(contestants, size, args.rounds) for size in args.sizes]
        answers = {c.name: c.ask("answer", CHECKED) for c in contestants}
        notes = {c.name: {"peak_memory_gb": c.ask("peak_memory_gb")} for c in contestants}
        for name, note in notes.items():
            if (twin := split_name(name)[0] + YARDSTICK) in answers:
                note["difference"] = difference(answers[name], answers[twin])
    settings = {"threads": args.threads, "device_target": args.device_target}
    report(settings, results, notes)
    if args.json:
        write_json(args.json, "inference", settings | {"sizes": results, "contestants": notes})


def parse_options(argv: list[str] | None):
    parser = make_parser("Engines of this repository and the twin in PyTorch on one image, in turn.")
    parser.add_argument("--sizes", default="256x256,720x1280", metavar="STR", help="HxW,... [256x256,720x1280]")
    parser.add_argument("--num_res", type=int, default=0, metavar="INT", help="residual blocks per stage [8, Lite 4]")
    parser.add_argument("--rounds", type=int, low=1, default=2, metavar="INT", help="timed turns of each [2]")
    parser.add_argument(
        "--contestants", metavar="STR", help=f"some of {','.join(CONTESTANTS)} [all that this machine can run]"
    )
    args = parse(parser, argv)
    possible = [name for name in CONTESTANTS if can_run(name, args.device_target)]
    args.contestants = choose(args.contestants, CONTESTANTS, possible)
    try:
        args.sizes = [tuple(int(side) for side in size.lower().split("x")) for size in args.sizes.split(",")]
    except ValueError:
        args.sizes = []
    if not args.sizes or any(len(size) != 2 or min(size) < 8 or any(s % 8 for s in size) for size in args.sizes):
        raise UserError("--sizes: expected HEIGHTxWIDTH,..., multiples of 8, e.g. 256x256,720x1280")
    return args


def can_run(name: str, target: str) -> bool:
    """Whether it is measured by default. .onnx files run on the CPU only."""
    engine = split_name(name)[1]
    if engine.startswith("onnx"):
        return target == "CPU" and (engine != "onnx_bf16" or has_bf16())
    return target != "Ascend" or not engine.startswith("torch")


def measure(contestants: Sequence[Contestant], size: tuple[int, int], rounds: int) -> dict:
    """Seconds of each at one size, after an untimed call that sets up kernels and memory."""
    take_turns(contestants, 1, "seconds", (1, 3, *size))
    times = take_turns(contestants, rounds, "seconds", (1, 3, *size))
    found = {name: {"seconds": median_spread(values)} for name, values in times.items()}
    for name in found if YARDSTICK in times else ():
        found[name]["speed_of_torch"] = ratio(times[YARDSTICK], times[name])
    return {"size": size, "seconds": found}


def difference(answer: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    return {
        "largest": float(np.abs(answer - expected).max()),
        "rms": float(np.sqrt(np.square(answer - expected, dtype=np.float64).mean())),
    }


def report(settings: dict, results: list[dict], notes: dict) -> None:
    print(f"one image, {settings['device_target']}, {settings['threads']} threads; median (least to most)")
    for result in results:
        print("{}x{}".format(*result["size"]))
        for name, found in result["seconds"].items():
            speed = f", {show(found['speed_of_torch'])} times the speed of {YARDSTICK}" * ("speed_of_torch" in found)
            print(f"  {name:20} {show(found['seconds'], 3)} s{speed}")
    for name, note in notes.items():
        apart = ""
        if "difference" in note:
            apart = ", largest difference from PyTorch {largest:.1e}, rms {rms:.1e}".format(**note["difference"])
        print(f"{name:20} peak memory {note['peak_memory_gb']:.1f} GB{apart}")


@functools.cache
def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


class Files:
    """Writes a variant with random weights as .ckpt, .mindir and .onnx."""

    def __init__(self, folder: Path, name: str, num_res: int):
        from src import device

        device.setup("CPU")
        import onnx

        from src.checkpoint import parameter_arrays, save_checkpoint
        from src.formats.mindir import export_mindir
        from src.formats.onnx_graph import build_onnx
        from src.init_weights import init_weights
        from src.mimo_unet import build_net

        network = build_net(name, num_res)
        metadata = {"variant": name, "multiple": str(network.variant.multiple)}
        init_weights(network, 1)
        self.arrays = parameter_arrays(network)
        save_checkpoint(folder / f"{name}.ckpt", self.arrays, metadata)
        export_mindir(network, folder / name, metadata=metadata)
        onnx.save(build_onnx(self.arrays, network.variant.num_res, metadata=metadata), folder / f"{name}.onnx")

    def weights(self) -> dict[str, np.ndarray]:
        return self.arrays


class Run:
    """A running network; subclasses implement `answer`."""

    def answer(self, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Seconds per image; small images are repeated for one second."""
        noise(shape)
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < 1:
            self.answer(shape)
            count += 1
        return (time.perf_counter() - start) / count

    def peak_memory_gb(self) -> float:
        """Peak memory of the process, without that of an accelerator."""
        return peak_memory_gb()


class EngineRun(Run):
    def __init__(self, target: str, path: Path, precision: str, threads: int):
        from src import device
        from src.engine import choose_engine, load_engine

        choice = choose_engine(path, "openvino" if path.suffix == ".onnx" else "mindspore", target)
        if not choice.with_openvino:
            device.setup(target)
        self.engine = load_engine(path, choice=choice, precision=precision, threads=threads)

    def answer(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.engine(noise(shape))


class TorchRun(Run):
    def __init__(self, target: str, channels_last: bool, weights: dict[str, np.ndarray]):
        import torch

        from benchmarks.torch_twin import torch_device, twin_of

        self.torch, self.device = torch, torch_device(target)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = twin_of(weights).eval()
        self.network.to(self.device, memory_format=self.layout)

    def answer(self, shape: tuple[int, ...]) -> np.ndarray:
        with self.torch.inference_mode():
            images = self.torch.from_numpy(noise(shape)).to(self.device, memory_format=self.layout)
            return self.network(images)[2].contiguous().cpu().numpy()  # the copy waits for the device


if __name__ == "__main__":
    run_main(main)
