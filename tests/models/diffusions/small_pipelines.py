"""A small pipeline of each family of diffusion models, with random weights, in diffusers' layout."""

from __future__ import annotations

from pathlib import Path

from models.diffusions import build_stable_diffusion_3, build_stable_diffusion_xl

KINDS = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3")


def build_pipelines(root: Path, stable_diffusion: Path) -> dict[str, Path]:
    """Write those that are not there, and return the folders of all by the names of ``KINDS``."""
    build_stable_diffusion_xl.build(root / "stable_diffusion_xl")
    build_stable_diffusion_3.build(root / "stable_diffusion_3")
    return {"stable_diffusion": stable_diffusion} | {kind: root / kind for kind in KINDS[1:]}
