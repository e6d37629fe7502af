"""A scorer on labelled images and on pairs: zero-shot classification and retrieval, as SkyScript's evaluation does them.

    accelerate launch recipes/evaluate_scorer.py --run.name scorer --benchmark.root DATA/benchmark \
        --benchmark.sets SkyScript_cls aid --retrieval.root DATA --retrieval.split test

Every image is counted once, and every text; ``--retrieval.protocol remoteclip`` counts every caption as RemoteCLIP's evaluation
does. Where the sets and the weights are published ones, the log and ``published.json`` put what was printed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from skygen.config import CountFromZero, Share
from skygen.data.benchmarks import (
    RETRIEVAL_SETS,
    BenchmarkSettings,
    RetrievalProtocol,
    find_benchmark_set,
    prefix_captions,
    read_retrieval_set,
)
from skygen.data.every_caption import restore_repeats
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError
from skygen.evaluation.published import compare, format_comparisons, mark_in_sample, to_published_json
from skygen.evaluation.retrieval import retrieval_scores
from skygen.evaluation.scores import PROTOCOL, Score, format_table, to_metrics
from skygen.evaluation.zero_shot import SEVEN, mean_of_seven, zero_shot_scores
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
    name: str = ""
    """Of the set, for its scores; by default its split. RSICD, RSITMD or ucmcaptions are compared with what is published."""
    protocol: RetrievalProtocol = "skyscript"
    """skyscript: unique texts, of which several images may share one. remoteclip: every caption by itself, and no prefix."""
    limit: CountFromZero = 0
    """At most so many pairs, 0 for all."""

    def read(self, rejects: Rejects) -> dict[str, list[Pair]]:
        """Read the pairs of every set, by the name that its scores have."""
        if self.root is None:
            return {}
        if self.sets and (self.csv or self.caption_column or self.split or self.prefix or self.name):
            raise ConfigError(
                "--retrieval.sets says by itself what is read: leave out --retrieval.csv, caption_column, split, prefix and "
                "name."
            )
        if self.prefix and self.protocol == "remoteclip":
            raise ConfigError("--retrieval.protocol remoteclip takes captions without a prefix: leave out --retrieval.prefix.")
        if self.sets:
            return {
                name: read_retrieval_set(self.root, name, rejects, limit=self.limit, protocol=self.protocol)
                for name in self.sets
            }
        pairs = read_pairs(
            self.root, csv=self.csv, caption_column=self.caption_column, split=self.split, limit=self.limit, rejects=rejects
        )
        if self.protocol == "remoteclip":
            pairs = restore_repeats(pairs, self.root, csv=self.csv, caption_column=self.caption_column, split=self.split)
        return {self.name or self.split or "all": prefix_captions(pairs, self.prefix)}

    def whole_sets(self) -> tuple[str, ...]:
        """Return the published sets that are read as they were published, and so may be compared."""
        if self.limit:
            return ()
        if self.sets:
            return self.sets
        known = RETRIEVAL_SETS.get(self.name)
        return (self.name,) if known and self.split == "test" and self.prefix == known.prefix else ()


@dataclass(frozen=True)
class Config:
    """Evaluate a CLIP."""

    run: RunSettings
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    max_bad_fraction: Share = 0.01
    """Largest share of the rows and images that may be unusable before the recipe stops."""


def main(config: Config) -> None:
    retrieval = config.retrieval
    if not (config.benchmark.root or config.benchmark.class_folders or retrieval.root):
        raise ConfigError(
            "nothing to evaluate on: give --benchmark.root, --benchmark.class_folders or --retrieval.root, or several of them."
        )
    if config.scorer.also:
        raise ConfigError("--scorer.also: each CLIP is evaluated in a run of its own; `skygen report` lays them side by side.")
    scorer = Scorer.load(
        config.scorer.name, device=pick_device(), batch_size=config.scorer.batch_size, architecture=config.scorer.architecture
    )
    seeds = Seeds(config.run.seed)
    with Run(config.run, config) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        benchmarks, sets = config.benchmark.read(rejects), retrieval.read(rejects)
        usable = sum(len(benchmark.images) for benchmark in benchmarks) + sum(map(len, sets.values()))
        total = usable + rejects.count
        check_bad(rejects, total, config.max_bad_fraction)
        scores: list[Score] = []
        for benchmark in benchmarks:
            report = partial(run.progress, f"{benchmark.name}, images embedded")
            scores += zero_shot_scores(scorer, benchmark, seeds, rejects, report)
        scores += mean_of_seven(scores)
        for name, pairs in sets.items():
            report = partial(run.progress, f"{name}, images embedded")
            scores += retrieval_scores(
                scorer, pairs, subset=name, seeds=seeds, rejects=rejects, report=report, protocol=retrieval.protocol
            )
        check_bad(rejects, total, config.max_bad_fraction)
        write_scores(run, config, scorer, scores)


def write_scores(run: Run, config: Config, scorer: Scorer, scores: Sequence[Score]) -> None:
    """Write the scores, and beside them what was published of the same weights on the same whole sets."""
    benchmark, retrieval = config.benchmark, config.retrieval
    whole = list(retrieval.whole_sets())
    if benchmark.root and not benchmark.limit:
        whole += [SEVEN, *(find_benchmark_set(name)[0] for name in benchmark.sets)]
    compared = compare(scorer.name, scorer.trained_on, scores, whole)
    marked = mark_in_sample(scores, scorer.trained_on)
    protocol = f"{PROTOCOL}, retrieval {retrieval.protocol}" if retrieval.root else PROTOCOL
    run.write_json("metrics.json", to_metrics(protocol, marked))
    subsets = [score.subset for score in scores]
    run.write_json("published.json", to_published_json(scorer.name, scorer.trained_on, compared, subsets))
    logger.info(format_table(marked))
    if compared:
        logger.info(f"beside what is published, in percent; in brackets what is in-sample\n{format_comparisons(compared)}")
        far = [own.published for own in compared if not own.agrees]
        if far:
            named = ", ".join(dict.fromkeys(f"{own.metric} of {own.set}" for own in far))
            logger.warning(f"{len(far)} of {len(compared)} published figures are not reproduced within 0.1 points: {named}")


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
