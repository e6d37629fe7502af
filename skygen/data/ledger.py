"""What became of every pair of a run: trained on, left out by what was asked for, or unusable; and how large the images are.

``rejects.jsonl`` has a line for each thing that cannot be used; this is the account of all of them, which must add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int32, Int64

from skygen.data.checking import name_reason
from skygen.data.choosing import Choice
from skygen.data.framing import ImageSettings, frame
from skygen.data.index import Index, open_index
from skygen.data.layouts import find_layout
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.pairs import NO_CAPTION, PairSettings, absent_parts
from skygen.data.rejects import Rejects, read_rejects
from skygen.data.table import PairList, PairTable
from skygen.errors import SkygenError

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the scale of the images that a record gives."""
ENLARGED = (1, 2, 4)
"""A record says what share of the images is enlarged more than so many times."""


@final
@dataclass(frozen=True, slots=True)
class ImageAccount:
    """How the usable images are shown.

    Args:
        shapes: images by width and height in pixels, such as ``512x512``, before they are turned.
        scale: pixels that are shown for one of the file, at each of ``QUANTILES``; above 1 detail is made up.
        enlarged: share of the images, in [0, 1], that is enlarged more than each of ``ENLARGED`` times.
    """

    shapes: Mapping[str, int]
    scale: Mapping[str, float]
    enlarged: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class Account:
    """What became of every row; ``usable`` and the sums of ``merged``, ``filtered`` and ``quarantined`` are ``listed``.

    Args:
        listed: rows of the lists where their index counts them; else pairs, and rows that made none.
        usable: pairs that are trained on.
        merged: rows that are no pair of their own, by what they add to another.
        filtered: pairs that were not asked for, or are not on this machine, by why.
        quarantined: rows and images that cannot be used, by why.
        captions: distinct captions of the usable pairs.
        captions_left_out: single captions that cannot be used, of pairs that can.
        images: how they are shown; None where their sizes are not known.
    """

    listed: int
    usable: int
    merged: Mapping[str, int]
    filtered: Mapping[str, int]
    quarantined: Mapping[str, int]
    captions: int
    captions_left_out: int
    images: ImageAccount | None = None

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def summary(self) -> str:
        """Say it in one line, for the log."""
        parts = [f"{self.listed:,} listed", f"{self.usable:,} usable"]
        for name in ("merged", "filtered", "quarantined"):
            reasons: Mapping[str, int] = getattr(self, name)
            if reasons:
                each = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
                parts.append(f"{sum(reasons.values()):,} {name} ({each})")
        line = f"pairs: {', '.join(parts)}"
        if self.images is None:
            return line
        once, twice, _ = self.images.enlarged.values()
        return f"{line}; {once:.0%} of the images are enlarged, {twice:.0%} more than twofold".replace("%", " %")


def account(
    pairs: Sequence[Pair],
    rejects: Rejects,
    *,
    settings: PairSettings | None = None,
    images: ImageSettings | None = None,
    sizes: Int32[np.ndarray, "_pairs 2"] | None = None,
) -> Account:
    """Account for every row of the lists that pairs were read from.

    Args:
        pairs: as they were read; of a ``PairList`` the rows that were not chosen are accounted for too.
        rejects: of the run, with a file.
        settings: that the pairs were read with, which tell the filters apart, and whose index counts the rows.
        images: how the images are shown, for shapes and scales.
        sizes: width and height of the image of each pair, 0 and 0 of an unreadable one, as from ``images.read_sizes``.

    Raises:
        SkygenError: it does not add up, or an image has no size and no entry in the ledger of rejects.
    """
    chosen = pairs if isinstance(pairs, PairList) else PairList.of(pairs, Path())
    reasons, captions_left_out = _read_reasons(rejects)
    rejected = pa.array(list(reasons), pa.string())
    keys = chosen.column("key")
    usable = ~_is_in(keys, rejected)
    if sizes is not None and (lost := np.flatnonzero((sizes[:, 0] == 0) & usable)).size:
        raise SkygenError(
            f"{len(lost)} images have no size and are not in {rejects.path}, the first is {keys[int(lost[0])]}; read the sizes "
            "with the rejects of this run"
        )
    filtered, quarantined, known = Counter[str](), Counter[str](), 0
    found: set[str] = set()
    starts = accumulate((len(part.table) for part in chosen.tables), initial=0)
    choice = None if settings is None else settings.choice()
    for part, first in zip(chosen.tables, starts, strict=False):
        rows = chosen.rows[(chosen.rows >= first) & (chosen.rows < first + len(part.table))] - first
        bad = _find_bad(part.table, rejected)
        for key, own_reason in _bad_rows(part.table, bad):
            quarantined[_name(reasons.get(key) or own_reason or NO_CAPTION)] += 1
            found.add(key)
        filtered.update(_count_filtered(part, ~bad, rows, choice))
        known += len(part.table)
    merged, listed, own = _count_rows(settings)
    unfound = [reason for key, reason in reasons.items() if key not in found and (own is None or key in own)]
    quarantined.update(map(_name, unfound))
    listed = known + len(unfound) if listed is None else listed
    total = int(usable.sum()) + sum(merged.values()) + filtered.total() + quarantined.total()
    if total != listed:
        raise SkygenError(
            f"{listed:,} rows are listed and {total:,} accounted for: {int(usable.sum()):,} usable, {filtered.total():,} "
            f"filtered, {quarantined.total():,} quarantined; read the pairs again, with the settings and rejects of this run"
        )
    texts = pc.count_distinct(pc.list_flatten(chosen.column("captions").filter(pa.array(usable)))).as_py()
    shown = None if images is None or sizes is None else _describe_images(sizes[usable & (sizes[:, 0] > 0)], images)
    filters, problems = (dict(counts.most_common()) for counts in (filtered, quarantined))
    return Account(listed, int(usable.sum()), merged, filters, problems, texts, captions_left_out, shown)


