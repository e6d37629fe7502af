"""Florence-2 as a captioner: cut in three it computes what the network does, its encoder reads image and prompt."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.captioners.build_florence2 import build
from PIL import Image
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED, Family
from skygen.models.captioners.florence2 import PROMPT, Florence2
from skygen.seeding import Seeds

SIDE = 64  # eight by eight patches, so that the windows of three by three are not all full
EQUAL = ("a river with a bridge", "a beach near the sea", "a road beside the sea")
UNEQUAL = ("", "a beach", "three storage tanks beside a railway station with many tracks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("florence") / "florence"
    build(path)
    return path


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return load(folder)


def load(folder: Path, **options: Any) -> Captioner:
    return Captioner.load(str(folder), **options)


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


def own_inputs(captioner: Captioner, count: int = 3) -> Any:
    """What transformers' own processor makes of images and the task."""
    return captioner.processor(text=[PROMPT] * count, images=squares(count), return_tensors="pt")


def test_the_families_list_leads_here(captioner: Captioner, folder: Path) -> None:
    assert isinstance(captioner.family, Florence2)
    assert isinstance(captioner.family, Family)
    assert captioner.resolution == SIDE
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_pixels_reach_the_network_as_the_processor_would_bring_them(captioner: Captioner) -> None:
    expected = captioner.processor.image_processor(squares(), return_tensors="pt").pixel_values
    assert torch.allclose(captioner.family._pixels.normalise(pixels()), expected, atol=1e-5)


