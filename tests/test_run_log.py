import csv
import math
import socket
import sys
import time
from pathlib import Path

import pytest

from src.errors import UserError
from src.run_folder import begin, check
from src.run_log import COLUMNS, RunLog, SavedAt, cut_log, read_log


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


def test_a_row_that_a_crash_truncated_is_not_read(log, capsys):
    log.add(1, 10, loss=0.5)
    with open(log.path, "a", encoding="utf-8") as f:
        f.write("2,20,0.2")
    assert read_log(log.path)["loss"] == [0.5] and capsys.readouterr().out == ""


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
        "pip install tensorboardX enables it"
    )
    assert "): events/ is not written; " in events and "): curves.png is not written; " in curves
    folder.mkdir()
    log = RunLog(folder)
    log.add(1, 10, loss=0.5)
    assert read_log(log.path)["loss"] == [0.5] and [p.name for p in folder.iterdir()] == ["log.csv"]
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
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("then, now, steps", [(4, 2, [0, 1, 3, 4]), (2, 4, [2, 6, 12, 18]), (4, 4, [1, 3, 6, 9])])
def test_log_of_a_run_whose_epochs_change_their_length_keeps_its_rows(log, then, now, steps):
    for step in (1, 3, 6, 9, 10):
        log.add(1, step, loss=step / 7)
    cut_log(log.path, SavedAt(9, then), steps_per_epoch=now)
    columns = read_log(log.path)
    assert columns["step"] == steps and columns["loss"] == [1 / 7, 3 / 7, 6 / 7, 9 / 7]


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
    line = f"{tmp_path / 'events'} cannot be written ({reason}); the training continues without it\n"
    assert capsys.readouterr().out == line and len(read_log(log.path)["step"]) == 50


def test_events_are_read_back_as_they_were_added(log):
    log.add(1, 10, loss=0.5, psnr=None)
    (file,) = (log.folder / "events").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"epoch" in content and b"psnr" not in content and b"brain.Event:2" in content
