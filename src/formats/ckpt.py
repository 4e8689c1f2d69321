"""Reading MindSpore's `.ckpt` files without MindSpore, which takes seconds to import.

A file is a protocol-buffer message of entries (1 = name, 2 = (1 = dimension, 2 = type, 3 = content)). A large array
takes several entries in a row, and a text is stored as a NumPy string. A file with a checksum ends with b"crc_num" and
the CRC-32 of everything before it as ten bytes.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BITS = (8, 16, 32, 64)
TYPES = {f"{kind}Int{bits}": np.dtype(f"{kind}int{bits}".lower()) for kind in ("", "U") for bits in BITS}
TYPES |= {f"Float{bits}": np.dtype(f"float{bits}") for bits in BITS[1:]}
TYPES |= {"Bool": np.dtype(bool), "BFloat16": np.dtype(ml_dtypes.bfloat16)}
CHECKSUM = b"crc_num"


def read_ckpt(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, texts) by name.

    Raises:
        ValueError: the checksum does not fit, or the file is cut off or of another format.
    """
    content = memoryview(path.read_bytes())
    end = len(content) - len(CHECKSUM) - 10
    if content[end:-10] == CHECKSUM:
        if zlib.crc32(content[:end]) != int.from_bytes(content[-10:], "big"):
            raise ValueError("the checksum does not fit")
        content = content[:end]
    described: dict[str, tuple[list[int], str]] = {}
    data: dict[str, list[memoryview]] = {}
    try:
        for _, entry in _fields(content):
            parts = dict(_fields(entry))
            name, tensor = str(parts[1], "utf-8"), list(_fields(parts[2]))
            sides, (kind, *_), contents = ([value for n, value in tensor if n == number] for number in (1, 2, 3))
            described[name] = sides, str(kind, "utf-8")
            data.setdefault(name, []).extend(contents)
        texts = {name: b"".join(data[name]).decode("utf-32") for name, (_, kind) in described.items() if kind == "str"}
        arrays = {name: _array(*described[name], data[name]) for name in described if name not in texts}
    except (IndexError, KeyError, TypeError) as e:
        raise ValueError("another format") from e
    return arrays, texts


def _array(sides: list[int], kind: str, data: list[memoryview]) -> np.ndarray:
    flat = np.frombuffer(bytearray().join(data), TYPES[kind])  # a copy, because the file's bytes are not aligned
    return flat.reshape(() if sides == [0] and flat.size else sides)  # [0] stands for a single number


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message; kind 0 is an integer, kind 2 a text, bytes or message."""
    at = 0
    while at < len(message):
        key, at = _integer(message, at)
        value: Any
        value, at = _integer(message, at)
        if key & 7 == 2:
            start, at = at, at + value
            if at > len(message):
                raise ValueError("cut off")
            value = message[start:at]
        elif key & 7:
            raise ValueError(f"a field of kind {key & 7}")
        yield key >> 3, value


def _integer(message: memoryview, at: int) -> tuple[int, int]:
    """The integer at a place, seven bits a byte, and the place after it."""
    value = shift = 0
    while message[at] > 127 and shift < 63:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
