"""What several tabs need: words for errors, bars, pictures with words beneath, and who may compute at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gradio as gr
from markupsafe import Markup

from skygen.errors import ImageError, SkygenError
from skygen.studio.looking import Found

SCORE: Final = "The SkyCLIP score is the cosine of picture and text, -1 to 1"
COMPUTING: Final[dict[str, Any]] = {"concurrency_id": "models", "trigger_mode": "once"}
"""Of every event that asks a model: one id, so that only one thing computes at a time."""
_PATH = re.compile(r"(?<![\w.])~?/(?:[^\s/:,;()'\"`]+/)+([^\s/:,;()'\"`]+)")
BAR: Final = Markup(
    '<div style="margin: 0 0 10px">'
    '<div style="display: flex; justify-content: space-between; gap: 12px; line-height: 1.35">'
    '<span style="overflow-wrap: anywhere">{label}</span>'
    '<span style="font-variant-numeric: tabular-nums; white-space: nowrap; color: var(--body-text-color-subdued)">{value}'
    '</span></div><div style="height: 6px; border-radius: 3px; margin-top: 4px; background: var(--border-color-primary)">'
    '<div style="width: {percent:.1f}%; height: 6px; border-radius: 3px; background: var(--primary-500)"></div></div></div>'
)
EMPTY: Final = Markup('<p style="color: var(--body-text-color-subdued); margin: 4px 0">{words}</p>')


@contextmanager
def explaining() -> Iterator[None]:
    """Put what skygen can explain into the page's own words, without a path of this machine.

    Raises:
        gr.Error: with the sentence.
    """
    import torch

    try:
        yield
    except ImageError as error:
        raise gr.Error(f"This picture cannot be read: {hide_paths(str(error))}.", print_exception=False) from error
    except SkygenError as error:
        raise gr.Error(hide_paths(str(error)), print_exception=False) from error
    except torch.OutOfMemoryError as error:
        raise gr.Error(
            "The memory of the GPU does not suffice: ask for fewer candidates or smaller pictures.", print_exception=False
        ) from error


def hide_paths(text: str) -> str:
    """Name files and folders by their last part alone."""
    return _PATH.sub(r"\1", text)


def take_upload(upload: dict[str, Any] | None) -> Path:
    """Return where an uploaded picture lies; skygen's own decoder is the first that opens it.

    Args:
        upload: as an event without preprocessing gets it.

    Raises:
        gr.Error: there is none.
    """
    if not upload or not upload.get("path"):
        raise gr.Error("Choose a picture first.", print_exception=False)
    return Path(upload["path"])


def add_picture(label: str = "Overhead picture", height: int = 300) -> gr.Image:
    """Add a field for a picture; events must take it without preprocessing."""
    return gr.Image(label=label, type="filepath", sources=["upload", "clipboard"], height=height)


def show_bars(rows: Sequence[tuple[str, str, float]]) -> str:
    """Return bars as HTML.

    Args:
        rows: label, the value in words, and the length of the bar in [0, 1].
    """
    return str(Markup("").join(BAR.format(label=label, value=value, percent=100 * share) for label, value, share in rows))


def show_cosines(rows: Sequence[tuple[str, float]]) -> str:
    """Return bars of cosines; below 0 there is no bar."""
    return show_bars([(label, f"{cosine:.3f}", min(1.0, max(0.0, cosine))) for label, cosine in rows])


def show_empty(words: str) -> str:
    """Return words that stand where nothing is yet, as HTML."""
    return str(EMPTY.format(words=words))


def show_found(found: Sequence[Found]) -> list[tuple[Any, str]]:
    """Return images that were found as a gallery takes them; those that can no longer be read are left out."""
    return [(one.image, f"{one.cosine:.2f} · {one.caption or _to_words(one.name)}") for one in found if one.image is not None]


def add_examples(field: Any, samples: Sequence[str], label: str, labels: Sequence[str] | None = None) -> None:
    """Add examples that fill a field when they are clicked, by way of the queue: the page is served without any other.

    Args:
        field: a text or a picture.
        samples: texts, or paths of pictures.
        label: above them.
        labels: shown in their place; by default themselves.
    """
    examples = gr.Dataset(
        components=[field], samples=[[sample] for sample in samples], sample_labels=list(labels) if labels else None,
        label=label, type="index",
    )  # fmt: skip

    def fill(place: int) -> str:
        return samples[place]

    examples.click(fill, examples, field, api_visibility="private", show_progress="hidden")


def _to_words(name: str) -> str:
    return Path(name).stem.replace("_", " ")


def add_gallery(label: str, columns: int = 3) -> gr.Gallery:
    """Add a gallery that gives out the files that it is given, byte for byte; its label stands above and covers nothing."""
    gr.Markdown(f"**{label}**")
    return gr.Gallery(
        label=label,
        show_label=False,
        format="png",
        columns=columns,
        object_fit="contain",
        interactive=False,
        height="fit-content",  # by default half of the window, however few pictures there are
        buttons=["download", "fullscreen"],
    )
