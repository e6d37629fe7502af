"""``items.jsonl``: what each image's caption scored, writer by writer, for a paired comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float

from skygen import plain_json
from skygen.errors import DataError

FILE = "items.jsonl"


@final
class ItemScores:
    """The scores of single images; their mean is the score in ``metrics.json``, but for METEOR's, which pools its counts.

    A line is ``{"key": …, "scores": {writer: {metric: value}}}``; a metric of a scorer is called
    ``clip_score@skyclip:miniature``. An image that a writer's trial leaves out has no value.

    Args:
        keys: of the images, in the order of ``captions.jsonl``.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self._rows: list[dict[str, dict[str, float]]] = [{} for _ in self.keys]

    def add(
        self, writer: str, metric: str, rows: Sequence[int], values: Float[np.ndarray, " count"], extractor: str = ""
    ) -> None:
        """Note one metric of one writer.

        Args:
            writer: such as ``tuned``.
            metric: such as ``cider_d_distinct``.
            rows: places of the images in ``keys``.
            values: one for each of ``rows``.
            extractor: the network behind it, such as ``skyclip:miniature``.
        """
        name = f"{metric}@{extractor}" if extractor else metric
        for row, value in zip(rows, values.tolist(), strict=True):
            self._rows[row].setdefault(writer, {})[name] = value

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the file."""
        return [{"key": key, "scores": scores} for key, scores in zip(self.keys, self._rows, strict=True)]

    def writers(self) -> list[str]:
        """List the writers, in the order in which they come."""
        return list(dict.fromkeys(writer for row in self._rows for writer in row))

    def metrics(self, writer: str) -> list[str]:
        """List a writer's metrics, in the order in which they come."""
        return list(dict.fromkeys(metric for row in self._rows for metric in row.get(writer, ())))

    def values(self, writer: str, metric: str) -> Float[np.ndarray, " count"]:
        """Return a writer's values of a metric, NaN where an image has none."""
        return np.array([row.get(writer, {}).get(metric, np.nan) for row in self._rows], dtype=np.float64)

    @classmethod
    def read(cls, path: Path) -> ItemScores:
        """Read the file back.

        Raises:
            DataError: it is not there, or a line is not as it was written.
        """
        keys: list[str] = []
        rows: list[dict[str, dict[str, float]]] = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; evaluate that run again.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, byte {error.start}, is damaged; evaluate that run again.") from error
        for number, line in enumerate(lines, start=1):
            try:
                content = plain_json.parse(line)
                keys.append(str(content["key"]))
                rows.append({w: {m: float(v) for m, v in some.items()} for w, some in content["scores"].items()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}, line {number}, is damaged; evaluate that run again.") from error
        items = cls(keys)
        items._rows = rows
        return items
