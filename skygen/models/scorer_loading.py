"""From a scorer's name to a loaded CLIP: where its weights are, which network they fit, and how it sees pictures and words.

Looking comes before importing: a name whose weights are not here is explained before torch is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from skygen import plain_json
from skygen.errors import ConfigError, UnavailableError
from skygen.models.backbones import BACKBONES, OPEN_CLIP_FILES, Backbone, find_close
from skygen.models.checkpoint_files import SUFFIXES
from skygen.models.fitting import fit
from skygen.models.open_clip_names import ad_hoc, from_tag
from skygen.models.weights import find_cached, hub_answers, locate, read_state_dict, reading_weights
from skygen.storage import skygen_home

CONFIG = "open_clip_config.json"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
Loaded = tuple[Any, Callable[[Image.Image], Any], Callable[[list[str]], Any], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """What a scorer's name stands for.

    Args:
        name: as it was given.
        place: a file of weights, a folder or hub id in open_clip's own layout, or empty for weights the hub is asked for.
        backbone: what the weights are; None in open_clip's own layout, which says so itself.
    """

    name: str
    place: str
    backbone: Backbone | None = None


def find_source(name: str, architecture: str | None = None) -> Source:
    """Find what a scorer's name stands for, without loading it.

    Args:
        name: as ``ScorerSettings.name``.
        architecture: as ``ScorerSettings.architecture``.

    Raises:
        UnavailableError: nothing is known by that name, or its weights are not here; the sentence says what to do.
        ConfigError: the architecture contradicts what is certain of the name.
    """
    if name in BACKBONES:
        known = BACKBONES[name]
        place = _find_weights(name, known)
        return Source(name, place, _as_told(name, known, architecture))
    if name.startswith("open_clip:"):
        network, _, rest = name.removeprefix("open_clip:").partition("/")
        if Path(rest).expanduser().is_file():
            return Source(name, str(Path(rest).expanduser()), ad_hoc(network))
        known = from_tag(name, network, rest)
        return Source(name, _find_weights(f"{network}-{rest}", known), known)
    converted = checkpoint_folder() / f"{name}.safetensors"
    path = converted if "/" not in name and converted.is_file() else Path(name).expanduser()
    if path.is_file():
        return Source(name, str(path), _recognize_backbone(path, architecture))
    if path.suffix in SUFFIXES:
        raise UnavailableError(f"--scorer.name {name}: no such file; give the path of a checkpoint that is there.")
    if name != "miniature" and not path.is_dir() and name.count("/") != 1:
        close = find_close(name, BACKBONES)
        question = f" (did you mean {' or '.join(close[:2])}?)" if close else ""
        raise UnavailableError(
            f"--scorer.name {name}: not a scorer that skygen knows{question}, not a file, not a folder, and not an id on the "
            f"Hugging Face hub; the known names are miniature, {', '.join(BACKBONES)}."
        )
    return Source(name, locate(name, "skyclip", CONFIG))


def load_source(source: Source, device: str) -> Loaded:
    """Load what a name stands for.

    Returns:
        The network, its preprocessing, its tokenizer, and open_clip's description of it.

    Raises:
        UnavailableError: the weights are damaged, or are another network's.
        StorageError: there is no room to unpack a compressed archive.
    """
    if source.backbone is None:
        return _load_own_layout(source.place, device)
    path = Path(source.place) if source.place else _fetch(source.backbone)
    return _build(source, path, device)


def checkpoint_folder() -> Path:
    """Return the folder of downloaded and converted checkpoints."""
    return skygen_home() / "checkpoints"


def match_file(path: Path) -> str | None:
    """Return the name of the published CLIP whose file this is, by its name alone; None if it is called otherwise."""
    called = {path.stem} | ({path.parent.name} if path.stem == "epoch_20" else set())
    return next((name for name, known in BACKBONES.items() if called & ({name} | _stems(known))), None)


def _stems(backbone: Backbone) -> set[str]:
    return {Path(part).stem for part in (f"{backbone.archive}.zip", backbone.file) if part not in {".zip", ""}}


def _as_told(name: str, known: Backbone, architecture: str | None) -> Backbone:
    """Return a known CLIP with the network and the activation of another name, where a user gives one.

    Raises:
        ConfigError: the name contradicts an activation that is certain, which would score badly without a word.
    """
    if architecture is None:
        return known
    told = ad_hoc(architecture)
    if known.certain and told.quick_gelu != known.quick_gelu:
        activation, right = ("QuickGELU", "with") if known.quick_gelu else ("GELU", "without")
        raise ConfigError(
            f"--scorer.architecture {architecture}: {name} was trained with {activation}; leave the setting out, or give the "
            f"name {right} -quickgelu at its end."
        )
    return replace(known, architecture=told.architecture, quick_gelu=told.quick_gelu)


def _recognize_backbone(path: Path, architecture: str | None) -> Backbone:
    """Say what a file of weights is: what the user says, what it says itself, or what a published file of its name is."""
    said = read_origin(path)
    name = said.get("backbone") or match_file(path)
    if name is not None and name in BACKBONES:
        return _as_told(name, BACKBONES[name], architecture)
    if wanted := architecture or said.get("told_architecture"):
        return ad_hoc(wanted)
    raise UnavailableError(
        f"{path}: is not called like a file that skygen knows, so its network must be named; give --scorer.architecture, such "
        "as ViT-B-32, or ViT-B-32-quickgelu for one that was trained with OpenAI's activation (`skygen convert` says which "
        "networks its shapes fit)."
    )


def read_origin(path: Path) -> Mapping[str, str]:
    """Read what ``skygen convert`` noted in a file; nothing where it noted nothing."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with reading_weights(str(path)), safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def _find_weights(name: str, backbone: Backbone) -> str:
    """Find weights among the checkpoints or in the Hugging Face cache; empty if the hub can be asked for them."""
    folder = checkpoint_folder()
    candidates = [f"{name}.safetensors", *(f"{stem}.safetensors" for stem in sorted(_stems(backbone)))]
    if backbone.archive:
        candidates += [f"{backbone.archive}/epoch_20.pt", f"{backbone.archive}.zip"]
    names = (backbone.file,) if backbone.file else OPEN_CLIP_FILES
    candidates += [backbone.file, Path(backbone.file).name] if backbone.file else [f"{name}/{file}" for file in names]
    found = next((folder / file for file in candidates if file and (folder / file).is_file()), None)
    if found is None and backbone.repository:
        found = next(filter(None, (find_cached(backbone.repository, file) for file in names)), None)
    missing = "weights" if found is None else "tokenizer" if backbone.tokenizer and not _find_tokenizer(name, backbone) else ""
    if not missing or (not backbone.archive and hub_answers()):
        return str(found or "")
    raise UnavailableError(_say_what_to_fetch(name, backbone, folder, missing))


