"""Settings: a frozen dataclass, read from a YAML file and the command line by one parser, and written back to YAML.

What the file says is checked against the dataclass, with the line it stands in, and turned into flags in front of the user's
own, so that both have one grammar and one precedence: the later value wins.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
import yaml

from skygen.config_file import Setting, compose, plain, settings_of
from skygen.errors import ConfigError
from skygen.storage import LONGEST_NAME, can_be_named

Config = TypeVar("Config")

LONGEST_TEXT = 4096
"""Of one setting in characters; also what Linux takes as a path."""
MOST_DIGITS = 30
"""Of a number; one of more need not fit into a float."""
LARGEST = 2**63 - 1
"""Number of a setting."""
TEXTS = ("where", "template", "templates", "prompt", "prompts", "prefix")
"""Keys whose value is a text; any other text may be looked for as a file."""


class Bounds(NamedTuple):
    """Which numbers make sense for a setting: noted on its type, and checked when settings are parsed.

    Args:
        least: the smallest.
        most: the largest.
        below: what it must not reach, in the place of ``most``.
    """

    least: float
    most: float = math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        """Tell whether a number is within; NaN never is."""
        return self.least <= value <= self.most and (value < self.below or self.below == math.inf)

    def describe(self) -> str:
        """Say it in words."""
        if self.below < math.inf:
            return f"{self.least:g} or more, and below {self.below:g}"
        return f"{self.least:g} or more" if self.most == math.inf else f"from {self.least:g} to {self.most:g}"


CountFromZero = Annotated[int, Bounds(0)]
CountFromOne = Annotated[int, Bounds(1)]
Magnitude = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
Decay = Annotated[float, Bounds(0, below=1)]
WorkersOrHalf = Annotated[int, Bounds(-1)]
"""Processes beside this one; -1 takes half of the processors."""


def parse(schema: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Build ``schema`` from ``[CONFIG.yaml] [--section.key value ...]``; a later value wins.

    Args:
        schema: a frozen dataclass whose fields are sections, themselves frozen dataclasses.
        argv: the words after the program's name; ``sys.argv[1:]`` when left out.

    Raises:
        ConfigError: the YAML file cannot be read or has a wrong key or value; or a number, a text or a path makes no sense.
        SystemExit: with code 2, after tyro has said which flag is wrong and which one was probably meant.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _check_words(words)
    if words and not words[0].startswith("-"):
        words[:1] = _read_flags(Path(words[0]), schema)
        _check_words(words)
    settings = tyro.cli(schema, args=words, config=(tyro.conf.FlagConversionOff,), use_underscores=True)
    _check_values(settings)
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: with the path, and the line where there is one.
    """
    node = compose(path)
    return {} if node is None else plain(node)


def _check_words(words: Sequence[str]) -> None:
    """Refuse what would spoil the very error that it makes, or the record of a run.

    Raises:
        ConfigError: a word has control characters, bytes that are not UTF-8, too many characters, or too many digits.
    """
    flag = "the command line"
    for word in words:
        name, _, value = word.partition("=") if word.startswith("--") else ("", "", word)
        flag = name[:60].encode("unicode_escape").decode() or flag
        if len(word) > LONGEST_TEXT:
            raise ConfigError(f"{flag}: {len(word):,} characters; give {LONGEST_TEXT:,} at most.")
        for character in set(word) - set("\n\t"):
            if unicodedata.category(character) in ("Cc", "Cs"):
                what = "the control character" if unicodedata.category(character) == "Cc" else "what is not UTF-8, from"
                raise ConfigError(f"{flag}: {value[:60]!r} holds {what} {ord(character):#04x}; take it out.")
        if len(digits := value.strip(" +-")) > MOST_DIGITS and digits.isdecimal():
            raise ConfigError(f"{flag}: a number of {len(digits):,} digits; give one that can be counted with.")


def _read_flags(path: Path, schema: type) -> Iterator[str]:
    """Yield what a config file says as flags, in its order.

    Raises:
        ConfigError: with path, line and key: there is no such setting, or the value is of another kind.
    """
    kinds = dict(list_settings(schema))
    for setting in settings_of(node) if (node := compose(path)) else ():
        name, value, place = setting.name.replace("-", "_"), setting.value, f"{path}:{setting.line}: {setting.name[:80]}"
        if value is None:
            raise ConfigError(f"{place}: null is not a value; leave the key out to keep the default.")
        if name not in kinds:
            raise ConfigError(f"{path}:{setting.line}: {_explain_unknown(setting, kinds)}")
        if not _fits(kinds[name], value):
            shown = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:60]
            raise ConfigError(f"{place} is {shown}; it must be {_describe(kinds[name])}.")
        if isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        else:
            yield f"--{name}={value}"


