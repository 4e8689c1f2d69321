"""Restoring photo files: whole or not at all, in tiles that do not show."""

import re
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image

import deblur
import eval as eval_script
from src.checkpoint import parameter_arrays
from src.engine import load_engine
from src.errors import BadOutput, UserError
from src.formats.onnx_graph import build_onnx
from src.photos import run as deblur_run
from src.photos.index import Index
from src.photos.jobs import Job
from src.photos.read import read_photo
from src.photos.run import Restorer, difference_in_db, one_line, restore_file, restore_files
from tests.data_trees import error_of
from tests.photos import RGB, files, save

# ---- one photo


def test_one_photo_and_its_strip(tmp_path):
    source = save(tmp_path / "a.png", np.dstack([RGB, RGB[..., 0]]))
    job = Job(source, tmp_path / "out/a.jpg", "JPEG", tmp_path / "out/a_compare.png")
    notes = restore_file(job, lambda pixels, path: 255 - pixels, quality=95, max_pixels=10**6)
    assert notes == ("its transparency is left out, JPEG is written without",)
    assert files(tmp_path / "out") == ["a.jpg", "a_compare.png"]
    width = RGB.shape[1]
    np.testing.assert_array_equal(read_photo(job.strip).pixels[:, :width], RGB)
    np.testing.assert_array_equal(read_photo(job.strip).pixels[:, -width:], 255 - RGB)
    with pytest.raises(UserError, match="max_pixels"):
        restore_file(job, None, quality=95, max_pixels=10)


def test_a_failure_leaves_neither_the_photo_nor_its_strip(tmp_path, monkeypatch):
    job = Job(save(tmp_path / "a.png"), tmp_path / "out/a.png", "PNG", tmp_path / "out/a_compare.png")
    for name in ("save_before_after", "write_photo"):

        def full(target, *args):  # a path or a file
            getattr(target, "write_bytes", getattr(target, "write", None))(b"half")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot save .*No space"):
            patch.setattr(deblur_run, name, full)
            restore_file(job, lambda pixels, path: pixels, quality=95, max_pixels=10**6)
        assert files(tmp_path / "out") == []


def test_failures_in_one_line(tmp_path):
    job = Job(tmp_path / "a.png", tmp_path / "out.png", "PNG")
    for error, words in (
        (UserError("reported"), "reported"),
        (MemoryError(), f"{job.source}: not enough memory to read it and write the result; close other programs"),
        (OSError(28, "No space left on device"), f"{job.target}: No space left on device"),
        (RuntimeError("a page\nof text"), f"{job.source}: RuntimeError: a page of text (--debug shows where)"),
    ):
        assert one_line(error, job) == words


# ---- what a network cannot do


@pytest.fixture
def overflowing(cpu, reference, tmp_path):
    """A file of finite weights that are too large to compute with."""
    arrays = {name: a * 1e9 for name, a in parameter_arrays(reference("mimo_unet_num_res_1")[0]).items()}
    onnx.save(build_onnx(arrays, 1, metadata={"variant": "MIMO-UNet"}), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_weights_that_fail_on_everything_end_the_run(overflowing, tmp_path):
    photos = [str(save(tmp_path / name)) for name in ("a.png", "b.png")]
    argv = [*photos, "--model", str(overflowing), "--output", str(tmp_path / "out")]
    text = error_of(deblur.main, argv)
    assert text.startswith(f"{tmp_path / 'a.png'}: {overflowing} is unusable: it returns NaN or infinity, whatever ")
    assert files(tmp_path / "out") == []


def test_weights_that_fail_on_everything_are_not_scored(overflowing, make_dataset, tmp_path):
    report = tmp_path / "report.json"
    root = make_dataset(train=1, test=2)
    argv = ["--dataset_root", str(root), "--ckpt_file", str(overflowing), "--report_file", str(report)]
    text = error_of(eval_script.main, argv)
    assert text.startswith(f"{root / 'test/blur/1.png'}: {overflowing} is unusable: it returns NaN or infinity")
    assert not report.exists()


def test_a_photo_that_the_network_cannot_do_fails_alone(tmp_path, capsys):
    def restore(pixels, path):
        if path.name == "b.png":
            raise BadOutput("net.onnx returns NaN or infinity for this picture", always=False)
        return pixels

    jobs = [Job(save(tmp_path / f"{n}.png"), tmp_path / f"out/{n}.png", "PNG") for n in "abc"]
    (tmp_path / "out").mkdir()
    index = Index(tmp_path / "out", {})
    bar = SimpleNamespace(update=lambda: None, write=lambda text, file=None: print(text, file=file))
    failed, _ = restore_files(jobs, restore, index, bar=bar, quality=95, max_pixels=10**6)
    assert failed == 1 and files(tmp_path / "out") == ["a.png", "c.png"]
    said = f"failed: {tmp_path / 'b.png'}: net.onnx returns NaN or infinity for this picture\n"
    assert capsys.readouterr().err == said


# ---- tiles


def test_difference_in_db():
    a = np.full((4, 5, 3), 100, np.uint8)
    assert difference_in_db(a, a) == "equal"
    assert difference_in_db(a, a + np.uint8(1)) == "48.13 dB"  # 20 log10 255
    assert difference_in_db(a.astype(np.uint16), a.astype(np.uint16) + np.uint16(1)) == "96.33 dB"


def db_of_tiles(reference, name, size, tile, tmp_path):
    """Tiles with the default overlap against the whole, in dB. Sizes are such that no tile shares more than asked."""
    network = reference(name)[0]
    path = tmp_path / "net.onnx"
    onnx.save(build_onnx(parameter_arrays(network), network.variant.num_res, metadata={"variant": "MIMO-UNet"}), path)
    photo = np.asarray(Image.fromarray(skimage.data.astronaut()).resize(size))
    lines = []
    Restorer(load_engine(path, precision="fp32"), tile, verify=True, report=lines.append)(photo, path)
    (line,) = lines
    return float(re.fullmatch(rf".*: tiles of {tile} against the whole: (.*) dB", line)[1])


def test_tiles_do_not_show(cpu, reference, tmp_path):
    """One residual block a stage; without an overlap it is 44 dB."""
    assert db_of_tiles(reference, "mimo_unet_num_res_1", (512, 512), 128, tmp_path) >= 50


@pytest.mark.slow
def test_tiles_do_not_show_in_a_frame(cpu, reference, tmp_path):
    assert db_of_tiles(reference, "mimo_unet", (1280, 720), 344, tmp_path) >= 50
