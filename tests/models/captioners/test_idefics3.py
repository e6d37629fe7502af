"""The family Idefics3, as an Idefics3 and as a SmolVLM: it computes what transformers does from pixels and a conversation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.captioners.build_idefics3 import PLACES, RESOLUTION, SCALE, build, build_smolvlm
from PIL import Image
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.captioners.family import IGNORED, CaptionTokens, Family
from skygen.models.captioners.idefics3 import PROMPT, Idefics3
from skygen.seeding import Seeds

EQUAL = ("a river and a beach", "a beach and a road", "a road and a river")
UNEQUAL = ("", "a beach", "three storage tanks beside a railway station")
BUILDERS = {"idefics3": build, "smolvlm": build_smolvlm}
CLASSES = {"idefics3": "Idefics3ForConditionalGeneration", "smolvlm": "SmolVLMForConditionalGeneration"}
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


def converse(captioner: Captioner, captions: tuple[str, ...] | None, images: list[Image.Image], **options: Any) -> Any:
    """Let the processor itself write the conversations, without or with answers."""
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": captioner.family.prompt}]}
    answers = [[{"role": "assistant", "content": [{"type": "text", "text": caption}]}] for caption in captions or ()]
    texts = [
        captioner.processor.apply_chat_template(
            [asked, *answer], add_generation_prompt=captions is None, tokenize=False
        ).removesuffix("\n")
        for answer in answers or [[] for _ in images]
    ]
    return captioner.processor(
        text=texts,
        images=[[image] for image in images],
        add_special_tokens=False,  # the template has written the first
        do_image_splitting=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
        **options,
    )


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


def test_the_folder_is_loaded_as_its_own_class(folder: Path, captioner: Captioner) -> None:
    assert type(captioner.network).__name__ == CLASSES[folder.name]
    assert isinstance(captioner.family, Idefics3)
    assert isinstance(captioner.family, Family)
    assert captioner.family.prompt == PROMPT
    assert captioner.resolution == RESOLUTION


def test_the_projected_features_are_the_networks_own(captioner: Captioner) -> None:
    inputs = converse(captioner, EQUAL, pictures())
    with torch.no_grad():
        own = captioner.network.get_image_features(inputs.pixel_values, inputs.pixel_attention_mask).pooler_output
    image = image_of(captioner.family, pictures())
    assert image.shape == (3, PLACES, captioner.network.config.text_config.hidden_size)
    assert torch.allclose(image, torch.stack(list(own)), atol=1e-5)


def test_the_loss_is_the_networks_own(captioner: Captioner) -> None:
    inputs = converse(captioner, EQUAL, pictures())
    assert inputs.attention_mask.all()  # of equal length: else the mean over tokens is not that over examples
    start = converse(captioner, None, pictures()).input_ids.shape[1]
    labels = inputs.input_ids.clone()
    labels[:, :start] = IGNORED
    with torch.no_grad():
        own = captioner.network(**inputs, labels=labels).loss
    assert float(losses(captioner, EQUAL).mean()) == pytest.approx(float(own), abs=1e-5)


def test_padded_logits_are_the_networks_own(captioner: Captioner) -> None:
    inputs = converse(captioner, UNEQUAL, pictures())
    tokens = captioner.family.tokenize(UNEQUAL, 64)
    kept = tokens.attention_mask.bool()
    whole = inputs.attention_mask.clone()
    whole.scatter_(1, whole.sum(dim=1, keepdim=True) - 1, 0)  # the last token of each is read by none
    assert torch.equal(tokens.attention_mask, whole[:, :-1])
    assert torch.equal(tokens.input_ids[kept], inputs.input_ids[whole.bool()])
    assert int((~kept).sum()) > 0
    with torch.no_grad():
        own = captioner.network(**inputs).logits[:, :-1]
        logits = captioner.family.logits(image_of(captioner.family, pictures()), tokens)
    kept = kept[:, tokens.prompt_length :]
    assert torch.allclose(logits[kept], own[:, tokens.prompt_length :][kept], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_it_writes_what_the_network_writes(captioner: Captioner, options: dict[str, int]) -> None:
    inputs = converse(captioner, None, pictures())
    with torch.no_grad():
        written = captioner.network.generate(**inputs, max_new_tokens=9, do_sample=False, **options)
        own = captioner.processor.batch_decode(written[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        captions = captioner.family.generate(
            image_of(captioner.family, pictures()), {"max_new_tokens": 9, "do_sample": False, **options}
        )
    assert captions == [text.strip() for text in own]
    assert len(captions) == 3 * options.get("num_return_sequences", 1)
    assert len(set(captions)) > 1  # the image matters


def test_a_single_grey_is_an_image_and_not_padding(captioner: Captioner) -> None:
    grey = torch.zeros(2, 3, RESOLUTION, RESOLUTION)  # 0 after normalisation too: transformers would drop such images
    with torch.no_grad():
        features = captioner.family.encode(grey)
    assert features.shape[0] == 2
    losses = captioner.loss(Batch(grey, ("a beach", "a road"), ("1", "2")), Seeds(0).generator("unused"))
    assert losses.isfinite().all()


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
    tokens = captioner.family.tokenize(["a beach <image> and <end_of_utterance>"], 64)
    assert int((tokens.input_ids == captioner.network.config.image_token_id).sum()) == PLACES
    assert int((tokens.targets == captioner.processor.tokenizer.eos_token_id).sum()) == 1
    assert losses(captioner, ("<image>",)).isfinite().all()


def test_smaller_squares_are_seen_as_the_network_sees_them(folder: Path) -> None:
    captioner = Captioner.load(str(folder))
    captioner.family.use_resolution(16)
    seen = pictures(side=16)
    size = {"longest_edge": 16}
    other = Captioner.load(str(folder))
    other.processor.image_seq_len = PLACES // 4
    inputs = converse(other, EQUAL, seen, size=size, max_image_size=size)
    assert inputs.pixel_values.shape == (3, 1, 3, 16, 16)
    tokens = captioner.family.tokenize(EQUAL, 64)
    assert torch.equal(tokens.input_ids, inputs.input_ids[:, :-1])
    with torch.no_grad():
        own = captioner.network(**inputs).logits[:, :-1]
        logits = captioner.family.logits(image_of(captioner.family, seen), tokens)
    assert torch.allclose(logits, own[:, tokens.prompt_length :], atol=1e-4)
    assert captioner.resolution == 16
    assert len(captioner.caption(pictures(2), CaptioningSettings(max_new_tokens=3))) == 2
    for wrong in (20, 40, 0):
        with pytest.raises(
            ConfigError,
            match=rf"^--images\.resolution {wrong}: this model joins squares of 8 pixels and sees at most 32; "
            r"give a multiple of 8 up to that, or 32\.$",
        ):
            captioner.family.use_resolution(wrong)
    captioner.family.use_resolution(RESOLUTION)
    assert RESOLUTION // 8 == PLACES**0.5  # patches of 4, joined by twos
    assert SCALE == 2


def test_prompts(folder: Path) -> None:
    tokens = {
        prompt: Captioner.load(str(folder), prompt=prompt).family.tokenize(["a beach"], 64) for prompt in (None, "", "a road")
    }
    lengths = [value.input_ids.shape[1] for value in tokens.values()]
    tokenizer = Captioner.load(str(folder)).processor.tokenizer
    assert lengths[0] - lengths[1] == len(tokenizer(PROMPT, add_special_tokens=False).input_ids)
    assert tokenizer.decode(tokens[""].input_ids[0]).endswith("<end_of_utterance>\nAssistant: a beach")
    assert "<fake_token_around_image>a road<end_of_utterance>" in tokenizer.decode(tokens["a road"].input_ids[0])
    with pytest.raises(ConfigError, match=r"^--model\.prompt: leave <image> out; the place of the image is put in for you\.$"):
        Captioner.load(str(folder), prompt="<image> a road")


def test_without_a_chat_template_the_documented_conversation_is_written(folder: Path, captioner: Captioner) -> None:
    bare = Captioner.load(str(folder)).family
    bare.processor.chat_template = None
    by_hand = Idefics3(bare.network, bare.processor)
    expected, found = (family.tokenize(UNEQUAL, 64) for family in (captioner.family, by_hand))
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.targets, expected.targets)


def test_a_chat_template_that_opens_no_turn_is_refused(folder: Path) -> None:
    family = Captioner.load(str(folder)).family
    family.processor.chat_template = "{{ 'Assistant:' if add_generation_prompt else 'nothing' }}"
    with pytest.raises(
        ConfigError,
        match=r"^--model\.name: its chat template does not open the assistant's turn as it writes one; take the template of "
        r"the model's instruct version\.$",
    ):
        Idefics3(family.network, family.processor)


@pytest.mark.parametrize(("preset", "counts"), PRESETS.items())
def test_presets_adapt_the_linear_layers_they_name(folder: Path, preset: str, counts: tuple[int, int, int]) -> None:
    captioner = Captioner.load(str(folder))
    linear = {name for name, module in captioner.network.named_modules() if isinstance(module, torch.nn.Linear)}
    matched = {name for name, _ in captioner.network.named_modules() if re.fullmatch(Idefics3.lora_presets[preset], name)}
    assert matched <= linear
    captioner.attach(LoraSettings(rank=2, targets=preset), Seeds(0), base=str(folder))
    adapted = {name.partition(".lora_A.")[0] for name, _ in captioner.network.named_parameters() if ".lora_A." in name}
    assert adapted == matched
    parts = ("model.text_model.", "model.connector.", "model.vision_model.")
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
    captioner.family.use_resolution(16)
    trained = captioner.attach(LoraSettings(rank=2), Seeds(0), base=str(folder))
    optimizer = torch.optim.AdamW(list(trained.parameters.values()), lr=0.05)
    for _ in range(3):
        captioner.loss(Batch(pixels(pictures(side=16)), EQUAL, EQUAL), Seeds(0).generator("unused")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    captions = captioner.caption(pictures(), settings)
    assert captions != untrained
    trained.save(tmp_path / "adapter")
    loaded = Captioner.load(str(folder), tmp_path / "adapter")
    assert (loaded.family.prompt, loaded.resolution) == ("a road", 16)
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
    tokens: CaptionTokens = captioner.family.tokenize([], 64)
    assert tokens.input_ids.shape[0] == tokens.targets.shape[0] == 0
    assert captioner.caption([]) == []
