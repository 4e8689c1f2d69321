import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.init_weights import init_weights
from src.loss import MultiScaleLoss
from src.mimo_unet import build_net
from src.train_step import Adam, CosineDecay, StepDecay, TrainStep, make_scaler, make_schedule, to_unit


def make_step(network, **kwargs):
    return TrainStep(network, MultiScaleLoss(), Adam(network.trainable_params()), StepDecay(1e-4, 10**6), **kwargs)


@pytest.mark.parametrize("name", ["mimo_unet_num_res_1", "mimo_unet"])
def test_losses_follow_the_papers_adam(cpu, reference, name):
    network, image, label, recorded = reference(name)
    step = make_step(network)
    mask = Tensor(np.ones((len(image), 96), np.float32))
    losses = [float(step(Tensor(image), Tensor(label), mask)[0]) for _ in recorded["adam_losses"]]
    np.testing.assert_allclose(losses, recorded["adam_losses"], rtol=1e-5)
    assert int(step.global_step.asnumpy()) == len(losses)


def test_parts_of_a_batch_equal_the_whole(cpu):
    rng = np.random.default_rng(0)
    batches = [
        (rng.random((4, 3, 32, 32), dtype=np.float32), rng.random((4, 3, 32, 32), dtype=np.float32)) for _ in range(3)
    ]
    results = []
    for parts in (1, 2):
        network = build_net("MIMO-UNet", 1)
        init_weights(network, 0)
        step = make_step(network, micro_batches=parts)
        mask = Tensor(np.ones((4, 96), np.float32))
        results.append([[float(v) for v in step(Tensor(b), Tensor(s), mask)] for b, s in batches])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


class Product(nn.Cell):
    """A stand-in network of one weight, which uses the channel mask."""

    def __init__(self):
        super().__init__()
        self.weight = ms.Parameter(Tensor(np.ones(1, np.float32)), name="weight")

    def construct(self, x, channel_mask):
        return x * channel_mask[:, :1] * self.weight


class ThreeMeans(nn.Cell):
    def construct(self, prediction, sharp):
        loss = ops.mean(prediction * sharp)
        return loss, 2 * loss, 3 * loss


