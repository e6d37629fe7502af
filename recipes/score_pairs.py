"""Pairs -> SkyCLIP scores, and the list of the pairs worth training on.

    accelerate launch recipes/score_pairs.py --run.name scores --pairs.root DATA --keep top_30_percent

``runs/<name>/kept.csv`` goes into a fine-tuning as ``--pairs.csv``; ``scores.parquet`` holds every pair, and the shards it was
made of lie in ``parts/scores``. The same command continues a run that was broken off, with any number of processes, and
``--keep`` may then change: nothing is scored twice. An image that could not be read is looked for again once its shard is gone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from skygen import plain_json
from skygen.config import CountFromZero, WorkersOrHalf
from skygen.data.exports.export import write_csv
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.selection import check_rule, keep_rows, rank_rows
from skygen.data.table import UNIT, PairList
from skygen.errors import ConfigError
from skygen.evaluation.pair_scores.calibration import calibration_scores, rounding_scores
from skygen.evaluation.pair_scores.caption_index import CaptionIndex
from skygen.evaluation.pair_scores.embedding import at_precision, find_batch_size, find_precision
from skygen.evaluation.pair_scores.scoring import PairScorer
from skygen.evaluation.pair_scores.table import PairScores, write_scores
from skygen.evaluation.panel import list_scorers, load_scorer, require_scorers
from skygen.evaluation.scores import PROTOCOL, Score, format_table, to_metrics
from skygen.evaluation.shards import EmbeddingShards
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class ScoringSettings:
    """How pairs are scored."""

    caption_columns: tuple[str, ...] = ()
    """Columns of captions to score, such as title_multi_objects title; the first says which pairs there are, and which stay."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward pass; auto takes bf16 where a try shows that it is a fifth faster, and what that changes is measured."""
    batch_size: CountFromZero = 0
    """Images at a time; 0 tries which is fastest."""
    dataloader_num_workers: WorkersOrHalf = -1
    """Processes that decode images; -1 takes half of the processors, at most 8."""
    save_embeddings: bool = False
    """Keep the image embeddings, for ``skygen search``: 1 kB an image at 512 dimensions."""


@dataclass(frozen=True)
class Config:
    """Score pairs with SkyCLIP and keep the best."""

    run: RunSettings
    pairs: PairSettings
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    keep: str = "top_50_percent"
    """``top_N_percent`` of all pairs, ``top_N_percent_per_class``, or a least similarity such as ``0.25``."""


CONTINUATION = Continuation("parts/identity.json", ("scorer.name", "scorer.architecture", "scoring.caption_columns"))
COMPARED = 1024
"""Pairs that are scored in float32 too, after a run in bfloat16."""


