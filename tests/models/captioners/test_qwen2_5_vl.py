"""Qwen2.5-VL as a captioner: cut in three it computes what the network does, and keeps nothing from batch to batch."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.captioners.build_qwen2_5_vl import build
from PIL import Image
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED, Family
from skygen.models.captioners.qwen2_5_vl import CHAT, PROMPT, Qwen25Vl
from skygen.seeding import Seeds

SIDE = 84  # three by three places, so that the windows of two by two are not all full
EQUAL = ("a river with a bridge", "a beach near the sea", "a road beside the sea")
UNEQUAL = ("", "a beach", "three storage tanks beside a railway station with many tracks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen") / "qwen"
    build(path)
    return path


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return load(folder)


def load(folder: Path, **options: Any) -> Captioner:
    captioner = Captioner.load(str(folder), **options)
    captioner.family.use_resolution(SIDE)
    return captioner


def squares(count: int = 3, side: int = SIDE) -> list[Image.Image]:
    draw = Seeds(0).numpy("pictures")
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(count: int = 3, side: int = SIDE) -> Tensor:
    return torch.stack([image_to_tensor(square) for square in squares(count, side)])


def batch_of(captions: tuple[str, ...]) -> Batch:
    return Batch(pixels(len(captions)), captions, captions)


def loss(captioner: Captioner, captions: tuple[str, ...]) -> Tensor:
    with torch.no_grad():
        return captioner.loss(batch_of(captions), Seeds(0).generator("unused"))


def own_inputs(captioner: Captioner, captions: tuple[str, ...] | None, count: int = 3) -> Any:
    """What transformers' own processor makes of images and chats."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    processor = captioner.processor
    if captions is None:
        texts = [processor.apply_chat_template(turns, add_generation_prompt=True)] * count
    else:
        answers = [{"role": "assistant", "content": [{"type": "text", "text": caption}]} for caption in captions]
        texts = [processor.apply_chat_template([*turns, answer]) for answer in answers]
    return processor(text=texts, images=squares(len(texts)), padding=True, padding_side="right", return_tensors="pt")


def test_the_families_list_leads_here(captioner: Captioner, folder: Path) -> None:
    assert isinstance(captioner.family, Qwen25Vl)
    assert isinstance(captioner.family, Family)
    assert Captioner.load(str(folder)).resolution == 448
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_pixels_are_cut_as_the_processor_cuts_them(captioner: Captioner) -> None:
    own = captioner.processor.image_processor(squares(), return_tensors="pt")
    patches = captioner.family._patchify(captioner.family._pixels.normalise(pixels()))
    assert patches.shape == (3, 36, 2 * 3 * 14 * 14)
    assert torch.allclose(patches.flatten(0, 1), own.pixel_values, atol=1e-5)
    assert torch.equal(captioner.family._grids(3), own.image_grid_thw)


