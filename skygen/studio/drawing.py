"""Pictures drawn while somebody looks on: previews, every candidate with its score, and the base from the same seed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from PIL import Image

from skygen.data.image_metadata import UNKNOWN
from skygen.generation.choice import best_candidate
from skygen.generation.provenance import save_synthetic
from skygen.generation.settings import describe_settings
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.sampling import SamplingSettings
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds
from skygen.studio.pictures import Drawing, Progress, Request
from skygen.studio.watching import Stopped, Watch

PREVIEWS_DECODED: Final = 10
"""Of each picture at most: on a CPU each takes about as long as a step of the smallest models."""
TOGETHER_ON_A_GPU: Final = 4
"""Pictures that are drawn together there, if they have one candidate each."""


@final
@dataclass(frozen=True, slots=True)
class Painter:
    """Draws what is requested.

    Args:
        diffusion: draws.
        scorer: scores, and so chooses.
        origin: noted of every picture, as ``skygen.generation.origin.describe_origin`` has it.
        folder: gets the pictures.
    """

    diffusion: Diffusion
    scorer: Scorer
    origin: Mapping[str, Any]
    folder: Path

    def draw(self, request: Request, tell: Callable[[Progress], None], stop: threading.Event) -> None:
        """Draw pictures.

        Args:
            request: what.
            tell: gets the progress, four times a second at most, and whenever pictures are finished.
            stop: ends the drawing at the next step where it is set.

        Raises:
            ConfigError: the model cannot be asked for that.
        """
        settings = request.settings(self.diffusion)
        is_exact = self.diffusion.network.device.type == "cpu"
        at_a_time = 1 if is_exact else max(1, TOGETHER_ON_A_GPU // request.candidates)
        watch = Watch(tell, stop, request, at_a_time)
        seeds = Seeds(int(request.seed or 0))
        for start in range(0, request.count, at_a_time):
            indices = range(start, min(start + at_a_time, request.count))
            every = [[seeds.derive("image", index, number) for number in range(request.candidates)] for index in indices]
            images = self._sample(request, settings, [seed for own in every for seed in own], watch)
            if images is None:
                return
            finished = [
                self._choose(request, settings, index, own, images[place * len(own) : (place + 1) * len(own)])
                for place, (index, own) in enumerate(zip(indices, every, strict=True))
            ]
            if request.beside_base:
                without = replace(settings, lora_scale=0.0)
                bases = self._sample(request, without, [drawing.seed for drawing in finished], watch)
                if bases is None:
                    watch.finish(finished)
                    return
                finished = [
                    replace(drawing, base=self._save_base(request, without, index, drawing, image))
                    for index, drawing, image in zip(indices, finished, bases, strict=True)
                ]
            watch.finish(finished)

    def _sample(
        self, request: Request, settings: SamplingSettings, seeds: Sequence[int], watch: Watch
    ) -> list[Image.Image] | None:
        """Draw images; None where it was stopped."""
        try:
            watch.begin()
            return self.diffusion.sample(
                [request.prompt] * len(seeds),
                seeds,
                settings=settings,
                metadata=[UNKNOWN] * len(seeds) if self.diffusion.metadata is not None else (),
                on_step=watch.on_step,
                on_preview=watch.on_preview,
                preview_every=max(1, math.ceil(request.steps / PREVIEWS_DECODED)),
            )
        except Stopped:
            return None

    def _choose(
        self,
        request: Request,
        settings: SamplingSettings,
        index: int,
        seeds: Sequence[int],
        images: Sequence[Image.Image],
    ) -> Drawing:
        """Score and save the candidates of a picture; the best of them is the picture."""
        scores = [float(self.scorer.similarity([image], [request.prompt])[0]) for image in images]
        saved = []
        for number, (image, seed) in enumerate(zip(images, seeds, strict=True)):
            scored = {"skyclip_score": scores[number], "candidate": number, "candidate_scores": scores}
            path = self.folder / f"{index:06d}-{number}.png"
            save_synthetic(image, path, _record(request, settings, index, seed, scored, self.origin))
            saved.append(Drawing(path, scores[number], seed))
        best = best_candidate(scores)
        ranked = sorted(range(len(saved)), key=lambda number: (-scores[number], number))
        return replace(saved[best], candidates=tuple(saved[number] for number in ranked))

    def _save_base(
        self, request: Request, settings: SamplingSettings, index: int, beside: Drawing, image: Image.Image
    ) -> Drawing:
        score = float(self.scorer.similarity([image], [request.prompt])[0])
        path = self.folder / f"{index:06d}-base.png"
        origin = {name: "" if name.startswith("adapter") else value for name, value in self.origin.items()}
        origin |= {"model": "base"} if "model" in origin else {}
        record = _record(request, settings, index, beside.seed, {"skyclip_score": score}, origin)
        save_synthetic(image, path, record)
        return Drawing(path, score, beside.seed)


def _record(
    request: Request,
    settings: SamplingSettings,
    index: int,
    seed: int,
    scored: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe a picture under the names that ``skygen.generation.choice`` uses."""
    sides = {"width": settings.width, "height": settings.height}
    return {
        "text": request.prompt,
        "index": index,
        "seed": seed,
        **scored,
        **describe_settings(settings),
        **{name: side for name, side in sides.items() if side is not None},
        "synthetic": True,
        **origin,
    }
