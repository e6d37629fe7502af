"""Commands on what runs have left, and on the installation: report, compare, doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer, showing


def report(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN …]")],
    /,
    output: Path | None = None,
    title: str = "skygen report",
) -> Answer:
    """Write one page of scores, examples, curves and provenance from run folders, and their scores as metrics.json.

    Args:
        runs: folders of runs, `runs/<name>`.
        output: the HTML file; by default report.html in the folder that holds the runs.
        title: of the page.
    """
    from skygen.evaluation.reports.report import common_parent, merge_metrics, write_report
    from skygen.evaluation.scores import format_table, from_metrics

    metrics = merge_metrics(runs)
    page = output or common_parent(runs) / "report.html"
    write_report(runs, page, title)
    table = [format_table(from_metrics(metrics))] if metrics["scores"] else []
    return Answer("\n".join([*table, str(page)]))


def compare(
    first: Annotated[Positional[Path], arg(metavar="RUN_A")],
    second: Annotated[Positional[Path], arg(metavar="RUN_B")],
    /,
    writer: str = "tuned",
    seed: int = 0,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> Answer:
    """Test two evaluations of captions against each other on the same images: difference, 95 % interval, p-value.

    The runs are of recipes/evaluate_captions.py, on the same split. The interval is a paired bootstrap over the images, the
    p-value two-sided, by flipping signs; corpus BLEU has the interval alone. Every metric is tested by itself.

    Args:
        first: folder of a run.
        second: folder of the other, or the same one with two writers.
        writer: whose captions, such as tuned; two with a comma, such as tuned,base, for the first and the second run.
        seed: of the resampling.
        as_json: print JSON, for a program to read.
    """
    from skygen.errors import ConfigError
    from skygen.evaluation.comparison import compare_runs, format_differences
    from skygen.seeding import Seeds

    names = [name.strip() for name in writer.split(",")]
    if not all(names) or len(names) > 2:
        raise ConfigError(f"--writer is {writer!r}; give one writer, such as tuned, or two, such as tuned,base.")
    writers = names[0], names[-1]
    with showing("metrics") as progress:
        split, differences = compare_runs((first, second), writers, seeds=Seeds(seed), progress=progress)
    if as_json:
        plain = {"runs": [str(first), str(second)], "writers": writers, "split": split, "seed": seed,
                 "differences": [asdict(one) for one in differences]}  # fmt: skip
        return Answer(json.dumps(plain, indent=1))
    what = split.get("official") or f"{split['name']}, {split['images']:,} images"
    heading = f"{first} {writers[0]} minus {second} {writers[1]}, {what}, fingerprint {split['fingerprint']}"
    return Answer(f"{heading}\n{format_differences(differences)}")


def doctor(as_json: Annotated[bool, arg(name="json")] = False) -> Answer:
    """Check this installation: versions, device, free disk, the Hugging Face cache, the miniature's weights.

    Ends with 0 if skygen can work here, with 1 if not.

    Args:
        as_json: print JSON, for a program to read.
    """
    from skygen.diagnosis import diagnose

    findings = diagnose()
    healthy = all(finding.healthy for finding in findings)
    if as_json:
        plain = {"healthy": healthy, "findings": [asdict(finding) for finding in findings]}
        return Answer(json.dumps(plain, indent=1), int(not healthy))
    width = max(len(finding.name) for finding in findings)
    lines = [
        f"{'ok  ' if finding.healthy else 'FAIL'}  {finding.name.ljust(width)}  {finding.found}"
        + (f"  ({finding.needed})" if finding.needed else "")
        for finding in findings
    ]
    failed = sum(not finding.healthy for finding in findings)
    lines.append("All is well." if healthy else f"{failed} of {len(findings)} checks failed.")
    return Answer("\n".join(lines), int(not healthy))
