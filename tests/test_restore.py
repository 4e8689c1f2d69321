import numpy as np
import pytest

from src.restore import pad_to_multiple, restore

SIZES = [(1, 1), (1, 2), (2, 1), (2, 3), (3, 5), (4, 4), (4, 5), (5, 8), (21, 13), (8, 12), (33, 50)]


class RecordingEngine:
    """Gives its input back through `answer`, and remembers what it got."""

    def __init__(self, answer=lambda images: images):
        self.answer, self.inputs = answer, []

    def __call__(self, images):
        self.inputs.append(images)
        return self.answer(images)


def batch(height, width, count=2):
    return np.random.default_rng(height * 100 + width).random((count, height, width, 3), dtype=np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_identity_engine_gives_the_input_back(size):
    images = batch(*size)
    before = images.copy()
    restored = restore(images, RecordingEngine())
    assert restored.dtype == np.float32 and restored.flags.c_contiguous
    np.testing.assert_array_equal(restored, before)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("size", SIZES)
def test_engine_gets_multiples_of_4(size):
    engine = RecordingEngine()
    images = batch(*size)
    restore(images, engine)
    (given,) = engine.inputs
    n, c, h, w = given.shape
    assert (n, c, h % 4, w % 4) == (2, 3, 0, 0)
    assert 0 <= h - size[0] < 4 and 0 <= w - size[1] < 4
    assert given.dtype == np.float32 and given.flags.c_contiguous
    np.testing.assert_array_equal(given[:, :, : size[0], : size[1]], images.transpose(0, 3, 1, 2))


def test_multiples_of_4_reach_the_engine_unpadded():
    images = np.zeros((1, 3, 8, 12), np.float32)
    assert pad_to_multiple(images).shape == images.shape


def test_padding_mirrors_at_the_bottom_and_right():
    images = np.arange(5 * 6, dtype=np.float32).reshape(1, 1, 5, 6)
    padded = pad_to_multiple(images)
    rows, columns = [0, 1, 2, 3, 4, 3, 2, 1], [0, 1, 2, 3, 4, 5, 4, 3]  # the edge itself is not repeated
    np.testing.assert_array_equal(padded[0, 0], images[0, 0][np.ix_(rows, columns)])


def test_mirroring_side_shorter_than_the_padding():
    column = np.array([1, 2], np.float32).reshape(1, 1, 2, 1)
    padded = pad_to_multiple(column)[0, 0]
    np.testing.assert_array_equal(padded, np.repeat([[1], [2], [1], [2]], 4, axis=1))


def test_padding_to_another_multiple():
    assert pad_to_multiple(np.zeros((1, 3, 9, 16), np.float32), 8).shape == (1, 3, 16, 16)


def test_output_is_the_engines_and_not_clipped():
    images = batch(6, 7)
    restored = restore(images, RecordingEngine(lambda x: x * 3 - 1))
    np.testing.assert_array_equal(restored, images * 3 - 1)
    assert restored.min() < 0 and restored.max() > 1


def test_channels_and_axes_keep_their_order():
    images = np.zeros((1, 5, 6, 3), np.float32)
    images[0, 1, 4, 2] = 1
    engine = RecordingEngine()
    restore(images, engine)
    assert engine.inputs[0][0, 2, 1, 4] == 1
