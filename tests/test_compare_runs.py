import csv
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts.compare_runs import Summary, labels, main, read_run, summarise, table
from src.errors import UserError
from src.run_log import COLUMNS
from tests.data_trees import error_of

ROWS = [
    {"epoch": 1, "step": 5, "loss": 2.5, "lr": 1e-4, "seconds_per_step": 9.0},
    {"epoch": 1, "step": 10, "loss": 2.25, "lr": 1e-4, "seconds_per_step": 1.0, "psnr": 24.5, "psnr_input": 25.0},
    {"epoch": 2, "step": 15, "loss": 2.0, "lr": 5e-5, "seconds_per_step": 2.0, "psnr": 26.5, "psnr_input": 25.0},
    {"epoch": 2, "step": 20, "psnr": 26.0, "psnr_input": 25.0},
]


@pytest.fixture
def make_run(tmp_path):
    def make(name, rows=ROWS):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        with open(folder / "log.csv", "w", newline="") as f:
            writer = csv.DictWriter(f, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return make


def test_summary(make_run):
    assert summarise(read_run(make_run("a"))) == Summary(20, 2.0, 26.5, 15, 5e-5, 2.0)
    assert summarise(read_run(make_run("b", [{"step": 1, "loss": 3}]))) == Summary(1, 3.0, None, None, None, None)


def test_labels_are_as_short_as_they_may_be():
    assert labels([Path("runs/a"), Path("runs/b/")]) == ["a", "b"]
    assert labels([Path("x/run"), Path("y/run")]) == ["x/run", "y/run"]
    with pytest.raises(UserError, match="given twice"):
        labels([Path("runs/a"), Path("runs/../runs/a")])


def test_runs_of_any_name_are_in_the_picture(make_run, tmp_path, recwarn):
    runs = [str(make_run(name)) for name in ("a $\\frac$ b", "_hidden")]
    main([*runs, "--output", str(tmp_path / "both.png")])
    assert (tmp_path / "both.png").is_file() and not recwarn.list


def test_a_name_without_suffix_gets_one_and_is_printed_with_it(make_run, tmp_path, capsys):
    main([str(make_run("a")), "--output", str(tmp_path / "picture")])
    assert capsys.readouterr().out.splitlines()[-1] == f"picture: {tmp_path}/picture.png"
    assert (tmp_path / "picture.png").is_file()
    assert "is a folder, expected a file name" in error_of(main, [str(tmp_path / "a"), "--output", str(tmp_path)])


def test_columns_of_the_table_are_aligned():
    lines = table({"a": Summary(20, 2.0, 26.5, 15, 5e-5, 2.0), "long": Summary(3, 1.0, *4 * [None])}).splitlines()
    assert lines[0].split("  ")[0].strip() == "run" and lines[0].endswith("s/step")
    assert lines[1].split() == ["a", "20", "2.0000", "26.50", "15", "5.00e-05", "2.000"]
    assert lines[2].split() == ["long", "3", "1.0000", *"----"]
    assert len({len(line) for line in lines}) == 1


def test_picture_and_table(make_run, tmp_path, capsys):
    output = tmp_path / "new folder/both.png"
    main([str(make_run("a")), str(make_run("b", ROWS[:1])), "--output", str(output)])
    with Image.open(output) as picture:
        assert picture.size[0] > 500
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "a", "b", "picture:"]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is not a run folder"),
        ("", "has no rows"),
        (",".join(COLUMNS) + "\n", "has no rows"),
        (",".join(COLUMNS) + "\n1,2,three\n", "has no rows"),
    ],
)
def test_what_is_no_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "log.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        main([str(tmp_path)])


def test_what_cannot_be_read_of_a_log_is_named_and_left_out(make_run, tmp_path, capsys):
    run = make_run("a")
    with open(run / "log.csv", "ab") as f:
        f.write("# größer\n".encode("latin-1") + b"2,25,1.5\0\n2,30,1.25\n")
    main([str(run), "--output", str(tmp_path / "a.png")])
    left_out, _, row, _ = capsys.readouterr().out.splitlines()
    assert left_out.startswith(f"{run / 'log.csv'}: got line 6 ('# gr") and "line 7 (" in left_out
    assert row.split()[:3] == ["a", "30", "1.2500"]


def test_mistakes_are_one_line(make_run, tmp_path):
    with pytest.raises(UserError, match="--output: cannot write .*gift"):
        main([str(make_run("a")), "--output", str(tmp_path / "x.gift")])
    script = str(Path(__file__).parent.parent / "scripts/compare_runs.py")
    result = subprocess.run([sys.executable, script, "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: nowhere is not a folder;")
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "compare.png").exists()
