"""The card of an adapter: a ``README.md`` beside it whose header Hugging Face's hub reads, and which says what to expect.

Files of a run name folders of the machine that it ran on. The card is made to be published, and keeps the names alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import jinja2

from skygen.data.exports.markdown import CARD, MARK, escape, fence, is_foreign, quote_in_table
from skygen.data.exports.markdown import name_without_place as name_without_place
from skygen.data.exports.markdown import quote as quote
from skygen.evaluation.scores import Score
from skygen.storage import writing

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LOG = logging.getLogger("skygen")


@final
@dataclass(frozen=True, slots=True)
class CardKind:
    """What the cards of one kind of adapter have in common.

    Args:
        what: it is, such as ``A LoRA``.
        library: that loads it, as the hub calls it.
        task: as the hub calls it.
        tags: of the hub.
        usage: Python code that uses it, made from the name of the base and the settings.
        limits: a sentence each, in Markdown.
        relation: to its base, as the hub calls it.
    """

    what: str
    library: str
    task: str
    tags: tuple[str, ...]
    usage: Callable[[str, Mapping[str, Any]], str]
    limits: tuple[str, ...]
    relation: str = "adapter"


@final
@dataclass(frozen=True, slots=True)
class CardFacts:
    """What one card says.

    Args:
        title: such as the name of the run.
        base: name that the base is loaded by: of the hub, or a folder, whose name alone is told.
        config: the recipe's settings, ``skygen.config.to_tree``.
        data: what it was trained on, in words: fingerprint, counts of the ledger, collections.
        environment: ``skygen.environment.describe_environment``.
        step: updates.
        scores: of the last validation, ``validation_record.last_scores``.
        license: as the hub abbreviates it; left out, the hub shows none until somebody sets it.
    """

    title: str
    base: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    step: int = 0
    scores: Sequence[Score] = ()
    license: str | None = None


def write_card(folder: Path, facts: CardFacts, kind: CardKind) -> Path:
    """Write the card; a ``README.md`` that somebody else has written stays, and a log message says so.

    Args:
        folder: of the adapter.
        facts: what it says; no text of them can become Markdown, HTML or YAML.
        kind: ``DIFFUSION`` or ``CAPTIONER``.

    Returns:
        Its path. ``huggingface_hub.ModelCard.load`` reads it.

    Raises:
        StorageError: the disk is full or refuses.
    """
    path = folder / CARD
    if is_foreign(path):
        _LOG.warning(f"{path}: not written by skygen, and left as it is; the adapter's card is not written.")
        return path
    text = _render(facts, kind)
    for place in {Path.home(), Path.cwd(), folder.resolve().parent}:
        if place != Path(place.anchor):
            text = text.replace(str(place), place.name)
    with writing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return path


def _render(facts: CardFacts, kind: CardKind) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skygen.evaluation.pages", "."),
        autoescape=False,  # Markdown is escaped in another way than HTML: by these filters
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": escape, "code": quote, "cell": quote_in_table, "block": fence}
    made_with = {name: value for name, value in facts.environment.items() if name not in ("command", "platform", "versions")}
    base = name_without_place(facts.base)
    body = environment.get_template("model_card.md.jinja").render(
        mark=MARK,
        title=facts.title,
        what=kind.what,
        base=base,
        version=importlib.metadata.version("skygen"),
        step=facts.step,
        usage=kind.usage(base, facts.config),
        data={name: _to_words(value) for name, value in facts.data.items()},
        scores=facts.scores,
        limits=kind.limits,
        license_note=_describe_license(facts.license),
        command=shlex.join(name_without_place(str(word)) for word in facts.environment.get("command", ())),
        settings={name: _to_words(value) for name, value in _flatten(facts.config)},
        environment={name: _to_words(value) for name, value in (made_with | facts.environment.get("versions", {})).items()},
    )
    return f"---\n{_build_header(facts, kind, base)}\n---\n{body.rstrip()}\n"


def _build_header(facts: CardFacts, kind: CardKind, base: str) -> str:
    """Write the hub's metadata: scores as its ``model-index``, the base where it is one of the hub's."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=kind.task,
            dataset_type="image-text-pairs",
            dataset_name=_to_words(score.subset) or "not told",
            metric_type=score.name,
            metric_name=_to_words(f"{score.name} {score.extractor}".strip()),
            metric_value=round(score.value, 6),
        )
        for score in facts.scores
        if score.model == "tuned" and "_quartile_" not in score.name
    ]
    on_hub = bool(_HUB_ID.fullmatch(facts.base)) and not Path(facts.base).exists()
    data = ModelCardData(
        base_model=base if on_hub else None,
        license=facts.license,
        library_name=kind.library,
        pipeline_tag=kind.task,
        tags=list(kind.tags),
        model_name=_to_words(facts.title),
        eval_results=results or None,
        **({"base_model_relation": kind.relation} if on_hub else {}),
    )
    header: str = data.to_yaml()
    return header


