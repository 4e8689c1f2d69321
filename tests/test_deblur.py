"""deblur.py: photos found, names of outputs, files skipped, failures and their messages."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image

import deblur
from src import device
from src.errors import UserError
from src.formats import weights as weight_files
from src.photos import index as deblur_index
from src.photos import run as deblur_run
from src.photos.read import read_header, read_photo
from tests.conftest import full_disk
from tests.photos import files
from tests.photos import save as save_photo
from tests.videos import make_video, read_video

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 31, 3), np.uint8)


def save(path, array=RGB, **kwargs):
    return save_photo(path, array, **kwargs)


def invert(images):
    return 1 - images


def identity(images):
    return images


@pytest.fixture
def work(tmp_path, monkeypatch, capsys):
    """work(*argv, engine=...) runs main in-process in `tmp_path` with a stand-in engine: (status, stdout, stderr)."""
    (tmp_path / "model.onnx").touch()
    monkeypatch.chdir(tmp_path)
    calls = []

    def run(*argv, engine=identity, model=True):
        def load_engine(path, *, choice, model_name="", weights="ema", precision="auto", threads=0):
            calls.append(SimpleNamespace(path=path, model_name=model_name, precision=precision, threads=threads))

            class StandIn:
                description, bytes_per_pixel, multiple = "a stand-in", 100, 4

                def __call__(self, images):
                    assert images.dtype == np.float32 and images.shape[1] == 3
                    return engine(images)

            return StandIn()

        monkeypatch.setattr("src.photos.options.load_engine", load_engine)
        status = deblur.main([*map(str, argv), *(["--model", "model.onnx"] if model else [])])
        return status, *capsys.readouterr()

    run.calls = calls
    return run


def pixels(path):
    return read_photo(path).pixels


# ---- through main


def test_folder_with_sub_folders(work):
    for name in ("in/a.png", "in/sub/deep/b c.PNG", "in/sub/Zoë 李.tif", "in/a.bmp"):
        save(name)
    Path("in/notes.txt").write_text("not a photo, not asked for")
    Path("in/._a.png").write_text("what copying from a Mac leaves")
    status, out, err = work("in", "--output", "out", engine=invert)
    assert status == 0 and err == ""
    assert files() == ["a.bmp", "a.png", "sub/Zoë 李.tif", "sub/deep/b c.PNG"]
    for name in files():
        np.testing.assert_array_equal(pixels(f"out/{name}"), 255 - RGB)
        np.testing.assert_array_equal(pixels(f"in/{name}"), RGB)
    assert "left out: 1 .txt\n" in out
    assert out.startswith("engine: OpenVINO on CPU: the one for .onnx files\nmodel: model.onnx\n")
    assert "network: a stand-in" in out and re.search(r"^4 restored; [\d.e+]+ images/s$", out, re.M)


@pytest.mark.parametrize("kind", ["grey", "grey16", "rgba", "rgb16", "palette", "one"])
def test_every_kind_goes_through_unchanged(work, kind):
    path = Path("in.png")
    if kind == "rgb16":
        cv2.imwrite(str(path), RNG.integers(0, 65536, (20, 31, 3)).astype(np.uint16))
    elif kind == "palette":
        Image.fromarray(RGB).quantize(7).save(path)
    else:
        grey16 = RNG.integers(0, 65536, (20, 31)).astype(np.uint16)
        arrays = {"grey": RGB[..., 0], "grey16": grey16, "rgba": np.dstack([RGB, RGB[..., 1]]), "one": RGB[:1, :1]}
        save(path, arrays[kind])
    for options in ([], ["--tile", "64", "--self_ensemble", "x8", "--overwrite"]):
        assert work(path, "--output", "out", *options)[0] == 0
        before, after = read_photo(path), read_photo("out/in.png")
        np.testing.assert_array_equal(after.pixels, before.pixels)
        assert after.pixels.dtype == before.pixels.dtype and after.grey == before.grey
        if kind == "rgba":
            np.testing.assert_array_equal(after.alpha, before.alpha)


def test_orientation_and_camera_survive(work):
    exif = Image.Exif()
    exif[0x0112], exif[272] = 6, "Camera 1"
    save("a.jpg", exif=exif, icc_profile=b"profile", dpi=(300, 300), quality=100)
    assert work("a.jpg", "--output", "out")[0] == 0
    with Image.open("out/a.jpg") as image:
        assert image.size == (20, 31) and image.getexif()[0x0112] == 1 and image.getexif()[272] == "Camera 1"
        assert image.info["icc_profile"] == b"profile" and image.info["dpi"] == (300, 300)


def test_heic_and_avif_become_jpeg_unless_another_format_is_chosen(work):
    Path("in").mkdir()
    heic = pillow_heif.from_pillow(Image.fromarray(RGB))
    for name in ("a.HEIC", "renamed.jpg"):
        with open(f"in/{name}", "wb") as file:
            heic.save(file)
    save("in/b.avif")
    status, out, err = work("in", "--output", "out", "--quality", "90")
    assert (status, err, files()) == (0, "", ["a.jpg", "b.jpg", "renamed.jpg"])
    for name, kind in (("a.HEIC", "HEIC"), ("b.avif", "AVIF"), ("renamed.jpg", "HEIC")):
        assert f"in/{name}: {kind} is written as JPEG of quality 90, deblur.py --format chooses another\n" in out
    assert {read_header(f"out/{name}").file_format for name in files()} == {"JPEG"}
    assert work("in/a.HEIC", "--output", "png", "--format", "png")[0] == 0
    assert files("png") == ["a.png"]


def test_format_and_quality(work):
    save("in/a.jpg")
    save("in/b.jpeg")
    save("in/c.PNG")
    save("in/d.JFIF")
    save("in/e.jpe")
    assert work("in", "--output", "jpg", "--format", "jpg", "--quality", "50")[0] == 0
    assert work("in", "--output", "png", "--format", "png")[0] == 0
    assert files("jpg") == ["a.jpg", "b.jpeg", "c.jpg", "d.JFIF", "e.jpe"]
    assert files("png") == ["a.png", "b.png", "c.PNG", "d.png", "e.png"]
    assert {read_header(f"png/{name}").file_format for name in files("png")} == {"PNG"}
    work("in", "--output", "better", "--format", "jpg")
    assert Path("better/a.jpg").stat().st_size > Path("jpg/a.jpg").stat().st_size


def test_a_name_without_a_suffix_gets_the_suffix_of_its_content(work):
    save("in/a.png").rename("scan 2021.03")
    save("in/b.png").rename("jpeg.jpg")  # the name decides: what is called .jpg becomes a JPEG
    assert work("scan 2021.03", "jpeg.jpg", "--output", "out")[0] == 0
    assert files() == ["jpeg.jpg", "scan 2021.03.png"] and read_header("out/jpeg.jpg").file_format == "JPEG"


def test_compare_writes_strips_without_taking_names(work):
    save("in/a.png")
    save("in/a.bmp")
    save("in/a_compare.png")
    _, out, _ = work("in", "--output", "out", "--compare", engine=invert)
    assert files() == ["a.bmp", "a.png", "a_compare.png", "a_compare_2.png", "a_compare_3.png", "a_compare_compare.png"]
    assert "numbered: in/a.bmp -> a_compare_2.png, in/a.png -> a_compare_3.png" in out
    strip = np.asarray(Image.open("out/a_compare_3.png"))
    np.testing.assert_array_equal(strip[:, :31], RGB)
    np.testing.assert_array_equal(strip[:, 39:], 255 - RGB)
    np.testing.assert_array_equal(pixels("out/a_compare.png"), 255 - RGB)


def test_second_run_does_what_is_missing(work):
    for name in ("a", "b", "c", "d"):
        save(f"in/{name}.png")
    work("in", "--output", "out")
    written = {name: Path("out", name).stat().st_mtime_ns for name in files()}
    status, out, _ = work("in", "--output", "out")
    assert status == 0 and len(work.calls) == 1  # the model was not even loaded
    assert "photos: 0 to restore into out, 4 done by an earlier run\n" in out and "kept" not in out
    Path("out/a.png").unlink()
    save("out/b.png", RGB[:5])  # another size
    save("in/c.png", 255 - RGB)
    os.utime("in/c.png", (1, 1))  # replaced since by an older photo
    os.utime("in/d.png")  # touched, but the same
    _, out, _ = work("in", "--output", "out")
    np.testing.assert_array_equal(pixels("out/c.png"), 255 - RGB)
    assert "photos: 3 to restore" in out and files() == ["a.png", "b.png", "c.png", "d.png"]
    np.testing.assert_array_equal(pixels("out/b.png"), RGB)
    assert Path("out/d.png").stat().st_mtime_ns == written["d.png"]
    assert "4 to restore" in work("in", "--output", "out", "--compare")[1]  # the strips are missing
    assert "0 to restore" in work("in", "--output", "out", "--compare")[1]
    assert "4 to restore" in work("in", "--output", "out", "--overwrite")[1]


def test_results_of_other_weights_are_named_and_kept(work):
    for name in ("a.png", "b.jpg"):
        save(f"in/{name}")
    work("in", "--output", "out")
    before = {name: Path("out", name).read_bytes() for name in files()}
    Path("model.onnx").write_text("other weights")
    save("in/c.png")
    status, out, _ = work("in", "--output", "out", "--quality", "80", engine=invert)
    assert status == 0 and "photos: 1 to restore into out, 2 done by an earlier run" in out
    assert "kept, though made with other quality, weights: out/a.png, out/b.jpg (--overwrite redoes them" in out
    assert {name: Path("out", name).read_bytes() for name in before} == before
    assert "kept" not in work("in", "--output", "out", "--quality", "80", "--overwrite")[1]
    out = work("in", "--output", "out", "--quality", "80")[1]
    assert "0 to restore" in out and "kept" not in out
    out = work("in", "--output", "out", "--quality", "70")[1]
    assert "made with other quality: out/b.jpg (" in out  # PNG has none


def test_without_a_record_dates_decide(work):
    save("in/a.png")
    work("in", "--output", "out")
    index = Path("out", deblur_index.NAME)
    index.write_text("[1]\n{half")
    out = work("in", "--output", "out")[1]
    assert f"{index}: 2 damaged lines are ignored" in out
    assert "kept by date, without a record of the weights: out/a.png" in out and "0 to restore" in out
    index.unlink()
    os.utime("in/a.png", (time.time() + 10, time.time() + 10))
    assert "1 to restore" in work("in", "--output", "out")[1]
    index.unlink()
    index.mkdir()
    status, out, err = work("in", "--output", "out", "--overwrite")
    assert status == 0 and err == "" and f"{index}: cannot be written" in out


def test_failures_are_one_line_each_and_do_not_stop_the_others(work):
    for name in ("a", "cut", "z"):
        save(f"in/{name}.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = Path("in/cut.png").read_bytes()
    Path("in/cut.png").write_bytes(data[: len(data) // 2])
    Path("in/text.jpg").write_text("hello")
    Path("in/broken.png").symlink_to("nowhere")
    status, out, err = work("in", "--output", "out")
    assert status == 1 and files() == ["a.png", "z.png"]
    assert "2 restored, 3 failed" in out
    assert len(err.splitlines()) == 3
    for name, words in (("cut.png", "cut off"), ("text.jpg", "not a photo"), ("broken.png", "broken link")):
        assert re.search(rf"^failed: in/{name}: .*{words}", err, re.M)
    assert work("in", "--output", "out")[0] == 1  # a failure stays one
    assert len(work.calls) == 2


def test_strange_names_do_not_stop_the_others(work):
    for name in ("x" * 246 + ".png", "李" * 82 + ".png", "b.png"):
        save("in/a.png").rename(f"in/{name}")
    status, out, err = work("in", "--output", "out", "--compare")
    assert status == 0 and err == "" and "3 restored" in out
    names = [f"{'x' * 246}.png", f"{'x' * 243}_compare.png", f"{'李' * 82}.png", f"{'李' * 81}_compare.png"]
    assert files() == sorted([*names, "b.png", "b_compare.png"])


def test_names_that_are_not_utf8_go_through_every_report(work):
    """Cameras and old archives leave such names; those of the reports are escaped, those of the outputs are kept."""
    name = os.fsdecode(b"caf\xe9\x1b")
    save("in/a.png", np.dstack([RGB, RGB[..., 0]])).rename(f"in/{name}.png")
    save("in/b.png").rename(f"in/{name}.bmp")
    Path(f"in/bad{name}.png").write_text("hello")
    Path(f"in/c.{name}").touch()
    options = ("--output", f"out{name}", "--compare", "--format", "jpg", "--tile", "64", "--verify_tiles")
    status, out, err = work("in", *options)
    assert status == 1 and "2 restored, 1 failed" in out
    assert sorted(files(f"out{name}")) == sorted(
        [f"{name}.jpg", f"{name}_2.jpg", f"{name}_compare.png", f"{name}_2_compare.png"]
    )
    shown = r"caf\udce9\x1b"
    assert (
        err == f"failed: in/bad{shown}.png: not a photo; expected the content of a PNG, JPEG, TIFF, WebP, BMP, HEIC or "
        "AVIF file\n"
    )
    for words in (f"left out: 1 .{shown}", f"in/{shown}.png -> {shown}_2.jpg", f"in/{shown}.png: its transparency"):
        assert words in out
    Path("model.onnx").write_text("other weights")
    out = work("in", *options)[1]
    assert f"kept, though made with other weights: out{shown}/{shown}.jpg" in out and "\x1b" not in out
    assert "2 done by an earlier run" in out


def test_a_pipe_does_not_stop_the_others(work):
    save("in/a.png")
    os.mkfifo("in/x.png")
    status, out, err = work("in", "--output", "out")
    assert (
        status == 0
        and err == ""
        and files() == ["a.png"]
        and "passed over, a pipe, socket or device; expected a file: in/x.png\n" in out
    )
    status, _, err = work("in/x.png", "in", "--output", "out")
    assert status == 1 and err.startswith("failed: in/x.png: a pipe")


def test_engine_errors_and_lack_of_memory_fail_one_photo(work):
    save("in/a.png")
    save("in/b.png", RGB[:8])

    def engine(images):
        if images.shape[2] == 8:
            raise RuntimeError("a page\nof text")
        raise MemoryError

    status, _, err = work("in", "--output", "out", engine=engine)
    assert status == 1 and files() == []
    assert err.splitlines() == [
        "failed: in/a.png: not enough memory; give a smaller --tile",
        "failed: in/b.png: RuntimeError: a page of text (--debug shows where)",
    ]
    assert "Traceback" in work("in", "--output", "out", "--debug", engine=engine)[2]


def test_what_cannot_be_kept_is_said(work):
    save("a.png", np.dstack([RGB, RGB[..., 0]]))
    pages = [Image.fromarray(RGB), Image.fromarray(RGB)]
    pages[0].save("b.tif", save_all=True, append_images=pages[1:])
    _, out, _ = work("a.png", "b.tif", "--output", "out", "--format", "jpg")
    assert "a.png: its transparency is left out, JPEG is written without" in out
    assert "b.tif: the first of its 2 pictures only" in out


def test_max_pixels_and_sides(work):
    save("a.png")
    status, _, err = work("a.png", "--output", "out", "--max_pixels", "619")
    assert status == 1 and "31x20 are 0 megapixels" in err and "--max_pixels" in err
    save("long.png", np.zeros((1, 16384, 3), np.uint8))
    status, _, err = work("long.png", "--output", "out", "--format", "webp")
    assert status == 1 and "WEBP holds 16383 pixels a side" in err


def test_tiles_are_compared_with_the_whole(work):
    save("a.png", RNG.integers(0, 256, (150, 200, 3), np.uint8))
    _, out, _ = work("a.png", "--output", "out", "--tile", "64", "--tile_overlap", "16", "--verify_tiles")
    assert "a.png: tiles of 64 against the whole: equal" in out
    edges = lambda images: images * np.linspace(0.5, 1, images.shape[3], dtype=np.float32)  # noqa: E731
    _, out, _ = work(
        "a.png", "--output", "out", "--tile", "64", "--overwrite", "--verify_tiles", "--tile_overlap", "8", engine=edges
    )
    assert re.search(r"a.png: tiles of 64 against the whole: \d\d\.\d\d dB", out)
    assert "against" not in work("a.png", "--output", "out", "--overwrite", "--verify_tiles")[1]  # fits: no tiles


def test_little_memory_makes_tiles(work, monkeypatch):
    save("a.png", RNG.integers(0, 256, (150, 200, 3), np.uint8))
    monkeypatch.setattr(device, "available_memory", lambda: 1_000_000)
    sizes = set()

    def engine(images):
        sizes.add(images.shape[2:])
        return images

    _, out, _ = work("a.png", "--output", "out", "--verify_tiles", engine=engine)
    assert sizes == {(64, 64)} and "too large for the free memory" in out
    np.testing.assert_array_equal(pixels("out/a.png"), pixels("a.png"))


# ---- mistakes in the command


def test_mistakes_are_named(work, monkeypatch):
    save("photos/walk.png")
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    Path("file").touch()
    expected = [
        (["photos/wlak.png"], r"photos/wlak.png: no such file or folder. Did you mean photos/walk.png\?"),
        ([""], r"INPUT: got '', expected some text \(is a shell variable unset\?\)"),
        (["photos", "--output", ""], "--output: got ''"),
        (["photos", "--output", 300 * "x"], "--output: got 'x+...x+', a name of 300 bytes"),
        (["phoots"], r"Did you mean photos\?"),
        (["phoots/walk.png"], r"Did you mean photos\?"),
        (["photos/*.jpg"], r"photos/\*.jpg: matches no photo"),
        (["empty"], r"empty: no photo or video in it \(got 1 .txt\); expected files ending in .png"),
        (["photos", "--tile", "32"], "--tile: got '32', expected auto, 0 or 64 to 65536"),
        (["photos", "--quality", "0", "--threads", "-1"], "--threads: got -1, expected 0 to 1024; --quality: got 0"),
        (["photos", "--format", "gif"], "--format"),
        (["photos", "--fromat", "png"], r"Did you mean --format\?"),
        (["photos", "--output", "file/out"], "--output: cannot write into file/out"),
    ]
    for argv, words in expected:
        with pytest.raises(UserError, match=words) as caught:
            work(*argv, *(() if "--output" in argv else ("--output", "out")))
        assert "\n" not in str(caught.value)
    assert not work.calls


def test_model_missing_or_the_sample(work, tmp_path, monkeypatch):
    save("a.png")
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "sample.onnx")
    with pytest.raises(UserError, match="--ckpt_file: a trained network is needed.*weights_pretrained/README.md"):
        work("a.png", "--output", "out", model=False)
    with pytest.raises(UserError, match=r"--ckpt_file: no file modle.onnx;.* Did you mean model.onnx\?"):
        work("a.png", "--output", "out", "--model", "modle.onnx", model=False)
    (tmp_path / "sample.onnx").touch()
    _, out, _ = work("a.png", "--output", "out", model=False)
    assert f"\nmodel: {tmp_path / 'sample.onnx'} (the sample that comes with the repository; " in out


def test_options_reach_the_engine(work, monkeypatch):
    save("a.png")
    work("a.png", "--output", "out", "--model_name", "MIMO-UNetPlus", "--precision", "bf16", "--threads", "3")
    (call,) = work.calls
    assert vars(call) == {"path": Path("model.onnx"), "model_name": "MIMO-UNetPlus", "precision": "bf16", "threads": 3}
    targets = []
    monkeypatch.setattr(device, "setup", lambda target, **_: targets.append(target))
    Path("model.ckpt").touch()
    work("a.png", "--output", "out", "--overwrite", "--model", "model.ckpt", model=False)
    assert targets == []
    work("a.png", "--output", "out", "--overwrite", "--model", "model.ckpt", "--engine", "mindspore", model=False)
    assert targets == ["CPU"]  # MindSpore is set up for its own files, and only for them


# ---- finding


def test_output_inside_the_input_is_not_searched(work):
    save("in/a.png")
    for _ in range(2):
        assert work("in", "--output", "in/out", "--overwrite")[0] == 0
        assert files("in") == ["a.png", "out/a.png"]
    Path("link").symlink_to("in/out")
    work("in", "--output", "link", "--overwrite")
    assert files("in") == ["a.png", "out/a.png"]


def test_a_folder_that_cannot_be_listed_is_a_failure(work, monkeypatch):
    save("in/a.png")
    save("in/secret/b.png")
    scandir = os.scandir

    def refuse(path="."):
        if Path(str(path)).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("src.photos.jobs.os.scandir", refuse)
    status, _, err = work("in", "--output", "out")
    assert status == 1 and err == "failed: in/secret: cannot be listed (Permission denied)\n"
    assert files() == ["a.png"]
    with pytest.raises(UserError, match="cannot be listed"):
        work("in/secret", "--output", "out")


# ---- naming


def test_results_of_one_name_stay_apart(work):
    save("in/a.png")
    save("in/a.bmp", 255 - RGB)
    _, out, _ = work("in", "--output", "out", "--format", "png")
    assert files() == ["a.png", "a_2.png"] and "numbered: in/a.bmp -> a_2.png" in out
    np.testing.assert_array_equal(pixels("out/a.png"), RGB)
    np.testing.assert_array_equal(pixels("out/a_2.png"), 255 - RGB)
    assert "0 to restore" in work("in", "--output", "out", "--format", "png")[1]


def test_inputs_are_never_replaced(work):
    save("in/a.png")
    save("in/sub/b.png")
    before = {name: Path("in", name).read_bytes() for name in files("in")}
    Path("link").symlink_to("in")
    Path("out").mkdir()
    Path("out/a.png").symlink_to("../in/a.png")
    Path("hard").mkdir()
    os.link("in/a.png", "hard/a.png")
    for argv in (
        ["in", "--output", "in"],
        ["in", "--output", "link"],
        ["in/a.png", "--output", "in"],
        ["in/*.png", "--output", "in"],
        ["in/a.png", "--output", "in", "--format", "jpg"],
        ["in/a.png", "--output", "out"],
        ["in/a.png", "--output", "hard"],
        ["in/sub", "in/a.png", "--output", "in"],
    ):
        with pytest.raises(UserError, match="--output"):
            work(*argv, "--overwrite", engine=invert)
    assert {name: Path("in", name).read_bytes() for name in files("in")} == before


# ---- whole files


def test_a_full_disk_is_reported(work, monkeypatch):
    save("in/a.png")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deblur_run, "write_photo", full)
    status, _, err = work("in", "--output", "out")
    assert status == 1 and err.startswith("failed: cannot save out/a.png (No space left on device: ")
    assert err.count("\n") == 1 and "Make room" in err and os.listdir("out") == []


# ---- videos


def test_photos_and_videos_of_a_folder(work):
    save("in/a.jpg")
    make_video("in/b.MP4", [0, 30])
    make_video("in/sub/c.webm", [0, 30], sound=False)
    Path("in/d.mp4").write_text("hello")
    Path("in/e.txt").touch()
    status, out, err = work("in", "--output", "out", "--compare", "--verify_tiles", engine=invert)
    assert status == 1 and err.startswith("failed: in/d.mp4: not a video; ") and err.count("\n") == 1
    assert files() == ["a.jpg", "a_compare.png", "b.MP4", "sub/c.webm"]
    assert "left out: 1 .txt\n" in out and "photos and videos: 4 to restore" in out and "3 restored, 1 failed" in out
    before, after = read_video("in/b.MP4"), read_video("out/b.MP4")
    assert after.packets == before.packets and abs(255.0 - after.frames[0] - before.frames[0]).mean() < 3
    assert "without effect" not in out and "tiles of" not in out
    out = work("in", "--output", "out", "--compare", "--quality", "80")[1]
    assert "1 to restore into out, 3 done" in out and "other quality: out/a.jpg (" in out
    save("in/f.jpg")
    os.utime("in/b.MP4", (1, 1))  # touched, but the same
    out = work("in", "--output", "out", "--compare", "--quality", "80", "--video_quality", "30")[1]
    assert "2 to restore" in out and "other quality, video_quality: out/a.jpg, out/b.MP4, out/sub/c.webm (" in out


def test_videos_alone(work, monkeypatch):
    make_video("b.mp4", [0, 30], sound=False)
    _, out, _ = work("b.mp4", "--output", "out", "--format", "png", "--compare")
    assert "without effect on videos: --format, --compare\n" in out and "videos: 1 to restore into out\n" in out
    before = Path("out/b.mp4").read_bytes()
    with full_disk(500), pytest.raises(UserError, match="^cannot save out/b.mp4 .*Existing files are untouched"):
        work("b.mp4", "--output", "out", "--overwrite")

    def stopped(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work("b.mp4", "--output", "out", "--overwrite", engine=stopped)
    assert files() == ["b.mp4"] and Path("out/b.mp4").read_bytes() == before


def test_without_pyav_one_line_says_how_to_get_it(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    save("in/a.png")
    for name in ("b.mp4", "c.mov"):
        Path("in", name).touch()
    status, _, err = work("in", "--output", "out")
    install = "videos need PyAV, which is not installed: bash scripts/setup.sh --video"
    assert status == 1 and err == f"failed: in/b.mp4, in/c.mov: {install}\n" and files() == ["a.png"]


# ---- the real script and a real network


def start(*argv, cwd):
    command = [sys.executable, str(ROOT / "deblur.py"), *map(str, argv)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_leaves_whole_files_and_the_same_command_goes_on(number, status, tiny_checkpoint, tmp_path):
    for i in range(20):
        save(tmp_path / f"in/a b {i}.png", RNG.integers(0, 256, (121, 162, 3), np.uint8))
    process = start("in", "--model", tiny_checkpoint, "--output", "out", cwd=tmp_path)
    deadline = time.monotonic() + 100
    while not (tmp_path / "out/a b 1.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "photos are done; the same command does the rest" in err
    assert "Traceback" not in err
    done = files(tmp_path / "out")
    assert 2 <= len(done) < 20 and all(name.endswith(".png") and name[0] != "." for name in done)
    for name in done:
        assert pixels(tmp_path / "out" / name).shape == (121, 162, 3)
    if number != signal.SIGINT:
        return
    process = start("in", "--model", tiny_checkpoint, "--output", "out", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"{20 - len(done)} restored; " in out and f"{len(done)} done by an earlier run" in out
    assert len(files(tmp_path / "out")) == 20


def test_a_model_that_is_none(tmp_path, cpu):
    save(tmp_path / "a.png")
    (tmp_path / "bad.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match="bad.ckpt") as caught:
        deblur.main([str(tmp_path / "a.png"), "--model", str(tmp_path / "bad.ckpt"), "--output", str(tmp_path / "out")])
    assert "\n" not in str(caught.value)


HUNDRED_MEGAPIXELS = """
import re, sys
import numpy as np
from types import SimpleNamespace
import deblur, src.photos.options

