"""What ``skygen doctor`` looks at: whether this installation and this machine can run skygen, and what works on them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from skygen.advisories import known_against, watched
from skygen.storage import skygen_home, to_words

FREE_DISK_GB = 2.0
"""Room for a quickstart: a fabricated data set, two adapters with two checkpoints each, 200 generated images."""
MINIATURE_FILES = (
    "captioner/config.json",
    "stable_diffusion/model_index.json",
    "skyclip/open_clip_config.json",
)
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
"""Of figures, grids and contact sheets; they come with matplotlib."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


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


@dataclass(frozen=True, slots=True)
class Possibility:
    """Something that skygen can do where it finds what that takes.

    Args:
        what: can be done.
        works: whether it does here.
        missing: what to install or have; empty where it works.
    """

    what: str
    works: bool
    missing: str


class _Extra(NamedTuple):
    """What is asked of this machine for something that not everyone needs."""

    what: str
    extra: str = ""
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    on_gpu: bool = False


_EXTRAS = (
    _Extra("the demo page", "demo", ("gradio",)),
    _Extra("the demo's tools for language models", "mcp", ("mcp",)),
    _Extra("GeoTIFF", "geo", ("rasterio",)),
    _Extra("countries and continents", "geo", ("timezonefinder", "tzdata")),
    _Extra("METEOR and SPICE", "coco", ("pycocoevalcap",), ("java",)),
    _Extra("Content Credentials", "signed", ("c2pa-python",)),
    _Extra("Prodigy", "prodigy", ("prodigyopt",)),
    _Extra("captioners in 4 bits", "quantized", ("bitsandbytes",), on_gpu=True),
    _Extra("tests of the pages in a browser", "test", ("playwright",), BROWSERS[:1]),
)


def diagnose() -> list[Finding]:
    """Look at versions, what is known against them, device, memory, disks, caches, locks, fonts and the miniature's weights."""
    looked_at = [*check_versions(), *check_advisories(), check_device(), *check_memory(), *check_disk(), *describe_caches()]
    return [*looked_at, check_locks(), check_fonts(), check_miniature()]


def list_possibilities(findings: list[Finding]) -> list[Possibility]:
    """Tell what skygen can do here, and what the rest would take.

    Args:
        findings: what ``diagnose`` has found.
    """
    ill = dict.fromkeys(finding.name for finding in findings if not finding.healthy)
    core = "training, drawing, captioning, scoring, reports"
    possibilities = [Possibility(core, not ill, f"mend {', '.join(ill)}" if ill else "")]
    on_gpu = "CPU" not in next((finding.found for finding in findings if finding.name == "device"), "CPU")
    for wish in _EXTRAS:
        lacking = [name for name in wish.packages if not _is_installed(name)]
        missing = [f"pip install 'skygen[{wish.extra}]'"] if lacking else []
        missing += [name for name in wish.programs if not _find_program(name)]
        missing += ["a GPU"] if wish.on_gpu and not on_gpu else []
        possibilities.append(Possibility(wish.what, not missing, ", ".join(missing)))
    return possibilities


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _find_program(name: str) -> str | None:
    """Return where a program is; of browsers, the first that is here under any of its names."""
    names = BROWSERS if name in BROWSERS else (name,)
    return next((found for each in names if (found := shutil.which(each))), None)


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


def check_advisories() -> Iterator[Finding]:
    """Tell which versions have known holes; a hole that cannot be reached through skygen is told, and no fault."""
    packages = watched()
    faults = 0
    for package in packages:
        for each in known_against(package):
            faults += not each.meanwhile
            version = importlib.metadata.version(package)
            healthy = bool(each.meanwhile)
            needed = each.meanwhile or f"pip install '{package}!={version}' --upgrade"
            yield Finding(f"{package} {version}", f"{each.reference}: {each.danger}", needed, healthy)
    if not faults:
        yield Finding("known holes", f"none to mend in {', '.join(packages)}", "", True)


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


def check_memory() -> Iterator[Finding]:
    """Tell how much memory there is, and how much of it is free now."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
        yield Finding("memory", to_words(total) if total else "not told by this system", "", True)
        return
    kilobytes = {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+) kB", told, re.MULTILINE)}
    total, free = kilobytes.get("MemTotal", 0) * 1024, kilobytes.get("MemAvailable", 0) * 1024
    yield Finding("memory", f"{to_words(total)}, {to_words(free)} free now", "", True)


def check_disk() -> Iterator[Finding]:
    """Tell the free space of the working folder and of the Hugging Face cache."""
    from huggingface_hub import constants

    for name, folder in (("disk here", Path.cwd()), ("disk of HF_HOME", Path(constants.HF_HOME))):
        existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
        free = shutil.disk_usage(existing).free / 1e9
        yield Finding(name, f"{free:,.1f} GB free", f">={FREE_DISK_GB:g} GB", free >= FREE_DISK_GB)


def describe_caches() -> Iterator[Finding]:
    """Tell where weights and derived files are kept, how large that has become, and whether the hub may be asked."""
    from huggingface_hub import constants

    for name, folder in (("HF_HOME", Path(constants.HF_HOME)), ("SKYGEN_HOME", skygen_home())):
        yield Finding(name, f"{folder}, {to_words(_measure(folder)) if folder.is_dir() else 'empty'}", "", True)
    yield Finding("HF_HUB_OFFLINE", "on: only cached weights" if constants.HF_HUB_OFFLINE else "off", "", True)


def _measure(folder: Path) -> int:
    """Add up the files below a folder; a link counts nothing, the file that it leads to is counted where it lies."""
    size = 0
    for place, _, names in os.walk(folder):  # what may not be read is passed over
        for name in names:
            path = Path(place, name)
            try:
                size += 0 if path.is_symlink() else path.stat().st_size
            except OSError:
                continue
    return size


def check_locks() -> Finding:
    """Tell whether the disk here has locks, which keep two processes from writing one file at once."""
    try:
        import fcntl

        with tempfile.TemporaryFile(dir=Path.cwd()) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return Finding("file locks", "this system has none (fcntl)", "one process at a time to a run", False)
    except OSError as error:
        return Finding("file locks", f"none here: {error.strerror}", "a folder that can be written to and has locks", False)
    return Finding("file locks", "work here", "", True)


def check_fonts() -> Finding:
    """Tell whether the fonts of figures and contact sheets are here."""
    try:
        import matplotlib
    except ImportError as error:
        return Finding("fonts", f"matplotlib cannot be imported: {error}", "pip install matplotlib", False)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    missing = [name for name in FONTS if not (folder / name).is_file()]
    if missing:
        return Finding("fonts", f"missing {', '.join(missing)}", "pip install --force-reinstall matplotlib", False)
    return Finding("fonts", "DejaVu Sans, with matplotlib", "", True)


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
