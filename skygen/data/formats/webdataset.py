"""WebDataset shards: tars in which the files of a sample stand one after the other and share their name up to the first dot.

``0001.jpg`` + ``0001.txt`` + ``0001.json`` as img2dataset writes them; RS5M's ``.img_content``, ``.img_name`` and ``.caption``;
RSTeller's ``.jpg`` + ``.json`` with texts under ``annotations``. Images stay in the tar and are read from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from skygen.data.archive_members import LISTING_ERRORS, Member, list_members
from skygen.data.formats.annotations import Annotation, decode_text, keep_captions, note_problems, parse_object, read_annotation
from skygen.data.formats.folder_listing import find_files
from skygen.data.pair import CLASS_TEMPLATE, SUFFIXES, Pair, name_split, to_words
from skygen.data.rejects import Rejects

CAPTIONS = ("txt", "caption", "text")
"""Endings of members that are one caption each."""
IMAGES = ("img_content", *sorted(suffix[1:] for suffix in SUFFIXES))
"""Endings of members that are images; the first is RS5M's."""
LARGEST_TEXT = 4 << 20
"""Bytes of a caption or a JSON."""
PEEK = 64
"""Members at the start of a tar that tell whether it holds samples."""
SHARDS = 3
"""Tars that are looked into."""

Sample = Mapping[str, Member]
"""The members of a sample by their ending, in lower case and without the dot."""


def find_shards(root: Path) -> list[Path]:
    """Find the tars of a WebDataset: in the folder itself, or else in its subfolders.

    Returns:
        Paths; empty if the first tars hold no image with a caption, a class or a JSON beside it.
    """
    shards = find_files(root, lambda name: name.lower().endswith(".tar"))
    return shards if any(map(_holds_samples, shards[:SHARDS])) else []


def read_shards(paths: Iterable[Path], root: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Pair | None]:
    """Read shards, each in one pass; images are not read.

    Captions come from the members ``.txt``, ``.caption`` and ``.text``, one each, or else from the JSON, or else from the
    class (``.cls`` or in the JSON) and ``CLASS_TEMPLATE``. The split is that of the JSON, or else of the shard's name.

    Args:
        paths: the tars.
        root: of the data set, which keys are relative to.
        caption_column: ending of the member, or name in the JSON, to take captions from.
        rejects: where a sample that cannot be used is noted, and a shard that is damaged: its samples before that are kept.

    Yields:
        A pair, its key the way to the image through the tar; None for a rejected sample or the rest of a damaged shard.
    """
    for path in paths:
        prefix = f"{path.relative_to(root).as_posix()}/"
        split = name_split(path.stem) or (name_split(path.parent.name, whole=True) if path.parent != root else None)
        try:
            with path.open("rb") as file:
                for name, sample in _samples(path):
                    where = f"{path}, sample {name}"
                    try:
                        yield _to_pair(sample, file, prefix, root, split, caption_column, rejects, where)
                    except ValueError as error:
                        rejects.add(prefix + name, str(error), where)
                        yield None
        except LISTING_ERRORS as error:
            rejects.add(prefix.rstrip("/"), f"damaged: the rest of the shard cannot be read: {error}", str(path))
            yield None


def _samples(path: Path) -> Iterator[tuple[str, Sample]]:
    for name, members in groupby(list_members(path), key=lambda member: _split_name(member.name)[0]):
        sample = {ending: member for member in members if (ending := _split_name(member.name)[1])}
        if name and sample:
            yield name, sample


def _split_name(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its file name, as WebDataset does: ``a.b/c.seg.png`` at ``.seg.png``."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return (folder + slash + stem, ending.lower()) if stem else ("", "")


def _to_pair(
    sample: Sample,
    file: IO[bytes],
    prefix: str,
    root: Path,
    split: str | None,
    caption_column: str | None,
    rejects: Rejects,
    where: str,
) -> Pair:
    """Make the pair of one sample; a ValueError carries the reason why there is none."""
    image = _find_image(sample)
    if image is None:
        raise ValueError(f"no image among its members ({', '.join(sample)})")
    if ".." in image.name.split("/") or image.name.startswith("/") or not image.name.isprintable():
        raise ValueError(f"the path {image.name!r} leads out of the tar or is no file's name")
    key = prefix + image.name
    described = _find_json(sample)
    known = Annotation() if described is None else read_annotation(_read_json(described, file), caption_column)
    note_problems(known, key, where, rejects)
    class_name = known.class_name or _read_class(sample, file)
    endings = [caption_column] if caption_column else CAPTIONS
    texts = [_read_text(sample[ending], file) for ending in endings if ending in sample]
    written = [text.strip() for text in texts if text.strip()]
    # A text beside a list of captions is one of them, as far as the list knows it.
    captions: Iterable[str] = known.captions if set(written) <= set(known.captions) else written
    if not captions and class_name and not caption_column:
        captions = [CLASS_TEMPLATE.format(class_name)]
    return Pair(
        key=key,
        image=root / key,
        captions=keep_captions(captions, key, where, rejects),
        split=known.split or split,
        class_name=class_name,
        year=known.year,
        gsd=known.gsd,
        box=known.box,
        time=known.time,
    )


def _find_image(sample: Sample) -> Member | None:
    """Return the image: ``0001.jpg``, or ``0001.rgb.png`` where it is the only one."""
    whole = [sample[ending] for ending in IMAGES if ending in sample]
    longer = [member for ending, member in sample.items() if ending.rpartition(".")[2] in IMAGES]
    return whole[0] if whole else longer[0] if len(longer) == 1 else None


def _find_json(sample: Sample) -> Member | None:
    return sample.get("json") or next((member for ending, member in sample.items() if ending.endswith(".json")), None)


def _read_class(sample: Sample, file: IO[bytes]) -> str | None:
    """Read the class of a ``.cls``; a number names nothing."""
    name = _read_text(sample["cls"], file).strip() if "cls" in sample else ""
    return to_words(name) if any(map(str.isalpha, name)) else None


def _read_text(member: Member, file: IO[bytes]) -> str:
    if member.size > LARGEST_TEXT:
        raise ValueError(f"{member.name} has {member.size:,} bytes, more than the {LARGEST_TEXT:,} of a text")
    data = os.pread(file.fileno(), member.size, member.offset)
    if len(data) < member.size:
        raise ValueError(f"{member.name} is cut short: {len(data)} of {member.size} bytes")
    return decode_text(data, member.name)


def _read_json(member: Member, file: IO[bytes]) -> Mapping[str, Any]:
    return parse_object(_read_text(member, file), member.name)


def _holds_samples(path: Path) -> bool:
    """Say whether some image at the start of a tar has a text beside it: a tar of nothing but images is no WebDataset."""
    told: dict[str, set[bool]] = {}
    try:
        for member in islice(list_members(path), PEEK):
            name, ending = _split_name(member.name)
            last = ending.rpartition(".")[2]
            if last in IMAGES or last in (*CAPTIONS, "json", "cls"):
                told.setdefault(name, set()).add(last in IMAGES)
    except LISTING_ERRORS:
        pass  # what stood before the damage counts
    return any(len(kinds) == 2 for kinds in told.values())
