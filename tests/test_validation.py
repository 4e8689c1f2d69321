import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src import validation
from src.data.pairs import find_pairs
from src.device import Runtime
from src.errors import BadOutput


@pytest.fixture(scope="module")
def network(cpu):
    from src.init_weights import init_weights
    from src.mimo_unet import build_net

    network = build_net("MIMO-UNet", 1)
    init_weights(network, 1)
    return network


@pytest.fixture
def pairs(make_dataset):
    return find_pairs(make_dataset(train=1, test=5), "test")


def step_of(network, ema=None, scaler=None):
    """What a Validator sees of a training step."""
    return SimpleNamespace(network=network, ema=ema, scaler=scaler)


@pytest.fixture(scope="module")
def engine_once(network):
    """One compiled engine for all tests that score the same network."""
    from src.engine import MindSporeEngine

    return MindSporeEngine(network)


def validator(network, engine, pairs, runtime=None, folder=None, batch_size=1):
    made = validation.Validator(step_of(network), pairs, batch_size, runtime or Runtime("CPU"), folder)
    if engine:
        made.engine, made.take_weights = engine, lambda: None
    return made


def on_ranks(monkeypatch, world_size, make):
    """Run make(rank) on as many threads as ranks; `device.gather` hands over what all of them gave."""
    barrier, given = threading.Barrier(world_size), {}
    rank_of = threading.local()

    def gather(values):
        given[rank_of.value] = list(values)
        barrier.wait(60)
        return np.array([given[r] for r in range(world_size)], np.float64)

    monkeypatch.setattr(validation.device, "gather", gather)
    results = {}

    scores = [make(rank) for rank in range(world_size)]

    def run(rank):
        rank_of.value = rank
        results[rank] = scores[rank](7, lambda: False)

    threads = [threading.Thread(target=run, args=(r,)) for r in range(world_size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    return [results[r] for r in range(world_size)]


def without_time(summary):
    return {k: v for k, v in summary.items() if k != "seconds_per_image"}


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_score_what_one_process_scores(world_size, network, engine_once, pairs, monkeypatch):
    """Also with more ranks than images, where some have nothing to do."""
    guard = threading.Lock()  # the engine is one; real ranks have one each

    def engine(images):
        with guard:
            return engine_once(images)

    engine.multiple = 4
    alone = validator(network, engine, pairs)(7)
    together = on_ranks(
        monkeypatch, world_size, lambda rank: validator(network, engine, pairs, Runtime("CPU", rank, world_size))
    )
    assert alone["images"] == 5 and alone["psnr"] > 0
    for summary in together:
        assert without_time(summary) == pytest.approx(without_time(alone), abs=1e-9)


def test_batch_size_changes_no_score(network, engine_once, pairs):
    one, three = (validator(network, engine_once, pairs, batch_size=b)(0) for b in (1, 3))
    assert without_time(three) == pytest.approx(without_time(one), abs=1e-5)


def test_without_an_average_the_trained_weights_are_scored(network, engine_once, pairs):
    own = validator(network, None, pairs[:1])(0)  # None: it makes its own engine
    assert without_time(own) == pytest.approx(without_time(validator(network, engine_once, pairs[:1])(0)), abs=1e-4)


def test_without_openvino_mindspore_scores_and_says_so_once(network, pairs, monkeypatch, capsys):
    fast = validator(network, None, pairs[:2])(0)
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "openvino", None)
    slow = validator(network, None, pairs[:2])
    validator(network, None, pairs, Runtime("CPU", 1, 2))  # another rank
    for step in range(2):
        assert without_time(slow(step)) == pytest.approx(without_time(fast), abs=1e-4)
    expected = "validation: by MindSpore; OpenVINO, which is faster, needs openvino (python -m pip install openvino)\n"
    assert capsys.readouterr().out == expected


def test_weights_of_the_moving_average_are_the_ones_scored(network, pairs, cpu):
    """Scores of the average equal those of a network that has these weights, and follow when it changes."""
    from mindspore import Parameter, Tensor

    from src.init_weights import init_weights
    from src.mimo_unet import build_net

    def other(seed):
        made = build_net("MIMO-UNet", 1)
        init_weights(made, seed)
        return [p.asnumpy() for p in made.get_parameters()]

    ema = [Parameter(Tensor(a), name=f"ema{i}") for i, a in enumerate(other(2))]
    score = validation.Validator(step_of(network, ema), pairs, 1, Runtime("CPU"))
    weights = [p.asnumpy().copy() for p in network.get_parameters()]
    raw, average = validator(network, None, pairs)(0), score(0)
    assert abs(raw["psnr"] - average["psnr"]) > 1e-4
    for p, a in zip(ema, weights, strict=True):
        p.set_data(Tensor(a))
    assert score(1)["psnr"] == pytest.approx(raw["psnr"], abs=1e-9)
    for p, a in zip(network.get_parameters(), weights, strict=True):
        np.testing.assert_array_equal(p.asnumpy(), a)  # scoring leaves the weights in training alone


def test_strips_that_cannot_be_written_are_reported_once_and_change_no_score(
    network, engine_once, pairs, tmp_path, capsys
):
    (tmp_path / "samples").touch()
    score = validator(network, engine_once, pairs, folder=tmp_path)
    assert without_time(score(1)) == without_time(score(2)) == without_time(validator(network, engine_once, pairs)(1))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'samples'} cannot be written (") and line.endswith(
        "the training continues without it"
    )


