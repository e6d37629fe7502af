"""Prompts: what is to be drawn, from a text file, or a CSV of captions, of class names or of OpenStreetMap tags."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

from skygen.data.captions import title_multi_objects
from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.data.pair import CLASS_TEMPLATE
from skygen.errors import ConfigError, DataError, UnavailableError

COLUMNS = ("prompt", "text", "title_multi_objects", "title")
MadeOf = Literal["captions", "classes", "tags"]
Per = Literal["none", "class", "source", "continent"]


@dataclass(frozen=True)
class PromptSettings:
    """Where the prompts come from, and how many pictures are drawn from which."""

    file: Path | None = None
    """One prompt a line, or a CSV with a column of them (its name ends in ``.csv``); ``--pairs.root`` in its place takes
    the pairs of a data set."""
    made_of: MadeOf = "captions"
    """What a line or a pair gives: its caption, the name of its class, which goes into a template, or OpenStreetMap tags, such
    as ``sport=tennis; surface=clay | natural=tree``, which become a caption as SkyScript writes it."""
    column: str | None = None
    """Column of the CSV; the first of ``prompt``, ``text``, ``title_multi_objects``, ``title`` when left out, of classes
    ``label``, of tags ``tags``."""
    template: str = ""
    """For class names: the prompt with ``{}`` where the class goes, such as "a satellite image of {}"."""
    templates: tuple[str, ...] = ()
    """More of them, each class once with each."""
    limit: int = 0
    """Use only so many prompts, spread evenly over the file; 0 uses all."""
    per: Per = "none"
    """What pictures are counted by: the class, SkyScript's image collection, or the continent of their prompt's pair."""
    count_each: int = 0
    """Pictures of each class, source or continent; 0 deals out ``--generation.count`` as ``shares`` says."""
    shares: Literal["equal", "as_found"] = "equal"
    """Of ``--generation.count``: as many of each, or as many as its prompts are among all."""

    def __post_init__(self) -> None:
        for template in self.all_templates():
            if "{}" not in template:
                raise ConfigError(f"--prompts.template {template!r}: has no {{}} where the class should go")
        if self.count_each and self.per == "none":
            raise ConfigError("--prompts.count_each counts the pictures of each --prompts.per: class, source or continent.")
        if min(self.count_each, self.limit) < 0:
            raise ConfigError("--prompts.count_each and --prompts.limit are numbers of pictures and prompts: 0 or more.")

    def all_templates(self) -> tuple[str, ...]:
        """Return the templates, in their order."""
        return (*filter(None, (self.template,)), *self.templates)


@final
@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to draw.

    Args:
        text: the words.
        key: of the real pair whose caption it is, so that a report can show both; empty for a prompt of one's own.
        class_name: what the picture is to show, where that is known.
        source: SkyScript's alias of the pair's image collection; empty where there is none.
        metadata: how the pair's image was taken, for a model that is told it.
    """

    text: str
    key: str = ""
    class_name: str = ""
    source: str = ""
    metadata: ImageMetadata = UNKNOWN


