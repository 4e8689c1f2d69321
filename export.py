"""Export a checkpoint's network for deployment.

    python export.py --ckpt_file F [--export_device_target GPU] [--export_file_format MINDIR]
    python export.py --ckpt_file F --export_file_format ONNX --verify

Writes <variant>.mindir or .onnx into the current directory: (N, 3, H, W) float32 RGB in [0, 1] -> the same, for any N,
and any H and W that are multiples of 4 (8 for MIMO-UNetLite). The file states its network, this multiple and the origin
of its weights. MindSpore takes seconds to import, so functions import it: --help and bad input are answered without it.
"""

import re
from pathlib import Path

from src import __version__, device
from src.config import Config, Export, load_config
from src.errors import UserError, need_writable_folder, run_main
from src.files import need_apart, whole_file
from src.formats.weights import sha256_of
from src.variants import MODELS


def main(argv: list[str] | None = None) -> None:
    config = load_config("export", argv, device.best_device)
    print(f"settings: {config.origin}", flush=True)
    options, network = config.export, config.network
    if not network.ckpt_file:
        raise UserError("--ckpt_file: expected a checkpoint, e.g. runs/MIMO-UNet/best.ckpt")
    parse_size(options.export_size, MODELS[network.model_name].multiple if network.model_name else 4)
    check_format(options)
    if options.export_file_name:
        choose_target(config, options.export_file_name)
    # Writing the graph needs no accelerator, so it is done on the CPU that every machine has.
    device.setup("Ascend" if options.export_file_format == "AIR" else "CPU")
    if options.export_device_target != "CPU" and options.export_file_format != "AIR":
        target = options.export_device_target
        print(f"exporting for {target} on this machine's CPU: the file does not depend on the device")
    export(config)


def parse_size(text: str, multiple: int) -> tuple[int, int] | None:
    """(H, W) of 'HxW', None of 'dynamic'; a UserError of anything else."""
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) == 0 or any(side % multiple for side in size):
        raise UserError(
            f"--export_size: got {text}, expected HEIGHTxWIDTH, multiples of {multiple} (e.g. 720x1280), or dynamic"
        )
    return size


def check_format(options: Export) -> None:
    """Raise a UserError for a format that this machine cannot write, before the long work."""
    if options.export_file_format == "AIR":
        if not device.ascend_devices():
            raise UserError("--export_file_format AIR: needs an Ascend device, there is none here; MINDIR runs on all")
        if options.export_size == "dynamic" or not options.export_batch_size:
            raise UserError("--export_file_format AIR: has fixed shapes; add --export_size HxW --export_batch_size N")
        if options.verify:
            raise UserError("--export_file_format AIR: only the Ascend tools can run it; --verify takes MINDIR or ONNX")
    elif options.export_file_format == "ONNX":
        from src.engine import import_fast

        import_fast()


def choose_target(config: Config, name: str) -> Path:
    """The file to write. Raises a UserError unless it can be written and is not the checkpoint."""
    target = Path(name)
    path = target.with_name(f"{target.name}.{config.export.export_file_format.lower()}")
    need_apart([Path(config.network.ckpt_file)], files=[("--export_file_name", path)])
    need_writable_folder(path.parent, "--export_file_name")
    return path


def export(config: Config) -> None:
    """Load the checkpoint, write the file, check it and give it its name."""
    from src.checkpoint import describe_loading, load_network
    from src.engine import MindSporeEngine
    from src.exporting import check_export, write_export

    options, source = config.export, config.network
    loading = source.ckpt_file, source.model_name, source.weights
    network, meta, left_out = load_network(*loading)
    print(describe_loading(source.ckpt_file, meta, left_out))
    size = parse_size(options.export_size, network.variant.multiple)
    path = choose_target(config, options.export_file_name or meta["variant"])
    texts = {
        "variant": meta["variant"],
        "num_res": str(network.variant.num_res),
        "multiple": str(network.variant.multiple),
        "checkpoint": Path(source.ckpt_file).name,
        "checkpoint_sha256": sha256_of(Path(source.ckpt_file)),
        "weights": meta["weights"],
        "precision": options.export_precision,
        "colour_order": "RGB",
        "range": "0..1",
        "output_scales": "1 1/2 1/4" if options.all_scales else "1",
        "repository_version": __version__,
    }
    with whole_file(path, sum(p.nbytes for p in network.get_parameters())) as temporary:
        write_export(options, network, temporary, size, texts)
        if options.export_file_format == "AIR":
            print(f"{path}: {temporary.stat().st_size / 1e6:.1f} MB, not checked: only the Ascend tools can run it")
            return
        if options.export_precision == "fp16":  # the network has become float16
            network = load_network(*loading)[0]
        sizes = [size] if size else [(64, 64), (720, 1280), (501, 333)] if options.verify else [(64, 96)]
        reference = MindSporeEngine(network, source.ckpt_file)
        try:
            check_export(options, temporary, reference, sizes)
        except UserError as e:  # a bad file does not get its name
            raise UserError(f"{e} Nothing was written.".replace(str(temporary), str(path))) from e
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, checked")


if __name__ == "__main__":
    run_main(main)
