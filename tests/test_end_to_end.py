"""The real scripts in real processes, as a user calls them, on a tiny data set."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
DATA = ["--dataset_root", "data"]
TINY = ["--num_res", "1", "--crop_size", "32"]
ON_CPU = ["--device_target", "CPU"]


def run(*command, cwd, expect=0):
    """Run `python <script of this repository> ...` or `bash ...` in `cwd`; returns (stdout, stderr)."""
    program = ["bash"] if str(command[0]).endswith(".sh") else [sys.executable]
    command = [*program, str(ROOT / command[0]), *map(str, command[1:])]
    env = {k: v for k, v in os.environ.items() if k != "GLOG_v"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a data set and a short finished run, shared by the tests below."""
    folder = tmp_path_factory.mktemp("a place with spaces")
    rng = np.random.default_rng(0)
    for split, count, size in (("train", 5, (40, 48)), ("test", 2, (42, 49))):
        for i in range(count):
            sharp = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            blur = ((sharp.astype(int) + np.roll(sharp, 1, 1)) // 2).astype(np.uint8)
            for kind, image in (("blur", blur), ("sharp", sharp)):
                path = folder / "data" / split / kind / f"{i + 1}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    options = ["--epochs_num", 3, "--train_batch_size", 2, "--val_acc_monitor_interval", 2, "--log_frequency", 2]
    out, _ = run(
        "train.py", "--dataset_root", "data", "--ckpt_save_directory", "run", *options, *TINY, *ON_CPU, cwd=folder
    )
    (folder / "train.log").write_text(out)
    return folder


def test_run_folder(work):
    out = (work / "train.log").read_text()
    assert out.splitlines()[0].startswith("settings: configs/cpu_config.yaml")
    names = {p.name for p in (work / "run").iterdir()}
    assert {"config.yaml", "versions.json", "log.csv", "curves.png", "last.ckpt", "best.ckpt"} <= names
    with open(work / "run/log.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["step"] for r in rows] == ["2", "4", "6"]  # 5 images, batch 2: two steps an epoch
    assert [bool(r["psnr"]) for r in rows] == [False, True, True]  # every second epoch, and at the end
    for row in rows:
        assert float(row["loss"]) == pytest.approx(float(row["content"]) + 0.1 * float(row["fft"]), rel=1e-5)
        assert float(row["lr"]) == pytest.approx(1e-4)


def test_eval_scores_and_saves(work):
    out, _ = run(
        "eval.py",
        "--dataset_root",
        "data",
        "--ckpt_file",
        "run/best.ckpt",
        "--img_save_directory",
        "out/images",
        "--report_file",
        "out/report.json",
        *ON_CPU,
        cwd=work,
    )
    report = json.loads((work / "out/report.json").read_text())
    assert report["images"] == 2
    keys = ["images", "psnr_input", "psnr", "psnr_gain", "ssim_input", "ssim", "ssim_gain", "seconds_per_image"]
    keys += ["network_seconds_per_image", "warm_up_images"]
    assert set(keys) <= set(report)
    assert (report["engine"], report["precision"]) == ("OpenVINO on CPU", "fp32")
    assert out.startswith("engine: OpenVINO on CPU: ") and "MIMO-UNet, OpenVINO on CPU, fp32" in out
    assert report["psnr_gain"] == pytest.approx(report["psnr"] - report["psnr_input"], abs=1e-9)
    assert f"psnr: {report['psnr']:.4f}" in out
    assert re.search(
        r"2 images, [0-9.]+ s per image; the network alone [0-9.]+ s \(without warm-up, the first 1\)", out
    )
    for name in ("1.png", "2.png"):  # 42 x 49 is no multiple of 4: padded, and cropped back
        with Image.open(work / "out/images" / name) as image:
            assert image.size == (49, 42)


def test_eval_options_are_named_with_the_score(work):
    pairs = [f"data/test/sharp/{i}.png data/test/blur/{i}.png" for i in (1, 2)]
    (work / "list.txt").write_text("\n".join(pairs))
    options = ["--self_ensemble", "rot4", "--crop_border", 3, "--metrics", "psnr_uint8", "--align", "ecc"]
    out, _ = run(
        "eval.py",
        "--test_list",
        "list.txt",
        "--dataset_root",
        ".",
        "--ckpt_file",
        "run/best.ckpt",
        *options,
        "--report_file",
        "named.json",
        *ON_CPU,
        cwd=work,
    )
    assert "psnr_uint8 [crop_border 3, align ecc, self_ensemble rot4]:" in out
    assert re.search(r"aligned: [0-2] of 2", out) and "worst by psnr_uint8: " in out
    report = json.loads((work / "named.json").read_text())
    assert (report["self_ensemble"], report["crop_border"], report["align"]) == ("rot4", 3, "ecc")
    assert "psnr" not in report and len(report["worst"]) == 2
    with open(work / "named.csv", newline="") as f:
        scores = [float(row["psnr_uint8"]) for row in csv.DictReader(f)]
    assert report["psnr_uint8"] == pytest.approx(np.mean(scores), abs=1e-12)


def test_ensembles_and_batches_of_the_real_network(work):
    scores = {}
    for name, options in (
        ("one", []),
        ("batch", ["--eval_batch_size", 2]),
        ("raw", ["--weights", "raw"]),
    ):
        report = f"score_{name}.json"
        run("eval.py", *DATA, "--ckpt_file", "run/best.ckpt", *options, "--report_file", report, *ON_CPU, cwd=work)
        scores[name] = json.loads((work / report).read_text())
    for metric in ("psnr", "psnr_uint8", "ssim"):
        assert scores["one"][metric] == pytest.approx(scores["batch"][metric], abs=1e-6)
        assert scores["one"][metric] == scores["raw"][metric]  # this run kept no moving average


def test_validation_split_of_the_training_pairs(work):
    options = ["--val_fraction", 0.4, "--max_steps", 1, "--train_batch_size", 1, "--ckpt_save_directory", "split_run"]
    out, _ = run("train.py", *DATA, *options, *TINY, *ON_CPU, cwd=work)
    assert re.search(r"data: 3 training pairs .*, 2 for validation \(.+\)", out)


def test_export_reloads_exactly(work):
    out, _ = run(
        "export.py",
        "--ckpt_file",
        "run/best.ckpt",
        "--export_device_target",
        "GPU",
        "--export_file_format",
        "MINDIR",
        cwd=work,
    )
    assert (work / "MIMO-UNet.mindir").exists()
    assert "for GPU" in out and "difference from the checkpoint 0.0e+00" in out


def test_ascend_line_of_the_quick_start_runs_on_cpu(work):
    out, _ = run(
        "train.py",
        "--dataset_root",
        "data",
        "--config_path",
        ROOT / "configs/ascend_config.yaml",
        "--epochs_num",
        2,
        "--slice_dataset",
        4,
        "--val_acc_monitor_interval",
        1,
        "--ckpt_save_directory",
        "ascend_run",
        *TINY,
        *ON_CPU,
        cwd=work,
    )
    assert "a CPU has no data sink" in out
    assert (work / "ascend_run/best.ckpt").exists()


def test_devices_that_are_absent_end_with_one_line(work):
    for name in ("gpu", "ascend"):
        config = ROOT / f"configs/{name}_config.yaml"
        for script, options in (
            ("train.py", ["--ckpt_save_directory", f"no_{name}"]),
            ("eval.py", ["--ckpt_file", "run/best.ckpt"]),
        ):
            _, err = run(script, "--dataset_root", "data", "--config_path", config, *options, cwd=work, expect=2)
            assert err.count("\n") == 1 and "--device_target CPU" in err
        assert not (work / f"no_{name}").exists()


def test_a_held_run_folder_is_refused_and_renamed_only_when_asked(work):
    base = ["train.py", "--dataset_root", "data", "--max_steps", 1, *TINY, *ON_CPU, "--val_acc_monitor_interval", 0]
    run(*base, "--ckpt_save_directory", "held", "--train_batch_size", 1, cwd=work)
    first = (work / "held/last.ckpt").read_bytes()
    _, err = run(*base, "--ckpt_save_directory", "held", cwd=work, expect=2)
    assert "--overwrite" in err and (work / "held/last.ckpt").read_bytes() == first
    # --pretrained starts from the network of a checkpoint, at step 0
    out, _ = run(
        *base,
        "--ckpt_save_directory",
        "held",
        "--overwrite",
        "--pretrained",
        "run/best.ckpt",
        "--train_batch_size",
        1,
        cwd=work,
    )
    assert (work / "held.old1/last.ckpt").read_bytes() == first
    assert sorted(p.name for p in (work / "held").glob("*_1.ckpt")) == ["MIMO-UNet_1_1.ckpt"]


def test_launchers(work):
    options = [*TINY, "--max_steps", 1, "--val_acc_monitor_interval", 0]
    run("scripts/run_standalone_train_cpu.sh", "data", "launched", *options, cwd=work)
    again = ["--resume", "auto", "--max_steps", 2]
    out, _ = run("scripts/run_standalone_train_cpu.sh", "data", "launched", *again, cwd=work)
    assert "launched/config.yaml, of the run that is resumed" in out and "steps 2 to 2;" in out
    out, _ = run("scripts/run_eval_cpu.sh", "data", "launched/last.ckpt", "launched_images", cwd=work)
    assert "psnr:" in out and len(list((work / "launched_images").glob("*.png"))) == 2


BAD = {
    "no such dataset": (["--dataset_root", "nowhere"], "nowhere"),
    "a typo in an option": (["--epoch_num", "3"], "--epochs_num"),
    "not a number": (["--epochs_num", "abc"], "--epochs_num: got 'abc', expected a whole number"),
    "unknown model": (["--model_name", "MIMO-Unet+"], "MIMO-UNet, MIMO-UNetPlus"),
    "crop larger than the images": ([*DATA, "--crop_size", "64"], "64"),
    "more than there are images": ([*DATA, "--train_batch_size", "6", *TINY], "--train_batch_size 6"),
    "pretrained is not there": ([*DATA, "--pretrained", "run/none.ckpt", *TINY], "best.ckpt"),
    "other variant": (
        [*DATA, "--pretrained", "run/best.ckpt", "--model_name", "MIMO-UNetPlus", *TINY], "Add --model_name MIMO-UNet",
    ),
    "config is not there": (["--config_path", "none.yaml"], "none.yaml"),
    "run folder is a file": ([*DATA, "--ckpt_save_directory", "train.log", *TINY], "--ckpt_save_directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(work, case):
    options, expected = BAD[case]
    folder = [] if "--ckpt_save_directory" in options else ["--ckpt_save_directory", "bad_run"]
    target = [] if "--config_path" in options else ON_CPU
    _, err = run("train.py", *options, *folder, *target, cwd=work, expect=2)
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err, err
    assert not (work / "bad_run").exists()  # nothing is left behind


def test_a_damaged_image_is_named(work, tmp_path):
    import shutil

    shutil.copytree(work / "data", tmp_path / "data")
    victim = tmp_path / "data/train/blur/3.png"
    # whole at both ends, so that only decoding finds the damage
    content = bytearray(victim.read_bytes())
    content[200:1200] = bytes(1000)
    victim.write_bytes(content)
    _, err = run("train.py", *DATA, "--ckpt_save_directory", "run2", *TINY, *ON_CPU, cwd=tmp_path, expect=2)
    line = next(x for x in err.splitlines() if x.startswith("error: "))
    assert "3.png" in line and "Traceback" not in err
    victim.write_bytes(victim.read_bytes()[:500])
    _, err = run(
        "train.py", "--dataset_root", "data", "--ckpt_save_directory", "run3", *TINY, *ON_CPU, cwd=tmp_path, expect=2
    )
    assert "3.png" in err and err.count("\n") == 1
