import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.config import ENSEMBLE_NAMES
from src.engine import Engine
from src.restore import (
    ENSEMBLES,
    LARGEST_TILE,
    LARGEST_WHOLE,
    SMALLEST_TILE,
    TILE_STEP,
    auto_tile,
    pad_to_multiple,
    restore,
    restore_photo,
    tile_starts,
    tile_weights,
)

BYTES_PER_PIXEL = Engine.bytes_per_pixel
SIZES = [(1, 1), (1, 2), (2, 1), (2, 3), (3, 5), (4, 4), (4, 5), (5, 8), (21, 13), (8, 12), (33, 50)]


class RecordingEngine:
    """Gives its input back through `answer`, and remembers what it got."""

    def __init__(self, answer=lambda images: images, multiple=4):
        self.answer, self.multiple, self.inputs = answer, multiple, []

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


@pytest.mark.parametrize("multiple", [4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_engine_gets_its_multiples(size, multiple):
    engine = RecordingEngine(multiple=multiple)
    images = batch(*size)
    np.testing.assert_array_equal(restore(images, engine), images)
    (given,) = engine.inputs
    n, c, h, w = given.shape
    assert (n, c, h % multiple, w % multiple) == (2, 3, 0, 0)
    assert 0 <= h - size[0] < multiple and 0 <= w - size[1] < multiple
    assert given.dtype == np.float32 and given.flags.c_contiguous
    np.testing.assert_array_equal(given[:, :, : size[0], : size[1]], images.transpose(0, 3, 1, 2))


def test_multiples_of_4_reach_the_engine_unpadded():
    images = np.zeros((1, 3, 8, 12), np.float32)
    assert pad_to_multiple(images, 4) is images  # nor copied


@given(height=st.integers(1, 40), width=st.integers(1, 40), multiple=st.sampled_from([2, 4, 8, 32]))
def test_padding_is_the_least_that_does_and_mirrors(height, width, multiple):
    images = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    padded = pad_to_multiple(images, multiple)
    assert padded.shape == (1, 3, math.ceil(height / multiple) * multiple, math.ceil(width / multiple) * multiple)

    def mirrored(length, padded_length):  # 0 1 2 1 0 1 2 ...: the border itself is not repeated
        period = max(1, 2 * (length - 1))
        return [min(i % period, period - i % period) if length > 1 else 0 for i in range(padded_length)]

    rows, columns = mirrored(height, padded.shape[2]), mirrored(width, padded.shape[3])
    np.testing.assert_array_equal(padded, images[:, :, rows][..., columns])


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


filter_with_a_direction.multiple = 4


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensemble_of_the_identity_is_the_identity(name):
    images = batch(5, 8)
    np.testing.assert_allclose(restore(images, RecordingEngine(), name), images, atol=1e-7)


@pytest.mark.parametrize("name", ["rot4", "x8"])
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_rotating_the_input_rotates_the_output(name, size):
    images = batch(*size)
    turned = restore(np.rot90(images, axes=(1, 2)), filter_with_a_direction, name)
    np.testing.assert_allclose(turned, np.rot90(restore(images, filter_with_a_direction, name), axes=(1, 2)), atol=1e-6)


def test_flipping_the_input_of_x8_flips_the_output():
    images = batch(8, 12)
    for axis in (1, 2):
        flipped = restore(np.flip(images, axis), filter_with_a_direction, "x8")
        expected = np.flip(restore(images, filter_with_a_direction, "x8"), axis)
        np.testing.assert_allclose(flipped, expected, atol=1e-6)


def test_rot4_is_the_mean_over_the_four_rotations():
    images = batch(8, 12)
    parts = [np.rot90(restore(np.rot90(images, k, (1, 2)), filter_with_a_direction), -k, (1, 2)) for k in range(4)]
    np.testing.assert_allclose(restore(images, filter_with_a_direction, "rot4"), np.mean(parts, 0), atol=1e-6)


@pytest.mark.parametrize("name, calls", [("rot4", [2, 2]), ("x8", [4, 4])])
def test_together_or_one_by_one_is_the_same(name, calls):
    images = batch(8, 12, count=1)
    alone, together = RecordingEngine(filter_with_a_direction), RecordingEngine(filter_with_a_direction)
    a, b = restore(images, alone, name), restore(images, together, name, max_pixels=10**6)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert [len(x) for x in alone.inputs] == [1] * sum(calls)
    assert [len(x) for x in together.inputs] == calls


@pytest.mark.parametrize("name, views", [("none", 1), ("rot4", 4), ("x8", 8)])
def test_every_pass_is_another_view(name, views):
    engine = RecordingEngine()
    restore(batch(8, 8, count=1), engine, name)
    assert len({x.tobytes() for x in engine.inputs}) == len(engine.inputs) == views


def test_config_knows_the_ensembles():
    assert tuple(ENSEMBLES) == ENSEMBLE_NAMES


# ---- tiles


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 40), (70, 33), (33, 130), (97, 101)])
@pytest.mark.parametrize("tile, overlap", [(0, 0), (32, 0), (32, 15), (40, 16), (64, 8), (1000, 64)])
def test_tiles_of_the_identity_are_the_photo(size, tile, overlap, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (*size, 3), dtype=dtype)
    restored = restore_photo(pixels, RecordingEngine(), tile, overlap)
    assert restored.dtype == dtype
    np.testing.assert_array_equal(restored, pixels)


