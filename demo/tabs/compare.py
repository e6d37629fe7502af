"""Finished runs side by side: tables of scores, paired differences, and pictures of the same prompts and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gradio as gr
from markupsafe import Markup

from demo.tabs.parts import explaining, hide_paths, show_empty
from skygen.data.exports.markdown import escape
from skygen.studio import limits
from skygen.studio.comparing import MOST_RUNS, Cell, Comparison, compare, compare_items, list_runs

NOTHING: Final = (
    "No finished evaluation yet. Run recipes/evaluate_images.py or recipes/evaluate_captions.py, or `make run`, and press "
    "Look again."
)
TALLEST: Final = 720
"""Pixels of the tables of scores, which scroll: of a run with many metrics they would hide what comes below."""
PROGRESS: Final = gr.Progress()
"""Asks gradio, as the default of a parameter, to show how far a function is."""
CELL: Final = "padding: 6px; vertical-align: top; border: 1px solid var(--border-color-primary)"
WAITING: Final = "Choose one run or several, and press Compare."
UNPAIRED: Final = (
    "No paired differences: they take two models, or two runs of one split, that were scored on the same items. "
    "recipes/evaluate_images.py and recipes/evaluate_captions.py write these to items.jsonl."
)


def add_comparing(root: Path) -> None:
    """Add the tab.

    Args:
        root: folder of the runs.
    """
    names = list(list_runs(root))
    with gr.Row():
        chosen = gr.Dropdown(
            names, value=names[:2], multiselect=True, max_choices=MOST_RUNS, label=f"Runs, {MOST_RUNS} at most", scale=4,
            min_width=240,
        )  # fmt: skip
        with gr.Column(scale=1, min_width=160):
            button = gr.Button("Compare", variant="primary")
            again = gr.Button("Look again", size="sm")
    with gr.Column(visible=False) as scores:
        table = gr.Markdown(max_height=TALLEST)
    with gr.Column(visible=False) as paired:
        differences = gr.Markdown()
    said = gr.HTML(show_empty(WAITING if names else NOTHING))
    grid = gr.HTML()

    def find(wanted: list[str] | None) -> list[Path]:
        found = list_runs(root)
        if not found:
            raise gr.Error("There is no finished evaluation to compare yet.", print_exception=False)
        limits.check_count("runs", wanted or [], MOST_RUNS)
        return [found[limits.check_choice("run", name, list(found))] for name in wanted or []]

    def show(wanted: list[str] | None) -> tuple[Any, Any, Any, str, str]:
        with explaining():
            compared = compare(find(wanted))
        scores, hidden = gr.update(visible=bool(compared.scores)), gr.update(visible=False)
        return scores, compared.scores, hidden, _draw_grid(compared), _say(compared)

    def pair(wanted: list[str] | None, progress: gr.Progress = PROGRESS) -> tuple[Any, str]:
        with explaining():
            found, why = compare_items(find(wanted), lambda done, total: progress((done, total), desc="Paired differences"))
        reasons = "\n".join(f"- {escape(hide_paths(reason))}" for reason in why)
        return gr.update(visible=True), "\n\n".join(filter(None, (found or UNPAIRED, reasons)))

    def look() -> tuple[Any, str]:
        found = list(list_runs(root))
        return gr.update(choices=found, value=found[:2]), show_empty(WAITING if found else NOTHING)

    usual: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "once"}
    shown = button.click(show, chosen, [scores, table, paired, grid, said], **usual)
    # these are resampled, which takes seconds for each two models: the rest need not wait for it
    shown.success(pair, chosen, [paired, differences], show_progress_on=[said], **usual)
    again.click(look, None, [chosen, said], **usual)


def _say(compared: Comparison) -> str:
    lines = []
    if compared.rows:
        lines.append(f"{len(compared.rows)} of {compared.prompts} prompts, evenly spaced and not picked by hand.")
    else:
        lines.append("These runs have no pictures to show.")
    if compared.notes:
        lines.append(f"{compared.notes} files or entries could not be read; `skygen report` says which.")
    return show_empty(" ".join(lines))


def _draw_grid(compared: Comparison) -> str:
    if not compared.rows:
        return ""
    head = Markup("").join(
        Markup('<th style="{}; text-align: left; font-weight: 700; min-width: 104px">{}</th>').format(CELL, name)
        for name in ("prompt", *compared.columns)
    )
    rows = Markup("").join(
        Markup('<tr><td style="{}; min-width: 150px">{}</td>{}</tr>').format(
            CELL, prompt, Markup("").join(_draw_cell(cell) for cell in cells)
        )
        for prompt, cells in compared.rows
    )
    table = Markup('<div style="overflow-x: auto"><table style="border-collapse: collapse"><tr>{}</tr>{}</table></div>')
    return str(table.format(head, rows))


def _draw_cell(cell: Cell | None) -> Markup:
    if cell is None or not cell.picture.uri:
        return Markup('<td style="{}">{}</td>').format(CELL, "not drawn" if cell is None else "missing")
    score = "" if cell.score is None else f"SkyCLIP {cell.score:.3f}"
    style = "width: 128px; max-width: none; display: block; border-radius: 4px" + (
        "; image-rendering: pixelated" if cell.picture.small else ""
    )
    return Markup(
        '<td style="{}"><img src="{}" style="{}" alt="">'
        '<span style="font-size: 0.85em; color: var(--body-text-color-subdued); white-space: nowrap">{}</span></td>'
    ).format(CELL, cell.picture.uri, style, score)
