import errno
import json
import logging
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Tensor

from src.checkpoint import (
    MAX_BLOCKS,
    describe_left_out,
    describe_loading,
    identify,
    load_network,
    network_arrays,
    parameter_arrays,
    read_checkpoint,
    require_network,
    save_checkpoint,
)
from src.config import ROOT
from src.errors import UserError
from src.formats.weights import CHECKPOINT_SUFFIXES, KNOWN_FILES, SAMPLE_MODEL, read_meta
from src.init_weights import init_weights
from src.mimo_unet import build_net
from src.variants import MODELS

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


@pytest.fixture(params=CHECKPOINT_SUFFIXES)
def either(request, tmp_path, cpu):
    """A checkpoint of `ARRAYS` in each of the two formats."""
    path = tmp_path / f"good{request.param}"
    save_checkpoint(path, ARRAYS, META)
    return path


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
    assert sorted(found) == sorted(expected)  # .safetensors keeps an order of its own
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert found[name].tobytes() == array.tobytes(), name


# ---- what is saved comes back


def test_arrays_come_back_bit_by_bit(either):
    arrays, _ = read_checkpoint(str(either))
    assert_same(arrays, ARRAYS)


def test_meta_comes_back_in_full_precision(either):
    assert read_checkpoint(either)[1] == META


def test_meta_is_read_alone(either, tmp_path):
    assert read_meta(either) == META
    whole = either.read_bytes()
    for kept in (0, 1, 7, 100, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        cut = tmp_path / f"cut{either.suffix}"
        cut.write_bytes(whole[:kept])
        assert read_meta(cut) in ({}, META)
        cut.write_bytes(np.random.default_rng(kept).bytes(kept))
        assert read_meta(cut) == {}
    save_checkpoint(either, ARRAYS, {})
    assert read_meta(either) == read_meta(tmp_path / "none.ckpt") == {}
    assert read_meta(SAMPLE_MODEL) == read_checkpoint(SAMPLE_MODEL)[1] != {}


def test_meta_without_a_best_score_yet(either):
    save_checkpoint(either, {"a": np.zeros(1)}, {"best_psnr": float("-inf")})
    assert read_checkpoint(either)[1] == {"best_psnr": float("-inf")}


def test_arrays_in_any_memory_order(either):
    rows = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "transposed": rows.T,
        "every second": rows[:, ::2],
        "reversed": rows[::-1],
        "expanded": rows[:1].repeat(3),
    }
    arrays["broadcast"] = np.broadcast_to(rows[0], (5, 3, 4))
    save_checkpoint(either, arrays, {})
    assert_same(read_checkpoint(either)[0], arrays)


def test_saving_again_replaces_the_file(either):
    save_checkpoint(either, {"a": np.ones(2, np.float32)}, {"step": 2})
    arrays, meta = read_checkpoint(either)
    assert (list(arrays), meta) == (["a"], {"step": 2})


def test_file_is_an_ordinary_one_and_alone(either):
    assert stat.S_IMODE(os.stat(either).st_mode) == 0o644
    assert names(either.parent) == [either.name]


def test_checkpoint_of_another_program_has_no_meta(tmp_path, cpu):
    import mindspore as ms

    ms.save_checkpoint([{"name": "a", "data": Tensor(np.ones(2, np.float32))}], str(tmp_path / "a.ckpt"))
    arrays, meta = read_checkpoint(tmp_path / "a.ckpt")
    assert (arrays["a"].tolist(), meta) == ([1, 1], {})


def test_safetensors_of_other_programs(tmp_path, cpu):
    import mindspore as ms
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}, {"meta": "no json"}):
        save_file({"a": np.ones(2, np.float32)}, path, metadata)
        arrays, meta = read_checkpoint(path)
        assert (arrays["a"].tolist(), meta) == ([1, 1], {})
    ms.save_checkpoint([{"name": "a", "data": Tensor(np.ones(2, np.float32))}], str(path), format="safetensors")
    assert read_checkpoint(path)[0]["a"].tolist() == [1, 1]


def test_other_programs_read_our_safetensors(path):
    import mindspore as ms
    from safetensors.numpy import load_file

    target = path.with_suffix(".safetensors")
    save_checkpoint(target, ARRAYS, META)
    assert_same(load_file(target), ARRAYS)
    loaded = ms.load_checkpoint(str(target), format="safetensors")
    assert_same({name: value.asnumpy() for name, value in loaded.items()}, ARRAYS)


