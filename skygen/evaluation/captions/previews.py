"""Captions of a few images, written again and again while a captioner is trained, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from skygen.data.captions import strip_view_prefix
from skygen.data.images import open_readable
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.evaluation.captions.coco_caption import score_captions
from skygen.models.captioner import Captioner
from skygen.models.scorer import Scorer
from skygen.runs import Run


@final
@dataclass(frozen=True, slots=True)
class CaptionPreview:
    """The images that a training run captions to show how it goes.

    Args:
        pairs: a few, with their captions.
        judge: a CLIP that scores the captions; one that the training does not look at says whether a reward is only pleased.
    """

    pairs: Sequence[Pair]
    judge: Scorer | None = None

    def write(self, captioner: Captioner, run: Run, step: int) -> None:
        """Caption the images as the model stands.

        ``previews/captions.jsonl`` gets a line an image, caption and reference side by side; ``previews/scores.jsonl`` one with
        CIDEr-D within these images (compare it along one run only), the share of distinct captions, and the mean similarity
        in the judge's eyes, with that to each other's images beside it.
        """
        read = open_readable([(pair.key, pair.image) for pair in self.pairs], Rejects(None))
        if not read:
            return
        images = [image for _, image in read]
        shown = [self.pairs[index] for index, _ in read]
        references = [[strip_view_prefix(caption) for caption in pair.captions] for pair in shown]
        captions = captioner.caption(images)
        for pair, caption, known in zip(shown, captions, references, strict=True):
            run.append("previews/captions.jsonl", {"step": step, "key": pair.key, "caption": caption, "reference": known[0]})
        scores = {
            "step": step,
            "images": len(images),
            "cider_d": score_captions(captions, references)["cider_d"].corpus,
            "distinct": len(set(captions)) / len(captions),
        }
        if self.judge is not None:
            similarity = self.judge.embed_images(images) @ self.judge.embed_texts(captions).T
            scores["judge_similarity"] = float(np.diag(similarity).mean())
            scores["judge_similarity_shuffled"] = _off_diagonal(similarity)
        run.append("previews/scores.jsonl", scores)


def _off_diagonal(similarity: np.ndarray) -> float:
    count = len(similarity)
    return float((similarity.sum() - np.trace(similarity)) / max(1, count * (count - 1)))
