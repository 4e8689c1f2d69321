"""The network as an ONNX graph, built from the weights alone after `src.mimo_unet`, and the description in a file.

MindSpore 2.10's own ONNX export is fixed in shape, of opset 11, and writes a ConvTranspose that ONNX Runtime refuses.
Here, batch, height and width may be free, and each weight keeps its name in the published checkpoints.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from src.errors import UserError, first_few
from src.formats.exported import Description, check_seal, damaged
from src.formats.weights import need_finite

OPSET = 17  # old enough for the converters of accelerators, Ascend's among them
INPUT = "images"
OUTPUTS = ("restored", "restored_half", "restored_quarter")  # one, or all three


class Graph:
    """Nodes and weights in the order of their addition; values are referred to by name."""

    def __init__(self, arrays: Mapping[str, np.ndarray], float16: bool):
        self.arrays = arrays
        self.dtype = np.float16 if float16 else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.constant("double", np.array([1, 1, 2, 2], np.float32))
        # The number of channels that the first layer reads gives the factor of the pixel-unshuffle.
        self.shuffle = math.isqrt(arrays["feat_extract.0.main.0.weight"].shape[1] // 3)
        if self.shuffle > 1:
            channels = 3 * self.shuffle**2
            one_hot = np.eye(channels, dtype=self.dtype).reshape(channels, 3, self.shuffle, self.shuffle)
            self.constant("unshuffle", one_hot)

    def constant(self, name: str, array: np.ndarray) -> None:
        self.initializers.append(numpy_helper.from_array(array, name))

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str) -> str:
        self.constant(name, self.arrays[name].astype(self.dtype))
        return name

    def conv(self, name: str, x: str, stride: int = 1, relu: bool = True, transpose: bool = False) -> str:
        """`src.layers.BasicConv`: `name` is the layer's, the kernel's size the weight's."""
        kernel = self.arrays[f"{name}.main.0.weight"].shape[2]
        weights = [self.weight(f"{name}.main.0.{part}") for part in ("weight", "bias")]
        pad = 1 if transpose else kernel // 2
        shape: dict[str, Any] = {"strides": [stride] * 2, "pads": [pad] * 4, "kernel_shape": [kernel] * 2}
        y = self.op("ConvTranspose" if transpose else "Conv", x, *weights, **shape)
        return self.op("Relu", y) if relu else y

    def res_blocks(self, name: str, x: str, num_res: int) -> str:
        for i in range(num_res):
            block = f"{name}.layers.{i}.main"
            x = self.op("Add", self.conv(f"{block}.1", self.conv(f"{block}.0", x), relu=False), x)
        return x

    def scm(self, name: str, x: str) -> str:
        y = x
        for i in range(4):
            y = self.conv(f"{name}.main.{i}", y)
        return self.conv(f"{name}.conv", self.cat(x, y), relu=False)

    def fam(self, name: str, x: str, image_features: str) -> str:
        return self.op("Add", x, self.conv(f"{name}.merge", self.op("Mul", x, image_features), relu=False))

    def aff(self, name: str, *features: str) -> str:
        return self.conv(f"{name}.conv.1", self.conv(f"{name}.conv.0", self.cat(*features)), relu=False)

    def cat(self, *inputs: str) -> str:
        return self.op("Concat", *inputs, axis=1)

    def down(self, x: str) -> str:
        """Nearest x0.5, pixel [2i, 2j]: the maximum of one number is that number."""
        return self.op("MaxPool", x, kernel_shape=[1, 1], strides=[2, 2])

    def up(self, x: str) -> str:
        """Nearest x2: every pixel becomes a 2x2 block."""
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", x, "", "double", **modes)

    def unshuffled(self, image: str) -> str:
        """`src.mimo_unet.pixel_unshuffle` as a convolution with ones and zeros, which is exact: ONNX's SpaceToDepth
        orders channels differently, and reshaping free shapes takes more nodes."""
        if self.shuffle == 1:
            return image
        sides = [self.shuffle] * 2
        return self.op("Conv", image, "unshuffle", strides=sides, kernel_shape=sides)

    def shuffled(self, residual: str) -> str:
        if self.shuffle == 1:
            return residual
        return self.op("DepthToSpace", residual, blocksize=self.shuffle, mode="CRD")  # CRD is PyTorch's order


