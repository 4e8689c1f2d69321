import numpy as np

from src.checkpoint import save_checkpoint
from src.init_weights import init_weights, initial_network
from src.mimo_unet import build_net


def test_bounds_are_pytorchs(cpu):
    network = build_net("MIMO-UNet", 1)
    init_weights(network, 3)
    params = {p.name: p.asnumpy() for p in network.get_parameters()}
    # 3x3 convolution of 32 channels: fan_in 288; transposed 128 -> 64, 4x4: fan_in 64 * 16, as in PyTorch
    for layer, fan_in in (("Encoder.0.layers.0.main.0.main.0", 288), ("feat_extract.3.main.0", 1024)):
        for part in ("weight", "bias"):
            values, bound = params[f"{layer}.{part}"], fan_in**-0.5
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.8 * bound
            assert abs(values.std() / (bound / 3**0.5) - 1) < 0.25


def test_same_seed_same_weights_whatever_the_depth(cpu):
    shallow, deep, other = build_net("MIMO-UNet", 1), build_net("MIMO-UNet", 2), build_net("MIMO-UNet", 1)
    for network, seed in ((shallow, 1), (deep, 1), (other, 2)):
        init_weights(network, seed)
    name = "SCM1.conv.main.0.weight"
    a, b, c = ({p.name: p.asnumpy() for p in n.get_parameters()}[name] for n in (shallow, deep, other))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_initial_network_is_drawn_from_the_seed_or_read(cpu, tmp_path):
    def weights(*args):
        return {p.name: p.asnumpy() for p in initial_network("MIMO-UNet", *args).get_parameters()}

    drawn = weights(1, 3)
    network = build_net("MIMO-UNet", 1)
    init_weights(network, 3)
    assert all(np.array_equal(drawn[p.name], p.asnumpy()) for p in network.get_parameters())
    save_checkpoint(tmp_path / "w.ckpt", drawn, {"variant": "MIMO-UNet"})
    read = weights(0, 4, str(tmp_path / "w.ckpt"))
    assert drawn.keys() == read.keys() and all(np.array_equal(drawn[name], read[name]) for name in drawn)
