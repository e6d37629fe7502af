"""One page, and one JSON file, of what sets of pairs are made of; several sets stand side by side.

The page is a single file: it asks for nothing over the network, needs no script, and is the same for the same audits.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from skygen import plain_json
from skygen.data.geography import country_name
from skygen.errors import ConfigError, DataError
from skygen.evaluation.audits.figures import draw_map, list_decades, opacity
from skygen.evaluation.audits.records import Audit, ComparedRow, Comparison, compare
from skygen.evaluation.audits.tallies import Quantiles
from skygen.evaluation.pages.page import write_page
from skygen.storage import writing

PAGE_ROWS: Final = 20
"""Values of a breakdown that the page shows; audit.json has more."""
PAGE_CAPTIONS: Final = 12
NONE: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"
SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "Places": {"continent": "Continent", "country": "Country", "latitude": "Latitude"},
    "Sensors and time": {"source": "Source", "gsd": "Ground sample distance", "year": "Year", "month": "Month"},
    "Objects": {
        "class_name": "Class", "tag_key": "Tag key", "tag": "Tag", "object_type": "Object type", "split": "Split",
        "problem": "Problem",
    },
}  # fmt: skip
_QUANTILES: Final = ("minimum", "p05", "p25", "median", "p75", "p95", "maximum")


def write_audit(audits: Sequence[Audit], folder: Path) -> Path:
    """Write ``audit.html``, and beside it ``audit.json`` with all that was counted.

    Args:
        audits: in the order of the columns; the first is what the others are compared with.
        folder: made if it is not there.

    Returns:
        The path of the page.

    Raises:
        ConfigError: no audit is given.
        StorageError: a file cannot be written.
    """
    if not audits:
        raise ConfigError("no audit to write; give a folder of pairs.")
    version = importlib.metadata.version("skygen")
    tree: dict[str, Any] = {"skygen": version, "audits": [audit.to_tree() for audit in audits]}
    with writing(folder / "audit.json") as temporary:
        temporary.write_text(json.dumps(tree, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_page(folder / "audit.html", "audit.html.jinja", {"version": version, **build_page(audits)})
    return folder / "audit.html"


def read_audits(path: Path) -> list[Audit]:
    """Read what ``write_audit`` wrote.

    Args:
        path: of an ``audit.json``.

    Raises:
        DataError: the file is missing, or is no such file.
    """
    try:
        return [Audit.from_tree(tree) for tree in plain_json.parse(path.read_text(encoding="utf-8"))["audits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as an audit; write it again with `skygen audit`.") from error


def build_page(audits: Sequence[Audit]) -> dict[str, Any]:
    """Put into words and shapes what the page shows."""
    comparisons = {comparison.name: comparison for comparison in compare(audits)}
    sections, unknown = [], []
    for heading, names in SECTIONS.items():
        unknown += [title.lower() for name, title in names.items() if not comparisons[name].rows]
        tables = [_tabulate(comparisons[name], title, audits) for name, title in names.items() if comparisons[name].rows]
        if tables:
            sections.append((heading, tables))
    return {
        "names": [audit.name for audit in audits],
        "notes": [(audit.name, note) for audit in audits for note in audit.notes],
        "measures": _measure(audits),
        "maps": [(audit.name, draw_map(audit.geography.cells, audit.name), _explain_map(audit)) for audit in audits],
        "sections": sections,
        "unknown": unknown,
        "spreads": _spread(audits),
        "captions": [(audit.name, audit.captions.top[:PAGE_CAPTIONS]) for audit in audits if audit.captions.top],
    }


def _explain_map(audit: Audit) -> list[tuple[str, str]]:
    """Return opacity and words of each step of the map's key."""
    decades = list_decades(audit.geography.cells)
    ends = [("1" + "0" * decade, "9" * (decade + 1)) for decade in decades]
    return [
        (f"{opacity(decade, decades):.2f}", f"{int(low):,} to {int(high):,}")
        for decade, (low, high) in zip(decades, ends, strict=True)
    ]


