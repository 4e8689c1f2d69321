"""What deblur.py and app.py let the user choose alike."""

from pathlib import Path

import pytest

from src import deblur_options, device, weight_files
from src.config import ArgumentParser
from src.deblur_options import add_options, check_options, choose_model, open_engine
from tests.data_trees import error_of


def options(*argv):
    parser = ArgumentParser("a script")
    add_options(parser)
    return parser.parse_args([*argv])


def test_tile_in_pixels_or_by_memory():
    assert check_options(options()) is None
    assert check_options(options("--tile", "0")) == 0
    assert check_options(options("--tile", "64", "--tile_overlap", "31")) == 64


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--tile", "32"], "--tile: got 32, expected auto, 0 or a number of 64 or more"),
        (["--tile", "big"], "--tile: got big"),
        (["--tile", "64", "--tile_overlap", "32"], "--tile_overlap: got 32"),
        (["--quality", "0", "--threads", "-1"], "--quality: got 0, expected 1 to 100; --threads: got -1"),
        (["--max_pixels", "0"], "--max_pixels: got 0, expected 1 or more"),
    ],
)
def test_wrong_numbers_are_named_together(argv, words):
    assert words in error_of(check_options, options(*argv))


def test_numbers_of_the_script_itself_are_checked_too():
    args = options()
    args.port = 0
    assert error_of(check_options, args, port=1) == "--port: got 0, expected 1 or more"


def test_the_model_that_is_given_else_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "sample.ckpt")
    (tmp_path / "model.onnx").touch()
    assert choose_model(str(tmp_path / "model.onnx")) == (tmp_path / "model.onnx", "")
    assert "Did you mean" in error_of(choose_model, str(tmp_path / "modle.onnx"))
    assert error_of(choose_model, str(tmp_path)).endswith(
        "is a folder, expected a checkpoint or exported network. In it: model.onnx"
    )
    assert "--model: a trained network is needed" in error_of(choose_model, "")
    (tmp_path / "sample.ckpt").touch()
    path, remark = choose_model("")
    assert path == tmp_path / "sample.ckpt" and "the sample that comes with the repository" in remark


def test_mindspore_is_set_up_for_its_own_files_alone(monkeypatch):
    opened, targets = [], []
    monkeypatch.setattr(deblur_options, "load_engine", lambda path, **words: opened.append((path.name, words)))
    monkeypatch.setattr(device, "setup", lambda target, **_: targets.append(target))
    args = options("--threads", "3", "--precision", "bf16", "--model_name", "MIMO-UNetPlus")
    for name, set_up in (("a.onnx", []), ("a.ckpt", ["CPU"])):
        open_engine(Path(name), args)
        assert targets == set_up
    assert opened[0] == ("a.onnx", {"model_name": "MIMO-UNetPlus", "precision": "bf16", "threads": 3})
