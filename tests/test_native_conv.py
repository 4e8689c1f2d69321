"""The native convolutions against the framework's own, and what happens where they cannot be built."""

import ctypes

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.init_weights import init_weights
from src.layers import BasicConv, ResBlocks
from src.loss import MultiScaleLoss
from src.mimo_unet import MASK_CHANNELS, build_net
from src.native import conv as native_conv
from src.train_step import Adam, ForwardLoss, StepDecay, TrainStep


@pytest.fixture(scope="module", autouse=True)
def built(cpu):
    """The compiled operators; `scripts/setup.sh --system` installs what they need."""
    try:
        return native_conv.library()
    except native_conv.Unavailable as e:
        pytest.skip(f"no native convolutions here: {e}")


def network(native: bool, bfloat16: bool = False, variant: str = "MIMO-UNet"):
    net = build_net(variant, num_res=1)
    init_weights(net, seed=3)
    if native:
        native_conv.install(net, bfloat16)
    return net


def loss_and_gradients(net, height: int = 32, width: int = 48):
    """(total loss, {name: gradient}) of one batch of two."""
    rng = np.random.default_rng(0)
    blur, sharp = (Tensor(rng.random((2, 3, height, width), np.float32)) for _ in range(2))
    weights = net.trainable_params()
    step = ms.value_and_grad(ForwardLoss(net, MultiScaleLoss(0.1)), None, ms.ParameterTuple(weights), has_aux=True)
    values, gradients = ms.jit(step)(blur, sharp, Tensor(np.ones((2, MASK_CHANNELS), np.float32)), Tensor(1.0))
    return float(values[1].asnumpy()), {p.name: g.asnumpy() for p, g in zip(weights, gradients, strict=True)}


def largest_error(got: dict, expected: dict) -> float:
    """Over all parameters, the largest difference relative to the parameter's largest gradient."""
    assert got.keys() == expected.keys()
    return max(float(np.abs(got[name] - e).max() / np.abs(e).max()) for name, e in expected.items())


@pytest.fixture(scope="module")
def reference():
    return loss_and_gradients(network(native=False))


def test_loss_and_all_gradients_are_those_of_the_framework(reference):
    loss, gradients = loss_and_gradients(network(native=True))
    assert loss == pytest.approx(reference[0], rel=1e-6)
    assert largest_error(gradients, reference[1]) < 1e-4


def test_gradients_of_lite_are_those_of_the_framework():
    """Its first and last layers have twelve channels, which fill no block of sixteen."""
    loss, gradients = loss_and_gradients(network(True, variant="MIMO-UNetLite"))
    expected_loss, expected = loss_and_gradients(network(False, variant="MIMO-UNetLite"))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert largest_error(gradients, expected) < 1e-4


def test_bfloat16_is_near_but_not_the_same(reference):
    try:
        net = network(native=True, bfloat16=True)
    except native_conv.Unavailable as e:
        assert "bfloat16" in str(e)  # noqa: PT017 - this processor has none, which is an answer too
        return
    loss, gradients = loss_and_gradients(net)
    assert loss == pytest.approx(reference[0], rel=2e-3)
    difference = np.sqrt(sum(((gradients[name] - g) ** 2).sum() for name, g in reference[1].items()))
    norm = np.sqrt(sum((g**2).sum() for g in reference[1].values()))
    assert 1e-4 < difference / norm < 0.05


def test_every_layer_is_native_and_no_parameter_is_renamed():
    plain, native = network(native=False), network(native=True)
    assert [p.name for p in native.get_parameters()] == [p.name for p in plain.get_parameters()]
    names = [[name for name, _ in net.parameters_and_names()] for net in (plain, native)]
    assert names[0] == names[1]
    cells = [cell for _, cell in native.cells_and_names()]
    assert not any(isinstance(cell, BasicConv | ResBlocks) for cell in cells)
    layers = [cell for cell in cells if isinstance(cell, native_conv.NativeConv)]
    assert len(layers) == 6 * 2 + 6 + 2 + 2 + 4 + 2 + 2 * 5  # stages, feat_extract, Convs, ConvsOut, AFFs, FAMs, SCMs


def test_parts_of_a_batch_in_a_loop_of_the_graph_give_the_same_step():
    rng = np.random.default_rng(2)
    batch = [Tensor(rng.random((2, 3, 32, 32), np.float32)) for _ in range(2)]
    losses = []
    for parts, native in ((1, False), (2, True)):
        net = network(native)
        step = TrainStep(
            net, MultiScaleLoss(0.1), Adam(net.trainable_params()), StepDecay(1e-3, 9), micro_batches=parts
        )
        losses.append([float(step(*batch, Tensor(np.ones((2, MASK_CHANNELS), np.float32)))[0]) for _ in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_threads_are_those_asked_for(built):
    library = ctypes.CDLL(str(built))
    assert library.native_conv_configure(1, 0) == 0
    assert loss_and_gradients(network(native=True), 16, 16)[0] > 0
    library.native_conv_configure(0, 0)


def test_without_a_compiler_the_reason_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(native_conv, "COMPILE", [*native_conv.COMPILE, "-g0"])  # another key: nothing built yet
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(native_conv.Unavailable, match="no C\\+\\+ compiler"):
        native_conv.library()


def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    source = tmp_path / "broken.cc"
    source.write_text("#error nothing to see\n")
    monkeypatch.setattr(native_conv, "SOURCE", source)
    with pytest.raises(native_conv.Unavailable, match="the compiler failed: .*nothing to see"):
        native_conv.library()


def test_without_onednn_the_way_to_get_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(native_conv.Unavailable, match="requirements.txt"):
        native_conv.library()


def test_choose_says_what_was_chosen_and_why_not(monkeypatch):
    net = network(native=False)
    assert native_conv.choose(net, "framework") == (False, "convolutions: MindSpore's own, as asked")
    native, line = native_conv.choose(net, "auto", refused="they know no float16")
    assert not native
    assert line.endswith("native ones: they know no float16")
    with pytest.raises(UserError, match="--conv_kernels native: they know no float16. --conv_kernels auto"):
        native_conv.choose(net, "native", refused="they know no float16")
    assert isinstance(net.FAM1.merge, BasicConv)
    assert native_conv.choose(net, "auto") == (True, "convolutions: native, float32")
    assert isinstance(net.FAM1.merge, native_conv.NativeConv)
