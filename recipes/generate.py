"""Prompts -> synthetic images, scored by SkyCLIP, the best of N kept, each labelled as synthetic.

    accelerate launch recipes/generate.py --run.name try --prompts.file prompts.txt --model.adapter runs/my-lora/adapter
    accelerate launch recipes/generate.py ... --selection.candidates 8 --generation.count 1000
    accelerate launch recipes/generate.py ... --generation.images FOLDER --generation.strength 0.5
    accelerate launch recipes/generate.py --run.name set --pairs.root DATA --pairs.split train --prompts.per class \
        --prompts.count_each 100

``runs/<name>/samples`` is an imagefolder: ``load_dataset("imagefolder", data_dir=...)`` reads it. ``plan.jsonl`` says of every
picture what it is drawn from. The same command again, on any number of processes, draws what is missing or damaged. With
``--scorer.also NAME``, ``metrics.json`` has the scores of CLIPs that had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError
from skygen.evaluation.alignment import skyclip_scores
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.evaluation.scores import PROTOCOL, Score, format_table, to_metrics
from skygen.evaluation.screening.selection_gain import selection_gain
from skygen.generation.bulk import BulkDrawing
from skygen.generation.choice import Candidates, Models, Wanted
from skygen.generation.origin import describe_origin
from skygen.generation.picture_list import Picture, find_pictures
from skygen.generation.plan import Plan
from skygen.generation.prompt_sources import count_pictures, read_pair_prompts
from skygen.generation.prompts import Prompt, PromptSettings, read_prompts
from skygen.generation.sampling import draw_samples
from skygen.generation.settings import KEPT, GenerationSettings, SelectionSettings
from skygen.generation.synthetic_card import SetFacts, write_synthetic_card
from skygen.models.device import start_accelerator
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.metadata_fields import MetadataWish
from skygen.models.diffusions.settings import DrawingModelSettings
from skygen.models.judge import Judge, JudgeSettings
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class PromptPairs(PairSettings):
    """Pairs of which prompts are made, in the place of ``--prompts.file``."""

    root: Path | None = None  # type: ignore[assignment]  # checked before it is read
    """Folder of the data set."""


@dataclass(frozen=True)
class Config:
    """Draw synthetic images from prompts."""

    run: RunSettings
    prompts: PromptSettings = field(default_factory=PromptSettings)
    pairs: PromptPairs = field(default_factory=PromptPairs)
    model: DrawingModelSettings = field(default_factory=DrawingModelSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    """Looks at every candidate and has no say in the choice, so that it can tell what the choice gains."""
    metadata: MetadataWish = field(default_factory=MetadataWish)


CONTINUATION = Continuation("plan.json", ("model", "scorer.name", "selection", "judge.name", "metadata", *KEPT))


def main(config: Config) -> None:
    require_scorers(config.scorer)
    if config.prompts.file and config.pairs.root:
        raise ConfigError("--prompts.file and --pairs.root both say what to draw; give one of them.")
    accelerator = start_accelerator()
    models = load_models(config, str(accelerator.device))
    metadata = check_wish(config.metadata, models.diffusion)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        drawing = arrange_drawing(config, models, metadata, run, accelerator)
        drawing.prepare()
        accelerator.wait_for_everyone()
        drawing.draw_share(partial(run.progress, "drawn"))
        if accelerator.is_main_process:
            records = drawing.complete()
            assert models.scorer is not None
            scorer = models.scorer
            del drawing, models  # room for the other scorers
            finish_set(config, scorer, records, run, str(accelerator.device))


def load_models(config: Config, device: str) -> Models:
    """Load what draws, what chooses, and who looks on."""
    diffusion = Diffusion.load(
        config.model.name, adapters=config.model.weigh_adapters(), device=device, dtype=getattr(torch, config.model.dtype)
    )
    judge = Judge.load(config.judge.name, device=device, batch_size=config.judge.batch_size) if config.judge.name else None
    return Models(diffusion, load_scorer(config.scorer, config.scorer.name, device), judge)


def arrange_drawing(config: Config, models: Models, metadata: ImageMetadata, run: Run, accelerator: Accelerator) -> BulkDrawing:
    """Say what is to be drawn, from what, and which part of it by this process."""
    reads_data = config.pairs.root or config.generation.images
    rejects = Rejects(run.path("rejects.jsonl") if accelerator.is_main_process and reads_data else None)
    side = max(config.generation.size(models.diffusion.family))
    prompts = choose_prompts(config, rejects, side)
    origin = describe_origin(models.diffusion, config.model.name)
    weights = {"base": origin["base_fingerprint"], "adapter": origin["adapter_sha256"]}
    beginnings: Sequence[Picture] = ()
    if config.generation.images:
        beginnings = found = find_pictures(config.generation.images, rejects)
        weights["images"] = found.fingerprint()
    wanted = Wanted(prompts, Seeds(config.run.seed), origin, metadata, beginnings)
    candidates = Candidates(models, wanted, config.generation, config.selection)
    at_a_time = max(1, config.generation.batch_size // config.selection.candidates)
    return BulkDrawing(
        Plan(prompts, config.selection.candidates, wanted.seeds, weights),
        run.folder,
        partial(draw_samples, candidates, folder=run.folder / "samples", at_a_time=at_a_time),
        at_a_time,
        side,
        accelerator.process_index,
        accelerator.num_processes,
        candidates.unit,
    )


def finish_set(config: Config, scorer: Scorer, records: Sequence[dict[str, Any]], run: Run, device: str) -> None:
    """Score the finished set, say what the choice among candidates has gained, and write the set's card."""
    samples = run.folder / "samples"
    mean = np.mean([record["skyclip_score"] for record in records])
    logger.info(f"{samples}: {len(records)} pictures, mean SkyCLIP score {mean:.4f}")
    judge, seeds = f"judge:{config.judge.name}" if config.judge.name else "", Seeds(config.run.seed)
    scores = selection_gain(records, extractor=f"skyclip:{scorer.name}", judge=judge, seeds=seeds)
    if config.scorer.also:
        scores += score_pictures(config, scorer, samples, records, device)
    if scores:
        run.write_json("metrics.json", to_metrics(PROTOCOL, scores))
        logger.info(format_table(scores))
    source = config.prompts.file.name if config.prompts.file else f"{config.prompts.made_of} of pairs"
    facts = SetFacts(config.run.name, prompts=source, scores=[asdict(score) for score in scores])
    write_synthetic_card(samples, records, facts)


