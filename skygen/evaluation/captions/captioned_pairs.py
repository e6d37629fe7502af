"""Pairs as captions are evaluated on them: references as often as the files have them, without words on the view."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from skygen.data.captions import strip_view_prefix
from skygen.data.every_caption import restore_repeats
from skygen.data.layouts import find_layout
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects

_LOG = logging.getLogger("skygen")

LARGEST_WITH_REPEATS: Final = 100_000_000
"""Bytes of the files in which repeats are looked for, which are read whole: RSICD's has 12 MB; SkyScript's lists of millions
of pairs have hundreds, and say one thing of an image."""


def read_captioned_pairs(settings: PairSettings, rejects: Rejects) -> list[Pair]:
    """Read the pairs that the settings select, with each reference as often as published scores count it.

    Where the lists are larger than 100 MB, or ``also`` adds other data, each reference stays once, and the log says so.

    Args:
        settings: which pairs.
        rejects: where rows that cannot be used are noted.

    Raises:
        DataError: if there are too many of those, or no pair is left.
        ConfigError: if a setting does not fit the data.
        UnavailableError: if there is no such folder.
    """
    pairs = list(settings.read(rejects))
    split = settings.split if settings.split_by == "list" else None
    files = find_layout(settings.root, settings.csv, settings.caption_column, split, CLASS_TEMPLATE).files
    if settings.also or sum(path.stat().st_size for path in files if path.is_file()) > LARGEST_WITH_REPEATS:
        why = "pairs.also adds other data" if settings.also else "its lists are larger than 100 MB"
        _LOG.info(f"{settings.root}: each reference counts once, as {why}")
    else:
        column = settings.caption_column
        pairs = restore_repeats(pairs, settings.root, csv=settings.csv, caption_column=column, split=split)
    return [replace(pair, captions=tuple(map(strip_view_prefix, pair.captions))) for pair in pairs]
