import numpy as np
import pytest

from src.data_load import EpochSampler, TrainPairs, batch_names, steps_per_epoch, train_dataset
from src.errors import UserError
from src.picture_files import find_pairs


@pytest.fixture
def source(make_dataset):
    return TrainPairs(find_pairs(make_dataset(train=7), "train"), crop_size=16, seed=5, mask_channels=96, dropout=0.1)


def epochs(dataset, count):
    """Batches of some epochs, as the framework's loop reads them: list of epochs of (blur, sharp, mask) lists."""
    iterator = dataset.create_tuple_iterator(num_epochs=count, output_numpy=True)
    return [list(iterator) for _ in range(count)]


def same(a, b):
    assert len(a) == len(b)
    for batch_a, batch_b in zip(a, b, strict=True):
        for x, y in zip(batch_a, batch_b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_batches_are_what_the_sampler_and_the_source_say(source):
    sampler = EpochSampler(7, 5, 2, 0, 1, 0, 0)
    for epoch, batches in enumerate(epochs(train_dataset(source, 2), 3)):
        items = sampler.indices(epoch)
        assert len(batches) == 3 and len({i % 7 for i in items}) == 6
        for b, batch in enumerate(batches):
            expected = [source[i] for i in items[2 * b : 2 * b + 2]]
            same([batch], [[np.stack(column) for column in zip(*expected, strict=True)]])


def test_values_and_shapes(source):
    blur, sharp, mask = epochs(train_dataset(source, 3), 1)[0][0]
    assert blur.shape == sharp.shape == (3, 3, 16, 16) and mask.shape == (3, 96)
    assert blur.dtype == sharp.dtype == mask.dtype == np.float32
    assert 0 <= blur.min() and blur.max() <= 1 and np.abs(blur - sharp).max() > 0.1


@pytest.mark.parametrize("workers, processes", [(2, False), (2, True)])
def test_workers_change_nothing(source, workers, processes):
    alone = epochs(train_dataset(source, 2), 2)
    together = epochs(train_dataset(source, 2, workers=workers, processes=processes), 2)
    for a, b in zip(alone, together, strict=True):
        same(a, b)


def test_epochs_differ(source):
    first, second = epochs(train_dataset(source, 2), 2)
    assert not np.array_equal(first[0][0], second[0][0])


def test_start_in_the_middle_continues_the_run(source):
    whole = epochs(train_dataset(source, 2), 3)
    late = epochs(train_dataset(source, 2, epoch=1, step=2), 2)
    same(late[0], whole[1][2:])
    same(late[1], whole[2])


def test_two_ranks_see_what_one_sees(source):
    alone = epochs(train_dataset(source, 2), 2)
    ranks = [epochs(train_dataset(source, 1, rank=rank, world_size=2), 2) for rank in (0, 1)]
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
    sampler = EpochSampler(7, 5, 2, 0, 1, 0, 0)
    expected = [str(source.pairs[i % 7].blur) for i in sampler.indices(1)[2:4]]
    assert batch_names(source, 2, 0, 1, step=4) == expected  # three steps an epoch: the second of the second epoch
