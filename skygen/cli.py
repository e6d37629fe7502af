"""``skygen``: what needs no accelerate. A command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence

import tyro
from tyro.conf import FlagCreatePairsOff

from skygen.commands import adapters, data, rating, results, rounds, searching, weights
from skygen.commands.answer import Answer
from skygen.runs import explaining

DESCRIPTION = "Captions and synthetic images for remote sensing; `skygen --version` tells the version. Training and evaluation \
are recipes: `accelerate launch recipes/NAME.py --help`."

COMMANDS: dict[str, Callable[..., Answer]] = {
    "download": data.download,
    "index": data.index,
    "check": data.check,
    "audit": data.audit,
    "search": searching.search,
    "convert": weights.convert,
    "export": adapters.export,
    "fabricate": data.fabricate,
    "report": results.report,
    "compare": results.compare,
    "rate": rating.rate,
    "gather": rounds.gather,
    "rounds": rounds.rounds,
    "doctor": results.doctor,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command, and end with the exit code of the contract.

    Args:
        argv: the words after the program's name; ``sys.argv[1:]`` when left out.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"skygen {importlib.metadata.version('skygen')}")
        return
    with explaining("interrupted."):
        answer: Answer = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="skygen", description=DESCRIPTION, args=words or ["--help"], config=(FlagCreatePairsOff,)
        )
        show(answer.text)
        if answer.code:
            sys.exit(answer.code)


def show(text: str) -> None:
    """Print an answer; whoever reads it may stop early, as ``head`` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain again when it ends
