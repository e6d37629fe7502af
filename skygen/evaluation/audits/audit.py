"""Counts what a set of pairs is made of: where, when, by what sensor, in what words; and how evenly.

The figures describe the pairs that are given, not the world. The set is read once, in batches; what grows with it are 8 bytes
a distinct image and 16 a distinct caption or tag, and the names of distinct classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from skygen.data.geography import continent_of, land_grid, locate
from skygen.data.table import SCHEMA
from skygen.errors import DataError, UnavailableError
from skygen.evaluation.audits import records as records
from skygen.evaluation.audits.columns import choose, find_centers, merge_cells, read_column
from skygen.evaluation.audits.records import GSD_CLASSES, GSD_EDGES, IN_ORDER, LATITUDES, MONTHS, Audit, Breakdown, Row
from skygen.evaluation.audits.tallies import (
    Tally,
    count_covering,
    count_values,
    describe,
    effective_number,
    inverse_simpson,
    share_of,
)
from skygen.evaluation.audits.truncation import is_truncated

TOP: Final = 50
"""Values of a breakdown that an audit lists, the most frequent first."""
TOKENIZED_TEXTS: Final = 200_000
"""Up to so many distinct captions are all tokenized (3 s); of more, so many at random: the share of distinct ones is then
right to 0.22 points in 95 of 100 audits."""
ROWS_AT_ONCE: Final = 1 << 16
CELL: Final = 2
"""Degrees a side of the cells of the map."""
LAND_CELL: Final = 10
"""Degrees a side of the cells of the coverage of land."""
UPSAMPLED_BELOW: Final = 512
PROPERTIES: Final = (
    "continent", "country", "latitude", "source", "gsd", "year", "month", "split", "object_type", "class_name", "problem",
)  # fmt: skip


def audit(
    batches: pa.Table | Iterable[pa.RecordBatch],
    name: str,
    progress: Callable[[int, int], None] | None = None,
    total: int | None = None,
) -> Audit:
    """Count what a set of pairs is made of.

    Args:
        batches: with columns of ``skygen.data.table.SCHEMA``; a column that is absent is unknown throughout. A country that is
            null is looked up from the centre of the box.
        name: of the set.
        progress: called with the pairs counted so far and ``total``.
        total: pairs in all, where the caller knows it.

    Raises:
        DataError: there is no pair, or a column is of a wrong type.
    """
    if isinstance(batches, pa.Table):
        total = batches.num_rows
        batches = batches.to_batches()
    collector = _Collector(name)
    for batch in _slice(batches):
        collector.add(batch)
        if progress is not None:
            progress(collector.pairs, total or collector.pairs)
    if not collector.pairs:
        raise DataError(f"{name}: there is no pair to audit; give another folder, or a wider --where.")
    return collector.finish()


def _slice(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield batch.slice(start, ROWS_AT_ONCE)


@final
class _Collector:
    """What has been counted so far."""

    def __init__(self, name: str) -> None:
        self.pairs = 0
        self._name = name
        self._keys = Tally()
        self._captions = Tally(TOP, TOKENIZED_TEXTS)
        self._words: Counter[int] = Counter()
        self._values: dict[str, Counter[str]] = {name: Counter() for name in PROPERTIES}
        self._tags = {"tag_key": Tally(TOP), "tag": Tally(TOP)}
        self._sizes: dict[str, Counter[int]] = {"width": Counter(), "height": Counter()}
        self._untagged = self._sized = self._upsampled = 0
        self._grid = np.zeros((180 // CELL, 360 // CELL), dtype=np.int64)
        self._boxes = self._wrong_boxes = self._boxes_with_country = 0
        self._no_geography: str | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the pairs of one batch."""
        columns = {name: read_column(batch, name, self._name) for name in SCHEMA.names}
        self.pairs += batch.num_rows
        self._keys.add(*count_values(columns["key"]))
        self._add_captions(columns["captions"])
        self._add_places(columns)
        self._add_tags(columns["center_tags"])
        self._add_sizes(columns["width"], columns["height"])
        for name in ("source", "split", "object_type", "class_name", "problem"):
            self._add_values(name, columns[name])
        time = columns["time"]
        self._add_values("year", pc.cast(pc.coalesce(columns["year"].cast(pa.int64()), pc.year(time)), pa.string()))
        self._add_values("month", pa.array(MONTHS).take(pc.subtract(pc.month(time), 1)))
        gsd = columns["gsd"].to_numpy(zero_copy_only=False).astype(np.float64)
        self._add_values("gsd", choose(GSD_CLASSES, np.searchsorted(GSD_EDGES, gsd), ~(gsd > 0)))

    def finish(self) -> Audit:
        """Return the audit."""
        notes = [self._no_geography] if self._no_geography else []
        if self._wrong_boxes:
            notes.append(
                f"{self._wrong_boxes:,} boxes are not within -180 to 180 and -90 to 90 degrees, or have south above north; "
                "they count as none."
            )
        captions = self._finish_captions()
        if captions.texts_tokenized < captions.distinct:
            notes.append(
                f"CLIP's tokenizer was asked about {captions.texts_tokenized:,} of {captions.distinct:,} distinct captions, "
                "chosen at random by their hashes; the shares of truncated captions are estimates."
            )
        properties = [self._break_down(name) for name in PROPERTIES]
        tags = [self._break_down_tags(name) for name in self._tags]
        width, height = describe(self._sizes["width"]), describe(self._sizes["height"])
        return Audit(
            name=self._name,
            pairs=self.pairs,
            images=len(self._keys.counts),
            geography=self._finish_geography(),
            captions=captions,
            pixels=records.Pixels(self._sized, width, height, share_of(self._upsampled, self._sized)),
            breakdowns=(*properties, *tags),
            notes=tuple(notes),
        )

    def _add_values(self, name: str, values: pa.Array) -> None:
        found, counts = count_values(values)
        for value, count in zip(found.to_pylist(), counts.tolist(), strict=True):
            self._values[name][value] += count

    def _add_captions(self, captions: pa.Array) -> None:
        texts, counts = count_values(captions.flatten())
        self._captions.add(texts, counts)
        lengths = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))).to_numpy()
        for words, count in enumerate(np.bincount(lengths, weights=counts).astype(np.int64).tolist()):
            if count:
                self._words[words] += count

    def _add_places(self, columns: dict[str, pa.Array]) -> None:
        longitude, latitude, wrong = find_centers(columns)
        known = ~np.isnan(longitude)
        self._wrong_boxes += wrong
        self._boxes += int(known.sum())
        rows = np.clip((latitude[known] + 90) // CELL, 0, len(self._grid) - 1).astype(np.int64)
        across = np.clip((longitude[known] + 180) // CELL, 0, self._grid.shape[1] - 1).astype(np.int64)
        cells = rows * self._grid.shape[1] + across
        self._grid += np.bincount(cells, minlength=self._grid.size).reshape(self._grid.shape)
        bands = len(LATITUDES) - 1 - np.clip((latitude + 90) // 10, 0, len(LATITUDES) - 1)
        self._add_values("latitude", choose(LATITUDES, bands, ~known))
        country = self._look_up(columns["country"], longitude, latitude)
        self._boxes_with_country += int((known & country.is_valid().to_numpy(zero_copy_only=False)).sum())
        self._add_values("country", country)
        encoded = country.dictionary_encode()
        continents = pa.array([continent_of(code) for code in encoded.dictionary.to_pylist()], pa.string())
        self._add_values("continent", pc.coalesce(columns["continent"], continents.take(encoded.indices)))

    def _look_up(
        self, country: pa.Array, longitude: Float[np.ndarray, " count"], latitude: Float[np.ndarray, " count"]
    ) -> pa.Array:
        """Fill in the countries that are null and have a box."""
        asked = country.is_null().to_numpy(zero_copy_only=False) & ~np.isnan(longitude)
        if not asked.any() or self._no_geography:
            return country
        try:
            found = locate(longitude[asked], latitude[asked]).country
        except UnavailableError as error:
            self._no_geography = f"Countries that the list does not give are not looked up: {error}"
            return country
        return pc.replace_with_mask(country, pa.array(asked), found.dictionary_decode())

    def _add_tags(self, tags: pa.Array) -> None:
        entry = pa.struct([("key", pa.string()), ("value", pa.string())])
        lists = tags.cast(pa.list_(entry))  # whose flatten minds slices, as a map's own keys and items do not
        entries = lists.flatten()
        self._untagged += pc.sum(pc.equal(pc.fill_null(pc.list_value_length(lists), 0), 0)).as_py()
        keys, values = pc.struct_field(entries, "key"), pc.struct_field(entries, "value")
        self._tags["tag_key"].add(*count_values(keys))
        self._tags["tag"].add(*count_values(pc.binary_join_element_wise(keys, pc.fill_null(values, ""), "=")))

    def _add_sizes(self, width: pa.Array, height: pa.Array) -> None:
        known = pc.and_(width.is_valid(), height.is_valid())
        for name, sizes in (("width", width.filter(known)), ("height", height.filter(known))):
            found, counts = count_values(sizes)
            self._sizes[name].update(dict(zip(found.to_pylist(), counts.tolist(), strict=True)))
        self._sized += pc.sum(known).as_py() or 0
        shorter = pc.min_element_wise(width.filter(known), height.filter(known))
        self._upsampled += pc.sum(pc.less(shorter, UPSAMPLED_BELOW)).as_py() or 0

    def _finish_captions(self) -> records.Captions:
        counts = self._captions.counts
        sample = self._captions.sampled()
        truncated = is_truncated([text for text, _ in sample])
        weights = np.array([count for _, count in sample], dtype=np.int64)
        total = int(counts.sum())
        return records.Captions(
            count=total,
            distinct=len(counts),
            effective=effective_number(counts),
            inverse_simpson=inverse_simpson(counts),
            repeated_share=share_of(int(counts[counts > 1].sum()), total),
            covering_half=count_covering(counts, 0.5),
            covering_three_quarters=count_covering(counts, 0.75),
            words=describe(self._words),
            truncated_share=share_of(int(weights[truncated].sum()), int(weights.sum())),
            truncated_distinct_share=share_of(int(truncated.sum()), len(truncated)),
            texts_tokenized=len(truncated),
            top=tuple(Row(text, count, share_of(count, total)) for text, count in self._captions.most_frequent()),
        )

    def _finish_geography(self) -> records.Geography:
        countries = self._values["country"].most_common()
        located = sum(count for _, count in countries)
        name, most = min(countries, key=lambda entry: (-entry[1], entry[0]), default=(None, 0))
        cells, covered = self._cover_land()
        return records.Geography(
            without_box=self.pairs - self._boxes,
            in_no_country=self._boxes - self._boxes_with_country,
            top_country=name,
            top_country_share=share_of(most, located),
            land_cells=cells,
            land_cells_covered=covered,
            cells=tuple(
                (int(across) * CELL - 180, int(row) * CELL - 90, int(self._grid[row, across]))
                for row, across in np.argwhere(self._grid)
            ),
        )

    def _cover_land(self) -> tuple[int | None, int | None]:
        """Count the cells of 10 degrees with land north of 60 degrees south, and those of them that hold a pair."""
        try:
            land = land_grid()
        except UnavailableError:
            return None, None
        has_land = merge_cells(land.astype(np.int64), LAND_CELL)[3:] > 0
        has_pairs = merge_cells(self._grid, LAND_CELL // CELL)[3:] > 0
        return int(has_land.sum()), int((has_land & has_pairs).sum())

    def _break_down(self, name: str) -> Breakdown:
        counter = self._values[name]
        in_order = name in IN_ORDER
        entries = sorted(
            counter.items(),
            key=lambda entry: (records.place_in_order(name, entry[0]), "") if in_order else (-entry[1], entry[0]),
        )
        shown = entries if in_order or name == "country" else entries[:TOP]
        counts = np.array(list(counter.values()), dtype=np.int64)
        return self._to_breakdown(name, shown, counts, self.pairs - int(counts.sum()))

    def _break_down_tags(self, name: str) -> Breakdown:
        tally = self._tags[name]
        return self._to_breakdown(name, tally.most_frequent(), tally.counts, self._untagged)

    def _to_breakdown(
        self, name: str, entries: list[tuple[str, int]], counts: Int[np.ndarray, " distinct"], missing: int
    ) -> Breakdown:
        rows = tuple(Row(value, count, share_of(count, self.pairs)) for value, count in entries)
        return Breakdown(name, rows, len(counts), missing, effective_number(counts), inverse_simpson(counts))
