"""Pairs of a list file, pairs of two folders, and sharp photographs, which training blurs.

These functions look at names only. They raise a `UserError` for common mistakes: missing files and partners, swapped
columns, duplicate names.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from src.data.images import NO_FILE, is_special
from src.data.pairs import Pair, SharpPhoto, list_image_tree
from src.errors import UserError, first_few, nearest

# Folders that name the kind of image, not the scene; names of pairs and sequences omit them.
BLURRED_FOLDERS = ("blur", "blurred", "blurry", "blur_gamma", "input", "lq")

# Names that reveal swapped columns, but not `deblur`, and `gt` only as a separate word.
LOOKS_BLURRED = re.compile(r"(?<!de)blur|(?<![a-z])input(?![a-z])", re.IGNORECASE)
LOOKS_SHARP = re.compile(r"sharp|(?<![a-z])(gt|target|groundtruth|ground_truth)(?![a-z])", re.IGNORECASE)


# ---- list files


def pairs_from_list(list_file: Path | str, root: Path | str | None = None) -> list[Pair]:
    """Pairs of a list file, in its order. Each line contains two paths, `sharp blur`, as RealBlur's lists do.

    Paths are absolute, relative to `root`, or relative to the list's folder. Paths with spaces are separated by a tab
    or enclosed in double quotes. Blank lines and lines starting with # are skipped. Several blurred images may share a
    sharp one.

    The name of a pair is made of the blurred image and its folder (scene001/blur/blur_1.png: scene001_blur_1), with as
    many folders as unique names need.

    Raises:
        UserError: with file and line numbers, a line without two paths, missing files (the first five), a blurred
            image listed twice, or columns that look swapped; or the list is missing or empty.
    """
    path = find_list(list_file, root)
    entries = [(i, split_fields(line)) for i, line in read_lines(path)]
    odd = [f"line {i} has {len(fields)}" for i, fields in entries if len(fields) != 2]
    if odd:
        raise UserError(
            f"{path}: expected two paths per line, sharp and blurred, but {first_few(odd)}. Separate paths with spaces "
            "by a tab, or enclose each in double quotes. For a list of names only, like HIDE's, use --blur_directory "
            "and --sharp_directory instead."
        )
    _check_columns(path, entries)
    bases = list(dict.fromkeys([*([Path(root)] if root else []), path.parent]))
    found, missing = [], []
    for i, fields in entries:
        for field in fields:
            files = [base / field for base in bases if os.path.isfile(base / field)]  # base / absolute is absolute
            found += files[:1]
            missing += [] if files else [f"line {i}: {field}"]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {2 * len(entries)} files are not there: {first_few(missing)}. Looked in "
            f"{' and in '.join(map(str, bases))}; --dataset_root is the folder that the paths are relative to."
        )
    names = _path_names([fields[1] for _, fields in entries], path, [i for i, _ in entries])
    return [Pair(name, blur, sharp) for name, sharp, blur in zip(names, found[::2], found[1::2], strict=True)]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are neither blank nor start with #.

    The file is UTF-8 with or without a byte order mark, with LF or CRLF. Other bytes may occur in file names.

    Raises:
        UserError: the file is missing, empty, not a regular file or not UTF-8.
    """
    if is_special(path):
        raise UserError(f"{path}: {NO_FILE}")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig", "strict" if b"\0" in data else "surrogateescape")  # UTF-16 is full of zeros
    except FileNotFoundError as e:
        folder = path.parent
        there = sorted(p.name for p in folder.glob("*.txt")) if folder.is_dir() else []
        hint = f" Its folder has {first_few(there)}.{nearest(path.name, there)}" if there else ""
        raise UserError(f"{path}: no such list file.{hint}") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not a text in UTF-8 (byte {e.start}). Expected one entry per line.") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from e
    # splitlines() would also split at characters that are valid in file names.
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), start=1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: contains no entry, only blank lines or comments")
    return lines


def find_list(list_file: Path | str, root: Path | str | None) -> Path:
    """`list_file` if it exists, else that file in `root`, where published lists are."""
    path = Path(list_file)
    return Path(root) / path if root and not path.exists() and (Path(root) / path).exists() else path


def split_fields(line: str) -> list[str]:
    """The paths on a line, separated by tabs if it has any, else by spaces outside double quotes.

    Unlike with `shlex`, an apostrophe is part of a name.
    """
    if "\t" in line:
        return [field.strip().strip('"') for field in line.split("\t") if field.strip()]
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]+)"|(\S+)', line)]


def _check_columns(path: Path, entries: Sequence[tuple[int, list[str]]]) -> None:
    """Raise a UserError for a file paired with itself, a blurred image listed twice, or columns that look swapped."""
    own = [f"line {i}: {sharp}" for i, (sharp, blur) in entries if PurePath(sharp) == PurePath(blur)]
    if own:
        raise UserError(f"{path}: the same file as sharp and as blurred image: {first_few(own)}")
    twice = [
        f"line {i} repeats line {first} ({entries[k][1][1]})"
        for k, first, i in _repeated([PurePath(blur) for _, (_, blur) in entries], [i for i, _ in entries])
    ]
    if twice:
        raise UserError(f"{path}: blurred images must not be listed twice: {first_few(twice)}. Remove the repetitions.")
    swapped = [f"line {i}: {sharp} | {blur}" for i, (sharp, blur) in entries if looks_swapped(sharp, blur)]
    if swapped:
        raise UserError(
            f"{path}: {len(swapped)} of {len(entries)} lines look swapped, first {swapped[0]}. Expected the sharp "
            "image first, then the blurred one. Swap the columns."
        )