@pytest.mark.parametrize("side", [56, 84, 140])
def test_tower_and_bridge_give_the_networks_own_places(captioner: Captioner, side: int) -> None:
    own = captioner.processor.image_processor(squares(2, side), return_tensors="pt")
    captioner.family.use_resolution(side)
    with torch.no_grad():
        expected = torch.stack(captioner.network.get_image_features(**own).pooler_output)
        features = captioner.family.encode(pixels(2, side))
        found = captioner.family.project(features)
    captioner.family.use_resolution(SIDE)
    assert features.shape == (2, (side // 14) ** 2, 32)
    assert found.shape == (2, (side // 28) ** 2, 32)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_a_caption_is_the_assistants_turn(captioner: Captioner) -> None:
    """The same tokens as transformers' chat template and processor; only caption and end of turn are targets."""
    tokenizer = captioner.processor.tokenizer
    tokens = captioner.family.tokenize(("a beach near the sea", "a beach"), 64)
    own = own_inputs(captioner, ("a beach near the sea", "a beach"))
    length = int(tokens.attention_mask[0].sum())
    assert torch.equal(tokens.input_ids[0], own.input_ids[0, :length])
    assert tokenizer.convert_ids_to_tokens(own.input_ids[0, length:]) == ["<|im_end|>", "Ċ"]
    caption = tokenizer.convert_tokens_to_ids(["a", "Ġbeach", "Ġnear", "Ġthe", "Ġsea", "<|im_end|>"])
    assert tokens.targets[0].tolist() == [IGNORED] * (length - 6) + caption
    assert tokens.targets[1].tolist() == [IGNORED] * (length - 6) + [*caption[:2], caption[-1]] + [IGNORED] * 3
    assert tokens.attention_mask[1].tolist() == [1] * (length - 3) + [0] * 3
    assert torch.equal(tokens.targets[0, :-1][-5:], tokens.input_ids[0, 1:][-5:])
    assert Counter(tokens.input_ids[0].tolist())[captioner.network.config.image_token_id] == 9
    text = tokenizer.decode(tokens.input_ids[0, : length - 5])
    assert text.endswith("<|vision_end|>" + PROMPT + "<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("captions", [EQUAL, UNEQUAL])
def test_logits_are_the_networks_own_with_padding_too(captioner: Captioner, captions: tuple[str, ...]) -> None:
    tokens = captioner.family.tokenize(captions, 64)
    own = own_inputs(captioner, captions)
    with torch.no_grad():
        expected = captioner.network(**own).logits[:, : tokens.input_ids.shape[1]]
        captioner.network.model.rope_deltas = None
        found = captioner.family.logits(captioner.family.project(captioner.family.encode(pixels())), tokens)
    there = tokens.attention_mask.bool()[:, tokens.prompt_length :]
    assert int(there.sum()) >= 3 * 5
    assert torch.allclose(found[there], expected[:, tokens.prompt_length :][there], atol=1e-4)
    assert captioner.network.model.rope_deltas is None


def test_the_loss_is_transformers_own(captioner: Captioner) -> None:
    own = own_inputs(captioner, EQUAL)
    assert own.attention_mask.all()  # of equal length: else the mean over tokens is not that over examples
    labels = own.input_ids.clone()
    targets = captioner.family.tokenize(EQUAL, 64).targets
    labels[:, 1:][:, : targets.shape[1]] = targets
    labels[:, [0, -1]] = IGNORED  # the line feed after the turn
    with torch.no_grad():
        expected = captioner.network(**own, labels=labels).loss
        captioner.network.model.rope_deltas = None
    assert float(loss(captioner, EQUAL).mean()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams", "two"]
)
def test_captions_are_the_networks_own(captioner: Captioner, options: dict[str, int]) -> None:
    own = own_inputs(captioner, None)
    with torch.inference_mode():
        expected = captioner.network.generate(**own, **options, do_sample=False, max_new_tokens=8)[:, own.input_ids.shape[1] :]
        image = captioner.family.project(captioner.family.encode(pixels()))
        found = captioner.family.generate(image, {**options, "do_sample": False, "max_new_tokens": 8})
    texts = captioner.processor.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert len(found) == 3 * options.get("num_return_sequences", 1)
    assert found == [text.strip() for text in texts]
    assert len(set(found)) >= 2


def test_nothing_is_kept_between_writing_and_training(captioner: Captioner) -> None:
    """The network caches how far a batch's positions are ahead of its tokens; the next batch has other sizes."""
    before = loss(captioner, EQUAL)
    written = captioner.caption(squares(2), CaptioningSettings(max_new_tokens=4))
    assert captioner.network.model.rope_deltas is None
    assert torch.equal(loss(captioner, EQUAL), before)
    captioner.family.use_resolution(56)
    captioner.caption(squares(1), CaptioningSettings(max_new_tokens=4))
    captioner.family.use_resolution(SIDE)
    assert torch.equal(loss(captioner, EQUAL), before)
    assert captioner.caption(squares(2), CaptioningSettings(max_new_tokens=4)) == written
    assert len(written) == 2


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    together = loss(captioner, UNEQUAL)
    rows = [Batch(pixels()[i : i + 1], UNEQUAL[i : i + 1], UNEQUAL[i : i + 1]) for i in range(3)]
    with torch.no_grad():
        alone = torch.cat([captioner.loss(row, Seeds(0).generator("unused")) for row in rows])
    assert together.shape == (3,)
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


def test_a_long_caption_is_cut_and_still_ends(captioner: Captioner) -> None:
    (whole,), (cut,) = (captioner.family.tokenize((text,), 6).targets for text in ("a beach", "a beach" + " sea" * 99))
    prompt = int((whole == IGNORED).sum()) + 1
    assert int((cut != IGNORED).sum()) == 6
    assert len(cut) == prompt - 1 + 6
    end = captioner.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int(cut[-1]) == int(whole[-1]) == end == captioner.processor.tokenizer.eos_token_id
    assert end in captioner.network.generation_config.eos_token_id


def test_a_caption_that_spells_special_tokens_has_none(captioner: Captioner) -> None:
    hostile = ("a <|image_pad|> sign", "a <|im_end|> sign", "a beach")
    places = captioner.family.tokenize(hostile, 64).input_ids == captioner.network.config.image_token_id
    assert places.sum(dim=1).tolist() == [9, 9, 9]
    assert loss(captioner, hostile).isfinite().all()


def test_the_prompt_may_be_another_one_or_none(folder: Path) -> None:
    asked = {prompt: load(folder, prompt=prompt) for prompt in (None, "a road", "")}
    losses = {prompt: loss(captioner, EQUAL) for prompt, captioner in asked.items()}
    assert [captioner.family.prompt for captioner in asked.values()] == [PROMPT, "a road", ""]
    assert len({float(each.mean()) for each in losses.values()}) == 3
    text = asked[""].processor.tokenizer.decode(asked[""].family._prompt_tokens())
    assert text.endswith("<|vision_end|><|im_end|>\n<|im_start|>assistant\n")
    sentence = "--model.prompt see <|image_pad|>: <|image_pad|> stands for the image itself; leave it out."
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        load(folder, prompt="see <|image_pad|>")


def test_without_a_chat_template_the_documented_turns_are_written(folder: Path) -> None:
    captioner = load(folder)
    captioner.processor.chat_template = None
    text = captioner.processor.tokenizer.decode(captioner.family._prompt_tokens())
    assert text == CHAT.format(image="<|image_pad|>" * 9, prompt=PROMPT)
    assert loss(captioner, EQUAL).isfinite().all()


def test_sizes_without_whole_places_are_refused(captioner: Captioner) -> None:
    sentence = (
        "--images.resolution 70: this Qwen2.5-VL sees squares of 28 pixels, two by two patches each; give a multiple of that."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        captioner.family.use_resolution(70)
    with pytest.raises(ConfigError, match="give a multiple of that"):
        captioner.family.use_resolution(0)
    assert captioner.resolution == SIDE


@pytest.mark.parametrize(
    ("preset", "text", "bridge", "vision"),
    [("text_decoder", 14, 0, 0), ("text_decoder_and_bridge", 14, 2, 0), ("all", 14, 2, 10)],
)
def test_presets_name_the_linear_layers(captioner: Captioner, preset: str, text: int, bridge: int, vision: int) -> None:
    linear = [name for name, module in captioner.network.named_modules() if isinstance(module, torch.nn.Linear)]
    found = [name for name in linear if re.fullmatch(captioner.family.lora_presets[preset], name)]
    parts = Counter(re.sub(r"model\.(language_model|visual\.merger|visual)\..*", r"\1", name) for name in found)
    assert parts == Counter({"language_model": text, "visual.merger": bridge, "visual": vision})
    every = [name for name, _ in captioner.network.named_modules()]
    assert len([name for name in every if re.fullmatch(captioner.family.lora_presets[preset], name)]) == len(found)
    if preset == "all":
        assert set(linear) - set(found) == {"lm_head"}


@pytest.mark.parametrize(("preset", "frozen"), [("text_decoder", 9), ("text_decoder_and_bridge", 36), ("all", 36)])
def test_two_steps_train_the_adapter_alone(folder: Path, preset: str, frozen: int) -> None:
    captioner = load(folder)
    before = {name: tensor.clone() for name, tensor in captioner.network.state_dict().items()}
    adapter = captioner.attach(LoraSettings(rank=2, targets=preset), Seeds(0), base=str(folder))
    assert captioner.encoder_is_frozen == (preset != "all")
    assert captioner.encode(pixels(1)).shape == (1, frozen, 32)
    captioner.network.train()
    optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        each = captioner.loss(batch_of(UNEQUAL), Seeds(0).generator("unused"))
        losses.append(float(each.detach().mean()))
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    after = {name.replace(".base_layer.", "."): tensor for name, tensor in captioner.network.state_dict().items()}
    assert before
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    grown = [parameter for name, parameter in adapter.parameters.items() if "lora_B" in name]
    assert len(grown) == {"text_decoder": 14, "text_decoder_and_bridge": 16, "all": 26}[preset]
    assert all(parameter.isfinite().all() and parameter.abs().sum() > 0 for parameter in adapter.parameters.values())
    assert all(parameter.abs().max() > 1e-3 for parameter in grown)
    assert losses[2] < losses[0]


def test_what_the_frozen_part_gives_may_be_kept(folder: Path) -> None:
    captioner = load(folder)
    captioner.attach(LoraSettings(rank=2, targets="text_decoder_and_bridge"), Seeds(0), base=str(folder))
    batch = batch_of(UNEQUAL)
    kept = Batch(batch.pixels[..., :0, :0], batch.captions, batch.keys, features=captioner.encode(batch.pixels))
    with torch.no_grad():
        assert torch.equal(captioner.loss(kept, Seeds(0).generator("unused")), loss(captioner, UNEQUAL))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_precision(folder: Path, dtype: str) -> None:
    captioner = load(folder, dtype=dtype)
    expected = loss(captioner, UNEQUAL)
    adapter = captioner.attach(LoraSettings(rank=2, targets="all"), Seeds(0), base=str(folder))
    captioner.network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = captioner.loss(batch_of(UNEQUAL), Seeds(0).generator("unused"))
    found.mean().backward()
    assert torch.allclose(found.detach(), expected, rtol=0.3)  # dropout is on
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in adapter.parameters.values())


def test_half_precision(folder: Path) -> None:
    captioner, whole = load(folder, dtype="bfloat16"), load(folder)
    features = captioner.family.encode(pixels())
    assert features.dtype == captioner.network.dtype == torch.bfloat16
    assert torch.allclose(loss(captioner, UNEQUAL), loss(whole, UNEQUAL), rtol=0.05)
    adapter = captioner.attach(LoraSettings(rank=2), Seeds(0), base=str(folder))
    captioner.loss(batch_of(UNEQUAL), Seeds(0).generator("unused")).mean().backward()
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in adapter.parameters.values())
    assert len(captioner.caption(squares(), CaptioningSettings(max_new_tokens=4))) == 3


def test_a_saved_adapter_writes_the_same_captions(folder: Path, tmp_path: Path) -> None:
    captioner = load(folder, prompt="a road")
    plain = captioner.caption(squares(), CaptioningSettings(max_new_tokens=6))
    adapter = captioner.attach(LoraSettings(rank=2, targets="all"), Seeds(0), base=str(folder))
    for parameter in adapter.parameters.values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=Seeds(1).generator("adapter"))
    adapter.save(tmp_path / "adapter")
    written = captioner.caption(squares(), CaptioningSettings(max_new_tokens=6))
    again = Captioner.load(str(folder), tmp_path / "adapter")
    assert (again.resolution, again.family.prompt) == (SIDE, "a road")
    assert again.caption(squares(), CaptioningSettings(max_new_tokens=6)) == written
    assert written != plain


def test_a_model_without_its_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    sentence = f"{tmp_path / 'bare'}: the files of its tokenizer are not here; copy or download all of the model again."
    with pytest.raises(UnavailableError, match=f"^{re.escape(sentence)}$"):
        Captioner.load(str(tmp_path / "bare"))
