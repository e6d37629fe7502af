"""What ``metrics.json`` says beside its scores: leakage, faults of the protocol, networks, the split, scores by stratum.

All of it may be missing, as older runs lack it; an entry that is not as it should be costs a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

from skygen.evaluation.reports.records import DAMAGE, RunRecord, check_numbers
from skygen.evaluation.scores import from_metrics
from skygen.evaluation.strata import StratumScore

METRICS: Final = "metrics.json"
ANSWERS: Final = ("yes", "no", "partly", "unknown")
"""To whether something has leaked; all but ``no`` are marked."""
SLOWEST_NAMED: Final = 5
"""Of the times that metrics took."""

Entry = TypeVar("Entry")


@final
@dataclass(frozen=True, slots=True)
class Leak:
    """A question of what could have leaked into an evaluation.

    Args:
        question: such as ``Was the scorer trained on the evaluation data?``.
        answer: one of ``ANSWERS``.
        detail: a sentence.
    """

    question: str
    answer: str
    detail: str


@final
@dataclass(frozen=True, slots=True)
class Network:
    """A network whose features or scores a run was measured by.

    Args:
        name: as the scores call it, such as ``skyclip:miniature``.
        weights: digits that tell one file of weights from another.
        dimension: of its features; empty where it is not told.
        input: how it sees an image, in words.
    """

    name: str
    weights: str
    dimension: str
    input: str


def read_leakage(record: RunRecord) -> tuple[Leak, ...]:
    """Read what could have leaked."""
    return _read_entries(record, "leakage", _parse_leak)


def read_faults(record: RunRecord) -> tuple[str, ...]:
    """Read the known faults of the run's protocol, a sentence each."""
    return _read_entries(record, "faults", _parse_text)


def read_networks(record: RunRecord) -> tuple[Network, ...]:
    """Read by which networks the run was measured."""
    return _read_entries(record, "extractors", _parse_network)


def read_strata(record: RunRecord) -> tuple[StratumScore, ...]:
    """Read the scores of single groups."""
    return _read_entries(record, "strata", _parse_stratum)


def read_split(record: RunRecord) -> dict[str, str]:
    """Read which images the run was measured on: ``name``, ``images``, ``fingerprint`` and ``official``, as far as told."""
    split = record.read_mapping(METRICS).get("split")
    if split is None:
        return {}
    if not isinstance(split, dict):
        record.notes.append(f"{METRICS}: `split` is not laid out as skygen writes it and was left out.")
        return {}
    return {name: str(split[name]) for name in ("name", "images", "fingerprint", "official") if split.get(name) is not None}


def describe_evaluation(record: RunRecord) -> list[tuple[str, str]]:
    """Put into words how the scores were measured: split, counts, seed, and what took the time; empty for other runs."""
    metrics, split = record.read_mapping(METRICS), read_split(record)
    facts = []
    if split:
        what = [split.get("name", ""), split.get("official") or f"{split.get('images', 'an unknown number of')} images"]
        told = [f"fingerprint {split['fingerprint']}"] if "fingerprint" in split else []
        facts.append(("split", ", ".join([*filter(None, what), *told])))
    counts = metrics.get("counts")
    if isinstance(counts, dict) and counts:
        facts.append(("images", ", ".join(f"{model} {_count(count)}" for model, count in counts.items())))
    if facts and metrics.get("seed") is not None:
        facts.append(("seed of the scores", str(metrics["seed"])))
    seconds = metrics.get("seconds")
    if isinstance(seconds, dict):
        facts += _describe_seconds(seconds)
    return facts


def _describe_seconds(seconds: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = {str(name): value for name, value in seconds.items() if isinstance(value, int | float)}
    if not known:
        return []
    slowest = sorted(known, key=lambda name: -known[name])[:SLOWEST_NAMED]
    most = "; ".join(f"{name} {known[name]:,.1f}" for name in slowest)
    return [("seconds of the metrics", f"{sum(known.values()):,.1f} in all; most of them: {most}")]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read_entries(record: RunRecord, name: str, parse: Callable[[Any], Entry]) -> tuple[Entry, ...]:
    """Read a list of ``metrics.json`` entry by entry; what does not parse is counted in one note."""
    listed = record.read_mapping(METRICS).get(name)
    if listed is None:
        return ()
    if not isinstance(listed, list):
        record.notes.append(f"{METRICS}: `{name}` is not laid out as skygen writes it and was left out.")
        return ()
    found = []
    for entry in listed:
        try:
            found.append(parse(entry))
        except DAMAGE:
            continue
    if bad := len(listed) - len(found):
        entries = "1 entry" if bad == 1 else f"{bad} entries"
        record.notes.append(f"{METRICS}: {entries} of `{name}` could not be read and {'was' if bad == 1 else 'were'} left out.")
    return tuple(found)


def _parse_text(entry: Any) -> str:
    if not isinstance(entry, str) or not entry.strip():
        raise TypeError(f"{entry!r} is not text")
    return entry


def _parse_leak(entry: Any) -> Leak:
    answer = _parse_text(entry["answer"]).strip().lower()
    if answer not in ANSWERS:
        raise ValueError(f"{answer!r} is no answer")
    return Leak(_parse_text(entry["question"]), answer, str(entry.get("detail") or ""))


def _parse_network(entry: Any) -> Network:
    told = [str(entry[name]) if entry.get(name) is not None else "" for name in ("weights", "dimension", "input")]
    return Network(_parse_text(entry["name"]), *told)


def _parse_stratum(entry: Any) -> StratumScore:
    (score,) = from_metrics({"scores": [entry["score"]]})
    check_numbers(score)
    group = entry["group"]
    return StratumScore(_parse_text(entry["stratum"]), "not known" if group is None else str(group), score)
