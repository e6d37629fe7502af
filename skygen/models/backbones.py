"""The CLIPs that can judge, as data: where each file is, and the settings without which it is silently wrong.

A wrong activation, a wrong normalization or a wrong way of resizing loads without a word and scores badly; so all three stand
here, each row with a word on how its activation is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from skygen.data.benchmarks import BENCHMARK_SETS, RETRIEVAL_SETS

SKYSCRIPT_CHECKPOINTS = "https://opendatasharing.s3.us-west-2.amazonaws.com/SkyScript/ckpt"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What a repository in open_clip's own layout calls its weights, the safe form first."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the network's input; the defaults are OpenAI's.

    Args:
        mean: of red, green and blue, in [0, 1].
        std: of red, green and blue.
        interpolation: between pixels.
        resize_mode: ``shortest`` keeps the proportions and crops the centre, ``squash`` does neither.
    """

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "squash", "longest"] = "shortest"


_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Backbone:
    """One published CLIP.

    Args:
        architecture: open_clip's name of the network.
        quick_gelu: the activation it was trained with; the wrong one loads without a word and scores badly.
        archive: stem of the zip on SkyScript's server; the ``.pt`` inside is ``<archive>/epoch_20.pt``.
        trained_on: data sets it has seen, by skygen's names where it has one: a score on them is in-sample.
        repository: on the Hugging Face hub; of a row with an archive, an unofficial copy that is only looked for in the cache.
        file: in the repository; empty for the names of ``OPEN_CLIP_FILES``.
        tag: by which open_clip knows the weights.
        preprocessing: of pictures.
        image_size: side of the input, in pixels.
        context_length: tokens of a text; a file with more positions (LongCLIP's 248) is given as many.
        tokenizer: repository on the hub whose tokenizer it needs; empty for CLIP's own, which open_clip brings.
        licence: of the weights, as published; empty where none is stated.
        certain: whether the activation is stated by those who trained it, or by open_clip; else it is inferred.
        sha256: of the file, where it is known.
    """

    architecture: str
    quick_gelu: bool
    archive: str = ""
    trained_on: tuple[str, ...] = ()
    repository: str = ""
    file: str = ""
    tag: str = ""
    preprocessing: Preprocessing = Preprocessing()
    image_size: int = 224
    context_length: int = 77
    tokenizer: str = ""
    licence: str = ""
    certain: bool = True
    sha256: str = ""

    @property
    def url(self) -> str:
        """Where it is published."""
        if self.archive:
            return f"{SKYSCRIPT_CHECKPOINTS}/{self.archive}.zip"
        return f"https://huggingface.co/{self.repository}" + (f"/resolve/main/{self.file}" if self.file else "")


# Files, architectures, activations and training sets: SkyScript's README and notebooks (commit b16d2e7), paper table 2.
_L14_LAION_RS = "SkyCLIP_ViT_L14_top30pct_filtered_by_CLIP_laion_RS"
SKYSCRIPT_BACKBONES = {
    "skyclip-vit-l14-top30pct": Backbone("ViT-L-14", True, "SkyCLIP_ViT_L14_top30pct", ("SkyScript",)),
    "skyclip-vit-l14-top50pct": Backbone("ViT-L-14", True, "SkyCLIP_ViT_L14_top50pct", ("SkyScript",)),
    "skyclip-vit-l14-top30pct-laion-rs": Backbone(
        "ViT-L-14", True, _L14_LAION_RS, ("SkyScript",),
        repository="furiousteabag/SkyCLIP", file=f"{_L14_LAION_RS}_epoch_20.pt",
    ),
    "skyclip-vit-l14-top30pct-multi-objects": Backbone(
        "ViT-L-14", True, "SkyCLIP_ViT_L14_top30pct_multi_objects", ("SkyScript",)
    ),
    "skyclip-vit-b32-top50pct": Backbone("ViT-B-32", False, "SkyCLIP_ViT_B32_top50pct", ("SkyScript",)),
    "clip-vit-l14-laion-rs": Backbone("ViT-L-14", True, "CLIP_ViT_L14_LAION_RS", ("LAION-RS",)),
}  # fmt: skip
"""Those that SkyScript's authors publish."""


