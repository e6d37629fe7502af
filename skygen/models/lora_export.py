"""A diffusion LoRA written for other programs, and proven on its base before the file counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from skygen.config import read_yaml
from skygen.errors import ConfigError, DataError, StorageError
from skygen.models.adapter_files import read_about
from skygen.models.kohya import (
    WEIGHTS_FILE,
    LoraModule,
    describe_for_kohya,
    read_lora,
    serialize,
    to_diffusers,
    to_kohya,
)
from skygen.models.lora_trial import LoraTrial, find_layer, largest_difference, largest_norm_change
from skygen.storage import remove_halves, writing

FileFormat = Literal["kohya", "diffusers"]
Precision = Literal["float32", "float16", "bfloat16"]
LARGEST_DIFFERENCE = 1e-4
"""Of the networks' outputs, which are about 1, in float32: another order of sums gives some 1e-6, a lost alpha 1e-1."""
KEPT_EXACT = (".alpha", ".dora_scale", ".lora_magnitude_vector")
"""Endings of what stays in float32: a few values each, that scale all the others."""


@dataclass(frozen=True, slots=True)
class ExportedLora:
    """What was written, and what it was found to do on the base."""

    path: Path
    base: str
    modules: int
    size: int
    """In bytes."""
    effect: float
    """Largest change of an output by the original."""
    difference: float
    """Largest difference between the outputs with the original and with the converted file in float32."""
    rounding: float
    """The same with the file as it was written."""
    norm_change: float | None
    """With DoRA, by what share at most the length of an output's weights changes before it is scaled; else None."""


def export_lora(
    adapter: Path,
    form: FileFormat,
    output: Path | None = None,
    *,
    precision: Precision = "float32",
    base: str | None = None,
    overwrite: bool = False,
) -> ExportedLora:
    """Write a saved diffusion LoRA for other programs; equal inputs give equal bytes.

    The conversion is loaded onto the base by diffusers, or with DoRA, which diffusers drops from such files, merged into the
    base by LyCORIS's formula, and the networks' outputs must be those with the original.

    Args:
        adapter: folder of the adapter, or its file.
        form: ``kohya`` for ComfyUI, A1111 and sd-scripts, ``diffusers`` for PEFT's names and settings.
        output: the file; by default beside the adapter, by the name of its run.
        precision: of the matrices.
        base: what it was trained on; see ``find_base`` for the default.
        overwrite: whether a file may be there already.

    Raises:
        ConfigError: another kind of adapter or another base, the file is there already, or the precision cannot hold it.
        DataError: the adapter cannot be read.
        UnavailableError: the base is not here.
        StorageError: what was written computes something else than the original; nothing is left behind.
    """
    source = find_file(adapter)
    path = _choose_output(output, source, form, overwrite=overwrite)
    modules, metadata = read_lora(source)
    name = base or find_base(source.parent)
    from skygen.models.diffusion import Diffusion

    diffusion = Diffusion.load(name)
    pipeline = diffusion.pipeline
    _require_fitting(pipeline, modules, source, name)
    tensors = to_diffusers(modules)
    if form == "kohya":
        tensors = to_kohya(modules, pipeline.unet.config)
        metadata = _describe(modules, diffusion, name, path.stem, source)
    rounded = _round(tensors, precision, source)
    norm_change = largest_norm_change(pipeline, modules)
    trial = LoraTrial(pipeline, modules, source)
    by_formula = form == "kohya" and norm_change is not None
    effect, difference, rounding = _write_proven(path, tensors, rounded, metadata, trial, by_formula=by_formula)
    return ExportedLora(
        path=path,
        base=name,
        modules=len(modules),
        size=path.stat().st_size,
        effect=effect,
        difference=difference,
        rounding=rounding,
        norm_change=norm_change,
    )


def _describe(modules: Sequence[LoraModule], diffusion: Any, base: str, title: str, source: Path) -> dict[str, str]:
    return describe_for_kohya(
        modules,
        diffusion.pipeline.unet.config,
        base=Path(base).name if Path(base).is_dir() else base,  # a folder's path is nobody else's business
        title=title,
        prediction_type=diffusion.family.noising.prediction_type,
        resolution=diffusion.resolution,
        zero_terminal_snr=read_about(source.parent).get("zero_terminal_snr"),
    )


