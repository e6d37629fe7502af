"""Index and open SkyScript's list of 5.2 million rows, beside ``pandas.read_csv``.

    python -m benchmarks.pair_list --rows 5200000 --folder /tmp/skygen-pair-list

The list is fabricated: file names and two captions a row, in the published schema, without metas.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import alternate, print_table, serve_case
from skygen.data.captions import title, title_multi_objects
from skygen.data.skyscript import SOURCES
from skygen.seeding import Seeds

LIST = "SkyScript_train_unfiltered_5M.csv"
_TAGS = [
    {"building": "yes"},
    {"highway": "residential"},
    {"landuse": "farmland", "crop": "wheat"},
    {"sport": "tennis", "surface": "clay"},
    {"power": "tower", "material": "steel"},
    {"natural": "water", "water": "reservoir"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_200_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/skygen-pair-list"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=CASES)
    options = parser.parse_args()
    if options.case:
        serve_case(lambda: CASES[options.case](options.folder))
        return
    write_list(options.folder, options.rows)
    shared = ["--folder", str(options.folder)]
    print(f"{options.rows:,} rows, {(options.folder / LIST).stat().st_size / 1e6:,.0f} MB of CSV; medians of {options.repeats}")
    print_table(alternate("benchmarks.pair_list", list(CASES), shared, options.repeats), "pandas_read_csv")


def write_list(folder: Path, rows: int) -> None:
    """Fabricate the list, unless it is there."""
    path = folder / LIST
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("filepath,title,title_multi_objects\n")
        file.writelines(_lines(rows))


def _lines(rows: int) -> Iterator[str]:
    draw = Seeds(0).numpy("benchmark list")
    aliases = list(SOURCES)
    for start in range(0, rows, 100_000):
        count = min(100_000, rows - start)
        choices = draw.integers(len(_TAGS), size=(count, 4)).tolist()
        places = draw.integers((2, 0, 16), (8, len(aliases), 24), size=(count, 3)).tolist()
        for row, ((focus, *around), (part, source, year)) in enumerate(zip(choices, places, strict=True), start=start):
            surroundings = [_TAGS[number] for number in around]
            yield (
                f"images{part}/{'awn'[row % 3]}{100_000_000 + row}_{aliases[source]}_{year}.jpg,"
                f'"{title(_TAGS[focus])}","{title_multi_objects(_TAGS[focus], surroundings)}"\n'
            )


def pandas_read_csv(folder: Path) -> object:
    """Read the list as most scripts do."""
    import pandas

    return pandas.read_csv(folder / LIST, keep_default_na=False)


def skygen_build_index(folder: Path) -> object:
    """Read, validate and write the index."""
    from skygen.data.index import build_index
    from skygen.data.layouts import find_layout

    return build_index(find_layout(folder, None, None, None, "{}"), None, lambda done, total: None)


def skygen_open(folder: Path) -> object:
    """Open the index."""
    from skygen.data.index import open_index
    from skygen.data.layouts import find_layout

    index = open_index(find_layout(folder, None, None, None, "{}"))
    if index is None:
        raise AssertionError("the index is stale: run the case skygen_build_index first")
    return index


def skygen_read_all(folder: Path) -> object:
    """Read the pairs as a recipe does, with the fingerprint of the split."""
    from skygen.data.pairs import PairSettings
    from skygen.data.rejects import Rejects

    return PairSettings(folder).read(Rejects(None))


def skygen_choose(folder: Path) -> object:
    """The same for a choice."""
    from skygen.data.pairs import PairSettings
    from skygen.data.rejects import Rejects

    return PairSettings(folder, where="source in (US, CH) and year >= 2018").read(Rejects(None))


CASES = {
    "pandas_read_csv": pandas_read_csv,
    "skygen_build_index": skygen_build_index,
    "skygen_open": skygen_open,
    "skygen_read_all": skygen_read_all,
    "skygen_choose": skygen_choose,
}

if __name__ == "__main__":
    main()
