"""Validation during training, split over the ranks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from src import device
from src.data.pairs import Pair
from src.drawing import save_scored_strip
from src.engine import Engine, MindSporeEngine, WeightsEngine, install_hint, missing_packages
from src.errors import BadOutput
from src.evaluation import evaluate, make_scorer, summary_of_sums, sums
from src.mimo_unet import MIMOUNet
from src.restore import restore
from src.run_log import Decoration
from src.train_step import TrainStep
from src.variants import parameter_shapes

NUM_STRIPS = 3  # example images per validation


class Validator:
    """Scores a network in training on validation pairs.

    With a moving average its weights are scored, because `eval.py` and `deblur.py` use them. On a CPU OpenVINO scores,
    if it is installed, in float32. Each rank takes every world-size-th pair; sums and counts are gathered, so the score
    equals that of a single process.

    Args:
        folder: rank 0 writes strips blurred | restored | sharp of its first pairs to `folder`/samples/<step>/.
    """

    def __init__(
        self,
        step: TrainStep,
        pairs: Sequence[Pair],
        batch_size: int,
        runtime: device.Runtime,
        folder: Path | None = None,
    ):
        self.step, self.pairs, self.batch_size, self.runtime, self.folder = step, pairs, batch_size, runtime, folder
        missing = missing_packages() if runtime.target == "CPU" else []
        self.with_openvino = runtime.target == "CPU" and not missing
        if missing and runtime.rank == 0:
            print(f"validation: by MindSpore; OpenVINO, which is faster, needs {install_hint(missing)}", flush=True)
        self.engine: Engine | None = None
        self.network: MIMOUNet | None = None
        self.decoration = Decoration((folder or Path()) / "samples")

    def __call__(self, global_step: int, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Summary of `psnr` over all pairs, whose score is None if the network returns NaN or infinity; or None if
        `should_stop` ended it early, which only a single process checks."""
        self.take_weights()
        rank, world_size = self.runtime.rank, self.runtime.world_size
        mine = self.pairs[rank::world_size]
        shown = {pair.name for pair in mine[:NUM_STRIPS]} if rank == 0 else set()

        def show(pair: Pair, blur: np.ndarray, restored: np.ndarray, sharp: np.ndarray) -> None:
            if self.folder and pair.name in shown and np.isfinite(restored).all():
                path = self.folder / "samples" / f"{global_step:08}" / f"{pair.name}.png"
                with self.decoration:
                    save_scored_strip(path, blur, restored, sharp)

        rows = []
        for row in evaluate(mine, self.restore, make_scorer(["psnr"]), self.batch_size, show):
            rows.append(row)
            if world_size == 1 and should_stop():
                return None
        total = sums(rows) if world_size == 1 else device.gather(sums(rows)).sum(axis=0)
        return summary_of_sums(total)

    def restore(self, images: np.ndarray) -> np.ndarray:
        """Restored images, or NaN if the network's output is unusable: training may recover from such weights, and the
        other ranks wait for this rank's scores."""
        assert self.engine is not None
        try:
            return restore(images, self.engine)
        except BadOutput:
            return np.full_like(images, np.nan)

    def take_weights(self) -> None:
        """Bring the weights to be scored into the engine."""
        trained = self.step.ema if self.step.ema is not None else self.step.network.trainable_params()
        variant = self.step.network.variant
        if self.with_openvino:
            # Compiled each time, in less than a second: weights that can be exchanged are not packed for the processor.
            arrays = {name: p.asnumpy() for name, p in zip(parameter_shapes(variant), trained, strict=True)}
            threads = max(1, device.core_count() // self.runtime.world_size)
            self.engine = WeightsEngine(arrays, variant, precision="fp32", threads=threads)
            return
        if self.network is None:  # compiled here, because a run may be too short for a validation
            # A separate network, because a moving average has other weights, and because the native convolutions of
            # the trained one need shapes that are known at compile time.
            self.network = MIMOUNet(variant)
            if self.step.scaler is not None:
                self.network.to_float(ms.float16)
            self.engine = MindSporeEngine(self.network)
        for weight, value in zip(self.network.trainable_params(), trained, strict=True):
            weight.set_data(value.value())
