"""Parameters, multiply-accumulates and activation memory of a network, measured on the network.

python scripts/complexity.py      # all variants
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindspore import Tensor, nn, ops

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, Python sees scripts/ only

from src import device  # noqa: E402
from src.command_line import ArgumentParser  # noqa: E402
from src.errors import run_main  # noqa: E402
from src.mimo_unet import MIMOUNet, build_net  # noqa: E402
from src.streams import need_reader  # noqa: E402
from src.variants import MODELS  # noqa: E402

SIZES = ((256, 256), (720, 1280))  # (H, W): the training crop, a GOPRO frame
PROBE = (8, 8)


@dataclass(frozen=True)
class Complexity:
    """The cost of processing one image."""

    parameters: int
    macs: int
    """Multiply-accumulates of all convolutions, as usual without biases, ReLU and sums, which are under 1 %."""
    activation_bytes: int
    """Outputs of all convolutions in float32: the minimum that a training step keeps for its backward pass."""


def complexity(network: MIMOUNet, height: int, width: int, probe: tuple[int, int] = PROBE) -> Complexity:
    """Count on an image of `probe` and scale to (height, width), all multiples of the variant's size factor.

    Scaling is exact: every layer is a convolution at a fixed fraction of the input's resolution.
    """
    shapes: list[tuple[tuple[int, ...], bool, tuple[int, ...], tuple[int, ...]]] = []

    def note(cell: nn.Cell, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append((cell.weight.shape, isinstance(cell, nn.Conv2dTranspose), inputs[0].shape, output.shape))

    kinds = (nn.Conv2d, nn.Conv2dTranspose)
    hooks = [c.register_forward_hook(note) for _, c in network.cells_and_names() if isinstance(c, kinds)]
    with device.operator_by_operator():  # a compiled network does not call hooks
        network(ops.zeros((1, 3, *probe)))
    for hook in hooks:
        hook.remove()
    macs = values = 0
    for weight, transposed, before, after in shapes:
        # Each weight is used once per position of the output, or of the input in a transposed convolution.
        macs += math.prod(weight) * math.prod((before if transposed else after)[2:])
        values += math.prod(after)

    def scaled(count: int) -> int:
        return count * height * width // math.prod(probe)

    return Complexity(sum(p.size for p in network.get_parameters()), scaled(macs), scaled(4 * values))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of all variants. The only option is --help."""
    ArgumentParser("Parameters, multiply-accumulates and activation memory of all variants.").parse_args(argv)
    need_reader()
    device.setup("CPU")
    print(f"{'variant':15}{'input':>10}{'parameters':>14}{'GMACs':>10}{'activations, GB':>18}")
    for name in MODELS:
        for height, width in SIZES:
            found = complexity(build_net(name), height, width)
            size, gigabytes = f"{height}x{width}", found.activation_bytes / 2**30
            print(f"{name:15}{size:>10}{found.parameters:>14,}{found.macs / 1e9:>10.1f}{gigabytes:>18.2f}")


if __name__ == "__main__":
    run_main(main)