def _read_reasons(rejects: Rejects) -> tuple[dict[str, str], int]:
    """Return why each key is not used, and how many single captions are not."""
    if rejects.path is None:
        raise ValueError("rejects that are kept in memory do not say why; give those of a run")
    reasons: dict[str, str] = {}
    captions = 0
    if rejects.path.exists():
        for entry in read_rejects(rejects.path):
            if entry.part is None:
                reasons.setdefault(entry.key, entry.reason)
            captions += (entry.part or "").startswith("caption")
    return reasons, captions


def _name(reason: str) -> str:
    """Name a reason in few words: ``truncated``, ``missing``."""
    return name_reason(reason).partition(": ")[0]


def _is_in(keys: pa.ChunkedArray, wanted: pa.Array) -> Bool[np.ndarray, " rows"]:
    found: Bool[np.ndarray, " rows"] = pc.is_in(keys, value_set=wanted).to_numpy()
    return found


def _find_bad(table: pa.Table, rejected: pa.Array) -> Bool[np.ndarray, " rows"]:
    without_caption = table.column("captions").is_null().to_numpy()
    bad: Bool[np.ndarray, " rows"] = without_caption | table.column("problem").is_valid().to_numpy()
    return bad | _is_in(table.column("key"), rejected)


def _bad_rows(table: pa.Table, bad: Bool[np.ndarray, " rows"]) -> Iterator[tuple[str, str | None]]:
    some = table.select(["key", "problem"]).filter(pa.array(bad))
    return zip(some["key"].to_pylist(), some["problem"].to_pylist(), strict=True)


def _count_filtered(
    part: PairTable, left: Bool[np.ndarray, " rows"], rows: Int64[np.ndarray, " chosen"], choice: Choice | None
) -> Counter[str]:
    """Count the rows that could be used and were not chosen, by the first filter that each does not pass."""
    counts = Counter[str]()

    def drop(passed: Bool[np.ndarray, " rows"], why: str) -> None:
        nonlocal left
        if gone := int((left & ~passed).sum()):
            counts[why] += gone
        left = left & passed

    numbers = part.table.column("part").fill_null(-1).to_numpy()
    drop(~np.isin(numbers, absent_parts(part)), "not on this machine")
    if choice is not None:
        for name in ("split", "sources", "classes", "where"):
            alone = Choice(**{name: getattr(choice, name)})
            drop(alone.mask(part.table), f"by pairs.{name}")
    chosen = np.zeros(len(left), dtype=bool)
    chosen[rows] = True
    last = [name for name in ("max_images_per_caption", "limit") if choice is not None and getattr(choice, name)]
    drop(chosen, f"by {' and '.join(f'pairs.{name}' for name in last)}" if last else "not chosen")
    return counts


def _count_rows(settings: PairSettings | None) -> tuple[dict[str, int], int | None, set[str] | None]:
    """Return rows that other rows took in, all rows, and the keys of those that made no pair; None where no index says it."""
    indices = [None] if settings is None else list(_indices_of(settings))
    merged, listed, own = Counter[str](), 0, set[str]()
    for index in indices:
        if index is None or index.ledger is None:
            return {}, None, None
        merged["give an image of another row a further caption"] += index.counts.joined
        merged["repeat another row"] += index.counts.repeated
        listed += index.counts.rows
        own |= {entry.key for entry in read_rejects(index.ledger) if entry.part is None}
    return dict(+merged), listed, own


def _indices_of(settings: PairSettings) -> Iterator[Index | None]:
    """Yield the index of each list, as ``PairSettings.read`` finds it; None of a list without one."""
    split = settings.split if settings.split_by == "list" else None
    layout = find_layout(settings.root, settings.csv, settings.caption_column, split, CLASS_TEMPLATE)
    index = open_index(layout, settings.caption_column)
    if index is None and layout.whole is not None:
        index = open_index(layout.whole, settings.caption_column)
    yield index
    for place in settings.also:
        root, csv = (place.parent, place) if place.suffix in (".csv", ".parquet") else (place, None)
        yield from _indices_of(replace(settings, root=root, csv=csv, caption_column=None, also=()))


def _describe_images(sizes: Int32[np.ndarray, "_images 2"], images: ImageSettings) -> ImageAccount:
    distinct, counts = np.unique(sizes, axis=0, return_counts=True)
    framings = [frame((width, height), images) for width, height in distinct.tolist()]
    shapes = Counter[str]()
    for framing, count in zip(framings, counts.tolist(), strict=True):
        shapes[f"{framing.target[0]}x{framing.target[1]}"] += count
    scales: Float[np.ndarray, " images"] = np.repeat(np.array([framing.scale for framing in framings]), counts)
    levels = np.quantile(scales, QUANTILES, method="lower").tolist() if len(scales) else []
    return ImageAccount(
        dict(shapes.most_common()),
        {f"{share:g}": level for share, level in zip(QUANTILES, levels, strict=False)},
        {str(times): float((scales > times).mean()) if len(scales) else 0.0 for times in ENLARGED},
    )
