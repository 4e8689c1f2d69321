"""Export a checkpoint's network for deployment.

    python export.py --ckpt_file F [--export_device_target GPU] [--export_file_format MINDIR]
    python export.py --ckpt_file F --export_file_format ONNX --verify

Writes <model name>.mindir or .onnx into the current directory: (N, 3, H, W) float32 RGB in [0, 1] -> the same, any N,
any H and W that are multiples of 4, of 8 for MIMO-UNetLite. The file says which network it holds, which multiple that
is and where the weights came from.
"""

import re
from pathlib import Path

from src import __version__, device
from src.config import MULTIPLES, Config, load_config
from src.errors import UserError, need_writable_folder, run_main
from src.files import need_apart, whole_file, write_whole
from src.formats.exported import sealed
from src.formats.weights import sha256_of

# fp32: the largest difference. 16 bits: root mean square, -60 and -50 dB; single pixels differ by five times as much.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 3e-3}


def main(argv: list[str] | None = None) -> None:
    config = load_config("export", argv, device.best_device)
    print(f"settings: {config.origin}", flush=True)
    if not config.ckpt_file:
        raise UserError("--ckpt_file: expected a checkpoint, e.g. runs/MIMO-UNet/best.ckpt")
    size = parse_size(config.export_size, MULTIPLES[config.model_name])
    check_format(config, size)
    target = Path(config.export_file_name or config.model_name)
    path = target.with_name(f"{target.name}.{config.export_file_format.lower()}")
    need_apart([Path(config.ckpt_file)], files=[("--export_file_name", path)])
    need_writable_folder(target.parent, "--export_file_name")
    # Writing the graph needs no accelerator, so it is done on the CPU that every machine has.
    device.setup("Ascend" if config.export_file_format == "AIR" else "CPU")
    if config.export_device_target != "CPU" and config.export_file_format != "AIR":
        target_name = config.export_device_target
        print(f"exporting for {target_name} on this machine's CPU: the file does not depend on the device")
    export(config, target, size)


def parse_size(text: str, multiple: int) -> tuple[int, int] | None:
    """(H, W) of 'HxW', None of 'dynamic'; a UserError of anything else."""
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    size = tuple(map(int, match.groups())) if match else ()
    if not size or min(size) == 0 or any(side % multiple for side in size):
        raise UserError(
            f"--export_size: got {text}, expected HEIGHTxWIDTH, multiples of {multiple} (e.g. 720x1280), or dynamic"
        )
    return size


def check_format(config: Config, size: tuple[int, int] | None) -> None:
    """Say before the long work what this machine cannot write."""
    if config.export_file_format == "AIR":
        if not device.ascend_devices():
            raise UserError("--export_file_format AIR: needs an Ascend device, there is none here; MINDIR runs on all")
        if size is None or not config.export_batch_size:
            raise UserError("--export_file_format AIR: has fixed shapes; add --export_size HxW --export_batch_size N")
        if config.verify:
            raise UserError("--export_file_format AIR: only the Ascend tools can run it; --verify takes MINDIR or ONNX")
    elif config.export_file_format == "ONNX":
        from src.engine import import_fast

        import_fast()


def export(config: Config, target: Path, size: tuple[int, int] | None) -> None:
    # MindSpore takes seconds to import; --help and bad input are answered without it.
    from src.checkpoint import describe_loading, load_network
    from src.engine import MindSporeEngine

    network, meta, left_out = load_network(config.ckpt_file, config.model_name, config.weights)
    print(describe_loading(config.ckpt_file, meta, left_out))
    metadata = describe(config, network.variant, meta["weights"])
    path = target.with_name(f"{target.name}.{config.export_file_format.lower()}")
    with whole_file(path, sum(p.nbytes for p in network.get_parameters())) as temporary:
        write(config, network, temporary, size, metadata)
        if config.export_file_format == "AIR":
            print(f"{path}: {temporary.stat().st_size / 1e6:.1f} MB, not checked: only the Ascend tools can run it")
            return
        if config.export_precision == "fp16":  # the network has become float16
            network = load_network(config.ckpt_file, config.model_name, config.weights)[0]
        try:
            check(config, temporary, MindSporeEngine(network, name=config.ckpt_file), size)
        except UserError as e:  # a bad file does not get its name
            raise UserError(f"{e} Nothing was written.".replace(str(temporary), str(path))) from e
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, checked")


def describe(config: Config, variant, weights: str) -> dict[str, str]:
    """What is stored in the file."""
    return {
        "variant": config.model_name,
        "num_res": str(variant.num_res),
        "multiple": str(variant.multiple),
        "checkpoint": Path(config.ckpt_file).name,
        "checkpoint_sha256": sha256_of(Path(config.ckpt_file)),
        "weights": weights,
        "precision": config.export_precision,
        "colour_order": "RGB",
        "range": "0..1",
        "output_scales": "1 1/2 1/4" if config.all_scales else "1",
        "repository_version": __version__,
    }


def write(config: Config, network, path: Path, size: tuple[int, int] | None, metadata: dict[str, str]) -> None:
    """Write the file; a MINDIR or AIR in float16 leaves `network` in float16."""
    from src.checkpoint import parameter_arrays
    from src.formats.mindir import export_mindir, to_float16

    shapes = {"size": size, "all_scales": config.all_scales, "metadata": metadata}
    float16, batch_size = config.export_precision == "fp16", config.export_batch_size
    if config.export_file_format != "ONNX":
        network = to_float16(network) if float16 else network
        export_mindir(network, path.with_suffix(""), batch_size, file_format=config.export_file_format, **shapes)
        return
    from src.formats.onnx_graph import build_onnx

    arrays = parameter_arrays(network)
    model = build_onnx(arrays, network.variant.num_res, batch=batch_size, float16=float16, **shapes)
    write_whole(path, sealed(model.SerializeToString()))


def check(config: Config, path: Path, reference, size: tuple[int, int] | None) -> None:
    """Run the file through its own runtime and compare it with the checkpoint: at one small size, or with --verify at
    three, and in bfloat16 where the processor has it."""
    import numpy as np

    from src.engine import has_bf16, load_engine
    from src.restore import restore_once

    sizes = [size] if size else [(64, 64), (720, 1280), (501, 333)] if config.verify else [(64, 96)]
    engines = {config.export_precision: load_engine(path, precision="fp32" if path.suffix == ".onnx" else "auto")}
    if config.verify and path.suffix == ".onnx" and has_bf16():
        engines["bf16"] = load_engine(path, precision="bf16")
    for height, width in sizes:
        images = np.random.default_rng(0).random((config.export_batch_size or 1, height, width, 3), dtype=np.float32)
        expected = restore_once(images, reference)
        for precision, engine in engines.items():
            difference = restore_once(images, engine) - expected
            largest, rms = np.abs(difference).max(), np.sqrt(np.square(difference, dtype=np.float64).mean())
            found = f"largest difference from the checkpoint {largest:.1e}, rms {rms:.1e}"
            found += f" ({20 * np.log10(rms):.0f} dB)" if rms else ""
            print(f"{height}x{width} {precision}: {found}", flush=True)
            kind, limit = ("largest" if precision == "fp32" else "rms"), TOLERANCE[precision]
            if not (largest if kind == "largest" else rms) <= limit:  # so put, it catches what is not a number
                raise UserError(
                    f"{path} at {height}x{width}, {precision}: {found}; expected {kind} {limit:.0e} at most."
                )


if __name__ == "__main__":
    run_main(main)
