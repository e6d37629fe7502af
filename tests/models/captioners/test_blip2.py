"""The family BLIP-2, with an OPT and with a T5: it computes what transformers computes from pixels and words."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.captioners.build_blip2 import QUESTIONS, RESOLUTION, build, build_with_t5
from PIL import Image
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.blip2 import Blip2
from skygen.models.captioners.family import IGNORED, CaptionTokens, Family
from skygen.seeding import Seeds

EQUAL = ("a river sea bridge", "a bridge sea river", "a sea river bridge")
UNEQUAL = ("", "a beach", "three storage tanks beside a railway station")
WRITING = {"max_new_tokens": 9}
HOW = ({}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2})
BUILDERS = {"opt": build, "t5": build_with_t5}
PRESETS = ("text_decoder", "text_decoder_and_bridge", "all")
LINEAR = {"opt": 12, "t5": 2 * 7 + 2 * 11}  # 2 layers of 6; of T5 2 of 7 in the encoder, and 2 of 11 in the decoder
Q_FORMER, VISION = 10 + 6, 8  # two layers, of which the first looks at the patches


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / str(request.param)
    BUILDERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return Captioner.load(str(folder))


@pytest.fixture(scope="module")
def with_opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "opt"
    build(path)
    return path


@pytest.fixture(scope="module")
def with_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "t5"
    build_with_t5(path)
    return path


def pictures(count: int = 3, side: int = RESOLUTION) -> list[Image.Image]:
    draw = Seeds(0).numpy("pictures")
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(side: int = RESOLUTION) -> Tensor:
    return torch.stack([image_to_tensor(image) for image in pictures(side=side)])


def batch(captions: tuple[str, ...], rows: slice = slice(None)) -> Batch:
    return Batch(pixels()[rows], captions[rows], captions[rows])


def losses(captioner: Captioner, captions: tuple[str, ...], rows: slice = slice(None)) -> Tensor:
    with torch.no_grad():
        return captioner.loss(batch(captions, rows), Seeds(0).generator("unused"))


def image_of(captioner: Captioner, side: int = RESOLUTION) -> Tensor:
    with torch.no_grad():
        return captioner.family.project(captioner.family.encode(pixels(side)))


def its_own(captioner: Captioner, captions: tuple[str, ...], side: int = RESOLUTION, prompt: str = "") -> Any:
    """What the network says of the processor's pixels and words; for OPT it is asked to end captions with a line break."""
    processor, network = captioner.processor, captioner.network
    seen = processor.image_processor(pictures(side=side), return_tensors="pt", do_resize=False).pixel_values
    if network.config.is_encoder_decoder:
        asked = processor(images=pictures(), text=[prompt] * 3, return_tensors="pt")
        labels = processor.tokenizer(list(captions), padding=True, return_tensors="pt")
        told = {"labels": labels.input_ids.masked_fill(labels.attention_mask == 0, IGNORED)}
    else:
        texts = [f"{prompt} {caption}\n" if prompt else f"{caption}\n" for caption in captions]
        asked = processor(images=pictures(), text=texts, padding=True, return_tensors="pt")
        before = QUESTIONS + 1 + len(processor.tokenizer(prompt, add_special_tokens=False).input_ids)
        told = {"labels": asked.input_ids.masked_fill(asked.attention_mask == 0, IGNORED)}
        told["labels"][:, :before] = IGNORED
    with torch.no_grad():
        return network(
            pixel_values=seen,
            input_ids=asked.input_ids,
            attention_mask=asked.attention_mask,
            interpolate_pos_encoding=True,
            **told,
        )


def test_it_is_a_family(captioner: Captioner) -> None:
    assert isinstance(captioner.family, Blip2)
    assert isinstance(captioner.family, Family)
    assert captioner.resolution == RESOLUTION
    assert captioner.family.encode(pixels()).shape == (3, 17, 32)
    assert image_of(captioner).shape == (3, QUESTIONS, 32)


def test_tower_and_bridge_are_transformers_own(captioner: Captioner) -> None:
    values = captioner.family._pixels.normalise(pixels())
    with torch.no_grad():
        own = captioner.network.get_image_features(pixel_values=values).pooler_output
    assert torch.allclose(image_of(captioner), own, atol=1e-6)
    assert (own[0] - own[1]).abs().max() > 0.01  # the images tell
    assert (own[0, 0] - own[0, 1]).abs().max() > 0.01  # and the questions


@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_the_loss_is_transformers_own(folder: Path, prompt: str) -> None:
    captioner = Captioner.load(str(folder), prompt=prompt)
    assert len(set((captioner.family.tokenize(EQUAL, 64).targets != IGNORED).sum(dim=1).tolist())) == 1
    own = its_own(captioner, EQUAL, prompt=prompt).loss
    assert float(losses(captioner, EQUAL).mean()) == pytest.approx(float(own), rel=5e-6)


