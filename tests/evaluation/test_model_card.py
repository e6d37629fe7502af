"""The card of an adapter: the hub's reader reads it, no text breaks out of it, and no folder of this machine is in it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from skygen.environment import describe_environment
from skygen.evaluation.model_card import CAPTIONER, DIFFUSION, CardFacts, CardKind, name_without_place, quote, write_card
from skygen.evaluation.scores import Score

SCORES = [
    Score("validation_loss", 0.25, 64, (0.2, 0.3), "tuned", "val"),
    Score("validation_loss", 0.3, 64, (0.25, 0.35), "base", "val"),
    Score("kid", 0.0123, 32, None, "tuned", "val", "skyclip:miniature"),
]


def facts(tmp_path: Path, **changes: Any) -> CardFacts:
    data = tmp_path / "some one" / "pairs"
    data.mkdir(parents=True, exist_ok=True)
    usual: dict[str, Any] = {
        "title": "harbors",
        "base": "stabilityai/sd-turbo",
        "config": {"run": {"root": str(tmp_path)}, "pairs": {"root": str(data)}, "images": {"resolution": 512}},
        "data": {"fingerprint": "0123456789abcdef", "used": 900, "filtered": {"too dark": 7}, "list": str(data / "kept.csv")},
        "environment": describe_environment()
        | {"command": [str(tmp_path / "finetune.py"), f"--pairs.root={data}", "--x", "a b"]},
        "step": 320,
        "scores": SCORES,
    }
    return CardFacts(**(usual | changes))


@pytest.mark.parametrize(("kind", "library"), [(DIFFUSION, "diffusers"), (CAPTIONER, "peft")])
def test_the_hubs_reader_reads_the_card(kind: CardKind, library: str, tmp_path: Path) -> None:
    path = write_card(tmp_path / "adapter", facts(tmp_path), kind)
    assert path == tmp_path / "adapter" / "README.md"
    card = ModelCard.load(path)
    assert (card.data.library_name, card.data.base_model, card.data.license) == (library, "stabilityai/sd-turbo", None)
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert "remote-sensing" in card.data.tags
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("validation_loss", 0.25),
        ("kid", 0.0123),
    ]
    for said in (
        "| `validation_loss` | `base` | 0.3000 | 0.2500 to 0.3500 | 64 | `val` |",
        "| `kid` | `tuned` | 0.0123 | none | 32 | `val` | `skyclip:miniature` |",
        "- fingerprint: `0123456789abcdef`",
        "- filtered: `too dark 7`",
        "| `images.resolution` | `512` |",
        "Not set: whoever publishes this sets `license` in the header of this file.",
        "ODbL 1.0",
    ):
        assert said in card.text, said
    assert ("not observations of any place" in card.text) == (kind is DIFFUSION)
    assert describe_environment()["versions"]["torch"] in card.text


def test_the_snippet_is_python_and_loads_this_adapter(tmp_path: Path) -> None:
    for kind, loads in ((DIFFUSION, 'load_lora_weights("FOLDER_OF_THIS_FILE"'), (CAPTIONER, 'Captioner.load("sta')):
        text = write_card(tmp_path / kind.library, facts(tmp_path), kind).read_text(encoding="utf-8")
        code = text.split("```python\n")[1].split("```")[0]
        compile(code, "snippet", "exec")
        assert loads in code


def test_no_folder_of_the_machine_is_told(tmp_path: Path) -> None:
    base = tmp_path / "weights" / "my base"
    base.mkdir(parents=True)
    path = write_card(tmp_path / "adapter", facts(tmp_path, base=str(base)), DIFFUSION)
    text = path.read_text(encoding="utf-8")
    for place in {str(tmp_path), str(Path.home()), str(Path.cwd()), tmp_path.parent.name, "some one", "weights/my base"}:
        assert place == "/" or place not in text, place
    assert "`kept.csv`" in text
    assert "finetune.py --pairs.root=pairs --x 'a b'" in text
    assert '"my base"' in text
    assert ModelCard.load(path).data.base_model is None  # the hub knows none of that name


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/home/somebody/data", "data"),
        ("~/data/", "data"),
        ("C:\\Users\\somebody\\base", "base"),
        ("--pairs.root=/home/somebody/data", "--pairs.root=data"),
        ("torn: /home/somebody/a.png", "torn: a.png"),
        ("stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("https://huggingface.co/stabilityai/sd-turbo", "https://huggingface.co/stabilityai/sd-turbo"),
        ("gsd / 2 <= 1 and year >= 2018", "gsd / 2 <= 1 and year >= 2018"),
        ("x" * 5000 + "/y", "x" * 5000 + "/y"),
    ],
)
def test_of_a_path_the_name_is_told(said: str, told: str) -> None:
    assert name_without_place(said) == told


def test_no_text_breaks_out_of_its_place(tmp_path: Path) -> None:
    evil = "a`b``` | <script>alert(1)</script>\n---\nlicense: mit\n# [x](http://y) \ud800"
    path = write_card(
        tmp_path / "adapter",
        facts(tmp_path, title=evil, base=evil, config={"a|b": {"c": evil}}, data={evil: evil}, scores=[], step=0),
        DIFFUSION,
    )
    text = path.read_text(encoding="utf-8")
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header)["library_name"] == "diffusers"
    assert "license" not in yaml.safe_load(header)
    assert ModelCard.load(path).data.license is None
    assert "\nlicense: mit" not in body
    assert "\n# [x]" not in body
    assert "\n# a\\`b\\`\\`\\` \\| \\<script\\>" in body
    rows = [line for line in body.splitlines() if line.startswith("| `a\\|b.c`")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 3  # two cells
    assert "None were measured while it was trained." in body


def test_a_quote_holds_any_backticks() -> None:
    assert quote("a`b") == "``a`b``"
    assert quote("`") == "`` ` ``"
    assert quote("a\nb") == "`a b`"


def test_a_card_of_somebody_else_stays_and_ones_own_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_card(tmp_path, facts(tmp_path), DIFFUSION)
    before = path.read_bytes()
    write_card(tmp_path, facts(tmp_path, title="other", license="mit"), DIFFUSION)
    assert path.read_bytes() != before
    assert ModelCard.load(path).data.license == "mit"
    path.write_text("mine", encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="skygen"):
        write_card(tmp_path, facts(tmp_path), DIFFUSION)
    assert path.read_text(encoding="utf-8") == "mine"
    assert caplog.messages == [f"{path}: not written by skygen, and left as it is; the adapter's card is not written."]
