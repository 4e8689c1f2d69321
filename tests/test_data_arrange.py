"""GOPRO_Large to paired folders. The files of these tests hold their origin as text: nothing here decodes images."""

import csv
import errno
import os
from pathlib import Path

import pytest

from src.data import arrange as arranging
from src.data.arrange import arrange
from src.data.pairs import find_pairs
from src.errors import UserError
from src.files import UNFINISHED
from tests.data_trees import make_source, snapshot, texts, write


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "GOPRO_Large")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "dataset"


def test_numbers_follow_the_natural_order_of_sequence_and_frame(source, target):
    assert arrange(source, target, progress=False) == {"train": 6, "test": 2}
    order = [
        "GOPR0374_11_02 {} 000047",
        "GOPR0374_11_02 {} 000150",
        "GOPR0374_11_9 {} 000001",
        "GOPR0374_11_10 {} 9",
        "GOPR0374_11_10 {} 10",
        "GOPR0374_11_10 {} 100",
    ]
    for kind in ("blur", "sharp"):
        expected = {f"{i}.png": f"train {line.format(kind)}" for i, line in enumerate(order, start=1)}
        assert texts(target / "train" / kind) == expected
        assert sorted(texts(target / "test" / kind)) == ["1.png", "2.png"]
    assert sorted(p.name for p in target.iterdir()) == ["manifest.csv", "test", "train"]
    assert sorted(p.name for p in (target / "train").iterdir()) == ["blur", "sharp"]
    assert [p.name for p in find_pairs(target, "train")] == ["1", "2", "3", "4", "5", "6"]


def test_blur_gamma_is_never_used_and_the_source_never_touched(source, target):
    before = snapshot(source)
    for link in (False, True):
        arrange(source, target.with_name(f"dataset_{link}"), link=link, progress=False)
        assert snapshot(source) == before
        for path in target.with_name(f"dataset_{link}").rglob("*.png"):
            assert "blur_gamma" not in path.read_text()
            assert f" {path.parent.name} " in path.read_text()


def test_pairing_is_by_name_not_by_position(source, target):
    # One frame missing on each side: by position, every pair of the sequence would be wrong and nobody would notice.
    (source / "train/GOPR0374_11_10/blur/9.png").unlink()
    (source / "train/GOPR0374_11_10/sharp/100.png").unlink()
    with pytest.raises(UserError) as e:
        arrange(source, target, progress=False)
    assert "GOPR0374_11_10: 1 in blur without a partner in sharp: 100; 1 in sharp without a partner in blur: 9" in str(
        e.value
    )
    assert not target.exists()


def test_unpaired_frames_list_the_first_five(source, target):
    for i in range(1, 8):
        write(source / f"test/GOPR0384_11_00/blur/1{i}.png", "x")
    with pytest.raises(UserError, match=r"11, 12, 13, 14, 15, \.\.\. \(7 in all\)"):
        arrange(source, target, progress=False)


def test_other_suffixes_are_kept(source, target):
    for kind, suffix in (("blur", ".jpg"), ("sharp", ".PNG")):
        old = source / f"test/GOPR0384_11_00/{kind}/000002.png"
        old.rename(old.with_suffix(suffix))
    arrange(source, target, progress=False)
    assert sorted(texts(target / "test/blur")) == ["1.png", "2.jpg"]
    assert sorted(texts(target / "test/sharp")) == ["1.png", "2.PNG"]
    assert [p.name for p in find_pairs(target, "test")] == ["1", "2"]


