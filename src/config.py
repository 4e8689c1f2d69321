"""Settings: one typed, frozen dataclass. Defaults < device YAML < recipe YAML < command line.

This file is the full list of options. An unknown key or a value of the wrong type stops the run with its name, its
value and what was expected. Nothing here imports MindSpore, so that `--help` answers at once.
"""

import argparse
import dataclasses
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from src import __version__
from src.errors import UserError, first_few, nearest

ROOT = Path(__file__).resolve().parent.parent
CONFIG_DIR = ROOT / "configs"
# The names of src.mimo_unet.MODELS and what the sides of an image must be multiples of, repeated here because that
# module needs MindSpore; a test holds the two together.
MULTIPLES = {"MIMO-UNet": 4, "MIMO-UNetPlus": 4, "MIMO-UNetLite": 8}
MODEL_NAMES = tuple(MULTIPLES)
# Likewise of src.restore.ENSEMBLES and src.metric.METRICS.
ENSEMBLE_NAMES = ("none", "rot4", "x8")
METRIC_NAMES = ("psnr", "psnr_uint8", "ssim")
DEVICES = ("CPU", "GPU", "Ascend")
SCRIPTS = ("train", "eval", "export")
COUNT = 10**6  # the largest value of a number that declares no other: far above what is of use, far below an overflow
LAST_STEP = 2**31 - 1  # steps are counted with 32 bits
LARGEST_SEED = 2**32 - 1  # what numpy's and MindSpore's generators take
LARGEST_BATCH = 4096
LARGEST_SIDE = 2**16  # pixels