def choose_prompts(config: Config, rejects: Rejects, side: int) -> list[Prompt]:
    """Return the prompt of each picture, from the file or from the pairs, as many as are asked for."""
    if config.pairs.root:
        prompts = read_pair_prompts(config.pairs.read(rejects), config.prompts, side)
    else:
        prompts = read_prompts(config.prompts)
    return count_pictures(prompts, config.prompts, config.generation.count)


def check_wish(wish: MetadataWish, diffusion: Diffusion) -> ImageMetadata:
    """Return what the model is to be told of how the pictures are as if taken.

    Raises:
        ConfigError: it was not trained to be told that.
    """
    metadata = wish.describe()
    if metadata != UNKNOWN:
        if diffusion.metadata is None:
            raise ConfigError("metadata: this model was trained without it; leave it out, or give another --model.adapter.")
        diffusion.metadata.require(metadata)
    return metadata


def score_pictures(config: Config, scorer: Scorer, folder: Path, records: Sequence[dict[str, Any]], device: str) -> list[Score]:
    """Score the finished pictures by the scorer that chose among the candidates, and by those that did not."""
    if config.selection.candidates > 1:
        logger.info(f"skyclip:{scorer.name} chose among {config.selection.candidates} candidates, and scores what it chose")
    scores: list[Score] = []
    if config.pairs.root:
        names = name_data_set(config.pairs.root, config.pairs.csv)
    else:
        names = name_data_set(config.prompts.file.parent, config.prompts.file) if config.prompts.file else ()
    for name in list_scorers(config.scorer):
        judge = scorer if name == config.scorer.name else load_scorer(config.scorer, name, device)
        log_training(judge, names)
        pictures, prompts = [folder / record["file_name"] for record in records], [record["text"] for record in records]
        scores += skyclip_scores(
            judge, pictures, prompts, model=records[0]["model"], subset="prompts", seeds=Seeds(config.run.seed)
        )
    return scores


if __name__ == "__main__":
    launch(main, Config)
