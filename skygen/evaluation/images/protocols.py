"""Named protocols of image evaluation: what is measured, on how many images, by which networks. Compare under one alone.

* ``skygen-1``: this project's own, on any data: all metrics of this room, each with interval, count and extractor.
* ``rsdiff-1093``: as the package rsdiff 0.1.0 evaluates its release (FID 65.70; cosine 0.278, of shuffled captions 0.232): one
  picture for the first caption of each of RSICD's 1,093 test images, both sides squeezed to 256 pixels before FID's Inception,
  and cosines of OpenAI's ViT-B/32 beside those of one fixed permutation.
* ``mhn-2023``: of Txt2Img-MHN (Xu et al. 2023), which CRS-Diff and others took over; for comparison with their tables alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from skygen.errors import ConfigError
from skygen.evaluation.scores import PROTOCOL


@final
@dataclass(frozen=True, slots=True)
class Protocol:
    """What a protocol asks for.

    Args:
        name: as ``metrics.json`` has it.
        metrics: that are computed.
        extractors: that are taken, whatever the user names; empty where the user chooses.
        scorer: the CLIP that must be given; empty where the user chooses.
        resized: side that images are squeezed to before features are taken; None leaves that to the extractor.
        pictures: that each generated set must have; None where any number will do.
        real: real images that there must be.
        official: the published split that they must be; empty where any will do.
        shuffle_seed: of Python's own generator, for the permutation of the prompts; None draws one that moves every text.
        faults: what a reader must know before quoting a figure, a sentence each.
    """

    name: str
    metrics: frozenset[str]
    extractors: tuple[str, ...] = ()
    scorer: str = ""
    resized: int | None = None
    pictures: int | None = None
    real: int | None = None
    official: str = ""
    shuffle_seed: int | None = None
    faults: tuple[str, ...] = ()

    def check_networks(self, extractors: tuple[str, ...], scorer: str) -> None:
        """Refuse networks that are not the protocol's.

        Args:
            extractors: that the user names.
            scorer: name of the CLIP.

        Raises:
            ConfigError: one is another.
        """
        if self.extractors and extractors != self.extractors:
            raise ConfigError(
                f"--protocol {self.name} takes features of {', '.join(self.extractors)} alone; give --features.extractors "
                f"{' '.join(self.extractors)}, or another protocol."
            )
        if self.scorer and scorer != self.scorer:
            raise ConfigError(f"--protocol {self.name} scores by {self.scorer} alone; give --scorer.name {self.scorer}.")

    def check_counts(self, real: int, official: str | None, generated: dict[str, int]) -> None:
        """Refuse other images than the protocol's.

        Args:
            real: how many real images can be read.
            official: the published split that they are, such as ``RSICD test (1,093 images)``; None of no known one.
            generated: pictures of each model.

        Raises:
            ConfigError: they are fewer, more, or others.
        """
        for model, count in generated.items():
            if self.pictures is not None and count != self.pictures:
                raise ConfigError(
                    f"--protocol {self.name} is of {self.pictures:,} pictures, there are {count:,} of {model}; draw so many, "
                    "or measure by skygen-1."
                )
        if self.real is not None and real != self.real:
            raise ConfigError(
                f"--protocol {self.name} is of {self.real:,} real images, and {real:,} can be read; choose with --pairs.csv."
            )
        if self.official and not (official or "").startswith(self.official):
            raise ConfigError(
                f"--protocol {self.name} is of {self.official}, and these images are {official or 'no published split'}; give "
                "that split by --pairs.root and --pairs.split."
            )


_EVERY: Final = (
    "fid", "kid", "precision_recall", "cmmd", "vendi_score", "prompt_diversity", "skyclip_score", "prompt_retrieval",
    "zero_shot", "judge", "cycle", "turned",
)  # fmt: skip
SKYGEN_1: Final = Protocol(PROTOCOL, frozenset(_EVERY))
PROTOCOLS: Final = {
    protocol.name: protocol
    for protocol in (
        SKYGEN_1,
        Protocol(
            "rsdiff-1093",
            frozenset({"fid", "skyclip_score"}),
            extractors=("inception",),
            scorer="openai-vit-b32",
            resized=256,
            pictures=1093,
            real=1093,
            official="RSICD test",
            shuffle_seed=17,
            faults=(
                "FID of 2,048 features from 1,093 images: both covariances are singular, and the value falls with the number "
                "of images.",
                "One caption of five is used of each image, the first.",
                "rsdiff prints no interval and passes over files that it cannot read; here an unreadable one stops the run.",
            ),
        ),
        Protocol(
            "mhn-2023",
            frozenset({"fid", "inception_score", "clip_dot"}),
            extractors=("mhn",),
            pictures=21870,
            real=1000,
            faults=(
                "The Inception was trained on RSICD's own classes, on 1,864 of the 2,187 images whose captions are the "
                "prompts; its weights were never published, so every group measures with a network of its own.",
                "It sees 256 pixels, not 299, and is not FID's network: the values compare with no other FID.",
                "Of the 1,000 real images 810 are in RSICD's training split, 83 in its validation split and 107 in its test "
                "split; of 2,048 features from 1,000 images the covariance is singular.",
                "Prompts are of validation and test images together.",
                "The CLIP score is a dot product of embeddings that were not brought to length 1, divided by 100: no cosine. "
                "The published one is by clip-rsicd-v2, which was trained on RSICD; this one is by the scorer that is named.",
                "The accuracy of a ResNet-18 trained on the pictures, tested on the images that the prompts describe, is left "
                "out; recipes/evaluate_utility.py measures the like on images whose captions were no prompts.",
            ),
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"--protocol {name}: give one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
