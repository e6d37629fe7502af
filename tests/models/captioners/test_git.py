"""The family GIT: it computes what transformers computes from pixels, though tower, bridge and decoder are run apart."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from models.captioners.build_git import RESOLUTION
from models.captioners.small_networks import pictures

from skygen.errors import ConfigError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED
from skygen.models.captioners.git import Git


@pytest.fixture(params=["git"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_caption_and_its_end_are_the_targets(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(["a beach", "a river near trees"], 64)
    spelled = captioner.processor.tokenizer.convert_ids_to_tokens
    assert spelled(tokens.input_ids[0].tolist()) == ["[CLS]", "a", "beach", "[PAD]", "[PAD]"]
    assert spelled(tokens.targets[0, :3].tolist()) == ["a", "beach", "[SEP]"]
    assert tokens.targets[0, 3:].tolist() == [IGNORED, IGNORED]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert spelled(tokens.targets[1].tolist()) == ["a", "river", "near", "trees", "[SEP]"]


def test_a_prompt_is_read_and_not_learnt(folder: Path) -> None:
    captioner = Captioner.load(str(folder), prompt=" a photo of ")
    assert captioner.family.prompt == "a photo of"
    tokens = captioner.family.tokenize(["a beach"], 64)
    spelled = captioner.processor.tokenizer.convert_ids_to_tokens
    assert spelled(tokens.input_ids[0].tolist()) == ["[CLS]", "a", "photo", "of", "a", "beach"]
    assert tokens.targets[0, :3].tolist() == [IGNORED] * 3
    assert spelled(tokens.targets[0, 3:].tolist()) == ["a", "beach", "[SEP]"]


def test_each_of_three_images_has_its_own_caption(own: Captioner) -> None:
    for side in (RESOLUTION, 48):
        own.family.use_resolution(side)
        assert len(set(own.caption(pictures(side), CaptioningSettings(max_new_tokens=9)))) == 3


def test_other_squares_are_of_whole_patches(own: Captioner) -> None:
    with pytest.raises(ConfigError, match=r"^--images.resolution 36: this GIT sees patches of 8; give a multiple of that\.$"):
        own.family.use_resolution(36)
    assert own.resolution == RESOLUTION
    own.family.use_resolution(48)
    assert own.resolution == 48


def test_a_model_for_videos_is_refused(captioner: Captioner) -> None:
    network = copy.copy(captioner.network)
    network.config = copy.deepcopy(network.config)
    network.config.num_image_with_embedding = 6
    with pytest.raises(
        ConfigError, match=r"^--model.name: this GIT reads videos of 6 frames; give one that is trained on single"
    ):
        Git(network, captioner.processor)
