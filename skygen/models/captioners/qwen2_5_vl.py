"""Qwen2.5-VL (Bai et al. 2025): a ViT with windows, a merger of two by two patches, and a Qwen2.5 decoder that chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from skygen.errors import ConfigError
from skygen.models.captioners.family import CaptionTokens
from skygen.models.captioners.pixels import PixelStatistics
from skygen.models.captioners.prompted import continue_prompt, load_processor, repeat_prompt, spell, stop_tokens

PROMPT = "Describe this overhead image in one sentence."
RESOLUTION = 448
"""256 places in the decoder; the model itself has no size of its own."""
TURN_END = "<|im_end|>"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
)
"""The turns that the model is documented to be asked in, for a processor that has lost its chat template."""
TEXT_DECODER = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
BRIDGE = r"model\.visual\.merger\.mlp\.[02]"
VISION = r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)"


@final
class Qwen25Vl:
    """A ``Qwen2_5_VLForConditionalGeneration``, asked in one user turn and answering with the caption.

    Args:
        network: the model.
        processor: its ``Qwen2_5_VLProcessor``.
        prompt: what the user says beside the image; ``PROMPT`` when left out, and empty for the image alone.

    Raises:
        ConfigError: the prompt names the token that stands for an image.
    """

    lora_presets: ClassVar[Mapping[str, str]] = {
        "text_decoder": TEXT_DECODER,
        "text_decoder_and_bridge": "|".join((TEXT_DECODER, BRIDGE)),
        "all": "|".join((TEXT_DECODER, BRIDGE, VISION)),
    }

    def __init__(self, network: Any, processor: Any, prompt: str | None = None) -> None:
        if prompt and processor.image_token in prompt:
            raise ConfigError(f"--model.prompt {prompt}: {processor.image_token} stands for the image itself; leave it out.")
        self.network = network
        self.processor = processor
        self.prompt = PROMPT if prompt is None else prompt
        self._pixels = PixelStatistics.of(processor.image_processor)
        vision = network.config.vision_config
        self._patch, self._merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self._resolution = RESOLUTION // self._step * self._step

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Qwen25Vl:
        """Load network and processor, see ``Family.load``."""
        from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

        network = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, use_safetensors=True, **options)
        return cls(network, load_processor(Qwen2_5_VLProcessor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The ViT without the merger, which the network holds inside of it."""
        visual = self.network.model.visual
        return nn.ModuleList([visual.patch_embed, visual.blocks])

    @property
    def bridge(self) -> nn.Module:
        """The merger: four patches of the ViT become one place of the decoder."""
        merger: nn.Module = self.network.model.visual.merger
        return merger

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size: its positions are rotations, of any number of patches.

        Raises:
            ConfigError: no whole number of places.
        """
        if resolution < 1 or resolution % self._step:
            raise ConfigError(
                f"--images.resolution {resolution}: this Qwen2.5-VL sees squares of {self._step} pixels, two by two patches "
                f"each; give a multiple of that."
            )
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the ViT on pixels in [-1, 1]; the patches that the merger joins stand together, row by row of places."""
        from transformers.vision_utils import get_vision_window_index

        visual, config = self.network.model.visual, self.network.config.vision_config
        grids = self._grids(len(pixels))
        patches = self._patchify(self._pixels.normalise(pixels)).to(self.network.dtype)
        features: Tensor = visual(patches.flatten(0, 1), grid_thw=grids.to(pixels.device)).last_hidden_state
        windows, _ = get_vision_window_index(grids, self._merge, config.window_size, self._patch)
        places = features.reshape(-1, self._merge**2, features.shape[-1])[torch.argsort(windows).to(features.device)]
        return places.reshape(len(pixels), -1, features.shape[-1])

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Join two by two patches."""
        merged: Tensor = self.bridge(features.flatten(0, 1))
        return merged.reshape(len(features), -1, merged.shape[-1])

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Let every caption be the assistant's turn, up to the token that ends it.

        A caption that spells a special token is read as those letters.
        """
        tokenizer = self.processor.tokenizer
        return continue_prompt(
            self._prompt_tokens(), spell(tokenizer, captions), self._end, max_length, padding=tokenizer.pad_token_id
        )

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token.

        The positions are given to the network, which would else keep those of this batch for its next one.
        """
        first = tokens.input_ids[:1]  # one prompt and one size: what is not padding has the same positions in every row
        positions, _ = self.network.model.get_rope_index(
            first, mm_token_type_ids=self._kinds(first), image_grid_thw=self._grids(1).to(first.device)
        )
        logits: Tensor = self.network(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            position_ids=positions.expand(-1, len(image), -1),
            mm_encoder_outputs=_as_encoded(image),
            use_cache=False,
            logits_to_keep=tokens.predicting,
        ).logits
        return logits

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions as the assistant's turn."""
        tokenizer = self.processor.tokenizer
        asked = repeat_prompt(self._prompt_tokens(), len(image), image.device)
        try:
            written = self.network.generate(
                **asked,
                mm_token_type_ids=self._kinds(asked["input_ids"]),
                image_grid_thw=self._grids(len(image)).to(image.device),
                mm_encoder_outputs=_as_encoded(image),
                eos_token_id=stop_tokens(self.network, self._end),
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )
        finally:
            self.network.model.rope_deltas = None  # of these images only
        answers = tokenizer.batch_decode(written[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    @property
    def _step(self) -> int:
        return self._patch * self._merge

    @property
    def _end(self) -> int:
        end: int = self.processor.tokenizer.convert_tokens_to_ids(TURN_END)
        return end

    def _grids(self, count: int) -> Int64[Tensor, "{count} 3"]:
        """Return the patches of each image: in time, down and across."""
        side = self._resolution // self._patch
        return torch.tensor([[1, side, side]]).repeat(count, 1)

    def _kinds(self, tokens: Int64[Tensor, "batch tokens"]) -> Int64[Tensor, "batch tokens"]:
        """Return 1 where a token is a place of the image and 0 where it is text."""
        return (tokens == self.network.config.image_token_id).long()

    def _patchify(self, values: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches values"]:
        """Cut into patches as the ViT reads them: those of one place together, each as a still film of two frames."""
        merge, frames = self._merge, int(self.network.config.vision_config.temporal_patch_size)
        patches = functional.pixel_unshuffle(values, self._patch)  # batch, channels and pixels of a patch, rows, columns
        batch, size, side, _ = patches.shape
        places = patches.reshape(batch, 3, size // 3, side // merge, merge, side // merge, merge).permute(0, 3, 5, 4, 6, 1, 2)
        film = places.unsqueeze(-2).expand(*places.shape[:-1], frames, -1)
        return film.reshape(batch, side**2, frames * size)

    def _prompt_tokens(self) -> list[int]:
        """Return all that stands before the caption, one token for each place of the image."""
        image = self.processor.image_token
        if self.processor.chat_template is None:
            text = CHAT.format(image=image, prompt=self.prompt)
        else:
            content = [{"type": "image"}, *([{"type": "text", "text": self.prompt}] if self.prompt else [])]
            turns = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        places = (self._resolution // self._step) ** 2
        tokens: list[int] = self.processor.tokenizer(text.replace(image, image * places), add_special_tokens=False).input_ids
        return tokens


def _as_encoded(image: Float[Tensor, "batch places channels"]) -> dict[str, Any]:
    """Hand the places over as if the network had just seen the images, which it keeps apart for they may differ in size."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return {"image": BaseModelOutputWithPooling(pooler_output=tuple(image))}
