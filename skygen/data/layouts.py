"""How a data set lies on the disk, and which reader its rows come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from skygen.data import skyscript
from skygen.data.archives import forget_archives
from skygen.data.formats import caption_json, imagefolder, parquet_images, sidecars, webdataset
from skygen.data.formats.pair_csv import CAPTION_COLUMNS, find_columns, read_csv
from skygen.data.formats.pair_parquet import find_pair_parquet, read_pair_parquet
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import Block, to_batch
from skygen.errors import ConfigError, DataError, UnavailableError

PAIRS_A_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """A data set that was found.

    Args:
        root: folder of the data set.
        name: of its list: ``pairs``, or the stem of a list that was named.
        files: that the list is read from; when one changes, what was derived from the list is stale.
        blocks: reads the rows, noting in the ledger those that cannot be used.
        is_list: whether the order is that of a list, of which a limit takes the first.
        whole: the layout of all splits, of which this is one; its index serves this one too.
        caption_columns: of its CSVs, the ones that are used by default first; empty where a reader gathers all captions.
    """

    root: Path
    name: str
    files: tuple[Path, ...]
    blocks: Callable[[Rejects], Iterator[Block]]
    is_list: bool = False
    caption_columns: tuple[str, ...] = ()
    whole: Layout | None = None


def find_layout(
    root: Path, csv: str | Path | None, caption_column: str | None, split: str | None, caption_template: str
) -> Layout:
    """Find how a data set lies, looking at its folder and one level below.

    Args:
        root: folder of the data set.
        csv: pair list, CSV or Parquet, relative to the root or to the working folder; by default found by the split.
        caption_column: column or key of the captions; by default each reader's own.
        split: ``train``, ``val`` or ``test``; None for all.
        caption_template: the caption of an image of which only the class is known, with ``{}`` for the class.

    Raises:
        ConfigError: if an argument does not fit the data.
        UnavailableError: if there is no such folder.
        DataError: if no known layout is found.
    """
    if "{}" not in caption_template:
        raise ConfigError(f"the caption template {caption_template!r} has no {{}} where the class should go")
    if not root.is_dir():
        raise UnavailableError(f"there is no folder {root}; set --pairs.root to the folder of the data set")
    skyscript.forget_places()
    forget_archives()
    if csv:
        return _named_list(root, skyscript.find_csv(csv, root), caption_column)
    if csvs := skyscript.choose_csvs(root, split):
        if split is None:
            return _csv_layout(root, "pairs", csvs, caption_column)
        return replace(_csv_layout(root, csvs[0].stem, csvs, caption_column), whole=_find_whole(root, csvs, caption_column))
    if lists := find_pair_parquet(root):
        return Layout(root, "pairs", tuple(lists), partial(_read_parquets, lists, caption_column), is_list=True)
    for find, read in _readers(caption_template):
        if files := find(root):
            blocks = partial(_read_in_blocks, read, files, root, caption_column)
            return Layout(root, "pairs", tuple(files), blocks)
    others = ", ".join(path.name for path in sorted(root.glob("*.csv"))[:5])
    lacking = f" ({others} lack it)" if others else ""
    raise DataError(
        f"{root} is not a data set that can be read: it has no CSV with a column filepath{lacking}, "
        f"no {imagefolder.METADATA}, dataset*.json, *.tar or *.parquet of pairs in it or in a subfolder, no images with "
        "sidecars, and no folders of images named after classes; lay it out as SkyScript_*.csv + images2/*.jpg, as "
        "metadata.jsonl with file_name and text, or as AnnualCrop/*.jpg; docs/data.md shows each"
    )


Find = Callable[[Path], list[Path]]
Read = Callable[[list[Path], Path, str | None, Rejects], Iterator[Pair | None]]


def _readers(caption_template: str) -> Iterator[tuple[Find, Read]]:
    """Yield what finds a layout and what reads it; what says most about its images comes first."""
    yield imagefolder.find_metadata, imagefolder.read_metadata
    yield caption_json.find_caption_json, caption_json.read_caption_json
    yield webdataset.find_shards, webdataset.read_shards
    yield parquet_images.find_image_parquet, parquet_images.read_image_parquet
    yield sidecars.find_sidecars, sidecars.read_sidecars
    yield _class_folder_paths, partial(_read_class_folders, caption_template)


def _class_folder_paths(root: Path) -> list[Path]:
    return [folder for _, folder in imagefolder.find_class_folders(root)]


def _read_class_folders(
    caption_template: str, files: list[Path], root: Path, caption_column: str | None, rejects: Rejects
) -> Iterator[Pair | None]:
    return imagefolder.read_class_folders(imagefolder.find_class_folders(root), root, caption_template)


def _named_list(root: Path, path: Path, caption_column: str | None) -> Layout:
    if path.suffix.lower() == ".parquet":
        return Layout(root, path.stem, (path,), partial(read_pair_parquet, path, caption_column), is_list=True)
    return _csv_layout(root, path.stem, [path], caption_column)


def _find_whole(root: Path, csvs: list[Path], caption_column: str | None) -> Layout | None:
    try:
        every = skyscript.choose_csvs(root, None)
        return _csv_layout(root, "pairs", every, caption_column) if set(csvs) <= set(every) else None
    except ConfigError:  # which lists are meant is clear for one split, and not for all
        return None


def _csv_layout(root: Path, name: str, paths: list[Path], caption_column: str | None) -> Layout:
    found = [column for path in paths for column, _ in find_columns(path, caption_column).captions]
    order = [column for column in (caption_column, *CAPTION_COLUMNS) if column in found]
    columns = tuple(dict.fromkeys((*order, *found)))
    return Layout(root, name, tuple(paths), partial(_read_csvs, paths, caption_column), True, columns)


def _read_parquets(paths: Iterable[Path], caption_column: str | None, rejects: Rejects) -> Iterator[Block]:
    for path in paths:
        yield from read_pair_parquet(path, caption_column, rejects)


def _read_csvs(paths: Iterable[Path], caption_column: str | None, rejects: Rejects) -> Iterator[Block]:
    for path in paths:
        yield from read_csv(path, caption_column, rejects)


def _read_in_blocks(read: Read, files: list[Path], root: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Block]:
    """Gather the rows of a reader that yields them one by one."""
    rows = read(files, root, caption_column, rejects)
    while some := list(islice(rows, PAIRS_A_BLOCK)):
        pairs = [pair for pair in some if pair is not None and _is_encodable(pair, rejects)]
        yield Block(to_batch(pairs), len(some), len(some) - len(pairs))


def _is_encodable(pair: Pair, rejects: Rejects) -> bool:
    try:
        pair.key.encode()
    except UnicodeEncodeError:
        rejects.add(pair.key, "its name is not valid UTF-8", str(pair.image))
        return False
    return True
