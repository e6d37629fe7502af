"""What an audit says, as plain records that go to JSON and come back, and several audits side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from skygen.evaluation.audits.tallies import Quantiles


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a breakdown.

    Args:
        value: as the pair list writes it, or the name of a class of values.
        count: pairs that have it.
        share: of all pairs, in [0, 1].
    """

    value: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """How the pairs divide by one property.

    Args:
        name: of the property, such as ``country``.
        rows: the values; years, months, latitudes and ground sample distances in their own order, others by frequency.
        distinct: values in all; of more than ``audit.TOP`` of them, countries excepted, ``rows`` has the most frequent.
        missing: pairs without a value.
        effective: number of values, Hill number of order 1.
        inverse_simpson: number of values, Hill number of order 2.
    """

    name: str
    rows: tuple[Row, ...]
    distinct: int
    missing: int
    effective: float
    inverse_simpson: float


@dataclass(frozen=True, slots=True)
class Geography:
    """Where the boxes' centres lie.

    Args:
        without_box: pairs that have none, or one that no place on Earth has.
        in_no_country: pairs with a box whose country is not known: at sea, or not looked up.
        top_country: with the most pairs; None where no country is known.
        top_country_share: its share of the pairs whose country is known.
        land_cells: cells of 10 degrees with land, north of 60 degrees south; None without timezonefinder.
        land_cells_covered: how many of them hold a pair.
        cells: west and south edge in degrees, and pairs, of each cell of 2 degrees that holds any.
    """

    without_box: int
    in_no_country: int
    top_country: str | None
    top_country_share: float
    land_cells: int | None
    land_cells_covered: int | None
    cells: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Captions:
    """What the captions are like; a caption is one text of one pair, so a text can be many captions.

    Args:
        count: captions of all pairs.
        distinct: texts among them.
        effective: number of texts, Hill number of order 1.
        inverse_simpson: number of texts, Hill number of order 2.
        repeated_share: of the captions whose text occurs more than once.
        covering_half: the least number of texts that make up half of the captions.
        covering_three_quarters: the same for three quarters.
        words: a caption, parted by white space; None where there is no caption.
        truncated_share: of the captions that CLIP's tokenizer cuts at 77 tokens, start and end included.
        truncated_distinct_share: of the texts that it cuts.
        texts_tokenized: behind these two shares; fewer than ``distinct`` where they are estimates from a random sample.
        top: the most frequent texts; shares are of the captions.
    """

    count: int
    distinct: int
    effective: float
    inverse_simpson: float
    repeated_share: float
    covering_half: int
    covering_three_quarters: int
    words: Quantiles | None
    truncated_share: float
    truncated_distinct_share: float
    texts_tokenized: int
    top: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Pixels:
    """How large the images are.

    Args:
        known: pairs whose image's size is known.
        width: in pixels; None where no size is known.
        height: in pixels.
        upsampled_share: of these pairs, with a side below 512 pixels, which training at 512 x 512 must enlarge.
    """

    known: int
    width: Quantiles | None
    height: Quantiles | None
    upsampled_share: float


