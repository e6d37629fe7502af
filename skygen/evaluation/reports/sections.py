"""The sections of the report: what is picked from the files of a run, and how much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from markupsafe import Markup

from skygen.errors import StorageError
from skygen.evaluation.parquet_files import open_parquet
from skygen.evaluation.reports.figures import draw_curve, draw_distributions, draw_similarities
from skygen.evaluation.reports.records import (
    DAMAGE,
    PREVIEW_SCORES,
    CaptionedImage,
    LoggedStep,
    RunRecord,
    ScoredPair,
    parse_captions,
    parse_previews,
    parse_screened,
    parse_step,
)
from skygen.evaluation.reports.thumbnails import Thumbnail, show_images, space_out

SCORES = "scores.parquet"
PREVIEWS = "previews/scores.jsonl"
NEARNESS = {
    "similarity": "SkyCLIP similarity to the nearest training image",
    "hash_distance": "hash distance to the nearest training image, bits of 64",
}
"""What ``copies_control.json`` has curves of, and what the page calls it."""
PAIRS_SHOWN = 6
"""Of the best pairs, and of the worst."""


@dataclass(frozen=True, slots=True)
class PairsSection:
    """Pairs by SkyCLIP score."""

    run: str
    count: int
    kept: int
    histogram: Markup
    best: tuple[tuple[Thumbnail, ScoredPair], ...]
    worst: tuple[tuple[Thumbnail, ScoredPair], ...]


@dataclass(frozen=True, slots=True)
class CurvesSection:
    """A training, as two curves and a few facts."""

    run: str
    curves: tuple[Markup, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CaptionsSection:
    """What models say of images, beside what people say."""

    run: str
    count: int
    models: tuple[str, ...]
    rows: tuple[tuple[Thumbnail, CaptionedImage], ...]
    constant: str


@dataclass(frozen=True, slots=True)
class ScreeningSection:
    """What became of a synthetic set, and how near it comes to the training images beside real ones."""

    run: str
    verdicts: tuple[tuple[str, int], ...]
    copied_by: tuple[tuple[str, int], ...]
    control: str
    real: int
    in_training: int
    curves: tuple[Markup, ...]


def show_pairs(record: RunRecord) -> PairsSection | None:
    """Pick the best and the worst pairs of ``scores.parquet``; None where the run has none."""
    table = record.read_table(SCORES, ("image", "caption", "similarity", "kept"))
    if table is None or not len(table):
        return None
    values = table.column("similarity").to_numpy().astype(np.float64)
    stays = table.column("kept").to_numpy().astype(np.float64)
    order = np.argsort(-values, kind="stable")
    count = min(PAIRS_SHOWN, len(order))
    picked = table.take(np.concatenate([order[:count], order[::-1][:count]]))
    best_and_worst = [ScoredPair(**row) for row in picked.to_pylist()]
    shown = show_images(record, SCORES, best_and_worst)
    return PairsSection(
        run=record.name,
        count=len(values),
        kept=int(stays.sum()),
        histogram=draw_similarities(
            values, stays, find_threshold(values[stays > 0], values[stays == 0]), read_mismatched(record)
        ),
        best=shown[:count],
        worst=shown[count:],
    )


def read_mismatched(record: RunRecord) -> Float[np.ndarray, " others"] | None:
    """Read the cosines of images with captions of others; None where a run has none."""
    try:
        table = open_parquet(record.folder / SCORES).read(columns=["mismatched"])
    except (pa.ArrowException, OSError, StorageError):
        return None
    values = table.column("mismatched").to_numpy().astype(np.float64) if table.num_columns else np.zeros(0)
    return values[np.isfinite(values)]


def find_threshold(kept: Float[np.ndarray, " kept"], dropped: Float[np.ndarray, " dropped"]) -> float | None:
    """Return the smallest similarity kept, where it lies above all that were dropped: else no one threshold was used."""
    if not len(kept) or (len(dropped) and dropped.max() > kept.min()):
        return None
    return float(kept.min())


def show_training(record: RunRecord) -> CurvesSection | None:
    """Draw loss and gradient norm from ``log.jsonl``; None where the run has none."""
    steps = list(record.read_rows("log.jsonl", parse_step))
    if not steps:
        return None
    numbers = [step.step for step in steps]
    curves = (
        draw_curve(numbers, [step.loss for step in steps], "loss"),
        draw_curve(numbers, [step.gradient_norm for step in steps], "gradient norm"),
    )
    return CurvesSection(record.name, (*curves, *_draw_previews(record)), tuple(_describe_training(steps)))


def _draw_previews(record: RunRecord) -> Iterator[Markup]:
    """Draw how the captions of the preview images were scored along the training, where a run has noted that more than once."""
    if not (record.folder / PREVIEWS).is_file():
        return
    previews = list(record.read_rows(PREVIEWS, parse_previews))
    for name, words in PREVIEW_SCORES.items():
        scored = [preview for preview in previews if name in preview.values]
        if len(scored) > 1:
            yield draw_curve([preview.step for preview in scored], [preview.values[name] for preview in scored], words)


def _describe_training(steps: Sequence[LoggedStep]) -> Iterator[tuple[str, str]]:
    tenth = max(1, len(steps) // 10)
    first, last = (np.asarray([step.loss for step in part]) for part in (steps[:tenth], steps[-tenth:]))
    if np.isfinite(first).any() and np.isfinite(last).any():
        yield "loss, first → last tenth", f"{first[np.isfinite(first)].mean():.4g} → {last[np.isfinite(last)].mean():.4g}"
    seconds, images = sum(step.seconds for step in steps), sum(step.images for step in steps)
    yield "updates", f"{steps[-1].step:,}"
    yield "images seen", f"{images:,}"
    if seconds > 0:
        yield "images per second", f"{images / seconds:.3g}"
        yield "waited for data", f"{sum(step.data_seconds for step in steps) / seconds:.0%} of the time"
    if skipped := sum(step.skipped for step in steps):
        yield "updates left out", f"{skipped:,}, not finite"


def show_captions(record: RunRecord) -> CaptionsSection | None:
    """Lay out evenly spaced rows of ``captions.jsonl``, never picked by hand; None where the run has none."""
    rows = list(record.read_rows("captions.jsonl", parse_captions))
    if not rows:
        return None
    said = {model for row in rows for model in row.captions}
    others = said - {"base", "tuned", "constant", "class_mode"}
    models = [model for model in ("base", "tuned") if model in said] + sorted(others)
    constants = {row.captions["constant"] for row in rows if "constant" in row.captions}
    return CaptionsSection(
        run=record.name,
        count=len(rows),
        models=tuple(models),
        rows=show_images(record, "captions.jsonl", space_out(rows)),
        constant=constants.pop() if len(constants) == 1 else "",
    )


def show_screening(record: RunRecord) -> ScreeningSection | None:
    """Count the verdicts of ``screened.jsonl``, and draw ``copies_control.json``; None where the run has neither."""
    rows = list(record.read_rows("screened.jsonl", parse_screened))
    if not rows:
        return None
    verdicts, by = Counter(row.verdict for row in rows), Counter(" and ".join(row.copied_by) for row in rows if row.copied_by)
    control, curves, real, known = record.read_mapping("copies_control.json"), [], 0, 0
    try:
        for name, words in NEARNESS.items() if control else ():
            if "real" in control[name]:
                whose = (control["levels"], control[name]["synthetic"], control[name]["real"])
                curves.append(draw_distributions(*whose, control["bounds"][name], words))
        real, known = (int(control["counts"][name]) if control else 0 for name in ("real", "real_in_training"))
    except DAMAGE:
        record.notes.append("copies_control.json is not laid out as skygen writes it and was left out.")
        control, curves = {}, []
    told = str(control.get("control", ""))
    return ScreeningSection(
        record.name, tuple(verdicts.most_common()), tuple(by.most_common()), told, real, known, tuple(curves)
    )
