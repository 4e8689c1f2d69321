"""Check the commands of the documentation against the scripts that they call, and its links between files.

    python scripts/check_docs.py            # options, file names and links, with the scripts' parsers: seconds
    python scripts/check_docs.py --run      # also run the commands that can run here, in a temporary copy: minutes

The script reads blocks fenced as bash, and `python ...` or `bash ...` between backticks, of which it only checks the
options. It does not run the following, and counts them by reason:

- blocks below a comment like <!-- needs: gopro --> (`NEEDS`), and scripts for a GPU or Ascend;
- `setup.sh`, `run_demo.sh`, `run_tests.sh`, the web page and benchmarks (`TESTED_ELSEWHERE`).

Training is shortened to two pairs, one epoch, crops of 32 pixels and one residual block (`SHORT`); on several ranks it
is a --dry_run. Tests are collected, not run. The copy has the sample set as GOPRO_Large and as dataset, photographs of
scikit-image in every folder of photos, and a small network for every checkpoint that no earlier command wrote.
"""

import contextlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees scripts/ only

from src.command_line import ArgumentParser  # noqa: E402
from src.config import load_config  # noqa: E402
from src.data.gopro import arrange  # noqa: E402
from src.data.sample_data import find_photographs, make_sample_set  # noqa: E402
from src.errors import UserError, nearest, run_main  # noqa: E402
from src.streams import need_reader  # noqa: E402

NEEDS = {
    "gopro": "the whole GOPRO_Large",
    "realblur": "RealBlur",
    "weights": "the authors' weights",
    "gpu": "a GPU",
    "ascend": "an Ascend",
    "machines": "several machines",
    "pairs": "the pairs that the sample weights were trained on",
}
TESTED_ELSEWHERE = ("setup.sh", "run_demo.sh", "run_tests.sh", "app.py", "benchmarks/")
SHORT = {"--device_target": "CPU", "--crop_size": "32", "--slice_dataset": "2", "--max_steps": "2"}
SHORT |= dict.fromkeys(("--num_res", "--train_batch_size", "--num_worker", "--epochs_num", "--accumulate_steps"), "1")
PHOTO_FOLDERS = ("my_photos", "my_test_photos", "holiday", "scans")
PHOTO = "my_photo.jpg"
TIMEOUT = 300  # seconds per command


@dataclass(frozen=True)
class Command:
    """One command of a document."""

    place: str  # file:line
    text: str  # including the lines of a here-document
    need: str  # key of NEEDS, or "" if it can run anywhere
    inline: bool  # between backticks, not in a block

    @property
    def words(self) -> list[str]:
        first = self.text.split("\n")[0]
        return [word for word in shlex.split(first, comments=True) if word != "..."]


class Parsed(Exception):
    """Raised when a script has parsed its command line, to keep it from running."""


# ---- find the commands


def documents(root: Path = ROOT) -> list[Path]:
    folders = (root, root / "docs", root / "weights_pretrained")
    return [path for folder in folders for path in sorted(folder.glob("*.md")) if path.name != "CHANGELOG.md"]


