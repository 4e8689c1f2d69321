"""Faults are injected into each check; the runs on the devices are one slow test away from real."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from scripts import doctor
from scripts.doctor import FAIL, GB, OK, WARN, Row
from src import device
from src.errors import UserError

ROOT = Path(__file__).parent.parent


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def statuses(rows):
    return {row.name: row.status for row in rows}


@pytest.mark.parametrize(
    "version, name, status",
    [((3, 10, 0), "CPython", OK), ((3, 13, 1), "CPython", FAIL), ((3, 9, 9), "CPython", FAIL), ((3, 11), "PyPy", FAIL)],
)
def test_python(version, name, status):
    row = doctor.check_python(version, name)
    assert row.status == status and ("3.10, 3.11 or 3.12" in row.fix) == (status == FAIL)


def test_packages_here_fit():
    rows = doctor.check_packages()
    assert statuses(rows) == {"mindspore": OK, "numpy": OK, "other packages": OK}
    assert all(name in rows[-1].found for name in ("Pillow", "scikit-image", "PyYAML", "matplotlib"))


def test_packages_that_do_not_fit():
    versions = {"mindspore": "2.9.0", "numpy": "2.1.0", "tqdm": "4.70.1"}

    def version_of(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    rows = doctor.check_packages(["mindspore==2.10.0", "numpy>=1.24,<2", "tqdm>=4.66", "PyYAML>=6.0"], version_of)
    assert statuses(rows) == {"mindspore": FAIL, "numpy": FAIL, "PyYAML": FAIL, "other packages": OK}
    assert "2.1.0" in rows[1].found and "complex" in rows[1].found and "pip install 'numpy>=1.24,<2'" in rows[1].fix
    assert rows[2].found.startswith("not installed")


def test_import_of_mindspore(tmp_path):
    good = doctor.check_import(script(tmp_path / "good", "#!/bin/sh\necho version 2.10.0\n"))
    assert good.status == OK and good.found.startswith("version 2.10.0, ")
    text = "#!/bin/sh\necho 'ImportError: libfoo.so.1: no such file\nsee a page of advice' >&2\nexit 1\n"
    bad = doctor.check_import(script(tmp_path / "bad", text))
    assert bad.status == FAIL and bad.found == "ImportError: libfoo.so.1: no such file" and bad.fix
    crash = doctor.check_import(script(tmp_path / "crash", "#!/bin/sh\nkill -SEGV $$\n"))
    assert crash.status == FAIL and "-11" in crash.found
    assert doctor.check_import(str(tmp_path / "absent")).status == FAIL


@pytest.mark.parametrize(
    "driver, libraries, installed, expected",
    [(False, False, False, OK), (True, True, False, OK), (True, False, True, OK), (True, False, False, FAIL)],
)
def test_gpu(monkeypatch, driver, libraries, installed, expected):
    monkeypatch.setattr(device, "gpu_driver_present", lambda: driver)
    monkeypatch.setattr(device, "cuda_libraries_installed", lambda: installed)
    monkeypatch.setattr(device, "cuda_libraries_present", lambda: libraries)
    gpu, cuda = doctor.check_gpu()
    assert (gpu.status, cuda.status) == (OK, expected)
    assert ("setup.sh --gpu" in cuda.fix) == (expected == FAIL)
    assert (gpu.found == "not present") == (not driver)


def test_forbidden_back_off_is_a_warning_on_a_gpu_machine(monkeypatch):
    """Evaluation computes its shapes on the host."""
    monkeypatch.setattr(device, "gpu_driver_present", lambda: True)
    monkeypatch.setattr(device, "cuda_libraries_present", lambda: True)
    monkeypatch.setenv("MS_DISABLE_KERNEL_BACKOFF", "0")
    assert [row.status for row in doctor.check_gpu()] == [OK, OK]
    monkeypatch.setenv("MS_DISABLE_KERNEL_BACKOFF", "1")
    row = doctor.check_gpu()[-1]
    assert row.status == WARN and row.fix == "unset MS_DISABLE_KERNEL_BACKOFF"


def test_ascend(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "ascend_devices", lambda: ["/dev/davinci0"])
    monkeypatch.delenv("ASCEND_OPP_PATH", raising=False)
    assert doctor.check_ascend(["", str(tmp_path / "absent")])[1].status == FAIL
    file = tmp_path / "compiler/version.info"
    file.parent.mkdir()
    file.write_text("Version=9.1.0\n")
    row = doctor.check_ascend([str(tmp_path)])[1]
    assert row.status == WARN and "source" in row.fix
    monkeypatch.setenv("ASCEND_OPP_PATH", "/x")
    assert doctor.check_ascend([str(tmp_path)])[1].status == OK
    file.write_text("Version=7.0.0\n")
    assert doctor.check_ascend([str(tmp_path)])[1].status == WARN
    monkeypatch.setattr(device, "ascend_devices", lambda: [])
    assert [row.found for row in doctor.check_ascend([])] == ["not present"] * 2
    assert set(statuses(doctor.check_ascend([])).values()) == {OK}


def test_cann_versions_are_those_of_setup():
    text = (ROOT / "scripts/setup.sh").read_text()
    assert tuple(re.search('CANN_VERSIONS="(.*)"', text)[1].split()) == doctor.CANN_VERSIONS


def test_cpu(monkeypatch):
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    row = doctor.check_cpu("model name : x\nflags : fpu avx2 avx512f\n")
    assert row.status == OK and "avx512f: yes" in row.found and "ONEDNN_MAX_CPU_ISA=AVX2, set by the user" in row.found
    assert doctor.check_cpu("flags : fpu sse2\n").status == WARN


def test_slow_convolution_is_reported():
    assert doctor.judge_convolution(0.012) == Row("CPU: convolution", OK, "12 ms")
    row = doctor.judge_convolution(1.2)
    assert row.status == WARN and "1200 ms" in row.found and "ONEDNN_MAX_CPU_ISA" in row.fix


def test_memory(monkeypatch):
    monkeypatch.setattr(device, "available_memory", lambda: 3 * GB)
    cores, memory = doctor.check_cores_and_memory()
    assert cores.status == OK and memory.status == WARN and "3.0 GB" in memory.found and "--crop_size" in memory.fix


def test_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 * 2**20}))
    row = doctor.check_shared_memory()
    assert row.status == WARN and "0.06 GB" in row.found and "--shm-size" in row.fix
    monkeypatch.undo()
    assert doctor.check_shared_memory(str(tmp_path / "absent")).status == WARN


def test_limits():
    infinity = doctor.resource.RLIM_INFINITY
    assert {row.status for row in doctor.check_limits(lambda _: (infinity, infinity))} == {OK}
    rows = doctor.check_limits(lambda _: (256, infinity))
    assert {row.status for row in rows} == {WARN} and "ulimit -n 4096" in rows[0].fix


def test_mpirun(tmp_path):
    assert doctor.check_mpi(lambda _: None).status == OK
    assert "not present" in doctor.check_mpi(lambda _: None).found
    fake = script(tmp_path / "mpirun", "#!/bin/sh\necho mpirun '(Open MPI)' 4.1.4\n")
    assert doctor.check_mpi(lambda _: fake).found == f"{fake}, mpirun (Open MPI) 4.1.4"
    assert doctor.check_mpi(lambda _: script(tmp_path / "mute", "#!/bin/sh\n")).status == WARN


def test_msrun(tmp_path):
    assert doctor.check_msrun(tmp_path).status == WARN
    (tmp_path / "msrun").touch()
    assert doctor.check_msrun(tmp_path).status == OK


def test_current_folder(monkeypatch, tmp_path):
    assert doctor.check_folder(tmp_path)[1] == Row("write permission", OK, str(tmp_path))

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    row = doctor.check_folder(tmp_path)[1]
    assert row.status == FAIL and "Permission denied" in row.found and "--ckpt_save_directory" in row.fix


def test_a_device_run_that_dies_is_a_row(tmp_path):
    text = "#!/bin/sh\necho 'error: --device_target GPU: no' >&2\necho more >&2\nexit 2\n"
    (row,) = doctor.run_probe("GPU", script(tmp_path / "python", text))
    assert row == Row("GPU: training step", FAIL, "error: --device_target GPU: no", row.fix) and "nvidia-smi" in row.fix
    (row,) = doctor.run_probe("CPU", script(tmp_path / "slow", "#!/bin/sh\nexec sleep 60\n"), timeout=0.1)
    assert row.status == FAIL and "not finished after" in row.found


def test_a_check_that_breaks_is_a_row():
    def check():
        raise ImportError("No module named 'numpy'")

    (row,) = doctor.guarded("memory", check)
    assert row.status == FAIL and "No module named 'numpy'" in row.found and row.fix


def test_report_and_exit_status(monkeypatch, tmp_path, capsys):
    rows = [Row("a", OK, "fine"), Row("b", WARN, "slow", "wait")]
    monkeypatch.setattr(doctor, "examine", lambda quick: rows)
    file = tmp_path / "report.json"
    assert doctor.main(["--json", str(file)]) == 0
    assert json.loads(file.read_text())[1] == {"name": "b", "status": "WARN", "found": "slow", "fix": "wait"}
    assert capsys.readouterr().out.splitlines()[-1] == "1 OK, 1 WARN, 0 FAIL"
    rows.append(Row("c", FAIL, "gone", "bash scripts/setup.sh"))
    assert doctor.main([]) == 1
    assert re.search("FAIL +c +gone  -> bash scripts/setup.sh\n", capsys.readouterr().out)
    with pytest.raises(UserError, match="--json: cannot write"):
        doctor.main(["--json", str(file / "report.json")])
    for other in (tmp_path, tmp_path / "report.txt"):
        with pytest.raises(UserError, match="--json: got .*, expected a file name that ends with .json"):
            doctor.main(["--json", str(other)])
    with pytest.raises(UserError, match="--probe"):
        doctor.main(["--probe", "TPU"])


def test_a_bare_python_gets_rows_and_no_traceback(tmp_path):
    """-S leaves out site-packages: no numpy, no yaml, no MindSpore."""
    command = [sys.executable, "-S", str(ROOT / "scripts/doctor.py"), "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 1 and result.stderr == ""
    assert re.search("FAIL +packages ", result.stdout)


@pytest.mark.slow
def test_the_real_thing(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/doctor.py"), "--json", "report.json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert result.returncode == 0 and result.stderr == "", result
    rows = {row["name"]: row for row in json.loads((tmp_path / "report.json").read_text())}
    assert {"CPU: training step", "CPU: Fourier term", "CPU: convolution", "CPU: complex operators"} < set(rows)
    assert all(row["fix"] for row in rows.values() if row["status"] != OK)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_native_convolutions_that_cannot_be_built_are_a_warning_with_the_reason(monkeypatch):
    from src.native import conv as native_conv

    monkeypatch.setattr("sys.prefix", "/nowhere")
    row = doctor.check_native_convolutions()
    assert row.status == doctor.WARN
    assert "no oneDNN in this environment" in row.found
    monkeypatch.undo()
    monkeypatch.setattr(native_conv, "library", lambda: Path("native_conv_1.so"))
    assert doctor.check_native_convolutions() == Row("CPU: convolutions for training", OK, "native, native_conv_1.so")