def _find_tokenizer(name: str, backbone: Backbone) -> str:
    """Return the folder or the cached repository of a tokenizer; empty if it is not here."""
    folder = checkpoint_folder() / name
    if any((folder / file).is_file() for file in TOKENIZER_FILES):
        return str(folder)
    return backbone.tokenizer if any(find_cached(backbone.tokenizer, file) for file in TOKENIZER_FILES) else ""


def _say_what_to_fetch(name: str, backbone: Backbone, folder: Path, missing: str) -> str:
    if backbone.archive:
        return (
            f"{backbone.archive}: its weights are not here; run `skygen download {backbone.archive}`, or download "
            f"{backbone.url} and put it at {folder / backbone.archive}.zip, or the file inside it at "
            f"{folder / backbone.archive}/epoch_20.pt."
        )
    if backbone.file:
        command = f"hf download {backbone.repository} {backbone.file} --local-dir {folder}"
        place = folder / backbone.file
    else:
        place = folder / name
        command = f'hf download {backbone.repository} --include "open_clip*" --include "*token*" --local-dir {place}'
    return (
        f"{name}: its {missing} {'are' if missing == 'weights' else 'is'} not here and the Hugging Face hub cannot be reached; "
        f"where it can, run `{command}` ({backbone.url}), and copy what it brings to {place} here."
    )


