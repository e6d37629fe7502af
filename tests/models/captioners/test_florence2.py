"""Florence-2 as a captioner: cut in three it computes what the network does, its encoder reads image and prompt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from models.captioners.own_inputs import own_inputs
from models.captioners.small_networks import UNEQUAL, losses, pictures, pixels

from skygen.errors import ConfigError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED
from skygen.models.captioners.florence2 import PROMPT

SIDE = 64


@pytest.fixture(params=["florence2"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("side", [32, 64, 80])
def test_tower_and_bridge_give_the_networks_own_places(own: Captioner, side: int) -> None:
    own.family.use_resolution(side)
    with torch.no_grad():
        expected = own.network.get_image_features(own.family._pixels.normalise(pixels(side, 2))).pooler_output
        features = own.family.encode(pixels(side, 2))
        found = own.family.project(features)
    assert features.shape == (2, (side // 8) ** 2, 32)
    assert found.shape == (2, (side // 8) ** 2 + 1, 32)
    assert torch.equal(found, expected)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_the_encoder_reads_what_the_processor_writes(captioner: Captioner) -> None:
    inputs = own_inputs(captioner)
    assert captioner.family._prompt_tokens(65) == inputs["input_ids"][0].tolist()
    assert inputs["attention_mask"].all()
    assert inputs["input_ids"][0].tolist().count(captioner.network.config.image_token_id) == 65
    words = captioner.processor.tokenizer.decode(inputs["input_ids"][0, 65:])
    assert words == "<s>What does the image describe?</s>"


def test_only_the_caption_and_its_end_are_targets(captioner: Captioner) -> None:
    """The start tokens of ``generate`` are given: its first is </s>, and it is made to write <s>."""
    tokens = captioner.family.tokenize(("a beach near the sea", "a beach"), 64)
    number = captioner.processor.tokenizer.convert_tokens_to_ids
    words = number(["a", "Ġbeach", "Ġnear", "Ġthe", "Ġsea"])
    start, begin, end, padding = number(["</s>", "<s>", "</s>", "<pad>"])
    assert tokens.input_ids.tolist() == [[start, begin, *words], [start, begin, *words[:2], *[padding] * 3]]
    assert tokens.targets.tolist() == [[IGNORED, *words, end], [IGNORED, *words[:2], end, *[IGNORED] * 3]]
    assert tokens.attention_mask.tolist() == [[1] * 7, [1] * 4 + [0] * 3]
    with torch.inference_mode():
        written = captioner.network.generate(**own_inputs(captioner), max_new_tokens=4)
    assert written[:, :2].tolist() == [[start, begin]] * 3
    assert end == captioner.network.config.text_config.eos_token_id == captioner.processor.tokenizer.eos_token_id


def test_the_start_that_training_gives_is_given_in_writing_too(own: Captioner) -> None:
    """Where a model's own settings leave <s> to the model, ``generate`` is made to write it all the same."""
    settings = CaptioningSettings(max_new_tokens=6)
    written = own.caption(pictures(SIDE), settings)
    own.network.generation_config.forced_bos_token_id = None
    with torch.inference_mode():
        free = own.network.generate(**own_inputs(own), max_new_tokens=2)
    assert (free[:, 1] != own.processor.tokenizer.bos_token_id).any()
    assert own.caption(pictures(SIDE), settings) == written


def test_the_prompt_may_be_another_task_or_sentence_or_none(folder: Path) -> None:
    prompts = (None, "<DETAILED_CAPTION>", "a road", "")
    asked = {prompt: Captioner.load(str(folder), prompt=prompt) for prompt in prompts}
    assert [captioner.family.prompt for captioner in asked.values()] == [PROMPT, *prompts[1:]]
    assert len({float(losses(captioner, UNEQUAL).mean()) for captioner in asked.values()}) == 4
    texts = [captioner.processor.tokenizer.decode(captioner.family._prompt_tokens(0)) for captioner in asked.values()]
    assert texts[1:] == ["<s>Describe in detail what is shown in the image.</s>", "<s>a road</s>", "<s></s>"]


def test_a_prompt_that_the_processor_refuses_is_explained(folder: Path) -> None:
    sentence = "--model.prompt see <image>: <image> stands for the image itself; leave it out."
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        Captioner.load(str(folder), prompt="see <image>")
    sentence = (
        "--model.prompt <CAPTION> of roads: a task goes alone; give one of <OCR>, <OCR_WITH_REGION>, <CAPTION>, "
        "<DETAILED_CAPTION>, <MORE_DETAILED_CAPTION>, <OD>, <DENSE_REGION_CAPTION>, <REGION_PROPOSAL>, or a sentence."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        Captioner.load(str(folder), prompt="<CAPTION> of roads")


@pytest.mark.parametrize("side", [0, 60, 88, 104])
def test_sizes_without_positions_are_refused(captioner: Captioner, side: int) -> None:
    """BART's encoder has 128 positions here: ten by ten patches, their mean, and the prompt."""
    sentence = (
        f"--images.resolution {side}: this Florence-2 sees patches of 8, and 80 pixels at most; give a multiple "
        "of 8 up to that."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        captioner.family.use_resolution(side)
    assert captioner.resolution == SIDE


def test_the_largest_size_that_is_allowed_can_be_read(own: Captioner) -> None:
    own.family.use_resolution(80)
    assert losses(own, UNEQUAL).isfinite().all()
