"""What the report draws: curves and histograms as SVG that takes the page's colours, and thumbnails as data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape
from PIL import Image

from skygen.data.images import open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THUMBNAIL_SIDE = 256
PIXELATED_SIDE = 128
"""Images up to this side are enlarged by the page pixel by pixel: smoothing would show detail that is not there."""
CURVE_POINTS = 400
HISTOGRAM_BINS = 40
LARGEST_DRAWN = 1e30
"""A training that has blown up must not break the arithmetic of the axes."""

# Colours that no drawing needs, each replaced by one of the page's own, so that one figure serves light and dark.
_SOFT, _FAINT, _MAIN, _SECOND, _MARK = "#010203", "#010204", "#010205", "#010206", "#010207"
_SERIES = ("#010208", "#010209", "#01020a", "#01020b")
_PAGE_COLOURS = {
    _SOFT: "var(--soft)", _FAINT: "var(--faint)", _MAIN: "var(--accent)", _SECOND: "var(--muted)", _MARK: "var(--ink)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}  # fmt: skip
SERIES_DASHES = ("", "5 2", "1.5 1.5", "6 2 1.5 2")
"""Of each series, so that nobody needs to tell them by colour."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
}


def draw_curve(steps: Sequence[int], values: Sequence[float], name: str) -> Markup:
    """Draw one quantity over the updates: every value faintly, a running mean strongly.

    Args:
        steps: numbers of the updates.
        values: of the quantity; values that are not finite are left out.
        name: of the quantity, as the y axis and the alternative text say it.

    Returns:
        An ``<svg>`` element, or nothing where no value is finite.
    """
    x, y = thin_out(np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64))
    if not len(y):
        return Markup("")
    smooth = smooth_curve(y)

    def draw(axes: Axes) -> None:
        axes.plot(x, y, color=_MAIN, linewidth=0.7, alpha=0.35)
        axes.plot(x, smooth, color=_MAIN, linewidth=1.6, solid_capstyle="round")
        # one wild update must not flatten the rest
        low, high = min(y.min(), smooth.min()), max(float(np.quantile(y, 0.99)), smooth.max())
        margin = 0.06 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlim(x[0], x[-1] if x[-1] > x[0] else x[0] + 1)
        axes.set_xlabel("update")
        axes.set_ylabel(name)

    return _to_svg(draw, f"{name} over the updates, from {smooth[0]:.4g} to {smooth[-1]:.4g}")


def draw_similarities(
    similarities: Float[np.ndarray, " count"],
    kept: Float[np.ndarray, " count"],
    threshold: float | None,
    mismatched: Float[np.ndarray, " others"] | None = None,
) -> Markup:
    """Draw the histogram of SkyCLIP similarities, kept pairs on dropped ones, with the threshold that parts them.

    The outline before them is that of the same images with other captions: where it lies, a similarity says nothing.

    Args:
        similarities: cosine of image and text, one a pair.
        kept: 1 for a kept pair, 0 for a dropped one.
        threshold: smallest similarity that was kept; None where no single one parts the pairs.
        mismatched: cosines of images and captions of others; None where they are not known.
    """
    others = np.zeros(0) if mismatched is None else mismatched
    edges = np.histogram_bin_edges(np.concatenate([similarities, others]), bins=HISTOGRAM_BINS)
    stays = kept > 0

    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        parts = [similarities[stays], similarities[~stays]]
        axes.hist(parts, bins=list(edges), stacked=True, color=[_MAIN, _SECOND], rwidth=0.88, linewidth=0)
        if len(others):
            axes.hist(others, bins=list(edges), histtype="step", color=_SOFT, linewidth=1.1)
        if threshold is not None and not stays.all():
            axes.axvline(threshold, color=_MARK, linewidth=1.0, linestyle=(0, (3, 2)))
            right = threshold < (edges[0] + edges[-1]) / 2
            axes.annotate(
                f"kept from {threshold:.3f}", (threshold, 1.0), xycoords=("data", "axes fraction"), color=_MARK,
                xytext=(4 if right else -4, -1), textcoords="offset points", ha="left" if right else "right", va="top",
            )  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.16)  # room for the words above the bars
        axes.set_xlabel("SkyCLIP similarity" + (" (outline: with captions of other images)" if len(others) else ""))
        axes.set_ylabel("pairs")

    return _to_svg(draw, f"histogram of the SkyCLIP similarities of {len(similarities)} pairs")


