import hashlib
import sys

import numpy as np
import onnx
import pytest

import export
import src.formats
from src import __version__, device
from src.checkpoint import parameter_arrays, save_checkpoint
from src.engine import has_bf16, load_engine
from src.errors import UserError
from src.formats.mindir import describe_mindir
from tests.data_trees import error_of


@pytest.fixture(scope="module")
def checkpoint(cpu, reference, tmp_path_factory):
    network = reference("mimo_unet_num_res_1")[0]
    path = tmp_path_factory.mktemp("export") / "best.ckpt"
    save_checkpoint(path, {p.name: p.asnumpy() for p in network.get_parameters()}, {"variant": "MIMO-UNet"})
    return path


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """run(option, ...): export.py in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: export.main(["--ckpt_file", str(checkpoint), *map(str, options)])


def read_texts(path):
    if path.suffix == ".mindir":
        return describe_mindir(path)[0]
    return {p.key: p.value for p in onnx.load(path).metadata_props}


@pytest.fixture
def no_extras(monkeypatch):
    """no_extras(): from now on as after an installation of requirements.txt alone."""

    def remove():
        for room, name in ((src, "exporting"), (src.formats, "onnx_graph")):
            monkeypatch.delattr(room, name, raising=False)
            monkeypatch.delitem(sys.modules, f"{room.__name__}.{name}", raising=False)
        for package in ("onnx", "openvino", "torch"):
            monkeypatch.setitem(sys.modules, package, None)

    return remove


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_the_file_says_what_it_is(file_format, run, checkpoint, no_extras, tmp_path, capsys):
    if file_format == "MINDIR":
        no_extras()
    run("--export_device_target", "GPU", "--export_file_format", file_format)
    path = tmp_path / f"MIMO-UNet.{file_format.lower()}"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]
    assert read_texts(path) == {
        "variant": "MIMO-UNet", "num_res": "1", "multiple": "4", "checkpoint": "best.ckpt", "weights": "raw",
        "precision": "fp32",
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(), "colour_order": "RGB",
        "range": "0..1", "output_scales": "1", "repository_version": __version__, "crc32": read_texts(path)["crc32"],
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "for GPU" in out and "64x96 fp32: largest difference from the checkpoint" in out


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_fixed_half_precision_with_all_scales(file_format, run, tmp_path, capsys):
    run(
        "--export_file_format",
        file_format,
        "--export_size",
        "16x24",
        "--export_batch_size",
        2,
        "--all_scales",
        "--export_precision",
        "fp16",
        "--export_file_name",
        "out/v1.2",
        "--verify",
    )
    path = tmp_path / f"out/v1.2.{file_format.lower()}"
    engine = load_engine(path, precision="auto" if file_format == "MINDIR" else "fp32")
    assert (engine.fixed_size, engine.fixed_batch) == ((16, 24), 2)
    assert read_texts(path)["output_scales"] == "1 1/2 1/4" and read_texts(path)["precision"] == "fp16"
    assert path.stat().st_size < 6e6  # 8.0 MB of float32 weights
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("16x24 ")]
    with_bf16 = file_format == "ONNX" and has_bf16()
    assert [line.split()[1] for line in lines] == ["fp16:", "bf16:"][: 1 + with_bf16]


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_verify_at_three_sizes(file_format, run, capsys):
    run("--export_file_format", file_format, "--verify")
    lines = [line for line in capsys.readouterr().out.splitlines() if " fp32: " in line]
    assert [line.split()[0] for line in lines] == ["64x64", "720x1280", "501x333"]


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_lite_is_verified_at_three_sizes(file_format, reference, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = reference("mimo_unet_lite")[0]
    save_checkpoint("lite.ckpt", parameter_arrays(network), {"variant": "MIMO-UNetLite"})
    options = ["--ckpt_file", "lite.ckpt", "--model_name", "MIMO-UNetLite", "--export_file_format", file_format]
    export.main([*options, "--verify"])
    lines = [line for line in capsys.readouterr().out.splitlines() if " fp32: " in line]
    assert [line.split()[0] for line in lines] == ["64x64", "720x1280", "501x333"]
    path = tmp_path / f"MIMO-UNetLite.{file_format.lower()}"
    assert read_texts(path)["multiple"] == "8" and load_engine(path).multiple == 8


@pytest.mark.parametrize(
    ("wrong", "found"), [(1e-3, "at 64x96, fp32: largest difference"), (np.nan, "is unusable: it returns NaN")]
)
def test_a_file_that_differs_is_refused(wrong, found, run, tmp_path, monkeypatch):
    real = load_engine

    def distorted(*args, **kwargs):
        engine = real(*args, **kwargs)
        run = engine.run
        engine.run = lambda images: run(images) + wrong
        return engine

    monkeypatch.setattr("src.exporting.load_engine", distorted)
    (tmp_path / "MIMO-UNet.onnx").write_bytes(b"an earlier export")
    text = error_of(run, "--export_file_format", "ONNX")
    assert text.startswith(f"MIMO-UNet.onnx {found}") and text.endswith(" Nothing was written.")
    assert (tmp_path / "MIMO-UNet.onnx").read_bytes() == b"an earlier export" and len(list(tmp_path.iterdir())) == 1


def test_weights_that_are_not_finite_are_refused_first(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {name: a * np.float32(np.nan) for name, a in parameter_arrays(reference("mimo_unet_num_res_1")[0]).items()}
    save_checkpoint("a.ckpt", arrays, {"variant": "MIMO-UNet"})
    text = error_of(export.main, ["--ckpt_file", "a.ckpt", "--export_file_format", "ONNX"])
    assert text.startswith(
        "a.ckpt: Encoder.0.layers.0.main.0.main.0.weight holds NaN or infinity (9216 of 9216 numbers)"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--export_size", "10x12"], "--export_size: got 10x12, expected HEIGHTxWIDTH"),
        (["--export_size", "0x4"], "--export_size: got 0x4"),
        (
            ["--export_size", "12x16", "--model_name", "MIMO-UNetLite"],
            "got 12x16, expected HEIGHTxWIDTH, multiples of 8",
        ),
        (["--export_size", "720"], "--export_size: got 720"),
        (["--export_file_format", "AIR"], "needs an Ascend device"),
        (["--export_file_format", "TFLITE"], "MINDIR, ONNX, AIR"),
        (["--model_name", "MIMO-UNetPlus"], "Add --model_name MIMO-UNet"),
    ],
)
def test_wrong_options_are_one_line(options, expected, run, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "ascend_devices", lambda: [])
    with pytest.raises(UserError) as caught:
        run(*options)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_air_has_fixed_shapes(run, monkeypatch):
    monkeypatch.setattr(device, "ascend_devices", lambda: ["/dev/davinci0"])
    with pytest.raises(UserError, match="--export_size HxW --export_batch_size N"):
        run("--export_file_format", "AIR", "--export_size", "64x64")


def test_onnx_without_its_packages_says_so_first(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino \(python -m pip install openvino"):
        run("--export_file_format", "ONNX")
