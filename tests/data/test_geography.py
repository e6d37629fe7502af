from __future__ import annotations

import builtins
import importlib.resources
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skygen.data import geography
from skygen.data.geography import CONTINENTS, countries, country_name, is_land, locate, zone_countries
from skygen.errors import DataError, UnavailableError

# longitude, latitude, country, continent
KNOWN = [
    (2.3522, 48.8566, "FR", "Europe"),  # Paris
    (8.5417, 47.3769, "CH", "Europe"),  # Zurich
    (7.5886, 47.5596, "CH", "Europe"),  # Basel, at the border with two countries
    (8.6920, 47.6960, "DE", "Europe"),  # Büsingen, an exclave in Switzerland
    (12.4578, 43.9424, "SM", "Europe"),  # San Marino
    (1.5218, 42.5063, "AD", "Europe"),  # Andorra
    (9.5215, 47.1410, "LI", "Europe"),  # Vaduz
    (-3.7038, 40.4168, "ES", "Europe"),  # Madrid
    (-15.4300, 28.1235, "ES", "Europe"),  # Las Palmas, off Africa
    (24.9384, 60.1699, "FI", "Europe"),  # Helsinki
    (13.4050, 52.5200, "DE", "Europe"),  # Berlin
    (37.6173, 55.7558, "RU", "Europe"),  # Moscow
    (131.8855, 43.1155, "RU", "Europe"),  # Vladivostok, by the country
    (28.9784, 41.0082, "TR", "Asia"),  # Istanbul, by the country
    (15.6356, 78.2232, "SJ", "Europe"),  # Longyearbyen
    (77.2090, 28.6139, "IN", "Asia"),  # Delhi
    (88.3639, 22.5726, "IN", "Asia"),  # Kolkata, in Asia/Calcutta by its old name
    (139.6917, 35.6895, "JP", "Asia"),  # Tokyo
    (116.4074, 39.9042, "CN", "Asia"),  # Beijing
    (87.6168, 43.8256, "CN", "Asia"),  # Urumqi
    (103.8198, 1.3521, "SG", "Asia"),  # Singapore
    (51.4230, 35.6940, "IR", "Asia"),  # Tehran
    (31.2357, 30.0444, "EG", "Africa"),  # Cairo
    (36.8219, -1.2921, "KE", "Africa"),  # Nairobi
    (3.3792, 6.5244, "NG", "Africa"),  # Lagos
    (27.4833, -29.3100, "LS", "Africa"),  # Maseru, in a country inside another
    (18.4241, -33.9249, "ZA", "Africa"),  # Cape Town
    (55.4504, -20.8789, "RE", "Africa"),  # Réunion
    (-74.0060, 40.7128, "US", "North America"),  # New York
    (-157.8583, 21.3069, "US", "North America"),  # Honolulu, by the country
    (-149.9003, 61.2181, "US", "North America"),  # Anchorage
    (-79.3832, 43.6532, "CA", "North America"),  # Toronto
    (-99.1332, 19.4326, "MX", "North America"),  # Mexico City
    (-84.0907, 9.9281, "CR", "North America"),  # San José
    (-82.3666, 23.1136, "CU", "North America"),  # Havana
    (-51.7214, 64.1814, "GL", "North America"),  # Nuuk
    (-58.3816, -34.6037, "AR", "South America"),  # Buenos Aires
    (-47.8825, -15.7942, "BR", "South America"),  # Brasília
    (-52.3260, 4.9372, "GF", "South America"),  # Cayenne
    (-70.6693, -33.4489, "CL", "South America"),  # Santiago
    (151.2093, -33.8688, "AU", "Oceania"),  # Sydney
    (174.7633, -36.8485, "NZ", "Oceania"),  # Auckland
    (178.4419, -18.1416, "FJ", "Oceania"),  # Suva
    (-179.9800, -16.8200, "FJ", "Oceania"),  # Taveuni, east of the antimeridian
    (147.1803, -9.4438, "PG", "Oceania"),  # Port Moresby
    (166.6670, -77.8419, "AQ", "Antarctica"),  # McMurdo, whose clocks are New Zealand's
    (-2.8400, -71.6700, "AQ", "Antarctica"),  # SANAE IV, whose clocks are South Africa's
    (-120.0000, -78.0000, "AQ", "Antarctica"),  # Marie Byrd Land, in no zone
]


def find(*points: tuple[float, float]) -> list[tuple[str | None, str | None]]:
    longitude, latitude = np.array(points, dtype=np.float64).reshape(-1, 2).T
    places = locate(longitude, latitude)
    return list(zip(places.country.to_pylist(), places.continent.to_pylist(), strict=True))


def test_known_places_on_every_continent() -> None:
    found = find(*[(longitude, latitude) for longitude, latitude, _, _ in KNOWN])
    assert found == [(country, continent) for _, _, country, continent in KNOWN]
    assert {continent for _, continent in found} == set(CONTINENTS)
    assert len(found) > 40


def test_no_country_at_sea() -> None:
    assert find((-30.0, 0.0), (-140.0, 30.0), (80.0, -30.0), (0.0, 90.0)) == [(None, None)] * 4


def test_waters_near_a_coast_belong_to_its_country() -> None:
    # off Portugal, whose coast is at 8.65 degrees west here: 13 km and 70 km out
    assert find((-8.8, 41.0), (-9.5, 41.0)) == [("PT", "Europe"), (None, None)]