def test_manifest_tells_where_each_pair_came_from(source, target):
    arrange(source, target, progress=False)
    with (target / "manifest.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 8
    assert rows[3] == {
        "split": "train",
        "new_name": "4",
        "sequence": "GOPR0374_11_10",
        "frame": "9",
        "blur": "train/GOPR0374_11_10/blur/9.png",
        "sharp": "train/GOPR0374_11_10/sharp/9.png",
    }
    for row in rows:
        for kind in ("blur", "sharp"):
            new = target / row["split"] / kind / f"{row['new_name']}.png"
            assert new.read_bytes() == (source / row[kind]).read_bytes()


# ---- again, interrupted, changed


def test_second_run_writes_nothing(source, target, monkeypatch):
    arrange(source, target, progress=False)
    before = snapshot(target)
    monkeypatch.setattr(arranging, "place", lambda *_: pytest.fail("nothing was left to do"))
    assert arrange(source, target, progress=False) == {"train": 6, "test": 2}
    assert snapshot(target) == before


def break_after(monkeypatch, count, error):
    """Let the copying fail in the middle of file `count` + 1, half of it written."""
    real, done = arranging.shutil.copyfile, []

    def copyfile(source, part):
        if len(done) == count:
            Path(part).write_bytes(Path(source).read_bytes()[:3])
            raise error
        done.append(source)
        return real(source, part)

    monkeypatch.setattr(arranging.shutil, "copyfile", copyfile)


def test_an_interrupted_run_goes_on_where_it_stopped(source, target, monkeypatch):
    with monkeypatch.context() as patch:
        break_after(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            arrange(source, target, progress=False)
    assert (target / "manifest.csv.partial").exists() and not (target / "manifest.csv").exists()
    there = [p for p in target.rglob("*") if p.suffix == ".png"]
    assert len(there) == 5 and all(p.read_text().startswith("train") for p in there)  # whole files only
    assert not list(target.rglob(f"{UNFINISHED}*"))
    with pytest.raises(UserError, match="was interrupted here"):
        find_pairs(target, "train")

    placed, place = [], arranging.place
    monkeypatch.setattr(arranging, "place", lambda s, t, link: placed.append(t) or place(s, t, link))
    arrange(source, target, progress=False)
    assert len(placed) == 16 - 5 and not set(placed) & set(there)
    assert not (target / "manifest.csv.partial").exists()
    assert len(find_pairs(target, "train")) == 6


def test_a_killed_run_leaves_no_rubbish_behind_the_next(source, target):
    write(target / f"train/blur/{UNFINISHED}0/n.png", "half")
    arrange(source, target, progress=False)
    assert len(texts(target / "train/blur")) == 6


def test_files_of_a_wrong_size_or_missing_are_made_again(source, target):
    arrange(source, target, progress=False)
    (target / "train/blur/2.png").write_text("cut")
    (target / "test/sharp/1.png").unlink()
    arrange(source, target, progress=False)
    assert (target / "train/blur/2.png").read_text() == "train GOPR0374_11_02 blur 000150"
    assert (target / "test/sharp/1.png").exists()


def test_full_disk_says_how_much_and_that_it_can_go_on(source, target, monkeypatch):
    with monkeypatch.context() as patch:
        break_after(patch, 3, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(
            UserError, match=r"disk full after 3 of 16 files, 0\.00 GB are still needed.*goes on from here"
        ):
            arrange(source, target, progress=False)
    assert not list(target.rglob(f"{UNFINISHED}*"))
    assert arrange(source, target, progress=False) == {"train": 6, "test": 2}


def test_another_source_needs_another_folder(source, target):
    arrange(source, target, progress=False)
    before = snapshot(target)
    (source / "train/GOPR0374_11_02").rename(source / "train/GOPR0374_11_03")
    with pytest.raises(UserError, match="6 train pairs by its manifest, 6 in --root_src, and not the same"):
        arrange(source, target, progress=False)
    assert snapshot(target) == before


def test_images_of_unknown_origin_and_foreign_manifests_are_left_alone(source, target):
    write(target / "test/sharp/1.png", "mine")
    with pytest.raises(UserError, match="images of another origin. Choose another folder"):
        arrange(source, target, progress=False)
    assert texts(target / "test/sharp") == {"1.png": "mine"}
    for content in ("a,b\n1,2\n", "", "split,new_name,sequence,frame,blur,sharp\ntrain,1\n"):
        (target / "manifest.csv").write_text(content)
        with pytest.raises(UserError, match="manifest.csv: not a manifest of this script"):
            arrange(source, target, progress=False)


def test_one_split_now_the_other_later(tmp_path, target, capsys):
    source = make_source(tmp_path / "first", ["test"])
    assert arrange(source, target) == {"test": 2}
    assert "has no train: only test was arranged" in capsys.readouterr().out
    assert arrange(make_source(tmp_path / "second", ["train"]), target, progress=False) == {"train": 6}
    with (target / "manifest.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["split"] for row in rows] == ["train"] * 6 + ["test"] * 2
    assert arrange(make_source(tmp_path / "both"), target, progress=False) == {"train": 6, "test": 2}


# ---- links


def test_links_are_hard_links(source, target, capsys):
    arrange(source, target, link=True)
    assert "16 files hard-linked" in capsys.readouterr().out
    assert os.path.samefile(target / "train/blur/1.png", source / "train/GOPR0374_11_02/blur/000047.png")
    assert not (target / "train/blur/1.png").is_symlink()


def refuse(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_across_disks_symbolic_links_then_copies(source, target, monkeypatch, capsys):
    monkeypatch.setattr(arranging.os, "link", refuse)
    monkeypatch.chdir(source.parent)
    arrange("GOPRO_Large", target, link=True)
    assert "16 files symlinked" in capsys.readouterr().out
    monkeypatch.chdir("/")  # the links do not hang on the folder of the run
    assert (target / "train/blur/1.png").is_symlink() and len(texts(target / "train/blur")) == 6
    monkeypatch.setattr(arranging.os, "symlink", refuse)
    arrange(source, target.with_name("copies"), link=True)
    assert "16 files copied" in capsys.readouterr().out


# ---- mistakes


def test_an_arranged_folder_is_no_source(source, target):
    arrange(source, target, progress=False)
    with pytest.raises(UserError, match="looks arranged already"):
        arrange(target, target.with_name("again"))


def test_the_source_is_never_written_into(source):
    before = snapshot(source)
    with pytest.raises(UserError, match="lies in .*, which is only read"):
        arrange(source, source / "out")
    assert snapshot(source) == before


def test_destination_that_cannot_be_written(source, tmp_path):
    write(tmp_path / "file", "x")
    with pytest.raises(UserError, match="--root_dst: cannot write into"):
        arrange(source, tmp_path / "file" / "dataset")
