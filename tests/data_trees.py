"""Small data sets as files, and what several test files ask of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.pairs import Pair
from src.errors import UserError

# Not in the order of their names as texts; frame numbers with gaps and of different widths, as the real ones have gaps.
SEQUENCES = {  # split -> sequence -> frames
    "train": {
        "GOPR0374_11_02": ["000150", "000047"],
        "GOPR0374_11_10": ["9", "10", "100"],
        "GOPR0374_11_9": ["000001"],
    },
    "test": {"GOPR0384_11_00": ["000001", "000002"]},
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_source(root, splits=("train", "test")):
    """`SEQUENCES` in the layout of GOPRO_Large. Every file holds its origin as text, none is an image."""
    for split in splits:
        for sequence, frames in SEQUENCES[split].items():
            for frame in frames:
                for kind in ("blur", "blur_gamma", "sharp"):
                    write(root / split / sequence / kind / f"{frame}.png", f"{split} {sequence} {kind} {frame}")
            write(root / split / sequence / "frames 0 offset 1.txt", "not an image")
    return root


def snapshot(root):
    """Content, inode-independent times and kinds of everything below `root`."""
    return {
        p.relative_to(root).as_posix(): (p.is_dir(), None if p.is_dir() else p.read_bytes(), p.stat().st_mtime_ns)
        for p in root.rglob("*")
    }


def texts(folder):
    return {p.name: p.read_text() for p in folder.iterdir()}


def touch(root, *names):
    """Empty files: the names are all that is looked at."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def realblur(root, scenes=3, frames=4):
    """Files and list as RealBlur has them; the list lies beside the folder it speaks of."""
    names = [
        (f"RealBlur-J/scene{s:03d}/gt/gt_{i}.png", f"RealBlur-J/scene{s:03d}/blur/blur_{i}.png")
        for s in range(1, scenes + 1)
        for i in range(1, frames + 1)
    ]
    touch(root, *(name for pair in names for name in pair))
    return write_list(root, "\n".join(" ".join(pair) for pair in names))


def write_list(root, text, name="list.txt"):
    (root / name).write_bytes(text.encode())
    return root / name


def named_pairs(*names, folder="train/blur"):
    return [Pair(name, Path(folder) / f"{name}.png", Path("train/sharp") / f"{name}.png") for name in names]


def error_of(call, *args, **options):
    """The text of the UserError that a call must raise, one line."""
    with pytest.raises(UserError) as e:
        call(*args, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def write_photos(folder, *names, size=(40, 48)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / name)
    return folder


def overwrite(path, seed=9, size=(40, 48)):
    """Save noise; `size` is (height, width)."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def assert_equal_pixels(packed_pairs, pairs):
    assert [p.name for p in packed_pairs] == [p.name for p in pairs]
    for one, other in zip(packed_pairs, pairs, strict=True):
        for got, expected in zip(one.read(), other.read(), strict=True):
            np.testing.assert_array_equal(got, expected)
