"""The family PaliGemma, with Gemma and with Gemma 2: it computes what transformers computes from pixels, prefix and suffix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.captioners.build_paligemma import PLACES, RESOLUTION
from models.captioners.own_inputs import for_paligemma
from models.captioners.small_networks import UNEQUAL, image_of, losses, pictures

from skygen.errors import ConfigError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED
from skygen.models.captioners.paligemma import PaliGemma

DECODERS = {"paligemma": "gemma", "paligemma 2": "gemma2"}
# PaliGemmaProcessor hands tensors to np.array, which asks torch for a keyword that it does not know
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.fixture(params=["paligemma", "paligemma 2"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_folder_is_loaded_with_its_own_decoder(kind: str, captioner: Captioner) -> None:
    assert captioner.network.config.text_config.model_type == DECODERS[kind]


def test_the_prefix_sees_itself_whole_and_the_suffix_what_is_before_it(captioner: Captioner) -> None:
    """Another last token of the caption changes no earlier logits; another prompt changes those of every place."""
    image = image_of(captioner.family, 1)
    with torch.no_grad():
        first, second = (
            captioner.family.logits(image, captioner.family.tokenize([caption], 64))[0]
            for caption in ("a beach and a road", "a beach and a river")
        )
        other = PaliGemma(captioner.network, captioner.processor, "caption a")
        third = other.logits(image, other.tokenize(["a beach and a road"], 64))[0]
    assert torch.allclose(first[:-1], second[:-1], atol=1e-5)
    assert (first[-1] - second[-1]).abs().max() > 1e-3
    assert len(third) == len(first)
    assert ((first - third).abs().amax(dim=1) > 1e-5).all()


def test_the_caption_and_the_end_of_the_text_are_the_targets(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(["a beach", "a road and a beach"], 64)
    read = captioner.processor.tokenizer.convert_ids_to_tokens
    prompt = read(captioner.processor.tokenizer("caption en", add_special_tokens=False).input_ids)
    before = [*["<image>"] * PLACES, "<bos>", *prompt, "\n"]
    assert read(tokens.input_ids[0].tolist()) == [*before, "a", "▁beach", *["<pad>"] * 3]
    assert tokens.attention_mask[0].tolist() == [1] * (len(before) + 2) + [0] * 3
    assert tokens.targets[0, : len(before) - 1].tolist() == [IGNORED] * (len(before) - 1)
    assert read(tokens.targets[0, len(before) - 1 : len(before) + 2].tolist()) == ["a", "▁beach", "<eos>"]
    assert tokens.targets[0, len(before) + 2 :].tolist() == [IGNORED] * 3


@pytest.mark.parametrize("side", [14, RESOLUTION, 42])
def test_squares_of_all_sizes_are_seen_as_the_network_sees_them(own: Captioner, side: int) -> None:
    own.family.use_resolution(side)
    assert own.resolution == side
    values = for_paligemma(own, UNEQUAL, size={"height": side, "width": side})["pixel_values"]
    assert values.shape == (3, 3, side, side)
    with torch.no_grad():
        expected = own.network.get_image_features(values, interpolate_pos_encoding=side != RESOLUTION).pooler_output
    image = image_of(own.family)
    assert image.shape[1] == (side // 7) ** 2
    assert torch.allclose(image, expected, atol=1e-5)
    assert losses(own, UNEQUAL).isfinite().all()
    assert len(own.caption(pictures(RESOLUTION, 2), CaptioningSettings(max_new_tokens=3))) == 2
    for wrong in (20, 0):
        with pytest.raises(
            ConfigError,
            match=rf"^--images\.resolution {wrong}: this PaliGemma sees patches of 7; give a multiple of that\.$",
        ):
            own.family.use_resolution(wrong)


def test_prompts(folder: Path, captioner: Captioner) -> None:
    tokens = {
        prompt: Captioner.load(str(folder), prompt=prompt).family.tokenize(["a beach"], 64) for prompt in (None, "", "a road")
    }
    tokenizer = captioner.processor.tokenizer
    texts = {prompt: tokenizer.decode(value.input_ids[0, PLACES:]) for prompt, value in tokens.items()}
    assert texts == {None: "<bos>caption en\na beach", "": "<bos>\na beach", "a road": "<bos>a road\na beach"}
    with pytest.raises(ConfigError, match=r"^--model\.prompt: leave <image> out; the place of the image is put in for you\.$"):
        Captioner.load(str(folder), prompt="<image> caption en")
