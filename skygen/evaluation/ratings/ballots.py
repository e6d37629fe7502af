"""What people are asked to rate: questions from the folders of runs, and which of them a rater gets, in which order.

A question is about one item: a prompt with the picture of each model, or an image with the caption of each. It shows two of
these side by side (``pair``) or one alone (``five``). The models are for the record; whoever shows a question shows none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, final

from skygen.errors import ConfigError, DataError, StorageError
from skygen.evaluation.captions.trials import HUMAN
from skygen.evaluation.reports.records import CaptionedImage, RunRecord, parse_captions, parse_pictures
from skygen.evaluation.reports.report import open_runs
from skygen.seeding import Seeds

Kind = Literal["pair", "five"]
Subject = Literal["pictures", "captions"]

REAL: Final = "real"
"""The model of real images; they are the data set's, whichever run names them."""
OF_NO_RUN: Final = (REAL, HUMAN)
TRIVIAL: Final = ("shuffled", "constant", "class_mode")
"""Captions that look at no image: nobody's time is spent on them unless they are asked for by name."""
FILES: Final[dict[Subject, str]] = {"pictures": "pictures.jsonl", "captions": "captions.jsonl"}
ENDS: Final[dict[Subject, tuple[str, str]]] = {
    "pictures": ("does not show it", "shows exactly it"),
    "captions": ("does not fit", "fits exactly"),
}
"""What 1 and 5 mean."""


@dataclass(frozen=True)
class BallotSettings:
    """Which questions, and how many."""

    kinds: tuple[Kind, ...] = ("pair", "five")
    """pair: which of two; five: one alone, from 1 to 5. They are asked in this order."""
    questions: int = 60
    """Questions for each rater, at most."""
    shared: int = 30
    """How many of these everybody is asked, first of all: agreement can be measured on them alone."""
    models: tuple[str, ...] = ()
    """Only these, such as tuned or run-name/tuned; all but the trivial captions when left out."""
    seed: int = 0
    """Which questions, their order and their sides follow from it."""


@final
@dataclass(frozen=True, slots=True)
class Item:
    """What several models were asked for, and what they made of it.

    Args:
        subject: whether they made pictures or captions.
        key: the same for the same prompt and seed, or the same image, in every run.
        words: the prompt; empty for captions.
        image: the image that was captioned; None for pictures.
        made: by model, the file of the picture or the text of the caption.
    """

    subject: Subject
    key: str
    words: str
    image: Path | None
    made: Mapping[str, Path | str]


@final
@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask.

    Args:
        id: follows from what is shown, whatever the seed or the other runs: a second answer can replace the first.
        kind: ``pair`` or ``five``.
        item: that is asked about.
        models: two, or one.
        runs: the runs that these are of, each with the fingerprint of its list.
    """

    id: str
    kind: Kind
    item: Item
    models: tuple[str, ...]
    runs: Mapping[str, str]


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A question as one rater sees it: its models in the order in which they are shown, from left to right."""

    question: Question
    models: tuple[str, ...]

    @property
    def made(self) -> tuple[Path | str, ...]:
        """What is shown, from left to right: files of pictures, or captions."""
        return tuple(self.question.item.made[model] for model in self.models)


@final
@dataclass(frozen=True, slots=True)
class Ballot:
    """The questions of one rater, in their order."""

    rater: str
    asked: tuple[Asked, ...]


