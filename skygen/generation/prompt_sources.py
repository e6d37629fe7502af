"""Where prompts come from beside a file: the pairs of a data set; and how many pictures each kind of prompt is given."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from skygen.data.captions import title_multi_objects
from skygen.data.image_metadata import describe_image
from skygen.data.pair import Box, Pair
from skygen.errors import ConfigError, DataError
from skygen.generation.prompts import MadeOf, Per, Prompt, PromptSettings, name_classes, spread

_LOG = logging.getLogger("skygen")
METRES_A_DEGREE: Final = 111_320.0
"""Of latitude, and of longitude at the equator: a circumference of 40,075 km."""


def read_pair_prompts(pairs: Sequence[Pair], settings: PromptSettings, resolution: int) -> list[Prompt]:
    """Make prompts of the pairs of a data set; no image is opened.

    Args:
        pairs: in the order of the data set.
        settings: what of them becomes a prompt, and how many are used.
        resolution: side in pixels of the pictures to be drawn, over which the ground of a pair's image is spread.

    Returns:
        One a pair, with its key, class, source and metadata: the first caption, or the caption of its OpenStreetMap tags. Of
        class names, one for each class and template.

    Raises:
        DataError: no pair has what the prompts are to be made of.
    """
    if settings.made_of == "classes":
        names = sorted({pair.class_name for pair in pairs if pair.class_name})
        prompts = name_classes([Prompt(name) for name in names], settings.all_templates())
    else:
        prompts = [prompt for pair in pairs if (prompt := _of_pair(pair, settings.made_of, resolution))]
        if prompts and (left := len(pairs) - len(prompts)):
            _LOG.info(f"{left:,} of {len(pairs):,} pairs have no {settings.made_of} and give no prompt")
    if not prompts:
        raise DataError(
            f"--prompts.made_of {settings.made_of}: none of {len(pairs):,} pairs has any; choose another of captions, classes "
            "and tags, or other pairs."
        )
    return spread(prompts, settings.limit)


def count_pictures(prompts: Sequence[Prompt], settings: PromptSettings, count: int) -> list[Prompt]:
    """Say of each picture which prompt it is drawn from.

    Args:
        prompts: in their order.
        settings: what is counted, how many of each, or in which shares.
        count: pictures in all; 0 for one a prompt, or as many as ``count_each`` makes.

    Returns:
        One prompt a picture. Groups come in turn, as evenly as their numbers allow, so that any first part of the pictures is
        balanced as the whole; within a group its prompts come in turn.

    Raises:
        ConfigError: both numbers are given, or ``count`` is less than the groups.
        DataError: of no prompt is it known what group it is in.
    """
    if settings.per == "none":
        return [prompts[index % len(prompts)] for index in range(count or len(prompts))]
    if count and settings.count_each:
        raise ConfigError("--generation.count and --prompts.count_each both say how many pictures to draw; give one of them.")
    groups: dict[str, list[Prompt]] = {}
    for prompt, name in zip(prompts, group_names(prompts, settings.per), strict=True):
        if name:
            groups.setdefault(name, []).append(prompt)
    known = sum(map(len, groups.values()))
    if not known:
        raise DataError(f"--prompts.per {settings.per}: it is known of none of {len(prompts):,} prompts; leave it out.")
    if known < len(prompts):
        _LOG.warning(f"{len(prompts) - known:,} of {len(prompts):,} prompts are left out: their {settings.per} is not known")
    found = {name: len(groups[name]) for name in sorted(groups)}
    if settings.count_each:
        numbers = dict.fromkeys(found, settings.count_each)
    else:
        numbers = divide(count or known, dict.fromkeys(found, 1) if settings.shares == "equal" else found)
    turns = sorted(((turn + 0.5) / numbers[name], name, turn) for name in numbers for turn in range(numbers[name]))
    return [groups[name][turn % len(groups[name])] for _, name, turn in turns]


def divide(count: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Divide a number in proportion to weights: whole parts, the rest to the largest remainders, of equals to the first."""
    total = sum(weights.values())
    parts = {name: count * weight // total for name, weight in weights.items()}
    rest = sorted(weights, key=lambda name: -(count * weights[name] % total))
    for name in rest[: count - sum(parts.values())]:
        parts[name] += 1
    return parts


def group_names(prompts: Sequence[Prompt], per: Per) -> list[str]:
    """Return the class, source or continent of each prompt; empty where it is not known.

    Raises:
        UnavailableError: continents are asked for, and timezonefinder is not installed.
    """
    if per == "class":
        return [prompt.class_name for prompt in prompts]
    if per == "source":
        return [prompt.source for prompt in prompts]
    if per == "none":
        return [""] * len(prompts)
    from skygen.data.geography import locate

    def degrees(name: str) -> np.ndarray:
        values = [getattr(prompt.metadata, name) for prompt in prompts]
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    return [name or "" for name in locate(degrees("longitude"), degrees("latitude")).continent.to_pylist()]


def count_by(prompts: Sequence[Prompt]) -> dict[str, dict[str, int]]:
    """Count pictures by class and by source, those of which it is not known left out."""
    columns = {"class": [prompt.class_name for prompt in prompts], "source": [prompt.source for prompt in prompts]}
    return {name: dict(sorted(Counter(filter(None, values)).items())) for name, values in columns.items()}


def _of_pair(pair: Pair, made_of: MadeOf, resolution: int) -> Prompt | None:
    if made_of == "captions":
        text = pair.captions[0]
    elif pair.center_tags:
        text = title_multi_objects(pair.center_tags, [tags for tags in pair.surrounding_tags or () if tags])
    else:
        return None
    # metres a pixel are the picture's, not the file's, whose size nobody knows here; its box says how far it reaches
    gsd = None if pair.box is None else _shorter_side(pair.box) / resolution
    metadata = describe_image(pair)._replace(gsd=gsd)
    return Prompt(text, pair.key, pair.class_name or "", pair.source or "", metadata)


def _shorter_side(box: Box) -> float:
    """Return metres on the ground of the side that a square crop of an image keeps whole."""
    height = (box.north - box.south) * METRES_A_DEGREE
    width = (box.east - box.west) * METRES_A_DEGREE * math.cos(math.radians((box.north + box.south) / 2))
    return min(width, height)
