"""A packed dataset: every frame decoded once, uint8, in one memory-mapped file per split.

    python -m src.preprocessing --root_src dataset --root_dst packed --pack [--patch_size 512]
    python train.py --dataset_root packed

    packed/train.npy      flat uint8: blur (H, W, 3) and sharp (H, W, 3) of the first pair, of the second, ...
    packed/test.npy       the same for the test pairs
    packed/index.jsonl    a header, one line per pair (offset, size, source files, checksum), and a checksum line
    packed/manifest.csv   the manifest of the source, which assigns pairs to sequences

The pixels are those of `Pair.read`, so crops and scores equal those of the image files. `.npy` was faster than
MindRecord and LMDB, see docs/performance.md. Truncated, stale or incompatible sets are rejected; rerunning `--pack`
into the same folder (src/data/packing.py) repairs them and decodes only what has changed.
"""

import contextlib
import json
import os
import shlex
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.data.gopro import is_arranged, list_rows
from src.data.image_files import ImageInfo
from src.data.pairs import KINDS, SPLITS, Pair, find_pairs
from src.errors import UserError, first_few
from src.files import in_threads, parse_json

INDEX = "index.jsonl"
PARTIAL_INDEX = "index.jsonl.partial"  # exists while packing runs and after an interruption
FORMAT, VERSION = "mimo-unet packed pairs", 1
NPY_HEADER = 128  # bytes before the pixels, for flat arrays of any length


@dataclass(frozen=True)
class Entry:
    """One pair of frames, one line of the index."""

    split: str
    name: str
    height: int
    width: int
    offset: int
    """Position of its first byte in the array of its split."""
    blur: str
    """Path of the source file relative to the source, with forward slashes."""
    sharp: str
    stamps: list[int]
    """Size in bytes and modification time in nanoseconds of the blurred source file, then of the sharp one."""
    crc32: int = -1
    """Checksum of the stored bytes, -1 before they are written."""

    def __post_init__(self):
        """Raise a ValueError for invalid fields: the checksum of an edited index may be right."""
        texts, numbers = (self.name, self.blur, self.sharp), (self.height, self.width, self.offset, self.crc32)
        if not (all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)):
            raise ValueError("a field of another type")
        if self.split not in SPLITS or self.offset < 0 or min(self.height, self.width) < 1:
            raise ValueError("an entry outside the arrays")

    @property
    def key(self) -> tuple[str, str]:
        return self.split, self.name


@dataclass(frozen=True)
class PackedPair(Pair):
    """A pair in a packed set. `blur` and `sharp` name the files that it would have in an arranged folder."""

    pixels: np.ndarray = field(compare=False, repr=False)
    """(2, H, W, 3) uint8, a read-only memory map: only accessed pixels are read from disk."""

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        return self.pixels[0], self.pixels[1]

    def probe(self) -> list[ImageInfo | UserError]:
        _, height, width, _ = self.pixels.shape
        return [ImageInfo(width, height, "RGB")] * 2


# ---- positions


