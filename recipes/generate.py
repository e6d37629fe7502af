"""Prompts -> synthetic images, scored by SkyCLIP, the best of N kept, each labelled as synthetic.

    accelerate launch recipes/generate.py --run.name try --prompts.file prompts.txt --model.adapter runs/my-lora/adapter
    accelerate launch recipes/generate.py ... --selection.candidates 8 --generation.count 1000

``runs/<name>/samples`` is an imagefolder: ``load_dataset("imagefolder", data_dir=...)`` reads it. The same command again
draws what is missing. With ``--scorer.also NAME``, ``metrics.json`` has the scores of CLIPs that had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.errors import ConfigError
from skygen.evaluation.alignment import skyclip_scores
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.evaluation.scores import Score, format_table, to_metrics
from skygen.generation.prompts import PromptSettings, read_prompts
from skygen.generation.sampling import (
    GenerationSettings,
    SelectionSettings,
    draw_samples,
    samples_to_draw,
    sort_metadata,
)
from skygen.models.device import start_accelerator
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.metadata_fields import MetadataWish
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.models.weights import ModelSettings
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Draw synthetic images from prompts."""

    run: RunSettings
    prompts: PromptSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    metadata: MetadataWish = field(default_factory=MetadataWish)


KEPT_GENERATION = ("generation.num_inference_steps", "generation.guidance_scale", "generation.resolution")
CONTINUATION = Continuation(
    "samples/metadata.jsonl", ("prompts", "model", "scorer.name", "selection", "metadata", *KEPT_GENERATION)
)


def main(config: Config) -> None:
    require_scorers(config.scorer)
    accelerator = start_accelerator()
    device = str(accelerator.device)
    diffusion = Diffusion.load(config.model.name, config.model.adapter, device=device)
    metadata = check_wish(config.metadata, diffusion)
    scorer = load_scorer(config.scorer, config.scorer.name, device)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        prompts = read_prompts(config.prompts)
        count = config.generation.count or len(prompts)
        folder = run.path("samples")
        indices = samples_to_draw(folder, count, accelerator.process_index, accelerator.num_processes)
        origin = {
            "model": "tuned" if config.model.adapter else "base",
            "base": config.model.name,
            "adapter": str(config.model.adapter or ""),
            **({"metadata": metadata._asdict()} if metadata != UNKNOWN else {}),
        }
        samples = draw_samples(
            diffusion,
            scorer,
            prompts,
            indices,
            config.generation,
            config.selection,
            Seeds(config.run.seed),
            folder,
            origin,
            metadata,
        )
        for done, _ in enumerate(samples, start=1):
            run.progress("drawn", done, len(indices))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            records = sort_metadata(folder)
            mean = np.mean([record["skyclip_score"] for record in records])
            logger.info(f"{folder}: {len(records)} pictures, mean SkyCLIP score {mean:.4f}")
            if config.scorer.also:
                del samples, diffusion  # room for the other scorers
                scores = score_pictures(config, scorer, folder, records, device)
                run.write_json("metrics.json", to_metrics("skygen-v1", scores))
                logger.info(format_table(scores))


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
    for name in list_scorers(config.scorer):
        judge = scorer if name == config.scorer.name else load_scorer(config.scorer, name, device)
        log_training(judge, name_data_set(config.prompts.file.parent, config.prompts.file))
        pictures, prompts = [folder / record["file_name"] for record in records], [record["text"] for record in records]
        scores += skyclip_scores(
            judge, pictures, prompts, model=records[0]["model"], subset="prompts", seeds=Seeds(config.run.seed)
        )
    return scores


if __name__ == "__main__":
    launch(main, Config)
