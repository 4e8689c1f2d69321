import errno
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Tensor

from src import checkpoint
from src.checkpoint import fill_network, identify, load_network, parameter_arrays, read_checkpoint, save_checkpoint
from src.config import ROOT
from src.errors import UserError
from src.init_weights import init_weights
from src.mimo_unet import MODELS, build_net

ARRAYS = {
    "weight": np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32),
    "half": np.float16([1.5, -2.25, 1e-4]),
    "special": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
    "global_step": np.array(123, np.int32),
    "long": np.arange(3, dtype=np.int64),
    "flag": np.array(True),
}
META = {"variant": "MIMO-UNet", "step": 123, "best_psnr": 31.123456789012345, "third": 1 / 3, "name": "ü", "none": None}


@pytest.fixture
def path(tmp_path, cpu):
    """A checkpoint of `ARRAYS`."""
    save_checkpoint(tmp_path / "good.ckpt", ARRAYS, META)
    return tmp_path / "good.ckpt"


@pytest.fixture(scope="module")
def network(cpu):
    net = build_net("MIMO-UNet", 1)
    init_weights(net, 3)
    return net


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def message(function, *args):
    """The text of the UserError that the call raises: one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert found[name].tobytes() == array.tobytes(), name


# ---- what is saved comes back


def test_arrays_come_back_bit_by_bit(path):
    arrays, _ = read_checkpoint(str(path))
    assert_same(arrays, ARRAYS)


def test_meta_comes_back_in_full_precision(path):
    assert read_checkpoint(path)[1] == META


def test_meta_without_a_best_score_yet(tmp_path, cpu):
    save_checkpoint(tmp_path / "a.ckpt", {"a": np.zeros(1)}, {"best_psnr": float("-inf")})
    assert read_checkpoint(tmp_path / "a.ckpt")[1] == {"best_psnr": float("-inf")}


def test_saving_again_replaces_the_file(path):
    save_checkpoint(path, {"a": np.ones(2, np.float32)}, {"step": 2})
    arrays, meta = read_checkpoint(path)
    assert (list(arrays), meta) == (["a"], {"step": 2})


def test_file_is_an_ordinary_one_and_alone(path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert names(path.parent) == ["good.ckpt"]


def test_checkpoint_of_another_program_has_no_meta(tmp_path, cpu):
    import mindspore as ms

    ms.save_checkpoint([{"name": "a", "data": Tensor(np.ones(2, np.float32))}], str(tmp_path / "a.ckpt"))
    arrays, meta = read_checkpoint(tmp_path / "a.ckpt")
    assert (arrays["a"].tolist(), meta) == ([1, 1], {})


@pytest.mark.parametrize("text", ["no json", "[1]", "3"])
def test_meta_of_another_program_is_ignored(tmp_path, cpu, text):
    import mindspore as ms

    one = [{"name": "a", "data": Tensor(np.ones(2, np.float32))}]
    ms.save_checkpoint(one, str(tmp_path / "a.ckpt"), append_dict={"meta": text})
    assert read_checkpoint(tmp_path / "a.ckpt")[1] == {}


# ---- a failing write


def fail_half_way(*args, **kwargs):
    target = args[1]
    for name in (target, target.replace(".tmp.ckpt", ".tmp.tmp")):  # the framework's own temporary file is the second
        with open(name, "wb") as f:
            f.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_the_old_file_alone(path, monkeypatch):
    monkeypatch.setattr(checkpoint.ms, "save_checkpoint", fail_half_way)
    text = message(save_checkpoint, path, {"a": np.ones(500_000)}, {})
    assert f"cannot save {path} (No space left on device: 4 MB are needed, " in text and "MB are free)" in text
    monkeypatch.undo()
    assert names(path.parent) == ["good.ckpt"]
    assert_same(read_checkpoint(path)[0], ARRAYS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, PermissionError(errno.EACCES, "Permission denied")])
def test_interrupted_write_leaves_no_temporary_file(path, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(UserError if isinstance(error, OSError) else error):
        save_checkpoint(path, {"a": np.ones(2)}, {})
    monkeypatch.undo()
    assert names(path.parent) == ["good.ckpt"]
    assert_same(read_checkpoint(path)[0], ARRAYS)


def test_missing_folder_and_file_in_the_way(path):
    assert "No such file or directory" in message(save_checkpoint, path.parent / "none" / "a.ckpt", {}, {})
    assert "Not a directory" in message(save_checkpoint, path / "a.ckpt", {}, {})


def test_meta_that_is_no_json_is_a_bug_and_leaves_nothing(path):
    with pytest.raises(TypeError):
        save_checkpoint(path, {"a": np.ones(2)}, {"x": object()})
    assert names(path.parent) == ["good.ckpt"]


def test_real_write_error_and_damage_are_silent_but_for_our_line(path):
    # In a process of its own: the limit cannot be lifted again, and the framework's log goes past pytest's capture.
    cut_off = path.parent / "cut.ckpt"
    cut_off.write_bytes(path.read_bytes()[:1000])
    code = """
