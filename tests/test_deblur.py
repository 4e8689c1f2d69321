"""deblur.py: which photos are found, what their outputs are called, what is skipped, what fails and how it is told."""

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
import onnx
import pytest
import skimage.data
from PIL import Image

import deblur
from src import deblur_options, deblur_run, device
from src.checkpoint import parameter_arrays
from src.deblur_files import Job, find_photos, is_done, plan
from src.deblur_run import Restorer, difference_in_db, whole_file
from src.engine import load_engine
from src.errors import UserError
from src.onnx_graph import build_onnx
from src.photo import read_header, read_photo

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 31, 3), np.uint8)


def save(path, array=RGB, **kwargs):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)
    return path


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
        def load_engine(path, *, model_name="", weights="ema", precision="auto", threads=0):
            calls.append(SimpleNamespace(path=path, model_name=model_name, precision=precision, threads=threads))

            class StandIn:
                description, bytes_per_pixel = "a stand-in", 100

                def __call__(self, images):
                    assert images.dtype == np.float32 and images.shape[1] == 3
                    return engine(images)

            return StandIn()

        monkeypatch.setattr("src.deblur_options.load_engine", load_engine)
        status = deblur.main([*map(str, argv), *(["--model", "model.onnx"] if model else [])])
        return status, *capsys.readouterr()

    run.calls = calls
    return run


def files(folder="out"):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


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
    assert out.splitlines()[0] == "model: model.onnx"
    assert "engine: a stand-in" in out and re.search(r"^4 restored; [\d.e+]+ images/s$", out, re.M)


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


def test_format_and_quality(work):
    save("in/a.jpg")
    save("in/b.jpeg")
    save("in/c.PNG")
    assert work("in", "--output", "jpg", "--format", "jpg", "--quality", "50")[0] == 0
    assert work("in", "--output", "png", "--format", "png")[0] == 0
    assert files("jpg") == ["a.jpg", "b.jpeg", "c.jpg"] and files("png") == ["a.png", "b.png", "c.PNG"]
    assert {read_header(f"png/{name}").file_format for name in files("png")} == {"PNG"}
    work("in", "--output", "better", "--format", "jpg")
    assert Path("better/a.jpg").stat().st_size > Path("jpg/a.jpg").stat().st_size


def test_a_name_that_tells_nothing_gets_the_suffix_of_its_content(work):
    save("in/a.png").rename("scan 2021.03")
    save("in/b.png").rename("jpeg.jpg")  # the name decides: what is called .jpg becomes a JPEG
    assert work("scan 2021.03", "jpeg.jpg", "--output", "out")[0] == 0
    assert files() == ["jpeg.jpg", "scan 2021.03.png"] and read_header("out/jpeg.jpg").file_format == "JPEG"


def test_compare_writes_strips_without_taking_names(work):
    save("in/a.png")
    save("in/a.bmp")
    save("in/a_compare.png")
    assert work("in", "--output", "out", "--compare", engine=invert)[0] == 0
    assert files() == ["a.bmp", "a.bmp_compare.png", "a.png", "a.png_compare.png", "a_compare.png",
                       "a_compare_compare.png"]  # fmt: skip
    strip = np.asarray(Image.open("out/a.png_compare.png"))
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
    assert "photos: 0 to restore into out, 4 done by an earlier run (--overwrite repeats them)" in out
    Path("out/a.png").unlink()
    save("out/b.png", RGB[:5])  # another size
    os.utime("in/c.png", (time.time() + 10, time.time() + 10))  # edited since
    _, out, _ = work("in", "--output", "out")
    assert "photos: 3 to restore" in out and files() == ["a.png", "b.png", "c.png", "d.png"]
    np.testing.assert_array_equal(pixels("out/b.png"), RGB)
    assert Path("out/d.png").stat().st_mtime_ns == written["d.png"]
    os.utime("in/c.png", (1, 1))
    assert "4 to restore" in work("in", "--output", "out", "--compare")[1]  # the strips are missing
    assert "0 to restore" in work("in", "--output", "out", "--compare")[1]
    assert "4 to restore" in work("in", "--output", "out", "--overwrite")[1]


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
    _, out, _ = work("a.png", "--output", "out", "--tile", "64", "--overwrite", "--verify_tiles", "--tile_overlap", "8",
                     engine=edges)  # fmt: skip
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


def test_difference_in_db():
    a = np.full((4, 5, 3), 100, np.uint8)
    assert difference_in_db(a, a) == "equal"
    assert difference_in_db(a, a + np.uint8(1)) == "48.13 dB"  # 20 log10 255
    assert difference_in_db(a.astype(np.uint16), a.astype(np.uint16) + np.uint16(1)) == "96.33 dB"


