"""Finished runs side by side: scores by protocol, paired differences, and pictures of the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from skygen.data.exports.markdown import escape, quote_in_table
from skygen.evaluation.reports.caveats import gather_faults, gather_leakage
from skygen.evaluation.reports.differences import DifferenceLine, PairedDifferences, show_differences
from skygen.evaluation.reports.facts import METRICS
from skygen.evaluation.reports.markdown import PAIRED, format_caveats, format_scores, format_table
from skygen.evaluation.reports.pictures import PICTURES, order_columns, read_pictures
from skygen.evaluation.reports.records import PictureRow, RunRecord
from skygen.evaluation.reports.report import open_runs
from skygen.evaluation.reports.score_groups import group_scores
from skygen.evaluation.reports.thumbnails import Thumbnail, show_image, space_out
from skygen.studio import limits

REAL: Final = "real"
MOST_RUNS: Final = 4
"""Side by side."""
MOST_LISTED: Final = 200
"""Runs to choose from, the newest."""
UNBROKEN: Final = "\N{NO-BREAK SPACE}"
"""Within an interval: on a small screen the ends of one stay beside each other."""
VERDICTS: Final = {"": "not told apart", "differs": "differ; neither way is better by itself"}
"""What is said where neither of two models is the better one."""


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """A picture of the grid, and its SkyCLIP score, where it has one."""

    picture: Thumbnail
    score: float | None


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side.

    Args:
        scores: Markdown: what could have leaked, known faults, and a table a protocol; empty where no run has scores.
        columns: of the grid, ``real`` first, then each run's models as ``RUN: MODEL``.
        rows: a prompt each, with a cell a column; None where a run has not drawn that prompt and seed.
        prompts: that there are in all; the rows are evenly spaced ones.
        notes: files and rows that could not be read.
    """

    scores: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    prompts: int
    notes: int


def list_runs(root: Path) -> dict[str, Path]:
    """List the runs below a folder that can be compared: those with scores or pictures, by their names, the newest first."""
    if not root.is_dir():
        return {}
    found = {
        file.parent
        for pattern in (f"*/{METRICS}", f"*/{PICTURES}", f"*/*/{METRICS}", f"*/*/{PICTURES}")
        for file in root.glob(pattern)
    }
    # a report's folder has the scores of other runs, and is none itself
    found = {folder for folder in found if (folder / "run_status.json").exists()}
    newest = sorted(found, key=lambda folder: (-folder.stat().st_mtime, folder))[:MOST_LISTED]
    return {folder.relative_to(root).as_posix(): folder for folder in newest}


def compare(runs: Sequence[Path]) -> Comparison:
    """Lay runs out side by side.

    Args:
        runs: folders, 1 to ``MOST_RUNS``.

    Raises:
        ConfigError: none, or too many.
        DataError: none of the folders exists.
    """
    limits.check_count("runs", runs, MOST_RUNS)
    records = open_runs(runs)
    scores = format_scores(group_scores(records))
    caveats = format_caveats(gather_leakage(records), gather_faults(records)) if scores else []
    columns, rows, prompts = _lay_out(records)
    notes = sum(len(dict.fromkeys(record.notes)) for record in records)
    return Comparison("\n\n".join([*caveats, *scores]), columns, rows, prompts, notes)


def compare_items(
    runs: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[str, tuple[str, ...]]:
    """Compare runs item by item: the models of each with its base, and each run with the first of its kind.

    Args:
        runs: folders, 1 to ``MOST_RUNS``.
        progress: is told how many comparisons are done, and of how many.

    Returns:
        Markdown with a table for each two models, empty where nothing can be compared; and why something was not compared,
        a sentence each.

    Raises:
        ConfigError: none, or too many.
        DataError: none of the folders exists.
    """
    limits.check_count("runs", runs, MOST_RUNS)
    records = open_runs(runs)
    found = [pair for pair in show_differences(records, progress) if pair.lines]
    why = tuple(dict.fromkeys(f"{record.name}: {note}" for record in records for note in record.notes))
    if not found:
        return "", why
    across, within = ([pair for pair in found if pair.is_of_one_run == wanted] for wanted in (False, True))
    parts = ["## Paired differences", PAIRED]
    if across:
        firsts = " and ".join(dict.fromkeys(escape(pair.second[0]) for pair in across))
        parts.append(f"Of runs with one protocol and split, each stands against the first: {firsts}.")
    elif len(records) > 1:
        parts.append("No two of these runs have a protocol, a split and a model in common; each stands by itself.")
    return "\n\n".join([*parts, *(part for pair in [*across, *within] for part in _format_pair(pair))]), why


def _format_pair(pair: PairedDifferences) -> tuple[str, str]:
    """Return a heading and a table of two models."""
    first, second = (model if pair.is_of_one_run else f"{run}: {model}" for run, model in (pair.first, pair.second))
    where = f"{escape(pair.first[0])}: " if pair.is_of_one_run else ""
    rows = [
        (
            quote_in_table(line.name),
            line.value,
            line.interval.replace(" ", UNBROKEN),
            line.p_value,
            escape(_name_better(line, first, second)),
            f"{line.difference.count}",
            quote_in_table(line.extractor),
        )
        for line in pair.lines
    ]
    header = ("metric", "difference", "95 % interval", "p", "better", "items", "extractor")
    return f"### {where}{escape(first)} minus {escape(second)}", format_table(header, rows, right=(1, 2, 3, 5))


def _name_better(line: DifferenceLine, first: str, second: str) -> str:
    return {"better": first, "worse": second}.get(line.verdict) or VERDICTS[line.verdict]


def _lay_out(
    records: Sequence[RunRecord],
) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[Cell | None, ...]], ...], int]:
    """Put the pictures of one prompt and seed into one row, whichever run has drawn them; the real image stands once."""
    drawn = [(record, {(row.prompt, row.seed): row for row in read_pictures(record)}) for record in records]
    drawn = [(record, rows) for record, rows in drawn if rows]
    wanted = list(dict.fromkeys(key for _, rows in drawn for key in rows))
    shared = [key for key in wanted if all(key in rows for _, rows in drawn)]
    keys = shared or wanted
    models = [(place, model) for place, (_, rows) in enumerate(drawn) for model in order_columns(list(rows.values()))]
    columns = [(place, model) for place, model in models if model != REAL]
    real = [place for place, model in models if model == REAL]
    table = []
    for key in space_out(keys):
        cells = [_show_real(drawn, real, key)] if real else []
        cells += [_show(drawn[place][0], drawn[place][1].get(key), model) for place, model in columns]
        table.append((key[0], tuple(cells)))
    names = [f"{drawn[place][0].name}: {model}" for place, model in columns]
    return (*([REAL] if real else []), *names), tuple(table), len(keys)


def _show_real(
    drawn: Sequence[tuple[RunRecord, dict[tuple[str, int], PictureRow]]], places: Sequence[int], key: tuple[str, int]
) -> Cell | None:
    shown = (_show(drawn[place][0], drawn[place][1].get(key), REAL) for place in places)
    return next((cell for cell in shown if cell is not None), None)


def _show(record: RunRecord, row: PictureRow | None, model: str) -> Cell | None:
    if row is None or model not in row.images:
        return None
    missing: list[str] = []
    picture = show_image(record, row.images[model], missing)
    record.notes.extend(f"{name} is missing" for name in missing)
    return Cell(picture, row.scores.get(model))
