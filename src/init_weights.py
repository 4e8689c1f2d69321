"""Initialisation of the network by PyTorch's defaults, which the paper used."""

import math
import zlib

import numpy as np
from mindspore import Tensor, nn

from src.checkpoint import load_network
from src.mimo_unet import MIMOUNet, build_net


def initial_network(model_name: str, num_res: int, seed: int, pretrained: str = "") -> MIMOUNet:
    """The network at the start of a training, from the checkpoint `pretrained`, or from `init_weights` without one.

    Raises:
        UserError: as `load_network`.
    """
    if pretrained:
        return load_network(pretrained, model_name)[0]
    network = build_net(model_name, num_res)
    init_weights(network, seed)
    return network


def init_weights(net: nn.Cell, seed: int) -> None:
    """Fill every parameter with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), a bias with the bound of its weight.

    fan_in is the product of the weight's shape after its first axis, as in PyTorch also for transposed convolutions
    (in, out, k, k). Each tensor's generator is seeded with (seed, crc32(name)), so that the result is the same on every
    device and does not depend on the order of construction.
    """
    params = {p.name: p for p in net.get_parameters()}
    for name, param in params.items():
        weight = params[name.removesuffix("bias") + "weight"] if name.endswith("bias") else param
        bound = 1 / math.sqrt(math.prod(weight.shape[1:]))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        param.set_data(Tensor(rng.uniform(-bound, bound, param.shape).astype(np.float32)))
