"""The benchmarks as they are called, on tiny networks, and the tables they make."""

import copy
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks import inference, loader, measure, report, scaling, step, step_parts, variants
from src.config import ROOT
from src.errors import UserError
from src.run_log import COLUMNS

SCRIPTS = ("inference", "loader", "scaling", "step")
TINY = ["--num_res", "1", "--rounds", "2"]
SPREAD = {"median": 1.5, "min": 1.0, "max": 2.0, "count": 3}
# What each benchmark writes, with numbers that are easy to find again.
RESULTS = {
    "step": {
        "shape": [1, 3, 256, 256], "threads": 2, "device_target": "CPU",
        "contestants": {
            "mindspore": {"native_convolutions": False, "first_loss": 1.0, "first_step_s": 12.34, "step_s": SPREAD,
                          "peak_memory_gb": 9.87, "times_torch": SPREAD},
            "torch": {"first_loss": 1.0, "first_step_s": 1.0, "step_s": SPREAD, "peak_memory_gb": 1.0},
        },
    },
    "inference": {
        "threads": 2, "device_target": "CPU",
        "sizes": [{"size": [720, 1280], "seconds": {"onnx_bf16": {"seconds": SPREAD, "speed_of_torch": SPREAD}}}],
        "contestants": {"onnx_bf16": {"peak_memory_gb": 1.25, "difference": {"largest": 1.0, "rms": 4.3e-4}}},
    },
    "loader": {
        "batch": 4, "size": 256, "threads": 2, "frame": [720, 1280],
        "contestants": {"png": {"pairs_per_s": SPREAD, "times_png": SPREAD}, "packed": {"pairs_per_s": SPREAD}},
    },
    "scaling": {
        "shape": [1, 3, 128, 128], "threads": 1, "device_target": "CPU", "bytes_reduced": 27228696,
        "processes": {
            "1": {"step_s": SPREAD, "samples_per_s": 0.67, "efficiency": 1.0},
            "2": {"step_s": SPREAD, "samples_per_s": 1.21, "efficiency": 0.91},
        },
    },
    "variants": {
        "settings": {"crop_size": 128, "train_batch_size": 4, "conv_kernels": "native_bf16"},
        "variants": {
            "MIMO-UNetLite": {
                "minutes": 45.0, "steps": 5, "crops": 20,
                "sets": {"91%": {"images": 3, "psnr_input": 20.0, "psnr": 21.5}},
            }
        },
    },
}  # fmt: skip


@pytest.fixture
def page(tmp_path):
    """The page with the tables, in a folder with a result of each benchmark and the tables written."""
    results, page = tmp_path / "benchmarks/results", tmp_path / report.PAGE
    results.mkdir(parents=True)
    page.parent.mkdir()
    shutil.copy(ROOT / report.PAGE, page)
    for name, content in RESULTS.items():
        measure.write_json(results / f"{name}.json", name, content)
    report.main([], tmp_path)
    return page


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_recorded_results_say():
    report.main(["--check"])


def test_tables_hold_the_numbers_and_leave_the_text(page):
    parts, original = (re.split("(?=<!-- /?benchmarks)", path.read_text()) for path in (page, ROOT / report.PAGE))
    assert (parts[0], parts[2]) == (original[0], original[2])
    for number in ("12.3", "9.9", "1.5 (1–2)", "720x1280", "1.2", "4e-04", "27.2 MB", "0.67", "91%", "+1.50"):
        assert number in parts[1], number
    rows = [line for line in parts[1].splitlines() if line.startswith("|")]
    assert len(rows) == 5 * 2 + 2 + 1 + 2 + 2 + 1  # a header and a rule each


def test_check_finds_a_number_changed_by_hand_and_a_new_result(page, tmp_path):
    report.main(["--check"], tmp_path)
    page.write_text(page.read_text().replace("91%", "99%"))
    with pytest.raises(UserError, match=f"{report.PAGE}: .*tables differ.*report.py"):
        report.main(["--check"], tmp_path)
    report.main([], tmp_path)
    report.main(["--check"], tmp_path)
    changed = copy.deepcopy(RESULTS["step"])
    changed["contestants"]["torch"]["step_s"]["median"] = 1.9
    measure.write_json(tmp_path / "benchmarks/results/step.json", "step", changed)
    with pytest.raises(UserError, match="tables differ"):
        report.main(["--check"], tmp_path)


def test_damaged_results_and_missing_markers_are_named(page, tmp_path):
    results = tmp_path / "benchmarks/results"
    for text, words in (("{", "not a result"), ("{}", "benchmark"), (json.dumps({"benchmark": "x"}), "machine")):
        (results / "bad.json").write_text(text)
        with pytest.raises(UserError, match=f"bad.json: .*{words}"):
            report.main([], tmp_path)
    measure.write_json(results / "bad.json", "speed", {})
    with pytest.raises(UserError, match="'speed', expected one of step"):
        report.main([], tmp_path)
    (results / "bad.json").unlink()
    page.write_text(page.read_text().replace(report.END, ""))
    with pytest.raises(UserError, match=f"{report.PAGE}: expected the lines"):
        report.main(["--check"], tmp_path)


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_machine_names_no_host_and_no_folder(monkeypatch):
    found = json.dumps(measure.machine())
    assert os.uname().nodename not in found and str(ROOT) not in found
    assert measure.machine()["cores"] >= measure.machine()["threads"] >= 1
    assert measure.machine()["versions"]["mindspore"]