import resource, signal, sys
import numpy as np
from src import device
from src.checkpoint import read_checkpoint, save_checkpoint
from src.errors import UserError
path, cut_off = sys.argv[1:]
device.setup("CPU")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for call in (lambda: save_checkpoint(path, {"a": np.zeros(2_000_000)}, {}), lambda: read_checkpoint(cut_off)):
    try:
        call()
    except UserError as e:
        print(e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(cut_off)], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    save_line, read_line = done.stdout.splitlines()
    assert save_line.startswith(f"cannot save {path} (File too large: 16 MB are needed, ")
    assert read_line.startswith(f"{cut_off} is damaged")
    assert names(path.parent) == ["cut.ckpt", "good.ckpt"]
    assert_same(read_checkpoint(path)[0], ARRAYS)


# ---- files that are no checkpoint


@pytest.mark.parametrize("place", [0, 40, 0.25, 0.5, 0.75, -300, -12, -1])
def test_flipped_bit(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(data)
    assert message(read_checkpoint, path).startswith(f"{path} is damaged")


@pytest.mark.parametrize("kept", [1, 100, 0.5, -100, -1])
def test_cut_off_file(path, kept):
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert message(read_checkpoint, path).startswith(f"{path} is damaged, cut off")


@pytest.mark.parametrize("content", [b"not a checkpoint\n" * 20, b"\0" * 200, b'{"a": 1}', b"PK\3\4" + b"x" * 100])
def test_file_of_another_kind(path, content):
    path.write_bytes(content)
    text = message(read_checkpoint, path)
    assert text.startswith(f"{path} is ") and f"not a MindSpore checkpoint ({len(content)} bytes" in text


def test_empty_file(path):
    path.write_bytes(b"")
    assert message(read_checkpoint, path) == f"{path} is empty: got 0 bytes, expected a MindSpore checkpoint"


def test_name_of_another_kind_of_checkpoint(path):
    renamed = path.rename(path.with_name("MIMO-UNet.pkl"))
    assert message(read_checkpoint, renamed) == f"{renamed}: got *.pkl, expected a MindSpore checkpoint, *.ckpt"


def test_missing_file_lists_its_neighbours(path):
    for name in ("best.ckpt", "notes.txt"):
        (path.parent / name).touch()
    missing = path.parent / "last.ckpt"
    assert message(read_checkpoint, missing) == f"no checkpoint {missing}. In {path.parent}: best.ckpt, good.ckpt"
    assert message(read_checkpoint, path.parent / "none" / "a.ckpt").endswith(
        f"no checkpoint {path.parent}/none/a.ckpt."
    )
    assert message(read_checkpoint, path.parent).startswith(f"no checkpoint {path.parent}.")


# ---- networks


def test_identify():
    assert identify(f"Encoder.0.layers.{i}.main.0.main.0.weight" for i in range(8)) == ("MIMO-UNet", 8)
    assert identify(f"Encoder.0.layers.{i}.main.0.main.0.weight" for i in range(20)) == ("MIMO-UNetPlus", 20)
    assert identify(["Encoder.0.layers.2.main.0.main.0.weight"]) == (None, 3)
    assert identify(["Encoder.0.layers.2.main.0.main.0.weight"], {"variant": "MIMO-UNetPlus"}) == ("MIMO-UNetPlus", 3)
    assert identify(["moment1.Encoder.0.layers.2.main.0.main.0.weight", "conv.weight"]) == (None, 0)
    assert identify([], {"variant": "MIMO-UNet"}) == (None, 0)


@pytest.mark.parametrize("name,variant", MODELS.items())
def test_identify_knows_every_variant(cpu, name, variant):
    assert identify(f"Encoder.0.layers.{i}." for i in range(variant.num_res)) == (name, variant.num_res)


def test_network_comes_back(network, tmp_path):
    arrays = parameter_arrays(network)
    save_checkpoint(tmp_path / "a.ckpt", arrays, {"variant": "MIMO-UNet", "epoch": 4})
    loaded, meta, left_out = load_network(tmp_path / "a.ckpt", "MIMO-UNet")
    assert_same(parameter_arrays(loaded), arrays)
    assert (meta["epoch"], left_out) == (4, [])


def test_training_state_is_left_out_and_reported(network, tmp_path):
    arrays = parameter_arrays(network)
    state = {f"moment1.{name}": array for name, array in list(arrays.items())[:3]} | {
        "global_step": np.array(7, np.int32)
    }
    save_checkpoint(tmp_path / "a.ckpt", state | arrays, {})
    loaded, _, left_out = load_network(tmp_path / "a.ckpt", "MIMO-UNet")
    assert left_out == list(state)
    assert_same(parameter_arrays(loaded), arrays)


def test_float16_arrays_are_accepted(network, tmp_path):
    halves = {name: array.astype(np.float16) for name, array in parameter_arrays(network).items()}
    save_checkpoint(tmp_path / "a.ckpt", halves, {})
    loaded, _, _ = load_network(tmp_path / "a.ckpt", "MIMO-UNet")
    assert_same(parameter_arrays(loaded), {name: array.astype(np.float32) for name, array in halves.items()})


def test_other_variant_is_suggested(tmp_path, cpu):
    path = tmp_path / "a.ckpt"
    arrays = {f"Encoder.0.layers.{i}.main.0.main.0.weight": np.zeros(1, np.float32) for i in range(20)}
    save_checkpoint(path, arrays, {})
    expected = (
        f"{path} holds MIMO-UNetPlus (20 residual blocks a stage), expected MIMO-UNet. Add --model_name MIMO-UNetPlus"
    )
    assert message(load_network, path, "MIMO-UNet") == expected
    save_checkpoint(path, dict(list(arrays.items())[:1]), {"variant": "MIMO-UNetPlus"})
    assert "Add --model_name MIMO-UNetPlus" in message(load_network, path, "MIMO-UNet")


def test_checkpoint_of_another_network(path):
    text = message(load_network, path, "MIMO-UNet")
    assert text.startswith(f"{path} holds no MIMO-UNet: expected names like Encoder.0.layers.0.")
    assert text.endswith("got weight, half, special, global_step, long, ... (6 in all)")


def test_missing_parameters_are_counted_and_named(network, tmp_path):
    arrays = parameter_arrays(network)
    dropped = [name for name in arrays if name.startswith("FAM")]
    renamed = {f"old.{name}" if name in dropped else name: array for name, array in arrays.items()}
    save_checkpoint(tmp_path / "a.ckpt", renamed, {})
    text = message(load_network, tmp_path / "a.ckpt", "MIMO-UNet")
    assert text.startswith(f"{tmp_path / 'a.ckpt'}: {len(dropped)} parameters are missing: {dropped[0]}, ")
    assert f"not used: old.{dropped[0]}" in text


def test_wrong_shape_is_named(network, tmp_path):
    name = "feat_extract.0.main.0.weight"
    arrays = parameter_arrays(network) | {name: np.zeros((32, 4, 3, 3), np.float32)}
    text = message(fill_network, build_net("MIMO-UNet", 1), arrays, "a.ckpt")
    assert text == f"a.ckpt: {name} has shape (32, 4, 3, 3), expected (32, 3, 3, 3)"


def test_wrong_file_changes_no_parameter(network):
    arrays = {name: array + 1 for name, array in parameter_arrays(network).items()}
    before = {name: array.copy() for name, array in parameter_arrays(network).items()}
    for bad in (dict(list(arrays.items())[:-1]), arrays | {"FAM2.merge.main.0.bias": np.zeros(1)}):
        message(fill_network, network, bad, "a.ckpt")
        assert_same(parameter_arrays(network), before)


def test_meta_is_one_json_text(path):
    import mindspore as ms

    assert json.loads(ms.load_checkpoint(str(path))["meta"]) == META
