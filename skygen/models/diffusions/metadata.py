"""Telling a denoiser how an image was taken: metres a pixel, source, month, place.

After DiffusionSat (Khanna et al. 2024), a vector of each field is added to the embedding of the time. Unlike there, what is not
known has a learned vector of its own, and the last projection begins at zero, so that an untrained conditioner changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.data.skyscript import SOURCES
from skygen.errors import ConfigError, StorageError, UnavailableError
from skygen.models.diffusions.metadata_fields import (
    ENCODING,
    FIELDS,
    HIDDEN,
    MetadataSettings,
    MetadataStatistics,
    encode_field,
    field_size,
)
from skygen.models.diffusions.metadata_record import RECORD_FILE, SCHEMA, WEIGHTS_FILE, is_saved, read_record, settings_of
from skygen.models.weights import reading_weights
from skygen.seeding import Seeds
from skygen.storage import writing


@final
class MetadataConditioner(nn.Module):
    """Adds what is known of each image to a denoiser's embedding of the time.

    For each field, Fourier features (Tancik et al. 2020) pass through two layers; a learned vector stands in where the field is
    not known or withheld. Normalised, each goes through a projection that begins at zero, and their sum is added. All of it is
    computed in float32, whatever precision surrounds the call.

    A network that is called outside ``told`` is told that nothing is known, which training has shown it.

    Args:
        settings: fields, and how often they are withheld in training.
        network: the denoiser, a UNet of Stable Diffusion or the transformer of Stable Diffusion 3; the conditioner is attached
            to it but never becomes a part of it, so that the network is saved as before.
        seeds: the initial values follow from them.
        sources: aliases that are told apart.

    Raises:
        ConfigError: no field, or a network that keeps its embedding of the time elsewhere.
    """

    def __init__(
        self, settings: MetadataSettings, network: nn.Module, seeds: Seeds, sources: Sequence[str] = tuple(SOURCES)
    ) -> None:
        super().__init__()
        if not settings.fields:
            raise ConfigError("metadata.fields: no field is named; a network without metadata needs no conditioner.")
        self.settings = settings
        self.fields = settings.ordered
        self.sources = tuple(sources)
        self.about = describe_network(network)
        self.statistics: MetadataStatistics | None = None
        self._sizes = [field_size(name, self.sources) for name in self.fields]
        with torch.random.fork_rng(devices=[]):
            seeds.reset_global("metadata")
            layers = [nn.Sequential(nn.Linear(size, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN)) for size in self._sizes]
            self.encoders = nn.ModuleDict(dict(zip(self.fields, layers, strict=True)))
            self.nulls = nn.ParameterDict({name: nn.Parameter(torch.randn(HIDDEN)) for name in self.fields})
            self.projections = nn.ModuleDict({name: nn.Linear(HIDDEN, self.about["width"], bias=False) for name in self.fields})
        for projection in self.projections.values():
            nn.init.zeros_(projection.weight)  # type: ignore[arg-type]  # of a Linear
        self._told: tuple[Tensor, Tensor] | None = None
        self._is_silent = False
        self.to(next(network.parameters()).device)
        self._hook = _time_embedding(network).register_forward_hook(self._add)

    @property
    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by name, each beginning with ``metadata.``, in a fixed order; float32."""
        return {f"metadata.{name}": parameter for name, parameter in self.named_parameters()}

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let the network compute for a while as if there had never been a conditioner."""
        self._is_silent = True
        try:
            yield
        finally:
            self._is_silent = False

    def detach(self) -> None:
        """Take the conditioner off its network, which then computes as if there had never been one."""
        self._hook.remove()

    @contextmanager
    def told(self, metadata: Sequence[ImageMetadata], generator: torch.Generator | None = None) -> Iterator[None]:
        """Tell the network of these images for a while.

        A batch of twice their number is one of classifier-free guidance: its first half is told that nothing is known.

        Args:
            metadata: of each image of the batch.
            generator: on the CPU; what is withheld in training follows from it. None withholds nothing.
        """
        before, self._told = self._told, self._encode(metadata, generator)
        try:
            yield
        finally:
            self._told = before

    def forward(
        self, metadata: Sequence[ImageMetadata], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch width"]:
        """Return what is added to the embedding of the time; arguments as of ``told``."""
        return self._project(*self._encode(metadata, generator))

    def require(self, metadata: ImageMetadata) -> None:
        """Raise ConfigError where something is to be told that the network was not trained on."""
        for name in FIELDS:
            if name not in self.fields and encode_field(name, metadata, tuple(SOURCES)) is not None:
                raise ConfigError(f"metadata.{name}: the adapter was trained on {', '.join(self.fields)} alone; leave it out.")
        if "source" in self.fields and metadata.source not in (None, *self.sources):
            raise ConfigError(f"metadata.source: the adapter was trained on {', '.join(self.sources)}; choose from these.")

    def save(self, folder: Path) -> None:
        """Write weights and record beside the adapter, read the weights back, and compare.

        Raises:
            StorageError: what was read back is not what was written.
        """
        from safetensors.torch import load, save

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        content, path = save(state, metadata={"format": "pt"}), folder / WEIGHTS_FILE
        with writing(path) as temporary:
            temporary.write_bytes(content)
        read = load(path.read_bytes())
        if read.keys() != state.keys() or not all(torch.equal(read[name], state[name]) for name in state):
            raise StorageError(f"{path}: what was read back differs from what is in memory; the disk cannot be trusted.")
        record = {
            "schema": SCHEMA,
            "network": self.about,
            **asdict(self.settings),
            "fields": self.fields,
            "sources": self.sources,
            "encoding": ENCODING,
            "statistics": asdict(self.statistics) if self.statistics else None,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        with writing(folder / RECORD_FILE) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def start_from(self, folder: Path) -> None:
        """Take over the values of a saved conditioner; without one in the folder, begin anew.

        Raises:
            ConfigError: it is of another network, or of other fields.
            UnavailableError: it is damaged.
        """
        if not is_saved(folder):
            logging.getLogger("skygen").info("%s: was trained without metadata, which is learned from the start", folder)
            return
        record = read_record(folder, self.about)
        saved = (tuple(record["fields"]), tuple(record["sources"]))
        if saved != (self.fields, self.sources):
            raise ConfigError(
                f"--model.adapter {folder}: was trained on the metadata {', '.join(saved[0])} of the sources "
                f"{', '.join(saved[1])}; set --metadata.fields to these, or begin without the adapter."
            )
        self.take(folder, record)

    def take(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Take over the weights of a folder that the record beside them belongs to."""
        from safetensors.torch import load

        with reading_weights(str(folder)):
            content = (folder / WEIGHTS_FILE).read_bytes()
            state = load(content)
        shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (state, self.state_dict())]
        if hashlib.sha256(content).hexdigest() != record["sha256"] or shapes[0] != shapes[1]:
            raise UnavailableError(f"{folder}: {WEIGHTS_FILE} and {RECORD_FILE} do not belong together; copy both again.")
        self.load_state_dict(state)

    def _encode(
        self, metadata: Sequence[ImageMetadata], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "batch features"], Bool[Tensor, "batch fields"]]:
        """Return the features of all fields side by side, zeros where unknown, and which fields are told."""
        device = next(self.parameters()).device
        values = [[encode_field(name, one, self.sources) for name in self.fields] for one in metadata]
        rows = [[x for field, size in zip(row, self._sizes, strict=True) for x in field or [0.0] * size] for row in values]
        known = torch.tensor([[field is not None for field in row] for row in values]).reshape(len(rows), len(self.fields))
        if generator is not None:
            # a number for every field there is: what is withheld of one does not depend on which others are trained
            drawn = torch.rand((len(rows), len(FIELDS) + 1), generator=generator)
            columns = [FIELDS.index(name) for name in self.fields]
            known &= (drawn[:, columns] >= self.settings.dropout) & (drawn[:, -1:] >= self.settings.joint_dropout)
        features = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), sum(self._sizes))
        return features.to(device, non_blocking=True), known.to(device, non_blocking=True)

    def _project(
        self, features: Float[Tensor, "batch features"], known: Bool[Tensor, "batch fields"]
    ) -> Float[Tensor, "batch width"]:
        total = features.new_zeros((len(features), self.about["width"]))
        with torch.autocast(features.device.type, enabled=False):
            for column, (name, part) in enumerate(zip(self.fields, torch.split(features, self._sizes, dim=1), strict=True)):
                hidden = torch.where(known[:, column, None], self.encoders[name](part), self.nulls[name])
                total = total + self.projections[name](functional.layer_norm(hidden, (HIDDEN,)))
        return total

    def _add(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Add to the embedding of the time; the projection runs here, for each call of the network to have its own graph."""
        if self._is_silent:
            return output
        rows = len(output)
        features, known = self._told or self._encode([UNKNOWN] * rows, None)
        if rows == 2 * len(features):
            features = torch.cat([torch.zeros_like(features), features])
            known = torch.cat([torch.zeros_like(known), known])
        if rows != len(features):
            raise ValueError(f"the network is called with {rows} images, and was told of {len(features)}")
        return output + self._project(features, known).to(output)


def load_conditioner(folder: Path, network: nn.Module) -> MetadataConditioner | None:
    """Attach the conditioner that was saved beside an adapter to the network of its base.

    Args:
        folder: of the adapter.
        network: the denoiser.

    Returns:
        None where the adapter was trained without metadata.

    Raises:
        ConfigError: it is of another network, or of another version of skygen.
        UnavailableError: it is damaged, or a part of it is missing.
    """
    if not is_saved(folder):
        return None
    record = read_record(folder, describe_network(network))
    conditioner = MetadataConditioner(settings_of(record), network, Seeds(0), record["sources"])
    try:
        conditioner.take(folder, record)
    except BaseException:
        conditioner.detach()
        raise
    conditioner.statistics = MetadataStatistics(**record["statistics"]) if record.get("statistics") else None
    return conditioner


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return what tells apart the denoisers that a conditioner fits: class, width of time, width of text.

    Raises:
        ConfigError: it keeps its embedding of the time elsewhere.
    """
    embedding = _time_embedding(network)
    config: Any = network.config
    last: Any = getattr(embedding, "timestep_embedder", embedding).linear_2
    text = config.get("cross_attention_dim", config.get("joint_attention_dim"))
    return {
        "class": type(network).__name__,
        "width": last.out_features,
        "text_width": list(text) if isinstance(text, tuple) else text,
    }


def _time_embedding(network: nn.Module) -> nn.Module:
    """Return the module that makes the embedding of the time: of a UNet, or of Stable Diffusion 3, where text is in it."""
    for name in ("time_embedding", "time_text_embed"):
        if isinstance(module := getattr(network, name, None), nn.Module):
            return module
    raise ConfigError(
        f"metadata.fields: a {type(network).__name__} has no place for metadata that skygen knows; leave them out."
    )
