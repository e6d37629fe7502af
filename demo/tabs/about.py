"""What is real and what is synthetic, under which terms, with which versions, and where the data lie on Earth."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Final

import gradio as gr
from markupsafe import Markup

from skygen.errors import ConfigError
from skygen.evaluation.reports.audit_maps import AuditedSet, show_audit
from skygen.evaluation.reports.records import RunRecord
from skygen.generation.origin import name_model, read_license
from skygen.studio.studio import Studio

LIBRARIES: Final = ("skygen", "torch", "diffusers", "transformers", "open_clip_torch", "gradio")
REAL: Final = """
### What is real, and what is not

* Pictures of the tab *Generate* are **synthetic**. A model drew them; they show no real place. Their metadata say so (IPTC
  `trainedAlgorithmicMedia`), with prompt, seed, settings and the hashes of the weights.
* Captions are written by a model and may name what is not there. No person has checked them.
* The example pictures and the tiles of the miniature's world are **drawn by rules** from made-up tags. They are no photographs.
* Pictures that you upload stay on the machine that serves this page, and are deleted when it ends.
"""
MINIATURE: Final = (
    "`miniature` is a model of a few million parameters, trained on pictures that a program drew. It shows how everything "
    "works within seconds and without a download; it knows nothing of the real Earth."
)

COLOURS: Final = (
    "--accent: var(--color-accent); --land: var(--border-color-primary); "
    "--line: color-mix(in srgb, var(--body-text-color-subdued) 35%, transparent)"
)
"""Of the map, which is drawn for a page with other names of colours; without them it is black."""
LINE: Final = "display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 6px 0; color: var(--body-text-color-subdued)"
KEY: Final = "display: inline-block; width: 10px; height: 10px; background: var(--accent)"
BORDERS: Final = "Countries and continents follow ISO 3166-1 and UN M49; borders © OpenStreetMap contributors."


def add_about(studio: Studio, audit: Path | None) -> None:
    """Add the tab.

    Args:
        studio: whose models are named.
        audit: folder that ``skygen audit`` has written; None where there is none.

    Raises:
        ConfigError: the folder holds no audit.
    """
    gr.Markdown(REAL)
    gr.Markdown("### Models and terms\n\n" + _describe_models(studio))
    gr.Markdown("### Versions\n\n" + _describe_versions())
    gr.Markdown("### Where the data lie")
    if audit is None:
        gr.Markdown("Start the page with `--audit DIR`, a folder that `skygen audit` has written, to see its map here.")
        return
    section = show_audit(RunRecord(audit, audit.name))
    if section is None:
        raise ConfigError(f"--audit {audit}: holds no audit; give the folder that `skygen audit` has written.")
    for one in section.sets:
        gr.HTML(_draw_map(one))
    gr.Markdown(BORDERS)


def _describe_models(studio: Studio) -> str:
    config = studio.config
    named = [("generator", config.diffusion.name), *(("adapter", str(folder)) for folder, _ in studio.adapters)]
    named += [("captioner", config.captioner.name)]
    named += [("adapter", str(config.captioner.adapter))] if config.captioner.adapter else []
    named += [("scorer", config.scorer.name)]
    lines = ["| part | model | licence |", "|---|---|---|"]
    for part, name in named:
        terms = (
            "that of skygen" if name == "miniature" else read_license(name) or "not told by its card: look before you publish"
        )
        lines.append(f"| {part} | `{name_model(name)}` | {terms} |")
    uses_miniature = "miniature" in (config.diffusion.name, config.captioner.name, config.scorer.name)
    return "\n".join(lines) + (f"\n\n{MINIATURE}" if uses_miniature else "")


def _describe_versions() -> str:
    rows = [f"| {name} | {importlib.metadata.version(name)} |" for name in LIBRARIES]
    return "\n".join(["| library | version |", "|---|---|", *rows])


def _draw_map(one: AuditedSet) -> str:
    key = Markup("").join(
        Markup('<span style="white-space: nowrap"><i style="{}; opacity: {}"></i> {}</span>').format(KEY, opacity, words)
        for opacity, words in one.steps
    )
    facts = Markup("").join(
        Markup('<span style="white-space: nowrap"><b>{}</b> {}</span>').format(value, name) for name, value in one.facts
    )
    steps = Markup("pairs a cell of 2°: {}").format(key) if one.steps else "no pair has a place"
    return str(
        Markup('<div style="{}"><h4>{}</h4>{}<p style="{}">{}</p><p style="{}">{}</p></div>').format(
            COLOURS, one.name, one.map, LINE, steps, LINE, facts
        )
    )
