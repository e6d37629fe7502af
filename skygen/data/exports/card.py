"""The card of an exported data set: a ``README.md`` with a header that Hugging Face's hub reads, and who is to be credited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc

from skygen.data.exports.markdown import CARD, MARK, is_foreign, quote
from skygen.data.exports.rows import WITHOUT_SPLIT, Group
from skygen.data.exports.synthetic import SyntheticRecords
from skygen.data.skyscript import SOURCES
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.storage import writing

CREDIT_OF_CAPTIONS = (
    "Captions and tags that are made from OpenStreetMap: © OpenStreetMap contributors, ODbL 1.0,",
    "<https://www.openstreetmap.org/copyright>.",
)
_HUB_SPLITS = {"val": "validation"}


def require_own_card(folder: Path) -> None:
    """Make sure that a README in a folder is one of ours.

    Raises:
        ConfigError: it is not, and would be lost.
    """
    card = folder / CARD
    if is_foreign(card):
        raise ConfigError(f"{card} is not from an export and would be lost; choose another folder")


def write_card(
    folder: Path,
    pairs: PairList,
    groups: list[Group],
    counts: dict[str, int],
    patterns: dict[str, str],
    selection: str,
    synthetic: SyntheticRecords,
) -> None:
    """Write the card.

    Args:
        folder: of the export.
        pairs: the selection.
        groups: the same by split.
        counts: of what was written, by name.
        patterns: which files make each split; empty where Hugging Face cannot read them.
        selection: in the caller's words, such as the expression it was chosen by; empty for all pairs.
        synthetic: records of pictures that a model has drawn.
    """
    drawn = sum(key in synthetic.places for key in pairs.column("key").to_pylist()) if synthetic else 0
    files = [{"split": _HUB_SPLITS.get(name, name), "path": pattern} for name, pattern in patterns.items()]
    header = [
        "---",
        "license: other",
        f"license_name: {'by-model-and-odbl' if drawn == len(pairs) > 0 else 'imagery-by-collection-and-odbl'}",
        "task_categories: [image-to-text, text-to-image]",
        f"tags: [remote-sensing{', synthetic' if drawn else ''}]",
        *([f"configs: {json.dumps([{'config_name': 'default', 'data_files': files}])}"] if files else []),
        "---",
    ]
    splits = ", ".join(f"{'no split' if group.name == WITHOUT_SPLIT else group.name} {len(group.pairs):,}" for group in groups)
    facts = [
        *(f"- {name}: {count:,}" for name, count in counts.items()),
        *([f"- synthetic: {drawn:,}, **which are no observations of any place**"] if drawn else []),
        f"- chosen: {splits}",
        f"- selection: {f'`{selection}`' if selection else 'not told'}",
        f"- fingerprint: `{pairs.split_fingerprint()}` (SHA-256 of the sorted keys, 16 digits)",
    ]
    title = "Synthetic overhead images" if drawn == len(pairs) > 0 else "Overhead images"
    text = "\n".join([*header, MARK, "", f"# {title} with captions", "", *facts, "", *_credits(pairs, synthetic)])
    with writing(folder / CARD) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _credits(pairs: PairList, synthetic: SyntheticRecords) -> list[str]:
    """Name the collections that the images are drawn from or the models that drew them, and whose tags the captions are."""
    lines = ["## Sources and licences", ""]
    if synthetic:
        lines += ["Synthetic pictures are bound by the terms of the model that drew them; `provenance` tells it of each:", ""]
        lines += [f"- {quote(terms)}" for terms in synthetic.terms] or ["- not told by the card of the model"]
        lines += [""]
    if not synthetic.are_all:
        counted = pc.value_counts(pairs.column("source")).to_pylist()
        lines += ["Each image keeps the terms of its collection, which ask at the least to be named:", ""]
        lines += [*credit_collections({entry["values"] or "": entry["counts"] for entry in counted}, "pairs"), ""]
    return [*lines, *CREDIT_OF_CAPTIONS]


def credit_collections(counts: Mapping[str, int], unit: str) -> list[str]:
    """Name image collections, a line of Markdown each, the largest first.

    Args:
        counts: of each alias, such as ``CH``; the empty one is of a source that is not known.
        unit: what is counted.
    """
    lines = []
    for alias, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        known = SOURCES.get(alias)
        named = f"{known.name} (Google Earth Engine: {known.collection})" if known else "of a source that is not known"
        lines.append(f"- {f'{alias}: ' if alias else ''}{named}, {count:,} {unit}")
    return lines
