"""What ``skygen doctor`` looks at: whether this installation and this machine can run skygen."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

FREE_DISK_GB = 2.0
"""Room for a quickstart: a fabricated data set, two adapters with two checkpoints each, 200 generated images."""
MINIATURE_FILES = (
    "captioner/config.json",
    "stable_diffusion/model_index.json",
    "skyclip/open_clip_config.json",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: of the thing.
        found: how it is.
        needed: how it must be, and how to mend it; empty where nothing is needed.
        healthy: whether skygen can work with it.
    """

    name: str
    found: str
    needed: str
    healthy: bool


def diagnose() -> list[Finding]:
    """Look at versions, device, disk, the Hugging Face cache, and the miniature's weights."""
    return [*check_versions(), check_device(), *check_disk(), *describe_hub(), check_miniature()]


def check_versions(distribution: str = "skygen") -> Iterator[Finding]:
    """Compare what is installed with what the package declares; extras count where they are installed."""
    python = importlib.metadata.metadata(distribution)["Requires-Python"] or ""
    yield Finding("python", platform.python_version(), python, SpecifierSet(python).contains(platform.python_version()))
    for line in importlib.metadata.requires(distribution) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield check_requirement(requirement)


def check_requirement(requirement: Requirement) -> Finding:
    """Compare one distribution with its bounds."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "not installed", f"pip install '{requirement}'", False)
    healthy = requirement.specifier.contains(version, prereleases=True)
    needed = str(requirement.specifier) if healthy else f"pip install '{requirement}'"
    return Finding(requirement.name, version, needed, healthy)


def check_device() -> Finding:
    """Tell what would be trained on; a processor will do."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that torch needs is missing
        return Finding("device", f"torch cannot be imported: {error}", "install torch for this machine", False)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return Finding("device", f"{count} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB", "", True)
    return Finding("device", f"CPU, {torch.get_num_threads()} threads", "", True)


def check_disk() -> Iterator[Finding]:
    """Tell the free space of the working folder and of the Hugging Face cache."""
    from huggingface_hub import constants

    for name, folder in (("disk here", Path.cwd()), ("disk of HF_HOME", Path(constants.HF_HOME))):
        existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
        free = shutil.disk_usage(existing).free / 1e9
        yield Finding(name, f"{free:,.1f} GB free", f">={FREE_DISK_GB:g} GB", free >= FREE_DISK_GB)


def describe_hub() -> Iterator[Finding]:
    """Tell where weights are cached and whether the hub may be asked."""
    from huggingface_hub import constants

    yield Finding("HF_HOME", constants.HF_HOME, "", True)
    yield Finding("HF_HUB_OFFLINE", "on: only cached weights" if constants.HF_HUB_OFFLINE else "off", "", True)


def check_miniature() -> Finding:
    """Tell whether the weights of the miniature models are in the package."""
    from skygen.models.weights import MINIATURE

    missing = [name for name in MINIATURE_FILES if not (MINIATURE / name).is_file()]
    if missing:
        return Finding(
            "miniature weights", f"missing {', '.join(missing)}", f"reinstall skygen; expected in {MINIATURE}", False
        )
    size = sum(path.stat().st_size for path in MINIATURE.rglob("*") if path.is_file())
    return Finding("miniature weights", f"{size / 1e6:.1f} MB", "", True)
