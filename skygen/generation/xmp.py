"""The XMP packet that says of a picture that a model made it, in the fields that platforms and photo archives read.

ISO 16684-1 (XMP) and the IPTC Photo Metadata Standard 2025.1, whose fields for what a model has made are ``AISystemUsed``,
``AISystemVersionUsed`` and ``AIPromptInformation``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from skygen import plain_json

DIGITAL_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for a picture made by a trained model; platforms read it to label synthetic media."""
COMPOSITE_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for one that a trained model has made out of another picture."""
SYNTHETIC_SOURCE_TYPES: Final = frozenset(
    {"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "algorithmicMedia"}
)
"""Last parts of IPTC's terms that stand for a picture that is made, wholly or in part, by a model or an algorithm."""
DESCRIPTION: Final = "Synthetic image, not an observation of any place"
_RDF, _IPTC = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_DUBLIN_CORE, _XMP = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/xap/1.0/"
_PHOTOSHOP, _RIGHTS = "http://ns.adobe.com/photoshop/1.0/", "http://ns.adobe.com/xap/1.0/rights/"
_SKYGEN = "urn:skygen:provenance#"
_NAMESPACES = {"Iptc4xmpExt": _IPTC, "dc": _DUBLIN_CORE, "xmp": _XMP, "photoshop": _PHOTOSHOP, "xmpRights": _RIGHTS}
_NAMESPACES |= {"skygen": _SKYGEN}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class XmpLabel(NamedTuple):
    """What a packet says.

    Args:
        source_type: IPTC's term, a URI.
        description: in words; empty where there is none.
        tool: the program, such as ``skygen 0.1.0``.
        system: the model.
        prompt: what the model was told.
        record: what skygen noted; empty in pictures of other programs.
    """

    source_type: str
    description: str
    tool: str
    system: str
    prompt: str
    record: dict[str, Any]


def clean_text(text: object) -> str:
    """Return a text without the characters that XML and Unicode files cannot hold: control characters, half characters."""
    return _NOT_IN_XML.sub("", str(text))


def write_xmp(record: Mapping[str, Any], tool: str) -> str:
    """Write the packet of a synthetic picture.

    Args:
        record: prompt under ``text``, model under ``base`` and ``adapter``, terms under ``terms``, the image that it was made
            out of under ``begins_as``; all of it goes in as JSON.
        tool: the program and its version.

    Returns:
        The packet, read-only and without padding. The same record gives the same text.
    """
    system = " with ".join(str(record[name]) for name in ("base", "adapter") if record.get(name))
    version = ", ".join(str(record[name]) for name in ("base_fingerprint", "adapter_sha256") if record.get(name))
    properties = [
        ("Iptc4xmpExt:DigitalSourceType", COMPOSITE_SOURCE_TYPE if record.get("begins_as") else DIGITAL_SOURCE_TYPE),
        ("Iptc4xmpExt:AISystemUsed", system),
        ("Iptc4xmpExt:AISystemVersionUsed", version),
        ("Iptc4xmpExt:AIPromptInformation", record.get("text") or ""),
        ("xmp:CreatorTool", tool),
        ("photoshop:Credit", f"Made by a model with {tool}"),
        ("skygen:record", json.dumps(record, sort_keys=True)),
    ]
    lines = [f"<{name}>{escape(clean_text(value))}</{name}>" for name, value in properties if value]
    for name, text in (("dc:description", DESCRIPTION), ("xmpRights:UsageTerms", record.get("terms") or "")):
        if text:
            alternative = f'<rdf:Alt><rdf:li xml:lang="x-default">{escape(clean_text(text))}</rdf:li></rdf:Alt>'
            lines.append(f"<{name}>{alternative}</{name}>")
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about="" {declared}>\n'
        + "\n".join(lines)
        + '\n</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'
    )


def read_xmp(packet: str | bytes) -> XmpLabel | None:
    """Read a packet, whichever program has written it.

    Returns:
        What it says; None where it is no XML, or says of the picture nothing that makes it synthetic.
    """
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # none in XMP; entities could make gigabytes of a line
        return None
    try:
        tree = ElementTree.fromstring(text.strip("\ufeff\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError):
        return None
    source_type = _find(tree, _IPTC, "DigitalSourceType")
    if re.split(r"[/:#]", source_type)[-1] not in SYNTHETIC_SOURCE_TYPES:
        return None
    return XmpLabel(
        source_type,
        _find(tree, _DUBLIN_CORE, "description"),
        _find(tree, _XMP, "CreatorTool"),
        _find(tree, _IPTC, "AISystemUsed"),
        _find(tree, _IPTC, "AIPromptInformation"),
        read_record(_find(tree, _SKYGEN, "record")),
    )


def read_record(text: object) -> dict[str, Any]:
    """Read a record from its JSON; empty where it is none."""
    try:
        record = plain_json.parse(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _find(tree: ElementTree.Element, namespace: str, name: str) -> str:
    """Return a property of any description: an attribute, a text, a resource, or the first of its alternatives."""
    full = f"{{{namespace}}}{name}"
    for description in tree.iter(f"{{{_RDF}}}Description"):
        if full in description.attrib:
            return description.attrib[full].strip()
        for element in description.findall(full):
            resource = element.get(f"{{{_RDF}}}resource")
            entries = element.iter(f"{{{_RDF}}}li")
            return (resource or next((entry.text or "" for entry in entries), "") or element.text or "").strip()
    return ""
