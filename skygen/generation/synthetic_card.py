"""The card of a synthetic set: a ``README.md`` that says what was drawn, by what, how well, for what it is not, and its terms.

Its header is what Hugging Face's hub reads (``huggingface_hub.DatasetCardData``). The card is made to be published: it names no
folder of the machine.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from skygen.data.exports.card import CREDIT_OF_CAPTIONS, credit_collections
from skygen.data.exports.markdown import CARD, MARK, escape, fence, is_foreign, name_without_place, quote, quote_in_table
from skygen.data.skyscript import parse_file_name
from skygen.generation.xmp import DESCRIPTION
from skygen.storage import writing

SETTINGS: Final = (
    "scheduler",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "lora_scale",
    "resolution",
    "strength",
)
"""Of a record: how a picture was drawn."""
CLASSES_SHOWN: Final = 200
LIMITS: Final = (
    f"**{DESCRIPTION}**, also where a prompt names one. Never georeference the pictures, measure in them, or mix them unmarked "
    "with observations; the label inside each file and `synthetic` in its row say what they are.",
    "Use them for training alone. A test on them tells nothing of real images.",
    "They show what the captions of the training data name, as often as these do; what is rare there is drawn badly or not at "
    "all, and so are counts, sizes and small print.",
    "A picture need not show its prompt or its class: labels are of what was asked for, not of what was seen.",
    "A score by a CLIP says what that CLIP sees. One that has chosen among candidates is no independent judge of the chosen.",
)
_LOG = logging.getLogger("skygen")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


@final
@dataclass(frozen=True, slots=True)
class SetFacts:
    """What the records do not say of a set.

    Args:
        title: such as the name of the run.
        prompts: where they come from, in words, such as the name of the list.
        scores: rows of ``metrics.json``: ``name``, ``value``, ``interval``, ``count``, ``model``, ``subset``, ``extractor``.
        copies: what the check for copies of training images found, by name; empty where none was made.
        trained_on: of the adapter, in words, by name: data set, fingerprint, collections.
    """

    title: str
    prompts: str = ""
    scores: Sequence[Mapping[str, Any]] = ()
    copies: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(slots=True)
class _Counts:
    """What is counted in one pass over the records."""

    pictures: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    collections: Counter[str] = field(default_factory=Counter)
    models: Counter[tuple[str, ...]] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    terms: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)


def write_synthetic_card(folder: Path, records: Iterable[Mapping[str, Any]], facts: SetFacts) -> Path:
    """Write the card; a ``README.md`` that somebody else has written stays, and a log message says so.

    Args:
        folder: of the finished set, with ``metadata.jsonl``.
        records: its lines, in any number; they are read once.
        facts: what they do not say. No text of either can become Markdown, HTML or YAML.

    Returns:
        Its path. ``huggingface_hub.DatasetCard.load`` reads it.

    Raises:
        StorageError: the disk is full or refuses.
    """
    path = folder / CARD
    if is_foreign(path):
        _LOG.warning(f"{path}: not written by skygen, and left as it is; the card of the set is not written.")
        return path
    counts = _count(records)
    sections = [
        f"# {escape(facts.title)}",
        f"{counts.pictures:,} pictures drawn by a model. **{DESCRIPTION}.**",
        *_section("Use", [fence(_write_usage(), "python")]),
        *_section("What was drawn", _tell_contents(counts, facts)),
        *_section("By what", _tell_models(counts, facts)),
        *_section("Scores", _tell_scores(facts.scores)),
        *_section("Copies of training images", _tell_facts(facts.copies, "Not looked for.")),
        *_section("Limits", ["\n".join(f"- {limit}" for limit in LIMITS)]),
        *_section("Licence and credit", _tell_terms(counts)),
    ]
    text = f"---\n{_write_header(facts.title, counts.pictures)}\n---\n{MARK}\n\n" + "\n\n".join(sections) + "\n"
    with writing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return path


def _count(records: Iterable[Mapping[str, Any]]) -> _Counts:
    counts = _Counts()
    for record in records:
        counts.pictures += 1
        counts.texts.add(hash(record.get("text", "")))
        counts.classes[str(record.get("class") or "")] += 1
        if record.get("key"):
            name = parse_file_name(str(record["key"]))
            counts.collections[name.source if name else ""] += 1
        names = ("base", "base_fingerprint", "adapter", "adapter_sha256")
        counts.models[tuple(str(record.get(name) or "") for name in names)] += 1
        used = {name: record[name] for name in SETTINGS if record.get(name) is not None}
        counts.settings[json.dumps(used)] += 1
        counts.terms.add(str(record.get("terms") or ""))
    return counts


def _write_header(title: str, pictures: int) -> str:
    """Write the hub's metadata."""
    from huggingface_hub import DatasetCardData

    files = [{"split": "train", "path": ["metadata.jsonl", "images/**"]}]
    data = DatasetCardData(
        pretty_name=" ".join(title.split()),
        license="other",
        license_name="by-model-and-odbl",
        task_categories=["text-to-image", "image-classification"],
        tags=["synthetic", "remote-sensing", "skygen"],
        size_categories=[next((name for limit, name in _SIZES if pictures < limit), "n>10M")],
        source_datasets=["original"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    header: str = data.to_yaml()
    return header


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"## {title}", *parts]


def _write_usage() -> str:
    return """from datasets import load_dataset

pictures = load_dataset("imagefolder", data_dir="FOLDER_OF_THIS_FILE", split="train")
picture = pictures[0]["image"]  # beside it: text, class, seed, base, adapter, synthetic
"""


def _tell_contents(counts: _Counts, facts: SetFacts) -> list[str]:
    lines = [f"- pictures: {counts.pictures:,}", f"- different prompts: {len(counts.texts):,}"]
    lines += [f"- source of the prompts: {quote(name_without_place(facts.prompts))}"] if facts.prompts else []
    parts = ["\n".join(lines)]
    named = [(name, count) for name, count in counts.classes.most_common() if name]
    if named:
        rows = [f"| {quote_in_table(name)} | {count:,} |" for name, count in named[:CLASSES_SHOWN]]
        rest = named[CLASSES_SHOWN:]
        rows += [f"| {len(rest):,} further classes | {sum(count for _, count in rest):,} |"] if rest else []
        rows += [f"| no class | {counts.classes['']:,} |"] if counts.classes[""] else []
        parts.append("\n".join(["| class | pictures |", "|---|---|", *rows]))
    if counts.collections:
        parts.append("Prompts that are captions of real images, by the collection of the image; none of it is in this set:")
        parts.append("\n".join(credit_collections(counts.collections, "prompts")))
    return parts


def _tell_models(counts: _Counts, facts: SetFacts) -> list[str]:
    rows = []
    for (base, fingerprint, adapter, digest), count in sorted(counts.models.items()):
        cells = (name_without_place(base), fingerprint, name_without_place(adapter) or "none", digest)
        rows.append("| " + " | ".join(quote_in_table(cell) for cell in cells) + f" | {count:,} |")
    table = ["| base | fingerprint | adapter | SHA-256 | pictures |", "|---|---|---|---|---|", *rows]
    settings = []
    for used, count in counts.settings.most_common(20):
        told = ", ".join(f"{name} {value}" for name, value in json.loads(used).items()) or "not told"
        settings.append(f"- {quote(told)}: {count:,} pictures")
    parts = ["\n".join(table), "\n".join(settings)]
    if facts.trained_on:
        parts += ["The adapter was trained on:", *_tell_facts(facts.trained_on, "")]
    return parts


def _tell_scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return ["None were measured."]
    rows = ["| metric | model | value | 95 % interval | count | of | network |", "|---|---|---|---|---|---|---|"]
    for score in scores:
        low_high = score.get("interval")
        names = {name: quote_in_table(score.get(name) or "") for name in ("name", "model", "subset", "extractor")}
        interval = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else "none"
        middle = f"{score['value']:.4f} | {interval} | {score['count']:,}"
        rows.append(f"| {names['name']} | {names['model']} | {middle} | {names['subset']} | {names['extractor']} |")
    return ["\n".join(rows)]


def _tell_facts(facts: Mapping[str, Any], without: str) -> list[str]:
    lines = [f"- {escape(name)}: {quote(name_without_place(str(value)))}" for name, value in facts.items()]
    return ["\n".join(lines) or without]


def _tell_terms(counts: _Counts) -> list[str]:
    known = sorted(counts.terms - {""})
    told = "\n".join(f"- {quote(terms)}" for terms in known) or "- not told by the card of the model; ask who published it"
    return [
        "Pictures are bound by the terms of the model that drew them:",
        told,
        "\n".join(CREDIT_OF_CAPTIONS),
    ]
