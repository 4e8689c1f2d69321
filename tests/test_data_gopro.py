"""GOPRO_Large: its layout, the manifest, and arranging it. The files hold their origin as text and are no images."""

import csv
import errno
import os
from pathlib import Path

import pytest

from src.data import gopro
from src.data.gopro import (
    GOPRO_NAME,
    GOPRO_PAIRS,
    GOPRO_SEQUENCES,
    ManifestRow,
    arrange,
    find_splits,
    is_arranged,
    list_rows,
    read_manifest,
    write_manifest,
)
from src.data.pairs import find_pairs
from src.errors import UserError
from src.files import UNFINISHED
from tests.data_trees import error_of, make_source, snapshot, texts, touch, write


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "GOPRO_Large")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "dataset"


# ---- the dataset as unpacked


def test_numbers_of_the_paper():
    assert sum(GOPRO_PAIRS.values()) == 3214
    assert {split: len(names) for split, names in GOPRO_SEQUENCES.items()} == {"train": 22, "test": 11}
    assert not GOPRO_SEQUENCES["train"] & GOPRO_SEQUENCES["test"]


@pytest.mark.parametrize(
    "name, sequence",
    [("GOPR0384_11_00-000001", "GOPR0384_11_00"), ("GOPR0384_11_00", "GOPR0384_11_00"), ("GOPR0384_11_000001", None),
     ("my_GOPR0384_11_00", None)],
)  # fmt: skip
def test_sequence_at_the_start_of_a_name(name, sequence):
    match = GOPRO_NAME.match(name)
    assert (match and match[0]) == sequence


def test_other_files_and_folders_are_ignored(source):
    write(source / "train/notes.txt", "x")
    write(source / "train/__MACOSX/deep/1.png", "x")
    write(source / "train/.hidden/blur/1.png", "x")
    write(source / "train/GOPR0374_11_9/blur/._000001.png", "x")
    write(source / "train/GOPR0374_11_9/blur/Thumbs.db", "x")
    rows = list_rows(source, "train")
    assert [row.new_name for row in rows] == list("123456")
    assert list(dict.fromkeys(row.sequence for row in rows)) == ["GOPR0374_11_02", "GOPR0374_11_9", "GOPR0374_11_10"]
    assert [row.frame for row in rows][-3:] == ["9", "10", "100"]


def test_no_source_or_no_splits(tmp_path, source):
    with pytest.raises(UserError, match="--root_src: no folder .*nowhere"):
        find_splits(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither train nor test in .* Perhaps .*GOPRO_Large?"):
        find_splits(tmp_path)
    assert find_splits(source) == ["train", "test"]


def test_no_sequences(tmp_path):
    (tmp_path / "src/train/stray").mkdir(parents=True)
    with pytest.raises(UserError, match="train: no sequence in it, expected folders <sequence>/{blur,sharp}"):
        list_rows(tmp_path / "src", "train")


def test_incomplete_sequences_are_named(source):
    (source / "train/GOPR0374_11_9/sharp").rename(source / "train/GOPR0374_11_9/elsewhere")
    (source / "train/GOPR0500_11_00/blur_gamma").mkdir(parents=True)
    with pytest.raises(
        UserError, match="GOPR0374_11_9 lacks sharp, GOPR0500_11_00 lacks blur, GOPR0500_11_00 lacks sharp"
    ):
        list_rows(source, "train")


def test_empty_sequence_is_named(source):
    for kind in ("blur", "sharp"):
        (source / "test/GOPR0390_11_00" / kind).mkdir(parents=True)
    with pytest.raises(UserError, match="GOPR0390_11_00: blur and sharp hold no image"):
        list_rows(source, "test")


def test_an_arranged_half_is_known_by_its_folders(source, tmp_path):
    assert not is_arranged(source, "train")
    touch(tmp_path / "dataset", "train/blur/1.png")
    assert is_arranged(tmp_path / "dataset", "train") and not is_arranged(tmp_path / "dataset", "test")


# ---- the manifest


ROWS = [
    ManifestRow(
        "train", "1", 'GOPR0372 "day", 1', "000047", "train/G, 1/blur/000047.png", "train/G, 1/sharp/000047.jpg"
    ),
    ManifestRow("test", "1", "été", "1", "test/été/blur/1.png", "test/été/sharp/1.png"),
]


def test_rows_come_back_as_they_were_written(tmp_path):
    write_manifest(tmp_path / "manifest.csv", ROWS)
    assert read_manifest(tmp_path / "manifest.csv") == ROWS
    lines = (tmp_path / "manifest.csv").read_bytes().split(b"\n")
    assert lines[0].decode() == ",".join(ManifestRow._fields) and len(lines) == 4 and b"\r" not in lines[1]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.csv"]


def test_new_files_keep_the_suffix_of_their_kind():
    assert (ROWS[0].target("blur"), ROWS[0].target("sharp")) == ("train/blur/1.png", "train/sharp/1.jpg")


def test_no_manifest_has_no_rows(tmp_path):
    (tmp_path / "file").touch()
    assert read_manifest(tmp_path / "manifest.csv") == read_manifest(tmp_path / "file" / "manifest.csv") == []


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"", b"\xff\xfe", b"split,new_name,sequence,frame,blur,sharp\ntrain,1\n"]
)
def test_other_files_are_rejected(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    assert "manifest.csv: not a manifest of this script" in error_of(read_manifest, tmp_path / "manifest.csv")


# ---- arranging


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


def test_the_manifest_has_the_origin_of_each_pair(source, target):
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
    monkeypatch.setattr(gopro, "place", lambda *_: pytest.fail("nothing was left to do"))
    assert arrange(source, target, progress=False) == {"train": 6, "test": 2}
    assert snapshot(target) == before


def break_after(monkeypatch, count, error):
    """Let the copying fail in the middle of file `count` + 1, half of it written."""
    real, done = gopro.shutil.copyfile, []

    def copyfile(source, part):
        if len(done) == count:
            Path(part).write_bytes(Path(source).read_bytes()[:3])
            raise error
        done.append(source)
        return real(source, part)

    monkeypatch.setattr(gopro.shutil, "copyfile", copyfile)


def test_an_interrupted_run_is_resumed(source, target, monkeypatch):
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

    placed, place = [], gopro.place
    monkeypatch.setattr(gopro, "place", lambda s, t, link: placed.append(t) or place(s, t, link))
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


def test_a_full_disk_reports_the_missing_room_and_can_be_resumed(source, target, monkeypatch):
    with monkeypatch.context() as patch:
        break_after(patch, 3, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(
            UserError, match=r"disk full after 3 of 16 files, 0\.00 GB are still needed.*rerun the command to resume"
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
    (target / "manifest.csv").write_text("")
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
    monkeypatch.setattr(gopro.os, "link", refuse)
    monkeypatch.chdir(source.parent)
    arrange("GOPRO_Large", target, link=True)
    assert "16 files symlinked" in capsys.readouterr().out
    monkeypatch.chdir("/")  # the links do not hang on the folder of the run
    assert (target / "train/blur/1.png").is_symlink() and len(texts(target / "train/blur")) == 6
    monkeypatch.setattr(gopro.os, "symlink", refuse)
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
