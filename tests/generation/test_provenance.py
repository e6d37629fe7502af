"""A generated picture says that it is synthetic, in fields that others read, and how to make it again."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from skygen.errors import ConfigError, DataError, StorageError, UnavailableError
from skygen.generation.origin import describe_origin, name_model, read_license
from skygen.generation.provenance import (
    DIGITAL_SOURCE_TYPE,
    FORMATS,
    convert_synthetic,
    read_label,
    refuse_georeference,
    save_synthetic,
)
from skygen.generation.xmp import DESCRIPTION
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.settings import DrawingModelSettings
from skygen.seeding import Seeds

TOOL = f"skygen {importlib.metadata.version('skygen')}"
RECORD: dict[str, Any] = {
    "text": 'a "dam" <b> & 堤\x00',
    "seed": 7,
    "num_inference_steps": 20,
    "guidance_scale": 5.0,
    "scheduler": "ddim",
    "base": "miniature",
    "adapter": "coast/adapter",
    "base_fingerprint": "0123456789abcdef",
    "terms": "base miniature: mit",
    "candidate_scores": [0.25, 0.5],
    "metadata": {"gsd": 0.5, "latitude": 47.0, "longitude": 8.0},
    "synthetic": True,
}
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
}
"""As the standards write them."""


def draw() -> Image.Image:
    return Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))


def test_the_file_carries_its_record(tmp_path: Path) -> None:
    image = draw()
    save_synthetic(image, tmp_path / "a.png", RECORD)
    with Image.open(tmp_path / "a.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(image))
        assert json.loads(read.info["skygen"]) == RECORD
        assert DIGITAL_SOURCE_TYPE in read.info["XML:com.adobe.xmp"]
        assert read.info["parameters"] == (
            'a "dam" <b> & 堤\nSteps: 20, CFG scale: 5.0, Seed: 7, Sampler: ddim, Model: miniature, Adapter: coast/adapter, '
            f"Size: 16x16, Version: {TOOL}, Synthetic: yes"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_label_reads_back_from_every_format(ending: str, tmp_path: Path) -> None:
    assert set(ENDINGS) == set(FORMATS)
    save_synthetic(draw(), tmp_path / f"a{ending}", RECORD)
    label = read_label(tmp_path / f"a{ending}")
    assert label is not None
    assert (label.source_type, label.description, label.tool) == (DIGITAL_SOURCE_TYPE, DESCRIPTION, TOOL)
    assert label.description == "Synthetic image, not an observation of any place"
    assert label.record == RECORD
    assert label.prompt == RECORD["text"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_xmp_has_the_fields_of_the_standards(ending: str, tmp_path: Path) -> None:
    save_synthetic(draw(), tmp_path / f"a{ending}", RECORD)
    with Image.open(tmp_path / f"a{ending}") as read:
        packet = read.info["xmp"]
    assert packet.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'.encode())
    assert packet.endswith(b'<?xpacket end="r"?>')
    described = ElementTree.fromstring(packet.decode()).findall(".//rdf:Description", NAMESPACES)
    assert len(described) == 1

    def text(path: str) -> str | None:
        return described[0].findtext(path, namespaces=NAMESPACES)

    assert text("Iptc4xmpExt:DigitalSourceType") == DIGITAL_SOURCE_TYPE
    assert text("Iptc4xmpExt:AISystemUsed") == "miniature with coast/adapter"
    assert text("Iptc4xmpExt:AISystemVersionUsed") == "0123456789abcdef"
    assert text("Iptc4xmpExt:AIPromptInformation") == 'a "dam" <b> & 堤'
    assert text("xmp:CreatorTool") == TOOL
    assert text("photoshop:Credit") == f"Made by a model with {TOOL}"
    assert text("dc:description/rdf:Alt/rdf:li") == DESCRIPTION
    assert text("xmpRights:UsageTerms/rdf:Alt/rdf:li") == "base miniature: mit"
    assert b"exif:GPS" not in packet


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_programs_that_read_no_xmp_find_exif(ending: str, tmp_path: Path) -> None:
    save_synthetic(draw(), tmp_path / f"a{ending}", RECORD)
    with Image.open(tmp_path / f"a{ending}") as read:
        exif = read.getexif()
        assert exif[0x010E] == DESCRIPTION
        assert exif[0x0131] == TOOL
        comment = exif.get_ifd(0x8769)[0x9286]
        assert exif.get_ifd(0x8825) == {}  # GPS
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be").startswith('a "dam" <b> & 堤\nSteps: 20, CFG scale: 5.0, Seed: 7, Sampler: ddim')


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_picture_is_the_same_bytes(ending: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_synthetic(draw(), tmp_path / f"{name}{ending}", RECORD)
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_of_the_picture_that_it_was_made_from_stays(ending: str, tmp_path: Path) -> None:
    """A picture that starts from a photograph must not inherit where that was taken."""
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 0.0)}
    exif[0x830E] = (0.5, 0.5, 0.0)  # ModelPixelScale of a GeoTIFF
    draw().save(tmp_path / "photo.jpg", exif=exif, comment=b"EPSG:2056", xmp=b"<x exif:GPSLatitude='47'/>", dpi=(300, 300))
    with Image.open(tmp_path / "photo.jpg") as photo:
        assert photo.getexif().get_ifd(0x8825)[1] == "N"
        photo.info["icc_profile"] = b"profile"
        save_synthetic(photo, tmp_path / f"a{ending}", RECORD)
    written = (tmp_path / f"a{ending}").read_bytes()
    assert not [mark for mark in (b"EPSG", b"GPSLatitude", b"profile") if mark in written]
    with Image.open(tmp_path / f"a{ending}") as read:
        assert read.getexif().get_ifd(0x8825) == {}
        assert 0x830E not in read.getexif()


@pytest.mark.parametrize(
    "key",
    ["latitude", "lon", "Center_Lat", "bbox", "west", "crs", "EPSG", "GPSInfo", "gps_longitude", "GeoTIFF", "geotransform",
     "ModelTiepointTag", "geometry", "transform", "coordinates"],
)  # fmt: skip
def test_a_record_that_places_a_picture_is_refused(key: str, tmp_path: Path) -> None:
    expected = (
        rf'a.png: "{key}" in its record would place a synthetic picture on the ground; leave it out, or put what the model was '
        'told under "metadata".$'
    )
    with pytest.raises(DataError, match=expected):
        save_synthetic(draw(), tmp_path / "a.png", {**RECORD, "from": [{"deep": {key: 1}}]})
    assert list(tmp_path.iterdir()) == []


def test_ordinary_names_are_no_georeference() -> None:
    names = ("latent", "format", "longest", "boxes_of_text", "class", "relation", "template", "resolution", "geographic_prompt")
    refuse_georeference(dict.fromkeys(names, 1) | {"metadata": {"latitude": 1}}, "a.png")


def test_a_picture_of_another_format_keeps_its_label(tmp_path: Path) -> None:
    save_synthetic(draw(), tmp_path / "a.png", RECORD)
    for name in ("b.webp", "c.jpg"):
        convert_synthetic(tmp_path / "a.png", tmp_path / name)
        label = read_label(tmp_path / name)
        assert label is not None
        assert label.record == RECORD
    convert_synthetic(tmp_path / "b.webp", tmp_path / "d.png")
    with Image.open(tmp_path / "b.webp") as first, Image.open(tmp_path / "d.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))
    draw().save(tmp_path / "plain.png")
    with pytest.raises(DataError, match=r"plain.png: carries no record of how it was made, so a copy would not either; draw"):
        convert_synthetic(tmp_path / "plain.png", tmp_path / "e.jpg")


def test_a_photograph_has_no_label(tmp_path: Path) -> None:
    draw().save(tmp_path / "a.jpg")
    captured = DIGITAL_SOURCE_TYPE.replace("trainedAlgorithmicMedia", "digitalCapture")
    name = NAMESPACES["Iptc4xmpExt"]
    for number, packet in enumerate(
        [
            f'<r:RDF xmlns:r="{NAMESPACES["rdf"]}"><r:Description xmlns:i="{name}" i:DigitalSourceType="{captured}"/></r:RDF>',
            "<broken",
            f'<!DOCTYPE a [<!ENTITY b "c">]><a>{DIGITAL_SOURCE_TYPE}</a>',
            "",
        ]
    ):
        draw().save(tmp_path / f"{number}.webp", xmp=packet.encode())
        assert read_label(tmp_path / f"{number}.webp") is None
    assert read_label(tmp_path / "a.jpg") is None


@pytest.mark.parametrize("form", ["attribute", "element", "resource"])
def test_labels_of_other_programs_are_read(form: str, tmp_path: Path) -> None:
    uri = DIGITAL_SOURCE_TYPE.replace("trained", "compositeWithTrained")
    inner = {
        "attribute": f'<r:Description xmlns:i="{NAMESPACES["Iptc4xmpExt"]}" i:DigitalSourceType="{uri}"/>',
        "element": f'<r:Description xmlns:i="{NAMESPACES["Iptc4xmpExt"]}"><i:DigitalSourceType>{uri}</i:DigitalSourceType>'
        "<i:AIPromptInformation>a pier</i:AIPromptInformation></r:Description>",
        "resource": f'<r:Description xmlns:i="{NAMESPACES["Iptc4xmpExt"]}"><i:DigitalSourceType r:resource="{uri}"/>'
        "</r:Description>",
    }[form]
    draw().save(tmp_path / "a.jpg", xmp=f'<r:RDF xmlns:r="{NAMESPACES["rdf"]}">{inner}</r:RDF>'.encode())
    label = read_label(tmp_path / "a.jpg")
    assert label is not None
    assert (label.source_type, label.record, label.prompt) == (uri, {}, "a pier" if form == "element" else "")


def test_a_picture_of_an_older_skygen_is_read(tmp_path: Path) -> None:
    notes = PngInfo()
    notes.add_itxt("skygen", json.dumps({"text": "a pier", "synthetic": True}))
    draw().save(tmp_path / "a.png", pnginfo=notes)
    label = read_label(tmp_path / "a.png")
    assert label is not None
    assert (label.source_type, label.prompt) == (DIGITAL_SOURCE_TYPE, "a pier")


def test_what_cannot_be_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"none.png: there is no such file; give a picture.$"):
        read_label(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(
        DataError, match=r"text.png: not readable as an image \(no format is known by its first bytes\); copy or draw it"
    ):
        read_label(tmp_path / "text.png")
    save_synthetic(draw(), tmp_path / "cut.png", RECORD)
    data = (tmp_path / "cut.png").read_bytes()
    for length in (20, 200, 1500):
        (tmp_path / "cut.png").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut.png: not readable as an image \(.+\); copy or draw it anew.$"):
            read_label(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes(data[:-40])
    with pytest.raises(DataError, match=r"cut.png: not readable as an image \(.+\); copy or draw it anew.$"):
        convert_synthetic(tmp_path / "cut.png", tmp_path / "b.png")


def test_what_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot be written .* free disk space"):
        save_synthetic(draw(), tmp_path / "file" / "a.png", RECORD)
    with pytest.raises(ConfigError, match=r"a.bmp: no format that carries a label; end the name in .png, .jpg, .jpeg, .webp.$"):
        save_synthetic(draw(), tmp_path / "a.bmp", RECORD)
    with pytest.raises(
        ConfigError, match=r"a.jpg: a label of \d+,\d+ bytes, and a JPEG holds 65,502; save it as .png or .webp"
    ):
        save_synthetic(draw(), tmp_path / "a.jpg", {**RECORD, "text": "long " * 8000})
    save_synthetic(draw(), tmp_path / "a.webp", {**RECORD, "text": "long " * 8000})
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.webp"}


def test_the_origin_names_the_very_weights(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    base = str(stable_diffusion_folder)
    plain = describe_origin(Diffusion.load(base), base)
    diffusion = Diffusion.load(base)
    trained = diffusion.attach(LoraSettings(rank=2), Seeds(1), base=base)
    folder = tmp_path / "runs" / "coast" / "adapter"
    trained.save(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n# A LoRA\n")
    tuned = describe_origin(Diffusion.load(base, folder), base)
    assert (plain["model"], plain["adapter"], plain["adapter_sha256"]) == ("base", "", "")
    assert (tuned["model"], tuned["adapter"]) == ("tuned", "coast/adapter")
    assert tuned["base"] == plain["base"] == stable_diffusion_folder.name
    assert tuned["base_fingerprint"] == plain["base_fingerprint"]
    assert len(plain["base_fingerprint"]) == 16
    assert tuned["adapter_sha256"] == sha256((folder / "pytorch_lora_weights.safetensors").read_bytes()).hexdigest()
    assert tuned["adapter_license"] == "my-terms"
    assert tuned["terms"] == "adapter coast/adapter: my-terms"
    assert plain["versions"].keys() == {"skygen", "torch", "diffusers"}
    assert str(tmp_path) not in json.dumps(tuned)
    assert describe_origin(Diffusion.load("miniature"), "miniature")["base_fingerprint"] != plain["base_fingerprint"]
    assert "adapter_weights" not in tuned
    two = DrawingModelSettings(base, folder, more_adapters=(folder,), adapter_weights=(1.0, 0.5))
    both = describe_origin(Diffusion.load(base, adapters=two.weigh_adapters()), base)
    assert both["adapter"] == "coast/adapter + coast/adapter" and both["adapter_weights"] == [1.0, 0.5]
    assert both["adapter_sha256"] == f"{tuned['adapter_sha256']} + {tuned['adapter_sha256']}"
    with pytest.raises(ConfigError, match=r"^model\.adapter_weights has 1 numbers for 2 adapters \(model\.adapter and "):
        replace(two, adapter_weights=(1.0,)).weigh_adapters()


@pytest.mark.parametrize(
    ("card", "license_name"),
    [
        ("---\nlicense: creativeml-openrail-m\ntags: [a]\n---\n# SD", "creativeml-openrail-m"),
        ("---\r\nlicense: [mit, apache-2.0]\r\n---\r\n", "mit, apache-2.0"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [a]\n---\n", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\nlicense: {a: b}\n---\n", ""),
        ("# license: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_read_from_a_card(card: str, license_name: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert read_license(str(tmp_path)) == license_name


def test_models_are_named_without_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coast" / "adapter").mkdir(parents=True)
    (tmp_path / "my-base").mkdir()
    assert name_model(str(tmp_path / "coast" / "adapter")) == "coast/adapter"
    assert name_model(str(tmp_path / "my-base")) == "my-base"
    assert name_model("owner/model") == "owner/model"
    assert name_model("miniature") == "miniature"
    assert read_license("owner/model") == ""
    monkeypatch.chdir(tmp_path / "coast")
    assert name_model("adapter") == "coast/adapter"
