"""METEOR and SPICE by the published tools alone: Java programs that the package pycocoevalcap carries.

Nothing here computes either score itself. Where Java, the package or SPICE's language models are missing, a sentence says
which, and the score is left out. Texts are tokenised as for the other scores (``skygen.evaluation.captions.tokens``) and
joined by spaces, which is what coco-caption hands to its tools.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, final

import numpy as np

from skygen.errors import UnavailableError
from skygen.evaluation.captions.coco_caption import CaptionScore
from skygen.evaluation.captions.tokens import tokenize_caption
from skygen.evaluation.captions.trials import Round, Trial
from skygen.evaluation.intervals import bootstrap_interval
from skygen.evaluation.items import ItemScores
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score
from skygen.seeding import Seeds

_LOG = logging.getLogger("skygen")

PACKAGE: Final = "pycocoevalcap"
METEOR_JAR: Final = "meteor-1.5.jar"
SPICE_JAR: Final = "spice-1.0.jar"
SPICE_MODELS: Final = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
METEOR_MEMORY: Final = "-Xmx2G"
SPICE_MEMORY: Final = "-Xmx8G"
SEPARATOR: Final = " ||| "
SECONDS_FOR_SPICE: Final = 6 * 3600
"""SPICE parses some captions a second; a set of 40,000 takes hours, one that hangs is ended."""


@dataclass(frozen=True, slots=True)
class JavaTool:
    """A program of pycocoevalcap that can be started here.

    Args:
        java: the interpreter.
        jar: the program.
    """

    java: str
    jar: Path


def find_meteor() -> JavaTool:
    """Find METEOR 1.5.

    Raises:
        UnavailableError: Java or the package is not here; the sentence says how to get it.
    """
    return _find_tool("meteor", METEOR_JAR)


def find_spice() -> JavaTool:
    """Find SPICE 1.0 with its models, which pycocoevalcap does not carry.

    Raises:
        UnavailableError: Java, the package or the models are not here; the sentence says how to get them.
    """
    tool = _find_tool("spice", SPICE_JAR)
    library = tool.jar.parent / "lib"
    missing = [name for name in SPICE_MODELS if not (library / name).is_file()]
    if missing:
        raise UnavailableError(
            f"spice is not computed: {library} lacks {' and '.join(missing)} of Stanford CoreNLP 3.6.0; "
            "run `python -m pycocoevalcap.spice.get_stanford_models` where there is a network."
        )
    return tool


@final
class Meteor:
    """METEOR 1.5 (Denkowski and Lavie 2014) as coco-caption runs it: ``-l en -norm``, one process for all captions.

    Used as a context manager. Loading its paraphrases takes about 9 s.

    Args:
        tool: the program.
    """

    def __init__(self, tool: JavaTool) -> None:
        self._tool = tool
        self._known: dict[str, str] = {}

    def __enter__(self) -> Meteor:
        command = [self._tool.java, METEOR_MEMORY, "-Dfile.encoding=UTF-8", "-jar", self._tool.jar.name]
        self._process = subprocess.Popen(
            [*command, "-", "-", "-stdio", "-l", "en", "-norm"], cwd=self._tool.jar.parent, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def score(self, captions: Round) -> CaptionScore:
        """Score captions against their references.

        Repeats among an image's references change nothing, as the best one counts, and are not sent.

        Returns:
            Values in [0, 1]; ``corpus`` is computed from the pooled counts of all, and is not the mean of ``items``.

        Raises:
            UnavailableError: the program ended or answered something else than numbers.
        """
        statistics = []
        for hypothesis, references in zip(captions.hypotheses, captions.references, strict=True):
            texts = dict.fromkeys(map(_to_line, references))
            line = SEPARATOR.join(("SCORE", *texts, _to_line(hypothesis)))
            if line not in self._known:
                self._known[line] = self._ask(line)
            statistics.append(self._known[line])
        first = self._ask(SEPARATOR.join(("EVAL", *statistics)))
        answers = [first, *(self._answer() for _ in statistics)]
        try:
            *items, corpus = map(float, answers)
        except ValueError as error:
            raise UnavailableError(f"meteor is not computed: {self._tool.jar} answered {answers[0][:60]!r}.") from error
        return CaptionScore(corpus, np.array(items, dtype=np.float64))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # the process has ended, and its answer says so
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise UnavailableError(
                f"meteor is not computed: `{self._tool.java} {METEOR_MEMORY} -jar {self._tool.jar}` ended without an "
                "answer; see whether it starts by hand."
            )
        return line


def spice_scores(tool: JavaTool, captions: Round, parses: Path) -> CaptionScore:
    """Run SPICE (Anderson et al. 2016) as coco-caption does.

    Args:
        tool: the program, its models beside it.
        captions: to score.
        parses: a folder, where the program keeps the parse of each text for the next call.

    Returns:
        F-scores in [0, 1]; ``corpus`` is the mean of those that are numbers.

    Raises:
        UnavailableError: the program failed.
    """
    asked = [
        {"image_id": row, "test": _to_line(hypothesis), "refs": list(map(_to_line, references))}
        for row, (hypothesis, references) in enumerate(zip(captions.hypotheses, captions.references, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="skygen-spice-") as folder:
        question, answer = Path(folder, "captions.json"), Path(folder, "scores.json")
        question.write_text(json.dumps(asked), encoding="utf-8")
        command = [tool.java, SPICE_MEMORY, "-jar", tool.jar.name, str(question), "-cache", str(parses), "-out", str(answer)]
        try:
            subprocess.run(
                [*command, "-subset", "-silent"], cwd=tool.jar.parent, check=True, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=SECONDS_FOR_SPICE,
            )  # fmt: skip
            rows: list[Any] = json.loads(answer.read_text(encoding="utf-8"))
            by_row = {int(row["image_id"]): _to_number(row["scores"]["All"]["f"]) for row in rows}
            items = np.array([by_row[row] for row in range(len(asked))], dtype=np.float64)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(f"spice is not computed: {tool.jar} failed ({type(error).__name__}).") from error
    return CaptionScore(float(np.nanmean(items)) if np.isfinite(items).any() else math.nan, items)


def coco_scores(
    trials: Sequence[Trial], items: ItemScores, *, subset: str, seeds: Seeds, progress: Callable[[int, int], None]
) -> list[Score]:
    """Score every writer's captions by METEOR and SPICE, as far as these tools are here; the log says what is not computed.

    Args:
        trials: who is scored against what.
        items: takes the score of each image; those of METEOR are its segment scores.
        subset: of the data, for the record.
        seeds: the intervals follow from them.
        progress: is told how many rounds are scored, and of how many.

    Returns:
        ``meteor`` without an interval, as it pools its counts, and ``spice``; the mean over a trial's rounds.
    """
    scores: list[Score] = []
    for name, run in (("meteor", _run_meteor), ("spice", _run_spice)):
        try:
            results = run(trials, progress)
        except UnavailableError as error:
            _LOG.warning(str(error))
            continue
        for trial, rounds in zip(trials, results, strict=True):
            metric, values = trial.name(name), np.mean([one.items for one in rounds], axis=0)
            items.add(trial.writer, metric, trial.rows, values)
            interval = None
            if name == "spice" and len(values) >= SMALLEST_FOR_INTERVAL and np.isfinite(values).all():
                interval = bootstrap_interval(values, seeds=seeds)
            corpus = float(np.mean([one.corpus for one in rounds]))
            scores.append(Score(metric, corpus, len(values), interval, trial.writer, subset))
    return scores


def _run_meteor(trials: Sequence[Trial], progress: Callable[[int, int], None]) -> list[list[CaptionScore]]:
    with Meteor(find_meteor()) as meteor:
        return _run_rounds(trials, meteor.score, progress)


def _run_spice(trials: Sequence[Trial], progress: Callable[[int, int], None]) -> list[list[CaptionScore]]:
    tool = find_spice()
    with tempfile.TemporaryDirectory(prefix="skygen-spice-parses-") as folder:
        return _run_rounds(trials, lambda captions: spice_scores(tool, captions, Path(folder)), progress)


def _run_rounds(
    trials: Sequence[Trial], score: Callable[[Round], CaptionScore], progress: Callable[[int, int], None]
) -> list[list[CaptionScore]]:
    total, done = sum(len(trial.rounds) for trial in trials), 0
    results: list[list[CaptionScore]] = []
    for trial in trials:
        results.append([])
        for captions in trial.rounds:
            results[-1].append(score(captions))
            done += 1
            progress(done, total)
    return results


def _find_tool(name: str, jar: str) -> JavaTool:
    java = shutil.which("java")
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise UnavailableError(f"{name} is not computed: {PACKAGE} is not installed; pip install 'skygen[coco]'.")
    if java is None:
        raise UnavailableError(f"{name} is not computed: there is no `java` on the PATH; install a Java runtime, 8 or newer.")
    path = Path(places[0], name, jar)
    if not path.is_file():
        raise UnavailableError(f"{name} is not computed: {path} is missing; install {PACKAGE} again.")
    return JavaTool(java, path)


@cache
def _to_line(text: str) -> str:
    return " ".join(tokenize_caption(text)).replace("|||", "")  # within an address; elsewhere bars are tokens of their own


def _to_number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
