import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from src import __version__, run_folder
from src.config import Config, load_config
from src.errors import UserError
from src.formats.weights import write_safetensors
from src.run_folder import begin, check, holds_run
from src.run_log import RunLog, SavedAt, read_log

DESCRIPTION = ["config.yaml", "versions.json"]


def make_run(folder, text="old"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- claiming a folder


def test_new_and_empty_folders_are_given(tmp_path):
    for _ in range(2):
        folder = check(str(tmp_path / "runs" / "a"), overwrite=False)
        assert folder == tmp_path / "runs" / "a"
        folder.mkdir(parents=True, exist_ok=True)
    begin(folder, "seed: 1\n", "1")
    assert names(tmp_path / "runs") == ["a"] and names(folder) == DESCRIPTION


def test_check_touches_nothing(tmp_path):
    check(tmp_path / "runs" / "a", overwrite=False)
    check(make_run(tmp_path / "old"), overwrite=True)
    assert names(tmp_path) == ["old"]


def test_folder_with_other_files_is_given(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    begin(check(tmp_path, overwrite=False), "seed: 1\n", "1")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["config.yaml", "log.csv", "last.ckpt", "MIMO-UNet_1_10.ckpt"])
def test_run_is_not_overwritten(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("old")
    assert holds_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"--ckpt_save_directory .*run already holds a run.*--overwrite"):
        check(tmp_path / "run", overwrite=False)
    assert (tmp_path / "run" / name).read_text() == "old"


def test_overwrite_renames_aside_each_time(tmp_path, capsys):
    folder = tmp_path / "run"
    for text in ("first", "second"):
        shutil.rmtree(folder, ignore_errors=True)
        make_run(folder, text)
        begin(check(folder, overwrite=True), "seed: 1\n", "1")
        assert names(folder) == DESCRIPTION
    assert (tmp_path / "run.old1" / "config.yaml").read_text() == "first"
    assert (tmp_path / "run.old2" / "config.yaml").read_text() == "second"
    assert f"the existing run in {folder} is now {tmp_path / 'run.old2'}" in capsys.readouterr().out


def test_overwrite_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make_run(tmp_path / "run"))
    begin(check(".", overwrite=True), "seed: 1\n", "1")
    assert names(tmp_path / "run") == DESCRIPTION
    assert names(tmp_path / "run.old1") == ["config.yaml"]


def test_run_that_cannot_be_renamed(tmp_path, monkeypatch):
    def busy(self, target):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(UserError, match=r"--overwrite: cannot rename .*\(Device or resource busy\)"):
        begin(make_run(tmp_path / "run"), "seed: 1\n", "1")
    assert (tmp_path / "run" / "config.yaml").read_text() == "old"


def test_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for below in (tmp_path / "file", tmp_path / "file" / "run" / "a"):
        with pytest.raises(UserError, match=r"--ckpt_save_directory .*: cannot write into .*file\. "):
            check(below, overwrite=False)
        with pytest.raises(UserError, match="--ckpt_save_directory: cannot write into"):
            begin(below, "seed: 1\n", "1")


def test_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"cannot write into {tmp_path}\\. "):
        check(tmp_path / "runs" / "a", overwrite=False)


# ---- describing a run


def test_description_repeats_the_run(tmp_path):
    config = load_config("train", ["--seed", "7", "--learning_rate", "2e-4"])
    begin(tmp_path, config.to_yaml(), "5f")
    again = load_config("train", ["--config_path", str(tmp_path / "config.yaml")])
    assert (again.schedule.seed, again.schedule.learning_rate) == (7, 2e-4)
    assert holds_run(tmp_path)


def test_versions_are_those_of_this_process(tmp_path):
    begin(tmp_path, Config().to_yaml(), "5f")
    found = json.loads((tmp_path / "versions.json").read_text())
    assert found["mimo_unet"] == __version__
    assert found["python"] == platform.python_version()
    for package in ("mindspore", "numpy", "Pillow", "scikit-image"):
        assert found[package] == version(package)
    assert "git_commit" in found


