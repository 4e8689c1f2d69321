"""Writes a packed dataset; src/data/packed.py describes its files and reads them.

    python -m src.preprocessing --root_src dataset --root_dst packed --pack [--patch_size 512]

An unfinished set has `index.jsonl.partial`, which grows while packing runs, but no `index.jsonl`: it cannot be read.
"""

import contextlib
import errno
import os
import shutil
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.data import packed
from src.data.gopro import find_splits, is_arranged, list_rows, write_manifest
from src.data.packed import NPY_HEADER, Entry
from src.data.pairs import MANIFEST, Pair, changes_by_reading, probe_pairs
from src.errors import UserError, need_writable_folder
from src.files import NO_ROOM, in_threads, need_apart, whole_file, write_whole

OldEntries = dict[tuple[str, str], Entry]  # by split and name


def pack(root_src: Path | str, root_dst: Path | str, patch_size: int = 0, progress: bool = True) -> dict[str, int]:
    """Decode all pairs of a folder into a packed set. Pixels that are already packed are checked and kept.

    Args:
        root_src: GOPRO_Large or an arranged folder, with train, test or both; it is only read.
        root_dst: created if missing.
        patch_size: side of the overlapping patches that training pairs are cut into, pixels; 0 = whole frames.
        progress: show a progress bar and print a summary.

    Returns:
        Bytes of each split.

    Raises:
        UserError: the source is incomplete or has unreadable files; the destination has other contents, cannot be
            written or is full. An existing set then remains complete or is rejected when read.
    """
    root_src, root_dst = Path(root_src), Path(root_dst)
    splits = find_splits(root_src)
    need_apart([root_src], files=[("--root_dst", root_dst / packed.INDEX)])
    pairs = {split: packed.list_source(root_src, split) for split in splits}
    source = os.path.relpath(root_src.resolve(), root_dst.resolve())
    header = {"format": packed.FORMAT, "version": packed.VERSION, "patch_size": patch_size, "source": source}
    infos = {split: probe_pairs(group) for split, group in pairs.items()}
    entries: list[Entry] = []
    for split, group in pairs.items():
        offset = 0
        for pair, (info, _) in zip(group, infos[split], strict=True):
            entries.append(
                Entry(split, pair.name, info.height, info.width, offset, *packed.source_fields(root_src, pair))
            )
            offset += packed.stored_bytes(entries[-1], header)
    old = kept_entries(root_dst, header, splits)
    need_writable_folder(root_dst, "--root_dst")
    sizes = packed.split_sizes(header, entries)
    if progress:
        counts = ", ".join(f"{len(group)} {split} pairs" for split, group in pairs.items())
        changes = changes_by_reading([info for group in infos.values() for info in group])
        print(f"packing {counts}{changes} into {root_dst}: {sum(sizes.values()) / 1e9:.2f} GB", flush=True)
    try:
        make_room(root_dst, sizes)
        # From here on, readers reject the set until packing is complete.
        write_whole(root_dst / packed.PARTIAL_INDEX, to_lines(header, old.values()))
        (root_dst / packed.INDEX).unlink(missing_ok=True)
        todo = list(zip(entries, (pair for group in pairs.values() for pair in group), strict=True))
        done = write_pixels(root_dst, header, todo, old, progress)
        copy_manifest(root_src, root_dst, splits)
        text = to_lines(header, done)
        write_whole(root_dst / packed.INDEX, text + packed.to_line(packed.seal_of(done, zlib.crc32(text.encode()))))
        (root_dst / packed.PARTIAL_INDEX).unlink()
    except OSError as e:
        raise _cannot_write(root_dst, sizes, e) from e
    if progress:
        kept = sum(old.get(entry.key) is entry for entry in done)
        print(f"{len(done) - kept} pairs decoded" + (f", {kept} were there already" if kept else ""))
    return sizes


def to_lines(header: Mapping[str, Any], entries: Iterable[Entry]) -> str:
    return packed.to_line(header) + "".join(packed.to_line(asdict(entry)) for entry in entries)


