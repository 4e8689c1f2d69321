"""Many files at once; files and folders that appear whole or not at all, and apart from what is read."""

import importlib
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import full_disk, write_dataset

from src.config import ROOT
from src.data.gopro import ManifestRow, place, write_manifest
from src.data.packing import pack
from src.drawing import save_curves, save_png, save_strip
from src.errors import UserError
from src.evaluation import write_csv, write_json
from src.files import (
    NoRoom,
    escaped,
    in_threads,
    need_apart,
    same_bytes,
    unescaped,
    whole_file,
    whole_folder,
    write_whole,
)
from src.formats.weights import write_safetensors
from src.run_folder import begin
from src.run_log import COLUMNS, SavedAt, cut_log
from tests.data_trees import error_of, snapshot


def test_ctrl_c_leaves_the_rest_undone():
    done = []

    def work(i):
        if i == 3:
            raise KeyboardInterrupt
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, range(20_000), "file", progress=False)
    assert len(done) < 20_000


def test_results_come_in_order():
    assert in_threads(lambda i: i * i, range(100), "file", progress=False) == [i * i for i in range(100)]


def test_files_are_compared_by_their_bytes(tmp_path):
    for name, content in (("a", b"12345"), ("b", b"12345"), ("c", b"12354")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for other, same in (("a", True), ("b", True), ("link", True), ("c", False), ("missing", False)):
        assert same_bytes(tmp_path / "a", tmp_path / other) is same
    assert not same_bytes(tmp_path / "missing", tmp_path / "missing")  # nothing is known of it


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"\xff\xfe", "caf\u00e9 \u6a21\u7cca".encode(), b"back\\slash\\x", b"plain"]
)
def test_file_names_are_written_as_utf8_and_come_back(name):
    text = os.fsdecode(name)
    assert os.fsencode(unescaped(escaped(text).encode("utf-8").decode("utf-8"))) == name


# ---- whole or not at all


def left(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, OSError(5, "Input/output error")])
def test_half_a_file_is_never_seen(tmp_path, error):
    path = tmp_path / "new" / "a.ckpt"
    for _ in range(2):  # without an old file, and with one
        before = left(path.parent) if path.parent.exists() else []
        with pytest.raises(UserError if isinstance(error, OSError) else error), whole_file(path) as part:
            part.write_text("half")
            part.with_name("beside.tmp").write_text("of the program that writes")
            raise error
        assert left(path.parent) == before
        write_whole(path, "old")
    with whole_file(path) as part:
        part.write_text("new")
        part.chmod(0o400)  # as MindSpore does
        assert path.read_text() == "old" and part.suffix == ".ckpt"
    assert path.read_text() == "new" and left(path.parent) == ["a.ckpt"]


def test_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with full_disk(1000), pytest.raises(NoRoom) as caught:
        write_whole(path, "x" * 5_000_000)
    assert str(caught.value).startswith(f"cannot save {path} (File too large: 5 MB are needed, ")
    assert "are free). Make room" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text() == "old" and left(tmp_path) == ["report.json"]


