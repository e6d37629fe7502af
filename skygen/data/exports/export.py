"""Any selection of pairs written out in a form that others read: SkyScript's CSV, Parquet, an imagefolder, WebDataset shards.

Every file is there whole or not at all, and the same call goes on after whatever stopped it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, final

import pyarrow as pa
import pyarrow.parquet as pq

from skygen.data.exports import folder as export_folder
from skygen.data.exports import tar as export_tar
from skygen.data.exports.card import require_own_card, write_card
from skygen.data.exports.rows import WITHOUT_SPLIT, claimed, fingerprint_export, group_by_split
from skygen.data.exports.synthetic import FIELDS, UNSPLIT, SyntheticRecords, find_synthetic
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import SCHEMA, PairList
from skygen.errors import ConfigError
from skygen.storage import storage_error, writing

LIST = "pairs"
"""Name of a list, before its ending, where only its folder is given."""
_LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")

Form = Literal["csv", "imagefolder", "parquet", "webdataset"]
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Exported:
    """What was written; ``pairs + rejects`` is the length of the selection.

    Args:
        pairs: in the export.
        captions: of these.
        rejects: pairs whose image cannot be used; always 0 of a list, for which no image is opened.
        files: lists, images or shards; those of an earlier, broken-off export included.
    """

    pairs: int
    captions: int
    rejects: int
    files: int


def export(
    pairs: PairList,
    destination: Path,
    form: Form,
    rejects: Rejects,
    progress: Progress,
    *,
    pairs_a_shard: int = 10_000,
    selection: str = "",
) -> Exported:
    """Write a selection of pairs out.

    ``csv`` and ``parquet`` are lists alone, to be read with the images where they are: ``--pairs.root`` is the folder of the
    data set, ``--pairs.csv`` the list. ``imagefolder`` and ``webdataset`` hold the images too, byte for byte, and are data
    sets by themselves.

    Args:
        pairs: all of one data set.
        destination: a folder outside the data set, made if it is not there; for a list also the name of the file.
        form: what is written.
        rejects: where images that are missing or damaged are noted; the export goes on without them.
        progress: is told the pairs done and in all.
        pairs_a_shard: of a WebDataset, at most so many pairs in each tar.
        selection: in words or as an expression, for the card.

    Returns:
        What was written, also by an earlier call that was broken off.

    Raises:
        ConfigError: the destination lies in the data set or holds something else, or the pairs are of several data sets.
        StorageError: there is not enough room, or the disk refuses.
    """
    root = _require_one_root(pairs)
    _require_apart(root, destination)
    if pairs_a_shard < 1:
        raise ConfigError(f"{pairs_a_shard} pairs a shard: give at least 1")
    synthetic = find_synthetic(root)
    if form == "csv":
        return _write_csv(_list_path(destination, ".csv"), pairs, progress, synthetic)
    if form == "parquet":
        return _write_parquet(_list_path(destination, ".parquet"), pairs, progress, selection, synthetic)
    is_folder = form == "imagefolder"
    manifest = export_folder.MANIFEST if is_folder else export_tar.MANIFEST
    fingerprint = fingerprint_export(pairs, form, 0 if is_folder else pairs_a_shard, synthetic.fingerprint)
    with claimed(destination, manifest, fingerprint) as about:
        groups = group_by_split(pairs, UNSPLIT if synthetic.are_all else WITHOUT_SPLIT)
        if is_folder:
            written, captions = export_folder.write_folder(pairs, groups, destination, rejects, progress, synthetic)
            exported = Exported(written, captions, len(pairs) - written, written)
            patterns = {group.name: f"{group.name}/**" for group in groups}
        else:
            shards = export_tar.write_shards(pairs, groups, destination, about, rejects, progress, pairs_a_shard, synthetic)
            written = sum(shard.pairs for shard in shards)
            exported = Exported(written, sum(shard.captions for shard in shards), len(pairs) - written, len(shards))
            patterns = {group.name: f"{group.name}-*.tar" for group in groups}
        write_card(destination, pairs, groups, asdict(exported), patterns, selection, synthetic)
    return exported


def write_pair_list(path: Path, pairs: Sequence[tuple[Pair, float]], scorer: str) -> None:
    """Write pairs and their similarity as a CSV in SkyScript's schema, a row a caption, best pairs first.

    Args:
        path: of the CSV.
        pairs: with the similarity of each.
        scorer: names what the similarity is of: the column is ``similarity_SCORER``.

    Raises:
        StorageError: the disk is full or refuses.
    """
    ranked = sorted(pairs, key=lambda scored: (-scored[1], scored[0].key))
    rows = (replace(pair, similarity=round(similarity, 6)) for pair, similarity in ranked)
    write_csv(path, rows, "similarity_" + re.sub(r"\W+", "_", scorer))


def write_csv(
    path: Path, pairs: Iterable[Pair], similarity: str = "similarity", synthetic: SyntheticRecords | None = None
) -> int:
    """Write pairs as a CSV in SkyScript's schema with label and split, a row a caption; return the number of rows.

    A line break in a caption becomes a space, since a row is a line. Of the splits, ``train``, ``val`` and ``test`` are read
    back.

    Args:
        path: of the CSV.
        pairs: in order.
        similarity: name of the column.
        synthetic: records of pictures that a model has drawn; where there are some, two further columns tell of them.

    Raises:
        StorageError: the disk is full or refuses.
    """
    count = 0
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["filepath", "title", "label", "split", similarity, *(field.name for field in FIELDS if synthetic)])
        for pair in pairs:
            known = [pair.class_name or "", pair.split or "", "" if pair.similarity is None else repr(pair.similarity)]
            if synthetic:
                told = synthetic.describe(pair.key)
                known += [str(told["synthetic"]).lower(), told["provenance"] or ""]
            for caption in pair.captions:
                rows.writerow([pair.key, _LINE_BREAK.sub(" ", caption), *known])
            count += len(pair.captions)
    return count


def _write_csv(path: Path, pairs: PairList, progress: Progress, synthetic: SyntheticRecords) -> Exported:
    def shown() -> Iterable[Pair]:
        for done, pair in enumerate(pairs):
            progress(done, len(pairs))
            yield pair

    captions = write_csv(path, shown(), synthetic=synthetic)
    progress(len(pairs), len(pairs))
    return Exported(len(pairs), captions, 0, 1)


def _write_parquet(path: Path, pairs: PairList, progress: Progress, selection: str, synthetic: SyntheticRecords) -> Exported:
    require_own_card(path.parent)
    done = captions = 0
    schema = pa.schema([*SCHEMA, *(FIELDS if synthetic else ())])
    with writing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in pairs.batches():
            told = [synthetic.describe(key) for key in batch.column("key").to_pylist()] if synthetic else []
            further = [pa.array([row[field.name] for row in told], field.type) for field in FIELDS if synthetic]
            writer.write_batch(pa.record_batch([*batch.columns, *further], schema=schema))
            done, captions = done + batch.num_rows, captions + len(batch.column("captions").flatten())
            progress(done, len(pairs))
    exported = Exported(done, captions, 0, 1)
    # No patterns: 🤗 datasets reads no Arrow maps.
    write_card(path.parent, pairs, group_by_split(pairs), asdict(exported), {}, selection, synthetic)
    return exported


def _list_path(destination: Path, ending: str) -> Path:
    """Return the name of a list: the destination itself if it is one, else in that folder."""
    path = destination if destination.suffix.lower() == ending else destination / f"{LIST}{ending}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def _require_one_root(pairs: PairList) -> Path:
    roots = list(dict.fromkeys(part.root for part in pairs.tables))
    if len(roots) != 1:
        named = " and ".join(map(str, roots)) or "none"
        raise ConfigError(f"the pairs are of {len(roots)} data sets ({named}); export each by itself")
    return roots[0]


def _require_apart(root: Path, destination: Path) -> None:
    own, source = destination.resolve(), root.resolve()
    if own.is_relative_to(source) or source.is_relative_to(own):
        raise ConfigError(
            f"{destination} and the data set {root} lie one in the other and would mix; choose a folder outside it"
        )
