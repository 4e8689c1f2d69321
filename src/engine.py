"""Networks behind one call: (N, 3, H, W) float32 numpy -> restored (N, 3, H, W) float32 numpy."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn


class MindSporeEngine:
    """Full-resolution output of a MindSpore network.

    Compiled once for every size: the graph takes dynamic batch, height and width, so images of many sizes do not
    compile one graph each.
    """

    def __init__(self, network: nn.Cell):
        self.cell = FullResolution(network).set_train(False)
        self.cell.set_inputs(Tensor(shape=[None, 3, None, None], dtype=ms.float32))
        self(np.zeros((1, 3, 8, 8), np.float32))  # compile now, so that the first image's time is its own

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.cell(Tensor(images)).asnumpy()


class FullResolution(nn.Cell):
    """A network's last output, (N, 3, H, W), float32: training needs the coarse ones, nobody else does."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images: Tensor) -> Tensor:
        return self.network(images)[2].astype(ms.float32)


class MindirEngine:
    """An exported `.mindir`, run by MindSpore without the network's source."""

    def __init__(self, path: Path | str):
        self.cell = nn.GraphCell(ms.load(str(path)))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.cell(Tensor(images)).asnumpy()


def export_mindir(network: nn.Cell, target: Path, batch_size: int = 0) -> Path:
    """Write `target`.mindir, dynamic in height and width and, unless `batch_size` fixes it, in batch; return its
    path."""
    cell = FullResolution(network).set_train(False)
    ms.export(
        cell,
        Tensor(shape=[batch_size or None, 3, None, None], dtype=ms.float32),
        file_name=str(target),
        file_format="MINDIR",
    )
    return target.with_name(target.name + ".mindir")
