"""Images -> captions.

    accelerate launch recipes/caption.py --run.name try --images path/to/folder --model.adapter runs/my-captioner/adapter

``runs/<name>/captions.jsonl`` holds a line an image: ``file_name`` and ``text``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from accelerate.utils import gather_object

from skygen.data.images import list_images, open_readable
from skygen.data.rejects import Rejects
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.device import start_accelerator
from skygen.models.weights import ModelSettings
from skygen.runs import Run, RunSettings, launch


@dataclass(frozen=True)
class Config:
    """Write captions for images."""

    run: RunSettings
    images: Path
    """An image, or a folder of them (folders inside it are read too)."""
    model: ModelSettings = field(default_factory=ModelSettings)
    captioning: CaptioningSettings = field(default_factory=CaptioningSettings)
    max_bad_fraction: float = 0.01
    """Largest share of images that may be unreadable."""


def main(config: Config) -> None:
    accelerator = start_accelerator()
    captioner = Captioner.load(config.model.name, config.model.adapter, device=str(accelerator.device))
    with Run(config.run, config, is_main=accelerator.is_main_process) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        paths = list_images(config.images)
        own = paths[accelerator.process_index :: accelerator.num_processes]
        lines = []
        for start in range(0, len(own), config.captioning.batch_size):
            chunk = own[start : start + config.captioning.batch_size]
            read = open_readable([(path.name, path) for path in chunk], rejects)
            captions = captioner.caption([image for _, image in read], config.captioning)
            lines += [{"file_name": str(chunk[index]), "text": text} for (index, _), text in zip(read, captions, strict=True)]
            run.progress("captioned", start + len(chunk), len(own))
        rejects.check(len(paths), config.max_bad_fraction)
        run.write_lines("captions.jsonl", sorted(gather_object(lines), key=lambda line: line["file_name"]))


if __name__ == "__main__":
    launch(main, Config)