def draw_distributions(
    levels: Sequence[float], synthetic: Sequence[float], real: Sequence[float], bound: float | None, words: str
) -> Markup:
    """Draw how near synthetic pictures come to training images, and real ones, as two cumulative distributions.

    Args:
        levels: shares of the pictures, in [0, 1].
        synthetic: what so many of the synthetic pictures have at most.
        real: the same of the real ones.
        bound: from which a picture counts as a copy; None where there is none.
        words: what is measured, for the x axis.
    """

    def draw(axes: Axes) -> None:
        axes.step(real, levels, where="post", color=_SECOND, linewidth=1.6)
        axes.step(synthetic, levels, where="post", color=_MAIN, linewidth=1.6)
        if bound is not None:
            axes.axvline(bound, color=_MARK, linewidth=1.0, linestyle=(0, (3, 2)))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(words)
        axes.set_ylabel("share of pictures")

    return _to_svg(draw, f"{words}: cumulative distributions of synthetic pictures and of real ones")


def draw_densities(values: Sequence[Float[np.ndarray, " _count"]], models: Sequence[str], words: str) -> Markup:
    """Draw how the scores of single items are spread, as one outline a model over the same bins.

    Args:
        values: the items' scores, model by model; those of a model may be empty.
        models: their names, at most four; colour and dashes follow their order.
        words: what is measured, for the x axis.
    """
    everything = np.concatenate([own[np.abs(own) < LARGEST_DRAWN] for own in values])
    bins = min(HISTOGRAM_BINS, max(5, int(np.sqrt(max(map(len, values))))))
    edges = np.histogram_bin_edges(everything, bins=bins)

    def draw(axes: Axes) -> None:
        for own, colour, dashes in zip(values, _SERIES, SERIES_DASHES, strict=False):
            if not len(own):
                continue
            shares = np.histogram(own, bins=edges)[0] / len(own)
            style = (0, tuple(map(float, dashes.split()))) if dashes else "-"
            axes.stairs(100 * shares, edges, baseline=0, color=colour, linewidth=1.5, linestyle=style)
            axes.plot([own.mean()] * 2, [0, 0.05], transform=axes.get_xaxis_transform(), color=colour, linewidth=2.5)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.set_xlabel(words)
        axes.set_ylabel("share of items, %")

    means = ", ".join(f"{model} {own.mean():.4g}" for model, own in zip(models, values, strict=True) if len(own))
    return _to_svg(draw, f"{words}: distributions of single items by model; means: {means}")


def thin_out(
    x: Float[np.ndarray, " count"], y: Float[np.ndarray, " count"]
) -> tuple[Float[np.ndarray, " thinned"], Float[np.ndarray, " thinned"]]:
    """Leave out what is not finite, and average neighbours until a page can carry the curve (``CURVE_POINTS``)."""
    usable = np.abs(y) < LARGEST_DRAWN
    x, y = x[usable], y[usable]
    if len(y) <= CURVE_POINTS:
        return x, y
    starts = np.linspace(0, len(y), CURVE_POINTS, endpoint=False).astype(int)
    counts = np.diff([*starts, len(y)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def smooth_curve(values: Float[np.ndarray, " count"]) -> Float[np.ndarray, " count"]:
    """Return the exponential running mean, without the pull towards zero at its start, over about a twentieth of the curve."""
    decay = 1.0 - 1.0 / max(1.0, len(values) / 20)
    means, total, weight = np.empty(len(values)), 0.0, 0.0
    for index, value in enumerate(values):
        total, weight = decay * total + value, decay * weight + 1.0
        means[index] = total / weight
    return means


def encode_thumbnail(path: Path) -> tuple[str, bool]:
    """Turn an image into a data URI: as it is where it is small, else within 256 x 256 pixels as JPEG.

    Returns:
        The URI, and whether the page should enlarge the image pixel by pixel.

    Raises:
        ImageError: if it cannot be used.
    """
    image = open_image(path)
    small = max(image.size) <= PIXELATED_SIDE
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=86)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", small


def _to_svg(draw: Callable[[Axes], None], description: str) -> Markup:
    """Draw on fresh axes and return an ``<svg>`` element that fits its place, in the page's colours and font."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": description}):
        figure = Figure(figsize=(4.4, 2.2), layout="constrained")
        draw(figure.add_subplot())
        # safe: matplotlib escapes its text, and _clean the description
        return Markup(_clean(_save(figure), description))


def _save(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def _clean(svg: str, description: str) -> str:
    """Strip what only a file of its own needs, the namespaces and global style among it, and put in the page's colours."""
    opening = re.search(r"<svg[^>]*viewBox=\"([^\"]+)\"[^>]*>", svg)
    if opening is None:
        raise ValueError("matplotlib wrote no <svg> element")
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg[opening.end() :], flags=re.DOTALL).replace("xlink:href", "href")
    body = re.sub(r"<g id=\"[^\"]*\"", "<g", body)  # figure_1, axes_1: the same in every figure of the page
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for colour, replacement in _PAGE_COLOURS.items():
        body = body.replace(colour, replacement)
    return f'<svg viewBox="{opening[1]}" role="img" aria-label="{escape(description)}">{body}'
