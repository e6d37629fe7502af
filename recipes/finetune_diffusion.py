"""Pairs -> a LoRA of a Stable Diffusion: 1.x, 2.x, XL, 3 or 3.5.

    accelerate launch recipes/finetune_diffusion.py recipes/configs/finetune_diffusion/miniature.yaml
    accelerate launch recipes/finetune_diffusion.py CONFIG.yaml --features.root features --images.center_crop true
    accelerate launch recipes/finetune_diffusion.py CONFIG.yaml --model.adapter runs/first/adapter

The same command again continues the run. ``runs/<name>/adapter`` loads with ``pipeline.load_lora_weights``.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from accelerate import Accelerator

from skygen.checkpoints import Checkpoints
from skygen.config import to_tree
from skygen.data.framing import ImageSettings
from skygen.data.images import read_sizes
from skygen.data.ledger import Account, account
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.environment import describe_environment
from skygen.errors import ConfigError
from skygen.evaluation.export_check import check_export
from skygen.evaluation.model_card import DIFFUSION, WHOLE_DIFFUSION, CardFacts, write_card
from skygen.evaluation.validation.diffusion_validation import DiffusionValidation, ValidationSettings, choose_held_out
from skygen.evaluation.validation.record import last_scores
from skygen.models.adapters import Trained
from skygen.models.device import start_accelerator
from skygen.models.diffusion import Diffusion, DiffusionLoraSettings, DiffusionModelSettings, DiffusionSettings
from skygen.models.diffusions.frozen import LatentEncoder, PromptEncoder
from skygen.models.diffusions.metadata_fields import MetadataSettings, count_known
from skygen.models.diffusions.metadata_record import require_untold
from skygen.models.diffusions.preflight import IMAGES, check_autoencoder, choose_images, largest_size, probe_update
from skygen.models.scorer import Scorer, require
from skygen.models.weights import locate
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds
from skygen.training.feature_cache import FeatureCacheSettings, build_features
from skygen.training.loop import Trainer
from skygen.training.prompt_cache import build_prompts
from skygen.training.settings import TrainSettings
from skygen.training.sharding import is_sharded, shard_frozen

MEASURED = 20_000
"""Up to so many images are measured for the ledger where nothing else needs their sizes: about five seconds."""


@dataclass(frozen=True)
class Config:
    """Fine-tune a text-to-image model on pairs."""

    run: RunSettings
    pairs: PairSettings
    model: DiffusionModelSettings = field(default_factory=DiffusionModelSettings)
    lora: DiffusionLoraSettings = field(default_factory=DiffusionLoraSettings)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    captions: CaptionSettings = field(default_factory=lambda: CaptionSettings(dropout=0.1))
    features: FeatureCacheSettings = field(default_factory=lambda: FeatureCacheSettings(dtype="float16"))
    train: TrainSettings = field(default_factory=TrainSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model", "lora", "diffusion", "metadata"))


def main(config: Config) -> None:
    if config.validation.steps and config.validation.scorer:
        require(config.validation.scorer)
    if config.metadata.fields and config.lora.rank == 0:
        raise ConfigError(
            "--lora.rank 0 leaves a whole model behind, which is loaded without what --metadata.fields has taught it: set a "
            "rank, or leave the fields out."
        )
    locate(config.model.name, "stable_diffusion", "model_index.json")
    accelerator = start_accelerator(config.train.mixed_precision)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)  # before any weights: a wrong list is said within seconds
        device = str(accelerator.device)
        diffusion = Diffusion.of(config.model, device=device, objective=config.diffusion, with_adapter=False)
        trained = attach(diffusion, pairs, config, seeds)
        stream = open_stream(diffusion, pairs, config, rejects, accelerator, run)
        look_ahead(diffusion, trained, stream, config, accelerator, run)
        shard(diffusion, trained, config, accelerator)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        trainer = Trainer(diffusion, trained.parameters, stream, config.train, accelerator, checkpoints, run.stop)
        validation = choose_validation(stream, config, accelerator, run) if accelerator.is_main_process else None
        if config.model.compile:
            diffusion.compile()
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            validates = step.due(config.validation.steps)
            if validates or step.due(config.train.checkpointing_steps):
                trainer.save()
            if validates and validation is not None:
                with trainer.averaged():
                    validation.run(diffusion, run, step.step)
        trainer.adopt_average()
        if accelerator.is_main_process:
            export(trained, diffusion, pairs, config, run, account_for(stream, config))


def attach(diffusion: Diffusion, pairs: PairList, config: Config, seeds: Seeds) -> Trained:
    """Make the denoiser trainable, and what tells it of an image's metadata; go on from an adapter where one is named."""
    trained = diffusion.attach(config.lora, seeds, base=config.model.name, metadata=config.metadata)
    if diffusion.metadata is not None:
        diffusion.metadata.statistics = count_known(pairs, config.metadata)
    if config.model.adapter:
        if diffusion.metadata is None:
            require_untold(config.model.adapter)
        trained.start_from(config.model.adapter, config.model.name)
    return trained


