"""Weights in PyTorch's files."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch

from benchmarks.torch_twin import TorchMIMOUNet
from src.formats.torch_files import read_torch, torch_array, write_torch
from tests.data_trees import error_of

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32([np.nan, -0.0])}


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
