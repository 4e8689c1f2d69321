"""What is seen of a dataset: its pairs by their names, and the files of a pair."""

from pathlib import Path

import numpy as np
from PIL import Image

from src.data.gopro import read_manifest
from src.verify.walk import Item, items_of, look_at, scan


def save(path: Path, level, size=(8, 4)):
    """An image of one level; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size[::-1], 3), level, np.uint8)).save(path)
    return path


def test_sequences_are_known_from_folder_manifest_or_file_name(sample_trees, tmp_path):
    of_source = items_of(scan(sample_trees / "GOPRO_Large", arranged=False)[0])
    rows = read_manifest(sample_trees / "dataset/manifest.csv")
    of_dataset = items_of(scan(sample_trees / "dataset", arranged=True)[0], rows)
    assert [item.sequence for item in of_source] == [item.sequence for item in of_dataset]
    assert (of_source[0].label, of_dataset[0].label) == ("SAMPLE_train_astronaut_05_00/000001", "1")
    for kind in ("blur", "sharp"):
        for name in ("GOPR0384_11_00-000001", "GOPR0384_11_000001", "other"):
            save(tmp_path / "test" / kind / f"{name}.png", 0)
    named = {item.label: item.sequence for item in items_of(scan(tmp_path, arranged=True)[0])}
    assert named == {"GOPR0384_11_00-000001": "GOPR0384_11_00", "GOPR0384_11_000001": "", "other": ""}


def test_a_look_at_a_pair(tmp_path):
    blur, sharp = (save(tmp_path / f"{kind}.png", level) for kind, level in (("blur", 60), ("sharp", 50)))
    item = Item(tmp_path, "", "1", blur, sharp, gamma=blur)
    look = look_at(item)
    assert (look.sizes, look.mse, look.copies_gamma) == (((8, 4), (8, 4)), 100, True)
    assert [thumb.tolist() for thumb in look.thumbs] == [[60] * 144, [50] * 144]
    assert look.digest == look_at(Item(tmp_path, "", "2", sharp, sharp)).digest
    assert look.digest != look_at(Item(tmp_path, "", "3", sharp, blur)).digest
    other = look_at(Item(tmp_path, "", "4", blur, save(tmp_path / "small.png", 50, (4, 4))))
    assert (other.sizes, other.mse, other.thumbs) == (((8, 4), (4, 4)), None, ())
    broken = look_at(Item(tmp_path, "", "5", blur, tmp_path / "missing.png"))
    assert [path.name for path, _ in broken.unreadable] == ["missing.png"] and not broken.sizes
