"""The family GIT: it computes what transformers computes from pixels, though tower, bridge and decoder are run apart."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.captioners.build_git import PLACES, RESOLUTION, build
from PIL import Image
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED, Family
from skygen.models.captioners.git import Git
from skygen.seeding import Seeds

EQUAL = ("a river and a bridge", "a beach and a beach", "a road and a meadow")
UNEQUAL = ("", "a beach", "three storage tanks beside a railway station")
WRITING = {"max_new_tokens": 9}
HOW = ({}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2})
PRESETS = {"text_decoder": (12, 0, 0), "text_decoder_and_bridge": (12, 1, 0), "all": (12, 1, 12)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "git"
    build(path)
    return path


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return Captioner.load(str(folder))


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


def its_own(captioner: Captioner, captions: tuple[str, ...], side: int = RESOLUTION) -> Any:
    """What the network says of the processor's pixels and words."""
    words = captioner.processor.tokenizer(list(captions), padding=True, return_tensors="pt")
    seen = captioner.processor.image_processor(pictures(side=side), return_tensors="pt", do_resize=False, do_center_crop=False)
    with torch.no_grad():
        return captioner.network(
            pixel_values=seen.pixel_values,
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            labels=words.input_ids if side == RESOLUTION else None,  # its loss counts on the places of its own size
            interpolate_pos_encoding=True,
        )


def image_of(captioner: Captioner, side: int = RESOLUTION) -> Tensor:
    with torch.no_grad():
        return captioner.family.project(captioner.family.encode(pixels(side)))


def test_it_is_a_family(captioner: Captioner) -> None:
    assert isinstance(captioner.family, Git)
    assert isinstance(captioner.family, Family)
    assert captioner.resolution == RESOLUTION
    assert image_of(captioner).shape == (3, PLACES, 32)


def test_the_loss_is_transformers_own(captioner: Captioner) -> None:
    assert captioner.processor.tokenizer(list(EQUAL), padding=True, return_tensors="pt").attention_mask.all()
    assert float(losses(captioner, EQUAL).mean()) == pytest.approx(float(its_own(captioner, EQUAL).loss), abs=1e-5)