def windows(height: int, width: int, patch_size: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the stored parts of a frame: the whole frame, or patches if `patch_size` is not 0.

    Patches are evenly spaced and overlap by at least half, so that every window of half their size lies within one.
    """

    def starts(side: int) -> list[int]:
        room = max(0, side - patch_size)
        count = 1 + -(-room // (patch_size // 2))
        return [room * i // max(1, count - 1) for i in range(count)]

    if not patch_size:
        return [(0, 0, height, width)]
    size = min(patch_size, height), min(patch_size, width)
    return [(top, left, *size) for top in starts(height) for left in starts(width)]


def windows_of(entry: Entry, header: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """`windows` of an entry: only training pairs are cut into patches, since scores are of whole frames."""
    return windows(entry.height, entry.width, header["patch_size"] if entry.split == "train" else 0)


def stored_bytes(entry: Entry, header: Mapping[str, Any]) -> int:
    return sum(2 * height * width * 3 for _, _, height, width in windows_of(entry, header))


def split_sizes(header: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, int]:
    """Bytes of pixels of each split."""
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[entry.split] += stored_bytes(entry, header)
    return dict(sizes)


# ---- the index


def to_line(content: Any) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def parse_index(path: Path) -> tuple[dict[str, Any], list[Entry], bool]:
    """Header, entries, and whether the index is complete with the right checksum. ({}, [], False) for other files.

    Of an unfinished or damaged index, the lines up to the damage are used: packing checks each entry's pixels anyway.
    """
    header: dict[str, Any] = {}
    entries: list[Entry] = []
    crc = 0
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        for i, line in enumerate(lines):
            content = parse_json(line)
            if i == 0:
                if content["format"] != FORMAT or type(content["patch_size"]) is not int or content["patch_size"] < 0:
                    break
                if content["patch_size"] == 1 or not isinstance(content["source"], str):
                    break
                header = content
                if header.get("version") != VERSION:
                    break
            elif "entries" in content:
                return header, entries, content == seal_of(entries, crc) and i == len(lines) - 1
            else:
                entries.append(Entry(**content))
            crc = zlib.crc32(line, crc)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return header, entries, False


def seal_of(entries: Sequence[Entry], crc: int) -> dict[str, int]:
    """Content of the last line: number of entries, and checksum of the lines before it."""
    return {"entries": len(entries), "crc32": crc}


# ---- reading


def is_packed(root: Path | str) -> bool:
    """Whether `root` is a packed set, complete or not, or one of its files."""
    root = folder_of(root)
    return any((root / name).is_file() for name in (INDEX, PARTIAL_INDEX, *(f"{split}.npy" for split in SPLITS)))


def folder_of(root: Path | str) -> Path:
    root = Path(root)
    return root.parent if root.is_file() else root


def open_pairs(root: Path | str, split: str) -> list[Pair]:
    """Pairs of one split of a packed set, with the order and names of its source.

    If the source still exists, the sizes and modification times of its files are compared; it is not needed otherwise.

    Raises:
        UserError: as `read_index`; the set is stale; it does not contain this split.
    """
    root = folder_of(root)
    header, entries = read_index(root)
    mine = [entry for entry in entries if entry.split == split]
    if not mine:
        raise UserError(f"{root}: no {split} pairs in it, got {first_few(dict.fromkeys(e.split for e in entries))}")
    source = source_of(root, header)
    if source and (source / split).is_dir():
        if changes := changes_of(source, split, mine):
            raise UserError(f"{root} is stale: {source} has {changes}. To repair it: {_command(root, header)}")
    pixels = np.asarray(np.load(root / f"{split}.npy", mmap_mode="r"))
    pairs: list[Pair] = []
    for entry in mine:
        blur, sharp = (root / split / kind / f"{entry.name}{Path(getattr(entry, kind)).suffix}" for kind in KINDS)
        start = entry.offset
        for top, left, height, width in windows_of(entry, header):
            end = start + 2 * height * width * 3
            name = f"{entry.name}_y{top}_x{left}" if header["patch_size"] and split == "train" else entry.name
            pairs.append(PackedPair(name, blur, sharp, pixels[start:end].reshape(2, height, width, 3)))
            start = end
    return pairs


def read_index(root: Path) -> tuple[dict[str, Any], list[Entry]]:
    """Header and entries of a complete packed set whose files have the expected sizes.

    Raises:
        UserError: the set is unfinished, truncated, damaged or of another version.
    """
    if (root / PARTIAL_INDEX).exists():
        raise UserError(f"{root}: packing was interrupted here. Rerun the same command to resume.")
    header, entries, whole = parse_index(root / INDEX)
    again = f"To repair it: {_command(root, header)}"
    if not (root / INDEX).exists():
        raise UserError(f"{root}: packed frames without their {INDEX}. {again}")
    if not header:
        raise UserError(f"{root / INDEX}: not the index of a packed dataset. {again}")
    if header.get("version") != VERSION:
        raise UserError(f"{root}: packed in version {header.get('version')}, expected {VERSION}. {again}")
    if not whole:
        raise UserError(f"{root / INDEX} is cut off or damaged ({len(entries)} entries could be read). {again}")
    sizes = split_sizes(header, entries)
    if any(e.offset + stored_bytes(e, header) > sizes[e.split] for e in entries):
        raise UserError(f"{root / INDEX} is damaged: it refers to pixels outside the set. {again}")
    for split, size in sizes.items():
        path = root / f"{split}.npy"
        got = path.stat().st_size if path.exists() else 0
        if got != NPY_HEADER + size:
            raise UserError(f"{path} is cut off: got {got} bytes, expected {NPY_HEADER + size}. {again}")
    return header, entries


def _command(root: Path, header: Mapping[str, Any]) -> str:
    """The command that packs `root` again."""
    words = ["python", "-m", "src.preprocessing", "--root_src", str(source_of(root, header) or "FOLDER")]
    words += ["--root_dst", str(root), "--pack"]
    words += ["--patch_size", str(header["patch_size"])] if header.get("patch_size") else []
    return shlex.join(words)


def damaged_entries(root: Path | str) -> list[str]:
    """Pairs whose pixels do not match their checksum, 'train/17', ..., of a set that `read_index` accepts."""
    root = folder_of(root)
    header, entries = read_index(root)
    with contextlib.ExitStack() as stack:
        files = {e.split: stack.enter_context(open(root / f"{e.split}.npy", "rb")) for e in entries}
        good = in_threads(lambda e: has_checksum(files[e.split], e, header), entries, "pair", True)
    return [f"{e.split}/{e.name}" for e, is_good in zip(entries, good, strict=True) if not is_good]


def has_checksum(file: BinaryIO, entry: Entry, header: Mapping[str, Any]) -> bool:
    content = os.pread(file.fileno(), stored_bytes(entry, header), NPY_HEADER + entry.offset)
    return zlib.crc32(content) == entry.crc32


# ---- the source


def list_source(root_src: Path, split: str) -> list[Pair]:
    """Pairs of an arranged folder, or of GOPRO_Large with the names that arranging would give them.

    Raises:
        UserError: as `find_pairs` or `gopro.list_rows`.
    """
    if is_arranged(root_src, split):
        return find_pairs(root_src, split)
    rows = list_rows(root_src, split)
    return [Pair(row.new_name, root_src / row.blur, root_src / row.sharp) for row in rows]


def source_of(root: Path, header: Mapping[str, Any]) -> Path | None:
    """The source folder, None if it no longer exists or is on another machine."""
    source = Path(os.path.normpath(root.resolve() / header["source"])) if header.get("source") else None
    return source if source and source.is_dir() else None


def source_fields(source: Path, pair: Pair) -> tuple[str, str, list[int]]:
    """`Entry.blur`, `Entry.sharp` and `Entry.stamps` of a pair in the folder `source`."""
    found = pair.blur.stat(), pair.sharp.stat()
    names = [path.relative_to(source).as_posix() for path in (pair.blur, pair.sharp)]
    return names[0], names[1], [number for status in found for number in (status.st_size, status.st_mtime_ns)]


def changes_of(source: Path, split: str, entries: Sequence[Entry]) -> str:
    """Changes to the source since it was packed, '1 new pair (7), 2 changed pairs (3, 5)'; '' if there are none."""
    now = {pair.name: source_fields(source, pair) for pair in list_source(source, split)}
    packed = {entry.name: (entry.blur, entry.sharp, entry.stamps) for entry in entries}
    found = {
        "new": [name for name in now if name not in packed],
        "removed": [name for name in packed if name not in now],
        "changed": [name for name in now if name in packed and packed[name] != now[name]],
    }
    return ", ".join(
        f"{len(names)} {change} pair{'s' * (len(names) > 1)} ({first_few(names)})"
        for change, names in found.items()
        if names
    )
