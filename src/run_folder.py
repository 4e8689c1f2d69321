"""The folder of one training run: `config.yaml`, `versions.json`, `log.csv`, `curves.png`, checkpoints, samples.

It contains everything needed to repeat, resume and plot the run.
"""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from src import __version__, run_lock
from src.errors import UserError, need_writable_folder
from src.files import parse_json, write_whole
from src.formats.weights import need_file, read_meta
from src.run_log import SavedAt, cut_log, unused_name, why_not_importable


def check(folder: Path | str, overwrite: bool, resume: str = "") -> Path:
    """Check, without changing anything, that `begin` will succeed, and report which optional files will be missing.

    Args:
        resume: "", `auto`, or a checkpoint, as in --resume.

    Raises:
        UserError: another process is training in the folder; it contains a run that is neither to be overwritten nor
            the run of the checkpoint to resume from; that checkpoint does not exist; or the folder is not writable.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name, and would follow a renamed folder
    run_lock.refuse_held(folder)
    _refuse_other_run(folder, overwrite, resume)
    ancestor = next(p for p in (folder, *folder.parents) if p.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise UserError(f"--ckpt_save_directory {folder}: cannot write into {ancestor}. Choose a writable folder.")
    for package, product in (("tensorboardX", "events/"), ("matplotlib", "curves.png")):
        if reason := why_not_importable(package):
            print(
                f"{package} cannot be imported ({reason}): {product} is not written; pip install {package} enables it"
            )
    return folder


@contextlib.contextmanager
def hold(folder: Path | str, overwrite: bool, resume: str = "") -> Iterator[None]:
    """Keep other trainings out of the folder (`src.run_lock`). Arguments as for `check`.

    Raises:
        UserError: as `check`, whose result another training may have invalidated.
    """
    folder = Path(os.path.abspath(folder))
    with run_lock.hold(folder):
        _refuse_other_run(folder, overwrite, resume)
        yield


def _refuse_other_run(folder: Path, overwrite: bool, resume: str) -> None:
    if resume and resume != "auto":
        path = Path(resume)
        need_file(path, "checkpoint")
        # A file without a step is damaged or not from a training; `find_checkpoint` reports which.
        if holds_run(folder) and "step" in read_meta(path) and not is_of_run(path, folder):
            raise UserError(
                f"--resume {path}: this checkpoint is not of the run in {folder}, whose log and checkpoints would be "
                "overwritten. Choose a new folder (--ckpt_save_directory), or continue the existing run with "
                "--resume auto."
            )
    elif holds_run(folder) and not overwrite and not resume:
        raise UserError(
            f"--ckpt_save_directory {folder} already holds a run. Choose another folder, or rename the old run with "
            "--overwrite."
        )


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "log.csv").exists() or any(folder.glob("*.ckpt"))


def begin(
    folder: Path,
    config_yaml: str,
    run: str,
    resumed: SavedAt | None = None,
    drop_part: bool = False,
    steps_per_epoch: int = 0,
) -> None:
    """Prepare the folder for a run and write `config.yaml` and `versions.json`. For a new run, an existing one is
    renamed, never deleted; for a resumed run, the log is cut at the checkpoint.

    Args:
        run: identifies the run, see `identity`.
        resumed: where the run continues, None for a new run.
        drop_part, steps_per_epoch: as for `cut_log`.

    Raises:
        UserError: the folder cannot be created, renamed or written.
    """
    if resumed is None and holds_run(folder):
        aside = unused_name(folder)
        try:
            folder.rename(aside)
        except OSError as e:
            raise UserError(f"--overwrite: cannot rename {folder} to {aside} ({e.strerror})") from e
        print(f"the existing run in {folder} is now {aside}")
        folder.mkdir()
        run_lock.follow(folder, aside)
    need_writable_folder(folder, "--ckpt_save_directory")
    if resumed:
        cut_log(folder / "log.csv", resumed, drop_part, steps_per_epoch)
    write_whole(folder / "config.yaml", config_yaml)
    write_whole(folder / "versions.json", json.dumps({"run": run} | versions(), indent=2) + "\n")


def identity(folder: Path) -> str:
    """Distinguishes the run in a folder from all others, even after a move or copy; "" if there is no run, or if the
    version that began it recorded none."""
    try:
        return str(parse_json((folder / "versions.json").read_bytes()).get("run", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def is_of_run(path: Path, folder: Path) -> bool:
    """Whether a checkpoint belongs to the run in a folder: both record the same identity or, if one records none, the
    checkpoint lies in the folder."""
    run, stated = identity(folder), read_meta(path).get("run")
    return run == stated if run and stated else path.resolve().parent == folder.resolve()


def versions() -> dict[str, str | None]:
    """Versions of this repository, its git commit, Python and the packages; None for what is absent."""
    found: dict[str, str | None] = {"mimo_unet": __version__, "git_commit": None, "python": platform.python_version()}
    command = ["git", "-C", str(Path(__file__).resolve().parent.parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        found["git_commit"] = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    for package in ("mindspore", "numpy", "Pillow", "scikit-image"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def run_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a run folder except those that a crash left unfinished."""
    return list(folder.glob("[!.]*.ckpt"))


def age(path: Path) -> tuple[int, bool, float, bool]:
    """Sort key for the checkpoints of a run, newest last. It uses their contents, because copying a folder changes the
    file times. Checkpoints without a recorded step come first.

    The launch counts before the step, because a run may be resumed at an earlier step than it has reached, and the step
    is measured in epochs, because --force may change their length. Older versions did not count launches; for them
    `last.ckpt` is the newest.
    """
    meta, is_last = read_meta(path), path.name == "last.ckpt"
    if "step" not in meta:
        return -1, False, 0.0, False
    launch = meta.get("launch", 0)
    return launch, is_last and not launch, meta["step"] / meta.get("steps_per_epoch", 1), is_last
