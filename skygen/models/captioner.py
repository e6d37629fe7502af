"""A captioner: an image-to-text model of transformers as a learner and a writer of captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from skygen.data.batch import Batch
from skygen.data.images import fit_image, image_to_tensor
from skygen.errors import ConfigError
from skygen.models.adapter_files import read_about, write_about
from skygen.models.adapters import Adapter, LoraSettings, Trained, WholeModel, attach_saved
from skygen.models.captioners.families import load_family
from skygen.models.captioners.family import IGNORED, Family
from skygen.models.fingerprints import fingerprint_weights
from skygen.models.quantization import Quantization, loading_options
from skygen.models.weights import ModelSettings
from skygen.seeding import Seeds


@dataclass(frozen=True)
class CaptionerSettings(ModelSettings):
    """Which captioner, how it is loaded, and the adapter on it."""

    prompt: str | None = None
    """What the decoder is asked; the family's own when left out. Training and writing need the same."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen base; a LoRA on it stays float32."""
    quantization: Quantization = "none"
    """nf4 holds the base in 4 bits (QLoRA); needs the extra ``skygen[quantized]``."""


@dataclass(frozen=True)
class CaptioningSettings:
    """How captions are written; names and meanings are those of transformers' ``generate``."""

    num_beams: int = 3
    """Beams of the search; 1 is greedy."""
    max_new_tokens: int = 40
    """Longest caption in tokens."""
    length_penalty: float = 1.0
    """Of the beams: above 0 long captions are favoured, below 0 short ones."""
    do_sample: bool = False
    """Draw each token at random instead of searching; wants num_beams 1."""
    top_p: float = 0.9
    """Nucleus: tokens are drawn from the likeliest that together have this probability; 1 is all."""
    temperature: float = 1.0
    """Below 1 the likely tokens are drawn more often."""
    candidates: int = 1
    """Captions written for each image, of which the scorer's favourite is taken."""
    batch_size: int = 32
    """Images at a time."""

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "candidates", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"captioning.{name} is {getattr(self, name)}; it must be at least 1")
        if self.do_sample and self.num_beams > 1:
            raise ConfigError("captioning.do_sample draws tokens and searches no beams: set captioning.num_beams to 1 with it")
        if not self.do_sample and self.candidates > self.num_beams:
            raise ConfigError(
                f"captioning.candidates is {self.candidates}, more than the {self.num_beams} beams that are searched; raise "
                "captioning.num_beams, or set captioning.do_sample to true"
            )
        if not 0 < self.top_p <= 1 or self.temperature <= 0:
            raise ConfigError("captioning.top_p must be in (0, 1] and captioning.temperature above 0")

    def generation_options(self) -> dict[str, Any]:
        """Return what ``generate`` of transformers is given."""
        options = asdict(self)
        options["num_return_sequences"] = options.pop("candidates")
        del options["batch_size"]
        if self.do_sample:
            options["top_k"] = 0  # the nucleus alone decides
        else:
            del options["top_p"], options["temperature"]
        if self.num_beams == 1:
            del options["length_penalty"]
        return options


