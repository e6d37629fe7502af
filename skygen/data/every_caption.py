"""Captions as often as a data set's files have them.

A pair has each caption once, which is right for training and for SkyScript's retrieval. RemoteCLIP's retrieval counts every
one: of RSICD's five captions an image about half are repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skygen.data.formats.imagefolder import METADATA
from skygen.data.layouts import find_layout
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.rejects import Rejects


def restore_repeats(
    pairs: Sequence[Pair],
    root: Path,
    *,
    csv: Path | None = None,
    caption_column: str | None = None,
    split: str | None = None,
) -> list[Pair]:
    """Give each pair its captions as often, and in the order, that the files of its data set have them.

    Known are the layouts in which sets with several captions an image come: lists (repeated rows), ``metadata.jsonl``, and
    the caption files of RSICD, RSITMD, UCM-captions, Sydney-captions and NWPU-Captions. Of others each caption stays once a
    row.

    Args:
        pairs: as ``read_pairs`` returns them.
        root: folder of the data set.
        csv: as it was given to ``read_pairs``, and so are the others.
        caption_column: column or key of the captions.
        split: ``train``, ``val`` or ``test``; None for all.

    Returns:
        The pairs in their order; a caption that was rejected in reading stays away.
    """
    layout = find_layout(root, csv, caption_column, split, CLASS_TEMPLATE)
    written: dict[str, list[str]] = {}
    if all(path.suffix in (".json", ".jsonl") for path in layout.files):
        for path in layout.files:
            for name, texts in _read_texts(path, root, caption_column):
                written.setdefault(name, []).extend(texts)
    else:
        for block in layout.blocks(Rejects(None)):  # what is bad was noted when the pairs were read
            columns = (block.batch.column(name).to_pylist() for name in ("key", "captions"))
            for key, texts in zip(*columns, strict=True):
                written.setdefault(key, []).extend(texts or ())
    return [replace(pair, captions=_repeat(pair, written)) for pair in pairs]


def _repeat(pair: Pair, written: dict[str, list[str]]) -> tuple[str, ...]:
    """Return a pair's captions with their repeats; as they are where a file says something else of the image."""
    parts = pair.key.split("/")
    names = ("/".join(parts[start:]) for start in range(len(parts)))  # a caption file does not say in which folder it lies
    texts = next((written[name] for name in names if name in written), [])
    by_words = {" ".join(caption.split()): caption for caption in pair.captions}  # readers differ in what they do to a tab
    own = (text.strip() if text.strip() in pair.captions else by_words.get(" ".join(text.split())) for text in texts)
    kept = tuple(caption for caption in own if caption is not None)
    return kept if set(kept) == set(pair.captions) else pair.captions


def _read_texts(path: Path, root: Path, caption_column: str | None) -> Iterator[tuple[str, list[str]]]:
    """Yield each image's name and its texts; what is not of the form was noted when the pairs were read."""
    if path.name == METADATA:
        prefix = path.parent.relative_to(root).as_posix()
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            row = _parse(line)
            texts = next((row[name] for name in _names(caption_column) if row.get(name) is not None), None)
            if isinstance(row.get("file_name"), str) and isinstance(texts, list):
                yield ("" if prefix == "." else f"{prefix}/") + row["file_name"], _keep_texts(texts)
        return
    content = _parse(path.read_text(encoding="utf-8-sig", errors="replace"))
    for images in (list_ for list_ in content.values() if isinstance(list_, list)):  # one list, or one a class
        for row in images:
            if isinstance(row, dict) and isinstance(row.get("filename"), str):
                yield row["filename"], _keep_texts(_sentences(row, caption_column))


def _names(caption_column: str | None) -> tuple[str, ...]:
    return (caption_column,) if caption_column else ("captions", "text", "caption")


def _parse(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _sentences(row: dict[str, Any], caption_column: str | None) -> list[object]:
    sentences = row.get("sentences")
    if not isinstance(sentences, list):  # NWPU-Captions: raw, raw_1, ..., raw_4
        return [row[name] for name in sorted(row) if name == (caption_column or name) and name.startswith("raw")]
    return [_sentence(one, caption_column) if isinstance(one, dict) else one for one in sentences]


def _sentence(sentence: dict[str, Any], caption_column: str | None) -> object:
    raw, tokens = sentence.get(caption_column or "raw"), sentence.get("tokens")
    if not raw and not caption_column and isinstance(tokens, list):
        return " ".join(map(str, tokens))
    return raw


def _keep_texts(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]
