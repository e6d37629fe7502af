"""Prompts -> synthetic images, scored by SkyCLIP, the best of N kept, each labelled as synthetic.

    accelerate launch recipes/generate.py --run.name try --prompts.file prompts.txt --model.adapter runs/my-lora/adapter
    accelerate launch recipes/generate.py ... --selection.candidates 8 --generation.count 1000

``runs/<name>/samples`` is an imagefolder: ``load_dataset("imagefolder", data_dir=...)`` reads it. The same command again
draws what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
from skygen.models.scorer import Scorer, ScorerSettings, require
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


KEPT_GENERATION = ("generation.num_inference_steps", "generation.guidance_scale", "generation.resolution")
CONTINUATION = Continuation("samples/metadata.jsonl", ("prompts", "model", "scorer.name", "selection", *KEPT_GENERATION))


def main(config: Config) -> None:
    require(config.scorer.name)
    accelerator = start_accelerator()
    device = str(accelerator.device)
    diffusion = Diffusion.load(config.model.name, config.model.adapter, device=device)
    scorer = Scorer.load(config.scorer.name, device=device, batch_size=config.scorer.batch_size)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        prompts = read_prompts(config.prompts)
        count = config.generation.count or len(prompts)
        folder = run.path("samples")
        indices = samples_to_draw(folder, count, accelerator.process_index, accelerator.num_processes)
        origin = {
            "model": "tuned" if config.model.adapter else "base",
            "base": config.model.name,
            "adapter": str(config.model.adapter or ""),
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
        )
        for done, _ in enumerate(samples, start=1):
            run.progress("drawn", done, len(indices))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            records = sort_metadata(folder)
            mean = np.mean([record["skyclip_score"] for record in records])
            logger.info(f"{folder}: {len(records)} pictures, mean SkyCLIP score {mean:.4f}")


if __name__ == "__main__":
    launch(main, Config)
