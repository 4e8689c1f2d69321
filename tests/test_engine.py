import numpy as np
import pytest
from mindspore import Tensor

from src.engine import MindirEngine, MindSporeEngine, export_mindir
from src.init_weights import init_weights
from src.mimo_unet import build_net
from src.restore import restore


@pytest.fixture(scope="module")
def network(cpu):
    network = build_net("MIMO-UNet", 1)
    init_weights(network, 0)
    return network


def test_engine_is_the_networks_full_resolution_at_any_size(network):
    engine = MindSporeEngine(network)
    for shape in ((1, 3, 32, 32), (2, 3, 16, 40), (1, 3, 64, 24)):
        images = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.testing.assert_array_equal(engine(images), network(Tensor(images))[2].asnumpy())


def test_mindir_reloads_with_a_difference_of_zero(network, tmp_path):
    path = export_mindir(network, tmp_path / "net")
    assert path == tmp_path / "net.mindir"
    engine, exported = MindSporeEngine(network), MindirEngine(path)
    for shape in ((1, 3, 32, 32), (2, 3, 16, 40)):
        images = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.testing.assert_array_equal(exported(images), engine(images))


def test_dotted_names_keep_their_dots(network, tmp_path):
    assert export_mindir(network, tmp_path / "v1.2", batch_size=1) == tmp_path / "v1.2.mindir"
    assert (tmp_path / "v1.2.mindir").exists()


def test_rotation_ensemble_of_the_network_is_equivariant(network):
    engine = MindSporeEngine(network)
    images = np.random.default_rng(1).random((1, 24, 33, 3), dtype=np.float32)
    turned = restore(np.rot90(images, axes=(1, 2)), engine, "rot4")
    expected = np.rot90(restore(images, engine, "rot4", max_pixels=10**6), axes=(1, 2))
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    assert np.abs(restore(images, engine) - restore(images, engine, "rot4")).max() > 1e-3  # it does something
