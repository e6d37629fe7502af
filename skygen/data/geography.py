"""Which country and continent a point lies in, looked up without a network.

Borders are those of the time zones in timezonefinder's data (OpenStreetMap, ODbL): no zone crosses the border of a country.
A zone's country is that of ``zone.tab`` in the tz database, a country's continent that of ``countries.csv`` beside this file:
ISO 3166-1 codes, continents by UN M49, with Central America and the Caribbean in North America. So the whole of Russia is in
Europe, the whole of Türkiye in Asia, and Hawaii in North America; Kosovo, which has no ISO code, counts as Serbia. Waters
within about 22 km of a coast belong to its country.
"""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from skygen.errors import DataError, UnavailableError

if TYPE_CHECKING:
    from timezonefinder import TimezoneFinder

CONTINENTS: Final = ("Africa", "Antarctica", "Asia", "Europe", "North America", "Oceania", "South America")
CELLS_A_DEGREE: Final = 100
"""Points are looked up at the nearest corner of a 0.01-degree grid (1.1 km), at most 0.8 km away, since images repeat places.
So the Vatican and Monaco, 1 and 3 km across, can be taken for their neighbours."""
ANTARCTIC_LATITUDE: Final = -60.0
"""ISO 3166-1 gives all that is south of it to AQ; zones there are those of research stations' home countries."""
ANTARCTIC_COAST: Final = (
    (-180, -78), (-160, -77), (-140, -75), (-120, -74), (-100, -72.5), (-80, -73), (-72, -70), (-66, -67), (-58, -63.5),
    (-56, -65), (-50, -77), (-40, -78), (-25, -75), (-10, -71), (20, -70), (40, -69), (55, -66.5), (70, -69),
    (80, -68), (95, -66.5), (130, -66), (145, -67), (160, -70), (168, -73), (169, -78), (180, -78),
)  # fmt: skip
"""Longitudes and latitudes, by eye: Antarctica's time zones reach out to sea, and Marie Byrd Land is in none."""


@dataclass(frozen=True, slots=True)
class Country:
    """One entry of ISO 3166-1.

    Args:
        code: alpha-2.
        continent: one of ``CONTINENTS``.
        name: short, in English.
    """

    code: str
    continent: str
    name: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where points lie; both arrays are dictionary-encoded strings, null where there is no country.

    Args:
        country: ISO 3166-1 alpha-2 codes.
        continent: of ``CONTINENTS``.
    """

    country: pa.DictionaryArray
    continent: pa.DictionaryArray


def locate(longitude: Float[np.ndarray, " count"], latitude: Float[np.ndarray, " count"]) -> Places:
    """Find the country and continent of points.

    Args:
        longitude: degrees east, in [-180, 180].
        latitude: degrees north, in [-90, 90].

    Returns:
        One entry a point; null at sea, and where a coordinate is NaN.

    Raises:
        DataError: a coordinate is out of range.
        UnavailableError: timezonefinder is not installed.
    """
    usable = _check(longitude, latitude)
    east = np.rint(longitude[usable] * CELLS_A_DEGREE).astype(np.int64)
    north = np.rint(latitude[usable] * CELLS_A_DEGREE).astype(np.int64)
    columns = 360 * CELLS_A_DEGREE + 1
    corners, which = np.unique((north + 90 * CELLS_A_DEGREE) * columns + east + 180 * CELLS_A_DEGREE, return_inverse=True)
    numbers = np.full(len(longitude), -1, dtype=np.int32)
    numbers[usable] = _look_up((corners % columns) / CELLS_A_DEGREE - 180.0, (corners // columns) / CELLS_A_DEGREE - 90.0)[
        which
    ]
    return _name(numbers)


def is_land(longitude: Float[np.ndarray, " count"], latitude: Float[np.ndarray, " count"]) -> Bool[np.ndarray, " count"]:
    """Tell land, and waters within about 22 km of it, from open sea; roughly in Antarctica, for maps.

    Args:
        longitude: degrees east, in [-180, 180].
        latitude: degrees north, in [-90, 90].

    Raises:
        UnavailableError: timezonefinder is not installed.
    """
    zones = _finder().timezone_ids_at(lngs=longitude, lats=latitude)
    corners = np.array(sorted(ANTARCTIC_COAST))
    coast = np.interp(longitude, corners[:, 0], corners[:, 1])
    return np.where(latitude <= ANTARCTIC_LATITUDE, latitude <= coast, _zone_countries()[zones] >= 0)


@cache
def land_grid() -> Bool[np.ndarray, "180 360"]:
    """Tell which cells of one degree have land at their centre, or water within about 22 km of it.

    Returns:
        Rows from south to north, columns from west to east; not to be written to.

    Raises:
        UnavailableError: timezonefinder is not installed.
    """
    longitude, latitude = np.meshgrid(np.arange(-179.5, 180.0), np.arange(-89.5, 90.0))
    land = is_land(longitude.ravel(), latitude.ravel()).reshape(180, 360)
    land.flags.writeable = False
    return land


@cache
def countries() -> Mapping[str, Country]:
    """Return ISO 3166-1, 249 entries, by alpha-2 code."""
    text = importlib.resources.files("skygen.data").joinpath("countries.csv").read_text(encoding="utf-8")
    return {row["code"]: Country(**row) for row in csv.DictReader(text.splitlines())}


def country_name(code: str) -> str:
    """Return a country's short English name; the code itself where ISO 3166-1 does not have it."""
    return countries()[code].name if code in countries() else code