def test_absent_git_and_packages_are_none(monkeypatch):
    def no_package(name):
        raise run_folder.PackageNotFoundError(name)

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(run_folder, "version", no_package)
    monkeypatch.setattr(run_folder.subprocess, "run", no_git)
    found = run_folder.versions()
    assert (found["git_commit"], found["numpy"], found["mimo_unet"]) == (None, None, __version__)


# ---- beginning


def test_begin_keeps_a_folder_that_is_resumed_at_step_0(tmp_path):
    log = RunLog(tmp_path)
    for step in (0, 10):
        log.add(0, step, psnr=30.0)
    (log.folder / "best.ckpt").touch()  # of --val_first
    begin(log.folder, "seed: 1\n", "1", SavedAt(0, 5))
    assert read_log(log.path)["step"] == [0] and (log.folder / "best.ckpt").exists()


def test_begin_cuts_at_a_resume_and_claims_for_a_new_run(tmp_path):
    log = RunLog(tmp_path)
    log.add(1, 10, loss=0.5)
    log.add(1, 20, loss=0.25)
    begin(log.folder, "seed: 1\n", "1", SavedAt(10, 5))
    assert read_log(log.path)["step"] == [10]
    assert (log.folder / "config.yaml").read_text() == "seed: 1\n"
    begin(log.folder, "seed: 2\n", "2")
    assert names(log.folder) == ["config.yaml", "versions.json"]
    assert read_log(log.folder.with_name(log.folder.name + ".old1") / "log.csv")["step"] == [10]


# ---- whose checkpoint


def begin_run(folder, run, **options):
    """A run folder as a training leaves it, with a log and one checkpoint, which is returned."""
    begin(folder, Config().with_options(**options).to_yaml(), run)
    (folder / "log.csv").write_text("epoch,step,loss\n1,10,0.5\n2,20,0.25\n")
    return write_checkpoint(folder / "last.safetensors", run)


def write_checkpoint(path, run="", step=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {"a": np.ones(3, np.float32)}, {"step": step} | ({"run": run} if run else {}))
    return path


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_resuming_into_the_folder_of_another_run_is_refused(tmp_path):
    a, b = begin_run(tmp_path / "a", "1"), begin_run(tmp_path / "b", "2")
    before = contents(b.parent)
    with pytest.raises(UserError, match=r"last.safetensors: .*not of the run in .*b, whose log and ch.*--resume auto"):
        check(b.parent, overwrite=False, resume=str(a))
    assert contents(b.parent) == before
    # nor is a checkpoint of another run at home where somebody has copied it to
    with pytest.raises(UserError, match="not of the run in"):
        check(b.parent, overwrite=False, resume=str(shutil.copy(a, b.parent / "of_a.safetensors")))


def test_resuming_into_the_runs_own_folder_or_an_empty_one(tmp_path):
    a = begin_run(tmp_path / "a", "1")
    backup = Path(shutil.copy(a, tmp_path / "backup.safetensors"))
    moved = tmp_path / "moved" / "a"
    shutil.copytree(a.parent, moved)
    for folder in (a.parent, moved, tmp_path / "new"):
        for file in (a, backup, moved / a.name):
            assert check(folder, overwrite=False, resume=str(file)) == folder
    assert check(a.parent, overwrite=False, resume="auto") == a.parent


def test_run_of_a_version_without_identities_is_resumed_in_its_own_folder_alone(tmp_path):
    old, other = make_run(tmp_path / "old"), make_run(tmp_path / "other")
    (old / "versions.json").write_text("{}")
    file = write_checkpoint(old / "last.safetensors")
    assert check(old, overwrite=False, resume=str(file)) == old
    with pytest.raises(UserError, match="not of the run in"):
        check(other, overwrite=False, resume=str(file))
    begin(old, "seed: 1\n", "1", SavedAt(10, 5))  # by this version: the folder has an identity, the file has none
    assert check(old, overwrite=False, resume=str(file)) == old


def test_missing_checkpoint_to_resume_from_is_named_before_anything_else(tmp_path):
    with pytest.raises(UserError, match="no checkpoint .*none.ckpt"):
        check(tmp_path, overwrite=False, resume=str(tmp_path / "none.ckpt"))
