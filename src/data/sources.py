"""Pairs of a list file, of two folders, or of sharp photographs alone, which are blurred while training.

Only names are looked at. Every function raises a `UserError` for what usually goes wrong: missing files and partners,
swapped columns, two images of one name.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from src.data.images import IMAGE_SUFFIXES
from src.data.pairs import Pair, SharpPhoto, list_image_tree
from src.errors import UserError, first_few, nearest

# Folders that say what an image is, not which scene it shows: left out of the names of pairs and sequences.
BLURRED_FOLDERS = ("blur", "blurred", "blurry", "blur_gamma", "input", "lq")

# What gives away a swapped pair of columns. Not `deblur`, and `gt` only as a word of its own.
LOOKS_BLURRED = re.compile(r"(?<!de)blur|(?<![a-z])input(?![a-z])", re.IGNORECASE)
LOOKS_SHARP = re.compile(r"sharp|(?<![a-z])(gt|target|groundtruth|ground_truth)(?![a-z])", re.IGNORECASE)


# ---- list files


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


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that say something: not blank, not starting with #.

    UTF-8 with or without a byte order mark, LF or CRLF. Single bytes that are no UTF-8 belong to file names.

    Raises:
        UserError: no such file, not UTF-8, or nothing in it.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig", "strict" if b"\0" in data else "surrogateescape")  # UTF-16 is full of zeros
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


def pairs_from_folders(blur_directory: Path | str, sharp_directory: Path | str) -> tuple[list[Pair], int]:
    """Pairs of two folders, sub-folders included, by path without suffix, in natural order.

    When sub-folders of the two differ, by file name alone if no name occurs twice (HIDE: test/test-close-ups/a.png
    belongs to GT/a.png). A blurred image needs a partner; sharp ones without are not used (HIDE's GT serves training
    and test). The name of a pair is the blurred image's path in its folder, without suffix.

    Returns:
        The pairs, and how many sharp images are not used.

    Raises:
        UserError: a folder is missing, empty or within the other, a partner is missing, or the two look swapped.
    """
    blur_directory, sharp_directory = Path(blur_directory), Path(sharp_directory)
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


# ---- sharp photographs


def pairs_from_photos(folder: Path | str, option: str) -> list[Pair]:
    """The images of a folder and its sub-folders as `SharpPhoto`s, in natural order.

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
    return [SharpPhoto(f"photo/{name}", path) for name, path in photos.items()]
