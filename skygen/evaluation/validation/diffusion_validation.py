"""How a text-to-image model does while it is trained: its loss on held-out pairs, what it draws, and how good that is.

Everything follows from fixed seeds, so that two steps of a run differ by the model alone, and the model without its LoRA stands
beside it. Nothing here changes the training, and no failure here ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Float
from PIL import Image

from skygen.data.framing import frame
from skygen.data.image_metadata import UNKNOWN, ImageMetadata, describe_image
from skygen.data.images import open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.errors import ImageError, Preempted, SkygenError
from skygen.evaluation.validation.grid import GridRow, draw_grid, read_noted, save_noted
from skygen.evaluation.validation.held_out import HeldOut as HeldOut
from skygen.evaluation.validation.held_out import ValidationSettings as ValidationSettings
from skygen.evaluation.validation.held_out import choose_held_out as choose_held_out
from skygen.evaluation.validation.loss import ValidationItem, compute_losses, encode_items, plain_square, quartile_of
from skygen.evaluation.validation.record import FOLDER, SCORES, drop_later
from skygen.evaluation.validation.scores import score_losses, score_pictures
from skygen.evaluation.validation.undisturbed import as_base, is_adapted, undisturbed
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import Scorer
from skygen.runs import Run
from skygen.seeding import Seeds

_LOG = logging.getLogger("skygen")


@dataclass(slots=True)
class _Kept:
    """What is the same at every validation, once it is computed."""

    items: list[ValidationItem] = field(default_factory=list)
    base_losses: Float[np.ndarray, " items"] | None = None
    real: list[Image.Image | None] = field(default_factory=list)
    metadata: list[ImageMetadata] = field(default_factory=list)
    base: list[Image.Image] | None = None


@final
class DiffusionValidation:
    """Validates a text-to-image model while it is trained.

    Args:
        held_out: from ``choose_held_out``.
        settings: what is measured and drawn.
        seeds: of the run.
        rejects: where unreadable images are noted.
        scorer: the CLIP of ``settings.scorer``; None leaves the scores of the pictures out.
        autocast: the precision that the loss is computed in, that of the training. Pictures are drawn as ``generate`` draws.
    """

    def __init__(
        self,
        held_out: HeldOut,
        settings: ValidationSettings,
        seeds: Seeds,
        rejects: Rejects,
        scorer: Scorer | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._held_out = held_out
        self._settings = settings
        self._seeds = seeds
        self._rejects = rejects
        self._scorer = scorer
        self._autocast = autocast
        self._kept = _Kept()
        self._begun = False

    def run(self, diffusion: Diffusion, run: Run, step: int) -> None:
        """Validate the model as it stands; to be called on the main process alone, after the state is saved.

        ``validation/scores.jsonl`` gets a line, ``validation/grid-step-NNNNNN.png`` is drawn. The first call drops what an
        earlier process wrote after the checkpoint that this one continues from. A failure, such as too little memory, is
        said in one sentence and noted in that line. Random states, modes and parameters are as before afterwards.

        Args:
            diffusion: the model, with the values that are to be exported.
            run: gets the files.
            step: updates done.
        """
        record: dict[str, Any] = {
            "step": step,
            "subset": self._held_out.subset,
            "trained_on": self._held_out.trained_on,
        }
        failure = ""
        try:
            if not self._begun:
                drop_later(run, step)
                self._begun = True
            with undisturbed(diffusion.pipeline):
                self._measure(diffusion, run, record)
        except Preempted:
            raise
        except Exception as error:
            failure = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if failure:
            _LOG.warning(f"step {step}: the validation failed, and the training goes on: {failure}.")
            record["failed"] = failure
            _free_memory(diffusion)
        try:
            run.append(SCORES, record)
        except SkygenError as error:
            _LOG.warning(f"step {step}: the validation is not recorded, and the training goes on: {error}")

    def _measure(self, diffusion: Diffusion, run: Run, record: dict[str, Any]) -> None:
        """Fill the record, the loss first, so that pictures that need too much memory do not take it along."""
        settings, kept, subset = self._settings, self._kept, self._held_out.subset
        adapted = is_adapted(diffusion.pipeline)
        losses = self._compute_losses(diffusion, adapted=adapted)
        quartiles = quartile_of([item.index for item in kept.items], self._seeds)
        scores = score_losses(losses, quartiles, subset=subset, seeds=self._seeds)
        record |= {"loss": scores[0].value, "scores": [asdict(score) for score in scores], "left_out": []}
        if not adapted:
            record["left_out"].append("base: the whole model is trained, and no base is kept beside it")
        scored = settings.images if self._scorer is not None else 0
        captions = self._held_out.prompts[: max(scored, 0 if settings.prompts else settings.grid)]
        prompts = (*captions, *settings.prompts)
        if not kept.real:
            shown = [*map(self._open, self._held_out.pairs[: len(captions)]), *[(None, UNKNOWN)] * len(settings.prompts)]
            kept.real, kept.metadata = [image for image, _ in shown], [metadata for _, metadata in shown]
        drawn = {"tuned": self._draw(diffusion, prompts)}
        if adapted:
            if kept.base is None:
                with as_base(diffusion):
                    kept.base = self._draw(diffusion, prompts, run)
            drawn["base"] = kept.base
        grid = slice(len(captions), None) if settings.prompts else slice(settings.grid)
        columns: dict[str, Sequence[Image.Image | None]] = {"real": kept.real}
        columns |= {name: drawn[name] for name in ("base", "tuned") if name in drawn}
        self._write_grid(run, record["step"], prompts[grid], {name: column[grid] for name, column in columns.items()})
        if self._scorer is not None and captions[:scored]:
            captions = captions[:scored]
            count = len(captions)
            own = {model: pictures[:count] for model, pictures in drawn.items()}
            scores, left_out = score_pictures(self._scorer, captions, own, kept.real[:count], subset=subset, seeds=self._seeds)
            record["scores"] += [asdict(score) for score in scores]
            record["left_out"] += left_out

    def _compute_losses(self, diffusion: Diffusion, *, adapted: bool) -> dict[str, Float[np.ndarray, " items"]]:
        held_out, kept, settings = self._held_out, self._kept, self._settings
        if not kept.items:
            kept.items = encode_items(
                diffusion,
                held_out.pairs[: settings.pairs],
                held_out.prompts[: settings.pairs],
                held_out.images,
                self._seeds,
                self._rejects,
            )

        def compute() -> Float[np.ndarray, " items"]:
            return compute_losses(diffusion, kept.items, self._seeds, batch_size=settings.batch_size, autocast=self._autocast)

        losses = {"tuned": compute()}
        if adapted:
            if kept.base_losses is None:
                with as_base(diffusion):
                    kept.base_losses = compute()
            losses["base"] = kept.base_losses
        return losses

    def _open(self, pair: Pair) -> tuple[Image.Image | None, ImageMetadata]:
        """Show the part of an image that the loss is computed on, None where it cannot be read; and how it was taken."""
        try:
            image = open_image(pair.image)
        except ImageError as error:
            self._rejects.add(pair.key, str(error), where=str(pair.image))
            return None, describe_image(pair)
        framing = frame(image.size, plain_square(self._held_out.images))
        return framing.apply(image), describe_image(pair, framing.scale)

    def _draw(self, diffusion: Diffusion, prompts: Sequence[str], run: Run | None = None) -> list[Image.Image]:
        """Draw a picture a prompt, each from a seed of its own; in ``run``, those drawn earlier are read, new ones kept."""
        settings = self._settings
        pictures: dict[int, Image.Image] = {}
        records: list[dict[str, object]] = [
            {
                "prompt": prompt,
                "seed": self._seeds.derive("validation picture", index),
                "num_inference_steps": settings.num_inference_steps,
                "guidance_scale": settings.guidance_scale,
                "resolution": self._held_out.images.resolution,
                "model": "base",
                "metadata": list(self._kept.metadata[index]),
            }
            for index, prompt in enumerate(prompts)
        ]
        paths = [run.path(FOLDER, "base", f"{index:04d}.png") for index in range(len(prompts))] if run else []
        for index, path in enumerate(paths):
            if (picture := read_noted(path, records[index])) is not None:
                pictures[index] = picture
        missing = [index for index in range(len(prompts)) if index not in pictures]
        for start in range(0, len(missing), settings.batch_size):
            chunk = missing[start : start + settings.batch_size]
            new = diffusion.sample(
                [prompts[index] for index in chunk],
                [self._seeds.derive("validation picture", index) for index in chunk],
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                resolution=self._held_out.images.resolution,
                metadata=[self._kept.metadata[index] for index in chunk],
            )
            for index, picture in zip(chunk, new, strict=True):
                pictures[index] = picture
                if run:
                    save_noted(picture, paths[index], records[index])
        return [pictures[index] for index in range(len(prompts))]

    def _write_grid(
        self, run: Run, step: int, prompts: Sequence[str], columns: Mapping[str, Sequence[Image.Image | None]]
    ) -> None:
        if prompts:
            rows = [
                GridRow(prompt, tuple(column[place] for column in columns.values())) for place, prompt in enumerate(prompts)
            ]
            headings = [f"{name}, step {step}" if name == "tuned" else name for name in columns]
            path = run.path(FOLDER, f"grid-step-{step:06d}.png")
            save_noted(draw_grid(rows, headings), path, {"step": step, "prompts": list(prompts)})


def _free_memory(diffusion: Diffusion) -> None:
    """Give back what a failed validation has reserved on a GPU, so that the training finds its room again."""
    import torch

    if next(diffusion.network.parameters()).is_cuda:
        torch.cuda.empty_cache()
