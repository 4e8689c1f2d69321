"""The variants of the network and the shapes of their parameters, without MindSpore.

`MIMO-UNetLite` is not in the paper: it is this repository's variant for users without an accelerator, the same graph at
half the resolution, with a pixel-unshuffle by 2 before each input and a pixel-shuffle by 2 after each output.
"""

from dataclasses import dataclass, replace

BASE = 32  # channels at the finest scale; 64 at the second, 128 at the third


@dataclass(frozen=True)
class Variant:
    num_res: int
    """Residual blocks in each of the six stages."""
    dropout: float = 0.0
    """Probability that a channel of a fused feature map is dropped during training."""
    shuffle: int = 1
    """Factor of the pixel-unshuffle of the inputs and of the pixel-shuffle of the outputs; 1 = neither."""

    @property
    def multiple(self) -> int:
        """H and W must be multiples of this: the three scales halve the unshuffled image twice."""
        return 4 * self.shuffle


MODELS = {
    "MIMO-UNet": Variant(num_res=8),
    "MIMO-UNetPlus": Variant(num_res=20, dropout=0.1),
    "MIMO-UNetLite": Variant(num_res=4, shuffle=2),
}
# MIMO-UNet++ is MIMO-UNetPlus averaged over four rotations of its input, with the same weights.


def variant_of(model_name: str, num_res: int = 0) -> Variant:
    """A variant by its name. `num_res` > 0 replaces its depth, for tests and trials."""
    if model_name not in MODELS:
        raise ValueError(f"unknown model name {model_name!r}; known: {', '.join(MODELS)}")
    return replace(MODELS[model_name], num_res=num_res or MODELS[model_name].num_res)


def parameter_shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of `src.mimo_unet.MIMOUNet`, in its order; a test compares the two."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, in_ch: int, out_ch: int, kernel: int, transpose: bool = False) -> None:
        channels = (in_ch, out_ch) if transpose else (out_ch, in_ch)
        shapes[f"{name}.main.0.weight"] = (*channels, kernel, kernel)
        shapes[f"{name}.main.0.bias"] = (out_ch,)

    def stage(name: str, channels: tuple[int, ...]) -> None:
        for i, ch in enumerate(channels):
            for block in range(variant.num_res):
                conv(f"{name}.{i}.layers.{block}.main.0", ch, ch, 3)
                conv(f"{name}.{i}.layers.{block}.main.1", ch, ch, 3)

    image_ch = 3 * variant.shuffle**2
    ch1, ch2, ch4 = BASE, BASE * 2, BASE * 4
    stage("Encoder", (ch1, ch2, ch4))
    conv("feat_extract.0", image_ch, ch1, 3)
    conv("feat_extract.1", ch1, ch2, 3)
    conv("feat_extract.2", ch2, ch4, 3)
    conv("feat_extract.3", ch4, ch2, 4, transpose=True)
    conv("feat_extract.4", ch2, ch1, 4, transpose=True)
    conv("feat_extract.5", ch1, image_ch, 3)
    stage("Decoder", (ch4, ch2, ch1))
    conv("Convs.0", ch4, ch2, 1)
    conv("Convs.1", ch2, ch1, 1)
    conv("ConvsOut.0", ch4, image_ch, 3)
    conv("ConvsOut.1", ch2, image_ch, 3)
    for i, ch in enumerate((ch1, ch2)):
        conv(f"AFFs.{i}.conv.0", ch1 + ch2 + ch4, ch, 1)
        conv(f"AFFs.{i}.conv.1", ch, ch, 3)
    for number, ch in ((1, ch4), (2, ch2)):
        conv(f"FAM{number}.merge", ch, ch, 3)
        conv(f"SCM{number}.main.0", image_ch, ch // 4, 3)
        conv(f"SCM{number}.main.1", ch // 4, ch // 2, 1)
        conv(f"SCM{number}.main.2", ch // 2, ch // 2, 3)
        conv(f"SCM{number}.main.3", ch // 2, ch - image_ch, 1)
        conv(f"SCM{number}.conv", ch, ch, 1)
    return shapes
