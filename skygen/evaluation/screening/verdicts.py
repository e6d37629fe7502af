"""What becomes of each picture of a synthetic set: kept, or a copy, a duplicate, weak, or off its prompt, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
from jaxtyping import Bool, Float, Int64

from skygen.evaluation.intervals import bootstrap_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.evaluation.screening.copies import CopyRule, find_duplicates
from skygen.evaluation.screening.nearest_images import ImageSet, Nearest
from skygen.seeding import Seeds

Verdict = Literal["kept", "copy", "duplicate", "weak", "off_prompt"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the pictures of a set that could be read, in their order.

    Args:
        rows: their places in the set.
        nearest: training images.
        similarity: SkyCLIP's cosine of picture and prompt.
        cycle: cosine of prompt and caption; None where nobody captioned them.
    """

    rows: Int64[np.ndarray, " pictures"]
    nearest: Nearest
    similarity: Float[np.ndarray, " pictures"]
    cycle: Float[np.ndarray, " pictures"] | None = None


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """Below what a picture is dropped; None drops none.

    Args:
        similarity: of picture and prompt.
        cycle: of prompt and caption.
    """

    similarity: float | None
    cycle: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of one picture.

    Args:
        verdict: the gravest of the reasons.
        reasons: all of them, in words, the gravest first.
        copied_by: ``similarity``, ``hash``, or both, which is sure.
        repeats: the row of the picture that a duplicate repeats; else -1.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    copied_by: tuple[str, ...] = ()
    repeats: int = -1


def judge_pictures(pictures: ImageSet, evidence: Evidence, rule: CopyRule, bounds: Bounds) -> list[Judged]:
    """Judge the pictures of a set.

    Duplicates are looked for among those that nothing else speaks against, so that of each group of equals one stays.

    Args:
        pictures: of the whole set.
        evidence: of those that could be read.
        rule: of copies.
        bounds: of similarity and cycle score.
    """
    copied = np.stack([rule.by_similarity(evidence.nearest), rule.by_hash(evidence.nearest)], axis=1)
    judged = [_judge(place, evidence, rule, bounds, copied[place]) for place in range(len(evidence.rows))]
    good = np.flatnonzero([each.verdict == "kept" for each in judged]).astype(np.int64)
    for place, first in zip(good.tolist(), find_duplicates(pictures, evidence.rows[good], rule).tolist(), strict=True):
        if first >= 0:
            reason = f"the same picture as {pictures.pairs[first].key}"
            judged[place] = Judged("duplicate", (reason,), repeats=first)
    return judged


def _judge(place: int, evidence: Evidence, rule: CopyRule, bounds: Bounds, copied: Bool[np.ndarray, " by"]) -> Judged:
    nearest, verdicts, reasons = evidence.nearest, [], []
    if copied[0]:
        reasons.append(f"similarity {nearest.similarity[place]:.4f} to a training image, above {rule.similarity:.4f}")
    if copied[1]:
        reasons.append(f"hash distance {nearest.hash_distance[place]:.0f} to a training image, at most {rule.hash_distance}")
    if copied.any():
        verdicts.append("copy")
    for verdict, what, values, least in (
        ("weak", "similarity to the prompt", evidence.similarity, bounds.similarity),
        ("off_prompt", "similarity of prompt and caption", evidence.cycle, bounds.cycle),
    ):
        if values is not None and least is not None and values[place] < least:
            verdicts.append(verdict)
            reasons.append(f"{what} {values[place]:.4f}, below {least:.4f}")
    by = tuple(name for name, fires in zip(("similarity", "hash"), copied, strict=True) if fires)
    return Judged(verdicts[0] if verdicts else "kept", tuple(reasons), by)  # type: ignore[arg-type]  # of VERDICTS


def count_verdicts(judged: Sequence[Judged]) -> dict[Verdict, int]:
    """Count the pictures of each verdict, in the order of ``VERDICTS``."""
    counts = Counter(each.verdict for each in judged)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def screening_scores(
    judged: Sequence[Judged],
    evidence: Evidence,
    control: Nearest,
    rule: CopyRule,
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Measure what the screening has found, beside the same of real images.

    Args:
        judged: every picture that could be read.
        evidence: of the same.
        control: what was found of the real control images that could be read.
        rule: of copies.
        model: that drew the pictures.
        subset: which real images the control is.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        Of the set the share of each verdict, ``kept_share``, ``copy_share`` and so on, in [0, 1]; of set and control
        ``copy_by_similarity_share`` and ``copy_by_hash_share``, and the medians ``nearest_real_similarity``, a cosine, and
        ``nearest_real_hash_distance``, in bits of 64. A share of 0 or 1 has no bootstrap interval.
    """
    found = []
    for verdict in VERDICTS:
        if verdict != "off_prompt" or evidence.cycle is not None:
            items = np.array([each.verdict == verdict for each in judged], np.float64)
            found.append(_share(f"{verdict}_share", items, model, "prompts", extractor, seeds))
    for whose, nearest in ((model, evidence.nearest), ("real", control)):
        where = "prompts" if whose == model else subset
        for name, fires in (("similarity", rule.by_similarity(nearest)), ("hash", rule.by_hash(nearest))):
            by = extractor if name == "similarity" else ""
            found.append(_share(f"copy_by_{name}_share", fires.astype(np.float64), whose, where, by, seeds))
        for name, values, by in (
            ("nearest_real_similarity", nearest.similarity, extractor),
            ("nearest_real_hash_distance", nearest.hash_distance, ""),
        ):
            enough = len(values) >= SMALLEST_FOR_INTERVAL
            interval = bootstrap_interval(values, seeds=seeds, statistic=_median) if enough else None
            found.append(Score(name, _median(values), len(values), interval, whose, f"{where}, median", by))
    return found


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _share(name: str, items: Float[np.ndarray, " pictures"], model: str, subset: str, extractor: str, seeds: Seeds) -> Score:
    if len(set(items.tolist())) == 1:  # every resample is the same, which says nothing of how sure that is
        return Score(name, float(items[0]), len(items), None, model, subset, extractor)
    return mean_score(name, items, model=model, subset=subset, extractor=extractor, seeds=seeds)
