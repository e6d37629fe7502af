"""How much a test of faults tries: little in the suite, much by `make faults`."""

from __future__ import annotations

import os

LONG = os.environ.get("SKYGEN_FAULTS", "short") == "long"
"""Whether this is the long form, by `SKYGEN_FAULTS=long` before the command."""


def amount(short: int, long: int) -> int:
    """Return how often something is tried: `short` times in the suite, `long` times in the long form."""
    return long if LONG else short
