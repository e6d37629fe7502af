"""A page on which people rate pictures and captions without knowing which model made them, on this machine only.

python demo/rating.py runs/scores --folder runs/ratings
python demo/rating.py runs/scores-a runs/scores-b --folder runs/ratings --ballot.questions 40 --ballot.shared 20
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import gradio as gr
import tyro
from tyro.conf import Positional, arg

from demo import serving
from demo.rating_room import RatingRoom, Sitting
from skygen.errors import SkygenError
from skygen.evaluation.ratings.ballots import ENDS, BallotSettings, Questionnaire, read_questionnaire
from skygen.evaluation.ratings.store import ANSWERS, LONGEST_NAME, RatingStore
from skygen.runs import explaining, logger

WELCOME = (
    "## Rate pictures and captions\nYou will see what several models made, without their names. There are no wrong answers "
    "and no hurry. Your name is kept beside your answers: a nickname will do. With the same name you go on where you stopped."
)
THANKS = "## Thank you\nYou have answered {answered} of {total} questions; all answers are kept. You can close this page."
HEADINGS: Final = {
    ("pictures", "pair"): "### Which picture shows this better?",
    ("pictures", "five"): "### How well does the picture show this?",
    ("captions", "pair"): "### Which caption describes the image better?",
    ("captions", "five"): "### How well does the caption describe the image?",
}
WORDS: Final = {"left": "Left", "same": "No difference", "right": "Right"}
IMAGE_HEIGHT: Final = 380
"""Pixels; so that on a laptop's screen the buttons are seen without scrolling."""
AT_ONCE: Final = 8
"""Answers that are taken at the same time."""


