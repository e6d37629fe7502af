"""Whether a rule-made caption names the right tags: the counts and colours that an n-gram metric hardly notices.

For captions in SkyScript's grammar (``tank of 3 with colour of red, surrounded by natural tree``); in another text there is no
tag with a value, and nothing is scored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from skygen.data.captions import strip_view_prefix
from skygen.evaluation.scores import Score, mean_score
from skygen.seeding import Seeds

_SURROUNDINGS = ", surrounded by "
_JOINTS = re.compile(r",\s*|\swith\s|\sand\s")
KINDS = {
    "count_accuracy": re.compile(r".+ of \d+"),
    "colour_accuracy": re.compile(r"(?:.* )?colou?r of .+"),
}
"""Score name to the tags of the focus object that it is about."""


def tag_scores(
    captions: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], *, subset: str, seeds: Seeds
) -> list[Score]:
    """Score every writer by the share of images whose counts, and whose colours, it says as the first reference does.

    Args:
        captions: writer (``tuned``, ``base``, ``constant``, …) to one caption an image.
        references: of each image; the first one counts.
        subset: of the data, for the record.
        seeds: the intervals follow from them.

    Returns:
        ``count_accuracy`` and ``colour_accuracy`` in [0, 1] over the images whose reference has such a tag, where any has.
    """
    scores = []
    for name, pattern in KINDS.items():
        wanted = {row: tags for row, texts in enumerate(references) if (tags := focus_tags(texts[0], pattern))}
        for writer, written in captions.items() if wanted else ():
            right = np.asarray([tags <= focus_tags(written[row], pattern) for row, tags in wanted.items()], dtype=np.float64)
            scores.append(mean_score(name, right, model=writer, subset=subset, extractor="", seeds=seeds))
    return scores


def focus_tags(caption: str, pattern: re.Pattern[str]) -> frozenset[str]:
    """Return those tags of a caption's focus object, such as ``tanks of 3``, that the pattern matches as a whole."""
    focus = strip_view_prefix(caption).lower().partition(_SURROUNDINGS)[0]
    return frozenset(tag for tag in map(str.strip, _JOINTS.split(focus)) if pattern.fullmatch(tag))
