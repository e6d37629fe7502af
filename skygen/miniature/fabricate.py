"""Write the miniature world to disk exactly as SkyScript is: images, metas, caption tables, benchmark folders.

Two things are made up beyond the pictures. ``similarity_CLIP_openai`` is drawn, not computed: about 0.27 for a caption that is
the tile's own, about 0.18 for one of another tile, lower in hazy sources. And about 4 % of the training pairs carry the
caption of another tile, as SkyScript's do by accident; their metas tell the truth. Validation and test are clean.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from skygen.data.captions import AERIAL_PREFIX, SATELLITE_PREFIX, title, title_multi_objects
from skygen.data.skyscript import FABRICATED
from skygen.errors import ConfigError, StorageError
from skygen.miniature.drawing import Generator
from skygen.miniature.sentences import describe, variants
from skygen.miniature.sources import SOURCES
from skygen.miniature.tables import write_table
from skygen.miniature.tiles import Tile, draw_tile
from skygen.miniature.world import CLASSES, SCENES
from skygen.seeding import Seeds

NOISE = 0.04
"""Share of the training pairs whose caption is another tile's."""

PICKLE_PROTOCOL = 4
"""Fixed, so that every Python writes the same bytes."""

UCM_CAPTIONS = 5
"""Captions an image in the retrieval benchmark, as UCM-Captions has."""

