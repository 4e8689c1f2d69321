import errno
import os
import subprocess
import sys

import pytest

from src.config import ROOT
from src.errors import (
    UserError,
    first_few,
    nearest,
    need_writable_folder,
    printable,
    reason_of,
    run_main,
    system_error,
)

# ---- words


def test_nearest_suggests_or_stays_silent():
    assert nearest("crop_sise", ["seed", "crop_size"]) == " Did you mean crop_size?"
    assert nearest("xyz", ["seed", "crop_size"]) == ""
    assert nearest("seed", []) == ""


def test_nearest_ignores_case_and_keeps_the_spelling():
    assert nearest("mimo-unet", ["MIMO-UNet", "MIMO-UNetPlus"]) == " Did you mean MIMO-UNet?"


def test_a_message_is_one_line_of_printable_characters():
    assert printable("schön, 日本, 'a b'") == "schön, 日本, 'a b'"
    assert printable("a\nb\x1b[31m\0\udcff\u202e") == r"a\nb\x1b[31m\x00\udcff\u202e"
    long = printable("--seed: got " + "9" * 5000 + ", expected less")
    assert len(long) < 2100 and long.startswith("--seed: got 999") and long.endswith("999, expected less")


def test_first_few():
    assert first_few([]) == ""
    assert first_few([1, 2]) == "1, 2"
    assert first_few(range(5)) == "0, 1, 2, 3, 4"
    assert first_few(range(9)) == "0, 1, 2, 3, 4, ... (9 in all)"
    assert first_few((c for c in "abc"), count=1) == "a, ... (3 in all)"


REASONS = {
    # OpenVINO: places in its sources come first. MindSpore: they come last.
    """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
-- Conv-17 with a message:
While validating ONNX node '<Node(Conv): y>': Check 'compatible' failed at src/core/convolution_util.hpp:307:
While validating node 'opset1::Convolution Convolution_11' with friendly_name 'Convolution_11':
Data batch channel count (3) does not match filter input channel count (4).

""": "FrontEnd API failed with OpConversionFailure: -- Conv-17 with a message: "
    "Data batch channel count (3) does not match filter input channel count (4).",
    """Unsupported device target GPU. This process only supports one of the ['CPU'].

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
mindspore/core/utils/ms_context.cc:291 SetDeviceTargetFromInner
""": "Unsupported device target GPU. This process only supports one of the ['CPU'].",
    "Exception from src/core.cpp:84:\n": "RuntimeError",
    "": "RuntimeError",
    "x" * 1000: "x" * 300,
}


@pytest.mark.parametrize("message", REASONS)
def test_the_reason_of_a_framework_is_the_part_that_users_understand(message):
    assert reason_of(RuntimeError(message)) == REASONS[message]


# ---- folders


def test_folder_is_made_and_left_empty(tmp_path):
    folder = need_writable_folder(str(tmp_path / "a" / "b"), "--option")
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir() and not list(folder.iterdir())


def test_what_is_in_a_folder_stays(tmp_path):
    (tmp_path / "kept").write_text("x")
    need_writable_folder(tmp_path, "--option")
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_run_that_is_killed_leaves_no_probe(tmp_path):
    """Killed when it comes to remove a file."""
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    except (AttributeError, OSError):
        pytest.skip("this file system has no files without a name")
    code = (
        "import os, sys\nfrom src.errors import need_writable_folder\n"
        "os.unlink = os.remove = lambda *args, **kwargs: os.kill(os.getpid(), 9)\n"
        "need_writable_folder(sys.argv[1], '--option')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60, check=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_file_in_the_way(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError) as caught:
        need_writable_folder(tmp_path / "file" / below, "--report_file")
    text = str(caught.value)
    assert text.startswith(f"--report_file: cannot write into {tmp_path / 'file' / below} (")
    assert "\n" not in text
    assert (tmp_path / "file").read_text() == "x"


def test_folder_without_permission(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # the tests may run as root, whom no mode bits stop
    with pytest.raises(UserError, match="cannot write into .* \\(Permission denied\\)"):
        need_writable_folder(tmp_path, "--option")


# ---- how a script ends


def run(body, *args, **kwargs):
    """Run a script whose `main` has this body."""
    code = f"import sys\nfrom src.errors import UserError, run_main\ndef main():\n    {body}\nrun_main(main)\n"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        **({"stdout": subprocess.PIPE} | kwargs),
    )


def test_success_is_0():
    done = run("print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_file_name_that_is_no_text_is_printed_all_the_same():
    done = run(r"print('\udcff.png')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\udcff.png\n", "")


def test_own_status_is_kept():
    assert run("return 7").returncode == 7


def test_user_error_is_one_line_and_2():
    done = run("raise UserError('--seed: got a')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: --seed: got a\n")


def test_user_error_with_debug_shows_the_traceback():
    done = run("raise UserError('--seed: got a') from KeyError('the cause')", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "the cause" in done.stderr
    assert done.stderr.endswith("error: --seed: got a\n")


def test_other_exceptions_keep_the_traceback_and_1():
    done = run("raise ValueError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: a bug" in done.stderr


def test_ctrl_c_is_130_without_a_traceback():
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "\nstopped by Ctrl-C\n")


@pytest.mark.parametrize("number, advice", [
    (errno.ENOSPC, "Free some space"), (errno.EDQUOT, "quota"), (errno.EACCES, "permissions"),
    (errno.EROFS, "read-only"), (errno.EMFILE, "ulimit -n"), (errno.ENAMETOOLONG, "shorter"), (errno.EIO, "dmesg"),
    (errno.EISDIR, "not a folder"), (errno.ENOTDIR, "Expected a folder"), (errno.ELOOP, "links"),
])  # fmt: skip
def test_what_the_system_refuses_is_one_line_with_the_file_and_what_to_do(number, advice, capsys):
    def main():
        raise OSError(number, os.strerror(number), "runs/a/log.csv")

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1
    assert line.startswith(f"error: runs/a/log.csv: {os.strerror(number)}. ") and advice in line


def test_both_files_of_a_failed_renaming_are_named_and_a_file_without_a_name_is_searched_with_debug(tmp_path):
    with pytest.raises(OSError) as caught:
        os.rename(tmp_path / "a", tmp_path / "b")
    assert system_error(caught.value).startswith(f"{tmp_path / 'a'} -> {tmp_path / 'b'}: No such file or directory. ")
    assert "--debug prints the location" in system_error(OSError(errno.ENOSPC, "No space left on device"))


def test_an_error_of_the_system_that_no_user_can_mend_keeps_its_traceback():
    for body in ("raise OSError('cannot identify image file')", "raise OSError(9, 'Bad file descriptor')"):
        done = run(body)
        assert done.returncode == 1 and "Traceback" in done.stderr


def test_debug_shows_where_the_system_refused():
    done = run("open('/nowhere/a')", "--debug")
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: /nowhere/a: No such file or directory. ")


@pytest.mark.parametrize("body", ["raise MemoryError", "bytearray(2**62)", "import numpy; numpy.ones(2**55)"])
def test_too_little_memory_is_one_line(body):
    done = run(body)
    assert done.returncode == 2 and done.stderr.startswith("error: not enough memory") and done.stderr.count("\n") == 1
