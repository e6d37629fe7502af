"""Recipes as modules, for tests that call what is in them or want their settings."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from skygen.config import parse

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"


def load_recipe(name: str) -> Any:
    """Import a recipe by the name of its file, wherever below ``recipes/`` that lies."""
    (path,) = RECIPES.rglob(f"{name}.py")
    return import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def read_settings(recipe: str, words: list[str]) -> Any:
    """Return the settings that a recipe reads from a command; its configs are named from the root of the repository."""
    return parse(
        load_recipe(Path(recipe).stem).Config, [str(ROOT / word) if word.endswith(".yaml") else word for word in words]
    )


def run_recipe(name: str, *words: str | Path) -> None:
    """Run a recipe in this process, as its command would."""
    module = load_recipe(name)
    module.main(parse(module.Config, list(map(str, words))))
