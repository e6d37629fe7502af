"""The caption files of RSICD, RSITMD, UCM-captions, Sydney-captions and NWPU-Captions: one JSON for a whole data set.

Karpathy's form, which the first four share: ``{"images": [{"filename", "split", "sentences": [{"raw", "tokens"}]}]}``.
NWPU-Captions: ``{class: [{"filename", "split", "raw", "raw_1", ..., "raw_4"}]}``. Neither says in which folder the images
lie; that is found by looking for them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skygen.data.archives import open_archive, split_at_archive
from skygen.data.formats.annotations import keep_captions, name_class
from skygen.data.formats.folder_listing import find_files, list_folder
from skygen.data.pair import Pair, name_split, relative_key, to_words
from skygen.data.rejects import Rejects
from skygen.data.skyscript import locate_image
from skygen.errors import ArchiveError, DataError

PEEK = 1 << 16
"""Bytes of a JSON that tell what it is: the first image of NWPU-Captions and of RSICD takes under 3,000."""
LARGEST = 1 << 30
"""Bytes of a caption file; the largest published one, NWPU-Captions', has some tens of megabytes."""
SAMPLE = 50
"""Images that are looked for in each folder where they might lie."""
_FILE_NAME = re.compile(r"dataset.*\.json", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"(?:.*[_-])?(?:images?|imgs?)", re.IGNORECASE)
_RAW = re.compile(r"raw(?:_\d+)?")
_IDLE_WORDS = frozenset({"dataset", "images", "image", "imgs", "img", "captions", "caption", "data", "json", "modified"})

