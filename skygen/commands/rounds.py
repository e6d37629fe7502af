"""Commands on the rounds of a closed loop: gather, rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer

Folders = Annotated[Positional[tuple[Path, ...]], arg(metavar="ROUND [ROUND …]")]


def gather(
    rounds: Folders,
    /,
    root: Path,
    output: Path,
    csv: Path | None = None,
    split: str | None = None,
    share: float = 0.5,
    seed: int = 0,
) -> Answer:
    """Write the list of the pictures that the next round of a closed loop learns from, beside the real pairs.

    A training takes it as `--pairs.also`. All pictures that the screening kept are in it, or as many, drawn by lot, as the
    share allows.

    Args:
        rounds: folders of the rounds so far, such as `runs/closed_loop/round-0`, each with `set` and `screen`.
        root: folder of the real pairs.
        output: the list, a CSV in a folder above all rounds.
        csv: list of the real pairs.
        split: of the real pairs.
        share: of pictures among all pairs, at most.
        seed: of the lot.
    """
    from skygen.data.exports.export import write_csv
    from skygen.data.pairs import read_pairs
    from skygen.errors import ConfigError
    from skygen.evaluation.rounds.lineage import gather as choose
    from skygen.evaluation.rounds.lineage import open_rounds
    from skygen.seeding import Seeds

    if output.suffix != ".csv":
        raise ConfigError(f"--output {output}: the list is a CSV; let its name end with .csv.")
    real = len(read_pairs(root, csv=csv, split=split))
    pairs, kept = choose(open_rounds(rounds), output.parent, real, share, Seeds(seed))
    write_csv(output, pairs)
    of_all = len(pairs) / (len(pairs) + real)
    return Answer(f"{output}: {len(pairs):,} of {kept:,} kept pictures beside {real:,} real pairs, {of_all:.1%} of all")


def rounds(folders: Folders, /, output: Path | None = None, title: str = "Closed loop", seed: int = 0) -> Answer:
    """Write a page of what got better over the rounds of a closed loop, and where every picture came from as lineage.jsonl.

    Args:
        folders: of the rounds, such as `runs/closed_loop/round-0`, with `training`, `set`, `screen`, `test` and `scores`.
        output: the HTML file; by default rounds.html beside the rounds. lineage.jsonl is written beside it.
        title: of the page.
        seed: of the intervals.
    """
    from skygen.evaluation.rounds.lineage import open_rounds, trace, write_lineage
    from skygen.evaluation.rounds.page import tally, write_rounds
    from skygen.seeding import Seeds

    opened = open_rounds(folders)
    page = output or opened[0].folder.resolve().parent / "rounds.html"
    rows = trace(opened)
    trends = write_rounds(opened, rows, page, title, Seeds(seed))
    write_lineage(rows, page.with_name("lineage.jsonl"))
    words = [words for trend in trends for words in trend.words]
    fates = [f"{name}: {', '.join(map(str, counts))}" for name, counts in tally(opened, rows)]
    return Answer("\n".join([*words, *fates, str(page.with_name("lineage.jsonl")), str(page)]))
