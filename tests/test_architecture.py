"""The house keeps its plan: imports run one way, files stay short, dependencies are declared, nothing dangerous is called."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skygen import config

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    {"errors", "seeding", "config", "storage", "checkpoints", "runs"},
    {"data"},
    {"models"},
    {"training", "generation", "evaluation"},
    {"miniature"},
    {"studio"},
    {"diagnosis"},
    {"commands"},
    {"cli", "skygen"},
    {"recipes", "demo", "benchmarks"},
)
OWN = ("skygen", "recipes", "demo", "benchmarks")
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
LONGEST_FILE = 320
LONGEST_FUNCTION = 60
NEEDED_BY_A_DEPENDENCY = {
    "torch-fidelity": "torchmetrics builds the Inception network of FID from it",
}

READ_AS_DATA = {"tzdata": "zone.tab in it says which country a time zone is in"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part_of(path: Path) -> str:
    """Return the part of the house that a file is in: ``data``, ``recipes``; ``skygen`` for the package's ``__init__``."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return rest[0] if first == "skygen" and rest != ["__init__"] else first


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


def test_nothing_runs_code_that_was_read() -> None:
    picklers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    wrong, loads = [], 0
    pickled: set[tuple[str, str]] = set()
    read_plainly: set[str] = set()
    for path in sources("skygen", "recipes", "demo"):
        names = imports_of(path) | {ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
        pickled |= {(path.name, name) for name in names if name.split(".")[0].strip("_") in picklers}
        read_plainly |= {path.name for name in names if name.startswith("skygen.data.metas.plain_pickles")}
        for call, name in calls_of(path):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name in {"pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "eval", "exec", "os.system"}:
                wrong.append(f"{where(path, call)}: {name}")
            if name == "torch.load":
                loads += 1
                if keywords.get("weights_only") != "True":
                    wrong.append(f"{where(path, call)}: torch.load without weights_only=True")
            if {"trust_remote_code", "custom_pipeline"} & keywords.keys() or keywords.get("shell") == "True":
                wrong.append(f"{where(path, call)}: {name}({', '.join(map(str, keywords))})")
    assert wrong == []
    assert loads == 1  # skygen.models.weights, the one reader of published files
    assert pickled == {("fabricate.py", "pickle"), ("fabricate.py", "pickle.dumps")}  # it writes; no Unpickler in any form
    assert read_plainly == {"meta.py"}  # the one reader of pickled metas, by an interpreter that calls nothing


def test_weights_are_asked_for_as_safetensors() -> None:
    """Left to themselves, diffusers and transformers fall back to pickles."""
    calls = [
        (where(path, call), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for path in sources("skygen", "recipes", "demo")
        for call, name in calls_of(path)
        if re.search(r"(For[A-Z]\w+|Pipeline)\.from_pretrained$", name)
    ]
    assert len(calls) > 7
    assert [place for place, keywords in calls if keywords.get("use_safetensors") != "True"] == []


def test_the_package_prints_nothing() -> None:
    """Words for people go through the log; standard output belongs to what a command was asked for."""
    files = [path for path in sources("skygen") if path.name != "cli.py"]
    assert len(files) > 55
    assert [where(path, call) for path in files for call, name in calls_of(path) if name == "print"] == []


def requirements() -> dict[str, list[Requirement]]:
    """Return the requirements of pyproject.toml by extra; the core's under an empty name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in lists.items()}


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


LEFT_OUT = {"pycocoevalcap", "bitsandbytes", "c2pa-python", "prodigyopt"}
"""Extras that `make install` leaves out: Java programs of 104 MB, a library for GPUs, signing of 55 MB, an optimizer."""


def test_what_is_installed_is_new_enough() -> None:
    """The floors close known holes; an old environment must not pass unseen."""
    checked = 0
    installed = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
    for requirement in (requirement for texts in requirements().values() for requirement in texts):
        if requirement.name in LEFT_OUT and requirement.name not in installed:
            continue
        if requirement.name != "skygen":
            version = metadata.version(requirement.name)
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version} is installed"
            checked += 1
    assert checked > 22


def test_every_bound_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    bounds = [line for line in table.splitlines() if ">=" in line]
    assert len(bounds) > 22
    assert [line for line in bounds if "# " not in line] == []


def test_constraints_pin_each_requirement_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 80
    assert [line for line in lines if "/" in line or "@" in line or line.count("==") != 1] == []
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    wanted = [requirement for texts in requirements().values() for requirement in texts if requirement.name != "skygen"]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@cache
def load_recipe(name: str) -> Any:
    path, *others = (ROOT / "recipes").rglob(f"{name}.py")
    assert others == []
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where tyro looks up the annotations of its dataclasses
    spec.loader.exec_module(module)
    return module


CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*/*.yaml"))


def test_there_are_shipped_configs_for_the_recipes() -> None:
    assert len(CONFIGS) >= 15


@pytest.mark.parametrize("path", CONFIGS, ids=[f"{path.parent.name}/{path.stem}" for path in CONFIGS])
def test_a_shipped_config_fits_its_recipe(path: Path) -> None:
    settings = config.parse(load_recipe(path.parent.name).Config, [str(path)])
    assert config.to_tree(settings)["run"]["name"]
