"""Qwen2.5-VL as a captioner: cut in three it computes what the network does, and keeps nothing from batch to batch."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from models.captioners.own_inputs import own_inputs
from models.captioners.small_networks import UNEQUAL, losses, pictures, pixels

from skygen.errors import ConfigError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED
from skygen.models.captioners.qwen2_5_vl import CHAT, PROMPT

SIDE = 84


@pytest.fixture(params=["qwen2_5_vl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_sees_a_size_that_the_model_does_not_name(folder: Path) -> None:
    assert Captioner.load(str(folder)).resolution == 448


def test_pixels_are_cut_as_the_processor_cuts_them(captioner: Captioner) -> None:
    own = captioner.processor.image_processor(pictures(SIDE), return_tensors="pt")
    patches = captioner.family._patchify(captioner.family._pixels.normalise(pixels(SIDE)))
    assert patches.shape == (3, 36, 2 * 3 * 14 * 14)
    assert torch.allclose(patches.flatten(0, 1), own.pixel_values, atol=1e-5)
    assert torch.equal(captioner.family._grids(3), own.image_grid_thw)


@pytest.mark.parametrize("side", [56, 84, 140])
def test_tower_and_bridge_give_the_networks_own_places(own: Captioner, side: int) -> None:
    read = own.processor.image_processor(pictures(side, 2), return_tensors="pt")
    own.family.use_resolution(side)
    with torch.no_grad():
        expected = torch.stack(own.network.get_image_features(**read).pooler_output)
        features = own.family.encode(pixels(side, 2))
        found = own.family.project(features)
    assert features.shape == (2, (side // 14) ** 2, 32)
    assert found.shape == (2, (side // 28) ** 2, 32)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_a_caption_is_the_assistants_turn(captioner: Captioner) -> None:
    """The same tokens as transformers' chat template and processor; only caption and end of turn are targets."""
    tokenizer = captioner.processor.tokenizer
    tokens = captioner.family.tokenize(("a beach near the sea", "a beach"), 64)
    own = own_inputs(captioner, ("a beach near the sea", "a beach", "a beach"))["input_ids"]
    length = int(tokens.attention_mask[0].sum())
    assert torch.equal(tokens.input_ids[0], own[0, :length])
    assert tokenizer.convert_ids_to_tokens(own[0, length:]) == ["<|im_end|>", "Ċ"]
    caption = tokenizer.convert_tokens_to_ids(["a", "Ġbeach", "Ġnear", "Ġthe", "Ġsea", "<|im_end|>"])
    assert tokens.targets[0].tolist() == [IGNORED] * (length - 6) + caption
    assert tokens.targets[1].tolist() == [IGNORED] * (length - 6) + [*caption[:2], caption[-1]] + [IGNORED] * 3
    assert tokens.attention_mask[1].tolist() == [1] * (length - 3) + [0] * 3
    assert torch.equal(tokens.targets[0, :-1][-5:], tokens.input_ids[0, 1:][-5:])
    assert Counter(tokens.input_ids[0].tolist())[captioner.network.config.image_token_id] == 9
    assert caption[-1] == tokenizer.eos_token_id
    assert caption[-1] in captioner.network.generation_config.eos_token_id
    text = tokenizer.decode(tokens.input_ids[0, : length - 5])
    assert text.endswith("<|vision_end|>" + PROMPT + "<|im_end|>\n<|im_start|>assistant\n")


def test_nothing_is_kept_between_writing_and_training(own: Captioner) -> None:
    """The network caches how far a batch's positions are ahead of its tokens; the next batch has other sizes."""
    settings, before = CaptioningSettings(max_new_tokens=4), losses(own, UNEQUAL)
    assert own.network.model.rope_deltas is None
    written = own.caption(pictures(SIDE, 2), settings)
    assert own.network.model.rope_deltas is None
    assert torch.equal(losses(own, UNEQUAL), before)
    own.family.use_resolution(56)
    own.caption(pictures(SIDE, 1), settings)
    own.family.use_resolution(SIDE)
    assert torch.equal(losses(own, UNEQUAL), before)
    assert own.caption(pictures(SIDE, 2), settings) == written
    assert len(written) == 2


def test_the_prompt_may_be_another_one_or_none(folder: Path) -> None:
    asked = {prompt: Captioner.load(str(folder), prompt=prompt) for prompt in (None, "a road", "")}
    for captioner in asked.values():
        captioner.family.use_resolution(SIDE)
    assert [captioner.family.prompt for captioner in asked.values()] == [PROMPT, "a road", ""]
    assert len({float(losses(captioner, UNEQUAL).mean()) for captioner in asked.values()}) == 3
    text = asked[""].processor.tokenizer.decode(asked[""].family._prompt_tokens())
    assert text.endswith("<|vision_end|><|im_end|>\n<|im_start|>assistant\n")
    sentence = "--model.prompt see <|image_pad|>: <|image_pad|> stands for the image itself; leave it out."
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        Captioner.load(str(folder), prompt="see <|image_pad|>")


def test_without_a_chat_template_the_documented_turns_are_written(own: Captioner) -> None:
    own.processor.chat_template = None
    text = own.processor.tokenizer.decode(own.family._prompt_tokens())
    assert text == CHAT.format(image="<|image_pad|>" * 9, prompt=PROMPT)
    assert losses(own, UNEQUAL).isfinite().all()


def test_sizes_without_whole_places_are_refused(captioner: Captioner) -> None:
    sentence = (
        "--images.resolution 70: this Qwen2.5-VL sees squares of 28 pixels, two by two patches each; give a multiple of that."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        captioner.family.use_resolution(70)
    with pytest.raises(ConfigError, match="give a multiple of that"):
        captioner.family.use_resolution(0)
    assert captioner.resolution == SIDE
