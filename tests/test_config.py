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


def test_a_misspelt_flag_ends_with_2_and_suggests_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        config.parse(Settings, ["--name", "a", "--train.learnig_rate", "0.5"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--train.learnig_rate" in said
    assert "--train.learning_rate" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:\n  learnig_rate: 0.5\n", ":2: there is no setting train.learnig_rate; did you mean train.learning_rate?"),
        ("model:\n  learning_rate: 0.5\n", ":2: there is no setting model.learning_rate; did you mean train.learning_rate?"),
        ("name: a\nzebra: 5\n", ":2: there is no setting zebra; leave it out; --help lists what there is."),
        ("train: 5\n", ":1: there is no setting train; it is a section, whose settings stand below it, such as learning_rate."),
        ("1: 5\n", ":1: there is no setting 1;"),
    ],
)
def test_a_wrong_key_of_a_file_is_named_with_its_line_and_the_nearest_known_one(
    text: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(Settings, [write(tmp_path, text)])
    assert sentence in str(raised.value)


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
            ":2: train.learning_rate: null is not a value; leave the key out to keep the default.",
        ),
        ("train:\n", ":1: train: null is not a value"),
        ("- a\n", "holds a list; a config is a mapping of sections"),
        ("only words\n", "holds a text; a config is a mapping of sections"),
        ("train: [1\n", ":2: not valid YAML"),
        ("train:\n\tlearning_rate: 1\n", ":2: not valid YAML: found character '\\t'"),
        ("name: a\n---\nname: b\n", ":2: not valid YAML"),
        (
            "model: !!python/object/apply:os.getcwd []\n",
            ":1: tags such as tag:yaml.org,2002:python/object/apply:os.getcwd are not",
        ),
        ("name: a\nmodel: &all {name: a}\n", ":2: anchors (&) and aliases (*) are not read"),
        ("train:\n  <<: {learning_rate: 1}\n", ":2: merge keys (<<) are not read"),
        ("name: a\ntrain: {}\nname: b\n", ":3: 'name' is set twice, in lines 1 and 3; leave one out."),
        ("train:\n  learning-rate: 1\n  learning_rate: 2\n", "is set twice, in lines 2 and 3"),
        ("[a, b]: c\n", ":1: a list or a mapping cannot be the name of a setting"),
        ("name: " + "[" * 10_000, ":1: nested more than 20 deep"),
        ("name: a\0b\n", ":1: holds the control character 0x00; take it out."),
        ("name: a\ntrain:\n  max_train_steps: many\n", ":3: train.max_train_steps is 'many'; it must be a whole number."),
        ("train: {max_train_steps: 1.5}\n", ":1: train.max_train_steps is 1.5; it must be a whole number."),
        ("train: {max_train_steps: 99999999999999999999}\n", "; it must be a whole number."),
        ("train: {learning_rate: .nan}\n", ":1: train.learning_rate is nan; it must be a number."),
        ("train: {learning_rate: [1, 2]}\n", ":1: train.learning_rate is a list; it must be a number."),
        ("train: {mixed_precision: fp8}\n", ":1: train.mixed_precision is 'fp8'; it must be one of no, bf16."),
        ("train: {random_dihedral: maybe}\n", ":1: train.random_dihedral is 'maybe'; it must be true or false."),
        ("prompts: [a, [b]]\n", ":1: prompts is a list; it must be a list, each of it a text."),
        ("prompts: [a, --name=b]\n", ":1: prompts is a list; it must be a list, each of it a text."),
    ],
)
def test_a_bad_file_is_refused_with_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(Settings, [write(tmp_path, text)])
    assert sentence in str(raised.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: the config file cannot be read"):
        config.parse(Settings, ["nowhere.yaml"])


def test_bytes_that_are_not_utf_8_are_named_with_their_line_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\ntrain:\n  max_train_steps: 3\n")
    assert config.parse(Settings, [str(path)]) == Settings(name="a", train=Train(max_train_steps=3))
    path.write_bytes(b"name: a\nmodel:\n  name: \xe9t\xe9\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:3: holds bytes that are not UTF-8; save the file as UTF-8\."):
        config.parse(Settings, [str(path)])


def test_a_file_too_large_for_a_config_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="larger than 256 kB, and so no config"):
        config.parse(Settings, [str(path)])


@pytest.mark.parametrize("text", ["12:30", "010", "1_000", "2020-01-01", "no", "on", "yes", "0x1F", "1e3", "true story", "~a"])
def test_a_text_stays_as_it_is_written(text: str, tmp_path: Path) -> None:
    assert config.parse(Settings, [write(tmp_path, f"name: {text}\n")]).name == text


@dataclass(frozen=True)
class Bounded:
    steps: config.CountFromOne = 1
    share: config.Share = 0.5
    decay: config.Decay | None = None
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sections:
    name: str = ""
    where: str = ""
    folder: Path | None = None
    train: Bounded = field(default_factory=Bounded)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train.steps", "0"], "--train.steps is 0; it must be 1 or more."),
        (["--train.share", "1.5"], "--train.share is 1.5; it must be from 0 to 1."),
        (["--train.share=-0.1"], "--train.share is -0.1; it must be from 0 to 1."),
        (["--train.share", "nan"], "--train.share is nan; it must be a number that can be counted with."),
        (["--train.decay", "1"], "--train.decay is 1.0; it must be 0 or more, and below 1."),
        (["--train.rates", "1", "1e309"], "--train.rates is inf; it must be a number that can be counted with."),
        (["--train.steps", "9" * 400], "--train.steps: a number of 400 digits; give one that can be counted with."),
        (["--train.steps", "9" * 20], "--train.steps is 99999999999999999999; it must be a number that can be counted with."),
        (["--name", "a" * 5000], "--name: 5,000 characters; give 4,096 at most."),
        (["--name=" + "a" * 5000], "--name: 5,007 characters; give 4,096 at most."),
        (["--name", "a/" + "b" * 300], "no name of a file has more than 255 bytes."),
        (["--name", "a\x1b[31m"], r"--name: 'a\x1b[31m' holds the control character 0x1b; take it out."),
        (["--a\x07", "b"], r"--a\x07: '' holds the control character 0x07; take it out."),
        (["--name", "a\udcff"], "holds what is not UTF-8, from 0xdcff; take it out."),
    ],
)
def test_a_value_that_can_mean_nothing_is_refused_by_its_flag(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(Sections, words)
    assert sentence in str(raised.value)


def test_what_stands_at_a_bound_and_long_texts_are_taken() -> None:
    words = ["--train.steps", "1", "--train.share", "1", "--train.decay", "0", "--where", "year > 2018 and\n" * 100]
    assert config.parse(Sections, words).train == Bounded(1, 1.0, 0.0)


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
