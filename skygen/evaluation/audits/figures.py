"""Draws where the pairs of a set are: a map of the world in the page's colours, written as SVG without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Bool
from markupsafe import Markup, escape

from skygen.data.geography import land_grid
from skygen.errors import UnavailableError

CELL: Final = 2
"""Degrees a side of the cells that are drawn."""
DOTTED_BELOW: Final = 150
"""So few cells are drawn as dots, for a cell is 4 pixels wide on a page."""
DOT_RADIUS: Final = 1.6
GRATICULE: Final = 30


def draw_map(cells: Sequence[tuple[int, int, int]], name: str) -> Markup:
    """Draw pairs per cell of 2 degrees on an equirectangular map, darker by powers of ten.

    Args:
        cells: west and south edge in degrees, and pairs.
        name: of the set, for the alternative text.

    Returns:
        An ``<svg>`` element. Land is drawn where timezonefinder is installed.
    """
    decades = list_decades(cells)
    shapes = []
    for decade in decades:
        chosen = [(west, south) for west, south, count in cells if len(str(count)) - 1 == decade]
        shape = _dots(chosen) if len(cells) < DOTTED_BELOW else _squares(chosen)
        shapes.append(f'<path fill="var(--accent)" fill-opacity="{opacity(decade, decades):.2f}" d="{shape}"/>')
    pairs = sum(count for _, _, count in cells)
    description = escape(f"map of the world with the {pairs:,} pairs of {name} that have a place, in {len(cells):,} cells")
    # safe: numbers alone, but for the description, which is escaped
    return Markup(
        f'<svg viewBox="-180 -90 360 180" role="img" aria-label="{description}">'
        f'<path fill="var(--land)" d="{_land_shape()}"/>'
        f'<path fill="none" stroke="var(--line)" stroke-width=".25" d="{_graticule_shape()}"/>{"".join(shapes)}</svg>'
    )


def list_decades(cells: Sequence[tuple[int, int, int]]) -> list[int]:
    """Return the powers of ten that the cells' numbers of pairs need, from the least to the greatest: 0 for 1 to 9 pairs."""
    greatest = max((len(str(count)) - 1 for _, _, count in cells), default=-1)
    return list(range(greatest + 1))


def opacity(decade: int, decades: Sequence[int]) -> float:
    """Return how strongly cells of a power of ten are drawn, in [0.35, 1]."""
    return 1.0 - 0.65 * (len(decades) - 1 - decade) / max(len(decades) - 1, 1)


def _squares(cells: Sequence[tuple[int, int]]) -> str:
    return "".join(f"M{west} {-south - CELL}h{CELL}v{CELL}h-{CELL}z" for west, south in cells)


def _dots(cells: Sequence[tuple[int, int]]) -> str:
    radius, half = DOT_RADIUS, CELL / 2
    arc = f"a{radius} {radius} 0 1 0 "
    return "".join(
        f"M{west + half - radius:g} {-south - half:g}{arc}{2 * radius} 0{arc}-{2 * radius} 0z" for west, south in cells
    )


def _graticule_shape() -> str:
    meridians = "".join(f"M{longitude} -90v180" for longitude in range(-180 + GRATICULE, 180, GRATICULE))
    return meridians + "".join(f"M-180 {latitude}h360" for latitude in range(-90 + GRATICULE, 90, GRATICULE))


@cache
def _land_shape() -> str:
    try:
        return _runs(land_grid())
    except UnavailableError:
        return ""


def _runs(land: Bool[np.ndarray, "180 360"]) -> str:
    """Write each run of land cells in a row as one rectangle, a little taller than its row so that no seam shows."""
    shapes = []
    for row, cells in enumerate(land):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
        shapes += [
            f"M{start - 180} {89 - row}h{end - start}v1.05h-{end - start}z"
            for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        ]
    return "".join(shapes)
