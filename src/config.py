"""Settings of `train.py`, `eval.py` and `export.py`: defaults < device YAML < recipe YAML < command line.

`Config` holds one frozen dataclass per section and is the full list of options. YAML files, the command line and
checkpoints name options without their sections. Nothing here imports MindSpore, so that `--help` answers at once.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from src.command_line import (
    COUNT,
    WEIGHTS_OPTIONS,
    ArgumentParser,
    number,
    out_of_range,
    shown,
    usable_text,
    whole_number,
)
from src.errors import UserError, first_few, nearest
from src.variants import MODELS
from src.yaml_file import BOOLS, Setting, read_settings

ROOT = Path(__file__).resolve().parent.parent
CONFIG_DIR = ROOT / "configs"
MODEL_NAMES = tuple(MODELS)
# The names in src.restore.ENSEMBLES and src.metric.METRICS.
ENSEMBLE_NAMES = ("none", "rot4", "x8")
METRIC_NAMES = ("psnr", "psnr_uint8", "ssim")
DEVICES = ("CPU", "GPU", "Ascend")
SCRIPTS = ("train", "eval", "export")
PRECISIONS = ("auto", "fp32", "bf16")
MOTION_NAMES = ("shake", "lines")  # of src.data.synthetic_blur.MOTIONS, which would import OpenCV
ENGINES = ("auto", "mindspore", "openvino")
KERNELS = ("auto", "native", "native_bf16", "framework")  # native: blocked layouts; bf16: products in bfloat16
LAST_STEP = 2**31 - 1  # steps are counted in 32 bits
LARGEST_SEED = 2**32 - 1  # the limit of numpy's and MindSpore's generators
LARGEST_BATCH = 4096
LARGEST_SIDE = 2**16  # pixels


def option(default: Any, help: str, limits: Sequence = (), scripts: str = "train", **kind: bool) -> Any:
    """A field with its help text, limits and the scripts that offer it.

    Args:
        limits: (lowest, highest) number, by default (0, COUNT), or the legal texts.
        kind: `shapes_result` or `is_path`, see below.
    """
    choices, (low, high) = (limits, (0, COUNT)) if isinstance(default, str) else ((), limits or (0, COUNT))
    metadata = {"help": help, "scripts": scripts.split(), "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=metadata | {"shapes_result": False, "is_path": False} | kind)


def shaping(default: Any, help: str, limits: Sequence = (), scripts: str = "train") -> Any:
    """An option that shapes the result, so that a resumed run must not change it."""
    return option(default, help, limits, scripts, shapes_result=True)


def path(help: str, scripts: str = "train", default: str = "") -> Any:
    """An option that names a file or a folder which a training reads or writes."""
    return option(default, help, scripts=scripts, is_path=True)


@dataclass(frozen=True)
class Device:
    device_target: str = option("CPU", "device that runs the network", DEVICES, "train eval")
    device_id: int = option(0, "number of the device; each of several ranks uses its own", (0, 1023), "train eval")
    is_train_distributed: bool = option(False, "one of several ranks, started by mpirun or msrun")
    train_use_data_sink: bool = option(False, "whole epochs handed to the device (Ascend); a CPU ignores this")
    sink_size: int = option(100, "steps between two returns to the host with the data sink", (1, COUNT))


@dataclass(frozen=True)
class Network:
    model_name: str = shaping("MIMO-UNet", "variant, which a weights file must match", MODEL_NAMES, "train eval export")
    num_res: int = shaping(0, "residual blocks per stage, 0 = as the variant (8, 20 or 4); small for trials", (0, 200))
    ckpt_file: str = option("", "checkpoint; for eval.py also an exported file, or none", scripts="eval export")
    weights: str = option("ema", "average or raw weights of a checkpoint with both", ("ema", "raw"), "eval export")


@dataclass(frozen=True)
class Data:
    dataset_root: str = path(
        "{train,test}/{blur,sharp} folder or packed set, by default ./dataset or samples", "train eval"
    )
    train_list: str = path("list of the training pairs, 'sharp blur' per line, relative to dataset_root or the list")
    test_list: str = path("list of the validation or test pairs", "train eval")
    blur_directory: str = path("folder of blurred images to train on or to score, paired by name", "train eval")
    sharp_directory: str = path("folder of the sharp partners of blur_directory", "train eval")
    val_fraction: float = shaping(0.0, "share of the training pairs for validation, in whole sequences", (0, 0.5))
    val_list: str = path("file with names of pairs or sequences for validation, one per line")
    blur: str = shaping("real", "synthetic = sharp photos in dataset_root, blurred on the fly", ("real", "synthetic"))
    sharp_photos: str = path("folder of sharp photos, added to the training pairs with synthetic blur")
    synthetic_motion: str = shaping("shake", "motion of synthetic blur; lines are straight", MOTION_NAMES)
    synthetic_fraction: float = shaping(0.5, "share of sharp_photos in the training pairs", (0, 1))
    slice_dataset: int = option(0, "number of images to use, the first ones; 0 = all", scripts="train eval")
    crop_size: int = shaping(256, "side of the training crops in pixels, a multiple of 4 (8 for Lite)", (16, 8192))
    random_rotate90: bool = shaping(False, "rotations by 0, 90, 180 or 270 degrees as augmentation")
    random_rgb_permutation: bool = shaping(False, "permutations of the colour channels as augmentation")
    num_worker: int = option(4, "threads that load the data, at most one per core", (1, 1024))


@dataclass(frozen=True)
class Schedule:
    seed: int = shaping(1, "seed of initialisation, order, crops, flips and channel dropout", (0, LARGEST_SEED))
    epochs_num: int = option(3000, "epochs", (1, COUNT))
    train_batch_size: int = shaping(4, "crops per device and part of a step", (1, LARGEST_BATCH))
    accumulate_steps: int = shaping(1, "parts whose gradients make one optimizer step", (1, LARGEST_BATCH))
    learning_rate: float = shaping(1e-4, "initial learning rate of Adam", (1e-12, 1))
    lr_schedule: str = shaping("step", "halved every lr_decay_epochs, or a cosine down to lr_min", ("step", "cosine"))
    lr_decay_epochs: int = shaping(500, "epochs between two halvings of the learning rate", (1, COUNT))
    lr_min: float = shaping(1e-6, "learning rate at the end of the cosine", (0, 1))
    fft_weight: float = shaping(0.1, "weight of the Fourier term of the loss")
    clip_norm: float = shaping(0.0, "largest global norm of the gradients, 0 = no clipping")
    ema_decay: float = shaping(0.0, "decay of a moving average of the weights, e.g. 0.9999; 0 = none", (0, 0.999999))


@dataclass(frozen=True)
class Precision:
    amp_level: str = shaping("O0", "O0 = float32 network, O2 and O3 = float16 (no BatchNorm here)", ("O0", "O2", "O3"))
    loss_scale: str = shaping("dynamic", "loss scale for O2 and O3: 'dynamic' or a number")
    max_overflows: int = option(50, "steps in a row with overflowing gradients that end the run", (1, COUNT))
    conv_kernels: str = shaping("auto", "convolutions on CPU: oneDNN's (auto = if possible) or MindSpore's", KERNELS)


@dataclass(frozen=True)
class Launch:
    """A resumed run does not inherit these."""

    resume: str = path("run to continue: a checkpoint, or 'auto' for the newest intact one of the run folder")
    force: bool = option(False, "resume despite changed options that shape the result")
    pretrained: str = path("checkpoint whose network a new run starts from, with a fresh optimizer")
    overwrite: bool = option(False, "new run in a run folder that holds one, which is renamed")
    max_steps: int = option(0, "optimizer steps after which the run pauses, 0 = the whole schedule", (0, LAST_STEP))


@dataclass(frozen=True)
class RunFolder:
    ckpt_save_directory: str = path("run folder: settings, log, curves, checkpoints", default="runs/MIMO-UNet")
    ckpt_save_frequency: int = option(1, "epochs between checkpoints", (1, COUNT))
    ckpt_save_steps: int = option(0, "steps between additional checkpoints, 0 = none", (0, LAST_STEP))
    keep_checkpoint_max: int = option(5, "numbered checkpoints to keep beside last.ckpt and best.ckpt", (1, COUNT))
    log_frequency: int = option(10, "steps per row of log.csv and, off CPU and up to 100, per loss check", (1, COUNT))
    val_acc_monitor_interval: int = option(10, "epochs between validations, 0 = never")
    val_first: bool = option(False, "validation before the first step too")


@dataclass(frozen=True)
class Evaluation:
    engine: str = option("auto", "runtime of the network, auto = OpenVINO on CPU, else MindSpore", ENGINES, "eval")
    precision: str = option("auto", "precision, auto = fp32; bf16 for OpenVINO only", PRECISIONS, "eval")
    self_ensemble: str = option("none", "mean over 4 rotations (MIMO-UNet++), x8: mirrored too", ENSEMBLE_NAMES, "eval")
    metrics: str = option("psnr,psnr_uint8,ssim", "scores, separated by commas", scripts="eval")
    align: str = option("none", "alignment to the sharp image before scoring, as RealBlur", ("none", "ecc"), "eval")
    crop_border: int = option(0, "pixels at each side that do not count in the score", (0, LARGEST_SIDE), "eval")
    center_crop: int = option(0, "side of the central square that alone counts, 0 = all", (0, LARGEST_SIDE), "eval")
    eval_batch_size: int = option(1, "images per call, of one size each", (1, LARGEST_BATCH), "train eval")
    img_save_directory: str = option("", "folder for the restored images, as PNG", scripts="eval")
    strip_save_directory: str = option("", "folder for strips blurred | restored | sharp", scripts="eval")
    report_file: str = option("", "JSON file for the summary; a CSV file beside it lists all images", scripts="eval")

    def metric_names(self) -> list[str]:
        return [name.strip() for name in self.metrics.split(",") if name.strip()]


@dataclass(frozen=True)
class Export:
    export_device_target: str = option("CPU", "device for which the file is meant", DEVICES, "export")
    export_file_format: str = option("MINDIR", "file format; AIR on Ascend only", ("MINDIR", "ONNX", "AIR"), "export")
    export_file_name: str = option("", "file name without suffix; default: the variant", scripts="export")
    export_batch_size: int = option(0, "images per call, 0 = any number", (0, LARGEST_BATCH), "export")
    export_size: str = option("dynamic", "HxW in pixels, multiples of 4 (8 for Lite); dynamic = any", scripts="export")
    export_precision: str = option("fp32", "precision; fp16 is for Ascend and GPU", ("fp32", "fp16"), "export")
    all_scales: bool = option(False, "outputs at half and quarter size too", scripts="export")
    verify: bool = option(False, "comparison with the checkpoint at three sizes, up to 720x1280", scripts="export")


@dataclass(frozen=True)
class Config:
    """All settings of a script, section by section.

    Raises:
        UserError: values out of range or in conflict, all on one line.
    """

    device: Device = Device()
    network: Network = Network()
    data: Data = Data()
    schedule: Schedule = Schedule()
    precision: Precision = Precision()
    launch: Launch = Launch()
    run_folder: RunFolder = RunFolder()
    evaluation: Evaluation = Evaluation()
    export: Export = Export()
    origin: str = "defaults"
    """Source of the settings and why, printed as the first line of a run."""
    debug: bool = False
    """Run operator by operator and show tracebacks."""

    def __post_init__(self):
        problems = []
        for name, value in self.options().items():
            limits = OPTIONS[name].metadata
            if limits["choices"] and value not in (*limits["choices"], UNDECIDED):
                problems.append(_not_one_of(name, value, limits["choices"]))
            problems += out_of_range(name, value, limits["low"], limits["high"])
        model_name, crop_size = self.network.model_name, self.data.crop_size
        multiple = MODELS[model_name].multiple if model_name in MODELS else 1
        if crop_size % multiple:
            problems.append(
                f"--crop_size: got {crop_size}, expected a multiple of {multiple} for {model_name} (the "
                "network has three scales)"
            )
        if self.precision.amp_level == "O1":
            problems.append("O1, a list of operators in float16, crashes in MindSpore 2.10 and is not offered")
        for name in self.evaluation.metric_names() or [self.evaluation.metrics]:
            if name not in METRIC_NAMES:
                problems.append(
                    f"--metrics: got {name!r}, expected some of {','.join(METRIC_NAMES)}.{nearest(name, METRIC_NAMES)}"
                )
        if self.data.test_list and (self.data.val_fraction or self.data.val_list):
            problems.append("--test_list names the validation pairs: leave out --val_fraction and --val_list")
        if self.launch.resume and (self.launch.pretrained or self.launch.overwrite):
            problems.append("--resume continues a run; it cannot be combined with --pretrained or --overwrite")
        if not _is_loss_scale(self.precision.loss_scale):
            problems.append(
                f"--loss_scale: got {self.precision.loss_scale!r}, expected 'dynamic' or a number of 1 to 3e38"
            )
        if problems:
            raise UserError("; ".join(problems))

    def options(self) -> dict[str, Any]:
        """Name -> value of every option."""
        return {name: getattr(getattr(self, section), name) for name, section in SECTION_OF.items()}

    def with_options(self, **options: Any) -> "Config":
        """A copy in which options, given by name, have other values."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            changed.setdefault(SECTION_OF[name], {})[name] = value
        sections = {name: dataclasses.replace(getattr(self, name), **values) for name, values in changed.items()}
        return dataclasses.replace(self, **sections)

    def to_yaml(self) -> str:
        """The resolved settings, for the run folder; `--config_path` reads them back."""
        return f"# {self.origin}\n" + yaml.safe_dump(self.options(), sort_keys=False, allow_unicode=True)