def option(
    default: Any,
    help: str,
    scripts: str = "train",
    choices: Sequence[str] = (),
    low: float = 0,
    high: float = COUNT,
    shapes_result: bool = False,
    is_path: bool = False,
) -> Any:
    """A field with its help text, the scripts that offer it, its legal values or, of a number, its range.

    `shapes_result` marks what a resumed run must not change, `is_path` the files and folders that a training reads or
    writes.
    """
    metadata = {"help": help, "scripts": scripts.split(), "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=metadata | {"shapes_result": shapes_result, "is_path": is_path})


@dataclass(frozen=True)
class Config:
    """Every option of `train.py`, `eval.py` and `export.py`. A YAML file may hold any of them, whichever script reads
    it."""

    # device
    device_target: str = option("CPU", "where the network runs", "train eval", DEVICES)
    device_id: int = option(
        0, "which device of that kind; with several ranks each takes its own", "train eval", low=0, high=1023
    )
    is_train_distributed: bool = option(False, "one of several ranks, started by mpirun or msrun")

    # network
    model_name: str = option(
        "MIMO-UNet", "variant of the network", "train eval export", MODEL_NAMES, shapes_result=True
    )
    num_res: int = option(
        0,
        "residual blocks per stage, 0 = the variant's own (8, 20 or 4); small for trials",
        low=0,
        high=200,
        shapes_result=True,
    )

    # data
    dataset_root: str = option(
        "",
        "folder with {train,test}/{blur,sharp}, or packed; empty = ./dataset, else a sample set made on the spot",
        "train eval",
        is_path=True,
    )
    train_list: str = option(
        "", "list file of the training pairs, 'sharp blur' a line; paths relative to dataset_root or to the list",
        is_path=True,
    )  # fmt: skip
    test_list: str = option("", "likewise of the validation or test pairs", "train eval", is_path=True)
    blur_directory: str = option(
        "", "folder of blurred images, paired by name with sharp_directory: training pairs, or those that are scored",
        "train eval", is_path=True,
    )  # fmt: skip
    sharp_directory: str = option("", "folder of their sharp images", "train eval", is_path=True)
    val_fraction: float = option(
        0.0,
        "take this part of the training pairs for validation, whole sequences, up to 0.5",
        low=0,
        high=0.5,
        shapes_result=True,
    )
    val_list: str = option("", "names of pairs or sequences to take for validation, one a line", is_path=True)
    blur: str = option(
        "real", "synthetic = dataset_root is a folder of sharp photographs, blurred anew in every epoch",
        choices=("real", "synthetic"), shapes_result=True,
    )  # fmt: skip
    sharp_photos: str = option(
        "", "folder of sharp photographs, mixed with synthetic blur into the training pairs", is_path=True
    )
    synthetic_fraction: float = option(
        0.5, "the share of sharp_photos in the training pairs", high=1, shapes_result=True
    )
    slice_dataset: int = option(0, "use only the first N images, 0 = all", "train eval", low=0)
    crop_size: int = option(
        256,
        "side of the square training crops, pixels, a multiple of 4, of 8 for Lite",
        low=16,
        high=8192,
        shapes_result=True,
    )
    random_rotate90: bool = option(False, "augmentation: rotate pairs by 0, 90, 180 or 270 degrees", shapes_result=True)
    random_rgb_permutation: bool = option(False, "augmentation: permute the colour channels", shapes_result=True)
    num_worker: int = option(4, "threads that load the data, clamped to the cores", low=1, high=1024)

    # schedule
    seed: int = option(
        1, "of initialisation, order, crops, flips and channel dropout", low=0, high=LARGEST_SEED, shapes_result=True
    )
    epochs_num: int = option(3000, "epochs", low=1)
    max_steps: int = option(
        0, "end after N optimizer steps, without changing the schedule; 0 = no limit", low=0, high=LAST_STEP
    )
    train_batch_size: int = option(
        4, "crops per device and part of a step", low=1, high=LARGEST_BATCH, shapes_result=True
    )
    accumulate_steps: int = option(
        1, "parts whose gradients make one optimizer step", low=1, high=LARGEST_BATCH, shapes_result=True
    )
    learning_rate: float = option(1e-4, "of Adam at the start", low=1e-12, high=1, shapes_result=True)
    lr_schedule: str = option("step", "step = halved every lr_decay_epochs, cosine = down to lr_min at the last epoch",
                              choices=("step", "cosine"), shapes_result=True)  # fmt: skip
    lr_decay_epochs: int = option(500, "the learning rate is halved every N epochs", low=1, shapes_result=True)
    lr_min: float = option(1e-6, "learning rate at the end of the cosine", low=0, high=1, shapes_result=True)
    fft_weight: float = option(0.1, "weight of the Fourier term of the loss", low=0, shapes_result=True)
    clip_norm: float = option(0.0, "gradients are clipped to this global norm, 0 = never", low=0, shapes_result=True)
    ema_decay: float = option(0.0, "keep a moving average of the weights, e.g. 0.9999; 0 = none", low=0, high=0.999999,
                              shapes_result=True)  # fmt: skip

    # precision
    amp_level: str = option("O0", "O0 = float32, O2 or O3 = float16 network (the same here: there is no BatchNorm)",
                            choices=("O0", "O2", "O3"), shapes_result=True)  # fmt: skip
    loss_scale: str = option("dynamic", "'dynamic' or a number, for O2 and O3", shapes_result=True)
    max_overflows: int = option(50, "stop after N steps in a row whose gradients overflowed", low=1)

    conv_kernels: str = option(
        "auto", "on CPU: native = oneDNN's with blocked layouts, native_bf16 = multiplied in bfloat16, framework = "
        "MindSpore's own, auto = native where they can be built",
        choices=("auto", "native", "native_bf16", "framework"), shapes_result=True,
    )  # fmt: skip

    # device feeding
    train_use_data_sink: bool = option(False, "hand whole epochs to the device (Ascend); CPU runs without")
    sink_size: int = option(100, "steps between two returns to the host with data sink on", low=1)

    # run folder
    ckpt_save_directory: str = option("runs/MIMO-UNet", "run folder: settings, log, curves, checkpoints", is_path=True)
    resume: str = option(
        "", "continue a run: a checkpoint, or 'auto' for the newest good one of the run folder", is_path=True
    )
    force: bool = option(False, "resume even if options that shape the result have changed")
    pretrained: str = option(
        "", "start from the network of this checkpoint, with a fresh optimizer, at step 0", is_path=True
    )
    overwrite: bool = option(False, "if the run folder holds a run, rename it aside and start anew")
    ckpt_save_frequency: int = option(1, "epochs between checkpoints", low=1)
    ckpt_save_steps: int = option(0, "also save every N steps, 0 = never", low=0, high=LAST_STEP)
    log_frequency: int = option(
        10,
        "steps between two rows of log.csv, each the mean of its steps; GPU and Ascend check their losses as often, "
        "at least every 100 steps",
        low=1,
    )
    keep_checkpoint_max: int = option(5, "numbered checkpoints kept beside last.ckpt and best.ckpt", low=1)
    val_acc_monitor_interval: int = option(10, "epochs between validations, 0 = never", low=0)

    val_first: bool = option(False, "also validate before the first step")

    # evaluation
    ckpt_file: str = option("", "checkpoint or, for eval.py, also a file of export.py; eval.py takes the sample "
                            "weights if none is given", "eval export")  # fmt: skip
    weights: str = option(
        "ema", "of a checkpoint that holds both: the moving average or the raw weights", "eval export", ("ema", "raw")
    )
    precision: str = option(
        "auto", "of .onnx files: auto = bf16 where the processor has it", "eval", ("auto", "fp32", "bf16")
    )
    self_ensemble: str = option(
        "none", "rot4 = MIMO-UNet++ (mean over 4 rotations), x8 = their mirror images too", "eval", ENSEMBLE_NAMES
    )
    metrics: str = option("psnr,psnr_uint8,ssim", "scores, separated by commas", "eval")
    align: str = option(
        "none",
        "ecc = align to the sharp image before scoring, RealBlur's protocol",
        "eval",
        ("none", "ecc"),
    )
    crop_border: int = option(
        0, "pixels at each side that do not count; changes the score", "eval", low=0, high=LARGEST_SIDE
    )
    center_crop: int = option(
        0, "side of the central square that counts, 0 = all; changes the score", "eval", low=0, high=LARGEST_SIDE
    )
    eval_batch_size: int = option(
        1, "images at a time; neighbours of one size go together", "train eval", low=1, high=LARGEST_BATCH
    )
    img_save_directory: str = option("", "write the restored images here, as PNG", "eval")
    strip_save_directory: str = option("", "write blurred | restored | sharp side by side here", "eval")
    report_file: str = option("", "summary as JSON; a table of all images is written beside it as CSV", "eval")

    # export
    export_device_target: str = option(
        "CPU", "device the file is meant for; the export itself runs anywhere", "export", DEVICES
    )
    export_file_format: str = option(
        "MINDIR", "MindSpore's own, ONNX, or AIR (on Ascend only)", "export", ("MINDIR", "ONNX", "AIR")
    )
    export_file_name: str = option("", "name without suffix, empty = the model's name", "export")
    export_batch_size: int = option(0, "images per call, 0 = any", "export", low=0, high=LARGEST_BATCH)
    export_size: str = option("dynamic", "HxW in pixels, multiples of 4 (8 for Lite), or dynamic = any", "export")
    export_precision: str = option("fp32", "fp16 is for Ascend and GPU", "export", ("fp32", "fp16"))
    all_scales: bool = option(False, "the outputs at half and quarter size too", "export")
    verify: bool = option(False, "compare with the checkpoint at three sizes, up to 720x1280", "export")

    # not options
    origin: str = field(default="defaults", metadata={"scripts": []})
    """Where the settings came from and why, printed as the first line of a run."""
    debug: bool = field(default=False, metadata={"scripts": []})
    """Run operator by operator and show tracebacks."""

    def __post_init__(self):
        problems = []
        for f in option_fields():
            value, choices = getattr(self, f.name), f.metadata["choices"]
            if choices and value not in choices:
                problems.append(
                    f"--{f.name}: got {value!r}, expected one of {', '.join(choices)}.{nearest(str(value), choices)}"
                )
            problems += out_of_range(f.name, value, f.metadata["low"], f.metadata["high"])
        multiple = MULTIPLES.get(self.model_name, 1)
        if self.crop_size % multiple:
            problems.append(
                f"--crop_size: got {self.crop_size}, expected a multiple of {multiple} for {self.model_name} (the "
                "network has three scales)"
            )
        if self.amp_level == "O1":
            problems.append("O1, a list of operators in float16, crashes in MindSpore 2.10 and is not offered")
        for name in self.metric_names():
            if name not in METRIC_NAMES:
                problems.append(
                    f"--metrics: got {name!r}, expected some of {','.join(METRIC_NAMES)}.{nearest(name, METRIC_NAMES)}"
                )
        if self.test_list and (self.val_fraction or self.val_list):
            problems.append("--test_list names the validation pairs; it does not go with --val_fraction or --val_list")
        if self.resume and (self.pretrained or self.overwrite):
            problems.append("--resume continues a run; it does not go together with --pretrained or --overwrite")
        if self.loss_scale != "dynamic" and not _is_loss_scale(self.loss_scale):
            problems.append(f"--loss_scale: got {self.loss_scale!r}, expected 'dynamic' or a number of 1 to 3e38")
        if problems:
            raise UserError("; ".join(problems))

    def metric_names(self) -> list[str]:
        return [name.strip() for name in self.metrics.split(",") if name.strip()] or ["psnr"]

    def to_yaml(self) -> str:
        """The resolved settings, for the run folder; `--config_path` reads them back."""
        values = {f.name: getattr(self, f.name) for f in option_fields()}
        return f"# {self.origin}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def option_fields(script: str | None = None) -> list[dataclasses.Field]:
    """The fields that are options, of one script or of all."""
    return [
        f for f in dataclasses.fields(Config)
        if f.metadata["scripts"] and (script is None or script in f.metadata["scripts"])
    ]  # fmt: skip


def absolute_paths(config: Config, dataset_root: Path | str) -> Config:
    """The settings of a training with its paths made absolute, for a record that is right from every working directory.

    Args:
        dataset_root: what `config.dataset_root` stands for if that is empty.
    """
    values = {f.name: getattr(config, f.name) for f in option_fields() if f.metadata["is_path"]}
    values["dataset_root"] = str(dataset_root)
    paths = {
        name: os.path.abspath(path) for name, path in values.items() if path and (name, path) != ("resume", "auto")
    }
    return dataclasses.replace(config, **paths)


def _is_loss_scale(text: str) -> bool:
    try:
        return 1 <= number(text) <= 3e38  # it becomes a float32
    except argparse.ArgumentTypeError:
        return False


# ---- values, from the command line and from YAML alike


def shown(value: Any) -> str:
    """A value for an error message: quoted, on one line, shortened in the middle."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def whole_number(text: str) -> int:
    """The value of an option. Plain digits only: 010 might mean 8, 1e3 is a fraction elsewhere.

    Raises:
        argparse.ArgumentTypeError: with what was got and expected.
    """
    if not re.fullmatch(r"[+-]?(0|[1-9][0-9]{,99})", text):
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected a whole number in digits, without leading zeros")
    return int(text)


def number(text: str) -> float:
    """The value of an option, finite, e.g. 0.5 or 1e-4. Raises as `whole_number`."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) or math.isinf(float(text)):
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected a number")
    return float(text)


def usable_text(text: str) -> str:
    """The value of an option, most often a path, as it is given. Raises as `whole_number`, for what names no file."""
    try:
        longest = max(len(os.fsencode(part)) for part in text.split("/"))
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected text of whole characters") from None
    if not text.strip():
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected some text (is a shell variable unset?)")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected text without the character NUL")
    if longest > 255 or len(text) > 4000:
        raise argparse.ArgumentTypeError(
            f"got {shown(text)}, a name of {longest} bytes in a path of {len(text)}; expected at most 255 in 4000"
        )
    return text


