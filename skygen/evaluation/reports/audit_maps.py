"""The map of an audited set of pairs, with a line of facts, where a folder holds what ``skygen audit`` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from markupsafe import Markup

from skygen.data.geography import country_name
from skygen.errors import DataError
from skygen.evaluation.audits.figures import draw_map, list_decades, opacity
from skygen.evaluation.audits.page import read_audits
from skygen.evaluation.audits.records import Audit
from skygen.evaluation.reports.records import DAMAGE, RunRecord

AUDIT: Final = "audit.json"
MAPS_SHOWN: Final = 4
"""Of one audit, whose further sets are on its own page."""
MOST_PAIRS: Final = 10**12
"""More in one cell is damage."""


@final
@dataclass(frozen=True, slots=True)
class AuditedSet:
    """A set of pairs on the map.

    Args:
        name: of the set.
        map: an ``<svg>`` element.
        steps: opacity and words of each step of its key; empty where no pair has a place.
        facts: name and figure each.
    """

    name: str
    map: Markup
    steps: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]


@final
@dataclass(frozen=True, slots=True)
class AuditSection:
    """The sets of one audit; ``more`` are on its own page alone."""

    run: str
    sets: tuple[AuditedSet, ...]
    more: int


def show_audit(record: RunRecord) -> AuditSection | None:
    """Draw the sets of ``audit.json``; None where the folder has none."""
    if not (record.folder / AUDIT).exists():
        return None
    try:
        audits = read_audits(record.folder / AUDIT)
        sets = tuple(_show(audit) for audit in audits[:MAPS_SHOWN])
    except (DataError, *DAMAGE):
        record.notes.append(f"{AUDIT} is not laid out as `skygen audit` writes it and was left out.")
        return None
    return AuditSection(record.name, sets, len(audits) - len(sets)) if sets else None


def _show(audit: Audit) -> AuditedSet:
    cells = audit.geography.cells
    for west, south, count in cells:  # they are written into the drawing as they are
        if not all(type(number) is int for number in (west, south, count)):
            raise TypeError("a cell of the map is not whole numbers")
        if not (-180 <= west <= 180 and -90 <= south <= 90 and 0 < count < MOST_PAIRS):
            raise ValueError("a cell of the map is nowhere on Earth")
    decades = list_decades(cells)
    steps = tuple((f"{opacity(decade, decades):.2f}", f"{10**decade:,} to {10 ** (decade + 1) - 1:,}") for decade in decades)
    return AuditedSet(audit.name, draw_map(cells, audit.name), steps, tuple(_describe(audit)))


def _describe(audit: Audit) -> list[tuple[str, str]]:
    geography, captions = audit.geography, audit.captions
    facts = [("pairs", f"{audit.pairs:,}"), ("images", f"{audit.images:,}")]
    if geography.without_box and audit.pairs:
        facts.append(("without a place", f"{100 * geography.without_box / audit.pairs:.1f} %"))
    countries = next((part.distinct for part in audit.breakdowns if part.name == "country"), 0)
    if countries:
        facts.append(("countries", f"{countries:,}"))
    if geography.top_country is not None:
        facts.append(("most from", f"{country_name(geography.top_country)}, {100 * geography.top_country_share:.0f} %"))
    if geography.land_cells and geography.land_cells_covered is not None:
        facts.append(("land covered", f"{100 * geography.land_cells_covered / geography.land_cells:.0f} % of cells of 10°"))
    facts.append(("distinct captions", f"{captions.distinct:,} of {captions.count:,}"))
    if captions.words is not None:
        facts.append(("words a caption", f"{captions.words.median:g}"))
    return facts
