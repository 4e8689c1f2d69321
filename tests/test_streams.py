"""stdout and stderr of real processes: without a reader, full and closed."""

import contextlib
import os
import subprocess
import sys

import pytest

from src import streams
from src.config import ROOT

WORK = """
print("x" * 100_000)
import os
os.system("echo by a child")
os.write(1, b"by compiled code")
print("more", file=sys.stderr)
with open("product", "w") as file:
    file.write("whole")
    print("still more", flush=True)
"""
LOSSES = ["no reader", "full", "closed"]


@contextlib.contextmanager
def lost(how):
    """A descriptor for stdout or stderr, and the shell's words for what `how` says."""
    if how == "no reader":
        read_end, write_end = os.pipe()
        os.close(read_end)
    else:
        write_end = os.open("/dev/full" if how == "full" else os.devnull, os.O_WRONLY)
    try:
        yield write_end
    finally:
        os.close(write_end)


def run(body, *arguments, out="", err="", cwd=None, command=None):
    """(status, stdout, stderr) of a script whose `main` has this body, and whose stdout and stderr are lost so."""
    lines = "\n    ".join(body.strip().splitlines())
    code = f"""import sys
sys.path.insert(0, {str(ROOT)!r})
from src.errors import UserError, run_main
from src.streams import need_reader
def main():
    {lines}
run_main(main)
"""
    command = command or [sys.executable, "-c", code]
    closing = f"{'>&-' if out == 'closed' else ''} {'2>&-' if err == 'closed' else ''}"
    with lost(out) as out_end, lost(err) as err_end:
        done = subprocess.run(
            ["bash", "-c", f'"$@" {closing}', "bash", *map(str, command), *arguments],
            stdout=out_end if out else subprocess.PIPE,
            stderr=err_end if err else subprocess.PIPE,
            cwd=cwd,
            text=True,
            timeout=60,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
    return done.returncode, done.stdout or "", done.stderr or ""


@pytest.mark.parametrize("out, err, said", [
    ("no reader", "", "stdout is lost (its reader has gone): the work continues without it\n"),
    ("full", "", "stdout is lost (No space left on device): the work continues without it\n"),
    ("closed", "", ""),  # on purpose, then
    ("", "closed", ""),
    ("no reader", "no reader", ""),
    ("full", "full", ""),
    ("closed", "closed", ""),
])  # fmt: skip
def test_work_goes_on_without_a_reader_and_says_so(out, err, said, tmp_path):
    status, _, printed = run(WORK, out=out, err=err, cwd=tmp_path)
    assert status == 0 and (tmp_path / "product").read_text() == "whole"
    assert printed == ("" if err else f"{said}more\n")


@pytest.mark.parametrize("out, status", [("no reader", 141), ("full", 2), ("closed", 2)])
def test_a_script_whose_output_is_its_product_ends(out, status):
    careless = "try:\n    [print('x' * 100) for _ in range(100_000)]\nexcept Exception:\n    return 0"
    for body in ("need_reader()\nprint('a')", f"need_reader()\n{careless}", "print('a', flush=True)\nneed_reader()"):
        got, _, printed = run(body, out=out)
        assert got == status
        if status == 141:
            assert "error" not in printed
        else:
            assert printed.splitlines()[-1].startswith("error: stdout cannot be written (")


@pytest.mark.parametrize("err", LOSSES)
@pytest.mark.parametrize("out", ["", "full"])
def test_the_status_of_an_error_does_not_depend_on_who_reads_it(out, err):
    for error, status in (("UserError('a')", 2), ("ValueError('a bug')", 1), ("KeyboardInterrupt", 130)):
        assert run(f"need_reader()\nprint('a')\nraise {error}", out=out, err=err)[0] == status


@pytest.mark.parametrize("err", ["", *LOSSES])
def test_tqdm_and_warnings_end_no_work(err, tmp_path):
    body = "import warnings, tqdm\nfor _ in tqdm.tqdm(range(3)):\n    tqdm.tqdm.write('a')\n    warnings.warn('b')"
    status, _, printed = run(body, out=err, err=err)
    assert status == 0 and "Traceback" not in printed


@pytest.mark.parametrize("out, status", [("no reader", 141), ("full", 2), ("closed", 2)])
def test_help_is_a_product(out, status):
    got, _, printed = run("", "--help", out=out, command=[sys.executable, ROOT / "deblur.py"])
    assert got == status and printed.count("\n") == (status == 2)


def test_a_script_that_only_prints_ends_and_one_that_writes_goes_on(sample_trees, tmp_path):
    script, report = [sys.executable, ROOT / "src/preprocessing.py"], tmp_path / "report.json"
    verify = [*script, "--verify", "--root_dst", sample_trees / "dataset"]
    assert run("", out="no reader", command=verify)[0] == 141
    assert run("", "--report_file", str(report), out="no reader", command=verify)[0] == 0 and report.is_file()
    arrange = [*script, "--root_src", sample_trees / "GOPRO_Large", "--root_dst", tmp_path / "dataset"]
    status, _, printed = run("", out="no reader", command=arrange)
    assert status == 0 and "Traceback" not in printed and len(list(tmp_path.glob("dataset/*/*/*.png"))) == 48


def test_streams_that_somebody_else_has_put_there_stay(capsys):
    before = sys.stdout, sys.stderr
    streams.guard()
    streams.need_reader()
    print("captured")
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr().out == "captured\n"
