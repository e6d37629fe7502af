"""Networks that turn images into the features that FID and KID compare."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from skygen.data.images import open_image
from skygen.errors import UnavailableError
from skygen.models.scorer import Picture, Scorer
from skygen.models.weights import read_state_dict

INCEPTION_FILE: Final = "weights-inception-2015-12-05-6726825d.pth"
"""The network of Heusel et al. 2017 (TensorFlow, 5 December 2015) as torch-fidelity converted it; 91 MB."""
INCEPTION_SHA256: Final = "6726825d"
"""How the SHA-256 of that file begins; its name says so."""


@dataclass(frozen=True)
class Extractor:
    """A network as a function from images to features.

    Args:
        name: what a ``Score`` calls it; scores are comparable only under the same name.
        extract: turns images, paths or PIL images of any size, into features, float32, a row an image.
    """

    name: str
    extract: Callable[[Sequence[Picture]], Float[np.ndarray, "count dimension"]]


def scorer_extractor(scorer: Scorer) -> Extractor:
    """Make the extractor that suits overhead images: the image embeddings of SkyCLIP or another CLIP.

    The unit vectors are multiplied by √dimension. KID's kernel (x·y / dimension + 1)³ was made for features whose
    coordinates are about 1; of unit vectors it would see little but the mean. Scaled, it is (cosine + 1)³. FID is
    thereby that of the unit vectors times the dimension.

    Args:
        scorer: the CLIP.
    """

    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count dimension"]:
        embeddings = scorer.embed_images(images)
        scale = np.float32(np.sqrt(embeddings.shape[1]))
        return embeddings * scale

    return Extractor(f"skyclip:{scorer.name}", extract)


def inception_extractor(
    weights: Path, *, sha256: str = INCEPTION_SHA256, device: str = "cpu", batch_size: int = 32
) -> Extractor:
    """Make the extractor of the FID that papers print: the 2,048 pooled features of the 2015 Inception.

    The file is checked now and read at the first use, by the reader that unpickles nothing but tensors. Images are brought
    to 299 pixels by torchmetrics, bilinear with antialiasing.

    Args:
        weights: torch-fidelity's file; nothing is downloaded.
        sha256: how the file's SHA-256 must begin; another one stands for another network, and its scores are comparable
            with no published FID. The extractor's name carries it.
        device: where it computes.
        batch_size: images at a time; images of one size that follow each other share a batch.

    Raises:
        UnavailableError: the file is missing or is another one.
    """
    remedy = f"download {INCEPTION_FILE} from release v0.2.0 of torch-fidelity (github.com/toshas/torch-fidelity)"
    if not weights.is_file():
        raise UnavailableError(f"{weights}: the Inception network of FID is not there; {remedy} and give its path.")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise UnavailableError(
            f"{weights}: not the Inception network of FID, its SHA-256 begins with {found[:8]} instead of {sha256}; "
            f"{remedy} again."
        )

    @cache
    def network() -> Any:
        return _build_inception(weights).to(device)

    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count 2048"]:
        import torch

        features = [np.empty((0, 2048), dtype=np.float32)]
        with torch.inference_mode():
            for pixels in _batch_by_size(images, batch_size):
                features.append(network()(torch.from_numpy(pixels).to(device)).float().cpu().numpy())
        return np.concatenate(features)

    return Extractor(f"inception-v3-compat:{found[:8]}", extract)


def _build_inception(weights: Path) -> Any:
    """Build the network. Its constructor unpickles anything, so it is handed a rewritten copy that holds tensors alone."""
    import torch
    from torchmetrics.image.fid import NoTrainInceptionV3

    copy = io.BytesIO()
    torch.save(read_state_dict(weights), copy)  # noqa: TID251  # stays in memory; the constructor takes nothing but a file
    copy.seek(0)
    return NoTrainInceptionV3("inception-v3-compat", ["2048"], copy).eval()


def _batch_by_size(images: Sequence[Picture], batch_size: int) -> Iterator[UInt8[np.ndarray, "batch 3 height width"]]:
    batch: list[np.ndarray] = []
    for image in images:
        picture = image.convert("RGB") if isinstance(image, Image.Image) else open_image(image)
        pixels = np.asarray(picture).transpose(2, 0, 1)
        if batch and (len(batch) == batch_size or batch[0].shape != pixels.shape):
            yield np.stack(batch)
            batch = []
        batch.append(pixels)
    if batch:
        yield np.stack(batch)
