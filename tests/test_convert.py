import json
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

import convert
from benchmarks.torch_twin import TorchMIMOUNet
from src.checkpoint import load_network, parameter_arrays, read_checkpoint, save_checkpoint
from src.config import ROOT
from src.errors import UserError
from src.formats.weights import CHECKPOINT_SUFFIXES, TORCH_SUFFIXES
from src.mimo_unet import build_net
from src.variants import MODELS
from tests.conftest import DATA
from tests.data.make_torch_sample import make_state_dict

NAME = "feat_extract.0.main.0.weight"


@pytest.fixture(scope="module")
def small():
    """The state dict of a network with one residual block a stage."""
    torch.manual_seed(4)
    return TorchMIMOUNet(1).state_dict()


@pytest.fixture
def source(tmp_path, small):
    """A PyTorch file of `small`, as the authors' training script writes it."""
    torch.save({"model": small}, tmp_path / "source.pkl")
    return tmp_path / "source.pkl"


def run(*words):
    convert.main([str(word) for word in words])


def refusal(*words):
    """The one line with which the conversion is refused; nothing may have been written."""
    folder = words[-1].parent if hasattr(words[-1], "parent") else None
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()} if folder and folder.is_dir() else None
    with pytest.raises(UserError) as caught:
        run(*words)
    if before is not None:
        assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    elif folder:
        assert not folder.exists()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000
    return text


def refused_weights(tmp_path, content, name="bad.pkl", **options):
    torch.save(content, tmp_path / name, **options)
    return refusal(tmp_path / name, tmp_path / "target.ckpt")


def assert_weights(path, state):
    """The checkpoint holds the state dict bit by bit and nothing else."""
    arrays, _ = read_checkpoint(path)
    assert sorted(arrays) == sorted(state)
    for name, tensor in state.items():
        assert arrays[name].dtype == np.float32 and arrays[name].shape == tuple(tensor.shape)
        assert arrays[name].tobytes() == tensor.contiguous().numpy().tobytes(), name


# ---- the same picture in both frameworks


@pytest.mark.parametrize(
    "variant,prefix,wrapped,zipped,suffix",
    [
        # The published files are from before PyTorch 1.6, whose files were no zip archives, and from a GPU.
        ("MIMO-UNet", "", True, False, ".ckpt"),
        ("MIMO-UNetPlus", "module.", False, True, ".safetensors"),
        ("MIMO-UNetLite", "", True, True, ".ckpt"),
    ],
)
def test_random_weights_give_pytorchs_output(
    cpu, tmp_path, monkeypatch, capsys, variant, prefix, wrapped, zipped, suffix
):
    from mindspore import Tensor

    torch.manual_seed(5)
    twin = TorchMIMOUNet(MODELS[variant].num_res, MODELS[variant].dropout, MODELS[variant].shuffle).eval()
    state = OrderedDict((prefix + name, tensor) for name, tensor in twin.state_dict().items())
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"model": state} if wrapped else state, tmp_path / "a.pkl", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "a.pkl") == zipped
    run(tmp_path / "a.pkl", tmp_path / f"a{suffix}")

    report = capsys.readouterr().out
    size = sum(p.numel() for p in twin.parameters())
    assert f"a.pkl: {variant}, {MODELS[variant].num_res} residual blocks per stage, {size:,} parameters in " in report
    assert "left out" not in report
    network, meta, _ = load_network(tmp_path / f"a{suffix}", variant)
    assert (meta["variant"], meta["num_res"], meta["source"]) == (variant, MODELS[variant].num_res, "a.pkl")
    image = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(image))
    for output, other in zip(network(Tensor(image)), expected, strict=True):
        np.testing.assert_allclose(output.asnumpy(), other.numpy(), rtol=0, atol=1e-5)


