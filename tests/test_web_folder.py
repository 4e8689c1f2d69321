"""The page's folder: emptied by age, limited in size, removed at the end or by the next start."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from src.errors import UserError
from src.web.folder import PREFIX, WebFolder, duration, remove_stale

ROOT = Path(__file__).parent.parent
LATER = 10**11  # seconds since 1970: everything is older


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    return tmp_path


@pytest.fixture
def folder(base):
    with WebFolder(3600, 2**20) as folder:
        yield folder


def upload(folder, name="photo.jpg", size=10, key="sha"):
    path = folder.uploads / key / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def left(folder):
    return sorted(str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file())


def test_all_temporary_files_of_the_process_lie_in_it_until_the_end(base):
    with WebFolder(3600, 2**20) as folder:
        assert folder.path.parent == base and tempfile.gettempdir() == os.environ["TMPDIR"] == str(folder.path)
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder.uploads)
        upload(folder)
        tempfile.mkstemp()
    assert os.listdir(base) == [] and tempfile.gettempdir() == str(base) and "GRADIO_TEMP_DIR" not in os.environ


def test_old_files_go_and_new_ones_and_those_in_use_stay(folder):
    old = upload(folder)
    (folder.path / "library.tmp").touch()
    (folder.uploads / "tmp_half").touch()
    time.sleep(0.05)
    now = time.time()
    upload(folder, "new.jpg", key="new")
    os.mkdir(folder.uploads / "result")
    (folder.uploads / "result" / "inner").mkdir()
    os.utime(old, (LATER, LATER))  # what a sender's clock says does not matter, and a change makes it young again
    folder.sweep(now)
    assert left(folder) == ["uploads/new/new.jpg", "uploads/sha/photo.jpg"]
    with folder.using(old) as results:
        (results / "restored.jpg").touch()
        folder.sweep(LATER)
        assert left(folder) == ["uploads/sha/photo.jpg", f"uploads/{results.name}/restored.jpg"]
    folder.sweep(LATER)
    assert left(folder) == [] and os.listdir(folder.uploads) == []


def test_the_sweep_runs_without_being_asked(base):
    with WebFolder(0.2, 2**20) as folder:
        path = upload(folder)
        limit = time.monotonic() + 10
        while path.exists():
            assert time.monotonic() < limit
            time.sleep(0.02)


def test_half_uploads_go_when_the_last_upload_has_ended(folder):
    whole = upload(folder)
    with folder.receiving(100):
        with folder.receiving(100):
            (folder.uploads / "tmp_cut").touch()
        assert (folder.uploads / "tmp_cut").exists()  # it may be the other's
    assert left(folder) == [str(whole.relative_to(folder.path))]


def test_the_room_counts_files_and_what_is_announced(folder):
    room = folder.room()
    upload(folder, size=500_000)
    assert 500_000 <= room - folder.room() < 520_000
    with folder.receiving(400_000):
        assert folder.room() < 150_000
        (folder.uploads / "tmp_half").write_bytes(bytes(300_000))
        assert 100_000 < folder.room() < 150_000  # not counted twice
    path = upload(folder, "more.jpg", size=600_000, key="more")
    with pytest.raises(
        UserError, match=r"^the page or its disk is full \(limit 1 MB\); try again in 1 hour at the latest$"
    ):
        with folder.using(path):
            pass


def test_the_room_is_counted_while_files_come_and_go(folder):
    ended = threading.Event()

    def churn():
        while not ended.is_set():
            upload(folder)
            folder.sweep(LATER)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(1000):
            folder.room()
    finally:
        ended.set()
        thread.join()


def test_only_whole_uploads_and_results_are_held(folder, base):
    path = upload(folder)
    (folder.uploads / "tmp_half").touch()
    (folder.uploads / "sha" / "link").symlink_to("/etc/passwd")
    assert folder.holds(path) and folder.holds(folder.uploads / "sha" / ".." / "sha" / "photo.jpg")
    for wrong in ("tmp_half", "sha/link", "sha/../../..", "../library.tmp", "/etc/passwd", "a\0b/c"):
        assert not folder.holds(folder.uploads / wrong), wrong
    folder.sweep(LATER)
    with pytest.raises(UserError, match="no longer here, after 1 hour it is deleted; upload it again$"):
        with folder.using(path):
            pass


def test_the_next_start_removes_what_killed_pages_left_and_nothing_else(base):
    code = "from src.web.folder import *\nwith WebFolder(60, 9) as f: (f.uploads / 'a').touch(); print(f.path); input()"
    pages = [
        subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(base)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    killed, living = (Path(page.stdout.readline().strip()) for page in pages)
    try:
        pages[0].send_signal(signal.SIGKILL)
        pages[0].communicate()
        (base / "elsewhere").mkdir()
        (base / f"{PREFIX}link").symlink_to(base / "elsewhere")
        (base / f"{PREFIX}file").touch()
        assert killed.exists()
        with WebFolder(60, 9):
            assert not killed.exists() and living.exists()
    finally:
        pages[1].communicate("\n")
    assert sorted(os.listdir(base)) == sorted(["elsewhere", f"{PREFIX}link", f"{PREFIX}file"])


def test_many_starts_at_once_do_not_remove_each_other(base):
    start = threading.Barrier(2)
    ended = threading.Event()

    def sweep():
        start.wait()
        while not ended.is_set():
            remove_stale(base)

    thread = threading.Thread(target=sweep)
    thread.start()
    start.wait()
    for _ in range(50):
        with WebFolder(60, 9) as folder:
            assert folder.path.exists()
    ended.set()
    thread.join()


def test_no_temporary_folder_is_one_line(base, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(base / "missing"))
    with pytest.raises(UserError, match=r"^TMPDIR: cannot make a temporary folder \(No such file or directory\)"):
        with WebFolder(60, 9):
            pass


def test_durations():
    assert [duration(s) for s in (1, 90, 60, 7200, 0.5)] == [
        "1 second",
        "90 seconds",
        "1 minute",
        "2 hours",
        "0.5 seconds",
    ]
