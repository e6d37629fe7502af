"""Prompts: what is to be drawn, from a text file or a CSV of captions."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from skygen.errors import ConfigError, DataError, UnavailableError

COLUMNS = ("prompt", "text", "title_multi_objects", "title")


@dataclass(frozen=True)
class PromptSettings:
    """Where the prompts come from."""

    file: Path
    """One prompt a line, or a CSV with a column of them (its name ends in ``.csv``)."""
    column: str | None = None
    """Column of the CSV; the first of ``prompt``, ``text``, ``title_multi_objects``, ``title`` when left out."""
    template: str = ""
    """For a text file of class names: the prompt with ``{}`` where the class goes, such as "a satellite image of {}"."""
    limit: int = 0
    """Use only so many prompts, spread evenly over the file; 0 uses all."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to draw.

    Args:
        text: the words.
        key: of the real pair whose caption it is, so that a report can show both; empty for a prompt of one's own.
        class_name: what the picture is to show, where that is known.
    """

    text: str
    key: str = ""
    class_name: str = ""


def read_prompts(settings: PromptSettings) -> list[Prompt]:
    """Read the prompts, blank ones left out.

    Raises:
        UnavailableError: there is no such file.
        ConfigError: the CSV has no such column, or the template has no place for the class.
        DataError: there is no prompt in it, or it is not UTF-8 text.
    """
    path = settings.file
    if not path.is_file():
        raise UnavailableError(
            f"--prompts.file {path}: there is no such file; give a text file with one prompt a line, or a CSV."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    if path.suffix.lower() == ".csv":
        prompts = _from_csv(path, text, settings.column)
    else:
        lines = filter(None, (line.strip() for line in text.splitlines()))
        prompts = [_from_line(line, settings.template) for line in lines]
    prompts = [prompt for prompt in prompts if prompt.text]
    if not prompts:
        raise DataError(f"{path}: holds no prompt; write one a line.")
    if settings.limit and settings.limit < len(prompts):
        stride = len(prompts) / settings.limit
        prompts = [prompts[int(index * stride)] for index in range(settings.limit)]
    return prompts


def _from_line(line: str, template: str) -> Prompt:
    if not template:
        return Prompt(line)
    if "{}" not in template:
        raise ConfigError(f"--prompts.template {template!r}: has no {{}} where the class should go")
    return Prompt(template.replace("{}", line), class_name=line)


def _from_csv(path: Path, text: str, column: str | None) -> list[Prompt]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    names = rows.fieldnames or []
    chosen = column or next((name for name in COLUMNS if name in names), None)
    if chosen is None or chosen not in names:
        raise ConfigError(
            f"{path}: has no column {column or 'of prompts'}; its columns are {', '.join(names)}, choose with --prompts.column."
        )
    return [Prompt((row[chosen] or "").strip(), row.get("filepath") or "", (row.get("label") or "").strip()) for row in rows]
