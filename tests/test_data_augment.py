from collections import Counter

import numpy as np
import pytest

from src.data_augment import (
    draw_channel_mask,
    epoch_order,
    paired_crop,
    paired_flip,
    paired_rgb_permutation,
    paired_rotate90,
    sample_rng,
)


def numbered(height, width):
    """A pair whose pixels tell where they come from: (row, column, 0) in blur, (row, column, 1) in sharp."""
    rows, columns = np.mgrid[:height, :width]
    blur = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    return blur, blur + np.array([0, 0, 1], np.uint8)


def test_crop_is_the_same_window_of_both_and_reaches_every_place():
    blur, sharp = numbered(10, 12)
    corners = set()
    for i in range(300):
        b, s = paired_crop(blur, sharp, 8, sample_rng(0, 0, i))
        assert b.shape == s.shape == (8, 8, 3)
        np.testing.assert_array_equal(b[..., :2], s[..., :2])
        corners.add(tuple(b[0, 0, :2]))
    assert corners == {(r, c) for r in range(3) for c in range(5)}


def test_flip_is_of_both_left_to_right_half_of_the_time():
    blur, sharp = numbered(4, 6)
    flipped = 0
    for i in range(400):
        b, s = paired_flip(blur, sharp, sample_rng(1, 0, i))
        np.testing.assert_array_equal(b[..., :2], s[..., :2])
        is_flipped = b[0, 0, 1] == 5
        np.testing.assert_array_equal(b, blur[:, ::-1] if is_flipped else blur)
        flipped += is_flipped
    assert 150 < flipped < 250


def test_rotation_is_of_both_by_every_quarter_turn_equally_often():
    blur, sharp = numbered(4, 6)
    corners = Counter()
    for i in range(400):
        b, s = paired_rotate90(blur, sharp, sample_rng(2, 0, i))
        np.testing.assert_array_equal(b[..., :2], s[..., :2])
        corners[b.shape, tuple(b[0, 0, :2])] += 1
    assert set(corners) == {((4, 6, 3), (0, 0)), ((6, 4, 3), (0, 5)), ((4, 6, 3), (3, 5)), ((6, 4, 3), (3, 0))}
    assert max(corners.values()) < 130 and min(corners.values()) > 70


def test_colours_of_both_change_places_in_all_six_ways():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    orders = set()
    for i in range(100):
        b, s = paired_rgb_permutation(image, image + 100, sample_rng(3, 0, i))
        np.testing.assert_array_equal(b + 100, s)
        np.testing.assert_array_equal(b - b[..., :1], (image - image[..., :1])[..., :3] * 0 + (b - b[..., :1])[:1, :1])
        orders.add(tuple(b[0, 0]))
    assert len(orders) == 6


def test_draws_belong_to_seed_epoch_and_index():
    draws = {key: sample_rng(*key).random() for key in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)]}
    assert len(set(draws.values())) == 5
    assert sample_rng(1, 0, 1).random() == draws[1, 0, 1]


def test_epoch_order_is_a_new_permutation_each_epoch():
    first, second = epoch_order(1, 0, 50), epoch_order(1, 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    np.testing.assert_array_equal(first, epoch_order(1, 0, 50))


def test_epoch_order_is_drawn_once_an_epoch_and_nobody_can_change_it():
    order = epoch_order(5, 0, 50)
    assert epoch_order(5, 0, 50) is order
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 0


def test_channel_mask_keeps_the_mean():
    masks = np.stack([draw_channel_mask(sample_rng(0, 0, i), 96, 0.1) for i in range(200)])
    assert masks.dtype == np.float32
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / 0.9)}
    assert abs(masks.mean() - 1) < 0.01
    assert (draw_channel_mask(sample_rng(0, 0, 0), 96, 0.0) == 1).all()
