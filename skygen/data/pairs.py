"""A pair: one overhead image and what is said about it; and how pairs are read and selected, however they lie."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"})
"""Of the image files that ``skygen.data.images`` reads."""

_LOG = logging.getLogger(__name__)
_TEMPLATE = "a satellite image of {}"
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+")
_PLAIN_PATH = re.compile(r"(?:\w[\w-]*/)*\w[\w-]*\.\w+")


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with its captions, and what is known of it.

    Args:
        key: names the pair within its data set: the image's path relative to the root, with forward slashes.
        image: where the image lies.
        captions: one or more, as the data set has them (a view prefix included); never empty, none blank.
        split: ``train``, ``val`` or ``test``; None where the data set does not say.
        class_name: the scene or focus object in words, such as ``tennis court``; None where it is not known.
        source: SkyScript's two-character alias of the image collection, such as ``CH``.
        year: of capture.
        similarity: image-text cosine that came with the pair, from whichever CLIP filtered it.
    """

    key: str
    image: Path
    captions: tuple[str, ...]
    split: str | None = None
    class_name: str | None = None
    source: str | None = None
    year: int | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class PairSettings:
    """Which pairs a recipe works on."""

    root: Path
    """Folder of the data set: SkyScript, an imagefolder with metadata.jsonl, or one folder for each class."""
    csv: Path | None = None
    """Pair list to read, relative to the root or to the working folder; by default found by the split."""
    caption_column: str | None = None
    """Column or key that holds the captions; by default title_multi_objects or title, or captions or text."""
    split: str | None = None
    """train, val or test; by default all of them."""
    classes: tuple[str, ...] = ()
    """Classes to keep, such as "tennis court"; by default all of them."""
    sources: tuple[str, ...] = ()
    """Aliases of the image collections to keep, such as CH or S2; by default all of them."""
    limit: int = 0
    """At most so many pairs, 0 for all: the first ones of a CSV, or evenly spaced ones of a folder."""
    also: tuple[Path, ...] = ()
    """More data to read beside it: folders of data sets, or CSVs in the folder of theirs."""
    max_bad_fraction: float = 0.01
    """Largest share of the rows that may be unusable before the recipe stops."""

    def read(self, rejects: Rejects) -> list[Pair]:
        """Read the pairs these settings select.

        Args:
            rejects: where rows that cannot be used are noted.

        Raises:
            DataError: if there are too many of those, or no pair is left.
            ConfigError: if a setting does not fit the data.
            UnavailableError: if there is no such folder.
        """
        selection = Selection(self.split, self.classes, self.sources, self.limit)
        reading = _read(self.root, self.csv, self.caption_column, selection, _TEMPLATE, rejects)
        rejects.check(reading.rows, self.max_bad_fraction, bad=reading.bad)
        pairs = reading.require_some(self.root, rejects)
        for place in self.also:
            root, csv = (place.parent, place) if place.suffix == ".csv" else (place, None)
            pairs += replace(self, root=root, csv=csv, caption_column=None, also=()).read(rejects)
        return pairs


def read_pairs(
    root: Path | str,
    *,
    csv: str | Path | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    sources: Sequence[str] = (),
    limit: int = 0,
    caption_template: str = _TEMPLATE,
    rejects: Rejects | None = None,
) -> list[Pair]:
    """Read the pairs of a data set; the layout is found, and no image is opened.

    Three layouts are known: SkyScript's (a CSV with a column ``filepath``), Hugging Face's imagefolder
    (``metadata.jsonl``), and one folder for each class. Rows on the same image become one pair with several captions.

    Args:
        root: folder of the data set.
        csv: pair list, relative to the root or to the working folder; by default those in the root, by split.
        caption_column: column or key of the captions; by default ``title_multi_objects`` or ``title``, or ``captions``
            or ``text``.
        split: ``train``, ``val`` or ``test``; by default all. Class folders without split folders are divided 8 : 1 : 1
            by a hash of the key.
        classes: to keep, in words or as the folders are called; by default all.
        sources: aliases to keep, such as ``CH``; by default all.
        limit: at most so many pairs, 0 for all: the first of a CSV, which is then read no further, or evenly spaced
            ones of a folder.
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
    selection = Selection(split, tuple(classes), tuple(sources), limit)
    reading = _read(Path(root), csv, caption_column, selection, caption_template, ledger)
    pairs = reading.require_some(Path(root), ledger)
    if rejects is None and reading.bad:
        _LOG.warning("%d of %d rows of %s are left out; %s", reading.bad, reading.rows, root, ledger.first_reason)
    return pairs


class Selection:
    """Which pairs are wanted, and which values the data has, for when none is left.

    Args:
        split: or None for all.
        classes: or none for all; compared in words, without regard to case.
        sources: or none for all.
        limit: or 0 for all.
    """

    def __init__(self, split: str | None, classes: Sequence[str], sources: Sequence[str], limit: int) -> None:
        if limit < 0:
            raise ConfigError(f"the limit is {limit}; it must be a count of pairs, or 0 for all: set --pairs.limit")
        self.split = (name_split(split, whole=True) or split) if split else None
        self.limit = limit
        self.wanted = {
            "split": {self.split} if self.split else set(),
            "classes": {to_words(name) for name in classes},
            "sources": {alias.upper() for alias in sources},
        }
        self.found: dict[str, Counter[str]] = {name: Counter() for name in self.wanted}

    def takes(self, pair: Pair) -> bool:
        """Decide on one pair, and remember its values."""
        values = {"split": pair.split, "classes": pair.class_name, "sources": pair.source}
        taken = True
        for name, wanted in self.wanted.items():
            if wanted:
                value = values[name]
                self.found[name][value or "none"] += 1
                compared = to_words(value) if value and name == "classes" else value
                taken = taken and compared in wanted
        return taken

    def describe(self) -> str:
        """Say for each filter what was asked for and what there is."""
        return "; ".join(
            f"--pairs.{name} asks for {', '.join(sorted(map(str, wanted)))}, and the data has {_list(self.found[name])}"
            for name, wanted in self.wanted.items()
            if wanted
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a data set: the pairs, how many rows there were, and how many of them were bad."""

    pairs: list[Pair]
    rows: int
    bad: int
    selection: Selection

    def require_some(self, root: Path, rejects: Rejects) -> list[Pair]:
        """Return the pairs; a DataError says why there are none."""
        if self.pairs:
            return self.pairs
        if self.rows == self.bad:
            why = f"none of its {self.rows} rows can be used; the first: {rejects.first_reason}"
            raise DataError(f"{root} has no pairs: {why if self.rows else 'its list has no row below the column names'}")
        raise DataError(f"no pair of {root} is selected: {self.selection.describe()}; change or leave out the filter")


