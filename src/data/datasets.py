"""Chooses the pairs of a run, for training, validation or evaluation.

Most datasets need no code, since their layout determines how they are read:

    GOPRO_Large, own pairs   {root}/{split}/{blur,sharp}            `pairs.find_pairs`
    RealBlur-J, RealBlur-R   a list file, `sharp blur` per line     `sources.pairs_from_list`
    HIDE, {input,target}     two folders with equal names           `sources.pairs_from_folders`
    packed frames            index.jsonl, {split}.npy               `packed.open_pairs`
    sharp photographs        one folder, blurred while training     `sources.pairs_from_photos`

`validation_split` moves training pairs to validation. All this uses names only; `pairs.check_pairs` opens the files.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.config import Data
from src.data.packed import folder_of, is_packed, open_pairs
from src.data.pairs import KINDS, SPLITS, Pair, SharpPhoto, check_pairs, find_pairs
from src.data.sample_data import dataset_or_samples
from src.data.sources import pairs_from_folders, pairs_from_list, pairs_from_photos
from src.data.validation_split import split_validation
from src.errors import UserError
from src.files import Outputs, need_apart


def choose_pairs(
    root: Path | str | None, split: str, list_file: str = "", blur_directory: str = "", sharp_directory: str = ""
) -> tuple[list[Pair], str]:
    """Pairs of `list_file` if given, else of the two directories if given, else of `root`/`split`/{blur,sharp}.

    Args:
        root: dataset folder, packed or not, which the paths of a list are relative to. None or "" if not needed.
        split: train, test or valid; part of the name of the list file's option.

    Returns:
        The pairs, and a description of their source.

    Raises:
        UserError: as `find_pairs`, `pairs_from_list` and `pairs_from_folders`, or the options contradict each other.
    """
    if list_file and (blur_directory or sharp_directory):
        raise UserError(f"--{split}_list and --blur_directory/--sharp_directory both name the pairs. Give only one.")
    if list_file:
        return pairs_from_list(list_file, root), list_file
    if blur_directory or sharp_directory:
        if not (blur_directory and sharp_directory):
            given, other = ("blur", "sharp") if blur_directory else ("sharp", "blur")
            raise UserError(f"--{given}_directory needs --{other}_directory, with partners of the same names")
        pairs, unused = pairs_from_folders(blur_directory, sharp_directory)
        note = f" ({unused} sharp images without a blurred partner are not used)" if unused else ""
        return pairs, f"{blur_directory} and {sharp_directory}{note}"
    if not root:
        raise UserError(f"--dataset_root: expected a folder with {split}/{{blur,sharp}}; or give --{split}_list")
    if is_packed(root):
        return open_pairs(root, split), f"{root} (packed)"
    return find_pairs(root, split), str(root)


def choose_root(root: Path | str, *other_sources: str | bool) -> Path | str:
    """`root` itself if any of `other_sources`, a list file or folders, is given, else `dataset_or_samples`."""
    return root if any(other_sources) else dataset_or_samples(root)


def training_and_validation_pairs(
    data: Data, seed: int = 1, validate: bool = True
) -> tuple[list[Pair], list[Pair], str]:
    """Choose and check the pairs of a training run.

    Without --test_list and a split of the training pairs, the validation pairs are those of `dataset_root`/valid, which
    the paper's code reads, or else of `dataset_root`/test. Training images need sides of `crop_size` or more.

    Args:
        seed: of `split_validation`.
        validate: False returns validation pairs only if `val_list` or `val_fraction` asks for them.

    Returns:
        (training pairs, validation pairs, a description in one line).

    Raises:
        UserError: as `choose_pairs`, `split_validation`, `mix_in_photos` and `pairs.check_pairs`, or options
            contradict each other.
    """
    root: Path | str = data.dataset_root
    sources = data.train_list, data.blur_directory, data.sharp_directory
    limit = data.slice_dataset or None
    if data.blur == "synthetic":
        if any(sources) or data.val_list or data.val_fraction or data.sharp_photos:
            raise UserError(
                "--blur synthetic blurs the photographs in --dataset_root; it does not go with --train_list, "
                "--blur_directory, --sharp_directory, --val_list, --val_fraction or --sharp_photos"
            )
        if validate and not data.test_list:
            raise UserError(
                "--blur synthetic: validation needs --test_list, which `python -m src.data.synthetic_blur` writes. "
                "Without validation: --val_acc_monitor_interval 0."
            )
        pairs, place = pairs_from_photos(root, "--dataset_root"), f"{root}, blurred differently in every epoch"
    else:
        pairs, place = choose_pairs(root, "train", *sources)
    pairs, val_pairs, rule = pairs[:limit], [], ""
    if data.val_fraction or data.val_list:
        split = split_validation(pairs, data.val_fraction, data.val_list, seed, root)
        pairs, val_pairs, rule = split.train, split.val, f" ({split.rule})"
    elif validate:
        valid = Path(root) / "valid"
        own = bool(root) and not data.test_list and all((valid / kind).is_dir() for kind in KINDS)
        try:
            val_pairs, source = choose_pairs(root, "valid" if own else "test", data.test_list)
        except UserError as e:
            raise UserError(f"{e} Without validation pairs: --val_fraction 0.1 or --val_acc_monitor_interval 0.") from e
        val_pairs, rule = val_pairs[:limit], f" (those of {valid})"
        if not own:
            rule = (
                f" (the test pairs of {source}, so best.ckpt is chosen by its score on them; --val_fraction, "
                "--val_list or a folder valid beside train keep the test apart)"
            )
    if data.sharp_photos:
        photos = pairs_from_photos(data.sharp_photos, "--sharp_photos")[:limit]
        pairs = mix_in_photos(pairs, photos, data.synthetic_fraction)
        count = sum(isinstance(pair, SharpPhoto) for pair in pairs)
        place += f", {count} of them of the {len(photos)} photographs in {data.sharp_photos}"
        place += ", blurred differently in every epoch"
    converted, val_converted = check_pairs(pairs, min_side=data.crop_size), check_pairs(val_pairs)
    chosen = f"{len(pairs)} training pairs from {place}{converted}"
    return pairs, val_pairs, f"{chosen}, {len(val_pairs)} for validation{rule}{val_converted}"


def need_outside_data(
    pairs: Iterable[Pair], root: Path | str, *others: Path | str, files: Outputs = (), folders: Outputs = ()
) -> None:
    """Raise a UserError if outputs overlap with the data that a run reads, see `files.need_apart`.

    Args:
        pairs: output folders must not contain their files directly; links are followed.
        root: a dataset, whose folders train, test and valid are data, or all of it if it is packed; "" = none.
        others: files, and folders that are searched for images; "" is ignored.
        files, folders: the outputs.
    """
    images = {path for pair in pairs for path in (pair.blur, pair.sharp)}
    read = [Path(place) for place in others if place]
    if root:
        read += [folder_of(root)] if is_packed(root) else [Path(root) / split for split in (*SPLITS, "valid")]
    shallow = [*{Path(os.path.realpath(path)).parent for path in images}, *{path.parent for path in images}]
    need_apart(read, folders=folders, shallow=shallow)
    need_apart(read, files=files)


def mix_in_photos(pairs: Sequence[Pair], photos: Sequence[Pair], fraction: float) -> list[Pair]:
    """Pairs and photographs in one list, with `fraction` of photographs.

    Where one kind is too few for that, its elements are repeated: 20 pairs and 60 photographs at 0.5 give 120 elements
    with each pair three times. Repetitions are augmented independently.

    Raises:
        UserError: the fraction is not between 0 and 1.
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