@pytest.mark.parametrize("side", [RESOLUTION, 42])
def test_the_logits_are_transformers_own_with_padding_too(folder: Path, side: int) -> None:
    captioner = Captioner.load(str(folder))
    captioner.family.use_resolution(side)
    tokens = captioner.family.tokenize(UNEQUAL, 64)
    assert not tokens.attention_mask.all()
    with torch.no_grad():
        logits = captioner.family.logits(image_of(captioner, side), tokens)
    own = its_own(captioner, UNEQUAL, side).logits[:, tokens.prompt_length : tokens.input_ids.shape[1]]
    places = tokens.targets[:, tokens.prompt_length :] != IGNORED
    apart = (logits - own)[places].abs().max()
    assert apart < 2e-5 * own[places].abs().max()  # of T5's, which reach 40, float32 rounds the 5th decimal; in float64 it is 0


@pytest.mark.parametrize("options", HOW)
@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_captions_are_transformers_own(folder: Path, options: dict[str, Any], prompt: str) -> None:
    captioner = Captioner.load(str(folder), prompt=prompt)
    processor = captioner.processor
    written = captioner.family.generate(image_of(captioner), WRITING | options)
    asked = processor(images=pictures(), text=[prompt] * 3, return_tensors="pt")
    own = captioner.network.generate(**asked, **WRITING, **options)
    if not captioner.network.config.is_encoder_decoder:
        own = own[:, asked.input_ids.shape[1] :]
    assert written == [text.strip() for text in processor.tokenizer.batch_decode(own, skip_special_tokens=True)]
    assert len(written) == 3 * options.get("num_return_sequences", 1)
    assert len(set(written)) > 1


def test_greedy_captions_are_the_likeliest_tokens_of_the_trained_logits(captioner: Captioner) -> None:
    image, tokenizer = image_of(captioner)[:1], captioner.processor.tokenizer
    start = captioner.family.tokenize([""], 64).input_ids
    ids = start
    for _ in range(9):
        tokens = CaptionTokens(ids, torch.ones_like(ids), torch.full_like(ids, IGNORED))
        with torch.no_grad():
            ids = torch.cat([ids, captioner.family.logits(image, tokens)[:, -1:].argmax(dim=-1)], dim=1)
    expected = tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True).strip()
    assert captioner.family.generate(image, WRITING) == [expected]


def test_generation_stops_at_the_token_that_ends_a_target(captioner: Captioner) -> None:
    targets = captioner.family.tokenize(UNEQUAL, 64).targets
    ends = [int(row[row != IGNORED][-1]) for row in targets]
    name = captioner.processor.tokenizer.convert_ids_to_tokens(ends[0])
    assert set(ends) == {captioner.network.language_model.generation_config.eos_token_id}
    assert name == ("</s>" if captioner.network.config.is_encoder_decoder else "Ċ")


def test_opt_reads_image_start_and_caption(with_opt: Path) -> None:
    captioner = Captioner.load(str(with_opt), prompt=" beach ")
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


def test_t5_reads_image_and_prompt_in_its_encoder(with_t5: Path) -> None:
    captioner = Captioner.load(str(with_t5), prompt="a photo of")
    spelled = captioner.processor.tokenizer.convert_ids_to_tokens
    tokens = captioner.family.tokenize(["a beach", "river"], 64)
    assert [spelled(row) for row in tokens.input_ids.tolist()] == [["<pad>", "▁a", "▁beach"], ["<pad>", "▁river", "<pad>"]]
    assert spelled(tokens.targets[0].tolist()) == ["▁a", "▁beach", "</s>"]
    assert spelled(tokens.targets[1, :2].tolist()) == ["▁river", "</s>"]
    assert int(tokens.targets[1, 2]) == IGNORED
    assert tokens.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_long_caption_is_cut_and_still_ends(captioner: Captioner) -> None:
    whole = captioner.family.tokenize(["beach river " * 50], 1000).targets[0]
    tokens = captioner.family.tokenize(["beach river " * 50, "beach"], 8)
    kept = tokens.targets[0][tokens.targets[0] != IGNORED].tolist()
    assert kept == [*whole[whole != IGNORED][:6].tolist(), int(whole[-1])]  # and the start: 8
    image = int((tokens.input_ids[0] == captioner.network.config.image_token_index).sum())
    assert image == (0 if captioner.network.config.is_encoder_decoder else QUESTIONS)
    assert losses(captioner, ("a beach " * 100, "a beach", "")).isfinite().all()


