"""Run folders made by hand, and a page as a browser would see it, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from skygen.evaluation.scores import Score, to_metrics

ATTACK = '<script>alert(1)</script> & "two" courts\' edge'
MODELS = ("tuned", "base", "tuned, best of 4")
LEAKAGE = [
    {"question": "Was the scorer trained on the evaluation data?", "answer": "no", "detail": "It saw the fabricated world."},
    {"question": "Did the scorer choose the pictures?", "answer": "yes", "detail": "It kept the best of 4."},
    {"question": "Are real images among the training images?", "answer": "partly", "detail": "12 of 500."},
    {"question": "Are prompts among the training captions?", "answer": "unknown", "detail": ATTACK},
]


class Page(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, tag: str, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for name, attributes in self.tags if name == tag and attribute in attributes]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(folder: Path, data: Path, command: Sequence[str] = ("recipes/score_pairs.py", "--keep", "0.5")) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"run:\n  name: {folder.name}\n  root: runs\npairs:\n  root: {data}\n# {ATTACK}\n")
    environment = {"command": list(command), "commit": "c0ffee", "versions": {"torch": "9.9.9"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "run_status.json").write_text(json.dumps({"state": "finished", "step": 3, "reason": ""}))
    return folder


def cosine(model: str, place: int) -> float:
    """Return what a picture scores: the tuned model's rise with its place, and the others' in steps of their own."""
    return {"tuned": 0.30 + place / 1000, "base": 0.25 + (place % 3) / 500, "tuned, best of 4": 0.36 + (place % 5) / 700}[model]


def make_evaluation(folder: Path, data: Path, *, count: int = 16, raised: float = 0.0, **metrics: Any) -> Path:
    """Make what ``recipes/evaluate_images.py`` leaves behind: three models and real images, ``count`` pictures each.

    Args:
        folder: of the run.
        data: folder of the images ``images/0.png`` and so on.
        count: prompts.
        raised: added to every score of the tuned model.
        metrics: entries of ``metrics.json`` that are to be otherwise.
    """
    make_run(folder, data, ("recipes/evaluate_images.py", "--run.name", folder.name, "--pairs.where", "year >= 2018"))
    for number in range(len(MODELS) + 1):
        Image.new("RGB", (8, 8), (60 * number, 90, 120)).save(folder / f"{number}.png")

    def scores(place: int) -> dict[str, float]:
        return {model: cosine(model, place) + raised * (model == "tuned") for model in MODELS}

    write_lines(folder / "items.jsonl", [
        {"key": f"{place}.png", "scores": {
            model: {"skyclip_score@skyclip:miniature": value, "judge_accuracy@judge:miniature": float(place % 2)}
            for model, value in scores(place).items()
        }}
        for place in range(count)
    ])  # fmt: skip
    images = {"real": str(folder / "3.png")} | {model: f"{number}.png" for number, model in enumerate(MODELS)}
    write_lines(folder / "pictures.jsonl", [
        {"key": f"{place}.png", "prompt": f"prompt number {place}", "seed": 100 + place, "images": images,
         "skyclip_score": scores(place), "judged": dict.fromkeys(MODELS, "sea lake")}
        for place in range(count)
    ])  # fmt: skip
    found = [
        Score("fid", 12.5, count, (11.0, 14.0), "tuned", "test", "skyclip:miniature"),
        Score("fid", 40.25, count, (39.0, 42.0), "base", "test", "skyclip:miniature"),
        Score("skyclip_score", 0.31234567890123, count, (0.3, 0.32), "tuned", "test", "skyclip:miniature"),
    ]
    content = to_metrics("skygen-1", found) | {
        "seed": 7,
        "split": {"name": "test", "images": count, "fingerprint": "6042cffbb2c006e9", "official": None},
        "counts": {"real": 500, **dict.fromkeys(MODELS, count)},
        "extractors": [{"name": "skyclip:miniature", "weights": "00112233aabbccdd", "dimension": 128, "input": "64 x 64"}],
        "seconds": {"fid, skyclip:miniature": 12.34},
    }
    (folder / "metrics.json").write_text(json.dumps(content | metrics))
    return folder


def stratum(name: str, group: str | None, value: float, count: int, model: str = "tuned", metric: str = "skyclip_score") -> Any:
    score = Score(metric, value, count, (value - 0.01, value + 0.01), model, "test", "skyclip:miniature")
    return {"stratum": name, "group": group, "score": asdict(score)}
