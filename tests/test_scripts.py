"""The bash scripts, run as real processes: usage, exact commands, and one clear line where a machine does not fit.

Nothing here installs anything or needs the network: what would go that far ends before, or meets a fake Python.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from src import __version__

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
SCORING = ROOT / "weights_pretrained/score_sample_weights.sh"
LAUNCHERS = [s.name for s in SCRIPTS if s.name.startswith("run_") and re.search("_(gpu|ascend|cpu).sh$", s.name)]
ON_GPU_MACHINE = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia/version").exists()
ON_ASCEND_MACHINE = any(Path("/dev").glob("davinci[0-9]*"))


def bash(script: Path | str, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    """Run a script of the repository, or one given by its path; `env` adds to the environment."""
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def command_of(result: subprocess.CompletedProcess) -> list[str]:
    """The words of the command that --dry_run printed, without the settings before it."""
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout.splitlines()[-1])
    if words[0] == "source":
        words = words[words.index("&&") + 1 :]
    return words[1:] if words[0].startswith("PATH=") else words


def assert_one_line_error(result: subprocess.CompletedProcess, *parts: str):
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for part in parts:
        assert part in result.stderr


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of what setup.sh needs, without .venv, in a folder with a space in its name."""
    folder = tmp_path / "a copy"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for file in ROOT.glob("requirements*.txt"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def bare_path(tmp_path) -> str:
    """A PATH with the system's tools but no Python, no apt-get, no nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for (
        tool
    ) in "bash dirname basename cat head sed awk grep cut tr wc cksum id getconf flock mkdir rm touch mv".split():
        (folder / tool).symlink_to(shutil.which(tool))
    return str(folder)


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [*SCRIPTS, SCORING, ROOT / ".ci" / "run"], ids=lambda s: s.name)
def test_bash_can_read_it(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("arguments", [[], ["dataset"], ["dataset", "runs/a", "3", "too many"], ["--seed", "3"]])
def test_wrong_number_of_arguments_is_one_usage_line(script, arguments):
    result = bash(script, *arguments)
    assert_one_line_error(result, f"usage: bash {script} DATASET CKPT_")


def test_an_empty_argument_is_named():
    for arguments in (["", "runs/a"], ["dataset", " "]):
        for script in ("run_eval_cpu.sh", "run_distribute_train_cpu.sh"):
            assert_one_line_error(bash(script, *arguments), "is a shell variable unset?", f"usage: bash {script}")


@pytest.mark.parametrize("script", [*LAUNCHERS, "setup.sh", "run_tests.sh"])
def test_help(script):
    result = bash(script, "--help")
    assert result.returncode == 0 and script in result.stdout and result.stderr == ""


# ---- commands of the launchers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "gpu", "ascend"])
def test_commands_keep_the_callers_paths(tmp_path, tree, device):
    """From another folder, with spaces both in the repository's path and in the arguments."""
    train = bash(
        tree / f"scripts/run_standalone_train_{device}.sh",
        "my data",
        "runs/a b",
        "--dry_run",
        "--seed",
        "3",
        cwd=tmp_path,
    )
    config = str(tree / f"configs/{device}_config.yaml")
    python = str(tree / ".venv/bin/python")
    assert command_of(train) == [
        *(python, str(tree / "train.py"), "--config_path", config, "--dataset_root", "my data"),
        *("--ckpt_save_directory", "runs/a b", "--seed", "3"),
    ]  # fmt: skip
    score = bash(tree / f"scripts/run_eval_{device}.sh", "my data", "a b.ckpt", "out dir", "--dry_run", cwd=tmp_path)
    assert command_of(score) == [
        *(python, str(tree / "eval.py"), "--config_path", config, "--dataset_root", "my data"),
        *("--ckpt_file", "a b.ckpt", "--img_save_directory", "out dir"),
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a copy"], "a dry run writes nothing"
    assert not (tree / ".venv").exists()
    # The GPU's libraries have to be known before Python starts.
    assert ("gpu_env.sh && " in train.stdout) == (device == "gpu")


def test_image_folder_of_the_evaluation_may_be_left_out():
    command = command_of(bash("run_eval_cpu.sh", "d", "c", "--dry_run", "--report_file", "r.json"))
    assert "--img_save_directory" not in command and command[-2:] == ["--report_file", "r.json"]


@pytest.mark.parametrize("device, launcher", [("gpu", "mpirun"), ("ascend", "msrun"), ("cpu", "msrun")])
def test_distributed_command(device, launcher):
    result = bash(f"run_distribute_train_{device}.sh", "d", "runs/x/", "--dry_run", "--seed", "3")
    command = command_of(result)
    assert launcher in result.stdout.splitlines()[0] and result.stdout.startswith("preflight: ")
    if launcher == "mpirun":
        assert command[:3] == ["mpirun", "-np", "8"] and "runs/x_logs" in command
        assert ("--allow-run-as-root" in command) == (os.getuid() == 0)
    else:
        assert command[:2] == [str(ROOT / ".venv/bin/python"), str(ROOT / ".venv/bin/msrun")]
        assert {"--worker_num=8", "--local_worker_num=8", "--join=True", "--log_dir=runs/x_logs"} <= set(command)
        assert f"PATH={ROOT}/.venv/bin:$PATH " in result.stdout.replace("\\ ", " ")
    recipe = [] if device == "cpu" else ["--recipe", "paper_8p"]
    assert command[command.index(str(ROOT / "train.py")) + 1 :] == [
        *("--config_path", str(ROOT / f"configs/{device}_config.yaml"), "--dataset_root", "d"),
        *("--ckpt_save_directory", "runs/x/", "--is_train_distributed", "true", "--seed", "3", *recipe),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "device, options, batch, rate, remark",
    [
        ("gpu", [], "8 rank(s), 32", "0.0005", "recipe paper_8p, the default on 8 devices"),
        ("ascend", ["8"], "8 rank(s), 32", "0.0005", "recipe paper_8p, the default on 8 devices"),
        ("gpu", ["4"], "4 rank(s), 16", "0.0001", "as on one device"),
        ("cpu", ["8"], "8 rank(s), 32", "0.0001", "as on one device"),
        ("gpu", ["1"], "1 rank(s), 4", "0.0001", ""),
        ("gpu", ["--learning_rate", "2e-4", "--accumulate_steps=2"], "8 rank(s), 64", "0.0002", ""),
        ("gpu", ["--recipe=paper"], "8 rank(s), 32", "0.0001", ""),
    ],
)
def test_batch_and_learning_rate_of_all_ranks(device, options, batch, rate, remark):
    result = bash(f"run_distribute_train_{device}.sh", "d", "c", *options, "--dry_run")
    line = next(line for line in result.stdout.splitlines() if line.startswith("training: "))
    assert f"on each of {batch} in total; learning rate {rate}{', ' if remark else ''}" in line
    assert remark in line and (remark or line.endswith(rate))


def test_a_resumed_run_keeps_its_learning_rate(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\nlearning_rate: 0.0003\n")
    result = bash("run_distribute_train_gpu.sh", "d", str(tmp_path), "--resume", "auto", "--dry_run")
    assert "learning rate 0.0003, from the resumed run" in result.stdout
    assert "paper_8p" not in result.stdout
    result = bash("run_distribute_train_gpu.sh", "d", str(tmp_path / "new"), "--resume", "auto", "--dry_run")
    assert "learning rate 0.0005, from recipe paper_8p" in result.stdout  # nothing to resume: a new run starts


def test_a_mistake_in_the_options_ends_before_the_ranks_start(fake_msrun, tmp_path):
    script = fake_msrun / "scripts/run_distribute_train_cpu.sh"
    result = bash(script, "d", "c", "2", "--learning_rat", "1", cwd=tmp_path, FAKE_STATUS="0")
    assert result.returncode == 2 and result.stderr.startswith("error: unknown option --learning_rat.")
    assert len(result.stderr.splitlines()) == 1 and not list(tmp_path.glob("c_logs"))


@pytest.mark.parametrize(
    "arguments", [["2", "--launcher", "mpirun"], ["--launcher=mpirun", "2"], ["2", "--launcher=mpirun"]]
)
def test_the_launcher_and_the_number_of_ranks_can_be_chosen(arguments):
    command = command_of(bash("run_distribute_train_cpu.sh", "d", "c", *arguments, "--dry_run"))
    assert command[:3] == ["mpirun", "-np", "2"]
    assert not any("launcher" in word for word in command), "it is no option of train.py"


def test_each_run_gets_a_port_of_its_own():
    ports = {
        re.search("--master_port=([0-9]+)", bash("run_distribute_train_cpu.sh", "d", "c", "--dry_run").stdout)[1]
        for _ in "123"
    }
    assert len(ports) > 1 and all(20000 <= int(port) < 32000 for port in ports)


@pytest.mark.parametrize("count", ["0", "x", "2.5", "08"])
def test_number_of_ranks_must_be_a_number(count):
    result = bash("run_distribute_train_cpu.sh", "d", "c", count, "--dry_run")
    assert_one_line_error(result, repr(count), "whole number")


def test_unknown_launcher():
    assert_one_line_error(
        bash("run_distribute_train_cpu.sh", "d", "c", "2", "--launcher", "slurm", "--dry_run"), "slurm", "msrun"
    )


# ---- several machines ------------------------------------------------------------------------------------------------

NODES = ["--nnodes", "2", "--master_addr", "10.0.0.1", "--master_port", "2300"]


@pytest.mark.parametrize("device", ["cpu", "gpu", "ascend"])
def test_commands_of_all_machines(device):
    """Asking for msrun's machines is asking for msrun, also where mpirun is the default."""
    result = bash(f"run_distribute_train_{device}.sh", "d", "runs/x", "4", *NODES, "--dry_run", "--seed", "3")
    assert result.returncode == 0, result.stderr
    first, training, label_0, node_0, label_1, node_1 = result.stdout.splitlines()
    assert training.startswith("training: batch 4 on each of 4 rank(s), 16 in total")
    assert first.startswith("preflight: machines: 2; ranks: 4, 2 on each; ")
    assert (label_0, label_1) == ("# machine 0, 10.0.0.1:", "# machine 1:")
    meeting = "--worker_num=4 --local_worker_num=2 --master_addr=10.0.0.1 --master_port=2300"
    assert f" {meeting} --node_rank=0 --log_dir=runs/x_logs/node_0 " in node_0
    assert node_1 == node_0.replace("node_rank=0", "node_rank=1").replace("node_0", "node_1")
    assert node_0.endswith(" --is_train_distributed true --seed 3")
    one = bash(
        f"run_distribute_train_{device}.sh", "d", "runs/x", "4", *NODES, "--node_rank=1", "--dry_run", "--seed=3"
    )
    assert command_of(one)[:-1] == shlex.split(node_1)[-len(command_of(one)) - 1 : -2]


def test_a_cluster_may_be_given_more_time_to_meet():
    arguments = ["run_distribute_train_ascend.sh", "d", "c", "--dry_run"]
    assert "--cluster_time_out=1800" in command_of(bash(*arguments, MS_TOPO_TIMEOUT="1800"))
    assert "cluster_time_out" not in bash(*arguments, MS_TOPO_TIMEOUT="").stdout


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ([*NODES, "--node_rank", "2"], ["--node_rank: got '2'", "0 to 1"]),
        ([*NODES, "--node_rank", "-1"], ["--node_rank: got '-1'"]),
        ([*NODES], ["--nnodes 2", "--node_rank 0 to 1"]),
        (["3", *NODES, "--node_rank", "0"], ["got 3, expected a multiple of --nnodes 2"]),
        (["--nnodes", "2", "--node_rank", "0", "--master_port", "2300"], ["--master_addr A"]),
        (["--nnodes", "2", "--node_rank", "0", "--master_addr", "10.0.0.1"], ["--master_port P"]),
        (["--nnodes", "two"], ["--nnodes: got 'two'"]),
        (["--nnodes", "0"], ["--nnodes: got '0'"]),
        (["--nnodes="], ["--nnodes: got nothing"]),
        (["--master_addr", "10.0.0.1"], ["--master_addr", "--nnodes M"]),
        (["--node_rank", "0"], ["--node_rank", "--nnodes M"]),
        (["--master_port", "80"], ["--master_port: got '80'", "1024 to 65535"]),
        (["--master_port", "http"], ["--master_port: got 'http'"]),
        (["--hostfile", "no such file"], ["--hostfile: cannot read the file no such file"]),
        (["--hostfile", "/dev/null"], ["--hostfile: cannot read the file /dev/null"]),
        (["--hostfile", "x", "--launcher", "msrun"], ["--hostfile belongs to mpirun"]),
        (["--hostfile", "x", *NODES], ["--hostfile belongs to mpirun"]),
        (["--launcher", "mpirun", *NODES], ["belong to msrun", "--hostfile FILE"]),
    ],
)
def test_mistakes_about_machines(arguments, parts):
    assert_one_line_error(bash("run_distribute_train_cpu.sh", "d", "c", *arguments), *parts)


def test_only_training_on_several_devices_knows_machines():
    assert_one_line_error(bash("run_standalone_train_cpu.sh", "d", "c", "--nnodes", "2"), "usage: ")
    assert_one_line_error(bash("run_eval_cpu.sh", "d", "c", "--hostfile", "x"), "usage: ")


def test_list_of_machines(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# none yet\n\n   # nor here\n")
    arguments = ["d", "c", "6", "--hostfile", str(file), "--dry_run"]
    assert_one_line_error(bash("run_distribute_train_cpu.sh", *arguments), "lists no machines", "slots=8")
    file.write_text("192.0.2.7 slots=4 # the first\n192.0.2.8 slots=1\n")
    assert_one_line_error(
        bash("run_distribute_train_cpu.sh", *arguments), "has 5 slots, but 6 ranks", "give 5 or fewer"
    )
    file.write_text("# two\nme@192.0.2.7 slots=4 max_slots=4\n192.0.2.8 slots=2\n")
    command = command_of(bash("run_distribute_train_cpu.sh", *arguments, HCCL_CONNECT_TIMEOUT="600"))
    assert command[:3] == ["mpirun", "-np", "6"] and command[command.index("--hostfile") + 1] == str(file)
    assert "--oversubscribe" not in command, "two ranks on one device would share its memory"
    shared = [command[i + 1] for i, word in enumerate(command) if word == "-x"]
    assert {"MS_SCHED_HOST=192.0.2.7", "HCCL_CONNECT_TIMEOUT"} < set(shared)
    assert any(re.fullmatch("MS_SCHED_PORT=[0-9]+", word) for word in shared)
    gpu = command_of(bash("run_distribute_train_gpu.sh", *arguments, LD_LIBRARY_PATH="/x"))
    shared = [gpu[i + 1] for i, word in enumerate(gpu) if word == "-x"]
    assert shared.count("LD_LIBRARY_PATH") == shared.count("CUDA_HOME") == 1
    assert not any("MS_SCHED" in word for word in shared), "NCCL finds its own way"


def test_mpirun_on_cpu_gets_the_port_of_the_preflight():
    result = bash("run_distribute_train_cpu.sh", "d", "c", "2", "--launcher", "mpirun", "--dry_run")
    port = re.search("port: ([0-9]+);", result.stdout)[1]
    assert {f"MS_SCHED_PORT={port}", "MS_SCHED_HOST=127.0.0.1"} < set(command_of(result))
    asked = bash("run_distribute_train_cpu.sh", "d", "c", "2", "--launcher=mpirun", "--master_port=2300", "--dry_run")
    assert "MS_SCHED_PORT=2300" in command_of(asked)
    gpu = bash("run_distribute_train_gpu.sh", "d", "c", "2", "--master_port", "2300", "--dry_run")
    assert_one_line_error(gpu, "--master_port", "Open MPI chooses")


# ---- devices that are not there --------------------------------------------------------------------------------------


@pytest.mark.skipif(ON_GPU_MACHINE, reason="this machine has a GPU")
@pytest.mark.parametrize("script", [name for name in LAUNCHERS if "gpu" in name])
def test_gpu_scripts_without_a_gpu(tree, script, tmp_path):
    assert_one_line_error(bash(tree / "scripts" / script, "d", "c", cwd=tmp_path), "no NVIDIA GPU found")
    assert not (tree / ".venv").exists() and not (tmp_path / "c_logs").exists()


@pytest.mark.skipif(ON_ASCEND_MACHINE, reason="this machine has an Ascend device")
@pytest.mark.parametrize("script", [name for name in LAUNCHERS if "ascend" in name])
def test_ascend_scripts_without_ascend(tree, script):
    assert_one_line_error(bash(tree / "scripts" / script, "d", "c"), "no Ascend device found")
    assert not (tree / ".venv").exists()


def test_fewer_gpus_than_ranks(tree, tmp_path):
    smi = 'echo "GPU 0: A (UUID: GPU-0)"\necho "  MIG 1g.5gb Device 0: (UUID: MIG-0)"\necho "GPU 1: A (UUID: GPU-1)"\n'
    executable(tmp_path / "bin/nvidia-smi", "#!/bin/sh\n" + smi)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    script = tree / "scripts/run_distribute_train_gpu.sh"
    assert_one_line_error(bash(script, "d", "c", **env, CUDA_VISIBLE_DEVICES="0,1"), "8 NVIDIA GPUs requested, 2 found")
    assert_one_line_error(
        bash(script, "d", "c", "2", **env, CUDA_VISIBLE_DEVICES="1"), "2 NVIDIA GPUs requested, 1 found"
    )


# ---- running ranks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_msrun(tree) -> Path:
    """A tree whose .venv holds the present Python and an msrun that writes two logs and fails as FAKE_STATUS says."""
    for folder in ("src", "configs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    executable(tree / ".venv/bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    text = """
        import os, pathlib, shutil, sys, time
        assert shutil.which("python").endswith("a copy/.venv/bin/python"), "msrun starts its ranks as plain python"
        logs = pathlib.Path(next(a.split("=")[1] for a in sys.argv if a.startswith("--log_dir")))
        (logs / "worker_1.log").write_text("epoch 1\\nerror: rank 1 has no data\\n")
        time.sleep(0.05)
        (logs / "worker_0.log").write_text("epoch 1\\nRuntimeError: my neighbour has gone\\n")
        sys.exit(int(os.environ["FAKE_STATUS"]))
    """
    (tree / ".venv/bin/msrun").write_text("\n".join(line[8:] for line in text.splitlines()))
    return tree


def test_a_failing_rank_is_shown(fake_msrun, tmp_path):
    result = bash(fake_msrun / "scripts/run_distribute_train_cpu.sh", "d", "run 1/", "2", cwd=tmp_path, FAKE_STATUS="7")
    assert result.returncode == 7
    assert "run 1_logs/worker_1.log" in result.stderr and "  | error: rank 1 has no data" in result.stderr
    assert "neighbour" not in result.stderr
    assert not (tmp_path / "run 1").exists(), "the run folder is train.py's to make"
    assert "--worker_num=2" in (tmp_path / "run 1_logs/command.txt").read_text()


@pytest.mark.parametrize(
    "message, named",
    [
        ("mpirun noticed that process rank 1 with PID 0 on node a exited on signal 9 (Killed).", ", rank 1 with -9;"),
        ("  Process name: [[31,1],3]\n  Exit code:    2", ", rank 3 with 2;"),
        ("[ERROR] Worker process 42 exit with exception. Error code: -9.", ", rank 1, process 42, with -9;"),
        ("[ERROR] Worker process 421 exit with exception. Error code: 2.", ", process 421, with 2;"),
        ("nothing of the kind", "status 1; the logs"),
    ],
)
def test_first_rank_that_ended_is_named_by_its_number(message, named, fake_msrun, tmp_path):
    msrun = fake_msrun / ".venv/bin/msrun"
    text = msrun.read_text().replace("epoch 1\\nRuntimeError: my neighbour has gone", "rank 0 is process 421 or so")
    text = text.replace("error: rank 1 has no data", "rank 1 is process 42")
    msrun.write_text(text.replace("sys.exit(", f"print({message!r}, file=sys.stderr)\nsys.exit("))
    result = bash(fake_msrun / "scripts/run_distribute_train_cpu.sh", "d", "c", "2", cwd=tmp_path, FAKE_STATUS="1")
    assert result.returncode == 1 and message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: msrun ended with status 1") and named in result.stderr


def test_farewells_of_the_cluster_are_not_shown_but_its_errors_are(fake_msrun, tmp_path):
    place = "(7,7f,python):2026-01-01-00:00:00.000.001 [mindspore/ccsrc/cluster/rpc/tcp_client.cc:367] Start]"
    farewell = f"[INFO] DISTRIBUTED{place} Event base dispatch success!"
    error = f"[ERROR] DISTRIBUTED{place} Event base dispatch failed!"
    lines = [farewell, error, "epoch 1", farewell, "  indented", "no newline at the end"]
    msrun = fake_msrun / ".venv/bin/msrun"
    text = "\n".join(lines)
    msrun.write_text(
        msrun.read_text().replace("sys.exit(", f"sys.stdout.write({text!r})\nsys.stderr.write({text!r})\nsys.exit(")
    )
    result = bash(fake_msrun / "scripts/run_distribute_train_cpu.sh", "d", "c", "2", cwd=tmp_path, FAKE_STATUS="0")
    kept = [error, "epoch 1", "  indented", "no newline at the end"]
    assert result.stdout.splitlines()[-4:] == kept and farewell not in result.stdout
    assert result.stderr.splitlines() == kept


def test_success_is_passed_on(fake_msrun, tmp_path):
    result = bash(fake_msrun / "scripts/run_distribute_train_cpu.sh", "d", "c", "2", cwd=tmp_path, FAKE_STATUS="0")
    assert result.returncode == 0 and result.stderr == ""


def replace_msrun(tree: Path, text: str):
    (tree / ".venv/bin/msrun").write_text(textwrap.dedent(text))


@pytest.mark.parametrize("reader", ["| true", ">/dev/full", ">&-", ">&- 2>&-", "2>&1 | head -n 2", "2>&-"])
def test_ranks_work_on_when_nobody_reads_the_launcher(reader, fake_msrun, tmp_path):
    text = """
        import sys, time
        for i in range(40):
            print("step", i, "x" * 1000, flush=True)
            print("warning", i, file=sys.stderr, flush=True)
            time.sleep(0.01)
        open("done", "w").close()
    """
    replace_msrun(fake_msrun, text)
    script = shlex.quote(str(fake_msrun / "scripts/run_distribute_train_cpu.sh"))
    (tmp_path / "run.sh").write_text(f"(sleep 0.2; bash {script} d c 2; echo $? >status) {reader}\n")
    result = bash(tmp_path / "run.sh", cwd=tmp_path)
    assert (tmp_path / "status").read_text() == "0\n" and (tmp_path / "done").exists(), result.stderr
    assert "write error" not in result.stderr and "Bad file" not in result.stderr


RANK = """
import signal, time
got = []
for number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, _: got.append(number))
print("ready", flush=True)
for _ in range(100):
    time.sleep(0.02)
    if got:
        break
print("got", *map(int, got), flush=True)
"""


@pytest.mark.parametrize(
    "number, is_nohup, status, got",
    [
        (signal.SIGTERM, False, 143, "got 15\n"),
        (signal.SIGINT, False, 130, "got 15\n"),  # which ends no rank before its step is done
        (signal.SIGHUP, False, 129, "got 1\n"),
        (signal.SIGHUP, True, 0, "got\n"),
    ],
)
def test_a_signal_is_handed_on_to_the_ranks(number, is_nohup, status, got, fake_msrun, tmp_path):
    text = f"""
        import os, subprocess, sys
        command = [sys.executable, "-c", {RANK!r}, {str(fake_msrun / "train.py")!r}]
        sys.exit(subprocess.run(command, env=os.environ | {{"MS_ROLE": "MS_WORKER"}}).returncode)
    """
    replace_msrun(fake_msrun, text)
    process = subprocess.Popen(
        ["bash", str(fake_msrun / "scripts/run_distribute_train_cpu.sh"), "d", "c", "2"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if is_nohup else signal.SIG_DFL),
    )
    try:
        while (line := process.stdout.readline()) not in ("", "ready\n"):
            pass
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (line, process.returncode, rest) == ("ready\n", status, got)


@pytest.mark.parametrize("launcher", ["msrun", "mpirun"])
def test_port_in_use(launcher, fake_msrun, tmp_path):
    script = fake_msrun / "scripts/run_distribute_train_cpu.sh"
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        taken = bash(script, "d", "c", "2", "--launcher", launcher, "--master_port", port, cwd=tmp_path)
        assert_one_line_error(taken, f"port {port} is in use: choose another --master_port")
        assert not (tmp_path / "c_logs").exists()
    free = bash(script, "d", "c", "2", "--master_port", port, cwd=tmp_path, FAKE_STATUS="0")
    assert free.returncode == 0 and f"port: {port};" in free.stdout


@pytest.mark.parametrize(
    "node, address, message",
    [
        ("0", "127.0.0.1", "give the address of machine 0 in the network"),
        ("1", "127.0.0.1", "is this machine, but it must be machine 0, and --node_rank is 1"),
        ("0", "192.0.2.77", "not an address of this machine"),
        ("1", "no-such-machine.invalid", "give the IP address"),
    ],
)
def test_machine_0_is_where_the_others_meet(fake_msrun, tmp_path, node, address, message):
    arguments = ["2", "--nnodes", "2", "--node_rank", node, "--master_addr", address, "--master_port", "2309"]
    result = bash(fake_msrun / "scripts/run_distribute_train_cpu.sh", "d", "c", *arguments, cwd=tmp_path)
    assert_one_line_error(result, "--master_addr: ", address, message)
    assert not (tmp_path / "c_logs").exists()


def test_logs_of_a_machine_have_a_folder_of_their_own(fake_msrun, tmp_path):
    arguments = ["4", "--nnodes", "2", "--node_rank", "1", "--master_addr", "192.0.2.77", "--master_port", "2309"]
    script = fake_msrun / "scripts/run_distribute_train_cpu.sh"
    result = bash(script, "d", "c", *arguments, cwd=tmp_path, FAKE_STATUS="3")
    assert result.returncode == 3 and "machine: 1 of 0-1, connected through 192.0.2.77; " in result.stdout
    assert "c_logs/node_1/worker_1.log" in result.stderr
    assert "--node_rank=1" in (tmp_path / "c_logs/node_1/command.txt").read_text()


TWO_MACHINES = """
mount -t tmpfs none /run
ip netns add b && ip link add v0 type veth peer name v1 netns b || exit 77
ip link set lo up && ip addr add 10.9.0.1/24 dev v0 && ip link set v0 up || exit 77
ip -n b link set lo up && ip -n b addr add 10.9.0.2/24 dev v1 && ip -n b link set v1 up || exit 77
ip netns exec b true || exit 77
ip netns exec b bash "$@" --node_rank 1 >node_1.txt 2>&1 &
bash "$@" --node_rank 0 >node_0.txt 2>&1
first=$?
wait $! && exit $first
"""


@pytest.mark.slow
def test_two_machines_train_together(make_dataset, tmp_path):
    """Two networks of the kernel's own with a cable between them: as near to two machines as one machine gets."""
    if not shutil.which("unshare") or not shutil.which("ip") or not (ROOT / ".venv/bin/msrun").exists():
        pytest.skip("needs unshare, ip and .venv")
    make_dataset(train=4)
    launcher = [str(ROOT / "scripts/run_distribute_train_cpu.sh"), "dataset", "run", "2", "--nnodes", "2"]
    launcher += "--master_addr 10.9.0.1 --master_port 2300 --num_res 1 --crop_size 32 --train_batch_size 1".split()
    launcher += "--epochs_num 1 --val_acc_monitor_interval 0 --num_worker 1".split()
    unshare = ["unshare", "-rnm", "--fork", "--pid", "--mount-proc", "--kill-child", "bash", "-c", TWO_MACHINES, "bash"]
    result = subprocess.run([*unshare, *launcher], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    outputs = [(tmp_path / f"node_{n}.txt") for n in "01"]
    if not outputs[0].exists():
        pytest.skip(f"this kernel lets us make no network: {result.stderr.strip()}")
    assert result.returncode == 0, "\n".join(p.read_text() for p in outputs)
    assert "CPU, 2 rank(s): 2 steps per epoch" in outputs[0].read_text()
    assert (tmp_path / "run/last.ckpt").exists()
    assert sorted(p.name for p in (tmp_path / "run_logs").glob("*/worker_*")) == ["worker_0.log", "worker_1.log"]


def test_exit_status_of_the_program_is_passed_on(fake_msrun):
    (fake_msrun / "train.py").write_text("import sys; print(sys.argv[1:]); sys.exit(5)")
    result = bash(fake_msrun / "scripts/run_standalone_train_cpu.sh", "d", "c")
    assert result.returncode == 5 and "'--dataset_root', 'd'" in result.stdout


# ---- setup.sh --------------------------------------------------------------------------------------------------------


def test_unfit_python_named_by_the_user(tree, tmp_path):
    python = executable(tmp_path / "python", "#!/bin/sh\necho Python 3.8.19\n")
    assert_one_line_error(bash(tree / "scripts/setup.sh", PYTHON=str(python)), f"{python} is 3.8", "3.10, 3.11 or 3.12")
    assert not (tree / ".venv").exists()


def test_no_fit_python_on_the_path(tree, bare_path):
    executable(Path(bare_path) / "python3", "#!/bin/sh\necho CPython 3.13.1\n")
    executable(Path(bare_path) / "python", "#!/bin/sh\necho CPython 2.7.18\n")
    result = bash(tree / "scripts/setup.sh", PATH=bare_path, PYTHON="")
    assert_one_line_error(result, "python3 is 3.13, python is 2.7", "3.10, 3.11 or 3.12")
    assert not (tree / ".venv").exists()


def test_python_without_the_venv_module(tree, bare_path):
    """As on Debian without python3-venv: the interpreter is fit, `import ensurepip` fails."""
    text = '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; *) echo CPython 3.11.2 ;; esac\n'
    executable(Path(bare_path) / "python3", text)
    result = bash(tree / "scripts/setup.sh", PATH=bare_path, PYTHON="")
    assert_one_line_error(result, "apt-get install python3-venv")
    assert not (tree / ".venv").exists()


@pytest.mark.skipif(ON_GPU_MACHINE, reason="this machine has a GPU")
def test_setup_for_gpu_without_a_driver_ends_before_the_download(tree):
    assert_one_line_error(bash(tree / "scripts/setup.sh", "--gpu"), "--gpu: no NVIDIA driver found")
    assert not (tree / ".venv").exists()


@pytest.mark.skipif(ON_ASCEND_MACHINE, reason="this machine has an Ascend device")
def test_setup_for_ascend_says_what_it_found(tree, tmp_path):
    env = {"ASCEND_HOME_PATH": "", "HOME": str(tmp_path)}
    assert_one_line_error(bash(tree / "scripts/setup.sh", "--ascend", **env), "neither a CANN toolkit", "CANN 9.1")
    env["ASCEND_HOME_PATH"] = str(tmp_path)
    assert_one_line_error(
        bash(tree / "scripts/setup.sh", "--ascend", **env), f"CANN toolkit in {tmp_path}, but no device"
    )


def test_setup_without_apt(tree, bare_path):
    wanted = ["openmpi-bin", "chromium", "chromium-driver", "g++", "gcc", "binutils"]
    result = bash(tree / "scripts/setup.sh", "--system", PATH=bare_path)
    assert_one_line_error(result, "no apt-get", " ".join(wanted))


def test_unknown_option_of_setup(tree):
    assert_one_line_error(bash(tree / "scripts/setup.sh", "--cuda"), "unknown option --cuda")


@pytest.fixture
def fake_python(tmp_path) -> dict[str, str]:
    """The environment for setup.sh with a Python that creates a .venv and only records the arguments of pip."""
    text = f"""#!/bin/sh
        echo "$*" >>"{tmp_path}/calls"
        case "$*" in
          *"-m venv"*)
            mkdir -p "$3/bin" "$3/lib/python3.11/site-packages/pip" "$3/lib/python3.11/site-packages/mindspore"
            cp "$0" "$3/bin/python" ;;
          *install*broken*) echo "ERROR: no such package"; exit 1 ;;
          *platform*) echo CPython 3.11.9 ;;
        esac
    """
    python = executable(tmp_path / "python", text)
    (tmp_path / "calls").touch()
    return {"PYTHON": str(python)}


def installed_files(tmp_path) -> list[str]:
    """The requirements files passed to pip since the last call, in order."""
    calls = tmp_path / "calls"
    files = re.findall("install .*-r .*/(requirements.*?txt) -c", calls.read_text())
    calls.write_text("")
    return files


def test_options_of_setup_add_up(tree, tmp_path, fake_python):
    def setup(*options):
        result = bash(tree / "scripts/setup.sh", *options, cwd=tmp_path, **fake_python)
        assert result.returncode == 0, result
        return result.stdout

    assert "creating .venv" in setup("--app")
    assert installed_files(tmp_path) == ["requirements.txt", "requirements-app.txt"]
    setup("--dev")
    assert installed_files(tmp_path) == [f"requirements{x}.txt" for x in ("-torch", "-video", "-dev")]
    for options in ([], ["--dev"], ["--torch"]):
        assert len(setup(*options).splitlines()) == 1

    with (tree / "requirements-dev.txt").open("a") as file:
        file.write("# changed\n")
    setup()
    assert installed_files(tmp_path) == ["requirements-dev.txt"], "what was installed once is kept up to date"

    # Cut off in the middle: everything comes back.
    (tree / ".venv/setup_stamp").rename(tree / ".venv/setup_unfinished")
    assert "creating .venv again: an earlier setup was interrupted" in setup()
    assert sorted(installed_files(tmp_path)) == sorted(
        f"requirements{x}.txt" for x in ("", "-app", "-dev", "-torch", "-video")
    )
    assert not (tree / ".venv/setup_unfinished").exists()


def test_a_failing_install_takes_nothing_away(tree, tmp_path, fake_python):
    assert bash(tree / "scripts/setup.sh", **fake_python).returncode == 0
    broken = tree / "requirements-broken.txt"
    broken.touch()
    setup = tree / "scripts/setup.sh"
    setup.write_text(setup.read_text().replace("--torch | --app", "--torch | --broken | --app"))
    result = bash(setup, "--broken", **fake_python)
    assert result.returncode == 1 and "no such package" in result.stderr and len(result.stderr.splitlines()) == 1
    assert "up to date" in bash(setup, **fake_python).stdout


def test_a_broken_first_install_is_not_claimed_good(tree, tmp_path, fake_python):
    text = Path(fake_python["PYTHON"]).read_text()
    Path(fake_python["PYTHON"]).write_text(text.replace("*install*broken*", "*install*"))
    assert bash(tree / "scripts/setup.sh", **fake_python).returncode == 1
    assert not (tree / ".venv/setup_stamp").exists() and (tree / ".venv/setup_unfinished").exists()
    Path(fake_python["PYTHON"]).write_text(text)
    assert "creating .venv again" in bash(tree / "scripts/setup.sh", **fake_python).stdout


def test_gpu_libraries_are_found(tree):
    """gpu_env.sh, read in twice under the strictest settings of a shell."""
    site = tree / ".venv/lib/python3.11/site-packages"
    source = f"set -euo pipefail; cd /; source {shlex.quote(str(tree / 'scripts/gpu_env.sh'))}"
    missing = subprocess.run(["bash", "-c", f"set +e; {source}; exit $?"], capture_output=True, text=True)
    assert_one_line_error(missing, "setup.sh --gpu")

    (site / "nvidia/cudnn/lib").mkdir(parents=True)
    (site / "nvidia/cudnn/lib/libcudnn.so.8").touch()
    (site / "nvidia/cufft/lib").mkdir(parents=True)
    executable(tree / ".venv/cuda/bin/nvcc", "#!/bin/sh\n")
    show = 'echo "$LD_LIBRARY_PATH|$CUDA_HOME|$CUDA_CACHE_MAXSIZE"'
    env = {**os.environ, "LD_LIBRARY_PATH": "/mine"}
    env.pop("CUDA_CACHE_MAXSIZE", None)
    result = subprocess.run(["bash", "-c", f"{source}; {source}; {show}"], capture_output=True, text=True, env=env)
    folders = [
        site / "nvidia/cudnn/lib",
        site / "nvidia/cufft/lib",
        site / "mindspore/lib",
        site / "mindspore/lib/plugin/gpu",
    ]
    assert result.stdout == ":".join(map(str, folders)) + f":/mine|{tree}/.venv/cuda|{4 * 2**30}\n", result.stderr
    env["CUDA_CACHE_MAXSIZE"] = "7"  # the user's own
    result = subprocess.run(["bash", "-c", f"{source}; {show}"], capture_output=True, text=True, env=env)
    assert result.stdout.endswith("|7\n")


# ---- packaging -------------------------------------------------------------------------------------------------------


def test_versions_agree():
    for file, form in {
        "pyproject.toml": 'version = "{}"',
        "CITATION.cff": "version: {}",
        "CHANGELOG.md": "## [{}]",
    }.items():
        assert form.format(__version__) in (ROOT / file).read_text(), file
