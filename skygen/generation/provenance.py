"""Provenance: every picture says of itself that it is synthetic, and how to make it again.

XMP is what platforms and photo archives read; the line ``parameters`` is what image tools of the Stable Diffusion world show;
``skygen`` is the whole record as JSON. No picture is ever given a place on the ground.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.generation.xmp import DESCRIPTION, clean_text, read_record, read_xmp, write_xmp
from skygen.generation.xmp import DIGITAL_SOURCE_TYPE as DIGITAL_SOURCE_TYPE
from skygen.storage import writing

FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The formats that carry a label here, by the ending of the file's name."""
_DECODERS: Final = tuple(dict.fromkeys(FORMATS.values()))
"""Pillow's others are not asked: among them are some that start programs."""
TOLD: Final = "metadata"
"""Part of a record that says what the model was told of how the picture is as if taken; it places nothing."""
_GEOREFERENCE = re.compile(
    r"(gps|geotiff|geokey|georef|geotransform|geometry|geojson|modelpixelscale|modeltiepoint|modeltransformation).*"
    r"|(center|centre)?(lat|lon|lng|latitude|longitude)|box|bbox|bounds|west|south|east|north|crs|srs|epsg|wkt|wkt2"
    r"|transform|affine|projection|coordinates|footprint|tfw|worldfile"
)
_LARGEST_XMP = 65_502  # bytes of one JPEG segment, less its length and the name of XMP
_IMAGE_DESCRIPTION, _SOFTWARE, _EXIF, _USER_COMMENT = 0x010E, 0x0131, 0x8769, 0x9286
_SETTINGS = {
    "Steps": "num_inference_steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Sampler": "scheduler",
    "Denoising strength": "strength",
    "CFG Rescale": "guidance_rescale",
    "Model": "base",
    "Adapter": "adapter",
    "Adapter strength": "lora_scale",
}
"""Names of settings in the line ``parameters``, and what the record calls them."""


@final
@dataclass(frozen=True, slots=True)
class SyntheticLabel:
    """What a picture says of itself.

    Args:
        source_type: IPTC's term, a URI such as ``DIGITAL_SOURCE_TYPE``.
        description: in words; empty where there is none.
        tool: the program that made it, such as ``skygen 0.1.0``.
        prompt: what the model was told.
        record: all that skygen noted: seed, settings, model, hashes; empty in a picture of another program.
    """

    source_type: str
    description: str
    tool: str
    prompt: str
    record: Mapping[str, Any]


