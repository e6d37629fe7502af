"""The guide to diffusion training is true: its commands parse, its links lead somewhere, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from recipe_modules import read_settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if "::test_" in line]
PITFALLS = [f"4.{number}" for number in range(1, 20)]
PAINS = [f"pain {number}" for number in range(1, 16)]


def test_every_pitfall_and_every_pain_has_one_row_in_order() -> None:
    assert (len(PITFALLS), len(PAINS)) == (19, 15)
    assert [row[0] for row in ROWS] == PITFALLS + PAINS
    assert {len(row) for row in ROWS} == {4}
    assert all(row[1] and row[2] for row in ROWS)


def test_every_test_that_pins_one_exists() -> None:
    named = [re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[3]) for row in ROWS]
    assert len(named) == 34
    assert all(named)
    assert sum(map(len, named)) == sum(row[3].count("::") for row in ROWS) >= 60
    files = sorted({file for tests in named for file, _ in tests})
    assert len(files) >= 15
    known = {
        (file, node.name)
        for file in files
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert [test for tests in named for test in tests if test not in known] == []


def test_a_test_that_is_named_after_one_is_in_its_row() -> None:
    rows = {row[0]: row[3] for row in ROWS}
    found = 0
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"^def (test_pitfall_4_\d+_\w+|test_pain_\d+_\w+)\(", text, flags=re.MULTILINE):
            key = re.sub(r"^test_pitfall_4_(\d+)_.*", r"4.\1", name)
            key = re.sub(r"^test_pain_(\d+)_.*", r"pain \1", key)
            assert key in rows, f"{file.name}::{name}"
            found += 1
    assert found >= 25


def test_every_recipe_command_parses() -> None:
    launches = [line.split() for line in COMMANDS if line.startswith("accelerate launch")]
    assert len(launches) == 10
    names = []
    for words in launches:
        place = next(index for index, word in enumerate(words) if re.fullmatch(r"recipes/\w+\.py", word))
        files = [word for word in words[:place] if word.startswith("recipes/")]
        assert all((ROOT / file).is_file() for file in files)
        names.append(read_settings(words[place], words[place + 1 :]).run.name)
    assert {"first", "told", "summer", "text", "two", "sd15-skyscript"} <= set(names)


def test_every_file_and_link_that_is_named_exists() -> None:
    links = [target for target in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in target]
    files = set(re.findall(r"(?<!tests/)\b(?:recipes|benchmarks)/[\w./]+\.(?:py|yaml|sbatch)\b", PAGE))
    configs = set(re.findall(r"`(\w+\.yaml)`", PAGE))
    assert (len(links), len(files)) >= (2, 5)
    assert [target for target in links if not (ROOT / "docs" / target).is_file()] == []
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []
    folders = (ROOT / "recipes" / "launch", ROOT / "recipes" / "configs" / "finetune_diffusion")
    shipped = {path.name for folder in folders for path in folder.glob("*.yaml")} | {"config.yaml"}
    assert len(configs) >= 10
    assert configs <= shipped
