"""Words to pictures: previews while they are drawn, candidates ranked, and the base beside the tuned model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import gradio as gr

from demo.tabs.parts import COMPUTING, SCORE, add_examples, add_gallery, explaining
from skygen.errors import ConfigError
from skygen.studio import limits
from skygen.studio.pictures import Drawing, Progress, Request
from skygen.studio.studio import Studio

NOTICE: Final = (
    "**Synthetic images.** A model drew them; they show no real place and prove nothing about one. Each PNG says so in its "
    "metadata, with the prompt, the seed and the model that it follows from; the download button keeps it as it is."
)
BESIDE: Final = "Beside it is what the base model draws from the same seed; choose another picture to see it there."
BEST: Final = "Of several candidates the one with the highest score is the picture."
OWN: Final = "the model's own"
LONGEST_LABEL: Final = 60
Shown = list[tuple[Any, str]]


class _Parts:
    """The components of the tab, made where they are to be seen."""

    def __init__(self, studio: Studio) -> None:
        tuned = bool(studio.adapters)
        beside = f" {BESIDE}" if tuned else ""
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.prompt = gr.Textbox(
                    label="What is to be seen", lines=3, max_length=limits.LONGEST_PROMPT, autofocus=True,
                    placeholder="An aerial image. It shows: …",
                )  # fmt: skip
                with gr.Row():
                    self.count = gr.Slider(1, limits.MOST_PICTURES, 2, step=1, label="Pictures", min_width=140)
                    self.candidates = gr.Slider(1, limits.MOST_CANDIDATES, 1, step=1, label="Candidates each", min_width=140)
                self.seed = gr.Number(0, label="Seed", precision=0)  # gradio would name no field where it is out of bounds
                with gr.Row():
                    self.draw = gr.Button("Draw", variant="primary", scale=3, min_width=160)
                    self.stop = gr.Button("Stop", scale=1, min_width=80)
                with gr.Accordion("How they are drawn", open=False):
                    self._add_settings(tuned)
                self._add_examples(studio)
            with gr.Column(scale=3, min_width=320):
                self.gallery = add_gallery("Synthetic images")
                self.cut = gr.Markdown(visible=False)
                self.slider = gr.ImageSlider(
                    label="base | tuned", format="png", interactive=False, visible=False, max_height=380
                )
                with gr.Column(visible=False) as self.ranks:
                    self.ranking = add_gallery("All candidates of this picture, the best first", columns=4)
                gr.Markdown(f"{NOTICE}\n\n{SCORE}; compare pictures of one text only. {BEST}{beside}")
        self.drawings = gr.State(())

    def _add_settings(self, tuned: bool) -> None:
        with gr.Row():
            self.steps = gr.Slider(1, limits.MOST_STEPS, 20, step=1, label="Steps", min_width=140)
            self.guidance = gr.Slider(*limits.GUIDANCE, 5.0, step=0.5, label="Guidance", min_width=140)
        with gr.Row():
            self.scheduler = gr.Dropdown(list(limits.SCHEDULERS), value="model", label="Scheduler", min_width=140)
            # no number: an empty one becomes 0 in the browser as soon as it is seen, and 0 is not the model's own
            self.rescale = gr.Dropdown(
                [OWN, "0", "0.3", "0.5", "0.7", "1"],
                value=OWN,
                allow_custom_value=True,
                label="Guidance rescale",
                min_width=140,
            )
        with gr.Row():
            self.width = gr.Number(0, label=f"Width, 0: {OWN}", precision=0, min_width=140)
            self.height = gr.Number(0, label=f"Height, 0: {OWN}", precision=0, min_width=140)
        self.lora_scale = gr.Slider(*limits.LORA_SCALE, 1.0, step=0.05, label="Strength of the adapter", visible=tuned)
        self.beside_base = gr.Checkbox(tuned, label="Draw the base model's picture beside each", visible=tuned)

    def _add_examples(self, studio: Studio) -> None:
        prompts = studio.example_prompts()
        labels = [shorten(text.partition(": ")[2]) for text in prompts]
        add_examples(self.prompt, prompts, labels=labels, label="Prompts such as the miniature has learned")

    def asked(self) -> list[Any]:
        """List what a drawing depends on, in the order of the function's parameters."""
        first = [self.prompt, self.seed, self.steps, self.guidance, self.count, self.candidates]
        return [*first, self.scheduler, self.rescale, self.width, self.height, self.lora_scale, self.beside_base]