class Identity:
    description, bytes_per_pixel, multiple = "identity", 4500, 4
    def __call__(self, images):
        return images

src.photos.options.load_engine = lambda *args, **kwargs: Identity()
assert deblur.main(sys.argv[1:]) == 0
# Not getrusage, whose maximum a process inherits from the one that started it.
print("peak", int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, compare, gigabytes",
    [
        ("jpg", True, 2),
        ("rgba.png", True, 2),
        ("16.png", True, 2.5),
        ("16.tif", False, 2),
    ],
)
def test_a_hundred_megapixels_in_bounded_memory(tmp_path, kind, compare, gigabytes):
    values = np.add.outer(np.arange(10000, dtype=np.uint16), np.arange(10000, dtype=np.uint16))
    path = tmp_path / f"a.{kind}"
    if kind.startswith("16"):
        cv2.imwrite(str(path), np.stack([values * 3, values * 2, values], axis=2))
    else:
        channels = [values.astype(np.uint8)] * 2 + [(values // 80).astype(np.uint8)] * (2 if kind == "rgba.png" else 1)
        Image.fromarray(np.stack(channels, axis=2)).save(path)
    (tmp_path / "model.onnx").touch()
    command = [sys.executable, "-c", HUNDRED_MEGAPIXELS, str(path), "--model", str(tmp_path / "model.onnx")]
    command += ["--output", str(tmp_path / "out"), "--tile", "512", *["--compare"] * compare]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1])
    print(f"{kind}: {peak / 1e9:.2f} GB")
    assert peak < gigabytes * 1e9
