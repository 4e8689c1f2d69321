"""The examples of docs/serving.md, each run as it stands there, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from src.checkpoint import load_network, parameter_arrays
from src.engine import MindSporeEngine
from src.formats.mindir import export_mindir
from src.formats.onnx_graph import build_onnx
from src.restore import restore_photo

ROOT = Path(__file__).parent.parent
EXAMPLES = dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.S))
METADATA = {"variant": "MIMO-UNet", "num_res": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint, cpu):
    """The files that the examples name, and what they should write: expected.npy."""
    folder = tmp_path_factory.mktemp("serving")
    network = load_network(tiny_checkpoint, "MIMO-UNet", "ema")[0]
    onnx.save(build_onnx(parameter_arrays(network), 1, metadata=METADATA), folder / "MIMO-UNet.onnx")
    export_mindir(network, folder / "MIMO-UNet", metadata=METADATA)
    pixels = np.random.default_rng(0).integers(0, 256, (45, 62, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    decoded = np.asarray(Image.open(folder / "photo.jpg"))
    np.save(folder / "expected.npy", restore_photo(decoded, MindSporeEngine(network)))
    return folder


def test_every_example_is_run():
    text = (ROOT / "docs/serving.md").read_text()
    assert len(EXAMPLES) == text.count("```python") == 4
    for name, code in EXAMPLES.items():
        assert len([line for line in code.splitlines() if line]) <= 12, name


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_restores_the_photo(folder, name):
    env = {**os.environ, "PYTHONPATH": str(ROOT) if name == "repository" else ""}
    run = subprocess.run(
        [sys.executable, "-c", EXAMPLES[name]], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    restored, expected = np.asarray(Image.open(folder / "restored.png")), np.load(folder / "expected.npy")
    (folder / "restored.png").unlink()
    assert restored.shape == expected.shape == (45, 62, 3)
    assert np.abs(restored.astype(int) - expected).max() <= 1  # rounding of what differs by 1e-6
