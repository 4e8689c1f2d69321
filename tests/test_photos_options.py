"""What deblur.py and app.py let the user choose alike."""

from pathlib import Path

import pytest

from src import device
from src.command_line import ArgumentParser
from src.formats import weights as weight_files
from src.photos import options as deblur_options
from src.photos.options import add_options, check_overlap, choose_model, engine_for, open_engine
from tests.data_trees import error_of


def options(*argv):
    parser = ArgumentParser("a script")
    add_options(parser)
    return parser.parse_args([*argv])


def test_tile_in_pixels_or_by_memory():
    assert options().tile is None
    assert options("--tile", "0").tile == 0
    args = options("--tile", "64", "--tile_overlap", "31")
    assert args.tile == 64
    check_overlap(args)
    args.tile_overlap = 32
    assert error_of(check_overlap, args) == "--tile_overlap: got 32, expected less than half of the tile"


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--tile", "32"], "--tile: got '32', expected auto, 0 or 64 to 65536"),
        (["--tile", "99999999999"], "--tile: got '99999999999', expected auto, 0 or 64"),
        (["--tile", "big"], "--tile: got 'big'"),
        (["--quality", "0", "--threads", "-1"], "--threads: got -1, expected 0 to 1024; --quality: got 0"),
        (["--quality", "101"], "--quality: got 101, expected 1 to 100"),
        (["--threads", "1e3"], "--threads: got '1e3', expected a whole number in digits, without leading zeros"),
        (["--max_pixels", "0"], "--max_pixels: got 0, expected 1 to 10000000000"),
        (["--model", ""], "--ckpt_file/--model/--pretrained: got '', expected some text (is a shell variable unset?)"),
    ],
)
def test_wrong_values_are_named_with_their_range(argv, words):
    assert words in error_of(options, *argv)


def test_the_model_that_is_given_else_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "sample.ckpt")
    (tmp_path / "model.onnx").touch()
    assert choose_model(str(tmp_path / "model.onnx")) == (tmp_path / "model.onnx", "")
    assert "Did you mean" in error_of(choose_model, str(tmp_path / "modle.onnx"))
    assert error_of(choose_model, str(tmp_path)).endswith(
        "is a folder, expected a checkpoint or exported network. In it: model.onnx"
    )
    assert "--ckpt_file: a trained network is needed" in error_of(choose_model, None)
    (tmp_path / "sample.ckpt").touch()
    path, remark = choose_model(None)
    assert path == tmp_path / "sample.ckpt" and "the sample that comes with the repository" in remark


def test_mindspore_is_set_up_for_its_own_files_alone(monkeypatch):
    opened, targets = [], []
    monkeypatch.setattr(deblur_options, "load_engine", lambda path, **words: opened.append((path.name, words)))
    monkeypatch.setattr(device, "setup", lambda target, **_: targets.append(target))
    monkeypatch.setattr(device, "usable_device", lambda: ("CPU", "no GPU is present"))
    args = options("--threads", "3", "--precision", "bf16", "--model_name", "MIMO-UNetPlus")
    for name, set_up in (("a.onnx", []), ("a.ckpt", []), ("a.mindir", ["CPU"])):
        choice = engine_for(Path(name), args)
        open_engine(Path(name), args, choice)
        assert targets == set_up
        given = {"model_name": "MIMO-UNetPlus", "precision": "bf16", "threads": 3}
        assert opened.pop() == (name, {"choice": choice, **given})


def test_the_device_and_the_engine_that_are_asked_for(monkeypatch):
    monkeypatch.setattr(device, "usable_device", lambda: ("GPU", "a GPU is present"))
    monkeypatch.setattr(device, "require_device", lambda target: required.append(target))
    required = []
    for argv, line in (
        ([], "MindSpore on GPU: a GPU is present"),
        (["--device_target", "CPU"], "OpenVINO on CPU: the fastest there; as asked (--device_target)"),
        (["--engine", "openvino"], "OpenVINO on CPU: as asked (--engine)"),
        (["--device_target", "Ascend"], "MindSpore on Ascend: as asked (--device_target)"),
    ):
        assert str(engine_for(Path("a.ckpt"), options(*argv))) == line
    assert required == ["GPU", "Ascend"]
