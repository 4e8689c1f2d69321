"""The same network and loss in PyTorch: eager, contiguous, float32.

Serves as the yardstick of `benchmarks/` and as an independent check of `convert.py`. Parameter names equal
`src.mimo_unet`'s.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import UserError


def conv(
    in_ch: int, out_ch: int, kernel: int, stride: int = 1, relu: bool = True, transpose: bool = False
) -> nn.Module:
    layer = (
        nn.ConvTranspose2d(in_ch, out_ch, 4, 2, 1)
        if transpose
        else nn.Conv2d(in_ch, out_ch, kernel, stride, kernel // 2)
    )
    return Main(layer, nn.ReLU()) if relu else Main(layer)


class Main(nn.Module):
    """A sequence in the attribute `main`, as in the published checkpoints."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class ResBlock(Main):
    def __init__(self, ch: int):
        super().__init__(conv(ch, ch, 3), conv(ch, ch, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + x


class ResBlocks(nn.Module):
    def __init__(self, ch: int, num_res: int):
        super().__init__()
        self.layers = nn.Sequential(*(ResBlock(ch) for _ in range(num_res)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SCM(Main):
    def __init__(self, ch: int, image_ch: int = 3):
        super().__init__(
            conv(image_ch, ch // 4, 3),
            conv(ch // 4, ch // 2, 1),
            conv(ch // 2, ch // 2, 3),
            conv(ch // 2, ch - image_ch, 1),
        )
        self.conv = conv(ch, ch, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat((x, self.main(x)), 1))


class FAM(nn.Module):
    def __init__(self, ch: int):
        super().__init__()
        self.merge = conv(ch, ch, 3, relu=False)

    def forward(self, x: Tensor, image_features: Tensor) -> Tensor:
        return x + self.merge(x * image_features)


class AFF(nn.Module):
    def __init__(self, in_ch: int, ch: int):
        super().__init__()
        self.conv = nn.Sequential(conv(in_ch, ch, 1), conv(ch, ch, 3, relu=False))

    def forward(self, *features: Tensor) -> Tensor:
        return self.conv(torch.cat(features, 1))


class TorchMIMOUNet(nn.Module):
    """(N, 3, H, W) -> three images, coarse to fine; `dropout` drops channels of the fused maps in training mode.

    MIMO-UNetLite is `num_res=4, shuffle=2`.
    """

    def __init__(self, num_res: int = 8, dropout: float = 0.0, shuffle: int = 1):
        super().__init__()
        image_ch = 3 * shuffle**2
        # A factor of 1 changes nothing, but PyTorch would copy the image.
        self.unshuffled = nn.PixelUnshuffle(shuffle) if shuffle > 1 else nn.Identity()
        self.shuffled = nn.PixelShuffle(shuffle) if shuffle > 1 else nn.Identity()
        self.Encoder = nn.ModuleList(ResBlocks(ch, num_res) for ch in (32, 64, 128))
        self.feat_extract = nn.ModuleList(
            [
                conv(image_ch, 32, 3),
                conv(32, 64, 3, stride=2),
                conv(64, 128, 3, stride=2),
                conv(128, 64, 4, transpose=True),
                conv(64, 32, 4, transpose=True),
                conv(32, image_ch, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList(ResBlocks(ch, num_res) for ch in (128, 64, 32))
        self.Convs = nn.ModuleList([conv(128, 64, 1), conv(64, 32, 1)])
        self.ConvsOut = nn.ModuleList(conv(ch, image_ch, 3, relu=False) for ch in (128, 64))
        self.AFFs = nn.ModuleList([AFF(224, 32), AFF(224, 64)])
        self.FAM1 = FAM(128)
        self.SCM1 = SCM(128, image_ch)
        self.FAM2 = FAM(64)
        self.SCM2 = SCM(64, image_ch)
        self.drop = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x2 = F.interpolate(x, scale_factor=0.5)
        x4 = F.interpolate(x2, scale_factor=0.5)
        res1 = self.Encoder[0](self.feat_extract[0](self.unshuffled(x)))
        res2 = self.Encoder[1](self.FAM2(self.feat_extract[1](res1), self.SCM2(self.unshuffled(x2))))
        z = self.Encoder[2](self.FAM1(self.feat_extract[2](res2), self.SCM1(self.unshuffled(x4))))
        z_up = F.interpolate(z, scale_factor=2)
        fused2 = self.drop(self.AFFs[1](F.interpolate(res1, scale_factor=0.5), res2, z_up))
        fused1 = self.drop(self.AFFs[0](res1, F.interpolate(res2, scale_factor=2), F.interpolate(z_up, scale_factor=2)))
        z = self.Decoder[0](z)
        out4 = self.shuffled(self.ConvsOut[0](z)) + x4
        z = self.Decoder[1](self.Convs[0](torch.cat((self.feat_extract[3](z), fused2), 1)))
        out2 = self.shuffled(self.ConvsOut[1](z)) + x2
        z = self.Decoder[2](self.Convs[1](torch.cat((self.feat_extract[4](z), fused1), 1)))
        return out4, out2, self.shuffled(self.feat_extract[5](z)) + x


def twin_of(weights: Mapping[str, np.ndarray]) -> TorchMIMOUNet:
    """The network of the variant and depth of these weights, with copies of them."""
    blocks = sum(name.startswith("Encoder.0.layers.") for name in weights) // 4
    shuffle = math.isqrt(weights["feat_extract.0.main.0.weight"].shape[1] // 3)
    network = TorchMIMOUNet(blocks, shuffle=shuffle)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return network


def torch_device(target: str) -> str:
    """PyTorch's name of this repository's device, 'cpu' or 'cuda'.

    Raises:
        UserError: PyTorch cannot use it.
    """
    if target == "CPU":
        return "cpu"
    if target == "GPU" and torch.cuda.is_available():
        return "cuda"
    raise UserError(f"--device_target {target}: PyTorch {torch.__version__} has no such device. Leave the twin out.")


def torch_loss(predictions: tuple[Tensor, Tensor, Tensor], sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(total, content, fft) as `src.loss.MultiScaleLoss` defines them."""
    half = F.interpolate(sharp, scale_factor=0.5, mode="bilinear")
    quarter = F.interpolate(sharp, scale_factor=0.25, mode="bilinear")
    content, fft = sharp.new_zeros(()), sharp.new_zeros(())
    for prediction, label in zip(predictions, (quarter, half, sharp), strict=True):
        content = content + F.l1_loss(prediction, label)
        fft = fft + torch.view_as_real(torch.fft.fft2(prediction - label)).abs().mean()
    return content + 0.1 * fft, content, fft
