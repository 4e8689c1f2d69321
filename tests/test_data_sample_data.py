"""The camera of the sample set, on known values, and a small sample set."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.data import sample_data
from src.data.gopro import arrange
from src.data.images import read_rgb
from src.data.sample_data import find_photographs, largest_frame, make_sample_set, random_exposure
from src.data.synthetic_blur import frames_along, reach, shake_path
from src.errors import UserError

ROOT = Path(__file__).parent.parent
SMALL = {"train": 5, "test": 3, "height": 32, "width": 48, "frames": 5}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def noise():
    return rng(1).integers(0, 256, (80, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def sample_set(tmp_path_factory):
    return make_sample_set(tmp_path_factory.mktemp("sample") / "set", seed=3, **SMALL)


def digests(root):
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


# ---- one exposure


def test_blur_is_the_rounded_mean_of_the_frames_and_sharp_the_middle_one(noise, monkeypatch):
    path = shake_path(rng(2), 5, 9.0, 0.02)
    monkeypatch.setattr(sample_data, "shake_path", lambda *_: path)
    monkeypatch.setattr(sample_data, "random_place", lambda *_: (28, 29))
    frames = np.stack(list(frames_along(noise, path, 24, 32, 28, 29)))
    blur, blur_gamma, sharp = random_exposure(rng(), noise, 24, 32, 5)
    assert np.abs(blur - frames.astype(float).mean(axis=0)).max() <= 0.5001  # rounded, not cut
    light = (frames / 255.0) ** 2.2
    assert np.abs(blur_gamma - 255 * light.mean(axis=0) ** (1 / 2.2)).max() <= 0.5001
    np.testing.assert_array_equal(sharp, noise[28:52, 29:61])  # resampling does not change the frame at path zero
    assert (frames[0] != sharp).any()


def test_every_path_has_room_in_the_largest_frame():
    height, width = largest_frame(120, 160)
    assert height % 4 == width % 4 == 0 and height > 80
    for i in range(40):
        up, down, before, after = reach(shake_path(rng(i), 3, 20.0, sample_data.MAX_TURN), height, width)
        assert up + height + down <= 120 and before + width + after <= 160


# ---- the set


def test_photographs_are_in_the_package_and_not_shared_between_the_halves():
    train, test = find_photographs("train"), find_photographs("test")
    assert not set(train) & set(test)
    contents = [read_rgb(path) for path in (*train.values(), *test.values())]
    assert all(min(c.shape[:2]) >= 256 and c.std(axis=2).mean() > 3 for c in contents)  # large, and in colour
    assert len({c.tobytes() for c in contents}) == 6


def test_layout_is_that_of_gopro_large(sample_set):
    sequences = sorted(p.name for p in (sample_set / "train").iterdir())
    assert sequences == [f"SAMPLE_train_{n}_05_00" for n in ("astronaut", "ihc", "motorcycle_left", "rocket")]
    for kind in ("blur", "blur_gamma", "sharp"):
        folder = sample_set / "train/SAMPLE_train_astronaut_05_00" / kind
        assert sorted(p.name for p in folder.iterdir()) == ["000001.png", "000002.png"]
        assert read_rgb(folder / "000002.png").shape == (32, 48, 3)
    assert len(list((sample_set / "train").glob("*/sharp/*.png"))) == 5
    assert len(list((sample_set / "test").glob("*/blur/*.png"))) == 3
    assert [p.name for p in sample_set.parent.iterdir()] == ["set"]  # no working folder is left


def test_pairs_are_blurred_aligned_and_cut_from_the_photograph(sample_set):
    photo = read_rgb(find_photographs("test")["coffee"])
    folder = sample_set / "test/SAMPLE_test_coffee_05_00"
    blur, blur_gamma, sharp = (read_rgb(folder / k / "000001.png").astype(int) for k in ("blur", "blur_gamma", "sharp"))
    corner = np.argwhere((photo[: -32 + 1, : -48 + 1] == sharp[0, 0]).all(axis=2))
    assert any((photo[y : y + 32, x : x + 48] == sharp).all() for y, x in corner)

    def detail(image):
        return np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()

    assert detail(blur) < detail(sharp)
    assert (blur_gamma >= blur - 1).all() and (blur_gamma > blur).any()  # a mean of powers lies above the plain mean


def test_preprocessing_takes_the_set(sample_set, tmp_path):
    assert arrange(sample_set, tmp_path / "dataset", progress=False) == {"train": 5, "test": 3}


def test_same_seed_same_bytes_other_seed_other_pictures(sample_set, tmp_path):
    again = make_sample_set(tmp_path / "again", seed=3, **SMALL)
    assert digests(again) == digests(sample_set)
    other = digests(make_sample_set(tmp_path / "other", seed=4, **SMALL))
    same = digests(sample_set)
    assert other.keys() == same.keys()
    assert all(other[name] != same[name] for name in same)


def test_pairs_do_not_depend_on_the_others(sample_set, tmp_path):
    fewer = make_sample_set(tmp_path / "fewer", seed=3, **(SMALL | {"train": 1, "test": 1}))
    same, first = digests(sample_set), digests(fewer)
    assert len(first) == 7 and all(same[name] == first[name] for name in first if name.endswith(".png"))
    sharp = [read_rgb(p).tobytes() for p in sample_set.glob("*/*/sharp/*.png")]
    assert len(set(sharp)) == 8


def test_a_complete_set_stays_unchanged_and_a_broken_one_is_repaired(tmp_path, monkeypatch):
    params = SMALL | {"train": 2, "test": 1}
    root = make_sample_set(tmp_path / "set", **params)
    before = digests(root)
    with monkeypatch.context() as patch:
        patch.setattr(sample_data, "write_set", lambda *_: pytest.fail("the set was complete"))
        assert make_sample_set(root, **params) == root
    broken = sorted(root.rglob("*.png"))
    broken[0].unlink()
    broken[1].write_bytes(b"cut")
    (root / "my notes.txt").write_text("stay")
    make_sample_set(root, **params)
    after = digests(root)
    assert after.pop("my notes.txt") == hashlib.sha256(b"stay").hexdigest()
    assert after == before


def test_a_set_of_an_earlier_version_is_replaced(tmp_path):
    root = make_sample_set(tmp_path / "set", **SMALL)
    fresh, marker = digests(root), root / "sample_set.json"
    old = json.loads(marker.read_text())
    old["params"]["format"] -= 1
    marker.write_text(json.dumps(old))
    next(root.rglob("*.png")).write_bytes(b"as it was then")
    make_sample_set(root, **SMALL)
    assert digests(root) == fresh


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def stop(folder, params):
        (folder / "half").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_data, "write_set", stop)
    with pytest.raises(KeyboardInterrupt):
        make_sample_set(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_make_the_same_set_at_once(tmp_path, monkeypatch):
    params = SMALL | {"train": 1, "test": 1}
    root, real = tmp_path / "set", sample_data.write_set

    def while_another_finishes(folder, given):
        real(folder, given)
        monkeypatch.setattr(sample_data, "write_set", real)
        make_sample_set(root, **params)

    monkeypatch.setattr(sample_data, "write_set", while_another_finishes)
    assert make_sample_set(root, **params) == root
    assert len(digests(root)) == 7 and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_other_folders_are_not_touched(tmp_path, sample_set):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_text("mine")
    with pytest.raises(UserError, match="photos exists and is no sample set"):
        make_sample_set(tmp_path / "photos", **SMALL)
    (tmp_path / "photos/sample_set.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="is no sample set"):
        make_sample_set(tmp_path / "photos", **SMALL)
    with pytest.raises(UserError, match="with other parameters: seed 3 instead of 9, height 32 instead of 64"):
        make_sample_set(sample_set, seed=9, **(SMALL | {"height": 64}))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="--root: "):
        make_sample_set(tmp_path / "file" / "set", **SMALL)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"height": 500}, "--height: got 500, expected 16 to 264"),
        ({"width": 50}, "--width: got 50, expected a multiple of 4"),
        ({"frames": 10}, "--frames: got 10, expected an odd number"),
        ({"frames": 0}, "--frames: got 0, expected 1 to 99"),
        ({"train": 0, "test": 0}, "got 0 pairs of each"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        make_sample_set(tmp_path / "set", **(SMALL | wrong))
    assert not (tmp_path / "set").exists()


def test_the_module_runs_as_a_script(tmp_path):
    options = [f"--{name}={value}" for name, value in (SMALL | {"train": 1, "test": 1}).items()]
    command = [sys.executable, "-m", "src.data.sample_data", "--root", str(tmp_path / "mine"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mine: 1 train and 1 test pairs of 48x32 pixels" in done.stdout
    assert len(list((tmp_path / "mine").rglob("*.png"))) == 6
    done = subprocess.run([*command, "--frames=4"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --frames: got 4") and done.stderr.count("\n") == 1


def test_import_needs_neither_mindspore_nor_scikit_image():
    slow = {"mindspore", "skimage", "torch"}
    code = f"import sys, src.data.sample_data, src.preprocessing; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
