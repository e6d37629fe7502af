"""The scores of sets of generated images beside real ones: one place that every metric goes through, with what each cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from jaxtyping import Float

from skygen.data.benchmarks import SCENE_TEMPLATES
from skygen.data.pair import to_words
from skygen.evaluation.alignment import matched_cosine, shuffled_cosine
from skygen.evaluation.images.cmmd import cmmd_scores
from skygen.evaluation.images.diversity import diversity_scores, prompt_diversity_scores
from skygen.evaluation.images.fidelity import fidelity_scores
from skygen.evaluation.images.judgement import accuracy_items
from skygen.evaluation.images.legacy import dot_products, inception_score
from skygen.evaluation.images.neighbourhoods import neighbourhood_scores
from skygen.evaluation.images.picture_sets import PictureSet
from skygen.evaluation.images.prompt_retrieval import prompt_retrieval_scores
from skygen.evaluation.images.protocols import Protocol
from skygen.evaluation.images.turning import turned_scores
from skygen.evaluation.intervals import paired_difference_interval
from skygen.evaluation.items import ItemScores
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.evaluation.zero_shot import classifier_weights, classify
from skygen.models.judge import Judge
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds, published_permutation

_LOG = logging.getLogger("skygen")
Features = Mapping[str, Float[np.ndarray, "_count _dimension"]]
"""Of each set, by its model."""


@final
class ImageScores:
    """Scores as they come in.

    Args:
        protocol: which metrics are computed.
        generated: the sets; the first is what the evaluation is of, and the shuffled prompts are its.
        real: the real images.
        subset: which of the data they are.
        seeds: the run's seeds.
        resamples: halves that distances between sets are computed of, for their intervals.

    ``models`` are those whose pictures are of the first set's prompts, one by one: single pictures of these can be compared.
    ``judged`` is what a judge saw in each picture, by model; ``seconds`` what each metric cost beside the features.
    """

    def __init__(
        self,
        protocol: Protocol,
        generated: Sequence[PictureSet],
        real: PictureSet,
        *,
        subset: str,
        seeds: Seeds,
        resamples: int = 200,
    ) -> None:
        self.scores: list[Score] = []
        self.seconds: dict[str, float] = {}
        self.items = ItemScores(generated[0].names())
        self.judged: dict[str, Sequence[str]] = {}
        self._protocol, self._generated, self._real = protocol, generated, real
        self._subset, self._seeds, self._resamples = subset, seeds, resamples
        self.models = [one.model for one in generated if one.identify() == generated[0].identify()]
        for one in generated:
            if one.model not in self.models:
                _LOG.warning(f"{one.model}: other prompts than {generated[0].model}, so nothing is compared one by one")

    def add_distances(self, extractor: str, features: Features, *, is_clip: bool) -> None:
        """Measure how far each generated set is from the real one, and how varied it is.

        Args:
            extractor: ``Extractor.name``.
            features: of the generated sets and the real one.
            is_clip: the features are of a CLIP, as CMMD wants them.
        """
        for pictures in self._generated:
            self._add_distances(pictures, features[self._real.model], features[pictures.model], extractor, is_clip)

    def add_alignment(self, scorer: Scorer, images: Features, texts: Features, only: Sequence[str] = ()) -> None:
        """Measure how near the pictures are to their prompts in the eyes of a CLIP.

        Args:
            scorer: the CLIP.
            images: embeddings of every set.
            texts: of its prompts, or of the real images' captions.
            only: metrics that are wanted of it; empty for all.
        """
        for pictures in (*self._generated, self._real):
            self._add_alignment(pictures, scorer, images[pictures.model], texts[pictures.model], only)

    def add_class_scores(self, logits: Features, extractor: str) -> None:
        """Measure the inception score of the generated sets, which knows no real image.

        Args:
            logits: of each class, by the network that the protocol names.
            extractor: its name.
        """
        for pictures in self._generated:
            if "inception_score" in self._protocol.metrics:
                about: dict[str, Any] = {"model": pictures.model, "subset": self._subset, "extractor": extractor}
                self.scores.append(inception_score(logits[pictures.model], **about))

    def add_judgements(self, judge: Judge, seen: Mapping[str, Sequence[str]]) -> None:
        """Measure how often a classifier sees what was meant.

        Args:
            judge: the classifier.
            seen: the class it saw in each image, in words, by model.
        """
        extractor, self.judged = f"judge:{judge.name}", dict(seen)
        for pictures in (*self._generated, self._real):
            items = accuracy_items(judge, seen[pictures.model], pictures.classes, model=pictures.model)
            self._note(pictures, "judge_accuracy", items, extractor)
            if len(known := items[np.isfinite(items)]):
                self.scores.append(mean_score("judge_accuracy", known, **self._describe(pictures, extractor)))

    def add_cycle(self, pictures: PictureSet, cosines: Float[np.ndarray, " count"], extractor: str) -> None:
        """Note how near captions of the pictures come to their prompts.

        Args:
            pictures: of one set.
            cosines: ``skygen.evaluation.screening.cycle.cycle_scores``.
            extractor: whose text network compared.
        """
        values = cosines.astype(np.float64)
        self._note(pictures, "cycle_score", values, extractor)
        self.scores.append(mean_score("cycle_score", values, **self._describe(pictures, extractor)))

    def _add_distances(
        self,
        pictures: PictureSet,
        real: Float[np.ndarray, "real dimension"],
        own: Float[np.ndarray, "count dimension"],
        extractor: str,
        is_clip: bool,
    ) -> None:
        about = self._describe(pictures, extractor)
        sampled = {**about, "resamples": self._resamples}
        varied = 2 if pictures is self._generated[0] else 1  # the variety of the real images once
        measures: dict[str, Callable[[], Sequence[Score]]] = {
            "fid": lambda: fidelity_scores(real, own, metrics=("fid",), **sampled),
            "kid": lambda: fidelity_scores(real, own, metrics=("kid",), **sampled),
            "cmmd": lambda: cmmd_scores(real, own, **sampled) if is_clip else (),
            "precision_recall": lambda: neighbourhood_scores(real, own, **sampled),
            "vendi_score": lambda: diversity_scores(real, own, **sampled)[:varied],
            "prompt_diversity": lambda: prompt_diversity_scores(own, pictures.texts, **about),
        }
        for metric, measure in measures.items():
            self._measure(metric, extractor, measure)

    def _add_alignment(
        self,
        pictures: PictureSet,
        scorer: Scorer,
        seen: Float[np.ndarray, "count dimension"],
        said: Float[np.ndarray, "count dimension"],
        only: Sequence[str],
    ) -> None:
        extractor = f"skyclip:{scorer.name}"
        about = self._describe(pictures, extractor)
        turned = {name: value for name, value in about.items() if name != "extractor"}
        measures: dict[str, Callable[[], Sequence[Score]]] = {
            "skyclip_score": lambda: self._cosines(pictures, seen, said, extractor),
            "clip_dot": lambda: [mean_score("clip_dot", dot_products(scorer, pictures.paths, pictures.texts), **about)],
            "prompt_retrieval": lambda: self._retrieve(pictures, seen, said, extractor),
            "zero_shot": lambda: self._zero_shot(scorer, pictures, seen),
            "turned": lambda: turned_scores(scorer, pictures.paths, pictures.texts, upright=seen, **turned),
        }
        for metric, measure in measures.items():
            if metric in only or not only:
                self._measure(metric, extractor, measure)

    def _cosines(
        self,
        pictures: PictureSet,
        images: Float[np.ndarray, "count dimension"],
        texts: Float[np.ndarray, "count dimension"],
        extractor: str,
    ) -> list[Score]:
        """Score the pictures with their own prompts, with each other's, and by how much their own are nearer."""
        own = matched_cosine(images, texts)
        self._note(pictures, "skyclip_score", own, extractor)
        about: dict[str, Any] = {"subset": self._subset, "extractor": extractor}
        scores = [mean_score("skyclip_score", own, **self._describe(pictures, extractor))]
        if len(set(pictures.texts)) < 2 or pictures is self._real:
            return scores
        if self._protocol.shuffle_seed is None:
            other = shuffled_cosine(images, texts, pictures.texts, self._seeds)
        else:
            other = matched_cosine(images, texts[published_permutation(self._protocol.shuffle_seed, len(texts))])
        interval = paired_difference_interval(own, other, seeds=self._seeds) if len(own) >= SMALLEST_FOR_INTERVAL else None
        above, name = float((own - other).mean()), "skyclip_score_above_shuffled"
        scores.append(Score(name, above, len(own), interval, model=pictures.model, **about))
        if pictures is self._generated[0]:
            scores.insert(1, mean_score("skyclip_score", other, model="shuffled", seeds=self._seeds, **about))
        return scores

    def _retrieve(
        self,
        pictures: PictureSet,
        images: Float[np.ndarray, "count dimension"],
        texts: Float[np.ndarray, "count dimension"],
        extractor: str,
    ) -> list[Score]:
        """Find each picture's prompt among those of its set; what a random ranking gives, once."""
        found = prompt_retrieval_scores(images, texts, pictures.texts, **self._describe(pictures, extractor))
        return [score for score in found if score.model != "random" or pictures is self._generated[0]]

    def _zero_shot(self, scorer: Scorer, pictures: PictureSet, images: Float[np.ndarray, "count dimension"]) -> list[Score]:
        """Classify among the classes that the generated pictures are meant to show; nothing where these are not two."""
        names = sorted({to_words(name) for one in self._generated for name in one.classes if name})
        meant = np.array([names.index(to_words(name)) if to_words(name) in names else -1 for name in pictures.classes])
        if len(names) < 2 or not (meant >= 0).any():
            return []
        ranking = classify(images, classifier_weights(scorer, names, SCENE_TEMPLATES))[:, 0]
        right = np.where(meant >= 0, ranking == meant, np.nan).astype(np.float64)
        extractor = f"skyclip:{scorer.name}"
        self._note(pictures, "zero_shot_top_1", right, extractor)
        known, about = right[meant >= 0], {"subset": self._subset, "extractor": extractor}
        found = [mean_score("zero_shot_top_1", known, model=pictures.model, seeds=self._seeds, **about)]
        if pictures is self._generated[0]:
            found.append(Score("zero_shot_top_1", 1 / len(names), len(known), None, model="random", **about))
        return found

    def _describe(self, pictures: PictureSet, extractor: str) -> dict[str, Any]:
        return {"model": pictures.model, "subset": self._subset, "extractor": extractor, "seeds": self._seeds}

    def _note(self, pictures: PictureSet, metric: str, values: Float[np.ndarray, " count"], extractor: str) -> None:
        """Keep single values of sets that are of the same prompts."""
        if pictures.model in self.models:
            rows = np.flatnonzero(np.isfinite(values))
            self.items.add(pictures.model, metric, rows.tolist(), values[rows].astype(np.float64), extractor)

    def _measure(self, metric: str, extractor: str, measure: Callable[[], Sequence[Score]]) -> None:
        """Compute what the protocol asks for, and note how long it took."""
        if metric not in self._protocol.metrics:
            return
        start, name = time.monotonic(), f"{metric}, {extractor}"
        self.scores += measure()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
