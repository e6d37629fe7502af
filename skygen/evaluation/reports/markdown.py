"""The tables of a report as Markdown, for the appendix of a paper. Whatever a run says stays text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from skygen.data.exports.markdown import escape, fence, quote_in_table
from skygen.evaluation.reports.caveats import Faults, Leakage
from skygen.evaluation.reports.differences import PairedDifferences
from skygen.evaluation.reports.provenance import Provenance
from skygen.evaluation.reports.score_groups import ScoreGroup
from skygen.evaluation.reports.strata import SMALLEST_RANKED, StrataSection
from skygen.storage import writing

PAIRED: Final = (
    "Item by item: a paired bootstrap over the items, and two-sided p-values by flipped signs. Every metric is tested by "
    "itself: of twenty that do not differ, one is expected below 0.05."
)
"""How paired differences are found."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Characters that no text needs and that a reader of Markdown or YAML may refuse."""


def write_markdown(page: Mapping[str, Any], path: Path) -> Path:
    """Write the tables of a page.

    Args:
        page: what ``build_page`` returned, with the title.
        path: of the file.

    Returns:
        The path.

    Raises:
        StorageError: the disk is full or refuses.
    """
    parts = [
        f"# {escape(page['title'])}",
        *format_caveats(page["leakage"], page["faults"]),
        *format_scores(page["groups"]),
        *format_differences(page["differences"]),
        *format_strata(page["strata"]),
        *format_commands(page["provenance"]),
        *_format_notes(page["notes"]),
        f"Written by skygen {escape(page['version'])}.",
    ]
    return write_text("\n\n".join(parts) + "\n", path)


def write_text(text: str, path: Path) -> Path:
    """Write a text whole or not at all, without control characters and halves of surrogate pairs."""
    with writing(path) as temporary:
        temporary.write_bytes(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", errors="replace"))
    return path


def format_caveats(leakage: Sequence[Leakage], faults: Sequence[Faults]) -> list[str]:
    """Return the tables of what could have leaked, and the known faults of the protocols."""
    parts = ["## Leakage"] if leakage else []
    for group in leakage:
        rows = [(escape(leak.question), escape(leak.answer), escape(leak.detail)) for leak in group.answers]
        parts += [_name_runs(group.runs), format_table(("question", "answer", "detail"), rows)]
    parts += ["## Known faults"] if faults else []
    for fault in faults:
        parts += [_name_protocol(fault.protocol, fault.runs), "\n".join(f"- {escape(text)}" for text in fault.sentences)]
    return parts


def format_scores(groups: Sequence[ScoreGroup]) -> list[str]:
    """Return a table of scores for each protocol, rounded as on the page, and the networks behind them."""
    parts = ["## Scores", "With 95 % confidence intervals."] if groups else []
    for group in groups:
        lines = [(table, line) for table in group.tables for line in table.lines]
        rows = [
            (
                *map(quote_in_table, (group.protocol, line.run, line.score.name, line.score.model, line.score.subset)),
                line.value,
                line.interval,
                f"{line.score.count}",
                quote_in_table(line.score.extractor),
            )
            for _, line in lines
        ]
        header = ("protocol", "run", "metric", "model", "subset", "value", "95 % interval", "count", "extractor")
        parts += [_name_protocol(group.protocol, group.runs), format_table(header, rows, right=(5, 6, 7))]
        if group.networks:
            facts = [
                (*map(quote_in_table, (one.name, one.weights)), escape(one.dimension), escape(one.input))
                for one, _ in group.networks
            ]
            parts.append(format_table(("extractor", "weights", "dimension", "input"), facts, right=(2,)))
        parts += [
            f"**{escape(name)} is other weights in one run than in another: its values do not compare.**"
            for name in group.mismatched
        ]
    return parts


def format_differences(differences: Sequence[PairedDifferences]) -> list[str]:
    """Return a table of the paired differences."""
    if not differences:
        return []
    rows = [
        (
            *(quote_in_table(f"{run}: {model}") for run, model in (pair.first, pair.second)),
            quote_in_table(line.name),
            line.value,
            line.interval,
            line.p_value,
            f"{line.difference.count}",
            quote_in_table(line.extractor),
        )
        for pair in differences
        for line in pair.lines
    ]
    header = ("first", "second", "metric", "first minus second", "95 % interval", "p", "count", "extractor")
    return ["## Paired differences", PAIRED, format_table(header, rows, right=(3, 4, 5, 6))]


def format_strata(sections: Sequence[StrataSection]) -> list[str]:
    """Return a table of the scores by stratum, and the worst group of each."""
    if not sections:
        return []
    rows, worst = [], []
    for section in sections:
        for table in section.tables:
            named = tuple(map(quote_in_table, (section.run, table.stratum, table.metric, table.model)))
            for line in table.lines:
                count, extractor = f"{line.score.count}", quote_in_table(table.extractor)
                rows.append((*named, escape(line.run), line.value, line.interval, count, extractor))
            if table.worst is not None:
                words = f"{table.metric} of {table.model} by {table.stratum}: {table.worst.run}, {table.worst.value}"
                worst.append(f"- {escape(section.run)}: {escape(words)} ({table.worst.score.count} items)")
    header = ("run", "stratum", "metric", "model", "group", "value", "95 % interval", "count", "extractor")
    said = f"Worst groups, among those of {SMALLEST_RANKED} items or more:"
    return ["## By stratum", format_table(header, rows, right=(5, 6, 7)), *([said, "\n".join(worst)] if worst else [])]


def format_commands(provenance: Sequence[Provenance]) -> list[str]:
    """Return the command of each run."""
    parts = [part for run in provenance if run.command for part in (_name_runs((run.run,)), fence(run.command, "sh"))]
    return ["## Commands", *parts] if parts else []


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a table of cells that are Markdown already.

    Args:
        header: names of the columns.
        rows: a cell a column each.
        right: places of the columns that are set to the right, from 0.
    """
    rule = ["---:" if place in right else "---" for place in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _name_runs(runs: Sequence[str]) -> str:
    return f"{'Run' if len(runs) == 1 else 'Runs'} {escape(', '.join(runs))}:"


def _name_protocol(protocol: str, runs: Sequence[str]) -> str:
    return f"### {escape(protocol) or 'Protocol not told'} ({escape(', '.join(runs))})"


def _format_notes(notes: Sequence[tuple[str, str]]) -> list[str]:
    return ["## Left out", "\n".join(f"- {escape(run)}: {escape(note)}" for run, note in notes)] if notes else []
