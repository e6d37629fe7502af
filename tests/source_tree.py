"""The project's own source, as tests look through it: its files, imports and calls, and the requirements that it declares."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
OWN = ("skygen", "recipes", "demo", "benchmarks")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree; what stands under ``if TYPE_CHECKING:`` is never run, and so imports nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from without_type_checking(node)


def imports_of(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports when it is loaded or run."""
    names: set[str] = set()
    for node in without_type_checking(tree_of(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the module's full name"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def calls_of(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Yield each call with the name it is called by, such as ``torch.load``."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def requirements() -> dict[str, list[Requirement]]:
    """Return the requirements of pyproject.toml by extra; the core's under an empty name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in lists.items()}
