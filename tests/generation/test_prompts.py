"""Prompts from files and from the pairs of a data set, and how many pictures each kind of them is given."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skygen.data.image_metadata import ImageMetadata
from skygen.data.pair import Box, Pair
from skygen.data.pairs import read_pairs
from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.generation.prompt_sources import count_pictures, divide, read_pair_prompts
from skygen.generation.prompts import Prompt, PromptSettings, caption_tags, read_prompts


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


def test_without_a_file_it_is_said_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"^nothing says what to draw: give --prompts\.file, .* or --pairs\.root\.$"):
        read_prompts(PromptSettings())


def test_every_class_meets_every_template(tmp_path: Path) -> None:
    file = write(tmp_path / "labels.csv", "filepath,label\na.jpg,dam\nb.jpg,lake\nc.jpg,dam\n")
    settings = PromptSettings(file, made_of="classes", template="a photo of a {}", templates=("{} from above", "one {}"))
    texts = [prompt.text for prompt in read_prompts(settings)]
    assert texts == ["a photo of a dam", "lake from above", "dam from above", "one lake", "one dam", "a photo of a lake"]
    (dam, _) = read_prompts(PromptSettings(file, made_of="classes"))
    assert dam == Prompt("a satellite image of dam", class_name="dam")


def test_tags_become_captions_as_skyscript_writes_them(tmp_path: Path) -> None:
    assert caption_tags("sport=tennis; surface=clay | natural=tree | building=yes") == (
        "a satellite image of sport of tennis with surface of clay, surrounded by natural tree; building"
    )
    assert caption_tags("plant:source=solar") == "a satellite image of plant source of solar"
    file = write(tmp_path / "tags.csv", "tags,label\nhighway=residential,road\n")
    expected = [Prompt("a satellite image of road of residential", class_name="road")]
    assert read_prompts(PromptSettings(file, made_of="tags")) == expected
    wrong = write(tmp_path / "tags.txt", "power=pole\nsport; surface=clay\n")
    with pytest.raises(DataError) as raised:
        read_prompts(PromptSettings(wrong, made_of="tags"))
    assert str(raised.value) == (
        f'{wrong}: entry 2 has "sport", which is no tag; write key=value, separated by ;, and | before each object around the '
        "first."
    )


PAIR = Pair(
    "images2/a1_CH_19.jpg",
    Path("images2/a1_CH_19.jpg"),
    ("a dam", "water"),
    class_name="dam",
    source="CH",
    gsd=0.1,
    box=Box(8.0, 46.5, 8.25, 47.5),
    time=datetime(2019, 7, 1, tzinfo=UTC),
    center_tags={"waterway": "dam"},
    surrounding_tags=({"natural": "water"},),
)


def test_a_pair_gives_its_prompt_with_all_that_is_known_of_it() -> None:
    (prompt,) = read_pair_prompts([PAIR], PromptSettings(), 64)
    gsd = prompt.metadata.gsd
    assert prompt == Prompt("a dam", PAIR.key, "dam", "CH", ImageMetadata(gsd, "CH", 7, 47.0, 8.125))
    assert gsd == pytest.approx(18_980 / 64, rel=1e-3)  # a quarter of a degree of longitude at 47 degrees north
    (tagged,) = read_pair_prompts([PAIR], PromptSettings(made_of="tags"), 64)
    assert tagged.text == "a satellite image of waterway of dam, surrounded by natural water"
    (named,) = read_pair_prompts([PAIR, PAIR], PromptSettings(made_of="classes"), 64)
    assert named == Prompt("a satellite image of dam", class_name="dam")


def test_pairs_of_a_data_set_become_prompts_and_those_without_tags_are_counted(
    world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = read_pairs(world, split="train")
    captions = read_pair_prompts(pairs, PromptSettings(), 64)
    assert [prompt.key for prompt in captions] == [pair.key for pair in pairs] and len(captions) > 20
    assert [prompt.key for prompt in read_pair_prompts(pairs, PromptSettings(limit=3), 64)] == [
        pairs[int(place * len(pairs) / 3)].key for place in range(3)
    ]
    bare = Pair("b.jpg", Path("b.jpg"), ("b",))
    with caplog.at_level(logging.INFO):
        assert len(read_pair_prompts([PAIR, bare], PromptSettings(made_of="tags"), 64)) == 1
    assert caplog.messages == ["1 of 2 pairs have no tags and give no prompt"]
    with pytest.raises(DataError, match=r"^--prompts\.made_of classes: none of 1 pairs has any; choose another of captions"):
        read_pair_prompts([bare], PromptSettings(made_of="classes"), 64)


FOUND = {"b": 6, "a": 3, "c": 1}
CLASSES = [Prompt(f"{name} {number}", class_name=name) for name, many in FOUND.items() for number in range(many)]


def counts(prompts: list[Prompt]) -> Counter[str]:
    return Counter(prompt.class_name for prompt in prompts)


def test_pictures_are_dealt_out_to_classes_equally_or_as_found() -> None:
    each = count_pictures(CLASSES, PromptSettings(per="class", count_each=4), 0)
    assert counts(each) == {"a": 4, "b": 4, "c": 4}
    assert [prompt.text for prompt in each if prompt.class_name == "a"] == ["a 0", "a 1", "a 2", "a 0"]
    assert all(counts(each[:end]).total() == end and max(counts(each[:end]).values()) <= end // 3 + 1 for end in range(1, 13))
    equal = count_pictures(CLASSES, PromptSettings(per="class"), 11)
    assert counts(equal) == {"a": 4, "b": 4, "c": 3}
    found = count_pictures(CLASSES, PromptSettings(per="class", shares="as_found"), 20)
    assert counts(found) == {"b": 12, "a": 6, "c": 2}
    assert counts(found[:10]) == {"b": 6, "a": 3, "c": 1}
    assert count_pictures(CLASSES, PromptSettings(), 12) == [*CLASSES, *CLASSES[:2]]
    assert count_pictures(CLASSES, PromptSettings(), 0) == CLASSES
    assert count_pictures(CLASSES, PromptSettings(per="class", count_each=4), 0) == each


def test_dividing_leaves_nothing_over() -> None:
    assert divide(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert divide(7, {"a": 5, "b": 3, "c": 2}) == {"a": 4, "b": 2, "c": 1}
    assert divide(0, {"a": 1}) == {"a": 0}


def test_continents_are_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("timezonefinder")
    places = [(47.0, 8.0), (40.0, -100.0), (46.0, 2.0), (None, None)]
    prompts = [Prompt(str(place), metadata=ImageMetadata(latitude=place[0], longitude=place[1])) for place in places]
    drawn = count_pictures(prompts, PromptSettings(per="continent", count_each=2), 0)
    assert sorted(prompt.text for prompt in drawn) == sorted(map(str, [places[0], places[2], places[1], places[1]]))
    assert caplog.messages == ["1 of 4 prompts are left out: their continent is not known"]


def test_counts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--generation\.count and --prompts\.count_each both say how many pictures to draw"):
        count_pictures(CLASSES, PromptSettings(per="class", count_each=4), 5)
    with pytest.raises(ConfigError, match=r"^--prompts\.count_each counts the pictures of each --prompts\.per: class, source"):
        PromptSettings(count_each=4)
    with pytest.raises(DataError, match=r"^--prompts\.per source: it is known of none of 10 prompts; leave it out\.$"):
        count_pictures(CLASSES, PromptSettings(per="source"), 5)
