"""Before the first update: what the autoencoder makes of training images, and whether the largest update fits into memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from skygen.data.batch import Batch
from skygen.data.framing import ImageSettings, Size, frame, list_buckets
from skygen.data.image_metadata import UNKNOWN
from skygen.data.images import image_to_tensor, open_image
from skygen.data.loading import PairStream
from skygen.errors import ArchiveError, ConfigError, DataError, ImageError
from skygen.models.diffusions.frozen import LatentEncoder
from skygen.seeding import Seeds

if TYPE_CHECKING:
    from skygen.models.diffusion import Diffusion

_LOG = logging.getLogger("skygen")

IMAGES = 8
SMALLEST_ERROR = 1e-10
"""Of a mean square, so that an image which comes back unchanged has 100 dB and not infinity, which JSON does not know."""
_MEND = "its weights are damaged or of another model: download them again"
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How well training images come back from the autoencoder: no picture of the denoiser can have more detail than that.

    Args:
        images: looked at.
        psnr: mean over them of the peak signal-to-noise ratio, in dB, at most 100.
        lowest: of them.
    """

    images: int
    psnr: float
    lowest: float

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def summary(self) -> str:
        """Say it in one line, for the log."""
        return f"autoencoder: {self.images} training images come back with {self.psnr:.1f} dB, the worst with {self.lowest:.1f}"


def choose_images(stream: PairStream, count: int = IMAGES) -> list[Image.Image]:
    """Open evenly spaced training images as they are trained on, the middle of each, not turned; the unreadable are left out.

    Args:
        stream: of the run; its images with the resolution set.
        count: how many to look at.
    """
    pairs, shown = stream.pairs, []
    for place in range(min(count, len(pairs))):
        try:
            image = open_image(pairs[place * len(pairs) // min(count, len(pairs))].image)
        except (ImageError, ArchiveError, FileNotFoundError):
            continue  # the stream notes it in the ledger when it comes to it
        shown.append(frame(image.size, stream.images).apply(image))
    return shown


@torch.no_grad()
def check_autoencoder(diffusion: Diffusion, images: Sequence[Image.Image], autocast: Autocast = nullcontext) -> RoundTrip:
    """Encode training images, decode them again, and compare.

    Args:
        diffusion: whose autoencoder is meant.
        images: RGB, of sizes that it takes, from ``choose_images``; each alone, so that their sizes may differ.
        autocast: the precision that images are encoded in, that of the training; pictures are decoded without.

    Raises:
        DataError: a latent or a pixel is not finite, or there is no image.
    """
    if not images:
        raise DataError("not one of the training images that were looked at can be read; `skygen check` says what is wrong.")
    vae = diffusion.pipeline.vae
    device = next(vae.parameters()).device
    own = str(vae.dtype).removeprefix("torch.")
    ratios = []
    for number, image in enumerate(images, start=1):
        pixels, which = image_to_tensor(image)[None].to(device), f"training image {number} of {len(images)}"
        with autocast():
            latents = diffusion.family.scale_latents(diffusion.family.encode_images(pixels).mean)
            around = str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
        if not bool(latents.isfinite().all()):
            alone = diffusion.family.encode_images(pixels).mean
            if bool(alone.isfinite().all()):
                raise DataError(
                    f"the latents of {which} are not finite where the autoencoder computes in {around}, and are in {own}; set "
                    "--train.mixed_precision no, or keep latents with --features.root, which are made in the latter."
                )
            raise DataError(f"the latents of {which} are not finite in {own}; {_MEND}.")
        decoded = diffusion.family.decode_latents(latents).float()
        if not bool(decoded.isfinite().all()):
            raise DataError(f"the pixels that the autoencoder decodes of {which} are not finite in {own}; {_MEND}.")
        error = float(((decoded.clamp(-1, 1) - pixels) / 2).square().mean())
        ratios.append(-10 * math.log10(max(error, SMALLEST_ERROR)))
    return RoundTrip(len(ratios), sum(ratios) / len(ratios), min(ratios))


def largest_size(images: ImageSettings) -> Size:
    """Return width and height of the largest image that is trained on.

    Args:
        images: with the resolution, and for buckets their step, set.
    """
    if not images.aspect_buckets:
        return (images.resolution, images.resolution)
    return max(list_buckets(images.resolution, images.bucket_step), key=lambda size: (size[0] * size[1], size))


def probe_update(
    diffusion: Diffusion,
    trained: Iterable[nn.Parameter],
    size: Size,
    batch_size: int,
    *,
    kept: bool = False,
    autocast: Autocast = nullcontext,
) -> None:
    """See that a micro-batch fits into memory: compute the gradient of one of grey images, and forget it.

    It allocates what a step does, but for the optimizer's state. No parameter, gradient or random state is changed.

    Args:
        diffusion: with the adapter, and with prompts where they are kept.
        trained: parameters that get a gradient.
        size: width and height of its images, see ``largest_size``.
        batch_size: of the micro-batch.
        kept: latents come from features; else the autoencoder encodes a whole micro-batch at each step.
        autocast: the precision of the training.

    Raises:
        ConfigError: not even one image fits; of more it is said.
    """
    network, was_training = diffusion.network, diffusion.network.training
    device = next(network.parameters()).device
    pixels, captions = torch.zeros(1, 3, size[1], size[0], device=device), ("",) * batch_size
    try:
        with torch.no_grad():
            features = LatentEncoder(diffusion.family).encode(pixels).expand(batch_size, -1, -1, -1) if kept else None
        grey = pixels.expand(batch_size, -1, -1, -1) if features is None else pixels.new_zeros(batch_size, 3, 0, 0)
        batch = Batch(grey, captions, captions, features=features, metadata=(UNKNOWN,) * batch_size)
        network.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), autocast():
            losses = diffusion.loss(batch, Seeds(0).generator("probe"))
        losses.float().sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    except torch.OutOfMemoryError as error:
        images = f"{batch_size} images" if batch_size > 1 else "one image"
        told = f"{images} of {size[0]} x {size[1]} pixels at a time: the memory of {device} does not suffice; set "
        mend = "--model.gradient_checkpointing true"
        if batch_size == 1:
            raise ConfigError(f"{told}{mend}, or take a smaller --images.resolution.") from error
        smaller = f"--train.train_batch_size {batch_size // 2} with twice --train.gradient_accumulation_steps"
        _LOG.warning(f"{told}{mend}, or {smaller}; otherwise it is taken apart, which takes longer.")
    finally:
        network.train(was_training)
        for parameter in trained:
            parameter.grad = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
