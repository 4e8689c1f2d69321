"""Draws the rooms of `src` and their imports into docs/architecture.md, between its two marks.

python scripts/draw_architecture.py [--check]

tests/test_architecture.py holds the imports against `ROOMS`, and the page against this drawing.
"""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, Python sees scripts/ only

from src.config import ArgumentParser  # noqa: E402
from src.errors import UserError, run_main  # noqa: E402

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by scripts/draw_architecture.py -->", "<!-- end of the drawing -->"


@dataclass(frozen=True)
class Room:
    name: str
    modules: tuple[str, ...]
    purpose: str


# From the ground up: a room imports from itself and from those before it.
ROOMS = (
    Room(
        "ground", ("errors", "config", "interrupts", "files"),
        "mistakes of the user in one line, every option, signals, files in threads",
    ),
    Room(
        "data",
        ("tiff_kind", "picture_files", "manifest", "gopro_large", "arrange", "synthetic_blur", "sample_data",
         "packed_data", "packing", "pair_sources", "validation_split", "datasets", "data_augment", "data_load"),
        "from folders, lists, packed frames or sharp photographs to pairs, and from pairs to training batches",
    ),
    Room(
        "preparation",
        ("findings", "dataset_walk", "tree_checks", "picture_checks", "verify_data", "preprocessing"),
        "the command that arranges, packs and verifies a dataset",
    ),
    Room("scores", ("metric", "align", "evaluation", "picture"), "PSNR and SSIM, tables of them, pictures for people"),
    Room(
        "network", ("layers", "mimo_unet", "loss", "train_step"), "the network, its loss and one optimisation step"
    ),
    Room(
        "device", ("native_conv", "device"), "which device, ranks, faster convolutions"
    ),
    Room(
        "weights", ("weight_files", "state_dicts", "checkpoint", "init_weights", "mindir", "onnx_graph"),
        "initial weights, checkpoints, and every other file that a network leaves or comes back in",
    ),
    Room("inference", ("restore", "engine"), "an image of any size through a network from any kind of file"),
    Room(
        "training", ("run_folder", "resume", "callback", "validation"),
        "what surrounds the steps: run folder, exact resume, logging, validation",
    ),
    Room(
        "photos",
        ("photo", "photo_writer", "deblur_files", "deblur_index", "deblur_options", "deblur_run", "web", "web_folder",
         "web_server"),
        "photos with all that they carry: read, restored, written; the web page",
    ),
)  # fmt: skip
SCRIPTS = ("train", "eval", "export", "convert", "deblur", "app")
ROOM_OF = {module: room.name for room in ROOMS for module in room.modules}


def imported(source: str) -> set[tuple[str, str]]:
    """(module, name) of every import, within functions too; the name is "" for `import module`, and . is `src`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ("src" if node.level else "", node.module)))
            found |= {(module, alias.name) for alias in node.names}
    return found


def modules_of(source: str) -> set[str]:
    """The modules of `src` that a source imports."""
    names = (f"{module}.{name}".split(".") for module, name in imported(source))
    return {parts[1] for parts in names if parts[0] == "src" and parts[1] in ROOM_OF}


def arrows() -> dict[str, set[str]]:
    """Room or script -> the other rooms that it imports from."""
    found: dict[str, set[str]] = {name: set() for name in (*SCRIPTS, *(room.name for room in ROOMS))}
    paths = {name: ROOT / f"{name}.py" for name in SCRIPTS} | {name: ROOT / "src" / f"{name}.py" for name in ROOM_OF}
    for name, path in paths.items():
        here = ROOM_OF.get(name, name)
        found[here] |= {ROOM_OF[module] for module in modules_of(path.read_text(encoding="utf-8"))} - {here}
    return found


def direct_arrows(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others: a -> c goes if there are a -> b and b -> ... -> c."""

    def reach(start: str) -> set[str]:
        return graph[start].union(*map(reach, graph[start]))

    return {a: ends - set().union(*map(reach, ends)) for a, ends in graph.items()}


def drawing() -> str:
    """The table of the rooms and the arrows between them as Mermaid, which GitHub draws."""
    table = [
        f"| {room.name} | {' '.join(f'`{module}`' for module in room.modules)} | {room.purpose} |" for room in ROOMS
    ]
    boxes = [f'    {name}_py(["{name}.py"])' for name in SCRIPTS] + [f"    {room.name}[{room.name}]" for room in ROOMS]
    lines = [
        f"    {start}{'_py' if start in SCRIPTS else ''} --> {end}"
        for start, ends in direct_arrows(arrows()).items()
        for end in sorted(ends)
    ]
    chart = ["```mermaid", "flowchart TD", *boxes, *lines, "```"]
    return "\n".join(
        [BEGIN, "| room | modules of `src` | what happens there |", "|---|---|---|", *table, "", *chart, END]
    )


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser("Draw the rooms of src and their imports into docs/architecture.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is out of date")
    args = parser.parse_args(argv)
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{PAGE}: expected the lines {BEGIN} and {END}, which the drawing goes between")
    drawn = before + drawing() + after
    if args.check:
        print(f"{PAGE.name}: " + ("up to date" if drawn == text else "out of date, draw it again without --check"))
        return int(drawn != text)
    PAGE.write_text(drawn, encoding="utf-8")
    print(f"drawn: {PAGE}")
    return 0


if __name__ == "__main__":
    run_main(main)
