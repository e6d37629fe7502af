"""Caption scores as coco-caption computes them, without Java: BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D.

Protocol: Chen et al. 2015, "Microsoft COCO Captions: Data Collection and Evaluation Server", and what its published
tool does where the papers leave room. Everything is computed on the tokens of ``skygen.evaluation.captions.tokens``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Final, final

import numpy as np
from jaxtyping import Float, Int, Num

from skygen.errors import DataError
from skygen.evaluation.captions.tokens import tokenize_caption

Tokens = tuple[str, ...]

ORDERS: Final = 4
"""BLEU and CIDEr-D count n-grams of 1 to 4 tokens."""

ROUGE_BETA: Final = 1.2
"""Weight of recall over precision in ROUGE-L, as in coco-caption."""

CIDER_SIGMA: Final = 6.0
"""Standard deviation, in tokens, of CIDEr-D's length penalty."""


@dataclass(frozen=True, slots=True)
class CaptionScore:
    """One caption metric over a set of captions.

    Args:
        corpus: the value a paper's table shows; BLEU pools its counts, the others are the mean of ``items``.
        items: the value of each caption alone, in the order given.
    """

    corpus: float
    items: Float[np.ndarray, " count"]


@dataclass(frozen=True, slots=True)
class TokenizedCaptions:
    """Hypotheses and their references as tokens, checked to belong together.

    Args:
        hypotheses: one caption an item; it may be empty, and then scores 0.
        references: one or more captions an item.

    Raises:
        DataError: there is no item, the lengths differ, or an item has no reference.
    """

    hypotheses: tuple[Tokens, ...]
    references: tuple[tuple[Tokens, ...], ...]

    def __post_init__(self) -> None:
        if not self.hypotheses:
            raise DataError("There is no caption to score; give at least one hypothesis with its references.")
        if len(self.hypotheses) != len(self.references):
            raise DataError(
                f"There are {len(self.hypotheses)} hypotheses but references for {len(self.references)} items; "
                "give one list of references for each hypothesis, in the same order."
            )
        for index, references in enumerate(self.references):
            if not references:
                raise DataError(f"Item {index} has no reference caption; give it at least one or leave the item out.")

    @classmethod
    def from_text(cls, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> TokenizedCaptions:
        """Tokenise captions.

        Args:
            hypotheses: one caption an item.
            references: a list of captions an item.

        Raises:
            DataError: as the class does, and where an item's references are one string instead of a list of strings.
        """
        for index, captions in enumerate(references):
            if isinstance(captions, str):
                raise DataError(f"The references of item {index} are one string; give a list of captions, even of one.")
        tokenize = cache(tokenize_caption)  # benchmarks repeat their captions: RSICD 2.1 times
        return cls(tuple(map(tokenize, hypotheses)), tuple(tuple(map(tokenize, captions)) for captions in references))


def score_captions(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, CaptionScore]:
    """Score captions against human ones, by coco-caption's protocol.

    CIDEr-D weighs words by how rare they are in the references given, so that its values depend on the whole set: never
    compare values of different sets, and expect 0 from a set of one item.

    Args:
        hypotheses: one caption an item.
        references: a list of human captions an item, in the same order.

    Returns:
        ``bleu_1`` to ``bleu_4`` and ``rouge_l`` in [0, 1], ``cider_d`` in [0, 10], none of them times 100.

    Raises:
        DataError: there is no item, the lengths differ, or an item has no reference.
    """
    return score_tokens(TokenizedCaptions.from_text(hypotheses, references))


def score_tokens(captions: TokenizedCaptions) -> dict[str, CaptionScore]:
    """Score captions that are split into tokens already; otherwise as ``score_captions``."""
    statistics = bleu_statistics(captions)
    corpus = bleu_from_statistics(statistics.sum(axis=0))
    items = bleu_from_statistics(statistics)
    scores = {f"bleu_{n + 1}": CaptionScore(float(corpus[n]), items[:, n].copy()) for n in range(ORDERS)}
    for name, values in (("rouge_l", rouge_l(captions)), ("cider_d", cider_d(captions))):
        scores[name] = CaptionScore(float(values.mean()), values)
    return scores


def bleu_statistics(captions: TokenizedCaptions) -> Int[np.ndarray, "count 10"]:
    """Count, for each caption, all that BLEU needs, so that a resampled corpus is scored by adding rows.

    Returns:
        A row an item: n-grams that match (clipped by the reference that has most), for n = 1 to 4; n-grams of the
        hypothesis, for n = 1 to 4; tokens of the hypothesis; tokens of the reference closest in length (the shorter
        of two equally close).
    """
    rows = [_bleu_row(*item) for item in zip(captions.hypotheses, captions.references, strict=True)]
    return np.array(rows, dtype=np.int64)


def bleu_from_statistics(totals: Num[np.ndarray, "*batch 10"]) -> Float[np.ndarray, "*batch 4"]:
    """Compute BLEU-1 to BLEU-4 (Papineni et al. 2002) from counts.

    Args:
        totals: rows of ``bleu_statistics``: each alone gives the items' values, their sum that of the corpus.

    Returns:
        BLEU-1, BLEU-2, BLEU-3, BLEU-4, in [0, 1].
    """
    # The two constants are coco-caption's: they keep a missing order from making the product 0, and show in digit ten.
    tiny, small = 1e-15, 1e-9
    matches, guesses = totals[..., :ORDERS], totals[..., ORDERS : 2 * ORDERS]
    precisions = np.cumprod((matches + tiny) / (guesses + small), axis=-1)
    means = precisions ** (1.0 / np.arange(1, ORDERS + 1))
    ratio = (totals[..., 8:9] + tiny) / (totals[..., 9:10] + small)
    scores: Float[np.ndarray, "*batch 4"] = means * np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return scores


def rouge_l(captions: TokenizedCaptions) -> Float[np.ndarray, " count"]:
    """Compute ROUGE-L (Lin 2004) of each caption as coco-caption does.

    The best precision and the best recall are taken separately, and so may come from two references. An empty caption
    scores 0.

    Returns:
        Values in [0, 1].
    """
    items = zip(captions.hypotheses, captions.references, strict=True)
    return np.array([_rouge_item(*item) for item in items], dtype=np.float64)


def cider_d(captions: TokenizedCaptions) -> Float[np.ndarray, " count"]:
    """Compute CIDEr-D (Vedantam et al. 2015, equation 5) of each caption as coco-caption does.

    Inverse document frequencies come from the references given, an item being a document.

    Returns:
        Values in [0, 10].
    """
    metric = CiderD(captions.references)
    items = zip(captions.hypotheses, captions.references, strict=True)
    return np.array([metric.score(hypothesis, references) for hypothesis, references in items], dtype=np.float64)


@final
class CiderD:
    """CIDEr-D of single captions, with the inverse document frequencies of a set of references, an item being a document.

    Args:
        documents: the references of each item.
    """

    def __init__(self, documents: Sequence[Sequence[Tokens]]) -> None:
        frequencies: Counter[Tokens] = Counter()
        for references in documents:
            frequencies.update({gram for reference in references for gram in _count_ngrams(reference)})
        log_count = math.log(len(documents))
        rarity = {gram: log_count - math.log(frequency) for gram, frequency in frequencies.items()}
        self._weigh = lru_cache(maxsize=100_000)(partial(_weigh_ngrams, rarity=rarity, unseen=log_count))

    def score(self, hypothesis: Tokens, references: Sequence[Tokens]) -> float:
        """Score one caption against the references of its item, in [0, 10]."""
        own = self._weigh(hypothesis)
        return 10.0 * sum(_cider_pair(own, self._weigh(reference)) for reference in references) / len(references)


def _count_ngrams(tokens: Tokens) -> Counter[Tokens]:
    return Counter(tokens[start : start + n] for n in range(1, ORDERS + 1) for start in range(len(tokens) - n + 1))


def _bleu_row(hypothesis: Tokens, references: tuple[Tokens, ...]) -> list[int]:
    most: Counter[Tokens] = Counter()
    for reference in set(references):
        most |= _count_ngrams(reference)
    matches = [0] * ORDERS
    for gram, count in _count_ngrams(hypothesis).items():
        matches[len(gram) - 1] += min(count, most[gram])
    length = len(hypothesis)
    guesses = [max(0, length - n) for n in range(ORDERS)]
    closest = min((len(reference) for reference in references), key=lambda other: (abs(other - length), other))
    return [*matches, *guesses, length, closest]


def _longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if token == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def _rouge_item(hypothesis: Tokens, references: tuple[Tokens, ...]) -> float:
    common = {reference: _longest_common_subsequence(hypothesis, reference) for reference in set(references)}
    if not any(common.values()):
        return 0.0
    precision = max(common.values()) / len(hypothesis)
    recall = max(length / len(reference) for reference, length in common.items() if reference)
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A caption as CIDEr sees it: tf-idf weights by order, the norm of each order, and its length."""

    weights: tuple[dict[Tokens, float], ...]
    norms: tuple[float, ...]
    length: int


def _weigh_ngrams(tokens: Tokens, rarity: dict[Tokens, float], unseen: float) -> _Weighed:
    weights: tuple[dict[Tokens, float], ...] = tuple({} for _ in range(ORDERS))
    for gram, count in _count_ngrams(tokens).items():
        weights[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
    norms = tuple(math.sqrt(sum(weight**2 for weight in order.values())) for order in weights)
    return _Weighed(weights, norms, length=max(0, len(tokens) - 1))  # coco-caption counts the bigrams as the length


def _cider_pair(hypothesis: _Weighed, reference: _Weighed) -> float:
    total = 0.0
    for n in range(ORDERS):
        norm = hypothesis.norms[n] * reference.norms[n]
        if norm > 0:
            theirs = reference.weights[n]
            clipped = (
                min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in hypothesis.weights[n].items()
            )
            total += sum(clipped) / norm
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2 * CIDER_SIGMA**2))
    return total * penalty / ORDERS
