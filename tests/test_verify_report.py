"""`--verify`: a clean tree has no finding, and each tree with one fault has that finding only."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import preprocessing
from src.data import gopro
from src.data.gopro import arrange
from src.data.images import read_rgb
from src.errors import UserError
from src.verify import checks, walk
from src.verify import report as verify_data
from src.verify.findings import ERRORS, WARNINGS
from src.verify.report import run, verify

TRAIN = "SAMPLE_train_astronaut_05_00"  # 4 frames
OTHER = "SAMPLE_train_rocket_05_00"  # 4 frames
TEST = "SAMPLE_test_coffee_05_00"  # 4 frames


@pytest.fixture
def source(sample_trees, tmp_path):
    return shutil.copytree(sample_trees / "GOPRO_Large", tmp_path / "GOPRO_Large")


@pytest.fixture
def dataset(sample_trees, tmp_path):
    return shutil.copytree(sample_trees / "dataset", tmp_path / "dataset")


def snapshot(root):
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in root.rglob("*")}


def kinds(root_src=None, root_dst=None):
    return [finding.kind for finding in verify(root_src, root_dst, progress=False).findings]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def blurs(half):
    return sorted(half.glob("*/blur/*.png"))


# ---- clean trees


def test_clean_trees_have_no_finding(sample_trees):
    source, dataset = sample_trees / "GOPRO_Large", sample_trees / "dataset"
    before = snapshot(sample_trees)
    for roots in ((source, None), (None, dataset), (source, dataset)):
        report = verify(*roots, progress=False)
        assert report.findings == []
        root = roots[0] or roots[1]
        train, test = (report.summary[str(root / split)] for split in ("train", "test"))
        assert (train["pairs"], train["sequences"], train["sizes"]) == (16, 4, {"144x96": 16})
        assert (test["pairs"], test["sequences"], test["sizes"]) == (8, 2, {"144x96": 8})
    assert snapshot(sample_trees) == before


def test_own_pairs_need_neither_manifest_nor_numbers(dataset):
    (dataset / "manifest.csv").unlink()
    for path in dataset.rglob("*.png"):
        path.rename(path.with_name(f"my {path.name}"))
    report = verify(None, dataset, progress=False)
    assert report.findings == []
    assert report.summary[str(dataset / "train")]["sequences"] == 0


# ---- one fault each, in GOPRO_Large


def no_test(root):
    shutil.rmtree(root / "test")


def no_sequences(root):
    no_test(root)
    (root / "test/notes").mkdir(parents=True)


def no_sharp_folder(root):
    (root / "train" / TRAIN / "sharp").rename(root / "train" / TRAIN / "elsewhere")


def empty_sequence(root):
    for kind in ("blur", "sharp"):
        (root / "train/unpacked_half" / kind).mkdir(parents=True)


def two_of_one_name(root):
    save(root / "train" / TRAIN / "blur/000001.jpg", np.zeros((96, 144, 3), np.uint8))


def one_without_partner(root):
    (root / "train" / TRAIN / "sharp/000002.png").unlink()


def one_name_in_both(root):
    (root / "test" / TEST).rename(root / "test" / TRAIN)


def cut_off(root):
    path = root / "train" / TRAIN / "blur/000003.png"
    path.write_bytes(path.read_bytes()[:500])


def cropped(root):
    path = root / "train" / TRAIN / "sharp/000003.png"
    save(path, read_rgb(path)[:92])


def sharp_as_blur(root):
    folder = root / "train" / TRAIN
    save(folder / "blur/000004.png", read_rgb(folder / "sharp/000004.png"))


def another_picture(root):
    shutil.copy(root / "train" / OTHER / "sharp/000001.png", root / "train" / TRAIN / "sharp/000001.png")


def gamma_copied(root):
    for path in blurs(root / "train"):
        shutil.copy(path.parents[1] / "blur_gamma" / path.name, path)


def copied_into_test(root):
    for kind in ("blur", "sharp"):
        shutil.copy(root / "train" / TRAIN / kind / "000001.png", root / "test" / TEST / kind / "000009.png")


def neighbour_into_test(root):
    for kind in ("blur", "sharp"):
        pixels = read_rgb(root / "train" / TRAIN / kind / "000001.png")
        save(root / "test" / TEST / kind / "000009.png", np.roll(pixels, 3, axis=1))


SOURCE_FAULTS = {
    "half": (no_test, "GOPRO_Large/test: missing"),
    "sequences": (no_sequences, "GOPRO_Large/test: no sequence in it"),
    "folders": (no_sharp_folder, f"missing folders: {TRAIN}/sharp. Expected blur and sharp"),
    "empty": (empty_sequence, "no image in blur and sharp of train/unpacked_half."),
    "names": (two_of_one_name, f"{TRAIN}: blur: two images of one name, 000001.jpg and 000001.png"),
    "partner": (one_without_partner, f"1 image without a partner: {TRAIN}/blur/000002.png."),
    "sequence": (one_name_in_both, f"1 sequence in train and in test: {TRAIN}."),
    "unreadable": (cut_off, f"1 file cannot be read: {TRAIN}/blur/000003.png. The first: this PNG file is cut off"),
    "size": (cropped, f"different sizes in 1 pair: {TRAIN}/000003; the first have 144x96 and 144x92."),
    "equal": (sharp_as_blur, f"blur is the same picture as sharp in 1 pair: {TRAIN}/000004."),
    "content": (another_picture, f"different pictures in 1 pair: {TRAIN}/000001."),
    "gamma_copy": (gamma_copied, f"the same file as blur_gamma in 16 pairs: {TRAIN}/000001, "),
    "shared": (copied_into_test, f"test {TEST}/000009 and train {TRAIN}/000001."),
    "neighbours": (
        neighbour_into_test,
        f"1 of 9 test images look like neighbours of training images: test {TEST}/000009",
    ),
}


def test_every_kind_of_finding_has_a_tree_here():
    patched = {"count", "frame_size"}
    assert patched | SOURCE_FAULTS.keys() | DATASET_FAULTS.keys() | COPY_FAULTS.keys() == (ERRORS | WARNINGS).keys()


def assert_only(report, kind, message):
    assert [finding.kind for finding in report.findings] == [kind], report.findings
    finding = report.findings[0]
    assert message in finding.message
    assert finding.severity == ("warning" if kind in WARNINGS else "error")
    assert "\n" not in str(finding) and str(finding).startswith(f"{finding.severity} [{kind}] ")


@pytest.mark.parametrize("kind", SOURCE_FAULTS)
def test_a_source_with_one_fault_has_one_finding(source, kind):
    damage, message = SOURCE_FAULTS[kind]
    damage(source)
    before = snapshot(source)
    assert_only(verify(source, None, progress=False), kind, message)
    assert snapshot(source) == before


PAIR_FAULTS = [
    kind for kind in SOURCE_FAULTS if kind not in ("half", "sequences", "folders", "empty", "names", "partner")
]


@pytest.mark.parametrize("kind", [kind for kind in PAIR_FAULTS if kind != "gamma_copy"])
def test_the_same_faults_are_found_when_arranged(source, tmp_path, kind):
    SOURCE_FAULTS[kind][0](source)
    arrange(source, tmp_path / "arranged", progress=False)
    assert kinds(None, tmp_path / "arranged") == [kind]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:400] + bytes(99) + data[499:]])
def test_files_that_are_empty_or_damaged_inside_are_unreadable(source, damage):
    path = source / "test" / TEST / "sharp/000001.png"
    path.write_bytes(damage(path.read_bytes()))
    (finding,) = verify(source, None, progress=False).findings
    assert (finding.kind, finding.files) == ("unreadable", (str(path),))


def test_many_files_are_one_line_that_names_five(source):
    for path in blurs(source / "train")[:7]:
        path.write_bytes(b"")
    (finding,) = verify(source, None, progress=False).findings
    assert "7 files cannot be read: " in finding.message and ", ... (7 in all). The first: " in finding.message
    assert len(finding.files) == 7 and all(Path(file).is_file() for file in finding.files)


def test_errors_come_before_warnings(source):
    gamma_copied(source)
    one_without_partner(source)
    assert kinds(source) == ["partner", "gamma_copy"]


# ---- GOPRO_Large itself


def test_a_tree_with_a_sequence_of_gopro_large_is_counted_as_such(source, monkeypatch):
    monkeypatch.setattr(checks, "GOPRO_SIZE", (144, 96))
    (source / "train" / TRAIN).rename(source / "train/GOPR0372_07_00")
    assert kinds(source) == ["count", "count"]
    message = verify(source, None, progress=False).findings[0].message
    assert "16 pairs, expected the 2103" in message and f"belong elsewhere: {OTHER[:12]}" in message


def test_frames_of_gopro_large_have_one_size(source, monkeypatch):
    names = {split: frozenset(p.name for p in (source / split).iterdir()) for split in ("train", "test")}
    for module in (walk, checks):
        monkeypatch.setattr(module, "GOPRO_SEQUENCES", names)
    monkeypatch.setattr(checks, "GOPRO_PAIRS", {"train": 16, "test": 8})
    report = verify(source, None, progress=False)
    assert [finding.kind for finding in report.findings] == ["frame_size", "frame_size"]
    assert report.findings[0].severity == "warning"
    assert "got 144x96 in 16 pairs: " in report.findings[0].message
    assert "; expected the 1280x720 of GOPRO_Large." in report.findings[0].message
    monkeypatch.setattr(checks, "GOPRO_SIZE", (144, 96))
    assert kinds(source) == []


# ---- one fault each, in an arranged dataset


def foreign_manifest(root):
    (root / "manifest.csv").write_text("a,b\n1,2\n")


def lost_file(root):
    (root / "train/blur/2.png").unlink()


def interrupted(root):
    lost_file(root)
    (root / "manifest.csv").rename(root / "manifest.csv.partial")


def added_pair(root):
    for kind in ("blur", "sharp"):
        shutil.copy(root / "train" / kind / "1.png", root / "train" / kind / "my.png")


DATASET_FAULTS = {
    "manifest": (foreign_manifest, "manifest.csv: not a manifest of src/preprocessing.py"),
    "missing": (lost_file, "1 file of the manifest missing: train/blur/2.png."),
    "interrupted": (interrupted, "was interrupted here; 1 file missing: train/blur/2.png."),
    "stray": (added_pair, "2 images not in the manifest: train/blur/my.png, train/sharp/my.png."),
}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", DATASET_FAULTS)
def test_a_dataset_with_one_fault_has_one_finding(sample_trees, dataset, kind, both):
    damage, message = DATASET_FAULTS[kind]
    damage(dataset)
    assert_only(verify(sample_trees / "GOPRO_Large" if both else None, dataset, progress=False), kind, message)


# ---- one fault each, between a source and its arrangement


def no_manifest(source, dataset):
    (dataset / "manifest.csv").unlink()


def other_source(source, dataset):
    for kind in ("blur", "sharp"):
        folder = source / "train" / TRAIN / kind
        (folder / "000001.png").rename(folder / "000007.png")


def changed_copy(source, dataset):
    path = dataset / "test/sharp/2.png"
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))  # of the same size
    path = dataset / "train/blur/3.png"
    path.write_bytes(path.read_bytes() + b"more")


COPY_FAULTS = {
    "no_manifest": (no_manifest, "dataset: no manifest"),
    "origin": (
        other_source,
        f"it lacks 1 pair: train/{TRAIN}/000007; 1 pair only in the manifest: train/{TRAIN}/000001.",
    ),
    "copy": (changed_copy, "GOPRO_Large: train/blur/3.png, test/sharp/2.png; the first has "),
}


@pytest.mark.parametrize("kind", COPY_FAULTS)
def test_an_arrangement_that_does_not_fit_has_one_finding(source, dataset, kind):
    damage, message = COPY_FAULTS[kind]
    damage(source, dataset)
    assert_only(verify(source, dataset, progress=False), kind, message)


def test_a_half_that_was_not_arranged_is_reported(source, tmp_path):
    shutil.move(source / "test", tmp_path / "test")
    arrange(source, tmp_path / "dataset", progress=False)
    shutil.move(tmp_path / "test", source / "test")
    assert kinds(source, tmp_path / "dataset") == ["origin", "half"]


@pytest.mark.parametrize("symbolic", [False, True])
def test_links_are_as_good_as_copies_until_they_break(source, tmp_path, monkeypatch, symbolic):
    def refuse(*_):
        raise OSError("no hard links here")

    if symbolic:
        monkeypatch.setattr(gopro.os, "link", refuse)
    arrange(source, tmp_path / "linked", link=True, progress=False)
    assert (tmp_path / "linked/test/blur/1.png").is_symlink() is symbolic
    assert kinds(source, tmp_path / "linked") == []
    (source / "test" / TEST).rename(source / "test/renamed")
    assert kinds(None, tmp_path / "linked") == (["missing"] if symbolic else [])


# ---- mistakes, the report, the command line


def test_wrong_folders_are_reported_before_anything_is_read(sample_trees, tmp_path, monkeypatch):
    monkeypatch.setattr(verify_data, "look_at", lambda item: pytest.fail("it was read"))
    source, dataset = sample_trees / "GOPRO_Large", sample_trees / "dataset"
    for roots, message in (
        ((tmp_path / "nowhere", None), "--root_src: no folder .*nowhere"),
        ((source, tmp_path / "nowhere"), "--root_dst: no folder .*nowhere"),
        ((sample_trees, None), "--root_src: neither train nor test in .*, got GOPRO_Large, dataset"),
        ((dataset, None), "--root_src: .* is arranged. Give it as --root_dst"),
        ((None, source), "--root_dst: .* holds one folder per sequence. Give it as --root_src"),
    ):
        with pytest.raises(UserError, match=message):
            verify(*roots, progress=False)


def test_the_report_is_proven_writable_before_anything_is_read(sample_trees, tmp_path, monkeypatch):
    monkeypatch.setattr(verify_data, "verify", lambda *_: pytest.fail("it was read"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--report_file: cannot write into .*file"):
        run(sample_trees / "GOPRO_Large", None, tmp_path / "file" / "report.json")
    for name in ("report", "report.csv"):
        with pytest.raises(UserError, match="--report_file: got .*expected a file name that ends with .json"):
            run(sample_trees / "GOPRO_Large", None, tmp_path / name)


def test_status_output_and_report(source, tmp_path, capsys):
    report = tmp_path / "new/folder/report.json"
    neighbour_into_test(source)
    assert run(source, None, report) == 0  # a warning alone
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{source}/train: 16 pairs of 4 sequences, 144x96, blurred input ")
    assert printed[0].endswith(" dB")
    assert printed[2].startswith(f"warning [neighbours] {source}: 1 of 9 test images")
    assert printed[3:] == ["1 warning", f"report: {report}"]

    one_without_partner(source)
    assert run(source, None, report) == 1
    content = json.loads(report.read_text(encoding="utf-8"))
    assert (content["root_src"], content["root_dst"]) == (str(source), "")
    assert (content["errors"], content["warnings"]) == (1, 1)
    assert [finding["kind"] for finding in content["findings"]] == ["partner", "neighbours"]
    assert content["findings"][0]["files"] == [str(source / "train" / TRAIN / "blur/000002.png")]
    assert content["summary"][str(source / "train")]["pairs"] == 15
    assert [p.name for p in report.parent.iterdir()] == ["report.json"]


def test_the_file_runs_from_any_folder_without_mindspore(source, tmp_path):
    one_without_partner(source)
    command = [sys.executable, preprocessing.__file__, "--verify", "--root_src", str(source)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "1 error"
    code = "import sys, src.verify.report; print({'mindspore', 'skimage', 'torch'} & set(sys.modules))"
    root = Path(preprocessing.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"
