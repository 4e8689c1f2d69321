"""Scores of a network on paired images: per image, then summed up."""

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from src.metric import METRICS
from src.picture_files import Pair, read_rgb
from src.restore import Engine, restore

Row = dict[str, Any]
OnImage = Callable[[Pair, np.ndarray, np.ndarray, np.ndarray], None]


def evaluate(
    pairs: Sequence[Pair],
    engine: Engine,
    metrics: Iterable[str] = ("psnr", "ssim"),
    batch_size: int = 1,
    on_image: OnImage | None = None,
) -> Iterator[Row]:
    """Restore every blurred image and score it.

    Args:
        batch_size: neighbours of one size that go through the network together; changes no score.
        on_image: called with (pair, blur, restored, sharp), each (H, W, 3) float32, restored not clipped.

    Yields:
        name, seconds (of the restoring alone), and for each metric `<metric>_input`, `<metric>`, `<metric>_gain`.
    """
    metrics = list(metrics)
    for names, blur, sharp in _batches(pairs, batch_size):
        start = time.perf_counter()
        restored = restore(blur, engine)
        seconds = (time.perf_counter() - start) / len(names)
        for i, pair in enumerate(names):
            row: Row = {"name": pair.name, "seconds": seconds}
            for metric in metrics:
                before = METRICS[metric](blur[i], sharp[i])
                after = METRICS[metric](restored[i], sharp[i])
                row |= {f"{metric}_input": before, metric: after, f"{metric}_gain": _difference(after, before)}
            if on_image:
                on_image(pair, blur[i], restored[i], sharp[i])
            yield row


def _difference(after: float, before: float) -> float:
    return 0.0 if after == before else after - before  # inf - inf would be nan


def _batches(pairs: Sequence[Pair], batch_size: int) -> Iterator[tuple[list[Pair], np.ndarray, np.ndarray]]:
    """Batches of neighbours of one size, the next images decoded while the network works."""

    def read(pair: Pair) -> tuple[Pair, np.ndarray, np.ndarray]:
        blur, sharp = read_rgb(pair.blur), read_rgb(pair.sharp)
        return pair, blur.astype(np.float32) / np.float32(255), sharp.astype(np.float32) / np.float32(255)

    with ThreadPoolExecutor(max_workers=1) as reader:
        for _, same_size in groupby(_read_ahead(reader, read, pairs, batch_size + 1), key=lambda item: item[1].shape):
            items = []
            for item in same_size:
                items.append(item)
                if len(items) == batch_size:
                    yield [i[0] for i in items], np.stack([i[1] for i in items]), np.stack([i[2] for i in items])
                    items = []
            if items:
                yield [i[0] for i in items], np.stack([i[1] for i in items]), np.stack([i[2] for i in items])


def _read_ahead(pool: ThreadPoolExecutor, read: Callable, pairs: Sequence[Pair], ahead: int) -> Iterator:
    """`map(read, pairs)` with at most `ahead` results waiting: a full GoPro test set would not fit in memory."""
    waiting = [pool.submit(read, pair) for pair in pairs[:ahead]]
    for pair in pairs[ahead:]:
        yield waiting.pop(0).result()
        waiting.append(pool.submit(read, pair))
    for future in waiting:
        yield future.result()


SUMMED = ("psnr_input", "psnr", "psnr_gain", "seconds")  # of a validation


def sums(rows: Sequence[Row]) -> list[float]:
    """Number of rows, then sum and count of the finite values of each of `SUMMED`: what ranks add up."""
    found = [float(len(rows))]
    for key in SUMMED:
        finite = [row[key] for row in rows if math.isfinite(row[key])]
        found += [math.fsum(finite), float(len(finite))]
    return found


def summary_of_sums(total: Sequence[float]) -> dict[str, float | None]:
    """`summarize` of all rows whose `sums` add up to `total`."""
    summary: dict[str, float | None] = {"images": int(total[0])}
    for i, key in enumerate(SUMMED):
        value, count = total[1 + 2 * i : 3 + 2 * i]
        name = "seconds_per_image" if key == "seconds" else key
        summary[name] = value / count if count else None
        if count < total[0]:
            summary[f"{name}_inf"] = int(total[0] - count)
    return summary


def summarize(rows: Sequence[Row]) -> dict[str, float | None]:
    """Means over the images with a finite score, None if there is none. Scores of inf (identical images) and nan (SSIM
    of an image under 11 pixels) are counted as `<score>_inf`: a mean must not hide them."""
    summary: dict[str, float | None] = {"images": len(rows)}
    for key in rows[0] if rows else ():
        if key == "name":
            continue
        values = [row[key] for row in rows]
        finite = [v for v in values if math.isfinite(v)]
        name = "seconds_per_image" if key == "seconds" else key
        summary[name] = float(np.mean(finite)) if finite else None
        if len(finite) < len(values):
            summary[f"{name}_inf"] = len(values) - len(finite)
    return summary


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per image, in full precision, so that the column's mean is the summary's figure."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, fieldnames=list(rows[0]) if rows else ["name"])
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, summary: dict[str, Any]) -> None:
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