def out_of_range(name: str, value: Any, low: float, high: float) -> list[str]:
    """The problem with a number, as a list of one line or none. Values of other types have no range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or low <= value <= high:
        return []
    return [f"--{name}: got {shown(value)}, expected {low} to {high}"]


BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def coerce(name: str, value: Any, where: str) -> Any:
    """`value` as the declared type of the field `name`.

    Raises:
        UserError: with the place, the value and the expected type.
    """
    kind, default = Config.__annotations__[name], getattr(Config, name)
    try:
        if kind is bool and str(value).lower() in BOOLS:
            return BOOLS[str(value).lower()]
        if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
            return whole_number(str(value)) if kind is int else number(str(value))
        if kind is str and default == "" and value in (None, ""):
            return ""  # not set: this is how a run folder records it
        if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
            return usable_text(str(value))
    except (argparse.ArgumentTypeError, ValueError) as e:  # ValueError: a whole number too long to be written
        raise UserError(f"{where}: {e}") from e
    raise UserError(f"{where}: got {shown(value)}, expected {EXPECTED[kind]}")


EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text; put it in quotes"}

# ---- YAML


LARGEST_YAML = 2**20  # bytes; settings take some hundred


# Settings of earlier versions, which run folders and published configurations hold: (values that would change what is
# done now, what to do instead). Any other value is ignored with one notice.
RETIRED: dict[str, tuple[tuple[str, ...], str]] = {
    "eval_use_data_sink": ((), "leave it out"),
    "lr_scaling": (("linear",), "multiply learning_rate by the number of ranks instead"),
    "worker_type": ((), "leave it out"),
}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The settings of one YAML file, checked for unknown and repeated keys and wrong types, without those in `RETIRED`.

    Values are taken as they are written, not as YAML 1.1 reads them: 010 is not 8, 1:30 not 90, 2020-01-02 no date.

    Raises:
        UserError: naming the file, for whatever is wrong with it.
    """
    settings = _yaml_settings(path)
    known = [f.name for f in option_fields()]
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, node in settings:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in RETIRED:
            refused, advice = RETIRED[key]
            if node.value in refused:
                raise UserError(f"{path}: {key}: {node.value} is no longer offered; remove the line and {advice}")
            continue
        if not isinstance(key_node, yaml.ScalarNode) or key not in known:
            raise UserError(f"{path}: unknown key {_yaml_kind(key_node)}.{nearest(key[:80], known)}")
        if key in lines:
            raise UserError(f"{path}: {key} stands in line {lines[key]} and in line {line}. Remove one of them.")
        lines[key] = line
        values[key] = coerce(key, _yaml_value(node, f"{path}: {key}"), f"{path}: {key}")
    return values


