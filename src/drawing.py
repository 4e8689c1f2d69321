"""Restored images, before/after strips and training curves as files. Images are (H, W, 3) float32 in [0, 1]."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from src.files import escaped, whole_file, write_whole
from src.metric import psnr, to_uint8

GAP = 8  # pixels between the images of a strip
CAPTION = 18  # pixels above them


def save_png(path: Path, image: np.ndarray) -> None:
    """Clip, round to 8 bits and write as `whole_file`."""
    with whole_file(path) as part:
        Image.fromarray(to_uint8(image)).save(part)


def save_strip(path: Path, images: Mapping[str, np.ndarray]) -> None:
    """Images of one size side by side, each under its caption, e.g. {"blurred": a, "restored 31.20 dB": b, "sharp":
    c}."""
    height, width = next(iter(images.values())).shape[:2]
    sheet = Image.new("RGB", (len(images) * (width + GAP) - GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(images.items()):
        left = i * (width + GAP)
        draw.text((left + 2, 3), caption, fill="black")
        sheet.paste(Image.fromarray(to_uint8(image)), (left, CAPTION))
    with whole_file(path) as part:
        sheet.save(part)


def save_scored_strip(path: Path, blur: np.ndarray, restored: np.ndarray, sharp: np.ndarray) -> None:
    """blurred | restored | sharp, the first two with their PSNR."""
    images = {
        f"blurred {psnr(blur, sharp):.2f} dB": blur,
        f"restored {psnr(restored, sharp):.2f} dB": restored,
        "sharp": sharp,
    }
    save_strip(path, images)


def save_curves(path: Path, runs: Mapping[str, Mapping[str, Sequence[float | None]]]) -> None:
    """Loss and validation PSNR over the steps, one line per run.

    Args:
        runs: label -> columns of its log (`src.run_log.read_log`).
    """
    from matplotlib.backends.backend_agg import (
        FigureCanvasAgg,
    )  # needs no display and has no global state; imported here, since it takes 0.5 s
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, psnr_axes = figure.subplots(1, 2)
    for name, log in runs.items():
        label = escaped(f" {name}" if name.startswith("_") else name)  # a legend omits labels that begin with "_"
        step, loss, psnr, psnr_input = (_as_floats(log[c]) for c in ("step", "loss", "psnr", "psnr_input"))
        known = np.isfinite(loss)
        marker = "o" if known.sum() == 1 else None  # a line of one point is invisible
        loss_axes.plot(step[known], loss[known], linewidth=0.8, marker=marker, markersize=3, label=label)
        known = np.isfinite(psnr)
        (line,) = psnr_axes.plot(step[known], psnr[known], marker="o", markersize=3, label=label)
        if np.isfinite(psnr_input).any():
            last, style = psnr_input[np.isfinite(psnr_input)][-1], {"linestyle": "--", "linewidth": 0.8}
            psnr_axes.axhline(last, color=line.get_color(), label=f"{label}: blurred input", **style)
    loss_axes.set(xlabel="step", ylabel="loss", yscale="log")
    psnr_axes.set(xlabel="step", ylabel="validation PSNR, dB")
    for axes in (loss_axes, psnr_axes):
        axes.grid(alpha=0.3)
        if axes.lines:
            for text in axes.legend(fontsize="small").get_texts():
                text.set_parse_math(False)  # a run folder's name may hold "$"
    content = BytesIO()
    figure.savefig(content, dpi=110, format=path.suffix[1:] or "png")
    write_whole(path, content.getbuffer())


def _as_floats(column: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in column], dtype=np.float64)
