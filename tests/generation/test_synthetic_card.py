"""The card of a synthetic set says what it is, in a form that the hub reads, and lets no text of the set break out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard

from skygen.generation.synthetic_card import LIMITS, SetFacts, write_synthetic_card

HOSTILE = '| <script>x</script> `a` [b](c)\n# d: "e"\n---'


def make_records(count: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "file_name": f"images/{index:06d}.png",
            "text": f"a satellite image of pier {index % 2}",
            "key": "images2/a1_CH_19.jpg" if index else "",
            "class": "pier" if index < 2 else "",
            "base": "miniature",
            "base_fingerprint": "0123456789abcdef",
            "adapter": "coast/adapter",
            "adapter_sha256": "f" * 64,
            "terms": "base miniature: mit",
            "num_inference_steps": 20,
            "guidance_scale": 5.0,
            "scheduler": "ddim",
            "synthetic": True,
        }
        for index in range(count)
    ]


SCORES = [
    {"name": "skyclip_score", "value": 0.25, "interval": [0.2, 0.3], "count": 3, "model": "tuned", "subset": "prompts",
     "extractor": "skyclip:x"},
    {"name": "fid", "value": 12.0, "interval": None, "count": 3, "model": "tuned", "subset": "", "extractor": ""},
]  # fmt: skip


def test_the_card_tells_all_that_is_known(tmp_path: Path) -> None:
    facts = SetFacts("coast", "prompts.csv", SCORES, {"compared with": "200 images", "copies": 0}, {"data": "SkyScript 5f00"})
    path = write_synthetic_card(tmp_path, iter(make_records()), facts)
    text = path.read_text(encoding="utf-8")
    for line in (
        "# coast",
        "3 pictures drawn by a model. **Synthetic image, not an observation of any place.**",
        "- different prompts: 2",
        "- source of the prompts: `prompts.csv`",
        "| `pier` | 2 |",
        "| no class | 1 |",
        "- CH: SWISSIMAGE 10 cm RGB (Google Earth Engine: ORTHO/Switzerland/SWISSIMAGE/10cm), 2 prompts",
        f"| `miniature` | `0123456789abcdef` | `coast/adapter` | `{'f' * 64}` | 3 |",
        "- `scheduler ddim, num_inference_steps 20, guidance_scale 5.0`: 3 pictures",
        "- data: `SkyScript 5f00`",
        "| `skyclip_score` | `tuned` | 0.2500 | 0.2000 to 0.3000 | 3 | `prompts` | `skyclip:x` |",
        "| `fid` | `tuned` | 12.0000 | none | 3 |  |  |",
        "- compared with: `200 images`",
        "- copies: `0`",
        "- `base miniature: mit`",
        "Captions and tags that are made from OpenStreetMap: © OpenStreetMap contributors, ODbL 1.0,",
        *(f"- {limit}" for limit in LIMITS),
    ):
        assert f"\n{line}\n" in text, line


def test_the_hub_reads_its_header(tmp_path: Path) -> None:
    write_synthetic_card(tmp_path, make_records(), SetFacts("coast"))
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.pretty_name == "coast"
    assert (card.data.license, card.data.license_name) == ("other", "by-model-and-odbl")
    assert card.data.tags == ["synthetic", "remote-sensing", "skygen"]
    assert card.data.size_categories == ["n<1K"]
    assert "None were measured." in card.text
    assert "Not looked for." in card.text


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    records = [dict.fromkeys(("text", "class", "base", "adapter", "terms", "scheduler", "key"), HOSTILE) for _ in range(2)]
    scores = [{**SCORES[0], "name": HOSTILE, "subset": HOSTILE}]
    facts = SetFacts(HOSTILE, HOSTILE, scores, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE})
    text = write_synthetic_card(tmp_path, records, facts).read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["pretty_name"] == " ".join(HOSTILE.split())
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert [line.split()[0] for line in headings] == ["#", *["##"] * 7]
    rows = [line for line in body.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert [row.replace("\\|", "").count("|") for row in rows] == [3, 6, 8]


def test_no_place_of_the_machine_is_told(tmp_path: Path) -> None:
    records = [{**record, "base": "/home/me/models/sd", "adapter": "/home/me/runs/a"} for record in make_records()]
    facts = SetFacts("coast", "/home/me/prompts.csv", trained_on={"data": "/home/me/data/skyscript"})
    text = write_synthetic_card(tmp_path, records, facts).read_text(encoding="utf-8")
    assert "/home" not in text
    assert all(f"`{name}`" in text for name in ("sd", "a", "prompts.csv", "skyscript"))


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    records = [{**record, "class": f"class {number}"} for number, record in enumerate(make_records(203))]
    text = write_synthetic_card(tmp_path, records, SetFacts("coast")).read_text(encoding="utf-8")
    assert "\n| 3 further classes | 3 |\n" in text
    assert text.count("| `class ") == 200


def test_a_readme_of_ones_own_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_text("mine")
    with caplog.at_level(logging.WARNING, "skygen"):
        write_synthetic_card(tmp_path, make_records(), SetFacts("coast"))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "not written by skygen, and left as it is; the card of the set is not written." in caplog.text
    (tmp_path / "README.md").unlink()
    write_synthetic_card(tmp_path, make_records(), SetFacts("first"))
    write_synthetic_card(tmp_path, make_records(), SetFacts("second"))
    assert "# second" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_set_of_nothing_has_a_card(tmp_path: Path) -> None:
    text = write_synthetic_card(tmp_path, [], SetFacts("coast")).read_text(encoding="utf-8")
    assert "0 pictures drawn by a model." in text
    assert json.dumps("n<1K").strip('"') in text
