"""How the demo's pages look: gradio's default theme with a contrast of 4.5 to 1 or more, light and dark."""

from __future__ import annotations

from typing import Any, Final

FONT: Final = "IBM Plex Sans"
"""Gradio 6.31 brings it along, so nothing is fetched; its file of weight 600 lacks the Latin letters."""
CSS: Final = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important }
.dark { --color-accent: var(--primary-400) }
.prose table, .prose tr, .prose td, .prose th { border-color: var(--border-color-primary) !important }
.prose table { display: block; width: fit-content; max-width: 100%; padding: 0; border: 0 !important; overflow-x: auto }
.prose td, .prose th { vertical-align: top; min-width: 4em; overflow-wrap: normal !important; word-break: normal !important }
.prose th, .prose td code { white-space: nowrap }
.prose p, .prose li, .prose h1, .prose h2, .prose h3 { overflow-wrap: anywhere }
.html-container { padding: 0 !important }
.empty.large { min-height: 120px !important }
.caption-label { max-width: 100% !important }
footer .divider { display: none }
button:focus-visible, a:focus-visible, [tabindex]:focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px
}
@media (max-width: 640px) { .caption-label { font-size: 10px !important; padding: 1px 4px !important } }
"""
"""Wide tables scroll by themselves, and the page never sideways."""


def make_theme() -> Any:
    """Return gradio's default theme in teal and slate.

    The theme's own white on teal, and its pale grey of hints and explanations, have a contrast of 2.5 to 1.
    """
    import gradio as gr

    fonts = (gr.themes.GoogleFont(FONT, weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=fonts).set(
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_border_color="*primary_700",
        button_primary_border_color_dark="*primary_700",
        button_primary_border_color_hover="*primary_800",
        button_primary_border_color_hover_dark="*primary_800",
    )
