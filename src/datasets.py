"""Which pairs a run uses: the standard folders, a list file or any two folders. And validation pairs taken out of the
training pairs, by whole sequences.

A dataset is known by its layout, so a new one needs no code:

    GOPRO_Large, own pairs   {root}/{split}/{blur,sharp}            `picture_files.find_pairs`
    RealBlur-J, RealBlur-R   a list file, `sharp blur` on each line `pairs_from_list`
    HIDE, {input,target}     two folders with equal names           `pairs_from_folders`
    packed frames            index.jsonl, {split}.npy               `packed_data.open_pairs`
    sharp photographs        one folder, blurred while training     `pairs_from_photos`

Only names are looked at here; `picture_files.check_pairs` looks into the files.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from src.errors import UserError, first_few, nearest
from src.packed_data import is_packed, open_pairs
from src.picture_files import (
    IMAGE_SUFFIXES,
    MANIFEST,
    Pair,
    check_pairs,
    describe_conversion,
    find_pairs,
    list_image_tree,
    natural_key,
)
from src.preprocessing import read_manifest
from src.sample_data import dataset_or_samples

# Folders that say what an image is, not which scene it shows: left out of the names of pairs and sequences.
BLURRED_FOLDERS = ("blur", "blurred", "blurry", "blur_gamma", "input", "lq")
# What gives away a swapped pair of columns. Not `deblur`, and `gt` only as a word of its own.
LOOKS_BLURRED = re.compile(r"(?<!de)blur|(?<![a-z])input(?![a-z])", re.IGNORECASE)
LOOKS_SHARP = re.compile(r"sharp|(?<![a-z])(gt|target|groundtruth|ground_truth)(?![a-z])", re.IGNORECASE)
# Where the sequence ends in a file's name; the first that matches counts.
SEQUENCE_IN_NAME = (
    # Before the first number of four or more digits: GOPR0477_11_00-000001, 000-00000001, and tiles of such frames.
    re.compile(r"(.+?)[-_ .][a-z]{0,5}\d{4,}(?!\d)"),
    re.compile(r"\d+from(.+)"),  # HIDE: 12fromGOPR1055.MP4
    re.compile(r"(.+)[-_ ][a-z]{0,5}\d+$"),  # before the last number: clip3_12
)
BLOCK = 50  # neighbours that stay together when nothing tells sequences apart
MAX_FRACTION = 0.5


def choose_pairs(
    root: Path | str | None, split: str, list_file: str = "", blur_directory: str = "", sharp_directory: str = ""
) -> tuple[list[Pair], str]:
    """The pairs of `list_file` if given, else of the two directories if given, else of `root`/`split`/{blur,sharp}.

    Args:
        root: dataset folder, packed or not; what the paths of a list are relative to. None or "" where not needed.
        split: train or test; the option of the list file is called after it.

    Returns:
        The pairs, and where they come from, for a line of output.

    Raises:
        UserError: as `find_pairs`, `pairs_from_list` and `pairs_from_folders`, or the options contradict each other.
    """
    if list_file and (blur_directory or sharp_directory):
        raise UserError(f"--{split}_list and --blur_directory/--sharp_directory both name the pairs. Give one of them.")
    if list_file:
        return pairs_from_list(list_file, root), list_file
    if blur_directory or sharp_directory:
        if not (blur_directory and sharp_directory):
            given, other = ("blur", "sharp") if blur_directory else ("sharp", "blur")
            raise UserError(f"--{given}_directory needs --{other}_directory: the two hold partners of equal names")
        pairs, unused = _folder_pairs(Path(blur_directory), Path(sharp_directory))
        note = f" ({unused} sharp images without a blurred partner are not used)" if unused else ""
        return pairs, f"{blur_directory} and {sharp_directory}{note}"
    if not root:
        raise UserError(f"--dataset_root: expected a folder with {split}/{{blur,sharp}}; or give --{split}_list")
    if is_packed(root):
        return open_pairs(root, split), f"{root} (packed)"
    return find_pairs(root, split), str(root)


def choose_root(root: Path | str, *other_sources: str) -> Path | str:
    """`root` as it is if one of `other_sources`, a list file or folders, names the pairs; else `dataset_or_samples`."""
    return root if any(other_sources) else dataset_or_samples(root)


def training_and_validation_pairs(
    root: Path | str, train_list: str = "", blur_directory: str = "", sharp_directory: str = "", *,
    test_list: str = "", val_list: str = "", val_fraction: float = 0, validate: bool = True, seed: int = 1,
    limit: int = 0, min_side: int = 0, blur: str = "real", sharp_photos: str = "", synthetic_fraction: float = 0.5,
) -> tuple[list[Pair], list[Pair], str]:  # fmt: skip
    """The pairs to train on and those to validate on, all looked into.

    Args:
        root, train_list, blur_directory, sharp_directory: as for `choose_pairs`; nothing at all means the sample set.
        test_list: validation pairs, if none are taken out of the training pairs. Default: `root`/test.
        val_list, val_fraction: which training pairs are taken out for validation (`split_validation`).
        validate: False: no validation pairs unless they are asked for by `val_list` or `val_fraction`.
        limit: use only the first pairs; 0 = all.
        min_side: smallest side that a training image may have, pixels.
        blur: synthetic: `root` holds sharp photographs, to be blurred while training.
        sharp_photos, synthetic_fraction: as for `mix_in_photos`; "" = real pairs only.

    Returns:
        (training pairs, validation pairs, one line about them).

    Raises:
        UserError: as `choose_pairs`, `split_validation` and `picture_files.check_pairs`.
    """
    sources = train_list, blur_directory, sharp_directory
    if blur == "synthetic":
        if any(sources) or val_list or val_fraction or sharp_photos:
            raise UserError(
                "--blur synthetic blurs the photographs in --dataset_root; it does not go with --train_list, "
                "--blur_directory, --sharp_directory, --val_list, --val_fraction or --sharp_photos"
            )
        if validate and not test_list:
            raise UserError(
                "--blur synthetic: validation pairs are those of --test_list, which src/synthetic_blur.py can make. "
                "Without validation: --val_acc_monitor_interval 0."
            )
        pairs, place = pairs_from_photos(root, "--dataset_root"), f"{root}, blurred anew each time"
    else:
        root = choose_root(root, *sources)
        pairs, place = choose_pairs(root, "train", *sources)
    pairs, val_pairs, rule = pairs[: limit or None], [], ""
    if val_fraction or val_list:
        split = split_validation(pairs, val_fraction, val_list, seed, root)
        pairs, val_pairs, rule = split.train, split.val, f" ({split.rule})"
    elif validate:
        try:
            val_pairs = choose_pairs(root, "test", test_list)[0][: limit or None]
        except UserError as e:
            raise UserError(f"{e} Without validation pairs: --val_fraction 0.1 or --val_acc_monitor_interval 0.") from e
    if sharp_photos:
        photos = pairs_from_photos(sharp_photos, "--sharp_photos")[: limit or None]
        pairs = mix_in_photos(pairs, photos, synthetic_fraction)
        count = sum(pair.is_photo for pair in pairs)
        place = f"{place}, {count} of them of the {len(photos)} photographs in {sharp_photos}, blurred anew each time"
    converted = describe_conversion(check_pairs(pairs, min_side=min_side))
    check_pairs(val_pairs)
    return (
        pairs,
        val_pairs,
        f"{len(pairs)} training pairs from {place}{converted}, {len(val_pairs)} for validation{rule}",
    )


# ---- list files


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that say something: not blank, not starting with #.

    UTF-8 with or without a byte order mark, LF or CRLF.

    Raises:
        UserError: no such file, not UTF-8, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        folder = path.parent
        there = sorted(p.name for p in folder.glob("*.txt")) if folder.is_dir() else []
        hint = f" Its folder has {first_few(there)}.{nearest(path.name, there)}" if there else ""
        raise UserError(f"{path}: no such list file.{hint}") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not a text in UTF-8 (byte {e.start}). Expected one entry on each line.") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from e
    # Not splitlines(): that also breaks at characters which file names may hold.
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), start=1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: holds no entry, only blank lines or comments")
    return lines


def find_list(list_file: Path | str, root: Path | str | None) -> Path:
    """`list_file` as it stands if it is there, else below `root`, where published lists lie."""
    path = Path(list_file)
    return Path(root) / path if root and not path.exists() and (Path(root) / path).exists() else path


def split_fields(line: str) -> list[str]:
    """The paths on a line: between tabs if it has any; else in double quotes or between spaces.

    An apostrophe is part of a name.
    """
    if "\t" in line:
        return [field.strip().strip('"') for field in line.split("\t") if field.strip()]
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]+)"|(\S+)', line)]


def pairs_from_list(list_file: Path | str, root: Path | str | None = None) -> list[Pair]:
    """Pairs of a list file, in its order. Each line holds two paths, `sharp blur`, as RealBlur's lists do.

    Paths are absolute, or relative to `root`, or else to the list's own folder. Paths with spaces are separated by a
    tab or put in double quotes. Blank lines and lines starting with # are skipped. Several blurred images may share a
    sharp one.

    Pairs are called after the blurred image and its folder (scene001/blur/blur_1.png: scene001_blur_1), with as many
    folders as it takes to tell all of them apart.

    Raises:
        UserError: with file and line number: not two paths on a line, missing files (the first five), a blurred image
            listed twice, columns that look swapped; or there is no list or nothing in it.
    """
    path = find_list(list_file, root)
    entries = [(i, split_fields(line)) for i, line in read_lines(path)]
    odd = [f"line {i} has {len(fields)}" for i, fields in entries if len(fields) != 2]
    if odd:
        raise UserError(
            f"{path}: expected two paths on each line, sharp and blurred, but {first_few(odd)}. Paths with spaces: put "
            "a tab between the two, or double quotes around each. For names only, as HIDE has them, give "
            "--blur_directory and --sharp_directory."
        )
    _check_columns(path, entries)
    bases = [Path(root)] if root else []
    bases += [path.parent] if path.parent not in bases else []
    found = [(i, [_resolve(field, bases) for field in fields]) for i, fields in entries]
    missing = [
        f"line {i}: {field}"
        for (i, fields), (_, paths) in zip(entries, found, strict=True)
        for field, there in zip(fields, paths, strict=True)
        if there is None
    ]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {2 * len(entries)} files are not there: {first_few(missing)}. Looked in "
            f"{' and in '.join(map(str, bases))}; --dataset_root is the folder that the paths are relative to."
        )
    names = _path_names([fields[1] for _, fields in entries], path, [i for i, _ in entries])
    whole = [(sharp, blur) for _, (sharp, blur) in found if sharp and blur]  # all of them: none is missing
    return [Pair(name, blur, sharp) for name, (sharp, blur) in zip(names, whole, strict=True)]


def _resolve(field: str, bases: Sequence[Path]) -> Path | None:
    """The file that a path of a list means, None if there is none; an absolute path stays as it is."""
    return next((base / field for base in bases if os.path.isfile(base / field)), None)


def _check_columns(path: Path, entries: Sequence[tuple[int, list[str]]]) -> None:
    """Raise a UserError for a file that is its own partner, a blurred image listed twice, columns that look swapped."""
    own = [f"line {i}: {sharp}" for i, (sharp, blur) in entries if PurePath(sharp) == PurePath(blur)]
    if own:
        raise UserError(f"{path}: the same file as sharp and as blurred image: {first_few(own)}")
    first: dict[PurePath, int] = {}
    twice = [
        f"line {i} repeats line {first[PurePath(blur)]} ({blur})"
        for i, (_, blur) in entries
        if first.setdefault(PurePath(blur), i) != i
    ]
    if twice:
        raise UserError(f"{path}: blurred images must not be listed twice: {first_few(twice)}. Remove the repetitions.")
    swapped = [i for i, (sharp, blur) in entries if looks_swapped(sharp, blur)]
    if swapped:
        i, (sharp, blur) = next(entry for entry in entries if entry[0] == swapped[0])
        raise UserError(
            f"{path}: {len(swapped)} of {len(entries)} lines look swapped, first line {i}: {sharp} | {blur}. Expected "
            "the sharp image first, then the blurred one. Swap the columns."
        )


def looks_swapped(sharp: str, blur: str) -> bool:
    """Whether what the two paths do not share calls the sharp one blurred and the blurred one sharp."""
    sharp_parts, blur_parts = PurePath(sharp).parts, PurePath(blur).parts
    only_sharp = "/".join(part for part in sharp_parts if part not in blur_parts)
    only_blur = "/".join(part for part in blur_parts if part not in sharp_parts)
    return bool(
        LOOKS_BLURRED.search(only_sharp)
        and not LOOKS_SHARP.search(only_sharp)
        and LOOKS_SHARP.search(only_blur)
        and not LOOKS_BLURRED.search(only_blur)
    )


def _path_names(paths: Sequence[str], list_file: Path, numbers: Sequence[int]) -> list[str]:
    """Names without slashes, as short as keeps them different: the file's and one folder, two folders, ...

    Folders called blur, input, ... and suffixes come in only where nothing else tells two files apart.
    """
    parts = [[p for p in PurePath(path).parts if p not in ("/", ".", "..")] for path in paths]
    stemmed = [[*folders, PurePath(name).stem] for *folders, name in parts]
    short = [[p for p in folders if p.lower() not in BLURRED_FOLDERS] + [stem] for *folders, stem in stemmed]
    depths = range(2, max(2, *map(len, short)) + 1)
    for tried in (*([p[-depth:] for p in short] for depth in depths), stemmed, parts):
        names = ["_".join(p) for p in tried]
        if len(set(names)) == len(names):
            return names
    first: dict[str, int] = {}
    same = [
        f"lines {first[name]} and {i} ({name})"
        for i, name in zip(numbers, names, strict=True)
        if first.setdefault(name, i) != i
    ]
    raise UserError(f"{list_file}: blurred images that would get one name: {first_few(same)}. Rename one of each.")


# ---- two folders


def pairs_from_folders(blur_directory: Path | str, sharp_directory: Path | str) -> list[Pair]:
    """Pairs of two folders, sub-folders included, by path without suffix, in natural order.

    When sub-folders of the two differ, by file name alone if no name occurs twice (HIDE: test/test-close-ups/a.png
    belongs to GT/a.png). A blurred image needs a partner; sharp ones without are not used (HIDE's GT serves training
    and test). The name of a pair is the blurred image's path in its folder, without suffix.

    Raises:
        UserError: a folder is missing, empty or within the other, a partner is missing, or the two look swapped.
    """
    return _folder_pairs(Path(blur_directory), Path(sharp_directory))[0]


def _folder_pairs(blur_directory: Path, sharp_directory: Path) -> tuple[list[Pair], int]:
    """The pairs, and how many sharp images have no partner."""
    for option, folder in (("blur", blur_directory), ("sharp", sharp_directory)):
        if not folder.is_dir():
            raise UserError(f"--{option}_directory: no folder {folder}")
    real_blur, real_sharp = blur_directory.resolve(), sharp_directory.resolve()
    if real_blur.is_relative_to(real_sharp) or real_sharp.is_relative_to(real_blur):
        raise UserError(
            f"--blur_directory {blur_directory} and --sharp_directory {sharp_directory} lie in one another. Give two "
            "folders side by side."
        )
    if looks_swapped(str(sharp_directory), str(blur_directory)):
        raise UserError(
            f"--blur_directory {blur_directory} and --sharp_directory {sharp_directory} look swapped by their names"
        )
    blur, sharp = list_image_tree(blur_directory), list_image_tree(sharp_directory)
    for folder, images in ((blur_directory, blur), (sharp_directory, sharp)):
        if not images:
            raise UserError(f"{folder}: no image in it, expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    partners = {name: name for name in blur if name in sharp}
    if len(partners) < len(blur):
        by_file = {_file(name): name for name in sharp}
        alone = {_file(name) for name in blur}
        if len(by_file) == len(sharp) and len(alone) == len(blur) and alone <= by_file.keys():
            partners = {name: by_file[_file(name)] for name in blur}
    lonely = [name for name in blur if name not in partners]
    if lonely:
        raise UserError(
            f"{blur_directory}: {len(lonely)} of {len(blur)} images without a partner of the same name in "
            f"{sharp_directory}: {first_few(lonely)}. Add or remove them, or pair files by a list (--train_list, "
            "--test_list)."
        )
    pairs = [Pair(name, path, sharp[partners[name]]) for name, path in blur.items()]
    return pairs, len(sharp) - len(set(partners.values()))


def _file(name: str) -> str:
    return name.rsplit("/", 1)[-1]


# ---- sharp photographs, blurred while training


def pairs_from_photos(folder: Path | str, option: str) -> list[Pair]:
    """The images of a folder and its sub-folders as pairs without a blurred file (`Pair.is_photo`), in natural order.

    Args:
        option: that named the folder, for messages.

    Raises:
        UserError: no such folder, no image in it, or a sub-folder that is called after blurred images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{option}: no folder {folder}, expected one with sharp photographs")
    photos = list_image_tree(folder)
    if not photos:
        raise UserError(f"{option} {folder}: no image in it, expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    blurred = sorted({part for name in photos for part in name.split("/")[:-1] if part.lower() in BLURRED_FOLDERS})
    if blurred:
        raise UserError(
            f"{option} {folder}: expected sharp photographs only, but it has folders called {first_few(blurred)}. "
            "Give the folder of the sharp ones, e.g. train/sharp."
        )
    return [Pair(f"photo/{name}", path, path) for name, path in photos.items()]


def mix_in_photos(pairs: Sequence[Pair], photos: Sequence[Pair], fraction: float) -> list[Pair]:
    """Pairs and photographs in one list, of which `fraction` are photographs.

    The fewer of the two, measured by that, are repeated until the others are used once: 20 pairs and 60 photographs at
    0.5 give 120 entries, each pair three times. An entry is a sample with draws of its own.

    Raises:
        UserError: the fraction does not lie between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(
            f"--synthetic_fraction: got {fraction:g}, expected more than 0 and less than 1. For photographs alone: "
            "--dataset_root FOLDER --blur synthetic."
        )
    count = max(len(pairs) / (1 - fraction), len(photos) / fraction)
    some_pairs = [pairs[i % len(pairs)] for i in range(round(count * (1 - fraction)))]
    some_photos = [photos[i % len(photos)] for i in range(round(count * fraction))]
    return some_pairs + some_photos


# ---- validation pairs out of the training pairs


@dataclass(frozen=True)
class ValidationSplit:
    """Two parts of one set of pairs, each in the order of the whole, and the rule in words, for a line of output."""

    train: list[Pair]
    val: list[Pair]
    rule: str


def split_validation(
    pairs: Sequence[Pair], fraction: float, val_list: str, seed: int, root: Path | str | None = None
) -> ValidationSplit:
    """`split_by_fraction` or `split_by_list`, whichever is given: a fraction other than 0, or a file name.

    Raises:
        UserError: as these two, or both are given.
    """
    if fraction and val_list:
        raise UserError("--val_fraction and --val_list both name the validation pairs. Give one of them.")
    return split_by_list(pairs, val_list, root) if val_list else split_by_fraction(pairs, fraction, seed)


def split_by_fraction(pairs: Sequence[Pair], fraction: float, seed: int) -> ValidationSplit:
    """Take about `fraction` of the pairs for validation, whole sequences only: neighbouring frames show the same scene,
    and a network that has seen one of them would be scored too well on the other.

    Which ones depends on `seed` and the names alone: sequences are drawn in random order, and each is taken that brings
    the number of pairs nearer to the wanted one. `sequences_of` tells what a sequence is; where it cannot, it is a
    block of up to 50 neighbours in natural order, and neighbours meet only where two blocks do.

    Args:
        fraction: more than 0, up to 0.5.

    Raises:
        UserError: the fraction is out of range, there are fewer than two pairs, or the smallest sequence holds more
            than twice the wanted number.
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
            f"{smallest} or more each, and are not torn apart. {wider} single pairs in --val_list."
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
    told = f"{len(chosen)} of {len(order)} {rule}: {first_few(s for s in order if s in chosen)}"
    return _split(pairs, [s in chosen for s in sequences], told)


def split_by_list(pairs: Sequence[Pair], val_list: Path | str, root: Path | str | None = None) -> ValidationSplit:
    """Take the pairs that a file names for validation: names of pairs or of sequences, one on each line.

    Args:
        val_list: a file as `read_lines` reads it; looked for below `root` too.

    Raises:
        UserError: with file and line number, a name that neither a pair nor a sequence has; no pair is left to train.
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
        raise UserError(f"{path}: names all {len(pairs)} pairs, none is left to train")
    return _split(pairs, [i in chosen for i in range(len(pairs))], str(path))


def _split(pairs: Sequence[Pair], is_val: Sequence[bool], rule: str) -> ValidationSplit:
    train = [pair for pair, val in zip(pairs, is_val, strict=True) if not val]
    val = [pair for pair, val in zip(pairs, is_val, strict=True) if val]
    assert train and val
    share = 100 * len(val) / len(pairs)
    return ValidationSplit(train, val, f"{len(val)} of {len(pairs)} training pairs ({share:.1f} %), {rule}")


def sequences_of(pairs: Sequence[Pair]) -> tuple[list[str], str]:
    """The sequence that each pair belongs to, and the rule that told: the first of these that finds two or more.

    1. `manifest.csv` of src/preprocessing.py, where it knows all the pairs
    2. the folder of the blurred images, folders called blur, input, ... left out (scene001/blur/blur_1.png: scene001)
    3. the file names of the blurred images, if each matches `SEQUENCE_IN_NAME` (GOPR0477_11_00-000001: GOPR0477_11_00)

    Returns:
        ([], "") when none does.
    """
    for find, rule in (
        (_manifest_sequences, f"sequences by {MANIFEST}"),
        (_folder_sequences, "sequences by folder"),
        (_name_sequences, "sequences by the start of the file names"),
    ):
        sequences = find(pairs)
        if len(set(sequences)) > 1:
            return sequences, rule
    return [], ""


def _manifest_sequences(pairs: Sequence[Pair]) -> list[str]:
    known: dict[Path, str] = {}
    for root in {pair.blur.parent.parent.parent for pair in pairs}:
        try:
            rows = read_manifest(root / MANIFEST)
        except UserError:  # a file of that name by somebody else
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
    if len(set(folders)) < 2:
        return []
    top = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    return [Path(os.path.relpath(folder, top)).as_posix() for folder in folders]


def _name_sequences(pairs: Sequence[Pair]) -> list[str]:
    found = [next(filter(None, (p.match(pair.blur.stem) for p in SEQUENCE_IN_NAME)), None) for pair in pairs]
    return [match[1] for match in found if match] if all(found) else []


def _blocks(pairs: Sequence[Pair], size: int) -> tuple[list[str], str]:
    """Blocks of about `size` neighbours in natural order, at least two, called after their first and last pair."""
    names = sorted((pair.name for pair in pairs), key=natural_key)
    count = max(2, round(len(names) / size))
    ends = [len(names) * i // count for i in range(count + 1)]
    block = {
        name: f"{names[start]}..{names[end - 1]}"
        for start, end in zip(ends, ends[1:], strict=False)
        for name in names[start:end]
    }
    longest = -(-len(names) // count)
    return [block[pair.name] for pair in pairs], f"blocks of up to {longest} neighbours (nothing tells sequences apart)"
