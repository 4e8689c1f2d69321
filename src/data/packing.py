"""Writes a packed data set; src/data/packed.py tells what it holds, and reads it.

    python -m src.preprocessing --root_src dataset --root_dst packed --pack [--patch_size 512]

An unfinished set has `index.jsonl.partial`, which grows with the work, and no `index.jsonl`, so that nobody reads it.
"""

import errno
import os
import shutil
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from src.data.gopro import find_splits, is_arranged, list_rows, write_manifest
from src.data.images import ImageInfo
from src.data.packed import (
    FORMAT,
    INDEX,
    NPY_HEADER,
    PARTIAL_INDEX,
    VERSION,
    Entry,
    has_checksum,
    is_packed,
    list_source,
    parse_index,
    patch_size_of,
    relative_files,
    seal_of,
    source_of,
    split_sizes,
    stamps_of,
    stored_bytes,
    to_line,
    windows,
)  # fmt: skip
from src.data.pairs import MANIFEST, Pair, changes_by_reading, probe_pairs
from src.errors import UserError, need_writable_folder
from src.files import NO_ROOM, in_threads, need_apart, whole_file, write_whole


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
    need_apart([root_src], files=[("--root_dst", root_dst / INDEX)])
    pairs = {split: list_source(root_src, split) for split in splits}
    source = os.path.relpath(root_src.resolve(), root_dst.resolve())
    header = {"format": FORMAT, "version": VERSION, "patch_size": patch_size, "source": source}
    infos = {split: probe_pairs(group) for split, group in pairs.items()}
    entries = lay_out(root_src, pairs, infos, header)
    old = kept_entries(root_dst, header, splits)
    need_writable_folder(root_dst, "--root_dst")
    sizes = split_sizes(header, entries)
    counts = ", ".join(f"{len(pairs[split])} {split} pairs" for split in splits)
    if progress:
        changes = changes_by_reading([info for group in infos.values() for info in group])
        print(f"packing {counts}{changes} into {root_dst}: {sum(sizes.values()) / 1e9:.2f} GB", flush=True)
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


def lay_out(
    root_src: Path,
    pairs: Mapping[str, Sequence[Pair]],
    infos: Mapping[str, Sequence[tuple[ImageInfo, ImageInfo]]],
    header: Mapping[str, Any],
) -> list[Entry]:
    """Where every pair will lie, by the sizes in `infos`."""
    entries = []
    for split, group in pairs.items():
        offset = 0
        for pair, (info, _) in zip(group, infos[split], strict=True):
            files = relative_files(root_src, pair)
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
    source = source_of(root_dst, found)
    if source and not source.samefile(root_dst / header["source"]):
        raise UserError(f"--root_dst: {root_dst} was packed from {source}. Choose another folder, or remove it.")
    lost = sorted({entry.split for entry in entries} - set(splits))
    if lost:
        raise UserError(
            f"--root_dst: {root_dst} holds {lost[0]} pairs, which --root_src has no more. Choose another folder."
        )
    return {e.key: e for e in entries} if found.get("patch_size") == header["patch_size"] else {}


# ---- room on the disk


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


# ---- the files


def begin(root_dst: Path, header: Mapping[str, Any], old: Mapping[tuple[str, str], Entry]) -> None:
    """From here on the set refuses to be read, until packing is through. The partial index grows with the work."""
    text = to_line(header) + "".join(to_line(asdict(entry)) for entry in old.values())
    write_whole(root_dst / PARTIAL_INDEX, text)
    (root_dst / INDEX).unlink(missing_ok=True)


def write_pixels(
    root_dst: Path, header: Mapping[str, Any], entries: Sequence[Entry], pairs: Mapping[str, Sequence[Pair]],
    old: Mapping[tuple[str, str], Entry], progress: bool,
) -> tuple[list[Entry], int]:  # fmt: skip
    """Fill the files; returns the entries with their checksums, and how many were right already."""
    sizes = split_sizes(header, entries)
    files = {split: open(root_dst / f"{split}.npy", "rb+") for split in sizes}
    lock = threading.Lock()

    def work(item: tuple[Entry, Pair]) -> Entry:
        entry, pair = item
        was, file = old.get(entry.key), files[entry.split]
        if was and replace(was, crc32=-1) == entry and has_checksum(file, was, header):
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


def write_index(path: Path, header: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Appears whole or not at all."""
    text = "".join([to_line(header), *(to_line(asdict(entry)) for entry in entries)])
    text += to_line(seal_of(entries, zlib.crc32(text.encode())))
    write_whole(path, text)


def copy_manifest(root_src: Path, root_dst: Path, splits: Sequence[str]) -> None:
    """The manifest that arranging the source would write, or the one that an arranged source has."""
    target = root_dst / MANIFEST
    if (root_src / MANIFEST).exists():
        with whole_file(target) as part:
            shutil.copyfile(root_src / MANIFEST, part)
    elif not any(is_arranged(root_src, split) for split in splits):
        write_manifest(target, [row for split in splits for row in list_rows(root_src, split)])
    else:
        target.unlink(missing_ok=True)