def _write_proven(
    path: Path,
    tensors: Mapping[str, Tensor],
    rounded: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    trial: LoraTrial,
    *,
    by_formula: bool,
) -> tuple[float, float, float]:
    """Write rounded tensors if the exact ones do what the original does; return its effect, and both differences from it."""
    before, wanted = trial.compute_base(), trial.compute_original()
    remove_halves(path.parent, path.name)
    with TemporaryDirectory() as folder, writing(path) as temporary:
        exact, written = Path(folder) / "exact.safetensors", Path(folder) / "written.safetensors"
        exact.write_bytes(serialize(tensors, metadata))
        difference = largest_difference(trial.compute_converted(exact, by_formula=by_formula), wanted)
        if not difference <= LARGEST_DIFFERENCE:
            raise StorageError(
                f"{path}: not written, for the outputs with it differ by {difference:.1e} from those with the original; use "
                "the original, and report which layers it adapts."
            )
        temporary.write_bytes(serialize(rounded, metadata))
        _require_equal(temporary, rounded, path)
        written.symlink_to(temporary.absolute())  # diffusers reads only what is called so
        rounding = largest_difference(trial.compute_converted(written, by_formula=by_formula), wanted)
    return largest_difference(wanted, before), difference, rounding


def find_file(adapter: Path) -> Path:
    """Return the file of an adapter that may be given as its folder.

    Raises:
        ConfigError: there is none, or an adapter of another kind of model.
    """
    file = adapter / WEIGHTS_FILE if adapter.is_dir() else adapter
    if file.is_file():
        return file
    if (adapter / "adapter_config.json").is_file():
        raise ConfigError(
            f"{adapter}: the adapter of a captioner, which PEFT loads as it is; a diffusion LoRA can be exported."
        )
    raise ConfigError(f"{adapter}: no {WEIGHTS_FILE} there; give the folder of a diffusion LoRA, such as runs/NAME/adapter.")


def find_base(folder: Path) -> str:
    """Say what an adapter was trained on: by its skygen.json, else by its run's config.yaml, else ``miniature``."""
    named = read_about(folder).get("base")
    config = folder.resolve().parent / "config.yaml"
    if not named and config.is_file():
        section = read_yaml(config).get("model")
        named = section.get("name") if isinstance(section, dict) else None
    return str(named or "miniature")


def _choose_output(output: Path | None, source: Path, form: FileFormat, *, overwrite: bool) -> Path:
    folder = source.resolve().parent
    run = folder.parent if folder.name == "adapter" else folder
    path = output or source.parent.parent / f"{run.name}{'' if form == 'kohya' else '.diffusers'}.safetensors"
    if path.suffix != ".safetensors":
        raise ConfigError(f"--output {path}: other programs look for .safetensors; give a name that ends so.")
    if path.exists() and not overwrite:
        raise ConfigError(f"--output {path}: there is a file already; give another name, or --overwrite.")
    return path


def _round(tensors: Mapping[str, Tensor], precision: Precision, source: Path) -> dict[str, Tensor]:
    kind = getattr(torch, precision)
    rounded = {name: tensor if name.endswith(KEPT_EXACT) else tensor.to(kind) for name, tensor in tensors.items()}
    for name, tensor in rounded.items():
        if not tensor.isfinite().all():
            if not tensors[name].isfinite().all():
                raise DataError(f"{source}: {name} holds NaN or infinity; the training has diverged: take an earlier adapter.")
            raise ConfigError(f"--dtype {precision}: cannot hold {name} of {source}; take bfloat16 or float32.")
    return rounded


def _require_equal(file: Path, tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import load_file

    read = load_file(file)
    if read.keys() != tensors.keys() or not all(torch.equal(read[name], tensors[name]) for name in tensors):
        raise StorageError(f"{path}: what was read back differs from what was written; the disk cannot be trusted.")


def _require_fitting(pipeline: Any, modules: Sequence[LoraModule], source: Path, base: str) -> None:
    for module in modules:
        weight = getattr(find_layer(pipeline, module), "weight", None)
        if weight is None or tuple(weight.shape) != (module.up.shape[0], *module.down.shape[1:]):
            what = "has no" if weight is None else "has another size of"
            raise ConfigError(
                f"--base {base}: {what} {module.part}.{module.name}, which {source} adapts; give the base that it was trained "
                "on."
            )
