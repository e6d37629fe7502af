"""Rewards are the scores that evaluation reports, caption by caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skygen.data.batch import Batch
from skygen.data.images import tensor_to_image
from skygen.errors import ConfigError
from skygen.evaluation.captions.coco_caption import score_captions
from skygen.evaluation.captions.rewards import CiderReward, MarginReward
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

REFERENCES = (("a beach near the sea", "sand and water"), ("a river with a bridge", "a bridge"), ("a forest",))
DRAWN = (("a beach", "a beach near the sea"), ("a bridge", "two cars"), ("", "a forest"))


def batch(features: torch.Tensor | None = None) -> Batch:
    pixels = torch.rand((3, 3, 64, 64), generator=Seeds(0).generator("pixels")) * 2 - 1
    keys = ("first", "second", "third")
    return Batch(pixels, ("a", "b", "c"), keys, features, REFERENCES)


def test_the_cider_reward_is_cider_d_over_the_documents_that_it_was_given() -> None:
    rewards = CiderReward(REFERENCES)(batch(), DRAWN)
    assert rewards.shape == (3, 2)
    for sample in range(2):
        expected = score_captions([row[sample] for row in DRAWN], REFERENCES)["cider_d"].items
        assert np.allclose(rewards[:, sample].numpy(), expected, atol=1e-5)
    assert float(rewards.max()) > 1


def test_the_margin_is_own_similarity_less_that_to_the_other_images(skyclip_folder: Path) -> None:
    scorer = Scorer.load(str(skyclip_folder))
    rewards = MarginReward(scorer)(batch(), DRAWN)
    images = scorer.embed_images([tensor_to_image(pixels) for pixels in batch().pixels])
    for row in range(3):
        for sample in range(2):
            similarity = images @ scorer.embed_texts([DRAWN[row][sample]])[0]
            others = (similarity.sum() - similarity[row]) / 2
            assert float(rewards[row, sample]) == pytest.approx(float(similarity[row] - others), abs=1e-5)


def test_a_caption_that_suits_every_image_gains_nothing(skyclip_folder: Path) -> None:
    rewards = MarginReward(Scorer.load(str(skyclip_folder)))(batch(), (("an image",),) * 3)
    assert float(rewards.sum()) == pytest.approx(0, abs=1e-5)


def test_kept_features_cannot_be_looked_at(skyclip_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave --features\.root out\.$"):
        MarginReward(Scorer.load(str(skyclip_folder)))(batch(torch.zeros(3, 2)), DRAWN)