def test_strips_of_the_first_pairs_are_written_below_the_step(network, engine_once, pairs, tmp_path):
    validator(network, engine_once, pairs, folder=tmp_path)(120)
    files = sorted((tmp_path / "samples").rglob("*.png"))
    assert [str(f.relative_to(tmp_path)) for f in files] == [f"samples/00000120/{i}.png" for i in (1, 2, 3)]
    with Image.open(files[0]) as strip:
        assert strip.width >= 3 * 48 and strip.height >= 40


@pytest.mark.parametrize("rank, strips", [(0, ["1", "3", "5"]), (1, [])])
def test_rank_0_alone_writes_strips(rank, strips, network, engine_once, pairs, tmp_path, monkeypatch):
    """On several machines the others would fill folders that nobody looks at."""
    monkeypatch.setattr(validation.device, "gather", lambda values: np.array([values]))
    validator(network, engine_once, pairs, Runtime("CPU", rank, 2), tmp_path)(0)
    assert sorted(f.stem for f in (tmp_path / "samples").rglob("*.png")) == strips


def test_pictures_that_the_network_cannot_do_leave_no_score(network, pairs, tmp_path):
    def overflowing(images):
        if images.shape == seen[0]:
            raise BadOutput("NaN")
        return images

    overflowing.multiple = 4
    seen = [None]
    whole = validator(network, overflowing, pairs, folder=tmp_path / "whole")(0)
    assert whole["psnr"] == whole["psnr_input"] and len(list((tmp_path / "whole").rglob("*.png"))) == 3
    seen[0] = (1, 3, 40, 48)
    summary = validator(network, overflowing, pairs, folder=tmp_path / "none")(0)
    assert (summary["psnr"], summary["psnr_input"]) == (None, whole["psnr_input"])
    assert not list((tmp_path / "none").rglob("*.png"))


def test_stopped_half_way_is_no_score(network, engine_once, pairs):
    asked = []
    assert validator(network, engine_once, pairs)(0, lambda: asked.append(1) or len(asked) == 2) is None
    assert len(asked) == 2


def test_several_ranks_are_not_stopped_half_way(network, engine_once, pairs, monkeypatch):
    """One that left would leave the others waiting for its sums."""
    monkeypatch.setattr(validation.device, "gather", lambda values: np.array([values]))
    assert validator(network, engine_once, pairs, Runtime("CPU", 0, 2))(0, lambda: True)["images"] == 3