def _remoteclip(architecture: str) -> Backbone:
    # Its README builds the plain network, its retrieval script starts from OpenAI's weights, which had QuickGELU in the
    # open_clip of that time, and it was fine-tuned from them: QuickGELU is inferred, not stated.
    return Backbone(
        architecture, True, trained_on=("RSICD", "RSITMD", "ucmcaptions", "DET-10", "SEG-4"),
        repository="chendelong/RemoteCLIP", file=f"RemoteCLIP-{architecture}.pt", licence="apache-2.0", certain=False,
    )  # fmt: skip


_RS5M = ("RS5M", "fmow", "millionaid", "BigEarthNet")
"""RS5M takes in the last three (its part RS3)."""


def _georsclip(
    architecture: str, quick_gelu: bool, ending: str = "", also: tuple[str, ...] = (), *, certain: bool = True, sha256: str = ""
) -> Backbone:
    return Backbone(
        architecture, quick_gelu, trained_on=_RS5M + also, repository="Zilun/GeoRSCLIP",
        file=f"ckpt/RS5M_{architecture}{ending}.pt", image_size=336 if architecture.endswith("-336") else 224,
        licence="cc", certain=certain, sha256=sha256,
    )  # fmt: skip


def _farslip(stage: int, architecture: str) -> Backbone:
    return Backbone(  # its own evaluation always forces QuickGELU
        architecture, True, trained_on=_RS5M + (("MGRS-200k",) if stage == 2 else ()),
        repository="ZhenShiL/FarSLIP", file=f"FarSLIP{stage}_{architecture}.pt",
    )  # fmt: skip


# The activation of GeoRSCLIP's ViT-B/32 and ViT-H/14 is that of the weights they start from, `openai` and
# `laion2b_s32b_b79k`; that its two ViT-L/14 start from `openai` too is inferred.
_GEORSCLIP_L14_SHA256 = "9119b7731c17dd66fae13619203f33900946fe0660095ed54d8e6c7cfe8d03c0"
_GEORSCLIP_L14_336_SHA256 = "b0c2c660e917a7235f7aec346556d2696cbf419249cf75bcd8c17b822b76428c"
_REMOTE_SENSING = {
    "remoteclip-rn50": _remoteclip("RN50"),
    "remoteclip-vit-b32": _remoteclip("ViT-B-32"),
    "remoteclip-vit-l14": _remoteclip("ViT-L-14"),
    "georsclip-vit-b32": _georsclip("ViT-B-32", True),
    "georsclip-vit-b32-ret-2": _georsclip("ViT-B-32", True, "_RET-2", ("RSICD", "RSITMD")),
    "georsclip-vit-b32-rsicd": _georsclip("ViT-B-32", True, "_RSICD", ("RSICD",)),
    "georsclip-vit-l14": _georsclip("ViT-L-14", True, certain=False, sha256=_GEORSCLIP_L14_SHA256),
    "georsclip-vit-l14-336": _georsclip("ViT-L-14-336", True, certain=False, sha256=_GEORSCLIP_L14_336_SHA256),
    "georsclip-vit-h14": _georsclip("ViT-H-14", False),
    "farslip1-vit-b32": _farslip(1, "ViT-B-32"),
    "farslip1-vit-b16": _farslip(1, "ViT-B-16"),
    "farslip2-vit-b32": _farslip(2, "ViT-B-32"),
    "farslip2-vit-b16": _farslip(2, "ViT-B-16"),
}


def _openai(architecture: str, repository: str, image_size: int = 224) -> Backbone:
    return Backbone(
        f"{architecture}-quickgelu", True, trained_on=("OpenAI WIT",), repository=f"timm/{repository}.openai", tag="openai",
        image_size=image_size, licence="mit",
    )  # fmt: skip


def _laion2b(
    architecture: str, tag: str, repository: str, preprocessing: Preprocessing = Preprocessing()
) -> Backbone:  # frozen
    return Backbone(
        architecture, False, trained_on=("LAION-2B",), repository=repository, tag=tag, preprocessing=preprocessing,
        licence="mit",
    )  # fmt: skip