@final
@dataclass(frozen=True)
class Questionnaire:
    """All questions that could be asked, and how ballots are made of them.

    Args:
        questions: in an order that follows from what the runs hold.
        settings: which and how many a rater gets.
        missing: questions left out because an image is not there.
        equal: pairs left out because both models made the same.
        notes: what else could not be read, in words.
    """

    questions: tuple[Question, ...]
    settings: BallotSettings
    missing: int
    equal: int
    notes: tuple[str, ...]

    def ballot(self, rater: str) -> Ballot:
        """Choose and order the questions of a rater; the same rater gets the same ballot again.

        The shared ones come first, so that a rater who stops halfway has answered what others have. Of both parts, one kind
        comes after the other, and all that is compared is asked about equally often.

        Args:
            rater: name, as ``store.check_rater`` returns it.
        """
        seeds, settings = Seeds(self.settings.seed), self.settings
        dealt = _deal(self.questions, seeds.numpy("shared questions"))
        everybody = dealt[: min(settings.shared, settings.questions)]
        own = _deal(dealt[len(everybody) :], seeds.numpy("own questions", rater))[: settings.questions - len(everybody)]
        order = seeds.numpy("order of questions", rater)
        asked = []
        for part in (everybody, own):
            mixed = [part[place] for place in order.permutation(len(part))]
            asked += sorted(mixed, key=lambda question: settings.kinds.index(question.kind))
        return Ballot(rater, tuple(_lay_out(question, rater, seeds) for question in asked))


def read_questionnaire(runs: Sequence[Path], settings: BallotSettings | None = None) -> Questionnaire:
    """Read what can be asked about the runs of ``evaluate_images`` and ``evaluate_captions``.

    A model is called ``run/model``; real images and people's captions belong to no run. What two runs made of one prompt and
    seed, or of one image, is compared. A question whose image is missing, and a pair of which both are the same, are left
    out and counted.

    Args:
        runs: folders of runs, with ``pictures.jsonl``, ``captions.jsonl`` or both.
        settings: which questions, and how many.

    Raises:
        ConfigError: a setting is out of its bounds, or names a model that no run has.
        DataError: a folder is not there or has neither file, or nothing is left to ask.
    """
    settings = settings or BallotSettings()
    _check(settings)
    drafts, fingerprints, notes = _Drafts(), {}, []
    for record in sorted(open_runs(runs), key=lambda record: record.name):
        fingerprints[record.name] = _read_run(record, drafts)
        notes += [f"{record.name}: {note}" for note in record.notes]
    chosen = drafts.choose(settings.models)
    questions, missing, equal = [], 0, 0
    for (subject, key), draft in sorted(drafts.items.items()):
        item = draft.item(subject, key)
        for kind, models in _combine([model for model in draft.made if model in chosen], settings.kinds):
            if (subject == "captions" and item.image is None) or any(model not in item.made for model in models):
                missing += 1
            elif kind == "pair" and item.made[models[0]] == item.made[models[1]]:
                equal += 1
            else:
                questions.append(_ask(kind, item, {model: drafts.names[model] for model in models}, fingerprints))
    if not questions:
        raise DataError(
            f"{', '.join(map(str, runs))}: nothing can be asked; {missing} questions lack an image and in {equal} pairs both "
            "are the same. Look where the images are, or give other runs."
        )
    return Questionnaire(tuple(questions), settings, missing, equal, tuple(notes))


@dataclass
class _Draft:
    """An item while the runs are read; None stands for a picture that is not there."""

    words: str = ""
    image: Path | None = None
    made: dict[str, Path | str | None] = field(default_factory=dict)

    def item(self, subject: Subject, key: str) -> Item:
        made = {model: self.made[model] for model in sorted(self.made)}
        return Item(subject, key, self.words, self.image, {model: one for model, one in made.items() if one is not None})


@dataclass
class _Drafts:
    """All items while the runs are read, and the names of the models: in full, and as their run calls them."""

    items: dict[tuple[Subject, str], _Draft] = field(default_factory=dict)
    names: dict[str, tuple[str, str]] = field(default_factory=dict)

    def at(self, subject: Subject, key: str) -> _Draft:
        return self.items.setdefault((subject, key), _Draft())

    def add(self, draft: _Draft, run: str, model: str, made: Path | str | None) -> None:
        """Note what a model made, unless it has been noted: of real images, in another run."""
        run = "" if model in OF_NO_RUN else run
        name = f"{run}/{model}" if run else model
        self.names[name] = run, model
        if draft.made.get(name) is None:
            draft.made[name] = made

    def choose(self, wanted: Sequence[str]) -> set[str]:
        """Choose models by their names, in full or as their run calls them."""
        if not wanted:
            return {name for name, (_, model) in self.names.items() if model not in TRIVIAL}
        if unknown := [one for one in wanted if not any(one in (name, model) for name, (_, model) in self.names.items())]:
            raise ConfigError(f"No run has a model {unknown[0]!r}; there are {', '.join(sorted(self.names))}.")
        return {name for name, (_, model) in self.names.items() if name in wanted or model in wanted}


