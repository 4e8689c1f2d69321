"""Turn the JSON files in benchmarks/results into the tables of docs/performance.md.

python benchmarks/report.py            # writes them between the markers
python benchmarks/report.py --check    # writes nothing; exit status 2 if the page differs
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees benchmarks/ only

from benchmarks.measure import LITE, split_name  # noqa: E402
from src.command_line import ArgumentParser  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402
from src.files import write_whole  # noqa: E402

BEGIN = "<!-- benchmarks: made by python benchmarks/report.py, not by hand -->"
END = "<!-- /benchmarks -->"
PAGE = "docs/performance.md"
STEP_NAMES = {
    "mindspore": "MindSpore, native convolutions",
    "mindspore_framework": "MindSpore, its own convolutions",
    "mindspore_native_bf16": "MindSpore, native convolutions, bfloat16",
    "torch": "PyTorch",
    "torch_channels_last": "PyTorch, channels_last",
}
LOADER_NAMES = {
    "png": "PNG",
    "packed": "`--pack`",
    "torch_png": "PyTorch DataLoader, PNG",
    "torch_packed": "PyTorch DataLoader, `--pack`",
}
ENGINE_NAMES = {
    "mindspore": "MindSpore, `.ckpt`",
    "mindir": "MindSpore, `.mindir`",
    "onnx_fp32": "OpenVINO, `.onnx`, float32",
    "onnx_bf16": "OpenVINO, `.onnx`, bfloat16",
    "torch": "PyTorch",
    "torch_channels_last": "PyTorch, channels_last",
}
VARIANTS = {"": "", LITE: "Lite: "}  # prefix of the row names


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser("Writes the tables of docs/performance.md from benchmarks/results/*.json.")
    parser.add_argument("--check", action="store_true", help="only check whether the page agrees with the JSON files")
    check = parser.parse_args(argv).check
    results = read_results(root / "benchmarks/results")
    old = (root / PAGE).read_text(encoding="utf-8")
    new = with_tables(old, "\n\n".join(table(*result) for result in results), PAGE)
    if check and new != old:
        raise UserError(f"{PAGE}: its tables differ from benchmarks/results. python benchmarks/report.py")
    if not check:
        write_whole(root / PAGE, new)
    print(f"{PAGE}: {len(results)} table(s), {'as recorded' if new == old else 'written'}")


def read_results(folder: Path) -> list[tuple[str, dict, dict]]:
    """(benchmark, machine, results) of each file, in the order of TABLES, then of names.

    Raises:
        UserError: a file was not written by a benchmark of this folder.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append((content["benchmark"], content["machine"], content["results"]))
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(f"{path}: not a result of a benchmark ({type(e).__name__}: {e}). Run it again.") from e
        if found[-1][0] not in TABLES:
            raise UserError(f"{path}: benchmark {found[-1][0]!r}, expected one of {', '.join(TABLES)}")
    return sorted(found, key=lambda result: list(TABLES).index(result[0]))


def with_tables(text: str, tables: str, name: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with everything between the markers replaced.

    Raises:
        UserError: the markers are not there once each, in order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"{name}: expected the lines {begin} and {end}, once each, in this order")
    before, rest = text.split(begin)
    body = f"\n{tables}\n" if tables else ""
    return f"{before}{begin}\n{body}\n{end}{rest.split(end)[1]}"


def table(benchmark: str, machine: dict, results: dict) -> str:
    """Caption and table of one file, as Markdown."""
    caption, header, rows = TABLES[benchmark](results)
    measured = "" if benchmark == "variants" else "; median (least to most)"
    return f"**{caption}**, {describe(machine)}{measured}\n\n{markdown(header, rows)}"


def markdown(header: list[str], rows: Iterable[Iterable[str]]) -> str:
    """The lines of a table."""
    return "\n".join([line_of(header), line_of("---" for _ in header), *map(line_of, rows)])


