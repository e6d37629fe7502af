"""Florence-2 (Xiao et al. 2024): a DaViT, a projector, and a BART whose encoder reads image and prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import Any, ClassVar, final

from jaxtyping import Float, Int64
from torch import Tensor, nn

from skygen.errors import ConfigError
from skygen.models.captioners.family import CaptionTokens
from skygen.models.captioners.pixels import PixelStatistics
from skygen.models.captioners.prompted import as_encoder_outputs, continue_prompt, load_processor, repeat_prompt, spell

PROMPT = "<CAPTION>"
"""The task; the processor says it as a sentence."""
TEXT_DECODER = r"model\.language_model\.(encoder|decoder)\.layers\.\d+\.((self|encoder)_attn\.(q|k|v|out)_proj|fc[12])"
BRIDGE = r"model\.multi_modal_projector\.image_projection"
VISION = r"model\.vision_tower\.blocks\..*\.(qkv|proj|fc1|fc2)"


@final
class Florence2:
    """A ``Florence2ForConditionalGeneration``: what follows the projector, BART's encoder included, counts as the decoder.

    Args:
        network: the model.
        processor: its ``Florence2Processor``.
        prompt: the task or the words that the encoder reads after the image; ``PROMPT`` when left out.

    Raises:
        ConfigError: a task that stands with other words, or the token that stands for an image.
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
        self._resolution = int(processor.image_processor.size["height"])
        try:
            self._prompt_tokens(0)
        except ValueError as error:
            tasks = ", ".join(processor.task_prompts_without_inputs)
            raise ConfigError(f"--model.prompt {prompt}: a task goes alone; give one of {tasks}, or a sentence.") from error

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Florence2:
        """Load network and processor, see ``Family.load``."""
        from transformers import Florence2ForConditionalGeneration, Florence2Processor

        network = Florence2ForConditionalGeneration.from_pretrained(source, use_safetensors=True, **options)
        return cls(network, load_processor(Florence2Processor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The DaViT."""
        tower: nn.Module = self.network.model.vision_tower
        return tower

    @property
    def bridge(self) -> nn.Module:
        """The projector, which adds positions and, before the patches, their mean."""
        projector: nn.Module = self.network.model.multi_modal_projector
        return projector

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size, as many rows and columns of patches as have learned positions.

        Raises:
            ConfigError: no whole number of patches, or more than the projector or BART's encoder has positions for.
        """
        config = self.network.config
        step = prod(config.vision_config.patch_stride)
        room = config.text_config.max_position_embeddings - len(self._prompt_tokens(0)) - 1  # the mean of the patches
        most = min(config.vision_config.max_position_embeddings, isqrt(room)) * step
        if resolution < step or resolution % step or resolution > most:
            raise ConfigError(
                f"--images.resolution {resolution}: this Florence-2 sees patches of {step}, and {most} pixels at most; give a "
                f"multiple of {step} up to that."
            )
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the DaViT on pixels in [-1, 1]; its map row by row."""
        values = self._pixels.normalise(pixels).to(self.network.dtype)
        features: Tensor = self.vision(values).last_hidden_state
        return features.flatten(2).transpose(1, 2)

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Project the map of a square image: one place more than it has patches."""
        side = isqrt(features.shape[1])
        projected: Tensor = self.bridge(features.transpose(1, 2).reshape(*features.shape[::2], side, side))
        return projected

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Begin every caption with BART's two start tokens, of which ``generate`` is given the second too.

        Image and prompt are the encoder's and are not here. A caption that spells a special token is read as those letters.
        """
        config = self.network.config.text_config
        return continue_prompt(
            (config.decoder_start_token_id, config.bos_token_id),
            spell(self.processor.tokenizer, captions),
            config.eos_token_id,
            max_length - 1,  # the second start token counts
            padding=config.pad_token_id,
        )

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Let the encoder read image and prompt, and predict each position's next token of the caption."""
        asked = self._asked(image)
        words = self.network.get_input_embeddings()(asked["input_ids"])
        image = image.to(words.dtype)
        places = self.network.get_placeholder_mask(asked["input_ids"], inputs_embeds=words, image_features=image)
        logits: Tensor = self.network(
            inputs_embeds=words.masked_scatter(places, image),
            attention_mask=asked["attention_mask"],
            decoder_input_ids=tokens.input_ids,
            decoder_attention_mask=tokens.attention_mask,
            use_cache=False,
        ).logits
        return logits[:, tokens.prompt_length :]

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions, BART's start token given; ``max_new_tokens`` counts it."""
        config = self.network.config.text_config
        written = self.network.generate(
            **self._asked(image),
            mm_encoder_outputs=as_encoder_outputs(image),
            decoder_start_token_id=config.decoder_start_token_id,
            forced_bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            **options,
        )
        return [text.strip() for text in self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)]

    def _asked(self, image: Float[Tensor, "batch places channels"]) -> dict[str, Int64[Tensor, "batch read"]]:
        """Return what the encoder reads of each image."""
        return repeat_prompt(self._prompt_tokens(image.shape[1]), len(image), image.device)

    def _prompt_tokens(self, places: int) -> list[int]:
        """Return what the encoder reads, one token for each place of the image."""
        from PIL import Image

        blank = Image.new("RGB", (1, 1))  # there is an image: else the processor leaves out its place and the start and end
        _, (text,), *_ = self.processor.prepare_inputs_layout(images=[blank], text=[self.prompt])
        token = self.processor.image_token
        tokens: list[int] = self.processor.tokenizer(text.replace(token, token * places), add_special_tokens=False).input_ids
        return tokens
