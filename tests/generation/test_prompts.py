"""Prompts from a text file and from a CSV of captions."""

from pathlib import Path

import pytest

from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.generation.prompts import Prompt, PromptSettings, read_prompts


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_file_is_one_prompt_a_line(tmp_path: Path) -> None:
    file = write(tmp_path / "prompts.txt", "a dam\n\n  two tanks  \r\nein Höhenzug\n")
    assert [prompt.text for prompt in read_prompts(PromptSettings(file))] == ["a dam", "two tanks", "ein Höhenzug"]


def test_a_caption_list_gives_prompts_with_the_key_of_their_pair(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pairs.csv", 'filepath,title,title_multi_objects\nimages2/a1_CH_19.jpg,short,"long, with a comma"\n'
    )
    assert read_prompts(PromptSettings(file)) == [Prompt("long, with a comma", "images2/a1_CH_19.jpg")]
    assert read_prompts(PromptSettings(file, column="title")) == [Prompt("short", "images2/a1_CH_19.jpg")]


def test_a_list_of_labels_tells_what_each_picture_is_to_show(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.csv", "filepath,title,label\na/1.jpg,a long pier,pier\na/2.jpg,water,\n")
    expected = [Prompt("a long pier", "a/1.jpg", "pier"), Prompt("water", "a/2.jpg")]
    assert read_prompts(PromptSettings(file)) == expected


def test_class_names_are_put_into_the_template(tmp_path: Path) -> None:
    file = write(tmp_path / "classes.txt", "tennis court\n\n sea lake \n")
    assert read_prompts(PromptSettings(file, template="a satellite image of {}")) == [
        Prompt("a satellite image of tennis court", class_name="tennis court"),
        Prompt("a satellite image of sea lake", class_name="sea lake"),
    ]
    assert [prompt.class_name for prompt in read_prompts(PromptSettings(file))] == ["", ""]
    with pytest.raises(ConfigError, match=r"--prompts\.template 'a lake': has no \{\} where the class should go"):
        read_prompts(PromptSettings(file, template="a lake"))


def test_a_limit_is_spread_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "prompts.txt", "\n".join(map(str, range(10))))
    assert [prompt.text for prompt in read_prompts(PromptSettings(file, limit=4))] == ["0", "2", "5", "7"]


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("none.txt", None, UnavailableError, r"there is no such file; give a text"),
        ("empty.txt", "\n \n", DataError, r"holds no prompt; write one a line"),
        ("other.csv", "image,words\na,b\n", ConfigError, r"has no column of prompts; its columns are image, words"),
    ],
)
def test_what_cannot_be_read_is_explained(
    tmp_path: Path, name: str, content: str | None, error: type[Exception], sentence: str
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(error, match=sentence):
        read_prompts(PromptSettings(tmp_path / name))


def test_text_that_is_not_utf8_is_explained(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"a dam\nH\xf6he\n")
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 7\); save it as UTF-8"):
        read_prompts(PromptSettings(tmp_path / "prompts.txt"))
