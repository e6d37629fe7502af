"""Idefics3 (Laurençon et al. 2024) and SmolVLM (Marafioti et al. 2025): SigLIP, a pixel shuffle, and a chatting Llama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from skygen.errors import ConfigError
from skygen.models.captioners.family import CaptionTokens
from skygen.models.captioners.pixels import PixelStatistics
from skygen.models.captioners.prompted import (
    as_encoder_outputs,
    continue_prompt,
    load_processor,
    repeat_prompt,
    spell,
    stop_tokens,
)

PROMPT = "Describe this overhead image in one sentence."
TEXT_DECODER = r"model\.text_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
BRIDGE = r"model\.connector\.modality_projection\.proj"
VISION = r"model\.vision_model\.encoder\.layers\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


@final
class Idefics3:
    """An ``Idefics3ForConditionalGeneration`` or a ``SmolVLMForConditionalGeneration``, which sees one image, not split.

    Args:
        network: the model.
        processor: an ``Idefics3Processor``.
        prompt: what the user asks; "Describe this overhead image in one sentence." when left out, nothing where it is empty.

    Raises:
        ConfigError: the prompt or the chat template cannot be used.
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
        self._end = int(processor.tokenizer.convert_tokens_to_ids(processor.end_of_utterance_token))
        self._lead = self._find_lead()

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Idefics3:
        """Load network and processor, see ``Family.load``."""
        from transformers import AutoModelForImageTextToText, Idefics3Processor

        network = AutoModelForImageTextToText.from_pretrained(source, use_safetensors=True, **options)
        # SmolVLM's own processor treats single images alike, and wants num2words, which names the frames of videos.
        return cls(network, load_processor(Idefics3Processor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The SigLIP."""
        tower: nn.Module = self.network.model.vision_model
        return tower

    @property
    def bridge(self) -> nn.Module:
        """The pixel shuffle and its projection."""
        connector: nn.Module = self.network.model.connector
        return connector

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See smaller squares; patches take the position embedding nearest to their place in the image.

        Raises:
            ConfigError: not a whole number of the squares of patches that the bridge joins, or larger than the model's own
                size, where patches would have to share position embeddings.
        """
        vision = self.network.config.vision_config
        step = int(vision.patch_size) * int(self.network.config.scale_factor)
        if resolution != vision.image_size and (resolution % step or not 0 < resolution < vision.image_size):
            raise ConfigError(
                f"--images.resolution {resolution}: this model joins squares of {step} pixels and sees at most "
                f"{vision.image_size}; give a multiple of {step} up to that, or {vision.image_size}."
            )
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the SigLIP on pixels in [-1, 1]; an image of a single grey is no padding and is seen too."""
        features: Tensor = self.vision(self._pixels.normalise(pixels).to(self.network.dtype)).last_hidden_state
        return features

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Join neighbouring patches and project them."""
        image: Tensor = self.bridge(features)
        return image

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Let the assistant answer the prompt with the caption and end its turn."""
        tokenizer = self.processor.tokenizer
        spelled = spell(tokenizer, [self._lead + caption.strip() for caption in captions])
        return continue_prompt(self._prompt_tokens(), spelled, self._end, max_length, int(tokenizer.pad_token_id))

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token."""
        logits: Tensor = self.network(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            mm_encoder_outputs=as_encoder_outputs(image),
            use_cache=False,
            logits_to_keep=tokens.predicting,
        ).logits
        return logits

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write the assistant's turn."""
        prompt = repeat_prompt(self._prompt_tokens(), len(image), image.device)
        written = self.network.generate(
            **prompt,
            mm_encoder_outputs=as_encoder_outputs(image),
            eos_token_id=stop_tokens(self.network, self._end),
            pad_token_id=self.processor.tokenizer.pad_token_id,
            **options,
        )
        answers = written[:, prompt["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def _prompt_tokens(self) -> list[int]:
        """Return the user's turn, the image's places in it, and the words that open the assistant's."""
        config, processor = self.network.config, self.processor
        places = (self._resolution // config.vision_config.patch_size // config.scale_factor) ** 2
        one_image = processor.replace_image_token({"rows": [[0]], "cols": [[0]]}, 0)  # 0 rows, 0 columns: not split
        one_image = one_image.replace(processor.image_token * processor.image_seq_len, processor.image_token * places)
        text = self._converse(None).replace(processor.image_token, one_image)
        begin = processor.tokenizer.bos_token
        tokens: list[int] = processor.tokenizer(
            text,
            add_special_tokens=begin is None or not text.startswith(begin),  # most templates write it themselves
        ).input_ids
        return tokens

    def _converse(self, answer: str | None) -> str:
        """Return the conversation as text, up to where the assistant begins, or with its answer."""
        if self.processor.chat_template is None:
            end = self.processor.end_of_utterance_token
            start = f"{self.processor.tokenizer.bos_token or ''}User:{self.processor.image_token}{self.prompt}{end}\nAssistant:"
            return start if answer is None else f"{start} {answer}{end}\n"
        asked = [{"type": "image"}, *([{"type": "text", "text": self.prompt}] if self.prompt else [])]
        turns: list[dict[str, Any]] = [{"role": "user", "content": asked}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text: str = self.processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)
        return text

    def _find_lead(self) -> str:
        """Return what the chat template writes between the words that open the assistant's turn and the answer: a space."""
        start, whole, answer = self._converse(None), self._converse("caption"), "caption"
        if not whole.startswith(start) or answer not in whole[len(start) :]:
            raise ConfigError(
                "--model.name: its chat template does not open the assistant's turn as it writes one; take the template of "
                "the model's instruct version."
            )
        return whole[len(start) :].partition(answer)[0]
