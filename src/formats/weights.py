"""Files of weights without MindSpore: finding them, `.safetensors`, and the description in a checkpoint.

`src.checkpoint` adds `.ckpt`, and reads and writes `.safetensors` through this module.
"""

import hashlib
import json
import os
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from src.config import MODEL_NAMES, ROOT, option_fields
from src.errors import UserError, first_few
from src.files import parse_json, write_whole

CHECKPOINT_SUFFIXES = (".ckpt", ".safetensors")
TORCH_SUFFIXES = (".pkl", ".pth", ".pt")
EXPORTED_SUFFIXES = (".mindir", ".onnx")
META = "meta"  # the name of the JSON text that describes a checkpoint, in both formats
CRC = "crc32"
SAMPLE_MODEL = ROOT / "weights_pretrained" / "MIMO-UNet_sample.ckpt"
# Checkpoints that people know by name from elsewhere, and how to come by them.
KNOWN_FILES = {
    "MIMO-UNet_pytorch_weights.ckpt": "It is made from the authors' MIMO-UNet.pkl, which weights_pretrained/README.md "
    "says where to download: python convert.py MIMO-UNet.pkl {path}",
    "MIMO-UNet_3000_1_fp16_o3_dls.ckpt": "It belongs to an earlier MindSpore port (research/cv/MIMO-UNet of "
    "gitee.com/mindspore/models): copy it here if you have it from there, or train in the same way: "
    "python train.py --config_path configs/ascend_config.yaml",
}


def sample_model(option: str) -> tuple[Path, str]:
    """The weights to use where `option` names none: (file, remark for the first line).

    Raises:
        UserError: they are not there.
    """
    if SAMPLE_MODEL.is_file():
        return SAMPLE_MODEL, f" (the sample that comes with the repository; {option} FILE takes another)"
    raise UserError(
        f"{option}: a trained network is needed, e.g. runs/MIMO-UNet/best.ckpt from train.py, or the authors' weights; "
        "weights_pretrained/README.md tells how to get them"
    )


def sha256_of(path: Path) -> str:
    """Of a file's bytes, 64 hexadecimal digits. Read in parts: photographs have hundreds of megabytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def need_file(path: Path, kind: str) -> None:
    """Raise a UserError, with what lies beside it, if `path` is no file or an empty one. `kind`: 'checkpoint', ..."""
    if path.is_file():
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty: got 0 bytes, expected a {kind}")
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a {kind}. In it: {_weights_in(path) or 'no weights'}")
    hint = KNOWN_FILES.get(path.name, "").format(path=shlex.quote(str(path)))
    if not hint and (there := _weights_in(path.parent)):
        hint = f"In {path.parent}: {there}"
    raise UserError(f"no {kind} {path}. {hint}".rstrip())


def _weights_in(folder: Path) -> str:
    known = CHECKPOINT_SUFFIXES + TORCH_SUFFIXES + EXPORTED_SUFFIXES
    try:
        return first_few(sorted(p.name for p in folder.iterdir() if p.suffix in known and p.is_file()))
    except OSError:
        return ""


def is_torch_file(path: Path) -> bool:
    """Whether PyTorch wrote a file: by its suffix, or for `.ckpt`, which Lightning uses too, by its content."""
    return path.suffix in TORCH_SUFFIXES or (path.suffix == ".ckpt" and path.is_file() and zipfile.is_zipfile(path))


def refuse_torch(path: Path) -> None:
    """Raise a UserError with the command that converts a PyTorch file, if `path` is one."""
    if is_torch_file(path):
        target = path.with_suffix(".safetensors" if path.suffix == ".ckpt" else ".ckpt")
        raise UserError(f"{path} is a PyTorch file; once: python convert.py {shlex.join([str(path), str(target)])}")


def need_finite(arrays: Mapping[str, np.ndarray], path: Path | str) -> None:
    """Raise a UserError if weights hold NaN or infinity. The network's output need not show it: a ReLU may drop NaN."""
    for name, array in arrays.items():
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise UserError(
                f"{path}: {name} holds NaN or infinity ({bad} of {array.size} numbers), so the network is unusable. "
                "Take other weights, e.g. another checkpoint of the run."
            )


# ---- safetensors


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays and description; the format has no checksum, so one is added to the header's texts.

    Raises:
        UserError: no space or no permission; a file that was there before is untouched.
    """
    from safetensors.numpy import save

    text = json.dumps(meta)
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}  # it writes other orders wrongly
    write_whole(path, save(arrays, {META: text, CRC: _crc(arrays, text)}))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the description; {} as description if another program wrote the file.

    Raises:
        UserError: cut off, damaged, not such a file, with numbers of a type that numpy lacks, or as `parse_meta`.
    """
    from safetensors import SafetensorError, safe_open

    arrays = {}
    try:
        with safe_open(path, framework="np") as f:
            texts = f.metadata() or {}
            for name in f.keys():  # noqa: SIM118  (a safe_open is no dict)
                try:
                    arrays[name] = f.get_tensor(name)
                except (TypeError, AttributeError) as e:
                    kind = f.get_slice(name).get_dtype()
                    raise UserError(f"{path}: {name} is of type {kind}, expected float32 or float16") from e
    except SafetensorError as e:
        raise UserError(f"{path} is damaged, cut off or not a .safetensors file ({e}). Copy the file again.") from e
    text = texts.get(META, "")
    if CRC in texts and texts[CRC] != _crc(arrays, text):
        raise UserError(f"{path} is damaged (the checksum does not fit). Copy the file again.")
    return arrays, parse_meta(text, path)


