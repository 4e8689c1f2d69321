"""One photo of the web page, without the page: the same file as deblur.py's, previews, errors in one line."""

import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
import deblur
from src.errors import UserError
from src.web import uploads as web
from src.web.uploads import VideoOptions, file_name, restore_upload, write_preview
from tests.photos import files
from tests.videos import make_video, read_video

RGB = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)


def invert(pixels, path=None):
    return np.iinfo(pixels.dtype).max - pixels


class Inverting:
    """An engine whose answer is known."""

    description, bytes_per_pixel, multiple = "inverts", 100, 4

    def __call__(self, images):
        return 1 - images


@pytest.fixture
def uploaded(tmp_path, monkeypatch):
    """uploaded(file, name) restores a file as the server hands it over, each time into a folder of its own."""

    def run(path, name, restore=invert, max_pixels=10**6, **kwargs):
        folder = tmp_path / f"request {len(os.listdir(tmp_path))}"
        folder.mkdir()
        return restore_upload(Path(path), name, folder, restore, 90, max_pixels, **kwargs)

    monkeypatch.chdir(tmp_path)
    return run


def photo(name, array=RGB, **kwargs):
    Image.fromarray(array).save(name, **kwargs)
    return Path(name)


def carrying():
    exif = Image.Exif()
    exif[0x0112], exif[272] = 6, "Camera 1"
    return {"exif": exif, "icc_profile": b"profile", "dpi": (300, 300)}