def save_synthetic(image: Image.Image, path: Path, record: Mapping[str, Any], *, quality: int = 95) -> None:
    """Save a generated picture, whole or not at all, with its label inside; its pixels, mode and label are all that is saved.

    Args:
        image: RGB; its own EXIF, XMP, comments and colour profile are left out.
        path: ends in ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``; folders above it are made.
        record: prompt, seed, model, steps and the like; plain values.
        quality: of JPEG and WebP, 1 to 100; their pixels are no longer those that were drawn.

    Raises:
        ConfigError: another ending, or a record too long for one.
        DataError: the record would place the picture on the ground.
        StorageError: the disk is full or refuses.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ConfigError(f"{path}: no format that carries a label; end the name in {', '.join(FORMATS)}.")
    refuse_georeference(record, str(path))
    tool = f"skygen {importlib.metadata.version('skygen')}"
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    packet, parameters = write_xmp(record, tool), _write_parameters(record, image.size, tool)
    size = len(packet.encode())
    if form == "JPEG" and size > _LARGEST_XMP:
        raise ConfigError(f"{path}: a label of {size:,} bytes, and a JPEG holds {_LARGEST_XMP:,}; save it as .png or .webp.")
    with writing(path) as temporary:
        if form == "PNG":
            notes = PngInfo()
            notes.add_itxt("XML:com.adobe.xmp", packet)
            notes.add_itxt("skygen", json.dumps(record, sort_keys=True))
            notes.add_itxt("parameters", parameters)
            bare.save(temporary, format=form, pnginfo=notes)
        else:
            options: dict[str, Any] = {"subsampling": "4:4:4"} if form == "JPEG" else {"method": 4}
            exif = _write_exif(parameters, tool)
            bare.save(temporary, format=form, quality=quality, xmp=packet.encode(), exif=exif, **options)


def convert_synthetic(source: Path, target: Path, *, quality: int = 95) -> None:
    """Save a labelled picture in another format, with its label.

    Args:
        source: of any of ``FORMATS``.
        target: its ending says which format.
        quality: of JPEG and WebP.

    Raises:
        DataError: the source carries no record of skygen's, or is damaged.
        UnavailableError: there is no such file.
    """
    label = read_label(source)
    if label is None or not label.record:
        raise DataError(f"{source}: carries no record of how it was made, so a copy would not either; draw it anew.")
    try:
        with Image.open(source, formats=_DECODERS) as image:
            image.load()
            pixels = image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(source, error) from error
    save_synthetic(pixels, target, label.record, quality=quality)


def read_label(path: Path) -> SyntheticLabel | None:
    """Read what a picture says of itself; its pixels are decoded only where no label stands before them.

    Args:
        path: a PNG, JPEG or WebP of any program.

    Returns:
        The label; None of a picture that does not say that it is synthetic.

    Raises:
        UnavailableError: there is no such file.
        DataError: it is no image, or damaged before the label ends.
    """
    try:
        with Image.open(path, formats=_DECODERS) as image:
            if image.format == "PNG" and not {"skygen", "XML:com.adobe.xmp"} & image.info.keys():
                image.load()  # other programs put their text behind the pixels
            info = dict(image.info)
    except FileNotFoundError as error:
        raise UnavailableError(f"{path}: there is no such file; give a picture.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    record = read_record(info.get("skygen"))
    packet = info.get("XML:com.adobe.xmp") or info.get("xmp") or ""
    told = read_xmp(packet) if isinstance(packet, str | bytes) else None
    if told is None:
        if record.get("synthetic") is not True:
            return None
        return SyntheticLabel(DIGITAL_SOURCE_TYPE, DESCRIPTION, "", str(record.get("text", "")), record)
    record = record or told.record
    return SyntheticLabel(told.source_type, told.description, told.tool, str(record.get("text") or told.prompt), record)


def refuse_georeference(record: Mapping[str, Any], where: str) -> None:
    """Make sure that a record does not place a picture on the ground; what the model was told, ``metadata``, does not.

    Args:
        record: of a picture.
        where: names it in the error.

    Raises:
        DataError: it has a key such as ``latitude``, ``bbox``, ``crs`` or ``GPSInfo``, at any depth.
    """
    for key, value in record.items():
        if key == TOLD:
            continue
        if _GEOREFERENCE.fullmatch(re.sub(r"[\W_]", "", key.lower())):
            raise DataError(
                f'{where}: "{key}" in its record would place a synthetic picture on the ground; leave it out, or put what the '
                f'model was told under "{TOLD}".'
            )
        for inner in value if isinstance(value, list | tuple) else (value,):
            if isinstance(inner, Mapping):
                refuse_georeference(inner, where)


def _write_parameters(record: Mapping[str, Any], size: tuple[int, int], tool: str) -> str:
    """Write what image tools of the Stable Diffusion world show: the prompt, then a line of settings."""
    known = [f"{name}: {record[key]}" for name, key in _SETTINGS.items() if record.get(key) not in (None, "")]
    known += [f"Size: {size[0]}x{size[1]}", f"Version: {tool}", "Synthetic: yes"]
    return clean_text(f"{record.get('text', '')}\n{', '.join(known)}")


def _write_exif(parameters: str, tool: str) -> Image.Exif:
    """Write what programs that read no XMP show; ``UserComment`` is where a JPEG keeps its ``parameters``."""
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = DESCRIPTION
    exif[_SOFTWARE] = tool
    exif[_EXIF] = {_USER_COMMENT: b"UNICODE\0" + parameters.encode("utf-16-be")}
    return exif


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = "no format is known by its first bytes" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
    return DataError(f"{path}: not readable as an image ({reason}); copy or draw it anew.")