@pytest.mark.parametrize("text", ["no json", "[1]", "3"])
def test_meta_of_another_program_is_ignored(tmp_path, cpu, text):
    import mindspore as ms

    one = [{"name": "a", "data": Tensor(np.ones(2, np.float32))}]
    ms.save_checkpoint(one, str(tmp_path / "a.ckpt"), append_dict={"meta": text})
    assert read_checkpoint(tmp_path / "a.ckpt")[1] == {}


# ---- a failing write


def fail_half_way(*args, **kwargs):
    target = args[1]
    for name in (target, target.replace(".ckpt", ".tmp")):  # the framework's own temporary file is the second
        with open(name, "wb") as f:
            f.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_the_old_file_alone(path, monkeypatch):
    monkeypatch.setattr("mindspore.save_checkpoint", fail_half_way)
    text = message(save_checkpoint, path, {"a": np.ones(500_000)}, {})
    assert f"cannot save {path} (No space left on device: 4 MB are needed, " in text and "MB are free)" in text
    monkeypatch.undo()
    assert names(path.parent) == ["good.ckpt"]
    assert_same(read_checkpoint(path)[0], ARRAYS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, PermissionError(errno.EACCES, "Permission denied")])
def test_interrupted_write_leaves_no_temporary_file(either, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError if isinstance(error, OSError) else error):
        save_checkpoint(either, {"a": np.ones(2)}, {})
    monkeypatch.undo()
    assert names(either.parent) == [either.name]
    assert_same(read_checkpoint(either)[0], ARRAYS)


def test_missing_folders_are_made_and_a_file_in_the_way_is_named(either):
    save_checkpoint(either.parent / "new" / either.name, ARRAYS, {})
    assert_same(read_checkpoint(either.parent / "new" / either.name)[0], ARRAYS)
    assert f"({either}: File exists)" in message(save_checkpoint, either / either.name, {}, {})


