"""What is known against versions of the packages that skygen stands on: a small table, read without a network."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import NamedTuple

from packaging.specifiers import SpecifierSet


class Advisory(NamedTuple):
    """Something known against some versions of a package.

    Args:
        package: its distribution.
        affected: which versions; several ranges are separated by ``|``.
        reference: by which it is published.
        danger: what it lets happen, in a phrase.
        meanwhile: why skygen can be used with such a version all the same; empty where it should not be.
    """

    package: str
    affected: str
    reference: str
    danger: str
    meanwhile: str = ""

    def holds_for(self, version: str) -> bool:
        """Tell whether a version is affected; one before a release counts as that release."""
        return any(SpecifierSet(each).contains(version, prereleases=True) for each in self.affected.split("|"))


ADVISORIES = (
    Advisory("torch", "<2.6", "CVE-2025-32434", "a checkpoint runs code, weights_only or not"),
    Advisory("torch", "<2.10", "CVE-2026-24747", "a checkpoint runs code, weights_only or not"),
    Advisory("torch", "<2.11", "CVE-2026-4538", "an exported program (.pt2) runs code"),
    Advisory("diffusers", "<0.38", "CVE-2026-44513", "a model's folder runs code without being asked for it"),
    Advisory("transformers", "<5.3", "CVE-2026-5241", "a model's folder runs code"),
    Advisory("gradio", "<6.31", "CVE-2026-111497", "a request keeps the demo busy for ever"),
    Advisory("pillow", "<12.3", "CVE-2026-59199", "an image's size writes beyond memory"),
    Advisory(
        "pillow",
        "<13",
        "CVE-2026-96639",
        "later frames of an image write beyond memory",
        "gradio does not take pillow 13 yet; skygen decodes first frames alone, of six formats",
    ),
    Advisory("jinja2", "<3.1.6", "CVE-2025-27516", "a template runs code"),
    Advisory("brotli", "<1.2", "CVE-2025-6176", "a small answer of a server fills the memory"),
    Advisory("urllib3", "<2.6.3", "CVE-2026-21441", "a small answer of a server fills the memory"),
    Advisory("urllib3", "<2.7", "CVE-2026-44432", "a small answer of a server fills the memory"),
    Advisory("lightning", "==2.6.2|==2.6.3", "GHSA-w37p-236h-pfx3", "the package steals credentials when it is imported"),
    Advisory(
        "pytorch-lightning", "==2.6.2|==2.6.3", "GHSA-w37p-236h-pfx3", "the package steals credentials when it is imported"
    ),
)


def known_against(package: str) -> Iterator[Advisory]:
    """Yield what is known against the version of a package that is installed here; nothing where it is not installed.

    Args:
        package: name of a distribution.
    """
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return
    yield from (each for each in ADVISORIES if each.package == package and each.holds_for(version))


def watched() -> list[str]:
    """List the packages that the table speaks of and that are installed here, in its order."""
    installed = {str(each.name).lower().replace("_", "-") for each in importlib.metadata.distributions()}
    return [name for name in dict.fromkeys(each.package for each in ADVISORIES) if name in installed]