_PARTS = range(2, 8)
_METRES_PER_DEGREE = 111_320.0
NOTICE = "Fabricated tiles in SkyScript's layout, drawn by rules: they show no place on Earth, and are no part of SkyScript.\n"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FabricatedSummary:
    """How much was written.

    Args:
        train: rows of the unfiltered training table.
        train_top30pct: rows of the filtered one.
        val: rows of the validation table.
        test: rows of the test table.
        mislabelled: training pairs that carry another tile's caption.
        benchmark: images of the classification benchmark.
        retrieval: images of the retrieval benchmark.
    """

    train: int
    train_top30pct: int
    val: int
    test: int
    mislabelled: int
    benchmark: int
    retrieval: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the tables say of one tile."""

    filepath: str
    split: str
    class_name: str
    title: str
    title_multi_objects: str
    sentence: str
    prefix: str
    similarity: float
    mislabelled: bool = False


def fabricate(
    root: Path,
    *,
    pairs: int,
    seed: int,
    classes: Sequence[str] | None = None,
    benchmark: int | None = None,
    progress: Progress | None = None,
) -> FabricatedSummary:
    """Write a data set of the miniature world in SkyScript's layout.

    The same arguments write the same bytes, and a larger ``pairs`` adds tiles without changing the first ones. An interrupted
    run is repeated with the same call: the tables come last.

    Args:
        root: folder to write to; made if it is not there.
        pairs: tiles in all; 80 % train, 10 % val, 10 % test. The benchmarks' tiles come on top.
        seed: of everything.
        classes: scene classes to draw; all of ``CLASSES`` where None.
        benchmark: tiles of the classification benchmark; a tenth of ``pairs`` where None, and at least 26.
        progress: called with (tiles done, tiles in all) after every tile.

    Returns:
        The counts of what was written.

    Raises:
        ConfigError: a class is unknown, or ``pairs`` or ``benchmark`` is below 1.
        StorageError: a file cannot be written.
    """
    benchmark = max(26, pairs // 10) if benchmark is None else benchmark
    retrieval = max(13, pairs // 20)
    total = pairs + benchmark + retrieval
    names = _check(pairs, benchmark, classes)
    seeds = Seeds(seed)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, total)

    try:
        _make_folders(root)
        (root / FABRICATED).write_text(NOTICE, encoding="utf-8", newline="\n")
        records: list[Record] = []
        for index in range(pairs):
            records.append(_write_pair(root, seeds, names, index, records))
            report(index + 1)
        classified = _write_benchmark(root, seeds, names, "SkyScript_cls", benchmark, lambda k: report(pairs + k))
        retrieved = _write_benchmark(root, seeds, names, "ucmcaptions", retrieval, lambda k: report(pairs + benchmark + k))
        _write_benchmark_tables(root / "benchmark", names, classified, retrieved)
        return _write_tables(root, records, len(classified), len(retrieved))
    except OSError as error:
        raise StorageError(
            f"Cannot write the miniature data set under {root}: {error}; free some space or choose another folder."
        ) from error


def _check(pairs: int, benchmark: int, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Refuse what cannot be fabricated; give the classes in the world's order."""
    if pairs < 1:
        raise ConfigError(f"Cannot fabricate {pairs} pairs: ask for at least 1.")
    if benchmark < 1:
        raise ConfigError(f"Cannot fabricate a benchmark of {benchmark} tiles: ask for at least 1, or leave it out.")
    wanted = CLASSES if classes is None else tuple(classes)
    for name in wanted:
        if name not in SCENES:
            near = difflib.get_close_matches(name, CLASSES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the classes are {', '.join(CLASSES)}."
            raise ConfigError(f"The miniature world has no class '{name}'; {hint}")
    if not wanted:
        raise ConfigError("Cannot fabricate pairs of no class: name at least one, or leave `classes` out for all.")
    return tuple(name for name in CLASSES if name in wanted)


def _make_folders(root: Path) -> None:
    for part in _PARTS:
        (root / f"images{part}").mkdir(parents=True, exist_ok=True)
        (root / f"meta{part}").mkdir(exist_ok=True)
    (root / "benchmark" / "SkyScript_cls" / "val").mkdir(parents=True, exist_ok=True)
    (root / "benchmark" / "ucmcaptions" / "images").mkdir(parents=True, exist_ok=True)


def _class_of(seeds: Seeds, purpose: str, names: Sequence[str], index: int) -> str:
    """Choose a tile's class: each block of ``len(names)`` tiles holds every class once, in an order of its own."""
    block, place = divmod(index, len(names))
    return names[int(seeds.numpy(f"{purpose} class", block).permutation(len(names))[place])]


def _write_pair(root: Path, seeds: Seeds, names: Sequence[str], index: int, earlier: Sequence[Record]) -> Record:
    """Draw one tile and write its image and meta."""
    rng = seeds.numpy("tile", index)
    tile = draw_tile(_class_of(seeds, "tile", names, index), rng)
    year, part = int(rng.integers(16, 24)), int(rng.choice(_PARTS))
    stem = f"{SCENES[tile.class_name].element}{_osm_id(index, rng)}_{tile.source}_{year:02d}"
    filepath = f"images{part}/{stem}.jpg"
    (root / filepath).write_bytes(_jpeg(tile))
    (root / f"meta{part}" / f"{stem}.pickle").write_bytes(pickle.dumps(_meta(tile, year, rng), PICKLE_PROTOCOL))
    source = SOURCES[tile.source]
    split = {8: "val", 9: "test"}.get(index % 10, "train")
    record = Record(
        filepath=filepath,
        split=split,
        class_name=tile.class_name,
        title=title(tile.tags),
        title_multi_objects=title_multi_objects(tile.tags, tile.surroundings),
        sentence=_sentence(tile, int(rng.integers(variants(tile.class_name)))),
        prefix=AERIAL_PREFIX if source.aerial else SATELLITE_PREFIX,
        similarity=float(rng.normal(0.27, 0.02)) - 0.1 * source.veil,
    )
    return _mislabel(record, earlier, rng) if split == "train" and rng.random() < NOISE else record


def _mislabel(record: Record, earlier: Sequence[Record], rng: Generator) -> Record:
    """Give a record the captions of the nearest earlier tile of another class, and a low similarity.

    Earlier, so that a larger data set of the same seed starts with the same rows.
    """
    for other in reversed(earlier):
        if other.class_name != record.class_name and not other.mislabelled:
            return replace(
                record,
                title=other.title,
                title_multi_objects=other.title_multi_objects,
                sentence=other.sentence,
                similarity=float(rng.normal(0.18, 0.02)),
                mislabelled=True,
            )
    return record


def _osm_id(index: int, rng: Generator) -> int:
    """Number an object: unequal numbers for unequal indices, because each index has 7,919 of its own."""
    return 100_000_000 + index * 7919 + int(rng.integers(7919))


def _jpeg(tile: Tile) -> bytes:
    buffer = BytesIO()
    tile.image.save(buffer, "JPEG", quality=SOURCES[tile.source].quality)
    return buffer.getvalue()


def _meta(tile: Tile, year: int, rng: Generator) -> dict[str, object]:
    """Describe a tile as SkyScript's metas do: only dict, list, tuple, str, int and float."""
    source = SOURCES[tile.source]
    west, south, east, north = source.region
    longitude, latitude = float(rng.uniform(west, east)), float(rng.uniform(south, north))
    width, height = (side * source.metres_per_pixel / _METRES_PER_DEGREE for side in tile.image.size)
    return {
        "box": (longitude, latitude, longitude + width, latitude + height),
        "time": (2000 + year, *(int(rng.integers(low, high)) for low, high in ((4, 11), (1, 29), (8, 16), (0, 60)))),
        "center_tags": dict(tile.tags),
        "surrounding_tags": [dict(tags) for tags in tile.surroundings],
    }


def _sentence(tile: Tile, variant: int) -> str:
    return describe(tile.class_name, tile.tags, tile.neighbours, variant)


def _write_benchmark(
    root: Path, seeds: Seeds, names: Sequence[str], name: str, count: int, report: Callable[[int], None]
) -> list[tuple[str, Tile]]:
    """Draw a benchmark's own tiles; give each with its file path relative to ``benchmark/``."""
    folder = {"SkyScript_cls": "SkyScript_cls/val", "ucmcaptions": "ucmcaptions/images"}[name]
    tiles = []
    for index in range(count):
        rng = seeds.numpy(name, index)
        tile = draw_tile(_class_of(seeds, name, names, index), rng)
        element, year = SCENES[tile.class_name].element, int(rng.integers(16, 24))
        filepath = f"{folder}/{element}{_osm_id(index, rng)}_{tile.source}_{year:02d}.jpg"
        (root / "benchmark" / filepath).write_bytes(_jpeg(tile))
        tiles.append((filepath, tile))
        report(index + 1)
    return tiles


def _write_benchmark_tables(
    folder: Path, names: Sequence[str], classified: Sequence[tuple[str, Tile]], retrieved: Sequence[tuple[str, Tile]]
) -> None:
    """Write the benchmarks' tables and class names (``skyscript.md`` 5.1 and 5.4)."""
    (folder / "SkyScript_cls" / "classnames.txt").write_text("\n".join(names) + "\n", encoding="utf-8", newline="\n")
    write_table(
        folder / "SkyScript_cls" / "img_txt_pairs_val.csv",
        ("filepath", "title", "label"),
        [(filepath, title(tile.tags), tile.class_name) for filepath, tile in classified],
    )
    write_table(
        folder / "ucmcaptions" / "ucmcaptions_img_txt_pairs_test.csv",
        ("filepath", "title"),
        [(filepath, _sentence(tile, variant)) for filepath, tile in retrieved for variant in range(UCM_CAPTIONS)],
    )


def _write_tables(root: Path, records: Sequence[Record], benchmark: int, retrieval: int) -> FabricatedSummary:
    """Write the caption tables of both schemas."""
    splits = {name: [record for record in records if record.split == name] for name in ("train", "val", "test")}
    train = splits["train"]
    kept = round(0.3 * len(train)) or 1
    best = {record.filepath for record in sorted(train, key=lambda record: -record.similarity)[:kept]}
    plain = ("filepath", "title", "title_multi_objects")
    scored = {
        "SkyScript_train_top30pct_filtered_by_CLIP_openai.csv": [record for record in train if record.filepath in best],
        "SkyScript_val_5K_filtered_by_CLIP_openai.csv": splits["val"],
        "SkyScript_test_30K_filtered_by_CLIP_openai.csv": splits["test"],
    }
    for name, rows in scored.items():
        values = [(r.filepath, r.title, r.title_multi_objects, f"{r.similarity:.6f}") for r in rows]
        write_table(root / name, (*plain, "similarity_CLIP_openai"), values)
    write_table(
        root / "SkyScript_train_unfiltered_5M_language_polished.csv",
        ("filepath", "title_raw", "title"),
        [(r.filepath, r.sentence, r.prefix + r.sentence) for r in train],
    )
    write_table(
        root / "SkyScript_train_unfiltered_5M.csv", plain, [(r.filepath, r.title, r.title_multi_objects) for r in train]
    )
    return FabricatedSummary(
        train=len(train),
        train_top30pct=len(best),
        val=len(splits["val"]),
        test=len(splits["test"]),
        mislabelled=sum(record.mislabelled for record in train),
        benchmark=benchmark,
        retrieval=retrieval,
    )
