"""Writing MINDIR files, and AIR on Ascend, and reading the description in a MINDIR file.

This module needs MindSpore; `src.engine` runs the files.
"""

from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.train import mind_ir_pb2

from src.files import whole_file
from src.formats.exported import Description, check_seal, damaged, sealed
from src.formats.weights import need_finite
from src.mimo_unet import MIMOUNet

DTYPES = {mind_ir_pb2.TensorProto.FLOAT: np.float32, mind_ir_pb2.TensorProto.FLOAT16: np.float16}


class FullResolution(nn.Cell):
    """A network's full-resolution output, (N, 3, H, W), float32: only training needs the coarse ones.

    With `all_scales`, they follow: (N, 3, H/2, W/2) and (N, 3, H/4, W/4).
    """

    def __init__(self, network: nn.Cell, all_scales: bool = False):
        super().__init__(auto_prefix=False)
        self.network = network
        self.all_scales = all_scales

    def construct(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        quarter, half, full = self.network(images)
        if self.all_scales:
            return full.astype(ms.float32), half.astype(ms.float32), quarter.astype(ms.float32)
        return full.astype(ms.float32)


def any_size() -> Tensor:
    """A batch of any number of images of any size, for `set_inputs` and `ms.export`."""
    return Tensor(shape=[None, 3, None, None], dtype=ms.float32)


def to_float16(network: MIMOUNet) -> MIMOUNet:
    """The network in float16, weights and computation, in place; it casts its input."""
    network.to_float(ms.float16)
    for param in network.get_parameters():
        param.set_dtype(ms.float16)
    return network


def export_mindir(
    network: nn.Cell,
    target: Path,
    batch_size: int = 0,
    size: tuple[int, int] | None = None,
    all_scales: bool = False,
    metadata: Mapping[str, str] | None = None,
    file_format: str = "MINDIR",
) -> Path:
    """Write `target`.mindir with a checksum, as `whole_file`, and return its path.

    Args:
        batch_size: images per call; 0 leaves it free.
        size: (H, W); None leaves them free.
        all_scales: see `FullResolution`.
        metadata: texts to store in the file.
        file_format: AIR, which needs an Ascend device and fixed shapes, writes `target`.air and stores no texts.

    Raises:
        UserError: as `whole_file`.
    """

    def describe(proto):
        proto.user_info.update(metadata or {})

    images = Tensor(shape=[batch_size or None, 3, *(size or (None, None))], dtype=ms.float32)
    if size and batch_size:
        images = ms.ops.zeros((batch_size, 3, *size), ms.float32)
    cell = FullResolution(network, all_scales).set_train(False)
    options = {"custom_func": describe} if file_format == "MINDIR" else {}
    path = target.with_name(f"{target.name}.{file_format.lower()}")
    with whole_file(path, sum(p.nbytes for p in network.get_parameters())) as part:
        ms.export(cell, images, file_name=str(part), file_format=file_format, **options)
        if file_format == "MINDIR":
            part.chmod(0o600)  # MindSpore makes it read-only
            part.write_bytes(sealed(part.read_bytes()))
    return path


def describe_mindir(path: Path) -> Description:
    """The description in a file.

    Raises:
        UserError: it is damaged or not a MINDIR file, or its weights are not finite.
    """
    proto, content = mind_ir_pb2.ModelProto(), path.read_bytes()
    try:
        proto.ParseFromString(content)
        weights = {
            p.name.split(":")[-1]: np.frombuffer(p.raw_data, DTYPES[p.data_type])
            for p in proto.graph.parameter
            if p.data_type in DTYPES
        }
    except Exception as e:  # protobuf's error class depends on its implementation
        raise damaged(path, len(content), "MINDIR") from e
    metadata = dict(proto.user_info)
    check_seal(path, content, metadata)
    need_finite(weights, path)
    inputs = proto.graph.input
    return Description(metadata, [list(i.tensor[0].dims) if i.tensor else [] for i in inputs], [i.name for i in inputs])