@dataclass(frozen=True)
class Config:
    """Let people rate what runs have made."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN …]")]
    """Folders of runs of recipes/evaluate_images.py and recipes/evaluate_captions.py."""
    folder: Path = Path("runs/ratings")
    """Gets ratings.jsonl; `skygen rate` sums it up."""
    ballot: BallotSettings = field(default_factory=BallotSettings)
    server: serving.ServerSettings = field(default_factory=serving.ServerSettings)


class _Parts:
    """The components of the page, made where they are to be seen."""

    def __init__(self) -> None:
        self.sitting = gr.State()
        self.place = gr.Number(visible=False, precision=0)  # what the browser shows, to know a late click by
        with gr.Column(elem_id="rating-welcome") as self.welcome:
            gr.Markdown(WELCOME)
            self.name = gr.Textbox(label="Your name", max_length=LONGEST_NAME, autofocus=True)
            self.begin = gr.Button("Begin", variant="primary")
        with gr.Column(visible=False) as self.question:
            self.progress = gr.HTML()
            self.heading = gr.Markdown()
            self.prompt = gr.Textbox(show_label=False, container=False, interactive=False, lines=1)
            with gr.Row():
                self.images = [_image(), _image()]
            with gr.Row():
                self.captions = [gr.Textbox(interactive=False, lines=1, label=WORDS[side]) for side in ("left", "right")]
            with gr.Row() as self.pair:
                chosen = [(answer, gr.Button(words, variant="primary", min_width=90)) for answer, words in WORDS.items()]
            with gr.Row() as self.five:
                graded = [(answer, gr.Button(str(answer), variant="primary")) for answer in ANSWERS["five"]]
            self.answers: list[tuple[str | int, Any]] = [*chosen, *graded]
            self.ends = graded[0][1], graded[-1][1]
            with gr.Row():
                self.back = gr.Button("Back", size="sm", scale=0, min_width=120)
        with gr.Column(visible=False) as self.thanks:
            self.thank_you = gr.Markdown()

    def everything(self) -> list[Any]:
        """List what an answer may change."""
        columns = [self.welcome, self.question, self.thanks, self.pair, self.five]
        words = [self.progress, self.heading, self.prompt, self.thank_you, *self.captions]
        return [self.sitting, self.place, *columns, *words, *self.images, *self.ends, self.back]


def _image() -> Any:
    return gr.Image(format="png", type="pil", interactive=False, height=IMAGE_HEIGHT, buttons=["fullscreen"])


def add_rating(rating_room: RatingRoom) -> None:
    """Add the page's components, inside a running ``gr.Blocks``, a ``gr.Tab`` of one, or alone.

    Args:
        rating_room: does what the buttons ask for.
    """
    parts = _Parts()

    def begin(name: str) -> dict[Any, Any]:
        return _told(lambda: _show(parts, rating_room, rating_room.begin(name)))

    def back(sitting: Sitting) -> dict[Any, Any]:
        return _told(lambda: _show(parts, rating_room, sitting.back()))

    def answering(answer: str | int) -> Callable[[Sitting, int], dict[Any, Any]]:
        def choose(sitting: Sitting, place: int) -> dict[Any, Any]:
            return _told(lambda: _show(parts, rating_room, rating_room.answer(sitting, int(place), answer)))

        return choose

    usual: dict[str, Any] = {
        "outputs": parts.everything(),
        "api_visibility": "private",
        "concurrency_id": "ratings",
        "concurrency_limit": AT_ONCE,
        "trigger_mode": "once",
        "show_progress": "hidden",
    }
    gr.on([parts.begin.click, parts.name.submit], begin, parts.name, **usual)
    parts.back.click(back, parts.sitting, **usual)
    for answer, button in parts.answers:
        button.click(answering(answer), [parts.sitting, parts.place], **usual)


def _told(do: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
    try:
        return do()
    except SkygenError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _show(parts: _Parts, room: RatingRoom, sitting: Sitting) -> dict[Any, Any]:
    """Lay the question of a sitting out on the page, or thank the rater."""
    sitting, view = room.view(sitting)
    total, common = len(sitting.ballot.asked), {parts.sitting: sitting, parts.place: sitting.place}
    common[parts.welcome] = gr.update(visible=False)
    common[parts.question], common[parts.thanks] = gr.update(visible=view is not None), gr.update(visible=view is None)
    if view is None:
        answered = sum(asked.question.id in sitting.answered for asked in sitting.ballot.asked)
        return common | {parts.thank_you: THANKS.format(answered=answered, total=total)}
    item, kind = view.asked.question.item, view.asked.question.kind
    low, high = ENDS[item.subject]
    seen: dict[Any, Any] = {
        parts.progress: _progress(sitting.place, total),
        parts.heading: HEADINGS[item.subject, kind],
        parts.prompt: gr.update(value=item.words, visible=item.subject == "pictures"),
        parts.pair: gr.update(visible=kind == "pair"),
        parts.five: gr.update(visible=kind == "five"),
        parts.ends[0]: gr.update(value=f"1 · {low}"),
        parts.ends[1]: gr.update(value=f"5 · {high}"),
        parts.back: gr.update(interactive=sitting.back().place != sitting.place),
    }
    for one, image, label in zip(parts.images, (*view.images, None)[:2], ("Left", "Right"), strict=True):
        alone = len(view.images) == 1
        words = ("Image" if view.captions else "Picture") if alone else label
        seen[one] = gr.update(value=image, visible=image is not None, label=words)
    for one, caption, label in zip(parts.captions, (*view.captions, None, None)[:2], ("Left", "Right"), strict=True):
        words = label if len(view.captions) == 2 else "Caption"
        seen[one] = gr.update(value=caption or "", visible=caption is not None, label=words)
    return common | seen


def _progress(place: int, total: int) -> str:
    done = f'<div style="width: {100 * place / total:.1f}%; height: 6px; background: var(--primary-500)"></div>'
    return f'<div>Question {place + 1} of {total}</div><div style="background: var(--border-color-primary)">{done}</div>'


def build(rating_room: RatingRoom) -> gr.Blocks:
    """Build a page with nothing but the rating; nothing is served."""
    with gr.Blocks(title="skygen: rate", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        add_rating(rating_room)
    return page.queue(max_size=4 * AT_ONCE, api_open=False)


def main(config: Config) -> None:
    """Open the page and serve it until it is interrupted or asked to end."""
    serving.check(config.server)
    questionnaire = read_questionnaire(config.runs, config.ballot)
    for note in (*questionnaire.notes, *_describe(questionnaire)):
        logger.info(note)
    with serving.opening(config.server) as folder:
        page = build(RatingRoom(questionnaire, RatingStore(config.folder)))
        logger.info(f"The page: {serving.address(config.server)} (Ctrl-C ends it)")
        serving.serve(page, config.server, folder)


def _describe(questionnaire: Questionnaire) -> list[str]:
    asked = min(questionnaire.settings.questions, len(questionnaire.questions))
    lines = [f"{len(questionnaire.questions):,} questions, {asked:,} for each rater"]
    if questionnaire.missing:
        lines.append(f"{questionnaire.missing:,} questions are left out: an image is missing")
    if questionnaire.equal:
        lines.append(f"{questionnaire.equal:,} pairs are left out: both models made the same")
    return lines


if __name__ == "__main__":
    with explaining("interrupted."):
        main(tyro.cli(Config))
