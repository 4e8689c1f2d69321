"""The manifest: written whole, read back equal."""

import pytest

from src.data.manifest import HEADER, ManifestRow, read_manifest, write_manifest
from tests.data_trees import error_of

ROWS = [
    ManifestRow(
        "train", "1", 'GOPR0372 "day", 1', "000047", "train/G, 1/blur/000047.png", "train/G, 1/sharp/000047.jpg"
    ),
    ManifestRow("test", "1", "été", "1", "test/été/blur/1.png", "test/été/sharp/1.png"),
]


def test_rows_come_back_as_they_were_written(tmp_path):
    write_manifest(tmp_path / "manifest.csv", ROWS)
    assert read_manifest(tmp_path / "manifest.csv") == ROWS
    lines = (tmp_path / "manifest.csv").read_bytes().split(b"\n")
    assert lines[0].decode() == ",".join(HEADER) and len(lines) == 4 and b"\r" not in lines[1]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.csv"]


def test_new_files_keep_the_suffix_of_their_kind():
    assert (ROWS[0].target("blur"), ROWS[0].target("sharp")) == ("train/blur/1.png", "train/sharp/1.jpg")


def test_no_manifest_has_no_rows(tmp_path):
    (tmp_path / "file").touch()
    assert read_manifest(tmp_path / "manifest.csv") == read_manifest(tmp_path / "file" / "manifest.csv") == []


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\xff\xfe", ",".join(HEADER).encode() + b"\ntrain,1\n"])
def test_files_of_others_are_told(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    assert "manifest.csv: not a manifest of this script" in error_of(read_manifest, tmp_path / "manifest.csv")
