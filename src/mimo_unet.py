"""MIMO-UNet: multi-input multi-output U-Net for single-image deblurring.

"Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021, https://arxiv.org/abs/2108.05054, figure 2.
Module names, and with them the parameter names, are those of the authors' published PyTorch checkpoints.

    python -m src.mimo_unet      # parameters, multiply-accumulates and activation memory of both variants
"""

from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from src.layers import AFF, FAM, SCM, BasicConv, ResBlocks

BASE = 32  # channels at full resolution; 64 at half, 128 at a quarter


@dataclass(frozen=True)
class Variant:
    num_res: int
    """Residual blocks in each of the six stages."""
    dropout: float
    """Probability that a channel of a fused feature map is dropped during training."""


MODELS = {"MIMO-UNet": Variant(num_res=8, dropout=0.0), "MIMO-UNetPlus": Variant(num_res=20, dropout=0.1)}
# MIMO-UNet++ is MIMO-UNetPlus averaged over four rotations of its input: no weights of its own.

MASK_CHANNELS = BASE + 2 * BASE  # one number per channel of the two fused maps: see MIMOUNet.construct


# Both resizes are written as reshapes: `ops.interpolate` cannot be exported with a dynamic shape, nor to ONNX at all,
# and the gradient of a strided slice fails in PyNative mode on CPU.


def downsample(x: Tensor) -> Tensor:
    """Nearest x0.5: pixel [2i, 2j]. Earlier MindSpore ports use bilinear here; the published weights do not fit
    that."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)[:, :, :, 0, :, 0]


def upsample(x: Tensor) -> Tensor:
    """Nearest x2: every pixel becomes a 2x2 block."""
    n, c, h, w = x.shape
    return ops.broadcast_to(x.reshape(n, c, h, 1, w, 1), (n, c, h, 2, w, 2)).reshape(n, c, h * 2, w * 2)


class MIMOUNet(nn.Cell):
    """Both variants of the paper. Shapes below are for base = 32 channels and an input of (N, 3, H, W)."""

    def __init__(self, num_res: int, dropout: float = 0.0, base: int = BASE):
        super().__init__()
        self.num_res = num_res
        self.has_dropout = dropout > 0
        ch1, ch2, ch4 = base, base * 2, base * 4  # channels at full, half and quarter resolution
        fused = ch1 + ch2 + ch4

        self.Encoder = nn.CellList([ResBlocks(ch, num_res) for ch in (ch1, ch2, ch4)])
        self.feat_extract = nn.CellList(
            [
                BasicConv(3, ch1, 3),
                BasicConv(ch1, ch2, 3, stride=2),
                BasicConv(ch2, ch4, 3, stride=2),
                BasicConv(ch4, ch2, 4, stride=2, transpose=True),
                BasicConv(ch2, ch1, 4, stride=2, transpose=True),
                BasicConv(ch1, 3, 3, relu=False),
            ]
        )
        self.Decoder = nn.CellList([ResBlocks(ch, num_res) for ch in (ch4, ch2, ch1)])
        self.Convs = nn.CellList([BasicConv(ch4, ch2, 1), BasicConv(ch2, ch1, 1)])
        self.ConvsOut = nn.CellList([BasicConv(ch4, 3, 3, relu=False), BasicConv(ch2, 3, 3, relu=False)])
        self.AFFs = nn.CellList([AFF(fused, ch1), AFF(fused, ch2)])
        self.FAM1 = FAM(ch4)
        self.SCM1 = SCM(ch4)
        self.FAM2 = FAM(ch2)
        self.SCM2 = SCM(ch2)

    def construct(self, x: Tensor, channel_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Restore a batch.

        Args:
            x: blurred RGB, (N, 3, H, W) in [0, 1], H and W multiples of 4 (`src.restore` pads any other size).
            channel_mask: channel dropout of one training step, (N, 96): 0 for a dropped channel, 1 / (1 - p) for a kept
                one, the first 32 for the full-resolution fused map, the rest for the half-resolution one. The mask
                comes from outside because a framework dropout layer's state cannot be saved, and a resumed run must
                repeat it. None (evaluation) drops nothing. The variant without dropout ignores it.

        Returns:
            Three residual-corrected images, coarse to fine: (N, 3, H/4, W/4), (N, 3, H/2, W/2), (N, 3, H, W), not
            clipped.
        """
        x2 = downsample(x)  # (N, 3, H/2, W/2)
        x4 = downsample(x2)  # (N, 3, H/4, W/4)

        res1 = self.Encoder[0](self.feat_extract[0](x))  # (N, 32, H, W)
        res2 = self.Encoder[1](self.FAM2(self.feat_extract[1](res1), self.SCM2(x2)))  # (N, 64, H/2, W/2)
        z = self.Encoder[2](self.FAM1(self.feat_extract[2](res2), self.SCM1(x4)))  # (N, 128, H/4, W/4)

        z_up = upsample(z)  # (N, 128, H/2, W/2)
        fused2 = self.AFFs[1](downsample(res1), res2, z_up)  # (N, 64, H/2, W/2)
        fused1 = self.AFFs[0](res1, upsample(res2), upsample(z_up))  # (N, 32, H, W)
        if self.has_dropout and channel_mask is not None:
            mask = ops.expand_dims(ops.expand_dims(channel_mask, -1), -1).astype(fused1.dtype)  # (N, 96, 1, 1)
            ch1 = fused1.shape[1]
            fused1 = fused1 * mask[:, :ch1]
            fused2 = fused2 * mask[:, ch1:]

        z = self.Decoder[0](z)  # (N, 128, H/4, W/4)
        out4 = self.ConvsOut[0](z) + x4  # (N, 3, H/4, W/4)
        z = self.Convs[0](ops.cat((self.feat_extract[3](z), fused2), 1))  # (N, 64, H/2, W/2)
        z = self.Decoder[1](z)
        out2 = self.ConvsOut[1](z) + x2  # (N, 3, H/2, W/2)
        z = self.Convs[1](ops.cat((self.feat_extract[4](z), fused1), 1))  # (N, 32, H, W)
        z = self.Decoder[2](z)
        out1 = self.feat_extract[5](z) + x  # (N, 3, H, W)
        return out4, out2, out1


def build_net(model_name: str, num_res: int = 0) -> MIMOUNet:
    """Network of a variant in `MODELS`, weights not yet initialised. `num_res` > 0 makes a shallower one, for tests and
    trials."""
    if model_name not in MODELS:
        raise ValueError(f"unknown model name {model_name!r}; known: {', '.join(MODELS)}")
    variant = MODELS[model_name]
    return MIMOUNet(num_res or variant.num_res, variant.dropout)


if __name__ == "__main__":
    from src.complexity import main
    from src.errors import run_main

    run_main(main)