UNDECIDED = ""  # the variant of eval.py and export.py, which the file decides; no YAML or command line can give this
SECTIONS = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}
OPTIONS = {f.name: f for section in SECTIONS.values() for f in dataclasses.fields(section)}
SECTION_OF = {f.name: name for name, section in SECTIONS.items() for f in dataclasses.fields(section)}


def option_fields(script: str | None = None) -> list[dataclasses.Field]:
    """The options of one script, or of all."""
    return [f for f in OPTIONS.values() if script is None or script in f.metadata["scripts"]]


def absolute_paths(config: Config, dataset_root: Path | str) -> Config:
    """The settings of a training with absolute paths, for a record that is right from every working directory.

    Args:
        dataset_root: the folder that stands in for an empty `config.data.dataset_root`.
    """
    values = config.options() | {"dataset_root": str(dataset_root)}
    names = [f.name for f in option_fields() if f.metadata["is_path"] and values[f.name]]
    return config.with_options(
        **{name: os.path.abspath(values[name]) for name in names if (name, values[name]) != ("resume", "auto")}
    )


def _not_one_of(name: str, value: Any, known: Sequence[str]) -> str:
    return f"--{name}: got {value!r}, expected one of {', '.join(known)}.{nearest(str(value), known)}"


def _is_loss_scale(text: str) -> bool:
    try:
        return text == "dynamic" or 1 <= number(text) <= 3e38  # it becomes a float32
    except argparse.ArgumentTypeError:
        return False


EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text; put it in quotes"}


def coerce(name: str, value: Any, where: str) -> Any:
    """The value of the option `name` in its declared type, from the command line or from YAML.

    Raises:
        UserError: names the place, the value and the expected type.
    """
    kind: Any = OPTIONS[name].type
    default = OPTIONS[name].default
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


# Settings of earlier versions, which run folders and published configurations hold: (values that would change today's
# result, advice). Any other value is ignored with one notice.
RETIRED: dict[str, tuple[tuple[str, ...], str]] = {
    "eval_use_data_sink": ((), "leave it out"),
    "lr_scaling": (("linear",), "multiply learning_rate by the number of ranks instead"),
    "worker_type": ((), "leave it out"),
}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The settings of one YAML file without those in `RETIRED`.

    Raises:
        UserError: names the file, and the unknown or repeated key or the value of a wrong type.
    """
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for setting in _settings(path):
        key, where = setting.key, f"{path}: {setting.key}"
        if key in RETIRED:
            refused, advice = RETIRED[key]
            if setting.node.value in refused:
                raise UserError(f"{where}: {setting.node.value} is no longer offered; remove the line and {advice}")
            continue
        if key not in OPTIONS:
            raise UserError(f"{path}: unknown key {setting.shown_key}.{nearest(key[:80], OPTIONS)}")
        if key in lines:
            raise UserError(f"{where} stands in line {lines[key]} and in line {setting.line}. Remove one of them.")
        lines[key] = setting.line
        values[key] = coerce(key, setting.value(where), where)
    return values


def _settings(path: Path | str) -> list[Setting]:
    if Path(path).is_fifo():  # opening it may wait forever
        raise UserError(f"{path}: got a pipe, expected a YAML file of settings")
    try:
        return read_settings(path)
    except OSError as e:
        raise UserError(f"--config_path: cannot read {path} ({e.strerror}); shipped ones are in {CONFIG_DIR}") from e


def _retired_note(*paths: Path | str | None) -> str:
    found = {path: [s.key for s in _settings(path) if s.key in RETIRED] for path in paths if path}
    return "".join(
        f"; ignored in {path}, no longer settings: {first_few(found[path])}" for path in found if found[path]
    )


def make_parser(script: str, config: Config = Config()) -> ArgumentParser:  # noqa: B008
    """The command line of one script, whose help shows the values in `config`."""
    parser = ArgumentParser(
        f"{script}.py of MIMO-UNet for MindSpore. Defaults < --config_path < --recipe < options. [Values] are those of "
        f"this machine and command: {config.origin}",
        retired={name: advice for name, (_, advice) in RETIRED.items()},
    )
    parser.add_argument(
        "--config_path",
        metavar="FILE",
        help="YAML file with settings; default: that of the best device present. A resumed run keeps its own settings "
        "and takes only the device from here",
    )
    parser.add_argument(
        "--recipe", metavar="FILE", help="YAML file that overrides some settings, or its name in configs/recipes"
    )
    values = config.options()
    for f in option_fields(script):
        choices = f" ({' | '.join(f.metadata['choices'])})" if f.metadata["choices"] else ""
        value = f" [{values[f.name]}]" if values[f.name] != "" else ""
        kind: Any = f.type
        parser.add_argument(
            *(WEIGHTS_OPTIONS if f.name == "ckpt_file" else [f"--{f.name}"]),
            group=SECTION_OF[f.name].replace("_", " "),
            type=None if kind is str else str,  # `coerce` reads numbers and switches like those of YAML
            metavar=kind.__name__.upper(),
            nargs="?" if kind is bool else None,
            const="true" if kind is bool else None,
            help=f"{f.metadata['help']}{choices}{value}".replace("%", "%%"),
        )
    return parser


def load_config(
    script: str, argv: Sequence[str] | None, best_device: Callable[[], tuple[str, str]] = lambda: ("CPU", "the default")
) -> Config:
    """Read the command line and the YAML files that it names. `--help` prints the values that a run would use.

    Args:
        script: one of `SCRIPTS`; decides which options exist.
        argv: arguments without the program's name; None reads the process's own.
        best_device: returns (device target, reason); called only when neither a config nor a device is named.

    Raises:
        UserError: unknown option, key or value, with the nearest known one.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    others = [word for word in argv if word not in ("-h", "--help")]
    try:
        config = _resolve(script, others, best_device)
    except UserError:
        if others == argv:
            raise
        config = _resolve(script, [], best_device)  # help is what a user with a wrong command asks for
    if others != argv:
        make_parser(script, config).print_help()
        raise SystemExit(0)
    return config