def test_meta_that_is_no_json_is_a_bug_and_leaves_nothing(either):
    with pytest.raises(TypeError):
        save_checkpoint(either, {"a": np.ones(2)}, {"x": object()})
    assert names(either.parent) == [either.name]


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
big = {"a": np.zeros(2_000_000)}
other = path.replace(".ckpt", ".safetensors")
for call, *arguments in ((save_checkpoint, path, big, {}), (save_checkpoint, other, big, {}), (read_checkpoint,
cut_off)):
    try:
        call(*arguments)
    except UserError as e:
        print(e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(cut_off)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *save_lines, read_line = done.stdout.splitlines()
    for target, line in zip((path, path.with_suffix(".safetensors")), save_lines, strict=True):
        assert line.startswith(f"cannot save {target} (File too large: 16 MB are needed, ")
    assert read_line.startswith(f"{cut_off} is damaged")
    assert names(path.parent) == ["cut.ckpt", "good.ckpt"]
    assert_same(read_checkpoint(path)[0], ARRAYS)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_the_callers_logging_comes_back(path, level):
    logging.disable(level)
    try:
        read_checkpoint(path)
        save_checkpoint(path, {"a": np.ones(2)}, {})
        path.write_bytes(b"x")
        message(read_checkpoint, path)
        assert logging.root.manager.disable == level
    finally:
        logging.disable(logging.NOTSET)


# ---- files that are no checkpoint


@pytest.mark.parametrize("place", [0, 40, 0.25, 0.5, 0.75, -300, -12, -1])
def test_flipped_bit(either, place):
    data = bytearray(either.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    either.write_bytes(data)
    assert message(read_checkpoint, either).startswith(f"{either} is damaged")


@pytest.mark.parametrize("kept", [1, 100, 0.5, -100, -1])
def test_cut_off_file(either, kept):
    data = either.read_bytes()
    either.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert message(read_checkpoint, either).startswith(f"{either} is damaged")


@pytest.mark.parametrize("content", [b"not a checkpoint\n" * 20, b"\0" * 200, b'{"a": 1}', b"PK\3\4" + b"x" * 100])
def test_file_of_another_kind(path, content):
    path.write_bytes(content)
    text = message(read_checkpoint, path)
    assert text.startswith(f"{path} is ") and f"not a MindSpore checkpoint ({len(content)} bytes" in text


@pytest.mark.parametrize("content", [b"x", b"not a checkpoint\n" * 20, b"\0" * 200, b"\x08" + b"\0" * 7 + b'{"a": 1}'])
def test_safetensors_of_another_kind(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert message(read_checkpoint, path).startswith(f"{path} is damaged, cut off or not a .safetensors file (")


def test_safetensors_with_types_that_numpy_lacks(tmp_path, cpu):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"a": torch.tensor([1.5, -2], dtype=torch.bfloat16)}, path)
    assert read_checkpoint(path)[0]["a"].astype(np.float32).tolist() == [1.5, -2]
    save_file({"a": torch.ones(3).to(torch.float8_e4m3fn)}, path)
    assert message(read_checkpoint, path) == f"{path}: a is of type F8_E4M3, expected float32 or float16"


def test_changed_meta_is_damage(path):
    path = path.with_suffix(".safetensors")
    save_checkpoint(path, ARRAYS, META)
    path.write_bytes(path.read_bytes().replace(b"MIMO-UNet", b"NIMO-UNet"))
    assert message(read_checkpoint, path) == f"{path} is damaged (the checksum does not fit). Copy the file again."


def test_empty_file(either):
    either.write_bytes(b"")
    assert message(read_checkpoint, either) == f"{either} is empty: got 0 bytes, expected a checkpoint"


def test_name_of_another_kind_of_checkpoint(path):
    renamed = path.rename(path.with_name("MIMO UNet.pkl"))
    assert message(read_checkpoint, renamed) == (
        f"{renamed} is a PyTorch file; once: python convert.py '{renamed}' '{renamed.with_suffix('.ckpt')}'"
    )
    renamed = renamed.rename(path.with_name("weights.h5"))
    assert message(read_checkpoint, renamed) == f"{renamed}: got *.h5, expected a checkpoint, *.ckpt or *.safetensors"


def test_missing_file_lists_its_neighbours(path):
    for name in ("best.ckpt", "notes.txt", "b.safetensors", "a.pkl"):
        (path.parent / name).touch()
    missing = path.parent / "last.ckpt"
    assert message(read_checkpoint, missing) == (
        f"no checkpoint {missing}. In {path.parent}: a.pkl, b.safetensors, best.ckpt, good.ckpt"
    )
    assert message(read_checkpoint, path.parent / "none" / "a.ckpt").endswith(
        f"no checkpoint {path.parent}/none/a.ckpt."
    )


@pytest.mark.parametrize("name", KNOWN_FILES)
def test_known_missing_file_says_how_to_get_it(path, name):
    text = message(read_checkpoint, path.parent / name)
    assert text.startswith(f"no checkpoint {path.parent / name}. It ") and "python " in text and len(text) < 400


def test_commands_of_the_known_files_exist():
    converted, trained = (KNOWN_FILES[name] for name in sorted(KNOWN_FILES, reverse=True))
    assert "python convert.py --download MIMO-UNet {path}" in converted and "weights_pretrained/README.md" in converted
    assert (ROOT / "convert.py").is_file() and (ROOT / "weights_pretrained/README.md").is_file()
    assert "--config_path configs/ascend_config.yaml" in trained and (ROOT / "configs/ascend_config.yaml").is_file()


# ---- networks


def stages(num_res, image_ch=3):
    """Names and shapes as a network of that depth has them, some of all."""
    shapes = {f"Encoder.0.layers.{i}.main.0.main.0.weight": (32, 32, 3, 3) for i in range(num_res)}
    return shapes | {"feat_extract.0.main.0.weight": (32, image_ch, 3, 3)}


def test_identify():
    block = "Encoder.0.layers.2.main.0.main.0.weight"
    assert identify(stages(8)) == ("MIMO-UNet", 8)
    assert identify(stages(20)) == ("MIMO-UNetPlus", 20)
    assert identify(stages(3)) == (None, 3)
    assert identify(stages(4)) == (None, 4)  # as many blocks as MIMO-UNetLite, but without its pixel-unshuffle
    assert identify({block: (), "Decoder.1.layers.7.main.0.main.0.bias": ()})[1] == 8
    assert identify(stages(3), {"variant": "MIMO-UNetPlus"}) == ("MIMO-UNetPlus", 3)
    assert identify({f"moment1.{block}": (), "conv.weight": ()}) == (None, 0)
    assert identify({}, {"variant": "MIMO-UNet"}) == (None, 0)


def test_identify_believes_the_first_layer_rather_than_the_description():
    for num_res in (1, 4, 8):
        assert identify(stages(num_res, 12), {"variant": "MIMO-UNet"}) == ("MIMO-UNetLite", num_res)
    assert identify(stages(8), {"variant": "MIMO-UNetLite"}) == ("MIMO-UNet", 8)
    assert identify(stages(8), {"variant": "of another program"}) == ("MIMO-UNet", 8)


@pytest.mark.parametrize("name,variant", MODELS.items())
def test_identify_knows_every_variant(cpu, name, variant):
    network = build_net(name)
    assert identify({p.name: p.shape for p in network.get_parameters()}) == (name, variant.num_res)


@pytest.mark.parametrize("suffix", CHECKPOINT_SUFFIXES)
def test_network_comes_back(network, tmp_path, suffix):
    arrays = parameter_arrays(network)
    save_checkpoint(tmp_path / f"a{suffix}", arrays, {"variant": "MIMO-UNet", "epoch": 4})
    loaded, meta, left_out = load_network(tmp_path / f"a{suffix}", "MIMO-UNet")
    assert_same(parameter_arrays(loaded), arrays)
    assert (meta["epoch"], left_out) == (4, [])


def test_checkpoint_of_an_earlier_port(network, tmp_path):
    """What MindSpore's own training saves: Adam with a list of learning rates, a dynamic loss scale, ModelCheckpoint's
    epoch and step."""
    import mindspore as ms
    from mindspore import nn

    trained = build_net("MIMO-UNet", 1)
    init_weights(trained, 3)
    optimizer = nn.Adam(trained.trainable_params(), beta1=0.9, beta2=0.999, learning_rate=[1e-4] * 10)
    scale = nn.DynamicLossScaleUpdateCell(2**16, 2, 2000)
    step = nn.TrainOneStepWithLossScaleCell(nn.WithLossCell(trained, nn.L1Loss()), optimizer, scale)
    path = tmp_path / "MIMO-UNet_3000_1.ckpt"
    ms.save_checkpoint(step, str(path), append_dict={"epoch_num": 3, "step_num": 12})
    loaded, meta, left_out = load_network(path, "MIMO-UNet")
    assert_same(parameter_arrays(loaded), parameter_arrays(network))
    assert meta == {"variant": "MIMO-UNet", "weights": "raw"}
    text = describe_left_out(left_out, limit=None)
    assert text.startswith("161 entries left out: ")
    assert set(text.split(": ")[1].split(", ")) == {
        "76 moment1.*", "76 moment2.*", "scale_sense", "global_step", "beta1_power", "beta2_power", "learning_rate",
        "current_iterator_step", "last_overflow_iterator_step", "epoch_num", "step_num",
    }  # fmt: skip


def test_left_out_entries_are_one_line():
    moments = [f"moment1.{name}" for name in ("Encoder.0.layers.0.main.0.main.0.weight", "FAM1.merge.main.0.bias")]
    assert describe_left_out([*moments, "global_step"]) == "3 entries left out: 2 moment1.*, global_step"
    assert describe_left_out([*moments, "x"], group=3) == f"3 entries left out: {', '.join(moments)}, x"
    assert describe_left_out(["a.b.SCM1.main.0.main.0.bias"]) == "1 entry left out: a.b.SCM1.main.0.main.0.bias"
    assert describe_left_out("abcd", limit=3) == "4 entries left out: a, b, c, ... (4 in all)"
    assert describe_left_out("abcdefghijk", limit=None).endswith("j, k")
    assert describe_loading("a.ckpt", {"weights": "raw"}, []) == "a.ckpt: weights"
    assert describe_loading("a.ckpt", {"weights": "raw"}, ["x"]) == "a.ckpt: weights; 1 entry left out: x"
    assert describe_left_out("abcdefgh").endswith("g, h")
    assert describe_left_out("abcdefghi").endswith("g, h, ... (9 in all)")
    assert describe_left_out([moments[0], "x"], group=1) == "2 entries left out: 1 moment1.*, x"


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
        f"{path} holds MIMO-UNetPlus (20 residual blocks per stage), expected MIMO-UNet. Add --model_name MIMO-UNetPlus"
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
    assert text.endswith(
        "has 1 residual blocks per stage (MIMO-UNet 8, MIMO-UNetPlus 20, MIMO-UNetLite 4) and 76 parameters."
    )


def test_missing_block_is_not_taken_for_a_shallower_network(network, tmp_path):
    arrays = {
        name: np.zeros(1) for name in parameter_arrays(build_net("MIMO-UNet", 2)) if "Encoder.0.layers.1" not in name
    }
    save_checkpoint(tmp_path / "a.ckpt", arrays, {})
    text = message(load_network, tmp_path / "a.ckpt", "MIMO-UNet")
    assert "4 parameters are missing: Encoder.0.layers.1.main.0.main.0.weight, " in text


def test_absurd_depth_builds_no_network(tmp_path, cpu):
    for name in ("Encoder.0.layers.9999.x", f"Encoder.0.layers.{'9' * 30}.x"):
        save_checkpoint(tmp_path / "a.ckpt", {name: np.zeros(1)}, {})
        assert "holds no MIMO-UNet" in message(load_network, tmp_path / "a.ckpt", "MIMO-UNet")


def test_deepest_network_that_is_believed():
    assert require_network({f"Encoder.0.layers.{MAX_BLOCKS - 1}.": np.zeros(1)}, {}, "a.ckpt") == (None, MAX_BLOCKS)
    deeper = f"Encoder.0.layers.{MAX_BLOCKS}."
    text = message(require_network, {deeper: np.zeros(1)}, {}, "a.ckpt")
    assert "holds no MIMO-UNet" in text and text.endswith(f"got {deeper}")


def test_names_with_a_prefix_point_to_convert(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"model.Encoder.0.layers.0.main.0.main.0.weight": np.ones(2, np.float32)}, {})
    target = tmp_path / "a_converted.ckpt"
    expected = (
        f"got model.Encoder.0.layers.0.main.0.main.0.weight. To remove the prefix: python convert.py {path} {target}"
    )
    assert message(load_network, path, "MIMO-UNet").endswith(expected)


