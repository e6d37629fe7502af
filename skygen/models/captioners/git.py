"""GIT (Wang et al. 2022): a CLIP ViT whose patches stand before the words in one causal transformer."""

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
from skygen.models.captioners.stand_ins import with_stand_ins

TEXT_DECODER = r"git\.encoder\..*\.(query|key|value|dense)"
BRIDGE = r"git\.visual_projection\..*\.0"  # a linear map and, as 1, its norm
VISION = r"git\.image_encoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


@final
class Git:
    """A ``GitForCausalLM``; its captions begin with BERT's [CLS] and end with [SEP].

    Args:
        network: the model.
        processor: its ``GitProcessor``.
        prompt: what every caption would begin with; GIT's own captions have none.

    Raises:
        ConfigError: a model for videos.
    """

    lora_presets: ClassVar[Mapping[str, str]] = {
        "text_decoder": TEXT_DECODER,
        "text_decoder_and_bridge": "|".join((TEXT_DECODER, BRIDGE)),
        "all": "|".join((TEXT_DECODER, BRIDGE, VISION)),
    }

    def __init__(self, network: Any, processor: Any, prompt: str | None = None) -> None:
        if network.config.num_image_with_embedding is not None:
            raise ConfigError(
                f"--model.name: this GIT reads videos of {network.config.num_image_with_embedding} frames; give one that is "
                "trained on single images, such as microsoft/git-base."
            )
        self.network = network
        self.processor = processor
        self.prompt = (prompt or "").strip()
        self._pixels = PixelStatistics.of(processor.image_processor)
        self._resolution = int(network.config.vision_config.image_size)

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Git:
        """Load network and processor, see ``Family.load``."""
        from transformers import GitForCausalLM, GitProcessor

        network = GitForCausalLM.from_pretrained(source, use_safetensors=True, **options)
        return cls(network, load_processor(GitProcessor, source), prompt)

    @property
    def vision(self) -> nn.Module:
        """The ViT."""
        tower: nn.Module = self.network.git.image_encoder
        return tower

    @property
    def bridge(self) -> nn.Module:
        """The linear map, and its norm, from the ViT's width to the decoder's."""
        projection: nn.Module = self.network.git.visual_projection
        return projection

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self._resolution

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size; the position embeddings are interpolated.

        Raises:
            ConfigError: no whole number of patches.
        """
        require_whole_patches(resolution, int(self.network.config.vision_config.patch_size), "GIT")
        self._resolution = resolution

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the ViT on pixels in [-1, 1]."""
        values = self._pixels.normalise(pixels).to(self.network.dtype)
        features: Tensor = self.vision(
            pixel_values=values, interpolate_pos_encoding=self._resolution != self.network.config.vision_config.image_size
        ).last_hidden_state
        return features

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Bring the features to the decoder's width."""
        projected: Tensor = self.bridge(features)
        return projected

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Put [CLS] and the prompt before every caption, and [SEP] behind; the image's places are in no row of tokens."""
        tokenizer = self.processor.tokenizer
        room = max_length - 1  # [CLS] counts
        spelled = spell(tokenizer, captions)
        return continue_prompt(self._before(), spelled, tokenizer.sep_token_id, room, tokenizer.pad_token_id)

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token."""
        logits: Tensor = self._decoder()(
            pixel_values=image[:, None],
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            use_cache=False,
            logits_to_keep=tokens.predicting,
        ).logits
        return logits

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions from [CLS] and the prompt on."""
        tokenizer, before = self.processor.tokenizer, self._before()
        written = self._decoder().generate(
            pixel_values=image[:, None],  # as pixels, for generate to repeat them for its beams
            input_ids=torch.tensor([before], device=image.device).expand(len(image), -1),
            eos_token_id=tokenizer.sep_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
        texts = tokenizer.batch_decode(written[:, len(before) :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _before(self) -> list[int]:
        """Return the tokens that every caption comes after."""
        tokenizer = self.processor.tokenizer
        return [tokenizer.cls_token_id, *tokenizer(self.prompt, add_special_tokens=False).input_ids]

    def _decoder(self) -> Any:
        """Return the network with nothing before the decoder: ``pixel_values`` are what ``project`` gives, of rank 4."""
        return with_stand_ins(self.network, {"git.image_encoder": _pass_on, "git.visual_projection": _as_it_is})


def _pass_on(pixel_values: Tensor, **_: Any) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=pixel_values[:, 0])


def _as_it_is(features: Tensor) -> Tensor:
    return features
