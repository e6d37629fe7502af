"""Whether a scorer sees in a turned picture what it sees in the upright one.

An overhead image has no up: turned by a quarter it shows the same, and its prompt is as true of it as before. The mean cosine
of the turned pictures beside ``skyclip_score``, and how far the cosine of one picture moves, tell how much of that score hangs
on which way is up: by the scorer's habits, and by the pictures' (a generator that has learnt from photographs taken at eye
level may draw sky above). A prompt that names a side, such as "in the upper left", is no longer true of a turned picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image

from skygen.data.images import open_image
from skygen.errors import ConfigError, DataError
from skygen.evaluation.alignment import matched_cosine
from skygen.evaluation.scores import Score, mean_score
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

TURNS: Final = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
"""Quarter turns move pixels and change none, so that no resampling is measured with them."""


def turned_scores(
    scorer: Scorer,
    paths: Sequence[Path],
    texts: Sequence[str],
    *,
    model: str,
    subset: str,
    seeds: Seeds,
    limit: int = 500,
    upright: Float[np.ndarray, "count dimension"] | None = None,
) -> list[Score]:
    """Score pictures turned by 90, 180 and 270 degrees by their own prompts.

    Three embeddings a picture; a batch of pictures is in memory at a time. A scorer that cuts the middle square out of a
    picture cuts the same one out of a turned picture, or one that is a pixel off where the sides differ by an odd number.

    Args:
        scorer: the CLIP that judges.
        paths: the pictures.
        texts: the prompt of each.
        model: whose pictures they are.
        subset: which of the data the prompts are.
        seeds: the run's seeds.
        limit: pictures turned; of more than so many, so many are drawn.
        upright: embeddings of all pictures by the same scorer, where they are at hand; else those drawn are embedded once more.

    Returns:
        ``skyclip_score_turned``, the mean over pictures and turns of the cosine in [-1, 1], to read beside ``skyclip_score``;
        ``skyclip_score_turned_change``, the mean over pictures and turns of the absolute difference from the same picture's
        upright cosine, in [0, 2] and near 0 where neither scorer nor pictures care. The intervals resample pictures, each with
        its three turns; ``count`` is of pictures.

    Raises:
        ConfigError: ``limit`` is below 1.
        DataError: there is no picture, the counts differ, or an embedding is zero or not finite.
        ImageError: a file cannot be decoded.
    """
    if limit < 1:
        raise ConfigError(f"limit is {limit}; turn at least 1 picture, such as 500.")
    if not paths:
        raise DataError("There is no picture to turn; give at least one.")
    for name, others in (("prompts", texts), ("upright embeddings", upright)):
        if others is not None and len(others) != len(paths):
            raise DataError(
                f"There are {len(paths)} pictures but {len(others)} {name}; give one for each picture, in the same order."
            )
    chosen = np.sort(seeds.numpy("pictures to turn", len(paths)).permutation(len(paths))[:limit])
    some, words = [paths[row] for row in chosen], scorer.embed_texts([texts[row] for row in chosen])
    before = embed_turns(scorer, some, (None,))[0] if upright is None else upright[chosen]
    own = matched_cosine(before, words)
    turned = np.stack([matched_cosine(vectors, words) for vectors in embed_turns(scorer, some)])
    items = {
        "skyclip_score_turned": turned.mean(axis=0),
        "skyclip_score_turned_change": np.abs(turned - own).mean(axis=0),
    }
    return [
        mean_score(name, values, model=model, subset=subset, extractor=f"skyclip:{scorer.name}", seeds=seeds)
        for name, values in items.items()
    ]


def embed_turns(
    scorer: Scorer, paths: Sequence[Path], turns: Sequence[Image.Transpose | None] = TURNS
) -> Float[np.ndarray, "turns count dimension"]:
    """Embed pictures turned, ``scorer.batch_size`` of them in memory at a time; each file is read once.

    Args:
        scorer: the CLIP.
        paths: the pictures, at least one.
        turns: how each is turned; None leaves it upright.

    Returns:
        Unit vectors, float32.

    Raises:
        ImageError: a file cannot be decoded.
    """
    parts = []
    for start in range(0, len(paths), scorer.batch_size):
        pictures = [open_image(path) for path in paths[start : start + scorer.batch_size]]
        parts.append(
            np.stack(
                [
                    scorer.embed_images(pictures if turn is None else [picture.transpose(turn) for picture in pictures])
                    for turn in turns
                ]
            )
        )
    return np.concatenate(parts, axis=1)
