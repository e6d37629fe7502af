"""How an image was taken, in numbers and in words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from skygen.data.image_metadata import UNKNOWN, ImageMetadata, describe_image, describe_in_words
from skygen.data.pair import Box, Pair
from skygen.data.skyscript import SOURCES
from skygen.data.wording import add_metadata


def test_what_a_pair_knows_is_collected_as_the_picture_is_shown() -> None:
    time = datetime(2018, 12, 24, tzinfo=UTC)
    pair = Pair("a.png", Path("a.png"), ("a",), source="US", gsd=0.6, box=Box(10.0, 40.0, 12.0, 41.0), time=time)
    assert describe_image(pair, 2.0) == ImageMetadata(0.3, "US", 12, 40.5, 11.0)
    assert describe_image(Pair("a.png", Path("a.png"), ("a",)), 2.0) == UNKNOWN


@pytest.mark.parametrize(
    ("gsd", "words"),
    [(0.6, "0.6"), (0.149, "0.15"), (10.0, "10"), (29.6, "30"), (123.4, "120"), (1.0, "1"), (0.0996, "0.1"), (2.345, "2.3")],
)
def test_a_resolution_is_said_to_two_digits(gsd: float, words: str) -> None:
    assert describe_in_words(ImageMetadata(gsd=gsd)) == f"{words} m resolution"


def test_what_is_not_known_or_is_no_size_is_not_said() -> None:
    assert describe_in_words(UNKNOWN) == ""
    for gsd in (0.0, -1.0, float("nan"), float("inf")):
        assert describe_in_words(ImageMetadata(gsd=gsd)) == ""
    assert describe_in_words(ImageMetadata(source="ZZ", month=2)) == "February"


def test_sources_have_their_full_names_and_places_are_not_said() -> None:
    said = {describe_in_words(ImageMetadata(source=alias, latitude=1.0, longitude=2.0)) for alias in SOURCES}
    assert said == {source.name for source in SOURCES.values()}
    assert len(said) == 10


def test_months_are_english() -> None:
    said = [describe_in_words(ImageMetadata(month=month)) for month in range(1, 13)]
    assert (said[0], said[4], said[11], len(set(said))) == ("January", "May", "December", 12)


def test_a_caption_ends_in_it_without_its_own_full_stop() -> None:
    pair = Pair("a.png", Path("a.png"), ("a",), source="S2", gsd=10.0)
    assert add_metadata("A pier. ", pair, 1.0) == "A pier, 10 m resolution, Sentinel-2 L2A harmonized"
    assert add_metadata("A pier.", pair, None) == "A pier, Sentinel-2 L2A harmonized"
    assert add_metadata("A pier.", Pair("a.png", Path("a.png"), ("a",)), 1.0) == "A pier."
