"""Configs and flags damaged in every way: a sentence that names the key or the line, code 2, and nothing is run or loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import numpy as np
import pytest
from faults.amounts import amount
from faults.figures import Figures
from recipe_modules import RECIPES, load_recipe

from skygen import config
from skygen.runs import launch
from skygen.seeding import Seeds

pytestmark = pytest.mark.slow

CONFIGS = sorted(RECIPES.glob("configs/*/*.yaml"))
NAMES = sorted(path.stem for path in RECIPES.rglob("*.py") if "run: RunSettings" in path.read_text(encoding="utf-8"))
CANARY = "CANARY"
"""Stands in hostile values for a file that only code that ran would make."""
VALUES = (
    "",
    "null",
    "~",
    ".nan",
    "nan",
    ".inf",
    "1e309",
    "-1e309",
    "-7",
    "0",
    "9" * 400,
    "-" + "9" * 400,
    "12:30",
    "0x7",
    "1_0",
    "[]",
    "[1, [2, 3]]",
    "{}",
    "{a: 1}",
    "{a: {b: {c: 1}}}",
    "true",
    "2024-01-01",
    "x" * 5000,
    "长" * 300,
    "'wächst 😀 \u202eback'",
    '"\\0"',
    '"\\e[31mred"',
    '"\\ud800"',
    '"\\x07bell"',
    "'never closed",
    '"\\q"',
    "|\n  several\n  lines",
    "[--run.seed=3]",
    "--run.seed=3",
    "- dashed",
    "@at",
    "%percent",
    "`tick`",
    "*nowhere",
    "&self [*self]",
    f"!!python/object/apply:os.mkdir ['{CANARY}']",
    f"!!python/object/new:os.mkdir ['{CANARY}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!int '7'",
    "!local x",
    "! x",
    "<<",
    "? x",
    ": :",
    "a: b",
    "[" * 3000,
    "{a: " * 500,
)
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


class Damaged(NamedTuple):
    """What a mutation has made.

    Args:
        content: of the file.
        key: the setting that it was done to, or None where the whole file suffers.
    """

    content: bytes
    key: str | None = None


def settings_in(text: str) -> list[tuple[int, str]]:
    """List the lines of a config that set something, each with its key."""
    found = [(number, re.match(r"^\s+([a-z_0-9]+):", line)) for number, line in enumerate(text.splitlines())]
    return [(number, match[1]) for number, match in found if match]


def pick(draw: np.random.Generator, things: Sequence[Any]) -> Any:
    return things[int(draw.integers(len(things)))]


def replace_value(text: str, draw: np.random.Generator) -> Damaged:
    lines = text.splitlines()
    number, key = pick(draw, settings_in(text))
    lines[number] = f"{lines[number].split(':')[0]}: {pick(draw, VALUES)}"
    return Damaged("\n".join(lines).encode(errors="surrogatepass"), key)


def damage_key(text: str, draw: np.random.Generator) -> Damaged:
    """Misspell, remove or repeat a key, or move it below another section, or put one there that is no word."""
    lines = text.splitlines()
    number, key = pick(draw, settings_in(text))
    line, cut = lines[number], int(draw.integers(1, len(key)))
    rest = line.split(":", 1)[1]
    kinds: tuple[list[str], ...] = (
        [line.replace(key, key[:cut] + key[cut + 1 :], 1)],
        [line.replace(key, key[:cut] + "é" + key[cut:], 1)],
        [line.replace(key, key.upper(), 1)],
        [],
        [line, line],
        [f"elsewhere_{cut}:", line],
        [f"{key}:{rest}"],
        ["\t" + line.strip()],
        [line, f"   {key}:{rest}"],
        *(
            [line, other]
            for other in ("  1: 2", "  true: 1", "  null: 1", "  ? [a, b]\n  : c", "  ? {a: b}\n  : c", "  '': 1", "  : 1")
        ),
        [line, f"  {'k' * 3000}: 1"],
        [line, '  "\\0\\e[31m": 1'],
    )
    lines[number : number + 1] = pick(draw, kinds)
    return Damaged("\n".join(lines).encode())


def damage_bytes(text: str, draw: np.random.Generator) -> Damaged:
    """Damage the file without regard to what it says."""
    content = text.encode()
    place = int(draw.integers(len(content)))
    noise = bytes(draw.integers(0, 256, 40, dtype=np.uint8))
    kinds = (
        content[:place],
        content[:place] + noise + content[place:],
        content[:place] + b"\0" + content[place:],
        content[:place] + b"\xff\xfe\xc3" + content[place:],
        content[:place] + bytes([content[place] ^ 1 << int(draw.integers(8))]) + content[place + 1 :],
        content[:place] + content[place + int(draw.integers(1, 30)) :],
        content.replace(b"  ", b"\t", 1 + place % 5),
        content.replace(b"\n", b"\r\n"),
        content.replace(b":", b"", 1 + place % 7),
        b"\xef\xbb\xbf" + content,
        text.encode("utf-16"),
        noise * 20,
        b"",
        b"[1, 2]\n",
        content + b"\n---\n" + content,
        content + b"\n" + content,
        (LAUGHS if place % 2 else MERGES).encode(),
        b"run: " + b"[" * 100_000,
        b"run:\n" + b"".join(b" " * depth + b"a:\n" for depth in range(2, 300)),
        content + b"\n" + b"#" * 400_000,
        f"!!python/object/apply:os.mkdir ['{CANARY}']".encode(),
    )
    return Damaged(pick(draw, kinds))


MUTATIONS: tuple[Callable[[str, np.random.Generator], Damaged], ...] = (replace_value, replace_value, damage_key, damage_bytes)


class Ended(NamedTuple):
    """How a recipe that does nothing has ended: whether it was reached, its exit code, and what it said."""

    reached: bool
    code: int
    said: str


def start(recipe: str, argv: list[str], capsys: pytest.CaptureFixture[str]) -> Ended:
    got: list[Any] = []
    code = 0
    try:
        launch(got.append, load_recipe(recipe).Config, argv)
    except SystemExit as end:
        code = int(end.code or 0)
    spoken = capsys.readouterr()
    assert spoken.out == "", argv
    return Ended(bool(got), code, spoken.err)


def check_refusal(ended: Ended, what: object, *named: str) -> None:
    """Check that something was refused by a sentence that names the file or a flag, and what else is given."""
    assert (ended.reached, ended.code) == (False, 2), (what, ended)
    assert "Traceback" not in ended.said, (what, ended.said)
    assert "\x1b" not in ended.said, (what, ended.said)
    if ended.said.startswith("skygen: "):
        assert ended.said.count("\n") == 1, (what, ended.said)
        assert len(ended.said) < 700, (what, ended.said)
        assert re.search(r"\.yaml(:\d+)?: |--?[a-z_]+|[a-z]+\.[a-z_]+", ended.said), (what, ended.said)
    else:
        assert re.search(r"--?[a-z_]+|Unrecognized options: ", ended.said), (what, ended.said)
    for name in named:
        assert name in ended.said, (what, ended.said)


def test_a_damaged_config_is_refused_by_key_or_line_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(CONFIGS) >= 30
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "damaged.yaml"
    refused = read = 0
    for trial in range(amount(150, 1000)):
        draw = Seeds(5).numpy("config", trial)
        source = CONFIGS[trial % len(CONFIGS)]
        damaged = MUTATIONS[trial % len(MUTATIONS)](source.read_text(encoding="utf-8"), draw)
        path.write_bytes(damaged.content)
        ended = start(source.parent.name, [str(path)], capsys)
        if ended.reached:
            read += 1
            continue
        refused += 1
        what = (source.stem, trial, damaged.content[-300:])
        check_refusal(ended, what)
        if damaged.key is not None:
            assert damaged.key in ended.said or re.search(r"damaged\.yaml:\d+: ", ended.said), (what, ended.said)
    assert not (tmp_path / CANARY).exists()
    assert list(tmp_path.iterdir()) == [path]
    figures("damaged configs", tried=refused + read, refused=refused, read=read, tracebacks=0, code_executed=0)
    assert refused > 3 * read


def damage_flags(words: list[str], draw: np.random.Generator) -> tuple[list[str], bool]:
    """Damage one flag of a command line; say whether it must then be refused."""
    place = int(draw.integers(len(words)))
    name, _, value = words[place].partition("=")
    cut = int(draw.integers(3, len(name)))
    kinds = (
        ([f"{name[:cut]}{name[cut + 1 :]}q={value}"], True),
        ([name.replace("--", "-", 1) + "=" + value], True),
        ([f"--no-{name[2:]}"], True),
        ([name.replace(".", "..")], True),
        ([words[place], words[place]], False),
        ([words[place], name], "," not in value),
        ([words[place], "stray"], True),
        ([words[place], "--"], False),
        ([words[place], ""], True),
        ([f"{name}=\x1b[31m\0"], True),
        ([f"{name}=\udcff\udcfe"], True),
        ([f"{name}={'9' * 3000}"], True),
        ([f"{name}={'x' * 6000}"], True),
        ([words[place], "--run.name"], True),
        ([words[place], "--run.seed=1e309"], True),
        ([words[place], "--run.seed=nan"], True),
        ([words[place], "--run.nmae=a"], True),
        ([words[place], "@file"], True),
        ([words[place], "--run={}"], True),
    )
    changed, wrong = pick(draw, kinds)
    return [*words[:place], *changed, *words[place + 1 :]], wrong


def test_damaged_flags_are_refused_by_name(capsys: pytest.CaptureFixture[str], figures: Figures) -> None:
    flags = {path: list(read_flags(path)) for path in CONFIGS}
    refused = read = 0
    for trial in range(amount(100, 1000)):
        draw = Seeds(6).numpy("flags", trial)
        source = CONFIGS[trial % len(CONFIGS)]
        words, wrong = damage_flags(flags[source], draw)
        ended = start(source.parent.name, words, capsys)
        if wrong:
            check_refusal(ended, words)
        refused, read = refused + (not ended.reached), read + ended.reached
    figures("damaged flags", tried=refused + read, refused=refused, read=read, tracebacks=0)
    assert refused > 3 * read > 0


def read_flags(path: Path) -> list[str]:
    """Write the plain settings of a shipped config as flags."""
    tree = config.read_yaml(path)
    sections = [(name, section) for name, section in tree.items() if isinstance(section, dict)]
    return [
        f"--{name}.{key}={value}" for name, section in sections for key, value in section.items() if not isinstance(value, list)
    ]


def required(recipe: str) -> list[str]:
    """Name what a recipe cannot do without."""
    known = dict(config.list_settings(load_recipe(recipe).Config))
    return [
        f"--{name}=x" for name in ("pairs.root", "samples.root", "real.root", "synthetic.root", "model.name") if name in known
    ]


BAD_NAMES = ("", " ", ".", "..", "../../x", "a/../../x", "/tmp/x", "a\nb", "a\0b", "a\x1b[31m", "\u2028", "n" * 300, "n" * 5000)


@pytest.mark.parametrize("recipe", NAMES)
def test_a_run_cannot_be_called_so_that_it_lies_elsewhere(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(NAMES) == 13
    for name in BAD_NAMES:
        ended = start(recipe, [f"--run.name={name}", *required(recipe)], capsys)
        check_refusal(ended, (recipe, name), "--run.name")
    assert start(recipe, ["--run.name=first try-2.1_ü", *required(recipe)], capsys).reached


WRONG = {int: ("-7", "1.5", "nan", "9" * 25), float: ("nan", "inf", "-1e309", "x")}
NEGATIVE_MAKES_SENSE = {"run.seed"}


def number_of(kind: Any) -> type | None:
    """Return whether a setting is a whole number or any, through what its type is wrapped in."""
    if kind in (int, float):
        return kind
    inside = [number_of(each) for each in get_args(kind)[: 1 if get_origin(kind) is Annotated else None]]
    return next((each for each in inside if each), None)


@pytest.mark.parametrize("recipe", NAMES)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_loaded(
    recipe: str, capsys: pytest.CaptureFixture[str], figures: Figures
) -> None:
    numbers = [(name, kind) for name, each in config.list_settings(load_recipe(recipe).Config) if (kind := number_of(each))]
    assert len(numbers) > 4
    cases = [(name, wrong) for name, kind in numbers for wrong in WRONG[kind]]
    cases = [case for case in cases if case[0] not in NEGATIVE_MAKES_SENSE or case[1] != "-7"]
    order = Seeds(7).numpy(recipe).permutation(len(cases))[: amount(12, len(cases))]
    for place in order:
        name, wrong = cases[place]
        ended = start(recipe, ["--run.name=a", *required(recipe), f"--{name}={wrong}"], capsys)
        check_refusal(ended, (recipe, name, wrong), name.rpartition(".")[2])
    figures("senseless numbers", tried=len(order), refused=len(order))
