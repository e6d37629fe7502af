"""What an export carries on of pictures that a model has drawn: that they are synthetic, and how each came about.

The pictures themselves are copied byte for byte, with the labels inside them; what is here stands beside them, in every row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from skygen.data.formats.imagefolder import find_metadata

FIELDS = (pa.field("synthetic", pa.bool_()), pa.field("provenance", pa.string()))
"""Columns that a Parquet list of such pictures has besides those of ``SCHEMA``."""
UNSPLIT = "train"
"""Split of synthetic pictures of which none is told: nothing is ever measured on them."""


@final
@dataclass(frozen=True, slots=True)
class SyntheticRecords:
    """The records of a data set's synthetic pictures, read one at a time.

    Args:
        places: by key, the file that its line is in, and where the line begins in bytes.
        terms: what binds the pictures, by the licences of base and adapter; each once, sorted.
        rows: all lines of the data set, those of other pictures included.
        fingerprint: SHA-256 of all of them, 16 digits.
    """

    places: dict[str, tuple[Path, int]]
    terms: tuple[str, ...] = ()
    rows: int = 0
    fingerprint: str = ""

    def __bool__(self) -> bool:
        return bool(self.places)

    @property
    def are_all(self) -> bool:
        """Whether every picture of the data set is synthetic."""
        return bool(self.places) and len(self.places) == self.rows

    def describe(self, key: str) -> dict[str, Any]:
        """Return what a row says of a picture besides what ``SCHEMA`` has: nothing in a data set without synthetic ones.

        ``provenance`` is the record as JSON in a text, so that it is a column whatever the records hold.
        """
        if not self.places:
            return {}
        place = self.places.get(key)
        if place is None:
            return {"synthetic": False, "provenance": None}
        path, start = place
        with path.open("rb") as file:
            file.seek(start)
            line = json.loads(file.readline().decode("utf-8-sig"))
        kept = line.get("provenance")
        record = kept if isinstance(kept, str) else json.dumps(line, sort_keys=True)
        return {"synthetic": True, "provenance": record}


def find_synthetic(root: Path) -> SyntheticRecords:
    """Find which pictures of a data set are synthetic: lines of its ``metadata.jsonl`` that say so.

    Args:
        root: of a data set of any layout.

    Returns:
        Their records; empty where there are none. A line that is not readable is not among them: the reader of the list has
        rejected it.
    """
    places: dict[str, tuple[Path, int]] = {}
    terms: set[str] = set()
    digest, rows = hashlib.sha256(), 0
    for path in find_metadata(root):
        folder = path.parent.relative_to(root).as_posix()
        prefix, start = "" if folder == "." else f"{folder}/", 0
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                rows += bool(line.strip())
                row = _read_row(line) if b'"synthetic"' in line else {}
                if row.get("synthetic") is True and isinstance(row.get("file_name"), str):
                    places[f"{prefix}{row['file_name']}"] = (path, start)
                    terms.add(_find_terms(row))
                start += len(line)
    if not places:
        return SyntheticRecords({})
    return SyntheticRecords(places, tuple(sorted(terms - {""})), rows, digest.hexdigest()[:16])


def _read_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _find_terms(row: dict[str, Any]) -> str:
    kept = row.get("provenance")
    record = _read_row(kept.encode()) if isinstance(kept, str) else row
    return " ".join(str(record.get("terms") or "").split())