def _siglip(architecture: str, context_length: int = 64, tokenizer: str = "") -> Backbone:
    # Its image tower is timm's, with GELU by construction; cosines are at another level than CLIP's (sigmoid with a bias).
    return Backbone(
        architecture, False, trained_on=("WebLI",), repository=f"timm/{architecture}", tag="webli",
        preprocessing=Preprocessing(_HALF, _HALF, resize_mode="squash"), context_length=context_length,
        tokenizer=f"timm/{tokenizer or architecture}", licence="apache-2.0",
    )  # fmt: skip


# Tags, repositories, activations and normalizations: open_clip's own table (3.3.0).
_GENERAL = {
    "openai-rn50": _openai("RN50", "resnet50_clip"),
    "openai-vit-b32": _openai("ViT-B-32", "vit_base_patch32_clip_224"),
    "openai-vit-b16": _openai("ViT-B-16", "vit_base_patch16_clip_224"),
    "openai-vit-l14": _openai("ViT-L-14", "vit_large_patch14_clip_224"),
    "openai-vit-l14-336": _openai("ViT-L-14-336", "vit_large_patch14_clip_336", 336),
    "laion2b-vit-b32-e16": _laion2b("ViT-B-32", "laion2b_e16", "timm/vit_base_patch32_clip_224.laion2b_e16"),
    "laion2b-vit-b32": _laion2b("ViT-B-32", "laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    "laion2b-vit-l14": _laion2b(
        "ViT-L-14", "laion2b_s32b_b82k", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", Preprocessing(_HALF, _HALF)
    ),
    "laion2b-vit-h14": _laion2b("ViT-H-14", "laion2b_s32b_b79k", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    "siglip-vit-b16": _siglip("ViT-B-16-SigLIP"),
    "siglip-vit-so400m-14": _siglip("ViT-SO400M-14-SigLIP", 16, "ViT-B-16-SigLIP"),
    "siglip2-vit-b16": _siglip("ViT-B-16-SigLIP2"),
    "siglip2-vit-so400m-14": _siglip("ViT-SO400M-14-SigLIP2"),
}
BACKBONES = {**SKYSCRIPT_BACKBONES, **_REMOTE_SENSING, **_GENERAL}
"""Every row by the name that ``--scorer.name`` takes."""

_SAME_DATA = {
    "ucm": "ucmcaptions", "eurosatrgb": "eurosat", "resisc45": "nwpu", "nwpuresisc45": "nwpu", "rsicb256": "rsicb",
}  # fmt: skip


def in_sample(trained_on: Iterable[str], dataset: str) -> bool:
    """Say whether a score on a data set must be marked: the model has seen that data set, or one that takes it in.

    Args:
        trained_on: ``Backbone.trained_on`` or ``Scorer.trained_on``.
        dataset: its name; case and punctuation do not matter, and `UCM` is `ucmcaptions`. SkyScript's classification set
            (``SkyScript_cls``) is another than ``SkyScript``: its objects are not among the pairs.

    Returns:
        True only where the table says so; that nothing is known of a model's training makes no score in-sample.
    """
    return _plain(dataset) in {_plain(name) for name in trained_on}


def is_known(dataset: str) -> bool:
    """Say whether a name is that of training data in the table, of a published benchmark, or of the fabricated world."""
    trained_on = (name for backbone in BACKBONES.values() for name in backbone.trained_on)
    return _plain(dataset) in map(
        _plain, (*trained_on, *BENCHMARK_SETS, *RETRIEVAL_SETS, "Sydney-captions", "fabricated tiles")
    )


def find_close(name: str, known: Iterable[str], count: int = 5) -> list[str]:
    """List the names that begin with one, then those that resemble it; case does not matter."""
    written = {candidate.lower(): candidate for candidate in known}
    begun = [candidate for candidate in written if name and candidate.startswith(name.lower())]
    close = difflib.get_close_matches(name.lower(), written, n=count, cutoff=0.5)
    return [written[candidate] for candidate in dict.fromkeys([*begun, *close])][:count]


def _plain(name: str) -> str:
    plain = "".join(filter(str.isalnum, name)).lower()
    return _SAME_DATA.get(plain, plain)
