"""What the rating page can do, without the page: the questions of each rater, what is seen of them, and the answers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, final

from PIL import Image

from skygen.data.images import fit_image, open_image, read_size
from skygen.errors import ImageError
from skygen.evaluation.ratings.ballots import Asked, Ballot, Item, Questionnaire
from skygen.evaluation.ratings.store import RatingStore, check_rater, rate
from skygen.runs import logger

LARGEST_SIDE: Final = 1024
"""Pixels of an image as it is sent; of a larger one nobody would see more."""
SMALL_SIDE: Final = 768
"""An image that fits into this square twice is enlarged pixel by pixel."""


@final
@dataclass(frozen=True, slots=True)
class Sitting:
    """One rater at work; it never leaves the server.

    Args:
        ballot: the rater's questions.
        place: of the question that is shown; behind the last one when all is done.
        answered: ids of the questions that have an answer.
        broken: ids of those that cannot be shown.
    """

    ballot: Ballot
    place: int
    answered: frozenset[str]
    broken: frozenset[str] = frozenset()

    def onward(self) -> Sitting:
        """Go to the next question without an answer."""
        done = self.answered | self.broken
        later = range(self.place, len(self.ballot.asked))
        following = (place for place in later if self.ballot.asked[place].question.id not in done)
        return replace(self, place=next(following, len(self.ballot.asked)))

    def back(self) -> Sitting:
        """Go to the question before, to answer it again; stay where there is none."""
        earlier = range(self.place - 1, -1, -1)
        before = (place for place in earlier if self.ballot.asked[place].question.id not in self.broken)
        return replace(self, place=next(before, self.place))


@final
@dataclass(frozen=True, slots=True)
class View:
    """What a rater sees of a question: nothing in it tells a model.

    Args:
        asked: the question, for the wording alone.
        images: two pictures, one, or the image that was captioned.
        captions: two, one, or none.
    """

    asked: Asked
    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class RatingRoom:
    """What the page can do, without the page.

    Args:
        questionnaire: what is asked.
        store: where the answers go.
    """

    questionnaire: Questionnaire
    store: RatingStore

    def begin(self, name: str) -> Sitting:
        """Give a rater the ballot that goes with the name, at the first question without an answer.

        Raises:
            ConfigError: the name is no name.
            StorageError: the earlier answers cannot be read.
        """
        rater = check_rater(name)
        return Sitting(self.questionnaire.ballot(rater), 0, self.store.answered(rater)).onward()

    def answer(self, sitting: Sitting, place: int, answer: str | int) -> Sitting:
        """Keep an answer, and go on.

        Args:
            sitting: of the rater.
            place: of the question that the rater saw; a second click that comes too late changes nothing.
            answer: one of ``store.ANSWERS``.

        Raises:
            ConfigError: that is no answer.
            StorageError: it cannot be kept.
        """
        if place != sitting.place or place >= len(sitting.ballot.asked):
            return sitting
        asked = sitting.ballot.asked[place]
        self.store.add(rate(asked, sitting.ballot.rater, answer))
        return replace(sitting, answered=sitting.answered | {asked.question.id}).onward()

    def view(self, sitting: Sitting) -> tuple[Sitting, View | None]:
        """Make what is to be seen; a question whose image cannot be read is passed over.

        Returns:
            The sitting, further on where questions were passed over, and None where there is no question left.
        """
        while sitting.place < len(sitting.ballot.asked):
            asked = sitting.ballot.asked[sitting.place]
            try:
                return sitting, _view(asked)
            except ImageError as error:  # told to whoever serves the page: the rater must not see a path
                logger.warning("a question is passed over, %s: %s", error, asked.question.item.key)
                sitting = replace(sitting, broken=sitting.broken | {asked.question.id}).onward()
        return sitting, None


def _view(asked: Asked) -> View:
    item = asked.question.item
    if item.subject == "captions":
        image = open_image(item.image or "")
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        return View(asked, (_enlarge(image),), tuple(map(str, asked.made)))
    # all of one size and shape, or these would tell real from drawn
    side = _common_side(item)
    return View(asked, tuple(_enlarge(fit_image(open_image(path), side)) for path in asked.made), ())


def _common_side(item: Item) -> int:
    """Return the side of the largest square that every picture of an item has."""
    sides = [LARGEST_SIDE]
    for path in item.made.values():
        with suppress(ImageError):  # another model's: its own questions are passed over
            sides.append(min(read_size(path)))
    return min(sides)


def _enlarge(image: Image.Image) -> Image.Image:
    times = SMALL_SIDE // max(image.size)
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST) if times > 1 else image
