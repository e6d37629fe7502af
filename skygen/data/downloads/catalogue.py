"""The files that SkyScript's authors publish, as data: name, address, checksum where one is known, size where one is known.

Addresses: SkyScript's README (commit b16d2e7); where it lists a file under a slip of the pen, the working name is here.
MD5s: torchgeo's SkyScript data set (0.8.1), since the authors publish none. Sizes are those that users report; where a
reason stands beside one, it is an estimate.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from skygen.data.benchmarks import BENCHMARK_SETS, RETRIEVAL_SETS
from skygen.errors import ConfigError

BASE_URL = "https://opendatasharing.s3.us-west-2.amazonaws.com/SkyScript"
PARTS = range(2, 8)
"""SkyScript's images come in six parts; there is no part 0 or 1."""

Group = Literal["images", "metas", "tables", "benchmarks", "checkpoints"]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file on the server.

    Args:
        name: that a user gives.
        path: below the base address.
        group: that it is fetched with.
        md5: in hexadecimal, where one is known.
        size: in bytes, roughly; the server knows the true one.
        place: below the data folder; for a checkpoint, below the folder of checkpoints.
        holds: of an archive that is unpacked: the table that is in its folder.
        aliases: other names that a user may give.
    """

    name: str
    path: str
    group: Group
    md5: str | None = None
    size: int | None = None
    place: str = ""
    holds: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def unpacked(self) -> bool:
        """Whether the archive is turned into a folder; images and metas are read inside theirs."""
        return bool(self.holds)


_IMAGES_MD5 = {
    2: "fbfb5f7aa1731f4106fc3ffbd608100a",
    3: "ad4fd9fdb9622d1ea360210cb222f2bd",
    4: "aeeb41e830304c74b14b5ffc1fc8e8c3",
    5: "02ee7e0e59f9ac1c87b678a155e1f1df",
    6: "350475f1e7fb996152fa16db891b4142",
    7: "5e2fbf3e9262b36e30b458ec9a1df625",
}
_IMAGES_SIZE = {2: 9_700_000_000, 3: 9_700_000_000}
"""The two together are 19,434,569,022 bytes."""
_IMAGES_SIZE_ELSE = 13_000_000_000  # about 5.2 million images of 15 to 16 kB: 80 GB, less parts 2 and 3, over four parts

_TABLES = {
    "SkyScript_train_unfiltered_5M": None,
    "SkyScript_train_top30pct_filtered_by_CLIP_openai": "05b362e43a852667b5374c9a5ae53f8e",
    "SkyScript_train_top50pct_filtered_by_CLIP_openai": None,
    "SkyScript_val_5K_filtered_by_CLIP_openai": "c8d278fd29b754361989d5e7a6608f69",
    "SkyScript_test_30K_filtered_by_CLIP_openai": "0135d9b49ce6751360912a4353e809dc",
    "SkyScript_train_top30pct_filtered_by_CLIP_laion_RS": None,
    "SkyScript_train_top50pct_filtered_by_CLIP_laion_RS": None,
    "SkyScript_val_5K_filtered_by_CLIP_laion_RS": None,
    "SkyScript_test_30K_filtered_by_CLIP_laion_RS": None,
    "SkyScript_train_unfiltered_5M_language_polished": None,
    "SkyScript_train_top30pct_filtered_by_CLIP_laion_RS_language_polished": None,
    "SkyScript_train_top50pct_filtered_by_CLIP_laion_RS_language_polished": None,
}
"""MD5 by name of table."""

_L14_SIZE = 4_486_300_088  # one such zip; weights and both moments of Adam, which are as large for the others
_B32_SIZE = 1_590_000_000  # by the ratio of parameters, 151 : 428 million
_CHECKPOINTS = {
    "SkyCLIP_ViT_L14_top30pct": _L14_SIZE,
    "SkyCLIP_ViT_L14_top50pct": _L14_SIZE,
    "SkyCLIP_ViT_L14_top30pct_filtered_by_CLIP_laion_RS": _L14_SIZE,
    "SkyCLIP_ViT_L14_top30pct_multi_objects": _L14_SIZE,
    "SkyCLIP_ViT_B32_top50pct": _B32_SIZE,
    "CLIP_ViT_L14_LAION_RS": _L14_SIZE,
}
"""Bytes by name of checkpoint."""
_CHECKPOINT_ALIASES = {"SkyCLIP_ViT_L14_top30pct_filtered_by_CLIP_laion_RS": ("skyclip-vit-l14-top30pct-laion-rs",)}
"""Names of scorers that are not the name of their file written with hyphens."""


def _images(part: int) -> PublishedFile:
    name, size = f"images{part}.zip", _IMAGES_SIZE.get(part, _IMAGES_SIZE_ELSE)
    return PublishedFile(f"images{part}", name, "images", _IMAGES_MD5[part], size, name)


def _meta(part: int) -> PublishedFile:
    return PublishedFile(f"meta{part}", f"meta{part}.zip", "metas", place=f"meta{part}.zip")


def _benchmark(name: str, folder: str, table: str) -> PublishedFile:
    aliases = (folder,) if folder != name else ()
    place = f"benchmark/{folder}"
    return PublishedFile(name, f"{place}.zip", "benchmarks", place=f"{place}.zip", holds=table, aliases=aliases)


def _checkpoint(name: str, size: int) -> PublishedFile:
    aliases = _CHECKPOINT_ALIASES.get(name, ())
    return PublishedFile(name, f"ckpt/{name}.zip", "checkpoints", size=size, place=f"{name}.zip", aliases=aliases)


PUBLISHED: tuple[PublishedFile, ...] = (
    *map(_images, PARTS),
    *map(_meta, PARTS),
    *(PublishedFile(name, f"dataframe/{name}.csv", "tables", md5, place=f"{name}.csv") for name, md5 in _TABLES.items()),
    *(_benchmark(name, known.folder, known.csv) for name, known in BENCHMARK_SETS.items()),
    *(_benchmark(name, *known.csv.split("/")) for name, known in RETRIEVAL_SETS.items() if "/" in known.csv),
    *(_checkpoint(name, size) for name, size in _CHECKPOINTS.items()),
)
"""Every file, in the order in which a group is fetched."""

GROUPS: dict[str, tuple[PublishedFile, ...]] = {
    **{group: tuple(file for file in PUBLISHED if file.group == group) for group in Group.__args__},  # type: ignore[attr-defined]
    **{f"part{part}": (_images(part), _meta(part)) for part in PARTS},
}
"""Names that stand for several files."""


def find_files(names: Iterable[str]) -> tuple[PublishedFile, ...]:
    """Find the published files that names stand for.

    Args:
        names: of files or groups; the case, a hyphen for an underscore, and the ending ``.zip`` or ``.csv`` do not matter.

    Returns:
        Each file once, in the order of the names.

    Raises:
        ConfigError: a name stands for nothing, or there is none.
    """
    known = {_plain(group): files for group, files in GROUPS.items()}
    known |= {_plain(name): (file,) for file in PUBLISHED for name in (file.name, *file.aliases)}
    found: dict[PublishedFile, None] = {}
    for name in names:
        files = known.get(_plain(name))
        if files is None:
            raise ConfigError(_explain(name, tuple(known)))
        found.update(dict.fromkeys(files))
    if not found:
        raise ConfigError(f"nothing is named to download; give names of files or groups, which are {', '.join(GROUPS)}.")
    return tuple(found)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").removesuffix(".zip").removesuffix(".csv")


def _explain(name: str, known: tuple[str, ...]) -> str:
    written = {_plain(alias): file.name for file in PUBLISHED for alias in (file.name, *file.aliases)}
    near = dict.fromkeys(written.get(match, match) for match in difflib.get_close_matches(_plain(name), known, cutoff=0.5))
    question = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"{name}: not one of SkyScript's published files{question}; give such a name, or a group: {', '.join(GROUPS)}."
