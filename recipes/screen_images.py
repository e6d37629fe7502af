"""A synthetic set -> which pictures copy training images, repeat each other or miss their prompt, and the others as a list.

    accelerate launch recipes/screen_images.py --run.name screen --samples.root runs/set/samples --pairs.root DATA \
        --pairs.split train --control.split test
    accelerate launch recipes/screen_images.py ... --captions.file runs/set-captions/captions.jsonl

``--pairs`` are what the generator was trained on. ``runs/<name>/screened.jsonl`` tells of every picture, and ``kept.csv`` goes
into a fine-tuning: ``--pairs.root runs/set/samples --pairs.csv runs/screen/kept.csv``; ``copies.png`` shows nearest couples.
Nothing is deleted. The same command continues a run that was broken off, with any number of processes, and bounds may change.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int64

from skygen import plain_json
from skygen.config import CountFromZero, Share, WorkersOrHalf
from skygen.data.exports.export import write_csv
from skygen.data.exports.synthetic import UNSPLIT, find_synthetic
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError, UnavailableError
from skygen.evaluation.pair_scores.caption_index import CaptionIndex
from skygen.evaluation.pair_scores.embedding import at_precision
from skygen.evaluation.pair_scores.scoring import PairScorer
from skygen.evaluation.pair_scores.table import PairScores
from skygen.evaluation.panel import load_scorer, log_training, name_data_set
from skygen.evaluation.scores import PROTOCOL, format_table, to_metrics
from skygen.evaluation.screening.copies import CopyRule, CopySettings, describe_control
from skygen.evaluation.screening.cycle import cycle_scores, read_captions
from skygen.evaluation.screening.nearest_images import (
    HASHED_AT_A_TIME,
    QUERIES_AT_A_TIME,
    ImageSet,
    Nearest,
    find_nearest,
    hash_images,
)
from skygen.evaluation.screening.records import describe_pictures, lay_out_couples
from skygen.evaluation.screening.thresholds import CycleSettings, Threshold, ThresholdSettings, calibrate_threshold
from skygen.evaluation.screening.verdicts import Bounds, Evidence, count_verdicts, judge_pictures, screening_scores
from skygen.evaluation.search.contact_sheet import write_sheet
from skygen.evaluation.shards import EmbeddingShards
from skygen.generation.records import METADATA, read_metadata
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer, ScorerSettings, require
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class SampleSettings:
    """The synthetic set."""

    root: Path
    """Imagefolder written by ``generate``."""
    max_bad_fraction: Share = 0.01
    """Largest share of its pictures that may be unreadable before the recipe stops."""


@dataclass(frozen=True)
class ControlSettings:
    """Real images that the generator has not learnt from; without any, training images beside all the others."""

    split: str | None = None
    """Of the data set of ``--pairs``, such as test."""
    csv: Path | None = None
    """List of the data set of ``--pairs`` that holds them."""
    limit: CountFromZero = 5000
    """At most so many, drawn at random; 0 for all."""


@dataclass(frozen=True)
class CaptionFileSettings:
    """What a captioner says of the pictures, for the cycle score: ``captions.jsonl`` of ``recipes/caption.py``."""

    file: Path | None = None
    """Of the pictures."""
    control: Path | None = None
    """Of the real control images, which the threshold is then taken from."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """How images are embedded."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass."""
    dataloader_num_workers: WorkersOrHalf = -1
    """Processes that decode images; -1 takes half of the processors, at most 8."""


