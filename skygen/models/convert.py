"""A published checkpoint made small and safe: its weights alone, as safetensors, compared with the source before they count.

SkyCLIP's ViT-L/14 is a zip of 4.5 GB, of which 1.7 GB are weights; the rest is the optimizer's state.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skygen.errors import UnavailableError
from skygen.models.backbones import BACKBONES
from skygen.models.fitting import describe_network, guess_architectures, to_shapes
from skygen.models.open_clip_names import ad_hoc
from skygen.models.scorer_loading import checkpoint_folder, match_file
from skygen.models.weights import read_state_dict, reading_weights
from skygen.storage import writing

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("skygen")
Report = Callable[[int, int], None]
_BLOCK = 1 << 24
_ALIGNMENT = 8  # safetensors' tensors begin at a multiple of it, so that they can be used where they are mapped
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a checkpoint.

    Args:
        path: of the safetensors file.
        tensors: how many it holds.
        size: of it, in bytes.
        source_size: of the checkpoint, in bytes.
        sha256: of the checkpoint.
        name: by which a scorer finds it; its path where it lies elsewhere than among the checkpoints.
        architectures: open_clip's names of the networks that its shapes fit.
        quick_gelu: the activation, where it is known.
        network: what it looks like, in words.
    """

    path: Path
    tensors: int
    size: int
    source_size: int
    sha256: str
    name: str
    architectures: tuple[str, ...]
    quick_gelu: bool | None
    network: str


def convert(
    path: Path, output: Path | None = None, progress: Report | None = None, *, architecture: str | None = None
) -> Converted:
    """Write the weights of a checkpoint, and nothing else of it, as safetensors.

    A plain ``.pt`` is mapped and copied tensor by tensor; what is written is read back and compared before it gets its name.

    Args:
        path: a ``.pt``, a zip with one, or safetensors.
        output: by default ``NAME.safetensors`` among the checkpoints of ``skygen_home``, where a scorer finds it: NAME is a
            published CLIP's own name, or else the file's stem.
        progress: is told bytes done and in all: of the source to hash, of the weights to write and to compare.
        architecture: open_clip's name of the network, noted in the file; ``-quickgelu`` at its end notes the activation.

    Returns:
        What was written, and what is known of it.

    Raises:
        UnavailableError: the checkpoint cannot be read, or open_clip knows no such architecture.
        StorageError: the disk does not take the weights, or gives back others.
    """
    report = progress or (lambda done, total: None)
    told = ad_hoc(architecture) if architecture else None
    backbone = None if told else match_file(path)
    state = read_state_dict(path)
    state = {name: state[name] for name in sorted(state)}
    source_size = path.stat().st_size
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    total = source_size + 2 * weights
    digest = _hash(path, lambda done: report(done, total))
    if backbone and path.suffix != ".zip" and BACKBONES[backbone].sha256 not in {"", digest}:
        logger.warning("%s: is not the file that was published by that name (its SHA-256 is %s)", path, digest)
    guessed = tuple(guess_architectures(to_shapes(state)))
    known = told or (BACKBONES[backbone] if backbone else None)
    note = {
        "format": "pt",
        "source": path.name,
        "source_sha256": digest,
        "backbone": backbone or "",
        "told_architecture": architecture or "",
        "architectures": " ".join(guessed),
        "quick_gelu": "" if known is None else str(known.quick_gelu).lower(),
    }
    target = output or checkpoint_folder() / f"{backbone or _own_stem(path)}.safetensors"
    if target.exists() and target.samefile(path):
        raise UnavailableError(f"{path}: is what would be written; give another --output.")
    with writing(target) as temporary:
        _write(temporary, state, note, lambda done: report(source_size + done, total))
        _compare(temporary, state, lambda done: report(source_size + weights + done, total))
    found = target.resolve().parent == checkpoint_folder().resolve()
    return Converted(
        target, len(state), target.stat().st_size, source_size, digest, target.stem if found else str(target), guessed,
        None if known is None else known.quick_gelu, describe_network(to_shapes(state)),
    )  # fmt: skip


def _own_stem(path: Path) -> str:
    """Name a file by itself, or by its folder where it is called as all of them are."""
    return path.parent.name if path.stem.startswith(("epoch_", "open_clip_")) and path.parent.name else path.stem


def _hash(path: Path, done: Callable[[int], None]) -> str:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
            done(size)
    return digest.hexdigest()


def _write(path: Path, state: Mapping[str, Tensor], note: Mapping[str, str], done: Callable[[int], None]) -> None:
    """Write safetensors one tensor after another: the library's own writer first gathers copies of all of them.

    The format (safetensors' README, "Format"): the length of the header in eight bytes, the header as JSON, the tensors.
    """
    header: dict[str, Any] = {"__metadata__": dict(note)}
    end = 0
    for name, tensor in state.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in _DTYPES:
            raise UnavailableError(f"{name}: is of the type {kind}, which is not for weights; give a CLIP's checkpoint.")
        header[name] = {"dtype": _DTYPES[kind], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    written = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in _to_bytes(state):
            file.write(block)
            written += len(block)
            done(written)


def _to_bytes(state: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """Yield each tensor's bytes, little-endian as every machine that torch runs on, copied only where they lie scattered."""
    import torch

    for tensor in state.values():
        yield tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _compare(path: Path, state: Mapping[str, Tensor], done: Callable[[int], None]) -> None:
    """Read the written file again and compare its header and every tensor, bit by bit, with the source's.

    The header is read by the library; the tensors are read and not mapped, so that they take memory one at a time.

    Raises:
        OSError: they differ (EIO).
    """
    import numpy as np
    from safetensors import safe_open

    with reading_weights(str(path)), safe_open(path, framework="numpy") as written:
        shapes = {name: tuple(written.get_slice(name).get_shape()) for name in written.keys()}  # noqa: SIM118  # no mapping
        kinds = {name: written.get_slice(name).get_dtype() for name in shapes}
    wanted = {name: _DTYPES[str(tensor.dtype).removeprefix("torch.")] for name, tensor in state.items()}
    if shapes != to_shapes(state) or kinds != wanted:
        raise OSError(errno.EIO, "its header reads back otherwise than it was written")
    compared = 0
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        for name, block in zip(state, _to_bytes(state), strict=True):
            if not np.array_equal(np.frombuffer(file.read(len(block)), np.uint8), np.frombuffer(block, np.uint8)):
                raise OSError(errno.EIO, f"{name} reads back otherwise than it was written")
            compared += len(block)
            done(compared)
