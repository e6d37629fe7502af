"""Which pairs of a data set are chosen, in what numbers, and how often each is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64

from skygen.data.balance import balance_weights
from skygen.data.expressions import Expression, parse_expression
from skygen.data.pair import name_split, to_words
from skygen.data.table import take_rows
from skygen.errors import ConfigError
from skygen.seeding import Seeds

Balance = Literal["none", "continent", "country", "source", "class_name", "year"]
_FROM_METAS = frozenset({"west", "south", "east", "north", "time", "center_tags", "surrounding_tags", "country", "continent"})
_FROM_CHECK = frozenset({"width", "height"})


@final
@dataclass(frozen=True)
class Choice:
    """What is asked of the pairs.

    Args:
        split: ``train``, ``val``, ``test``, or None for all.
        classes: or none for all; compared in words, without regard to case.
        sources: or none for all.
        where: an expression; empty for all.
        limit: at most so many pairs; 0 for all.
        max_images_per_caption: at most so many pairs with the same first caption; 0 for all.
        caption_temperature: a caption that ``n`` pairs share is drawn as often as ``n`` to this power says: 1 leaves the pairs
            alike, 0 the captions.
        balance: the column whose values are to be drawn equally often.
        split_by: whether the list says which split a pair is in, or the place on the ground.
        cell_degrees: side of the cells, for a split by place.
    """

    split: str | None = None
    classes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    where: str = ""
    limit: int = 0
    max_images_per_caption: int = 0
    caption_temperature: float = 1.0
    balance: Balance = "none"
    split_by: Literal["list", "cell"] = "list"
    cell_degrees: float = 0.1

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ConfigError(f"the limit is {self.limit}; it must be a count of pairs, or 0 for all: set --pairs.limit")
        if self.max_images_per_caption < 0:
            raise ConfigError(
                f"--pairs.max_images_per_caption is {self.max_images_per_caption}; give a count of pairs, or 0 for all"
            )
        if not 0 <= self.caption_temperature <= 1:
            raise ConfigError(f"--pairs.caption_temperature is {self.caption_temperature}; it must be in [0, 1]")
        if not 0 < self.cell_degrees <= 90:
            raise ConfigError(f"--pairs.cell_degrees is {self.cell_degrees}; it must be in (0, 90]")

    @property
    def split_wanted(self) -> str | None:
        """The split as pairs have it: ``validation`` is ``val``."""
        return (name_split(self.split, whole=True) or self.split) if self.split else None

    def expression(self) -> Expression | None:
        """Return the expression to evaluate, if there is one."""
        return parse_expression(self.where) if self.where.strip() else None

    def mask(self, table: pa.Table | pa.RecordBatch) -> Bool[np.ndarray, " rows"]:
        """Say which rows are asked for; caps, limits and weights come after."""
        chosen = np.ones(table.num_rows, dtype=bool)
        if self.split_wanted:
            chosen &= _equals(table.column("split"), [self.split_wanted])
        if self.sources:
            chosen &= _equals(table.column("source"), [alias.upper() for alias in self.sources])
        if self.classes:
            wanted = {to_words(name) for name in self.classes}
            names = pc.unique(table.column("class_name")).to_pylist()
            chosen &= _equals(table.column("class_name"), [name for name in names if name and to_words(name) in wanted])
        expression = self.expression()
        return chosen & expression.mask(table) if expression else chosen

    def describe_lack(self, table: pa.Table) -> str:
        """Say for each filter what was asked for and what there is, when no pair is left."""
        asked = {"split": (self.split,) if self.split else (), "classes": self.classes, "sources": self.sources}
        columns = {"split": "split", "classes": "class_name", "sources": "source"}
        shown = {"split": [self.split_wanted], "classes": map(to_words, self.classes), "sources": map(str.upper, self.sources)}
        parts = [
            f"--pairs.{name} asks for {', '.join(sorted(map(str, shown[name])))}, and the data has "
            f"{_list(table.column(columns[name]))}"
            for name, values in asked.items()
            if values
        ]
        return "; ".join([*parts, *([f"--pairs.where asks for {self.where}"] if self.where else [])])


def require_columns(choice: Choice, table: pa.Table) -> None:
    """Refuse to filter by what the data does not know at all: the answer would be an empty list, and no reason.

    Raises:
        ConfigError: it says which command would find it out.
    """
    expression = choice.expression()
    needed = set(expression.columns) if expression else set()
    needed |= {choice.balance} if choice.balance != "none" else set()
    needed |= {"west"} if choice.split_by == "cell" else set()
    unknown = sorted(name for name in needed if len(table) and table.column(name).null_count == len(table))
    if not unknown:
        return
    names = ", ".join(unknown)
    if set(unknown) & _FROM_CHECK:
        raise ConfigError(f"no pair has a known {names}: run `skygen check` on the data set first, which opens every image")
    if set(unknown) & _FROM_METAS:
        raise ConfigError(
            f"no pair has a known {names}: run `skygen index` on the data set with its metas beside the images"
            + ("; countries need pip install 'skygen[geo]'" if set(unknown) & {"country", "continent"} else "")
        )
    raise ConfigError(f"no pair of this data set has a known {names}; choose by something else")


def choose_rows(
    table: pa.Table, usable: Bool[np.ndarray, " rows"], choice: Choice, *, spread: bool
) -> Int64[np.ndarray, " chosen"]:
    """Choose rows of a table, in its order.

    Args:
        table: with the columns of ``SCHEMA``.
        usable: the rows to choose among.
        choice: what is asked for.
        spread: a limit takes evenly spaced rows, not the first.
    """
    rows = np.flatnonzero(usable & choice.mask(table))
    if choice.max_images_per_caption:
        rows = _cap(rows, table, choice.max_images_per_caption)
    if choice.limit and len(rows) > choice.limit:
        rows = rows[np.arange(choice.limit) * len(rows) // choice.limit] if spread else rows[: choice.limit]
    return rows.astype(np.int64, copy=False)


def weigh(table: pa.Table, rows: Int64[np.ndarray, " chosen"], choice: Choice) -> Float[np.ndarray, " chosen"] | None:
    """Say how often each chosen pair is drawn: None for all alike; else they sum to 1.

    Args:
        table: with the columns of ``SCHEMA``.
        rows: that are chosen.
        choice: with its temperature, which acts inside each group of its balance.
    """
    if choice.caption_temperature == 1 and choice.balance == "none":
        return None
    weights = np.ones(len(rows), dtype=np.float64)
    groups = None if choice.balance == "none" else _take(table, rows, choice.balance)
    which = np.zeros(len(rows), dtype=np.int64) if groups is None else _codes(groups)
    if choice.caption_temperature < 1:
        captions = _codes(_first_captions(table, rows))
        _, place, count = np.unique(which * (captions.max() + 1) + captions, return_inverse=True, return_counts=True)
        weights *= count[place] ** (choice.caption_temperature - 1.0)
    if groups is not None:
        within = weights / np.bincount(which, weights)[which]
        weights = within * balance_weights(groups) * np.bincount(which)[which]
    return weights / weights.sum()


def _cap(rows: Int64[np.ndarray, " n"], table: pa.Table, most: int) -> Int64[np.ndarray, " k"]:
    """Keep ``most`` rows of each caption: those whose key has the smallest hash, so that no place in the list is preferred."""
    which = _codes(_first_captions(table, rows))
    crowded = np.flatnonzero(np.bincount(which)[which] > most)
    if not len(crowded):
        return rows
    keys = _take(table, rows[crowded], "key").to_pylist()
    seeds = Seeds(0)
    luck = np.fromiter((seeds.derive("cap", key) for key in keys), np.int64, len(keys))
    order = crowded[np.lexsort((luck, which[crowded]))]
    place = np.arange(len(order)) - np.searchsorted(which[order], which[order])
    keep = np.ones(len(rows), dtype=bool)
    keep[order[place >= most]] = False
    return rows[keep]


def _first_captions(table: pa.Table, rows: Int64[np.ndarray, " n"]) -> pa.ChunkedArray:
    return pc.list_element(_take(table, rows, "captions"), 0)


def _take(table: pa.Table, rows: Int64[np.ndarray, " n"], name: str) -> pa.ChunkedArray:
    batches = take_rows(table.select([name]).to_batches(), rows)
    return pa.chunked_array([batch.column(0) for batch in batches], table.schema.field(name).type)


def _codes(values: pa.ChunkedArray) -> Int64[np.ndarray, " rows"]:
    """Number the distinct values, null among them."""
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _equals(column: pa.ChunkedArray | pa.Array, values: Sequence[str]) -> Bool[np.ndarray, " rows"]:
    found = pc.is_in(column, value_set=pa.array(values, pa.string()))
    return found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()


def _list(column: pa.ChunkedArray, most: int = 12) -> str:
    counts = Counter({e["values"].as_py() or "none": e["counts"].as_py() for e in column.value_counts()})
    shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(most))
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")
