"""Convert weights between PyTorch and MindSpore, both ways.

    python convert.py MIMO-UNet.pkl weights_pretrained/MIMO-UNet_pytorch_weights.ckpt    # published weights -> here
    python convert.py --download MIMO-UNet                                               # the same in one command
    python convert.py runs/gpu/best.ckpt best.pkl                                        # and back
    python convert.py runs/gpu/best.ckpt best.safetensors                                # without the training state

TARGET holds the network alone, in float32, under the same parameter names; both frameworks use the same layouts. In
SOURCE the network may lie in dictionaries (model, state_dict, params, ...) and its names may have prefixes (module.,
net., ...). If SOURCE has a moving average, TARGET holds the average. The names and shapes determine the variant. Only
PyTorch files need PyTorch. --download saves the authors' PyTorch file beside TARGET.
"""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np

from src import checkpoint, device
from src.command_line import ArgumentParser, shown
from src.errors import UserError, nearest, need_writable_folder, run_main
from src.files import need_apart
from src.formats.download import PUBLISHED, default_target, fetch, import_gdown
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
from src.variants import MODELS, parameter_shapes, variant_of

SUFFIXES = CHECKPOINT_SUFFIXES + TORCH_SUFFIXES


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    downloads = any(word.split("=")[0] == "--download" for word in argv)
    parser = ArgumentParser(
        "Convert weights of MIMO-UNet, its variants included, between PyTorch and MindSpore.",
        usage="%(prog)s [options] SOURCE TARGET\n       %(prog)s [options] --download NAME [TARGET]",
    )
    optional = {"nargs": "?"} if downloads else {}
    parser.add_argument("source", metavar="SOURCE", help=f"file with weights: {', '.join(SUFFIXES)}", **optional)
    parser.add_argument("target", metavar="TARGET", help="output file; its suffix decides the format", **optional)
    download = f"authors' weights to fetch in place of SOURCE: {' or '.join(PUBLISHED)} [none]; TARGET is optional"
    parser.add_argument("--download", metavar="NAME", help=download)
    weights = "average or raw weights of a file with both [ema]"
    parser.add_argument("--weights", default="ema", choices=("ema", "raw"), help=weights)
    parser.add_argument("--overwrite", action="store_true", help="replacement of a TARGET that exists")
    args = parser.parse_args(argv)
    if downloads:
        convert_download(args)
        return
    source, target = Path(args.source), Path(args.target)
    need_suffix("SOURCE", source)
    need_suffix("TARGET", target)
    need_file(source, "PyTorch file" if source.suffix in TORCH_SUFFIXES else "checkpoint")
    need_apart([source], files=[("TARGET", target)])
    need_free(target, args.overwrite)
    if is_torch_file(source) or target.suffix in TORCH_SUFFIXES:
        import_torch()

    device.setup("CPU")
    convert(source, target, args.weights)


def convert_download(args: Namespace) -> None:
    """Fetch the authors' file into the folder of TARGET, convert it and print the score that it should reach.

    Raises:
        UserError: before the download for everything that can be checked then; as `fetch` and `convert`.
    """
    name = args.download
    if name not in PUBLISHED:
        hint = nearest(name.replace("+", "Plus"), PUBLISHED)  # the paper writes MIMO-UNet+
        raise UserError(f"--download: got {shown(name)}, expected {' or '.join(PUBLISHED)}.{hint}")
    if args.target:
        raise UserError(f"--download {name} replaces SOURCE: got {args.source} and {args.target}, expected only TARGET")
    target = Path(args.source) if args.source else default_target(name)
    source = target.parent / f"{name}.pkl"
    need_suffix("TARGET", target)
    need_apart([], files=[("TARGET", target), ("the downloaded file", source)])
    need_free(target, args.overwrite)
    if source.is_file() and not args.overwrite:
        command = shlex.join(["python", "convert.py", str(source), str(target)])
        raise UserError(f"--download {name}: {source} exists. Add --overwrite to replace it, or convert it: {command}")
    import_torch()
    import_gdown()
    need_writable_folder(target.parent, "TARGET")

    device.setup("CPU")
    fetch(name, source)
    convert(source, target, args.weights)
    print(f"published score: {PUBLISHED[name].psnr} dB on the GoPro test set, as `psnr` of eval.py measures it")


def need_suffix(option: str, path: Path) -> None:
    """Raise a UserError unless the suffix is that of a file of weights."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{option}: got {path}, expected a file name that ends with {', '.join(SUFFIXES)}")


def need_free(target: Path, overwrite: bool) -> None:
    """Raise a UserError if TARGET is a folder, or exists without --overwrite."""
    if target.is_dir():
        raise UserError(f"TARGET: {target} is a folder, expected a file name")
    if target.exists() and not overwrite:
        raise UserError(f"TARGET: {target} exists. Add --overwrite to replace it, or give another name")


def convert(source: Path, target: Path, weights: str = "ema") -> None:
    """Read, check, write and report.

    Raises:
        UserError: SOURCE holds no complete, finite network of a known kind, or TARGET cannot be written.
    """
    content, meta = (read_torch(source), {}) if is_torch_file(source) else checkpoint.read_checkpoint(source)
    found = find_network(content, source, weights)
    values = found.values
    variant, num_res = checkpoint.require_network(values, meta, source)
    network = variant_of(variant or "MIMO-UNet", num_res)  # no variant: MIMO-UNet with another depth
    own = list(parameter_shapes(network))
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
