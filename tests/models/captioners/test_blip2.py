"""The family BLIP-2, with an OPT and with a T5: it computes what transformers computes from pixels and words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models.captioners.build_blip2 import QUESTIONS, RESOLUTION
from models.captioners.small_networks import UNEQUAL, image_of, pixels

from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner
from skygen.models.captioners.blip2 import Blip2
from skygen.models.captioners.family import IGNORED
from skygen.seeding import Seeds


@pytest.fixture(params=["blip-2", "blip-2 with T5"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_tower_and_bridge_are_transformers_own(captioner: Captioner) -> None:
    values = captioner.family._pixels.normalise(pixels(RESOLUTION))
    with torch.no_grad():
        own = captioner.network.get_image_features(pixel_values=values).pooler_output
    assert torch.allclose(image_of(captioner.family), own, atol=1e-6)
    assert (own[0] - own[1]).abs().max() > 0.01  # the images tell
    assert (own[0, 0] - own[0, 1]).abs().max() > 0.01  # and the questions


def test_generation_stops_at_the_token_that_ends_a_target(captioner: Captioner) -> None:
    targets = captioner.family.tokenize(UNEQUAL, 64).targets
    ends = [int(row[row != IGNORED][-1]) for row in targets]
    name = captioner.processor.tokenizer.convert_ids_to_tokens(ends[0])
    assert set(ends) == {captioner.network.language_model.generation_config.eos_token_id}
    assert name == ("</s>" if captioner.network.config.is_encoder_decoder else "Ċ")


def test_opt_reads_image_start_and_caption(folder_of: Callable[[str], Path]) -> None:
    captioner = Captioner.load(str(folder_of("blip-2")), prompt=" beach ")
    assert captioner.family.prompt == "beach"
    tokenizer = captioner.processor.tokenizer
    tokens = captioner.family.tokenize(["river", "river\n\n bridge"], 64)
    beach, river, bridge = (tokenizer(f" {word}", add_special_tokens=False).input_ids for word in ("beach", "river", "bridge"))
    prompt = tokenizer("beach", add_special_tokens=False).input_ids
    assert prompt != beach  # the first word of a text has other tokens
    before = [tokenizer.convert_tokens_to_ids("<image>")] * QUESTIONS + [tokenizer.bos_token_id, *prompt]
    end = tokenizer.convert_tokens_to_ids("Ċ")
    short, long = [*before, *river], [*before, *river, *bridge]
    padding = [tokenizer.pad_token_id] * len(bridge)
    assert tokens.input_ids.tolist() == [short + padding, long]
    assert tokens.attention_mask.tolist() == [[1] * len(short) + [0] * len(bridge), [1] * len(long)]
    nothing = [IGNORED] * (len(before) - 1)
    assert tokens.targets.tolist() == [[*nothing, *river, end, *[IGNORED] * len(bridge)], [*nothing, *river, *bridge, end]]


def test_t5_reads_image_and_prompt_in_its_encoder(folder_of: Callable[[str], Path]) -> None:
    captioner = Captioner.load(str(folder_of("blip-2 with T5")), prompt="a photo of")
    spelled = captioner.processor.tokenizer.convert_ids_to_tokens
    tokens = captioner.family.tokenize(["a beach", "river"], 64)
    assert [spelled(row) for row in tokens.input_ids.tolist()] == [["<pad>", "▁a", "▁beach"], ["<pad>", "▁river", "<pad>"]]
    assert spelled(tokens.targets[0].tolist()) == ["▁a", "▁beach", "</s>"]
    assert spelled(tokens.targets[1, :2].tolist()) == ["▁river", "</s>"]
    assert int(tokens.targets[1, 2]) == IGNORED
    assert tokens.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_the_questions_count_among_the_weights_of_the_bridge(own: Captioner) -> None:
    own.attach(LoraSettings(rank=2, targets="text_decoder"), Seeds(0))
    names = {own.encoder_fingerprint()}
    with torch.no_grad():
        own.network.query_tokens.add_(1)
    names.add(own.encoder_fingerprint())
    assert len(names) == 2


def test_what_it_cannot_do_is_explained(captioner_of: Callable[[str], Captioner]) -> None:
    captioner = captioner_of("blip-2")
    with pytest.raises(
        ConfigError, match=r"^--images.resolution 36: this BLIP-2 sees patches of 7; give a multiple of that\.$"
    ):
        captioner.family.use_resolution(36)
    network = copy.copy(captioner.network)
    network.config = copy.deepcopy(network.config)
    network.config.image_token_index = None
    with pytest.raises(ConfigError, match=r"has no image_token_index, as older ones; download a newer revision of it\.$"):
        Blip2(network, captioner.processor)
    network.config.text_config.model_type = "bart"
    with pytest.raises(
        ConfigError, match=r"^--model.name: the language model of this BLIP-2 is of the type bart; give a BLIP-2 with"
    ):
        Blip2(network, captioner.processor)
