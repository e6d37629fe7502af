"""One picture against words: texts ranked, classes as bars, and the nearest images."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr
from PIL import Image

from demo.tabs.parts import (
    COMPUTING,
    SCORE,
    add_examples,
    add_gallery,
    add_picture,
    explaining,
    hide_paths,
    show_bars,
    show_cosines,
    show_empty,
    show_found,
    take_upload,
)
from skygen.data.images import open_image
from skygen.errors import SkygenError
from skygen.studio import limits
from skygen.studio.studio import Studio

CLASSES_SHOWN: Final = 8
NEAREST_SHOWN: Final = 4
WAITING: Final = "Choose a picture and press Score."


def add_scoring(studio: Studio) -> None:
    """Add the tab.

    Args:
        studio: scores.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = add_picture()
            add_examples(picture, [str(path) for path in studio.example_pictures()], "Tiles drawn by rules")
            texts = gr.Textbox(
                label=f"Texts, one a line, {limits.MOST_TEXTS} at most", lines=4, max_length=limits.MOST_TEXTS * 301,
                placeholder="a satellite image of a harbour\na satellite image of a river",
            )  # fmt: skip
            classes = gr.Textbox(
                label=f"Classes, one a line; empty: {len(studio.classes)} of the studio", lines=2,
                max_length=limits.MOST_CLASSES * 81,
                placeholder=f"{studio.classes[0]}\n…",
            )  # fmt: skip
            button = gr.Button("Score", variant="primary")
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### Texts")
            ranked = gr.HTML(show_empty(WAITING))
            gr.Markdown("### Classes")
            likely = gr.HTML(show_empty(WAITING))
            galleries = [add_gallery(f"Nearest: {name}", columns=4) for name in studio.collections]
            gr.Markdown(f"{SCORE}. The shares of classes sum to 1 over those asked, whatever is seen.")

    def score(upload: dict[str, Any] | None, written: str, named: str) -> tuple[str, str]:
        path = take_upload(upload)
        with explaining():
            lines = limits.check_lines("texts", written, limits.MOST_TEXTS, limits.LONGEST_PROMPT)
            names = limits.check_lines("classes", named, limits.MOST_CLASSES, limits.LONGEST_CLASS_NAME)
            found = studio.rank_texts(path, lines) if lines else ()
            sorted_ = studio.rank_classes(path, names)[:CLASSES_SHOWN]
        cosines = show_cosines([(one.text, one.score) for one in found]) or show_empty("Write texts to rank, one a line.")
        shares = show_bars([(one.name, f"{100 * one.probability:.1f} %", one.probability) for one in sorted_])
        return cosines, shares

    def find_nearest(upload: dict[str, Any] | None) -> Any:
        path = take_upload(upload)
        with explaining():
            near = _find_nearest(studio, open_image(path))
        return near if len(near) > 1 else near[0]

    button.click(
        score,
        [picture, texts, classes],
        [ranked, likely],
        preprocess=False,  # see demo.tabs.caption
        show_progress_on=[ranked],
        api_visibility="private",
        **COMPUTING,
    ).success(find_nearest, picture, galleries, preprocess=False, api_visibility="private", **COMPUTING)


def _find_nearest(studio: Studio, image: Image.Image) -> list[list[tuple[Any, str]]]:
    """Return what is nearest in each collection; one that cannot be searched is told, and the others are shown."""
    near: list[list[tuple[Any, str]]] = []
    for name in studio.collections:
        try:
            near.append(show_found(studio.nearest(name, image, NEAREST_SHOWN)))
        except SkygenError as error:
            gr.Warning(hide_paths(str(error)))
            near.append([])
    return near