def look_ahead(
    diffusion: Diffusion, trained: Trained, stream: PairStream, config: Config, accelerator: Accelerator, run: Run
) -> None:
    """See that the autoencoder keeps what is in the images, and on a GPU that the largest update fits."""
    kept, on_gpu = config.features.root is not None, accelerator.device.type != "cpu"
    images = choose_images(stream, IMAGES if on_gpu else 2)
    found = check_autoencoder(diffusion, images, nullcontext if kept else accelerator.autocast)
    run.write_json("autoencoder.json", found.record())
    logger.info(found.summary())
    if on_gpu:
        size, batch_size = largest_size(stream.images), config.train.train_batch_size
        parameters = trained.parameters.values()
        probe_update(diffusion, parameters, size, batch_size, kept=kept, autocast=accelerator.autocast)


def shard(diffusion: Diffusion, trained: Trained, config: Config, accelerator: Accelerator) -> None:
    """Divide the frozen denoiser among the processes where the launch file says FSDP."""
    if shard_frozen(diffusion.network, trained.parameters.values(), accelerator) and config.validation.steps:
        raise ConfigError(
            "--validation.steps: a denoiser that is divided among processes can only be called by all of them together; set it "
            "to 0, and draw with recipes/generate.py afterwards."
        )


def open_stream(
    diffusion: Diffusion, pairs: PairList, config: Config, rejects: Rejects, accelerator: Accelerator, run: Run
) -> PairStream:
    """Open the stream of examples, over kept latents and prompts where the settings ask for them."""
    images = config.images.for_model(diffusion.resolution, diffusion.size_step)
    stream = PairStream(pairs, images, config.captions, Seeds(config.run.seed), rejects)
    if config.features.root is not None:
        keep_features(diffusion, stream, config, accelerator, run)
    elif images.aspect_buckets or len(pairs) <= MEASURED:
        stream.sizes = read_sizes(pairs, rejects, partial(run.progress, "measured"))
    return stream


def keep_features(diffusion: Diffusion, stream: PairStream, config: Config, accelerator: Accelerator, run: Run) -> None:
    """Run the frozen autoencoder once over all images, and the frozen text encoders once over all texts."""
    processes = {
        "process_index": accelerator.process_index,
        "processes": accelerator.num_processes,
        "wait": accelerator.wait_for_everyone,
    }
    features = build_features(
        LatentEncoder(diffusion.family),
        stream.pairs,
        stream.images,
        config.features,
        stream.rejects,
        device=accelerator.device,
        only_upright=stream.only_upright(),
        workers=config.train.dataloader_num_workers,
        progress=partial(run.progress, "latents"),
        **processes,
    )
    stream.features, stream.sizes = features, features.sizes
    if not config.lora.text_encoders:
        encoder = PromptEncoder(diffusion.family)
        progress = partial(run.progress, "prompts")
        diffusion.prompts = build_prompts(encoder, stream.texts(), config.features, progress=progress, **processes)
        diffusion.offload_text_encoders()


def choose_validation(stream: PairStream, config: Config, accelerator: Accelerator, run: Run) -> DiffusionValidation | None:
    """Read what the run is validated on; None where it is not. A bad held-out image is none of the training's bad rows."""
    settings = config.validation
    if not settings.steps:
        return None
    rejects = Rejects(run.path("validation", "rejects.jsonl"))
    held_out = choose_held_out(settings, config.pairs, stream.pairs, stream.images, config.captions, rejects)
    scorer = Scorer.load(settings.scorer, device=str(accelerator.device)) if settings.scorer else None
    return DiffusionValidation(held_out, settings, stream.seeds, rejects, scorer, accelerator.autocast)


def account_for(stream: PairStream, config: Config) -> Account:
    """Say what became of every row."""
    return account(stream.pairs, stream.rejects, settings=config.pairs, images=stream.images, sizes=stream.sizes)


def export(trained: Trained, diffusion: Diffusion, pairs: PairList, config: Config, run: Run, ledger: Account) -> None:
    """Save what was trained, draw with it as a user will, and write its card."""
    folder = run.path(trained.folder_name)
    trained.save(folder)
    if not is_sharded(diffusion.network):
        seeds, resolution = Seeds(config.run.seed), config.images.resolution or None
        check_export(diffusion, folder, config.model.name, seeds=seeds, resolution=resolution)
    run.write_json("ledger.json", ledger.record())
    step, scores = last_scores(run.folder)
    facts = CardFacts(
        title=config.run.name,
        base=config.model.name,
        config=to_tree(config),
        data={"fingerprint": pairs.fingerprint(), "pairs": ledger.summary().removeprefix("pairs: ")},
        environment=describe_environment(),
        step=step or config.train.max_train_steps,
        scores=scores,
    )
    write_card(folder, facts, DIFFUSION if config.lora.rank else WHOLE_DIFFUSION)


if __name__ == "__main__":
    launch(main, Config)
