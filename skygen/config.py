"""Settings: a frozen dataclass, read from a YAML file and the command line by one parser, and written back to YAML.

The file is turned into flags that stand in front of the user's own, so that both have one grammar, one precedence (the later
value wins) and one style of error.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from skygen.errors import ConfigError

Config = TypeVar("Config")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's truth values alone: in YAML 1.1, ``mixed_precision: no`` would be False."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse(schema: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Build ``schema`` from ``[CONFIG.yaml] [--section.key value ...]``; a later value wins.

    Args:
        schema: a frozen dataclass whose fields are sections, themselves frozen dataclasses.
        argv: the words after the program's name; ``sys.argv[1:]`` when left out.

    Raises:
        ConfigError: the YAML file is missing, is not a mapping, or holds a null.
        SystemExit: with code 2, after tyro has said which flag is wrong and which one was probably meant.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words[:1] = flags(read_yaml(Path(words[0])))
    return tyro.cli(schema, args=words, config=(tyro.conf.FlagConversionOff,))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: with the path, and the line where YAML can tell it.
    """
    try:
        tree = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise ConfigError(f"{path}: the config file cannot be read ({error.strerror}); check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}; a config is a mapping of sections, such as `train:`.")
    return tree


def flags(tree: dict[str, Any], prefix: str = "--") -> Iterator[str]:
    """Flatten a YAML tree into command-line flags, in the order of the file.

    Raises:
        ConfigError: a value is null.
    """
    for key, value in tree.items():
        match value:
            case dict():
                yield from flags(value, f"{prefix}{key}.")
            case list():
                yield from (f"{prefix}{key}", *map(str, value))
            case None:
                raise ConfigError(f"{prefix}{key}: null is not a value; leave the key out to keep the default.")
            case _:
                yield f"{prefix}{key}={value}"


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
