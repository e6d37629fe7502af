"""WebDataset shards: ``train-000000.tar`` with ``NAME.jpg``, ``NAME.txt`` (the first caption) and ``NAME.json`` for each pair.

The same selection gives the same bytes, whenever it is written. A shard is there whole or not at all, and ``shards.json`` holds
the size and SHA-256 of each finished one, so that an export that was broken off goes on with the next.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

import pyarrow.compute as pc

from skygen.data.exports.rows import Group, check_room, describe, read_image, rows_of, write_manifest
from skygen.data.exports.synthetic import SyntheticRecords
from skygen.data.rejects import Reject, Rejects
from skygen.data.skyscript import locate_image
from skygen.data.table import PairList
from skygen.errors import ConfigError, ImageError
from skygen.storage import writing

MANIFEST = "shards.json"
BYTES_BESIDE_AN_IMAGE = 4096
"""Of a pair in a tar: three headers of 512, a text and a JSON in blocks of 512, and what fills the last block of each."""


@final
@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard, as the manifest has it.

    Args:
        pairs: in it.
        captions: of these.
        bytes: of the file.
        sha256: of the file.
        rejected: pairs that should be in it, and cannot be used.
    """

    pairs: int
    captions: int
    bytes: int
    sha256: str
    rejected: list[Reject]


def write_shards(
    pairs: PairList,
    groups: list[Group],
    destination: Path,
    about: dict[str, Any],
    rejects: Rejects,
    progress: Callable[[int, int], None],
    pairs_a_shard: int,
    synthetic: SyntheticRecords,
) -> list[Shard]:
    """Write the shards of every split that are not there yet.

    Args:
        pairs: the selection.
        groups: the same by split.
        destination: a folder of one's own.
        about: what its manifest says; the shards are added to it.
        rejects: where an image that cannot be used is noted.
        progress: is told the pairs done and in all.
        pairs_a_shard: at most so many in each.
        synthetic: records of pictures that a model has drawn.

    Returns:
        All shards, old and new.

    Raises:
        ConfigError: an image is in the selection twice.
        StorageError: the disk is full or refuses.
    """
    name_member = choose_names(pairs)
    finished: dict[str, Shard] = {}
    plan = dict(_plan(groups, pairs_a_shard))
    for name, entry in about.get("shards", {}).items():
        shard = _read_entry(entry)
        if name in plan and shard is not None and _is_whole(destination / name, shard):
            finished[name] = shard
    left = sum(len(part) for name, part in plan.items() if name not in finished)
    check_room(destination, pairs, left, lambda _: False, BYTES_BESIDE_AN_IMAGE)
    done = 0
    for name, part in plan.items():
        if name not in finished:
            say = partial(_progress_from, progress, done, len(pairs))
            finished[name] = _write_shard(destination / name, part, name_member, synthetic, say)
            about["shards"] = {shard: asdict(finished[shard]) for shard in plan if shard in finished}
            write_manifest(destination / MANIFEST, about)
        rejects.add_all(finished[name].rejected)
        done += len(part)
        progress(done, len(pairs))
    return [finished[name] for name in plan]


def choose_names(pairs: PairList) -> Callable[[str], str]:
    """Choose how samples are named after the keys of their images: without dots and slashes, each once, reversible.

    Where the file names alone differ, as SkyScript's do, they are the names: ``a198234555_CH_19``. Else the whole key is,
    percent-encoded: ``train%2F1``; the ending is kept, as ``train%2F1+png``, unless it is ``.jpg``.

    Raises:
        ConfigError: a key is there twice.
    """
    keys = pairs.column("key")
    if pc.count_distinct(keys).as_py() < len(keys):
        counts = pc.value_counts(keys)
        twice = counts.field(0)[pc.index(pc.greater(counts.field(1), 1), True).as_py()]
        raise ConfigError(f"the image {twice} is chosen twice, which a WebDataset cannot hold; choose from one list only")
    stems = pc.replace_substring_regex(pc.replace_substring_regex(keys, "^.*/", ""), r"\.[^.]*$", "")
    return _name_by_file if pc.count_distinct(stems).as_py() == len(keys) else _name_by_key


def _name_by_file(key: str) -> str:
    return _encode(key.rpartition("/")[2].rpartition(".")[0])


def _name_by_key(key: str) -> str:
    stem, _, ending = key.rpartition(".")
    return _encode(stem) if ending == "jpg" else f"{_encode(stem)}+{ending}"


def _encode(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def _plan(groups: list[Group], pairs_a_shard: int) -> Iterator[tuple[str, PairList]]:
    for group in groups:
        for number, start in enumerate(range(0, len(group.pairs), pairs_a_shard)):
            yield f"{group.name}-{number:06d}.tar", group.pairs[start : start + pairs_a_shard]


def _progress_from(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _write_shard(
    path: Path,
    part: PairList,
    name_member: Callable[[str], str],
    synthetic: SyntheticRecords,
    progress: Callable[[int], None],
) -> Shard:
    root = part.tables[0].root
    rejected: list[Reject] = []
    pairs = captions = 0
    with writing(path) as temporary:
        with tarfile.open(temporary, "w:", format=tarfile.GNU_FORMAT) as archive:
            for place, row in enumerate(rows_of(part)):
                try:
                    data = read_image(row, root)
                except ImageError as error:
                    rejected.append(Reject(row["key"], str(error), str(locate_image(root, row["key"]))))
                else:
                    said = describe(row) | synthetic.describe(row["key"])
                    name, ending = name_member(row["key"]), row["key"].rpartition(".")[2].lower()
                    _add(archive, f"{name}.{ending}", data)
                    _add(archive, f"{name}.txt", said["text"].encode())
                    _add(archive, f"{name}.json", json.dumps(said, ensure_ascii=False).encode())
                    pairs, captions = pairs + 1, captions + len(said["captions"])
                progress(place)  # the last pair counts when the shard is there
        size, digest = temporary.stat().st_size, _hash_file(temporary)
    return Shard(pairs, captions, size, digest, rejected)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # time, owner and group are 0 in it
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_entry(entry: Any) -> Shard | None:
    try:
        return Shard(**{**entry, "rejected": [Reject(*reject) for reject in entry["rejected"]]})
    except (TypeError, KeyError):
        return None


def _is_whole(path: Path, shard: Shard) -> bool:
    try:
        return path.stat().st_size == shard.bytes and _hash_file(path) == shard.sha256
    except OSError:
        return False
