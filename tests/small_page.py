"""A page with one of each component, served as the demo's are but without models, so that it is there in seconds."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script; demo/ is not installed

from demo import serving
from skygen.data.images import open_image
from skygen.errors import SkygenError

LONGEST = 300


def build(folder: Path) -> gr.Blocks:
    """Build the page: what it draws follows from the words and the seed, what it describes is the size."""

    def draw(text: str, seed: float | None, steps: float, guidance: float, dark: bool) -> str:
        if not text or len(text) > LONGEST:
            raise gr.Error(f"Write 1 to {LONGEST} characters.", print_exception=False)
        if seed is None:
            raise gr.Error("Choose a seed.", print_exception=False)
        colour = tuple(hashlib.sha256(f"{text}{seed}{steps}{guidance}{dark}".encode()).digest()[:3])
        path = folder / f"{seed}.png"
        Image.new("RGB", (32, 32), colour).save(path)
        return str(path)

    def describe(upload: dict[str, Any] | None) -> str:
        if not upload or not upload["path"]:
            raise gr.Error("Choose a picture first.", print_exception=False)
        try:
            image = open_image(Path(upload["path"]))
        except SkygenError as error:
            raise gr.Error(f"This picture cannot be read: {error}.", print_exception=False) from error
        return f"{image.width} x {image.height}"

    def stumble() -> str:
        raise RuntimeError(f"what nobody foresaw, in {__file__}")

    with gr.Blocks(title="small", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        text, seed = gr.Textbox(label="Prompt"), gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
        steps, guidance = gr.Slider(1, 100, 20, step=1, label="Steps"), gr.Slider(1, 15, 5.0, label="Guidance")
        dark, drawn = gr.Checkbox(label="Dark"), gr.Image(format="png", interactive=False)
        picture, words = gr.Image(type="filepath", label="Picture"), gr.Textbox(interactive=False)
        gr.Button("Draw").click(draw, [text, seed, steps, guidance, dark], drawn, api_name="draw")
        gr.Button("Describe").click(describe, picture, words, api_name="describe", preprocess=False)
        gr.Button("Stumble").click(stumble, None, words, api_name="stumble")
        gr.Button("Hidden").click(stumble, None, words, api_name="hidden", api_visibility="private")
    return page.queue(max_size=16, default_concurrency_limit=1, api_open=False)


def main(settings: serving.ServerSettings) -> None:
    """Serve the page until it is asked to end."""
    with serving.opening(settings) as folder:
        serving.serve(build(folder), settings, folder)


if __name__ == "__main__":
    main(tyro.cli(serving.ServerSettings))