def test_the_logits_are_transformers_own_with_padding_too(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(UNEQUAL, 64)
    assert not tokens.attention_mask.all()
    with torch.no_grad():
        logits = captioner.family.logits(image_of(captioner), tokens)
    own = its_own(captioner, UNEQUAL).logits[:, PLACES:-1]
    assert torch.allclose(logits[tokens.attention_mask == 1], own[tokens.attention_mask == 1], atol=1e-5)
    assert (logits[0, 0] - logits[1, 0]).abs().max() > 0.01  # the images tell


@pytest.mark.parametrize("options", HOW)
@pytest.mark.parametrize("side", [RESOLUTION, 48])
def test_captions_are_transformers_own(folder: Path, options: dict[str, Any], side: int) -> None:
    captioner = Captioner.load(str(folder))
    captioner.family.use_resolution(side)
    written = captioner.family.generate(image_of(captioner, side), WRITING | options)
    tokenizer = captioner.processor.tokenizer
    with torch.no_grad():
        own = captioner.network.generate(
            pixel_values=captioner.family._pixels.normalise(pixels(side)),
            input_ids=torch.full((3, 1), tokenizer.cls_token_id),
            interpolate_pos_encoding=True,
            **WRITING,
            **options,
        )
    assert written == tokenizer.batch_decode(own, skip_special_tokens=True)
    assert len(set(written)) >= 3


def test_greedy_captions_are_the_likeliest_tokens_of_the_trained_logits(captioner: Captioner) -> None:
    tokenizer, image = captioner.processor.tokenizer, image_of(captioner)
    row = [tokenizer.cls_token_id]
    for _ in range(9):
        tokens = captioner.family.tokenize([""], 64)
        ids = torch.tensor([row])
        tokens = type(tokens)(ids, torch.ones_like(ids), torch.full_like(ids, IGNORED))
        with torch.no_grad():
            row.append(int(captioner.family.logits(image[:1], tokens)[0, -1].argmax()))
    assert captioner.family.generate(image[:1], WRITING) == [tokenizer.decode(row, skip_special_tokens=True)]


def test_pixels_reach_the_network_as_the_processor_would_bring_them(captioner: Captioner) -> None:
    expected = captioner.processor.image_processor(pictures(), return_tensors="pt").pixel_values
    assert torch.allclose(captioner.family._pixels.normalise(pixels()), expected, atol=1e-5)


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
    start = captioner.processor.tokenizer(["a photo of"] * 3, return_tensors="pt").input_ids[:, :-1]
    own = captioner.network.generate(
        pixel_values=captioner.family._pixels.normalise(pixels()), input_ids=start, num_beams=3, **WRITING
    )
    texts = captioner.processor.tokenizer.batch_decode(own[:, 4:], skip_special_tokens=True)
    assert captioner.family.generate(image_of(captioner), WRITING | {"num_beams": 3}) == texts


def test_a_long_caption_is_cut_and_still_ends(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(["a beach " * 50, "a beach"], 6)
    spelled = captioner.processor.tokenizer.convert_ids_to_tokens
    assert spelled(tokens.input_ids[0].tolist()) == ["[CLS]", "a", "beach", "a", "beach"]
    assert spelled(tokens.targets[0].tolist()) == ["a", "beach", "a", "beach", "[SEP]"]
    assert losses(captioner, ("a beach " * 100, "a beach", "")).isfinite().all()


def test_a_caption_that_spells_a_special_token_does_not_end_there(captioner: Captioner) -> None:
    targets = captioner.family.tokenize(["a [SEP] beach"], 64).targets[0]
    assert int((targets == captioner.processor.tokenizer.sep_token_id).sum()) == 1


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    together = losses(captioner, UNEQUAL)
    alone = torch.cat([losses(captioner, UNEQUAL, slice(index, index + 1)) for index in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_the_linear_maps_of_decoder_bridge_and_tower(captioner: Captioner, preset: str) -> None:
    pattern = Git.lora_presets[preset]
    linear = [name for name, module in captioner.network.named_modules() if isinstance(module, torch.nn.Linear)]
    matched = [name for name, _ in captioner.network.named_modules() if re.fullmatch(pattern, name)]
    assert set(matched) <= set(linear)
    tops = [name.split(".")[1] for name in matched]
    assert tuple(tops.count(part) for part in ("encoder", "visual_projection", "image_encoder")) == PRESETS[preset]
    assert len(tops) == sum(PRESETS[preset])


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
    changed = {name: tensor for name, tensor in captioner.network.state_dict().items() if ".lora_" not in name}
    assert {name.replace(".base_layer", "") for name in changed} == set(before)
    assert all(torch.equal(tensor, before[name.replace(".base_layer", "")]) for name, tensor in changed.items())
    trained = [parameter for name, parameter in adapter.parameters.items() if ".lora_B." in name]
    assert len(trained) == sum(PRESETS[preset])
    assert all(parameter.isfinite().all() and parameter.abs().max() > 0 for parameter in trained)
    adapter.save(tmp_path / "adapter")
    again = Captioner.load(str(folder), tmp_path / "adapter")
    settings = CaptioningSettings(max_new_tokens=9)
    assert again.caption(pictures(), settings) == captioner.caption(pictures(), settings)
    assert again.caption(pictures(), settings) != Captioner.load(str(folder)).caption(pictures(), settings)


def test_what_the_tower_said_before_serves_as_well_as_pixels(folder: Path) -> None:
    captioner = Captioner.load(str(folder))
    captioner.attach(LoraSettings(rank=2, targets="text_decoder"), Seeds(0))
    kept = captioner.encode(pixels())
    assert kept.shape == (3, PLACES, 32)  # the bridge is frozen too
    with torch.no_grad():
        from_kept = captioner.loss(Batch(pixels()[..., :0, :0], UNEQUAL, UNEQUAL, features=kept), Seeds(0).generator("unused"))
    assert torch.equal(from_kept, losses(captioner, UNEQUAL))


def test_it_works_in_bfloat16(folder: Path, captioner: Captioner) -> None:
    half = Captioner.load(str(folder), dtype="bfloat16")
    assert half.network.dtype == torch.bfloat16
    assert half.family.encode(pixels()).dtype == torch.bfloat16
    assert torch.allclose(losses(half, UNEQUAL), losses(captioner, UNEQUAL), rtol=0.05)
    half.attach(LoraSettings(rank=2), Seeds(0))
    assert losses(half, UNEQUAL).isfinite().all()
    assert len(half.caption(pictures(), CaptioningSettings(max_new_tokens=3))) == 3


def test_the_hooks_that_loading_in_four_bits_leaves_change_nothing(folder: Path, captioner: Captioner) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    hooked = Captioner.load(str(folder))
    modules = [hooked.network, hooked.network.git, hooked.network.git.image_encoder]
    for module in modules:
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert torch.equal(losses(hooked, UNEQUAL), losses(captioner, UNEQUAL))
    assert hooked.family.generate(image_of(hooked), WRITING) == captioner.family.generate(image_of(captioner), WRITING)


def test_writing_leaves_the_network_as_it_was(captioner: Captioner) -> None:
    parts = dict(captioner.network.named_modules())
    captioner.caption(pictures(), CaptioningSettings(max_new_tokens=2))
    assert dict(captioner.network.named_modules()) == parts
    assert isinstance(captioner.network.git.image_encoder, torch.nn.Module)
    assert "image_encoder" not in captioner.network.git.__dict__


def test_other_squares_are_seen_with_interpolated_positions(folder: Path) -> None:
    captioner = Captioner.load(str(folder))
    with pytest.raises(ConfigError, match=r"^--images.resolution 36: this GIT sees patches of 8; give a multiple of that\.$"):
        captioner.family.use_resolution(36)
    assert captioner.resolution == RESOLUTION
    captioner.family.use_resolution(48)
    assert captioner.resolution == 48
    tokens = captioner.family.tokenize(UNEQUAL, 64)
    with torch.no_grad():
        logits = captioner.family.logits(image_of(captioner, 48), tokens)
    own = its_own(captioner, UNEQUAL, 48).logits[:, 37:-1]
    assert torch.allclose(logits[tokens.attention_mask == 1], own[tokens.attention_mask == 1], atol=1e-4)


def test_a_model_for_videos_is_refused(captioner: Captioner) -> None:
    network = copy.copy(captioner.network)
    network.config = copy.deepcopy(network.config)
    network.config.num_image_with_embedding = 6
    with pytest.raises(
        ConfigError, match=r"^--model.name: this GIT reads videos of 6 frames; give one that is trained on single"
    ):
        Git(network, captioner.processor)


def test_a_folder_without_its_tokenizer_is_explained(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if "token" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        UnavailableError, match=r"the files of its tokenizer are not here; copy or download all of the model again"
    ):
        Captioner.load(str(tmp_path))
