"""The command line that arranges, packs and verifies a dataset."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import preprocessing
from src.data.packed import open_pairs
from src.errors import UserError
from src.preprocessing import main
from tests.data_trees import error_of, make_source, overwrite, snapshot, texts

SCRIPT = Path(preprocessing.__file__)


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "GOPRO_Large")


def test_the_file_runs_from_any_folder(source, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, str(SCRIPT), "--root_src", str(source), "--root_dst", "out"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "16 files copied" in done.stdout and "out: 6 train pairs, 2 test pairs" in done.stdout
    assert len(texts(elsewhere / "out/train/sharp")) == 6
    done = subprocess.run([*command[:2], "--root_src", "nowhere"], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --root_src: no folder nowhere") and done.stderr.count("\n") == 1


def test_options(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--root_src", str(source), "--link"]) == 0
    assert os.path.samefile("dataset/test/blur/1.png", source / "test/GOPR0384_11_00/blur/000001.png")
    with pytest.raises(UserError, match="--root_src"):
        main([])
    with pytest.raises(UserError, match="unknown option --lnk. Did you mean --link"):
        main(["--root_src", str(source), "--lnk"])


def test_options_of_pack(pair_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--root_src", str(pair_folder), "--pack"]) == 0
    out = capsys.readouterr().out
    assert "packing 5 train pairs, 2 test pairs into packed: 0.00 GB" in out and "7 pairs decoded" in out
    assert "next: python train.py --dataset_root packed" in out and len(open_pairs(Path("packed"), "train")) == 5
    assert main(["--root_src", str(pair_folder), "--root_dst", "patches", "--pack", "--patch_size", "16"]) == 0
    assert len(open_pairs("patches", "train")) == 5 * 4 * 5
    for options, words in (
        (["--patch_size", "32"], "--patch_size: needs --pack"),
        (["--pack", "--patch_size", "-4"], "--patch_size: got -4, expected 0 to 65536"),
        (["--pack", "--link"], "--link and --pack"),
        (["--pack", "--verify"], "--pack: has no effect with --verify"),
    ):
        assert words in error_of(main, ["--root_src", str(pair_folder), *options])


def test_verify_knows_a_packed_set(packed, capsys):
    assert main(["--verify", "--root_dst", str(packed)]) == 0
    with open(packed / "train.npy", "rb+") as file:
        file.seek(128 + 2 * 2 * 40 * 48 * 3 + 7)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert main(["--verify", "--root_dst", str(packed)]) == 1
    assert f"{packed}: damaged: train/3" in capsys.readouterr().out


def test_options_of_verify(sample_trees, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(sample_trees)
    before = snapshot(sample_trees)
    assert main(["--verify"]) == 0  # ./dataset
    assert main(["--verify", "--root_src", "GOPRO_Large"]) == 0
    assert "dataset" not in capsys.readouterr().out.split("nothing wrong was found")[1]
    assert main(["--verify", "--root_src", "GOPRO_Large", "--root_dst", "dataset"]) == 0
    assert "dataset: compared with GOPRO_Large, byte by byte" in capsys.readouterr().out
    assert snapshot(sample_trees) == before
    with pytest.raises(UserError, match="--link: has no effect with --verify"):
        main(["--verify", "--link"])
    with pytest.raises(UserError, match="--report_file: needs --verify"):
        main(["--root_src", "GOPRO_Large", "--report_file", "report.json"])


def test_names_that_are_no_utf8(tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    for split in ("train", "test"):
        for kind in ("blur", "sharp"):
            folder = root / split / os.fsdecode(b"GOPR\xff") / kind
            folder.mkdir(parents=True)
            overwrite(folder / os.fsdecode(b"n\xe9.png"), seed=len(kind + split))

    def run(*options):
        command = [sys.executable, str(SCRIPT), "--root_src", str(root), *options]
        env = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # what a terminal in UTF-8 has
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "4 files copied" in run("--root_dst", "arranged")
    assert "4 files were there already" in run("--root_dst", "arranged")  # the manifest knows the names again
    assert "2 pairs decoded" in run("--root_dst", "packed", "--pack")
    assert "2 were there already" in run("--root_dst", "packed", "--pack")
    assert "caf\\udce9" in run("--verify", "--root_dst", "arranged", "--report_file", "report.json")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["root_src"] == str(root)
    for path in ("arranged/manifest.csv", "packed/manifest.csv"):
        assert "GOPR\\udcff" in (tmp_path / path).read_text(encoding="utf-8")