def test_the_edges_of_the_world() -> None:
    assert find((180.0, -16.8), (-180.0, -16.8)) == [("FJ", "Oceania")] * 2
    assert find((0.0, -90.0), (180.0, -90.0), (-180.0, -90.0)) == [("AQ", "Antarctica")] * 3
    assert find((180.0, 90.0), (-180.0, 90.0)) == [(None, None)] * 2


def test_a_border_is_right_to_a_grid_cell() -> None:
    """The border of Canada and the United States along 49 degrees north, across the prairies."""
    north, south = 49.0 + 0.0151, 49.0 - 0.0151  # the border as surveyed wanders a little about the parallel
    longitudes = np.arange(-122.0, -96.0, 0.25)
    assert {country for country, _ in find(*[(longitude, north) for longitude in longitudes])} == {"CA"}
    assert {country for country, _ in find(*[(longitude, south) for longitude in longitudes])} == {"US"}
    assert len(longitudes) > 100


def test_a_missing_coordinate_has_no_place_and_shifts_no_other() -> None:
    nan = float("nan")
    assert find((nan, 10.0), (2.35, 48.85), (10.0, nan), (nan, nan), (-74.0, 40.71)) == [
        (None, None), ("FR", "Europe"), (None, None), (None, None), ("US", "North America"),
    ]  # fmt: skip
    assert find() == []


def test_answers_are_dictionary_encoded_and_repeats_agree() -> None:
    longitude, latitude = np.repeat([2.3522, 36.8219], 5000), np.repeat([48.8566, -1.2921], 5000)
    places = locate(longitude, latitude)
    assert isinstance(places.country, pa.DictionaryArray)
    assert isinstance(places.continent, pa.DictionaryArray)
    assert Counter(places.country.to_pylist()) == {"FR": 5000, "KE": 5000}
    assert Counter(places.continent.to_pylist()) == {"Europe": 5000, "Africa": 5000}


@pytest.mark.parametrize(
    ("longitude", "latitude", "message"),
    [
        ([0.0, 48.85], [0.0, 102.35], "the latitude 102.35 of point 1 is not within -90 to 90 degrees; are longitude and "
         "latitude swapped?"),
        ([181.0], [0.0], "the longitude 181 of point 0 is not within -180 to 180 degrees; are longitude and latitude swapped?"),
        ([float("inf")], [0.0], "the longitude inf of point 0 is not within -180 to 180 degrees; are longitude and latitude "
         "swapped?"),
    ],
)  # fmt: skip
def test_wrong_input_is_told(longitude: list[float], latitude: list[float], message: str) -> None:
    with pytest.raises(DataError) as caught:
        locate(np.array(longitude), np.array(latitude))
    assert str(caught.value) == message


def test_every_zone_has_a_country_or_lies_at_sea() -> None:
    from timezonefinder import TimezoneFinder

    zones, codes = TimezoneFinder().timezone_names, zone_countries()
    assert len(zones) > 400
    assert [zone for zone in zones if zone not in codes and not zone.startswith("Etc/")] == []
    assert set(codes.values()) <= set(countries())
    assert [zone for zone in codes if zone.startswith("Etc/")] == []


def test_old_names_of_zones_have_the_country_of_the_new() -> None:
    codes = zone_countries()
    old = {"Asia/Calcutta": "IN", "US/Pacific": "US", "Asia/Saigon": "VN", "Europe/Kiev": "UA", "America/Buenos_Aires": "AR"}
    assert {zone: codes[zone] for zone in old} == old


def test_the_table_of_countries_is_iso_3166() -> None:
    lines = importlib.resources.files("tzdata").joinpath("zoneinfo/iso3166.tab").read_text(encoding="utf-8").splitlines()
    codes = {line[:2] for line in lines if line and not line.startswith("#")}
    assert set(countries()) == codes
    assert len(codes) == 249
    assert Counter(country.continent for country in countries().values()) == {
        "Africa": 60, "Antarctica": 1, "Asia": 51, "Europe": 51, "North America": 41, "Oceania": 29, "South America": 16,
    }  # fmt: skip
    assert all(country.name for country in countries().values())


def test_a_country_has_a_name() -> None:
    assert [country_name(code) for code in ("CH", "TR", "KR", "XK")] == ["Switzerland", "Türkiye", "South Korea", "XK"]
    assert [geography.continent_of(code) for code in ("CH", "XK")] == ["Europe", None]


def test_land_on_a_map() -> None:
    longitude = np.array([10.0, -30.0, -120.0, 100.0, -60.0, -130.0])
    latitude = np.array([50.0, 0.0, -80.0, -40.0, -10.0, -65.0])
    assert is_land(longitude, latitude).tolist() == [True, False, True, False, True, False]


@pytest.mark.parametrize("missing", ["timezonefinder", "tzdata"])
def test_without_the_extra_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real_import, real_files = builtins.__import__, importlib.resources.files

    def refuse_import(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *arguments, **keywords)

    def refuse_files(name: str) -> Any:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_files(name)

    for cached in (geography._finder, geography._zone_countries):
        cached.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse_import)
    monkeypatch.setattr(importlib.resources, "files", refuse_files)
    with pytest.raises(UnavailableError) as caught:
        locate(np.array([2.35]), np.array([48.85]))
    assert str(caught.value) == f"country look-up needs {missing}: pip install 'skygen[geo]'"
