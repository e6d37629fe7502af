"""SkyScript on disk: file names, image sources, and the pair lists (CSV), of which there are two published schemas.

A, rule-based: ``filepath, title, title_multi_objects, similarity_*``. B, polished: ``filepath, title_raw, title``.
Columns are found by name; a list of one's own needs ``filepath`` and a caption column. Source: Wang et al., AAAI-24,
arXiv 2312.12856.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from skygen.data.captions import AERIAL_PREFIX, PREFIX, SATELLITE_PREFIX, strip_view_prefix
from skygen.data.pair import name_split
from skygen.errors import ConfigError, DataError

# Aliases contain digits (P3, S2, L8): a pattern of letters alone loses those sources. `r`, a relation, is not
# documented; it would be OpenStreetMap's third element beside way (closed: `a`, open: `w`) and node.
_FILE_NAME = re.compile(r"(?P<kind>[awnr])(?P<osm_id>\d{1,18})_(?P<source>[A-Z0-9]{2})_(?P<year>\d{2})\.jpe?g", re.ASCII)
_PART = re.compile(r"images([0-9]{1,2})/", re.ASCII)
FABRICATED = "FABRICATED.txt"
"""Lies in a data set that has SkyScript's layout and is none of it."""
END_OF_TAG_PATTERN = r", | with | and |; "
"""What stands after the first tag of a caption."""
_END_OF_TAG = re.compile(END_OF_TAG_PATTERN)


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


def view_prefix(source: str | None) -> str:
    """Return the opening of a caption that says how the image was taken; that of the rule-made ones where it is not known.

    Which of the two a polished caption has is not documented; the platform of the source is the natural reading.
    """
    known = SOURCES.get(source or "")
    return PREFIX if known is None else AERIAL_PREFIX if known.platform == "aerial" else SATELLITE_PREFIX


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


OBJECT_TYPES = {"a": "area", "w": "way", "n": "node", "r": "relation"}
"""By the letter in file names."""


def parse_part(key: str) -> int | None:
    """Read which of SkyScript's archives an image is in: 2 for ``images2/a1_CH_19.jpg``; None elsewhere."""
    match = _PART.match(key)
    return int(match[1]) if match else None


def leading_tag(title: str) -> str | None:
    """Name the focus object of a SkyScript title by its first tag: ``a satellite image of pier, shelter`` is a pier."""
    tag = _END_OF_TAG.split(strip_view_prefix(title), maxsplit=1)[0].strip(" .").lower()
    return tag or None


def read_header(path: Path) -> list[str]:
    """Read the column names in the first row of a CSV."""
    try:
        with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            return [name.strip() for name in next(csv.reader([file.readline(1 << 16)]), [])]
    except csv.Error:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def locate_image(root: Path, key: str) -> Path:
    """Find where the image of a row lies.

    ``unzip -d images2 images2.zip`` leaves it in ``images2/images2``; where there is no folder ``images2``, it lies in
    ``images2.zip``, and need not be unpacked.
    """
    folder, slash, _ = key.partition("/")
    return root / key if not slash else Path(_place_folder(root, folder) + key)


def has_part(root: Path, folder: str) -> bool:
    """Say whether one of SkyScript's archives, such as ``images2`` or ``meta2``, is here, unpacked or not."""
    return (root / folder).is_dir() or (root / f"{folder}.zip").is_file()


def forget_places() -> None:
    """Look anew where folders lie: since the last look, an archive may have come or been unpacked."""
    _place_folder.cache_clear()


@lru_cache(maxsize=4096)
def _place_folder(root: Path, folder: str) -> str:
    """Return what stands before the key of an image whose key begins with ``folder``, a slash at the end."""
    if re.fullmatch(r"(?:images|meta)\d+", folder) and (root / folder / folder).is_dir():
        return f"{root / folder}/"
    if not (root / folder).exists() and (root / f"{folder}.zip").is_file():
        return f"{root / folder}.zip/"
    return f"{root}/"


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
