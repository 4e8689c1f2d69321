"""A packed data set: every frame decoded once, uint8, in one memory-mapped file for each split.

    python -m src.preprocessing --root_src dataset --root_dst packed --pack [--patch_size 512]
    python train.py --dataset_root packed

    packed/train.npy      flat uint8: blur (H, W, 3) and sharp (H, W, 3) of the first pair, of the second, ...
    packed/test.npy       the same of the test pairs
    packed/index.jsonl    a header, one line a pair (place, size, source files, checksum), a last line that seals it
    packed/manifest.csv   the source's, which tells the sequences

Frames are what `pairs.read_rgb` reads, so crops and scores are those of the files themselves. `.npy` was chosen
over MindRecord and LMDB by measurement, see docs/performance.md. A packed set that is cut off, stale or of another
version is never read; `--pack` into the same folder mends it and decodes only what has changed: src/data/packing.py.
"""

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
from src.data.images import ImageInfo
from src.data.pairs import SPLITS, Pair, find_pairs
from src.errors import UserError, first_few
from src.files import in_threads, parse_json

INDEX = "index.jsonl"
PARTIAL_INDEX = "index.jsonl.partial"  # there while packing works, and after it was interrupted
FORMAT, VERSION = "mimo-unet packed pairs", 1
NPY_HEADER = 128  # bytes before the pixels: any length of array fits into them


@dataclass(frozen=True)
class Entry:
    """One pair of frames in a packed set, one line of the index."""

    split: str
    name: str
    height: int
    width: int
    offset: int
    """Of its first byte in the array of its split."""
    blur: str
    """Path of the source file relative to the source, with forward slashes."""
    sharp: str
    stamps: list[int]
    """Bytes and time of change in nanoseconds of the blurred source file, then of the sharp one."""
    crc32: int = -1
    """Of the bytes stored, -1 as long as there are none."""

    def __post_init__(self):
        """Raise a ValueError for what no packing writes, whatever the checksum of the index says."""
        texts, numbers = (self.name, self.blur, self.sharp), (self.height, self.width, self.offset, self.crc32)
        if not (all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)):
            raise ValueError("a field of another type")
        if self.split not in SPLITS or self.offset < 0 or min(self.height, self.width) < 1:
            raise ValueError("an entry that lies nowhere")

    @property
    def key(self) -> tuple[str, str]:
        return self.split, self.name


@dataclass(frozen=True)
class PackedPair(Pair):
    """A pair whose pixels lie in a packed set. `blur` and `sharp` name the files that it would have in a folder."""

    pixels: np.ndarray = field(compare=False, repr=False)
    """(2, H, W, 3) uint8, read-only, mapped from the file: what is not looked at is not read."""

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        return self.pixels[0], self.pixels[1]

    def probe(self) -> list[ImageInfo | UserError]:
        _, height, width, _ = self.pixels.shape
        return [ImageInfo(width, height, "RGB")] * 2


# ---- what is where


