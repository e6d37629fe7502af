"""PaliGemma (Beyer et al. 2024) and PaliGemma 2 (Steiner et al. 2024): SigLIP, a linear layer, and Gemma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from skygen.errors import ConfigError
from skygen.models.captioners.family import IGNORED, CaptionTokens
from skygen.models.captioners.pixels import PixelStatistics, require_whole_patches
from skygen.models.captioners.prompted import (
    as_encoder_outputs,
    continue_prompt,
    load_processor,
    repeat_prompt,
    spell,
    stop_tokens,
)

PROMPT = "caption en"
TEXT_DECODER = r"model\.language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
BRIDGE = r"model\.multi_modal_projector\.linear"
VISION = r"model\.vision_tower\..*encoder\.layers\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


@final
class PaliGemma:
    """A ``PaliGemmaForConditionalGeneration``, with Gemma or Gemma 2.

    Image and prompt are the prefix, in which every token sees every other; the caption is the suffix, in which it sees what is
    before it.

    Args:
        network: the model.
        processor: its ``PaliGemmaProcessor``.
        prompt: the task; "caption en" when left out, and nothing where it is empty.

    Raises:
        ConfigError: the prompt has a place for an image in it.
    """

    lora_presets: ClassVar[Mapping[str, str]] = {
        "text_decoder": TEXT_DECODER,
        "text_decoder_and_bridge": "|".join((TEXT_DECODER, BRIDGE)),
        "all": "|".join((TEXT_DECODER, BRIDGE, VISION)),
    }

    def __init__(self, network: Any, processor: Any, prompt: str | None = None) -> None:
        self.network = network
        self.processor = processor
        self.prompt = PROMPT if prompt is None else prompt
        if processor.image_token in self.prompt:
            raise ConfigError(f"--model.prompt: leave {processor.image_token} out; the place of the image is put in for you.")
        self._pixels = PixelStatistics.of(processor.image_processor)
        self._resolution = int(network.config.vision_config.image_size)
        self._end = int(processor.tokenizer.eos_token_id)

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> PaliGemma:
        """Load network and processor, see ``Family.load``."""
        from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

        network = PaliGemmaForConditionalGeneration.from_pretrained(source, use_safetensors=True, **options)
        return cls(network, load_processor(PaliGemmaProcessor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The SigLIP."""
        tower: nn.Module = self.network.model.vision_tower
        return tower

    @property
    def bridge(self) -> nn.Module:
        """The linear layer."""
        projector: nn.Module = self.network.model.multi_modal_projector
        return projector

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size; the position embeddings are interpolated.

        Raises:
            ConfigError: no whole number of patches.
        """
        require_whole_patches(resolution, int(self.network.config.vision_config.patch_size), "PaliGemma")
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the SigLIP on pixels in [-1, 1]."""
        values = self._pixels.normalise(pixels).to(self.network.dtype)
        features: Tensor = self.vision(
            values, interpolate_pos_encoding=self._resolution != self.network.config.vision_config.image_size
        ).last_hidden_state
        return features

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Bring each patch to Gemma's width."""
        image: Tensor = self.bridge(features)
        return image

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Let the caption follow the prefix, and the end of the text the caption."""
        spelled = spell(self.processor.tokenizer, [caption.strip() for caption in captions])
        padding = int(self.processor.tokenizer.pad_token_id)
        return continue_prompt(self._prefix_tokens(), spelled, self._end, max_length, padding)

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token."""
        logits: Tensor = self.network(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            token_type_ids=_suffix_mask(tokens),
            mm_encoder_outputs=as_encoder_outputs(image),
            use_cache=False,
            logits_to_keep=tokens.predicting,
        ).logits
        return logits

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write the suffix."""
        prefix = repeat_prompt(self._prefix_tokens(), len(image), image.device)
        written = self.network.generate(
            **prefix,
            token_type_ids=torch.zeros_like(prefix["input_ids"]),
            mm_encoder_outputs=as_encoder_outputs(image),
            eos_token_id=stop_tokens(self.network, self._end),
            pad_token_id=self.processor.tokenizer.pad_token_id,
            **options,
        )
        suffixes = written[:, prefix["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.tokenizer.batch_decode(suffixes, skip_special_tokens=True)]

    def _prefix_tokens(self) -> list[int]:
        """Return the image's places, the start of the text, the prompt, and the newline that ends the prefix."""
        tokenizer = self.processor.tokenizer
        places = (self._resolution // self.network.config.vision_config.patch_size) ** 2
        text: list[int] = tokenizer(f"{tokenizer.bos_token}{self.prompt}\n", add_special_tokens=False).input_ids
        return [int(self.processor.image_token_id)] * places + text


def _suffix_mask(tokens: CaptionTokens) -> Int64[Tensor, "batch tokens"]:
    """Return transformers' token types: 0 in the prefix, whose last token predicts the caption's first, and 1 after it."""
    predicting = (tokens.targets != IGNORED).long()
    return ((predicting.cumsum(dim=1) - predicting) > 0).long()