def test_recorded_file_gives_recorded_output(cpu, tmp_path, capsys):
    from mindspore import Tensor

    run(DATA / "mimo_unet_torch.pkl", tmp_path / "a.ckpt")
    report = capsys.readouterr().out
    assert "MIMO-UNet, 8 residual blocks per stage, 6,807,171 parameters in 244 tensors\ntaken: model\n" in report
    assert "\n1 entry left out: epoch\n" in report
    recorded = np.load(DATA / "mimo_unet_torch.npz")
    network, _, _ = load_network(tmp_path / "a.ckpt", "MIMO-UNet")
    for scale, output in enumerate(network(Tensor(recorded["image"]))):
        np.testing.assert_allclose(output.asnumpy(), recorded[f"output_{scale}"], rtol=0, atol=1e-5)


def test_recorded_file_is_what_its_script_makes(cpu):
    state = torch.load(DATA / "mimo_unet_torch.pkl", weights_only=True)["model"]
    made = make_state_dict()
    assert list(state) == list(made) == [p.name for p in build_net("MIMO-UNet").get_parameters()]
    assert all(torch.equal(state[name], made[name]) for name in made)
    assert (DATA / "mimo_unet_torch.pkl").stat().st_size < 100_000


# ---- there and back


def test_back_to_pytorch_bit_by_bit(cpu, tmp_path, source, small):
    chain = [source.name, "a.ckpt", "b.pkl", "c.safetensors", "d.pth", "e.ckpt"]
    for first, then in zip(chain, chain[1:], strict=False):
        run(tmp_path / first, tmp_path / then)
    for name in ("a.ckpt", "c.safetensors", "e.ckpt"):
        assert_weights(tmp_path / name, small)
    for name in ("b.pkl", "d.pth"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert list(content) == ["model"]
        TorchMIMOUNet(1).load_state_dict(content["model"], strict=True)
        assert all(torch.equal(content["model"][name], small[name]) for name in small)
    assert zipfile.is_zipfile(tmp_path / "b.pkl")


def test_lite_there_and_back_bit_by_bit(cpu, tmp_path, capsys):
    state = TorchMIMOUNet(num_res=4, shuffle=2).state_dict()
    torch.save(state, tmp_path / "a.pkl")
    for first, then in (("a.pkl", "b.ckpt"), ("b.ckpt", "c.pkl"), ("c.pkl", "d.ckpt")):
        run(tmp_path / first, tmp_path / then)
        assert f"{first}: MIMO-UNetLite, 4 residual blocks per stage, 3,730,780 parameters" in capsys.readouterr().out
    for name in ("b.ckpt", "d.ckpt"):
        assert_weights(tmp_path / name, state)


def test_description_is_kept_in_full_precision(cpu, tmp_path, small):
    arrays = {name: tensor.numpy() for name, tensor in small.items()}
    meta = {"variant": "MIMO-UNetPlus", "best_psnr": 31.123456789012345, "third": 1 / 3, "epoch": 7}
    save_checkpoint(tmp_path / "a.ckpt", arrays, meta)
    run(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    run(tmp_path / "b.safetensors", tmp_path / "c.ckpt")
    for name, before in (("b.safetensors", "a.ckpt"), ("c.ckpt", "b.safetensors")):
        found = read_checkpoint(tmp_path / name)[1]
        assert len(found.pop("source_sha256")) == 64
        assert found == meta | {"num_res": 1, "source": before}
        assert_weights(tmp_path / name, small)


def test_checksum_is_that_of_the_source(cpu, tmp_path, source, capsys):
    import hashlib

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    run(source, tmp_path / "new" / "folder" / "a.ckpt")
    meta = read_checkpoint(tmp_path / "new" / "folder" / "a.ckpt")[1]
    assert meta == {"variant": None, "num_res": 1, "source": "source.pkl", "source_sha256": digest}
    report = capsys.readouterr().out
    assert f"sha256 of source.pkl: {digest}\n" in report
    assert (
        "source.pkl: none of MIMO-UNet (8), MIMO-UNetPlus (20), MIMO-UNetLite (4), 1 residual blocks per stage, "
        in report
    )


def test_other_number_types_become_float32(cpu, tmp_path, small, capsys):
    state = {name: tensor.double() for name, tensor in small.items()}
    state[NAME], state["FAM1.merge.main.0.bias"] = small[NAME].half(), small["FAM1.merge.main.0.bias"].bfloat16()
    torch.save(state, tmp_path / "a.pt")
    run(tmp_path / "a.pt", tmp_path / "a.ckpt")
    assert "converted to float32 from bfloat16, float16, float64\n" in capsys.readouterr().out
    halves = ("FAM1.merge.main.0.bias", NAME)
    assert_weights(tmp_path / "a.ckpt", small | {name: state[name].float() for name in halves})


def test_every_unused_name_is_reported(cpu, tmp_path, small, capsys):
    extra = {f"extra.{i}": torch.ones(1) for i in range(12)} | {f"ema.{name}": small[name] for name in small}
    partly = {f"old.{name}": torch.ones(1) for name in list(small)[:3]}
    torch.save({"model": {**small, **extra, **partly, "note": "x"}, "optimizer": {}, "epoch": 3}, tmp_path / "a.pkl")
    run(tmp_path / "a.pkl", tmp_path / "a.ckpt")
    assert_weights(tmp_path / "a.ckpt", small)
    line = next(line for line in capsys.readouterr().out.splitlines() if "left out" in line)
    expected = [f"extra.{i}" for i in range(12)] + [*partly, "optimizer", "epoch", "note"]
    assert line == f"18 entries left out: {', '.join(expected)}"


def test_training_state_is_left_behind(cpu, tmp_path, small, capsys):
    arrays = {name: tensor.numpy() for name, tensor in small.items()}
    state = {f"moment1.{name}": array for name, array in arrays.items()} | {"global_step": np.array(7, np.int32)}
    save_checkpoint(tmp_path / "last.ckpt", state | arrays, {"variant": "MIMO-UNet", "step": 7})
    run(tmp_path / "last.ckpt", tmp_path / "weights.safetensors")
    assert_weights(tmp_path / "weights.safetensors", small)
    assert "77 entries left out: 76 moment1.*, global_step\n" in capsys.readouterr().out


def test_average_is_what_a_run_with_one_is_worth(cpu, tmp_path, small, capsys):
    raw = {name: tensor.numpy() for name, tensor in small.items()}
    averages = {f"ema.{name}": array + 1 for name, array in raw.items()}
    meta = {"variant": "MIMO-UNet", "step": 7, "epoch": 2, "config": {"dataset_root": "/a"}, "log_part": {"loss": 1.0}}
    save_checkpoint(tmp_path / "last.ckpt", raw | averages | {"global_step": np.array(7, np.int32)}, meta)
    run(tmp_path / "last.ckpt", tmp_path / "average.ckpt")
    assert_weights(tmp_path / "average.ckpt", {name: tensor + 1 for name, tensor in small.items()})
    text = capsys.readouterr().out
    assert (
        "the moving average of the weights, ema.* (--weights raw takes the others)\n1 entry left out: global_step\n"
    ) in text
    described = read_checkpoint(tmp_path / "average.ckpt")[1]
    assert described.keys() == {"variant", "epoch", "num_res", "source", "source_sha256"}  # no path of this machine
    run(tmp_path / "last.ckpt", tmp_path / "raw.ckpt", "--weights", "raw")
    assert_weights(tmp_path / "raw.ckpt", small)
    assert "77 entries left out: 76 ema.*, global_step\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrap,taken",
    [
        (lambda raw, ema: {"params": raw, "params_ema": ema}, "the moving average of the weights, params_ema"),
        (lambda raw, ema: {"state_dict": {f"net.{n}": t for n, t in ema.items()}, "epoch": 3}, "state_dict.net.*"),
    ],
)
def test_layouts_of_other_trainers(cpu, tmp_path, small, capsys, wrap, taken):
    raw = {name: tensor + 1 for name, tensor in small.items()}
    torch.save(wrap(raw, small), tmp_path / "last.ckpt")  # Lightning's suffix, for PyTorch's format
    run(tmp_path / "last.ckpt", tmp_path / "a.ckpt")
    assert_weights(tmp_path / "a.ckpt", small)
    assert f"\ntaken: {taken}" in capsys.readouterr().out


def test_scripts_know_lightnings_ckpt_for_pytorchs(tmp_path, small):
    torch.save({"state_dict": small}, tmp_path / "last.ckpt")
    with pytest.raises(UserError) as caught:
        load_network(tmp_path / "last.ckpt", "MIMO-UNet")
    assert str(caught.value).startswith(f"{tmp_path / 'last.ckpt'} is a PyTorch file; once: python convert.py ")
    assert str(caught.value).endswith("last.safetensors")


# ---- files that are refused


def test_torchscript_and_empty_and_missing(tmp_path):
    path, target = tmp_path / "a.pt", tmp_path / "b.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather have us use something newer
        torch.jit.save(torch.jit.trace(lambda x: x + 1, torch.ones(1)), str(path))
    assert f"{path} is a TorchScript program, expected a state dict" in refusal(path, target)
    path.write_bytes(b"")
    assert refusal(path, target) == f"{path} is empty: got 0 bytes, expected a PyTorch file"
    assert refusal(tmp_path / "c.pkl", target) == f"no PyTorch file {tmp_path / 'c.pkl'}. In {tmp_path}: a.pt"
    assert refusal(tmp_path / "c.ckpt", target).startswith("no checkpoint ")


def test_tensors_of_something_else(cpu, tmp_path):
    other = {"conv1.weight": torch.ones(2), "fc.bias": torch.ones(1)}
    text = refused_weights(tmp_path, other)
    assert text.endswith(
        "holds no MIMO-UNet: expected names like Encoder.0.layers.0.main.0.main.0.weight, at the top or in a "
        "dictionary called model, state_dict, params, ...; got conv1.weight, fc.bias"
    )
    assert refused_weights(tmp_path, {"model": {}}).endswith("got model: {}")
    assert refused_weights(tmp_path, torch.ones(3)).endswith("holds a Tensor, expected a state dict: names and tensors")
    assert refused_weights(tmp_path, [1, 2]).endswith("holds a list, expected a state dict: names and tensors")


def test_half_a_state_dict(cpu, tmp_path):
    state = make_state_dict()
    text = refused_weights(tmp_path, {"model": dict(list(state.items())[: len(state) // 2])})
    assert "122 parameters are missing: Decoder.0." in text
    assert text.endswith(
        "has 8 residual blocks per stage (MIMO-UNet 8, MIMO-UNetPlus 20, MIMO-UNetLite 4) and 244 parameters."
    )
    # The last blocks of one stage are missing: not a network of 7 blocks.
    text = refused_weights(tmp_path, {n: t for n, t in state.items() if not n.startswith("Encoder.0.layers.7.")})
    assert "4 parameters are missing: Encoder.0.layers.7.main.0.main.0.weight" in text


@pytest.mark.parametrize("value,count", [(float("nan"), 1), (float("inf"), 1), (-float("inf"), 1)])
@pytest.mark.parametrize("suffix", [".pkl", ".ckpt"])
def test_weights_that_are_not_finite(cpu, tmp_path, small, value, count, suffix):
    broken = small[NAME].clone()
    broken[3, 1, 0, 2] = value
    path = tmp_path / f"a{suffix}"
    if suffix == ".pkl":
        torch.save(small | {NAME: broken}, path)
    else:
        save_checkpoint(path, {name: t.numpy() for name, t in (small | {NAME: broken}).items()}, {})
    assert refusal(path, tmp_path / "b.safetensors") == (
        f"{path}: {NAME} holds NaN or infinity ({count} of 864 numbers), so the network is unusable. "
        "Take other weights, e.g. another checkpoint of the run."
    )


def test_float64_beyond_float32(cpu, tmp_path, small):
    text = refused_weights(tmp_path, small | {NAME: small[NAME].double() * 1e60})
    assert f"{NAME} holds NaN or infinity (864 of 864 numbers)" in text


def test_tensors_without_floating_point_numbers(cpu, tmp_path, small):
    bad = {
        "int8, strided": small[NAME].to(torch.int8),
        "complex64, strided": small[NAME].to(torch.complex64),
        "float32, sparse_coo": small[NAME].to_sparse(),
        "no data": torch.empty(small[NAME].shape, device="meta"),
    }
    for kind, tensor in bad.items():
        text = refused_weights(tmp_path, small | {NAME: tensor})
        assert text.endswith(f"bad.pkl: {NAME} has {kind}; expected dense floating-point numbers")
    arrays = {name: tensor.numpy() for name, tensor in small.items()} | {NAME: np.ones((32, 3, 3, 3), np.int32)}
    save_checkpoint(tmp_path / "a.ckpt", arrays, {})
    text = refusal(tmp_path / "a.ckpt", tmp_path / "b.pkl")
    assert text.endswith(f"a.ckpt: {NAME} has int32 numbers, expected floating-point ones")


def test_name_twice(tmp_path, small):
    text = refused_weights(tmp_path, {**small, f"module.{NAME}": small[NAME]})
    assert text.endswith(f"bad.pkl holds {NAME} twice, as {NAME} and as module.{NAME}")


def test_wrong_shapes(cpu, tmp_path, small):
    state = {**small, NAME: torch.zeros(32, 4, 3, 3), "AFFs.0.conv.0.main.0.bias": torch.zeros(1, 32)}
    assert refused_weights(tmp_path, state).endswith(
        f"bad.pkl: {NAME} has shape (32, 4, 3, 3), expected (32, 3, 3, 3); also wrong: AFFs.0.conv.0.main.0.bias"
    )


def test_expanded_tensor_does_not_fill_the_memory(cpu, tmp_path, small):
    huge = torch.zeros(1).expand(10**6, 10**6, 3, 3)  # 36 TB if it were written out
    text = refused_weights(tmp_path, small | {NAME: huge})
    assert f"{NAME} has shape (1000000, 1000000, 3, 3), expected (32, 3, 3, 3)" in text


# ---- the two names


def test_suffixes(tmp_path, source):
    known = ", ".join(CHECKPOINT_SUFFIXES + TORCH_SUFFIXES)
    target = tmp_path / "a.onnx"
    assert refusal(source, target) == f"TARGET: got {target}, expected a file name that ends with {known}"
    assert refusal(target, source) == f"SOURCE: got {target}, expected a file name that ends with {known}"
    assert "expected a file name that ends with .ckpt" in refusal(source, tmp_path)


def test_target_in_the_way(cpu, tmp_path, source, small):
    target = tmp_path / "a.ckpt"
    target.write_bytes(b"precious")
    assert refusal(source, target) == f"TARGET: {target} exists. Add --overwrite to replace it, or give another name"
    run(source, target, "--overwrite")
    assert_weights(target, small)
    (tmp_path / "b.ckpt").mkdir()
    assert refusal(source, tmp_path / "b.ckpt") == f"TARGET: {tmp_path / 'b.ckpt'} is a folder, expected a file name"


def test_bad_source_leaves_the_overwritten_target_alone(cpu, tmp_path):
    target = tmp_path / "target.ckpt"
    target.write_bytes(b"precious")
    torch.save({"a": torch.ones(1)}, tmp_path / "bad.pkl")
    with pytest.raises(UserError):
        run(tmp_path / "bad.pkl", target, "--overwrite")
    assert target.read_bytes() == b"precious"


def test_target_is_the_source(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.pkl").symlink_to(source)
    for target in (source, "source.pkl", tmp_path / "link.pkl"):
        expected = f"TARGET: {target} is {source}, which is only read. Choose another place."
        assert refusal(source, target, "--overwrite") == expected


def test_target_folder_cannot_be_made(cpu, tmp_path, source):
    target = source / "a.ckpt"  # below a file
    with pytest.raises(UserError, match=f"TARGET: cannot write into {source} "):
        run(source, target)


def test_bad_source_makes_no_folder(cpu, tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "bad.pkl")
    with pytest.raises(UserError, match="holds no MIMO-UNet"):
        run(tmp_path / "bad.pkl", tmp_path / "new" / "a.ckpt")
    assert not (tmp_path / "new").exists()


# ---- as a process


def process(*words, code=None):
    command = [sys.executable, "convert.py"] if code is None else [sys.executable, "-c", code]
    return subprocess.run(
        [*command, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_command_line(tmp_path, source):
    done = process(source, tmp_path / "a.ckpt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"{tmp_path / 'a.ckpt'}: ")
    done = process(source, tmp_path / "a.ckpt")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: TARGET: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["a.pkl"], ["a.pkl", "b.ckpt", "c.ckpt"], ["a.pkl", "b.ckpt", "--over"]])
def test_wrong_number_of_words(words):
    with pytest.raises(UserError, match="--help"):
        convert.main(words)


def test_without_pytorch(cpu, tmp_path, source, small):
    blocked = """
import sys
sys.modules["torch"] = None  # an import of it fails now
import convert
from src.errors import run_main
run_main(lambda: convert.main(sys.argv[1:]))
"""
    arrays = {name: tensor.numpy() for name, tensor in small.items()}
    save_checkpoint(tmp_path / "a.ckpt", arrays, {})
    expected = (
        "error: PyTorch files (.pkl, .pth, .pt) need PyTorch, which is not installed: bash scripts/setup.sh --torch\n"
    )
    for words in ((source, tmp_path / "b.ckpt"), (tmp_path / "a.ckpt", tmp_path / "b.pkl")):
        done = process(*words, code=blocked)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
        assert not words[1].exists()
    done = process(tmp_path / "a.ckpt", tmp_path / "b.safetensors", code=blocked)
    assert (done.returncode, done.stderr) == (0, "")
    assert_weights(tmp_path / "b.safetensors", small)


def test_full_disk(cpu, tmp_path, source):
    # In a process of its own, since the limit cannot be lifted again.
    limited = """
import resource, signal, sys
import convert
from src.errors import run_main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run_main(lambda: convert.main(sys.argv[1:]))
"""
    before = sorted(tmp_path.iterdir())
    done = process(source, tmp_path / "a.pth", code=limited)
    assert done.returncode == 2 and sorted(tmp_path.iterdir()) == before
    assert done.stderr.startswith(f"error: cannot save {tmp_path / 'a.pth'} (File too large: 6 MB are needed, ")
    assert len(done.stderr.splitlines()) == 1


def test_other_scripts_point_here(tmp_path, source):
    with pytest.raises(UserError, match="is a PyTorch file; once: python convert.py "):
        load_network(source, "MIMO-UNet")


def test_meta_is_json_in_the_header(cpu, tmp_path, source):
    from safetensors import safe_open

    run(source, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="np") as f:
        assert json.loads(f.metadata()["meta"])["num_res"] == 1


def test_loaded_network_equals_the_state_dict(cpu, tmp_path, source, small):
    run(source, tmp_path / "a.ckpt")
    network, _, left_out = load_network(tmp_path / "a.ckpt", "MIMO-UNet")
    assert left_out == []
    assert all(np.array_equal(array, small[name].numpy()) for name, array in parameter_arrays(network).items())