KINDS = {
    "turned.jpg": (RGB, carrying()),
    "Zoë 李 (1) #2.webp": (RGB, {"lossless": True}),
    "transparent.PNG": (np.dstack([RGB, RGB[..., 0]]), {}),
    "grey16.tif": (RGB[..., 0].astype(np.uint16) * 200, {}),
    "pixel.bmp": (RGB[:1, :1], {}),
    "content decides": (RGB, {"format": "TIFF"}),
    "named.jpg": (RGB, {"format": "PNG"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_result_is_the_file_that_deblur_writes(uploaded, monkeypatch, name):
    array, options = KINDS[name]
    os.mkdir("in")
    photo(f"in/{name}", array, **options)
    Path("upload").write_bytes(Path(f"in/{name}").read_bytes())
    Path("model.onnx").touch()
    monkeypatch.setattr("src.photos.options.load_engine", lambda *args, **kwargs: Inverting())
    assert deblur.main([f"in/{name}", "--model", "model.onnx", "--output", "out", "--quality", "90"]) == 0
    (expected,) = (Path("out") / name for name in files("out"))
    restored = uploaded("upload", name)
    assert restored.target is not None, restored.line
    assert restored.target.name == expected.name and restored.target.read_bytes() == expected.read_bytes()


def test_line_and_previews(uploaded):
    restored = uploaded(photo("x.jpg", **carrying()), "walk.jpg")
    size = restored.target.stat().st_size
    assert restored.line.startswith(f"walk.jpg: 20x31 pixels, {size / 1e6:.2f} MB, ") and restored.line.endswith(" s")
    with Image.open(restored.before) as before, Image.open("x.jpg") as original:
        assert before.format == "PNG" and before.size == (20, 31) and before.info["icc_profile"] == b"profile"
        np.testing.assert_array_equal(np.asarray(before), np.asarray(original.transpose(Image.Transpose.ROTATE_270)))
    with Image.open(restored.after) as after, Image.open(restored.target) as result:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(result))


def test_previews_are_small_and_of_eight_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "PREVIEW_SIDE", 10)
    grey = photo(tmp_path / "a.png", RGB[..., 0].astype(np.uint16) * 257, icc_profile=b"of grey")
    with Image.open(write_preview(grey, tmp_path / "small.png", 1000)) as small:
        assert small.size == (10, 6) and small.mode == "RGB" and "icc_profile" not in small.info
        assert abs(np.asarray(small).mean() - RGB[..., 0].mean()) < 3


def test_what_could_not_be_kept_is_reported(uploaded):
    pages = [Image.fromarray(RGB), Image.fromarray(RGB)]
    pages[0].save("a.tif", save_all=True, append_images=pages[1:])
    assert uploaded("a.tif", "scan.tif").line.endswith(" s; the first of its 2 pictures only")


def test_errors_are_one_line_without_the_servers_paths(uploaded, tmp_path, capsys):
    Path("text.jpg").write_text("hello")
    whole = photo("whole.png", np.tile(RGB, (4, 4, 1)))
    Path("cut.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    full = OSError(28, "No space left on device")

    def fail(error):
        def restore(pixels, path):
            raise error

        return restore

    for path, options, words in (
        ("text.jpg", {}, "not a photo; expected the content of a PNG"),
        ("cut.png", {}, "damaged or cut off"),
        ("whole.png", {"max_pixels": 100}, "124x80 are 0 megapixels"),
        ("whole.png", {"restore": fail(MemoryError())}, "not enough memory; give a smaller --tile"),
        ("whole.png", {"restore": fail(RuntimeError("two\nlines"))}, "RuntimeError: two lines"),
        ("whole.png", {"restore": fail(full)}, "No space left on device"),
    ):
        restored = uploaded(path, "walk.png", **options)
        assert restored.target is restored.before is restored.after is None
        assert restored.line.startswith("error: walk.png: ") and words in restored.line
        assert "\n" not in restored.line and str(tmp_path) not in restored.line
    assert capsys.readouterr().err == ""
    uploaded("text.jpg", "walk.png", debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_a_short_video(uploaded):
    make_video("upload", container="avi", times=range(5), time_base=Fraction(1, 24), codec="mpeg4", sound=False)
    seen = []
    options = VideoOptions(17, 10_000, 5, lambda *counts: seen.append(counts))
    restored = uploaded("upload", "walk.AVI", video=options)
    assert restored.line.startswith("walk.mkv: 64x48 pixels, ") and restored.line.endswith("as Matroska, .mkv")
    assert len(read_video(restored.target).times) == 5 and seen[-1] == (5, 5)
    with Image.open(restored.before) as before, Image.open(restored.after) as after:
        assert abs(255.0 - np.asarray(before) - np.asarray(after)).mean() < 3
    for limits, words in (
        (
            (17, 1000, 5),
            "frames of 64x48 have 0.0 megapixels, expected 0.001 at most; scale it down, or raise the limit",
        ),
        ((17, 10_000, 0.1), "lasts 0.2 s, expected 0.1 s at most; cut it, or raise the limit"),
    ):
        assert uploaded("upload", "walk.avi", video=VideoOptions(*limits)).line == f"error: walk.avi: {words}"
    assert "rename it to end in .mp4" in uploaded("upload", "walk.jpg", video=options).line


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("walk.jpg", "walk.jpg"),
        ("../../walk.jpg", "walk.jpg"),
        ("C:\\photos\\walk.jpg", "walk.jpg"),
        ("/etc/passwd", "passwd"),
        *((bad, "server.jpg") for bad in ("", "..", "a/..", "a\0b.jpg", "\ud800.jpg", "a\n.jpg", "x" * 300 + ".jpg")),
    ],
)
def test_names_cannot_leave_the_folder(uploaded, tmp_path, given, name):
    assert file_name(given, Path("folder/server.jpg")) == name
    restored = uploaded(photo("server.jpg"), given)
    assert restored.target.parent.parent.parent == tmp_path and restored.target.name.startswith(name)


# ---- the command


def test_mistakes_are_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").touch()
    expected = [
        (["--model", "modle.onnx"], r"--ckpt_file: no file modle.onnx;.* Did you mean model.onnx\?"),
        (["--tile", "32"], "--tile: got '32', expected auto, 0 or 64 to 65536"),
        (
            ["--max_megabytes", "0", "--port", "0"],
            "--max_megabytes: got 0, expected 1 to 100000; --port: got 0, expected 1 to 65535",
        ),
        (["--port", "70000"], "--port: got 70000, expected 1 to 65535"),
        (["--host", "http://a"], "--host: got 'http://a', expected an address"),
        (["--host", 64 * "a"], "--host: got 'a+', expected an address"),
        (["--host", ""], "--host: got ''"),
        (["--max_total_megabytes", "99"], "--max_total_megabytes: got 99, expected 100 or more"),
        (["--keep_seconds", "0"], "--keep_seconds: got 0, expected 1 to"),
        (
            ["--allowed_host", "https://photos.example.org"],
            "--allowed_host: got https://photos.example.org, expected a",
        ),
        (["--model", "model.onnx", "--host", "192.0.2.1"], "--host: 192.0.2.1 is no address of this machine"),
        (["--prot", "80"], r"Did you mean --port\?"),
    ]
    for argv, words in expected:
        with pytest.raises(UserError, match=words) as caught:
            app.main(argv)
        assert "\n" not in str(caught.value)


def test_without_gradio_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "GRADIO_ANALYTICS_ENABLED", "")  # put back afterwards
    monkeypatch.setitem(os.environ, "HF_HUB_DISABLE_TELEMETRY", "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    Path("model.onnx").touch()
    with pytest.raises(
        UserError, match=r"^the page needs gradio, which is not installed: bash scripts/setup.sh --app$"
    ):
        app.main(["--model", "model.onnx", "--port", "17860"])
