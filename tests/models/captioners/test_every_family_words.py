"""Every family in words: what of a caption is learnt, where it ends, and that what is written follows from what is learnt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.captioners.small_networks import NETWORKS, UNEQUAL, image_of, losses, pictures
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED, CaptionTokens

STOPPING_AT_THEIR_OWN_ENDS_TOO = ["idefics3", "smolvlm", "paligemma", "paligemma 2", "qwen2_5_vl"]


def learnt(row: Tensor) -> list[int]:
    """The targets of one caption."""
    return row[row != IGNORED].tolist()


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    assert not captioner.family.tokenize(UNEQUAL, 64).attention_mask.all()
    together = losses(captioner, UNEQUAL)
    alone = torch.cat([losses(captioner, UNEQUAL, slice(index, index + 1)) for index in range(3)])
    assert together.shape == (3,)
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


def test_the_prompt_is_not_learnt_and_each_target_is_the_next_token(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(UNEQUAL, 64)
    predicting = tokens.targets != IGNORED
    assert not predicting[:, : tokens.prompt_length].any()
    assert predicting[:, tokens.prompt_length].all()  # of the empty caption its end
    assert not (predicting & (tokens.attention_mask == 0)).any()
    followed = predicting[:, :-1] & predicting[:, 1:]  # all but the ends
    assert int(followed.sum()) == int(predicting.sum()) - 3
    assert torch.equal(tokens.targets[:, :-1][followed], tokens.input_ids[:, 1:][followed])


def test_a_long_caption_is_cut_and_still_ends(kind: str, captioner: Captioner) -> None:
    long = "a beach" + " and a beach" * 50
    whole = captioner.family.tokenize([long], 1000)
    cut, short = captioner.family.tokenize([long], 6), captioner.family.tokenize([""], 6)
    end = learnt(short.targets[0])[-1]
    room = 6 - NETWORKS[kind].starts
    assert learnt(whole.targets[0])[-1] == end
    assert learnt(cut.targets[0]) == [*learnt(whole.targets[0])[: room - 1], end]
    assert torch.equal(cut.input_ids, whole.input_ids[:, : whole.prompt_length + room])  # the prompt is not cut
    assert captioner.max_length == 64
    assert losses(captioner, (long, "a beach", "")).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "special"), [(kind, special) for kind, network in NETWORKS.items() for special in network.specials]
)
def test_a_caption_that_spells_a_special_token_is_text(captioner: Captioner, special: str) -> None:
    """As many of them as in a caption that spells none: the end, and the places of the image."""
    number = captioner.processor.tokenizer.convert_tokens_to_ids(special)
    assert captioner.processor.tokenizer.convert_ids_to_tokens(number) == special  # it is a token
    spelled, plain = (captioner.family.tokenize([f"a {word} beach"], 64) for word in (special, "road"))
    assert len(learnt(spelled.targets[0])) > 2
    assert losses(captioner, (special, f"a {special} beach", "a beach")).isfinite().all()
    found = [int((part == number).sum()) for part in (spelled.input_ids, spelled.targets)]
    assert found == [int((part == number).sum()) for part in (plain.input_ids, plain.targets)]


def test_no_captions_are_no_rows(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize([], 64)
    assert tokens.input_ids.shape[0] == tokens.targets.shape[0] == tokens.attention_mask.shape[0] == 0


def test_no_images_are_no_captions(captioner: Captioner) -> None:
    assert captioner.caption([]) == []


def test_greedy_captions_are_the_likeliest_tokens_of_the_trained_logits(own: Captioner) -> None:
    """Written token by token with a cache, and each read off the logits of the whole."""
    own.network.generation_config.update(no_repeat_ngram_size=0, forced_eos_token_id=None)  # Florence-2's
    image, tokenizer = image_of(own.family, 1), own.processor.tokenizer
    nothing = own.family.tokenize([""], 64)
    given = nothing.prompt_length if own.network.config.is_encoder_decoder else 0  # start tokens that count as written
    ids = nothing.input_ids[:, : nothing.prompt_length + 1]
    for _ in range(9 - given):
        targets = ids.clone()
        targets[:, : nothing.prompt_length] = IGNORED
        tokens = CaptionTokens(ids, torch.ones_like(ids), targets, nothing.prompt_length)
        with torch.no_grad():
            ids = torch.cat([ids, own.family.logits(image, tokens)[:, -1:].argmax(dim=-1)], dim=1)
    expected = tokenizer.decode(ids[0, nothing.prompt_length + 1 :], skip_special_tokens=True).strip()
    assert own.family.generate(image, {"max_new_tokens": 9, "do_sample": False}) == [expected]
    assert len(expected) > 1


class Wanted(LogitsProcessor):  # type: ignore[misc]
    """Makes one token the likeliest, and counts how often it is asked."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.asked = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.asked += 1
        return scores.index_fill(1, torch.tensor([self.token]), float(scores.max()) + 100)


def test_writing_stops_where_captions_are_trained_to_end(captioner: Captioner) -> None:
    end = learnt(captioner.family.tokenize([""], 64).targets[0])[-1]
    wanted = Wanted(end)
    options = {"max_new_tokens": 9, "do_sample": False, "logits_processor": LogitsProcessorList([wanted])}
    assert captioner.family.generate(image_of(captioner.family), options) == ["", "", ""]
    assert wanted.asked == 1


@pytest.mark.parametrize("ends", [None, 7, [7, 8]])
@pytest.mark.parametrize("kind", STOPPING_AT_THEIR_OWN_ENDS_TOO)
def test_writing_stops_at_the_ends_of_the_models_own_settings_too(own: Captioner, ends: int | list[int] | None) -> None:
    """Where these name no end, or another one, as those of base models do, captions still end as they are trained to."""
    own.network.generation_config.eos_token_id = ends
    given: dict[str, Any] = {}
    write = own.network.generate
    own.network.generate = lambda **options: given.update(options) or write(**options)
    assert len(own.caption(pictures(own.resolution, 1), CaptioningSettings(max_new_tokens=2))) == 1
    named = [ends] if isinstance(ends, int) else ends or []
    assert set(given["eos_token_id"]) == {own.processor.tokenizer.eos_token_id, *named}


def test_writing_leaves_the_network_as_it_was(own: Captioner) -> None:
    modules = dict(own.network.named_modules())
    attributes = {name: set(vars(module)) for name, module in modules.items()}
    before = losses(own, UNEQUAL)
    written = own.caption(pictures(own.resolution), CaptioningSettings(max_new_tokens=2))
    assert dict(own.network.named_modules()) == modules
    assert {name: set(vars(module)) for name, module in modules.items()} == attributes
    assert torch.equal(losses(own, UNEQUAL), before)
    assert own.caption(pictures(own.resolution), CaptioningSettings(max_new_tokens=2)) == written