def _fetch(backbone: Backbone) -> Path:
    """Have the hub send weights into its own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    failure: Exception | None = None
    for file in (backbone.file,) if backbone.file else OPEN_CLIP_FILES:
        try:
            return Path(hf_hub_download(backbone.repository, file))
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            failure = error
    reason = str(failure).strip().splitlines()[0].rstrip(".")
    raise UnavailableError(f"{backbone.url}: the weights could not be fetched ({reason}); try again, or fetch them by hand.")


def _build(source: Source, path: Path, device: str) -> Loaded:
    """Build a network around weights, strictly, with the activation and the preprocessing that belong to them."""
    backbone = source.backbone
    assert backbone is not None
    state = read_state_dict(path)
    positions = state.get("positional_embedding", state.get("text.positional_embedding"))
    if any(name.endswith("positional_embedding_res") for name in state):
        raise UnavailableError(
            f"{path}: keeps LongCLIP's second table of positions (positional_embedding_res), for which open_clip has no place; "
            "give a checkpoint of 77 tokens, or one whose two tables were merged."
        )
    import open_clip

    network = open_clip.get_model_config(backbone.architecture) or {}
    text = network["text_cfg"]
    context = positions.shape[0] if positions is not None and positions.ndim == 2 else text.get("context_length", 77)
    network["text_cfg"] = text | {"context_length": context}
    settings = backbone.preprocessing
    with quiet_open_clip():
        model, _, preprocess = open_clip.create_model_and_transforms(
            backbone.architecture,
            pretrained=None,
            pretrained_text=False,
            force_quick_gelu=backbone.quick_gelu,
            force_context_length=context,
            image_mean=settings.mean,
            image_std=settings.std,
            image_interpolation=settings.interpolation,
            image_resize_mode=settings.resize_mode,
            device=device,
        )
    fit(model, state, path, backbone.architecture)
    tokenize = _load_tokenizer(source.name, backbone, context)
    preprocessing = {name: model.visual.preprocess_cfg[name] for name in ("mean", "std", "interpolation", "resize_mode")}
    quick_gelu = backbone.quick_gelu or bool(network.get("quick_gelu"))
    return model, preprocess, tokenize, {"model_cfg": network | {"quick_gelu": quick_gelu}, "preprocess_cfg": preprocessing}


def _load_tokenizer(name: str, backbone: Backbone, context: int) -> Callable[[list[str]], Any]:
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    folder = checkpoint_folder() / name
    with reading_weights(backbone.tokenizer or backbone.architecture):
        if backbone.tokenizer and any((folder / file).is_file() for file in TOKENIZER_FILES):
            settings = (open_clip.get_model_config(backbone.architecture) or {})["text_cfg"].get("tokenizer_kwargs", {})
            return HFTokenizer(str(folder), context_length=context, **settings)
        return open_clip.get_tokenizer(backbone.architecture, context_length=context)


def _load_own_layout(place: str, device: str) -> Loaded:
    """Load a folder or hub id that brings its own ``open_clip_config.json``."""
    import open_clip
    from huggingface_hub import hf_hub_download
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors import SafetensorError

    is_folder = Path(place).is_dir()
    schema = f"local-dir:{place}" if is_folder else f"hf-hub:{place}"
    with reading_weights(place):
        path = Path(f"{place}/{CONFIG}" if is_folder else hf_hub_download(place, CONFIG))
        try:
            config = plain_json.parse(path.read_text("utf-8"))
            config["model_cfg"]["text_cfg"], config["model_cfg"]["vision_cfg"]
        except (ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"{path}: is no description of a CLIP as open_clip writes it; copy the model again."
            ) from error
        try:  # without require_pretrained, a folder that lacks its weights would become a CLIP of random ones
            with quiet_open_clip():
                model = open_clip.create_model(schema, device=device, require_pretrained=True)
        except (OSError, SafetensorError):
            raise  # which reading_weights explains
        except Exception as error:  # also pickle.UnpicklingError, without importing pickle: a .bin that is more than tensors
            raise UnavailableError(
                f"{place}: its weights are missing or do not fit its {CONFIG}; copy the whole model again."
            ) from error
        tokenize = open_clip.get_tokenizer(schema)
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model, preprocess, tokenize, config


@contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Keep back open_clip's warning of random weights, which are about to be replaced, and its set-up of the root logger."""
    handler = logging.NullHandler()
    root = logging.getLogger()

    def is_other(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addHandler(handler)
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)
        root.removeHandler(handler)
