"""torchmetrics' CLIPScore on our scorers gives the cosines that the scorer itself gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.multimodal import clip_score as functional_clip_score
from torchmetrics.multimodal import CLIPScore

from skygen.errors import DataError
from skygen.evaluation.alignment import CLIP_SCORE_WEIGHT, clip_score
from skygen.evaluation.torchmetrics_adapter import clip_score_pair
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

TEXTS = ["a lake", "a satellite image of a tennis court", "", "two roads that cross " * 60, "Ein Gebäude", "sea"]
TOLERANCE = 1e-4
"""On a scale to 100."""


@pytest.fixture(scope="module", params=["miniature", "random weights"])
def scorer(request: pytest.FixtureRequest, skyclip_folder: Path) -> Scorer:
    return Scorer.load("miniature" if request.param == "miniature" else str(skyclip_folder))


def tensors(count: int, *, height: int = 50, width: int = 70) -> list[torch.Tensor]:
    """Noise, each image around another brightness: alike enough to the scorer for cosines of either sign."""
    draw = Seeds(5).numpy("images")
    means = draw.integers(40, 215, size=(count, 3, 1, 1))
    return [torch.from_numpy(np.uint8(mean + draw.integers(-40, 40, size=(3, height, width)))) for mean in means]


def pictures(images: list[torch.Tensor]) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def metric_of(scorer: Scorer) -> Any:
    return CLIPScore(model_name_or_path=clip_score_pair(scorer))


def test_each_image_and_text_scores_a_hundred_times_its_cosine(scorer: Scorer) -> None:
    images = tensors(6)
    cosines = scorer.similarity(pictures(images), TEXTS)
    found = []
    for image, text in zip(images, TEXTS, strict=True):
        found.append(functional_clip_score(image, text, model_name_or_path=clip_score_pair(scorer)).item())
    assert found == pytest.approx(100 * np.maximum(cosines, 0.0), abs=TOLERANCE)
    assert np.ptp(cosines) > 0.01
    own = clip_score(scorer.embed_images(pictures(images)), scorer.embed_texts(TEXTS))
    assert found == pytest.approx(100 * own / CLIP_SCORE_WEIGHT, abs=TOLERANCE)


def test_several_batches_score_as_one_and_a_reset_forgets_them(scorer: Scorer) -> None:
    images = tensors(6)
    cosines = scorer.similarity(pictures(images), TEXTS)
    metric = metric_of(scorer)
    metric.update(images[:1], TEXTS[:1])
    metric.update(torch.stack(images[1:4]), TEXTS[1:4])
    metric.update([image.to(torch.int64) for image in images[4:]], TEXTS[4:])
    assert metric.compute().item() == pytest.approx(100 * max(0.0, cosines.mean()), abs=TOLERANCE)
    metric.reset()
    metric.update(images[5], TEXTS[5])
    assert metric.compute().item() == pytest.approx(100 * max(0.0, cosines[5]), abs=TOLERANCE)


def test_images_of_several_sizes_and_grey_ones_share_a_batch(scorer: Scorer) -> None:
    images = [tensors(1)[0], tensors(1, height=33, width=128)[0], tensors(1)[0][:1]]
    grey = images[2].expand(3, -1, -1)
    cosines = scorer.similarity(pictures([*images[:2], grey]), TEXTS[:3])
    metric = metric_of(scorer)
    metric.update(images, TEXTS[:3])
    assert metric.compute().item() == pytest.approx(100 * max(0.0, cosines.mean()), abs=TOLERANCE)


def test_images_are_compared_with_images_and_texts_with_texts(scorer: Scorer) -> None:
    images = tensors(4)
    embedded, texts = scorer.embed_images(pictures(images)), scorer.embed_texts(TEXTS[:4])
    between = metric_of(scorer)
    between.update(images[:2], images[2:])
    assert between.compute().item() == pytest.approx(100 * (embedded[:2] * embedded[2:]).sum() / 2, abs=TOLERANCE)
    words = metric_of(scorer)
    words.update(TEXTS[:2], TEXTS[2:4])
    expected = 100 * max(0.0, (texts[:2] * texts[2:]).sum() / 2)
    assert words.compute().item() == pytest.approx(expected, abs=TOLERANCE)
    words.update(TEXTS[:2], TEXTS[:2])
    assert words.compute().item() == pytest.approx((100 * (texts[:2] * texts[2:]).sum() + 200) / 4, abs=TOLERANCE)


def test_a_text_beyond_the_context_is_cut_without_a_word(scorer: Scorer) -> None:
    processor = clip_score_pair(scorer)()[1]
    processed = processor(text=TEXTS, return_tensors="pt", padding=True)
    assert processed["input_ids"].shape == processed["attention_mask"].shape == (6, scorer.model.context_length)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (
            torch.linspace(0.25, 0.75, 1200).reshape(3, 20, 20),
            r"^Image 0 has float32 numbers from 0\.25 to 0\.75; give whole numbers from 0 to 255, such as",
        ),
        (
            torch.full((3, 20, 20), 256),
            r"^Image 0 has int64 numbers from 256 to 256; give whole numbers from 0 to 255, such as",
        ),
        (torch.zeros((4, 20, 20), dtype=torch.uint8), r"^Image 0 has the shape \(4, 20, 20\); give \(3, height, width\), or"),
    ],
    ids=["fractions", "too bright", "four channels"],
)
def test_numbers_of_an_unclear_range_are_refused(image: torch.Tensor, sentence: str) -> None:
    metric = metric_of(Scorer.load("miniature"))
    with pytest.raises(DataError, match=sentence):
        metric.update(image, "a lake")