@pytest.mark.parametrize("parts, loss_scale", [(1, None), (4, None), (2, "1024")])
def test_gradients_and_losses_are_the_means_over_the_batch(cpu, parts, loss_scale):
    rng = np.random.default_rng(0)
    blur, sharp, mask = rng.integers(0, 256, (4, 1), np.uint8), rng.random((4, 1)), rng.random((4, 96))
    network = Product()
    scaler = make_scaler(loss_scale) if loss_scale else None
    optimizer = Plain(network.trainable_params())
    step = TrainStep(network, ThreeMeans(), optimizer, StepDecay(1.0, 2), micro_batches=parts, scaler=scaler)
    gradient = np.mean(blur / 255 * sharp * mask[:, :1])  # whatever the weight
    weight, batch = 1.0, (Tensor(blur), Tensor(sharp.astype(np.float32)), Tensor(mask.astype(np.float32)))
    for t in range(4):
        total, content, fft, rate, scale, norm, finite = (float(v) for v in step(*batch))
        losses = np.array([1, 2, 3]) * weight * gradient
        np.testing.assert_allclose([total, content, fft], losses, rtol=1e-5)
        assert (rate, scale, finite) == (0.5 ** (t // 2), float(loss_scale or 1), 1)
        assert norm == pytest.approx(gradient, rel=1e-5)
        weight -= rate * gradient
        assert float(network.weight.asnumpy()[0]) == pytest.approx(weight, rel=1e-5)
    assert (int(step.global_step.asnumpy()), int(step.skipped.asnumpy())) == (4, 0)


def test_images_of_8_bits_become_the_unit_range(cpu):
    levels = Tensor(np.array([0, 51, 255], np.uint8))
    assert to_unit(levels).dtype == ms.float32
    np.testing.assert_allclose(to_unit(levels).asnumpy(), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_array_equal(to_unit(Tensor(np.array([0.5, 2], np.float32))).asnumpy(), [0.5, 2])


def test_loss_scale_by_name(cpu):
    fixed = make_scaler("128")
    assert float(fixed.scale(Tensor(1.0, ms.float32))) == 128
    fixed.adjust(Tensor(False))
    assert float(fixed.scale_value) == 128
    dynamic = make_scaler("dynamic")
    assert float(dynamic.scale_value.asnumpy()) == 65536
    dynamic.adjust(Tensor(False))
    assert float(dynamic.scale_value.asnumpy()) == 32768
    assert (dynamic.scale_factor, dynamic.scale_window) == (2, 2000)  # 2,000 steps would take seconds


def test_state_has_names_of_its_own(cpu):
    network = Product()
    step = TrainStep(network, ThreeMeans(), Adam([network.weight]), StepDecay(1.0, 2), micro_batches=2, ema_decay=0.9)
    plain = TrainStep(Product(), ThreeMeans(), Plain([ms.Parameter(Tensor([1.0]), name="weight")]), StepDecay(1.0, 2))
    state = {p.name: p.asnumpy().tolist() for p in step.get_parameters()}
    moments = {"moment1.weight": [0], "moment2.weight": [0], "gradient.weight": [0]}
    assert state == {"weight": [1], "ema.weight": [1], "global_step": 0, "skipped_steps": 0} | moments
    assert {p.name for p in plain.get_parameters()} == set(state) - {"gradient.weight", "ema.weight"}
    assert not {"global_step", "skipped_steps"} & {p.name for p in step.trainable_params()}


def test_results_of_past_steps_are_kept(cpu):
    network = Product()
    scaler = ms.amp.DynamicLossScaler(4.0, 2, 2)
    step = TrainStep(network, ThreeMeans(), Plain([network.weight]), StepDecay(0.1, 2), scaler=scaler, history=3)
    sharp, mask = Tensor(np.ones((2, 1), np.float32)), Tensor(np.ones((2, 96), np.float32))
    returned = []
    for value in (0.5, 1.0, np.inf, 2.0, 0.25):
        blur = Tensor(np.full((2, 1), value, np.float32))
        returned.append([float(v) for v in step(blur, sharp, mask)])
        count = min(3, len(returned))
        np.testing.assert_array_equal(step.recent(count), np.array(returned[-count:], np.float32))
    assert [bool(row[-1]) for row in returned] == [True, True, False, True, True]
    assert [row[4] for row in returned] == [4, 4, 8, 4, 4]


def test_adam_against_numpy_with_tiny_gradients(cpu):
    # gradients around eps tell PyTorch's form from the framework's, which adds eps before the bias correction
    gradients = [np.array([1e-9, -3e-8, 1e-3, 2.0], np.float32) * k for k in (1, 2, -1)]
    param = ms.Parameter(Tensor(np.zeros(4, np.float32)), name="w")
    adam = Adam([param])
    m = v = w = np.zeros(4)
    for t, g in enumerate(gradients):
        adam((Tensor(g),), Tensor(1e-2, ms.float32), Tensor(t, ms.float32))
        g = g.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 1e-2 * (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        np.testing.assert_allclose(param.asnumpy(), w, rtol=2e-4)


def test_cosine_decay(cpu):
    schedule = CosineDecay(1e-4, 1e-6, 100)
    rates = [float(schedule(Tensor(s, ms.int32))) for s in (0, 25, 50, 100, 120)]
    middle = (1e-4 + 1e-6) / 2
    np.testing.assert_allclose(rates, [1e-4, middle + (1e-4 - middle) * 0.5**0.5, middle, 1e-6, 1e-6], rtol=1e-5)


def test_clipping_by_global_norm(cpu):
    gradients = [np.array([3.0], np.float32), np.array([0.0, 4.0], np.float32)]  # global norm 5
    rates = {}
    for clip in (0.0, 0.5, 50.0):
        network = Linear(gradients)
        step = TrainStep(network, Total(), Plain(network.trainable_params()), StepDecay(1.0, 10), clip_norm=clip)
        one, mask = Tensor(np.ones((1, 1), np.float32)), Tensor(np.ones((1, 96), np.float32))
        *_, norm, _ = step(one, one, mask)
        assert float(norm) == pytest.approx(5, rel=1e-6)  # before clipping
        rates[clip] = np.concatenate([p.asnumpy() for p in network.trainable_params()])
    np.testing.assert_allclose(rates[0.0], [-3, 0, -4], rtol=1e-6)
    np.testing.assert_allclose(rates[0.5], np.array([-3, 0, -4]) / 10, rtol=1e-5)
    np.testing.assert_array_equal(rates[50.0], rates[0.0])


def test_tiny_gradients_pass_the_clipping(cpu):
    network = Linear([np.array([3e-7], np.float32), np.array([0.0, 4e-7], np.float32)])
    step = TrainStep(network, Total(), Plain(network.trainable_params()), StepDecay(1.0, 10), clip_norm=0.5)
    step(Tensor(np.ones((1, 1), np.float32)), Tensor(np.ones((1, 1), np.float32)), Tensor(np.ones((1, 96), np.float32)))
    weights = np.concatenate([p.asnumpy() for p in network.trainable_params()])
    np.testing.assert_allclose(weights, [-3e-7, 0, -4e-7], rtol=1e-5)


def test_moving_average_warms_up(cpu):
    network = Linear([np.array([1.0], np.float32)])
    step = TrainStep(network, Total(), Plain(network.trainable_params()), StepDecay(1.0, 100), ema_decay=0.3)
    one, mask = Tensor(np.ones((1, 1), np.float32)), Tensor(np.ones((1, 96), np.float32))
    weight = average = 0.0
    for t in range(6):
        step(one, one, mask)
        weight -= 1.0
        decay = min(0.3, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
        assert float(step.ema[0].asnumpy()[0]) == pytest.approx(average, rel=1e-5)
    assert [p.name for p in step.ema] == ["ema.weight0"]


class Linear(nn.Cell):
    """A stand-in network whose gradients are given: the loss is the product of the weights and these numbers."""

    def __init__(self, gradients):
        super().__init__()
        for i, g in enumerate(gradients):
            setattr(self, f"weight{i}", ms.Parameter(Tensor(np.zeros_like(g)), name=f"weight{i}"))
        self.gradients = [Tensor(g) for g in gradients]
        self.weights = ms.ParameterTuple([getattr(self, f"weight{i}") for i in range(len(gradients))])

    def construct(self, x, channel_mask):
        total = ops.sum(x) * 0
        for weight, gradient in zip(self.weights, self.gradients):  # noqa: B905  (unknown to the graph compiler)
            total = total + ops.sum(weight * gradient)
        return total


class Total(nn.Cell):
    def construct(self, prediction, sharp):
        return prediction, prediction, prediction


class Plain(Adam):
    """Gradient descent with the face of Adam."""

    def construct(self, gradients, learning_rate, step):
        done = True
        for parameter, gradient in zip(self.parameters, gradients):  # noqa: B905
            done = ops.depend(done, ops.assign_sub(parameter, gradient * learning_rate))
        return done


def test_step_decay(cpu):
    schedule = StepDecay(1e-4, 10)
    rates = [float(schedule(Tensor(s, ms.int32))) for s in (0, 9, 10, 19, 20, 35)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 1.25e-5], rtol=1e-6)


class Times(nn.Cell):
    """A stand-in network of one weight, whose float16 gradient overflows at a large loss scale."""

    def __init__(self):
        super().__init__()
        self.weight = ms.Parameter(Tensor(np.ones(1, np.float32)), name="weight")

    def construct(self, x, channel_mask):
        return (x.astype(ms.float16) * self.weight.astype(ms.float16)).astype(ms.float32)


class Mean(nn.Cell):
    def construct(self, prediction, sharp):
        loss = ops.mean(prediction * sharp)
        return loss, loss, loss


def test_overflow_skips_the_update_and_lowers_the_scale(cpu):
    network = Times()
    scaler = ms.amp.DynamicLossScaler(2.0**20, 2, 2)
    step = TrainStep(network, Mean(), Adam([network.weight]), StepDecay(1e-2, 10), scaler=scaler)
    one, mask = Tensor(np.ones((1, 1), np.float32)), Tensor(np.ones((1, 96), np.float32))
    seen = []
    for _ in range(8):
        before = float(network.weight.asnumpy()[0])
        *_, scale, _, finite = step(one, one, mask)
        seen.append((float(scale), bool(finite), float(network.weight.asnumpy()[0]) != before))
    # 2^20 .. 2^16 overflow float16, 2^15 does not; after two good steps the scale doubles and overflows again
    assert [s for s, _, _ in seen[:6]] == [2.0**k for k in (20, 19, 18, 17, 16, 15)]
    assert all(finite == changed for _, finite, changed in seen)
    assert [finite for _, finite, _ in seen] == [False] * 5 + [True, True, False]
    assert int(step.skipped.asnumpy()) == 6


def test_not_a_number_leaves_the_weights_alone(cpu):
    network = build_net("MIMO-UNet", 1)
    init_weights(network, 0)
    step = make_step(network)
    before = {p.name: p.asnumpy() for p in network.get_parameters()}
    bad = Tensor(np.full((1, 3, 32, 32), np.nan, np.float32))
    loss, *_, finite = step(bad, bad, Tensor(np.ones((1, 96), np.float32)))
    assert np.isnan(float(loss)) and not bool(finite)
    for p in network.get_parameters():
        np.testing.assert_array_equal(p.asnumpy(), before[p.name])


def test_schedule_by_name(cpu):
    def rate(name, step):
        return float(make_schedule(name, 1e-4, 1e-6, 10, 40)(Tensor(step, ms.int32)).asnumpy())

    assert [rate("step", s) for s in (9, 10, 20)] == pytest.approx([1e-4, 5e-5, 2.5e-5])
    assert [rate("cosine", s) for s in (0, 20, 40)] == pytest.approx([1e-4, 5.05e-5, 1e-6])