@final
class Captioner:
    """An image-to-text model of transformers, of any of ``captioners.families.FAMILIES``.

    Args:
        family: the loaded network, and what is special about it.
        max_length: tokens of a caption, start and end included; longer training captions are cut.
    """

    divisible: ClassVar[bool] = True

    def __init__(self, family: Family, max_length: int = 64) -> None:
        self.family = family
        self.max_length = max_length
        self._vision_is_frozen = self._bridge_is_frozen = False

    @classmethod
    def load(
        cls,
        name: str = "miniature",
        adapter: Path | str | None = None,
        *,
        device: str = "cpu",
        prompt: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        quantization: Quantization = "none",
    ) -> Captioner:
        """Load a captioner.

        Args:
            name: ``miniature``, a folder in transformers' layout, or an id on the Hugging Face hub.
            adapter: folder of a LoRA in PEFT's layout.
            device: where it computes.
            prompt: what the decoder is asked; what the adapter was trained with, else the family's own, when left out.
            dtype: of the weights.
            quantization: ``nf4`` for weights of 4 bits.

        Raises:
            ConfigError: the model writes no captions, or the adapter was trained on another one.
            UnavailableError: the weights are not here.
        """
        family = load_family(name, loading_options(dtype, quantization), prompt)
        if quantization == "none":
            family.network.to(device)
        family.network.eval()
        captioner = cls(family)
        captioner.ask_as(read_about(Path(name)), prompt)
        if adapter is not None:
            captioner.ask_as(attach_saved(family.network, Path(adapter), name), prompt)
        return captioner

    @classmethod
    def of(cls, settings: CaptionerSettings, *, device: str = "cpu", with_adapter: bool = True) -> Captioner:
        """Load the captioner that a recipe's settings name; ``with_adapter`` off leaves its adapter out."""
        return cls.load(
            settings.name,
            settings.adapter if with_adapter else None,
            device=device,
            prompt=settings.prompt,
            dtype=settings.dtype,
            quantization=settings.quantization,
        )

    def ask_as(self, about: Mapping[str, Any], prompt: str | None = None) -> None:
        """See and ask as in an earlier training.

        Args:
            about: the ``skygen.json`` that it has left; of another program's, nothing.
            prompt: asked in the place of the one there.
        """
        if "resolution" in about:
            self.family.use_resolution(int(about["resolution"]))
        if prompt is None and "prompt" in about:
            self.family.prompt = str(about["prompt"])

    @property
    def network(self) -> Any:
        """The model of transformers."""
        return self.family.network

    @property
    def processor(self) -> Any:
        """Its processor: tokenizer, image statistics, chat template."""
        return self.family.processor

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        return self.family.resolution

    def attach(self, lora: LoraSettings, seeds: Seeds, *, base: str = "") -> Trained:
        """Make the network trainable: frozen with a LoRA on it, or as a whole where the rank is 0.

        Args:
            lora: rank, alpha, targets.
            seeds: the initial values follow from them.
            base: the name that the network was loaded by, for the adapter's record.
        """
        if lora.rank == 0:
            if self.network.dtype != torch.float32:
                raise ConfigError(
                    "--lora.rank 0 trains every parameter, which are float32 then: leave --model.dtype and "
                    "--model.quantization out, or set a rank."
                )
            return WholeModel(self.network, self.save_model)
        quantized = getattr(self.network, "is_quantized", False)
        about = {
            "model_type": self.network.config.model_type,
            "base": base,
            "base_weights": None if quantized else fingerprint_weights(self.network, torch.bfloat16),
            "prompt": self.family.prompt,
            "resolution": self.resolution,
        }
        presets = {"default": self.family.lora_presets["text_decoder"], **self.family.lora_presets}
        adapter = Adapter(self.network, lora, presets, seeds, about=about)
        self._vision_is_frozen = not _trains(self.family.vision)
        self._bridge_is_frozen = self._vision_is_frozen and not _trains(self.family.bridge)
        return adapter

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether what ``encode`` gives stays the same during the training, so that it may be kept."""
        return self._vision_is_frozen

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch places channels"]:
        """Run the part of the network that no training changes: the vision tower, and the bridge where it is frozen too.

        Args:
            pixels: RGB in [-1, 1].
        """
        if not self._vision_is_frozen:
            return self.family.encode(pixels)
        self.family.vision.eval()  # a frozen tower has no dropout: what it says of an image is always the same
        if self._bridge_is_frozen and self.family.bridge is not None:
            self.family.bridge.eval()
        with torch.no_grad():
            features = self.family.encode(pixels)
            return self.family.project(features) if self._bridge_is_frozen else features

    def encoder_fingerprint(self) -> str:
        """Name what ``encode`` makes of an image: other weights, or pixels of another mean and spread, have another name."""
        images = self.processor.image_processor
        statistics = sha256(repr((list(images.image_mean), list(images.image_std))).encode()).hexdigest()[:8]
        parts = [statistics, fingerprint_weights(self.family.vision)]
        if self._bridge_is_frozen and self.family.bridge is not None:
            parts.append(fingerprint_weights(self.family.bridge))
        return "-".join(parts)

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return each example's cross-entropy, the mean over the tokens of its caption."""
        sums, counts = self.token_losses(self.features(batch), batch.captions)
        return sums / counts

    def features(self, batch: Batch) -> Float[Tensor, "batch places channels"]:
        """Return what ``encode`` makes of the images of a batch, or has made of them earlier."""
        return self.encode(batch.pixels) if batch.features is None else batch.features.to(self.network.dtype)

    def token_losses(
        self, features: Float[Tensor, "batch places channels"], captions: Sequence[str]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return how unlikely captions are: the sum of the cross-entropies of the tokens of each, and their number.

        Args:
            features: from ``features``.
            captions: one an image.
        """
        image = self._project(features)
        tokens = self.family.tokenize(captions, self.max_length).to(image.device)
        logits = self.family.logits(image, tokens).float().transpose(1, 2)
        targets = tokens.targets[:, tokens.prompt_length :]
        losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        return losses.sum(dim=1), (targets != IGNORED).sum(dim=1).clamp(min=1).float()

    def write(self, features: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions from features, with ``options`` of transformers' ``generate``; those of one image stand together."""
        return self.family.generate(self._project(features), options)

    def _project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        return features if self._bridge_is_frozen else self.family.project(features)

    def caption(self, images: Sequence[Image.Image], settings: CaptioningSettings | None = None) -> list[str]:
        """Write one caption an image: the most likely one under beam search, as the settings are.

        Args:
            images: RGB, of any size.
            settings: beams, length, batch; of several candidates the first is returned.
        """
        return [candidates[0] for candidates in self.propose(images, settings)]

    @torch.inference_mode()
    def propose(
        self, images: Sequence[Image.Image], settings: CaptioningSettings | None = None, seeds: Seeds | None = None
    ) -> list[list[str]]:
        """Write ``settings.candidates`` captions an image.

        Args:
            images: RGB, of any size.
            settings: how they are written.
            seeds: of the draws where ``do_sample`` is on; these depend on the whole batch, so that the same images in the same
                order get the same captions, and an image elsewhere may get another.

        Returns:
            The candidates of each image, in the order that ``generate`` gives them: beams by their likelihood.
        """
        settings = settings or CaptioningSettings()
        was_training = self.network.training
        self.network.eval()
        proposed: list[list[str]] = []
        for start in range(0, len(images), settings.batch_size):
            squares = [
                fit_image(image, self.resolution, mode="squash") for image in images[start : start + settings.batch_size]
            ]
            pixels = torch.stack([image_to_tensor(square) for square in squares]).to(self.network.device)
            if settings.do_sample:
                (seeds or Seeds(0)).reset_global("captions", start)
            written = self.write(self.encode(pixels), settings.generation_options())
            width = settings.candidates
            proposed += [written[row : row + width] for row in range(0, len(written), width)]
        self.network.train(was_training)
        return proposed

    def save_model(self, folder: Path) -> None:
        """Save the whole model in transformers' layout, and beside it how it is asked."""
        self.network.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_about(folder, {"prompt": self.family.prompt, "resolution": self.resolution})


def _trains(module: nn.Module | None) -> bool:
    return module is not None and any(parameter.requires_grad for parameter in module.parameters())