def commands_of(path: Path) -> Iterator[Command]:
    """The commands of a document, in order.

    Raises:
        UserError: a comment names a need that is not in `NEEDS`.
    """
    text = path.read_text(encoding="utf-8")
    blocks = re.compile(r"(?:<!-- needs: *(.*?) *-->\s*?\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in blocks.finditer(text):
        need, language, body = block.group(1) or "", block.group(2), block.group(3)
        line = text.count("\n", 0, block.start(3)) + 1
        if need and need not in NEEDS:
            raise UserError(f"{path}:{line}: needs: got {need!r}, expected one of {', '.join(NEEDS)}")
        if language == "bash":
            for offset, command in shell_commands(body):
                yield Command(f"{path.name}:{line + offset}", command, need or implied_need(command), False)
    prose = blocks.sub(lambda block: "\n" * block.group().count("\n"), text)
    for span in re.finditer(r"`((?:python|bash) [^`]+)`", prose):
        line = prose.count("\n", 0, span.start()) + 1
        yield Command(f"{path.name}:{line}", " ".join(span.group(1).split()), "", True)


def shell_commands(body: str) -> Iterator[tuple[int, str]]:
    """(line, command) of the lines of a block; continued lines and here-documents are one command."""
    lines, i = body.splitlines(), 0
    while i < len(lines):
        start, command = i, lines[i]
        while command.endswith("\\") and i + 1 < len(lines):
            i += 1
            command = command[:-1] + lines[i].strip()
        if here := re.search(r"<<-?'?(\w+)", command):
            while i + 1 < len(lines) and lines[i] != here.group(1):
                i += 1
                command += "\n" + lines[i]
        if command.strip() and not command.lstrip().startswith("#"):
            yield start, command
        i += 1


def implied_need(command: str) -> str:
    """The device in the name of a script, which it needs."""
    found = re.search(r"_(gpu|ascend)\.sh", command)
    return found.group(1) if found and "--dry_run" not in command else ""


# ---- check the options


def check(command: Command, folder: Path) -> None:
    """Raise a UserError unless the script exists and accepts its options.

    Args:
        folder: an empty folder for files that commands of a document write for launchers (`cat > hosts`).
    """
    words = command.words
    if words[0] == "python" or words[0].endswith("/python"):
        check_python(words[1:])
    elif words[0] == "bash":
        check_bash(words[1:], folder)
    elif words[0] == "cat":
        if failure := run(command.text, folder):
            raise UserError(failure)
    elif words[0] not in ("source", "unzip"):
        raise UserError(f"{words[0]}: not a command that can be checked; expected python, bash, source, cat or unzip")


def script_path(name: str) -> Path:
    path = ROOT / name
    if not path.is_file():
        raise UserError(f"no file {name} in the repository")
    return path


def check_python(words: Sequence[str]) -> None:
    if words[:2] == ["-m", "pytest"]:
        for target in (word for word in words[2:] if word.startswith("tests")):
            file, _, test = target.partition("::")
            if test and f"def {test}(" not in script_path(file).read_text(encoding="utf-8"):
                raise UserError(f"no test {test} in {file}")
            script_path(file)
        return
    name, argv = (words[1].replace(".", "/") + ".py", words[2:]) if words[0] == "-m" else (words[0], words[1:])
    module = os.path.relpath(script_path(os.path.normpath(name)), ROOT)[:-3].replace(os.sep, ".")
    if "--help" in argv:
        return
    if module in ("train", "eval", "export"):
        load_config(module, argv)  # also checks the values and the configuration files
        return
    if not argv and not hasattr(importlib.import_module(module), "main"):  # takes no options
        return
    real = ArgumentParser.parse_args

    def parse_only(parser, args=None, namespace=None):
        real(parser, args, namespace)
        raise Parsed

    with mock.patch.object(ArgumentParser, "parse_args", parse_only), contextlib.suppress(Parsed):
        importlib.import_module(module).main(list(argv))
        raise UserError(f"{name}: ended before it parsed its options")


def check_bash(words: Sequence[str], folder: Path) -> None:
    path = script_path(words[0])
    if not re.search(r"run_(standalone_train|distribute_train|eval)_", path.name):
        known = re.findall(r"--\w+", path.read_text(encoding="utf-8"))
        for option in (word for word in words[1:] if word.startswith("--")):
            if option not in known:
                raise UserError(f"{path.name}: unknown option {option}.{nearest(option, known)}")
        return
    arguments = [word for word in words[1:] if word != "--dry_run" and not word.startswith("[")]
    shown = subprocess.run(
        ["bash", str(path), *arguments, "--dry_run"], capture_output=True, text=True, timeout=TIMEOUT, cwd=folder
    )
    if shown.returncode:
        raise UserError(shown.stderr.strip().removeprefix("error: "))
    started = [line for line in shown.stdout.splitlines() if re.search(r"(train|eval)\.py", line)]
    launched = shlex.split(started[-1])
    at = next(i for i, word in enumerate(launched) if re.search(r"(train|eval)\.py$", word))
    load_config(Path(launched[at]).stem, launched[at + 1 :])


def wrong_commands(path: Path) -> list[str]:
    """One text for each command of a document that its script would reject."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix="check_docs_") as folder:
        for command in commands_of(path):
            try:
                check(command, Path(folder))
            except UserError as e:
                wrong.append(f"{command.place}: {command.text}\n    {e}")
    return wrong


# ---- check the links


def without_blocks(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(path: Path) -> set[str]:
    """The anchors of the headings of a document, as GitHub makes them; those of repeated headings are not numbered."""
    headings = re.findall(r"^#+ +(.*?) *$", without_blocks(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """One text for each link of a document to a file or heading that is not there; other sites are not asked."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path)):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors_of(target))):
            broken.append(f"{path.name}: broken link {link}")
    return broken


# ---- running


def make_copy(folder: Path) -> None:
    """Copy the repository, with the data that the documents mention, a small trained network, and a link to .venv.

    Raises:
        UserError: the network could not be trained.
    """
    ignore = shutil.ignore_patterns(".*", "__pycache__", "runs", "demo", "dataset", "sample_set*", "packed", "*.png")
    shutil.copytree(ROOT, folder, ignore=ignore)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    make_sample_set(folder / "GOPRO_Large", seed=1, train=4, test=2, height=64, width=96, frames=7)
    arrange(folder / "GOPRO_Large", folder / "dataset", progress=False)
    photographs = [*find_photographs("test").values()]
    for name in PHOTO_FOLDERS:
        (folder / name).mkdir()
        for photo in photographs:
            shutil.copy(photo, folder / name)
    with Image.open(photographs[0]) as image:
        image.convert("RGB").resize((96, 64)).save(folder / PHOTO)
    training = ["python", "train.py", "--dataset_root", "dataset", "--ckpt_save_directory", "stand_in"]
    if failure := run(shlex.join(shortened(training)), folder):
        raise UserError(f"the small network could not be trained: {failure}")


def inputs_of(words: Sequence[str]) -> list[str]:
    """Arguments of a command that are input checkpoints or runs."""
    value = dict(zip(words, words[1:], strict=False))
    found = [value[option] for option in ("--ckpt_file", "--model", "--pretrained") if option in value]
    if "--resume" in value:
        found += [value["--resume"], value.get("--ckpt_save_directory", "")]
    if re.search(r"compare_runs\.py|run_eval_", words[1]):
        found += [word for word in words[2:] if not word.startswith("--")]
    return found


def stand_in(folder: Path, argument: str) -> None:
    """Put a small network in place of a checkpoint or run that no earlier command has written."""
    path = folder / argument
    run_folder = path.parent if path.suffix == ".ckpt" else path
    if argument.startswith("runs/") and not run_folder.exists():
        shutil.copytree(folder / "stand_in", run_folder)
    if path.suffix == ".ckpt" and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "stand_in" / "last.ckpt", path)