logger = logging.getLogger("skygen")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image as the JSON has it.

    Args:
        content: anything that JSON can hold.
        place: such as ``images:17``, counted from 1.
        folder: name of the class in NWPU-Captions, which may be that of a folder too.
    """

    content: Any
    place: str
    folder: str | None = None


def find_caption_json(root: Path) -> list[Path]:
    """Find caption files named ``dataset*.json``: in the folder itself, or else in its subfolders."""
    return [path for path in find_files(root, lambda name: bool(_FILE_NAME.fullmatch(name))) if _holds_captions(path)]


def read_caption_json(paths: Iterable[Path], root: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Pair | None]:
    """Read caption files; images are looked for, not opened.

    Captions are taken as written (``raw``), or else from their tokens. One without words goes to the rejects alone, and one
    that is repeated is kept once. The class is NWPU-Captions' own, or read from names such as ``airport_1.jpg``.

    Args:
        paths: the caption files.
        root: of the data set, which keys are relative to.
        caption_column: the name to take captions from; by default ``raw``, ``raw_1`` and so on, or else ``tokens``.
        rejects: where an image that cannot be used is noted.

    Yields:
        A pair; None for a rejected image.

    Raises:
        DataError: if a file is not JSON, or of another form.
    """
    for path in paths:
        content = _load(path)
        entries = list(_entries(content, path))
        prefix, nested = _find_images(entries, _dataset_words(content, path), path, root)
        for entry in entries:
            where = f"{path}, {entry.place.replace(':', ' ')}"
            try:
                yield _to_pair(entry, prefix, nested, root, caption_column, rejects, where)
            except ValueError as error:
                rejects.add(f"{path.relative_to(root).as_posix()}:{entry.place}", str(error), where)
                yield None


def _holds_captions(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(PEEK)
    except OSError:
        return False
    return b'"filename"' in start and (b'"sentences"' in start or b'"raw' in start)


def _load(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise DataError(f"{path} has {size:,} bytes, more than the {LARGEST:,} that a file of captions may have; split it")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid UTF-8 (byte {error.start}); download it again") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be a file of captions; download it again") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise DataError(f'{path} is not a file of captions: it holds no object with "images" or with classes')
    return content


def _entries(content: dict[str, Any], path: Path) -> Iterator[_Entry]:
    if "images" in content:
        if not isinstance(content["images"], list):
            raise DataError(f'{path} is not a file of captions: "images" is no list')
        yield from (_Entry(image, f"images:{number}") for number, image in enumerate(content["images"], start=1))
        return
    for name, images in content.items():
        if isinstance(images, list):
            yield from (_Entry(image, f"{name}:{number}", name) for number, image in enumerate(images, start=1))
        else:
            yield _Entry(images, name, name)


def _to_pair(
    entry: _Entry, prefix: str, nested: bool, root: Path, caption_column: str | None, rejects: Rejects, where: str
) -> Pair:
    """Make the pair of one image; a ValueError carries the reason why there is none."""
    row = entry.content
    if not isinstance(row, dict):
        raise ValueError("not an object with a filename and captions")
    key = prefix + _names(entry)[0 if nested else -1]
    split = row.get("split")
    texts = _raw_captions(row, caption_column) if entry.folder else _sentences(row, caption_column)
    return Pair(
        key=key,
        image=locate_image(root, key),
        captions=keep_captions(texts, key, where, rejects),
        split=_split_of(split) if isinstance(split, str) else None,
        class_name=to_words(entry.folder) if entry.folder else name_class(key),
    )


def _names(entry: _Entry) -> list[str]:
    """Return the path of an image within the folder of images, first with a folder of its class, last without one."""
    row = entry.content
    if not isinstance(row, dict) or not isinstance(row.get("filename"), str):
        raise ValueError('no text under "filename"')
    plain = relative_key(row["filename"])
    folder = entry.folder or row.get("filepath")  # the second is COCO's, in the same form
    return [relative_key(f"{folder}/{plain}"), plain] if isinstance(folder, str) and folder.strip(" /") else [plain]


def _sentences(row: dict[str, Any], caption_column: str | None) -> list[object]:
    sentences = row.get("sentences")
    if not isinstance(sentences, list):
        raise ValueError('no list under "sentences"')
    return [_sentence(sentence, caption_column) for sentence in sentences]


def _sentence(sentence: object, caption_column: str | None) -> object:
    """Return the text of one sentence; what is none is left for ``keep_captions`` to refuse."""
    if not isinstance(sentence, dict):
        return sentence
    raw, tokens = sentence.get(caption_column or "raw"), sentence.get("tokens")
    if caption_column or (isinstance(raw, str) and raw.strip()):
        return raw
    joinable = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    return " ".join(tokens) if tokens and joinable else raw


def _raw_captions(row: dict[str, Any], caption_column: str | None) -> list[object]:
    if caption_column:
        return [row[caption_column]] if caption_column in row else []
    return [row[name] for name in sorted(row) if _RAW.fullmatch(name)]


def _split_of(split: str) -> str | None:
    name = split.strip()
    if name.lower() == "restval":  # Karpathy's name for the part of COCO's validation set that is trained on
        return "train"
    return name_split(name) or name or None


def _dataset_words(content: dict[str, Any], path: Path) -> set[str]:
    named = content.get("dataset")
    return _words(f"{path.stem} {named if isinstance(named, str) else ''}")


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower())) - _IDLE_WORDS


def _find_images(entries: Sequence[_Entry], words: set[str], path: Path, root: Path) -> tuple[str, bool]:
    """Find where the images lie.

    Returns:
        What stands before each name in a key, and whether there is a folder for each class.
    """
    names = []
    for entry in entries:
        try:
            names.append(_names(entry))
        except ValueError:
            continue  # told when the row is read
    some = names[:: -(-len(names) // SAMPLE) or 1]
    places = [(prefix, which) for prefix in _candidates(words, path, root) for which in (0, -1)]
    hits = [sum(_exists(root, prefix + name[which]) for name in some) for prefix, which in places]
    if some and any(hits):
        best = hits.index(max(hits))
        return places[best][0], places[best][1] == 0
    for prefix, which in places:  # perhaps only a few of the images are here
        if any(_exists(root, prefix + name[which]) for name in names):
            return prefix, which == 0
    looked = ", ".join(dict.fromkeys(prefix or "./" for prefix, _ in places))
    logger.warning("%s: none of its images was found; looked in %s", path, looked)
    return _prefix(path.parent, root), True


def _candidates(words: set[str], path: Path, root: Path) -> list[str]:
    """List prefixes of keys, the likeliest first: folders and zips of the data set's name, of images, and where the JSON is."""
    found: list[tuple[int, str]] = []
    for base in dict.fromkeys((path.parent, root)):
        files, folders = list_folder(base)
        zips = [Path(name).stem for name in files if name.lower().endswith(".zip")]
        for name in (*folders, *zips):
            own = bool(words & _words(name))
            if own or _IMAGE_FOLDER.fullmatch(name):
                inside_zip = name not in folders and base != root  # which locate_image would not look into
                folder = base / (f"{name}.zip/{name}" if inside_zip else name)
                found.append((0 if own else 1 + ("_" in name), _prefix(folder, root)))
        found.append((3, _prefix(base, root)))
    return [prefix for _, prefix in sorted(found, key=lambda item: item[0])]


def _prefix(folder: Path, root: Path) -> str:
    relative = folder.relative_to(root).as_posix()
    return "" if relative == "." else f"{relative}/"


def _exists(root: Path, key: str) -> bool:
    path = locate_image(root, key)
    if path.is_file():
        return True
    try:
        place = split_at_archive(path)
        return place is not None and place[1] in open_archive(str(place[0]))
    except ArchiveError:
        return False
