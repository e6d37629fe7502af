"""The scores of a tuned model as Hugging Face's ``model-index``, in a card that the hub reads.

The card is made to be published: of the folders of this machine it keeps the names alone. One card is of one model; give the
runs that evaluate it. The values are those of ``metrics.json``, unrounded, and none claims to be verified.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skygen.data.exports.markdown import MARK, escape, is_foreign, name_without_place
from skygen.errors import ConfigError
from skygen.evaluation.reports.caveats import Faults, Leakage
from skygen.evaluation.reports.facts import read_split
from skygen.evaluation.reports.markdown import format_caveats, format_commands, format_scores, write_text
from skygen.evaluation.reports.pictures import PICTURES
from skygen.evaluation.reports.provenance import Provenance, read_command
from skygen.evaluation.reports.records import RunRecord
from skygen.evaluation.reports.tables import first_model
from skygen.evaluation.scores import Score

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASKS: Final = {"evaluate_images": "text-to-image", "evaluate_captions": "image-to-text"}
"""What the hub calls the task of the models that a recipe evaluates."""
_FILES: Final = {PICTURES: "text-to-image", "captions.jsonl": "image-to-text"}
"""Tells the task of a run that does not say how it was started."""
UNNAMED: Final = "image-text-pairs"
"""What the hub is told of a data set whose name is not known."""


def index_results(records: Sequence[RunRecord]) -> list[EvalResult]:
    """Gather the scores of the model that the runs are about: ``tuned``, else the first of each.

    Args:
        records: of the runs; those of no evaluation of pictures or captions are passed over, and so is a score that is not
            finite, which the hub cannot show.

    Raises:
        ConfigError: no run has such a score.
    """
    evaluating = [(record, task, *record.read_scores()) for record in records if (task := find_task(record))]
    results = []
    for record, task, protocol, scores in evaluating:
        model = first_model(score.model for score in scores)
        for score in scores:
            if score.model == model and math.isfinite(score.value):
                results.append(_to_result(record, task, protocol, score, in_run=record.name if len(evaluating) > 1 else ""))
    if not results:
        raise ConfigError(
            "--model-card: no run has scores of a text-to-image or image-to-text model; give runs of "
            "recipes/evaluate_images.py or recipes/evaluate_captions.py."
        )
    return results


def find_task(record: RunRecord) -> str:
    """Return what the hub calls the task of the model that a run evaluates; empty for a run that evaluates none."""
    words = read_command(record)
    if words:
        return TASKS.get(Path(words[0]).stem, "")
    return next((task for file, task in _FILES.items() if (record.folder / file).exists()), "")


def write_report_card(page: Mapping[str, Any], results: Sequence[EvalResult], path: Path) -> Path:
    """Write the card: the ``model-index`` as its header, and below it what a reader must know of the figures.

    Args:
        page: what ``build_page`` returned, with the title.
        results: of ``index_results``.
        path: of the file, to be named ``README.md`` in the model's repository.

    Returns:
        The path. ``huggingface_hub.ModelCard.load`` reads it.

    Raises:
        ConfigError: a file of another origin is there.
        StorageError: the disk is full or refuses.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if is_foreign(path):
        raise ConfigError(f"{path} is not from a report and would be lost; choose another --output.")
    tasks = list(dict.fromkeys(result.task_type for result in results))
    data = ModelCardData(
        model_name=_to_line(page["title"]),
        pipeline_tag=tasks[0] if len(tasks) == 1 else None,
        tags=[*tasks, "remote-sensing", "skygen"],
        eval_results=list(results),
    )
    parts = [
        MARK,
        f"# {escape(page['title'])}",
        "The header has the scores of the evaluated model alone; here they stand beside those it is held against. Pictures and "
        "captions that were scored are synthetic.",
        *format_caveats(list(map(_publish_answers, page["leakage"])), list(map(_publish_faults, page["faults"]))),
        *format_scores(page["groups"]),
        *format_commands([_publish_command(run) for run in page["provenance"]]),
        f"Written by skygen {escape(page['version'])}.",
    ]
    body = "\n\n".join(parts)
    # it reads what it is given, so that a header that it cannot read is never written
    return write_text(str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n")), path)


def _to_result(record: RunRecord, task: str, protocol: str, score: Score, *, in_run: str) -> EvalResult:
    from huggingface_hub import EvalResult

    split = read_split(record)
    folder = _name_data_set(record)
    name = split.get("official") or folder or UNNAMED
    arguments: dict[str, Any] = {"count": score.count, "model": _to_line(score.model), "run": _to_line(record.name)}
    if score.interval is not None and all(map(math.isfinite, score.interval)):
        arguments["interval_95"] = list(score.interval)
    if score.extractor:
        arguments["extractor"] = _to_line(score.extractor)
    if protocol:
        arguments["protocol"] = _to_line(protocol)
    return EvalResult(
        task_type=task,
        dataset_name=_to_line(name),
        dataset_type=re.sub(r"[^\w.-]+", "-", folder.lower()).strip("-") or UNNAMED,
        dataset_config=_to_line(protocol) or None,  # the hub lists what differs in it apart
        dataset_split=_to_line(score.subset) or None,
        dataset_revision=_to_line(split.get("fingerprint", "")) or None,
        metric_type=_to_line(score.name),
        metric_name=_to_line(" ".join(filter(None, (score.name, score.extractor, f"({in_run})" if in_run else "")))),
        metric_value=score.value,
        metric_args=arguments,
        verified=False,
    )


def _name_data_set(record: RunRecord) -> str:
    """Return the name of the folder of the data set; empty where the settings do not tell it."""
    pairs = record.config.get("pairs")
    root = pairs.get("root") if isinstance(pairs, dict) else None
    return name_without_place(str(root)).rpartition("/")[2] if root else ""


def _to_line(text: object) -> str:
    """Make one line without the places of this machine, and without what YAML cannot hold."""
    line = " ".join(name_without_place(str(text)).split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _publish_answers(group: Leakage) -> Leakage:
    return replace(group, answers=tuple(replace(one, detail=name_without_place(one.detail)) for one in group.answers))


def _publish_faults(group: Faults) -> Faults:
    return replace(group, sentences=tuple(map(name_without_place, group.sentences)))


def _publish_command(run: Provenance) -> Provenance:
    return replace(run, command=shlex.join(name_without_place(word) for word in shlex.split(run.command)))
