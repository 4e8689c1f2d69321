import dataclasses
import math
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src import __version__
from src.config import (
    CONFIG_DIR,
    DEVICES,
    METRIC_NAMES,
    ROOT,
    SCRIPTS,
    SECTION_OF,
    Config,
    absolute_paths,
    coerce,
    load_config,
    option_fields,
    read_yaml,
)
from src.errors import UserError

DEFAULTS = SimpleNamespace(**Config().options())
YAML_FILES = sorted(CONFIG_DIR.rglob("*.yaml"))


@pytest.fixture
def write_yaml(tmp_path):
    """write_yaml("seed: 3") -> the path of a file with that text."""

    def write(text, name="settings.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def load(*args):
    """`load_config` with all options side by side."""
    config = load_config(*args)
    return SimpleNamespace(**config.options(), origin=config.origin, debug=config.debug)


def message(function, *args, **kwargs):
    """The text of the UserError that the call raises: one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def run_script(script, *args):
    return subprocess.run(
        [sys.executable, f"{script}.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


# ---- the shipped files


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda p: str(p.relative_to(CONFIG_DIR)))
def test_shipped_yaml_loads(path):
    assert read_yaml(path)
    assert load("train", ["--config_path", str(path)]).origin.startswith(str(path))


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_has_a_config_of_its_own(device):
    config = load("train", ["--config_path", str(CONFIG_DIR / f"{device.lower()}_config.yaml")])
    assert config.device_target == device
    assert config.export_device_target == device


def test_gpu_config_is_the_papers_schedule():
    config = load("train", ["--device_target", "GPU"])
    found = (config.learning_rate, config.train_batch_size, config.crop_size, config.epochs_num, config.lr_decay_epochs)
    assert found == (1e-4, 4, 256, 3000, 500)
    assert (config.amp_level, config.fft_weight) == ("O0", 0.1)


# ---- unknown names


def test_unknown_yaml_key_names_the_nearest(write_yaml):
    path = write_yaml("learning_rat: 0.1")
    text = message(read_yaml, path)
    assert path in text and "'learning_rat'" in text and "Did you mean learning_rate?" in text


def test_origin_and_debug_are_no_yaml_keys(write_yaml):
    for key in ("origin", "debug"):
        assert f"unknown key '{key}'" in message(read_yaml, write_yaml(f"{key}: true"))


@pytest.mark.parametrize("argv", [["--epoch_num", "3"], ["--epoch_num=3"], ["--seed", "1", "--epoch_num", "3"]])
def test_unknown_option_names_the_nearest(argv):
    assert "unknown option --epoch_num. Did you mean --epochs_num?" in message(load_config, "train", argv)


def test_options_are_not_abbreviated():
    for script, word, meant in (
        ("train", "--epochs", "--epochs_num"),
        ("train", "--lr", "--learning_rate"),
        ("eval", "--ckpt", "--ckpt_file"),
        ("export", "--format", "--export_file_format"),
    ):
        assert f"unknown option {word}. Did you mean {meant}? " in message(load_config, script, [word, "3"])


def test_option_of_another_script_is_unknown():
    assert "unknown option --crop_size" in message(load_config, "eval", ["--crop_size", "64"])
    assert load("train", ["--crop_size", "64"]).crop_size == 64


def test_yaml_may_hold_options_of_every_script(write_yaml):
    path = write_yaml("crop_size: 64\nckpt_file: a.ckpt")
    assert all(load(script, ["--config_path", path]).crop_size == 64 for script in SCRIPTS)


@pytest.mark.parametrize("given,meant", [("cpu", "CPU"), ("gpu", "GPU"), ("ascend", "Ascend")])
def test_wrong_device_names_the_nearest(given, meant):
    text = message(load_config, "train", ["--device_target", given])
    assert f"--device_target: got '{given}', expected one of CPU, GPU, Ascend. Did you mean {meant}?" in text


def test_wrong_model_name_lists_the_known():
    text = message(load_config, "train", ["--model_name", "MIMO-UNet+"])
    known = "MIMO-UNet, MIMO-UNetPlus, MIMO-UNetLite"
    assert f"--model_name: got 'MIMO-UNet+', expected one of {known}. Did you mean MIMO-UNet?" in text


# ---- types


DIGITS = "a whole number in digits, without leading zeros"
WRONG = [
    ("seed", "abc", DIGITS),
    ("seed", "1.5", DIGITS),
    ("seed", "1e3", DIGITS),
    ("seed", "0x10", DIGITS),
    ("seed", "010", DIGITS),
    ("seed", "1_000", DIGITS),
    ("seed", "1:30", DIGITS),
    ("seed", "５", DIGITS),
    ("learning_rate", "1e400", "a number"),
    ("learning_rate", "1_0", "a number"),
    ("learning_rate", "fast", "a number"),
    ("learning_rate", "nan", "a number"),
    ("fft_weight", "inf", "a number"),
    ("overwrite", "maybe", "true or false"),
]


@pytest.mark.parametrize("name,value,expected", WRONG)
def test_wrong_type_on_the_command_line(name, value, expected):
    text = message(load_config, "train", [f"--{name}", value])
    assert text == f"--{name}: got {value!r}, expected {expected}"


@pytest.mark.parametrize("name,value,expected", WRONG)
def test_wrong_type_in_yaml(write_yaml, name, value, expected):
    path = write_yaml(f"{name}: {value}")
    assert message(read_yaml, path) == f"{path}: {name}: got {value!r}, expected {expected}"


@pytest.mark.parametrize(
    "line", ["seed: true", "seed: null", "seed: '5 '", "seed:", "seed: [1]", "learning_rate: true",
             "learning_rate: .nan", "learning_rate: {a: 1}",
             "overwrite: 2", "overwrite:", "dataset_root: true", "dataset_root: [a, b]", "dataset_root: off",
             "ckpt_save_directory: ''", "dataset_root: '  '", 'dataset_root: "a\\0b"',
             "dataset_root: !name x", "seed: !!binary 5"],
)  # fmt: skip
def test_yaml_types_are_not_guessed(write_yaml, line):
    text = message(read_yaml, write_yaml(line))
    assert f"{line.split(':')[0]}: got" in text and ", expected " in text


def test_exponent_without_a_point_is_a_number(write_yaml):
    assert yaml.safe_load("1e-4") == "1e-4"  # what makes the coercion necessary
    values = read_yaml(write_yaml("learning_rate: 1e-4\nfft_weight: 1"))
    assert values == {"learning_rate": 1e-4, "fft_weight": 1.0}
    assert all(type(v) is float for v in values.values())


def test_numbers_for_a_text_field_become_texts(write_yaml):
    assert read_yaml(write_yaml("loss_scale: 1024")) == {"loss_scale": "1024"}
    assert read_yaml(write_yaml("dataset_root:")) == {"dataset_root": ""}


@pytest.mark.parametrize(
    "value,expected",
    [
        ("true", True),
        ("True", True),
        ("yes", True),
        ("1", True),
        (True, True),
        (1, True),
        ("false", False),
        ("no", False),
        ("0", False),
        (False, False),
        (0, False),
    ],
)
def test_forms_of_a_switch(value, expected):
    assert coerce("overwrite", value, "--overwrite") is expected


def test_switch_without_a_value_is_on():
    assert load("train", ["--overwrite"]).overwrite is True
    assert load("train", ["--overwrite", "--seed", "3"]).overwrite is True
    assert load("train", ["--overwrite", "false"]).overwrite is False
    assert load("train", []).overwrite is False


def usable(value):
    """Whether it can name a file, if it is a text."""
    return not isinstance(value, str) or bool(value.strip() and "\0" not in value and len(value.encode()) < 256)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is no text that a file can hold
# PyYAML changes some control characters.
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=60).filter(str.strip)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.dates() | st.lists(st.integers())


@settings(max_examples=200)
@example(next(f for f in option_fields() if f.type is float), 10**400)
@given(st.sampled_from(option_fields()), SCALARS)
def test_any_value_becomes_the_declared_type_or_is_reported_in_one_line(field, value):
    try:
        given_back = coerce(field.name, value, f"--{field.name}")
    except UserError as e:
        assert str(e).startswith(f"--{field.name}: got ") and "\n" not in str(e)
        assert type(value) is not field.type or value != value or value in (math.inf, -math.inf) or not usable(value)
    else:
        assert type(given_back) is field.type and not isinstance(value, list) and (value == "" or usable(value))
        assert field.type is str or math.isfinite(given_back)
        assert type(value) is not field.type or given_back == value


@given(TEXTS)
def test_any_text_as_yaml_is_settings_or_one_line(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "settings.yaml")
        path.write_text(text, encoding="utf-8")
        try:
            assert read_yaml(path).keys() <= {f.name for f in option_fields()}
        except UserError as e:
            assert str(e).startswith(str(path)) and "\n" not in str(e)


def test_every_value_has_its_declared_type():
    for path in YAML_FILES:
        config = load("train", ["--config_path", str(path)])
        for f in option_fields():
            assert type(getattr(config, f.name)) is f.type, f"{path.name}: {f.name}"


LAUGHS = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
NO_SETTINGS = {
    "- 1\n- 2": "got a list, expected lines of 'key: value'",
    "just words": "got 'just words', expected lines of 'key: value'",
    "a: b: c": "not a YAML file",
    "a: [": "not a YAML file",
    "seed: 2020-99-99": f"seed: got '2020-99-99', expected {DIGITS}",
    "seed: 3\nnum_res: 1\nseed: 4": "seed stands in line 1 and in line 3. Remove one of them.",
    "seed: 3\n---\nseed: 4": "not a YAML file",
    "\tseed: 3": "not a YAML file",
    "seed:\n  a: 3": "seed: got keys and values, expected one value",
    "7: 3": "unknown key '7'",
    "? [1]\n: 3": "unknown key a list",
    "<<: {seed: 3}": "unknown key '<<'",
    "seed: " + 20_000 * "[": "not a YAML file of settings (too many nested brackets)",
    LAUGHS.replace("i:", "seed:"): "unknown key 'a'",
    LAUGHS.replace("a:", "seed:"): "seed: got a list, expected one value",
    "#" + 2**20 * "x": "larger than 1048576 bytes, not a YAML file of settings",
}


@pytest.mark.parametrize("text", NO_SETTINGS, ids=lambda text: text[:20])
def test_yaml_that_is_no_settings_file(write_yaml, text):
    path = write_yaml(text)
    assert message(read_yaml, path).startswith(f"{path}: {NO_SETTINGS[text]}")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00seed", "seed: 3".encode("utf-16"), b"seed: 3\x00", b"\x89PNG\r\n"])
def test_binary_yaml(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    assert "not a YAML file" in message(read_yaml, path)


def test_yaml_values_are_read_as_they_are_written(write_yaml):
    text = "\ufeffdataset_root: 2020-01-02\nexport_file_name: 1:30\nckpt_file: '010'\noverwrite: on\nforce: no\nseed: 5"
    expected = {"dataset_root": "2020-01-02", "export_file_name": "1:30", "ckpt_file": "010", "overwrite": True}
    assert read_yaml(write_yaml(text)) == expected | {"force": False, "seed": 5}


# ---- empty and unusable texts


@pytest.mark.parametrize("option", ["--dataset_root", "--config_path"])
@pytest.mark.parametrize("value, expected", [
    ("", "'', expected some text (is a shell variable unset?)"), (" \t", "' \\t', expected some text"),
    ("a\0b", "'a\\x00b', expected text without the character NUL"),
    (f"runs/{300 * 'x'}/a", f"'runs/{32 * 'x'}...{36 * 'x'}/a', a name of 300 bytes in a path of 307"),
])  # fmt: skip
def test_text_that_names_no_file(option, value, expected):
    assert message(load_config, "train", [option, value]).startswith(f"{option}: got {expected}")
    assert message(load_config, "train", [f"{option}={value}"]).startswith(f"{option}: got {expected}")


def test_missing_config_names_the_shipped_folder(tmp_path):
    text = message(load_config, "train", ["--config_path", str(tmp_path / "none.yaml")])
    assert "--config_path" in text and "none.yaml" in text and "No such file" in text and str(CONFIG_DIR) in text


def test_empty_yaml_gives_the_defaults(write_yaml):
    config = load_config("train", ["--config_path", write_yaml("# nothing\n")])
    assert dataclasses.replace(config, origin="defaults") == Config()


# ---- ranges


def test_several_problems_are_reported_together():
    argv = [
        "--crop_size",
        "30",
        "--epochs_num",
        "0",
        "--learning_rate",
        "0",
        "--loss_scale",
        "huge",
        "--amp_level",
        "O1",
        "--ema_decay",
        "1",
    ]
    text = message(load_config, "train", argv)
    assert "--crop_size: got 30, expected a multiple of 4" in text
    assert "--epochs_num: got 0, expected 1 to 1000000" in text
    assert "--learning_rate: got 0.0, expected 1e-12 to 1" in text
    assert "--loss_scale: got 'huge', expected 'dynamic' or a number of 1 to 3e38" in text
    assert "--amp_level: got 'O1', expected one of O0, O2, O3" in text and "crashes in MindSpore" in text
    assert "--ema_decay: got 1.0, expected 0 to 0.999999" in text


@pytest.mark.parametrize(
    "name,value",
    [
        ("keep_checkpoint_max", "0"),
        ("num_res", "-1"),
        ("fft_weight", "-0.1"),
        ("crop_size", "12"),
        ("loss_scale", "0.5"),
        ("loss_scale", "inf"),
        ("loss_scale", "nan"),
        ("lr_schedule", "linear"),
    ],
)
def test_out_of_range(name, value):
    assert message(load_config, "train", [f"--{name}", value]).startswith(f"--{name}: got ")


@pytest.mark.parametrize("field", [f for f in option_fields() if f.type in (int, float)], ids=lambda f: f.name)
def test_every_number_has_a_largest_value_which_the_error_shows(field):
    low, high = field.metadata["low"], field.metadata["high"]
    for value in (high + 1, 10**18):
        text = message(Config().with_options, **{field.name: field.type(value)})
        assert f"--{field.name}: got {field.type(value)}, expected {low} to {high}" in text


def test_edges_of_the_ranges_are_legal():
    argv = ["--crop_size=16", "--fft_weight=0", "--num_res=0", "--val_acc_monitor_interval=0", "--loss_scale=1"]
    assert load("train", argv).crop_size == 16


def test_yaml_values_are_checked_too(write_yaml):
    assert "--crop_size: got 30" in message(load_config, "train", ["--config_path", write_yaml("crop_size: 30")])


# ---- precedence


def test_defaults_yaml_recipe_command_line(write_yaml):
    config_path = write_yaml("seed: 2\nepochs_num: 2\ncrop_size: 64", "device.yaml")
    recipe = write_yaml("seed: 3\nepochs_num: 3", "recipe.yaml")
    argv = ["--config_path", config_path, "--recipe", recipe, "--seed", "4"]
    config = load("train", argv)
    assert (config.seed, config.epochs_num, config.crop_size) == (4, 3, 64)
    assert config.train_batch_size == DEFAULTS.train_batch_size
    assert config.origin == f"{config_path}, as asked; recipe recipe.yaml"


def test_default_given_on_the_command_line_still_wins(write_yaml):
    argv = ["--config_path", write_yaml("seed: 2"), "--seed", str(DEFAULTS.seed)]
    assert load("train", argv).seed == DEFAULTS.seed


def test_unknown_recipe_is_named():
    assert message(load_config, "train", ["--recipe", "no_such_recipe"]).startswith("--recipe: no file no_such_recipe;")


@pytest.mark.parametrize("target", DEVICES)
def test_best_device_is_asked_when_nothing_is_named(target):
    config = load("train", [], lambda: (target, "the reason"))
    assert config.device_target == target
    assert config.origin == f"configs/{target.lower()}_config.yaml: the reason"


def test_explicit_choice_wins_over_the_best_device(write_yaml):
    def fail():
        raise AssertionError("asked for the best device although one was named")

    config = load("train", ["--device_target", "GPU"], fail)
    assert (config.device_target, config.crop_size) == ("GPU", 256)
    assert config.origin == "configs/gpu_config.yaml: as asked"
    assert load("train", ["--config_path", write_yaml("device_target: Ascend")], fail).device_target == "Ascend"
    argv = ["--config_path", write_yaml("device_target: Ascend"), "--device_target", "CPU"]
    assert load("train", argv, fail).device_target == "CPU"


def test_process_arguments_are_read_only_when_asked(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "77"])
    assert load("train", []).seed == DEFAULTS.seed
    assert load("train", None).seed == 77


def test_debug_is_an_option_of_every_script():
    for script in SCRIPTS:
        assert load(script, ["--debug"]).debug is True
        assert load(script, []).debug is False


# ---- resuming


@pytest.fixture
def old_run(tmp_path):
    """A run folder with the settings of an old run."""
    argv = ["--device_target", "CPU", "--seed", "7", "--crop_size", "32", "--max_steps", "5", "--overwrite"]
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.yaml").write_text(load_config("train", [*argv, "--pretrained", "p.ckpt"]).to_yaml())
    return folder


def no_device():
    raise AssertionError("asked for the best device although the run knows its own")


def test_resume_inherits_the_settings_of_the_run(old_run):
    config = load("train", ["--ckpt_save_directory", str(old_run), "--resume", "auto"], no_device)
    assert (config.seed, config.crop_size, config.device_target, config.resume) == (7, 32, "CPU", "auto")
    assert (config.max_steps, config.overwrite, config.pretrained) == (0, False, "")  # of one launch only
    assert config.origin == f"{old_run / 'config.yaml'}, of the run that is resumed"


def test_run_folder_of_a_resumed_checkpoint_is_its_own_unless_given(old_run, tmp_path, write_yaml):
    resume = ["--resume", str(old_run / "best.ckpt")]
    config = load("train", resume, no_device)
    assert (config.ckpt_save_directory, config.seed) == (str(old_run), 7)
    # also where a configuration is given, with a folder or without, as by the launchers
    for text in ("seed: 2", "ckpt_save_directory: elsewhere"):
        for option in ("--config_path", "--recipe"):
            assert load("train", [*resume, option, write_yaml(text)]).ckpt_save_directory == str(old_run)
    config = load("train", [*resume, "--ckpt_save_directory", str(tmp_path / "new")], no_device)
    assert (config.ckpt_save_directory, config.seed) == (str(tmp_path / "new"), 7)  # a branch of that run


def test_resume_auto_looks_into_the_run_folder_that_the_configuration_names(old_run, write_yaml):
    path = write_yaml(f"ckpt_save_directory: {old_run}\nresume: auto")
    config = load("train", ["--config_path", path], no_device)
    assert (config.ckpt_save_directory, config.resume, config.seed) == (str(old_run), "auto", 7)
    assert load("eval", ["--config_path", path], no_device).seed == DEFAULTS.seed  # of training alone


def test_command_line_wins_over_the_resumed_settings(old_run):
    config = load("train", ["--ckpt_save_directory", str(old_run), "--resume", "auto", "--seed", "8"])
    assert (config.seed, config.crop_size) == (8, 32)


def test_configuration_of_a_launcher_gives_a_resumed_run_its_device_alone(old_run, write_yaml):
    argv = ["--ckpt_save_directory", str(old_run), "--resume", "auto", "--config_path"]
    path = write_yaml("device_target: GPU\ncrop_size: 64\nseed: 7\nepochs_num: 9")
    config = load("train", [*argv, path], no_device)
    assert (config.device_target, config.crop_size, config.epochs_num) == ("GPU", 32, 100)
    assert config.origin == (
        f"{old_run / 'config.yaml'}, of the run that is resumed; it takes device_target GPU and nothing else from "
        f"{path}, which differs in crop_size, epochs_num (options on the command line do change them)"
    )
    path = write_yaml("crop_size: 32\nepochs_num: 9")
    config = load("train", [*argv, path, "--epochs_num", "12"], no_device)
    assert (config.device_target, config.epochs_num) == ("CPU", 12)
    assert config.origin == f"{old_run / 'config.yaml'}, of the run that is resumed; it takes nothing from {path}"
    # a recipe too starts runs and does not change them
    recipe = write_yaml("clip_norm: 1\ncrop_size: 32", "recipe.yaml")
    config = load("train", [*argv, path, "--recipe", recipe], no_device)
    assert (config.clip_norm, config.epochs_num) == (0, 100)
    assert f"it takes nothing from {path} and {recipe}, which differs in epochs_num, clip_norm (opt" in config.origin
    # where there is no run yet, it starts one
    config = load("train", ["--ckpt_save_directory", "new", "--resume", "auto", "--config_path", path])
    assert (config.epochs_num, config.origin) == (9, f"{path}, as asked")


def test_resumed_settings_with_a_key_that_is_no_more_name_it(old_run):
    with open(old_run / "config.yaml", "a") as f:
        f.write("warmup_epochs: 3\n")
    text = message(load_config, "train", ["--ckpt_save_directory", str(old_run), "--resume", "auto"])
    assert str(old_run / "config.yaml") in text and "unknown key 'warmup_epochs'" in text


def test_a_run_of_an_earlier_version_resumes_and_its_retired_settings_are_reported(old_run):
    with open(old_run / "config.yaml", "a") as f:
        f.write("lr_scaling: none\neval_use_data_sink: false\nworker_type: process\n")
    argv = ["--ckpt_save_directory", str(old_run), "--resume", "auto"]
    config = load("train", argv, no_device)
    assert (config.seed, config.crop_size) == (7, 32)
    assert config.origin == (
        f"{old_run / 'config.yaml'}, of the run that is resumed; ignored in {old_run / 'config.yaml'}, no longer "
        "settings: lr_scaling, eval_use_data_sink, worker_type"
    )
    path = old_run / "config.yaml"
    path.write_text(path.read_text().replace("lr_scaling: none", "lr_scaling: linear"))
    text = message(load_config, "train", argv)
    assert "lr_scaling: linear is no longer offered; remove the line and multiply learning_rate by the number" in text


def test_a_retired_option_on_the_command_line_is_an_error_with_what_to_do():
    assert "Earlier versions had it: leave it out. (--help" in message(load_config, "eval", ["--eval_use_data_sink"])
    assert "--lr_scaling. Earlier versions had it: multiply" in message(load_config, "train", ["--lr_scaling=linear"])


@pytest.mark.parametrize("other", [["--pretrained", "p.ckpt"], ["--overwrite"]])
def test_resume_goes_with_neither_pretrained_nor_overwrite(old_run, other):
    text = message(load_config, "train", ["--ckpt_save_directory", str(old_run), "--resume", "auto", *other])
    assert "--resume continues a run; it cannot be combined with" in text


# ---- the record in the run folder


def test_paths_become_absolute_so_that_a_run_can_be_resumed_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {
        "train_list": "lists/../a.txt",
        "test_list": "/somewhere/t.txt",
        "sharp_photos": "photos",
        "blur_directory": "b",
        "sharp_directory": "s",
        "pretrained": "p.ckpt",
    }
    config = absolute_paths(Config().with_options(**options), "data")
    assert config.data.dataset_root == f"{tmp_path}/data"
    found = config.options()
    assert {name: found[name].replace(f"{tmp_path}/", "") for name in options} == options | {"train_list": "a.txt"}
    assert config.run_folder.ckpt_save_directory == f"{tmp_path}/runs/MIMO-UNet"
    assert absolute_paths(config, config.data.dataset_root) == config
    # what is no path stays
    resumed = Config().with_options(resume="auto")
    config = absolute_paths(resumed, "")
    assert (config.data.dataset_root, config.data.train_list, config.launch.resume) == ("", "", "auto")
    assert dataclasses.replace(config, run_folder=resumed.run_folder) == resumed
    assert absolute_paths(Config().with_options(resume="a.ckpt"), "").launch.resume == f"{tmp_path}/a.ckpt"


def test_to_yaml_reads_back(write_yaml):
    argv = [
        "--learning_rate",
        "1e-5",
        "--dataset_root",
        "Größe: #1 'a'",
        "--overwrite",
        "--loss_scale",
        "1024",
        "--pretrained",
        "null",
    ]
    config = load_config("train", argv)
    text = config.to_yaml()
    assert text.splitlines()[0] == f"# {config.origin}"
    again = load_config("train", ["--config_path", write_yaml(text)])
    assert dataclasses.replace(again, origin=config.origin) == config


def values_of(field):
    """Legal values of an option, where they do not depend on others."""
    special = {
        "crop_size": st.integers(2, 1000).map(lambda n: 8 * n),
        "loss_scale": st.sampled_from(["dynamic", "1", "65536.0"]),
        "metrics": st.lists(st.sampled_from(METRIC_NAMES), min_size=1).map(",".join), "test_list": None,
        "resume": None,
    }  # fmt: skip
    if field.name in special:
        return special[field.name]
    low, high = field.metadata["low"], field.metadata["high"]
    return {
        bool: st.booleans(), int: st.integers(low, high if field.type is int else None), float: st.floats(low, high),
        str: st.sampled_from(field.metadata["choices"]) if field.metadata["choices"] else LINES,
    }[field.type]  # fmt: skip


@settings(max_examples=100)
@given(
    st.fixed_dictionaries({}, optional={f.name: v for f in option_fields() if (v := values_of(f)) is not None}),
    st.sampled_from(SCRIPTS),
)
def test_any_settings_come_back_from_the_record_and_from_the_command_line(values, script):
    config = Config().with_options(**values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert Config().with_options(**read_yaml(path)) == config
    own = {f.name: values[f.name] for f in option_fields(script) if f.name in values}
    again = load(script, [f"--{name}={value}" for name, value in own.items()])
    assert {name: getattr(again, name) for name in own} == own


def test_crops_of_lite_are_multiples_of_8():
    assert load("train", ["--crop_size", "20"]).crop_size == 20
    text = message(load_config, "train", ["--crop_size", "20", "--model_name", "MIMO-UNetLite"])
    assert text.startswith("--crop_size: got 20, expected a multiple of 8 for MIMO-UNetLite")


def test_config_cannot_be_written_to():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().schedule.seed = 2


# ---- the options and the scripts


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_option_under_its_section_with_the_value_that_a_run_uses(script):
    done = run_script(script, *(() if script == "export" else ("--device_target", "CPU")), "--help")
    assert done.returncode == 0, done.stderr
    words = re.sub(r"\s+", " ", done.stdout)
    values = load_config(script, [] if script == "export" else ["--device_target", "CPU"]).options()
    for f in option_fields(script):
        section = words[words.index(f" {SECTION_OF[f.name].replace('_', ' ')}: --") :]
        assert f"--{f.name} " in section
        assert values[f.name] == "" or f"[{values[f.name]}]" in section


def test_help_shows_the_settings_of_the_named_files_whatever_else_is_wrong(write_yaml, capsys):
    for argv, shown in (
        (["--config_path", write_yaml("crop_size: 64"), "--seed", "5", "-h"], ["[64]", "[5]"]),
        (["--help", "--crop_siez", "64"], ["[128]"]),
    ):
        with pytest.raises(SystemExit) as caught:
            load_config("train", argv)
        out = capsys.readouterr().out
        assert caught.value.code == 0 and all(value in out for value in shown)


@pytest.mark.parametrize("script", ["eval", "export"])
@pytest.mark.parametrize("name", ["--ckpt_file", "--model", "--pretrained"])
def test_weights_have_one_option_with_aliases(script, name):
    assert load(script, [name, "a.ckpt"]).ckpt_file == "a.ckpt"


def test_only_the_command_line_names_the_variant_of_a_file(write_yaml):
    path = write_yaml("model_name: MIMO-UNetPlus")
    assert load("eval", ["--config_path", path]).model_name == load("export", []).model_name == ""
    assert load("eval", ["--config_path", path, "--model_name", "MIMO-UNet"]).model_name == "MIMO-UNet"
    assert load("train", ["--config_path", path]).model_name == "MIMO-UNetPlus"


@pytest.mark.parametrize("script", SCRIPTS)
def test_version(script):
    done = run_script(script, "--version")
    assert (done.returncode, done.stdout) == (0, f"MIMO-UNet for MindSpore {__version__}\n")


def test_help_is_quick():
    def processor_seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # not the clock's: other tests run at the same time
        return used.ru_utime + used.ru_stime

    before = processor_seconds()
    run_script("train", "--help")
    assert processor_seconds() - before < 1  # 0.4 s; with MindSpore 3 s


def test_importing_reads_no_arguments_and_no_mindspore(tmp_path):
    code = """
import sys

class Trap(list):
    def fail(self, *_):
        raise AssertionError("sys.argv was read during an import")
    __getitem__ = __iter__ = __len__ = fail

sys.path.insert(0, sys.argv[1])
sys.argv = Trap()
import src.config, src.device, src.errors, src.evaluation, src.metric, src.drawing, src.data.pairs, src.restore
import src.run_folder
import train, eval, export
print("mindspore" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert not list(tmp_path.iterdir())