def _resolve(script: str, argv: Sequence[str], best_device: Callable[[], tuple[str, str]]) -> Config:
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
            raise UserError(_not_one_of("device_target", target, DEVICES))
        config_path = CONFIG_DIR / f"{target.lower()}_config.yaml"
        values, origin = read_yaml(config_path) | changes, f"configs/{config_path.name}: {why}"
    if recipe and not resumed:
        origin += f"; recipe {recipe.name}"
    origin += _retired_note(config_path, recipe, resumed)
    if script != "train" and "model_name" not in given:
        values["model_name"] = UNDECIDED  # that of YAML is a setting of the training
    return Config(origin=origin, debug=args["debug"]).with_options(**(values | given))


def resumed_run(resume: str, named: str | None, values: dict[str, Any]) -> tuple[Path, Path | None]:
    """The folder of a resumed run, and the `config.yaml` with its settings if there is one.

    A checkpoint's own folder is the run folder unless the command line names one: a folder from a configuration, or the
    default, may hold another run. A checkpoint that continues in a new folder brings its settings along.

    Args:
        named: --ckpt_save_directory of the command line.
        values: settings of the configuration; they name the folder that `auto` searches.
    """
    own = Path(resume).parent if resume != "auto" else None
    folder = Path(named or own or values.get("ckpt_save_directory", RunFolder.ckpt_save_directory))
    settings = [f / "config.yaml" for f in (folder, own) if f]
    return folder, next((path for path in settings if path.is_file()), None)


