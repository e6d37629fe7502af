"""The facts of an image's taking that a denoiser can be told, and how each becomes numbers between -1 and 1.

Distances are even: metres a pixel by their logarithm, months on a circle, places on a sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from skygen.data.image_metadata import UNKNOWN, ImageMetadata, describe_image
from skygen.data.pair import Pair
from skygen.data.skyscript import SOURCES
from skygen.errors import ConfigError

GSD_RANGE = (0.05, 100.0)
"""Finest and coarsest metres a pixel that are told apart: SkyScript's 0.1 to 30, and room for resizing."""
GSD_OCTAVES = 6
"""The finest wave spans a factor of 1.6 in metres a pixel."""
MONTH_OCTAVES = 2
PLACE_OCTAVES = 5
"""The finest wave is an eighth of the Earth's radius, 800 km."""
HIDDEN = 128
"""Width of the vector that each field becomes before its projection."""
ENCODING = {"gsd": [*GSD_RANGE, GSD_OCTAVES], "month": [MONTH_OCTAVES], "place": [PLACE_OCTAVES], "hidden": [HIDDEN]}
"""What must be the same where a saved conditioner is read."""
FIELDS = ("gsd", "source", "month", "place")
"""In the order in which they are drawn, summed and saved, whatever order a user writes."""


@dataclass(frozen=True)
class MetadataSettings:
    """Which facts of an image's taking the denoiser is told."""

    fields: tuple[str, ...] = ()
    """Any of ``gsd``, ``source``, ``month`` and ``place``; none is off."""
    dropout: float = 0.1
    """Share of examples from which each field is withheld, apart from the others, so that any of them can be left out later."""
    joint_dropout: float = 0.1
    """Share of examples from which all fields are withheld, so that pictures can be drawn without any."""

    def __post_init__(self) -> None:
        for field in self.fields:
            if field not in FIELDS:
                raise ConfigError(f"metadata.fields: there is no field {field}; choose from {', '.join(FIELDS)}")
        if len(set(self.fields)) < len(self.fields):
            raise ConfigError(f"metadata.fields is {', '.join(self.fields)}; name each field once")
        for name, share in (("dropout", self.dropout), ("joint_dropout", self.joint_dropout)):
            if not 0 <= share < 1:
                raise ConfigError(f"metadata.{name} is {share:g}; it must be in [0, 1)")

    @property
    def ordered(self) -> tuple[str, ...]:
        """The fields in the order of ``FIELDS``."""
        return tuple(name for name in FIELDS if name in self.fields)


UNTOLD = MetadataSettings()


@dataclass(frozen=True)
class MetadataWish:
    """How the pictures to be drawn should look taken; what is left out is for the model to choose."""

    gsd: float | None = None
    """Metres a pixel."""
    source: str | None = None
    """SkyScript's alias of an image collection, such as ``CH``."""
    month: int | None = None
    """1 to 12."""
    latitude: float | None = None
    """Degrees, north positive; goes with longitude."""
    longitude: float | None = None
    """Degrees, east positive; goes with latitude."""

    def __post_init__(self) -> None:
        finest, coarsest = GSD_RANGE
        if self.gsd is not None and not finest <= self.gsd <= coarsest:
            raise ConfigError(f"metadata.gsd is {self.gsd:g}; it must be from {finest:g} to {coarsest:g} metres a pixel")
        if self.source is not None and self.source not in SOURCES:
            raise ConfigError(f"metadata.source: there is no source {self.source}; choose from {', '.join(SOURCES)}")
        if self.month is not None and not 1 <= self.month <= 12:
            raise ConfigError(f"metadata.month is {self.month}; it must be from 1 to 12")
        for name, degrees, most in (("latitude", self.latitude, 90), ("longitude", self.longitude, 180)):
            if degrees is not None and not -most <= degrees <= most:
                raise ConfigError(f"metadata.{name} is {degrees:g}; it must be from -{most} to {most} degrees")
        if (self.latitude is None) != (self.longitude is None):
            given, missing = ("longitude", "latitude") if self.latitude is None else ("latitude", "longitude")
            raise ConfigError(f"metadata.{given} says no place without metadata.{missing}; give both or neither")

    def describe(self) -> ImageMetadata:
        """Return the wish as a conditioner is told it."""
        return ImageMetadata(**asdict(self))


