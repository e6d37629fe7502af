"""Pairs -> SkyCLIP scores, and the list of the pairs worth training on.

    accelerate launch recipes/score_pairs.py --run.name scores --pairs.root DATA --keep top_30_percent

``runs/<name>/kept.csv`` goes into a fine-tuning as ``--pairs.csv``; ``scores.parquet`` holds every pair. The same command
continues a run that was broken off, and ``--keep`` may then change: nothing is scored twice.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from skygen.data.exports.export import write_csv
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.selection import check_rule, keep_rows
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.evaluation.calibration import calibration_scores
from skygen.evaluation.embedding_shards import EmbeddingShards
from skygen.evaluation.pair_scoring import CaptionIndex, PairScorer, find_batch_size, find_precision
from skygen.evaluation.pair_table import PairScores, write_scores
from skygen.evaluation.scores import format_table, to_metrics
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class ScoringSettings:
    """How pairs are scored."""

    caption_columns: tuple[str, ...] = ()
    """Columns of captions to score, such as title_multi_objects title; the first decides what is kept."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward pass; auto takes bf16 where a try shows that it is a fifth faster."""
    batch_size: int = 0
    """Images at a time; 0 tries which is fastest."""
    dataloader_num_workers: int = -1
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


CONTINUATION = Continuation("parts/scores/*.parquet", ("scorer.name", "scoring.caption_columns"))


def main(config: Config) -> None:
    check_rule(config.keep)
    accelerator = start_accelerator()
    scorer = Scorer.load(config.scorer.name, device=str(accelerator.device), batch_size=config.scorer.batch_size)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs, captions = read_captions(config, rejects)
        identity = agree(config, scorer, pairs, accelerator, run)
        workers = config.scoring.dataloader_num_workers
        embeddings = EmbeddingShards(run.path("embeddings", "x").parent, len(pairs)) if config.scoring.save_embeddings else None
        parts = PairScorer(
            scorer=scorer,
            pairs=pairs,
            captions=captions,
            folder=run.path("parts", "x").parent,
            rejects=rejects,
            precision=identity["precision"],
            batch_size=identity["batch_size"],
            workers=min(8, len(os.sched_getaffinity(0)) // 2) if workers < 0 else workers,
            embeddings=embeddings,
        )
        share = (accelerator.process_index, accelerator.num_processes)
        parts.embed_texts(*share, lambda done, total: run.progress("shards of captions embedded", done, total))
        accelerator.wait_for_everyone()
        waited = parts.score(*share, lambda done, total: run.progress("shards of pairs scored", done, total))
        accelerator.wait_for_everyone()
        rejects.check(len(pairs), config.pairs.max_bad_fraction)
        if accelerator.is_main_process:
            logger.info(f"{waited:.1%} of the time was spent waiting for decoded images")
            finish(parts, pairs, config, run)


def read_captions(config: Config, rejects: Rejects) -> tuple[PairList, dict[str, CaptionIndex]]:
    """Read the pairs, and number the captions of every column that is scored."""
    columns = config.scoring.caption_columns or (config.pairs.caption_column or "captions",)
    if not config.scoring.caption_columns:
        pairs = config.pairs.read(rejects)
        return pairs, {columns[0]: CaptionIndex.of(iterate_captions(pairs))}
    lists = {name: replace(config.pairs, caption_column=name).read(rejects) for name in columns}
    first = lists[columns[0]]
    keys = [key for batch in first.batches() for key in batch["key"].to_pylist()]
    indices = {}
    for name, pairs in lists.items():
        said = dict(zip((key for b in pairs.batches() for key in b["key"].to_pylist()), iterate_captions(pairs), strict=True))
        indices[name] = CaptionIndex.of(said.get(key) or () for key in keys)
    return first, indices


def iterate_captions(pairs: PairList) -> Iterator[list[str]]:
    """Yield the captions of each pair."""
    for batch in pairs.batches():
        yield from batch["captions"].to_pylist()


def agree(config: Config, scorer: Scorer, pairs: PairList, accelerator: Accelerator, run: Run) -> dict[str, Any]:
    """Settle on precision and batch size, the same for every process and for what an earlier start has scored.

    Raises:
        ConfigError: the run has scored other pairs.
    """
    path, fingerprint = run.path("parts", "identity.json"), pairs.fingerprint()
    found: list[Any] = [None]
    if accelerator.is_main_process:
        found[0] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else find_identity(config, scorer, fingerprint)
        if found[0]["pairs"] == fingerprint:
            run.write_json("parts/identity.json", found[0])
    identity: dict[str, Any] = broadcast_object_list(found)[0]
    if identity["pairs"] != fingerprint:
        raise ConfigError(f"{run.folder} has scored other pairs or captions; choose another --run.name for these.")
    if config.scoring.precision not in ("auto", identity["precision"]):
        raise ConfigError(f"{run.folder} was begun in {identity['precision']}; go on with it, or choose another --run.name.")
    return identity


def find_identity(config: Config, scorer: Scorer, fingerprint: str) -> dict[str, Any]:
    """Find out how this machine scores fastest."""
    precision = config.scoring.precision if config.scoring.precision != "auto" else find_precision(scorer)
    batch_size = config.scoring.batch_size or find_batch_size(scorer, precision)
    logger.info(f"{config.run.name}: {precision}, {batch_size} images at a time")
    return {"pairs": fingerprint, "precision": precision, "batch_size": batch_size}


def finish(parts: PairScorer, pairs: PairList, config: Config, run: Run) -> None:
    """Choose among the scored pairs, and write all scores, the kept pairs, and what the scores are worth."""
    scores = PairScores.of(parts, pairs)
    kept = keep_rows(scores.deciding, scores.keys, scores.classes, config.keep)
    write_scores(run.path("scores.parquet"), scores, kept)
    best_first = np.lexsort((scores.keys[kept], -scores.deciding[kept]))
    chosen = zip(scores.rows[kept][best_first].tolist(), scores.deciding[kept][best_first].tolist(), strict=True)
    column = "similarity_" + re.sub(r"\W+", "_", config.scorer.name)
    write_csv(run.path("kept.csv"), (replace(pairs[row], similarity=round(value, 6)) for row, value in chosen), column)
    extractor, subset = f"skyclip:{config.scorer.name}", config.pairs.split or "all"
    measured = calibration_scores(scores, subset=subset, extractor=extractor, seeds=Seeds(config.run.seed))
    run.write_json("metrics.json", to_metrics("skygen-v1", measured))
    logger.info(format_table(measured))
    least = f", similarity at least {scores.deciding[kept].min():.4f}" if kept.any() else ""
    logger.info(f"kept {int(kept.sum())} of {len(pairs)} pairs{least}: {run.path('kept.csv')}")


if __name__ == "__main__":
    launch(main, Config)
