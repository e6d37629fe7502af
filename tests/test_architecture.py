"""The house keeps its plan: imports run one way, files stay short, dependencies are declared, nothing dangerous is called."""

from __future__ import annotations

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from recipe_modules import load_recipe
from source_tree import OWN, ROOT, calls_of, imports_of, requirements, sources, tree_of, where

from skygen import config

LAYERS = (
    {
        "errors",
        "seeding",
        "config_file",
        "config",
        "plain_json",
        "storage",
        "environment",
        "memory",
        "signals",
        "checkpoints",
        "runs",
    },
    {"data"},
    {"models"},
    {"training", "generation", "evaluation"},
    {"miniature"},
    {"studio"},
    {"advisories"},
    {"diagnosis"},
    {"commands"},
    {"cli", "skygen"},
    {"recipes", "demo", "benchmarks"},
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
LONGEST_FILE = 320
LONGEST_FUNCTION = 60
NEEDED_BY_A_DEPENDENCY = {
    "torch-fidelity": "torchmetrics builds the Inception network of FID from it",
}

READ_AS_DATA = {"tzdata": "zone.tab in it says which country a time zone is in"}


def part_of(path: Path) -> str:
    """Return the part of the house that a file is in: ``data``, ``recipes``; ``skygen`` for the package's ``__init__``."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return rest[0] if first == "skygen" and rest != ["__init__"] else first


def test_imports_run_one_way() -> None:
    wrong, looked_at, followed = [], 0, 0
    for path in sources(*OWN):
        own = part_of(path)
        assert own in RANK, f"{path}: `{own}` is in no layer; give it one in LAYERS and in docs/architecture.md"
        looked_at += 1
        for name in imports_of(path):
            first, *rest = name.split(".")
            if first not in OWN:
                continue
            part = rest[0] if first == "skygen" and rest and rest[0] in RANK else first
            followed += 1
            if not (part == own or RANK[part] < RANK[own] or {part, own} <= LAYERS[0]):
                wrong.append(f"{path.relative_to(ROOT)} ({own}) imports {name}")
    assert wrong == []
    assert looked_at > 65
    assert followed > 200


def test_only_the_demo_imports_gradio() -> None:
    tops = {path: {name.split(".")[0] for name in imports_of(path)} for path in sources(*OWN)}
    assert {part_of(path) for path, names in tops.items() if "gradio" in names} == {"demo"}


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in sources("skygen", "recipes", "demo")}
    assert len(names) > 60
    assert names.isdisjoint({"utils", "util", "helpers", "common", "misc"})


def test_files_and_functions_stay_short() -> None:
    too_long, functions = [], 0
    for path in sources("skygen", "recipes", "demo"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    too_long.append(f"{where(path, node)}: {node.name} has {length} lines")
    assert too_long == []
    assert functions > 300


def test_the_package_prints_nothing() -> None:
    """Words for people go through the log; standard output belongs to what a command was asked for."""
    files = [path for path in sources("skygen") if path.name != "cli.py"]
    assert len(files) > 55
    assert [where(path, call) for path in files for call, name in calls_of(path) if name == "print"] == []


def declared(extra: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements()[extra]} - {"skygen"}


def imported_distributions(*folders: str) -> set[str]:
    known = metadata.packages_distributions()
    top_names = {name.split(".")[0] for path in sources(*folders) for name in imports_of(path)}
    foreign = top_names - sys.stdlib_module_names - set(OWN)
    return {canonicalize_name(known[name][0]) for name in foreign}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    core = declared("")
    imported = imported_distributions("skygen", "recipes")
    assert len(imported) > 12
    assert imported <= core | declared("geo")
    assert core - imported == set(NEEDED_BY_A_DEPENDENCY)
    assert declared("geo") - imported == set(READ_AS_DATA)
    assert imported_distributions("demo") <= core | declared("demo")


def test_every_bound_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    bounds = [line for line in table.splitlines() if ">=" in line]
    assert len(bounds) > 22
    assert [line for line in bounds if "# " not in line] == []


CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*/*.yaml"))


def test_there_are_shipped_configs_for_the_recipes() -> None:
    assert len(CONFIGS) >= 15


@pytest.mark.parametrize("path", CONFIGS, ids=[f"{path.parent.name}/{path.stem}" for path in CONFIGS])
def test_a_shipped_config_fits_its_recipe(path: Path) -> None:
    settings = config.parse(load_recipe(path.parent.name).Config, [str(path)])
    assert config.to_tree(settings)["run"]["name"]