@dataclass(frozen=True, slots=True)
class Audit:
    """What a set of pairs is made of.

    Args:
        name: of the set.
        pairs: in all.
        images: with different keys.
        geography: where they are.
        captions: what they say.
        pixels: how large they are.
        breakdowns: by continent, country, and so on, in the order of ``audit.PROPERTIES``, tags last.
        notes: what the reader must know of how it was counted.
    """

    name: str
    pairs: int
    images: int
    geography: Geography
    captions: Captions
    pixels: Pixels
    breakdowns: tuple[Breakdown, ...]
    notes: tuple[str, ...] = ()

    def to_tree(self) -> dict[str, Any]:
        """Return what JSON can write."""
        return asdict(self)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Audit:
        """Rebuild an audit from what ``to_tree`` gave, or from its JSON.

        Raises:
            KeyError: a part is missing.
            TypeError: a part has fields that an audit does not have.
        """
        captions, pixels, geography = tree["captions"], tree["pixels"], tree["geography"]
        return cls(
            name=tree["name"],
            pairs=tree["pairs"],
            images=tree["images"],
            geography=Geography(**geography | {"cells": tuple((west, south, n) for west, south, n in geography["cells"])}),
            captions=Captions(**captions | {"words": _quantiles(captions["words"]), "top": _rows(captions["top"])}),
            pixels=Pixels(**pixels | {"width": _quantiles(pixels["width"]), "height": _quantiles(pixels["height"])}),
            breakdowns=tuple(Breakdown(**part | {"rows": _rows(part["rows"])}) for part in tree["breakdowns"]),
            notes=tuple(tree["notes"]),
        )


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One value in several sets.

    Args:
        value: of the property.
        counts: pairs, one a set; None where the set's breakdown is cut off before this value, or is
            not known at all.
        shares: of the set's pairs, in [0, 1]; None likewise.
        differences: to the first set, in percentage points; None likewise.
    """

    value: str
    counts: tuple[int | None, ...]
    shares: tuple[float | None, ...]
    differences: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One property in several sets.

    Args:
        name: of the property.
        rows: its values: in their own order where they have one, else by their greatest share in any set.
    """

    name: str
    rows: tuple[ComparedRow, ...]


LATITUDES: Final = (
    *(f"{south}° to {south + 10}° north" for south in range(80, -1, -10)),
    *(f"{north}° to {north + 10}° south" for north in range(0, 81, 10)),
)
"""Bands of 10 degrees, from north to south."""
GSD_EDGES: Final = (1.0, 4.0, 10.0, 30.0, 100.0, 300.0)
GSD_CLASSES: Final = (
    "to 1 m (VHR1)", "1 to 4 m (VHR2)", "4 to 10 m (HR1)", "10 to 30 m (HR2)", "30 to 100 m (MR1)", "100 to 300 m (MR2)",
    "over 300 m (LR)",
)  # fmt: skip
"""The resolution classes of the Copernicus Contributing Missions; each includes its upper edge, in metres a pixel."""
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_ORDERS: Final = {"latitude": LATITUDES, "gsd": GSD_CLASSES, "month": MONTHS}
IN_ORDER: Final = frozenset({*_ORDERS, "year"})
"""Properties whose values have an order of their own."""


def place_in_order(name: str, value: str) -> int:
    """Return a number that sorts the values of one of the properties ``IN_ORDER``."""
    return _ORDERS[name].index(value) if name in _ORDERS else int(value)


def compare(audits: Sequence[Audit]) -> tuple[Comparison, ...]:
    """Put the breakdowns of several audits side by side; the first is what the others are compared with."""
    return tuple(_compare(parts) for parts in zip(*(audit.breakdowns for audit in audits), strict=True))


def _compare(parts: Sequence[Breakdown]) -> Comparison:
    found = [{row.value: row for row in part.rows} for part in parts]
    values = list(dict.fromkeys(row.value for part in parts for row in part.rows))
    rows = [_compare_value(value, parts, found) for value in values]
    if parts[0].name not in IN_ORDER:
        rows.sort(key=lambda row: (-max(share or 0.0 for share in row.shares), row.value))
    else:
        rows.sort(key=lambda row: place_in_order(parts[0].name, row.value))
    return Comparison(parts[0].name, tuple(rows))


def _compare_value(value: str, parts: Sequence[Breakdown], found: Sequence[Mapping[str, Row]]) -> ComparedRow:
    counts, shares = [], []
    for part, rows in zip(parts, found, strict=True):
        none = 0 if 0 < part.distinct == len(part.rows) else None
        counts.append(rows[value].count if value in rows else none)
        shares.append(rows[value].share if value in rows else none)
    first = shares[0]
    differences = [None if share is None or first is None else 100.0 * (share - first) for share in shares]
    return ComparedRow(value, tuple(counts), tuple(shares), tuple(differences))


def _quantiles(tree: Mapping[str, Any] | None) -> Quantiles | None:
    return None if tree is None else Quantiles(**tree)


def _rows(trees: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    return tuple(Row(**tree) for tree in trees)
