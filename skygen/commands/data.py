"""Commands on data sets: fabricate, download, index, check, audit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer, showing

if TYPE_CHECKING:
    from skygen.data.index import Index
    from skygen.data.layouts import Layout
    from skygen.data.pairs import PairSettings
    from skygen.data.table import PairList

Form = Literal["csv", "imagefolder", "parquet", "webdataset"]
Folder = Annotated[Positional[Path], arg(metavar="DIR")]


def fabricate(
    folder: Folder,
    /,
    pairs: int = 1000,
    seed: int = 0,
    classes: tuple[str, ...] = ("all",),
    benchmark: int | None = None,
) -> Answer:
    """Draw a small world as a data set in SkyScript's layout: images, metas, caption tables, benchmarks.

    Args:
        folder: where the data set goes; made if it is not there.
        pairs: tiles in all, split 80 : 10 : 10 into train, val and test; the benchmarks' tiles come on top.
        seed: everything follows from it.
        classes: `all`, `base` (what the miniature models know), `novel` (what they have never seen), or names of classes.
        benchmark: tiles of the classification benchmark; by default a tenth of the pairs, and at least 26.
    """
    from skygen.miniature.fabricate import fabricate as write

    names = _resolve_classes(classes)
    with showing("tiles") as progress:
        summary = write(folder, pairs=pairs, seed=seed, classes=names, benchmark=benchmark, progress=progress)
    return Answer(f"{folder}: " + ", ".join(f"{name} {count:,}" for name, count in asdict(summary).items()))


def download(
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME [NAME …]")],
    /,
    folder: Path = Path(),
    dry_run: bool = False,
    verify: bool = False,
) -> Answer:
    """Fetch SkyScript's published files, checked; the same command goes on after whatever stopped it.

    Names are those of files (`images2`, `meta2`, `SkyScript_val_5K_filtered_by_CLIP_openai`, `aid`,
    `SkyCLIP_ViT_L14_top30pct`) or of groups (`part2` to `part7`, `images`, `metas`, `tables`, `benchmarks`, `checkpoints`).

    Args:
        names: of files or groups.
        folder: of the data set; benchmarks go to `benchmark` in it, checkpoints to where a scorer looks for them.
        dry_run: only say what would be fetched, how large it is, and where it would go.
        verify: read also what is there already, and compare it with what it was when it came.
    """
    from skygen.data.downloads.job import download as fetch
    from skygen.data.downloads.plan import format_plan, plan

    items = plan(names, folder)
    if dry_run:
        return Answer(format_plan(items))
    with showing("bytes", unit="B") as progress:
        outcomes = fetch(items, progress=progress, verify=verify)
    return Answer("\n".join(f"{outcome.path}: {outcome.done}" for outcome in outcomes))


def index(
    folder: Folder,
    /,
    csv: Path | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    split_by: Literal["list", "cell"] = "list",
    where: str = "",
    max_images_per_caption: int = 0,
    limit: int = 0,
    output: Path | None = None,
    form: Annotated[Form, arg(name="format")] = "csv",
) -> Answer:
    """Index a data set with its metas, say how many pairs a choice has, and write the chosen ones out.

    The index is made once, and anew when the list or the metas have changed; recipes find it by themselves.

    Args:
        folder: of the data set.
        csv: pair list, where the folder holds several for one split.
        caption_column: the one whose captions are meant; by default title_multi_objects or title.
        split: train, val or test; by default all.
        split_by: who says what split a pair is in: its list, or the cell of its place on the ground.
        where: expression to choose by, such as "source in (US, CH) and year >= 2018 and tag == landuse".
        max_images_per_caption: at most so many pairs with one caption; 0 for all.
        limit: at most so many pairs; 0 for all.
        output: where the chosen pairs are written; by default nowhere.
        form: what is written there: a CSV as SkyScript's, an imagefolder, Parquet, or WebDataset shards.
    """
    from skygen.data.pairs import PairSettings
    from skygen.data.rejects import Rejects

    settings = PairSettings(
        folder,
        csv=csv,
        caption_column=caption_column,
        split=split,
        split_by=split_by,
        where=where,
        max_images_per_caption=max_images_per_caption,
        limit=limit,
        max_bad_fraction=1.0,
    )
    layout = _find_layout(settings)
    text = _describe(layout, _open_or_build(layout, caption_column))
    if where or split or limit or max_images_per_caption or output:
        pairs = settings.read(Rejects(None))
        text += f"\nchosen: {len(pairs):,} pairs, fingerprint {pairs.split_fingerprint()}"
        if output is not None:
            text += f"\n{_write_out(pairs, output, form, where)}"
    return Answer(text)


def check(
    folder: Folder,
    /,
    csv: Path | None = None,
    caption_column: str | None = None,
    output: Path | None = None,
    workers: int = 0,
    again: bool = False,
) -> Answer:
    """Open every image of a data set once, and account for every row: usable, or why not.

    Recipes leave out what was found to be unusable. A check that is broken off continues with the same command.

    Args:
        folder: of the data set.
        csv: pair list, where the folder holds several for one split.
        caption_column: the one whose captions are meant; by default title_multi_objects or title.
        output: the ledger of what cannot be used; by default rejects.jsonl beside the index.
        workers: processes that decode; by default one for each processor.
        again: open the images again that were found to be good.
    """
    from skygen.data.checking import check_images, format_report, report
    from skygen.data.index import index_path, open_index
    from skygen.data.pairs import PairSettings

    layout = _find_layout(PairSettings(folder, csv=csv, caption_column=caption_column))
    whole = _open_or_build(layout, caption_column)
    with showing("images") as progress:
        check_images(whole, progress, workers=workers or len(os.sched_getaffinity(0)), again=again)
    ledger = output or index_path(layout).parent.with_name("rejects.jsonl")
    account = report(open_index(layout, caption_column) or whole, ledger)
    return Answer(f"{format_report(account)}\n{ledger} has a line for each that cannot be used")


def audit(
    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR …]")],
    /,
    where: tuple[str, ...] = (),
    split: str | None = None,
    caption_column: str | None = None,
    output: Path = Path("audit"),
) -> Answer:
    """Say where, when, by what sensor and in what words the pairs of data sets are, side by side: a page with maps, and JSON.

    Args:
        folders: of data sets, or of generated images.
        where: expressions; the pairs of the first folder that each chooses stand beside the whole.
        split: train, val or test; by default all.
        caption_column: the one whose captions are meant; by default title_multi_objects or title.
        output: folder for audit.html and audit.json.
    """
    from skygen.data.pairs import PairSettings
    from skygen.data.rejects import Rejects
    from skygen.evaluation.audits.audit import audit as count
    from skygen.evaluation.audits.page import write_audit

    audits = []
    for number, folder in enumerate(folders):
        settings = PairSettings(folder, caption_column=caption_column, split=split, max_bad_fraction=1.0)
        _open_or_build(_find_layout(settings), caption_column)
        for expression in ("", *where) if number == 0 else ("",):
            pairs = replace(settings, where=expression).read(Rejects(None))
            name = f"{folder.resolve().name}: {expression}" if expression else folder.resolve().name
            with showing("pairs") as progress:
                audits.append(count(pairs.batches(), name, progress, total=len(pairs)))
    page = write_audit(audits, output)
    return Answer("\n".join([*(f"{one.name}: {one.pairs:,} pairs" for one in audits), str(page)]))


def _find_layout(settings: PairSettings) -> Layout:
    """Find the list that an index is made of: all splits, where no list is named."""
    from skygen.data.layouts import find_layout
    from skygen.data.pair import CLASS_TEMPLATE

    return find_layout(settings.root, settings.csv, settings.caption_column, None, CLASS_TEMPLATE)


def _open_or_build(layout: Layout, caption_column: str | None) -> Index:
    from skygen.data.index import build_index, open_index

    found = open_index(layout, caption_column)
    if found is None:
        with showing("rows") as progress:
            found = build_index(layout, caption_column, progress)
    return found


def _describe(layout: Layout, whole: Index) -> str:
    from skygen.data.index import index_path

    counts, path = whole.counts, index_path(layout)
    lost = f"; {path.with_suffix('.jsonl')} says which and why" if counts.bad or counts.repeated else ""
    return (
        f"{counts.rows:,} rows: {counts.pairs:,} pairs, {counts.joined:,} further captions of these, {counts.repeated:,} "
        f"repeated, {counts.bad:,} cannot be used{lost}\nindex: {path.with_suffix('.parquet')}"
    )


def _write_out(pairs: PairList, output: Path, form: Form, where: str) -> str:
    from skygen.data.exports.export import export
    from skygen.data.rejects import Rejects

    folder = output if form in ("imagefolder", "webdataset") else output.parent
    with showing("pairs") as progress:
        exported = export(pairs, output, form, Rejects(folder / "rejects.jsonl"), progress, selection=where)
    return f"{output}: " + ", ".join(f"{name} {count:,}" for name, count in asdict(exported).items())


def _resolve_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Replace ``all``, ``base`` and ``novel`` by the classes they stand for; an unknown name is left for its own error."""
    from skygen.miniature.world import BASE_CLASSES, CLASSES, NOVEL_CLASSES

    groups = {"all": CLASSES, "base": BASE_CLASSES, "novel": NOVEL_CLASSES}
    return tuple(dict.fromkeys(name for word in names for name in groups.get(word, (word,))))
