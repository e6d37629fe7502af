"""Where a synthetic picture comes from: the exact base and adapter, the program's versions, and the terms that bind it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

import yaml

from skygen.data.exports.markdown import CARD
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.lora import WEIGHTS_FILE
from skygen.models.weights import find_cached

LIBRARIES: Final = ("skygen", "torch", "diffusers")
"""Whose versions are noted: with the same ones the same record gives the same picture."""
_HEADER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*\r?(?:\n|\Z)", re.DOTALL)
_LARGEST_CARD = 1 << 20


def describe_origin(diffusion: Diffusion, base: str) -> dict[str, Any]:
    """Describe what draws, for the record of every picture.

    Folders are named without the place where they lie, since the pictures are made to be published; the hashes say which
    weights they were.

    Args:
        diffusion: loaded, with its adapters.
        base: the name that it was loaded by: ``miniature``, a folder, or an id on the hub.

    Returns:
        ``model`` (``tuned`` or ``base``), ``base`` and ``adapter`` by name, ``base_fingerprint`` (16 digits: the denoiser's
        weights rounded to bfloat16, as ``fingerprint_weights`` hashes them, so that one model has one name in any precision;
        about a second for each gigabyte), ``adapter_sha256`` (of ``pytorch_lora_weights.safetensors``), ``base_license``,
        ``adapter_license`` and ``terms`` (empty where no card tells), ``versions`` by library. Of several adapters the names,
        hashes and licences are joined by `` + ``, and ``adapter_weights`` has their weights where one is not 1.
    """
    import torch

    from skygen.models.fingerprints import fingerprint_weights

    base_license = read_license(base)
    adapters = [folder for folder, _ in diffusion.adapters]
    named, licenses = [name_model(str(folder)) for folder in adapters], [read_license(str(folder)) for folder in adapters]
    terms = [f"base {name_model(base)}: {base_license}" if base_license else ""]
    terms += [f"adapter {name}: {license_}" for name, license_ in zip(named, licenses, strict=True) if license_]
    weights = [weight for _, weight in diffusion.adapters]
    return {
        "model": "tuned" if adapters else "base",
        "base": name_model(base),
        "adapter": " + ".join(named),
        "base_fingerprint": fingerprint_weights(diffusion.network, torch.bfloat16),
        "adapter_sha256": " + ".join(hash_adapter(folder) for folder in adapters),
        **({"adapter_weights": weights} if set(weights) - {1.0} else {}),
        "base_license": base_license,
        "adapter_license": " + ".join(filter(None, licenses)),
        "terms": "; ".join(filter(None, terms)),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def hash_adapter(folder: Path) -> str:
    """Return the SHA-256 of an adapter's file of weights, 64 digits; it is there, since the adapter was loaded."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def name_model(name: str) -> str:
    """Return what a base or an adapter is called: ``miniature`` and ids of the hub as they are, of a folder its last parts.

    ``runs/coast/adapter`` is ``coast/adapter``, wherever it lies; a folder of any other name is its own name alone.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        return name
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.name == "adapter" else path.name


def read_license(name: str) -> str:
    """Read the licence in the card of a base or an adapter, as the hub abbreviates it, such as ``openrail++``.

    Args:
        name: a folder, or an id on the hub, whose card is looked for in the cache alone.

    Returns:
        The value of ``license``, or ``license_name`` where that says ``other``; empty where there is no card or it tells none.
    """
    folder = Path(name).expanduser()
    card = folder / CARD if folder.is_dir() else find_cached(name, CARD) if name.count("/") == 1 else None
    if card is None or not card.is_file():
        return ""
    with card.open(encoding="utf-8", errors="replace") as file:
        header = _HEADER.match(file.read(_LARGEST_CARD))
    try:
        fields = yaml.safe_load(header[1]) if header else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return ""
    if not isinstance(fields, dict):
        return ""
    chosen = fields.get("license")
    if chosen == "other" and fields.get("license_name"):
        chosen = fields["license_name"]
    named: Iterable[object] = chosen if isinstance(chosen, list) else (chosen,)
    return " ".join(", ".join(str(entry) for entry in named if isinstance(entry, str)).split())
