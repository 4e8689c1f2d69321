"""MIMO-UNet: multi-input multi-output U-Net for single-image deblurring.

"Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021, https://arxiv.org/abs/2108.05054, figure 2.
Module names, and therefore parameter names, match the authors' published PyTorch checkpoints.
"""

from mindspore import Tensor, nn, ops

from src.layers import AFF, FAM, SCM, BasicConv, ResBlocks
from src.variants import BASE, Variant, variant_of

MASK_CHANNELS = BASE + 2 * BASE  # one number per channel of the two fused maps: see MIMOUNet.construct


# These four use reshapes: `ops.interpolate` cannot be exported with a dynamic shape, nor to ONNX at all, and the
# gradient of a strided slice fails in PyNative mode on CPU.


def downsample(x: Tensor) -> Tensor:
    """Nearest x0.5: pixel [2i, 2j]. The published weights do not fit the bilinear resizing of earlier MindSpore
    ports."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)[:, :, :, 0, :, 0]


def upsample(x: Tensor) -> Tensor:
    """Nearest x2: every pixel becomes a 2x2 block."""
    n, c, h, w = x.shape
    return ops.broadcast_to(x.reshape(n, c, h, 1, w, 1), (n, c, h, 2, w, 2)).reshape(n, c, h * 2, w * 2)


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) -> (N, C * factor^2, H / factor, W / factor), in PyTorch's channel order: channel, row, column."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // factor, factor, w // factor, factor).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, c * factor * factor, h // factor, w // factor)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """The inverse of `pixel_unshuffle`: (N, C * factor^2, h, w) -> (N, C, h * factor, w * factor)."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c // (factor * factor), factor, factor, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // (factor * factor), h * factor, w * factor)


class MIMOUNet(nn.Cell):
    """All variants. Shapes below are for an input of (N, 3, H, W) and a shuffle of 1; another shuffle divides the sides
    of every feature map."""

    def __init__(self, variant: Variant):
        super().__init__()
        self.variant = variant
        self.shuffle = variant.shuffle
        self.has_dropout = variant.dropout > 0
        num_res, image_ch = variant.num_res, 3 * variant.shuffle**2
        ch1, ch2, ch4 = BASE, BASE * 2, BASE * 4  # channels at the three scales, fine to coarse
        fused = ch1 + ch2 + ch4

        self.Encoder = nn.CellList([ResBlocks(ch, num_res) for ch in (ch1, ch2, ch4)])
        self.feat_extract = nn.CellList(
            [
                BasicConv(image_ch, ch1, 3),
                BasicConv(ch1, ch2, 3, stride=2),
                BasicConv(ch2, ch4, 3, stride=2),
                BasicConv(ch4, ch2, 4, stride=2, transpose=True),
                BasicConv(ch2, ch1, 4, stride=2, transpose=True),
                BasicConv(ch1, image_ch, 3, relu=False),
            ]
        )
        self.Decoder = nn.CellList([ResBlocks(ch, num_res) for ch in (ch4, ch2, ch1)])
        self.Convs = nn.CellList([BasicConv(ch4, ch2, 1), BasicConv(ch2, ch1, 1)])
        self.ConvsOut = nn.CellList([BasicConv(ch, image_ch, 3, relu=False) for ch in (ch4, ch2)])
        self.AFFs = nn.CellList([AFF(fused, ch1), AFF(fused, ch2)])
        self.FAM1 = FAM(ch4)
        self.SCM1 = SCM(ch4, image_ch)
        self.FAM2 = FAM(ch2)
        self.SCM2 = SCM(ch2, image_ch)

    def construct(self, x: Tensor, channel_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Restore a batch.

        Args:
            x: blurred RGB, (N, 3, H, W) in [0, 1], H and W multiples of `variant.multiple` (`src.restore` pads other
                sizes).
            channel_mask: channel dropout of one training step, (N, 96): 0 for a dropped channel, 1 / (1 - p) for a kept
                one; the first 32 for the fused map of the finest scale, the rest for that of the second. None
                (evaluation) drops nothing, and variants without dropout ignore the mask. It is an argument because the
                state of the framework's dropout layer cannot be saved, and a resumed run must repeat it.

        Returns:
            Three residual-corrected images, coarse to fine: (N, 3, H/4, W/4), (N, 3, H/2, W/2), (N, 3, H, W), not
            clipped.
        """
        x2 = downsample(x)  # (N, 3, H/2, W/2)
        x4 = downsample(x2)  # (N, 3, H/4, W/4)

        res1 = self.Encoder[0](self.feat_extract[0](self.unshuffled(x)))  # (N, 32, H, W)
        res2 = self.FAM2(self.feat_extract[1](res1), self.SCM2(self.unshuffled(x2)))
        res2 = self.Encoder[1](res2)  # (N, 64, H/2, W/2)
        z = self.FAM1(self.feat_extract[2](res2), self.SCM1(self.unshuffled(x4)))
        z = self.Encoder[2](z)  # (N, 128, H/4, W/4)

        z_up = upsample(z)  # (N, 128, H/2, W/2)
        fused2 = self.AFFs[1](downsample(res1), res2, z_up)  # (N, 64, H/2, W/2)
        fused1 = self.AFFs[0](res1, upsample(res2), upsample(z_up))  # (N, 32, H, W)
        if self.has_dropout and channel_mask is not None:
            mask = ops.expand_dims(ops.expand_dims(channel_mask, -1), -1).astype(fused1.dtype)  # (N, 96, 1, 1)
            ch1 = fused1.shape[1]
            fused1 = fused1 * mask[:, :ch1]
            fused2 = fused2 * mask[:, ch1:]

        z = self.Decoder[0](z)  # (N, 128, H/4, W/4)
        out4 = self.shuffled(self.ConvsOut[0](z)) + x4  # (N, 3, H/4, W/4)
        z = self.Convs[0](ops.cat((self.feat_extract[3](z), fused2), 1))  # (N, 64, H/2, W/2)
        z = self.Decoder[1](z)
        out2 = self.shuffled(self.ConvsOut[1](z)) + x2  # (N, 3, H/2, W/2)
        z = self.Convs[1](ops.cat((self.feat_extract[4](z), fused1), 1))  # (N, 32, H, W)
        z = self.Decoder[2](z)
        out1 = self.shuffled(self.feat_extract[5](z)) + x  # (N, 3, H, W)
        return out4, out2, out1

    def unshuffled(self, image: Tensor) -> Tensor:
        """(N, 3, h, w) -> the input of a scale's first layer, (N, 3 * shuffle^2, h / shuffle, w / shuffle)."""
        return image if self.shuffle == 1 else pixel_unshuffle(image, self.shuffle)

    def shuffled(self, residual: Tensor) -> Tensor:
        """The inverse of `unshuffled`, for the output of a scale's last layer."""
        return residual if self.shuffle == 1 else pixel_shuffle(residual, self.shuffle)


def build_net(model_name: str, num_res: int = 0) -> MIMOUNet:
    """The network of a variant with weights of zero; see `src.variants.variant_of`."""
    return MIMOUNet(variant_of(model_name, num_res))
