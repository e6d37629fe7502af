"""Captions that look at no image: what a captioner must beat before its scores mean anything."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from skygen.data.pair import Pair
from skygen.errors import DataError
from skygen.seeding import Seeds

_LOG = logging.getLogger(__name__)


def constant_caption(train_captions: Sequence[str]) -> str:
    """Find the one caption to say of every image: the most frequent in training, of equals the first seen.

    Raises:
        DataError: there is no caption.
    """
    if not train_captions:
        raise DataError("The constant baseline needs at least one training caption, and there is none; give training pairs.")
    return Counter(train_captions).most_common(1)[0][0]


def class_mode_captions(train_pairs: Sequence[Pair], eval_pairs: Sequence[Pair]) -> list[str]:
    """Say of each image the most frequent training caption of its true class, as an oracle that knows the class would.

    Classes are compared by ``Pair.class_name``. An image whose class is not known, or not in training, gets the constant
    caption.

    Args:
        train_pairs: where captions are counted, all those of a pair.
        eval_pairs: what is captioned.

    Returns:
        A caption for each of ``eval_pairs``.

    Raises:
        DataError: there is no training pair.
    """
    by_class: defaultdict[str | None, list[str]] = defaultdict(list)
    for pair in train_pairs:
        by_class[pair.class_name].extend(pair.captions)
    constant = constant_caption([caption for pair in train_pairs for caption in pair.captions])
    modes = {name: constant_caption(captions) for name, captions in by_class.items() if name is not None}
    return [constant if pair.class_name is None else modes.get(pair.class_name, constant) for pair in eval_pairs]


def trivial_captions(train_pairs: Sequence[Pair], eval_pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Write the baselines that repeat training captions: ``constant``, and ``class_mode`` where classes are known.

    Args:
        train_pairs: where captions are counted, repeats included.
        eval_pairs: what is captioned.

    Raises:
        DataError: there is no training pair.
    """
    constant = constant_caption([caption for pair in train_pairs for caption in pair.captions])
    captions = {"constant": [constant] * len(eval_pairs)}
    known = {pair.class_name for pair in train_pairs} & {pair.class_name for pair in eval_pairs} - {None}
    if known:
        captions["class_mode"] = class_mode_captions(train_pairs, eval_pairs)
    else:
        _LOG.info("class_mode is left out, as no class is known both in training and here")
    return captions


def shuffled_captions(captions: Sequence[str], seeds: Seeds) -> list[str]:
    """Give every image the caption of another one, with another text where possible (see ``derangement``)."""
    return [captions[index] for index in derangement(captions, seeds)]


def derangement(texts: Sequence[str], seeds: Seeds) -> Int[np.ndarray, " count"]:
    """Draw a permutation under which no place keeps its text.

    A random permutation is mended by random swaps. One swap mends one place without spoiling another, and one exists
    unless a text fills more than half of the places; then as many of its places as must keep it do, and a log message
    says how many.

    Args:
        texts: equal ones count as the same text.
        seeds: the run's seeds.

    Returns:
        For each place, the place its new text comes from.
    """
    first = {text: place for place, text in reversed(list(enumerate(texts)))}
    codes = np.array([first[text] for text in texts], dtype=np.int64)
    generator = seeds.numpy("derangement", len(texts))
    order = generator.permutation(len(texts))
    for place in np.flatnonzero(codes[order] == codes):
        text = codes[place]
        if codes[order[place]] != text:
            continue  # an earlier swap has mended it
        partners = np.flatnonzero((codes != text) & (codes[order] != text))
        if partners.size:
            partner = generator.choice(partners)
            order[[place, partner]] = order[[partner, place]]
    kept = int((codes[order] == codes).sum())
    if kept:
        _LOG.warning("%d of %d shuffled texts stay in place, as one text fills more than half of them", kept, len(texts))
    return order
