import csv
import json
import math
import platform
import shutil
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from src import __version__, run_folder
from src.config import Config, load_config
from src.errors import UserError
from src.formats.weights import write_safetensors
from src.run_folder import (
    COLUMNS,
    RunLog,
    SavedAt,
    begin,
    check,
    checkpoint_name,
    claim,
    cut_log,
    describe,
    holds_run,
    numbered_checkpoints,
    read_log,
)


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
        assert folder == claim(folder) == tmp_path / "runs" / "a"
        assert folder.is_dir()
    assert names(tmp_path / "runs") == ["a"]


def test_check_touches_nothing(tmp_path):
    check(tmp_path / "runs" / "a", overwrite=False)
    check(make_run(tmp_path / "old"), overwrite=True)
    assert names(tmp_path) == ["old"]


def test_folder_with_other_files_is_given(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert claim(check(tmp_path, overwrite=False)) == tmp_path
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
        make_run(folder, text)
        assert claim(check(folder, overwrite=True)) == folder
        assert not names(folder)
    assert (tmp_path / "run.old1" / "config.yaml").read_text() == "first"
    assert (tmp_path / "run.old2" / "config.yaml").read_text() == "second"
    assert f"the run that was in {folder} is now {tmp_path / 'run.old2'}" in capsys.readouterr().out


def test_overwrite_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make_run(tmp_path / "run"))
    folder = claim(check(".", overwrite=True))
    (folder / "new").write_text("x")
    assert names(tmp_path / "run") == ["new"]
    assert names(tmp_path / "run.old1") == ["config.yaml"]


def test_run_that_cannot_be_renamed(tmp_path, monkeypatch):
    def busy(self, target):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(UserError, match=r"--overwrite: cannot rename .*\(Device or resource busy\)"):
        claim(make_run(tmp_path / "run"))
    assert (tmp_path / "run" / "config.yaml").read_text() == "old"


def test_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for below in (tmp_path / "file", tmp_path / "file" / "run" / "a"):
        with pytest.raises(UserError, match=r"--ckpt_save_directory .*: cannot write into .*file\. "):
            check(below, overwrite=False)
        with pytest.raises(UserError, match="--ckpt_save_directory: cannot write into"):
            claim(below)


def test_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"cannot write into {tmp_path}\\. "):
        check(tmp_path / "runs" / "a", overwrite=False)


# ---- describing a run


def test_description_repeats_the_run(tmp_path):
    config = load_config("train", ["--seed", "7", "--learning_rate", "2e-4"])
    describe(tmp_path, config.to_yaml(), "5f")
    again = load_config("train", ["--config_path", str(tmp_path / "config.yaml")])
    assert (again.seed, again.learning_rate) == (7, 2e-4)
    assert holds_run(tmp_path)


def test_versions_are_those_of_this_process(tmp_path):
    describe(tmp_path, Config().to_yaml(), "5f")
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


# ---- the log


def rows(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.reader(f))


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path)


def test_new_log_has_its_header(log):
    assert rows(log.path) == [COLUMNS]
    assert read_log(log.path) == {name: [] for name in COLUMNS}


def test_a_row_is_written_at_once(log):
    log.add(1, 10, loss=0.5, lr=1e-4, psnr=30.25)
    assert len(rows(log.path)) == 2
    columns = read_log(log.path)
    assert [columns[c] for c in ("epoch", "step", "loss", "lr", "psnr")] == [[1], [10], [0.5], [1e-4], [30.25]]


def test_values_do_not_leak_into_the_next_row(log):
    log.add(1, 10, loss=0.5, psnr=30.0)
    log.add(2, 20, loss=0.25)
    assert read_log(log.path)["psnr"] == [30.0, None]


def test_empty_cells_are_none_and_bad_numbers_stay(log):
    log.add(1, 10, psnr=None, loss=math.nan, fft=math.inf)
    columns = read_log(log.path)
    assert columns["psnr"] == [None] and columns["content"] == [None]
    assert math.isnan(columns["loss"][0]) and columns["fft"] == [math.inf]


def test_numbers_keep_their_precision(log):
    log.add(1, 10, loss=0.1 + 0.2)
    assert read_log(log.path)["loss"] == [0.1 + 0.2]


