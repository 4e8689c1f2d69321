import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from scripts import complexity as module
from scripts.complexity import complexity
from src.mimo_unet import build_net
from src.variants import MODELS


def by_hand(num_res, height, width, shuffle=1):
    """(multiply-accumulates, values put out by convolutions), layer by layer from the paper's figure 2."""
    rgb = 3 * shuffle**2
    full = height * width // shuffle**2
    half, quarter = full // 4, full // 16
    layers = []  # (positions of the output, channels in, channels out, kernel's area that each output sees)
    for area, ch in ((full, 32), (half, 64), (quarter, 128)):
        layers += [(area, ch, ch, 9)] * (2 * num_res) * 2  # encoder and decoder
    layers += [(full, rgb, 32, 9), (half, 32, 64, 9), (quarter, 64, 128, 9), (full, 32, rgb, 9)]
    layers += [(half, 128, 64, 4), (full, 64, 32, 4)]  # 4x4 transposed at stride 2: four of its weights meet an output
    layers += [(half, 128, 64, 1), (full, 64, 32, 1), (quarter, 128, rgb, 9), (half, 64, rgb, 9)]
    layers += [(full, 224, 32, 1), (full, 32, 32, 9), (half, 224, 64, 1), (half, 64, 64, 9)]  # AFF
    for area, ch in ((quarter, 128), (half, 64)):
        layers += [(area, ch, ch, 9), (area, rgb, ch // 4, 9), (area, ch // 4, ch // 2, 1)]  # FAM, SCM
        layers += [(area, ch // 2, ch // 2, 9), (area, ch // 2, ch - rgb, 1), (area, ch, ch, 1)]
    return sum(a * i * o * k for a, i, o, k in layers), sum(a * o for a, _, o, _ in layers)


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"),
    [("MIMO-UNet", 6.81, 896.2), ("MIMO-UNetPlus", 16.11, 2119.3), ("MIMO-UNetLite", 3.73, 123.9)],
)
def test_numbers_of_all_variants(cpu, name, millions, gmacs):
    found = complexity(build_net(name), 720, 1280)
    assert round(found.parameters / 1e6, 2) == millions
    assert round(found.macs / 1e9, 1) == gmacs
    assert (found.macs, found.activation_bytes // 4) == by_hand(MODELS[name].num_res, 720, 1280, MODELS[name].shuffle)


def test_scaling_is_exact(cpu):
    network = build_net("MIMO-UNet", 1)
    assert complexity(network, 12, 20, probe=(12, 20)) == complexity(network, 12, 20)
    assert complexity(network, 4, 4).macs == by_hand(1, 4, 4)[0]


def test_counting_leaves_mode_and_network_as_they_were(cpu):
    network = build_net("MIMO-UNet", 1)
    x = Tensor(np.ones((1, 3, 8, 8), np.float32))
    before = network(x)[2].asnumpy()
    mode = ms.get_context("mode")
    complexity(network, 8, 8)
    assert ms.get_context("mode") == mode == ms.GRAPH_MODE
    np.testing.assert_array_equal(network(x)[2].asnumpy(), before)


def test_table_has_all_variants_and_sizes(cpu, capsys, monkeypatch):
    monkeypatch.setattr(module, "build_net", lambda name: build_net(name, 1))
    module.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(MODELS)
    assert lines[0].split()[0] == "variant"
    for line, size in zip(lines[1:], ("256x256", "720x1280") * len(MODELS), strict=True):
        assert size in line
    assert [line.split()[0] for line in lines[1:]] == [name for name in MODELS for _ in range(2)]
    assert f"{by_hand(1, 720, 1280)[0] / 1e9:.1f}" in lines[2]
