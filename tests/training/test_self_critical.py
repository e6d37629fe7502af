"""Self-critical training: the gradient of a score, and a captioner that learns to please one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner
from skygen.seeding import Seeds
from skygen.training.self_critical import RewardSettings, SelfCriticalLearner, relative_to_the_others


def batch(count: int = 2) -> Batch:
    pixels = torch.rand((count, 3, 64, 64), generator=Seeds(0).generator("pixels")) * 2 - 1
    captions = ("a beach near the sea", "a river")[:count]
    return Batch(pixels, captions, captions, None, tuple((caption,) for caption in captions))


def learner(folder: Path, reward: object, **settings: object) -> SelfCriticalLearner:
    captioner = Captioner.load(str(folder))
    captioner.attach(LoraSettings(rank=8, targets="all"), Seeds(0))
    return SelfCriticalLearner(captioner, reward, RewardSettings(name="cider_d", max_new_tokens=4, **settings))  # type: ignore[arg-type]


def test_an_advantage_is_measured_against_the_other_samples() -> None:
    advantages = relative_to_the_others(torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    assert advantages.tolist() == [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]


def test_the_loss_is_the_advantage_times_how_unlikely_each_caption_is(captioner_folder: Path) -> None:
    drawn: list[Sequence[Sequence[str]]] = []

    def reward(seen: Batch, captions: Sequence[Sequence[str]]) -> Tensor:
        drawn.append(captions)
        return torch.tensor([[1.0, 0.0, 5.0], [2.0, 2.0, 0.5]])

    trained = learner(captioner_folder, reward, samples=3)
    Seeds(0).reset_global("draw")
    losses = trained.loss(batch(), Seeds(0).generator("unused"))
    (captions,) = drawn
    assert [len(row) for row in captions] == [3, 3]
    assert len({caption for row in captions for caption in row}) > 2  # drawn, not searched
    features = trained.captioner.features(batch())
    for row in range(2):
        unlikely, _ = trained.captioner.token_losses(features[row : row + 1].expand(3, -1, -1), captions[row])
        advantage = torch.tensor([[-1.5, -3.0, 4.5], [0.75, 0.75, -1.5]][row])
        assert float(losses[row].detach()) == pytest.approx(float((advantage * unlikely).mean().detach()), rel=1e-4)


def test_equal_scores_teach_nothing(captioner_folder: Path) -> None:
    trained = learner(captioner_folder, lambda seen, captions: torch.ones(2, 5))
    trained.loss(batch(), Seeds(0).generator("unused")).sum().backward()
    gradients = [p.grad for p in trained.network.parameters() if p.grad is not None]
    assert gradients
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients)


def test_the_rest_of_the_weight_is_the_ordinary_loss(captioner_folder: Path) -> None:
    trained = learner(captioner_folder, lambda seen, captions: torch.ones(2, 5), weight=0.25)
    ordinary = trained.captioner.loss(batch(), Seeds(0).generator("unused"))
    assert torch.allclose(trained.loss(batch(), Seeds(0).generator("unused")), 0.75 * ordinary, atol=1e-5)


def test_a_captioner_learns_to_say_what_pleases(captioner_folder: Path) -> None:
    """The reward is the share of words from the first half of the alphabet, about half of what random weights say."""

    def pleasing(caption: str) -> float:
        words = caption.split()
        return sum(word[0] < "m" for word in words) / max(1, len(words))

    trained = learner(
        captioner_folder,
        lambda seen, captions: torch.tensor([[pleasing(caption) for caption in row] for row in captions]),
        samples=8,
    )
    optimizer = torch.optim.AdamW([p for p in trained.network.parameters() if p.requires_grad], lr=2e-2)

    def mean_pleasure() -> float:
        Seeds(0).reset_global("drawn")
        captions = trained._draw(trained.captioner.features(batch()).repeat_interleave(4, dim=0))
        return sum(map(pleasing, captions)) / len(captions)

    before = mean_pleasure()
    for step in range(30):
        Seeds(0).reset_global("draw", step)
        optimizer.zero_grad()
        trained.loss(batch(), Seeds(0).generator("unused")).mean().backward()
        optimizer.step()
    assert before < 0.7
    assert mean_pleasure() > before + 0.15


@pytest.mark.parametrize(("name", "value"), [("samples", 1), ("weight", 0.0), ("weight", 1.5)])
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"reward\.{name} is {value}; it must be"):
        RewardSettings(**{name: value})  # type: ignore[arg-type]
