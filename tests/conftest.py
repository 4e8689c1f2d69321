"""What several test files need: the device, the reference vectors, small images."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

os.environ.setdefault("GLOG_v", "3")  # before the framework is imported: its warnings would bury a failure
# Property tests: the same examples in every run, and no limit of time, which a busy machine would break.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tests")
DATA = Path(__file__).parent / "data"
# file -> (variant, residual blocks, salt, input shape): how the reference outputs were made
REFERENCES = {
    "mimo_unet_num_res_1": ("MIMO-UNet", 1, "tiny-", (2, 3, 32, 32)),
    "mimo_unet": ("MIMO-UNet", 0, "base-", (1, 3, 64, 64)),
    "mimo_unet_plus": ("MIMO-UNetPlus", 0, "plus-", (1, 3, 64, 64)),
    "mimo_unet_lite": ("MIMO-UNetLite", 0, "lite-", (1, 3, 64, 64)),
}

# Under nohup or in the background of a shell, tests would inherit ignored signals and hand them to what they start.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def draw_weight(name, shape):
    """The reference weight of a salted parameter name."""
    bound = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return np.random.RandomState(zlib.crc32(name.encode())).uniform(-bound, bound, shape).astype(np.float32)


def draw_image(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode())).rand(*shape).astype(np.float32)


@pytest.fixture(scope="session")
def cpu():
    """MindSpore on the CPU, graph mode, as the scripts use it."""
    from src import device

    return device.setup("CPU")


@pytest.fixture(scope="session")
def reference():
    """name -> (network with the reference weights, input, label, recorded results)."""

    def load(name):
        from mindspore import Tensor

        from src.mimo_unet import build_net

        variant, num_res, salt, shape = REFERENCES[name]
        network = build_net(variant, num_res)
        for param in network.get_parameters():
            param.set_data(Tensor(draw_weight(salt + param.name, param.shape)))
        images = [draw_image(salt + kind, shape) for kind in ("input", "label")]
        return network, *images, np.load(DATA / f"{name}.npz")

    return load


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A network of one residual block a stage, of random weights."""
    code = """
import sys
from src import device
device.setup("CPU")
from src.checkpoint import parameter_arrays, save_checkpoint
from src.init_weights import init_weights
from src.mimo_unet import build_net
net = build_net("MIMO-UNet", 1)
init_weights(net, 1)
save_checkpoint(sys.argv[1], parameter_arrays(net), {"variant": "MIMO-UNet"})
"""
    path = tmp_path_factory.mktemp("model") / "tiny.ckpt"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=DATA.parent.parent, check=True, timeout=120)
    return path


def write_dataset(root, train=4, test=2, size=(40, 48)):
    """Write a paired data set of noise images; returns its root."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for kind in ("blur", "sharp"):
            folder = root / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{i + 1}.png")
    return root


@contextlib.contextmanager
def full_disk(size):
    """No file of this process can grow beyond `size` bytes: as on a full disk, a write fails half way."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture(scope="session")
def sample_trees(tmp_path_factory):
    """A folder with GOPRO_Large, a small sample set, and dataset, arranged from it. Copy them before changing them."""
    from src.data.gopro import arrange
    from src.data.sample_data import make_sample_set

    root = tmp_path_factory.mktemp("sample_trees")
    make_sample_set(root / "GOPRO_Large", train=16, test=8, height=96, width=144, frames=5)
    arrange(root / "GOPRO_Large", root / "dataset", progress=False)
    return root


@pytest.fixture
def pair_folder(make_dataset):
    """Five training pairs and two test pairs."""
    return make_dataset(train=5, test=2)


@pytest.fixture
def packed(pair_folder, tmp_path):
    """`pair_folder`, packed."""
    from src.data.packing import pack

    pack(pair_folder, tmp_path / "packed", progress=False)
    return tmp_path / "packed"


@pytest.fixture
def make_dataset(tmp_path):
    """make_dataset(train=4, test=2, size=(40, 48), root="dataset") -> root of a data set of noise images."""
    return lambda root="dataset", **counts: write_dataset(tmp_path / root, **counts)
