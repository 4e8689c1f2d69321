"""Command lines: `ArgumentParser`, and the readers of its values, which YAML settings share."""

import argparse
import math
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from src import __version__
from src.errors import UserError, nearest

COUNT = 10**6  # largest value of a number that declares no other: far above any use, far below an overflow
# Words that people type for an option with a rather different name.
SYNONYMS = {
    "--ckpt": "--ckpt_file",
    "--lr": "--learning_rate",
    "--batch_size": "--train_batch_size",
    "--epochs": "--epochs_num",
    "--format": "--export_file_format",
}
WEIGHTS_OPTIONS = ("--ckpt_file", "--model", "--pretrained")
"""The option that names a network to run or export, and the other names that scripts accept for it."""


def shown(value: Any) -> str:
    """A value for an error message: quoted, on one line, shortened in the middle."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def whole_number(text: str) -> int:
    """An option's value in plain digits: 010 might mean 8, and 1e3 is a fraction elsewhere.

    Raises:
        argparse.ArgumentTypeError: names the value and what was expected.
    """
    if not re.fullmatch(r"[+-]?(0|[1-9][0-9]{,99})", text):
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected a whole number in digits, without leading zeros")
    return int(text)


def number(text: str) -> float:
    """An option's finite value, e.g. 0.5 or 1e-4. Raises like `whole_number`."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) or math.isinf(float(text)):
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected a number")
    return float(text)


def usable_text(text: str) -> str:
    """An option's text, unchanged. Most texts are paths, so one that cannot name a file raises like `whole_number`."""
    try:
        longest = max(len(os.fsencode(part)) for part in text.split("/"))
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected text of whole characters") from None
    if not text.strip():
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected some text (is a shell variable unset?)")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected text without the character NUL")
    if longest > 255 or len(text) > 4000:
        raise argparse.ArgumentTypeError(
            f"got {shown(text)}, a name of {longest} bytes in a path of {len(text)}; expected at most 255 in 4000"
        )
    return text


def out_of_range(name: str, value: Any, low: float, high: float) -> list[str]:
    """The problem with a number as a list of zero or one lines. Values of other types have no range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or low <= value <= high:
        return []
    return [f"--{name}: got {shown(value)}, expected {low} to {high}"]


class ArgumentParser(argparse.ArgumentParser):
    """argparse without abbreviations and empty values, with `--version`, `--debug` and errors on one line.

    Args:
        retired: name of an option of earlier versions -> advice.
    """

    def __init__(self, description: str, retired: Mapping[str, str] | None = None, **kwargs: Any):
        self.ranges: dict[str, tuple[float, float]] = {}
        self.groups: dict[str, Any] = {}
        self.retired = retired or {}
        super().__init__(description=description, allow_abbrev=False, **kwargs)
        for kind, reader in ((None, usable_text), (int, whole_number), (float, number)):
            self.register("type", kind, reader)
        self.add_argument("--version", action="version", version=f"MIMO-UNet for MindSpore {__version__}")
        self.add_argument("--debug", action="store_true", help="traceback of an error")

    def add_argument(
        self, *names: str, group: str = "", low: float = 0, high: float = COUNT, **kwargs: Any
    ) -> argparse.Action:
        """Like argparse; `group` is a title in `--help`, and `low` and `high` bound the value of a number."""
        if not group:
            action = super().add_argument(*names, **kwargs)
        else:
            if group not in self.groups:
                self.groups[group] = self.add_argument_group(group)
            action = self.groups[group].add_argument(*names, **kwargs)
        self.ranges[action.dest] = low, high
        return action

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (--help lists the options)")

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = next((u for u in unknown if u.startswith("-")), unknown[0]).split("=")[0]
            known = [s for action in self._actions for s in action.option_strings]
            meant = SYNONYMS.get(word)
            hint = f" Did you mean {meant}?" if meant in known else nearest(word, known)
            if advice := self.retired.get(word.removeprefix("--")):
                hint = f" Earlier versions had it: {advice}."
            raise UserError(f"unknown option {word}.{hint} (--help lists the options)")
        problems = [out_of_range(name, getattr(parsed, name, None), *limits) for name, limits in self.ranges.items()]
        if any(problems):
            raise UserError("; ".join(line for problem in problems for line in problem))
        return parsed
