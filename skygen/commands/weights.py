"""Commands on weights: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer, showing


def convert(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    output: Path | None = None,
    architecture: str | None = None,
) -> Answer:
    """Write the weights of a CLIP's checkpoint, and nothing else of it, as safetensors, where a scorer finds them.

    SkyCLIP's ViT-L/14 shrinks from 4.5 GB to 1.7 GB; no optimizer, no pickle.

    Args:
        file: a .pt, a downloaded zip with one, or safetensors.
        output: by default NAME.safetensors among the checkpoints of SKYGEN_HOME.
        architecture: open_clip's name of its network, with -quickgelu for OpenAI's activation; known for published files.
    """
    from skygen.models.convert import convert as write

    with showing("bytes", unit="B") as progress:
        done = write(file, output, progress, architecture=architecture)
    activation = {None: "its activation is not known", True: "QuickGELU", False: "GELU"}[done.quick_gelu]
    lines = [
        f"{done.path}: {done.tensors} tensors, {done.size:,} bytes of {done.source_size:,}, compared with the source",
        f"network: {done.network}; {activation}",
        f"source: SHA-256 {done.sha256}",
        f"use it: --scorer.name {done.name}",
    ]
    if done.quick_gelu is None and done.architectures:
        names = " or ".join(f"{name}{end}" for name in done.architectures[:1] for end in ("", "-quickgelu"))
        lines[-1] += f" --scorer.architecture {names}"
    return Answer("\n".join(lines))