def _repeated(things: Sequence, numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """(index, line of the first, line of the repetition) of all things that occur before."""
    first: dict = {}
    lines = [(k, first.setdefault(thing, i), i) for k, (thing, i) in enumerate(zip(things, numbers, strict=True))]
    return [(k, one, other) for k, one, other in lines if one != other]


def looks_swapped(sharp: str, blur: str) -> bool:
    """Whether the parts that differ between the paths call the sharp one blurred and the blurred one sharp."""
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
    """Unique names without slashes, made of the file name and as few folders as possible.

    They contain suffixes and folders like blur or input only where two names would otherwise be equal.
    """
    parts = [[p for p in PurePath(path).parts if p not in ("/", ".", "..")] for path in paths]
    stemmed = [[*folders, PurePath(name).stem] for *folders, name in parts]
    short = [[p for p in folders if p.lower() not in BLURRED_FOLDERS] + [stem] for *folders, stem in stemmed]
    depths = range(2, max(2, *map(len, short)) + 1)
    for tried in (*([p[-depth:] for p in short] for depth in depths), stemmed, parts):
        names = ["_".join(p) for p in tried]
        if len(set(names)) == len(names):
            return names
    same = [f"lines {first} and {i} ({names[k]})" for k, first, i in _repeated(names, numbers)]
    raise UserError(f"{list_file}: blurred images that would get one name: {first_few(same)}. Rename one of each.")


# ---- two folders


def pairs_from_folders(blur_directory: Path | str, sharp_directory: Path | str) -> tuple[list[Pair], int]:
    """Pairs of two folders, including sub-folders, by path without suffix, in natural order.

    If the sub-folders differ, files are paired by name alone, provided that no name occurs twice (HIDE:
    test/test-close-ups/a.png belongs to GT/a.png). A blurred image needs a partner; sharp ones without are not used
    (HIDE's GT serves training and test). The name of a pair is the path of the blurred image in its folder, without
    suffix.

    Returns:
        The pairs, and the number of unused sharp images.

    Raises:
        UserError: a folder is missing, empty or within the other, a partner is missing, or the two look swapped.
    """
    blur_directory, sharp_directory = Path(blur_directory), Path(sharp_directory)
    blur = list_image_tree(blur_directory, "--blur_directory")
    sharp = list_image_tree(sharp_directory, "--sharp_directory")
    real_blur, real_sharp = blur_directory.resolve(), sharp_directory.resolve()
    if real_blur.is_relative_to(real_sharp) or real_sharp.is_relative_to(real_blur):
        raise UserError(
            f"--blur_directory {blur_directory} and --sharp_directory {sharp_directory}: one contains the other. Give "
            "two separate folders."
        )
    if looks_swapped(str(sharp_directory), str(blur_directory)):
        raise UserError(
            f"--blur_directory {blur_directory} and --sharp_directory {sharp_directory} look swapped by their names"
        )
    partners = {name: name for name in blur if name in sharp}
    if len(partners) < len(blur):
        by_file = {PurePath(name).name: name for name in sharp}
        files = {PurePath(name).name for name in blur}
        if len(by_file) == len(sharp) and len(files) == len(blur) and files <= by_file.keys():
            partners = {name: by_file[PurePath(name).name] for name in blur}
    lonely = [name for name in blur if name not in partners]
    if lonely:
        raise UserError(
            f"{blur_directory}: {len(lonely)} of {len(blur)} images without a partner of the same name in "
            f"{sharp_directory}: {first_few(lonely)}. Add or remove them, or pair files by a list (--train_list, "
            "--test_list)."
        )
    pairs = [Pair(name, path, sharp[partners[name]]) for name, path in blur.items()]
    return pairs, len(sharp) - len(set(partners.values()))


# ---- sharp photographs


def pairs_from_photos(folder: Path | str, option: str) -> list[Pair]:
    """Images of a folder and its sub-folders as `SharpPhoto`s, in natural order.

    Args:
        option: the option that named the folder, for messages.

    Raises:
        UserError: the folder is missing, has no image, or has a sub-folder with a name for blurred images.
    """
    photos = list_image_tree(Path(folder), option)
    blurred = sorted({part for name in photos for part in name.split("/")[:-1] if part.lower() in BLURRED_FOLDERS})
    if blurred:
        raise UserError(
            f"{option} {folder}: expected only sharp photographs, but it has folders called {first_few(blurred)}. "
            "Give the folder of the sharp images, e.g. train/sharp."
        )
    return [SharpPhoto(f"photo/{name}", path, path) for name, path in photos.items()]
