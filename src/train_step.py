"""One optimisation step as one compiled cell: gradients, loss scale, overflow skip, clipping, Adam, EMA.

`mindspore.train.Model` gets the cell as its whole network, because `Model`'s own mixed precision refuses CPU and
supports neither accumulation nor EMA. The global step is a Parameter of the cell, because `Model`'s counters restart
when a run is resumed.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

VALUES = ("loss", "content", "fft", "lr", "scale", "grad_norm", "finite")  # what a step returns, in order
HISTORY = "history"  # parameter with the results of past steps, which a resumed run does not need


# The framework's way to apply a function to every tensor of a tuple inside a compiled graph.
_each = ops.HyperMap()
_add = ops.MultitypeFuncGraph("add")
_scale = ops.MultitypeFuncGraph("scale")
_zero = ops.MultitypeFuncGraph("zero")
_square_sum = ops.MultitypeFuncGraph("square_sum")
_average = ops.MultitypeFuncGraph("average")


@_add.register("Tensor", "Tensor")
def _add_one(total: Parameter, gradient: Tensor) -> Tensor:
    return ops.assign_add(total, gradient)


@_scale.register("Tensor", "Tensor")
def _scale_one(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


@_zero.register("Tensor")
def _zero_one(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))


@_square_sum.register("Tensor")
def _square_sum_one(gradient: Tensor) -> Tensor:
    return ops.sum(ops.square(gradient))


@_average.register("Tensor", "Tensor", "Tensor")
def _average_one(decay: Tensor, average: Parameter, value: Parameter) -> Tensor:
    return ops.assign(average, average * decay + value * (1 - decay))


def make_scaler(loss_scale: str) -> ms.amp.LossScaler:
    """Loss scale of a float16 network: a number, or 'dynamic', which starts at 65,536, halves at an overflow and
    doubles after 2,000 good steps."""
    if loss_scale == "dynamic":
        return ms.amp.DynamicLossScaler(scale_value=2.0**16, scale_factor=2, scale_window=2000)
    return ms.amp.StaticLossScaler(float(loss_scale))


class Adam(nn.Cell):
    """Adam as in PyTorch, which trained the published weights: eps is added after the bias correction of v.

    `nn.Adam` adds it before, which changes losses by up to 1e-4. The fused kernel computes
    lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + e); with e = eps * sqrt(1 - beta2^t) that is PyTorch's
    update.
    """

    def __init__(self, parameters: list[Parameter], beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.moment1 = self.parameters.clone("moment1", "zeros")
        self.moment2 = self.parameters.clone("moment2", "zeros")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.update = ops.Adam()

    def construct(self, gradients: tuple[Tensor, ...], learning_rate: Tensor, step: Tensor) -> bool:
        """Update the parameters. `step` counts from 0, float32."""
        beta1_power = ops.pow(self.beta1, step + 1)
        beta2_power = ops.pow(self.beta2, step + 1)
        eps = self.eps * ops.sqrt(1 - beta2_power)
        done = True
        for i in range(len(self.parameters)):
            state = (self.parameters[i], self.moment1[i], self.moment2[i], beta1_power, beta2_power, learning_rate)
            updated = self.update(*state, self.beta1, self.beta2, eps, gradients[i])
            done = ops.depend(done, updated)
        return done


class StepDecay(nn.Cell):
    """Learning rate by step: `start`, halved every `steps_per_decay` steps (paper: every 500 epochs)."""

    def __init__(self, start: float, steps_per_decay: int):
        super().__init__()
        self.start, self.steps_per_decay = start, steps_per_decay

    def construct(self, step: Tensor) -> Tensor:
        """`step` int32, counted from 0 -> float32."""
        decays = (step // self.steps_per_decay).astype(ms.float32)
        return self.start * ops.pow(Tensor(0.5, ms.float32), decays)


class CosineDecay(nn.Cell):
    """Learning rate by step: half a cosine from `start` at step 0 to `end` at step `total_steps`."""

    def __init__(self, start: float, end: float, total_steps: int):
        super().__init__()
        self.start, self.end, self.total_steps = start, end, total_steps

    def construct(self, step: Tensor) -> Tensor:
        """`step` int32, counted from 0 -> float32."""
        progress = ops.minimum(step.astype(ms.float32) / self.total_steps, Tensor(1.0, ms.float32))
        return self.end + (self.start - self.end) * 0.5 * (1 + ops.cos(math.pi * progress))


def make_schedule(name: str, start: float, end: float, decay_steps: int, total_steps: int) -> nn.Cell:
    """`CosineDecay` from `start` to `end` in `total_steps` for 'cosine', else `StepDecay` every `decay_steps`."""
    return CosineDecay(start, end, total_steps) if name == "cosine" else StepDecay(start, decay_steps)


def to_unit(image: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; float32 is unchanged. Done on the device, to transfer a quarter of the bytes."""
    return image.astype(ms.float32) / 255 if image.dtype == ms.uint8 else image