def main(config: Config) -> None:
    check_rule(config.keep)
    require_scorers(config.scorer)
    accelerator = start_accelerator()
    name, architecture = config.scorer.name, config.scorer.architecture
    scorer = Scorer.load(name, device=str(accelerator.device), batch_size=config.scorer.batch_size, architecture=architecture)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs, captions = read_captions(config, rejects)
        identity = agree(config, scorer, pairs, captions, accelerator, run)
        workers = config.scoring.dataloader_num_workers
        embeddings = EmbeddingShards(run.path("embeddings", "x").parent, len(pairs)) if config.scoring.save_embeddings else None
        parts = PairScorer(
            scorer=at_precision(scorer, identity["precision"]),
            pairs=pairs,
            captions=captions,
            folder=run.path("parts", "x").parent,
            rejects=rejects,
            max_bad_fraction=config.pairs.max_bad_fraction,
            batch_size=config.scoring.batch_size or identity["batch_size"],
            workers=min(8, len(os.sched_getaffinity(0)) // 2) if workers < 0 else workers,
            embeddings=embeddings,
        )
        score(parts, "", accelerator, run)
        rejects.check(len(pairs), config.pairs.max_bad_fraction)
        further = {}
        for other in list_scorers(config.scorer)[1:]:
            judge = at_precision(load_scorer(config.scorer, other, str(accelerator.device)), identity["precision"])
            folder = run.path("parts", "further", re.sub(r"\W+", "_", other))
            further[other] = replace(parts, scorer=judge, folder=folder, embeddings=None)
            score(further[other], f" for {other}", accelerator, run)
        if accelerator.is_main_process:
            finish(parts, further, None if identity["precision"] == "fp32" else scorer, config, run)


def score(parts: PairScorer, whose: str, accelerator: Accelerator, run: Run) -> None:
    """Do this process's share of the captions, then of the pairs."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    whose += f" by the first of {processes} processes" if processes > 1 else ""
    parts.embed_texts(rank, processes, lambda done, total: run.progress(f"distinct captions embedded{whose}", done, total))
    waited = parts.score(rank, processes, lambda done, total: run.progress(f"pairs scored{whose}", done, total))
    if accelerator.is_main_process:
        logger.info(f"{waited:.1%} of the time was spent waiting for decoded images")


def read_captions(config: Config, rejects: Rejects) -> tuple[PairList, dict[str, CaptionIndex]]:
    """Read the pairs, and number the captions of every column that is scored.

    A pair of the first column that lacks a caption in a further one stays, without a score there.
    """
    name, *further = config.scoring.caption_columns or (config.pairs.caption_column or "captions",)
    first = replace(config.pairs, caption_column=name) if config.scoring.caption_columns else config.pairs
    pairs = first.read(rejects)
    captions = {name: CaptionIndex.of(batch["captions"] for batch in pairs.batches())}
    for column in further:
        # all that there are: what is chosen by the captions of the first column is not to be chosen again by these
        every = replace(config.pairs, caption_column=column, limit=0, where="", max_images_per_caption=0, max_bad_fraction=1.0)
        others = every.read(Rejects(None))
        places = pc.fill_null(pc.index_in(identify(pairs), identify(others)), -1).to_numpy()
        captions[column] = CaptionIndex.of(batch["captions"] for batch in others.batches()).take(places)
        if lacking := int((places < 0).sum()):
            logger.info(f"{lacking:,} of {len(pairs):,} pairs have no caption in {column}, and no score of it")
    return pairs, captions


def identify(pairs: PairList) -> pa.ChunkedArray:
    """Name each pair by its data set and its key, which another list of the same data sets has too."""
    ends = np.cumsum([len(part.table) for part in pairs.tables])
    data_set = pa.array(np.searchsorted(ends, pairs.rows, side="right").astype(str), pa.string())
    return pc.binary_join_element_wise(pa.chunked_array([data_set]), pairs.column("key"), UNIT)


def agree(
    config: Config, scorer: Scorer, pairs: PairList, captions: dict[str, CaptionIndex], accelerator: Accelerator, run: Run
) -> dict[str, Any]:
    """Settle on precision and batch size, the same for every process and for what an earlier start has scored.

    Raises:
        ConfigError: the run has scored other pairs or captions, or at another precision.
    """
    found: list[Any] = [None]
    of_pairs = {"pairs": pairs.fingerprint(), "captions": {name: index.fingerprint() for name, index in captions.items()}}
    if accelerator.is_main_process:
        path = run.path("parts", "identity.json")
        if path.exists():
            found[0] = plain_json.read(path, "remove the folder of the run, or take another --run.name")
        else:
            found[0] = of_pairs | find_settings(config, scorer)
            run.write_json("parts/identity.json", found[0])
    identity: dict[str, Any] = broadcast_object_list(found)[0]
    if {name: identity[name] for name in of_pairs} != of_pairs:
        raise ConfigError(f"{run.folder} has scored other pairs or captions; choose another --run.name for these.")
    if config.scoring.precision not in ("auto", identity["precision"]):
        raise ConfigError(f"{run.folder} was begun in {identity['precision']}; go on with it, or choose another --run.name.")
    return identity


def find_settings(config: Config, scorer: Scorer) -> dict[str, Any]:
    """Find out how this machine scores fastest."""
    precision = config.scoring.precision if config.scoring.precision != "auto" else find_precision(scorer)
    batch_size = config.scoring.batch_size or find_batch_size(at_precision(scorer, precision))
    logger.info(f"{config.run.name}: {precision}, {batch_size} images at a time")
    return {"precision": precision, "batch_size": batch_size}


def finish(parts: PairScorer, further: Mapping[str, PairScorer], exact: Scorer | None, config: Config, run: Run) -> None:
    """Choose among the scored pairs, and write all scores, the kept pairs, and what the scores are worth.

    Args:
        parts: what has been scored, and decides.
        further: what other scorers say of the same pairs, by name.
        exact: the scorer in float32, where that is not what scored them.
        config: of the run.
        run: where it is written.
    """
    pairs, scores = parts.pairs, PairScores.of(parts, parts.pairs)
    keys = scores.column("key")
    kept = keep_rows(scores.deciding, keys, scores.column("class_name"), config.keep)
    others = {name: PairScores.of(other, pairs) for name, other in further.items()}
    write_scores(run.path("scores.parquet"), scores, kept, others)
    best_first = np.flatnonzero(kept)[rank_rows(scores.deciding[kept], keys.filter(pa.array(kept)))]
    chosen = zip(scores.rows[best_first].tolist(), scores.deciding[best_first].tolist(), strict=True)
    column = "similarity_" + re.sub(r"\W+", "_", config.scorer.name)
    write_csv(run.path("kept.csv"), (replace(pairs[row], similarity=round(value, 6)) for row, value in chosen), column)
    extractor, subset = f"skyclip:{config.scorer.name}", config.pairs.split or "all"
    seeds = Seeds(config.run.seed)
    measured = calibration_scores(scores, subset=subset, extractor=extractor, seeds=seeds)
    for name, found in others.items():
        measured += calibration_scores(found, subset=subset, extractor=f"skyclip:{name}", seeds=seeds)
    if exact is not None:
        measured += compare_precisions(parts, exact, scores, config.keep, subset)
    run.write_json("metrics.json", to_metrics(PROTOCOL, measured))
    logger.info(format_table(measured))
    least = f", similarity at least {scores.deciding[kept].min():.4f}" if kept.any() else ""
    logger.info(f"kept {int(kept.sum())} of {len(pairs)} pairs{least}: {run.path('kept.csv')}")


def compare_precisions(parts: PairScorer, scorer: Scorer, scores: PairScores, keep: str, subset: str) -> list[Score]:
    """Score some of the pairs in float32 too, the same ones in every run over these pairs."""
    draw = Seeds(0).numpy("precisions", len(scores.rows))
    chosen = np.sort(draw.choice(len(scores.rows), min(COMPARED, len(scores.rows)), replace=False))
    logger.info(f"{len(chosen):,} pairs are scored in float32 too, to see what bfloat16 changes")
    exact = parts.rescore(scores.rows[chosen], scorer)
    some = PairScores(scores.pairs, scores.rows[chosen], {}, {}, {})
    keys, classes = some.column("key"), some.column("class_name")

    def choose(values: np.ndarray) -> np.ndarray:
        return keep_rows(values, keys, classes, keep)

    return rounding_scores(scores.deciding[chosen], exact, choose, subset=subset, extractor=f"skyclip:{scorer.name}")


if __name__ == "__main__":
    launch(main, Config)