def list_settings(schema: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a schema with its type.

    Args:
        schema: a dataclass of settings and sections.
        above: what stands before each name.

    Returns:
        Names such as ``train.learning_rate``, and types as they are annotated.
    """
    for key, kind in get_type_hints(schema, include_extras=True).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from list_settings(kind, f"{above}{key}.")
        else:
            yield f"{above}{key}", kind


def _explain_unknown(setting: Setting, kinds: Mapping[str, Any]) -> str:
    name = setting.name.replace("-", "_")
    shown, key = repr(setting.name[:80])[1:-1], name.rpartition(".")[2]
    if inside := [known for known in kinds if known.startswith(f"{name}.")]:
        first = inside[0].rpartition(".")[2]
        return f"there is no setting {shown}; it is a section, whose settings stand below it, such as {first}."
    elsewhere = [known for known in kinds if known.rpartition(".")[2] == key]
    near = elsewhere[:3] or get_close_matches(name[:80], kinds, 1, 0.75)
    hint = f"did you mean {' or '.join(near)}?" if near else "leave it out; --help lists what there is."
    return f"there is no setting {shown}; {hint}"


def _fits(kind: Any, value: Any) -> bool:
    """Tell whether a value of a YAML file is of a setting's type, or a text that can be read as such."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(inside[0], value)
    if origin in (Union, types.UnionType):
        return any(_fits(each, value) for each in inside if each is not type(None))
    if origin is tuple:
        # A word that begins like a flag would be taken for one.
        items = value if isinstance(value, list) else [value]
        return all(_fits(inside[0], item) and not str(item).startswith("--") for item in items)
    if isinstance(value, dict | list) or value is None:
        return False
    if origin is Literal:
        return str(value) in map(str, inside)
    if kind is bool:
        return str(value) in ("True", "False")
    if kind in (int, float):
        try:
            return -LARGEST <= kind(str(value)) <= LARGEST
        except ValueError:
            return False
    return True


def _describe(kind: Any) -> str:
    """Say what a setting's value must be."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _describe(inside[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(each) for each in inside if each is not type(None))
    if origin is tuple:
        return f"a list, each of it {_describe(inside[0])}"
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    return {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}.get(kind, "a text")


def _check_values(settings: Any, above: str = "") -> None:
    """Refuse numbers, texts and paths that can mean nothing, before anything is loaded.

    Raises:
        ConfigError: with the key.
    """
    for key, kind in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, key)
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{above}{key}.")
            continue
        bounds = [each for part in (kind, *get_args(kind)) for each in get_args(part) if isinstance(each, Bounds)]
        for item in value if isinstance(value, tuple) else (value,):
            if problem := _find_problem(key, item, bounds):
                raise ConfigError(f"--{above}{key} {problem}.")


def _find_problem(key: str, value: Any, bounds: Sequence[Bounds]) -> str | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        if not -LARGEST <= value <= LARGEST:  # NaN and infinity are not within either
            return f"is {str(value)[:30]}; it must be a number that can be counted with"
        wrong = [each for each in bounds if not each.hold(value)]
        return f"is {value}; it must be {wrong[0].describe()}" if wrong else None
    text = str(value)
    if key not in TEXTS and not can_be_named(text):
        return f"is {text[:60]!r}… of {len(text):,} characters; no name of a file has more than {LONGEST_NAME} bytes"
    return None


def to_tree(config: Any) -> dict[str, Any]:
    """Turn a config into plain values that JSON and YAML can hold; a None is left out, so that the default returns."""
    return {
        field.name: _plain(value)
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) is not None and value != ()
    }


def complete(tree: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Fill in the settings that a tree does not name with their defaults, as ``to_tree`` has them.

    Args:
        tree: such as the record of a run that an earlier version has begun, without the settings that came later.
        config: of the same schema, whose values do not matter.
    """
    whole: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, factory = getattr(config, field.name), field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if dataclasses.is_dataclass(value):
            whole[field.name] = complete(tree.get(field.name) or {}, value)
        elif field.name in tree:
            whole[field.name] = tree[field.name]
        elif default not in (dataclasses.MISSING, None, ()):
            whole[field.name] = _plain(default)
    return whole


def dump(config: Any) -> str:
    """Write a config as YAML that ``parse`` reads back to an equal config."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_tree(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
