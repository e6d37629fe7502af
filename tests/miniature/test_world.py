"""The miniature world: its classes are told apart by their tags, and what a tag says is drawn."""

import itertools
import re

import numpy as np
import pytest

from skygen.miniature.drawing import Canvas
from skygen.miniature.sentences import describe, variants
from skygen.miniature.sources import SOURCES, apply_look
from skygen.miniature.tiles import PAINTERS, draw_tile
from skygen.miniature.world import BASE_CLASSES, CLASSES, NEIGHBOURS, NOVEL_CLASSES, SCENES
from skygen.seeding import Seeds


def attribute_choices(name: str) -> list[dict[str, str]]:
    attributes = SCENES[name].attributes
    values = itertools.product(*(attribute.values for attribute in attributes))
    return [dict(zip((a.key for a in attributes), chosen, strict=True)) for chosen in values]


def test_novel_and_base_classes_split_the_world() -> None:
    assert (len(CLASSES), len(BASE_CLASSES), len(NOVEL_CLASSES)) == (26, 20, 6)
    assert sorted(BASE_CLASSES + NOVEL_CLASSES) == list(CLASSES)


def test_every_class_has_a_naming_tag_of_its_own_and_a_painter() -> None:
    assert len({scene.tags[0] for scene in SCENES.values()}) == 26
    assert set(PAINTERS) == set(CLASSES)


def test_classes_name_known_sources_and_neighbours() -> None:
    assert len({source for scene in SCENES.values() for source in scene.sources} & set(SOURCES)) == 6
    assert {name for scene in SCENES.values() for name in scene.around} == set(NEIGHBOURS)


def paint(name: str, tags: dict[str, str]) -> np.ndarray:
    canvas = Canvas((64, 64), 2, Seeds(5).numpy("test", name))
    PAINTERS[name](canvas, {**dict(SCENES[name].tags), **tags})
    return np.asarray(canvas.image, dtype=np.float32)


@pytest.mark.parametrize("name", CLASSES)
def test_every_attribute_value_changes_the_picture(name: str) -> None:
    first, *_ = choices = attribute_choices(name)
    compared = 0
    for attribute in SCENES[name].attributes:
        for one, other in itertools.combinations(attribute.values, 2):
            difference = np.abs(paint(name, {**first, attribute.key: one}) - paint(name, {**first, attribute.key: other}))
            assert difference.mean() > 1.5, (attribute.key, one, other)
            compared += 1
    assert compared >= 1
    assert len(choices) >= 2


def test_every_sentence_is_complete_english() -> None:
    count = 0
    for name in CLASSES:
        for tags in attribute_choices(name):
            for variant in range(variants(name)):
                sentence = describe(name, tags, SCENES[name].around[:2], variant)
                assert re.fullmatch(r"[A-Z][a-zH ,]+\.", sentence), sentence
                assert not re.search(
                    r"\ba (?=[aei])|\ban (?=[^aeio])|\bone (\w+ ){0,3}(courts|holes|tanks|tracks|turbines)\b", sentence.lower()
                ), sentence
                count += 1
    assert count == 10 * sum(len(attribute_choices(name)) for name in CLASSES)


def test_a_sentence_counts_and_names_what_is_around() -> None:
    tags = {"courts": "3", "surface": "clay"}
    assert describe("tennis court", tags, ["trees", "road"], 0) == (
        "Three red clay tennis courts next to some trees and a residential road."
    )


def test_tiles_keep_their_size_limits_and_differ() -> None:
    tiles = [draw_tile("lake", Seeds(3).numpy("tile", index)) for index in range(20)]
    for tile in tiles:
        short, long = sorted(tile.image.size)
        assert 64 <= short <= long <= 160
        assert long / short <= 1.51
    assert len({tile.image.tobytes() for tile in tiles}) == 20
    assert len({tile.image.size for tile in tiles}) > 10


def test_the_same_generator_state_draws_the_same_tile() -> None:
    one, other = (draw_tile("harbour", Seeds(3).numpy("tile", 1)) for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes()
    assert (one.tags, one.surroundings) == (other.tags, other.surroundings)


def test_sources_look_different() -> None:
    image = draw_tile("river", Seeds(1).numpy("tile", 0)).image
    looks = [np.asarray(apply_look(image, source, Seeds(1).numpy("look")), np.float32) for source in SOURCES.values()]
    distances = [np.abs(one - other).mean() for one, other in itertools.combinations(looks, 2)]
    assert len(distances) == 15
    assert min(distances) > 3
