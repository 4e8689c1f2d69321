"""Scores of a network on paired images, per image and in summary. Images are (H, W, 3) float32 in [0, 1]."""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from src.align import aligned_scores
from src.data.pairs import Pair
from src.errors import BadOutput
from src.files import write_whole
from src.metric import METRICS

ScoreRow = dict[str, Any]
Restore = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) blurred -> (N, H, W, 3) restored, not clipped."""
Scorer = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""(prediction, sharp) -> metric name -> score."""
OnImage = Callable[[Pair, np.ndarray, np.ndarray, np.ndarray], None]

WARM_UP = 20  # images, which the authors' scripts leave out of their timing


def make_scorer(metrics: Iterable[str], crop_border: int = 0, center_crop: int = 0, align: str = "none") -> Scorer:
    """Score by the named `METRICS`.

    Args:
        crop_border: pixels to leave out at each side.
        center_crop: side of the central square to score, 0 = whole frame. Both change the score: report them with it.
        align: `ecc` aligns the prediction to the sharp image first (src.align); adds `aligned`, 1 or 0, to the scores.
    """
    functions = {name: METRICS[name] for name in metrics}

    def score(prediction: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
        height, width = sharp.shape[:2]
        window = scored_window(height, width, crop_border, center_crop)
        prediction, sharp = prediction[window], sharp[window]
        if align == "ecc":
            scores, converged = aligned_scores(prediction, sharp, functions)
            return scores | {"aligned": float(converged)}
        return {name: function(prediction, sharp) for name, function in functions.items()}

    return score


def scored_window(height: int, width: int, crop_border: int, center_crop: int) -> tuple[slice, slice]:
    """Rows and columns to score. Raises a ValueError for an image that is too small."""
    if min(height, width) < 2 * crop_border + max(1, center_crop):
        raise ValueError(f"{height}x{width} pixels, crop_border {crop_border}, center_crop {center_crop}")
    borders = [(size - center_crop) // 2 if center_crop else crop_border for size in (height, width)]
    rows, columns = (center_crop or size - 2 * crop_border for size in (height, width))
    return slice(borders[0], borders[0] + rows), slice(borders[1], borders[1] + columns)


def evaluate(
    pairs: Sequence[Pair],
    restore: Restore,
    score: Scorer,
    batch_size: int = 1,
    on_image: OnImage | None = None,
    network_clock: Callable[[], float] | None = None,
) -> Iterator[ScoreRow]:
    """Restore every blurred image and score it.

    Args:
        batch_size: consecutive images of one size that the network restores together; changes no score.
        on_image: called with (pair, blur, restored, sharp), restored not clipped.
        network_clock: seconds that the network alone has taken so far (`src.restore.TimedEngine`).

    Yields:
        name, seconds (of the restoring), network_seconds (if `network_clock` is given), and for each metric
        `<metric>_input`, `<metric>`, `<metric>_gain`.

    Raises:
        BadOutput: from `restore`, with the image's name added.
    """
    for names, blur, sharp in _batches(pairs, batch_size):
        network_start = network_clock() if network_clock else 0.0
        start = time.perf_counter()
        restored = _restored(restore, names, blur)
        seconds = {"seconds": (time.perf_counter() - start) / len(names)}
        if network_clock:
            seconds["network_seconds"] = (network_clock() - network_start) / len(names)
        for i, pair in enumerate(names):
            row: ScoreRow = {"name": pair.name} | seconds
            before, after = score(blur[i], sharp[i]), score(restored[i], sharp[i])
            if "aligned" in after:
                row["aligned"] = min(before.pop("aligned"), after.pop("aligned"))
            for metric in after:
                gain = _difference(after[metric], before[metric])
                row |= {f"{metric}_input": before[metric], metric: after[metric], f"{metric}_gain": gain}
            if on_image:
                on_image(pair, blur[i], restored[i], sharp[i])
            yield row


def _restored(restore: Restore, pairs: Sequence[Pair], blur: np.ndarray) -> np.ndarray:
    try:
        return restore(blur)
    except BadOutput as e:
        if len(pairs) == 1:
            raise BadOutput(f"{pairs[0].blur}: {e}", e.always) from e
    # One image at a time, to find the one that fails.
    return np.concatenate([_restored(restore, [pair], blur[i : i + 1]) for i, pair in enumerate(pairs)])


def _difference(after: float, before: float) -> float:
    return 0.0 if after == before else after - before  # inf - inf would be nan


def _batches(pairs: Sequence[Pair], batch_size: int) -> Iterator[tuple[list[Pair], np.ndarray, np.ndarray]]:
    """Batches of consecutive images of one size; the next images are decoded while the network runs."""

    def read(pair: Pair) -> tuple[Pair, np.ndarray, np.ndarray]:
        blur, sharp = pair.read()
        return pair, blur.astype(np.float32) / np.float32(255), sharp.astype(np.float32) / np.float32(255)

    with ThreadPoolExecutor(max_workers=1) as reader:
        for _, same_size in groupby(_read_ahead(reader, read, pairs, batch_size + 1), key=lambda item: item[1].shape):
            while items := list(islice(same_size, batch_size)):
                names, blurred, sharp = zip(*items, strict=True)
                yield list(names), np.stack(blurred), np.stack(sharp)


def _read_ahead(pool: ThreadPoolExecutor, read: Callable, pairs: Sequence[Pair], ahead: int) -> Iterator:
    """`map(read, pairs)` with at most `ahead` results waiting: a full GoPro test set would not fit in memory."""
    waiting = [pool.submit(read, pair) for pair in pairs[:ahead]]
    for pair in pairs[ahead:]:
        yield waiting.pop(0).result()
        waiting.append(pool.submit(read, pair))
    for future in waiting:
        yield future.result()


SUMMED = ("psnr_input", "psnr", "psnr_gain", "seconds")  # in a validation


def sums(rows: Sequence[ScoreRow]) -> list[float]:
    """The number of rows, then sum and count of the values of each of `SUMMED` except inf, for ranks to add up."""
    found = [float(len(rows))]
    for key in SUMMED:
        values = [row[key] for row in rows if not math.isinf(row[key])]
        found += [math.fsum(values), float(len(values))]
    return found


def summary_of_sums(total: Sequence[float]) -> dict[str, float | None]:
    """`summarize` of all rows whose `sums` add up to `total`, but None if one of them is nan: the mean of the other
    images could be the best of a training whose network fails."""
    summary: dict[str, float | None] = {"images": int(total[0])}
    for i, key in enumerate(SUMMED):
        value, count = total[1 + 2 * i : 3 + 2 * i]
        name = "seconds_per_image" if key == "seconds" else key
        summary[name] = value / count if count and not math.isnan(value) else None
        if count < total[0]:
            summary[f"{name}_inf"] = int(total[0] - count)
    return summary


def summarize(rows: Sequence[ScoreRow]) -> dict[str, float | None]:
    """Means over the images with a finite score, None if there are none. `<score>_inf` counts scores of inf (identical
    images) and nan (SSIM of an image under 11 pixels), which a mean would hide.

    The network's seconds exclude the warm-up: the first `WARM_UP` images, but at most half of all.
    """
    summary: dict[str, float | None] = {"images": len(rows)}
    for key in rows[0] if rows else ():
        if key == "name":
            continue
        values = [row[key] for row in rows]
        if key == "network_seconds":
            skipped = min(WARM_UP, len(rows) // 2)
            summary |= {"network_seconds_per_image": float(np.mean(values[skipped:])), "warm_up_images": skipped}
            continue
        finite = [v for v in values if math.isfinite(v)]
        name = "seconds_per_image" if key == "seconds" else key
        summary[name] = float(np.mean(finite)) if finite else None
        if len(finite) < len(values):
            summary[f"{name}_inf"] = len(values) - len(finite)
    return summary


def summary_lines(summary: Mapping[str, Any], metrics: Sequence[str], protocol: Mapping[str, Any]) -> list[str]:
    """A `summarize` for people; settings of `protocol` that change the scores stand beside each of them."""
    changed = [f"{name} {value}" for name, value in protocol.items() if value not in (0, "none")]
    settings = f" [{', '.join(changed)}]" if changed else ""
    lines = []
    for metric in metrics:
        values = (summary[f"{metric}{part}"] for part in ("_input", "", "_gain"))
        blurred, restored, gain = ("no finite score" if value is None else f"{value:.4f}" for value in values)
        left_out = summary.get(f"{metric}_inf", 0)
        note = f" ({left_out} images without a finite score are not in the mean)" if left_out else ""
        lines.append(f"{metric}{settings}: {restored} (blurred input {blurred}, gain {gain}){note}")
    alone = f"the network alone {summary['network_seconds_per_image']:.4f} s"
    if summary["warm_up_images"]:
        alone += f" (without warm-up, the first {summary['warm_up_images']})"
    return [*lines, f"{summary['images']} images, {summary['seconds_per_image']:.3f} s per image; {alone}"]


def worst(rows: Sequence[ScoreRow], metric: str, count: int = 10) -> list[ScoreRow]:
    """The rows with the lowest scores, lowest first."""
    return sorted((row for row in rows if math.isfinite(row[metric])), key=lambda row: row[metric])[:count]


def write_csv(path: Path, rows: Sequence[ScoreRow]) -> None:
    """One row per image, in full precision, so that a column's mean equals the summary's figure."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["name"])
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def write_json(path: Path, summary: dict[str, Any]) -> None:
    """inf and nan, which are not JSON, become null."""
    standard = json.loads(json.dumps(summary), parse_constant=lambda name: None)
    write_whole(path, json.dumps(standard, indent=2) + "\n")
