"""Scores by protocol, for figures of two protocols never stand in one table, with the networks that they were measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from skygen.evaluation.reports.facts import Network, read_networks
from skygen.evaluation.reports.records import RunRecord
from skygen.evaluation.reports.tables import ScoreTable, tabulate
from skygen.evaluation.scores import Score


@final
@dataclass(frozen=True, slots=True)
class ScoreGroup:
    """All scores of one protocol.

    Args:
        protocol: its name; empty where a run does not tell it.
        runs: names of the runs that were measured by it.
        tables: one a metric and extractor.
        networks: behind the scores, each with the names of the runs that it served; empty where no run tells.
        mismatched: names of extractors that are other weights in one run than in another, so that their values do not compare.
    """

    protocol: str
    runs: tuple[str, ...]
    tables: tuple[ScoreTable, ...]
    networks: tuple[tuple[Network, tuple[str, ...]], ...]
    mismatched: tuple[str, ...]


def group_scores(records: Sequence[RunRecord]) -> list[ScoreGroup]:
    """Read the scores of all runs, protocol by protocol, in the order in which these first come."""
    scored: dict[str, list[tuple[RunRecord, Score]]] = {}
    for record in records:
        protocol, scores = record.read_scores()
        if scores:
            scored.setdefault(protocol, []).extend((record, score) for score in scores)
    return [_group(protocol, rows) for protocol, rows in scored.items()]


def _group(protocol: str, rows: Sequence[tuple[RunRecord, Score]]) -> ScoreGroup:
    records = {record.name: record for record, _ in rows}
    networks: dict[Network, list[str]] = {}
    for name, record in records.items():
        for network in dict.fromkeys(read_networks(record)):
            networks.setdefault(network, []).append(name)
    weights: dict[str, set[str]] = {}
    for network in networks:
        weights.setdefault(network.name, set()).add(network.weights)
    return ScoreGroup(
        protocol,
        tuple(records),
        tuple(tabulate((record.name, score) for record, score in rows)),
        tuple((network, tuple(runs)) for network, runs in networks.items()),
        tuple(name for name, several in weights.items() if len(several) > 1),
    )
