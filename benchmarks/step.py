"""Time of a training step, as train.py builds it, compared with the same network and loss in PyTorch.

    python benchmarks/step.py --json benchmarks/results/step.json
    python benchmarks/step.py --batch 2 --size 128 --contestants mindspore,torch

Contestants run MIMO-UNet, those named lite_* MIMO-UNetLite. All contestants of a variant start from the same weights
and use the same batch; equal first losses show that they do the same work. A step is float32 throughout: forward, loss
with its Fourier term, backward, Adam. `mindspore` uses the native convolutions if they can be built, as train.py does;
`mindspore_framework` never does.
"""

import contextlib
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import (  # noqa: E402
    GB,
    LITE,
    Contestant,
    add_step_options,
    check_step_options,
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
from src.errors import run_main  # noqa: E402

# name -> --conv_kernels of train.py, or None for the twin
KERNELS = {
    "mindspore": "auto",
    "mindspore_framework": "framework",
    "mindspore_native_bf16": "native_bf16",
    "torch": None,
    "torch_channels_last": None,
}
CONTESTANTS = KERNELS | {LITE + name: kernels for name, kernels in KERNELS.items()}
YARDSTICK = "torch"


def main(argv: list[str] | None = None) -> None:
    args = parse_options(argv)
    shape = (args.batch, 3, args.size, args.size)
    with contextlib.ExitStack() as stack:
        contestants, results = [], {}
        weights = {}  # by variant
        for name in args.contestants:
            prefix, kind = split_name(name)
            kernels = KERNELS[kind]
            make, option = (MindSporeStep, kernels) if kernels else (TorchStep, kind == "torch_channels_last")
            is_lite = bool(prefix)
            made = Contestant(
                name, make, shape, args.device_target, args.num_res, option, is_lite, threads=args.threads
            )
            contestants.append(stack.enter_context(made))
            if kernels:
                weights[prefix] = made.ask("weights")
                results[name] = {"native_convolutions": made.ask("has_native_convolutions")}
            elif prefix in weights:
                made.ask("load", weights[prefix])
            results.setdefault(name, {})
            results[name]["first_loss"], results[name]["first_step_s"] = made.ask("first")
        take_turns(contestants, 1, "step")  # the second step still allocates memory
        times = take_turns(contestants, args.rounds, "step")
        for contestant in contestants:
            results[contestant.name] |= {
                "step_s": median_spread(times[contestant.name]),
                "peak_memory_gb": contestant.ask("peak_memory_gb"),
            }
    for name in results if YARDSTICK in times else ():
        results[name]["times_torch"] = ratio(times[name], times[YARDSTICK])
    settings = {"shape": shape, "threads": args.threads, "device_target": args.device_target}
    report(settings, results)
    if args.json:
        write_json(args.json, "step", settings | {"contestants": results})


def parse_options(argv: list[str] | None):
    parser = make_parser("Training step of this repository and of its twin in PyTorch, in turn.")
    add_step_options(parser, "crops a step", 256, "timed steps of each", 7)
    parser.add_argument(
        "--contestants",
        metavar="STR",
        help=f"some of {','.join(CONTESTANTS)} [on CPU mindspore,mindspore_framework,torch and lite_ of each]",
    )
    args = parse(parser, argv)
    default = {"CPU": ["mindspore", "mindspore_framework", YARDSTICK], "GPU": ["mindspore", YARDSTICK]}
    default = default.get(args.device_target, ["mindspore"])
    args.contestants = choose(args.contestants, CONTESTANTS, default + [LITE + name for name in default])
    check_step_options(args)
    return args


def report(settings: dict, results: dict) -> None:
    shape = "x".join(map(str, settings["shape"]))
    print(f"training step, {shape}, {settings['device_target']}, {settings['threads']} threads; median (least to most)")
    for name, found in results.items():
        ratio = f"{show(found['times_torch'])} x {YARDSTICK}, " if "times_torch" in found else ""
        print(
            f"{name:20} {show(found['step_s'], 3)} s, {ratio}first step {found['first_step_s']:.1f} s, "
            f"peak memory {found['peak_memory_gb']:.1f} GB, first loss {found['first_loss']:.6f}"
        )


def batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Noise as (blurred, sharp), uint8 as from the loaders; the values do not affect the time."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 256, shape, np.uint8)


class MindSporeStep:
    """The step of train.py with its defaults for the device, but always in float32."""

    def __init__(
        self,
        shape: tuple[int, ...],
        target: str,
        num_res: int,
        kernels: str,
        is_lite: bool = False,
        distributed: bool = False,
    ):
        from src import device
        from src.config import load_config

        runtime = device.setup(target, distributed=distributed)  # before the import of MindSpore, to hide its warnings
        from src.mimo_unet import MASK_CHANNELS
        from src.training import build_step

        options = {
            "device_target": target,
            "amp_level": "O0",
            "num_res": num_res,
            "train_batch_size": shape[0],
            "crop_size": shape[2],
            "conv_kernels": kernels,
            "model_name": "MIMO-UNetLite" if is_lite else "MIMO-UNet",
        }
        config = load_config("train", [f"--{name}={value}" for name, value in options.items()])
        self.target = target
        self.train_step = build_step(config, runtime, steps_per_epoch=525)
        self.inputs = *batch(shape), np.ones((shape[0], MASK_CHANNELS), np.float32)

    def weights(self) -> dict[str, np.ndarray]:
        return {p.name: p.asnumpy() for p in self.train_step.network.get_parameters()}

    def has_native_convolutions(self) -> bool:
        from src.native.conv import NativeConv

        return any(isinstance(cell, NativeConv) for _, cell in self.train_step.network.cells_and_names())

    def bytes_reduced(self) -> int:
        """Bytes that each rank of several exchanges per step: its gradients and three losses, float32."""
        return 4 * (sum(p.size for p in self.train_step.optimizer.parameters) + 3)

    def first(self) -> tuple[float, float]:
        """(loss, seconds) of the first step, which compiles the graph."""
        start = time.perf_counter()
        return self.run(), time.perf_counter() - start

    def step(self) -> float:
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def run(self) -> float:
        from mindspore import Tensor, runtime

        loss = float(self.train_step(*(Tensor(array) for array in self.inputs))[0].asnumpy())
        if self.target != "CPU":
            runtime.synchronize()
        return loss

    def peak_memory_gb(self) -> float:
        """Peak memory of the accelerator, or of the process on CPU."""
        from mindspore import runtime

        return peak_memory_gb() if self.target == "CPU" else runtime.max_memory_allocated() / GB


class TorchStep:
    """The PyTorch network with PyTorch's Adam."""

    def __init__(self, shape: tuple[int, ...], target: str, num_res: int, channels_last: bool, is_lite: bool = False):
        import torch

        from benchmarks.torch_twin import TorchMIMOUNet, torch_device

        self.torch, self.device = torch, torch_device(target)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = TorchMIMOUNet(num_res or (4 if is_lite else 8), shuffle=2 if is_lite else 1)
        self.network = network.to(self.device, memory_format=layout).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.inputs = batch(shape)
        self.layout = layout

    def load(self, weights: dict[str, np.ndarray]) -> None:
        self.network.load_state_dict({name: self.torch.from_numpy(array) for name, array in weights.items()})

    first = MindSporeStep.first
    step = MindSporeStep.step

    def run(self) -> float:
        from benchmarks.torch_twin import torch_loss

        blur, sharp = (
            self.torch.from_numpy(array).to(self.device, memory_format=self.layout).float() / 255
            for array in self.inputs
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch_loss(self.network(blur), sharp)[0]
        loss.backward()
        self.optimizer.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return loss.item()

    def peak_memory_gb(self) -> float:
        return self.torch.cuda.max_memory_allocated() / GB if self.device == "cuda" else peak_memory_gb()


if __name__ == "__main__":
    run_main(main)
