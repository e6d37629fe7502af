"""The family PaliGemma, with Gemma and with Gemma 2: it computes what transformers computes from pixels, prefix and suffix."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.captioners.build_paligemma import PLACES, RESOLUTION, build, build_second
from PIL import Image
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED, Family
from skygen.models.captioners.paligemma import PROMPT, PaliGemma
from skygen.seeding import Seeds

EQUAL = ("a river and a beach", "a beach and a road", "a road and a river")
UNEQUAL = ("", "a beach", "several storage tanks beside a railway station")
# PaliGemmaProcessor hands tensors to np.array, which asks torch for a keyword that it does not know
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

BUILDERS = {"gemma": build, "gemma2": build_second}
PRESETS = {"text_decoder": (14, 0, 0), "text_decoder_and_bridge": (14, 1, 0), "all": (14, 1, 12)}


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / str(request.param)
    BUILDERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return Captioner.load(str(folder))


def pictures(count: int = 3, side: int = RESOLUTION) -> list[Image.Image]:
    draw = Seeds(0).numpy("pictures")
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(images: list[Image.Image]) -> Tensor:
    return torch.stack([image_to_tensor(image) for image in images])


def batch(captions: tuple[str, ...], rows: slice = slice(None)) -> Batch:
    return Batch(pixels(pictures(len(captions)))[rows], captions[rows], captions[rows])


def losses(captioner: Captioner, captions: tuple[str, ...], rows: slice = slice(None)) -> Tensor:
    with torch.no_grad():
        return captioner.loss(batch(captions, rows), Seeds(0).generator("unused"))


def prepare(captioner: Captioner, captions: tuple[str, ...] | None, images: list[Image.Image], **options: Any) -> Any:
    """Let the processor itself make a network's inputs, of the prefix alone or with suffixes."""
    inputs = captioner.processor(
        images=images,
        text=[f"<image>{captioner.family.prompt}"] * len(images),
        suffix=None if captions is None else list(captions),
        padding=True,
        padding_side="right",
        return_tensors="pt",
        **options,
    )
    inputs["token_type_ids"][inputs.attention_mask == 0] = 1  # the tokenizer calls padding prefix; nothing may see it
    return inputs


def image_of(family: Family, images: list[Image.Image]) -> Tensor:
    with torch.no_grad():
        return family.project(family.encode(pixels(images)))


def train(captioner: Captioner, trained: Any, learning_rate: float) -> list[float]:
    optimizer = torch.optim.AdamW(list(trained.parameters.values()), lr=learning_rate)
    history = []
    for _ in range(2):
        loss = captioner.loss(batch(UNEQUAL), Seeds(0).generator("unused")).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(loss.detach()))
    return history


def test_the_folder_is_loaded_with_its_own_decoder(folder: Path, captioner: Captioner) -> None:
    assert captioner.network.config.text_config.model_type == folder.name
    assert isinstance(captioner.family, PaliGemma)
    assert isinstance(captioner.family, Family)
    assert captioner.family.prompt == PROMPT == "caption en"
    assert captioner.resolution == RESOLUTION


def test_the_projected_features_are_the_networks_own(captioner: Captioner) -> None:
    inputs = prepare(captioner, EQUAL, pictures())
    with torch.no_grad():
        own = captioner.network.get_image_features(inputs.pixel_values).pooler_output
    image = image_of(captioner.family, pictures())
    assert image.shape == (3, PLACES, captioner.network.config.text_config.hidden_size)
    assert torch.allclose(image, own, atol=1e-5)


def test_the_loss_is_the_networks_own(captioner: Captioner) -> None:
    inputs = prepare(captioner, EQUAL, pictures())
    assert inputs.attention_mask.all()  # of equal length: else the mean over tokens is not that over examples
    assert inputs.labels[0, :PLACES].tolist() == [IGNORED] * PLACES
    with torch.no_grad():
        own = captioner.network(**inputs).loss
    assert float(losses(captioner, EQUAL).mean()) == pytest.approx(float(own), abs=1e-5)


def test_padded_logits_are_the_networks_own(captioner: Captioner) -> None:
    inputs = prepare(captioner, UNEQUAL, pictures())
    tokens = captioner.family.tokenize(UNEQUAL, 64)
    kept = tokens.attention_mask.bool()
    whole = inputs.attention_mask.clone()
    whole.scatter_(1, whole.sum(dim=1, keepdim=True) - 1, 0)  # the last token of each is read by none
    assert torch.equal(tokens.attention_mask, whole[:, :-1])
    assert torch.equal(tokens.input_ids[kept], inputs.input_ids[whole.bool()])
    assert torch.equal(tokens.targets[kept], inputs.labels[:, 1:][kept])
    assert int((~kept).sum()) > 0
    with torch.no_grad():
        own = captioner.network(**inputs).logits[:, :-1]
        logits = captioner.family.logits(image_of(captioner.family, pictures()), tokens)
    kept = kept[:, tokens.prompt_length :]
    assert torch.allclose(logits[kept], own[:, tokens.prompt_length :][kept], atol=1e-4)


