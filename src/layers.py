"""Building blocks of MIMO-UNet (ICCV 2021, section 3). Attribute names match the parameter names of the published
checkpoints.

All tensors are `(N, C, H, W)`. Every convolution has a bias and zero padding of k // 2. Weights are zero until
`src.init_weights` fills them by name, so that they depend on the seed alone.
"""

from mindspore import Tensor, nn, ops


class BasicConv(nn.Cell):
    """Convolution (or transposed convolution: kernel 4, stride 2, padding 1, doubles H and W), then ReLU unless
    `relu=False`."""

    def __init__(
        self, in_ch: int, out_ch: int, kernel: int, stride: int = 1, relu: bool = True, transpose: bool = False
    ):
        super().__init__()
        options = {"pad_mode": "pad", "has_bias": True, "weight_init": "zeros", "bias_init": "zeros"}
        if transpose:
            conv = nn.Conv2dTranspose(in_ch, out_ch, 4, 2, padding=1, **options)
        else:
            conv = nn.Conv2d(in_ch, out_ch, kernel, stride, padding=kernel // 2, **options)
        self.main = nn.SequentialCell([conv, nn.ReLU()] if relu else [conv])

    def construct(self, x: Tensor) -> Tensor:
        return self.main(x)


class ResBlock(nn.Cell):
    """x + conv3(ReLU(conv3(x))), without normalisation."""

    def __init__(self, ch: int):
        super().__init__()
        self.main = nn.SequentialCell(BasicConv(ch, ch, 3), BasicConv(ch, ch, 3, relu=False))

    def construct(self, x: Tensor) -> Tensor:
        return self.main(x) + x


class ResBlocks(nn.Cell):
    """One encoder or decoder stage: `num_res` residual blocks at one scale (the paper's EB and DB)."""

    def __init__(self, ch: int, num_res: int):
        super().__init__()
        self.layers = nn.SequentialCell([ResBlock(ch) for _ in range(num_res)])

    def construct(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SCM(nn.Cell):
    """Shallow convolutional module: features of a downsampled input image, (N, image_ch, h, w) -> (N, ch, h, w)."""

    def __init__(self, ch: int, image_ch: int = 3):
        super().__init__()
        self.main = nn.SequentialCell(
            BasicConv(image_ch, ch // 4, 3),
            BasicConv(ch // 4, ch // 2, 1),
            BasicConv(ch // 2, ch // 2, 3),
            BasicConv(ch // 2, ch - image_ch, 1),
        )
        self.conv = BasicConv(ch, ch, 1, relu=False)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(ops.cat((x, self.main(x)), 1))


class FAM(nn.Cell):
    """Feature attention module: the features of a scale's input image emphasise or suppress those of the scale
    above."""

    def __init__(self, ch: int):
        super().__init__()
        self.merge = BasicConv(ch, ch, 3, relu=False)

    def construct(self, x: Tensor, image_features: Tensor) -> Tensor:
        return x + self.merge(x * image_features)


class AFF(nn.Cell):
    """Asymmetric feature fusion: encoder features of all three scales, at one size, become `ch` channels."""

    def __init__(self, in_ch: int, ch: int):
        super().__init__()
        self.conv = nn.SequentialCell(BasicConv(in_ch, ch, 1), BasicConv(ch, ch, 3, relu=False))

    def construct(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self.conv(ops.cat((a, b, c), 1))