def test_numbers_are_kept_to_five_digits(tmp_path):
    measure.write_json(tmp_path / "new/a.json", "step", {"a": [1.23456789], "b": 123456789, "c": (1e-9 / 3,)})
    content = json.loads((tmp_path / "new/a.json").read_text())
    assert content["results"] == {"a": [1.2346], "b": 123456789, "c": [3.3333e-10]}
    assert content["benchmark"] == "step" and content["machine"] == measure.machine()


def test_ratio_is_taken_round_by_round():
    assert measure.ratio([2.0, 8.0, 6.0], [1.0, 2.0, 6.0]) == {"median": 2.0, "min": 1.0, "max": 4.0, "count": 3}


class Worker:
    """Its process imports this file, so the frameworks are imported in the tests that need them."""

    def __init__(self, start):
        self.value = start

    def add(self, number):
        self.value += number
        return self.value

    def environment(self, name):
        return os.environ.get(name)

    def cores(self):
        return len(os.sched_getaffinity(0))

    def fail(self):
        raise ValueError("no such luck\nsecond line")

    def die(self):
        os._exit(3)


def test_contestants_take_turns_in_processes_of_their_own(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    first = measure.Contestant("a", Worker, 1, threads=1, environment={"MARK": "here"})
    with first, measure.Contestant("b", Worker, 100, threads=1) as second:
        assert measure.take_turns([first, second], 3, "add", 2) == {"a": [3, 5, 7], "b": [102, 104, 106]}
        assert [c.ask("environment", "ONEDNN_MAX_CPU_ISA") for c in (first, second)] == [None, None]
        assert [c.ask("environment", "MARK") for c in (first, second)] == ["here", None]
        assert first.ask("environment", "OMP_NUM_THREADS") == "1" and first.ask("cores") == 1
        with pytest.raises(UserError, match="^a: ValueError: no such luck$"):
            first.ask("fail")
        with pytest.raises(UserError, match="^b: its process ended with 3$"):
            second.ask("die")
    assert not first.process.is_alive() and not second.process.is_alive()


# ---- the scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SCRIPTS, "step_parts", "report", "variants"])
def test_scripts_run_from_anywhere(name, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--" in done.stdout, done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device_target", "cpu"], "Did you mean CPU"),
        (["--threads", "0"], "--threads: got 0"),
        (["--rounds", "0"], "--rounds"),
        (["--size", "30"], "multiple of 8|unknown option|16 to"),
        (["--contestants", "no"], "--contestants: got 'no', expected|unknown option"),
        (["--json", "/proc/none/a.json"], "--json: cannot write"),
    ],
)
def test_wrong_options_are_one_line(name, options, words):
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(UserError, match=words) as caught:
        if options[0] == "--size" and name == "loader":
            options = ["--size", "8"]
        module.main(options)
    assert "\n" not in str(caught.value)


def test_the_twin_refuses_a_device_it_has_not():
    from benchmarks import torch_twin

    assert torch_twin.torch_device("CPU") == "cpu"
    with pytest.raises(UserError, match="Ascend: PyTorch .* has no such device"):
        torch_twin.torch_device("Ascend")


def test_step_of_both_frameworks_is_the_same_work(tmp_path, capsys):
    file = tmp_path / "step.json"
    names = "mindspore_framework,torch,lite_mindspore_framework,lite_torch"
    step.main([*TINY, "--size", "32", "--json", str(file), "--contestants", names])
    found = json.loads(file.read_text())["results"]
    assert found["shape"] == [1, 3, 32, 32]
    ours, twin, lite, lite_twin = (found["contestants"][name] for name in names.split(","))
    assert ours["first_loss"] == pytest.approx(twin["first_loss"], rel=1e-4) and ours["first_loss"] > 0.1
    assert lite["first_loss"] == pytest.approx(lite_twin["first_loss"], rel=1e-4) != ours["first_loss"]
    assert ours["step_s"]["count"] == ours["times_torch"]["count"] == 2 and ours["step_s"]["median"] > 0
    assert twin["times_torch"] == {"median": 1.0, "min": 1.0, "max": 1.0, "count": 2}
    assert 0.2 < twin["peak_memory_gb"] < ours["peak_memory_gb"] < 4
    assert "mindspore_framework" in capsys.readouterr().out
    assert report.step_table(found)[2]


@pytest.mark.slow
def test_engines_give_the_twins_answer(tmp_path):
    file = tmp_path / "inference.json"
    names = ["mindir", "onnx_fp32", "torch", "torch_channels_last", "lite_onnx_fp32", "lite_mindspore", "lite_torch"]
    inference.main([*TINY, "--sizes", "16x24,32x32", "--json", str(file), "--contestants", ",".join(names)])
    found = json.loads(file.read_text())["results"]
    assert [size["size"] for size in found["sizes"]] == [[16, 24], [32, 32]]
    for name in names:
        assert found["contestants"][name]["difference"]["largest"] < 1e-5
        assert found["sizes"][1]["seconds"][name]["speed_of_torch"]["median"] > 0
    assert report.inference_table(found)[2]


