"""Scores group by group: where a model is good says little while nobody knows where it is bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from skygen.data.captions import strip_view_prefix
from skygen.data.geography import locate
from skygen.data.pair import Box, Pair
from skygen.evaluation.audits.columns import find_centers
from skygen.evaluation.audits.records import GSD_CLASSES, GSD_EDGES
from skygen.evaluation.scores import Score, mean_score
from skygen.seeding import Seeds

SMALLEST_GROUP: Final = 2
"""Items below which a group has no interval and is left out."""
FREQUENCIES: Final = ((1, "caption occurs once"), (10, "2 to 10 times"), (100, "11 to 100 times"))
MORE_FREQUENT: Final = "more than 100 times"
"""Bands of how many images share a caption: what is rare in the data is what a model learns last."""


@final
@dataclass(frozen=True, slots=True)
class StratumScore:
    """A score of one group.

    Args:
        stratum: what the groups differ in, such as ``continent``.
        group: such as ``Africa``.
        score: of the items in it.
    """

    stratum: str
    group: str
    score: Score

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        return {"stratum": self.stratum, "group": self.group, "score": asdict(self.score)}


def name_groups(pairs: Sequence[Pair | None], classes: Sequence[str]) -> dict[str, list[str]]:
    """Say which groups each item is in; empty where that is not known.

    Args:
        pairs: the pair behind each item; None where there is none, as for a prompt from a text file.
        classes: what each item shows, in words; empty where that is not known.

    Returns:
        Of ``class``, ``continent``, ``source``, ``gsd`` (the bands of the audit) and ``caption frequency`` those in which the
        items differ, to the group of each item.

    Raises:
        UnavailableError: pairs have a place on the ground, and the package that knows its country is not installed.
    """
    frequent = Counter(strip_view_prefix(pair.captions[0]) for pair in pairs if pair)
    known = {
        "class": list(classes),
        "continent": _name_continents(pairs),
        "source": [(pair.source or "") if pair else "" for pair in pairs],
        "gsd": [_name_band(pair.gsd) if pair else "" for pair in pairs],
        "caption frequency": [_name_frequency(frequent[strip_view_prefix(pair.captions[0])]) if pair else "" for pair in pairs],
    }
    return {name: groups for name, groups in known.items() if len(set(groups) - {""}) > 1}


def score_strata(
    groups: Mapping[str, Sequence[str]],
    values: Float[np.ndarray, " count"],
    *,
    name: str,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[StratumScore]:
    """Average a metric of single items within each group.

    Args:
        groups: from ``name_groups``.
        values: of each item; NaN where it has none.
        name: of the metric.
        model: whose output was scored.
        subset: which of the data the items are.
        extractor: the network behind the metric.
        seeds: the run's seeds.

    Returns:
        Of every group with at least ``SMALLEST_GROUP`` items the mean with its interval, the lowest first within a stratum.
        With many groups the lowest is so by chance too: its interval is not one for the worst of many.
    """
    found: list[StratumScore] = []
    for stratum, named in groups.items():
        member = np.array(named)
        own = []
        for group in sorted(set(named) - {""}):
            items = values[(member == group) & np.isfinite(values)]
            if len(items) >= SMALLEST_GROUP:
                score = mean_score(name, items, model=model, subset=subset, extractor=extractor, seeds=seeds)
                own.append(StratumScore(stratum, group, score))
        found += sorted(own, key=lambda each: each.score.value)
    return found


def _name_continents(pairs: Sequence[Pair | None]) -> list[str]:
    boxes = [pair.box if pair else None for pair in pairs]
    if not any(boxes):
        return [""] * len(pairs)
    edges = {name: pa.array([getattr(box, name, None) for box in boxes], pa.float64()) for name in Box._fields}
    longitude, latitude, _ = find_centers(edges)
    return [name or "" for name in locate(longitude, latitude).continent.to_pylist()]


def _name_band(gsd: float | None) -> str:
    return GSD_CLASSES[int(np.searchsorted(GSD_EDGES, gsd))] if gsd and gsd > 0 else ""


def _name_frequency(count: int) -> str:
    return next((words for most, words in FREQUENCIES if count <= most), MORE_FREQUENT)
