"""Images of which nothing is said yet: a file, a folder and all folders in it, an archive, shards, Parquet files of images.

Only names are held, however many images there are; each is read when its turn comes, through ``skygen.data.archives``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, final, overload

from skygen.data.archive_members import LISTING_ERRORS, list_members
from skygen.data.archives import split_at_archive
from skygen.data.formats.folder_listing import is_image_name
from skygen.data.formats.parquet_images import holds_images
from skygen.data.formats.webdataset import IMAGES
from skygen.data.rejects import Rejects
from skygen.errors import UnavailableError

ARCHIVES = (".zip", ".tar")


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """An image, and what is said of it: nothing, or what a data set says.

    Args:
        key: its path relative to the place that was given, with forward slashes; names it in the ledger.
        image: where it lies; the path may lead through an archive.
        captions: of the data set, where it is of one.
    """

    key: str
    image: Path
    captions: tuple[str, ...] = ()


class _Found(NamedTuple):
    """An image's path relative to the place, and what tells other bytes under the same name: size, and CRC where known."""

    key: str
    content: str


@final
class PictureList(Sequence[Picture]):
    """Images by name, in a fixed order: a sequence that makes each ``Picture`` when it is asked for.

    Args:
        place: that the keys are relative to.
        keys: of the images.
        fingerprint: of the keys and of the sizes of the files.
    """

    def __init__(self, place: Path, keys: Sequence[str], fingerprint: str) -> None:
        self.place = place
        self.keys = keys
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> PictureList: ...
    def __getitem__(self, index: int | slice) -> Picture | PictureList:
        if isinstance(index, slice):
            keys = self.keys[index]
            return PictureList(self.place, keys, sha256(f"{self._fingerprint} {keys}".encode()).hexdigest()[:16])
        key = self.keys[index]
        return Picture(key, self.place / key)

    def fingerprint(self) -> str:
        """Name the images: other names, another order or files of other sizes have another name; 16 hexadecimal digits."""
        return self._fingerprint


def find_pictures(place: Path, rejects: Rejects) -> PictureList:
    """Find all images at a place, each once.

    An archive inside a folder counts as a folder; of one that lies beside what was unpacked from it, only what is not
    unpacked is taken. What else lies there (captions, hidden files, archives inside archives) is passed over.

    Args:
        place: an image; a folder; a ``.zip`` or ``.tar``, WebDataset shards among them; a ``.parquet`` that holds images; or
            a folder inside an archive.
        rejects: where an archive that is damaged is noted; the images before the damage are kept.

    Returns:
        Sorted by folder and name; those of an archive in the order they lie in.

    Raises:
        UnavailableError: there is no such place, no image in it, or a folder in it cannot be read.
    """
    inside = None if place.exists() else split_at_archive(place)
    if inside is not None:
        archive, folder = inside
        within = (found for found in _in_archive(archive, archive, rejects) if f"{found.key}/".startswith(f"{folder}/"))
        found, base = list(within), archive
    elif place.is_dir():
        found, base = list(_in_folder(place, rejects)), place
    elif _is_container(place):
        found, base = list(_in_archive(place, place, rejects)), place
    else:
        found, base = [_Found(place.name, str(place.stat().st_size))] if place.is_file() else [], place.parent
    if not found:
        damage = f" ({rejects.first_reason})" if rejects.first_reason else ""
        raise UnavailableError(
            f"{place}: there is no image{damage}; give an image file, or a folder or archive with JPEG, PNG or TIFF files."
        )
    digest = sha256()
    for key, content in found:
        digest.update(os.fsencode(f"{key}\x1f{content}\x1e"))
    return PictureList(base, [key for key, _ in found], digest.hexdigest()[:16])


def _is_container(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in ARCHIVES or (suffix == ".parquet" and holds_images(path)))


def _in_folder(root: Path, rejects: Rejects) -> Iterator[_Found]:
    def refuse(error: OSError) -> None:
        raise UnavailableError(
            f"{error.filename} cannot be read ({error.strerror}); make it readable, or choose another folder"
        )

    for name, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "__MACOSX")))
        folder = Path(name)
        for file in sorted(each for each in files if not each.startswith(".")):
            path = folder / file
            if is_image_name(file):
                yield _Found(path.relative_to(root).as_posix(), _size(path))
            elif _is_container(path):
                yield from (found for found in _in_archive(path, root, rejects) if not _is_unpacked(path, root / found.key))


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:  # a link that leads nowhere: its turn to be rejected comes when it is to be read
        return ""


def _is_unpacked(archive: Path, member: Path) -> bool:
    name = member.relative_to(archive)
    return any((place / name).is_file() for place in (archive.parent, archive.with_suffix("")))


def _in_archive(path: Path, root: Path, rejects: Rejects) -> Iterator[_Found]:
    prefix = "" if path == root else f"{path.relative_to(root).as_posix()}/"
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            size = path.stat().st_size
            yield from (_Found(f"{prefix}{row}", str(size)) for row in range(pq.read_metadata(path).num_rows))
            return
        names = set()
        for member in list_members(path):
            parts = member.name.split("/")
            is_image = is_image_name(parts[-1]) or parts[-1].lower().endswith(f".{IMAGES[0]}")
            if is_image and ".." not in parts and parts[0] and member.name not in names:
                names.add(member.name)
                yield _Found(prefix + member.name, f"{member.size} {member.crc}")
    except LISTING_ERRORS as error:
        key = path.name if path == root else path.relative_to(root).as_posix()
        rejects.add(key, f"damaged: the rest of the archive cannot be read: {error}", str(path))
