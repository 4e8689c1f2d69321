"""Faults in folders and names. Those of whole trees, one each, are in tests/test_verify_report.py."""

from pathlib import Path

from src.data.gopro import GOPRO_PAIRS, GOPRO_SEQUENCES
from src.verify.names import check_counts, check_partners, check_sequence_names
from src.verify.walk import Item, Place


def gopro_items(root=Path("GOPRO_Large")):
    """The 3214 pairs by name; no test opens them."""
    items = []
    for split, sequences in GOPRO_SEQUENCES.items():
        for i in range(GOPRO_PAIRS[split]):
            sequence = sorted(sequences)[i % len(sequences)]
            items.append(Item(root / split, sequence, f"{sequence}/{i}", Path("b"), Path("s")))
    return items


def test_counts_of_gopro_large():
    items = gopro_items()
    assert (len(items), len(GOPRO_SEQUENCES["train"]), len(GOPRO_SEQUENCES["test"])) == (3214, 22, 11)
    assert check_counts(items) == []
    (finding,) = check_counts(items[1:])
    assert finding.severity == "error"
    assert "GOPRO_Large/train: 2102 pairs, expected the 2103 of GOPRO_Large. Unpack" in finding.message
    (finding,) = check_counts([item for item in items if item.sequence != "GOPR0410_11_00"])
    assert "GOPRO_Large/test: 1010 pairs, expected the 1111 of GOPRO_Large; sequences missing: GOPR0410_11_00." in (
        finding.message
    )


def test_gopro_large_has_no_sequence_in_both_halves():
    items = gopro_items()
    assert check_sequence_names(items) == []
    moved = Item(Path("GOPRO_Large/test"), items[0].sequence, "moved", Path("b"), Path("s"))
    (finding,) = check_sequence_names([*items, moved])
    assert finding.files == (items[0].sequence,) and "1 sequence in train and in test" in finding.message


def test_a_partner_that_is_told_as_missing_is_not_told_twice():
    half = Path("set/train")
    place = Place(half, "", {"blur": {"1": half / "blur/1.png"}, "sharp": {}})
    (finding,) = check_partners([place])
    assert finding.files == ("set/train/blur/1.png",)
    assert check_partners([place], told=[half / "sharp/1.png"]) == []