# ---- mistakes in the command


def test_mistakes_are_named(work, monkeypatch):
    save("photos/walk.png")
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    Path("file").touch()
    expected = [
        (["photos/wlak.png"], r"photos/wlak.png: no such file or folder. Did you mean photos/walk.png\?"),
        (["phoots"], r"Did you mean photos\?"),
        (["phoots/walk.png"], r"Did you mean photos\?"),
        (["photos/*.jpg"], r"photos/\*.jpg: matches no photo"),
        (["empty"], "empty: no photo in it; expected files ending in .png"),
        (["photos", "--tile", "32"], "--tile: got 32, expected auto, 0 or a number of 64 or more"),
        (["photos", "--tile", "big"], "--tile: got big"),
        (["photos", "--tile", "64", "--tile_overlap", "32"], "--tile_overlap: got 32"),
        (["photos", "--quality", "0", "--threads", "-1"], "--quality: got 0, expected 1 to 100; --threads: got -1"),
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
    monkeypatch.setattr(deblur_options, "SAMPLE_MODEL", tmp_path / "sample.onnx")
    with pytest.raises(UserError, match="--model: a trained network is needed.*weights_pretrained/README.md"):
        work("a.png", "--output", "out", model=False)
    with pytest.raises(UserError, match=r"--model: no file modle.onnx;.* Did you mean model.onnx\?"):
        work("a.png", "--output", "out", "--model", "modle.onnx", model=False)
    (tmp_path / "sample.onnx").touch()
    _, out, _ = work("a.png", "--output", "out", model=False)
    assert out.startswith(f"model: {tmp_path / 'sample.onnx'} (the sample that comes with the repository; ")


def test_options_reach_the_engine(work, monkeypatch):
    save("a.png")
    work("a.png", "--output", "out", "--model_name", "MIMO-UNetPlus", "--precision", "bf16", "--threads", "3")
    (call,) = work.calls
    assert vars(call) == {"path": Path("model.onnx"), "model_name": "MIMO-UNetPlus", "precision": "bf16", "threads": 3}
    targets = []
    monkeypatch.setattr(device, "setup", lambda target, **_: targets.append(target))
    Path("model.ckpt").touch()
    work("a.png", "--output", "out", "--overwrite", "--model", "model.ckpt", model=False)
    assert targets == ["CPU"]  # MindSpore is set up for its own files, and only for them


# ---- finding


def names(found):
    return [str(source.name) for source in found.sources]


def test_natural_order_and_no_photo_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("10.png", "2.png", "1.png", "sub/3.png"):
        save(f"in/{name}")
    found = find_photos(["in", "in/2.png", str(tmp_path / "in/10.png"), "in/../in/1.png"], Path("out"))
    assert names(found) == ["1.png", "2.png", "10.png", "sub/3.png"]


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.jpg", "x/c.png", "x/y/d.png", "out/e.png", "odd[1].png"):
        save(f"in/{name}")
    Path("in/notes.txt").touch()
    out = Path("in/out")
    assert names(find_photos(["in/*.png"], out)) == ["a.png", "odd[1].png"]
    assert names(find_photos(["in/**/*.png"], out)) == ["a.png", "odd[1].png", "x/c.png", "x/y/d.png"]
    assert sorted(names(find_photos(["in/**"], out))) == ["a.png", "b.jpg", "odd[1].png", "x/c.png", "x/y/d.png"]
    assert names(find_photos(["in/*"], out)) == ["a.png", "b.jpg", "odd[1].png", "x/c.png", "x/y/d.png"]
    assert names(find_photos(["in/?/*.png"], out)) == ["x/c.png"]
    assert names(find_photos(["in/odd[1].png"], out)) == ["odd[1].png"]  # a file of that very name
    assert names(find_photos([str(tmp_path / "in/[ab].*")], out)) == ["a.png", "b.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("in/a.png")
    save("elsewhere/b.png")
    Path("in/link").symlink_to("../elsewhere")
    Path("in/back").symlink_to("../in")
    Path("elsewhere/up").symlink_to("../in")
    Path("in/self.png").symlink_to("self.png")
    found = find_photos(["in"], Path("out"))
    assert names(found) == ["a.png", "self.png", "link/b.png"]
    assert [line.split(":")[0] for line in found.passed_over] == ["in/back", "in/link/up"]


def test_output_inside_the_input_is_not_searched(work):
    save("in/a.png")
    for _ in range(2):
        assert work("in", "--output", "in/out", "--overwrite")[0] == 0
        assert files("in") == ["a.png", "out/a.png"]
    Path("link").symlink_to("in/out")
    work("in", "--output", "link", "--overwrite")
    assert files("in") == ["a.png", "out/a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_folders_without_permission(work):
    save("in/a.png")
    save("in/secret/b.png")
    Path("in/secret").chmod(0)
    status, _, err = work("in", "--output", "out")
    assert status == 1 and "failed: in/secret: cannot be listed (Permission denied)" in err and files() == ["a.png"]


def test_a_folder_that_cannot_be_listed_is_a_failure(work, monkeypatch):
    save("in/a.png")
    save("in/secret/b.png")
    scandir = os.scandir

    def refuse(path="."):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("src.deblur_files.os.scandir", refuse)
    status, _, err = work("in", "--output", "out")
    assert status == 1 and err == "failed: in/secret: cannot be listed (Permission denied)\n"
    assert files() == ["a.png"]
    with pytest.raises(UserError, match="cannot be listed"):
        work("in/secret", "--output", "out")


# ---- naming


def planned(inputs, file_format="", output="out"):
    Path(output).mkdir(exist_ok=True)
    jobs, line = plan(find_photos(inputs, Path(output)).sources, Path(output), file_format)
    return {str(job.source): str(job.target.relative_to(output)) for job in jobs}, line


def test_one_name_in_another_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.jpg", "a.bmp", "b.jpg", "a_bmp.png"):
        save(f"in/{name}")
    assert planned(["in"])[1] == ""
    targets, line = planned(["in"], "PNG")
    assert targets == {"in/a.png": "a.png", "in/a.jpg": "a_jpg.png", "in/a.bmp": "a_bmp_in.png", "in/b.jpg": "b.png",
                       "in/a_bmp.png": "a_bmp.png"}  # fmt: skip
    assert line.startswith("photos of one name, told apart: ") and "in/a.jpg -> a_jpg.png" in line
    assert "\n" not in line and "b.jpg" not in line


def test_one_name_in_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("A/x.png", "B/x.png", "q/B/x.png", "B/y.png"):
        save(name)
    targets, line = planned(["A", "B", "q/B"])
    assert len(set(targets.values())) == 4 and targets["B/y.png"] == "y.png"
    assert set(targets.values()) == {"x.png", "x_B.png", "x_2.png", "y.png"}
    assert "told apart" in line
    assert planned(["A", "B", "q/B"])[0] == targets  # the same names in a second run


def test_results_of_one_name_stay_apart(work):
    save("in/a.png")
    save("in/a.bmp", 255 - RGB)
    _, out, _ = work("in", "--output", "out", "--format", "png")
    assert files() == ["a.png", "a_bmp.png"] and "told apart: " in out
    np.testing.assert_array_equal(pixels("out/a.png"), RGB)
    np.testing.assert_array_equal(pixels("out/a_bmp.png"), 255 - RGB)
    assert "0 to restore" in work("in", "--output", "out", "--format", "png")[1]


def test_names_that_differ_in_case_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("in/a.png")
    save("in/A.png")
    if len(os.listdir("in")) == 2:
        assert set(planned(["in"])[0].values()) == {"a.png", "A.png"}
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda p: p.name == ".CASE_TEST" or exists(p))
        assert len({name.lower() for name in planned(["in"])[0].values()}) == 2
    assert files("out") == []


def test_inputs_are_never_replaced(work):
    save("in/a.png")
    save("in/sub/b.png")
    before = {name: Path("in", name).read_bytes() for name in files("in")}
    Path("link").symlink_to("in")
    Path("out").mkdir()
    Path("out/a.png").symlink_to("../in/a.png")
    Path("hard").mkdir()
    os.link("in/a.png", "hard/a.png")
    for argv in (["in", "--output", "in"], ["in", "--output", "link"], ["in/a.png", "--output", "in"],
                 ["in/*.png", "--output", "in"], ["in/a.png", "--output", "in", "--format", "jpg"],
                 ["in/a.png", "--output", "out"], ["in/a.png", "--output", "hard"],
                 ["in/sub", "in/a.png", "--output", "in"]):  # fmt: skip
        with pytest.raises(UserError, match="--output"):
            work(*argv, "--overwrite", engine=invert)
    assert {name: Path("in", name).read_bytes() for name in files("in")} == before


# ---- whole files


def test_done_needs_time_size_and_format(tmp_path):
    job = Job(save(tmp_path / "a.png"), tmp_path / "out.png", "PNG")
    assert not is_done(job)
    save(job.target)
    assert is_done(job)
    job.target.write_bytes(job.target.read_bytes()[:20])
    assert not is_done(job)
    Image.fromarray(RGB).save(job.target, "JPEG")
    assert not is_done(job)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.png"
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), whole_file(target) as file:
            file.write(b"half")
            raise error
        assert list(target.parent.iterdir()) == []
    with whole_file(target) as file:
        file.write(b"old")
    with pytest.raises(ValueError), whole_file(target) as file:
        raise ValueError
    assert target.read_bytes() == b"old"
    with whole_file(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and os.listdir(target.parent) == ["a.png"]


def test_a_full_disk_is_told(work, monkeypatch):
    save("in/a.png")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deblur_run, "write_photo", full)
    status, _, err = work("in", "--output", "out")
    assert status == 1 and err == "failed: out/a.png: No space left on device\n" and os.listdir("out") == []


# ---- the real script and a real network


def start(*argv, cwd):
    command = [sys.executable, str(ROOT / "deblur.py"), *map(str, argv)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
    done = os.listdir(tmp_path / "out")
    assert 2 <= len(done) < 20 and all(name.endswith(".png") and name[0] != "." for name in done)
    for name in done:
        assert pixels(tmp_path / "out" / name).shape == (121, 162, 3)
    if number != signal.SIGINT:
        return
    process = start("in", "--model", tiny_checkpoint, "--output", "out", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"{20 - len(done)} restored; " in out and f"{len(done)} done by an earlier run" in out
    assert len(os.listdir(tmp_path / "out")) == 20


def test_a_model_that_is_none(tmp_path, cpu):
    save(tmp_path / "a.png")
    (tmp_path / "bad.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match="bad.ckpt") as caught:
        deblur.main([str(tmp_path / "a.png"), "--model", str(tmp_path / "bad.ckpt"), "--output", str(tmp_path / "out")])
    assert "\n" not in str(caught.value)


def db_of_tiles(reference, name, size, tile, tmp_path):
    """Tiles with the default overlap against the whole, in dB. Sizes are such that no tile shares more than asked."""
    network = reference(name)[0]
    path = tmp_path / "net.onnx"
    onnx.save(build_onnx(parameter_arrays(network), network.num_res, metadata={"variant": "MIMO-UNet"}), path)
    photo = np.asarray(Image.fromarray(skimage.data.astronaut()).resize(size))
    lines = []
    Restorer(load_engine(path, precision="fp32"), tile, verify=True, tell=lines.append)(photo, path)
    (line,) = lines
    return float(re.fullmatch(rf".*: tiles of {tile} against the whole: (.*) dB", line)[1])


def test_tiles_do_not_show(cpu, reference, tmp_path):
    """One residual block a stage; without an overlap it is 44 dB."""
    assert db_of_tiles(reference, "mimo_unet_num_res_1", (512, 512), 128, tmp_path) >= 50


@pytest.mark.slow
def test_tiles_do_not_show_in_a_frame(cpu, reference, tmp_path):
    assert db_of_tiles(reference, "mimo_unet", (1280, 720), 344, tmp_path) >= 50


HUNDRED_MEGAPIXELS = """
import resource, sys
import numpy as np
from types import SimpleNamespace
import deblur, src.deblur_options

class Identity:
    description, bytes_per_pixel = "identity", 4500
    def __call__(self, images):
        return images

src.deblur_options.load_engine = lambda *args, **kwargs: Identity()
assert deblur.main(sys.argv[1:]) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpg", "png", "rgba.png", "16.png", "16.tif", "webp"])
def test_a_hundred_megapixels_in_under_four_gigabytes(tmp_path, kind):
    values = np.add.outer(np.arange(10000, dtype=np.uint16), np.arange(10000, dtype=np.uint16))
    path = tmp_path / f"a.{kind}"
    if kind.startswith("16"):
        cv2.imwrite(str(path), np.stack([values * 3, values * 2, values], axis=2))
    else:
        channels = [values.astype(np.uint8)] * 2 + [(values // 80).astype(np.uint8)] * (2 if kind == "rgba.png" else 1)
        Image.fromarray(np.stack(channels, axis=2)).save(path)
    (tmp_path / "model.onnx").touch()
    command = [sys.executable, "-c", HUNDRED_MEGAPIXELS, str(path), "--model", str(tmp_path / "model.onnx")]
    command += ["--output", str(tmp_path / "out"), "--tile", "512", "--compare"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1])
    print(f"{kind}: {peak / 1e9:.2f} GB")
    assert peak < 4e9