def resumed_settings(
    path: Path, files: str, asked: dict[str, Any], given: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The settings of the resumed run and a description of their source.

    Launchers always name their device's configuration, and a run may have been started with options on top of it. So
    only the device, which belongs to a launch and not to a run, is taken from the `asked` settings.

    Args:
        files: names of the configuration files, "" = none.
        asked: settings in these files.
        given: options of the command line; the description leaves them out.
    """
    values = {name: value for name, value in read_yaml(path).items() if SECTION_OF[name] != "launch"}
    origin = f"{path}, of the run that is resumed"
    if files:
        device = asked.get("device_target")
        taken = f"device_target {device} and nothing else" if device else "nothing"
        others = [
            name
            for name, value in asked.items()
            if value != values.get(name, OPTIONS[name].default)
            and SECTION_OF[name] != "launch"
            and name not in (*given, "device_target")
        ]
        origin += f"; it takes {taken} from {files}"
        if others:
            origin += f", which differs in {first_few(others)} (options on the command line do change them)"
        if device:
            values["device_target"] = device
    return values, origin


def find_recipe(name: str) -> Path:
    """A recipe, given as a file or by its name in configs/recipes."""
    recipes = {p.stem: p for p in sorted((CONFIG_DIR / "recipes").glob("*.yaml"))}
    path = recipes.get(name, Path(name))
    if not path.is_file():
        raise UserError(
            f"--recipe: no file {name}; recipes by name: {', '.join(recipes) or 'none'}.{nearest(name, recipes)}"
        )
    return path
