"""Draws one metric over the rounds, each value with its interval, as SVG in the page's colours."""

from __future__ import annotations

import math
from typing import Final

from markupsafe import Markup, escape

from skygen.evaluation.reports.tables import choose_digits
from skygen.evaluation.rounds.trends import Trend

WIDTH: Final = 320
HEIGHT: Final = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 26
"""Room beside the drawing, for the numbers of its scale and the names of the rounds."""
_CAP: Final = 5
"""Half the width of the end of a whisker."""


def draw_trend(trend: Trend) -> Markup:
    """Draw a metric: a dot a round with its 95 % interval, and a dashed line where real images are.

    Returns:
        An ``<svg>`` element, or nothing where no value is finite.
    """
    points = [point for point in trend.points if math.isfinite(point.score.value)]
    if not points:
        return Markup("")
    real = next((point.real for point in reversed(points) if point.real is not None), None)
    numbers = [number for point in points for number in (point.score.value, *(point.score.interval or ()))]
    numbers += [real.value] if real else []
    low, high = min(numbers), max(numbers)
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 0.5
    digits = choose_digits(max(map(abs, numbers)))

    def across(place: int) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (place + 0.5) / len(points), 1)

    def down(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low + margin) / (high - low + 2 * margin), 1)

    shapes = [_rule(down(low), f"{low:.{digits}f}")] + ([_rule(down(high), f"{high:.{digits}f}")] if high > low else [])
    if real:
        shapes.append(_dashes(down(real.value)))
    corners = [(across(place), down(point.score.value)) for place, point in enumerate(points)]
    path = "L".join(f"{x} {y}" for x, y in corners)
    shapes.append(f'<path d="M{path}" fill="none" stroke="var(--accent)" stroke-opacity=".35" stroke-width="1.5"/>')
    for (x, y), point in zip(corners, points, strict=True):
        if point.score.interval is not None:
            shapes.append(_whisker(x, *map(down, point.score.interval)))
        shapes.append(f'<circle cx="{x}" cy="{y}" r="4" fill="var(--accent)"/>')
        shapes.append(_text(x, HEIGHT - 8, f"round {point.round}", "middle"))
    values = ", ".join(f"{point.score.value:.{digits}f} in round {point.round}" for point in points)
    description = escape(f"{trend.name} over the rounds: {values}")
    # safe: numbers and words of this module, but for the description, which is escaped
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">{"".join(shapes)}</svg>')


def _rule(y: float, label: str) -> str:
    line = f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="var(--faint)" stroke-width="1"/>'
    return line + _text(_LEFT - 6, y + 3.5, label.replace("-", "\N{MINUS SIGN}"), "end")


def _dashes(y: float) -> str:
    line = f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="var(--muted)" stroke-width="1.3" stroke-dasharray="5 3"/>'
    return line + _text(WIDTH - _RIGHT, y - 4, "real images", "end")


def _whisker(x: float, bottom: float, top: float) -> str:
    ends = "".join(f"M{x - _CAP} {y}h{2 * _CAP}" for y in (bottom, top))
    return f'<path d="M{x} {bottom}V{top}{ends}" stroke="var(--accent)" stroke-width="1.6" stroke-opacity=".6"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="10.5" fill="var(--soft)">{words}</text>'