def _read(
    root: Path,
    csv: str | Path | None,
    caption_column: str | None,
    selection: Selection,
    caption_template: str,
    rejects: Rejects,
) -> Reading:
    if "{}" not in caption_template:
        raise ConfigError(f"the caption template {caption_template!r} has no {{}} where the class should go")
    if not root.is_dir():
        raise UnavailableError(f"there is no folder {root}; set --pairs.root to the folder of the data set")
    rows, is_list = _find_rows(root, csv, caption_column, selection.split, caption_template, rejects)
    return _collect(rows, selection, stop_at_limit=is_list)


def _find_rows(
    root: Path, csv: str | Path | None, caption_column: str | None, split: str | None, template: str, rejects: Rejects
) -> tuple[Iterator[Pair | None], bool]:
    """Find the layout, and return its rows and whether they come from a CSV."""
    from skygen.data import imagefolder, skyscript  # these make Pairs, and so import this module

    csvs = [skyscript.find_csv(csv, root)] if csv else skyscript.choose_csvs(root, split)
    if csvs:
        return (row for path in csvs for row in skyscript.read_csv(path, root, caption_column, rejects)), True
    if metadata := imagefolder.find_metadata(root):
        return imagefolder.read_metadata(metadata, root, caption_column, rejects), False
    if folders := imagefolder.find_class_folders(root):
        return imagefolder.read_class_folders(folders, root, template), False
    others = ", ".join(path.name for path in sorted(root.glob("*.csv"))[:5])
    lacking = f" ({others} lack it)" if others else ""
    raise DataError(
        f"{root} is not a data set that can be read: it has no CSV with a column filepath{lacking}, "
        f"no {imagefolder.METADATA} in it or in a subfolder, and no folders of images named after classes; lay it out "
        "as SkyScript_*.csv + images2/*.jpg, as metadata.jsonl with file_name and text, or as AnnualCrop/*.jpg"
    )


def _collect(rows: Iterable[Pair | None], selection: Selection, *, stop_at_limit: bool) -> Reading:
    merged: dict[str, Pair] = {}
    count = bad = 0
    for pair in rows:
        count += 1
        if pair is None:
            bad += 1
        elif selection.takes(pair):
            known = merged.get(pair.key)
            if known is None and stop_at_limit and selection.limit and len(merged) == selection.limit:
                break
            merged[pair.key] = pair if known is None else _merge(known, pair)
    pairs = list(merged.values())
    if selection.limit and len(pairs) > selection.limit:
        pairs = [pairs[index * len(pairs) // selection.limit] for index in range(selection.limit)]
    return Reading(pairs, count, bad, selection)


def _merge(known: Pair, other: Pair) -> Pair:
    return replace(known, captions=tuple(dict.fromkeys(known.captions + other.captions)))


def name_split(name: str, *, whole: bool = False) -> str | None:
    """Read ``train``, ``val`` or ``test`` from a name such as ``SkyScript_val_5K`` or ``validation``; else None.

    Args:
        name: of a file, a folder or a split.
        whole: the name must be that of the split alone.
    """
    words = [name.strip().lower()] if whole else re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def relative_key(path: str) -> str:
    """Bring an image's path in a list to the form of ``Pair.key``.

    Raises:
        ValueError: with the reason, if it is empty, leaves the data set, or does not name an image.
    """
    if _PLAIN_PATH.fullmatch(path):
        parts = path.split("/")
    else:
        text = path.strip().replace("\\", "/")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if text.startswith("/") or re.match(r"[A-Za-z]:|\w+://", text) or ".." in parts:
            raise ValueError(f"the path {path!r} leads out of the data set; it must be relative to its folder")
        if not parts or not text.isprintable():
            raise ValueError(f"the path {path!r} is no file's name" if parts else "the path is empty")
    if f".{parts[-1].rpartition('.')[2].lower()}" not in SUFFIXES:
        raise ValueError(f"the path {path!r} is not that of an image ({', '.join(sorted(SUFFIXES))})")
    return "/".join(parts)


def to_words(name: str) -> str:
    """Turn a class's or folder's name into words: ``AnnualCrop`` and ``annual_crop`` into ``annual crop``."""
    return " ".join(filter(None, _WORD_BREAK.split(name))).lower()


def _list(values: Counter[str], most: int = 12) -> str:
    shown = ", ".join(f"{value} ({count})" for value, count in values.most_common(most))
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
