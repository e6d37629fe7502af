"""What ``skygen download`` has to do: which files, from where to where, how large, and what is there already.

A file is in place, and so whole, since it is renamed from ``NAME.part`` after its checks; or partly there; or absent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from skygen.data.downloads.catalogue import BASE_URL, PublishedFile, find_files
from skygen.data.downloads.server import Missing, Patience, ask_size, client_of
from skygen.errors import ConfigError, UnavailableError
from skygen.storage import skygen_home, to_words

if TYPE_CHECKING:
    pass

logger = logging.getLogger("skygen")

BASE_VARIABLE = "SKYGEN_DOWNLOAD_BASE"
_ASK_TIMEOUT = 10.0

State = Literal["here", "partly", "absent"]


@dataclass(frozen=True, slots=True)
class Item:
    """One file that was asked for.

    Args:
        file: of the catalogue.
        url: that it comes from.
        root: folder that the file belongs to, which holds its receipt.
        state: on the disk.
        on_disk: bytes of it that have been fetched.
        size: bytes in all, where they can be known.
        exact: whether the server said the size.
        refusal: what the server said instead.
    """

    file: PublishedFile
    url: str
    root: Path
    state: State
    on_disk: int = 0
    size: int | None = None
    exact: bool = False
    refusal: str = ""

    @property
    def target(self) -> Path:
        """The file as it is published."""
        return self.root / self.file.place

    @property
    def part(self) -> Path:
        """Where it grows."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def folder(self) -> Path:
        """What an archive that is unpacked becomes."""
        return self.target.with_suffix("")

    @property
    def destination(self) -> Path:
        """What a user is left with."""
        return self.folder if self.file.unpacked else self.target

    @property
    def left(self) -> int:
        """Bytes still to be fetched; 0 where that is not known."""
        return 0 if self.state == "here" else max(0, (self.size or 0) - self.on_disk)


def plan(names: Sequence[str], folder: Path, base_url: str | None = None, *, ask: bool = True) -> tuple[Item, ...]:
    """Find out what there is to do for names of files and groups; nothing is changed.

    Args:
        names: as ``find_files`` takes them.
        folder: of the data set. Images, metas and tables go into it, benchmarks into ``benchmark`` below it; checkpoints go
            to ``$SKYGEN_HOME/checkpoints``, where a scorer looks for them.
        base_url: of a mirror with the layout of the original; ``$SKYGEN_DOWNLOAD_BASE``, or else the original.
        ask: the server for sizes; if it cannot be reached, the catalogue's are used.

    Raises:
        ConfigError: a name or the address is none.
    """
    base = (base_url or os.environ.get(BASE_VARIABLE) or BASE_URL).rstrip("/")
    address = urlsplit(base)
    if address.scheme not in {"https", "http"} or not address.netloc or address.query:
        raise ConfigError(f"{BASE_VARIABLE} is {base!r}; give the address of a mirror, such as {BASE_URL}.")
    items = tuple(_look(file, f"{base}/{file.path}", folder) for file in find_files(names))
    return _ask(items) if ask else items


def format_plan(items: Sequence[Item]) -> str:
    """Write a plan as a table, one line a file, and a last one with the sum of what is left to fetch."""
    rows = [("name", "size", "", "to")] + [
        (item.file.name, _format_size(item), _format_state(item), str(item.destination)) for item in items
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}" for row in rows]
    left, waiting = sum(item.left for item in items), [item for item in items if item.state != "here"]
    about = "" if all(item.exact for item in waiting) else "about "
    unknown = sum(item.size is None and not item.refusal for item in waiting)
    more = f", and {unknown} of unknown size" if unknown else ""
    hint = "" if all(item.exact or item.refusal for item in waiting) else "; the server did not say the sizes"
    return "\n".join([*lines, f"{len(waiting)} of {len(items)} to download: {about}{to_words(left)}{more}{hint}"])


def _look(file: PublishedFile, url: str, folder: Path) -> Item:
    root = skygen_home() / "checkpoints" if file.group == "checkpoints" else folder
    item = Item(file, url, root, "absent", size=file.size)
    if find_present(item):
        return replace(item, state="here")
    on_disk = item.part.stat().st_size if item.part.is_file() else 0
    return replace(item, state="partly" if on_disk else "absent", on_disk=on_disk)


def find_present(item: Item) -> Path | None:
    """Find what makes a download unnecessary, if it is there."""
    if item.file.unpacked:
        return item.folder if (item.folder / item.file.holds).is_file() else None
    stands_for = [item.target]
    if item.file.group == "checkpoints":  # as a scorer looks for it
        stands_for += [item.root / f"{item.file.name}.safetensors", item.root / item.file.name / "epoch_20.pt"]
    return next((path for path in stands_for if path.is_file()), None)


def _ask(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Put in the sizes that the server says; after one failure to reach it, it is left alone."""
    answered, reachable = [], True
    with client_of(Patience(timeout=_ASK_TIMEOUT)) as client:
        for item in items:
            found = item
            if reachable and item.state != "here":
                try:
                    size = ask_size(client, item.url)
                    found = item if size is None else replace(item, size=size, exact=True)
                except Missing as error:
                    found = replace(item, size=None, refusal=str(error))
                except UnavailableError as error:
                    logger.info("%s", error)
                    reachable = False
            answered.append(found)
    return tuple(answered)


def _format_size(item: Item) -> str:
    if item.refusal:
        return "not on the server"
    if item.state == "here" or item.size is None:
        return "" if item.state == "here" else "unknown"
    return to_words(item.size) if item.exact else f"about {to_words(item.size)}"


def _format_state(item: Item) -> str:
    return {"here": "already there", "partly": f"{to_words(item.on_disk)} are there", "absent": ""}[item.state]