def _describe_license(chosen: str | None) -> str:
    depends = (
        "It depends on the licence of the base, which often binds what is made from it; on OpenStreetMap's "
        "[ODbL 1.0](https://www.openstreetmap.org/copyright), © OpenStreetMap contributors, where captions are made from its "
        "tags; and on the terms of the image collections that it was trained on."
    )
    if chosen is None:
        return f"Not set: whoever publishes this sets `license` in the header of this file. {depends}"
    return f"{quote(chosen)}, set by who trained it. {depends}"


def _to_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_to_words, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_to_words(own)}" for key, own in value.items())
    return name_without_place(value) if isinstance(value, str) else str(value)


def _flatten(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """List settings by their dotted names."""
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        rows += _flatten(value, f"{above}{name}.") if isinstance(value, Mapping) else [(f"{above}{name}", value)]
    return rows


def _use_diffusion(base: str, config: Mapping[str, Any]) -> str:
    lora = 'pipeline.load_lora_weights("FOLDER_OF_THIS_FILE", weight_name="pytorch_lora_weights.safetensors")\n'
    return _use_pipeline(base, config, lora)


def _use_pipeline(source: str, config: Mapping[str, Any], lora: str = "") -> str:
    images = config.get("images")
    resolution = images.get("resolution", 0) if isinstance(images, Mapping) else 0
    size = f", height={int(resolution)}, width={int(resolution)}" if resolution else ""
    return f"""from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({json.dumps(source)})
{lora}image = pipeline("a satellite image of a harbor", num_inference_steps=20, guidance_scale=5.0{size}).images[0]
"""


def _use_captioner(base: str, config: Mapping[str, Any]) -> str:
    return f"""from PIL import Image

from skygen.models.captioner import Captioner

captioner = Captioner.load({json.dumps(base)}, "FOLDER_OF_THIS_FILE")
print(captioner.caption([Image.open("IMAGE.png").convert("RGB")]))
"""


DIFFUSION: Final = CardKind(
    what="A LoRA",
    library="diffusers",
    task="text-to-image",
    tags=("lora", "text-to-image", "diffusers", "remote-sensing", "skygen"),
    usage=_use_diffusion,
    limits=(
        "**Its pictures are synthetic images, not observations of any place**, also where a prompt names one. Never "
        "georeference them, measure in them, or mix them unmarked with observations.",
        "It draws what captions of its training data name, as often and in such places as they do; what is rare there is drawn "
        "badly or not at all.",
        "A score by a CLIP says what that CLIP sees. One that has also chosen the training data is no independent judge.",
    ),
)
"""A LoRA of a text-to-image model."""

WHOLE_DIFFUSION: Final = replace(
    DIFFUSION,
    what="A text-to-image model, all of whose denoiser was trained, from the start",
    tags=tuple(tag for tag in DIFFUSION.tags if tag != "lora"),
    usage=lambda base, config: _use_pipeline("FOLDER_OF_THIS_FILE", config),
    relation="finetune",
)
"""A text-to-image model whose denoiser was trained without a LoRA."""

CAPTIONER: Final = CardKind(
    what="A LoRA of a captioner, on top",
    library="peft",
    task="image-to-text",
    tags=("lora", "image-to-text", "image-captioning", "remote-sensing", "skygen"),
    usage=_use_captioner,
    limits=(
        "**Captions may name what is not in the image**, or miss what is: let a person look before anything follows from one.",
        "It has the words of the captions that it was trained on, and of overhead images of such ground sample distances.",
    ),
)
"""A LoRA of an image captioner."""
