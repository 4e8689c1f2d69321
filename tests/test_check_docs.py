"""The documentation's commands: all are understood by their scripts, and those that can run here do."""

import pytest

from scripts import check_docs
from scripts.check_docs import (
    broken_links,
    commands_of,
    documents,
    inputs_of,
    make_copy,
    run,
    run_document,
    shortened,
    wrong_commands,
)
from src.errors import UserError


@pytest.fixture
def document(tmp_path):
    """document(text) -> a Markdown file."""

    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_commands_of_the_documents_are_understood_and_links_lead_somewhere(path):
    assert not wrong_commands(path) + broken_links(path)


def test_documents_hold_commands():
    found = {path.name: len(list(commands_of(path))) for path in documents()}
    assert found.keys() >= {"README.md", "README_CN.md", "CONTRIBUTING.md", "faq.md", "recipes.md"}
    assert min(found.values()) >= 2 and sum(found.values()) > 60, found


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "template"
    make_copy(folder)
    return folder


@pytest.mark.slow
def test_commands_of_the_readme_run(template):
    """Other documents' commands are held to the parsers above; `check_docs.py --run` runs them, in a quarter hour."""
    readme = next(path for path in documents() if path.name == "README.md")
    results = list(run_document(readme, template))
    assert not [failure for _, _, failure in results if failure]
    assert [command for command, reason, _ in results if not reason], "nothing in it was run"


# ---- what is found


def test_commands_are_found_with_place_and_need(document):
    path = document(
        "text `python eval.py ... --metrics\npsnr` and `ls`\n\n"
        "<!-- needs: gpu -->\n```bash\n# comment\npython a.py \\\n  --b c  # why\n\n"
        "cat > hosts <<END\none\nEND\nbash scripts/run_eval_ascend.sh d c\n```\n```text\npython no.py\n```\n"
    )
    block = [c for c in commands_of(path) if not c.inline]
    assert [(c.place, c.words[:2], c.need) for c in block] == [
        ("page.md:7", ["python", "a.py"], "gpu"),
        ("page.md:10", ["cat", ">"], "gpu"),
        ("page.md:13", ["bash", "scripts/run_eval_ascend.sh"], "gpu"),
    ]
    assert block[0].words == ["python", "a.py", "--b", "c"] and block[1].text.endswith("one\nEND")
    (inline,) = [c for c in commands_of(path) if c.inline]
    assert inline.place == "page.md:1" and inline.words == ["python", "eval.py", "--metrics", "psnr"]


def test_scripts_of_a_device_need_it_unless_they_only_show(document):
    text = "```bash\nbash scripts/run_eval_gpu.sh d c\nbash scripts/run_eval_gpu.sh d c --dry_run\n```"
    assert [c.need for c in commands_of(document(text))] == ["gpu", ""]


def test_unknown_needs_are_refused(document):
    with pytest.raises(UserError, match="page.md:3: needs: got 'luck', expected one of gopro"):
        list(commands_of(document("<!-- needs: luck -->\n```bash\npython train.py\n```")))


# ---- what is refused


@pytest.mark.parametrize(
    "command, message",
    [
        ("python train.py --crop_sise 64", "unknown option --crop_sise. Did you mean --crop_size?"),
        ("python train.py --crop_size 63", "--crop_size: got 63, expected a multiple of 4"),
        ("python train.py --recipe papre", "Did you mean paper?"),
        ("python eval.py --epochs_num 3", "unknown option --epochs_num"),
        ("python deblur.py in --output out --tiles 3", "unknown option --tiles"),
        ("python -m src.preprocessing --root_source x", "unknown option --root_source"),
        ("python scripts/compare_runs.py", "the following arguments are required: RUN"),
        ("python scripts/none.py", "no file scripts/none.py in the repository"),
        ("bash scripts/none.sh", "no file scripts/none.sh in the repository"),
        ("bash scripts/setup.sh --gpus", "setup.sh: unknown option --gpus. Did you mean --gpu?"),
        ("bash scripts/run_standalone_train_cpu.sh d c --seeed 3", "unknown option --seeed. Did you mean --seed?"),
        ("bash scripts/run_eval_gpu.sh d c --epochs_num 3", "unknown option --epochs_num"),
        ("bash scripts/run_distribute_train_cpu.sh d c 2 --launcher horovod", "horovod"),
        (".venv/bin/python -m pytest tests/test_loss.py::test_none", "no test test_none in tests/test_loss.py"),
        (".venv/bin/python -m pytest tests/test_none.py", "no file tests/test_none.py"),
        ("curl example.org", "curl: not a command that can be checked"),
    ],
)
def test_wrong_commands_are_named(document, command, message):
    (text,) = wrong_commands(document(f"# Page\n\n```bash\n{command}\n```\n"))
    assert text.startswith(f"page.md:4: {command}\n") and message in text


