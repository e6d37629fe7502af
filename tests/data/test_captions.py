"""The caption grammar against the examples that SkyScript published."""

import pytest

from skygen.data.captions import (
    AERIAL_PREFIX,
    PREFIX,
    SATELLITE_PREFIX,
    names_a_direction,
    strip_view_prefix,
    tag_text,
    title,
    title_multi_objects,
)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("plant:source", "solar", "plant source of solar"),
        ("crossing:markings", "zebra", "crossing markings of zebra"),
        ("public_transport", "stop_position", "public transport of stop position"),
        ("building", "yes", "building"),
        ("shelter", "yes", "shelter"),
        ("power", "pole", "power pole"),
        ("man_made", "pier", "man made pier"),
        ("natural", "tree", "natural tree"),
        ("highway", "bus_stop", "road of bus stop"),
        ("highway", "primary", "highway of primary"),
        ("highway", "primary_link", "highway of primary link"),
        ("aeroway", "runway", "airport of runway"),
        ("area:aeroway", "runway", "area airport of runway"),
        ("voltage", "16000", "voltage of 16000"),
        ("plant:output:electricity", "19.9 MW", "plant output electricity of 19.9 MW"),
    ],
)
def test_a_tag_reads_as_published(key: str, value: str, text: str) -> None:
    assert tag_text(key, value) == text


def test_title_lists_the_focus_objects_tags() -> None:
    tags = {"surface": "asphalt", "aeroway": "runway"}
    assert title(tags) == "a satellite image of surface of asphalt, airport of runway"


def test_multi_object_title_joins_with_and_semicolons() -> None:
    center = {"power": "line", "cables": "3", "voltage": "16000"}
    around = [{"building": "yes"}, {"highway": "service", "surface": "gravel"}]
    assert title_multi_objects(center, around) == (
        "a satellite image of power line with cables of 3 and voltage of 16000, "
        "surrounded by building; road of service with surface of gravel"
    )


def test_multi_object_title_of_a_lonely_object_is_its_own_form() -> None:
    tags = {"surface": "asphalt", "aeroway": "runway"}
    assert title_multi_objects(tags) == "a satellite image of surface of asphalt with airport of runway"


@pytest.mark.parametrize("prefix", [PREFIX, AERIAL_PREFIX, SATELLITE_PREFIX, PREFIX.upper(), SATELLITE_PREFIX.lower()])
def test_view_prefix_comes_off_in_any_case(prefix: str) -> None:
    assert strip_view_prefix(prefix + "Railway switch.") == "Railway switch."


@pytest.mark.parametrize("caption", ["Railway switch.", "A pier. An aerial image. It shows: nothing.", ""])
def test_only_a_leading_prefix_comes_off(caption: str) -> None:
    assert strip_view_prefix(caption) == caption


@pytest.mark.parametrize(
    "caption",
    [
        "a lake on the left", "the RIGHT bank", "north of the road", "a northern suburb",
        "south-west corner", "facing eastwards",
        "the upper part", "top of the image", "a vertical line", "two roads run horizontally", "counterclockwise lanes",
    ],
)  # fmt: skip
def test_words_of_direction_are_found(caption: str) -> None:
    assert names_a_direction(caption)


@pytest.mark.parametrize(
    "caption", ["a bright roof", "a leftover field", "rooftops", "stop line", "weston airfield", "feast", ""]
)
def test_words_that_only_look_like_a_direction_are_none(caption: str) -> None:
    assert not names_a_direction(caption)