def test_unknown_column_is_an_error(log):
    with pytest.raises(ValueError, match="los"):
        log.add(1, 10, los=0.5)


def test_existing_log_is_continued(log):
    log.add(1, 10, loss=0.5)
    again = RunLog(log.folder)
    again.add(1, 20, loss=0.25)
    assert rows(log.path)[0] == COLUMNS
    assert read_log(log.path)["step"] == [10, 20]


def test_log_cut_off_in_its_last_row_is_read(log):
    log.add(1, 10, loss=0.5)
    with open(log.path, "a", encoding="utf-8") as f:
        f.write("2,20,0.2")
    assert read_log(log.path)["loss"] == [0.5, 0.2]
    assert read_log(log.path)["psnr_input"] == [None, None]


@pytest.mark.parametrize("fault", ["import nothing_of_that_name", "raise TypeError('Descriptors cannot\\nbe created')"])
def test_run_without_packages_for_pictures_says_so_at_its_start_and_writes_the_rest(
    fault, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(tmp_path)
    for package in ("tensorboardX", "matplotlib"):
        (tmp_path / f"{package}.py").write_text(fault)
        monkeypatch.delitem(sys.modules, package, raising=False)
    folder = check(tmp_path / "run", overwrite=False)
    events, curves = capsys.readouterr().out.splitlines()
    assert events.startswith("tensorboardX cannot be imported (") and events.endswith(
        "pip install tensorboardX adds it"
    )
    assert "): events/ is left out; " in events and "): curves.png is left out; " in curves
    log = RunLog(claim(folder))
    log.add(1, 10, loss=0.5)
    assert read_log(log.path)["loss"] == [0.5] and names(folder) == ["log.csv"]
    assert capsys.readouterr().out == ""


def test_cut_log_drops_what_a_resumed_run_writes_again(log):
    for step in (10, 20, 30):
        log.add(1, step, loss=step / 7)
    with open(log.path, "a", encoding="utf-8") as f:
        f.write("2,4")  # cut off by a crash: neither a row of step 4 nor of a later one may stay
    cut_log(log.path, SavedAt(20, 10))
    assert read_log(log.path)["step"] == [10, 20]
    assert read_log(log.path)["loss"] == [10 / 7, 20 / 7]
    assert rows(log.path)[0] == COLUMNS
    assert not list(log.folder.glob("*.tmp"))


def test_cut_log_of_an_older_version_gets_todays_columns(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,step,loss,gone\n1,10,0.5,7\n1,20,0.25,8\n")
    cut_log(path, SavedAt(10, 10))
    assert rows(path)[0] == COLUMNS and read_log(path)["loss"] == [0.5]


def test_cut_log_without_a_log_does_nothing(tmp_path):
    cut_log(tmp_path / "log.csv", SavedAt(10, 10))
    assert names(tmp_path) == []


@pytest.mark.parametrize("then, now, steps", [(4, 2, [0, 1, 3, 4]), (2, 4, [2, 6, 12, 18]), (4, 4, [1, 3, 6, 9])])
def test_log_of_a_run_whose_epochs_change_their_length_keeps_its_rows(log, then, now, steps):
    for step in (1, 3, 6, 9, 10):
        log.add(1, step, loss=step / 7)
    cut_log(log.path, SavedAt(9, then), steps_per_epoch=now)
    columns = read_log(log.path)
    assert columns["step"] == steps and columns["loss"] == [1 / 7, 3 / 7, 6 / 7, 9 / 7]


def test_begin_keeps_a_folder_that_is_resumed_at_step_0(log):
    for step in (0, 10):
        log.add(0, step, psnr=30.0)
    (log.folder / "best.ckpt").touch()  # of --val_first
    begin(log.folder, "seed: 1\n", "1", SavedAt(0, 5))
    assert read_log(log.path)["step"] == [0] and (log.folder / "best.ckpt").exists()


def test_begin_cuts_at_a_resume_and_claims_for_a_new_run(log):
    log.add(1, 10, loss=0.5)
    log.add(1, 20, loss=0.25)
    begin(log.folder, "seed: 1\n", "1", SavedAt(10, 5))
    assert read_log(log.path)["step"] == [10]
    assert (log.folder / "config.yaml").read_text() == "seed: 1\n"
    begin(log.folder, "seed: 2\n", "2")
    assert names(log.folder) == ["config.yaml", "versions.json"]
    assert read_log(log.folder.with_name(log.folder.name + ".old1") / "log.csv")["step"] == [10]


HEADER = ",".join(COLUMNS)
ROW = "1,{},0.5,0.25,2.5,0.0001,1,2,0,1.5,0,0.1,,"
LATER = ROW.format(30)  # written again by a run that is resumed at step 20
EDITED = {  # file -> steps that a run resumed at step 20 keeps, and what it cannot
    "a comment": (f"{HEADER}\n{ROW.format(10)}\n# lower the rate?\n{ROW.format(20)}\n{LATER}\n", "line 3 ('# lower"),
    "latin-1": (f"{HEADER}\n{ROW.format(10)}\n{ROW.format(20)}\ngr\xf6\xdfer\n", "line 4 ('gr"),
    "NUL": (f"{HEADER}\n{ROW.format(10)}\n{ROW.format(20)}\n1,15\0,0.5\n", "line 4 ('1,15"),
    "a bad cell": (f"{HEADER}\n{ROW.format(10)}\n{ROW.format(20)}\n1,15,half,1\n", "line 4 ('1,15,half,1')"),
    "a bad step": (f"{HEADER}\n{ROW.format(10)}\n{ROW.format(20)}\n1,1.5,2,1\n1,,2\n1,-3,2\n", "line 4 ('1,1.5,2,1'"),
    "a row too long": (f"{HEADER}\n{ROW.format(10)}\n{ROW.format(20)}\n{ROW.format(15)},,7\n", "line 4 ('1,15,"),
    "a column of notes": (
        f"{HEADER},notes\n{ROW.format(10)},good\n{ROW.format(20)},\n{LATER}\n", "column notes"),
    "a spreadsheet": (
        ("\ufeff" + HEADER.replace(",", ";") + "\r\n").encode() + "".join(
            ROW.format(step).replace(",", ";").replace(".", ",") + "\r\n" for step in (10, 20, 30)).encode(), ""),
    "tabs and quotes": (f'"{HEADER}"\n{ROW.format(10)}\n{ROW.format(20)}\n'.replace(",", '"\t"'), ""),
    "no end of line": (f"{HEADER}\n{ROW.format(10)}\n{ROW.format(20)}", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_resuming_keeps_the_rows_of_an_edited_log_and_a_copy_of_what_it_cannot_read(case, tmp_path, capsys):
    content, named = EDITED[case]
    path = tmp_path / "log.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))
    before = path.read_bytes()
    begin(tmp_path, "seed: 1\n", "1", SavedAt(20, 10))
    out = capsys.readouterr().out
    assert named in out and out.count("\n") == bool(named)
    assert (tmp_path / "log.old1.csv").exists() == ("log.old1.csv" in out) == bool(named)
    assert not named or (tmp_path / "log.old1.csv").read_bytes() == before
    columns = read_log(path, need_rows=True)
    assert columns["step"] == [10, 20] and columns["loss"] == [0.5, 0.5] and columns["lr"] == [1e-4, 1e-4]
    begin(tmp_path, "seed: 1\n", "1", SavedAt(20, 10))
    assert capsys.readouterr().out == "" and rows(path)[0] == COLUMNS


@pytest.mark.parametrize(
    "content, named", [("", ""), ("epoch,loss\n1,0.5\n", "line 1 ('epoch,loss'), line 2 ('1,0.5')")]
)
def test_log_without_any_row_is_kept_whole(content, named, tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text(content)
    assert read_log(path) == {name: [] for name in COLUMNS}
    cut_log(path, SavedAt(20, 10))
    assert named in capsys.readouterr().out and rows(path) == [COLUMNS]
    assert not named or (tmp_path / "log.old1.csv").read_text() == content
    with pytest.raises(UserError, match="log.csv has no rows that can be read"):
        read_log(path, need_rows=True)


def test_missing_column_is_named_and_the_others_read(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("epoch,step,psnr\n1,10,25.5\n")
    assert (
        read_log(tmp_path / "log.csv")["psnr"] == [25.5] and "got no column loss, expected" in capsys.readouterr().out
    )


def test_log_that_cannot_be_read_or_written(tmp_path):
    (tmp_path / "log.csv").mkdir()
    for use in (read_log, lambda path: cut_log(path, SavedAt(20, 10))):
        with pytest.raises(UserError, match=r"log.csv: got no readable file \(Is a directory\), expected the log"):
            use(tmp_path / "log.csv")
    with pytest.raises(UserError, match=r"cannot write .*log.csv \(Is a directory\)\. .*--resume auto"):
        RunLog(tmp_path)


def test_log_that_is_removed_during_a_training_begins_again_with_its_header(log):
    log.path.unlink()
    log.add(1, 10, loss=0.5)
    assert rows(log.path)[0] == COLUMNS and read_log(log.path)["step"] == [10]


# ---- decoration


def full_events(folder):
    folder.mkdir()
    for second in range(int(time.time()), int(time.time()) + 60):
        (folder / f"events.out.tfevents.{second}.{socket.gethostname()}").symlink_to("/dev/full")


@pytest.mark.parametrize(
    "spoil, reason",
    [(Path.touch, "File exists"), (full_events, "No space left on device")],
    ids=["a file", "a full disk"],
)
def test_without_events_the_log_goes_on_after_one_warning(spoil, reason, tmp_path, capsys):
    spoil(tmp_path / "events")
    log = RunLog(tmp_path)
    for step in range(50):  # more than any queue holds
        log.add(1, step, loss=0.5, psnr=25.0)
    line = f"{tmp_path / 'events'} cannot be written ({reason}); the training goes on without it\n"
    assert capsys.readouterr().out == line and len(read_log(log.path)["step"]) == 50


def test_events_are_read_back_as_they_were_added(log):
    log.add(1, 10, loss=0.5, psnr=None)
    (file,) = (log.folder / "events").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"epoch" in content and b"psnr" not in content and b"brain.Event:2" in content


# ---- numbered checkpoints


def test_checkpoints_are_sorted_by_number(tmp_path):
    for epoch, step in ((10, 1000), (2, 200), (1, 99), (9, 900)):
        (tmp_path / checkpoint_name("MIMO-UNet", epoch, step)).touch()
    found = [p.name for p in numbered_checkpoints(tmp_path, "MIMO-UNet")]
    assert found == [f"MIMO-UNet_{n}.ckpt" for n in ("1_99", "2_200", "9_900", "10_1000")]


@pytest.mark.parametrize(
    "name", ["last.ckpt", "best.ckpt", "MIMO-UNetPlus_1_10.ckpt", "MIMO-UNet_1_x.ckpt", "MIMO-UNet_1_10.ckpt.bak",
             "MIMO-UNet_5_.ckpt", "MIMO-UNet__5.ckpt", "MIMO-UNet_1_2_3.ckpt", "MIMO-UNet_1_².ckpt",
             "old_MIMO-UNet_1_10.ckpt", ".MIMO-UNet_1_10.tmp.ckpt", "MIMO-UNet_10.ckpt",
             "MIMO-UNet_1_10.ckpt.ckpt"],
)  # fmt: skip
def test_other_names_are_no_numbered_checkpoints(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "MIMO-UNet_1_10.ckpt").touch()
    assert [p.name for p in numbered_checkpoints(tmp_path, "MIMO-UNet")] == ["MIMO-UNet_1_10.ckpt"]


def test_checkpoints_of_one_step_are_all_found(tmp_path):
    for epoch in (3, 2):
        (tmp_path / checkpoint_name("MIMO-UNet", epoch, 100)).touch()
    assert [p.stem for p in numbered_checkpoints(tmp_path, "MIMO-UNet")] == ["MIMO-UNet_2_100", "MIMO-UNet_3_100"]


def test_no_folder_no_checkpoints(tmp_path):
    assert numbered_checkpoints(tmp_path / "none", "MIMO-UNet") == []


# ---- whose checkpoint


def begin_run(folder, run, **options):
    """A run folder as a training leaves it, with a log and one checkpoint, which is returned."""
    begin(folder, Config(**options).to_yaml(), run)
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