def test_links_without_a_target_are_named(document, tmp_path):
    (tmp_path / "b.md").write_text("## `Two` words, 文!\n```\n## no heading\n```\n")
    good = "[a](b.md#two-words-文) [b](#page) ![c](b.md) [d](https://example.org/#x)"
    path = document(f"# Page\n{good} [e](b.md#no-heading) [f](c.md) [g](#x)\n```\n[h](none.md)\n```\n")
    assert broken_links(path) == [f"page.md: broken link {link}" for link in ("b.md#no-heading", "c.md", "#x")]


def test_right_commands_pass(document):
    lines = (
        "python train.py --dataset_root nowhere --resume auto",
        "python -m src.data.synthetic_blur --photos a --root b --count 3",
        "bash scripts/run_distribute_train_gpu.sh d c 8 --recipe paper_8p",
        "bash scripts/setup.sh --dev --gpu",
        "python eval.py --help",
        "source .venv/bin/activate",
    )
    assert not wrong_commands(document("```bash\n" + "\n".join(lines) + "\n```\n"))


# ---- what is run


def test_training_is_shortened_and_nothing_else():
    words = ["python", "train.py", "--dataset_root", "d", "--crop_size", "256"]
    short = shortened(words)
    assert short[: len(words)] == words and short[-2:] == ["--val_acc_monitor_interval", "1"]
    assert short.count("--crop_size") == 2 and short[len(short) - 1 - short[::-1].index("--crop_size") + 1] == "32"
    without = shortened([*words, "--val_acc_monitor_interval", "0"])
    assert without.count("--val_acc_monitor_interval") == 1
    assert shortened(["bash", "scripts/run_distribute_train_cpu.sh", "d", "c"])[-1] == "--dry_run"
    assert shortened(["python", "-m", "pytest", "tests"])[-2:] == ["--collect-only", "-q"]
    evaluate = ["python", "eval.py", "--dataset_root", "d"]
    assert shortened(evaluate) == evaluate


def test_inputs_that_may_be_missing_are_known():
    assert inputs_of(["python", "eval.py", "--ckpt_file", "a.ckpt", "--report_file", "b.json"]) == ["a.ckpt"]
    assert inputs_of(["python", "train.py", "--ckpt_save_directory", "runs/a"]) == []
    assert inputs_of(["python", "train.py", "--ckpt_save_directory", "runs/a", "--resume", "auto"]) == [
        "auto",
        "runs/a",
    ]
    assert inputs_of(["python", "scripts/compare_runs.py", "runs/a", "runs/b"]) == ["runs/a", "runs/b"]


def test_a_failing_command_is_reported_with_its_words(tmp_path):
    assert run("true", tmp_path) == ""
    assert run("echo oh >&2; exit 3", tmp_path) == "$ echo oh >&2; exit 3\noh\n"


def test_skipped_commands_are_counted_by_reason(document, monkeypatch, capsys):
    path = document(
        "<!-- needs: gopro -->\n```bash\npython train.py\n```\n```bash\nbash scripts/setup.sh\npython eval.py\n```"
    )
    monkeypatch.setattr(check_docs, "make_copy", lambda folder: folder.mkdir())
    monkeypatch.setattr(check_docs, "run", lambda command, folder: "oh" if "eval.py" in command else "")
    assert check_docs.main([str(path), "--run"]) == 1
    out = capsys.readouterr().out
    assert "page.md:7: FAILED: python eval.py\noh\n" in out
    assert "1 needs the whole GOPRO_Large, 1 has separate tests, 1 ran (1 failed)" in out
