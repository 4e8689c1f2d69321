"""The main part of `run_demo.sh`: run the repository's scripts on a sample set and print a summary.

python scripts/demo.py                   # fine-tunes the sample weights
python scripts/demo.py --from_scratch    # starts from random weights
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees scripts/ only

from src.command_line import ArgumentParser  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.formats.weights import sample_model  # noqa: E402
from src.run_log import read_log  # noqa: E402

STEPS = 80  # about two and a half minutes on two cores
TRAINING = dict(device_target="CPU", crop_size=96, train_batch_size=2, epochs_num=1000, max_steps=STEPS, num_worker=2)
TRAINING |= dict(val_acc_monitor_interval=10, val_first=True, log_frequency=5, ckpt_save_frequency=1000)
FROM_SCRATCH = {"learning_rate": 2e-4}
# So low that a few steps on a few photographs do not degrade weights from hours of training on many.
FINE_TUNING = {"learning_rate": 2e-5, "ema_decay": 0.95}
REMARKS = {
    True: "After a few minutes from random weights the score is hardly above the blurred input, if at all: a real "
    "training takes days on a GPU.",
    False: "The sample weights come from a small training on CPU: weights_pretrained/MODEL_CARD.md has their scores.",
}


def run(script: str, **options: object) -> None:
    """Print the command of one of the repository's scripts and run it."""
    command = script.split()
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    print(f"\n$ python {' '.join(command)}", flush=True)
    status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if status:
        raise UserError(f"{script} ended with exit status {status}; see its message above")


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser("Sample set -> preprocessing -> training -> evaluation -> export, into ./demo.")
    parser.add_argument("--from_scratch", action="store_true", help="train from random weights")
    from_scratch = parser.parse_args(argv).from_scratch
    if from_scratch:
        training = TRAINING | FROM_SCRATCH
        print("demo: trains from random weights", flush=True)
    else:
        weights, _ = sample_model("--pretrained")
        training = TRAINING | FINE_TUNING | {"pretrained": weights}
        print(f"demo: fine-tunes {weights}; --from_scratch starts from random weights", flush=True)
    start = time.perf_counter()
    folder = ROOT / "demo"
    shutil.rmtree(folder / "run", ignore_errors=True)  # from an earlier demo

    run("-m src.data.sample_data", root="demo/sample_set")
    run("src/preprocessing.py", root_src="demo/sample_set", root_dst="demo/dataset")
    run("train.py", dataset_root="demo/dataset", ckpt_save_directory="demo/run", **training)
    outputs = {"report_file": "demo/report.json", "img_save_directory": "demo/restored"}
    outputs |= {"strip_save_directory": "demo/strips"}
    run("eval.py", dataset_root="demo/dataset", ckpt_file="demo/run/best.ckpt", device_target="CPU", **outputs)
    run("export.py", ckpt_file="demo/run/best.ckpt", export_file_name="demo/MIMO-UNet", export_device_target="CPU")

    report = json.loads((folder / "report.json").read_text())
    log = read_log(folder / "run/log.csv")
    scores = [(psnr, int(step)) for psnr, step in zip(log["psnr"], log["step"], strict=True) if psnr is not None]
    before, best_step = scores[0][0], max(scores)[1]  # best.ckpt is the step that scored best
    print(
        f"""
PSNR on {report["images"]} test images
  blurred input    {report["psnr_input"]:.2f} dB
  before training  {before:.2f} dB
  after {best_step} steps  {report["psnr"]:.2f} dB
{REMARKS[from_scratch]}

picture           {folder / "strips/1.png"} (blurred | restored | sharp)
training curve    {folder / "run/curves.png"}
restored images   {folder / "restored"}
exported network  {folder / "MIMO-UNet.mindir"}
report            {folder / "report.json"}
{time.perf_counter() - start:.0f} s in all"""
    )


if __name__ == "__main__":
    run_main(main)
