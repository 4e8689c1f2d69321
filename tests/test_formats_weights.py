"""Weights in .safetensors, and descriptions of checkpoints. More about both in tests/test_checkpoint.py."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from src.config import ROOT
from src.formats.weights import (
    need_file,
    parse_meta,
    read_meta,
    read_safetensors,
    write_safetensors,
)
from tests.data_trees import error_of

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32([np.nan, -0.0])}


def test_arrays_and_description_come_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS | {"turned": np.asfortranarray(ARRAYS["b"])}, {"epoch": 3, "best": 1 / 3})
    arrays, meta = read_safetensors(path)
    assert meta == {"epoch": 3, "best": 1 / 3} and [p.name for p in tmp_path.iterdir()] == [path.name]
    for name, array in (ARRAYS | {"turned": ARRAYS["b"]}).items():
        assert arrays[name].tobytes() == array.tobytes() and arrays[name].shape == array.shape


@pytest.mark.parametrize("text", [None, "", "{", "[1]", b"\xff{}", 7])
def test_descriptions_of_others_are_none(text):
    assert parse_meta(text, Path("a.ckpt")) == {}


HUGE = "9" * 5000  # more digits than Python reads


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 100000, r"cannot be read \(nested too deeply\)"),
        (f'{{"step": {HUGE}}}', "cannot be read"),
        ('{"variant": "U-Net"}', "has 'U-Net' for variant, expected one of MIMO-UNet, "),
        ('{"variant": ["MIMO-UNet"]}', "has a list for variant"),
        ('{"step": "abc"}', "has 'abc' for step, expected a whole number from 0 to 2147483647"),
        ('{"step": -1}', "has -1 for step"),
        ('{"step": true}', "has True for step"),
        ('{"step": 2147483648}', "has 2147483648 for step"),
        ('{"epoch": 1.5}', "has 1.5 for epoch"),
        ('{"steps_per_epoch": 0}', "has 0 for steps_per_epoch, expected a whole number from 1"),
        ('{"launch": null}', "has None for launch"),
        ('{"best_psnr": NaN}', "has nan for best_psnr, expected a number"),
        ('{"run": {"a": 1}}', "has a dict for run, expected a text"),
        ('{"config": []}', "has a list for config, expected an object"),
        ('{"config": {"dataset_root": 7}}', "has 7 for config.dataset_root, expected a text"),
        ('{"config": {"epochs_num": "a\\nb"}}', r"has 'a\\nb' for config.epochs_num, expected a number"),
        ('{"log_part": {"loss": "x"}}', "has a dict for log_part, expected an object of numbers"),
        ('{"log_part": {"count": -1}}', "for log_part"),
    ],
)
def test_crafted_descriptions_are_refused_in_one_line(text, words, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save_safetensors(ARRAYS, {"meta": text}))
    for read in (lambda: parse_meta(text, path), lambda: read_safetensors(path)):
        error = error_of(read)
        assert error.startswith(f"{path}: its description ") and "\n" not in error and len(error) < 400
        assert re.search(words, error) and "take another checkpoint" in error
    assert read_meta(path) == {}


def test_mindspore_is_not_needed():
    code = "import sys, src.formats.weights; print({'mindspore', 'torch', 'safetensors'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_a_folder_is_named_with_the_weights_in_it(tmp_path):
    said = f"{tmp_path} is a folder, expected a checkpoint. In it: "
    assert error_of(need_file, tmp_path, "checkpoint") == said + "no weights"
    for name in ("last.ckpt", "best.ckpt", "net.onnx", "net.mindir", "log.csv"):
        (tmp_path / name).write_bytes(b"x")
    assert error_of(need_file, tmp_path, "checkpoint") == said + "best.ckpt, last.ckpt, net.mindir, net.onnx"
    assert error_of(need_file, tmp_path / "a.ckpt", "checkpoint").endswith("best.ckpt, last.ckpt, net.mindir, net.onnx")
