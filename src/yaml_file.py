"""YAML files of settings: one flat mapping whose values are taken as they are written.

YAML 1.1 would read 010 as 8, 1:30 as 90 and 2020-01-02 as a date.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from src.command_line import shown
from src.errors import UserError

BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LARGEST = 2**20  # bytes; settings take a few hundred


class Setting(NamedTuple):
    key: str
    """'' for anything but a single value, which `shown_key` describes."""
    shown_key: str
    line: int
    node: yaml.Node

    def value(self, where: str) -> bool | str | None:
        """None, a truth value, or the text of anything else.

        Raises:
            UserError: `where`, and what stands there in place of one value.
        """
        kind = self.node.tag.removeprefix("tag:yaml.org,2002:")
        if not isinstance(self.node, yaml.ScalarNode) or kind not in (
            "null",
            "bool",
            "str",
            "int",
            "float",
            "timestamp",
        ):
            raise UserError(f"{where}: got {_describe(self.node)}, expected one value")
        if kind in ("null", "bool"):
            return None if kind == "null" else BOOLS[self.node.value.lower()]
        return self.node.value


def read_settings(path: Path | str) -> list[Setting]:
    """The settings of a file in order; aliases are not expanded.

    Raises:
        OSError: the file cannot be read.
        UserError: it is too large, or not a mapping in UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"{path}: larger than {LARGEST} bytes, not a YAML file of settings")
        root = yaml.compose(content.decode("utf-8"), yaml.SafeLoader)
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not a YAML file in UTF-8 ({e}). Save it as UTF-8 text.") from e
    except RecursionError as e:
        raise UserError(f"{path}: not a YAML file of settings (too many nested brackets)") from e
    except (yaml.YAMLError, ValueError) as e:
        raise UserError(f"{path}: not a YAML file ({' '.join(str(e).split())})") from e
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: got {_describe(root)}, expected lines of 'key: value'")
    return [
        Setting(key.value if isinstance(key, yaml.ScalarNode) else "", _describe(key), key.start_mark.line + 1, node)
        for key, node in (root.value if root else ())
    ]


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{shown(node.value)}{f' with the tag {node.tag}' if node.tag.startswith('!') else ''}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys and values"
