"""The manifest of an arranged dataset, manifest.csv: where every pair came from."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from src.errors import UserError
from src.files import unescaped, write_whole


@dataclass(frozen=True)
class ManifestRow:
    """One pair, one line of the manifest. All texts, so that a manifest read back compares equal."""

    split: str
    new_name: str
    """Number in the new folders, the name of the pair in `pairs.find_pairs`; the files keep their suffixes."""
    sequence: str
    frame: str
    """Name in the sequence's folders, without suffix."""
    blur: str
    """Path relative to root_src, with forward slashes."""
    sharp: str

    def target(self, kind: str) -> str:
        """Path of the new file relative to root_dst; `kind` is blur or sharp."""
        return f"{self.split}/{kind}/{self.new_name}{Path(getattr(self, kind)).suffix}"


HEADER = [f.name for f in fields(ManifestRow)]


def read_manifest(path: Path) -> list[ManifestRow]:
    """Rows of a manifest, [] when there is no such file.

    Raises:
        UserError: it is not one of ours.
    """
    try:
        header, *lines = csv.reader(io.StringIO(unescaped(path.read_text(encoding="utf-8")), newline=""))
        if header != HEADER:
            raise ValueError(header)
        return [ManifestRow(*line) for line in lines]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError, csv.Error) as e:  # of a header or a line with other columns, too
        raise UserError(f"{path}: not a manifest of this script. Choose another --root_dst.") from e


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """CSV with a header; appears whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(astuple(row) for row in rows)
    write_whole(path, text.getvalue())