def build_onnx(
    arrays: Mapping[str, np.ndarray],
    num_res: int,
    size: tuple[int, int] | None = None,
    batch: int = 0,
    all_scales: bool = False,
    float16: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The network with these weights. Input: `images`, (N, 3, H, W) float32; H and W are multiples of the variant's
    `multiple`.

    Args:
        arrays: weights by name; others are ignored.
        num_res: residual blocks in each stage.
        size: fixes (H, W); None leaves them free.
        batch: fixes N; 0 leaves it free.
        all_scales: `restored` (N, 3, H, W) is followed by `restored_half` and `restored_quarter`.
        float16: weights and computation in float16, except the last addition; input and outputs stay float32.
        metadata: texts to store with the model.
    """
    g = Graph(arrays, float16)
    half = g.down(INPUT)
    images = (INPUT, half, g.down(half))
    x, x2, x4 = (g.op("Cast", i, to=TensorProto.FLOAT16) for i in images) if float16 else images
    x, x2, x4 = g.unshuffled(x), g.unshuffled(x2), g.unshuffled(x4)

    res1 = g.res_blocks("Encoder.0", g.conv("feat_extract.0", x), num_res)
    res2 = g.fam("FAM2", g.conv("feat_extract.1", res1, stride=2), g.scm("SCM2", x2))
    res2 = g.res_blocks("Encoder.1", res2, num_res)
    z = g.fam("FAM1", g.conv("feat_extract.2", res2, stride=2), g.scm("SCM1", x4))
    z = g.res_blocks("Encoder.2", z, num_res)

    z_up = g.up(z)
    fused2 = g.aff("AFFs.1", g.down(res1), res2, z_up)
    fused1 = g.aff("AFFs.0", res1, g.up(res2), g.up(z_up))

    z = g.res_blocks("Decoder.0", z, num_res)
    residuals = [g.conv("ConvsOut.0", z, relu=False)] if all_scales else []
    z = g.conv("Convs.0", g.cat(g.conv("feat_extract.3", z, stride=2, transpose=True), fused2))
    z = g.res_blocks("Decoder.1", z, num_res)
    residuals += [g.conv("ConvsOut.1", z, relu=False)] if all_scales else []
    z = g.conv("Convs.1", g.cat(g.conv("feat_extract.4", z, stride=2, transpose=True), fused1))
    z = g.res_blocks("Decoder.2", z, num_res)
    residuals.append(g.conv("feat_extract.5", z, relu=False))

    outputs = []
    for i, (residual, image) in enumerate(zip(reversed(residuals), images, strict=False)):
        residual = g.shuffled(residual)
        residual = g.op("Cast", residual, to=TensorProto.FLOAT) if float16 else residual
        g.op("Add", residual, image, output=OUTPUTS[i])
        outputs.append(_tensor(OUTPUTS[i], batch, size, i))
    graph = helper.make_graph(g.nodes, "MIMO-UNet", [_tensor(INPUT, batch, size, 0)], outputs, g.initializers)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]))
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _tensor(name: str, batch: int, size: tuple[int, int] | None, halvings: int) -> onnx.ValueInfoProto:
    """(N, 3, H, W) divided by 2 ** `halvings`; free sides get names."""
    divisor = 2**halvings
    sides = [s // divisor for s in size] if size else [f"{s}/{divisor}" if halvings else s for s in "HW"]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch or "N", 3, *sides])


def describe_onnx(path: Path) -> Description:
    """The description in a file.

    Raises:
        UserError: it is damaged or not an ONNX file, or its weights are not finite or stored in other files.
    """
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
        initializers, inputs = model.graph.initializer, model.graph.input
        weights = {i.name: numpy_helper.to_array(i) for i in initializers if not i.external_data}
    except Exception as e:  # protobuf's error class depends on its implementation
        raise damaged(path, len(content), "ONNX") from e
    metadata = {p.key: p.value for p in model.metadata_props}
    check_seal(path, content, metadata)
    if elsewhere := [i.name for i in initializers if i.external_data]:
        raise UserError(
            f"{path}: the weights {first_few(elsewhere, 2)} are in another file, which no checksum covers; expected "
            "all in one file, as export.py writes it. Export it again."
        )
    need_finite(weights, path)
    shapes = [[d.dim_value or -1 for d in i.type.tensor_type.shape.dim] for i in inputs]
    return Description(metadata, shapes, [i.name for i in inputs])
