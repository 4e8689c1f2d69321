"""MINDIR files: written from a network, and what they say about themselves."""

import os

import numpy as np
import pytest
from conftest import full_disk
from mindspore import Tensor

from src.formats.mindir import FullResolution, describe_mindir, export_mindir, to_float16
from src.init_weights import init_weights
from src.mimo_unet import build_net
from tests.data_trees import error_of


@pytest.fixture(scope="module")
def network(cpu):
    network = build_net("MIMO-UNet", 1)
    init_weights(network, 0)
    return network


def test_dotted_names_keep_their_dots(network, tmp_path):
    path = export_mindir(network, tmp_path / "v1.2", batch_size=1)
    assert path == tmp_path / "v1.2.mindir" and os.access(path, os.W_OK)


@pytest.mark.parametrize("batch_size, size, shape", [(0, None, [-1, 3, -1, -1]), (2, (16, 24), [2, 3, 16, 24])])
def test_a_file_states_its_texts_and_shapes(network, tmp_path, batch_size, size, shape):
    texts = {"variant": "MIMO-UNet", "note": "é"}
    path = export_mindir(network, tmp_path / "net", batch_size, size, metadata=texts)
    found, shapes, names = describe_mindir(path)
    assert found.items() >= texts.items() and shapes == [shape] and len(names) == 1
    assert path.name == "net.mindir" and os.stat(path).st_mode & 0o777 == 0o644


def test_full_disk_leaves_the_file_that_was_there(network, tmp_path):
    path = tmp_path / "net.mindir"
    path.write_text("good")
    with full_disk(1_000_000):
        text = error_of(export_mindir, network, tmp_path / "net")
    assert text.startswith(f"cannot save {path} (File too large: 6 MB are needed, ") and "\n" not in text
    assert path.read_text() == "good" and os.listdir(tmp_path) == ["net.mindir"]


@pytest.mark.parametrize("content", [b"no network", b"\xff" * 100])
def test_damage_is_one_line(tmp_path, content):
    (tmp_path / "a.mindir").write_bytes(content)
    text = error_of(describe_mindir, tmp_path / "a.mindir")
    assert f"is damaged, cut off or not a MINDIR file ({len(content)} bytes)" in text and "python export.py" in text


def test_scales_come_in_float32_the_finest_first(network):
    images = Tensor(np.random.default_rng(0).random((1, 3, 16, 24), dtype=np.float32))
    expected = [output.asnumpy() for output in network(images)]
    for found, wanted in zip(FullResolution(network, all_scales=True)(images), expected[::-1], strict=True):
        np.testing.assert_array_equal(found.asnumpy(), wanted)


def test_a_network_in_half_precision(cpu):
    network = to_float16(build_net("MIMO-UNet", 1))
    assert {str(param.dtype) for param in network.get_parameters()} == {"Float16"}
