import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from benchmarks.torch_twin import TorchMIMOUNet, torch_loss
from src.mimo_unet import MASK_CHANNELS, build_net, downsample, pixel_shuffle, pixel_unshuffle, upsample
from src.variants import MODELS, parameter_shapes
from tests.conftest import REFERENCES


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_and_parameters_are_the_reference(cpu, reference, name):
    network, image, _, recorded = reference(name)
    params = list(network.get_parameters())
    assert [p.name for p in params] == list(recorded["param_names"])
    assert [str(list(p.shape)) for p in params] == [str(s).strip() for s in recorded["param_shapes"]]
    assert list(parameter_shapes(network.variant).items()) == [(p.name, tuple(p.shape)) for p in params]
    assert sum(p.size for p in params) == int(recorded["num_parameters"])
    for scale, output in enumerate(network(Tensor(image))):
        np.testing.assert_allclose(output.asnumpy(), recorded[f"output_{scale}"], rtol=0, atol=1e-5)


def test_published_sizes(cpu):
    for name, count, tensors in (
        ("MIMO-UNet", 6_807_171, 244),
        ("MIMO-UNetPlus", 16_107_651, 532),
        ("MIMO-UNetLite", 3_730_780, 148),
    ):
        params = list(build_net(name).get_parameters())
        assert (sum(p.size for p in params), len(params)) == (count, tensors)


def test_resizes_are_nearest(cpu):
    x = np.arange(2 * 3 * 4 * 8, dtype=np.float32).reshape(2, 3, 4, 8)
    np.testing.assert_array_equal(downsample(Tensor(x)).asnumpy(), x[:, :, ::2, ::2])
    np.testing.assert_array_equal(upsample(Tensor(x)).asnumpy(), x.repeat(2, axis=2).repeat(2, axis=3))


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffles_have_pytorchs_order(cpu, factor):
    x = np.arange(2 * 3 * 6 * 12, dtype=np.float32).reshape(2, 3, 6, 12)
    expected = torch.nn.functional.pixel_unshuffle(torch.from_numpy(x), factor).numpy()
    np.testing.assert_array_equal(pixel_unshuffle(Tensor(x), factor).asnumpy(), expected)
    np.testing.assert_array_equal(pixel_shuffle(Tensor(expected), factor).asnumpy(), x)


def test_gradients_of_lite_are_the_twins_in_float64(cpu, reference):
    from src.loss import MultiScaleLoss
    from src.train_step import ForwardLoss

    network, image, label, _ = reference("mimo_unet_lite")
    parameters = ms.ParameterTuple(network.trainable_params())
    step = ms.value_and_grad(ForwardLoss(network, MultiScaleLoss()), None, parameters, has_aux=True)
    (total, *_), gradients = ms.jit(step)(
        Tensor(image), Tensor(label), Tensor(np.ones((1, MASK_CHANNELS), np.float32)), Tensor(1.0)
    )
    twin = TorchMIMOUNet(num_res=4, shuffle=2).double()
    twin.load_state_dict({p.name: torch.from_numpy(p.asnumpy()) for p in parameters})
    loss = torch_loss(twin(torch.from_numpy(image).double()), torch.from_numpy(label).double())[0]
    loss.backward()
    assert float(total.asnumpy()) == pytest.approx(loss.item(), rel=1e-6)
    for (name, p), g in zip(twin.named_parameters(), gradients, strict=True):
        expected = p.grad.numpy()
        np.testing.assert_allclose(g.asnumpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_channel_mask_acts_on_the_variant_with_dropout_only(cpu):
    from src.init_weights import init_weights

    x = Tensor(np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32))
    ones, half = np.ones((1, MASK_CHANNELS), np.float32), np.ones((1, MASK_CHANNELS), np.float32)
    half[:, ::2] = 0
    for name, expected_change in (("MIMO-UNet", False), ("MIMO-UNetPlus", True)):
        network = build_net(name, 1)
        init_weights(network, 0)
        plain = network(x)[2].asnumpy()
        np.testing.assert_array_equal(network(x, Tensor(ones))[2].asnumpy(), plain)
        changed = np.abs(network(x, Tensor(half))[2].asnumpy() - plain).max() > 1e-6
        assert changed == expected_change


def test_mask_reaches_both_fused_maps(cpu):
    from src.init_weights import init_weights

    network = build_net("MIMO-UNetPlus", 1)
    init_weights(network, 0)
    x = Tensor(np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32))
    plain = [o.asnumpy() for o in network(x)]
    for dropped, middle_changes in ((slice(0, 32), False), (slice(32, 96), True)):
        mask = np.ones((1, MASK_CHANNELS), np.float32)
        mask[:, dropped] = 0
        coarse, middle, fine = (o.asnumpy() for o in network(x, Tensor(mask)))
        np.testing.assert_array_equal(coarse, plain[0])
        assert (np.abs(middle - plain[1]).max() > 1e-6) == middle_changes
        assert np.abs(fine - plain[2]).max() > 1e-6


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="MIMO-UNet, MIMO-UNetPlus"):
        build_net("MIMO")
    assert MODELS["MIMO-UNetPlus"].dropout == 0.1
    assert [v.multiple for v in MODELS.values()] == [4, 4, 8]
