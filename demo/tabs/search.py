"""Looking for images: by words or by a picture."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr

from demo.tabs.parts import COMPUTING, add_examples, add_gallery, add_picture, explaining, show_found, take_upload
from skygen.data.images import open_image
from skygen.studio import limits
from skygen.studio.studio import TILES, Studio

FOUND: Final = 12
GIVEN: Final = (
    "Searched are tiles of the miniature's world, drawn by rules. Start the page with `--studio.images DIR`, a folder of "
    "images or a run of recipes/score_pairs.py that has kept its embeddings, to search your own."
)


def add_searching(studio: Studio) -> None:
    """Add the tab.

    Args:
        studio: has the images.
    """
    names = studio.collections
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            among = gr.Radio(list(names), value=names[0], label="Searched", visible=len(names) > 1)
            text = gr.Textbox(
                label="What to look for", max_length=limits.LONGEST_PROMPT, placeholder="a satellite image of a harbour"
            )
            add_examples(text, ["a harbour with boats", "a green river", "a baseball field"], "For example")
            by_text = gr.Button("Search by words", variant="primary")
            picture = add_picture("Or a picture to find others like it", 220)
            by_picture = gr.Button("Search by picture")
            count = gr.Slider(1, limits.MOST_FOUND, FOUND, step=1, label="Images")
        with gr.Column(scale=3, min_width=320):
            gallery = add_gallery("Nearest first, with the cosine")
            gr.Markdown(GIVEN if names == (TILES,) else "The first search of a folder embeds its images; later ones are quick.")

    def find_text(name: str, written: str, number: int) -> Any:
        with explaining():
            return show_found(studio.find(name, written, number))

    def find_picture(name: str, upload: dict[str, Any] | None, number: int) -> Any:
        path = take_upload(upload)
        with explaining():
            return show_found(studio.nearest(name, open_image(path), number))

    usual: dict[str, Any] = {"api_visibility": "private", **COMPUTING}
    gr.on([by_text.click, text.submit], find_text, [among, text, count], gallery, **usual)
    by_picture.click(find_picture, [among, picture, count], gallery, preprocess=False, **usual)
