"""A page on which the captioner, the generator and SkyCLIP can be tried, on this machine only.

python demo/app.py
python demo/app.py --diffusion.adapter runs/quickstart/diffusion/adapter --captioner.adapter runs/quickstart/captioner/adapter
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.studio import GUIDANCE, LARGEST_SEED, LONGEST_PROMPT, MOST_CANDIDATES, MOST_PICTURES, MOST_STEPS, Config, Studio
from skygen.errors import SkygenError
from skygen.runs import launch, logger

TITLE = "# skygen\nCaptions and synthetic images for remote sensing, judged by SkyCLIP."
NOTICE = (
    "**Synthetic images.** A model drew them; they show no real place and prove nothing about one. Each PNG says so in its "
    "metadata, with the prompt, the seed and the model that it follows from."
)
SCORE = "The SkyCLIP score is the cosine of picture and text, -1 to 1"
BEST = "*Best of* draws so many for each picture and keeps the one with the highest score."
WAITING_AT_MOST = 16
LARGEST_UPLOAD = "10mb"
CSS = ".gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important }"
# gradio 6.31 brings this font along, so nothing is fetched; its file of weight 600 lacks the Latin letters
FONTS = (gr.themes.GoogleFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")


def build(studio: Studio) -> gr.Blocks:
    """Build the page; nothing is loaded, and nothing is served.

    Args:
        studio: does what the page's buttons ask for.
    """
    # `delete_cache`: hourly, what is older than an hour; one id, so that only one thing computes at a time
    with gr.Blocks(title="skygen", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(TITLE)
        with gr.Tab("Words to pictures"):
            _add_drawing(studio)
        with gr.Tab("Picture to words"):
            _add_describing(studio)
    return page.queue(max_size=WAITING_AT_MOST, default_concurrency_limit=1, api_open=False)


def _add_drawing(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(scale=2):
            prompt = gr.Textbox(label="What is to be seen", lines=3, max_length=LONGEST_PROMPT, autofocus=True)
            with gr.Row():
                count = gr.Slider(1, MOST_PICTURES, 4, step=1, label="Pictures")
                candidates = gr.Slider(1, MOST_CANDIDATES, 1, step=1, label="Best of")
            with gr.Row():
                steps = gr.Slider(1, MOST_STEPS, 20, step=1, label="Steps")
                guidance = gr.Slider(*GUIDANCE, 5.0, step=0.5, label="Guidance")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
            with gr.Row():
                draw_button = gr.Button("Draw", variant="primary", scale=3)
                stop_button = gr.Button("Stop", scale=1)
        with gr.Column(scale=3):
            gallery = gr.Gallery(label="Synthetic images", format="png", columns=4, object_fit="contain", interactive=False)
            gr.Markdown(f"{NOTICE}\n\n{SCORE}; compare pictures of one text only. {BEST}")
    prompts = studio.example_prompts()
    labels = [text.partition(": ")[2] for text in prompts]
    gr.Examples(prompts, prompt, example_labels=labels, label="Prompts such as the miniature has learned")

    def draw(
        text: str, seed: int | None, steps: int, guidance: float, count: int, candidates: int
    ) -> Iterator[list[tuple[str, str]]]:
        try:
            for drawings in studio.draw(text, seed=seed, steps=steps, guidance=guidance, count=count, candidates=candidates):
                yield [(str(drawing.path), f"SkyCLIP {drawing.score:.3f}") for drawing in drawings]
        except SkygenError as error:
            raise gr.Error(str(error), print_exception=False) from error

    event = gr.on(
        [draw_button.click, prompt.submit],
        draw,
        [prompt, seed, steps, guidance, count, candidates],
        gallery,
        api_name="draw",
        concurrency_id="models",
        trigger_mode="once",
    )
    stop_button.click(None, cancels=[event], api_visibility="private")


def _add_describing(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(scale=2):
            picture = gr.Image(label="Overhead picture", type="filepath", sources=["upload", "clipboard"], height=300)
            button = gr.Button("Describe", variant="primary")
        with gr.Column(scale=3):
            caption = gr.Textbox(label="Caption", lines=3, interactive=False)
            score = gr.Textbox(label="SkyCLIP score", interactive=False)
            gr.Markdown(f"{SCORE}; compare captions of one picture only.")
    gr.Examples(
        [str(path) for path in studio.example_pictures()],
        picture,
        label="Tiles drawn by rules, such as the miniature has learned",
    )

    def describe(upload: dict[str, Any] | None) -> tuple[str, str]:
        if not upload or not upload["path"]:
            raise gr.Error("Choose a picture first.", print_exception=False)
        try:
            description = studio.describe(Path(upload["path"]))
        except SkygenError as error:
            raise gr.Error(f"This picture cannot be read: {error}.", print_exception=False) from error
        return description.caption, f"{description.score:.3f}"

    button.click(
        describe,
        picture,
        [caption, score],
        preprocess=False,  # of an upload, only the path: skygen's own decoder is the first that opens the file
        api_name="describe",
        concurrency_id="models",
        trigger_mode="once",
    )


def serving(config: Config) -> dict[str, Any]:
    """Return what the page is served with: to this machine, without sharing, monitoring, or words of foreign errors."""
    return {
        "server_name": config.server.host,
        "server_port": config.server.port,
        "quiet": True,
        "share": False,
        "show_error": False,
        "max_file_size": LARGEST_UPLOAD,
        "strict_cors": True,
        "enable_monitoring": False,
        "run_history": False,
        "mcp_server": False,
        "pwa": False,
        "ssr_mode": False,
        "state_session_capacity": 256,
        "footer_links": ["settings"],
        "app_kwargs": {"docs_url": None, "redoc_url": None, "openapi_url": None},
        "theme": gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS),
        "css": CSS,
    }


def main(config: Config) -> None:
    """Open the page and serve it until it is interrupted or asked to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: the folder goes with the page
    with tempfile.TemporaryDirectory(prefix="skygen-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads too go with the page
        page = build(Studio(config, Path(folder)))
        logger.info(f"The demo: http://{config.server.host}:{config.server.port} (Ctrl-C ends it)")
        page.launch(**serving(config))


if __name__ == "__main__":
    launch(main, Config)
