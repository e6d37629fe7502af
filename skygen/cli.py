"""``skygen``: what needs no accelerate. A command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from skygen.runs import explaining

DESCRIPTION = "Captions and synthetic images for remote sensing; `skygen --version` tells the version. Training and evaluation \
are recipes: `accelerate launch recipes/NAME.py --help`."
SECONDS_BETWEEN_UPDATES = 0.2


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command, and end with the exit code of the contract.

    Args:
        argv: the words after the program's name; ``sys.argv[1:]`` when left out.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"skygen {importlib.metadata.version('skygen')}")
        return
    commands: dict[str, Callable[..., Any]] = {"fabricate": fabricate, "report": report, "doctor": doctor}
    with explaining("interrupted."):
        code: int | None = tyro.extras.subcommand_cli_from_dict(
            commands, prog="skygen", description=DESCRIPTION, args=words or ["--help"], config=(FlagCreatePairsOff,)
        )
        if code:
            sys.exit(code)


def fabricate(
    folder: Annotated[Positional[Path], arg(metavar="DIR")],
    /,
    pairs: int = 1000,
    seed: int = 0,
    classes: tuple[str, ...] = ("all",),
    benchmark: int | None = None,
) -> None:
    """Draw a small world as a data set in SkyScript's layout: images, metas, caption tables, benchmarks.

    Args:
        folder: where the data set goes; made if it is not there.
        pairs: tiles in all, split 80 : 10 : 10 into train, val and test; the benchmarks' tiles come on top.
        seed: everything follows from it.
        classes: `all`, `base` (what the miniature models know), `novel` (what they have never seen), or names of classes.
        benchmark: tiles of the classification benchmark; by default a tenth of the pairs, and at least 26.
    """
    from skygen.miniature.fabricate import fabricate as write

    names, progress = _resolve_classes(classes), _Progress("tiles")
    summary = write(folder, pairs=pairs, seed=seed, classes=names, benchmark=benchmark, progress=progress)
    counts = asdict(summary)
    print(f"{folder}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


def report(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN …]")],
    /,
    output: Path | None = None,
    title: str = "skygen report",
) -> None:
    """Write one page of scores, examples, curves and provenance from run folders, and their scores as metrics.json.

    Args:
        runs: folders of runs, `runs/<name>`.
        output: the HTML file; by default report.html in the folder that holds the runs.
        title: of the page.
    """
    from skygen.evaluation.report import common_parent, merge_metrics, write_report
    from skygen.evaluation.scores import format_table, from_metrics

    metrics = merge_metrics(runs)
    page = output or common_parent(runs) / "report.html"
    write_report(runs, page, title)
    if metrics["scores"]:
        print(format_table(from_metrics(metrics)))
    print(page)


def doctor(as_json: Annotated[bool, arg(name="json")] = False) -> int:
    """Check this installation: versions, device, free disk, the Hugging Face cache, the miniature's weights.

    Ends with 0 if skygen can work here, with 1 if not.

    Args:
        as_json: print JSON, for a program to read.
    """
    from skygen.diagnosis import diagnose

    findings = diagnose()
    healthy = all(finding.healthy for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=1))
        return int(not healthy)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok  " if finding.healthy else "FAIL"
        print(f"{mark}  {finding.name.ljust(width)}  {finding.found}" + (f"  ({finding.needed})" if finding.needed else ""))
    failed = sum(not finding.healthy for finding in findings)
    print("All is well." if healthy else f"{failed} of {len(findings)} checks failed.")
    return int(not healthy)


def _resolve_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Replace ``all``, ``base`` and ``novel`` by the classes they stand for; an unknown name is left for its own error."""
    from skygen.miniature.world import BASE_CLASSES, CLASSES, NOVEL_CLASSES

    groups = {"all": CLASSES, "base": BASE_CLASSES, "novel": NOVEL_CLASSES}
    return tuple(dict.fromkeys(name for word in names for name in groups.get(word, (word,))))


class _Progress:
    """One line on standard error that counts up; on a file or a pipe only the end is written."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._start = time.monotonic()
        self._said = 0.0

    def __call__(self, done: int, total: int) -> None:
        now, live = time.monotonic(), sys.stderr.isatty()
        if done == total or (live and now - self._said > SECONDS_BETWEEN_UPDATES):
            self._said = now
            rate = done / max(now - self._start, 1e-9)
            line = f"{done:,} of {total:,} {self._noun}, {rate:,.0f} a second"
            sys.stderr.write(f"\r{line}\x1b[K" if live else line)
            sys.stderr.write("\n" if done == total else "")
            sys.stderr.flush()
