"""How runs were made: the command that makes each again, and what it was made with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from skygen.evaluation.reports.facts import describe_evaluation
from skygen.evaluation.reports.records import RunRecord, parse_step

LAUNCHER: Final = ("accelerate", "launch")
"""Starts recipes; a run notes its own words alone."""


@final
@dataclass(frozen=True, slots=True)
class Provenance:
    """How a run was made.

    Args:
        run: its name.
        recipe: name of the script, without its ending.
        state: such as ``finished``.
        command: for a shell, to make the run again; empty where it is not known.
        facts: name and text of what else is known.
        versions: name and version of each package.
        config: the text of ``config.yaml``.
    """

    run: str
    recipe: str
    state: str
    command: str
    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    config: str


def read_command(record: RunRecord) -> list[str]:
    """Return the words of the command that a run was started by, as ``environment.json`` has them; empty without it."""
    command = record.environment.get("command")
    return [str(word) for word in command] if isinstance(command, list) else []


def complete_command(words: list[str], processes: object = 1) -> list[str]:
    """Put ``accelerate launch`` before a recipe, which a run does not note; other commands stay as they are.

    Args:
        words: that the run noted.
        processes: that shared the run.
    """
    if not words or not words[0].endswith(".py"):
        return words
    several = isinstance(processes, int) and not isinstance(processes, bool) and processes > 1
    return [*LAUNCHER, *(["--num_processes", str(processes)] if several else []), *words]


def show_provenance(record: RunRecord) -> Provenance:
    """Tell how a run was made, from ``environment.json``, ``run_status.json``, ``log.jsonl`` and ``config.yaml``."""
    environment, status, words = record.environment, record.status, read_command(record)
    facts = {name: str(environment.get(name, "")) for name in ("commit", "device", "processes", "python", "platform")}
    seconds = status.get("seconds") or environment.get("seconds")
    spent = seconds if isinstance(seconds, int | float) else sum(s.seconds for s in record.read_rows("log.jsonl", parse_step))
    facts["seconds"] = f"{spent:,.1f}{'' if seconds else ' in updates'}" if spent else ""
    facts["reason"] = str(status.get("reason", ""))
    versions = environment.get("versions")
    return Provenance(
        run=record.name,
        recipe=Path(words[0]).stem if words else "",
        state=str(status.get("state", "")),
        command=shlex.join(complete_command(words, environment.get("processes"))),
        facts=(*((name, text) for name, text in facts.items() if text), *describe_evaluation(record)),
        versions=tuple((str(k), str(v)) for k, v in versions.items()) if isinstance(versions, dict) else (),
        config=record.read_text("config.yaml") or "",
    )
