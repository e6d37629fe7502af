"""One page that shows what a set of runs has made: scores beside their baselines, examples, curves, and how it was done.

The page is a single file: it asks for nothing over the network, needs no script, and is the same for the same runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from skygen.errors import ConfigError, DataError
from skygen.evaluation.pages.page import write_page
from skygen.evaluation.reports.audit_maps import show_audit
from skygen.evaluation.reports.caveats import gather_faults, gather_leakage
from skygen.evaluation.reports.differences import show_differences
from skygen.evaluation.reports.distributions import show_distributions
from skygen.evaluation.reports.markdown import write_markdown
from skygen.evaluation.reports.model_index import index_results, write_report_card
from skygen.evaluation.reports.pictures import show_pictures
from skygen.evaluation.reports.provenance import show_provenance
from skygen.evaluation.reports.records import RunRecord
from skygen.evaluation.reports.score_groups import group_scores
from skygen.evaluation.reports.sections import show_captions, show_pairs, show_screening, show_training
from skygen.evaluation.reports.strata import SMALLEST_RANKED, show_strata
from skygen.evaluation.scores import Score, to_metrics
from skygen.storage import writing

Section = TypeVar("Section")


def write_report(
    runs: Sequence[Path],
    output: Path,
    title: str,
    *,
    markdown: bool = False,
    model_card: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write the page, and beside it a ``metrics.json`` with the scores of all runs.

    What is missing or damaged in a run is left out, and the page says what it was. A page that goes into a run's own folder
    leaves that run's ``metrics.json`` as it is.

    Args:
        runs: folders of runs, ``runs/<name>``, in the order in which the page shows them.
        output: the HTML file.
        title: of the page.
        markdown: write its tables as Markdown too, for the appendix of a paper: ``report.md`` beside ``report.html``.
        model_card: write the scores of the tuned model as a card for Hugging Face's hub too: ``report-card.md`` likewise.
        progress: is told how many paired comparisons are done, and of how many.

    Returns:
        What was written, the page last; ``metrics.json`` is not named.

    Raises:
        ConfigError: no folder is given, ``output`` is named like Markdown, or lies in the folder of one run, although the page
            is of several, or a model card is wanted and no run evaluates a model that it could be of.
        DataError: none of the folders exists.
        StorageError: a file cannot be written.
    """
    own = output.resolve().parent
    is_run = own in [run.resolve() for run in runs] or (own / "run_status.json").exists()
    if output.suffix == ".md":
        raise ConfigError(f"{output}: --output is the HTML page; give a name that ends in .html.")
    if is_run and len(runs) > 1:
        raise ConfigError(
            f"{output}: the folder of one run, whose metrics.json is its own record; choose another --output "
            "for a report of several."
        )
    records, written = open_runs(runs), []
    results = index_results(records) if model_card else []
    page = {"title": title, **build_page(records, progress)}
    if model_card:
        written.append(write_report_card(page, results, output.with_name(f"{output.stem}-card.md")))
    if markdown:
        written.append(write_markdown(page, output.with_suffix(".md")))
    write_page(output, "report.html.jinja", page)
    if not is_run:
        with writing(output.with_name("metrics.json")) as temporary:
            temporary.write_text(json.dumps(_merge(records), indent=1) + "\n", encoding="utf-8")
    return [*written, output]


def merge_metrics(runs: Sequence[Path]) -> dict[str, Any]:
    """Unite the ``metrics.json`` of several runs.

    Returns:
        ``protocol``: all different ones, joined by semicolons; ``scores``: of all runs in order, equal ones once.

    Raises:
        ConfigError: no folder is given.
        DataError: none of the folders exists.
    """
    return _merge(open_runs(runs))


def list_scores(runs: Sequence[Path]) -> dict[str, list[Score]]:
    """Return the scores of several runs by protocol, equal ones once: figures of two protocols do not compare.

    Raises:
        ConfigError: no folder is given.
        DataError: none of the folders exists.
    """
    found: dict[str, dict[Score, None]] = {}
    for record in open_runs(runs):
        protocol, scores = record.read_scores()
        if scores:
            found.setdefault(protocol, {}).update(dict.fromkeys(scores))
    return {protocol: list(scores) for protocol, scores in found.items()}


def open_runs(runs: Sequence[Path]) -> list[RunRecord]:
    """Open run folders for reading, each named by its path below the folder they share.

    Raises:
        ConfigError: no folder is given.
        DataError: none of the folders exists.
    """
    if not runs:
        raise ConfigError("no run to report on; give the folders of runs, such as runs/NAME.")
    if not any(run.is_dir() for run in runs):
        raise DataError(f"{', '.join(map(str, runs))}: no such folder; give the folders of runs, such as runs/NAME.")
    above = common_parent(runs)
    return [RunRecord(run, run.resolve().relative_to(above).as_posix()) for run in dict.fromkeys(runs)]


def common_parent(runs: Sequence[Path]) -> Path:
    """Return the nearest folder that holds all of the run folders."""
    return Path(os.path.commonpath([run.resolve().parent for run in runs]))


def build_page(records: Sequence[RunRecord], progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Read all that the page shows; a section that no run has is empty.

    Args:
        records: of the runs.
        progress: is told how many paired comparisons are done, and of how many.
    """
    page: dict[str, Any] = {
        "version": importlib.metadata.version("skygen"),
        "leakage": gather_leakage(records),
        "faults": gather_faults(records),
        "groups": group_scores(records),
        "differences": show_differences(records, progress),
        "distributions": _present(show_distributions, records),
        "strata": _present(show_strata, records),
        "smallest_ranked": SMALLEST_RANKED,
        "pairs": _present(show_pairs, records),
        "trainings": _present(show_training, records),
        "captions": _present(show_captions, records),
        "pictures": _present(show_pictures, records),
        "screenings": _present(show_screening, records),
        "audits": _present(show_audit, records),
        "provenance": [show_provenance(record) for record in records],
    }
    page["notes"] = [(record.name, note) for record in records for note in dict.fromkeys(record.notes)]
    return page


def _present(show: Callable[[RunRecord], Section | None], records: Sequence[RunRecord]) -> list[Section]:
    return [section for record in records if (section := show(record)) is not None]


def _merge(records: Sequence[RunRecord]) -> dict[str, Any]:
    read = [record.read_scores() for record in records]
    protocols = list(dict.fromkeys(protocol for protocol, _ in read if protocol))
    return to_metrics("; ".join(protocols), list(dict.fromkeys(score for _, scores in read for score in scores)))
