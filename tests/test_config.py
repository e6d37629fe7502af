"""One grammar for the file and the command line: later values win, and nothing misspelt passes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from skygen import config
from skygen.errors import ConfigError


@dataclass(frozen=True)
class Train:
    learning_rate: float = 1e-4
    max_train_steps: int = 1000
    mixed_precision: Literal["no", "bf16"] = "bf16"
    random_dihedral: bool = True


@dataclass(frozen=True)
class Model:
    name: str = "miniature"
    adapter: Path | None = None


@dataclass(frozen=True)
class Settings:
    name: str
    prompts: tuple[str, ...] = ()
    train: Train = field(default_factory=Train)
    model: Model = field(default_factory=Model)


def write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "name: base\ntrain:\n  learning_rate: 1e-3\n  max_train_steps: 5\n")
    settings = config.parse(Settings, [path, "--train.max_train_steps", "9", "--train.max_train_steps", "7"])
    assert settings == Settings(name="base", train=Train(learning_rate=1e-3, max_train_steps=7))


def test_both_spellings_of_a_flag_are_accepted_in_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ntrain:\n  learning-rate: 0.5\n")
    assert config.parse(Settings, [path, "--train.max-train-steps", "3"]).train == Train(0.5, 3)


@pytest.mark.parametrize("place", ["file", "command line"])
def test_a_misspelt_key_ends_with_2_and_suggests_the_right_one(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "name: a\n" + ("train:\n  learnig_rate: 0.5\n" if place == "file" else ""))
    with pytest.raises(SystemExit) as ended:
        config.parse(Settings, [path, *(["--train.learnig_rate", "0.5"] if place == "command line" else [])])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "learnig" in said
    assert "--train.learning" in said


@pytest.mark.parametrize("word", ["no", "bf16"])
def test_a_word_that_old_yaml_takes_for_a_truth_value_stays_a_word(word: str, tmp_path: Path) -> None:
    assert config.parse(Settings, [write(tmp_path, f"name: on\ntrain:\n  mixed_precision: {word}\n")]) == Settings(
        name="on",
        train=Train(mixed_precision=word),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "train:\n  learning_rate: null\n",
            "--train.learning_rate: null is not a value; leave the key out to keep the default.",
        ),
        ("train:\n", "--train: null is not a value"),
        ("- a\n", "holds a list; a config is a mapping of sections"),
        ("train: [1\n", "not valid YAML"),
        ("model: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(Settings, [write(tmp_path, text)])
    assert sentence in str(raised.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: the config file cannot be read"):
        config.parse(Settings, ["nowhere.yaml"])


def test_an_empty_file_is_no_settings(tmp_path: Path) -> None:
    assert config.parse(Settings, [write(tmp_path, ""), "--name", "a"]) == Settings(name="a")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(name="a"),
        Settings(
            name="no",
            prompts=("a, b: c", "wächst 中 'quoted'", "1e-3"),
            train=Train(1.5e-07, 3, "no", random_dihedral=False),
            model=Model("runs/x y", Path("runs/x/adapter")),
        ),
    ],
)
def test_what_is_written_is_read_back_equal(settings: Settings, tmp_path: Path) -> None:
    assert config.parse(Settings, [write(tmp_path, config.dump(settings))]) == settings
