"""A packed data set: every frame decoded once, uint8, in one memory-mapped file for each split.

    python -m src.preprocessing --root_src dataset --root_dst packed --pack [--patch_size 512]
    python train.py --dataset_root packed

    packed/train.npy      flat uint8: blur (H, W, 3) and sharp (H, W, 3) of the first pair, of the second, ...
    packed/test.npy       the same of the test pairs
    packed/index.jsonl    a header, one line a pair (place, size, source files, checksum), a last line that seals it
    packed/manifest.csv   the source's, which tells the sequences

Frames are what `picture_files.read_rgb` reads, so crops and scores are those of the files themselves. `.npy` was chosen
over MindRecord and LMDB by measurement, see docs/performance.md. A packed set that is cut off, stale or of another
version is never read; `--pack` into the same folder mends it and decodes only what has changed.
"""

import errno
import json
import os
import shlex
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError, first_few, need_writable_folder
from src.picture_files import MANIFEST, ImageInfo, Pair, find_pairs, probe_pairs
from src.preprocessing import SPLITS, appear, find_splits, is_arranged, list_rows, need_outside, write_manifest

INDEX = "index.jsonl"
PARTIAL_INDEX = "index.jsonl.partial"  # there while packing works, and after it was interrupted
FORMAT, VERSION = "mimo-unet packed pairs", 1
NPY_HEADER = 128  # bytes before the pixels: any length of array fits into them
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


def list_source(root_src: Path, split: str) -> list[Pair]:
    """Pairs of an arranged folder, or of GOPRO_Large under the names that arranging would give them.

    Raises:
        UserError: as `find_pairs` or `preprocessing.list_rows`.
    """
    if is_arranged(root_src, split):
        return find_pairs(root_src, split)
    rows = list_rows(root_src, split)
    return [Pair(row.new_name, root_src / row.blur, root_src / row.sharp) for row in rows]


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
            content = json.loads(line)
            if i == 0:
                header = content if isinstance(content, dict) and content.get("format") == FORMAT else {}
                if header.get("version") != VERSION:
                    return header, [], False
            elif "entries" in content:
                return header, entries, content == _seal(entries, crc) and i == len(lines) - 1
            else:
                entries.append(Entry(**content))
            crc = zlib.crc32(line, crc)
    except (OSError, ValueError, TypeError):
        pass
    return header, entries, False


def _seal(entries: Sequence[Entry], crc: int) -> dict[str, int]:
    return {"entries": len(entries), "crc32": crc}


