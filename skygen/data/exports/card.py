"""The card of an exported data set: a ``README.md`` with a header that Hugging Face's hub reads, and who is to be credited."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc

from skygen.data.exports.rows import WITHOUT_SPLIT, Group
from skygen.data.skyscript import SOURCES
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.storage import writing

CARD = "README.md"
MARK = "<!-- written by skygen; the next export to this folder writes it anew -->"
_HUB_SPLITS = {"val": "validation"}


def require_own_card(folder: Path) -> None:
    """Make sure that a README in a folder is one of ours.

    Raises:
        ConfigError: it is not, and would be lost.
    """
    card = folder / CARD
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{card} is not from an export and would be lost; choose another folder")


def write_card(
    folder: Path, pairs: PairList, groups: list[Group], counts: dict[str, int], patterns: dict[str, str], selection: str
) -> None:
    """Write the card.

    Args:
        folder: of the export.
        pairs: the selection.
        groups: the same by split.
        counts: of what was written, by name.
        patterns: which files make each split; empty where Hugging Face cannot read them.
        selection: in the caller's words, such as the expression it was chosen by; empty for all pairs.
    """
    files = [{"split": _HUB_SPLITS.get(name, name), "path": pattern} for name, pattern in patterns.items()]
    header = [
        "---",
        "license: other",
        "license_name: imagery-by-collection-and-odbl",
        "task_categories: [image-to-text, text-to-image]",
        "tags: [remote-sensing]",
        *([f"configs: {json.dumps([{'config_name': 'default', 'data_files': files}])}"] if files else []),
        "---",
    ]
    splits = ", ".join(f"{'no split' if group.name == WITHOUT_SPLIT else group.name} {len(group.pairs):,}" for group in groups)
    facts = [
        *(f"- {name}: {count:,}" for name, count in counts.items()),
        f"- chosen: {splits}",
        f"- selection: {f'`{selection}`' if selection else 'not told'}",
        f"- fingerprint: `{pairs.split_fingerprint()}` (SHA-256 of the sorted keys, 16 digits)",
    ]
    text = "\n".join([*header, MARK, "", "# Overhead images with captions", "", *facts, "", *_credits(pairs)])
    with writing(folder / CARD) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _credits(pairs: PairList) -> list[str]:
    """Name the collections that the images are drawn from, and whose tags the captions are made of."""
    counted = pc.value_counts(pairs.column("source")).to_pylist()
    lines = []
    for entry in sorted(counted, key=lambda entry: (-entry["counts"], entry["values"] or "")):
        alias, known = entry["values"], SOURCES.get(entry["values"] or "")
        named = f"{known.name} (Google Earth Engine: {known.collection})" if known else "of a source that is not known"
        lines.append(f"- {f'{alias}: ' if alias else ''}{named}, {entry['counts']:,} pairs")
    credit = ["", "Captions and tags that are made from OpenStreetMap: © OpenStreetMap contributors, ODbL 1.0,"]
    return [
        "## Sources and licences",
        "",
        "Each image keeps the terms of its collection, which ask at the least to be named:",
        "",
        *lines,
        *credit,
        "<https://www.openstreetmap.org/copyright>.",
    ]
