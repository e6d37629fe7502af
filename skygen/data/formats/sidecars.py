"""Images with a text file of the same name beside each: EcoMapper's JSON, and the ``.txt`` that fine-tuners write.

``5284_2019-05.png`` + ``5284_2019-05.json`` with ``type`` (land cover), ``date``, ``center_coordinates`` and ``caption``, in
any depth of folders; or ``x.png`` + ``x.txt`` (or ``x.caption``) with a caption on each line, as kohya's scripts have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from skygen.data.formats.annotations import Annotation, decode_text, keep_captions, note_problems, parse_object, read_annotation
from skygen.data.formats.folder_listing import folders_within, is_image_name, list_folder
from skygen.data.pair import CLASS_TEMPLATE, Pair, name_split
from skygen.data.rejects import Rejects

TEXTS = (".txt", ".caption")
"""Endings of files with a caption on each line."""
LARGEST = 4 << 20
"""Bytes of a sidecar: a thousand times EcoMapper's."""
DEPTH = 3
"""Levels of folders that are looked into for an image with a sidecar; what is found is read to any depth."""
FOLDERS = 64
"""Folders that are looked into."""
IMAGES = 8
"""Images of a folder whose sidecars are looked at."""
ENTRIES = 512
"""Entries of a folder that are looked at."""


def find_sidecars(root: Path) -> list[Path]:
    """Find out whether images here have sidecars, looking at a few images of a few folders, at most three levels down.

    Returns:
        The folder itself and its subfolders, in which ``read_sidecars`` looks for images; empty if there are no sidecars.
    """
    if not any(_has_sidecars(folder) for folder in folders_within(root, FOLDERS, DEPTH)):
        return []
    return [root, *(root / name for name in list_folder(root)[1])]


def read_sidecars(paths: Iterable[Path], root: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Pair | None]:
    """Read the sidecars of all images in folders and the folders in them; images are not opened.

    Captions come from the text file, or else from the JSON, or else from its class and ``CLASS_TEMPLATE``. Of EcoMapper's
    four captions ``caption`` is taken: ``caption_1`` and ``caption_2`` say the same in other words, and ``caption_3`` tells
    last month's weather, which is not in the picture. A place is a point, the centre: its box has no width.

    An image without a sidecar goes to the rejects, unless no image of its folder has one.

    Args:
        paths: as ``find_sidecars`` returns them.
        root: of the data set, which keys are relative to.
        caption_column: the name in the JSON to take captions from; by default ``captions``, ``caption`` or ``text``.
        rejects: where an image that cannot be used is noted.

    Yields:
        A pair; None for a rejected image.
    """
    starts = set(paths)
    for start in sorted(starts):
        for folder, inner, files in os.walk(start):
            place = Path(folder)
            inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")) and place / name not in starts)
            prefix = "" if place == root else f"{place.relative_to(root).as_posix()}/"
            yield from _read_folder(place, sorted(files), prefix, caption_column, rejects)


def _read_folder(
    folder: Path, files: list[str], prefix: str, caption_column: str | None, rejects: Rejects
) -> Iterator[Pair | None]:
    names = set(files)
    images = [(name, _sidecars_of(name, names)) for name in files if is_image_name(name)]
    if not any(sidecars for _, sidecars in images):
        return
    for name, sidecars in images:
        key, where = prefix + name, str(folder / (sidecars[0] if sidecars else name))
        try:
            yield _to_pair(key, folder / name, [folder / sidecar for sidecar in sidecars], caption_column, rejects, where)
        except ValueError as error:
            rejects.add(key, str(error), where)
            yield None


def _sidecars_of(image: str, names: set[str]) -> list[str]:
    stem = image[: image.rindex(".")]
    return [stem + ending for ending in (*TEXTS, ".json") if stem + ending in names]


def _to_pair(key: str, image: Path, sidecars: list[Path], caption_column: str | None, rejects: Rejects, where: str) -> Pair:
    """Make the pair of one image; a ValueError carries the reason why there is none."""
    if not sidecars:
        raise ValueError("no .txt, .caption or .json lies beside it")
    texts = [line for path in sidecars if path.suffix != ".json" for line in _read_text(path).splitlines() if line.strip()]
    known = Annotation()
    if sidecars[-1].suffix == ".json":
        known = read_annotation(_read_json(sidecars[-1]), caption_column)
        note_problems(known, key, where, rejects)
    captions: Iterable[str] = known.captions if caption_column and known.captions else texts or known.captions
    if not captions and known.class_name:
        captions = [CLASS_TEMPLATE.format(known.class_name)]
    return Pair(
        key=key,
        image=image,
        captions=keep_captions(captions, key, where, rejects),
        split=known.split or next(filter(None, (name_split(part, whole=True) for part in key.split("/")[:-1])), None),
        class_name=known.class_name,
        year=known.year,
        gsd=known.gsd,
        box=known.box,
        time=known.time,
    )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST:,} bytes")
    return decode_text(data, path.name)


def _read_json(path: Path) -> Mapping[str, Any]:
    return parse_object(_read_text(path) or "{}", path.name)


def _has_sidecars(folder: Path) -> bool:
    files, _ = list_folder(folder, most=ENTRIES)
    images = [name for name in files if is_image_name(name)][:IMAGES]
    stems = [folder / name[: name.rindex(".")] for name in images]
    return any(_says_something(Path(f"{stem}{ending}")) for stem in stems for ending in (*TEXTS, ".json"))


def _says_something(path: Path) -> bool:
    """Say whether a sidecar has a caption or a class, as the boxes of a detector's training set do not."""
    if not path.is_file():
        return False
    try:
        if path.suffix != ".json":
            return any(sum(map(str.isalpha, line)) > 1 for line in _read_text(path).splitlines()[:2])
        known = read_annotation(_read_json(path))
    except ValueError:
        return False
    return bool(known.captions or known.class_name)
