"""Finding the network in the content of a PyTorch file: a state dict inside other dictionaries, with prefixed names, or
beside its moving average."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src.errors import UserError, first_few

# The prefix of a parameter's name, and the name's first word.
PARAMETER = re.compile(r"^((?:.+?\.)?)(?:Encoder|Decoder|feat_extract|Convs|ConvsOut|AFFs|FAM[12]|SCM[12])\.")
# Parts of a name that data-parallel, compiling and sharding wrappers add: in front, or in the middle around one layer.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module")
AVERAGE = re.compile(r"(?<![a-z])ema(?![a-z])", re.IGNORECASE)  # params_ema, model_ema, ema.
MAX_DEPTH = 4  # dictionaries within dictionaries


@dataclass(frozen=True)
class FoundNetwork:
    values: dict[str, Any]
    """Tensors or arrays under the network's own names."""
    taken: str
    """Which of the file's entries they are, in words; '' if there is no choice."""
    left_out: list[str]
    """All other names in the file, except those of the average or of the raw weights, which `taken` mentions."""


@dataclass(frozen=True)
class _Candidate:
    keys: tuple[str, ...]  # of the dictionaries around it
    prefix: str
    names: dict[str, str]  # the network's own name -> the name in the innermost dictionary
    around: list[Mapping]  # these dictionaries, the outermost first

    @property
    def is_average(self) -> bool:
        return bool(AVERAGE.search(".".join((*self.keys, self.prefix))))

    @property
    def wrappers(self) -> list[str]:
        """Those of `WRAPPERS` in the names."""
        parts = {part for name in self.names.values() for part in str(name).split(".")}
        return [wrapper for wrapper in WRAPPERS if wrapper in parts]

    @property
    def title(self) -> str:
        return ".".join((*self.keys, *([f"{self.prefix}*"] if self.prefix else ())))


def find_network(content: Any, path: object, weights: str = "ema") -> FoundNetwork:
    """The network in a file's content.

    Args:
        content: a dictionary with tensors, at any of `MAX_DEPTH` levels.
        path: for messages.
        weights: `ema` prefers a complete moving average, known by its key or prefix, `raw` the other one.

    Raises:
        UserError: `content` is not a dictionary, or contains no network or one parameter twice.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a state dict: names and tensors")
    candidates = list(_candidates(content, path))
    if not candidates:
        raise UserError(
            f"{path} holds no MIMO-UNet: expected names like Encoder.0.layers.0.main.0.main.0.weight, at the top or in "
            f"a dictionary called model, state_dict, params, ...; got {_describe(content)}"
        )
    most = max(len(c.names) for c in candidates)
    complete = [c for c in candidates if len(c.names) == most]
    # The optimizer's entries (moment1.Encoder. ...) look like a network, too, so the shortest title wins.
    ranked = sorted(complete, key=lambda c: (c.is_average != (weights == "ema"), len(c.title)))
    chosen = ranked[0]
    other = next((c for c in ranked if c.is_average != chosen.is_average), None)
    inner = chosen.around[-1]
    # Leaving out the raw weights beside their average is no loss.
    named = [chosen, other] if other and chosen.is_average else [chosen]
    used = {name for c in named if c.around[-1] is inner for name in c.names.values()}
    used |= {key for c in named for key in c.keys}
    left_out = [str(name) for name in inner if name not in used and _is_tensor(inner[name])]
    left_out += [str(key) for outer in chosen.around[:-1] for key in outer if key not in used]
    left_out += [str(name) for name in inner if name not in used and not _is_tensor(inner[name])]
    return FoundNetwork({own: inner[name] for own, name in chosen.names.items()}, _words(chosen, other), left_out)


def _words(chosen: _Candidate, other: _Candidate | None) -> str:
    words = chosen.title or ("the weights themselves" if other else "")
    if chosen.is_average:
        words = f"the moving average of the weights, {chosen.title}"
    if chosen.wrappers:
        words = f"{words or 'all names'}, without {', '.join(f'{name}.' for name in chosen.wrappers)}"
    if other:
        words += f" (--weights {'raw' if chosen.is_average else 'ema'} takes {other.title or 'the others'})"
    return words


def _candidates(content: Mapping, path: object) -> Iterator[_Candidate]:
    todo: list[tuple[tuple[str, ...], list[Mapping]]] = [((), [content])]
    while todo:
        keys, around = todo.pop(0)
        groups: dict[str, dict[str, str]] = {}
        for name, value in around[-1].items():
            if isinstance(value, Mapping):
                if len(keys) < MAX_DEPTH:
                    todo.append(((*keys, str(name)), [*around, value]))
                continue
            bare = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
            match = PARAMETER.match(bare) if _is_tensor(value) else None
            if not match:
                continue
            own = bare[match.end(1) :]
            group = groups.setdefault(match[1], {})
            if own in group:
                raise UserError(f"{path} holds {own} twice, as {group[own]} and as {name}")
            group[own] = name
        yield from (_Candidate(keys, prefix, names, around) for prefix, names in groups.items())


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _describe(content: Mapping) -> str:
    """The content of a dictionary, one level deep: names of tensors, types of everything else."""

    def words(key: Any, value: Any) -> str:
        if _is_tensor(value):
            return str(key)
        if isinstance(value, Mapping):
            return f"{key}: {{{first_few(value, 3)}}}"
        return f"{key}: {type(value).__name__}"

    return first_few(words(key, value) for key, value in content.items()) or "an empty dictionary"
