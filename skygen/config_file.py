"""YAML as a config needs it: sections of keys, each in a line that an error can name; nothing that runs or multiplies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from skygen.errors import ConfigError

LARGEST = 256 * 1024
"""Bytes; the parser takes a quarter of a minute for a megabyte."""
DEEPEST = 20
"""Levels; a config has three."""
_YAML = "tag:yaml.org,2002:"
_AS_OTHERS_MEAN_THEM = {"bool": r"true|True|TRUE|false|False|FALSE", "int": r"0|[-+]?[1-9][0-9]{0,30}"} | {
    "float": r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
}


class Setting(NamedTuple):
    """One value of a config file.

    Args:
        name: the keys above it and its own, joined by dots.
        value: plain; a list of such, or an empty mapping.
        line: where it stands, from 1.
    """

    name: str
    value: Any
    line: int


class _Loader(yaml.SafeLoader):
    """Refuses tags, anchors, merges and keys that are given twice, and reads words as they stand.

    In YAML 1.1 ``mixed_precision: no`` would be False, ``12:30`` 750 and ``010`` 8.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            _refuse(event, "anchors (&) and aliases (*) are not read; write the value out, or in quotes where it is a text")
        if getattr(event, "tag", None) is not None:
            _refuse(
                event, f"tags such as {event.tag[:60]} are not read; leave it out, or write a text that begins so in quotes"
            )
        self.depth += 1
        if self.depth > DEEPEST:
            _refuse(event, f"nested more than {DEEPEST} deep; a config is sections of keys")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == f"{_YAML}null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _AS_OTHERS_MEAN_THEM.items():
    _Loader.add_implicit_resolver(f"{_YAML}{_kind}", re.compile(f"^(?:{_pattern})$"), list("tTfF-+.0123456789"))


def compose(path: Path) -> yaml.MappingNode | None:
    """Read a YAML file as far as its nodes, which know their lines.

    Args:
        path: of the file.

    Returns:
        The mapping; None for an empty file.

    Raises:
        ConfigError: with the path, and the line where there is one.
    """
    text = _read_text(path)
    try:
        node = _Loader(text).get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}:{line}: holds the control character {int(error.character):#04x}; take it out.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "" if isinstance(error, ConstructorError) else "not valid YAML: "
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{path}{f':{mark.line + 1}' if mark else ''}: {what}{problem}.") from error
    if node is None or isinstance(node, yaml.MappingNode):
        return node
    if isinstance(node, yaml.ScalarNode) and plain(node) in (None, ""):
        return None
    kind = "list" if isinstance(node, yaml.SequenceNode) else "text"
    raise ConfigError(f"{path}: holds a {kind}; a config is a mapping of sections, such as `train:`.")


def plain(node: yaml.Node) -> Any:
    """Turn a node into texts, numbers, truth values, None, lists and dictionaries of these."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    kind = node.tag.removeprefix(_YAML)
    if kind == "null":
        return None
    if kind == "bool":
        return node.value.lower() == "true"
    if kind == "int":
        return int(node.value)
    return float(re.sub(r"\.(?=[iInN])", "", node.value)) if kind == "float" else str(node.value)


def settings_of(node: yaml.MappingNode, above: str = "") -> Iterator[Setting]:
    """Flatten a mapping into its settings, in the order of the file."""
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from settings_of(value, f"{above}{key.value}.")
        else:
            yield Setting(f"{above}{key.value}", plain(value), key.start_mark.line + 1)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)[:200]!s}: the config file cannot be read ({reason}); check the path.") from error
    if len(content) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST // 1024} kB, and so no config; check the path.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: holds bytes that are not UTF-8; save the file as UTF-8.") from error


def _refuse(place: Any, problem: str) -> None:
    raise ConstructorError(None, None, problem, place.start_mark)


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse keys that are no words, that merge, or that say again what an earlier line has said."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            _refuse(key, "a list or a mapping cannot be the name of a setting")
        if key.value == "<<":
            _refuse(key, "merge keys (<<) are not read; write the settings out")
        name, line = key.value.replace("-", "_"), key.start_mark.line + 1
        if name in lines:
            _refuse(key, f"{key.value[:60]!r} is set twice, in lines {lines[name]} and {line}; leave one out")
        lines[name] = line
