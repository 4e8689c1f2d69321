"""The words of a finding."""

from pathlib import Path

import pytest

from src.verify.findings import ERRORS, WARNINGS, Finding, count_of, finding, size_of


def test_a_finding_is_one_line():
    assert str(Finding("equal", "error", "set/train: it is so")) == "error [equal] set/train: it is so"


@pytest.mark.parametrize("kind", ERRORS | WARNINGS)
def test_every_text_names_its_place_and_is_one_line(kind):
    words = dict.fromkeys(("few", "reason", "expected", "which", "blur", "sharp", "got", "numbers", "source"), "some")
    found = finding(kind, Path("set/train"), [Path("a.png")], n="2 pairs", **words | {"got": 7, "expected": 8})
    assert found.severity in ("error", "warning") and found.files == ("a.png",)
    assert found.message.startswith("set/train: ") and "\n" not in found.message
    assert found.message.count("{") == found.message.count("}") and "{few}" not in found.message


def test_counts_sizes_and_the_first_five():
    assert (count_of([1], "pair"), count_of([], "pair"), count_of("ab", "image")) == ("1 pair", "0 pairs", "2 images")
    assert size_of((1280, 720)) == "1280x720"
    found = finding("stray", Path("set"), [Path(f"set/a/{i}") for i in range(6)], "image")
    assert "6 images not in the manifest: a/0, a/1, a/2, a/3, a/4, ... (6 in all)." in found.message
