"""Folders of images: Hugging Face's imagefolder with ``metadata.jsonl``, and one folder for each class.

The first is what ``datasets.load_dataset("imagefolder", data_dir=...)`` reads: lines with ``file_name``, relative to
the metadata file, and ``text`` or a list ``captions``; also ``split``, ``class`` and ``similarity`` where known. The
second is how EuroSAT and most scene classification sets come: ``AnnualCrop/AnnualCrop_1.jpg``, within ``train/`` and so
on or not.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from skygen.data.pair import SUFFIXES, Pair, hash_split, name_split, relative_key, to_words
from skygen.data.rejects import Rejects
from skygen.data.skyscript import parse_file_name
from skygen.errors import DataError

METADATA = "metadata.jsonl"
_NO_CLASS = re.compile(r"images?\d*|meta\d*|__MACOSX|\..*", re.IGNORECASE)


def find_metadata(root: Path) -> list[Path]:
    """Find the metadata files: in the folder itself, or else in its subfolders."""
    own = root / METADATA
    return [own] if own.is_file() else sorted(root.glob(f"*/{METADATA}"))


def read_metadata(paths: Iterable[Path], root: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Pair | None]:
    """Read the lines of metadata files; images are not opened.

    A blank caption goes to the rejects alone, and the pair keeps its others; a caption that is repeated is kept once.

    Args:
        paths: the metadata files.
        root: of the data set, which keys are relative to.
        caption_column: the name to take captions from; by default ``captions``, ``text`` or ``caption``.
        rejects: where a line that cannot be used is noted.

    Yields:
        A pair; None for a rejected line.
    """
    for path in paths:
        folder = path.parent.relative_to(root).as_posix()
        prefix = "" if folder == "." else f"{folder}/"
        try:
            file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        with file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}, row {number}"
                try:
                    yield _read_line(line, prefix, root, caption_column, rejects, where)
                except (ValueError, RecursionError) as error:  # JSON nested a thousand deep
                    rejects.add(f"{prefix}{METADATA}:{number}", str(error), where)
                    yield None


def _read_line(line: bytes, prefix: str, root: Path, caption_column: str | None, rejects: Rejects, where: str) -> Pair:
    """Make the pair of one line; a ValueError carries the reason why there is none."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except ValueError as error:
        raise ValueError(f"not a line of JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise ValueError('no text under "file_name"')
    key = prefix + relative_key(row["file_name"])
    captions = [caption.strip() for caption in _find_captions(row, caption_column)]
    for number, caption in enumerate(captions, start=1):
        if not caption and any(captions):
            rejects.add(key, "the caption is empty", where, part=f"caption {number}")
    if not any(captions):
        raise ValueError("the caption is empty")
    name, class_name, similarity = parse_file_name(key), row.get("class"), row.get("similarity")
    return Pair(
        key=key,
        image=root / key,
        captions=tuple(dict.fromkeys(filter(None, captions))),
        split=_find_split(row, key),
        class_name=(class_name.strip() or None) if isinstance(class_name, str) else None,
        source=name.source if name else None,
        year=name.year if name else None,
        similarity=similarity if isinstance(similarity, float) and math.isfinite(similarity) else None,
    )


def _find_captions(row: dict[str, Any], caption_column: str | None) -> list[str]:
    names = [caption_column] if caption_column else ["captions", "text", "caption"]
    value = next((row[name] for name in names if row.get(name) is not None), None)
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"no text or list of texts under {' or '.join(map(json.dumps, names))}")
    if any("\ud800" <= letter <= "\udfff" for caption in captions for letter in caption):
        raise ValueError("a caption holds half a character (a lone surrogate)")
    return captions


def _find_split(row: dict[str, Any], key: str) -> str | None:
    named = row.get("split")
    if isinstance(named, str) and named.strip():
        return name_split(named) or named.strip()
    folder, _, rest = key.partition("/")
    return name_split(folder, whole=True) if rest else None


def find_class_folders(root: Path) -> list[tuple[str | None, Path]]:
    """Find the folders that hold images of one class each, with the split they stand in, ordered by name."""
    found: list[tuple[str | None, Path]] = []
    for folder in _subfolders(root):
        split = name_split(folder.name, whole=True)
        inner = _subfolders(folder) if split else []
        found += [(split, path) for path in inner if _holds_image(path)]
        if not inner and not _NO_CLASS.fullmatch(folder.name) and _holds_image(folder):
            found.append((None, folder))
    return found


def read_class_folders(folders: Iterable[tuple[str | None, Path]], root: Path, caption_template: str) -> Iterator[Pair | None]:
    """List the images of class folders; the class in words makes the caption.

    Args:
        folders: as ``find_class_folders`` returns them.
        root: of the data set, which keys are relative to.
        caption_template: with ``{}`` where the class goes.

    Yields:
        A pair; its split is that of the folder, or else ``hash_split`` of its key.
    """
    for split, folder in folders:
        name = to_words(folder.name)
        caption = caption_template.replace("{}", name)
        for image in _images(folder):
            key = f"{folder.relative_to(root).as_posix()}/{image}"
            yield Pair(key, root / key, (caption,), split=split or hash_split(key), class_name=name)


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _holds_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_image(entry.name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")  # noqa: PTH122  # 27,000 times