def read_prompts(settings: PromptSettings) -> list[Prompt]:
    """Read the prompts of a file, blank ones left out.

    Raises:
        UnavailableError: there is no such file.
        ConfigError: no file is named, or the CSV has no such column.
        DataError: there is no prompt in it, it is not UTF-8 text, or a tag is not one.
    """
    path = settings.file
    if path is None:
        raise ConfigError(
            "nothing says what to draw: give --prompts.file, a text file with one prompt a line or a CSV, or --pairs.root."
        )
    if not path.is_file():
        raise UnavailableError(
            f"--prompts.file {path}: there is no such file; give a text file with one prompt a line, or a CSV."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    lines = _from_csv(path, text, settings) if path.suffix.lower() == ".csv" else _from_text(text)
    return spread(_word(path, [prompt for prompt in lines if prompt.text], settings), settings.limit)


def spread(prompts: Sequence[Prompt], limit: int) -> list[Prompt]:
    """Take so many prompts, evenly spaced; all of them where the limit is 0 or none too many."""
    if not limit or limit >= len(prompts):
        return list(prompts)
    stride = len(prompts) / limit
    return [prompts[int(index * stride)] for index in range(limit)]


def name_classes(prompts: Sequence[Prompt], templates: Sequence[str]) -> list[Prompt]:
    """Put class names into templates, each class once with each template.

    The classes come in turn, the template moving on with them, so that the first prompts are neither all of one class nor
    all of one template, and every class has met every template at the end.

    Args:
        prompts: whose texts are names of classes.
        templates: with ``{}`` where the class goes; ``a satellite image of {}`` where there is none.
    """
    chosen = list(templates) or [CLASS_TEMPLATE]
    return [
        replace(prompt, text=chosen[(turn + place) % len(chosen)].replace("{}", prompt.text), class_name=prompt.text)
        for turn in range(len(chosen))
        for place, prompt in enumerate(prompts)
    ]


def caption_tags(text: str) -> str:
    """Caption OpenStreetMap tags as SkyScript does (Wang et al. 2024): see ``skygen.data.captions``.

    Args:
        text: ``key=value`` of the focus object, separated by ``;``, the one that names it first; then, each after a ``|``,
            those of the objects around it.

    Returns:
        Such as ``a satellite image of sport of tennis with surface of clay, surrounded by natural tree``.

    Raises:
        ValueError: with the tag that is not one.
    """
    objects = []
    for part in text.split("|"):
        tags: dict[str, str] = {}
        for tag in filter(None, (each.strip() for each in part.split(";"))):
            key, equals, value = (each.strip() for each in tag.partition("="))
            if not (key and equals and value):
                raise ValueError(tag)
            tags[key] = value
        if tags:
            objects.append(tags)
    if not objects:
        raise ValueError(text.strip())
    return title_multi_objects(objects[0], objects[1:])


def _word(path: Path, prompts: Sequence[Prompt], settings: PromptSettings) -> list[Prompt]:
    """Make the prompts of what the lines of a file say."""
    if not prompts:
        raise DataError(f"{path}: holds no prompt; write one a line.")
    is_list = path.suffix.lower() == ".csv"
    if settings.made_of == "classes" or (settings.all_templates() and not is_list):
        named = [Prompt(prompt.text) for prompt in prompts]
        return name_classes(list(dict.fromkeys(named)) if is_list else named, settings.all_templates())
    if settings.made_of == "captions":
        return list(prompts)
    worded = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            worded.append(replace(prompt, text=caption_tags(prompt.text)))
        except ValueError as error:
            raise DataError(
                f'{path}: entry {number} has "{error}", which is no tag; write key=value, separated by ;, and | before each '
                "object around the first."
            ) from error
    return worded


def _from_text(text: str) -> list[Prompt]:
    return [Prompt(line.strip()) for line in text.splitlines() if line.strip()]


def _from_csv(path: Path, text: str, settings: PromptSettings) -> list[Prompt]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    try:
        names = rows.fieldnames or []
    except csv.Error as error:
        raise _broken(path, rows, error) from error
    usual = {"captions": COLUMNS, "classes": ("label", "class"), "tags": ("tags",)}[settings.made_of]
    chosen = settings.column or next((name for name in usual if name in names), None)
    if chosen is None or chosen not in names:
        what = settings.column or ("of prompts" if settings.made_of == "captions" else f"of {settings.made_of}")
        listed = " ".join(", ".join(names)[:300].split())
        raise ConfigError(f"{path}: has no column {what}; its columns are {listed}, choose with --prompts.column.")
    try:
        return [
            Prompt((row[chosen] or "").strip(), row.get("filepath") or "", (row.get("label") or "").strip()) for row in rows
        ]
    except csv.Error as error:
        raise _broken(path, rows, error) from error


def _broken(path: Path, rows: csv.DictReader[str], error: csv.Error) -> DataError:
    return DataError(f"{path}, line {rows.line_num}: {error}; look for a quote that is never closed.")