def test_a_caption_that_spells_a_special_token_is_text(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(["a <image> beach"], 64)
    targets = tokens.targets[0][tokens.targets[0] != IGNORED]
    assert captioner.network.config.image_token_index not in targets.tolist()
    assert losses(captioner, ("a <image> beach", "a", "a")).isfinite().all()


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    together = losses(captioner, UNEQUAL)
    alone = torch.cat([losses(captioner, UNEQUAL, slice(index, index + 1)) for index in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_the_linear_maps_of_language_model_bridge_and_tower(captioner: Captioner, preset: str) -> None:
    modules = dict(captioner.network.named_modules())
    matched = [name for name in modules if re.fullmatch(Blip2.lora_presets[preset], name)]
    assert all(isinstance(modules[name], torch.nn.Linear) for name in matched)
    tops = [name.split(".")[0] for name in matched]
    found = [tops.count(part) for part in ("language_model", "qformer", "language_projection", "vision_model")]
    linear = LINEAR["t5" if captioner.network.config.is_encoder_decoder else "opt"]
    assert found == [linear, *((0, 0) if preset == "text_decoder" else (Q_FORMER, 1)), VISION if preset == "all" else 0]
    assert len(matched) == sum(found)
    if preset == "all":
        left = {name for name, module in modules.items() if isinstance(module, torch.nn.Linear)} - set(matched)
        assert left == {"language_model.lm_head"}


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_train_the_adapter_alone_and_it_is_loaded_as_it_was(folder: Path, tmp_path: Path, preset: str) -> None:
    captioner = Captioner.load(str(folder))
    before = copy.deepcopy(captioner.network.state_dict())
    adapter = captioner.attach(LoraSettings(rank=2, targets=preset), Seeds(0), base=str(folder))
    assert captioner.encoder_is_frozen == (preset != "all")
    captioner.network.train()
    optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=0.05)
    seen = []
    for _ in range(2):
        loss = captioner.loss(batch(UNEQUAL), Seeds(0).generator("unused")).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.detach())
    assert torch.stack(seen).isfinite().all()
    base = {name: tensor for name, tensor in captioner.network.state_dict().items() if ".lora_" not in name}
    assert {name.replace(".base_layer", "") for name in base} == set(before)
    assert all(torch.equal(tensor, before[name.replace(".base_layer", "")]) for name, tensor in base.items())
    trained = [parameter for name, parameter in adapter.parameters.items() if ".lora_B." in name]
    assert len(trained) >= LINEAR["opt"]
    assert all(parameter.isfinite().all() and parameter.abs().max() > 0 for parameter in trained)
    adapter.save(tmp_path / "adapter")
    again = Captioner.load(str(folder), tmp_path / "adapter")
    settings = CaptioningSettings(max_new_tokens=9)
    assert again.caption(pictures(), settings) == captioner.caption(pictures(), settings)
    assert again.caption(pictures(), settings) != Captioner.load(str(folder)).caption(pictures(), settings)


def test_what_the_tower_said_before_serves_as_well_as_pixels(folder: Path) -> None:
    captioner = Captioner.load(str(folder))
    captioner.attach(LoraSettings(rank=2, targets="text_decoder"), Seeds(0))
    names = {captioner.encoder_fingerprint()}
    kept = captioner.encode(pixels())
    assert kept.shape == (3, QUESTIONS, 32)  # the bridge is frozen too
    with torch.no_grad():
        from_kept = captioner.loss(Batch(pixels()[..., :0, :0], UNEQUAL, UNEQUAL, features=kept), Seeds(0).generator("unused"))
        assert torch.equal(from_kept, losses(captioner, UNEQUAL))
        captioner.network.query_tokens.add_(1)
    names.add(captioner.encoder_fingerprint())
    assert len(names) == 2  # the questions count among the bridge's weights


def test_it_works_in_bfloat16(folder: Path, captioner: Captioner) -> None:
    half = Captioner.load(str(folder), dtype="bfloat16")
    assert half.network.dtype == torch.bfloat16
    assert half.family.encode(pixels()).dtype == torch.bfloat16
    assert torch.allclose(losses(half, UNEQUAL), losses(captioner, UNEQUAL), rtol=0.1)
    half.attach(LoraSettings(rank=2), Seeds(0))
    assert losses(half, UNEQUAL).isfinite().all()
    assert len(half.caption(pictures(), CaptioningSettings(max_new_tokens=3))) == 3


def test_the_hooks_that_loading_in_four_bits_leaves_change_nothing(folder: Path, captioner: Captioner) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    hooked = Captioner.load(str(folder))
    for module in (hooked.network, hooked.network.vision_model, hooked.network.qformer, hooked.network.language_model):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert torch.equal(losses(hooked, UNEQUAL), losses(captioner, UNEQUAL))
    assert hooked.family.generate(image_of(hooked), WRITING) == captioner.family.generate(image_of(captioner), WRITING)


def test_what_it_cannot_do_is_explained(with_opt: Path) -> None:
    captioner = Captioner.load(str(with_opt))
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


def test_a_folder_without_its_tokenizer_is_explained(with_opt: Path, tmp_path: Path) -> None:
    for path in with_opt.iterdir():
        if "token" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        UnavailableError, match=r"the files of its tokenizer are not here; copy or download all of the model again"
    ):
        Captioner.load(str(tmp_path))