def test_wrong_shape_is_named(network):
    name, variant = "feat_extract.0.main.0.weight", network.variant
    arrays = parameter_arrays(network) | {name: np.zeros((32, 4, 3, 3), np.float32)}
    text = message(network_arrays, arrays, variant, "a.ckpt")
    assert text == f"a.ckpt: {name} has shape (32, 4, 3, 3), expected (32, 3, 3, 3)"
    arrays["AFFs.0.conv.0.main.0.bias"] = np.zeros(3)
    assert message(network_arrays, arrays, variant, "a.ckpt") == f"{text}; also wrong: AFFs.0.conv.0.main.0.bias"


def test_meta_is_one_json_text(path):
    import mindspore as ms

    assert json.loads(ms.load_checkpoint(str(path))["meta"]) == META


def test_moving_average_is_taken_unless_raw_is_asked_for(network, tmp_path):
    raw = parameter_arrays(network)
    average = {name: a + 1 for name, a in raw.items()}
    path = tmp_path / "last.ckpt"
    state = raw | {f"ema.{name}": a for name, a in average.items()} | {"global_step": np.array(3, np.int32)}
    save_checkpoint(path, state, {"variant": "MIMO-UNet"})
    for weights, expected, count in (("ema", average, 1), ("raw", raw, 1 + len(raw))):
        loaded, meta, left_out = load_network(path, "MIMO-UNet", weights)
        assert_same(parameter_arrays(loaded), expected)
        assert meta["weights"] == weights and len(left_out) == count
        assert ("moving average" in describe_loading(path, meta, left_out)) == (weights == "ema")


def test_a_part_of_the_moving_average_is_not_taken(network, tmp_path):
    raw = parameter_arrays(network)
    name = next(iter(raw))
    save_checkpoint(tmp_path / "a.ckpt", raw | {f"ema.{name}": raw[name] + 1}, {"variant": "MIMO-UNet"})
    loaded, meta, _ = load_network(tmp_path / "a.ckpt", "MIMO-UNet", "ema")
    assert_same(parameter_arrays(loaded), raw)
    assert meta["weights"] == "raw"