@dataclass(frozen=True, slots=True)
class MetadataStatistics:
    """How much of the data says what.

    Args:
        images: looked at.
        known: of how many of them each field is known.
    """

    images: int
    known: Mapping[str, int]


def count_known(pairs: Sequence[Pair], settings: MetadataSettings, limit: int = 10_000) -> MetadataStatistics:
    """Count of how many evenly spaced pairs each field is known.

    Args:
        pairs: to train on.
        settings: the fields.
        limit: pairs to look at.

    Raises:
        ConfigError: a field is known of none.
    """
    count = min(limit, len(pairs))
    described = [describe_image(pairs[place * len(pairs) // count]) for place in range(count)]
    known = {name: sum(encode_field(name, one, tuple(SOURCES)) is not None for one in described) for name in settings.ordered}
    for name, images in known.items():
        if not images:
            raise ConfigError(
                f"metadata.fields: {name} is known of none of {count} pairs looked at; leave it out, or give pairs that say it."
            )
    return MetadataStatistics(count, known)


def withhold_with_captions(metadata: Sequence[ImageMetadata], captions: Sequence[str]) -> tuple[ImageMetadata, ...]:
    """Withhold the metadata of each example whose caption is empty.

    Classifier-free guidance leads away from what is drawn without a caption and without metadata; this trains just that.
    """
    return tuple(one if caption else UNKNOWN for one, caption in zip(metadata, captions, strict=True))


def encode_field(name: str, metadata: ImageMetadata, sources: Sequence[str]) -> list[float] | None:
    """Return a field's features, as many as ``field_size`` says, each in [-1, 1]; None where the field is not known.

    Values that cannot be, such as a month 13, count as not known. Metres a pixel beyond ``GSD_RANGE`` count as its end.

    Args:
        name: of ``FIELDS``.
        metadata: of one image.
        sources: aliases that are told apart; any other is not known.
    """
    return _ENCODERS[name](metadata, sources)


def field_size(name: str, sources: Sequence[str]) -> int:
    """Return the number of features of a field."""
    return {"gsd": 2 * GSD_OCTAVES, "source": len(sources), "month": 2 * MONTH_OCTAVES, "place": 3 + 6 * PLACE_OCTAVES}[name]


def _encode_gsd(metadata: ImageMetadata, sources: Sequence[str]) -> list[float] | None:
    gsd = metadata.gsd
    if gsd is None or not 0 < gsd < math.inf:
        return None
    finest, coarsest = GSD_RANGE
    position = math.log(min(max(gsd, finest), coarsest) / finest) / math.log(coarsest / finest)
    return _waves(math.pi * position, [2**octave for octave in range(GSD_OCTAVES)])


def _encode_source(metadata: ImageMetadata, sources: Sequence[str]) -> list[float] | None:
    return [float(alias == metadata.source) for alias in sources] if metadata.source in sources else None


def _encode_month(metadata: ImageMetadata, sources: Sequence[str]) -> list[float] | None:
    month = metadata.month
    if month is None or not 1 <= month <= 12:
        return None
    return _waves(2 * math.pi * (month - 1) / 12, range(1, MONTH_OCTAVES + 1))  # whole turns a year: December meets January


def _encode_place(metadata: ImageMetadata, sources: Sequence[str]) -> list[float] | None:
    latitude, longitude = metadata.latitude, metadata.longitude
    if latitude is None or longitude is None or not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    up, around = math.radians(latitude), math.radians(longitude)
    point = (math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up))
    frequencies = [2**octave for octave in range(PLACE_OCTAVES)]
    return [*point, *(wave for coordinate in point for wave in _waves(math.pi * coordinate, frequencies))]


def _waves(phase: float, frequencies: Sequence[int]) -> list[float]:
    return [wave(frequency * phase) for frequency in frequencies for wave in (math.sin, math.cos)]


_ENCODERS: Mapping[str, Callable[[ImageMetadata, Sequence[str]], list[float] | None]] = {
    "gsd": _encode_gsd,
    "source": _encode_source,
    "month": _encode_month,
    "place": _encode_place,
}
