import numpy as np
import pytest
from mindspore import Tensor

from src.layers import AFF, FAM, SCM, BasicConv, ResBlocks


def fill(cell, value=0.01):
    for p in cell.get_parameters():
        p.set_data(Tensor(np.full(p.shape, value, np.float32)))
    return cell


@pytest.mark.parametrize("stride, transpose, size", [(1, False, (8, 12)), (2, False, (4, 6)), (2, True, (16, 24))])
def test_convolution_sizes(cpu, stride, transpose, size):
    conv = fill(BasicConv(3, 5, 4 if transpose else 3, stride, transpose=transpose))
    assert conv(Tensor(np.ones((2, 3, 8, 12), np.float32))).shape == (2, 5, *size)


def test_relu_is_optional(cpu):
    x = Tensor(np.full((1, 1, 4, 4), -1, np.float32))
    assert fill(BasicConv(1, 1, 1), 1.0)(x).asnumpy().min() == 0
    assert fill(BasicConv(1, 1, 1, relu=False), 2.0)(x).asnumpy().max() == 0  # -1 * 2 + 2
    assert fill(BasicConv(1, 1, 3, relu=False), 1.0)(x).asnumpy().min() == -8  # nine of -1, and the bias


def test_zero_weights_leave_the_residual(cpu):
    x = Tensor(np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32))
    np.testing.assert_array_equal(ResBlocks(4, 2)(x).asnumpy(), x.asnumpy())
    np.testing.assert_array_equal(FAM(4)(x, x).asnumpy(), x.asnumpy())


def test_channels_of_the_joining_modules(cpu):
    image = Tensor(np.ones((1, 3, 8, 8), np.float32))
    assert fill(SCM(64))(image).shape == (1, 64, 8, 8)
    a, b = Tensor(np.ones((1, 2, 8, 8), np.float32)), Tensor(np.ones((1, 5, 8, 8), np.float32))
    assert fill(AFF(9, 4))(a, b, a).shape == (1, 4, 8, 8)
