"""What the demo calls and says; the scripts themselves have tests of their own."""

import json

import pytest

from scripts import demo
from src.errors import UserError
from src.formats import weights as weight_files


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What `demo.main` has run, (script, options) each, without running it; its results stand in a temporary folder."""
    made = []

    def run(script, **options):
        made.append((script, options))
        if script == "train.py":
            (tmp_path / "demo/run").mkdir(parents=True)
            (tmp_path / "demo/run/log.csv").write_text("epoch,step,psnr\n0,0,24.25\n1,10,\n5,40,26.75\n10,80,26.5\n")
        if script == "eval.py":
            (tmp_path / "demo/report.json").write_text(json.dumps({"images": 4, "psnr_input": 23.5, "psnr": 26.75}))

    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "run", run)
    return made


def test_sample_weights_are_fine_tuned(calls, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "sample.ckpt")
    (tmp_path / "sample.ckpt").touch()
    demo.main([])
    out = capsys.readouterr().out
    assert out.startswith(f"demo: fine-tunes {tmp_path / 'sample.ckpt'}; --from_scratch starts from random weights\n")
    assert "blurred input    23.50 dB\n  before training  24.25 dB\n  after 40 steps  26.75 dB\n" in out
    assert "MODEL_CARD.md" in out and "random weights do not" not in out
    assert [script for script, _ in calls] == [
        "-m src.data.sample_data", "src/preprocessing.py", "train.py", "eval.py", "export.py",
    ]  # fmt: skip
    training = calls[2][1]
    assert training["pretrained"] == tmp_path / "sample.ckpt" and training["learning_rate"] < 1e-4
    assert training["val_first"] and calls[3][1]["ckpt_file"] == "demo/run/best.ckpt"


def test_from_scratch(calls, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "none.ckpt")
    demo.main(["--from_scratch"])
    out = capsys.readouterr().out
    assert out.startswith("demo: trains from random weights\n") and "hardly above the blurred input" in out
    assert "pretrained" not in calls[2][1] and calls[2][1]["learning_rate"] == 2e-4


def test_without_sample_weights(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(weight_files, "SAMPLE_MODEL", tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="--pretrained: a trained network is needed"):
        demo.main([])
    assert not calls


def test_a_failing_script_ends_the_demo(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    (tmp_path / "broken.py").write_text("import sys\nassert sys.argv[1:] == ['--a', '1']\nsys.exit(3)\n")
    with pytest.raises(UserError, match="broken.py ended with exit status 3"):
        demo.run("broken.py", a=1)
    assert "$ python broken.py --a 1\n" in capsys.readouterr().out
