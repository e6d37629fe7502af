"""BLIP-2 (Li et al. 2023): a ViT, a Q-Former that asks it a few questions, and a language model that reads the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from skygen.errors import ConfigError
from skygen.models.captioners.family import CaptionTokens
from skygen.models.captioners.pixels import PixelStatistics, require_whole_patches
from skygen.models.captioners.prompted import continue_prompt, load_processor, repeat_prompt, spell
from skygen.models.captioners.stand_ins import with_stand_ins

LANGUAGE_MODELS = ("opt", "t5")
OPT = r"language_model\.model\.decoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
T5 = (
    r"language_model\.(encoder|decoder)\..*\.(q|k|v|o|wi|wi_0|wi_1|wo)"  # its encoder is after the bridge: it reads the answers
)
TEXT_DECODER = f"{OPT}|{T5}"
BRIDGE = r"qformer\..*\.(query|key|value|dense)|language_projection"
VISION = r"vision_model\..*\.(qkv|projection|fc1|fc2)"


@final
class Blip2:
    """A ``Blip2ForConditionalGeneration`` of an OPT or a T5.

    OPT reads the image, a start token and the prompt, and writes on; a line break ends its captions. T5 reads the image and the
    prompt in its encoder and writes with its decoder.

    Args:
        network: the model.
        processor: its ``Blip2Processor``.
        prompt: what every caption continues, such as ``a photo of``; nothing when left out.

    Raises:
        ConfigError: another language model, or no places for the image among its tokens.
    """

    lora_presets: ClassVar[Mapping[str, str]] = {
        "text_decoder": TEXT_DECODER,
        "text_decoder_and_bridge": "|".join((TEXT_DECODER, BRIDGE)),
        "all": "|".join((TEXT_DECODER, BRIDGE, VISION)),
    }

    def __init__(self, network: Any, processor: Any, prompt: str | None = None) -> None:
        language_model = network.config.text_config.model_type
        if language_model not in LANGUAGE_MODELS:
            raise ConfigError(
                f"--model.name: the language model of this BLIP-2 is of the type {language_model}; give a BLIP-2 with one of "
                f"{', '.join(LANGUAGE_MODELS)}, such as Salesforce/blip2-opt-2.7b."
            )
        if network.config.image_token_index is None:
            raise ConfigError(
                "--model.name: the config.json of this BLIP-2 has no image_token_index, as older ones; download a "
                "newer revision of it."
            )
        self.network = network
        self.processor = processor
        self.prompt = (prompt or "").strip()
        self._pixels = PixelStatistics.of(processor.image_processor)
        self._resolution = int(network.config.vision_config.image_size)

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Blip2:
        """Load network and processor, see ``Family.load``."""
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        network = Blip2ForConditionalGeneration.from_pretrained(source, use_safetensors=True, **options)
        return cls(network, load_processor(Blip2Processor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The ViT."""
        tower: nn.Module = self.network.vision_model
        return tower

    @property
    def bridge(self) -> nn.Module:
        """The Q-Former with its questions, and the linear map to the language model's width."""
        bridge = nn.ModuleDict({"qformer": self.network.qformer, "language_projection": self.network.language_projection})
        bridge.register_parameter("query_tokens", self.network.query_tokens)
        return bridge

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size; the position embeddings are interpolated.

        Raises:
            ConfigError: no whole number of patches.
        """
        require_whole_patches(resolution, int(self.network.config.vision_config.patch_size), "BLIP-2")
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the ViT on pixels in [-1, 1]."""
        values = self._pixels.normalise(pixels).to(self.network.dtype)
        features: Tensor = self.network.vision_model(
            pixel_values=values, interpolate_pos_encoding=self._resolution != self.network.config.vision_config.image_size
        ).last_hidden_state
        return features

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Run the Q-Former and the linear map: one place for each question."""
        network = with_stand_ins(self.network, {"vision_model": _pass_on})
        places: Tensor = network.get_image_features(pixel_values=features).pooler_output
        return places

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Put the start of every caption before it, and behind it the token that generation stops at.

        White space in a caption becomes one blank: a line break would end it.
        """
        tokenizer, start = self.processor.tokenizer, self._start()
        blank = " " if self.prompt and not self._has_encoder else ""  # OPT has other tokens for words after a blank
        spelled = spell(tokenizer, [(blank + " ".join(caption.split())).rstrip() for caption in captions])
        room = max_length - 1  # the start token counts
        return continue_prompt(start, spelled, self._end, room, tokenizer.pad_token_id)

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token."""
        from transformers.models.blip_2.modeling_blip_2 import BaseModelOutputWithVisionQformerOutputs

        if self._has_encoder:
            read = {"decoder_input_ids": tokens.input_ids, "decoder_attention_mask": tokens.attention_mask}
            read["input_ids"] = repeat_prompt(self._prompt(), len(image), image.device)["input_ids"]
        else:
            read = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
        seen = {"image": BaseModelOutputWithVisionQformerOutputs(pooler_output=image)}
        logits: Tensor = self.network(pixel_values=None, mm_encoder_outputs=seen, use_cache=False, **read).logits
        return logits[:, tokens.prompt_length :]

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions from the image and the prompt on."""
        passing_on: dict[str, Callable[..., Any]] = {
            "vision_model": _pass_on,
            "qformer": _pass_on_seen,
            "language_projection": _as_it_is,
        }
        network = with_stand_ins(self.network, passing_on)
        prompts = repeat_prompt(self._prompt(), len(image), image.device)["input_ids"]
        written = network.generate(pixel_values=image, input_ids=prompts, **options)
        new = written if self._has_encoder else written[:, prompts.shape[1] :]
        return [text.strip() for text in self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]

    @property
    def _has_encoder(self) -> bool:
        return bool(self.network.config.text_config.is_encoder_decoder)

    @property
    def _end(self) -> int:
        """The token that the language model's generation stops at: OPT's is a line break and not its tokenizer's ``</s>``."""
        ends = self.network.language_model.generation_config.eos_token_id
        return int(ends[0] if isinstance(ends, list) else ends)

    def _start(self) -> list[int]:
        """Return the tokens that the captions come after in what the decoder reads."""
        return [self.network.config.text_config.decoder_start_token_id] if self._has_encoder else self._prompt()

    def _prompt(self) -> list[int]:
        """Return image places and prompt: what an OPT reads before the caption, and a T5 in its encoder."""
        config = self.network.config
        places = [config.image_token_index] * config.num_query_tokens
        words = self.processor.tokenizer(self.prompt, add_special_tokens=False).input_ids
        text = config.text_config
        return [*places, *words, self._end] if self._has_encoder else [*places, text.bos_token_id, *words]


def _pass_on(pixel_values: Tensor, **_: Any) -> Any:
    """Stand in for the ViT."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(last_hidden_state=pixel_values)


def _pass_on_seen(encoder_hidden_states: Tensor, **_: Any) -> Any:
    """Stand in for the Q-Former."""
    return _pass_on(encoder_hidden_states)


def _as_it_is(features: Tensor) -> Tensor:
    return features