def _tabulate(comparison: Comparison, title: str, audits: Sequence[Audit]) -> dict[str, Any]:
    rows = comparison.rows if comparison.name in ("latitude", "year", "month", "gsd") else comparison.rows[:PAGE_ROWS]
    parts = [next(part for part in audit.breakdowns if part.name == comparison.name) for audit in audits]
    longest = max((share or 0.0 for row in rows for share in row.shares), default=0.0) or 1.0
    return {
        "title": title,
        "rows": [
            {
                "label": _label(comparison.name, row.value),
                "bars": [f"{100 * (share or 0.0) / longest:.2f}" for share in row.shares],
                "cells": _cells(row),
            }
            for row in rows
        ],
        "more": max(part.distinct for part in parts) - len(rows),
        "missing": [_percent(part.missing / audit.pairs) for part, audit in zip(parts, audits, strict=True)],
        "any_missing": any(part.missing for part in parts),
        "effective": [f"{part.effective:,.1f}" for part in parts],
        "distinct": [f"{part.distinct:,}" for part in parts],
    }


def _cells(row: ComparedRow) -> list[tuple[str, str]]:
    """Return the share of each set, with the number of pairs below the first and the difference below the others."""
    cells = []
    for place, (count, share, difference) in enumerate(zip(row.counts, row.shares, row.differences, strict=True)):
        below = f"{count:,}" if count is not None else ""
        if place:
            below = "" if difference is None else f"{difference:+.1f}".replace("-", MINUS)
        cells.append((NONE if share is None else _percent(share), below))
    return cells


def _label(name: str, value: str) -> str:
    return f"{country_name(value)} ({value})" if name == "country" else value


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def _measure(audits: Sequence[Audit]) -> list[tuple[str, str, list[str]]]:
    """Return the figures of the whole sets: name, what it means, and the value of each set."""

    def of(name: str, audit: Audit) -> str:
        part = next(part for part in audit.breakdowns if part.name == name)
        return f"{part.effective:,.1f}" if part.distinct else NONE

    lines = []
    for audit in audits:
        geography, captions, pixels = audit.geography, audit.captions, audit.pixels
        lines.append(
            [
                ("pairs", "", f"{audit.pairs:,}"),
                ("images", "with different paths", f"{audit.images:,}"),
                ("without a box", "pairs whose place is not known", _percent(geography.without_box / audit.pairs)),
                ("top country", "share of the pairs whose country is known", _top_country(audit)),
                ("effective countries", "so many equally frequent ones would be as diverse (Hill number of order 1)",
                 of("country", audit)),
                ("land covered", "cells of 10° with land, north of 60° south, that hold a pair", _land(audit)),
                ("effective tags", "Hill number of order 1", of("tag", audit)),
                ("captions", "", f"{captions.count:,}"),
                ("distinct captions", "", f"{captions.distinct:,}"),
                ("effective captions", "Hill number of order 1", f"{captions.effective:,.1f}"),
                ("repeated captions", "share whose text occurs more than once", _percent(captions.repeated_share)),
                ("half of the captions", "so many texts make up half of them", f"{captions.covering_half:,}"),
                ("three quarters", "so many texts make up three quarters", f"{captions.covering_three_quarters:,}"),
                ("cut by CLIP", "captions longer than its 77 tokens", _percent(captions.truncated_share)),
                ("enlarged for 512 pixels", "images with a side below 512 pixels, of those whose size is known",
                 _percent(pixels.upsampled_share) if pixels.known else NONE),
            ]
        )  # fmt: skip
    return [(line[0][0], line[0][1], [value for _, _, value in line]) for line in zip(*lines, strict=True)]


def _top_country(audit: Audit) -> str:
    country, share = audit.geography.top_country, audit.geography.top_country_share
    return NONE if country is None else f"{country_name(country)}, {_percent(share)}"


def _land(audit: Audit) -> str:
    cells, covered = audit.geography.land_cells, audit.geography.land_cells_covered
    return NONE if not cells or covered is None else f"{_percent(covered / cells)}, {covered} of {cells}"


def _spread(audits: Sequence[Audit]) -> list[tuple[str, str, list[str]]]:
    """Return the quantiles of the captions' words and the images' sides: of what, of which set, and the seven numbers."""
    found: list[tuple[str, str, Quantiles | None]] = []
    found += [("words a caption", audit.name, audit.captions.words) for audit in audits]
    found += [("width in pixels", audit.name, audit.pixels.width) for audit in audits]
    found += [("height in pixels", audit.name, audit.pixels.height) for audit in audits]
    return [(of, name, [f"{getattr(spread, q):,}" for q in _QUANTILES]) for of, name, spread in found if spread is not None]