def _yaml_settings(path: Path | str) -> list[tuple[yaml.Node, yaml.Node]]:
    """(key, value) of each setting, not yet looked into: an alias of an alias is not expanded."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_YAML + 1)
        if len(content) > LARGEST_YAML:
            raise UserError(f"{path}: larger than {LARGEST_YAML} bytes, not a YAML file of settings")
        node = yaml.compose(content.decode("utf-8"), yaml.SafeLoader)
    except OSError as e:
        raise UserError(f"--config_path: cannot read {path} ({e.strerror}); shipped ones are in {CONFIG_DIR}") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not a YAML file in UTF-8 ({e}). Save it as UTF-8 text.") from e
    except RecursionError as e:
        raise UserError(f"{path}: not a YAML file of settings (brackets in brackets without end)") from e
    except (yaml.YAMLError, ValueError) as e:
        raise UserError(f"{path}: not a YAML file ({' '.join(str(e).split())})") from e
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: got {_yaml_kind(node)}, expected lines of 'key: value'")
    return node.value


def _yaml_value(node: yaml.Node, where: str) -> Any:
    """None, a truth value, or the text of whatever else."""
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if not isinstance(node, yaml.ScalarNode) or kind not in ("null", "bool", "str", "int", "float", "timestamp"):
        raise UserError(f"{where}: got {_yaml_kind(node)}, expected one value")
    if kind in ("null", "bool"):
        return None if kind == "null" else BOOLS[node.value.lower()]
    return node.value


def _yaml_kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{shown(node.value)}{f' with the tag {node.tag}' if node.tag.startswith('!') else ''}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys and values"


def _retired_note(*paths: Path | str | None) -> str:
    found = {path: [str(key.value) for key, _ in _yaml_settings(path)] for path in paths if path}
    retired = {path: first_few(key for key in keys if key in RETIRED) for path, keys in found.items()}
    return "".join(f"; ignored in {path}, no longer settings: {keys}" for path, keys in retired.items() if keys)


# Options by the names that they have in other scripts, here or elsewhere; the nearest word would be another one.
MEANT = {
    "--model": ("--ckpt_file",),
    "--ckpt_file": ("--model",),
    "--ckpt": ("--ckpt_file", "--model"),
    "--lr": ("--learning_rate",),
    "--batch_size": ("--train_batch_size",),
    "--epochs": ("--epochs_num",),
    "--format": ("--export_file_format",),
}


class ArgumentParser(argparse.ArgumentParser):
    """argparse with this project's manners: no abbreviations, `--version`, `--debug`, one-line errors with a
    suggestion, no empty values, numbers in plain digits and within a range."""

    def __init__(self, description: str, **kwargs: Any):
        self.ranges: dict[str, tuple[float, float]] = {}
        super().__init__(description=description, allow_abbrev=False, **kwargs)
        for kind, reader in ((None, usable_text), (int, whole_number), (float, number)):
            self.register("type", kind, reader)
        self.add_argument("--version", action="version", version=f"MIMO-UNet for MindSpore {__version__}")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_argument(self, *names: str, low: float = 0, high: float = COUNT, **kwargs: Any) -> argparse.Action:
        """As argparse; `low` and `high` bound the value of a number."""
        action = super().add_argument(*names, **kwargs)
        self.ranges[action.dest] = low, high
        return action

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (--help lists the options)")

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = next((u for u in unknown if u.startswith("-")), unknown[0]).split("=")[0]
            known = [s for action in self._actions for s in action.option_strings]
            meant = [option for option in MEANT.get(word, ()) if option in known]
            hint = f" Did you mean {meant[0]}?" if meant else nearest(word, known)
            if word.removeprefix("--") in RETIRED:
                hint = f" Earlier versions had it: {RETIRED[word.removeprefix('--')][1]}."
            raise UserError(f"unknown option {word}.{hint} (--help lists the options)")
        problems = [out_of_range(name, getattr(parsed, name, None), *limits) for name, limits in self.ranges.items()]
        if any(problems):
            raise UserError("; ".join(line for problem in problems for line in problem))
        return parsed


def make_parser(script: str) -> ArgumentParser:
    """The command line of one script, made from the fields of `Config`."""
    parser = ArgumentParser(f"{script}.py of MIMO-UNet for MindSpore. Defaults < --config_path < --recipe < options.")
    parser.add_argument(
        "--config_path",
        metavar="FILE",
        help="YAML with settings; default: the best device present chooses. A resumed run has its own settings and "
        "takes only the device from here",
    )
    parser.add_argument(
        "--recipe", metavar="FILE", help="YAML that overrides a few keys of it, a file or a name in configs/recipes"
    )
    for f in option_fields(script):
        choices = f" ({' | '.join(f.metadata['choices'])})" if f.metadata["choices"] else ""
        kind = Config.__annotations__[f.name]
        bare_flag: dict[str, Any] = {"nargs": "?", "const": "true"} if kind is bool else {}
        read = None if kind is str else str  # `coerce` reads numbers and switches, as those of YAML
        help_text = f"{f.metadata['help']}{choices} [{f.default}]".replace("%", "%%")
        parser.add_argument(f"--{f.name}", type=read, metavar=kind.__name__.upper(), help=help_text, **bare_flag)
    return parser


def load_config(
    script: str, argv: Sequence[str] | None, best_device: Callable[[], tuple[str, str]] = lambda: ("CPU", "the default")
) -> Config:
    """Read the command line and the YAML files it names.

    Args:
        script: one of `SCRIPTS`; decides which options exist.
        argv: arguments without the program's name; None reads the process's own.
        best_device: asked for (device target, reason) only when neither a config nor a device is named.

    Raises:
        UserError: unknown option, key or value, with the nearest known one.
    """
    args = vars(make_parser(script).parse_args(argv))
    given = {f.name: args[f.name] for f in option_fields(script) if args[f.name] is not None}
    given = {name: coerce(name, value, f"--{name}") for name, value in given.items()}
    config_path = args["config_path"]
    recipe = find_recipe(args["recipe"]) if args["recipe"] else None
    changes = read_yaml(recipe) if recipe else {}
    values = (read_yaml(config_path) if config_path else {}) | changes
    resumed = None
    if script == "train" and (resume := (values | given).get("resume")):
        folder, resumed = resumed_run(resume, given.get("ckpt_save_directory"), values)
        given |= {"resume": resume, "ckpt_save_directory": str(folder)}
    if resumed:
        files = " and ".join(str(path) for path in (config_path, recipe) if path)
        values, origin = resumed_settings(resumed, files, values, given)
    elif config_path:
        origin = f"{config_path}, as asked"
    else:
        target, why = (given["device_target"], "as asked") if "device_target" in given else best_device()
        if target not in DEVICES:
            raise UserError(
                f"--device_target: got {target!r}, expected one of {', '.join(DEVICES)}.{nearest(target, DEVICES)}"
            )
        config_path = CONFIG_DIR / f"{target.lower()}_config.yaml"
        values, origin = read_yaml(config_path) | changes, f"configs/{config_path.name}: {why}"
    if recipe and not resumed:
        origin += f"; recipe {recipe.name}"
    origin += _retired_note(config_path, recipe, resumed)
    return Config(**(values | given), origin=origin, debug=args["debug"])


def resumed_run(resume: str, named: str | None, values: dict[str, Any]) -> tuple[Path, Path | None]:
    """Where a resumed run goes on: (run folder, the `config.yaml` with its settings if there is one).

    A checkpoint's own folder is the run folder unless the command line names one: a folder that a configuration names,
    or the default, may hold another run. A checkpoint that goes on in a new folder brings its settings along.

    Args:
        named: --ckpt_save_directory of the command line.
        values: settings of the configuration, for the folder in which `auto` looks.
    """
    own = Path(resume).parent if resume != "auto" else None
    folder = Path(named or own or values.get("ckpt_save_directory", Config.ckpt_save_directory))
    settings = [f / "config.yaml" for f in (folder, own) if f]
    return folder, next((path for path in settings if path.is_file()), None)


ONE_LAUNCH_ONLY = ("resume", "force", "overwrite", "pretrained", "max_steps")
"""Options of a run that its resumption does not inherit."""


def resumed_settings(
    path: Path, files: str, asked: dict[str, Any], given: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The settings of the run that is resumed, and where they come from, in words.

    Launchers always name their device's configuration, and a run may have been started with options on top of it. So
    of the settings `asked` for in configuration files only the device counts, which belongs to a launch and not to a
    run.

    Args:
        files: names of the configuration files, "" = none.
        given: what the command line changes; nothing needs to be said about these.
    """
    values = {name: value for name, value in read_yaml(path).items() if name not in ONE_LAUNCH_ONLY}
    origin = f"{path}, of the run that is resumed"
    if files:
        device = asked.get("device_target")
        taken = f"device_target {device} and nothing else" if device else "nothing"
        defaults = {f.name: f.default for f in option_fields()}
        others = [
            name for name, value in asked.items()
            if value != values.get(name, defaults[name]) and name not in (*given, *ONE_LAUNCH_ONLY, "device_target")
        ]  # fmt: skip
        origin += f"; it takes {taken} from {files}"
        if others:
            origin += f", which differs in {first_few(others)} (options on the command line do change them)"
        if device:
            values["device_target"] = device
    return values, origin


def find_recipe(name: str) -> Path:
    """A recipe given as a file, or by its name in configs/recipes."""
    recipes = {p.stem: p for p in sorted((CONFIG_DIR / "recipes").glob("*.yaml"))}
    path = recipes.get(name, Path(name))
    if not path.is_file():
        raise UserError(
            f"--recipe: no file {name}; recipes by name: {', '.join(recipes) or 'none'}.{nearest(name, recipes)}"
        )
    return path