def line_of(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def describe(machine: dict) -> str:
    """'AMD EPYC, 2 cores, 23.5 GB, MindSpore 2.10.0, PyTorch 2.13.0'"""
    known = {"MindSpore": "mindspore", "PyTorch": "torch", "OpenVINO": "openvino"}
    versions = [f"{shown} {v}" for shown, name in known.items() if (v := machine["versions"].get(name))]
    parts = [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gb']} GB"]
    return ", ".join([*parts, *machine["accelerators"], *versions])


def spread(found: dict) -> str:
    return "{median:.3g} ({min:.3g}–{max:.3g})".format(**found)


def times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


# ---- the tables: results -> caption, header, rows --------------------------------------------------------------------

Table = tuple[str, list[str], list[list[str]]]


def step_table(results: dict) -> Table:
    rows = []
    for name, found in results["contestants"].items():
        ratio = spread(found["times_torch"]) if "times_torch" in found else ""
        numbers = [f"{found['first_step_s']:.1f}", f"{found['peak_memory_gb']:.1f}"]
        prefix, kind = split_name(name)
        kind = kind if found.get("native_convolutions", True) else "mindspore_framework"  # if they could not be built
        rows.append([VARIANTS[prefix] + STEP_NAMES[kind], spread(found["step_s"]), ratio, *numbers])
    header = ["", "seconds", "times PyTorch's", "first step, s", "peak memory, GB"]
    return f"Training step, {times(results['shape'])}, {results['threads']} threads", header, rows


def inference_table(results: dict) -> Table:
    header = [""]
    for size in results["sizes"]:
        header += [f"{times(size['size'])}, seconds", "speed, PyTorch = 1"]
    header += ["peak memory, GB", "rms difference from PyTorch"]
    rows = []
    for name, note in results["contestants"].items():
        prefix, engine = split_name(name)
        row = [VARIANTS[prefix] + ENGINE_NAMES[engine]]
        for size in results["sizes"]:
            found = size["seconds"][name]
            row += [spread(found["seconds"]), spread(found["speed_of_torch"]) if "speed_of_torch" in found else ""]
        row += [f"{note['peak_memory_gb']:.1f}", f"{note['difference']['rms']:.0e}" if "difference" in note else ""]
        rows.append(row)
    return f"Restoring an image, {results['threads']} threads", header, rows


def scaling_table(results: dict) -> Table:
    rows = [
        [count, spread(found["step_s"]), f"{found['samples_per_s']:.2f}", f"{found['efficiency']:.0%}"]
        for count, found in results["processes"].items()
    ]
    reduced = f"{results['bytes_reduced'] / 1e6:.1f} MB of gradients reduced per step"
    place = f"{times(results['shape'])}, cores per process: {results['threads']}, {reduced}"
    header = ["processes", "seconds per step", "samples per second", "efficiency"]
    return f"Training in several processes, {place}", header, rows


def loader_table(results: dict) -> Table:
    rows = [
        [LOADER_NAMES[name], spread(found["pairs_per_s"]), spread(found["times_png"]) if "times_png" in found else ""]
        for name, found in results["contestants"].items()
    ]
    place = f"{results['size']}x{results['size']}, frames of {times(reversed(results['frame']))}"
    caption = f"Loading training pairs, {place}, batch {results['batch']}"
    header = ["", "pairs per second", "times PNG's"]
    return f"{caption}, {results['threads']} threads", header, rows


def variants_table(results: dict) -> Table:
    settings, variants = results["settings"], results["variants"]
    sets = next(iter(variants.values()))["sets"]
    gained_on = [f"{name} ({found['images']}), gain, dB" for name, found in sets.items()]
    header = ["", "minutes of one core", "crops seen", *gained_on]
    rows = []
    for name, run in variants.items():
        gains = [f"{found['psnr'] - found['psnr_input']:+.2f}" for found in run["sets"].values()]
        rows.append([f"`{name}`", f"{run['minutes']:.0f}", f"{run['crops']:,}", *gains])
    place = f"crops of {times([settings['crop_size']] * 2)}, batch {settings['train_batch_size']}"
    return f"Variants after equal time, {place}, `--conv_kernels {settings['conv_kernels']}`", header, rows


TABLES: dict[str, Callable[[Any], Table]] = {
    "step": step_table,
    "inference": inference_table,
    "loader": loader_table,
    "scaling": scaling_table,
    "variants": variants_table,
}


if __name__ == "__main__":
    run_main(main)
