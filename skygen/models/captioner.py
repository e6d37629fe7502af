"""A captioner: an image-to-text model of transformers as a learner and a writer of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from skygen.data.images import fit_image, image_to_tensor
from skygen.data.loading import Batch
from skygen.errors import UnavailableError
from skygen.models.adapters import Adapter, LoraSettings, Trained, WholeModel
from skygen.models.weights import hide_loading_bars, locate, reading_weights
from skygen.seeding import Seeds

TEXT_DECODER = r"text_decoder\..*\.(query|key|value|attention\.output\.dense|intermediate\.dense|output\.dense)"
WORD_HEAD = r"text_decoder\.cls\.predictions\.(transform\.dense|decoder)"  # without it, words new to the base stay unlikely
LORA_PRESETS = {
    "default": TEXT_DECODER,
    "text_decoder": TEXT_DECODER,
    "all": TEXT_DECODER + "|" + WORD_HEAD + r"|vision_model\..*\.(qkv|projection|fc1|fc2)",
}
IGNORED = -100


@dataclass(frozen=True)
class CaptioningSettings:
    """How captions are written."""

    num_beams: int = 3
    """Beams of the search; 1 is greedy."""
    max_new_tokens: int = 40
    """Longest caption in tokens."""
    batch_size: int = 32
    """Images at a time."""


@final
class Captioner:
    """A BLIP captioner (Li et al. 2022).

    Args:
        network: a ``BlipForConditionalGeneration``.
        processor: its ``BlipProcessor``.
        max_length: tokens of a caption, start and end included; longer training captions are cut.
    """

    def __init__(self, network: Any, processor: Any, max_length: int = 64) -> None:
        self.network = network
        self.processor = processor
        self.max_length = max_length
        images = processor.image_processor
        self._mean = torch.tensor(images.image_mean)[:, None, None]
        self._std = torch.tensor(images.image_std)[:, None, None]

    @classmethod
    def load(cls, name: str = "miniature", adapter: Path | str | None = None, *, device: str = "cpu") -> Captioner:
        """Load a captioner in float32.

        Args:
            name: ``miniature``, a folder in transformers' layout, or an id on the Hugging Face hub.
            adapter: folder of a LoRA in PEFT's layout.
            device: where it computes.

        Raises:
            UnavailableError: the weights are not here.
        """
        source = locate(name, "captioner", "config.json")
        from transformers import BlipForConditionalGeneration, BlipProcessor

        hide_loading_bars()
        with reading_weights(name):
            network = BlipForConditionalGeneration.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
            processor = BlipProcessor.from_pretrained(source)
        if len(processor.tokenizer) < network.config.text_config.vocab_size // 2:  # transformers makes up an empty one
            raise UnavailableError(f"{name}: the files of its tokenizer are not here; copy or download the whole model again.")
        if adapter is not None:
            locate(str(Path(adapter).absolute()), "adapter", "adapter_config.json")
            network.load_adapter(str(adapter))
        return cls(network.to(device).eval(), processor)

    def attach(self, lora: LoraSettings, seeds: Seeds) -> Trained:
        """Make the network trainable: frozen with a LoRA on it, or as a whole where the rank is 0."""
        if lora.rank == 0:
            return WholeModel(self.network, self.save_model)
        return Adapter(self.network, lora, LORA_PRESETS, "peft", seeds)

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return int(self.network.config.vision_config.image_size)

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return each example's cross-entropy, the mean over the tokens of its caption."""
        tokens = self.processor.tokenizer(
            list(batch.captions), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(batch.pixels.device)
        inputs = tokens.input_ids.clone()
        inputs[:, 0] = self.network.config.text_config.bos_token_id  # generation starts from it, not from [CLS]
        targets = inputs.masked_fill(tokens.attention_mask == 0, IGNORED)[:, 1:]
        logits = self.network(
            pixel_values=self._normalise(batch.pixels), input_ids=inputs, attention_mask=tokens.attention_mask
        ).logits[:, :-1]
        logits = logits.float().transpose(1, 2)
        losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        return losses.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image], settings: CaptioningSettings | None = None) -> list[str]:
        """Write one caption an image, the most likely under beam search.

        Args:
            images: RGB, of any size.
            settings: beams, length, batch.
        """
        settings = settings or CaptioningSettings()
        was_training = self.network.training
        self.network.eval()
        captions: list[str] = []
        for start in range(0, len(images), settings.batch_size):
            squares = [
                fit_image(image, self.resolution, mode="squash") for image in images[start : start + settings.batch_size]
            ]
            pixels = torch.stack([image_to_tensor(square) for square in squares]).to(self.network.device)
            tokens = self.network.generate(
                pixel_values=self._normalise(pixels), num_beams=settings.num_beams, max_new_tokens=settings.max_new_tokens
            )
            captions += self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        self.network.train(was_training)
        return [caption.strip() for caption in captions]

    def save_model(self, folder: Path) -> None:
        """Save the whole model in transformers' layout."""
        self.network.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _normalise(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Turn pixels in [-1, 1] into the mean and spread that the vision tower was trained on."""
        device = pixels.device
        return (pixels.add(1).div(2) - self._mean.to(device)) / self._std.to(device)
