"""Commands on adapters: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer

if TYPE_CHECKING:
    from skygen.models.lora_export import ExportedLora


def export(
    adapter: Annotated[Positional[Path], arg(metavar="ADAPTER")],
    /,
    form: Annotated[Literal["kohya", "diffusers"], arg(name="format")],
    precision: Annotated[Literal["float32", "float16", "bfloat16"], arg(name="dtype")] = "float32",
    output: Path | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> Answer:
    """Write a diffusion LoRA for ComfyUI, A1111 and sd-scripts, and prove on its base that it does what the original does.

    Args:
        adapter: folder of a diffusion LoRA, such as runs/NAME/adapter, or its file.
        form: `kohya` for ComfyUI, A1111 and sd-scripts; `diffusers` for PEFT's names and settings.
        precision: of the matrices that are written; half of them takes half the space.
        output: by default NAME.safetensors beside the adapter, by the name of its run.
        base: what it was trained on, a folder or an id; by default as the adapter or its run's config.yaml says.
        overwrite: replace the file that is there.
    """
    from skygen.models.lora_export import export_lora

    done = export_lora(adapter, form, output, precision=precision, base=base, overwrite=overwrite)
    lines = [
        f"{done.path}: {form}, {precision}, {done.modules} modules, {done.size:,} bytes",
        f"on {done.base}: changes the outputs by up to {done.effect:.2g}, as the original does; the conversion differs from it "
        f"by {done.difference:.1e} at most",
    ]
    if precision != "float32":
        lines.append(f"rounded to {precision}: the file differs from the original by {done.rounding:.1e} at most")
    return Answer("\n".join([*lines, *_warn_of_dora(form, done)]))


def _warn_of_dora(form: str, done: ExportedLora) -> list[str]:
    """Say which programs read a DoRA as it was trained; several take it for something else without a word."""
    if form != "kohya" or done.norm_change is None:
        return []
    return [
        "DoRA: LyCORIS computes what was trained. ComfyUI divides by the lengths of the base's weights instead, here off by up "
        f"to {done.norm_change:.1%}. A1111 scales inputs in place of outputs, sd-scripts and diffusers leave dora_scale out: "
        "for those train without lora.use_dora"
    ]
