"""A scorer on labelled images and on pairs: zero-shot classification and retrieval, as SkyScript's evaluation does them.

    accelerate launch recipes/evaluate_scorer.py --run.name scorer --benchmark.root DATA/benchmark \
        --benchmark.sets SkyScript_cls aid --retrieval.root DATA --retrieval.split test

Every image is counted once, and every text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from skygen.data.benchmarks import BenchmarkSettings, prefix_captions, read_retrieval_set
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError
from skygen.evaluation.retrieval import retrieval_scores
from skygen.evaluation.scores import format_table, to_metrics
from skygen.evaluation.zero_shot import zero_shot_scores
from skygen.models.device import pick_device
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class RetrievalSettings:
    """Pairs among which each image's caption, and each caption's image, is to be found."""

    root: Path | None = None
    """Folder of the data set; without it nothing is retrieved."""
    sets: tuple[str, ...] = ()
    """SkyScript, RSICD, RSITMD or ucmcaptions, as SkyScript's paper measures them; by default the folder's own pairs."""
    csv: Path | None = None
    """Pair list to read; by default found by the split."""
    caption_column: str | None = None
    """Column of the captions; by default title_multi_objects, which SkyScript's own evaluation takes, or title."""
    split: str | None = None
    """train, val or test; by default all of them."""
    prefix: str = ""
    """Put before each caption, such as "a satellite image. "."""
    limit: int = 0
    """At most so many pairs, 0 for all."""

    def read(self, rejects: Rejects) -> dict[str, list[Pair]]:
        """Read the pairs of every set, by the name that its scores have."""
        if self.root is None:
            return {}
        if self.sets and (self.csv or self.caption_column or self.split or self.prefix):
            raise ConfigError(
                "--retrieval.sets says by itself what is read: leave out --retrieval.csv, caption_column, split and prefix."
            )
        if self.sets:
            return {name: read_retrieval_set(self.root, name, rejects, limit=self.limit) for name in self.sets}
        pairs = read_pairs(
            self.root, csv=self.csv, caption_column=self.caption_column, split=self.split, limit=self.limit, rejects=rejects
        )
        return {self.split or "all": prefix_captions(pairs, self.prefix)}


@dataclass(frozen=True)
class Config:
    """Evaluate a CLIP."""

    run: RunSettings
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    max_bad_fraction: float = 0.01
    """Largest share of the rows and images that may be unusable before the recipe stops."""


def main(config: Config) -> None:
    retrieval = config.retrieval
    if not (config.benchmark.root or config.benchmark.class_folders or retrieval.root):
        raise ConfigError(
            "nothing to evaluate on: give --benchmark.root, --benchmark.class_folders or --retrieval.root, or several of them."
        )
    scorer = Scorer.load(config.scorer.name, device=pick_device(), batch_size=config.scorer.batch_size)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        benchmarks, sets = config.benchmark.read(rejects), retrieval.read(rejects)
        usable = sum(len(benchmark.images) for benchmark in benchmarks) + sum(map(len, sets.values()))
        total = usable + rejects.count
        check_bad(rejects, total, config.max_bad_fraction)
        scores = []
        for benchmark in benchmarks:
            report = partial(run.progress, f"{benchmark.name}, images embedded")
            scores += zero_shot_scores(scorer, benchmark, seeds, rejects, report)
        for name, pairs in sets.items():
            report = partial(run.progress, f"{name}, images embedded")
            scores += retrieval_scores(scorer, pairs, subset=name, seeds=seeds, rejects=rejects, report=report)
        check_bad(rejects, total, config.max_bad_fraction)
        run.write_json("metrics.json", to_metrics("skygen-v1", scores))
        logger.info(format_table(scores))


def check_bad(rejects: Rejects, total: int, allowed: float) -> None:
    """Stop when too much of the data is bad: what is left would be another benchmark.

    Raises:
        DataError: more than the share that is allowed.
    """
    if rejects.count > allowed * total:
        raise DataError(
            f"{rejects.count} of {total} rows or images cannot be used ({rejects.count / total:.1%}), more than the "
            f"{allowed:.1%} allowed; {rejects.path} lists each; mend the data, or allow more with --max_bad_fraction."
        )


if __name__ == "__main__":
    launch(main, Config)