def shortened(words: Sequence[str]) -> list[str]:
    """The command in the form that runs, see the top of this file."""
    script = Path(words[1]).name
    if list(words[1:3]) == ["-m", "pytest"]:
        return [*words, "--collect-only", "-q"]
    if script.startswith("run_distribute_train"):
        return [*words, "--dry_run"]
    if script == "train.py" or script.startswith("run_standalone_train"):
        short = SHORT | ({"--max_steps": "3"} if "--resume" in words else {})
        if "--val_acc_monitor_interval" not in words:
            short["--val_acc_monitor_interval"] = "1"  # to get a best.ckpt
        return [*words, *(word for option in short.items() for word in option)]
    return list(words)


def run(command: str, folder: Path) -> str:
    """Run a shell command in the copy. Returns "" or, if it failed, its output."""
    environment = os.environ | {"PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"$ {command}\nnot finished after {TIMEOUT} s"
    return "" if done.returncode == 0 else f"$ {command}\n{(done.stdout + done.stderr)[-2000:]}"


def run_document(path: Path, template: Path) -> Iterator[tuple[Command, str, str]]:
    """(command, reason for not running it, output if it failed) of each command in a document's blocks.

    Args:
        template: from `make_copy`; it is not modified.
    """
    with tempfile.TemporaryDirectory(prefix="check_docs_") as work:
        folder = Path(work) / "copy"
        shutil.copytree(template, folder, symlinks=True)
        for command in commands_of(path):
            if command.inline:
                continue
            if command.need:
                yield command, f"needs {NEEDS[command.need]}", ""
            elif any(script in command.text for script in TESTED_ELSEWHERE):
                yield command, "has separate tests", ""
            elif command.words[0] == "bash" or command.words[0].endswith("python"):
                for argument in inputs_of(command.words):
                    stand_in(folder, argument)
                yield command, "", run(shlex.join(shortened(command.words)), folder)
            else:
                yield command, "", run(command.text, folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("Check the commands and links of the documentation.")
    parser.add_argument("--run", action="store_true", help="also run the commands that can run here")
    parser.add_argument("documents", nargs="*", metavar="FILE", help="check only these files")
    args = parser.parse_args(argv)
    need_reader()
    paths = [Path(name) for name in args.documents] or documents()
    failures = links = 0
    for path in paths:
        wrong, broken = wrong_commands(path), broken_links(path)
        failures, links = failures + len(wrong), links + len(broken)
        print("".join(f"{line}\n" for line in wrong + broken), end="", flush=True)
    count = sum(len(list(commands_of(path))) for path in paths)
    print(f"{count - failures} of {count} commands are accepted by their scripts", flush=True)
    return 1 if failures + links + (run_all(paths) if args.run else 0) else 0


def run_all(paths: Sequence[Path]) -> int:
    """Run the commands of some documents; print one line per command and a summary. Returns the number of failures."""
    reasons, failures = Counter(), 0
    with tempfile.TemporaryDirectory(prefix="check_docs_") as work:
        make_copy(Path(work) / "template")
        for path in paths:
            start = time.perf_counter()
            for command, reason, failure in run_document(path, Path(work) / "template"):
                reasons[reason or "ran"] += 1
                failures += bool(failure)
                print(f"{command.place}: {reason or ('FAILED' if failure else 'ran')}: {command.text}", flush=True)
                print(failure, end="\n" if failure else "", flush=True)
            print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(", ".join(f"{count} {reason}" for reason, count in reasons.items()), f"({failures} failed)")
    return failures


if __name__ == "__main__":
    run_main(main)
