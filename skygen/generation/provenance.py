"""Provenance: every picture says of itself that it is synthetic, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from skygen.storage import writing

# IPTC's term for a picture made by a trained model; platforms read it to label synthetic media.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{source}"/></rdf:RDF></x:xmpmeta>'
)


def save_synthetic(image: Image.Image, path: Path, record: Mapping[str, Any]) -> None:
    """Save a generated picture as PNG, whole or not at all, with its record inside.

    Args:
        image: RGB.
        path: ends in ``.png``; folders above it are made.
        record: prompt, seed, model, steps and the like; plain values.

    Raises:
        StorageError: the disk is full or refuses.
    """
    notes = PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", XMP.format(source=escape(DIGITAL_SOURCE_TYPE)))
    notes.add_itxt("skygen", json.dumps(record, sort_keys=True))
    notes.add_itxt("parameters", _parameters(record))
    with writing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=notes)


def _parameters(record: Mapping[str, Any]) -> str:
    """Write the line that image tools of the Stable Diffusion world show: prompt, then settings."""
    settings = {
        "Steps": record.get("num_inference_steps"),
        "CFG scale": record.get("guidance_scale"),
        "Seed": record.get("seed"),
        "Model": record.get("base"),
    }
    known = ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)
    return f"{record.get('text', '')}\n{known}, Synthetic: yes"
