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
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final, final

import jinja2

from skygen.evaluation.scores import Score
from skygen.storage import writing

CARD: Final = "README.md"
MARK: Final = "<!-- written by skygen; the next export to this folder writes it anew -->"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PLACE = re.compile(r"(?<![\w./:~])~?(?:/[^\s/:\"'=,;]+){2,}/?")
"""An absolute path inside a text; those of an address follow a colon or a slash."""
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
"""What CommonMark takes a backslash before."""
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
    """

    what: str
    library: str
    task: str
    tags: tuple[str, ...]
    usage: Callable[[str, Mapping[str, Any]], str]
    limits: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class CardFacts:
    """What one card says.

    Args:
        title: such as the name of the run.
        base: name that the base is loaded by: of the hub, or a folder, whose name alone is told.
        config: the recipe's settings, ``skygen.config.to_tree``.
        data: what it was trained on, in words: fingerprint, counts of the ledger, collections.
        environment: ``skygen.runs.describe_environment``.
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
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
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
        **({"base_model_relation": "adapter"} if on_hub else {}),
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


def escape(text: str) -> str:
    """Make a text that Markdown shows as it is, in one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(str(text).split()))


def quote(text: object) -> str:
    """Make a code span of a text, in one line, whatever backticks it has."""
    line = " ".join(str(text).split()) or " "
    marks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{marks}{padding}{line}{padding}{marks}"


def quote_in_table(text: object) -> str:
    """Make a code span that keeps within its cell; an empty text is an empty cell."""
    return quote(str(text).replace("|", "\\|")) if str(text).strip() else ""


def fence(text: str, language: str) -> str:
    """Make a block of code, whatever backticks it has."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def name_without_place(text: str) -> str:
    """Return the name alone of a path of this machine; what is none, such as a hub id, stays, but for paths inside it."""
    option, equals, value = text.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={name_without_place(value)}"
    windows = PureWindowsPath(text)
    if windows.drive and windows.root:
        return windows.name
    path = Path(text)
    is_place = path.is_absolute() or text.startswith(("~", "./", "../")) or ("/" in text and _exists(path))
    if is_place and not any(character in text for character in "\n\r"):
        return path.name
    return _PLACE.sub(lambda match: Path(match.group()).name, text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with a zero in it: a text
        return False


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
    images = config.get("images")
    resolution = images.get("resolution", 0) if isinstance(images, Mapping) else 0
    size = f", height={int(resolution)}, width={int(resolution)}" if resolution else ""
    return f"""from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({json.dumps(base)})
pipeline.load_lora_weights("FOLDER_OF_THIS_FILE", weight_name="pytorch_lora_weights.safetensors")
image = pipeline("a satellite image of a harbor", num_inference_steps=20, guidance_scale=5.0{size}).images[0]
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
