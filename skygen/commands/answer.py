"""What a command leaves its caller with, and how it shows that it is at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, final

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0
"""In a batch job's log, where a bar that redraws itself would fill the page."""


class Answer(NamedTuple):
    """What is printed on standard output, and the exit code."""

    text: str
    code: int = 0


@contextmanager
def showing(noun: str, *, unit: str = "") -> Iterator[Progress]:
    """Show progress on standard error while a command works: a bar on a terminal, else a line now and then and one at the end.

    Args:
        noun: of the things that are counted, such as ``pairs``.
        unit: ``B`` for bytes, which are then shown with prefixes.
    """
    progress = Progress(noun, unit)
    try:
        yield progress
    finally:
        progress.close()


@final
class Progress:
    """Is told how much is done, and in all; a total of 0 is not known yet."""

    def __init__(self, noun: str, unit: str = "") -> None:
        self._noun, self._unit = noun, unit
        self._begun = self._said = time.monotonic()
        self._before: int | None = None  # what an earlier try has done tells nothing of the rate
        self._done = self._total = 0
        live = sys.stderr.isatty()
        self._bar = tqdm(unit=unit or f" {noun}", unit_scale=bool(unit), dynamic_ncols=True, desc=noun) if live else None

    def __call__(self, done: int, total: int) -> None:
        """Note how much is done."""
        self._before = done if self._before is None else self._before
        if self._bar is not None:
            self._bar.total = total or None
            self._bar.update(done - self._done)
        self._done, self._total = done, total
        now = time.monotonic()
        if self._bar is None and now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            self._write_line()

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._done:
            self._write_line()

    def _write_line(self) -> None:
        rate = (self._done - (self._before or 0)) / max(time.monotonic() - self._begun, 1e-9)
        if self._unit:
            text = f"{self._done / 1e6:,.1f} of {self._total / 1e6:,.1f} MB, {rate / 1e6:,.1f} MB a second"
        else:
            of = f" of {self._total:,}" if self._total else ""
            text = f"{self._done:,}{of} {self._noun}, {rate:,.0f} a second"
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
