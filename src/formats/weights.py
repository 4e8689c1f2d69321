"""Files of weights without MindSpore: finding them, `.safetensors`, and the description in a checkpoint.

`src.formats.ckpt` reads `.ckpt`, and `src.checkpoint` chooses between the two.
"""

import hashlib
import json
import mmap
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
# Checkpoints that are known by name from elsewhere, and how to get them.
KNOWN_FILES = {
    "MIMO-UNet_pytorch_weights.ckpt": "It is made from the authors' MIMO-UNet.pkl (weights_pretrained/README.md): "
    "python convert.py --download MIMO-UNet {path}",
    "MIMO-UNet_3000_1_fp16_o3_dls.ckpt": "It belongs to an earlier MindSpore port (research/cv/MIMO-UNet of "
    "gitee.com/mindspore/models): copy it here if you have it from there, or train in the same way: "
    "python train.py --config_path configs/ascend_config.yaml",
}


def sample_model(option: str) -> tuple[Path, str]:
    """The default for `option`: (file, remark for the first line of output).

    Raises:
        UserError: the file does not exist.
    """
    if SAMPLE_MODEL.is_file():
        return SAMPLE_MODEL, f" (the sample that comes with the repository; {option} FILE takes another)"
    raise UserError(
        f"{option}: a trained network is needed, e.g. runs/MIMO-UNet/best.ckpt from train.py, or the authors' weights; "
        "weights_pretrained/README.md explains how to get them"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Read in parts, since photos may have hundreds of megabytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def need_file(path: Path, kind: str) -> None:
    """Raise a UserError, with a list of the weights beside it, if `path` is missing, empty or a folder. `kind` is
    'checkpoint' or the like."""
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
    """Raise a UserError if weights contain NaN or infinity. The output need not show it, since a ReLU may drop NaN."""
    for name, array in arrays.items():
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise UserError(
                f"{path}: {name} holds NaN or infinity ({bad} of {array.size} numbers), so the network is unusable. "
                "Take other weights, e.g. another checkpoint of the run."
            )


# ---- safetensors


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays and description. The format has no checksum, so one is added to the texts in the header.

    Raises:
        UserError: as `write_whole`.
    """
    from safetensors.numpy import save

    text = json.dumps(meta)
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}  # `save` writes other orders wrongly
    write_whole(path, save(arrays, {META: text, CRC: _crc(arrays, text)}))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the description, which is {} if another program wrote the file.

    Raises:
        UserError: the file is damaged, cut off, of another format or of a number type that numpy lacks, or as
            `parse_meta`.
    """
    import ml_dtypes  # noqa: F401  (numpy learns bfloat16 from it)
    from safetensors import SafetensorError, safe_open

    arrays = {}
    try:
        with safe_open(path, framework="np") as f:
            texts = f.metadata() or {}
            for name in f.keys():  # noqa: SIM118  (safe_open is not a dict)
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


LARGEST = 2**31 - 1  # MindSpore counts steps in 32 bits


def _is_whole(value: Any, low: int = 0) -> bool:
    return type(value) is int and low <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)


Check = tuple[Callable[[Any], bool], str]
COUNT: Check = _is_whole, f"a whole number from 0 to {LARGEST}"
POSITIVE: Check = lambda value: _is_whole(value, 1), f"a whole number from 1 to {LARGEST}"
NUMBER: Check = _is_number, "a number"
TEXT: Check = lambda value: isinstance(value, str), "a text"
FLAG: Check = lambda value: isinstance(value, bool), "true or false"
# What `--resume` and other readers use of a description: name -> the check of its value, in code and in words.
FIELDS = dict.fromkeys(("step", "epoch", "launch", "pairs"), COUNT)
FIELDS |= dict.fromkeys(("batch", "steps_per_epoch"), POSITIVE) | dict.fromkeys(("run", "pairs_sha256"), TEXT)
FIELDS |= {
    "variant": (lambda value: value is None or value in MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}"),
    "best_psnr": (lambda value: value is None or (_is_number(value) and value == value), "a number"),
    "config": (lambda value: isinstance(value, dict), "an object"),
    "log_part": (
        lambda value: isinstance(value, dict) and all(map(_is_number, value.values())) and value.get("count", 1) >= 0,
        "an object of numbers",
    ),
}
OPTIONS = {int: NUMBER, float: NUMBER, str: TEXT, bool: FLAG}


def parse_meta(text: Any, path: Path) -> dict[str, Any]:
    """The description of a checkpoint from its JSON text; {} for anything except an object, which another program may
    have stored under that name.

    Raises:
        UserError: the text is nested too deeply, or a value fails the check for its name in `FIELDS` or its option.
    """
    try:
        meta = parse_json(text)
    except (TypeError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    except ValueError as e:
        raise UserError(f"{path}: its description cannot be read ({e}). {OTHER_FILE}") from e
    if not isinstance(meta, dict):
        return {}
    checks = [(name, meta[name], FIELDS[name]) for name in FIELDS.keys() & meta.keys()]
    if isinstance(options := meta.get("config"), dict):
        fields = [f for f in option_fields("train") if f.name in options]
        checks += [(f"config.{f.name}", options[f.name], OPTIONS[type(f.default)]) for f in fields]
    for name, value, (is_valid, words) in checks:
        if not is_valid(value):
            got = f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.50}"
            raise UserError(f"{path}: its description has {got} for {name}, expected {words}. {OTHER_FILE}")
    return meta


OTHER_FILE = "The file is damaged or from another program: take another checkpoint."


def read_meta(path: Path) -> dict[str, Any]:
    """Only the description of a checkpoint, in milliseconds and without MindSpore; {} if none can be read.
    Neither arrays nor checksum are read, so the file may still be damaged."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, framework="np") as f:
                    return parse_meta((f.metadata() or {}).get(META), path)
            except SafetensorError:
                return {}
        return parse_meta(_ckpt_meta(path), path)
    except (OSError, ValueError, UserError):  # ValueError: empty
        return {}


# A .ckpt file is a protocol-buffer message with the entries (1 = name, 2 = (1 = dimension, 2 = type, 3 = content)).
# `src.checkpoint.save_checkpoint` adds `meta` as the last one, so a search from the end finds it at once.
META_MARK = b"\n\x04meta\x12"
META_ENTRY = re.compile(rb"\n\x04meta\x12%b(?:\x08%b)*\x12\x03str\x1a(%b)" % ((rb"[\x80-\xff]*[\0-\x7f]",) * 3))


def _ckpt_meta(path: Path) -> bytes | None:
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        entry = META_ENTRY.match(content, max(content.rfind(META_MARK), 0))
        if not entry:
            return None
        length = sum((byte & 127) << 7 * i for i, byte in enumerate(entry[1]))  # a varint
        return content[entry.end() : entry.end() + length]


def _crc(arrays: Mapping[str, np.ndarray], text: str) -> str:
    crc = zlib.crc32(text.encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes(), crc)
    return f"{crc:08x}"
