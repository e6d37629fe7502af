"""The judge: an image classifier that was trained on real images and shares no weights with the scorer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from skygen.config import CountFromOne
from skygen.data.batch import Batch
from skygen.data.images import open_image
from skygen.data.pair import to_words
from skygen.errors import UnavailableError
from skygen.models.scorer import Picture
from skygen.models.weights import hide_loading_bars, locate, reading_weights


@dataclass(frozen=True)
class JudgeSettings:
    """Which classifier judges."""

    name: str = ""
    """``miniature``, a folder, or an id on the Hugging Face hub, of an image classifier; nothing is judged without it."""
    batch_size: CountFromOne = 64
    """Images judged at a time."""


@final
class Judge:
    """An image classifier of transformers with its own preprocessing.

    Args:
        name: what a report calls it.
        network: an ``AutoModelForImageClassification``.
        processor: its image processor.
        batch_size: images judged at a time.
    """

    def __init__(self, name: str, network: Any, processor: Any, batch_size: int = 64) -> None:
        self.name = name
        self.network = network.eval()
        self.processor = processor
        self.batch_size = batch_size
        labels = network.config.id2label
        self.class_names = tuple(to_words(labels[index]) for index in sorted(labels))

    @classmethod
    def load(cls, name: str = "miniature", *, device: str = "cpu", batch_size: int = 64) -> Judge:
        """Load a classifier in float32.

        Args:
            name: ``miniature``, a folder in transformers' layout, or an id on the Hugging Face hub.
            device: where it computes.
            batch_size: images judged at a time.

        Raises:
            UnavailableError: the weights are not here, or are not those of an image classifier.
        """
        source = locate(name, "judge", "config.json")
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        hide_loading_bars()
        try:
            with reading_weights(name):
                network, found = AutoModelForImageClassification.from_pretrained(
                    source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
                )
                processor = AutoImageProcessor.from_pretrained(source)
        except ValueError as error:  # transformers' word for another kind of model
            raise UnavailableError(
                f"{name}: not an image classifier of transformers; give one that AutoModelForImageClassification loads."
            ) from error
        if found["missing_keys"]:  # transformers would go on with random ones
            raise UnavailableError(
                f"{name}: lacks {sorted(found['missing_keys'])[0]}, so this is no trained image classifier; give one whose "
                "head was trained and saved with it."
            )
        return cls(name, network.to(device), processor, batch_size)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the data sets that it has seen, as far as its config tells."""
        return tuple(getattr(self.network.config, "trained_on", ()))

    @trained_on.setter
    def trained_on(self, names: tuple[str, ...]) -> None:
        self.network.config.trained_on = list(names)

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        size = self.processor.crop_size if getattr(self.processor, "do_center_crop", False) else self.processor.size
        return int(size.get("height") or size.get("shortest_edge"))

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Picture]) -> Float[np.ndarray, "count classes"]:
        """Judge images.

        Args:
            images: paths or PIL images of any size.

        Returns:
            The probability of each of ``class_names``, float32; each row sums to 1.

        Raises:
            ImageError: a file cannot be decoded.
        """
        chunks = [np.empty((0, len(self.class_names)), dtype=np.float32)]
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            pictures = [image if isinstance(image, Image.Image) else open_image(Path(image)) for image in chunk]
            pixels = self.processor(pictures, return_tensors="pt").pixel_values.to(self.network.device)
            chunks.append(self.network(pixel_values=pixels).logits.float().softmax(dim=1).cpu().numpy())
        return np.concatenate(chunks)

    def save(self, folder: Path) -> None:
        """Write the classifier to a folder that ``load`` takes."""
        self.network.save_pretrained(folder)
        self.processor.save_pretrained(folder)


@final
class ClassificationLearner:
    """Trains a judge on images of known classes.

    Args:
        judge: whose network is trained.
        labels: place in ``Judge.class_names`` of the class of each pair, by ``Pair.key``.
        label_smoothing: share of the target that goes to all classes alike (Szegedy et al. 2016, section 7).
    """

    divisible: ClassVar[bool] = False  # batch normalisation

    def __init__(self, judge: Judge, labels: Mapping[str, int], label_smoothing: float = 0.05) -> None:
        self.network: nn.Module = judge.network
        self.labels = labels
        self.label_smoothing = label_smoothing
        self._mean = torch.tensor(judge.processor.image_mean)[:, None, None]
        self._std = torch.tensor(judge.processor.image_std)[:, None, None]

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return each image's cross-entropy."""
        logits = self.network(pixel_values=self._normalise(batch.pixels)).logits.float()
        targets = torch.tensor([self.labels[key] for key in batch.keys], device=logits.device)
        return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")

    @torch.no_grad()
    def settle_statistics(self, batches: Iterable[Batch]) -> None:
        """Measure the running statistics of batch normalisation anew, for the parameters as they are now.

        Those gathered in training belong to the parameters of the way there, not to their average, and a checkpoint does not
        hold them (Izmailov et al. 2018, section 3.2). A network without batch normalisation is left as it is.

        Args:
            batches: training images; their pixels are brought to the network's device.
        """
        normalisations = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        if not normalisations:
            return
        momenta = [module.momentum for module in normalisations]
        for module in normalisations:
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
        training = self.network.training
        self.network.train()
        device = next(self.network.parameters()).device
        for batch in batches:
            if batch.keys:
                self.network(pixel_values=self._normalise(batch.pixels.to(device)))
        self.network.train(training)
        for module, momentum in zip(normalisations, momenta, strict=True):
            module.momentum = momentum

    def _normalise(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Turn pixels in [-1, 1] into the mean and spread that the image processor makes."""
        device = pixels.device
        return (pixels.add(1).div(2) - self._mean.to(device)) / self._std.to(device)
