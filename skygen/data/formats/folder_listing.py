"""Looking for files in a data set's folder and one level below, without walking millions of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from skygen.data.pair import SUFFIXES

FEW = 2_000
"""Entries of a subfolder that is looked through; one with more holds images, not lists."""
SUBFOLDERS = 256
"""Subfolders that are looked into, by name."""


def find_files(root: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    """Find files by their name: in the folder itself, or else in its first ``SUBFOLDERS`` subfolders that have few entries.

    Returns:
        Paths, sorted; hidden files and folders are left out.
    """
    files, folders = list_folder(root)
    found = [root / name for name in files if is_wanted(name)]
    if not found:
        for folder in folders[:SUBFOLDERS]:
            names, _ = list_folder(root / folder, most=FEW + 1)
            found += [root / folder / name for name in names if is_wanted(name)] if len(names) <= FEW else []
    return found


def list_folder(folder: Path, most: int | None = None) -> tuple[list[str], list[str]]:
    """List the names of the files and of the folders in a folder, sorted, hidden ones left out.

    Args:
        folder: to look into; one that cannot be read is empty.
        most: entries to look at, which are then any of the folder's; None for all.
    """
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, most):
                if not entry.name.startswith((".", "__MACOSX")):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        return [], []
    return sorted(files), sorted(folders)


def folders_within(root: Path, most: int, depth: int) -> Iterator[Path]:
    """Yield a folder and those below it, the nearest first: at most ``most``, and at most ``depth`` levels down."""
    level = [root]
    given = 0
    for _ in range(depth + 1):
        deeper: list[Path] = []
        for folder in level:
            if given == most:
                return
            given += 1
            yield folder
            if len(deeper) < most:
                deeper += [folder / name for name in list_folder(folder, most=FEW)[1]]
        level = deeper


def is_image_name(name: str) -> bool:
    """Say whether a file's name is that of an image, and not of what macOS leaves beside it."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")  # noqa: PTH122  # millions of times
