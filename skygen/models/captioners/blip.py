"""BLIP (Li et al. 2022): a ViT, and a BERT decoder that looks at its patches by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skygen.errors import ConfigError
from skygen.models.captioners.family import CaptionTokens
from skygen.models.captioners.pixels import PixelStatistics, require_whole_patches
from skygen.models.captioners.prompted import continue_prompt, load_processor, spell

TEXT_DECODER = r"text_decoder\..*\.(query|key|value|attention\.output\.dense|intermediate\.dense|output\.dense)"
WORD_HEAD = r"text_decoder\.cls\.predictions\.(transform\.dense|decoder)"  # without it, words new to the base stay unlikely
VISION = r"vision_model\..*\.(qkv|projection|fc1|fc2)"


@final
class Blip:
    """A ``BlipForConditionalGeneration``; its prompt is always empty.

    Args:
        network: the model.
        processor: its ``BlipProcessor``.
        prompt: what every caption would begin with; BLIP's own captions have none.
    """

    lora_presets: ClassVar[Mapping[str, str]] = {
        "text_decoder": TEXT_DECODER,
        "text_decoder_and_bridge": TEXT_DECODER,  # the bridge is the decoder's cross-attention
        "all": "|".join((TEXT_DECODER, WORD_HEAD, VISION)),
    }

    def __init__(self, network: Any, processor: Any, prompt: str | None = None) -> None:
        if prompt:
            raise ConfigError("--model.prompt: BLIP is trained and asked without one; leave it out.")
        self.network = network
        self.processor = processor
        self.prompt = ""
        self._pixels = PixelStatistics.of(processor.image_processor)
        self._resolution = int(network.config.vision_config.image_size)

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Blip:
        """Load network and processor, see ``Family.load``."""
        from transformers import BlipForConditionalGeneration, BlipProcessor

        network = BlipForConditionalGeneration.from_pretrained(source, use_safetensors=True, **options)
        return cls(network, load_processor(BlipProcessor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The ViT."""
        tower: nn.Module = self.network.vision_model
        return tower

    @property
    def bridge(self) -> None:
        """None: the decoder reads the patches itself."""

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size; the position embeddings are interpolated.

        Raises:
            ConfigError: no whole number of patches.
        """
        require_whole_patches(resolution, int(self.network.config.vision_config.patch_size), "BLIP")
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the ViT on pixels in [-1, 1]."""
        values = self._pixels.normalise(pixels).to(self.network.dtype)
        features: Tensor = self.network.vision_model(
            pixel_values=values, interpolate_pos_encoding=self._resolution != self.network.config.vision_config.image_size
        ).last_hidden_state
        return features

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch patches features"]:
        """Return the features as they are."""
        return features

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Begin every caption with the decoder's start token, from which generation starts too, and not with BERT's."""
        tokenizer, start = self.processor.tokenizer, int(self.network.config.text_config.bos_token_id)
        room = max_length - 1  # the start token counts
        return continue_prompt((start,), spell(tokenizer, captions), tokenizer.sep_token_id, room, tokenizer.pad_token_id)

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token."""
        logits: Tensor = self.network.text_decoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=image
        ).logits
        return logits

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions from the start token on."""
        config = self.network.config.text_config
        written = self.network.text_decoder.generate(
            input_ids=torch.full((len(image), 1), config.bos_token_id, device=image.device),
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long, device=image.device),
            **options,
        )
        return [text.strip() for text in self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)]