def windows(height: int, width: int, patch_size: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of what is stored of a frame: all of it, or patches if `patch_size` is not 0.

    Patches are spread evenly and overlap by half or more, so that every window of half their size lies within one.
    """

    def starts(side: int) -> list[int]:
        room = max(0, side - patch_size)
        count = 1 + -(-room // (patch_size // 2))
        return [room * i // max(1, count - 1) for i in range(count)]

    if not patch_size:
        return [(0, 0, height, width)]
    size = min(patch_size, height), min(patch_size, width)
    return [(top, left, *size) for top in starts(height) for left in starts(width)]


def stored_bytes(entry: Entry, patch_size: int) -> int:
    return sum(2 * h * w * 3 for _, _, h, w in windows(entry.height, entry.width, patch_size))


def patch_size_of(header: Mapping[str, Any], split: str) -> int:
    """Only training pairs are cut into patches: scores are of whole frames."""
    return header["patch_size"] if split == "train" else 0


def split_sizes(header: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, int]:
    """Bytes of pixels of each split."""
    sizes: Counter = Counter()
    for entry in entries:
        sizes[entry.split] += stored_bytes(entry, patch_size_of(header, entry.split))
    return dict(sizes)


# ---- the index


def to_line(content: Any) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def parse_index(path: Path) -> tuple[dict[str, Any], list[Entry], bool]:
    """Header, entries, and whether the last line is there and its checksum fits. ({}, [], False) if it is none of ours.

    Of an unfinished or damaged index the lines up to the damage count: packing checks each entry's pixels anyway.
    """
    header: dict[str, Any] = {}
    entries: list[Entry] = []
    crc = 0
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        for i, line in enumerate(lines):
            content = parse_json(line)
            if i == 0:
                header = content if isinstance(content, dict) and content.get("format") == FORMAT else {}
                if header.get("version") != VERSION:
                    return header, [], False
                _check_header(header)
            elif "entries" in content:
                return header, entries, content == seal_of(entries, crc) and i == len(lines) - 1
            else:
                entries.append(Entry(**content))
            crc = zlib.crc32(line, crc)
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return header, entries, False


def _check_header(header: dict[str, Any]) -> None:
    """Empty what no packing writes, whatever the checksum of the index says."""
    patch_size, source = header.get("patch_size"), header.get("source", "")
    if type(patch_size) is not int or patch_size < 0 or patch_size == 1 or not isinstance(source, str):
        header.clear()
        raise ValueError("a header with a field of another type")


def seal_of(entries: Sequence[Entry], crc: int) -> dict[str, int]:
    return {"entries": len(entries), "crc32": crc}


# ---- reading


def is_packed(root: Path | str) -> bool:
    """Whether `root` is a packed set, finished or not, or one of its files."""
    root = folder_of(root)
    return any((root / name).is_file() for name in (INDEX, PARTIAL_INDEX, *(f"{split}.npy" for split in SPLITS)))


def folder_of(root: Path | str) -> Path:
    root = Path(root)
    return root.parent if root.is_file() else root


def open_pairs(root: Path | str, split: str) -> list[Pair]:
    """The pairs of one split of a packed set, in the order and under the names of its source.

    Where the source is still there its files are compared by size and time of change; a packed set alone is enough.

    Raises:
        UserError: as `read_index`; the set is stale; it does not hold this split.
    """
    root = folder_of(root)
    header, entries = read_index(root)
    mine = [entry for entry in entries if entry.split == split]
    if not mine:
        raise UserError(f"{root}: no {split} pairs in it, got {first_few(dict.fromkeys(e.split for e in entries))}")
    source = source_of(root, header)
    if source and (source / split).is_dir():
        changes = changes_of(source, split, mine)
        if changes:
            raise UserError(f"{root} is stale: {source} has {changes}. Mend it: {_command(root, header)}")
    pixels = np.asarray(np.load(root / f"{split}.npy", mmap_mode="r"))
    return [pair for entry in mine for pair in _pairs_of(entry, root, patch_size_of(header, split), pixels)]


def _pairs_of(entry: Entry, root: Path, patch_size: int, pixels: np.ndarray) -> list[Pair]:
    """The pair of a frame, or one for each of its patches, under the frame's file names."""
    blur, sharp = (
        root / entry.split / kind / f"{entry.name}{Path(getattr(entry, kind)).suffix}" for kind in ("blur", "sharp")
    )
    pairs: list[Pair] = []
    start = entry.offset
    for top, left, height, width in windows(entry.height, entry.width, patch_size):
        end = start + 2 * height * width * 3
        name = f"{entry.name}_y{top}_x{left}" if patch_size else entry.name
        pairs.append(PackedPair(name, blur, sharp, pixels[start:end].reshape(2, height, width, 3)))
        start = end
    return pairs


def read_index(root: Path) -> tuple[dict[str, Any], list[Entry]]:
    """Header and entries of a finished packed set whose files have the size they should have.

    Raises:
        UserError: it is unfinished, cut off, damaged or of another version.
    """
    if (root / PARTIAL_INDEX).exists():
        raise UserError(f"{root}: packing was interrupted here. Run the same command again, it will go on.")
    header, entries, whole = parse_index(root / INDEX)
    again = f"Mend it: {_command(root, header)}"
    if not (root / INDEX).exists():
        raise UserError(f"{root}: packed frames without their {INDEX}. {again}")
    if not header:
        raise UserError(f"{root / INDEX}: not the index of a packed data set. {again}")
    if header.get("version") != VERSION:
        raise UserError(f"{root}: packed in version {header.get('version')}, expected {VERSION}. {again}")
    if not whole:
        raise UserError(f"{root / INDEX} is cut off or damaged ({len(entries)} entries could be read). {again}")
    sizes = split_sizes(header, entries)
    if any(e.offset + stored_bytes(e, patch_size_of(header, e.split)) > sizes[e.split] for e in entries):
        raise UserError(f"{root / INDEX} is damaged: it names pixels that the set does not have. {again}")
    for split, size in sizes.items():
        path = root / f"{split}.npy"
        got = path.stat().st_size if path.exists() else 0
        if got != NPY_HEADER + size:
            raise UserError(f"{path} is cut off: got {got} bytes, expected {NPY_HEADER + size}. {again}")
    return header, entries


def _command(root: Path, header: Mapping[str, Any]) -> str:
    """What packs `root` again, for messages."""
    words = ["python", "-m", "src.preprocessing", "--root_src", str(source_of(root, header) or "FOLDER")]
    words += ["--root_dst", str(root), "--pack"]
    return shlex.join(words + (["--patch_size", str(header["patch_size"])] if header.get("patch_size") else []))


def damaged_entries(root: Path | str) -> list[str]:
    """'train/17', ...: what does not have its checksum, of a set that `read_index` accepts. Reads all of it."""
    root = folder_of(root)
    header, entries = read_index(root)
    files = {split: open(root / f"{split}.npy", "rb") for split in split_sizes(header, entries)}
    try:
        good = in_threads(lambda e: has_checksum(files[e.split], e, header), entries, "pair", True)
    finally:
        for file in files.values():
            file.close()
    return [f"{e.split}/{e.name}" for e, is_good in zip(entries, good, strict=True) if not is_good]


def has_checksum(file: BinaryIO, entry: Entry, header: Mapping[str, Any]) -> bool:
    size = stored_bytes(entry, patch_size_of(header, entry.split))
    return zlib.crc32(os.pread(file.fileno(), size, NPY_HEADER + entry.offset)) == entry.crc32


# ---- the source


def list_source(root_src: Path, split: str) -> list[Pair]:
    """Pairs of an arranged folder, or of GOPRO_Large under the names that arranging would give them.

    Raises:
        UserError: as `find_pairs` or `gopro_large.list_rows`.
    """
    if is_arranged(root_src, split):
        return find_pairs(root_src, split)
    rows = list_rows(root_src, split)
    return [Pair(row.new_name, root_src / row.blur, root_src / row.sharp) for row in rows]


def source_of(root: Path, header: Mapping[str, Any]) -> Path | None:
    """The folder that was packed, None if it is not there any more or on this machine."""
    source = Path(os.path.normpath(root.resolve() / header["source"])) if header.get("source") else None
    return source if source and source.is_dir() else None


def stamps_of(pair: Pair) -> list[int]:
    """See `Entry.stamps`.

    Raises:
        UserError: a file is not there.
    """
    stamps = []
    for path in (pair.blur, pair.sharp):
        try:
            found = path.stat()
        except OSError as e:
            raise UserError(f"{path}: cannot be looked at ({e.strerror})") from e
        stamps += [found.st_size, found.st_mtime_ns]
    return stamps


def changes_of(source: Path, split: str, entries: Sequence[Entry]) -> str:
    """'1 new pair (7), 2 changed (3, 5)': what the source has become since it was packed, '' if nothing."""
    now = {pair.name: pair for pair in list_source(source, split)}
    packed = {entry.name: entry for entry in entries}
    found = {
        "new": [name for name in now if name not in packed],
        "removed": [name for name in packed if name not in now],
        "changed": [name for name in now if name in packed and not _is_source(packed[name], source, now[name])],
    }
    words = [f"{len(names)} {what} pair{'s' * (len(names) > 1)} ({first_few(names)})" for what, names in found.items()
             if names]  # fmt: skip
    return ", ".join(words)


def _is_source(entry: Entry, source: Path, pair: Pair) -> bool:
    return relative_files(source, pair) == (entry.blur, entry.sharp) and stamps_of(pair) == entry.stamps


def relative_files(source: Path, pair: Pair) -> tuple[str, str]:
    return pair.blur.relative_to(source).as_posix(), pair.sharp.relative_to(source).as_posix()
