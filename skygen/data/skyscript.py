"""SkyScript on disk: file names, image sources, and the pair lists (CSV), of which there are two published schemas.

A, rule-based: ``filepath, title, title_multi_objects, similarity_*``. B, polished: ``filepath, title_raw, title``.
Columns are found by name; a list of one's own needs ``filepath`` and a caption column. Source: Wang et al., AAAI-24,
arXiv 2312.12856.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from skygen.data.captions import strip_view_prefix
from skygen.data.pairs import Pair, name_split, relative_key
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError

# Aliases contain digits (P3, S2, L8): a pattern of letters alone loses those sources. `r`, a relation, is not
# documented; it would be OpenStreetMap's third element beside way (closed: `a`, open: `w`) and node.
_FILE_NAME = re.compile(r"(?P<kind>[awnr])(?P<osm_id>\d+)_(?P<source>[A-Z0-9]{2})_(?P<year>\d{2})\.jpe?g", re.ASCII)
_END_OF_TAG = re.compile(r", | with | and |; ")


@dataclass(frozen=True, slots=True)
class Source:
    """One of the image collections SkyScript is drawn from.

    Args:
        name: as the paper calls it.
        collection: Google Earth Engine's identifier.
        platform: whether the pictures were taken from the air or from space.
        gsd: ground sample distance in metres a pixel, finest and coarsest.
        coverage: the country, or ``global``.
    """

    name: str
    collection: str
    platform: Literal["aerial", "satellite"]
    gsd: tuple[float, float]
    coverage: str


SOURCES: Mapping[str, Source] = {
    "CH": Source("SWISSIMAGE 10 cm RGB", "ORTHO/Switzerland/SWISSIMAGE/10cm", "aerial", (0.1, 0.1), "Switzerland"),
    "ES": Source("Spain RGB orthophotos", "Spain/PNOA/PNOA10", "aerial", (0.1, 0.1), "Spain"),
    "DE": Source(
        "Brandenburg RGBN orthophotos", "Germany/Brandenburg/orthos/20cm", "aerial", (0.2, 0.2), "Germany (Brandenburg)"
    ),
    "FI": Source("Finland RGB NLS orthophotos", "Finland/SMK/V/50cm", "aerial", (0.5, 0.5), "Finland"),
    "US": Source("National Agriculture Imagery Program", "USDA/NAIP/DOQQ", "aerial", (0.6, 1.0), "United States"),
    "P3": Source("Planet SkySat public ortho RGB", "SKYSAT/GEN-A/PUBLIC/ORTHO/RGB", "satellite", (0.8, 0.8), "global"),
    "P5": Source("Planet SkySat public ortho MS", "SKYSAT/GEN-A/PUBLIC/ORTHO/MULTISPECTRAL", "satellite", (2.0, 2.0), "global"),
    "S2": Source("Sentinel-2 L2A harmonized", "COPERNICUS/S2_SR_HARMONIZED", "satellite", (10.0, 10.0), "global"),
    "L8": Source("Landsat 8 C2 T1 TOA", "LANDSAT/LC08/C02/T1_TOA", "satellite", (30.0, 30.0), "global"),
    "L9": Source("Landsat 9 C2 T1 TOA", "LANDSAT/LC09/C02/T1_TOA", "satellite", (30.0, 30.0), "global"),
}
"""By the alias in file names. The repository has aliases and collections, the paper has names and distances."""


@dataclass(frozen=True, slots=True)
class FileName:
    """What a SkyScript file name says.

    Args:
        kind: of the focus object: ``a`` area, ``w`` way, ``n`` node, ``r`` relation.
        osm_id: its OpenStreetMap number; unique only together with ``kind``.
        source: alias of the image collection; a key of ``SOURCES`` unless the data set has sources of its own.
        year: of capture.
    """

    kind: str
    osm_id: int
    source: str
    year: int


def parse_file_name(path: str) -> FileName | None:
    """Read a name such as ``images2/a198234555_CH_19.jpg``; None where it is not a SkyScript name."""
    match = _FILE_NAME.fullmatch(path.rpartition("/")[2])
    if match is None:
        return None
    return FileName(match["kind"], int(match["osm_id"]), match["source"], 2000 + int(match["year"]))


def leading_tag(title: str) -> str | None:
    """Name the focus object of a SkyScript title by its first tag: ``a satellite image of pier, shelter`` is a pier."""
    tag = _END_OF_TAG.split(strip_view_prefix(title), maxsplit=1)[0].strip(" .").lower()
    return tag or None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row each thing stands; None for what the file lacks."""

    count: int
    filepath: int
    caption: int
    title: int | None
    label: int | None
    split: int | None
    similarity: int | None


