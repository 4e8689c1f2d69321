"""What is compiled when: a graph takes seconds to compile, so each is compiled once."""

import numpy as np
import pytest
from mindspore.common import api
from mindspore.train import Model
from PIL import Image

from src import data_load
from src.config import Data, load_config
from src.data.pairs import find_pairs
from src.engine import MindSporeEngine
from src.mimo_unet import build_net
from src.training import build_step
from src.validation import Validator


@pytest.fixture
def compiled(monkeypatch):
    """Names of the cells that were compiled, one for each graph."""
    names = []
    original = api._CellGraphExecutor.compile

    def spy(self, cell, *args, **kwargs):
        phase, is_new = original(self, cell, *args, **kwargs)
        if is_new:
            names.append(type(cell).__name__)
        return phase, is_new

    monkeypatch.setattr(api._CellGraphExecutor, "compile", spy)
    return names


def test_the_spy_sees_a_second_shape_of_a_fixed_graph(cpu, compiled):
    from mindspore import Tensor

    network = build_net("MIMO-UNet", 1)
    for size, count in ((8, 1), (8, 1), (12, 2)):
        network(Tensor(np.zeros((1, 3, size, size), np.float32)))
        assert compiled == ["MIMOUNet"] * count


def test_training_compiles_its_step_once(cpu, compiled, make_dataset):
    """Not again in the second epoch, nor after a validation."""
    pairs = find_pairs(make_dataset(train=4, test=2), "train")
    options = ["--device_target=CPU", "--num_res=1", "--crop_size=32", "--conv_kernels=framework"]
    step = build_step(load_config("train", [*options, "--train_batch_size=2"]), cpu, steps_per_epoch=2)
    batches = data_load.TrainBatches(data_load.TrainPairs(pairs, Data(crop_size=32), 1, 0.0), 2)
    validate = Validator(step, pairs, 1, cpu)
    validate.with_openvino = False
    model = Model(step)
    for _ in range(2):
        model.train(2, data_load.train_dataset(batches), dataset_sink_mode=False)
        validate(2)
    assert int(step.global_step.asnumpy()) == 8
    assert sorted(compiled) == ["FullResolution", "TrainStep"]


def test_images_of_many_sizes_share_one_graph(cpu, compiled):
    engine = MindSporeEngine(build_net("MIMO-UNet", 1))
    for count, height, width in ((1, 16, 24), (1, 16, 24), (2, 16, 24), (1, 40, 8), (3, 12, 52)):
        assert engine(np.zeros((count, 3, height, width), np.float32)).shape == (count, 3, height, width)
    assert compiled == ["FullResolution"]


def test_where_shapes_must_be_fixed_each_size_is_compiled_once(cpu, compiled, monkeypatch):
    network = build_net("MIMO-UNet", 1)
    engine, any_size = MindSporeEngine(network, one_graph=False), MindSporeEngine(network)
    compiled.clear()
    images = np.random.default_rng(0).random((3, 3, 16, 24), dtype=np.float32)
    for count, height, graphs in ((1, 16, 1), (1, 16, 1), (2, 16, 2), (1, 8, 3), (2, 16, 3)):
        part = images[:count, :, :height]
        np.testing.assert_array_equal(engine(part), any_size(part))
        assert compiled == ["FullResolution"] * graphs
    assert "for each image size" in engine.description
    monkeypatch.setattr("mindspore.get_context", {"device_target": "Ascend"}.get)
    assert MindSporeEngine(network).description == "MindSpore on Ascend, compiled for each image size, fp32"
    assert len(compiled) == 3


def test_validation_images_of_several_sizes_share_one_graph(cpu, compiled, make_dataset):
    root = make_dataset(train=0, test=3)
    pairs = find_pairs(root, "test")
    for i, pair in enumerate(pairs):
        for path in (pair.blur, pair.sharp):
            Image.fromarray(np.full((20 + 7 * i, 30, 3), 9 * i, np.uint8)).save(path)
    options = ["--device_target=CPU", "--num_res=1", "--crop_size=32", "--conv_kernels=framework"]
    step = build_step(load_config("train", options), cpu, steps_per_epoch=2)
    validate = Validator(step, pairs, 2, cpu)
    assert validate(0)["images"] == 3 and compiled == []  # by OpenVINO
    validate.with_openvino = False
    assert validate(0)["images"] == 3 and compiled == ["FullResolution"]