LARGEST = 2**31 - 1  # steps are counted in 32 bits


def _is_whole(value: Any, low: int = 0) -> bool:
    return type(value) is int and low <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


COUNT = _is_whole, f"a whole number from 0 to {LARGEST}"
POSITIVE = lambda value: _is_whole(value, 1), f"a whole number from 1 to {LARGEST}"
TEXT = _is_text, "a text"
# What `--resume` and the others take from a description: name -> what is right there, in code and in words.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "variant": (lambda value: value is None or value in MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}"),
    "step": COUNT, "epoch": COUNT, "launch": COUNT, "pairs": COUNT, "batch": POSITIVE, "steps_per_epoch": POSITIVE,
    "run": TEXT, "pairs_sha256": TEXT,
    "best_psnr": (lambda value: value is None or (_is_number(value) and value == value), "a number"),
    "config": (lambda value: isinstance(value, dict), "an object"),
    "log_part": (
        lambda value: isinstance(value, dict) and all(map(_is_number, value.values())) and value.get("count", 1) >= 0,
        "an object of numbers",
    ),
}  # fmt: skip
OPTIONS = {int: (_is_number, "a number"), float: (_is_number, "a number"), str: TEXT,
           bool: (lambda value: isinstance(value, bool), "true or false")}  # fmt: skip


def parse_meta(text: Any, path: Path) -> dict[str, Any]:
    """The description of a checkpoint from its JSON text; {} for anything but an object, which another program may have
    left under that name.

    Raises:
        UserError: nested too deeply, or with something other than `FIELDS` and the options of a training expect.
    """
    try:
        meta = parse_json(text)
    except (TypeError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    except ValueError as e:
        raise UserError(f"{path}: its description cannot be read ({e}). {OTHER_FILE}") from e
    if not isinstance(meta, dict):
        return {}
    for name in FIELDS.keys() & meta.keys():
        is_right, words = FIELDS[name]
        if not is_right(meta[name]):
            _refuse(path, name, meta[name], words)
    options = meta.get("config", {})
    for f in option_fields("train"):
        is_right, words = OPTIONS[type(f.default)]
        if f.name in options and not is_right(options[f.name]):
            _refuse(path, f"config.{f.name}", options[f.name], words)
    return meta


OTHER_FILE = "The file is damaged or not of this program: take another checkpoint."


def _refuse(path: Path, name: str, value: Any, words: str) -> NoReturn:
    got = f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.50}"
    raise UserError(f"{path}: its description has {got} for {name}, expected {words}. {OTHER_FILE}")


def read_meta(path: Path) -> dict[str, Any]:
    """The description of a checkpoint alone, in milliseconds and without MindSpore; {} if there is none, or none that
    can be read. Neither arrays nor checksum are looked at, so the file may be damaged all the same."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, framework="np") as f:
                    return parse_meta((f.metadata() or {}).get(META), path)
            except SafetensorError:
                return {}
        with open(path, "rb") as f:
            return parse_meta(_ckpt_text(f, META), path)
    except (OSError, IndexError, UserError):  # the second: cut off
        return {}


def _ckpt_text(f: BinaryIO, wanted: str) -> bytes | None:
    """A text in a file of MindSpore's, which is a message of protocol buffers: entries (1 = name, 2 = (..., 3 =
    content)), then a checksum."""
    for _, size in _fields(f, os.fstat(f.fileno()).st_size):
        name = b""
        for number, part in _fields(f, f.tell() + size):
            if number == 1:
                name = f.read(part)
            if name != wanted.encode():
                break  # most of the file: not read
            if number == 2:
                return next((f.read(length) for number, length in _fields(f, f.tell() + part) if number == 3), None)
    return None


def _fields(f: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(number, length) of each field of a message up to `end`, `f` standing at the field's content."""
    while f.tell() < end:
        key = _varint(f)
        if key & 7 == 0:  # a number in place of content
            _varint(f)
        elif key & 7 == 2:
            length = _varint(f)
            start = f.tell()
            if start + length > end:
                return  # cut off
            yield key >> 3, length
            f.seek(start + length)
        else:
            return  # the checksum at the end, or no such message


def _varint(f: BinaryIO) -> int:
    value, shift = 0, 0
    while (byte := f.read(1)[0]) & 128 and shift < 64:
        value |= (byte & 127) << shift
        shift += 7
    return value | byte << shift


def _crc(arrays: Mapping[str, np.ndarray], text: str) -> str:
    crc = zlib.crc32(text.encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes(), crc)
    return f"{crc:08x}"