class ReduceEach(nn.Cell):
    """Mean over the ranks, with one AllReduce per gradient, which is fastest on CPU and which Ascend fuses."""

    def __init__(self, parameters: tuple[Parameter, ...], world_size: int):
        super().__init__(auto_prefix=False)
        self.world_size = world_size
        self.gradients = nn.DistributedGradReducer(parameters, mean=True, degree=world_size)
        self.losses = ops.AllReduce()

    def construct(self, losses: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.losses(losses) / self.world_size, self.gradients(gradients)


class ReduceTogether(nn.Cell):
    """Mean over the ranks with one AllReduce of all values concatenated, for GPU.

    MindSpore's GPU backend fails to run a compiled step with several: "The pointer[send_actor] is null".
    """

    def __init__(self, world_size: int):
        super().__init__(auto_prefix=False)
        self.world_size = world_size
        self.all_reduce = ops.AllReduce()

    def construct(self, losses: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        total = self.all_reduce(ops.concat([losses] + [g.reshape(-1) for g in gradients])) / self.world_size
        start = losses.shape[0]
        means = [total[:start]]
        for gradient in gradients:
            means.append(total[start : start + gradient.size].reshape(gradient.shape))
            start += gradient.size
        return means[0], tuple(means[1:])


class ForwardLoss(nn.Cell):
    """Blurred batch -> (scaled total, total, content, fft)."""

    def __init__(self, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss

    def construct(self, blur: Tensor, sharp: Tensor, channel_mask: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        total, content, fft = self.loss(self.network(blur, channel_mask), sharp)
        return total * scale, total, content, fft


class TrainStep(nn.Cell):
    """One optimisation step: `Model(TrainStep(...)).train(...)`.

    Args:
        micro_batches: number of equal parts of the batch, whose gradients are averaged: the same update, up to float
            rounding, in a fraction of the memory.
        clip_norm: gradients with a larger global norm are scaled down to it; 0 = never.
        ema_decay: decay of an exponential moving average of the weights, kept as `ema.<name>`; 0 = none. Warms up as
            min(ema_decay, (1 + t) / (10 + t)), so that the random initial weights are soon forgotten.
        scaler: for a float16 network (`make_scaler`), None for float32.
        world_size: if more than 1, gradients and reported losses are averaged over the ranks.
        reduce_together: use `ReduceTogether`, which GPU needs.
        history: number of last steps whose results stay on the device for `recent`; 0 = none.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        optimizer: Adam,
        schedule: nn.Cell,
        micro_batches: int = 1,
        clip_norm: float = 0.0,
        ema_decay: float = 0.0,
        scaler: ms.amp.LossScaler | None = None,
        world_size: int = 1,
        reduce_together: bool = False,
        history: int = 0,
    ):
        super().__init__(auto_prefix=False)
        self.network = network.set_train()
        self.optimizer = optimizer
        self.schedule = schedule
        self.micro_batches = micro_batches
        self.clip_norm = clip_norm
        self.ema_decay = ema_decay
        self.scaler = scaler
        self.global_step = Parameter(Tensor(0, ms.int32), name="global_step", requires_grad=False)
        self.skipped = Parameter(Tensor(0, ms.int32), name="skipped_steps", requires_grad=False)
        self.history = None
        if history:
            nothing = Tensor(np.zeros((history, len(VALUES))), ms.float32)
            self.history = Parameter(nothing, name=HISTORY, requires_grad=False)
        self.forward_loss = ForwardLoss(network, loss)
        # has_aux: differentiate only the scaled total, not the sum of all outputs.
        self.value_and_grad = ms.value_and_grad(self.forward_loss, None, optimizer.parameters, has_aux=True)
        self.totals = optimizer.parameters.clone("gradient", "zeros") if micro_batches > 1 else None
        self.ema = optimizer.parameters.clone("ema", "same") if ema_decay > 0 else None
        self.reduce = None
        if world_size > 1:
            each = optimizer.parameters
            self.reduce = ReduceTogether(world_size) if reduce_together else ReduceEach(each, world_size)

    def construct(self, blur: Tensor, sharp: Tensor, channel_mask: Tensor) -> tuple[Tensor, ...]:
        """One step on (B, 3, h, w), (B, 3, h, w), (B, 96); images are uint8, or float32 in [0, 1].

        Returns:
            Scalars: total, content and Fourier loss (means over the batch and the ranks), learning rate, loss scale,
            global norm of the gradients before clipping, and whether it was finite. If not, the step updates nothing
            and counts as skipped.
        """
        blur, sharp = to_unit(blur), to_unit(sharp)
        scale = self.scaler.scale_value if self.scaler is not None else Tensor(1.0, ms.float32)
        if self.micro_batches > 1:
            losses, gradients = self.accumulate(blur, sharp, channel_mask, scale)
        else:
            values, gradients = self.value_and_grad(blur, sharp, channel_mask, scale)
            losses = ops.stack(values[1:])
        if self.reduce is not None:
            losses, gradients = self.reduce(losses, gradients)
        gradients = _each(ops.partial(_scale, 1.0 / (scale * self.micro_batches)), gradients)
        losses = losses / self.micro_batches  # (3,)
        learning_rate = self.schedule(self.global_step)

        norm = ops.sqrt(ops.addn(_each(_square_sum, gradients)))
        finite = ops.isfinite(norm)
        if self.clip_norm > 0:
            gradients = _each(ops.partial(_scale, ops.minimum(self.clip_norm / (norm + 1e-6), norm * 0 + 1)), gradients)
        step = self.global_step.astype(ms.float32)
        if finite:
            losses = ops.depend(losses, self.optimizer(gradients, learning_rate, step))
            if self.ema_decay > 0:
                decay = ops.minimum((1 + step) / (10 + step), Tensor(self.ema_decay, ms.float32))
                losses = ops.depend(losses, _each(ops.partial(_average, decay), self.ema, self.optimizer.parameters))
        else:
            losses = ops.depend(losses, ops.assign_add(self.skipped, Tensor(1, ms.int32)))
        scale = scale * 1  # a copy, taken before the adjustment for the next step
        if self.scaler is not None:
            losses = ops.depend(losses, self.scaler.adjust(finite))
        losses = ops.depend(losses, ops.assign_add(self.global_step, Tensor(1, ms.int32)))
        if self.history is not None:
            others = ops.stack((learning_rate, scale, norm, finite.astype(ms.float32)))
            row = ops.concat((losses, others)).reshape(1, -1)
            losses = ops.depend(losses, ops.assign(self.history, ops.concat((self.history[1:], row))))
        return losses[0], losses[1], losses[2], learning_rate, scale, norm, finite

    def recent(self, steps: int) -> np.ndarray:
        """Results of the last `steps` steps, (steps, len(VALUES)) float32, oldest first. Waits for the device."""
        assert self.history is not None and steps <= len(self.history)
        return self.history.asnumpy()[len(self.history) - steps :]

    def accumulate(self, blur: Tensor, sharp: Tensor, channel_mask: Tensor, scale: Tensor) -> tuple:
        """Sums of losses (3,) and gradients over the parts.

        The loop is part of the graph and not unrolled, so all parts share one set of buffers.
        """
        size = blur.shape[0] // self.micro_batches
        losses = ops.depend(ops.zeros((3,), ms.float32), _each(_zero, self.totals))
        part = Tensor(0, ms.int32)
        while part < self.micro_batches:
            rows = part * size + ops.arange(0, size, dtype=ms.int32)
            values, gradients = self.value_and_grad(
                ops.gather(blur, rows, 0), ops.gather(sharp, rows, 0), ops.gather(channel_mask, rows, 0), scale
            )
            losses = ops.depend(losses + ops.stack(values[1:]), _each(_add, self.totals, gradients))
            part = part + 1
        return losses, self.totals
