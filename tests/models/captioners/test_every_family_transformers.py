"""Every family computes what transformers computes from pixels and words, though it is cut in three."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.captioners.own_inputs import own_inputs
from models.captioners.small_networks import NETWORKS, UNEQUAL, image_of, losses, pixels

from skygen.models.captioner import Captioner
from skygen.models.captioners.family import IGNORED

EQUAL = ("a river sea bridge", "a bridge sea river", "a sea river bridge")
WRITING = {"max_new_tokens": 9, "do_sample": False}
HOW: list[dict[str, Any]] = [{}, {"num_beams": 3, "num_return_sequences": 2}]  # the first of the two is what three beams find
# PaliGemmaProcessor hands tensors to np.array, which asks torch for a keyword that it does not know
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

ASKED = [
    (kind, prompt, network.side)
    for kind, network in NETWORKS.items()
    for prompt in dict.fromkeys((network.prompt, network.other_prompt))
]
OTHER_SIZES = [
    (kind, NETWORKS[kind].prompt, NETWORKS[kind].other_side)
    for kind in ("blip", "blip-2", "blip-2 with T5", "git")  # of the others only tower and bridge are compared, by themselves
]


@pytest.fixture
def asked(own: Captioner, prompt: str, side: int) -> Captioner:
    own.ask_as({"prompt": prompt, "resolution": side})
    return own


@pytest.mark.parametrize(("kind", "prompt", "side"), ASKED)  # GIT's own loss counts on the places of its own size
def test_the_loss_is_the_networks_own(asked: Captioner) -> None:
    lengths = (asked.family.tokenize(EQUAL, 64).targets != IGNORED).sum(dim=1)
    assert len(set(lengths.tolist())) == 1  # else the mean over tokens is not that over examples
    found = losses(asked, EQUAL)
    with torch.no_grad():
        expected = asked.network(**own_inputs(asked, EQUAL)).loss
    assert float(found.mean()) == pytest.approx(float(expected), rel=2e-5)


@pytest.mark.parametrize(("kind", "prompt", "side"), ASKED + OTHER_SIZES)
def test_the_logits_are_the_networks_own_with_padding_too(asked: Captioner) -> None:
    tokens, inputs = asked.family.tokenize(UNEQUAL, 64), own_inputs(asked, UNEQUAL)
    predicting = tokens.targets != IGNORED
    assert not tokens.attention_mask.all()
    labels = inputs["labels"] if asked.network.config.is_encoder_decoder else inputs.pop("labels")  # or it counts its loss
    assert torch.equal(tokens.targets[predicting], labels[labels != IGNORED])
    with torch.no_grad():
        found = asked.family.logits(image_of(asked.family), tokens)
        negative = asked.family.project(asked.family.encode(-pixels(asked.resolution)))
        other = asked.family.logits(negative, tokens)
        expected = asked.network(**inputs).logits
    before = expected.shape[1] - labels.shape[1]  # GIT says something of the image's places too
    expected = expected[:, before + tokens.prompt_length :][:, : found.shape[1]]
    predicting = predicting[:, tokens.prompt_length :]
    apart = (found - expected)[predicting].abs().max()
    assert apart < 5e-5 * expected[predicting].abs().max()  # of T5's, which reach 40, the fourth decimal is rounded
    assert (found - other)[predicting].abs().max() > 0.01  # the image matters


@pytest.mark.parametrize(("kind", "prompt", "side"), ASKED)
def test_the_decoder_reads_what_the_processor_writes(asked: Captioner) -> None:
    """Up to the token before the end; what a T5 reads is made of its labels."""
    tokens, inputs = asked.family.tokenize(UNEQUAL, 64), own_inputs(asked, UNEQUAL)
    written = inputs.get("decoder_input_ids", inputs["input_ids"])
    if asked.network.config.is_encoder_decoder and "decoder_input_ids" not in inputs:
        written = asked.network.language_model._shift_right(inputs["labels"])
    read = (tokens.targets != IGNORED).flip(1).cummax(dim=1).values.flip(1)  # from the first token to the last that predicts
    assert tokens.attention_mask.bool()[read].all()
    assert torch.equal(tokens.input_ids[read], written[:, : read.shape[1]][read])
    assert int(read.sum()) > 3


@pytest.mark.parametrize(("kind", "prompt", "side"), ASKED + OTHER_SIZES)
@pytest.mark.parametrize("options", HOW, ids=str)
def test_it_writes_what_the_network_writes(asked: Captioner, options: dict[str, Any]) -> None:
    found = asked.family.generate(image_of(asked.family), WRITING | options)
    inputs = own_inputs(asked)
    with torch.inference_mode():
        written = asked.network.generate(**inputs, **WRITING, **options)
    if "input_ids" in inputs and not asked.network.config.is_encoder_decoder:
        written = written[:, inputs["input_ids"].shape[1] :]
    texts = asked.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
    assert found == [text.strip() for text in texts]
    assert len(found) == 3 * options.get("num_return_sequences", 1)
    assert len(set(found[:: len(found) // 3])) > 1  # the image matters
