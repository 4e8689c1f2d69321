"""Weights in PyTorch's files, `.pkl`, `.pth` and `.pt`, for `convert.py`. The functions import PyTorch when called."""

import pickletools
import re
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.files import write_whole
from src.formats.weights import TORCH_SUFFIXES


def import_torch() -> Any:
    """The module `torch`, or a UserError with the command that installs it."""
    try:
        import torch
    except ImportError as e:
        raise UserError(
            f"PyTorch files ({', '.join(TORCH_SUFFIXES)}) need PyTorch, which is not installed: "
            "bash scripts/setup.sh --torch"
        ) from e
    return torch


def read_torch(path: Path) -> Any:
    """The content of a PyTorch file, on the CPU. Nothing in the file is run: only tensors and plain containers are
    accepted (`weights_only`).

    Raises:
        UserError: PyTorch is missing, or the file is damaged, not PyTorch's or contains more than tensors.
    """
    torch = import_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript, which the error covers
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged pickles raise anything: KeyError, EOFError, RuntimeError, UnicodeError, ...
        raise UserError(f"{path} {_why_refused(path, e)}") from e


def _why_refused(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    match = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted := match[1] if match else _first_global(path):
        return (
            f"was refused: it asks for {wanted}, code that a file of weights does not need. Nothing of it was run. "
            "Save the state dict alone where the file was made: torch.save(model.state_dict(), FILE)"
        )
    if "TorchScript" in text:
        return "is a TorchScript program, expected a state dict, as torch.save(model.state_dict(), ...) writes it"
    return (
        f"is damaged, cut off or not a PyTorch file ({path.stat().st_size} bytes; "
        f"{type(error).__name__}: {text.split('. ')[0][:100]})"
    )


def _first_global(path: Path) -> str | None:
    """The first class or function that a plain pickle asks for, found without running the pickle: PyTorch rejects newer
    protocols before it reaches the name."""
    texts: list[str] = []
    try:
        with open(path, "rb") as f:
            for code, argument, _ in pickletools.genops(f):
                if code.name in ("GLOBAL", "INST"):
                    return str(argument).replace(" ", ".")
                if code.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # it is no pickle; as above, anything may be raised
        return None
    return None


def torch_array(tensor: Any, name: str, path: Path) -> np.ndarray:
    """A tensor as a float32 array in C order.

    Raises:
        UserError: it has no dense floating-point numbers.
    """
    torch = import_torch()
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        kind = "no data" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise UserError(f"{path}: {name} has {kind}; expected dense floating-point numbers")
    return np.array(tensor.detach().to(torch.float32).numpy(), order="C")


def write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `{"model": state dict}`, as the paper's authors publish it and their scripts read it.

    Raises:
        UserError: PyTorch is missing, or as `write_whole`.
    """
    torch = import_torch()
    content = BytesIO()  # PyTorch's file writer does not report a full disk as an OSError
    torch.save({"model": {name: torch.tensor(a) for name, a in arrays.items()}}, content)
    write_whole(path, content.getbuffer())
