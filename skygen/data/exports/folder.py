"""An imagefolder as 🤗 datasets and ``formats.imagefolder`` read it: images as they were, and ``metadata.jsonl`` by split.

A folder that has its ``metadata.jsonl`` is whole: it is written when every image of it is there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from skygen.data.exports.rows import Group, Row, check_key, check_room, describe, known_columns, read_image, rows_of
from skygen.data.exports.synthetic import SyntheticRecords
from skygen.data.formats.imagefolder import METADATA
from skygen.data.pair import Pair, name_split
from skygen.data.rejects import Rejects
from skygen.data.skyscript import locate_image
from skygen.data.table import PairList
from skygen.errors import ImageError
from skygen.storage import storage_error, writing

MANIFEST = "export.json"
_SEPARATORS = re.compile(r"[\W_]+")


def write_folder(
    pairs: PairList,
    groups: list[Group],
    destination: Path,
    rejects: Rejects,
    progress: Callable[[int, int], None],
    synthetic: SyntheticRecords,
) -> tuple[int, int]:
    """Copy the images of every split byte for byte, and list them with what is known.

    An image that is there with the size of its source is not copied again; one of the same size with other content is not
    noticed. A column is told where each split has it in some row: Hugging Face reads no folder whose splits differ in columns.

    Args:
        pairs: the selection.
        groups: the same by split.
        destination: a folder of one's own.
        rejects: where an image that cannot be used is noted.
        progress: is told the pairs done and in all.
        synthetic: records of pictures that a model has drawn.

    Returns:
        How many pairs and captions are listed.

    Raises:
        StorageError: the disk is full or refuses.
    """
    root = pairs.tables[0].root
    folders = {split: group.name for group in groups for split in group.pairs.column("split").unique().to_pylist()}

    def is_here(pair: Pair) -> bool:
        return (destination / folders[pair.split] / place_image(pair.key, pair.split)).is_file()

    check_room(destination, pairs, len(pairs), is_here)
    columns = shared_columns(groups)
    done = listed = captions = 0
    for group in groups:
        folder = destination / group.name
        with writing(folder / METADATA) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in rows_of(group.pairs):
                name = place_image(row["key"], row["split"])
                try:
                    _copy(row, root, folder / name, destination / ".image.part")
                except ImageError as error:
                    rejects.add(row["key"], str(error), str(locate_image(root, row["key"])))
                else:
                    line = {"file_name": name, **describe(row, columns), **synthetic.describe(row["key"])}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    listed, captions = listed + 1, captions + len(line["captions"])
                done += 1
                progress(done, len(pairs))
            if hasattr(os, "sync"):
                os.sync()  # the images, of which none was flushed by itself: that takes longer than the copying
    return listed, captions


def place_image(key: str, split: str | None) -> str:
    """Return the path of an image in the folder of its split: its key.

    A folder in it that is named after another split would have Hugging Face put the image in both: ``test/1.jpg`` in a split
    for training becomes ``fromtest/1.jpg``.
    """
    *folders, name = key.split("/")
    own = name_split(split or "")
    glued = (f"from{_SEPARATORS.sub('', part)}" if name_split(part) not in (None, own) else part for part in folders)
    return "/".join((*glued, name))


def shared_columns(groups: list[Group]) -> list[str]:
    """Name the columns of which every split knows something."""
    known = known_columns(groups[0].pairs) if groups else []
    return [name for name in known if all(_is_known(group.pairs, name) for group in groups)]


def _is_known(pairs: PairList, name: str) -> bool:
    if all(part.table.column(name).null_count == 0 for part in pairs.tables):
        return True
    column = pairs.column(name)
    return bool(column.null_count < len(column))


def _copy(row: Row, root: Path, target: Path, temporary: Path) -> None:
    check_key(row["key"])
    size = _size(target)
    if size is not None and size == _size(locate_image(root, row["key"])):
        return
    data = read_image(row, root)
    if size == len(data):  # from inside an archive, whose members' sizes are known when they are read
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None