NOISE = np.random.default_rng(0).random((40, 40, 3), dtype=np.float32)
WRITERS = {
    "a.png": lambda path: save_png(path, NOISE),
    "strip.png": lambda path: save_strip(path, {"a": NOISE}),
    "curves.png": lambda path: save_curves(path, {}),
    "curves.jpg": lambda path: save_curves(path, {}),
    "report.json": lambda path: write_json(path, {"text": "x" * 500}),
    "all.csv": lambda path: write_csv(path, [{"name": "x" * 500}]),
    "manifest.csv": lambda path: write_manifest(path, [ManifestRow(*"abcdef")] * 50),
    "config.yaml": lambda path: begin(path.parent, "seed: 1\n" * 50, "run", SavedAt(10, 10)),
    "log.csv": lambda path: cut_log(path, SavedAt(10, 10)),
    "net.safetensors": lambda path: write_safetensors(path, {"a": NOISE}, {}),
    "copy.png": lambda path: place(path.with_name("source.png"), path, link=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_keeps_the_old_file_when_the_disk_is_full(tmp_path, name):
    (tmp_path / "source.png").write_bytes(b"x" * 500)
    (tmp_path / name).write_text(",".join(COLUMNS) + "\n" + "1,10,0.5\n" * 30)
    before = snapshot(tmp_path)
    with full_disk(200), pytest.raises(NoRoom, match=f"^cannot save .*{name} \\(File too large: .*Make room"):
        WRITERS[name](tmp_path / name)
    assert snapshot(tmp_path) == before


def test_permissions_are_those_of_open(tmp_path):
    old = os.umask(0o177)  # even if it forbids to enter new folders
    try:
        write_whole(tmp_path / "new", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    (tmp_path / "new").chmod(0o664)
    write_whole(tmp_path / "new", "y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o664


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "source").write_text("source")
    (tmp_path / "source").chmod(0o440)
    (tmp_path / "symbolic").symlink_to(tmp_path / "source")
    os.link(tmp_path / "source", tmp_path / "hard")
    for name in ("symbolic", "hard"):
        write_whole(tmp_path / name, "new")
    with whole_file(tmp_path / "linked") as part:
        os.link(tmp_path / "source", part)
    assert (tmp_path / "source").read_text() == "source" and (tmp_path / "source").stat().st_mode & 0o777 == 0o440
    assert (tmp_path / "symbolic").read_text() == (tmp_path / "hard").read_text() == "new"


def test_names_as_long_as_file_systems_take_and_what_is_no_file(tmp_path):
    for name in ("x" * 251 + ".png", "\u674e" * 83 + ".png", "a." + "s" * 253):
        write_whole(tmp_path / name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert "File name too long" in error_of(write_whole, tmp_path / ("x" * 256), "")
    for path in (tmp_path, "/dev/null"):
        assert f"cannot save {path}: it is a folder or device" in error_of(write_whole, path, "")


def test_too_many_open_files_are_one_error_and_leave_nothing(tmp_path):
    free = os.dup(0)  # the lowest free descriptor
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        message = error_of(write_whole, tmp_path / "a.txt", "text")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "a.txt" in message and "Too many open files" in message
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_file_and_a_living_one_keeps_its_own(tmp_path):
    code = """
import os, sys
from pathlib import Path
from src.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed.json")], cwd=ROOT)
    assert len(left(tmp_path)) == 1
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "b") as second:
        assert first.parent != second.parent and len(left(tmp_path)) == 2
        first.write_text("a")
        second.write_text("b")
    assert left(tmp_path) == ["a", "b"] and (tmp_path / "a").read_text() == "a"


def test_a_folder_appears_whole(tmp_path):
    for name in ("new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(NoRoom), full_disk(10), whole_folder(tmp_path / name) as part:
            (part / "a").write_text("x" * 100)
        assert not (tmp_path / name).exists() or left(tmp_path / name) == []
        with whole_folder(tmp_path / name) as part:
            (part / "sub").mkdir()
            (part / "sub/a").write_text("a")
            assert not (tmp_path / name / "sub").exists()
        assert left(tmp_path / name) == ["sub"]
    (tmp_path / "new/mine").write_text("mine")
    with whole_folder(tmp_path / "new") as part:
        (part / "sub").mkdir()
        (part / "sub/a").write_text("changed")
    assert (tmp_path / "new/mine").read_text() == "mine" and (tmp_path / "new/sub/a").read_text() == "changed"
    assert left(tmp_path) == ["empty", "new"]


# ---- apart from what is read


@pytest.fixture
def data(tmp_path):
    """A data set, a checkpoint in a run folder, and other names of both."""
    (tmp_path / "data/test/blur").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.ckpt").touch()
    (tmp_path / "alias").symlink_to(tmp_path / "data/test")
    (tmp_path / "alias.ckpt").symlink_to(tmp_path / "run/best.ckpt")
    os.link(tmp_path / "run/best.ckpt", tmp_path / "hard.ckpt")
    (tmp_path / "data/test/link.json").symlink_to(tmp_path / "elsewhere.json")
    return tmp_path


@pytest.mark.parametrize(
    "kind, output, relation",
    [
        ("folders", "data/test", "is"),
        ("folders", "alias", "is"),
        ("folders", "data/test/blur", "lies in"),
        ("folders", "data/test/new/deep", "lies in"),
        ("folders", "alias/new", "lies in"),
        ("folders", "run/../data/test/new", "lies in"),
        ("folders", "data", "holds"),
        ("folders", ".", "holds"),
        ("folders", "run/scene", "is"),
        ("folders", "run", "holds"),
        ("files", "data/test/new.json", "lies in"),
        ("files", "data/test/link.json", "lies in"),
        ("files", "run/best.ckpt", "is"),
        ("files", "alias.ckpt", "is"),
        ("files", "hard.ckpt", "is"),
        ("files", "run/scene/a.png", "lies in"),
    ],
)
def test_outputs_that_would_fall_into_inputs(data, monkeypatch, kind, output, relation):
    (data / "run/scene").mkdir()
    monkeypatch.chdir(data)
    read, shallow = [data / "data/test", data / "run/best.ckpt", data / "missing"], [data / "run/scene"]
    with pytest.raises(UserError, match=rf"^--out: {output} {relation} .*, which is only read\. Choose"):
        need_apart(read, shallow=shallow, **{kind: [("--out", type(data)(output))]})


def test_outputs_beside_inputs_are_welcome(data):
    (data / "run/scene").mkdir()
    need_apart(
        [data / "data/test", data / "run/best.ckpt", data / "missing"],
        shallow=[data / "run/scene"],
        files=[("--report", data / "run/report.json"), ("--report", data / "run/report.csv")],
        folders=[("--a", data / "data/restored"), ("--b", data / "new"), ("--c", data / "run/scene/restored")],
    )
    with pytest.raises(UserError, match="--b and --a are both .*/new/../new"):
        need_apart([], folders=[("--a", data / "new"), ("--b", data / "new/../new")])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What scripts read: data sets arranged, linked to and packed, photographs, a run, a checkpoint."""
    root = tmp_path_factory.mktemp("inputs")
    write_dataset(root / "data", train=2, test=2)
    write_dataset(root / "source", train=0, test=2)
    for kind in ("blur", "sharp"):
        folder = root / "linked/test" / kind
        folder.mkdir(parents=True)
        for i in (1, 2):
            (folder / f"{i}.png").symlink_to(root / f"source/test/{kind}/{i}.png")
    shutil.copytree(root / "data/test/sharp", root / "photos")
    (root / "list.txt").write_text("data/test/sharp/1.png data/test/blur/1.png\n")
    pack(root / "data", root / "packed", progress=False)
    (root / "run").mkdir()
    (root / "run/log.csv").write_text(",".join(COLUMNS) + "\n1,1,0.5" + "," * (len(COLUMNS) - 3) + "\n")
    (root / "run/curves.png").write_text("of the run")
    (root / "net.ckpt").write_text("weights")
    (root / "net.mindir").symlink_to(root / "net.ckpt")
    return root


TRAIN = "train --dataset_root data --device_target CPU --crop_size 32 --ckpt_save_directory"
EVAL = "eval --device_target CPU"


@pytest.mark.parametrize(
    "command, relation",
    [
        (f"{EVAL} --dataset_root data --img_save_directory data/test/blur", "lies in data/test"),
        (f"{EVAL} --dataset_root data --strip_save_directory data/train/new", "lies in data/train"),
        (f"{EVAL} --dataset_root data --img_save_directory data", "holds data/"),
        (f"{EVAL} --dataset_root data --img_save_directory new --strip_save_directory new", "are both new"),
        (f"{EVAL} --dataset_root data --report_file data/test/report.json", "lies in data/test"),
        (f"{EVAL} --dataset_root linked --img_save_directory source/test/blur", "is .*source/test/blur"),
        (f"{EVAL} --dataset_root packed --img_save_directory packed", "is packed"),
        (f"{EVAL} --test_list list.txt --img_save_directory data/test/sharp", "is data/test/sharp"),
        (f"{EVAL} --blur_directory data/test/blur --sharp_directory photos --report_file photos/a.json", "in photos"),
        (f"{TRAIN} data/train/run", "lies in .*data/train"),
        (f"{TRAIN} data", "holds .*data/"),
        (f"{TRAIN} photos/run --sharp_photos photos", "lies in .*photos"),
        (f"{TRAIN} packed/run --dataset_root packed", "lies in .*packed"),
        ("export --ckpt_file net.ckpt --export_file_name net", "is net.ckpt"),
        ("convert net.ckpt net.ckpt --overwrite", "is net.ckpt"),
        ("deblur photos/1.png --output photos", "is photos/1.png"),
        ("deblur photos/1.png --output photos --format jpg", "lies in photos"),
        ("src.preprocessing --root_src data --root_dst data/new", "lies in data"),
        ("src.preprocessing --root_src data --root_dst data/new --pack", "lies in data"),
        ("src.preprocessing --root_dst data --verify --report_file data/test/blur/a.json", "lies in data/test"),
        ("src.data.synthetic_blur --photos photos --root photos/new --height 16 --width 16", "lies in photos"),
        ("scripts.compare_runs run --output run/curves.png", "is run/curves.png"),
    ],
)  # fmt: skip
def test_no_script_writes_into_what_it_reads(inputs, monkeypatch, command, relation):
    monkeypatch.chdir(inputs)
    before = {path: path.is_dir() or path.read_bytes() for path in inputs.rglob("*")}
    script, *argv = command.split()
    with pytest.raises(UserError, match=relation) as caught:
        importlib.import_module(script).main(argv)
    assert "\n" not in str(caught.value)
    assert {path: path.is_dir() or path.read_bytes() for path in inputs.rglob("*")} == before