def add_generating(studio: Studio) -> None:
    """Add the tab.

    Args:
        studio: draws.
    """
    parts = _Parts(studio)

    def draw(
        text: str,
        seed: int | None = 0,
        steps: int = 20,
        guidance: float = 5.0,
        count: int = 2,
        candidates: int = 1,
        scheduler: str = "model",
        rescale: str = OWN,
        width: int | None = None,
        height: int | None = None,
        lora_scale: float = 1.0,
        beside_base: bool = bool(studio.adapters),
    ) -> Iterator[tuple[Shown, tuple[Drawing, ...]]]:
        with explaining():
            request = Request(
                text, seed, steps, guidance, count, candidates, scheduler, read_rescale(rescale), lora_scale, width, height,
                beside_base,
            )  # fmt: skip
            with closing(studio.watch(request)) as watched:  # ends the drawing where nobody waits for it any longer
                for progress in watched:
                    yield _show(progress), progress.drawings

    def lay_out(drawings: tuple[Drawing, ...], text: str) -> tuple[Any, ...]:
        cut = None
        with explaining():
            cut = studio.find_cut(text) if drawings else None
        words = ""
        if cut is not None:
            words = f"**The prompt is cut at {cut.limit} tokens.** The model has not read its end: “{escape(cut.dropped)}”"
        return (*_look_at(drawings, 0), gr.update(value=words, visible=bool(words)))

    def select(drawings: tuple[Drawing, ...], chosen: gr.SelectData) -> tuple[Any, ...]:
        return _look_at(drawings, chosen.index if isinstance(chosen.index, int) else 0)

    event = gr.on(
        [parts.draw.click, parts.prompt.submit],
        draw,
        parts.asked(),
        [parts.gallery, parts.drawings],
        api_name="draw",
        **COMPUTING,
    )
    after = [parts.slider, parts.ranks, parts.ranking]
    event.success(
        lay_out, [parts.drawings, parts.prompt], [*after, parts.cut], api_visibility="private", show_progress="hidden"
    )
    parts.gallery.select(select, parts.drawings, after, api_visibility="private", show_progress="hidden")
    finished: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    stopped = parts.stop.click(_show_finished, parts.drawings, parts.gallery, cancels=[event], **finished)
    # a preview that was on its way may come after this; once more where it can no longer, when the drawing has ended
    stopped.then(_show_finished, parts.drawings, parts.gallery, **finished, **COMPUTING)


def read_rescale(written: str | None) -> float | None:
    """Read the rescale of guidance; None is the model's own.

    Raises:
        ConfigError: it is no number.
    """
    if not written or written == OWN:
        return None
    try:
        return float(written)
    except ValueError:
        raise ConfigError(f"The rescale is {written[:20]!r}; choose 0 to 1, or “{OWN}”.") from None


def _show(progress: Progress) -> Shown:
    """Return finished pictures, and what is to be seen of the next."""
    return [*_show_finished(progress.drawings), *((preview, f"drawing, {progress.done} %") for preview in progress.previews)]


def _show_finished(drawings: tuple[Drawing, ...]) -> Shown:
    return [(str(drawing.path), f"SkyCLIP {drawing.score:.3f}") for drawing in drawings]


def _look_at(drawings: tuple[Drawing, ...], place: int) -> tuple[Any, Any, Any]:
    """Return the base beside a picture, and its candidates; each is hidden where there is nothing to compare."""
    if not 0 <= place < len(drawings):
        return gr.update(visible=False), gr.update(visible=False), []
    drawing = drawings[place]
    beside = gr.update(visible=False)
    if drawing.base is not None:
        scores = f"base {drawing.base.score:.3f} | tuned {drawing.score:.3f}"
        beside = gr.update(value=(str(drawing.base.path), str(drawing.path)), visible=True, label=scores)
    ranked = [(str(one.path), f"{rank}. SkyCLIP {one.score:.3f}") for rank, one in enumerate(drawing.candidates, start=1)]
    return beside, gr.update(visible=len(ranked) > 1), ranked


def shorten(text: str) -> str:
    """Leave out the last clauses of a sentence until gradio shows all of it, up to its 60th letter."""
    while len(text) > LONGEST_LABEL and " and " in text:
        text = text.rpartition(" and ")[0] + "."
    return text


def escape(text: str) -> str:
    """Return what somebody has written so that it is not read as Markdown or HTML."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]()#+-.!|<>~$&" else character for character in text)