def _read_run(record: RunRecord, drafts: _Drafts) -> dict[Subject, str]:
    """Add what a run has made, and return the fingerprints of its lists."""
    fingerprints: dict[Subject, str] = {}
    for subject, name in FILES.items():
        try:
            if (record.folder / name).is_file():
                fingerprints[subject] = sha256((record.folder / name).read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise StorageError(f"{record.folder / name}: cannot be read ({error.strerror}); look at the file.") from error
    if not fingerprints:
        raise DataError(
            f"{record.folder}: has neither {' nor '.join(FILES.values())}; give runs of recipes/evaluate_images.py or "
            "recipes/evaluate_captions.py."
        )
    for row in record.read_rows(FILES["pictures"], parse_pictures):
        draft = drafts.at("pictures", json.dumps([row.prompt, row.seed], ensure_ascii=False))
        draft.words = row.prompt
        for model, path in row.images.items():
            drafts.add(draft, record.name, model, record.find_image(path))
    for key, told in record.read_rows(FILES["captions"], _parse_keyed):
        draft = drafts.at("captions", key)
        draft.image = draft.image or record.find_image(told.image)
        people = {HUMAN: told.references[0]} if told.references else {}
        for model, caption in (told.captions | people).items():
            drafts.add(draft, record.name, model, caption.strip())
    return fingerprints


def _parse_keyed(row: dict[str, Any]) -> tuple[str, CaptionedImage]:
    told = parse_captions(row)
    return str(row.get("key") or told.image), told


def _combine(models: Sequence[str], kinds: Sequence[Kind]) -> Iterator[tuple[Kind, tuple[str, ...]]]:
    for kind in kinds:
        for some in combinations(sorted(models), 2 if kind == "pair" else 1):
            yield kind, some


def _ask(
    kind: Kind, item: Item, models: Mapping[str, tuple[str, str]], fingerprints: Mapping[str, Mapping[Subject, str]]
) -> Question:
    runs = {run: fingerprints[run][item.subject] for run, _ in models.values() if run}
    # by fingerprint, not by the run's name, which depends on the folders that are given together
    sides = sorted([runs.get(run, ""), model] for run, model in models.values())
    digest = sha256(json.dumps([kind, item.subject, item.key, sides]).encode())
    return Question(digest.hexdigest()[:16], kind, item, tuple(models), runs)


def _deal(questions: Sequence[Question], generator: Any) -> list[Question]:
    """Shuffle, then take in turn from those of the same kind and models, so that none of these is asked more than another."""
    taken: Counter[tuple[str, ...]] = Counter()
    ranked = []
    for place in generator.permutation(len(questions)):
        question = questions[place]
        stratum = (question.kind, question.item.subject, *question.models)
        ranked.append((taken[stratum], question))
        taken[stratum] += 1
    return [question for _, question in sorted(ranked, key=lambda pair: pair[0])]


def _lay_out(question: Question, rater: str, seeds: Seeds) -> Asked:
    turned = len(question.models) == 2 and seeds.numpy("side", rater, question.id).integers(2) == 1
    return Asked(question, question.models[::-1] if turned else question.models)


def _check(settings: BallotSettings) -> None:
    if not settings.kinds or len(set(settings.kinds)) < len(settings.kinds):
        raise ConfigError(f"kinds is {' '.join(settings.kinds) or 'empty'}; name pair, five, or each of them once.")
    if settings.questions < 1:
        raise ConfigError(f"questions is {settings.questions}; ask every rater at least 1.")
    if settings.shared < 0:
        raise ConfigError(f"shared is {settings.shared}; give 0 or more, best half of --ballot.questions.")