def write_index(path: Path, header: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Appears whole or not at all."""
    text = "".join([to_line(header), *(to_line(asdict(entry)) for entry in entries)])
    text += to_line(_seal(entries, zlib.crc32(text.encode())))
    appear(path, lambda part: part.write_text(text, encoding="utf-8"))


# ---- reading


def is_packed(root: Path | str) -> bool:
    """Whether `root` is a packed set, finished or not, or one of its files."""
    root = folder_of(root)
    return any((root / name).is_file() for name in (INDEX, PARTIAL_INDEX, *(f"{split}.npy" for split in SPLITS)))


def folder_of(root: Path | str) -> Path:
    root = Path(root)
    return root.parent if root.is_file() else root


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
    for split, size in split_sizes(header, entries).items():
        path = root / f"{split}.npy"
        got = path.stat().st_size if path.exists() else 0
        if got != NPY_HEADER + size:
            raise UserError(f"{path} is cut off: got {got} bytes, expected {NPY_HEADER + size}. {again}")
    return header, entries


def _command(root: Path, header: Mapping[str, Any]) -> str:
    """What packs `root` again, for messages."""
    words = ["python", "-m", "src.preprocessing", "--root_src", str(_source_of(root, header) or "FOLDER")]
    words += ["--root_dst", str(root), "--pack"]
    return shlex.join(words + (["--patch_size", str(header["patch_size"])] if header.get("patch_size") else []))


def _source_of(root: Path, header: Mapping[str, Any]) -> Path | None:
    """The folder that was packed, None if it is not there any more or on this machine."""
    source = Path(os.path.normpath(root.resolve() / header["source"])) if header.get("source") else None
    return source if source and source.is_dir() else None


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
    source = _source_of(root, header)
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
    return _relative(source, pair) == (entry.blur, entry.sharp) and stamps_of(pair) == entry.stamps


def _relative(source: Path, pair: Pair) -> tuple[str, str]:
    return pair.blur.relative_to(source).as_posix(), pair.sharp.relative_to(source).as_posix()


def damaged_entries(root: Path | str) -> list[str]:
    """'train/17', ...: what does not have its checksum, of a set that `read_index` accepts. Reads all of it."""
    from src.verify_data import in_threads

    root = folder_of(root)
    header, entries = read_index(root)
    files = {split: open(root / f"{split}.npy", "rb") for split in split_sizes(header, entries)}
    try:
        good = in_threads(lambda e: _has_checksum(files[e.split], e, header), entries, "pair", True)
    finally:
        for file in files.values():
            file.close()
    return [f"{e.split}/{e.name}" for e, is_good in zip(entries, good, strict=True) if not is_good]


def _has_checksum(file: BinaryIO, entry: Entry, header: Mapping[str, Any]) -> bool:
    size = stored_bytes(entry, patch_size_of(header, entry.split))
    return zlib.crc32(os.pread(file.fileno(), size, NPY_HEADER + entry.offset)) == entry.crc32


# ---- packing


def pack(root_src: Path | str, root_dst: Path | str, patch_size: int = 0, progress: bool = True) -> dict[str, int]:
    """Decode all pairs of a folder into a packed set. What is there and right is kept, after a look at its pixels.

    Args:
        root_src: GOPRO_Large or an arranged folder, with train, test or both; it is only read.
        root_dst: made if missing.
        patch_size: side of the overlapping patches that training pairs are cut into, pixels; 0 = whole frames.
        progress: show a bar and say what was done.

    Returns:
        Bytes of each split.

    Raises:
        UserError: the source is incomplete or has unreadable files; the destination belongs to something else, cannot
            be written or is full. A finished set that was there is whole or refuses to be read, never half of each.
    """
    root_src, root_dst = Path(root_src), Path(root_dst)
    splits = find_splits(root_src)
    need_outside(root_src, root_dst)
    pairs = {split: list_source(root_src, split) for split in splits}
    source = os.path.relpath(root_src.resolve(), root_dst.resolve())
    header = {"format": FORMAT, "version": VERSION, "patch_size": patch_size, "source": source}
    entries = lay_out(root_src, pairs, header)
    old = kept_entries(root_dst, header, splits)
    need_writable_folder(root_dst, "--root_dst")
    sizes = split_sizes(header, entries)
    counts = ", ".join(f"{len(pairs[split])} {split} pairs" for split in splits)
    if progress:
        print(f"packing {counts} into {root_dst}: {sum(sizes.values()) / 1e9:.2f} GB", flush=True)
    old_sizes = {split: _size(root_dst / f"{split}.npy") for split in splits}
    try:
        make_room(root_dst, sizes, old_sizes)
        begin(root_dst, header, old)
        done, kept = write_pixels(root_dst, header, entries, pairs, old, progress)
        copy_manifest(root_src, root_dst, splits)
        write_index(root_dst / INDEX, header, done)
        (root_dst / PARTIAL_INDEX).unlink()
    except OSError as e:
        raise _cannot_write(root_dst, sizes, e) from e
    if progress:
        print(f"{len(entries) - kept} pairs decoded" + (f", {kept} were there already" if kept else ""))
    return sizes


def lay_out(root_src: Path, pairs: Mapping[str, Sequence[Pair]], header: Mapping[str, Any]) -> list[Entry]:
    """Where every pair will lie, from the headers of the files.

    Raises:
        UserError: as `picture_files.probe_pairs`.
    """
    entries = []
    for split, group in pairs.items():
        offset = 0
        for pair, (info, _) in zip(group, probe_pairs(group), strict=True):
            files = _relative(root_src, pair)
            entries.append(Entry(split, pair.name, info.height, info.width, offset, *files, stamps_of(pair)))
            offset += stored_bytes(entries[-1], patch_size_of(header, split))
    return entries


def kept_entries(root_dst: Path, header: Mapping[str, Any], splits: Sequence[str]) -> dict[tuple[str, str], Entry]:
    """Entries of a set that is in `root_dst`, finished or not, which may still be right.

    Raises:
        UserError: it was made from another source or holds more, or the files there are none of ours.
    """
    if not is_packed(root_dst):
        return {}
    # While packing, the partial index has everything; a finished set has no partial one.
    path = root_dst / (PARTIAL_INDEX if (root_dst / PARTIAL_INDEX).exists() else INDEX)
    found, entries, _ = parse_index(path)
    if not found:
        # Damage to the first line looks the same, and is as rare as a file of that name by somebody else.
        raise UserError(f"--root_dst: {root_dst} holds files of another origin. Choose another folder, or remove them.")
    source = _source_of(root_dst, found)
    if source and not source.samefile(root_dst / header["source"]):
        raise UserError(f"--root_dst: {root_dst} was packed from {source}. Choose another folder, or remove it.")
    lost = sorted({entry.split for entry in entries} - set(splits))
    if lost:
        raise UserError(
            f"--root_dst: {root_dst} holds {lost[0]} pairs, which --root_src has no more. Choose another folder."
        )
    return {e.key: e for e in entries} if found.get("patch_size") == header["patch_size"] else {}


def make_room(root_dst: Path, sizes: Mapping[str, int], old_sizes: Mapping[str, int]) -> None:
    """Let the files have their final size at once: a full disk is told before the work, not after hours of it.

    Raises:
        OSError: there is no room. Files that were there have the size they had.
    """
    for split, size in sizes.items():
        path, missing = root_dst / f"{split}.npy", NPY_HEADER + size - old_sizes[split]
        if missing <= 0:
            continue
        try:
            with open(path, "ab") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), old_sizes[split], missing)
                elif shutil.disk_usage(root_dst).free < missing:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            for other, old in old_sizes.items():
                _shorten(root_dst / f"{other}.npy", old)
            raise


def _shorten(path: Path, size: int) -> None:
    if size:
        os.truncate(path, min(size, _size(path)))
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def begin(root_dst: Path, header: Mapping[str, Any], old: Mapping[tuple[str, str], Entry]) -> None:
    """From here on the set refuses to be read, until packing is through. The partial index grows with the work."""
    text = to_line(header) + "".join(to_line(asdict(entry)) for entry in old.values())
    appear(root_dst / PARTIAL_INDEX, lambda part: part.write_text(text, encoding="utf-8"))
    (root_dst / INDEX).unlink(missing_ok=True)


def write_pixels(
    root_dst: Path, header: Mapping[str, Any], entries: Sequence[Entry], pairs: Mapping[str, Sequence[Pair]],
    old: Mapping[tuple[str, str], Entry], progress: bool,
) -> tuple[list[Entry], int]:  # fmt: skip
    """Fill the files; returns the entries with their checksums, and how many were right already."""
    from src.verify_data import in_threads

    sizes = split_sizes(header, entries)
    files = {split: open(root_dst / f"{split}.npy", "rb+") for split in sizes}
    lock = threading.Lock()

    def work(item: tuple[Entry, Pair]) -> Entry:
        entry, pair = item
        was, file = old.get(entry.key), files[entry.split]
        if was and replace(was, crc32=-1) == entry and _has_checksum(file, was, header):
            return was
        content = _content(entry, pair, patch_size_of(header, entry.split))
        if os.pwrite(file.fileno(), content, NPY_HEADER + entry.offset) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        entry = replace(entry, crc32=zlib.crc32(content))
        with lock:
            partial.write(to_line(asdict(entry)))
            partial.flush()
        return entry

    todo = list(zip(entries, (pair for group in pairs.values() for pair in group), strict=True))
    try:
        for split, file in files.items():
            file.write(npy_header(sizes[split]))
            file.truncate(NPY_HEADER + sizes[split])
            file.flush()
        with open(root_dst / PARTIAL_INDEX, "a", encoding="utf-8") as partial:
            done = in_threads(work, todo, "pair", progress)
        for file in files.values():
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    return done, sum(old.get(entry.key) is entry for entry in done)


def _content(entry: Entry, pair: Pair, patch_size: int) -> bytes:
    """What is stored of a pair.

    Raises:
        UserError: a file cannot be read, or is of another size than its header said.
    """
    images = pair.read()
    if any(image.shape != (entry.height, entry.width, 3) for image in images):
        raise UserError(f"{pair.blur} or its partner was changed while it was packed. Run the same command again.")
    return b"".join(
        image[top : top + height, left : left + width].tobytes()
        for top, left, height, width in windows(entry.height, entry.width, patch_size)
        for image in images
    )


def npy_header(size: int) -> bytes:
    """That of a `.npy` file (format 1.0) with a flat array of `size` bytes, filled up with spaces, as they all are."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}"
    start = b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little")
    return start + text.encode().ljust(NPY_HEADER - 11) + b"\n"


def copy_manifest(root_src: Path, root_dst: Path, splits: Sequence[str]) -> None:
    """The manifest that arranging the source would write, or the one that an arranged source has."""
    target = root_dst / MANIFEST
    target.unlink(missing_ok=True)
    if (root_src / MANIFEST).exists():
        shutil.copyfile(root_src / MANIFEST, target)
    elif not any(is_arranged(root_src, split) for split in splits):
        write_manifest(target, [row for split in splits for row in list_rows(root_src, split)])


def _cannot_write(root_dst: Path, sizes: Mapping[str, int], error: OSError) -> UserError:
    if error.errno not in NO_ROOM:
        return UserError(f"--root_dst: cannot write into {root_dst} ({error.strerror})")
    missing = sum(sizes.values()) - sum(_size(root_dst / f"{split}.npy") for split in sizes)
    needs = ", ".join(f"{split}.npy {size / 1e9:.2f} GB" for split, size in sizes.items())
    free = shutil.disk_usage(root_dst).free
    return UserError(
        f"--root_dst: no room for {root_dst} ({error.strerror}): {needs}; {max(0, missing) / 1e9:.2f} GB more are "
        f"needed, {free / 1e9:.2f} GB are free. Make room and run the same command again, or choose another disk."
    )
