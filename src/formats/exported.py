"""What the exported files, `.onnx` and `.mindir`, have in common: a checksum at the end, and a description of their
input.

Both are protocol-buffer messages whose last field, number 14, holds texts. Appending continues a message, so the
checksum of all bytes before it is appended as one more text: crc32 = eight hexadecimal digits.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from src.config import MODEL_NAMES
from src.errors import UserError
from src.formats.weights import CRC

SEAL = b"r\x11\n\x05" + CRC.encode() + b"\x12\x08"
DIGITS = 8


def sealed(content: bytes) -> bytes:
    """The content of an ONNX or MINDIR file with a checksum at its end."""
    return content + _seal_of(content)


def _seal_of(content: bytes | memoryview) -> bytes:
    return SEAL + f"{zlib.crc32(content):08x}".encode()


class Description(NamedTuple):
    """An exported network as its file describes it."""

    metadata: Mapping[str, str]
    shapes: Sequence[Sequence[int]]
    """Of the inputs, -1 for free sides."""
    names: Sequence[str]
    """Of the inputs."""


class ExportedShape(NamedTuple):
    """What an exported network takes: `fixed_batch`, `fixed_size` and `multiple` of `src.engine.Engine`."""

    batch: int
    size: tuple[int, int] | None
    multiple: int


def damaged(path: Path, size: int, kind: str) -> UserError:
    """The error for a file of `size` bytes that is not of the format `kind`."""
    return UserError(
        f"{path} is damaged, cut off or not {'an' if kind == 'ONNX' else 'a'} {kind} file ({size} bytes). "
        f"Export it again: python export.py --export_file_format {kind} --ckpt_file F"
    )


def check_seal(path: Path, content: bytes, metadata: Mapping[str, str]) -> None:
    """Verify the checksum of a file. A file without one, from another program or an earlier version, passes.

    Raises:
        UserError: the checksum does not fit, or is not at the end, where `sealed` puts it.
    """
    end = len(content) - len(SEAL) - DIGITS
    if CRC in metadata and content[end:] != _seal_of(memoryview(content)[:end]):  # nothing is copied
        raise UserError(
            f"{path} is damaged, or was changed after export.py wrote it (the checksum does not fit). Copy the file "
            f"again, export it again, or remove {CRC} from its metadata if the change is intended."
        )


def check_export(path: Path | str, description: Description, model_name: str) -> ExportedShape:
    """What an exported network takes. A file without a multiple is older than the variants with another one than 4.

    Raises:
        UserError: `export.py` did not write the file, or it holds another variant than `model_name` ('' = any).
    """
    metadata, shapes, names = description
    shape = list(shapes[0]) if len(shapes) == 1 else []
    if "variant" not in metadata or len(shape) != 4 or shape[1] != 3:
        inputs = (
            f"{n} ({', '.join('any' if side < 0 else str(side) for side in s)})"
            for n, s in zip(names, shapes, strict=True)
        )
        raise UserError(
            f"{path} holds another network: its input is {', '.join(inputs)[:200] or 'no input'}, expected "
            "(N, 3, H, W) and the name of a variant, as export.py writes them"
        )
    variant, multiple = metadata["variant"], metadata.get("multiple", "4")
    if variant not in MODEL_NAMES:
        raise UserError(f"{path} holds {variant[:50]!r}, expected one of {', '.join(MODEL_NAMES)}")
    if model_name not in ("", variant):
        raise UserError(f"{path} holds {variant}, expected {model_name}. Add --model_name {variant}")
    if not re.fullmatch(r"[1-9]\d?", multiple):
        raise UserError(f"{path} is damaged: its multiple is {multiple[:20]!r}, expected a number. Export it again.")
    size = (shape[2], shape[3]) if shape[2] > 0 and shape[3] > 0 else None
    return ExportedShape(max(0, shape[0]), size, int(multiple))
