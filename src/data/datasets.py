"""Which pairs a run uses: to train on, to validate on, to evaluate with.

A dataset is known by its layout, so a new one needs no code:

    GOPRO_Large, own pairs   {root}/{split}/{blur,sharp}            `pairs.find_pairs`
    RealBlur-J, RealBlur-R   a list file, `sharp blur` on each line `sources.pairs_from_list`
    HIDE, {input,target}     two folders with equal names           `sources.pairs_from_folders`
    packed frames            index.jsonl, {split}.npy               `packed.open_pairs`
    sharp photographs        one folder, blurred while training     `sources.pairs_from_photos`

`validation_split` takes validation pairs out of the training pairs. Names alone decide all this;
`pairs.check_pairs` looks into the files.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

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
    """The pairs of `list_file` if given, else of the two directories if given, else of `root`/`split`/{blur,sharp}.

    Args:
        root: dataset folder, packed or not; what the paths of a list are relative to. None or "" where not needed.
        split: train, test or valid; the option of the list file is called after it.

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
        pairs, unused = pairs_from_folders(blur_directory, sharp_directory)
        note = f" ({unused} sharp images without a blurred partner are not used)" if unused else ""
        return pairs, f"{blur_directory} and {sharp_directory}{note}"
    if not root:
        raise UserError(f"--dataset_root: expected a folder with {split}/{{blur,sharp}}; or give --{split}_list")
    if is_packed(root):
        return open_pairs(root, split), f"{root} (packed)"
    return find_pairs(root, split), str(root)


def choose_root(root: Path | str, *other_sources: str | bool) -> Path | str:
    """`root` as it is if there is one of `other_sources`, a list file or folders; else `dataset_or_samples`."""
    return root if any(other_sources) else dataset_or_samples(root)


def training_and_validation_pairs(
    root: Path | str, train_list: str = "", blur_directory: str = "", sharp_directory: str = "", *,
    test_list: str = "", val_list: str = "", val_fraction: float = 0, validate: bool = True, seed: int = 1,
    limit: int = 0, min_side: int = 0, blur: str = "real", sharp_photos: str = "", synthetic_fraction: float = 0.5,
) -> tuple[list[Pair], list[Pair], str]:  # fmt: skip
    """The pairs to train on and those to validate on, all looked into.

    Args:
        root, train_list, blur_directory, sharp_directory: as for `choose_pairs`; nothing at all means the sample set.
        test_list: validation pairs, if none are taken out of the training pairs. Default: `root`/valid, which the
            paper's code reads, or else `root`/test.
        val_list, val_fraction: which training pairs are taken out for validation (`split_validation`).
        validate: False: no validation pairs unless they are asked for by `val_list` or `val_fraction`.
        limit: use only the first pairs; 0 = all.
        min_side: smallest side that a training image may have, pixels.
        blur: synthetic: `root` holds sharp photographs, to be blurred while training.
        sharp_photos, synthetic_fraction: as for `mix_in_photos`; "" = real pairs only.

    Returns:
        (training pairs, validation pairs, one line about them).

    Raises:
        UserError: as `choose_pairs`, `split_validation` and `pairs.check_pairs`.
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
                "--blur synthetic: validation pairs are those of --test_list, which src/data/synthetic_blur.py makes. "
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
        own = bool(root) and not test_list and all((Path(root) / "valid" / kind).is_dir() for kind in KINDS)
        try:
            val_pairs, source = choose_pairs(root, "valid" if own else "test", test_list)
            val_pairs = val_pairs[: limit or None]
            if own:
                rule = f" (those of {Path(root) / 'valid'})"
            else:
                rule = (
                    f" (the test pairs of {source}, so best.ckpt is chosen by its score on them; --val_fraction, "
                    "--val_list or a folder valid beside train keep the test apart)"
                )
        except UserError as e:
            raise UserError(f"{e} Without validation pairs: --val_fraction 0.1 or --val_acc_monitor_interval 0.") from e
    if sharp_photos:
        photos = pairs_from_photos(sharp_photos, "--sharp_photos")[: limit or None]
        pairs = mix_in_photos(pairs, photos, synthetic_fraction)
        count = sum(isinstance(pair, SharpPhoto) for pair in pairs)
        place = f"{place}, {count} of them of the {len(photos)} photographs in {sharp_photos}, blurred anew each time"
    converted = check_pairs(pairs, min_side=min_side)
    val_converted = check_pairs(val_pairs)
    return (
        pairs,
        val_pairs,
        f"{len(pairs)} training pairs from {place}{converted}, {len(val_pairs)} for validation{rule}{val_converted}",
    )


def need_outside_data(
    pairs: Iterable[Pair], root: Path | str, *others: Path | str, files: Outputs = (), folders: Outputs = ()
) -> None:
    """Raise a UserError unless outputs lie apart from all data that a run reads, see `files.need_apart`.

    Args:
        pairs: no folder of outputs may be one of theirs; links are followed.
        root: a data set, of which train, test and valid are data, or all if it is packed; "" = none.
        others: files, and folders that are searched for images; "" does not count.
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
