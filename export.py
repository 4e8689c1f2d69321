"""Export a checkpoint's network for deployment.

    python export.py --ckpt_file F [--export_device_target GPU] [--export_file_format MINDIR]

Writes <model name>.mindir into the current directory: (N, 3, H, W) float32 RGB in [0, 1] -> the same, any N, any H and
W that are multiples of 4.
"""

from pathlib import Path

from src import device
from src.config import Config, load_config
from src.errors import UserError, need_writable_folder, run_main


def main(argv: list[str] | None = None) -> None:
    config = load_config("export", argv, device.best_device)
    print(f"settings: {config.origin}", flush=True)
    if not config.ckpt_file:
        raise UserError("--ckpt_file: expected a checkpoint, e.g. runs/MIMO-UNet/best.ckpt")
    target = Path(config.export_file_name or config.model_name)
    need_writable_folder(target.parent, "--export_file_name")
    # Writing the graph needs no accelerator, so it is done on the CPU that every machine has.
    device.setup("CPU")
    if config.export_device_target != "CPU":
        print(
            f"exporting for {config.export_device_target} on this machine's CPU: the file does not depend on the device"
        )
    export(config, target)


def export(config: Config, target: Path) -> None:
    # MindSpore takes seconds to import; --help and bad input are answered without it.
    import numpy as np

    from src.checkpoint import describe_loading, load_network
    from src.engine import MindirEngine, MindSporeEngine, export_mindir

    network, meta, left_out = load_network(config.ckpt_file, config.model_name, config.weights)
    print(describe_loading(config.ckpt_file, meta, left_out))
    exporters = {"MINDIR": export_mindir}
    path = exporters[config.export_file_format](network, target, config.export_batch_size)
    images = np.random.default_rng(0).random((config.export_batch_size or 2, 3, 64, 96), dtype=np.float32)
    difference = np.abs(MindirEngine(path)(images) - MindSporeEngine(network)(images)).max()
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, reloaded, largest difference from the checkpoint {difference:.1e}"
    )
    if difference > 1e-5:
        raise UserError(
            f"{path} does not reproduce the checkpoint: largest difference {difference:.1e}, expected 1e-5 at most"
        )


if __name__ == "__main__":
    run_main(main)
