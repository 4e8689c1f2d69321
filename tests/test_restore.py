import numpy as np
import pytest

from src.config import ENSEMBLE_NAMES
from src.restore import ENSEMBLES, pad_to_multiple, restore

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


# ---- self-ensembles


def filter_with_a_direction(images):
    """Depends on neighbours in one direction only, as a network may: not equivariant by itself."""
    return images * np.float32(0.5) + np.roll(images, 1, axis=3) * np.float32(0.3) + np.roll(images, 1, axis=2) ** 2


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensemble_of_the_identity_is_the_identity(name):
    images = batch(5, 8)
    np.testing.assert_allclose(restore(images, lambda x: x, name), images, atol=1e-7)


@pytest.mark.parametrize("name", ["rot4", "x8"])
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_rotating_the_input_rotates_the_output(name, size):
    images = batch(*size)
    turned = restore(np.rot90(images, axes=(1, 2)), filter_with_a_direction, name)
    np.testing.assert_allclose(turned, np.rot90(restore(images, filter_with_a_direction, name), axes=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("name, axes", [("flip4", (1, 2)), ("x8", (1, 2))])
def test_flipping_the_input_flips_the_output(name, axes):
    images = batch(8, 12)
    for axis in axes:
        flipped = restore(np.flip(images, axis), filter_with_a_direction, name)
        expected = np.flip(restore(images, filter_with_a_direction, name), axis)
        np.testing.assert_allclose(flipped, expected, atol=1e-6)


def test_rot4_is_the_mean_over_the_four_rotations():
    images = batch(8, 12)
    parts = [np.rot90(restore(np.rot90(images, k, (1, 2)), filter_with_a_direction), -k, (1, 2)) for k in range(4)]
    np.testing.assert_allclose(restore(images, filter_with_a_direction, "rot4"), np.mean(parts, 0), atol=1e-6)


@pytest.mark.parametrize("name, calls", [("rot4", [2, 2]), ("flip4", [4]), ("x8", [4, 4])])
def test_together_or_one_by_one_is_the_same(name, calls):
    images = batch(8, 12, count=1)
    alone, together = RecordingEngine(filter_with_a_direction), RecordingEngine(filter_with_a_direction)
    a, b = restore(images, alone, name), restore(images, together, name, max_pixels=10**6)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert [len(x) for x in alone.inputs] == [1] * sum(calls)
    assert [len(x) for x in together.inputs] == calls


def test_config_knows_the_ensembles():
    assert tuple(ENSEMBLES) == ENSEMBLE_NAMES