@dataclass(frozen=True)
class Config:
    """Find copies, duplicates and weak pictures in a synthetic set."""

    run: RunSettings
    samples: SampleSettings
    pairs: PairSettings
    control: ControlSettings = field(default_factory=ControlSettings)
    copies: CopySettings = field(default_factory=CopySettings)
    threshold: ThresholdSettings = field(default_factory=ThresholdSettings)
    captions: CaptionFileSettings = field(default_factory=CaptionFileSettings)
    cycle: CycleSettings = field(default_factory=CycleSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    couples: int = 12
    """Pictures on the contact sheet, at most 50: copies first, then the nearest."""

    def __post_init__(self) -> None:
        if not 0 <= self.couples <= MOST_COUPLES:
            raise ConfigError(f"--couples {self.couples}: a contact sheet holds 0 to {MOST_COUPLES}.")


MOST_COUPLES = 50
CONTINUATION = Continuation(
    "parts/identity.json", ("scorer.name", "scorer.architecture", "embedding.precision", "control", "samples.root")
)


@dataclass(frozen=True, slots=True)
class Sets:
    """The three sets of images as they are scored, and which rows of the last are the control."""

    samples: PairScorer
    pairs: PairScorer
    control: PairScorer
    rows: Int64[np.ndarray, " control"]

    @property
    def leave_one_out(self) -> bool:
        """Whether the control are training images themselves."""
        return self.control is self.pairs

    def distinct(self) -> dict[str, PairScorer]:
        """Return each set once, by what it is called."""
        every = {"pictures": self.samples, "training images": self.pairs}
        return every if self.leave_one_out else {**every, "control images": self.control}


def main(config: Config) -> None:
    require(config.scorer.name, config.scorer.architecture)
    accelerator = start_accelerator()
    scorer = load_scorer(config.scorer, config.scorer.name, str(accelerator.device))
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        log_training(scorer, name_data_set(config.pairs.root, config.pairs.csv))
        sets = read_sets(config, scorer, run)
        agree(sets, config.samples.root, accelerator, run)
        images = {name: embed(parts, name, accelerator, run) for name, parts in sets.distinct().items()}
        pictures, training = images["pictures"], images["training images"]
        compared = images.get("control images", training)
        shared = {"rank": accelerator.process_index, "processes": accelerator.num_processes}
        rows = np.arange(len(pictures.pairs), dtype=np.int64)
        nearest, control = (
            find_nearest(
                some, chosen, training,
                EmbeddingShards(run.path("parts", "nearest", name, "x").parent, len(chosen), QUERIES_AT_A_TIME),
                leave_out_own=some is training, progress=partial(run.progress, f"{name} compared"), **shared,
            )
            for name, some, chosen in (("pictures", pictures, rows), ("control", compared, sets.rows))
        )  # fmt: skip
        if accelerator.is_main_process:
            finish(config, sets, pictures, nearest, control.read(), scorer, run)


def read_sets(config: Config, scorer: Scorer, run: Run) -> Sets:
    """Read the synthetic set, the training pairs and the control, each with a ledger of its own."""
    if not (config.samples.root / METADATA).is_file():
        raise UnavailableError(f"{config.samples.root / METADATA}: no generated images there; run recipes/generate.py first.")

    def parts(name: str, settings: PairSettings, most: int = 0) -> PairScorer:
        ledger = "rejects.jsonl" if name == "samples" else f"rejects_{name}.jsonl"
        rejects = Rejects(run.path(ledger))
        pairs = settings.read(rejects)
        if most:
            pairs = PairList(pairs.tables, pairs.rows[draw(len(pairs), most)])
        folder = run.path("parts", name, "x").parent
        return PairScorer(
            scorer=at_precision(scorer, config.embedding.precision),
            pairs=pairs,
            captions={"captions": CaptionIndex.of(batch["captions"] for batch in pairs.batches())},
            folder=folder,
            rejects=rejects,
            max_bad_fraction=settings.max_bad_fraction,
            batch_size=config.scorer.batch_size,
            workers=min(8, len(os.sched_getaffinity(0)) // 2) if workers < 0 else workers,
            embeddings=EmbeddingShards(folder / "embeddings", len(pairs)),
        )

    def draw(count: int, most: int) -> Int64[np.ndarray, " drawn"]:
        drawn = Seeds(config.run.seed).numpy("control", count).choice(count, min(most or count, count), replace=False)
        return np.sort(drawn).astype(np.int64)

    workers, most = config.embedding.dataloader_num_workers, config.control.limit
    samples = parts("samples", PairSettings(config.samples.root, max_bad_fraction=config.samples.max_bad_fraction))
    pairs = parts("pairs", config.pairs)
    if config.control.split or config.control.csv:
        split, csv = config.control.split, config.control.csv or config.pairs.csv
        held_out = parts("control", replace(config.pairs, split=split, csv=csv, limit=0, also=()), most)
        return Sets(samples, pairs, held_out, np.arange(len(held_out.pairs), dtype=np.int64))
    return Sets(samples, pairs, pairs, draw(len(pairs.pairs), most))


def agree(sets: Sets, root: Path, accelerator: Accelerator, run: Run) -> None:
    """Make sure that what is embedded already is of these images.

    Raises:
        ConfigError: it is of others; in every process alike.
    """
    told = [""]
    if accelerator.is_main_process:
        identity = {name: parts.pairs.fingerprint() for name, parts in sets.distinct().items()}
        identity["records"] = sha256((root / METADATA).read_bytes()).hexdigest()[:16]  # with the hash of each picture
        path = run.path("parts", "identity.json")
        if not path.exists():
            run.write_json("parts/identity.json", identity)
        elif plain_json.read(path, "remove the folder of the run, or take another --run.name") != identity:
            told[0] = f"{run.folder} was begun with other pictures or pairs; choose another --run.name for these."
    if sentence := broadcast_object_list(told)[0]:
        raise ConfigError(sentence)


def embed(parts: PairScorer, name: str, accelerator: Accelerator, run: Run) -> ImageSet:
    """Embed, score and hash this process's share of a set of images, and wait for the others'."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    parts.embed_texts(rank, processes, partial(run.progress, f"captions of {name} embedded"))
    parts.score(rank, processes, partial(run.progress, f"{name} embedded"))
    hashes = EmbeddingShards(parts.folder / "hashes", len(parts.pairs), HASHED_AT_A_TIME)
    hash_images(parts.pairs, hashes, parts.rejects, rank, processes, partial(run.progress, f"{name} hashed"))
    parts.rejects.check(len(parts.pairs), parts.max_bad_fraction)
    assert parts.embeddings is not None
    return ImageSet(parts.pairs, parts.embeddings, hashes)


def finish(
    config: Config, sets: Sets, pictures: ImageSet, nearest: Nearest, control: Nearest, scorer: Scorer, run: Run
) -> None:
    """Judge every picture that could be read, and write what was found."""
    scores = PairScores.of(sets.samples, pictures.pairs)
    rows = scores.rows[nearest.row[scores.rows] >= 0]
    similarity = scores.deciding[np.isin(scores.rows, rows)]
    kind = "each training image beside the others" if sets.leave_one_out else config.control.split or str(config.control.csv)
    rule = CopyRule.of(control, config.copies)
    cycle, least = compare_captions(config, sets, rows, scorer)
    evidence = Evidence(rows, nearest.take(rows), similarity, cycle)
    threshold = calibrate(sets, config.threshold.quantile)
    judged = judge_pictures(pictures, evidence, rule, Bounds(threshold.value, least))
    for line in (*rule.describe(kind), threshold.describe()):
        logger.info(line)
    records = read_metadata(config.samples.root)
    indices = {record["file_name"]: record.get("index") for record in records}
    told = describe_pictures(pictures.pairs, sets.pairs.pairs, evidence, judged)
    run.write_lines("screened.jsonl", ({**line, "index": indices.get(line["file_name"])} for line in told))
    run.write_json("copies_control.json", describe_control(evidence.nearest, control, rule, kind))
    listed = (
        replace(pair, similarity=round(value, 6), split=pair.split or UNSPLIT)
        for row, value, each in zip(rows.tolist(), similarity.tolist(), judged, strict=True)
        for pair in ([pictures.pairs[row]] if each.verdict == "kept" else [])
    )
    write_csv(run.path("kept.csv"), listed, "similarity_skyclip", find_synthetic(config.samples.root))
    if couples := lay_out_couples(pictures.pairs, sets.pairs.pairs, evidence, judged, config.couples):
        note = "training images nearest by cosine, and by hash where that is another one"
        write_sheet(couples, run.path("copies.png"), f"{config.run.name}: nearest couples", note)
    model = str(records[0].get("model", "synthetic")) if records else "synthetic"
    whose, seeds = f"skyclip:{config.scorer.name}", Seeds(config.run.seed)
    measured = screening_scores(judged, evidence, control, rule, model=model, subset=kind, extractor=whose, seeds=seeds)
    run.write_json("metrics.json", to_metrics(PROTOCOL, measured))
    logger.info(format_table(measured))
    counted = ", ".join(f"{count:,} {verdict}" for verdict, count in count_verdicts(judged).items())
    unread = len(pictures.pairs) - len(rows)
    logger.info(f"{counted}, {unread:,} unreadable: {run.path('kept.csv')}")


def calibrate(sets: Sets, quantile: float) -> Threshold:
    """Take the threshold of similarities from the control pairs."""
    real = PairScores.of(sets.control, sets.control.pairs)
    chosen, (own,), (other,) = np.isin(real.rows, sets.rows), real.similarity.values(), real.mismatched.values()
    return calibrate_threshold(own[chosen], other[chosen], quantile)


def compare_captions(
    config: Config, sets: Sets, rows: Int64[np.ndarray, " pictures"], scorer: Scorer
) -> tuple[Float[np.ndarray, " pictures"] | None, float | None]:
    """Return the cycle score of each picture, and the least that is not off its prompt; None for what is not known."""

    def measure(path: Path, root: Path, pairs: PairList, chosen: Sequence[int]) -> Float[np.ndarray, " pictures"]:
        some = [pairs[row] for row in chosen]
        return cycle_scores(scorer, [pair.captions[0] for pair in some], read_captions(path, root, [pair.key for pair in some]))

    if config.captions.file is None:
        return None, None
    cycle = measure(config.captions.file, config.samples.root, sets.samples.pairs, rows.tolist())
    if config.captions.control is None:
        if config.cycle.threshold is None:
            logger.info("no --captions.control and no --cycle.threshold: cycle scores are written, and none drops a picture")
        return cycle, config.cycle.threshold
    real = np.intersect1d(PairScores.of(sets.control, sets.control.pairs).rows, sets.rows).tolist()
    own = measure(config.captions.control, config.pairs.root, sets.control.pairs, real)
    return cycle, calibrate_threshold(own, own[:0], config.threshold.quantile).value


if __name__ == "__main__":
    launch(main, Config)
