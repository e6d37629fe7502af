"""What a reader must know before any score: what could have leaked into it, and the known faults of its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from skygen.evaluation.reports.facts import Leak, read_faults, read_leakage
from skygen.evaluation.reports.records import RunRecord


@final
@dataclass(frozen=True, slots=True)
class Leakage:
    """Answers that runs give alike.

    Args:
        runs: names of the runs.
        answers: in the order of the first run.
    """

    runs: tuple[str, ...]
    answers: tuple[Leak, ...]


@final
@dataclass(frozen=True, slots=True)
class Faults:
    """Known faults of a protocol.

    Args:
        protocol: its name; empty where the runs do not tell it.
        runs: names of the runs that were measured by it.
        sentences: a fault each.
    """

    protocol: str
    runs: tuple[str, ...]
    sentences: tuple[str, ...]


def gather_leakage(records: Sequence[RunRecord]) -> list[Leakage]:
    """Gather what could have leaked, run by run; runs that answer alike share a table."""
    found: dict[tuple[Leak, ...], list[str]] = {}
    for record in records:
        if answers := read_leakage(record):
            found.setdefault(answers, []).append(record.name)
    return [Leakage(tuple(runs), answers) for answers, runs in found.items()]


def gather_faults(records: Sequence[RunRecord]) -> list[Faults]:
    """Gather the known faults, protocol by protocol, each once."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for record in records:
        if faults := read_faults(record):
            runs, sentences = found.setdefault(record.read_scores()[0], ([], []))
            runs.append(record.name)
            sentences += [fault for fault in dict.fromkeys(faults) if fault not in sentences]
    return [Faults(protocol, tuple(runs), tuple(sentences)) for protocol, (runs, sentences) in found.items()]
