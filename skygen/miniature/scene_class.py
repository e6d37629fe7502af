"""What is said of a class of the miniature world."""

from __future__ import annotations

from dataclasses import dataclass

AERIAL_SOURCES = ("CH", "DE", "US", "FI")
FINE_SOURCES = (*AERIAL_SOURCES, "P3")
"""Sources that resolve cars and houses."""

ALL_SOURCES = (*FINE_SOURCES, "S2")


@dataclass(frozen=True, slots=True)
class Attribute:
    """A tag whose value differs from tile to tile, and shows.

    Args:
        key: OpenStreetMap key.
        values: each equally likely.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SceneClass:
    """One class of the miniature world.

    Args:
        name: as SkyScript-classification has it.
        element: OpenStreetMap element of the focus object: ``a`` area, ``w`` way, ``n`` node.
        tags: what every focus object of the class carries; the first names the class and no other class has it.
        attributes: what varies.
        always: tags of surrounding objects that belong to the scene.
        around: names in ``skygen.miniature.world.NEIGHBOURS`` of what may surround it.
        sources: aliases of the image collections in which it can be seen.
        phrases: sentence patterns; ``{key}`` is a tag's value, ``{#key}`` a number word, ``{s#key}`` its plural ending.
    """

    name: str
    element: str
    tags: tuple[tuple[str, str], ...]
    attributes: tuple[Attribute, ...]
    phrases: tuple[str, ...]
    always: tuple[tuple[str, str], ...] = ()
    around: tuple[str, ...] = ("trees", "road", "houses", "pond", "field", "track")
    sources: tuple[str, ...] = FINE_SOURCES