@st.composite
def tilings(draw):
    """(length of a side, tile, overlap), all that `restore_photo` lets through."""
    tile = draw(st.integers(2, 80))
    return draw(st.integers(1, 300)), tile, draw(st.integers(0, (tile - 1) // 2))


@given(tilings())
def test_tiles_cover_overlap_and_add_up_to_one(tiling):
    length, tile, overlap = tiling
    starts = tile_starts(length, tile, overlap)
    total, size = np.zeros(length), min(tile, length)
    for start, weight in zip(starts, tile_weights(length, starts, tile), strict=True):
        total[start : start + size] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert starts[0] == 0 and starts[-1] + size == length
    assert all(a < b and a + size - b >= overlap for a, b in zip(starts, starts[1:], strict=False))
    assert len(starts) == 1 or size + (len(starts) - 2) * (size - overlap) < length  # one fewer would not do


@given(
    tiling=tilings(),
    height=st.integers(1, 90),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    ensemble=st.sampled_from(ENSEMBLE_NAMES),
)
def test_any_photo_comes_back_from_the_identity(tiling, height, dtype, ensemble):
    width, tile, overlap = tiling
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype=dtype)
    tile, overlap = max(tile, 16), min(overlap, 7)  # tiles of few pixels would be many
    np.testing.assert_array_equal(restore_photo(pixels, RecordingEngine(), tile, overlap, ensemble), pixels)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(0, 2**36))
def test_automatic_tiles_fit_the_memory_as_far_as_they_can(height, width, free):
    tile = auto_tile(height, width, free, BYTES_PER_PIXEL)
    if tile == 0:
        assert height * width * BYTES_PER_PIXEL <= free and height * width <= LARGEST_WHOLE
    else:
        assert tile % TILE_STEP == 0 and SMALLEST_TILE <= tile <= LARGEST_TILE
        assert tile * tile * BYTES_PER_PIXEL <= free or tile == SMALLEST_TILE


def test_tile_edges_have_no_say_where_a_neighbour_knows_better():
    starts = tile_starts(80, 48, 16)
    first, second = tile_weights(80, starts, 48)
    shared = starts[0] + 48 - starts[1]
    assert (first[-(shared // 4) :] == 0).all() and (second[: shared // 4] == 0).all()
    assert first[0] == second[-1] == 1  # the photo's own border


def test_every_tile_has_one_size_and_is_reported():
    engine, seen = RecordingEngine(), []
    restore_photo(
        np.zeros((100, 130, 3), np.uint8), engine, 48, 8, on_tile=lambda done, count: seen.append((done, count))
    )
    assert {x.shape for x in engine.inputs} == {(1, 3, 48, 48)}
    assert seen == [(i + 1, len(seen)) for i in range(12)]


def test_local_filter_is_seamless():
    """A filter that sees less far than a quarter of the overlap gives the same answer in tiles."""

    def blur(images):
        padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
        h, w = images.shape[2:]
        return sum(padded[:, :, i : i + h, j : j + w] for i in range(5) for j in range(5)).astype(np.float32) / 25

    pixels, engine = np.random.default_rng(0).integers(0, 256, (92, 120, 3), dtype=np.uint8), RecordingEngine(blur)
    np.testing.assert_array_equal(restore_photo(pixels, engine, 48, 16), restore_photo(pixels, engine))


def test_overlap_must_fit_the_tile():
    with pytest.raises(ValueError, match="less than half"):
        restore_photo(np.zeros((100, 100, 3), np.uint8), RecordingEngine(), 32, 16)


def test_auto_tile_fits_the_memory():
    assert auto_tile(720, 1280, 16 * 2**30, BYTES_PER_PIXEL) == 0
    side = auto_tile(10_000, 10_000, 4 * 2**30, BYTES_PER_PIXEL)
    assert 64 <= side <= 2048 and side % 32 == 0 and side * side * BYTES_PER_PIXEL <= 4 * 2**30
    assert auto_tile(10_000, 10_000, 0, BYTES_PER_PIXEL) == 64
    assert (
        auto_tile(1000, 10_000, 64 * 2**30, BYTES_PER_PIXEL) == LARGEST_TILE
    )  # plenty of memory, but nothing to gain by it
