from pathlib import Path

import numpy as np
import pytest

from src.config import Data
from src.data.pairs import Pair, SharpPhoto, find_pairs
from src.data_load import TrainBatches, TrainPairs, loader_errors, steps_per_epoch, train_dataset
from src.errors import UserError


@pytest.fixture
def source(make_dataset):
    return TrainPairs(find_pairs(make_dataset(train=7), "train"), Data(crop_size=16), seed=5, dropout=0.1)


def epochs(dataset, count):
    """Batches of some epochs, as the framework's loop reads them: list of epochs of (blur, sharp, mask) lists."""
    iterator = dataset.create_tuple_iterator(num_epochs=count, output_numpy=True)
    return [list(iterator) for _ in range(count)]


def same(a, b):
    assert len(a) == len(b)
    for batch_a, batch_b in zip(a, b, strict=True):
        for x, y in zip(batch_a, batch_b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_batches_are_what_the_source_says(source):
    batches = TrainBatches(source, 2)
    assert len(batches) == 3
    for epoch, found in enumerate(epochs(train_dataset(TrainBatches(source, 2)), 3)):
        assert len(found) == 3
        seen = set()
        for step, (blur, sharp, mask) in enumerate(found):
            items = batches.items(3 * epoch + step)
            assert [item // 7 for item in items] == [epoch] * 2
            seen |= set(items)
            for k, item in enumerate(items):
                for got, expected in zip((blur[k], sharp[k]), source[item], strict=False):
                    np.testing.assert_array_equal(got, expected.transpose(2, 0, 1))
                np.testing.assert_array_equal(mask[k], source[item][2])
        assert len(seen) == 6


def test_values_and_shapes(source):
    blur, sharp, mask = epochs(train_dataset(TrainBatches(source, 3)), 1)[0][0]
    assert blur.shape == sharp.shape == (3, 3, 16, 16) and mask.shape == (3, 96)
    assert blur.dtype == sharp.dtype == np.uint8 and mask.dtype == np.float32
    assert blur.max() > 200 and (blur != sharp).mean() > 0.9


def test_workers_change_nothing(source):
    alone = epochs(train_dataset(TrainBatches(source, 2)), 2)
    together = epochs(train_dataset(TrainBatches(source, 2), workers=2), 2)
    for a, b in zip(alone, together, strict=True):
        same(a, b)


def test_photographs_among_the_pairs_are_blurred_differently_whatever_the_workers(make_dataset, tmp_path):
    pairs = find_pairs(make_dataset(train=2, size=(64, 72)), "train")
    mixed = [*pairs, *(SharpPhoto(pair.name, pair.sharp, pair.sharp) for pair in pairs)]
    source = TrainPairs(mixed, Data(crop_size=16), seed=5, dropout=0.1)
    first, later = source[2], source[2 + len(source)]
    assert first[0].shape == (16, 16, 3) and np.abs(first[0].astype(int) - first[1]).max() > 5
    assert not np.array_equal(first[0], later[0])
    alone = epochs(train_dataset(TrainBatches(source, 2)), 2)
    together = epochs(train_dataset(TrainBatches(source, 2), workers=2), 2)
    for a, b in zip(alone, together, strict=True):
        same(a, b)


def test_a_pair_of_one_file_is_no_photograph_to_be_blurred(source):
    same_file = [Pair(pair.name, pair.sharp, pair.sharp) for pair in source.pairs]
    blur, sharp, _ = TrainPairs(same_file, Data(crop_size=16), seed=5, dropout=0.1)[0]
    np.testing.assert_array_equal(blur, sharp)


def test_epochs_differ(source):
    first, second = epochs(train_dataset(TrainBatches(source, 2)), 2)
    assert not np.array_equal(first[0][0], second[0][0])


def test_start_in_the_middle_continues_the_run(source):
    whole = epochs(train_dataset(TrainBatches(source, 2)), 3)
    late = epochs(train_dataset(TrainBatches(source, 2), epoch=1, step=2), 2)
    same(late[0], whole[1][2:])
    same(late[1], whole[2])


def test_two_ranks_see_what_one_sees(source):
    alone = epochs(train_dataset(TrainBatches(source, 2)), 2)
    ranks = [epochs(train_dataset(TrainBatches(source, 1, rank, 2)), 2) for rank in (0, 1)]
    for epoch in range(2):
        joined = [
            [np.concatenate(c) for c in zip(a, b, strict=True)]
            for a, b in zip(ranks[0][epoch], ranks[1][epoch], strict=True)
        ]
        same(joined, alone[epoch])


def test_too_few_images_name_the_batch():
    assert steps_per_epoch(7, 2) == 3 and steps_per_epoch(8, 2, world_size=2) == steps_per_epoch(8, 2, 2) == 2
    with pytest.raises(UserError, match="--train_batch_size 4 .*needs 4 training pairs, got 3"):
        steps_per_epoch(3, 4)
    with pytest.raises(UserError, match="2 ranks needs 8"):
        steps_per_epoch(7, 4, world_size=2)
    with pytest.raises(UserError, match="--train_batch_size 4 x --accumulate_steps 2 needs 8"):
        steps_per_epoch(7, 4, 2)


def test_names_of_a_batch(source):
    batches = TrainBatches(source, 2)  # three steps an epoch: 4 is the second of the second epoch
    found, everything = batches.names(4), [pair.blur.name for pair in source.pairs]
    for name, blur in zip(found, batches[4][0], strict=True):
        index = everything.index(Path(name).name)
        np.testing.assert_array_equal(blur.transpose(1, 2, 0), source[7 + index][0])


def test_unreadable_image_is_reported_by_name(source):
    source.pairs[2].sharp.write_bytes(b"no image")
    with pytest.raises(UserError, match="sharp/3.png: not a readable image"), loader_errors():
        epochs(train_dataset(TrainBatches(source, 7), workers=2), 1)


def test_bytes_become_the_same_numbers_in_the_graph_as_outside(cpu):
    from mindspore import Tensor, jit

    from src.train_step import to_unit

    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = values.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(jit(to_unit)(Tensor(values)).asnumpy(), expected)
    np.testing.assert_array_equal(jit(to_unit)(Tensor(expected)).asnumpy(), expected)
