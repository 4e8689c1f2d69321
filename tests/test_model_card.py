"""The sample weights: their card, their split, and what they restore."""

import json
import shutil

import pytest

import eval as eval_script
from src.data.sample_data import make_sample_set
from src.errors import UserError
from src.formats import weights as weight_files
from src.preprocessing import arrange
from weights_pretrained import model_card
from weights_pretrained.model_card import CARD, FIGURES, FOLDER, SETS, WEIGHTS


@pytest.fixture
def copy(tmp_path):
    """A folder with the card, the figures and the weights."""
    for name in (CARD, FIGURES):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / WEIGHTS).symlink_to(FOLDER / WEIGHTS)
    return tmp_path


def lines(name):
    return (FOLDER / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("figures", ["", "[" * 100000, "[]", '{"sha256": 1}'])
def test_figures_that_cannot_be_read_are_one_line(copy, figures):
    (copy / FIGURES).write_text(figures)
    with pytest.raises(UserError, match=f"^{FIGURES}: not in the format of weights_pretrained/record_weights.py .*$"):
        model_card.main([], copy)


# ---- the files that are published


def test_card_and_figures_belong_to_the_weights():
    model_card.main(["--check"])


def test_figures_are_whole():
    figures = json.loads((FOLDER / FIGURES).read_text(encoding="utf-8"))
    assert {name: found["images"] for name, found in figures["held_out"].items()} == {
        "gopro": 4, "reds": 10, "kodak": 6, "sample": 3,
    }  # fmt: skip
    for found in figures["held_out"].values():
        assert len(found["rows"]) == found["images"]
        for score in ("psnr_input", "psnr", "ssim_input", "ssim"):
            mean = sum(row[score] for row in found["rows"]) / found["images"]
            assert found[score] == pytest.approx(mean, abs=1e-3)
    logged = {line.split(",")[0] for line in lines("training_log.csv")[1:]}
    assert logged == {stage["recipe"] for stage in figures["stages"]}
    assert all(stage["steps"] > 0 and stage["seconds"] > 0 for stage in figures["stages"])


def test_nothing_published_names_a_machine():
    for path in FOLDER.iterdir():
        if path.suffix in (".md", ".json", ".txt", ".csv"):
            text = path.read_text(encoding="utf-8")
            assert "/root/" not in text and "/home/" not in text and "/work/" not in text, path.name
    head = (FOLDER / WEIGHTS).read_bytes()
    assert b"dataset_root" not in head and b"ckpt_save_directory" not in head


def test_pictures_are_small():
    for name in ("largest_gain.jpg", "smallest_gain.jpg", "training_curve.png"):
        assert 5_000 < (FOLDER / name).stat().st_size < 300_000, name


def test_nothing_held_out_was_trained_on():
    held_out = {*lines("test_gopro.txt"), *lines("test_reds.txt")}
    assert len(held_out) == 14 and len(lines("test_kodak.txt")) == 6
    for stage in ("train_stage1.txt", "train_stage2.txt", "train_lite.txt"):
        trained = lines(stage)
        assert trained and not held_out & {*trained}
        # Neighbouring frames show the same scene: scenes are apart, too.
        scenes = ("GOPR0477_11_00", "reds_320x180/sharp/000-", "reds_320x180_more/sharp/v00")
        assert all(any(scene in line for scene in scenes) for line in trained)
    assert not any("GOPR0477_11_00" in line or "/000-" in line or "/v00" in line for line in held_out)
    for name, count in (("train_photos.txt", 62), ("train_lite_photos.txt", 74)):
        photos = {path.rpartition("/")[2] for path in lines(name)}
        assert len(photos) == count and not photos & {*lines("test_kodak.txt")}


def test_sample_set_is_restored_as_recorded(cpu, tmp_path, monkeypatch, capsys):
    """Also that `eval.py` takes the sample weights by itself, and says so first."""
    monkeypatch.chdir(tmp_path)
    arrange(make_sample_set("set", train=0), "data", progress=False)
    eval_script.main(
        [
            "--dataset_root",
            "data",
            "--slice_dataset",
            "3",
            "--metrics",
            "psnr",
            "--device_target",
            "CPU",
            "--report_file",
            "report.json",
        ]
    )
    model = f"{FOLDER / WEIGHTS} (the sample that comes with the repository; --ckpt_file FILE takes another)"
    assert f"\nmodel: {model}\nsettings: " in capsys.readouterr().out
    recorded = json.loads((FOLDER / FIGURES).read_text(encoding="utf-8"))["held_out"]["sample"]["rows"]
    found = [line.split(",") for line in (tmp_path / "report.csv").read_text().splitlines()]
    column = found[0].index("psnr")
    assert [float(row[column]) for row in found[1:]] == pytest.approx([row["psnr"] for row in recorded], abs=0.02)


def test_without_the_sample_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="--ckpt_file: a trained network is needed.*weights_pretrained/README.md"):
        eval_script.main(["--device_target", "CPU"])


# ---- the script


def test_card_changed_by_hand_is_found(copy):
    model_card.main(["--check"], copy)
    path, old = copy / CARD, (copy / CARD).read_text(encoding="utf-8")
    path.write_text(old.replace(" dB to ", " dB up to ", 1), encoding="utf-8")
    with pytest.raises(UserError, match="its tables differ from MIMO-UNet_sample.json"):
        model_card.main(["--check"], copy)
    model_card.main([], copy)
    assert path.read_text(encoding="utf-8") == old


@pytest.mark.parametrize("name", SETS)
def test_figures_changed_by_hand_are_found(copy, name):
    figures = json.loads((copy / FIGURES).read_text(encoding="utf-8"))
    figures["held_out"][name]["rows"][-1]["psnr"] += 0.1
    (copy / FIGURES).write_text(json.dumps(figures), encoding="utf-8")
    with pytest.raises(UserError, match="tables differ"):
        model_card.main(["--check"], copy)


def test_other_weights_are_found(copy):
    (copy / WEIGHTS).unlink()
    (copy / WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(UserError, match="its sha256 is not that of MIMO-UNet_sample.ckpt"):
        model_card.main([], copy)


def test_pictures_are_those_of_the_set_that_anybody_can_make():
    def found(*gains):
        return {"rows": [{"name": str(gain), "psnr": 20 + 3 * gain, "psnr_input": 20 + 2 * gain} for gain in gains]}

    figures = {"held_out": {"gopro": found(9, -9), "sample": found(1, 3, 2)}}
    assert {name: row["name"] for name, row in model_card.extremes(figures).items()} == {
        "largest_gain": "3", "smallest_gain": "1",
    }  # fmt: skip
