"""The family Idefics3, as an Idefics3 and as a SmolVLM: it computes what transformers does from pixels and a conversation."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from models.captioners.build_idefics3 import PLACES, RESOLUTION, SCALE
from models.captioners.own_inputs import for_idefics3, own_inputs
from models.captioners.small_networks import UNEQUAL, image_of, pictures

from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED
from skygen.models.captioners.idefics3 import PROMPT, Idefics3
from skygen.seeding import Seeds

EQUAL = ("a river and a beach", "a beach and a road", "a road and a river")
CLASSES = {"idefics3": "Idefics3ForConditionalGeneration", "smolvlm": "SmolVLMForConditionalGeneration"}


@pytest.fixture(params=["idefics3", "smolvlm"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_folder_is_loaded_as_its_own_class(kind: str, captioner: Captioner) -> None:
    assert type(captioner.network).__name__ == CLASSES[kind]


def test_the_projected_features_are_the_networks_own(captioner: Captioner) -> None:
    inputs = own_inputs(captioner)
    with torch.no_grad():
        own = captioner.network.get_image_features(inputs["pixel_values"], inputs["pixel_attention_mask"]).pooler_output
    assert torch.allclose(image_of(captioner.family), torch.stack(list(own)), atol=1e-5)


def test_a_single_grey_is_an_image_and_not_padding(captioner: Captioner) -> None:
    grey = torch.zeros(2, 3, RESOLUTION, RESOLUTION)  # 0 after normalisation too: transformers would drop such images
    with torch.no_grad():
        features = captioner.family.encode(grey)
    assert features.shape[0] == 2
    losses = captioner.loss(Batch(grey, ("a beach", "a road"), ("1", "2")), Seeds(0).generator("unused"))
    assert losses.isfinite().all()


def test_the_caption_and_the_end_of_the_turn_are_the_targets(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(["a beach", "a road and a beach"], 64)
    read = captioner.processor.tokenizer.convert_ids_to_tokens
    image = ["<fake_token_around_image>", "<global-img>", *["<image>"] * PLACES, "<fake_token_around_image>"]
    prompt = captioner.processor.tokenizer(f"{PROMPT}<end_of_utterance>\nAssistant:", add_special_tokens=False).input_ids
    inputs = read(tokens.input_ids[0].tolist())
    opening = captioner.processor.tokenizer("User:", add_special_tokens=False).input_ids
    before = ["<|im_start|>", *read(opening), *image, *read(prompt)]
    assert inputs == [*before, "Ġa", "Ġbeach", *["<|endoftext|>"] * 3]
    assert tokens.attention_mask[0].tolist() == [1] * (len(before) + 2) + [0] * 3
    assert tokens.targets[0, : len(before) - 1].tolist() == [IGNORED] * (len(before) - 1)
    assert read(tokens.targets[0, len(before) - 1 : len(before) + 2].tolist()) == ["Ġa", "Ġbeach", "<end_of_utterance>"]
    assert tokens.targets[0, len(before) + 2 :].tolist() == [IGNORED] * 3


def test_smaller_squares_are_seen_as_the_network_sees_them(own: Captioner) -> None:
    own.family.use_resolution(16)
    assert own.resolution == 16
    size = {"longest_edge": 16}
    other = copy.deepcopy(own)
    other.processor.image_seq_len = PLACES // 4
    inputs = for_idefics3(other, EQUAL, size=size, max_image_size=size)
    assert inputs["pixel_values"].shape == (3, 1, 3, 16, 16)
    tokens = own.family.tokenize(EQUAL, 64)
    assert torch.equal(tokens.input_ids, inputs["input_ids"][:, :-1])
    with torch.no_grad():
        expected = own.network(**inputs).logits[:, :-1]
        logits = own.family.logits(image_of(own.family), tokens)
    assert torch.allclose(logits, expected[:, tokens.prompt_length :], atol=1e-4)
    assert len(own.caption(pictures(RESOLUTION, 2), CaptioningSettings(max_new_tokens=3))) == 2
    for wrong in (20, 40, 0):
        with pytest.raises(
            ConfigError,
            match=rf"^--images\.resolution {wrong}: this model joins squares of 8 pixels and sees at most 32; "
            r"give a multiple of 8 up to that, or 32\.$",
        ):
            own.family.use_resolution(wrong)
    own.family.use_resolution(RESOLUTION)
    assert RESOLUTION // 8 == PLACES**0.5  # patches of 4, joined by twos
    assert SCALE == 2


def test_prompts(folder: Path, captioner: Captioner) -> None:
    tokens = {
        prompt: Captioner.load(str(folder), prompt=prompt).family.tokenize(["a beach"], 64) for prompt in (None, "", "a road")
    }
    lengths = [value.input_ids.shape[1] for value in tokens.values()]
    tokenizer = captioner.processor.tokenizer
    assert lengths[0] - lengths[1] == len(tokenizer(PROMPT, add_special_tokens=False).input_ids)
    assert tokenizer.decode(tokens[""].input_ids[0]).endswith("<end_of_utterance>\nAssistant: a beach")
    assert "<fake_token_around_image>a road<end_of_utterance>" in tokenizer.decode(tokens["a road"].input_ids[0])
    with pytest.raises(ConfigError, match=r"^--model\.prompt: leave <image> out; the place of the image is put in for you\.$"):
        Captioner.load(str(folder), prompt="<image> a road")


def test_without_a_chat_template_the_documented_conversation_is_written(own: Captioner, captioner: Captioner) -> None:
    bare = own.family
    bare.processor.chat_template = None
    by_hand = Idefics3(bare.network, bare.processor)
    expected, found = (family.tokenize(UNEQUAL, 64) for family in (captioner.family, by_hand))
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.targets, expected.targets)


def test_a_chat_template_that_opens_no_turn_is_refused(own: Captioner) -> None:
    family = own.family
    family.processor.chat_template = "{{ 'Assistant:' if add_generation_prompt else 'nothing' }}"
    with pytest.raises(
        ConfigError,
        match=r"^--model\.name: its chat template does not open the assistant's turn as it writes one; take the template of "
        r"the model's instruct version\.$",
    ):
        Idefics3(family.network, family.processor)