def kept_entries(root_dst: Path, header: Mapping[str, Any], splits: Sequence[str]) -> OldEntries:
    """Entries of an existing set in `root_dst`, complete or not, whose pixels may still be right.

    Raises:
        UserError: it was packed from another source or has more splits, or the files are no packed set.
    """
    if not packed.is_packed(root_dst):
        return {}
    # While packing, the partial index has everything; a complete set has no partial one.
    path = root_dst / (packed.PARTIAL_INDEX if (root_dst / packed.PARTIAL_INDEX).exists() else packed.INDEX)
    found, entries, _ = packed.parse_index(path)
    if not found:
        # Damage to the first line looks the same, and is as rare as a file of that name from another program.
        raise UserError(
            f"--root_dst: {root_dst} contains files not written by this script. Choose another folder, or remove them."
        )
    source = packed.source_of(root_dst, found)
    if source and not source.samefile(root_dst / header["source"]):
        raise UserError(f"--root_dst: {root_dst} was packed from {source}. Choose another folder, or remove it.")
    lost = sorted({entry.split for entry in entries} - set(splits))
    if lost:
        raise UserError(
            f"--root_dst: {root_dst} holds {lost[0]} pairs that --root_src no longer has. Choose another folder."
        )
    return {e.key: e for e in entries} if found["patch_size"] == header["patch_size"] else {}


def make_room(root_dst: Path, sizes: Mapping[str, int]) -> None:
    """Give the files their final size at once, so that a full disk is noticed before hours of work.

    Raises:
        OSError: there is no room; existing files keep their size.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    paths = {split: root_dst / f"{split}.npy" for split in sizes}
    old = {split: _size(path) for split, path in paths.items()}
    try:
        for split, size in sizes.items():
            if NPY_HEADER + size > old[split]:
                with open(paths[split], "ab") as file:
                    os.posix_fallocate(file.fileno(), old[split], NPY_HEADER + size - old[split])
    except OSError:
        for split, path in paths.items():
            if old[split]:
                os.truncate(path, old[split])
            else:
                path.unlink(missing_ok=True)
        raise


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
        f"needed, {free / 1e9:.2f} GB are free. Make room and rerun the same command, or choose another disk."
    )


def write_pixels(
    root_dst: Path,
    header: Mapping[str, Any],
    todo: Sequence[tuple[Entry, Pair]],
    old: OldEntries,
    progress: bool,
) -> list[Entry]:
    """Fill the files; returns the entries with their checksums, those of `old` where their pixels are still right."""
    lock = threading.Lock()

    def work(item: tuple[Entry, Pair]) -> Entry:
        entry, pair = item
        was, file = old.get(entry.key), files[entry.split]
        if was and replace(was, crc32=-1) == entry and packed.has_checksum(file, was, header):
            return was
        content = _content(entry, pair, header)
        if os.pwrite(file.fileno(), content, NPY_HEADER + entry.offset) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        entry = replace(entry, crc32=zlib.crc32(content))
        with lock:
            partial.write(packed.to_line(asdict(entry)))
            partial.flush()
        return entry

    with contextlib.ExitStack() as stack:
        files = {}
        for split, size in packed.split_sizes(header, [entry for entry, _ in todo]).items():
            file = files[split] = stack.enter_context(open(root_dst / f"{split}.npy", "rb+"))
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
            file.truncate(NPY_HEADER + size)
            file.flush()
        partial = stack.enter_context(open(root_dst / packed.PARTIAL_INDEX, "a", encoding="utf-8"))
        done = in_threads(work, todo, "pair", progress)
        for file in files.values():
            os.fsync(file.fileno())
    return done


def _content(entry: Entry, pair: Pair, header: Mapping[str, Any]) -> bytes:
    """The stored bytes of a pair.

    Raises:
        UserError: a file cannot be read, or its size differs from that in its header.
    """
    images = pair.read()
    if any(image.shape != (entry.height, entry.width, 3) for image in images):
        raise UserError(f"{pair.blur} or its partner was changed while it was packed. Rerun the same command.")
    return b"".join(
        image[top : top + height, left : left + width].tobytes()
        for top, left, height, width in packed.windows_of(entry, header)
        for image in images
    )


def copy_manifest(root_src: Path, root_dst: Path, splits: Sequence[str]) -> None:
    """Write the manifest of an arranged source, or the one that arranging GOPRO_Large would write."""
    target = root_dst / MANIFEST
    if (root_src / MANIFEST).exists():
        with whole_file(target) as part:
            shutil.copyfile(root_src / MANIFEST, part)
    elif not any(is_arranged(root_src, split) for split in splits):
        write_manifest(target, [row for split in splits for row in list_rows(root_src, split)])
    else:
        target.unlink(missing_ok=True)