@pytest.mark.parametrize("side", [32, 64, 80])
def test_tower_and_bridge_give_the_networks_own_places(captioner: Captioner, side: int) -> None:
    captioner.family.use_resolution(side)
    with torch.no_grad():
        own = captioner.network.get_image_features(captioner.family._pixels.normalise(pixels(2, side))).pooler_output
        features = captioner.family.encode(pixels(2, side))
        found = captioner.family.project(features)
    captioner.family.use_resolution(SIDE)
    assert features.shape == (2, (side // 8) ** 2, 32)
    assert found.shape == (2, (side // 8) ** 2 + 1, 32)
    assert torch.equal(found, own)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_the_encoder_reads_what_the_processor_writes(captioner: Captioner) -> None:
    own = own_inputs(captioner, 1)
    assert captioner.family._prompt_tokens(65) == own.input_ids[0].tolist()
    assert own.attention_mask.all()
    assert own.input_ids[0].tolist().count(captioner.network.config.image_token_id) == 65
    words = captioner.processor.tokenizer.decode(own.input_ids[0, 65:])
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
        written = captioner.network.generate(**own_inputs(captioner, 1), max_new_tokens=4)
    assert written[0, :2].tolist() == [start, begin]


@pytest.mark.parametrize("captions", [EQUAL, UNEQUAL])
def test_logits_are_the_networks_own_with_padding_too(captioner: Captioner, captions: tuple[str, ...]) -> None:
    tokens = captioner.family.tokenize(captions, 64)
    with torch.no_grad():
        own = captioner.network(**own_inputs(captioner), decoder_input_ids=tokens.input_ids).logits
        found = captioner.family.logits(captioner.family.project(captioner.family.encode(pixels())), tokens)
        other = captioner.family.logits(captioner.family.project(captioner.family.encode(-pixels())), tokens)
    there = tokens.attention_mask.bool()[:, tokens.prompt_length :]
    assert int(there.sum()) >= 3 * 5
    assert torch.allclose(found[there], own[:, tokens.prompt_length :][there], atol=1e-4)
    assert (found - other).abs().max() > 0.01


def test_the_loss_is_transformers_own(captioner: Captioner) -> None:
    """Transformers shifts the labels from its decoder's start token, and <s> is one of them; here it is given."""
    rows = captioner.processor.tokenizer(list(EQUAL), return_tensors="pt", padding=True)
    assert rows.attention_mask.all()  # of equal length: else the mean over tokens is not that over examples
    start = torch.full((3, 1), captioner.network.config.text_config.decoder_start_token_id)
    inputs = torch.cat([start, rows.input_ids[:, :-1]], dim=1)
    labels = rows.input_ids.clone()
    labels[:, 0] = IGNORED
    with torch.no_grad():
        expected = captioner.network(**own_inputs(captioner), decoder_input_ids=inputs, labels=labels).loss
    assert float(loss(captioner, EQUAL).mean()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams", "two"]
)
def test_captions_are_the_networks_own(captioner: Captioner, options: dict[str, int]) -> None:
    with torch.inference_mode():
        expected = captioner.network.generate(**own_inputs(captioner), **options, do_sample=False, max_new_tokens=8)
        image = captioner.family.project(captioner.family.encode(pixels()))
        found = captioner.family.generate(image, {**options, "do_sample": False, "max_new_tokens": 8})
    texts = captioner.processor.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert len(found) == 3 * options.get("num_return_sequences", 1)
    assert found == [text.strip() for text in texts]
    assert len(set(found)) >= 2


def test_the_start_that_training_gives_is_given_in_writing_too(folder: Path) -> None:
    """Where a model's own settings leave <s> to the model, ``generate`` is made to write it all the same."""
    captioner, settings = load(folder), CaptioningSettings(max_new_tokens=6)
    written = captioner.caption(squares(), settings)
    captioner.network.generation_config.forced_bos_token_id = None
    with torch.inference_mode():
        free = captioner.network.generate(**own_inputs(captioner), max_new_tokens=2)
    assert (free[:, 1] != captioner.processor.tokenizer.bos_token_id).any()
    assert captioner.caption(squares(), settings) == written


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    together = loss(captioner, UNEQUAL)
    rows = [Batch(pixels()[i : i + 1], UNEQUAL[i : i + 1], UNEQUAL[i : i + 1]) for i in range(3)]
    with torch.no_grad():
        alone = torch.cat([captioner.loss(row, Seeds(0).generator("unused")) for row in rows])
    assert together.shape == (3,)
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


def test_a_long_caption_is_cut_and_still_ends(captioner: Captioner) -> None:
    cut = captioner.family.tokenize(("a beach" + " sea" * 99,), 6)
    end = captioner.network.config.text_config.eos_token_id
    assert cut.input_ids.shape == cut.targets.shape == (1, 6)  # a start token, <s> and four words, and these and </s>
    assert int((cut.targets != IGNORED).sum()) == 5
    assert int(cut.targets[0, -1]) == end == captioner.processor.tokenizer.eos_token_id


def test_a_caption_that_spells_special_tokens_has_none(captioner: Captioner) -> None:
    hostile = ("a <image> sign", "a </s> sign", "a beach")
    tokens = captioner.family.tokenize(hostile, 64)
    assert not (tokens.input_ids == captioner.network.config.image_token_id).any()
    assert (tokens.targets == captioner.network.config.text_config.eos_token_id).sum(dim=1).tolist() == [1, 1, 1]
    assert loss(captioner, hostile).isfinite().all()


def test_the_prompt_may_be_another_task_or_sentence_or_none(folder: Path) -> None:
    prompts = (None, "<DETAILED_CAPTION>", "a road", "")
    asked = {prompt: load(folder, prompt=prompt) for prompt in prompts}
    losses = {prompt: loss(captioner, EQUAL) for prompt, captioner in asked.items()}
    assert [captioner.family.prompt for captioner in asked.values()] == [PROMPT, *prompts[1:]]
    assert len({float(each.mean()) for each in losses.values()}) == 4
    texts = [captioner.processor.tokenizer.decode(captioner.family._prompt_tokens(0)) for captioner in asked.values()]
    assert texts[1:] == ["<s>Describe in detail what is shown in the image.</s>", "<s>a road</s>", "<s></s>"]


def test_a_prompt_that_the_processor_refuses_is_explained(folder: Path) -> None:
    sentence = "--model.prompt see <image>: <image> stands for the image itself; leave it out."
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        load(folder, prompt="see <image>")
    sentence = (
        "--model.prompt <CAPTION> of roads: a task goes alone; give one of <OCR>, <OCR_WITH_REGION>, <CAPTION>, "
        "<DETAILED_CAPTION>, <MORE_DETAILED_CAPTION>, <OD>, <DENSE_REGION_CAPTION>, <REGION_PROPOSAL>, or a sentence."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        load(folder, prompt="<CAPTION> of roads")


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


def test_the_largest_size_that_is_allowed_can_be_read(captioner: Captioner) -> None:
    captioner.family.use_resolution(80)
    batch = Batch(pixels(3, 80), UNEQUAL, UNEQUAL)
    with torch.no_grad():
        losses = captioner.loss(batch, Seeds(0).generator("unused"))
    captioner.family.use_resolution(SIDE)
    assert losses.isfinite().all()


@pytest.mark.parametrize(
    ("preset", "text", "bridge", "vision"),
    [("text_decoder", 32, 0, 0), ("text_decoder_and_bridge", 32, 1, 0), ("all", 32, 1, 16)],
)
def test_presets_name_the_linear_layers(captioner: Captioner, preset: str, text: int, bridge: int, vision: int) -> None:
    linear = [name for name, module in captioner.network.named_modules() if isinstance(module, torch.nn.Linear)]
    found = [name for name in linear if re.fullmatch(captioner.family.lora_presets[preset], name)]
    parts = Counter(re.sub(r"model\.(language_model|multi_modal_projector|vision_tower)\..*", r"\1", name) for name in found)
    assert parts == Counter({"language_model": text, "multi_modal_projector": bridge, "vision_tower": vision})
    every = [name for name, _ in captioner.network.named_modules()]
    assert len([name for name in every if re.fullmatch(captioner.family.lora_presets[preset], name)]) == len(found)
    if preset == "all":
        assert set(linear) - set(found) == {"lm_head"}


@pytest.mark.parametrize(("preset", "frozen"), [("text_decoder", 65), ("text_decoder_and_bridge", 64), ("all", 64)])
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
    assert len(grown) == {"text_decoder": 32, "text_decoder_and_bridge": 33, "all": 49}[preset]
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
