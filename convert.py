"""Convert weights between PyTorch and MindSpore, both ways.

    python convert.py MIMO-UNet.pkl weights_pretrained/MIMO-UNet_pytorch_weights.ckpt    # published weights -> here
    python convert.py runs/gpu/best.ckpt best.pkl                                        # and back
    python convert.py runs/gpu/best.ckpt best.safetensors                                # without the training state

TARGET holds the network alone, in float32, under the same parameter names; both frameworks use the same layouts. In
SOURCE the network may lie in dictionaries (model, state_dict, params, ...) and its names may have prefixes (module.,
net., ...). If SOURCE has a moving average, TARGET holds the average. The names and shapes determine the variant. Only
PyTorch files need PyTorch.
"""

from pathlib import Path

import numpy as np

from src import device
from src.command_line import ArgumentParser
from src.errors import UserError, need_writable_folder, run_main
from src.files import need_apart
from src.formats.state_dicts import find_network
from src.formats.torch_files import import_torch, read_torch, torch_array, write_torch
from src.formats.weights import (
    CHECKPOINT_SUFFIXES,
    TORCH_SUFFIXES,
    is_torch_file,
    need_file,
    need_finite,
    sha256_of,
)

SUFFIXES = CHECKPOINT_SUFFIXES + TORCH_SUFFIXES


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser("Convert weights of MIMO-UNet, its variants included, between PyTorch and MindSpore.")
    parser.add_argument("source", metavar="SOURCE", help=f"file with weights: {', '.join(SUFFIXES)}")
    parser.add_argument("target", metavar="TARGET", help="output file; its suffix decides the format")
    weights = "average or raw weights of a file with both [ema]"
    parser.add_argument("--weights", default="ema", choices=("ema", "raw"), help=weights)
    parser.add_argument("--overwrite", action="store_true", help="replacement of a TARGET that exists")
    args = parser.parse_args(argv)
    source, target = Path(args.source), Path(args.target)
    check_files(source, target, args.overwrite)

    device.setup("CPU")
    convert(source, target, args.weights)


def check_files(source: Path, target: Path, overwrite: bool) -> None:
    """Raise a UserError for everything that can be checked before SOURCE is read."""
    for option, path in (("SOURCE", source), ("TARGET", target)):
        if path.suffix not in SUFFIXES:
            raise UserError(f"{option}: got {path}, expected a file name that ends with {', '.join(SUFFIXES)}")
    need_file(source, "PyTorch file" if source.suffix in TORCH_SUFFIXES else "checkpoint")
    if target.is_dir():
        raise UserError(f"TARGET: {target} is a folder, expected a file name")
    need_apart([source], files=[("TARGET", target)])
    if target.exists() and not overwrite:
        raise UserError(f"TARGET: {target} exists. Add --overwrite to replace it, or give another name")
    if is_torch_file(source) or target.suffix in TORCH_SUFFIXES:
        import_torch()


def convert(source: Path, target: Path, weights: str = "ema") -> None:
    """Read, check, write and report.

    Raises:
        UserError: SOURCE holds no complete, finite network of a known kind, or TARGET cannot be written.
    """
    # MindSpore takes seconds to import; --help and bad arguments are answered without it.
    from src import checkpoint
    from src.mimo_unet import MODELS, build_net

    content, meta = (read_torch(source), {}) if is_torch_file(source) else checkpoint.read_checkpoint(source)
    found = find_network(content, source, weights)
    values = found.values
    variant, num_res = checkpoint.require_network(values, meta, source)
    network = build_net(variant or next(iter(MODELS)), num_res)  # no variant: MIMO-UNet with another depth
    own = [p.name for p in network.get_parameters()]
    checkpoint.check_parameters(network, {name: tuple(value.shape) for name, value in values.items()}, source)
    arrays = {name: finite_float32(values[name], name, source) for name in own}

    need_writable_folder(target.parent, "TARGET")
    digest = sha256_of(source)
    if target.suffix in TORCH_SUFFIXES:
        write_torch(target, arrays)
    else:
        described = {"variant": variant, "num_res": num_res, "source": source.name, "source_sha256": digest}
        # Not the state of the run, which `--resume` reads: it holds paths of this machine and half a row of the log.
        kept = {key: value for key, value in meta.items() if key not in ("step", "config", "log_part")}
        checkpoint.save_checkpoint(target, arrays, kept | described)

    size = sum(a.size for a in arrays.values())
    kind = variant or f"none of {', '.join(f'{name} ({v.num_res})' for name, v in MODELS.items())}"
    print(f"{source}: {kind}, {num_res} residual blocks per stage, {size:,} parameters in {len(arrays)} tensors")
    types = {str(values[name].dtype).removeprefix("torch.") for name in own} - {"float32"}
    if types:
        print(f"converted to float32 from {', '.join(sorted(types))}")
    if found.taken:
        print(f"taken: {found.taken}")
    left_out = [name for name in values if name not in own] + found.left_out
    if left_out:
        print(checkpoint.describe_left_out(left_out, group=len(own), limit=None))
    print(f"sha256 of {source.name}: {digest}")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def finite_float32(value, name: str, source: Path) -> np.ndarray:
    """A PyTorch tensor or an array as float32 array.

    Raises:
        UserError: it holds integers, complex numbers, NaN or infinity.
    """
    array = value if isinstance(value, np.ndarray) else torch_array(value, name, source)
    if array.dtype.kind in "biuc":
        raise UserError(f"{source}: {name} has {array.dtype} numbers, expected floating-point ones")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which is reported below
        array = array.astype(np.float32)
    need_finite({name: array}, source)
    return array


if __name__ == "__main__":
    run_main(main)
