"""Commands on what runs have left, and on the installation: report, compare, doctor."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer, showing

if TYPE_CHECKING:
    from skygen.diagnosis import Finding, Possibility


def report(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN …]")],
    /,
    output: Path | None = None,
    title: str = "skygen report",
    markdown: bool = False,
    model_card: bool = False,
) -> Answer:
    """Write one page of scores, examples, curves and provenance from run folders, and their scores as metrics.json.

    Args:
        runs: folders of runs, `runs/<name>`, of human ratings, or of audits.
        output: the HTML file; by default report.html in the folder that holds the runs.
        title: of the page.
        markdown: write the tables as Markdown too, for the appendix of a paper: report.md beside report.html.
        model_card: write the scores of the tuned model as a card for Hugging Face's hub too: report-card.md beside report.html.
    """
    from skygen.evaluation.reports.report import common_parent, list_scores, write_report
    from skygen.evaluation.scores import format_table

    tables = []
    for protocol, scores in (by_protocol := list_scores(runs)).items():
        heading = [f"protocol {protocol or 'not told'}"] if len(by_protocol) > 1 else []
        tables.append("\n".join([*heading, format_table(scores), *([""] if heading else [])]))
    page = output or common_parent(runs) / "report.html"
    with showing("comparisons") as progress:
        written = write_report(runs, page, title, markdown=markdown, model_card=model_card, progress=progress)
    return Answer("\n".join([*tables, *map(str, written)]))


def compare(
    first: Annotated[Positional[Path], arg(metavar="RUN_A")],
    second: Annotated[Positional[Path], arg(metavar="RUN_B")],
    /,
    writer: str = "tuned",
    seed: int = 0,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> Answer:
    """Test two evaluations of captions against each other on the same images: difference, 95 % interval, p-value.

    The runs are of recipes/evaluate_captions.py or evaluate_images.py, on the same split by one protocol. The interval is a
    paired bootstrap over the images, the p-value two-sided, by flipping signs; corpus BLEU has the interval alone. Every metric
    is tested by itself.

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
    """Check this installation and this machine, and say what works on them.

    Versions, what is known against them, device, memory, disks, caches, locks, fonts, the miniature's weights. Ends with 0 if
    skygen can work here, with 1 if not.

    Args:
        as_json: print JSON, for a program to read.
    """
    from skygen.diagnosis import diagnose, list_possibilities

    findings = diagnose()
    possibilities = list_possibilities(findings)
    healthy = all(finding.healthy for finding in findings)
    if as_json:
        plain = {"healthy": healthy, "findings": [asdict(each) for each in findings]}
        plain["possibilities"] = [asdict(each) for each in possibilities]
        return Answer(json.dumps(plain, indent=1), int(not healthy))
    return Answer(format_findings(findings, possibilities), int(not healthy))


def format_findings(findings: Sequence[Finding], possibilities: Sequence[Possibility]) -> str:
    """Write what was found for a terminal: packages that are as they must be in one line, everything else in one each.

    Args:
        findings: what was looked at.
        possibilities: what works, and what does not.
    """
    # A package's version is all that was found of it; whatever else was looked at has words.
    packages = [
        each for each in findings if each.healthy and each.needed and each.found[:1].isdigit() and " " not in each.found
    ]
    lines: list[tuple[str, str, str]] = []
    if packages:
        told = [each for each in packages if each.name in ("python", "torch", "diffusers", "transformers", "accelerate")]
        listed = ", ".join(f"{each.name} {each.found}" for each in told)
        lines.append(("ok", "packages", f"{len(packages)} as they must be: {listed}"))
    for each in findings:
        if each not in packages:
            hint = f" ({each.needed})" if each.needed else ""
            lines.append(("ok" if each.healthy else "FAIL", each.name, each.found + hint))
    lines.append(("", "", ""))
    lines.append(("", "works", ", ".join(each.what for each in possibilities if each.works) or "nothing"))
    lines += [("", "does not", f"{each.what} ({each.missing})") for each in possibilities if not each.works]
    failed = sum(not each.healthy for each in findings)
    verdict = f"{failed} of {len(findings)} checks failed." if failed else "All is well."
    return "\n".join([*(_wrap(*line) for line in lines), "", verdict])


def _wrap(mark: str, name: str, text: str) -> str:
    """Write one line of three columns, as many rows as a terminal takes, the text below its beginning."""
    margin = f"{mark:<6}{name:<19}"
    if not text:
        return margin.rstrip()
    width = max(shutil.get_terminal_size().columns, 60)
    return textwrap.fill(text, width, initial_indent=margin, subsequent_indent=" " * len(margin), break_on_hyphens=False)
