"""Pictures to words: candidates ranked by SkyCLIP, how far they agree, and many pictures at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.tabs.parts import COMPUTING, SCORE, add_examples, add_picture, explaining, show_cosines, take_upload
from skygen.studio import limits
from skygen.studio.describing import Description
from skygen.studio.studio import CANDIDATES, Studio

WAITING = "Choose a picture, or one of the examples, and press *Describe*."


def add_captioning(studio: Studio) -> None:
    """Add the tab.

    Args:
        studio: describes.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = add_picture()
            examples = [str(path) for path in studio.example_pictures()]
            add_examples(picture, examples, "Tiles drawn by rules, such as the miniature has learned")
            candidates = gr.Slider(1, limits.MOST_CANDIDATES, CANDIDATES, step=1, label="Candidates")
            button = gr.Button("Describe", variant="primary")
        with gr.Column(scale=3, min_width=320):
            caption = gr.Textbox(label="Caption", lines=3, interactive=False, buttons=["copy"])
            score = gr.Textbox(label="SkyCLIP score", interactive=False)
            agreement = gr.Markdown(WAITING)
            ranking = gr.HTML()
            gr.Markdown(f"{SCORE}; compare captions of one picture only.")
    described = gr.State()

    def describe(upload: dict[str, Any] | None, candidates: int = CANDIDATES) -> tuple[str, str, Description]:
        path = take_upload(upload)
        with explaining():
            found = studio.describe(path, candidates)
        return found.caption, f"{found.score:.3f}", found

    def lay_out(found: Description | None) -> tuple[str, str]:
        if found is None:
            return WAITING, ""
        return _describe_agreement(found), show_cosines([(one.text, one.score) for one in found.candidates])

    button.click(
        describe,
        [picture, candidates],
        [caption, score, described],
        preprocess=False,  # of an upload, only the path: skygen's own decoder is the first that opens the file
        api_name="describe",
        show_progress_on=[caption],
        **COMPUTING,
    ).success(lay_out, described, [agreement, ranking], api_visibility="private", show_progress="hidden")
    with gr.Accordion("Many pictures at once", open=False):
        _add_many(studio, candidates)


def _add_many(studio: Studio, candidates: gr.Slider) -> None:
    files = gr.File(label=f"Pictures, {limits.MOST_IMAGES} at most", file_count="multiple", type="filepath", height=140)
    with gr.Row():
        button = gr.Button("Describe all", variant="primary", min_width=160)
        stop = gr.Button("Stop", min_width=80)
    table = gr.Dataframe(
        headers=["picture", "caption", "SkyCLIP", "agreement"], datatype=["str", "str", "str", "str"], interactive=False,
        wrap=True, visible=False, column_widths=["22%", "50%", "14%", "14%"],
    )  # fmt: skip

    def describe_all(uploads: list[str] | None, candidates: int) -> Iterator[Any]:
        if not uploads:
            raise gr.Error("Choose some pictures first.", print_exception=False)
        rows: list[list[str]] = []
        with explaining():
            for upload, found in zip(uploads, studio.describe_all([Path(path) for path in uploads], candidates), strict=True):
                name = Path(upload).name
                if isinstance(found, Description):
                    share = "" if found.agreement is None else f"{found.agreement:.2f}"
                    rows.append([name, found.caption, f"{found.score:.3f}", share])
                else:
                    rows.append([name, f"cannot be read: {found.reason}", "", ""])
                yield gr.update(value=rows, visible=True)

    event = button.click(describe_all, [files, candidates], table, api_visibility="private", **COMPUTING)
    stop.click(None, cancels=[event], api_visibility="private")


def _describe_agreement(found: Description) -> str:
    if found.agreement is None:
        return "One candidate was written; with several they are ranked here."
    return (
        f"**Agreement of the candidates: {found.agreement:.2f}.** It is the share of words that two of them have in common, "
        "on average; 1 is the same words. Where it is low, the captioner is unsure."
    )
