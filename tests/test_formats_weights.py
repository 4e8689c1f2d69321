"""Weights in .safetensors and in PyTorch's files. More about the former in tests/test_checkpoint.py."""

import argparse
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_safetensors

from benchmarks.torch_twin import TorchMIMOUNet
from src.config import ROOT
from src.formats.weights import (
    need_file,
    parse_meta,
    read_meta,
    read_safetensors,
    read_torch,
    torch_array,
    write_safetensors,
    write_torch,
)
from tests.data_trees import error_of

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32([np.nan, -0.0])}

# ---- safetensors


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


# ---- PyTorch


def test_tensors_come_back(tmp_path):
    write_torch(tmp_path / "a.pkl", ARRAYS)
    content = torch.load(tmp_path / "a.pkl", weights_only=True)
    assert list(content) == ["model"]
    tensors = read_torch(tmp_path / "a.pkl")["model"]
    for name, array in ARRAYS.items():
        assert torch_array(tensors[name], name, tmp_path).tobytes() == array.tobytes()


def test_only_dense_numbers_are_weights(tmp_path):
    assert torch_array(torch.ones(2, 3, dtype=torch.float64).T, "a", tmp_path).flags.c_contiguous
    for tensor, words in (
        (torch.ones(1, dtype=torch.int8), "a has int8, strided"),
        (torch.ones(1, device="meta"), "a has no data"),
        (torch.ones(2, 2).to_sparse(), "a has float32, sparse_coo"),
    ):
        assert f"{words}; expected dense floating-point numbers" in error_of(torch_array, tensor, "a", tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("make", ["zip", "legacy", 0, 2, 3, 4, 5])
def test_pickle_that_wants_to_run_code(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    if isinstance(make, int):
        path.write_bytes(pickle.dumps({"model": Evil()}, protocol=make))
    else:
        torch.save({"model": Evil()}, path, _use_new_zipfile_serialization=make == "zip")
    assert error_of(read_torch, path) == (
        f"{path} was refused: it asks for {os.system.__module__}.system, code that a file of weights does not need. "
        "Nothing of it was run. Save the state dict alone where the file was made: torch.save(model.state_dict(), FILE)"
    )
    assert not (tmp_path / "hacked").exists()


def test_objects_beside_the_weights(tmp_path):
    for content, name in (
        ({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (TorchMIMOUNet(1), "benchmarks.torch_twin.TorchMIMOUNet"),
    ):
        torch.save(content, tmp_path / "a.pkl")
        assert f"was refused: it asks for {name}, code " in error_of(read_torch, tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "content",
    [b"x", b"hello world\n" * 20, b"PK\3\4" + b"x" * 100, b"\0" * 300, b"<html>Quota exceeded</html>", b'{"a": 1}'],
)
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    text = error_of(read_torch, path)
    assert text.startswith(f"{path} is damaged, cut off or not a PyTorch file ({len(content)} bytes; ")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_cut_off_download(tmp_path, zipped, kept):
    path = tmp_path / "a.pkl"
    torch.save({"model": {"a": torch.ones(1000)}}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert f"{path} is damaged, cut off or not a PyTorch file (" in error_of(read_torch, path)


def test_a_folder_is_named_with_the_weights_in_it(tmp_path):
    said = f"{tmp_path} is a folder, expected a checkpoint. In it: "
    assert error_of(need_file, tmp_path, "checkpoint") == said + "no weights"
    for name in ("last.ckpt", "best.ckpt", "net.onnx", "net.mindir", "log.csv"):
        (tmp_path / name).write_bytes(b"x")
    assert error_of(need_file, tmp_path, "checkpoint") == said + "best.ckpt, last.ckpt, net.mindir, net.onnx"
    assert error_of(need_file, tmp_path / "a.ckpt", "checkpoint").endswith("best.ckpt, last.ckpt, net.mindir, net.onnx")
