"""How the pairs of a data set are read and chosen, however they lie: from its index where there is one, else from its files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from skygen.config import Share
from skygen.data.choosing import Balance, Choice, choose_rows, require_columns, weigh
from skygen.data.index import Index, open_index, read_whole
from skygen.data.layouts import Layout, find_layout
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.rejects import Reject, Rejects, read_rejects
from skygen.data.skyscript import has_part, locate_image
from skygen.data.spatial_split import assign_cells
from skygen.data.table import PairList, PairTable, take_rows
from skygen.errors import DataError

_LOG = logging.getLogger("skygen")
NO_CAPTION = "the caption is empty"
MANY_ROWS = 300_000
"""Of a list that is read from its CSV, above which the index is recommended: it takes seconds each time."""


@dataclass(frozen=True)
class PairSettings:
    """Which pairs a recipe works on."""

    root: Path
    """Folder of the data set: SkyScript, an imagefolder, a caption set, WebDataset, Parquet, or one folder for each class."""
    csv: Path | None = None
    """Pair list to read, CSV or Parquet, relative to the root or to the working folder; by default found by the split."""
    caption_column: str | None = None
    """Column or key that holds the captions; by default title_multi_objects or title, or captions or text."""
    split: str | None = None
    """train, val or test; by default all of them."""
    split_by: Literal["list", "cell"] = "list"
    """Who says what split a pair is in: its list, or the cell of its place on the ground, so that no place is on both sides."""
    cell_degrees: float = 0.1
    """Side of these cells; 0.1 is about 11 km."""
    classes: tuple[str, ...] = ()
    """Classes to keep, such as "tennis court"; by default all of them."""
    sources: tuple[str, ...] = ()
    """Aliases of the image collections to keep, such as CH or S2; by default all of them."""
    where: str = ""
    """Expression to choose by, such as "source in (US, CH) and year >= 2018 and tag == landuse"; see docs/data.md."""
    max_images_per_caption: int = 0
    """At most so many pairs with one caption, chosen by a hash of their keys; 0 for all."""
    caption_temperature: float = 1.0
    """A caption that n pairs share is drawn as often as n to this power says: 1 leaves all pairs alike, 0 all captions."""
    balance: Balance = "none"
    """Column whose values are drawn equally often in training."""
    limit: int = 0
    """At most so many pairs, 0 for all: the first ones of a list, or evenly spaced ones of a folder."""
    also: tuple[Path, ...] = ()
    """More data to read beside it: folders of data sets, or lists in the folder of theirs."""
    max_bad_fraction: Share = 0.01
    """Largest share of the rows that may be unusable before the recipe stops."""

    def __post_init__(self) -> None:
        self.choice()  # which refuses what cannot be asked, before anything is loaded

    def choice(self) -> Choice:
        """Return what is asked of the pairs."""
        return Choice(
            split=self.split,
            classes=self.classes,
            sources=self.sources,
            where=self.where,
            limit=self.limit,
            max_images_per_caption=self.max_images_per_caption,
            caption_temperature=self.caption_temperature,
            balance=self.balance,
            split_by=self.split_by,
            cell_degrees=self.cell_degrees,
        )

    def read(self, rejects: Rejects) -> PairList:
        """Read the pairs these settings select, and say which split that is.

        Args:
            rejects: where rows that cannot be used are noted.

        Raises:
            DataError: if there are too many of those, or no pair is left.
            ConfigError: if a setting does not fit the data.
            UnavailableError: if there is no such folder.
        """
        layout = find_layout(self.root, self.csv, self.caption_column, self._list_split(), CLASS_TEMPLATE)
        pairs, rows, bad = _read(layout, self.caption_column, self.choice(), rejects)
        rejects.check(rows, self.max_bad_fraction, bad=bad)
        _LOG.info(f"{len(pairs):,} pairs of {self.root}, {self.split or 'all splits'}, fingerprint {pairs.split_fingerprint()}")
        for place in self.also:
            root, csv = (place.parent, place) if place.suffix in (".csv", ".parquet") else (place, None)
            pairs = pairs + replace(self, root=root, csv=csv, caption_column=None, also=()).read(rejects)
        return pairs

    def _list_split(self) -> str | None:
        return self.split if self.split_by == "list" else None


def read_pairs(
    root: Path | str,
    *,
    csv: str | Path | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    sources: Sequence[str] = (),
    where: str = "",
    limit: int = 0,
    caption_template: str = CLASS_TEMPLATE,
    rejects: Rejects | None = None,
) -> list[Pair]:
    """Read the pairs of a data set; the layout is found, and no image is opened.

    Known are SkyScript's layout (a CSV with a column ``filepath``), Hugging Face's imagefolder (``metadata.jsonl``) and
    Parquet, the caption sets of remote sensing, WebDataset, images with sidecars, and one folder for each class. Rows on the
    same image become one pair with several captions. A list of millions is better left unmade: ``PairSettings.read`` returns a
    sequence that makes each pair when it is asked for.

    Args:
        root: folder of the data set.
        csv: pair list, relative to the root or to the working folder; by default those in the root, by split.
        caption_column: column or key of the captions; by default ``title_multi_objects`` or ``title``, or ``captions``
            or ``text``.
        split: ``train``, ``val`` or ``test``; by default all. Class folders without split folders are divided 8 : 1 : 1
            by a hash of the key.
        classes: to keep, in words or as the folders are called; by default all.
        sources: aliases to keep, such as ``CH``; by default all.
        where: an expression (``skygen.data.expressions``), such as ``gsd <= 1 and year >= 2018``.
        limit: at most so many pairs, 0 for all: the first of a list, which is then read no further than the megabyte that
            holds them, or evenly spaced ones of a folder.
        caption_template: the caption of an image in a class folder, with ``{}`` for the class.
        rejects: where rows that cannot be used are noted; without it, a log message says how many there were.

    Returns:
        At least one pair, in the order of the data set.

    Raises:
        ConfigError: if an argument does not fit the data.
        UnavailableError: if there is no such folder.
        DataError: if no known layout is found, or no pair is left.
    """
    ledger = Rejects(None) if rejects is None else rejects
    choice = Choice(split, tuple(classes), tuple(sources), where, limit)
    layout = find_layout(Path(root), csv, caption_column, split, caption_template)
    pairs, rows, bad = _read(layout, caption_column, choice, ledger)
    if rejects is None and bad:
        _LOG.warning(f"{bad} of {rows} rows of {root} are left out; {ledger.first_reason}")
    return list(pairs)


def _read(layout: Layout, caption_column: str | None, choice: Choice, rejects: Rejects) -> tuple[PairList, int, int]:
    """Read and choose; return the pairs, and how many rows there were and were bad."""
    index = open_index(layout, caption_column)
    if index is None and layout.whole is not None:
        index = open_index(layout.whole, caption_column)
    if index is None:
        index = read_whole(layout, rejects, _limit_reached(layout, choice))
        if index.counts.rows >= MANY_ROWS:
            _LOG.info(f"{layout.root}: read {index.counts.rows:,} rows; after `skygen index {layout.root}` this takes no time")
    elif index.ledger is not None:
        rejects.add_all(entry for entry in read_rejects(index.ledger) if entry.part is None)  # the others cost no pair
    usable, unusable = _leave_out_unusable(index, rejects)
    part, counts = index.table, index.counts
    if choice.split_by == "cell":
        part = assign_cells(part, choice.cell_degrees)
    if not usable.any():
        why = f"none of its {counts.rows} rows can be used; the first: {rejects.first_reason}"
        raise DataError(f"{layout.root} has no pairs: {why if counts.rows else 'its list has no row below the column names'}")
    require_columns(choice, part.table)
    rows = choose_rows(part.table, usable, choice, spread=not layout.is_list)
    if not len(rows):
        lack = choice.describe_lack(part.table)
        raise DataError(f"no pair of {layout.root} is selected: {lack}; change or leave out the filter")
    return PairList([part], rows, weigh(part.table, rows, choice)), counts.rows, counts.bad + unusable


def _limit_reached(layout: Layout, choice: Choice) -> _Counter | None:
    """Make what says when a list has given enough pairs; None where all of it is needed."""
    needs_all = choice.max_images_per_caption or choice.split_by == "cell" or not layout.is_list
    return None if needs_all or not choice.limit else _Counter(choice, layout.root)


class _Counter:
    """Counts the pairs that are asked for and can be used, batch by batch, until there are enough."""

    def __init__(self, choice: Choice, root: Path) -> None:
        self._choice = choice
        self._root = root
        self._keys: set[str] = set()

    def __call__(self, batch: pa.RecordBatch) -> bool:
        wanted = self._choice.mask(batch) & batch.column("captions").is_valid().to_numpy(zero_copy_only=False)
        if absent := absent_parts(PairTable(self._root, pa.Table.from_batches([batch]))):
            wanted &= ~np.isin(batch.column("part").fill_null(-1).to_numpy(), absent)
        self._keys.update(batch.column("key").filter(pa.array(wanted)).to_pylist())
        return len(self._keys) >= self._choice.limit


def _leave_out_unusable(index: Index, rejects: Rejects) -> tuple[Bool[np.ndarray, " rows"], int]:
    """Mark the rows that can be used, and count those that are bad: no caption, or a problem that a check has found.

    Rows whose part of SkyScript is not here, while others are, are no damage: they are left out with one word.
    """
    table = index.table.table
    usable = np.ones(len(table), dtype=bool)
    for name, missing in (("captions", True), ("problem", False)):
        column = table.column(name)
        if column.null_count != (0 if missing else len(table)):
            rows = np.flatnonzero(column.is_null().to_numpy() == missing)
            usable[rows] = False
            rejects.add_all(_explain(index.table, rows, name))
    unusable = int((~usable).sum())
    absent = absent_parts(index.table)
    if absent:
        gone = np.isin(table.column("part").fill_null(-1).to_numpy(), absent)
        _LOG.warning(
            f"{int(gone.sum()):,} of {len(table):,} pairs are left out: their images{', images'.join(map(str, absent))} "
            f"are not in {index.table.root}; `skygen download` fetches them"
        )
        usable &= ~gone
    return usable, unusable


def absent_parts(part: PairTable) -> list[int]:
    """List SkyScript's parts that the list names and that are not here, where at least one other is."""
    column = part.table.column("part")
    if column.null_count == len(column):
        return []
    named = [number for number in column.unique().to_pylist() if number is not None]
    here = {number: has_part(part.root, f"images{number}") for number in named}
    return sorted(number for number in named if not here[number]) if any(here.values()) else []


def _explain(part: PairTable, rows: Int64[np.ndarray, " bad"], column: str) -> list[Reject]:
    batches = part.table.select(["key", "problem"]).to_batches()
    chosen = [row for some in take_rows(batches, rows) for row in some.to_pylist()]
    reasons = (NO_CAPTION if column == "captions" else row["problem"] for row in chosen)
    keys = [row["key"] for row in chosen]
    return [Reject(key, why, str(locate_image(part.root, key))) for key, why in zip(keys, reasons, strict=True)]