def test_what_is_measured_by_default_fits_the_device(monkeypatch):
    monkeypatch.setattr(inference, "has_bf16", lambda: False)
    of_one = ["mindspore", "mindir", "onnx_fp32", "torch", "torch_channels_last"]
    both = of_one + [f"lite_{name}" for name in of_one]
    assert [n for n in inference.CONTESTANTS if inference.can_run(n, "CPU")] == both
    assert [n for n in both if inference.can_run(n, "Ascend")] == [
        "mindspore",
        "mindir",
        "lite_mindspore",
        "lite_mindir",
    ]
    monkeypatch.setattr(measure.device, "require_device", lambda target: None)
    assert step.parse_options(["--device_target", "Ascend"]).contestants == ["mindspore", "lite_mindspore"]
    on_gpu = step.parse_options(["--device_target", "GPU"]).contestants
    assert on_gpu == ["mindspore", "torch", "lite_mindspore", "lite_torch"]


@pytest.mark.slow
def test_the_parts_of_a_step_are_no_longer_than_the_whole(tmp_path):
    file = tmp_path / "parts.json"
    step_parts.main([*TINY, "--size", "32", "--conv_kernels", "framework", "--json", str(file)])
    parts = {k: v["median"] for k, v in json.loads(file.read_text())["results"]["parts"].items()}
    assert 0 < parts["network forward"] < parts["network forward and backward"] < 1.5 * parts["step"]
    assert 0 < parts["Fourier term and its gradient"] < parts["step"] and parts["Adam"] < parts["step"]


@pytest.mark.slow
def test_two_processes_reduce_their_gradients(tmp_path):
    from src.mimo_unet import build_net

    file = tmp_path / "scaling.json"
    scaling.main(["--num_res", "1", "--size", "32", "--rounds", "1", "--steps", "2", "--json", str(file)])
    found = json.loads(file.read_text())["results"]
    parameters = sum(p.size for p in build_net("MIMO-UNet", 1).get_parameters())
    assert found["bytes_reduced"] == 4 * (parameters + 3)
    assert list(found["processes"]) == ["1", "2"] and found["processes"]["1"]["efficiency"] == 1
    two, one = found["processes"]["2"], found["processes"]["1"]
    assert two["efficiency"] == pytest.approx(two["samples_per_s"] / one["samples_per_s"] / 2, rel=1e-3)
    assert report.scaling_table(found)[2]


def test_loader_is_among_the_tables():
    assert set(report.TABLES) == {*SCRIPTS, "variants"} and loader.YARDSTICK in report.LOADER_NAMES


# ---- variants


def write_run(folder, name, seed=1):
    """What a run leaves: settings, a log of two rows, a checkpoint of a tiny network."""
    from src.checkpoint import parameter_arrays, save_checkpoint
    from src.config import Config
    from src.init_weights import initial_network

    folder.mkdir()
    (folder / "config.yaml").write_text(Config().with_options(model_name=name, train_batch_size=2, seed=seed).to_yaml())
    (folder / "log.csv").write_text(f"{','.join(COLUMNS)}\n{'1,10' + ',' * 12}\n{'2,20' + ',' * 12}\n")
    save_checkpoint(folder / "last.ckpt", parameter_arrays(initial_network(name, 1, 1)), {"variant": name})
    return folder


@pytest.mark.slow
def test_variants_are_scored_on_every_set(cpu, tmp_path, make_dataset):
    runs = [f"--run={write_run(tmp_path / name, name)}=1.5" for name in ("MIMO-UNetLite", "MIMO-UNet")]
    file, root = tmp_path / "variants.json", make_dataset(train=1)
    variants.main([*runs, f"--set=noise=--dataset_root {root}", "--json", str(file)])
    found = json.loads(file.read_text())["results"]
    assert list(found["variants"]) == ["MIMO-UNetLite", "MIMO-UNet"] and found["settings"]["train_batch_size"] == 2
    for run in found["variants"].values():
        assert (run["minutes"], run["steps"], run["crops"]) == (1.5, 20, 40)
        assert run["sets"]["noise"]["images"] == 2 and 5 < run["sets"]["noise"]["psnr"] < 30
    caption, header, rows = report.variants_table(found)
    assert len(rows) == 2 and all(len(row) == len(header) for row in rows) and "batch 2" in caption


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "expected at least one --run"),
        (["--run", "nothing=45", "--set", "a=b"], "--run nothing: expected a run folder"),
        (["--run", "good", "--set", "a=b"], "--run good=: expected the processor time"),
        (["--run", "good=1", "--run", "other=1", "--set", "a=b"], "--run other: another seed than good"),
    ],
)
def test_variants_that_cannot_be_compared_are_named(options, words, cpu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good", "MIMO-UNet")
    write_run(tmp_path / "other", "MIMO-UNetLite", seed=2)
    with pytest.raises(UserError, match=words):
        variants.main(options)
