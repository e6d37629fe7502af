"""The captioner: its loss is BLIP's own, one number an example, and it writes as it was trained to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.errors import UnavailableError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.seeding import Seeds

EQUAL = ("a river with a bridge", "a beach near the sea", "a field beside a road")
UNEQUAL = ("", "a beach", "three storage tanks beside a railway station with many tracks")


@pytest.fixture(scope="module")
def captioner(captioner_folder: Path) -> Captioner:
    return Captioner.load(str(captioner_folder))


def pixels(count: int = 3) -> Tensor:
    return torch.rand((count, 3, 64, 64), generator=Seeds(0).generator("pixels")) * 2 - 1


def loss(captioner: Captioner, captions: tuple[str, ...], rows: slice = slice(None)) -> Tensor:
    batch = Batch(pixels(len(captions))[rows], captions[rows], captions[rows])
    with torch.no_grad():
        return captioner.loss(batch, Seeds(0).generator("unused"))


def pictures(count: int) -> list[Image.Image]:
    draw = Seeds(0).numpy("pictures")
    return [Image.fromarray(draw.integers(0, 256, (50 + 10 * i, 70, 3), dtype=np.uint8)) for i in range(count)]


def test_the_loss_is_transformers_own(captioner: Captioner) -> None:
    tokens = captioner.processor.tokenizer(list(EQUAL), return_tensors="pt", padding=True)
    assert tokens.attention_mask.all()  # of equal length: else the mean over tokens is not that over examples
    assert captioner.network.config.text_config.label_smoothing == 0
    inputs = tokens.input_ids.clone()
    inputs[:, 0] = captioner.network.config.text_config.bos_token_id
    normalised = captioner.processor.image_processor(
        [Image.fromarray(((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()) for image in pixels()],
        return_tensors="pt",
    ).pixel_values
    with torch.no_grad():
        own = captioner.network(pixel_values=normalised, input_ids=inputs, labels=inputs).loss
    assert float(loss(captioner, EQUAL).mean()) == pytest.approx(float(own), abs=2e-4)  # pixels were rounded to 8 bits


def test_pixels_reach_the_network_as_the_processor_would_bring_them(captioner: Captioner) -> None:
    (picture,) = pictures(1)
    square = picture.resize((64, 64), Image.Resampling.BICUBIC)
    expected = captioner.processor.image_processor([square], return_tensors="pt").pixel_values
    assert torch.allclose(captioner.family._pixels.normalise(image_to_tensor(square)[None]), expected, atol=1e-5)


def test_padding_does_not_change_the_loss_of_an_example(captioner: Captioner) -> None:
    together = loss(captioner, UNEQUAL)
    alone = torch.cat([loss(captioner, UNEQUAL, slice(i, i + 1)) for i in range(3)])
    assert together.shape == (3,)
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) == 3


def test_a_caption_longer_than_the_context_is_cut(captioner: Captioner) -> None:
    long = ("a beach " * 100, "a beach")
    losses = loss(captioner, long)
    assert captioner.max_length == 64
    assert losses.isfinite().all()


def test_generation_starts_from_the_token_that_training_used(captioner: Captioner) -> None:
    """[DEC], not BERT's [CLS]: the loss is the likelihood of the caption's tokens after [DEC]."""
    network, tokenizer = captioner.network, captioner.processor.tokenizer
    start = tokenizer.convert_tokens_to_ids("[DEC]")
    values = captioner.family._pixels.normalise(pixels(1))
    with torch.inference_mode():
        written = network.generate(pixel_values=values, max_new_tokens=3)
    assert written[0, 0] == start
    wanted = tokenizer(["a beach"], return_tensors="pt").input_ids
    with torch.no_grad():
        image = network.vision_model(pixel_values=values).last_hidden_state
        likelihoods = {}
        for name, first in (("[DEC]", start), ("[CLS]", tokenizer.cls_token_id)):
            inputs = torch.cat([torch.tensor([[first]]), wanted[:, 1:]], dim=1)
            logits = network.text_decoder(input_ids=inputs, encoder_hidden_states=image).logits
            likelihoods[name] = float(functional.cross_entropy(logits[0, :-1], wanted[0, 1:]))
    assert float(loss(captioner, ("a beach",))) == pytest.approx(likelihoods["[DEC]"], abs=1e-5)
    assert abs(likelihoods["[DEC]"] - likelihoods["[CLS]"]) > 1e-4


def test_captions_do_not_depend_on_the_batch_nor_disturb_training(captioner: Captioner) -> None:
    captioner.network.train()
    one_by_one = captioner.caption(pictures(5), CaptioningSettings(batch_size=1, max_new_tokens=5))
    together = captioner.caption(pictures(5), CaptioningSettings(batch_size=4, max_new_tokens=5))
    assert captioner.network.training
    captioner.network.eval()
    assert len(together) == 5
    assert together == one_by_one
    assert captioner.caption([]) == []


def test_a_saved_model_is_the_same_model(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_model(tmp_path / "copy")
    assert torch.equal(loss(Captioner.load(str(tmp_path / "copy")), EQUAL), loss(captioner, EQUAL))


def test_an_adapter_folder_without_an_adapter_is_explained(captioner_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no adapter_config\.json there"):
        Captioner.load(str(captioner_folder), tmp_path)
