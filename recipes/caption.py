"""Images -> captions; or the pairs of a data set -> the same pairs with new captions.

    accelerate launch recipes/caption.py --run.name try --images path/to/folder --model.adapter runs/my-captioner/adapter
    accelerate launch recipes/caption.py --run.name again --pairs.root DATA --scorer.name miniature --keep better

``runs/<name>/captions.jsonl`` holds a line an image: ``file_name`` and ``text``, and what is known beside: candidates, scores,
old captions. Of pairs, ``captions.csv`` goes into a training as ``--pairs.csv``. An image that is in neither is in
``rejects.jsonl``. The same command goes on with a run that was broken off, with any number of processes: what is finished lies
in ``shards``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from skygen import plain_json
from skygen.config import CountFromOne
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.generation.caption_lists import CaptionLists, Keep, KeepRule
from skygen.generation.caption_writing import CaptionWriter, identify_models
from skygen.generation.picture_list import PictureList, find_pictures
from skygen.models.captioner import Captioner, CaptionerSettings, CaptioningSettings
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer, ScorerSettings, require
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class RecaptionedPairs(PairSettings):
    """Pairs that get new captions, in the place of ``images``; ``max_bad_fraction`` counts for both."""

    root: Path | None = None  # type: ignore[assignment]  # checked before it is read
    """Folder of the data set, in the place of ``--images``."""


@dataclass(frozen=True)
class Config:
    """Write captions for images, or new ones for pairs."""

    run: RunSettings
    images: Path | None = None
    """An image; a folder, read with all folders and archives in it; a .zip or .tar, or a .parquet that holds images."""
    pairs: RecaptionedPairs = field(default_factory=RecaptionedPairs)
    model: CaptionerSettings = field(default_factory=CaptionerSettings)
    captioning: CaptioningSettings = field(default_factory=CaptioningSettings)
    scorer: ScorerSettings = field(default_factory=lambda: ScorerSettings(name=""))
    """Chooses among the candidates and compares old captions with new ones; an empty name is none."""
    keep: Keep = "new"
    """Of a pair, into captions.csv: the new caption, whichever is better by the scorer, or both old and new."""
    min_similarity: float | None = None
    """Of better or both: captions less similar to their image are left out, and pairs of which none is left."""
    shard_size: CountFromOne = 512
    """Images in a shard: as many at most does each process do again after a kill."""


CONTINUATION = Continuation(
    "shards/identity.json",
    (
        *(f"model.{each.name}" for each in fields(CaptionerSettings)),
        *(f"captioning.{each.name}" for each in fields(CaptioningSettings)),
        "scorer.name",
        "scorer.architecture",
        "shard_size",
    ),
)


def main(config: Config) -> None:
    check(config)
    rule = KeepRule(config.keep, config.min_similarity, has_scorer=bool(config.scorer.name))
    accelerator = start_accelerator()
    device, is_main = str(accelerator.device), accelerator.is_main_process
    captioner = Captioner.of(config.model, device=device)
    scorer = load_scorer(config.scorer, device)
    with Run(config.run, config, is_main=is_main, continuation=CONTINUATION) as run:
        if is_main:
            clear_away(run)
        accelerator.wait_for_everyone()  # what is noted from now on is of this start
        rejects = Rejects(run.path("rejects.jsonl"))
        subjects = find_pictures(config.images, rejects) if config.images else config.pairs.read(rejects)
        agree(config, subjects, captioner, scorer, accelerator, run)
        writer = CaptionWriter(
            captioner=captioner,
            settings=config.captioning,
            subjects=subjects,
            folder=run.path("shards", "x").parent,
            seeds=Seeds(config.run.seed),
            rejects=rejects,
            max_bad_fraction=config.pairs.max_bad_fraction,
            scorer=scorer,
            rows=config.shard_size,
        )
        processes = accelerator.num_processes
        whose = f" by the first of {processes} processes" if processes > 1 else ""
        writer.write(accelerator.process_index, processes, lambda done, total: run.progress(f"captioned{whose}", done, total))
        writer.wait()
        if is_main:
            finish(writer, subjects, CaptionLists(run.folder, rule, config.scorer.name), run)


def check(config: Config) -> None:
    """Refuse settings that contradict each other, before any weights are loaded.

    Raises:
        ConfigError: they do.
        UnavailableError: the scorer's weights are not here.
    """
    if (config.images is None) == (config.pairs.root is None):
        how = "either one is captioned, not both" if config.images else "one of them is needed"
        raise ConfigError(f"give --images for images, or --pairs.root for a data set whose pairs get new captions: {how}")
    if config.images is not None and (config.keep != "new" or config.min_similarity is not None):
        raise ConfigError("--keep and --min_similarity choose among old and new captions, which only --pairs.root has")
    if config.pairs.also:
        raise ConfigError("--pairs.also: captions.csv is the list of one data set; give each a run of its own")
    if config.scorer.name:
        require(config.scorer.name, config.scorer.architecture)


def load_scorer(settings: ScorerSettings, device: str) -> Scorer | None:
    """Load the scorer, if one is named."""
    if not settings.name:
        return None
    return Scorer.load(settings.name, device=device, batch_size=settings.batch_size, architecture=settings.architecture)


def clear_away(run: Run) -> None:
    """Remove what a start that was broken off has left: halves of shards, and notes on images that are looked for again."""
    for leftover in run.path("shards", "x").parent.glob(".*.part"):
        leftover.unlink(missing_ok=True)
    run.path("rejects.jsonl").unlink(missing_ok=True)


def agree(
    config: Config,
    subjects: PictureList | PairList,
    captioner: Captioner,
    scorer: Scorer | None,
    accelerator: Accelerator,
    run: Run,
) -> None:
    """Make sure that the shards that are here are of these images and weights.

    Raises:
        ConfigError: they are of others; in every process alike.
    """
    told = [""]
    if accelerator.is_main_process:
        identity = {"images": subjects.fingerprint()} | identify_models(captioner, config.model.adapter, scorer)
        path = run.path("shards", "identity.json")
        before: dict[str, Any] = identity
        if path.exists():
            before = plain_json.read(path, "remove the folder of the run, or take another --run.name")
        if other := [name for name in identity if identity[name] != before.get(name)]:
            what = "images" if "images" in other else f"weights of the {other[0]}"
            told[0] = f"{run.folder} was begun with other {what}; choose another --run.name for these."
        elif not path.exists():
            run.write_json("shards/identity.json", identity)
    if sentence := broadcast_object_list(told)[0]:
        raise ConfigError(sentence)


def finish(writer: CaptionWriter, subjects: PictureList | PairList, lists: CaptionLists, run: Run) -> None:
    """Put the shards together, and say what was kept and what not."""
    writer.check()
    if isinstance(subjects, PairList):
        counts = lists.write_pairs(subjects, writer.read())
    else:
        counts = lists.write_images(subjects, writer.read())
    unread = f"; {counts.unreadable:,} could not be read: {writer.rejects.path}" if counts.unreadable else ""
    logger.info(f"{counts.captioned:,} of {len(subjects):,} images captioned: {run.path('captions.jsonl')}{unread}")
    if isinstance(subjects, PairList):
        table = run.path("captions.csv")
        logger.info(f"kept {counts.new:,} new and {counts.old:,} old captions, dropped {counts.dropped:,} pairs: {table}")


if __name__ == "__main__":
    launch(main, Config)