def find_columns(path: Path, caption_column: str | None = None) -> Columns:
    """Find the columns by the names in the first row.

    Args:
        path: of the CSV.
        caption_column: the one to take captions from; by default ``title_multi_objects``, or else ``title``.

    Raises:
        ConfigError: if ``filepath`` or the caption column is missing; it names the columns there are.
    """
    names = read_header(path)
    place = {name: number for number, name in reversed(list(enumerate(names)))}
    listed = ", ".join(names) if any(names) else "none"
    if "filepath" not in place:
        raise ConfigError(
            f"{path} has no column filepath in its first row; its columns are: {listed}; "
            "a pair list needs filepath and one column of captions"
        )
    captions = [caption_column] if caption_column else ["title_multi_objects", "title"]
    caption = next((place[name] for name in captions if name in place), None)
    if caption is None:
        raise ConfigError(
            f"{path} has no column {' or '.join(captions)}; its columns are: {listed}; name the one that holds the "
            "captions with --pairs.caption_column"
        )
    similarity = next((number for number, name in enumerate(names) if name.startswith("similarity")), None)
    return Columns(
        len(names), place["filepath"], caption, place.get("title"), place.get("label"), place.get("split"), similarity
    )


def read_header(path: Path) -> list[str]:
    """Read the column names in the first row of a CSV."""
    try:
        with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            return [name.strip() for name in next(csv.reader([file.readline(1 << 16)]), [])]
    except csv.Error:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_csv(path: Path, root: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Pair | None]:
    """Read a pair list, one row at a time; images are not opened.

    A row is a line: a stray quote spoils its own line, not the thousand that follow it.

    Args:
        path: of the CSV.
        root: what its ``filepath`` is relative to.
        caption_column: see ``find_columns``.
        rejects: where a row that cannot be used is noted.

    Yields:
        A pair with the row's caption, so that an image on several rows comes several times; None for a rejected row.
    """
    columns = find_columns(path, caption_column)
    split = name_split(path.stem)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            try:
                yield _read_row(line, columns, root, split)
            except (ValueError, csv.Error) as error:
                rejects.add(f"{path.name}:{number}", str(error), f"{path}, row {number}")
                yield None


def _read_row(line: str, columns: Columns, root: Path, split: str | None) -> Pair:
    """Make the pair of one line; a ValueError or csv.Error carries the reason why there is none."""
    cells = next(csv.reader([line], strict=True))
    if len(cells) != columns.count:
        raise ValueError(f"{len(cells)} cells where the first row has {columns.count}")
    key, caption = relative_key(cells[columns.filepath]), cells[columns.caption].strip()
    if not caption:
        raise ValueError("the caption is empty")
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid UTF-8") from None
    name = parse_file_name(key)
    return Pair(
        key=key,
        image=locate_image(root, key),
        captions=(caption,),
        split=(name_split(cells[columns.split]) if columns.split is not None else None) or split,
        class_name=_name_class(cells, columns, is_skyscript=name is not None),
        source=name.source if name else None,
        year=name.year if name else None,
        similarity=_to_similarity(cells[columns.similarity]) if columns.similarity is not None else None,
    )


def locate_image(root: Path, key: str) -> Path:
    """Find where the image of a row lies; ``unzip -d images2 images2.zip`` leaves it in ``images2/images2``."""
    folder = key.partition("/")[0]
    return root / folder / key if _is_nested(root, folder) else root / key


@cache
def _is_nested(root: Path, folder: str) -> bool:
    return re.fullmatch(r"images\d+", folder) is not None and (root / folder / folder).is_dir()


def _name_class(cells: list[str], columns: Columns, *, is_skyscript: bool) -> str | None:
    if columns.label is not None and (label := cells[columns.label].strip()):
        return label
    title = cells[columns.title if columns.title is not None else columns.caption]
    # A caption of another data set is a sentence, whose opening names nothing.
    return leading_tag(title) if is_skyscript or strip_view_prefix(title) != title else None


def _to_similarity(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def choose_csvs(root: Path, split: str | None) -> list[Path]:
    """Choose the pair lists of a folder: one for each split, or for the split that is asked for.

    Among several for training the unfiltered one is taken, which holds the others.

    Returns:
        Paths, in the order train, val, test, none; empty where no CSV in the folder has a column ``filepath``.

    Raises:
        ConfigError: if it is not clear which is meant.
    """
    found: dict[str | None, list[Path]] = {"train": [], "val": [], "test": [], None: []}
    for path in sorted(root.glob("*.csv")):
        if "filepath" in read_header(path):
            found[name_split(path.stem)].append(path)
    matching = (found.get(split) or found[None]) if split else []  # an unnamed one may have a column `split`
    chosen = []
    for paths in [matching] if matching else found.values():
        full = [path for path in paths if path.stem.endswith("train_unfiltered_5M")]
        candidates = full or paths
        if len(candidates) > 1:
            names = ", ".join(path.name for path in candidates)
            raise ConfigError(f"{root} holds several pair lists: {names}; choose one with --pairs.csv")
        chosen += candidates
    return chosen


def find_csv(csv_path: str | Path, root: Path) -> Path:
    """Find a pair list that was named: as it stands, or relative to the data set's root.

    Raises:
        ConfigError: if there is no such file.
    """
    candidates = [root / csv_path, Path(csv_path)]
    for path in candidates:
        if path.is_file():
            return path
    tried = " and ".join(dict.fromkeys(map(str, candidates)))
    raise ConfigError(f"there is no pair list {PurePosixPath(csv_path)}: tried {tried}; set --pairs.csv")
