"""Pairs -> SkyCLIP scores, and the list of the pairs worth training on.

    accelerate launch recipes/score_pairs.py --run.name scores --pairs.root DATA --keep top_30_percent

``runs/<name>/kept.csv`` goes into a fine-tuning as ``--pairs.csv``; ``scores.jsonl`` holds every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from skygen.data.export import write_pair_list
from skygen.data.images import open_readable
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.selection import keep_threshold
from skygen.evaluation.alignment import alignment_scores
from skygen.evaluation.scores import format_table, to_metrics
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Score pairs with SkyCLIP and keep the best."""

    run: RunSettings
    pairs: PairSettings
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    keep: str = "top_50_percent"
    """``top_N_percent`` of all pairs, or a least similarity such as ``0.25``."""


def main(config: Config) -> None:
    accelerator = start_accelerator()
    scorer = Scorer.load(config.scorer.name, device=str(accelerator.device), batch_size=config.scorer.batch_size)
    with Run(config.run, config, is_main=accelerator.is_main_process) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        own = range(accelerator.process_index, len(pairs), accelerator.num_processes)
        rows = gather_object(score(scorer, pairs, own, rejects, run))
        rejects.check(len(pairs), config.pairs.max_bad_fraction)
        if accelerator.is_main_process:
            write(rows, pairs, config, run)


def score(scorer: Scorer, pairs: Sequence[Pair], own: range, rejects: Rejects, run: Run) -> list[dict[str, Any]]:
    """Embed this process's share of the pairs, each with its first caption; unreadable images are left out."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(own), scorer.batch_size):
        chunk = own[start : start + scorer.batch_size]
        read = open_readable([(pairs[index].key, pairs[index].image) for index in chunk], rejects)
        images = scorer.embed_images([image for _, image in read])
        texts = scorer.embed_texts([pairs[chunk[place]].captions[0] for place, _ in read])
        rows += [{"index": chunk[place], "image": a, "text": b} for (place, _), a, b in zip(read, images, texts, strict=True)]
        run.progress("scored", start + len(chunk), len(own))
    return rows


def write(rows: list[dict[str, Any]], pairs: Sequence[Pair], config: Config, run: Run) -> None:
    """Write every score, the list of kept pairs, and how far the scores stand above those of shuffled captions."""
    rows = sorted(rows, key=lambda row: row["index"])
    images, texts = np.stack([row["image"] for row in rows]), np.stack([row["text"] for row in rows])
    similarity = (images * texts).sum(axis=1)
    threshold = keep_threshold(similarity, config.keep)
    scored = [pairs[row["index"]] for row in rows]
    run.write_lines(
        "scores.jsonl",
        [
            {
                "key": pair.key,
                "image": str(pair.image),
                "caption": pair.captions[0],
                "similarity": float(value),
                "kept": bool(value >= threshold),
            }
            for pair, value in zip(scored, similarity, strict=True)
        ],
    )
    kept = [(pair, float(value)) for pair, value in zip(scored, similarity, strict=True) if value >= threshold]
    write_pair_list(run.path("kept.csv"), kept, scorer=config.scorer.name)
    scores = alignment_scores(
        images,
        texts,
        [pair.captions[0] for pair in scored],
        model="real",
        subset=config.pairs.split or "all",
        extractor=f"skyclip:{config.scorer.name}",
        seeds=Seeds(config.run.seed),
    )
    run.write_json("metrics.json", to_metrics("skygen-v1", scores))
    logger.info(format_table(scores))
    logger.info(f"kept {len(kept)} of {len(pairs)} pairs, similarity at least {threshold:.4f}: {run.path('kept.csv')}")


if __name__ == "__main__":
    launch(main, Config)
