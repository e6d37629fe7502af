"""The CLIPs that can judge, as data: what each file is, and the settings without which it is silently wrong."""

from __future__ import annotations

from dataclasses import dataclass

SKYSCRIPT_CHECKPOINTS = "https://opendatasharing.s3.us-west-2.amazonaws.com/SkyScript/ckpt"


@dataclass(frozen=True, slots=True)
class Backbone:
    """One published CLIP.

    Args:
        architecture: open_clip's name of the network.
        quick_gelu: the activation it was trained with; the wrong one loads without a word and scores badly.
        archive: stem of the zip it is published as; the ``.pt`` inside is ``<archive>/epoch_20.pt``.
        trained_on: data sets it has seen: a score on them is in-sample.
    """

    architecture: str
    quick_gelu: bool
    archive: str
    trained_on: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where the zip is published."""
        return f"{SKYSCRIPT_CHECKPOINTS}/{self.archive}.zip"


# Files, architectures, activations and training sets: SkyScript's README and notebooks (commit b16d2e7), paper table 2.
BACKBONES = {
    "skyclip-vit-l14-top30pct": Backbone("ViT-L-14", True, "SkyCLIP_ViT_L14_top30pct", ("SkyScript",)),
    "skyclip-vit-l14-top50pct": Backbone("ViT-L-14", True, "SkyCLIP_ViT_L14_top50pct", ("SkyScript",)),
    "skyclip-vit-l14-top30pct-laion-rs": Backbone(
        "ViT-L-14", True, "SkyCLIP_ViT_L14_top30pct_filtered_by_CLIP_laion_RS", ("SkyScript",)
    ),
    "skyclip-vit-l14-top30pct-multi-objects": Backbone(
        "ViT-L-14", True, "SkyCLIP_ViT_L14_top30pct_multi_objects", ("SkyScript",)
    ),
    "skyclip-vit-b32-top50pct": Backbone("ViT-B-32", False, "SkyCLIP_ViT_B32_top50pct", ("SkyScript",)),
    "clip-vit-l14-laion-rs": Backbone("ViT-L-14", True, "CLIP_ViT_L14_LAION_RS", ("LAION-RS",)),
}