def test_the_prefix_sees_itself_whole_and_the_suffix_what_is_before_it(captioner: Captioner) -> None:
    """Another last token of the caption changes no earlier logits; another prompt changes those of every place."""
    image = image_of(captioner.family, pictures(1))
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


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_it_writes_what_the_network_writes(captioner: Captioner, options: dict[str, int]) -> None:
    inputs = prepare(captioner, None, pictures())
    del inputs["labels"]
    assert not inputs.token_type_ids.any()
    with torch.no_grad():
        written = captioner.network.generate(**inputs, max_new_tokens=9, do_sample=False, **options)
        own = captioner.processor.batch_decode(written[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        captions = captioner.family.generate(
            image_of(captioner.family, pictures()), {"max_new_tokens": 9, "do_sample": False, **options}
        )
    assert captions == [text.strip() for text in own]
    assert len(captions) == 3 * options.get("num_return_sequences", 1)
    assert len(set(captions)) > 1  # the image matters


def test_it_writes_what_its_logits_say(captioner: Captioner) -> None:
    """Greedy writing, token by token with a cache, is the same as the logits of the whole."""
    image = image_of(captioner.family, pictures(1))
    with torch.no_grad():
        (caption,) = captioner.family.generate(image, {"max_new_tokens": 4, "do_sample": False})
        tokens = captioner.family.tokenize([caption], 64)
        logits = captioner.family.logits(image, tokens)
    predicted = logits[0].argmax(dim=-1)
    assert torch.equal(tokens.targets[0] != IGNORED, torch.arange(tokens.input_ids.shape[1]) >= tokens.prompt_length)
    assert len(predicted) > 2
    wanted = tokens.targets[0][tokens.targets[0] != IGNORED]
    assert torch.equal(predicted[:-1], wanted[:-1])  # the end is the test's own, where four tokens were not the end


@pytest.mark.parametrize("own", [None, 7, [7, 8]])
def test_writing_stops_where_captions_are_trained_to_end(folder: Path, own: int | list[int] | None) -> None:
    """Also where the model's own settings name no end, or another one, as those of base models do."""
    captioner = Captioner.load(str(folder))
    captioner.network.generation_config.eos_token_id = own
    given: dict[str, Any] = {}
    write = captioner.network.generate
    captioner.network.generate = lambda **options: given.update(options) or write(**options)
    assert len(captioner.caption(pictures(1), CaptioningSettings(max_new_tokens=2))) == 1
    ends = [own] if isinstance(own, int) else own or []
    assert set(given["eos_token_id"]) == {captioner.processor.tokenizer.eos_token_id, *ends}


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


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    together = losses(captioner, UNEQUAL)
    alone = torch.cat([losses(captioner, UNEQUAL, slice(i, i + 1)) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


def test_a_long_caption_is_cut_and_the_prompt_is_not(captioner: Captioner) -> None:
    short, long = (captioner.family.tokenize(["a beach" + " and a beach" * times], 6) for times in (0, 50))
    prompt = short.input_ids.shape[1] - 2
    assert long.input_ids.shape[1] == prompt + 5
    assert torch.equal(long.input_ids[:, :prompt], short.input_ids[:, :prompt])
    ends = [row[row != IGNORED].tolist() for row in (short.targets[0], long.targets[0])]
    assert [len(end) for end in ends] == [3, 6]
    assert ends[0][-1] == ends[1][-1] == captioner.processor.tokenizer.eos_token_id


def test_a_caption_that_spells_a_special_token_is_text(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize(["a beach <image> and <eos>"], 64)
    assert int((tokens.input_ids == captioner.network.config.image_token_id).sum()) == PLACES
    assert int((tokens.targets == captioner.processor.tokenizer.eos_token_id).sum()) == 1
    assert losses(captioner, ("<image>",)).isfinite().all()


@pytest.mark.parametrize("side", [14, 42])
def test_squares_of_other_sizes_are_seen_as_the_network_sees_them(folder: Path, side: int) -> None:
    captioner = Captioner.load(str(folder))
    captioner.family.use_resolution(side)
    seen = pictures(side=side)
    values = prepare(captioner, EQUAL, seen, size={"height": side, "width": side}).pixel_values
    assert values.shape == (3, 3, side, side)
    with torch.no_grad():
        own = captioner.network.get_image_features(values, interpolate_pos_encoding=True).pooler_output
    image = image_of(captioner.family, seen)
    assert image.shape[1] == (side // 7) ** 2
    assert torch.allclose(image, own, atol=1e-5)
    assert captioner.resolution == side
    loss = captioner.loss(Batch(pixels(seen), EQUAL, EQUAL), Seeds(0).generator("unused"))
    assert loss.isfinite().all()
    assert len(captioner.caption(pictures(2), CaptioningSettings(max_new_tokens=3))) == 2
    for wrong in (20, 0):
        with pytest.raises(
            ConfigError,
            match=rf"^--images\.resolution {wrong}: this PaliGemma sees patches of 7; give a multiple of that\.$",
        ):
            captioner.family.use_resolution(wrong)


def test_prompts(folder: Path) -> None:
    tokens = {
        prompt: Captioner.load(str(folder), prompt=prompt).family.tokenize(["a beach"], 64) for prompt in (None, "", "a road")
    }
    tokenizer = Captioner.load(str(folder)).processor.tokenizer
    texts = {prompt: tokenizer.decode(value.input_ids[0, PLACES:]) for prompt, value in tokens.items()}
    assert texts == {None: "<bos>caption en\na beach", "": "<bos>\na beach", "a road": "<bos>a road\na beach"}
    with pytest.raises(ConfigError, match=r"^--model\.prompt: leave <image> out; the place of the image is put in for you\.$"):
        Captioner.load(str(folder), prompt="<image> caption en")


@pytest.mark.parametrize(("preset", "counts"), PRESETS.items())
def test_presets_adapt_the_linear_layers_they_name(folder: Path, preset: str, counts: tuple[int, int, int]) -> None:
    captioner = Captioner.load(str(folder))
    linear = {name for name, module in captioner.network.named_modules() if isinstance(module, torch.nn.Linear)}
    matched = {name for name, _ in captioner.network.named_modules() if re.fullmatch(PaliGemma.lora_presets[preset], name)}
    assert matched <= linear
    captioner.attach(LoraSettings(rank=2, targets=preset), Seeds(0), base=str(folder))
    adapted = {name.partition(".lora_A.")[0] for name, _ in captioner.network.named_parameters() if ".lora_A." in name}
    assert adapted == matched
    parts = ("model.language_model.", "model.multi_modal_projector.", "model.vision_tower.")
    assert tuple(sum(name.startswith(part) for name in adapted) for part in parts) == counts
    assert len(adapted) == sum(counts)
    assert captioner.encoder_is_frozen == (preset != "all")


@pytest.mark.parametrize("preset", PRESETS)
def test_training_changes_the_adapter_alone(folder: Path, preset: str) -> None:
    captioner = Captioner.load(str(folder))
    trained = captioner.attach(LoraSettings(rank=2, targets=preset), Seeds(0), base=str(folder))
    names = set(trained.parameters)
    before = {name: value.detach().clone() for name, value in captioner.network.named_parameters()}
    history = train(captioner, trained, 1e-2)
    after = dict(captioner.network.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == names
    assert all(value.isfinite().all() for value in after.values())
    assert history[1] < history[0]


def test_an_adapter_writes_the_same_after_it_is_saved(folder: Path, tmp_path: Path) -> None:
    captioner = Captioner.load(str(folder), prompt="a road")
    settings = CaptioningSettings(max_new_tokens=6)
    untrained = captioner.caption(pictures(), settings)
    captioner.family.use_resolution(14)
    trained = captioner.attach(LoraSettings(rank=2), Seeds(0), base=str(folder))
    optimizer = torch.optim.AdamW(list(trained.parameters.values()), lr=0.05)
    for _ in range(3):
        captioner.loss(Batch(pixels(pictures(side=14)), EQUAL, EQUAL), Seeds(0).generator("unused")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    captions = captioner.caption(pictures(), settings)
    assert captions != untrained
    trained.save(tmp_path / "adapter")
    loaded = Captioner.load(str(folder), tmp_path / "adapter")
    assert (loaded.family.prompt, loaded.resolution) == ("a road", 14)
    assert loaded.caption(pictures(), settings) == captions


def test_half_precision(folder: Path, captioner: Captioner) -> None:
    half = Captioner.load(str(folder), dtype="bfloat16")
    trained = half.attach(LoraSettings(rank=2, targets="all"), Seeds(0), base=str(folder))
    assert half.network.dtype == torch.bfloat16
    assert half.encode(pixels(pictures())).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in trained.parameters.values()} == {torch.float32}
    assert torch.allclose(losses(half, UNEQUAL), losses(captioner, UNEQUAL), rtol=0.05)
    assert all(np.isfinite(train(half, trained, 1e-3)))
    assert len(half.caption(pictures(), CaptioningSettings(max_new_tokens=3))) == 3


def test_a_saved_model_is_the_same_model(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_model(tmp_path / "copy")
    assert torch.equal(losses(Captioner.load(str(tmp_path / "copy")), EQUAL), losses(captioner, EQUAL))


@pytest.mark.parametrize("missing", ["tokenizer*", "tokenizer.json"])
def test_a_folder_without_its_tokenizer_is_explained(folder: Path, missing: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part", ignore=shutil.ignore_patterns(missing))
    expected = f"^{tmp_path / 'part'}: the files of its tokenizer are not here; copy or download all of the model again\\.$"
    with pytest.raises(UnavailableError, match=expected):
        Captioner.load(str(tmp_path / "part"))


def test_no_captions_are_no_rows(captioner: Captioner) -> None:
    tokens = captioner.family.tokenize([], 64)
    assert tokens.input_ids.shape[0] == tokens.targets.shape[0] == 0
    assert captioner.caption([]) == []
