"""Moves training pairs to validation, in whole sequences."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.data.gopro import read_manifest
from src.data.images import IMAGE_SUFFIXES
from src.data.pairs import MANIFEST, Pair, natural_key
from src.data.sources import BLURRED_FOLDERS, find_list, read_lines
from src.errors import UserError, first_few, nearest

BLOCK = 50  # pairs in a block where sequences are unknown
MAX_FRACTION = 0.5


class ValidationSplit(NamedTuple):
    """Two parts of a list of pairs, each in the original order, and a description of the rule."""

    train: list[Pair]
    val: list[Pair]
    rule: str


def split_validation(
    pairs: Sequence[Pair], fraction: float, val_list: str, seed: int, root: Path | str | None = None
) -> ValidationSplit:
    """`split_by_list` if a list is given, else `split_by_fraction`.

    Raises:
        UserError: as these two, or both a fraction and a list are given.
    """
    if fraction and val_list:
        raise UserError("--val_fraction and --val_list both name the validation pairs. Give only one.")
    return split_by_list(pairs, val_list, root) if val_list else split_by_fraction(pairs, fraction, seed)


def split_by_fraction(pairs: Sequence[Pair], fraction: float, seed: int) -> ValidationSplit:
    """Take about `fraction` of the pairs for validation, in whole sequences: neighbouring frames show the same scene,
    so scores on neighbours of training frames would be too high.

    The result depends only on `seed` and the names: sequences are drawn in random order, and each is taken if it brings
    the number of pairs closer to the target. Where `sequences_of` finds none, blocks of up to 50 neighbours in natural
    order take their place, so that neighbours are separated only between blocks.

    Args:
        fraction: more than 0, up to 0.5.

    Raises:
        UserError: the fraction is out of range, there are fewer than two pairs, or the smallest sequence has more than
            twice the target number.
    """
    count = len(pairs)
    if not 0 < fraction <= MAX_FRACTION:
        raise UserError(f"--val_fraction: got {fraction:g}, expected more than 0, up to {MAX_FRACTION}")
    if count < 2:
        raise UserError(f"--val_fraction {fraction:g} needs two pairs or more, one for each part, got {count}")
    wanted = max(1, int(fraction * count + 0.5))
    sequences, rule = sequences_of(pairs)
    if not sequences:
        sequences, rule = _blocks(pairs, min(BLOCK, wanted))
    sizes = Counter(sequences)
    smallest = min(sizes.values())
    if smallest > 2 * wanted:
        need = -(-100 * smallest // count) / 100  # rounded up
        wider = f"Give --val_fraction {need:g} or name" if need <= MAX_FRACTION else "Name"
        raise UserError(
            f"--val_fraction {fraction:g} asks for {wanted} of {count} pairs, but the {len(sizes)} {rule} hold "
            f"{smallest} or more each and are kept whole. {wider} single pairs in --val_list."
        )
    order = sorted(sizes, key=natural_key)
    chosen, total = set(), 0
    for i in np.random.default_rng(seed).permutation(len(order)):
        size = sizes[order[i]]
        if abs(total + size - wanted) < abs(total - wanted):
            chosen.add(order[i])
            total += size
    if not chosen:
        chosen.add(min(order, key=sizes.__getitem__))
    rule = f"{len(chosen)} of {len(order)} {rule}: {first_few(s for s in order if s in chosen)}"
    return _split(pairs, [s in chosen for s in sequences], rule)


def split_by_list(pairs: Sequence[Pair], val_list: Path | str, root: Path | str | None = None) -> ValidationSplit:
    """Take the pairs in a file for validation, which contains one name of a pair or a sequence per line.

    Args:
        val_list: in the format of `read_lines`; may be relative to `root`.

    Raises:
        UserError: a name is unknown, with its line number, or no pair is left for training.
    """
    path = find_list(val_list, root)
    sequences, rule = sequences_of(pairs)
    members: dict[str, set[int]] = {}
    for i, sequence in enumerate(sequences):
        members.setdefault(sequence, set()).add(i)
    members |= {pair.name: {i} for i, pair in enumerate(pairs)}
    chosen: set[int] = set()
    unknown = []
    for number, entry in read_lines(path):
        entry = entry.strip('"')
        if entry not in members and entry.lower().endswith(IMAGE_SUFFIXES):
            entry = entry.rsplit(".", 1)[0]
        if entry in members:
            chosen |= members[entry]
        else:
            unknown.append(f"line {number}: {entry}")
    if unknown:
        hint = nearest(unknown[0].split(": ", 1)[1], members)
        by = f" or one of the {rule} ({first_few(sorted(set(sequences), key=natural_key), 3)})" if sequences else ""
        raise UserError(
            f"{path}: not the name of a training pair (like {pairs[0].name}){by}: {first_few(unknown)}.{hint}"
        )
    if len(chosen) == len(pairs):
        raise UserError(f"{path}: names all {len(pairs)} pairs, none is left for training")
    return _split(pairs, [i in chosen for i in range(len(pairs))], str(path))


def _split(pairs: Sequence[Pair], is_val: Sequence[bool], rule: str) -> ValidationSplit:
    train, val = ([pair for pair, v in zip(pairs, is_val, strict=True) if v is part] for part in (False, True))
    share = 100 * len(val) / len(pairs)
    return ValidationSplit(train, val, f"{len(val)} of {len(pairs)} training pairs ({share:.1f} %), {rule}")


# ---- sequences


def sequences_of(pairs: Sequence[Pair]) -> tuple[list[str], str]:
    """The sequence of each pair, and the rule that found them: the first of these that finds two or more.

    1. `manifest.csv` of src/preprocessing.py, if it contains all pairs
    2. the folders of the blurred images, without folders like blur or input (scene001/blur/blur_1.png: scene001)

    Returns:
        ([], "") if neither does.
    """
    for sequences, rule in (
        (_manifest_sequences(pairs), f"sequences by {MANIFEST}"),
        (_folder_sequences(pairs), "sequences by folder"),
    ):
        if len(set(sequences)) > 1:
            return sequences, rule
    return [], ""


def _manifest_sequences(pairs: Sequence[Pair]) -> list[str]:
    known: dict[Path, str] = {}
    for root in {pair.blur.parent.parent.parent for pair in pairs}:
        try:
            rows = read_manifest(root / MANIFEST)
        except UserError:  # a file of that name from another program
            continue
        known |= {root / row.target("blur"): row.sequence for row in rows}
    return [known[pair.blur] for pair in pairs] if all(pair.blur in known for pair in pairs) else []


def _folder_sequences(pairs: Sequence[Pair]) -> list[str]:
    folders = []
    for pair in pairs:
        folder = pair.blur.parent
        while folder.name.lower() in BLURRED_FOLDERS:
            folder = folder.parent
        folders.append(folder)
    top = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    return [Path(os.path.relpath(folder, top)).as_posix() for folder in folders]


def _blocks(pairs: Sequence[Pair], size: int) -> tuple[list[str], str]:
    """At least two blocks of about `size` neighbours in natural order, named after their first and last pair."""
    names = sorted((pair.name for pair in pairs), key=natural_key)
    count = max(2, round(len(names) / size))
    ends = [len(names) * i // count for i in range(count + 1)]
    block = {
        name: f"{names[start]}..{names[end - 1]}"
        for start, end in zip(ends, ends[1:], strict=False)
        for name in names[start:end]
    }
    longest = -(-len(names) // count)
    return [block[pair.name] for pair in pairs], f"blocks of up to {longest} neighbours (sequences are unknown)"
