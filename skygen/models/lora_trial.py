"""What a LoRA does to its base: the outputs of the networks on fixed inputs, to hold a converted file against the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from skygen.errors import DataError, SkygenError, StorageError
from skygen.models.kohya import LoraModule, is_sdxl, name_for_kohya
from skygen.seeding import Seeds


@final
class LoraTrial:
    """Computes the outputs of a base's networks on fixed inputs, with a LoRA's file or without one.

    Args:
        pipeline: of diffusers, without a LoRA, and left so.
        modules: of the LoRA.
        source: the file that they were read from.
    """

    def __init__(self, pipeline: Any, modules: Sequence[LoraModule], source: Path) -> None:
        self._pipeline = pipeline
        self._modules = modules
        self._source = source
        self._parts = sorted({"unet"} | {module.part for module in modules})

    @torch.no_grad()
    def compute_base(self) -> list[Tensor]:
        """Return the outputs without a LoRA: of the UNet, then of the text encoders that the LoRA adapts, float32."""
        outputs = [_compute_unet(self._pipeline.unet)]
        for part in self._parts:
            if part != "unet":
                encoder = getattr(self._pipeline, part).eval()
                output = encoder(torch.arange(1, 17).view(2, 8), output_hidden_states=True)
                outputs += [output[0], output.hidden_states[-1]]
        return [output.float() for output in outputs]

    def compute_original(self) -> list[Tensor]:
        """Return the outputs with the LoRA as it is.

        Raises:
            DataError: diffusers does not load it, or leaves out some of it.
        """
        return self._compute_loaded(self._source, "it", DataError)

    def compute_converted(self, file: Path, *, by_formula: bool) -> list[Tensor]:
        """Return the outputs with another file of the same LoRA.

        Args:
            file: called ``.safetensors``.
            by_formula: whether it is merged into the weights as LyCORIS would, for a DoRA in kohya's format: diffusers leaves
                out the magnitudes of such a file.

        Raises:
            StorageError: diffusers does not load it, or leaves out some of it.
        """
        if not by_formula:
            return self._compute_loaded(file, "its conversion", StorageError)
        with _merged(self._pipeline, self._modules, file):
            return self.compute_base()

    def _compute_loaded(self, file: Path, what: str, failure: type[SkygenError]) -> list[Tensor]:
        try:
            self._pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
            loaded = sum(_is_loaded(self._pipeline, module, exact=failure is DataError) for module in self._modules)
            if loaded != len(self._modules):  # of a file with two kinds of names it leaves out one kind, with a warning
                raise ValueError(f"only {loaded} of {len(self._modules)} layers")
            return self.compute_base()
        except (ValueError, RuntimeError, KeyError, TypeError, IndexError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise failure(
                f"{self._source}: diffusers does not load {what} ({reason}); give a LoRA that it has saved."
            ) from error
        finally:
            self._pipeline.unload_lora_weights()


def _is_loaded(pipeline: Any, module: LoraModule, *, exact: bool) -> bool:
    """Say whether a layer has a LoRA, and where the file was not rounded, whether it has the file's values."""
    second = [matrix.weight for matrix in getattr(find_layer(pipeline, module), "lora_B", {}).values()]
    return bool(second) and (not exact or torch.equal(second[0].float(), module.up))


def find_layer(pipeline: Any, module: LoraModule) -> Any:
    """Return the layer that a module adapts, or None where the base has no such layer.

    Transformers 5 has left out the ``text_model`` before the names of a text encoder.
    """
    network: Any = getattr(pipeline, module.part, None)
    bare = module.name.removeprefix("text_model.")
    for name in (module.name, bare, f"text_model.{bare}"):
        try:
            return network.get_submodule(name)
        except AttributeError:
            continue
    return None


def _compute_unet(network: Any) -> Tensor:
    """Run a UNet on inputs drawn for it, small ones: its layers are the same for any size."""
    config, generator = network.eval().config, Seeds(0).generator("lora_export")
    side = 2 ** len(config.block_out_channels)
    latents = torch.randn((2, config.in_channels, side, side), generator=generator)
    hidden = torch.randn((2, 8, config.cross_attention_dim), generator=generator)
    conditions = {}
    if is_sdxl(config):
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        conditions = {"text_embeds": torch.randn((2, width), generator=generator), "time_ids": torch.full((2, 6), float(side))}
    output: Tensor = network(latents, torch.tensor([3, 700]), hidden, added_cond_kwargs=conditions).sample
    return output


@contextmanager
def _merged(pipeline: Any, modules: Sequence[LoraModule], file: Path) -> Iterator[None]:
    """Put a file in kohya's format into the weights for a while, by LyCORIS's formula: each output scaled to its length."""
    from safetensors.torch import load_file

    read, before = load_file(file), []
    try:
        for module in modules:
            layer, name = find_layer(pipeline, module), name_for_kohya(module, pipeline.unet.config)
            down, up = read[f"{name}.lora_down.weight"], read[f"{name}.lora_up.weight"]
            update = read[f"{name}.alpha"] / len(down) * (up.flatten(1).float() @ down.flatten(1).float())
            weight = layer.weight.data + update.view_as(layer.weight)
            if f"{name}.dora_scale" in read:
                weight = weight * read[f"{name}.dora_scale"] / _lengths(weight)
            before.append((layer, layer.weight.data))
            layer.weight.data = weight
        yield
    finally:
        for layer, weight in before:
            layer.weight.data = weight


def _lengths(weight: Tensor) -> Tensor:
    """Return the length of the weights of each output, shaped to divide them by."""
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))


def largest_norm_change(pipeline: Any, modules: Sequence[LoraModule]) -> float | None:
    """Return by what share a LoRA changes the length of an output's weights at most, before DoRA scales it; None without DoRA.

    ComfyUI divides by the length before the change, DoRA (Liu et al. 2024, eq. 5) by that after it.
    """
    changes = []
    for module in modules:
        if module.magnitude is not None:
            weight = find_layer(pipeline, module).weight.data
            update = module.alpha / module.rank * (module.up.flatten(1) @ module.down.flatten(1))
            changes.append(float((_lengths(weight + update.view_as(weight)) / _lengths(weight) - 1).abs().max()))
    return max(changes, default=None)


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference between two lists of outputs; NaN where there is one."""
    differences = [(first - second).abs().max() for first, second in zip(one, other, strict=True)]
    return float(torch.stack(differences).max())  # which keeps NaN, as max() of Python does not
