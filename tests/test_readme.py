"""The README is true: its tree is the tree, and what it tells to type exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from recipe_modules import read_settings

from skygen import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
SHELL = "\n".join(text for language, text in BLOCKS if language == "sh").replace("\\\n", " ")
PYTHON = [text for language, text in BLOCKS if language == "python"]


def tree_entries() -> list[str]:
    """Return the paths that the README's tree names, folders with a slash at the end."""
    (tree,) = (text for _, text in BLOCKS if "├── " in text)
    entries: list[str] = []
    parents: list[str] = []
    for line in tree.splitlines()[1:]:
        match = re.match(r"((?:│   |    )*)[├└]── (\S+)", line)
        assert match, f"not a line of a tree: {line}"
        depth, name = len(match[1]) // 4, match[2]
        parents[depth:] = [name]
        entries.append("".join(parents))
    return entries


def test_the_tree_is_the_tree_on_disk() -> None:
    entries = tree_entries()
    assert len(entries) > 30
    assert [entry for entry in entries if not (ROOT / entry).exists()] == []
    assert [entry for entry in entries if entry.endswith("/") != (ROOT / entry).is_dir()] == []


def test_the_tree_leaves_out_no_part_and_no_recipe() -> None:
    entries = set(tree_entries())
    parts = {f"skygen/{path.name}" for path in (ROOT / "skygen").glob("*.py")}
    parts |= {f"skygen/{path.parent.name}/" for path in (ROOT / "skygen").glob("*/__init__.py")}
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").glob("*.*")}
    assert (len(parts), len(recipes)) >= (14, 9)
    assert (parts | recipes) - entries == set()


def test_every_line_of_the_tree_says_what_it_is_for() -> None:
    (tree,) = (text for _, text in BLOCKS if "├── " in text)
    silent = [line.split()[-1] for line in tree.splitlines()[1:] if re.fullmatch(r"[│├└─ ]*\S+", line)]
    assert silent == ["README.md", "skygen/", "recipes/", "docs/"]


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", SHELL)) | set(re.findall(r"`make ([a-z]+)`", README))
    assert named >= {"run", "test", "demo"}
    assert named <= targets


def test_every_recipe_and_config_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:recipes|demo|docs)/[\w./-]+\.\w+", SHELL.replace("$configs", "recipes/configs")))
    assert len(named) >= 13
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_subcommand_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = set(re.findall(r"[a-z]+", capsys.readouterr().out.partition("{")[2].partition("}")[0]))
    named = set(re.findall(r"^skygen ([a-z]+)", SHELL, flags=re.MULTILINE)) | set(re.findall(r"`skygen ([a-z]+)", README))
    line = next(line for line in README.splitlines() if "cli.py" in line)
    assert known == set(re.findall(r"[a-z]+", line.partition("skygen ")[2]))
    assert named >= {"doctor", "report"}
    assert named <= known


def launches() -> list[list[str]]:
    """Return the words after each recipe in the shell blocks, the recipe first."""
    commands = (line.split() for line in SHELL.replace("$configs", "recipes/configs").splitlines())
    found = []
    for words in commands:
        places = [place for place, word in enumerate(words) if re.fullmatch(r"recipes/\w+\.py", word)]
        found += [words[place:] for place in places]
    return found


def test_every_flag_that_is_named_is_a_setting_of_its_recipe() -> None:
    commands = launches()
    assert len(commands) >= 8
    for recipe, *words in commands:
        settings = read_settings(recipe, words)
        assert settings.run.name, recipe


def test_the_python_snippets_import_what_there_is() -> None:
    assert len(PYTHON) == 1
    names = 0
    for snippet in PYTHON:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
                    names += 1
    assert names >= 7


def test_every_link_within_the_project_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = [path for path in (ROOT / "skygen").rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 55
    assert [path.name for path in modules if f"── {path.name} " not in page] == []
    named = set(re.findall(r"── (\w+\.py) ", page))
    assert named == {path.name for path in modules}
