"""Where the time of a training step goes: its parts, each compiled separately and timed in turn.

    python benchmarks/step_parts.py                                    # native convolutions if they can be built
    python benchmarks/step_parts.py --conv_kernels framework --size 128

On CPU the benchmark reports the processor time of one core, which other programs affect less than wall-clock time. The
parts overlap (the backward pass includes the forward pass, the loss its labels), so they do not add up to the whole.
With the framework's convolutions each compiled part keeps its own scratchpads, and 256x256 does not fit into 24 GB.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import (  # noqa: E402
    Contestant,
    add_step_options,
    check_step_options,
    make_parser,
    median_spread,
    parse,
    show,
    write_json,
)
from src.errors import run_main  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("The parts of a training step of this repository, timed in turn.")
    add_step_options(parser, "crops per step", 256, "timings of each part", 5)
    parser.add_argument("--conv_kernels", default="auto", metavar="STR", help="as in train.py [auto]")
    parser.set_defaults(threads=1)
    args = parse(parser, argv)
    check_step_options(args)
    shape = (args.batch, 3, args.size, args.size)
    network = args.device_target, args.num_res, args.conv_kernels
    with Contestant("step", Parts, shape, *network, threads=args.threads) as parts:
        names = parts.ask("names")
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(args.rounds + 2):  # two to warm up
            for name in names:
                seconds = parts.ask("seconds", name)
                if turn >= 2:
                    times[name].append(seconds)
    found = {name: median_spread(seconds) for name, seconds in times.items()}
    print(f"parts of a training step, {'x'.join(map(str, shape))}, {args.device_target}, {args.threads} thread(s)")
    for name, spread in found.items():
        print(f"{name:34} {show(spread, 4)} s, {spread['median'] / found['step']['median']:6.1%} of the step")
    if args.json:
        write_json(args.json, "step_parts", {"shape": shape, "threads": args.threads, "parts": found})


class Parts:
    """Runs single parts of the step."""

    def __init__(self, shape: tuple[int, ...], target: str, num_res: int, kernels: str):
        from benchmarks.step import MindSporeStep

        self.whole = MindSporeStep(shape, target, num_res, kernels)
        self.parts = {"step": self.whole.run, **make_parts(self.whole)}

    def names(self) -> list[str]:
        return list(self.parts)

    def seconds(self, name: str) -> float:
        clock = time.process_time if self.whole.target == "CPU" else time.perf_counter
        start = clock()
        self.parts[name]()
        return clock() - start


def make_parts(whole) -> dict[str, Callable[[], None]]:
    """Name -> function that runs a part and waits for its result."""
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    from src.loss import MultiScaleLoss, label_pyramid
    from src.train_step import to_unit

    step, network = whole.train_step, whole.train_step.network

    class Compiled(nn.Cell):
        def __init__(self, function: Callable):
            super().__init__(auto_prefix=False)
            self.function = function

        def construct(self, *inputs):
            return self.function(*inputs)

    def sum_of_outputs(x):
        a, b, c = network(x, None)
        return ops.sum(a) + ops.sum(b) + ops.sum(c)

    def content_only(a, b, c, sharp):
        quarter, half, full = label_pyramid(sharp)
        return ops.abs(a - quarter).mean() + ops.abs(b - half).mean() + ops.abs(c - full).mean()

    def whole_loss(a, b, c, sharp):
        return loss((a, b, c), sharp)[0]

    def fourier_only(a, b, c):
        return loss.fourier_l1(a) + loss.fourier_l1(b) + loss.fourier_l1(c)

    def both_to_unit(one, other):
        return to_unit(one), to_unit(other)

    def norm(gradients):
        return ops.sqrt(ops.addn([ops.sum(ops.square(g)) for g in gradients]))

    def scaled(gradients):
        return [g * 0.5 for g in gradients]

    loss = MultiScaleLoss()
    n, _, h, w = whole.inputs[0].shape
    raw = [Tensor(image) for image in whole.inputs[:2]]
    blur, sharp = (Tensor(image.astype(np.float32) / 255) for image in whole.inputs[:2])
    predictions = [ops.zeros((n, 3, h // k, w // k), ms.float32) for k in (4, 2, 1)]
    gradients = tuple(ops.zeros(p.shape, ms.float32) for p in step.optimizer.parameters)
    rate, count = Tensor(0.0, ms.float32), Tensor(1.0, ms.float32)
    calls = {
        "network forward": (sum_of_outputs, blur),
        "network forward and backward": (ms.grad(sum_of_outputs, None, step.optimizer.parameters), blur),
        "loss and its gradient": (ms.grad(whole_loss, (0, 1, 2)), *predictions, sharp),
        "the same without the Fourier term": (ms.grad(content_only, (0, 1, 2)), *predictions, sharp),
        "Fourier term and its gradient": (ms.grad(fourier_only, (0, 1, 2)), *predictions),
        "labels at three sizes": (label_pyramid, sharp),
        "uint8 to float32": (both_to_unit, *raw),
        "gradients divided by the scale": (scaled, gradients),
        "global norm of the gradients": (norm, gradients),
        "Adam": (step.optimizer, gradients, rate, count),
    }
    return {name: run_of(Compiled(function), inputs) for name, (function, *inputs) in calls.items()}


def run_of(cell, inputs) -> Callable[[], None]:
    def run() -> None:
        output = cell(*inputs)
        while isinstance(output, tuple | list):
            output = output[-1]
        if hasattr(output, "asnumpy"):
            output.asnumpy()

    return run


if __name__ == "__main__":
    run_main(main)