def continent_of(code: str) -> str | None:
    """Return a country's continent; None where ISO 3166-1 does not have the code."""
    return countries()[code].continent if code in countries() else None


def zone_countries() -> dict[str, str]:
    """Return the alpha-2 code of each time zone of the tz database's ``zone.tab``, old names of zones included.

    Raises:
        UnavailableError: tzdata is not installed.
    """
    try:
        folder = importlib.resources.files("tzdata").joinpath("zoneinfo")
    except ModuleNotFoundError as error:
        raise _unavailable("tzdata") from error
    lines = folder.joinpath("zone.tab").read_text(encoding="utf-8").splitlines()
    codes = {fields[2]: fields[0] for line in lines if len(fields := line.split("\t")) > 2 and not line.startswith("#")}
    for line in folder.joinpath("tzdata.zi").read_text(encoding="utf-8").splitlines():
        if line.startswith("L "):  # L TARGET OLD-NAME
            _, target, old = line.split()
            if target in codes:
                codes.setdefault(old, codes[target])
    return codes


def _check(longitude: Float[np.ndarray, " count"], latitude: Float[np.ndarray, " count"]) -> Bool[np.ndarray, " count"]:
    """Return where both coordinates are numbers."""
    for name, values, limit in (("longitude", longitude, 180), ("latitude", latitude, 90)):
        outside = np.flatnonzero(np.abs(values) > limit)
        if len(outside):
            raise DataError(
                f"the {name} {values[outside[0]]:g} of point {outside[0]} is not within -{limit} to {limit} degrees; "
                "are longitude and latitude swapped?"
            )
    return ~(np.isnan(longitude) | np.isnan(latitude))


def _look_up(longitude: Float[np.ndarray, " count"], latitude: Float[np.ndarray, " count"]) -> Int[np.ndarray, " count"]:
    """Return numbers of countries in the order of ``countries()``, -1 for none."""
    zones = _finder().timezone_ids_at(lngs=longitude, lats=latitude)
    found = _zone_countries()[zones]
    return np.where(latitude <= ANTARCTIC_LATITUDE, list(countries()).index("AQ"), found).astype(np.int32)


def _name(numbers: Int[np.ndarray, " count"]) -> Places:
    known = list(countries().values())
    continents = np.array([CONTINENTS.index(country.continent) for country in known] + [-1], dtype=np.int32)
    nowhere = numbers < 0
    return Places(
        pa.DictionaryArray.from_arrays(pa.array(numbers, mask=nowhere), pa.array([country.code for country in known])),
        pa.DictionaryArray.from_arrays(pa.array(continents[numbers], mask=nowhere), pa.array(CONTINENTS)),
    )


@cache
def _finder() -> TimezoneFinder:
    try:
        from timezonefinder import TimezoneFinder
    except ModuleNotFoundError as error:
        raise _unavailable("timezonefinder") from error
    return TimezoneFinder(in_memory=True)


@cache
def _zone_countries() -> Int[np.ndarray, " zones"]:
    """Return the number of each of timezonefinder's zones' country; -1 for the zones at sea, and last for no zone."""
    order, codes = list(countries()), zone_countries()
    numbers = [order.index(codes[zone]) if zone in codes else -1 for zone in _finder().timezone_names]
    return np.array([*numbers, -1], dtype=np.int32)


def _unavailable(package: str) -> UnavailableError:
    return UnavailableError(f"country look-up needs {package}: pip install 'skygen[geo]'")
