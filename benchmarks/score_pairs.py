"""Scoring of pairs beside a plain loop with open_clip: its transforms, a DataLoader, float32, each image with its own caption.

    python -m benchmarks.score_pairs --images 600 --folder /tmp/skygen-score-pairs

The network has the shape of ViT-B/32 and random weights. SkyScript's list of 1.52 million rows has some 70 thousand distinct
captions, 22 rows a caption; the last lines are of a list in which every caption is another. Each case is a process of its own,
and they take turns. Making the network is not counted; nor is what a run does once, whatever its length: finding precision and
batch size, and comparing bfloat16 with float32 on 1,024 pairs.
"""

from __future__ import annotations

import argparse
import csv
import logging
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.batches import LIST, write_data
from benchmarks.processes import Measured, run_case, serve_case
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.evaluation.pair_scores.caption_index import CaptionIndex
from skygen.evaluation.pair_scores.embedding import Precision, at_precision
from skygen.evaluation.pair_scores.scoring import PairScorer
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

WAITED = "waited.txt"
NETWORK = "ViT-B-32-quickgelu"
PLAIN_BATCH = 64
Built = tuple[Any, Callable[[Image.Image], Any], Callable[[list[str]], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rows-a-caption", type=int, default=22)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/skygen-score-pairs"))
    parser.add_argument("--case", choices=("plain", "fp32", "bf16"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.case:
        case = plain_loop if options.case == "plain" else partial(own_scoring, options.case)
        serve_case(partial(case, build(), options))
        return
    _, extracted = write_data(options.folder, options.images)
    words = ["--images", options.images, "--workers", options.workers, "--batch", options.batch, "--folder", options.folder]
    for rows_a_caption in (options.rows_a_caption, 1):
        write_captions(extracted, rows_a_caption)
        (options.folder / WAITED).unlink(missing_ok=True)
        found: dict[str, list[Measured]] = {"plain": [], "fp32": [], "bf16": []}
        for _ in range(options.repeats):
            for name, runs in found.items():
                runs.append(run_case("benchmarks.score_pairs", name, [*map(str, words)]))
        show(found, options.images, rows_a_caption)
        waited = [float(line) for line in (options.folder / WAITED).read_text(encoding="utf-8").splitlines()]
        print(f"waiting for decoded images: {statistics.median(waited):.1%} of the time, at most {max(waited):.1%}")


def show(found: dict[str, list[Measured]], images: int, rows_a_caption: int) -> None:
    """Print rates, ratios of neighbours in time, and memory."""
    print(f"{images} pairs, {rows_a_caption} to a caption; medians of {len(found['plain'])} runs")
    print(f"{'case':8} {'pairs/s':>9} {'times plain':>12} {'peak MB':>9}")
    for name, runs in found.items():
        rate = statistics.median(images / run.seconds for run in runs)
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(found["plain"], runs, strict=True))
        print(f"{name:8} {rate:9.2f} {ratio:12.2f} {statistics.median(run.peak_mb for run in runs):9.0f}", flush=True)


def write_captions(root: Path, rows_a_caption: int) -> None:
    """Give the images captions of SkyScript's length, each to so many of them, in an order that mixes them."""
    with (root / LIST).open(newline="", encoding="utf-8") as file:
        names = [row["filepath"] for row in csv.DictReader(file)]
    numbers = Seeds(0).numpy("captions").permutation(len(names)) // rows_a_caption
    said = "a satellite image of building of apartments {} with building levels of 6, surrounded by road of residential"
    with (root / LIST).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("filepath", "title"), *zip(names, map(said.format, numbers.tolist()), strict=True)])


def build() -> Built:
    """Make the network, its transform and its tokenizer; the same random weights each time."""
    import open_clip

    Seeds(0).reset_global("weights")
    model, _, transform = open_clip.create_model_and_transforms(NETWORK)
    return model.eval(), transform, open_clip.get_tokenizer(NETWORK)


class PlainPairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What a scoring script begins with."""

    def __init__(self, root: Path, transform: Callable[[Image.Image], Any], tokenize: Callable[[list[str]], Any]) -> None:
        with (root / LIST).open(newline="", encoding="utf-8") as file:
            self.rows = [(root / row["filepath"], row["title"]) for row in csv.DictReader(file)]
        self.transform, self.tokenize = transform, tokenize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path, caption = self.rows[index]
        return self.transform(Image.open(path)), self.tokenize([caption])[0]


def plain_loop(built: Built, options: argparse.Namespace) -> list[float]:
    model, transform, tokenize = built
    pairs = PlainPairs(options.folder / "extracted", transform, tokenize)
    scores: list[float] = []
    with torch.no_grad():
        for images, texts in DataLoader(pairs, PLAIN_BATCH, num_workers=options.workers):
            embedded = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
            scores += (embedded[0] * embedded[1]).sum(dim=1).tolist()
    return scores


def own_scoring(precision: Precision, built: Built, options: argparse.Namespace) -> Any:
    model, transform, tokenize = built
    root = Path(tempfile.mkdtemp(prefix="skygen-scores-"))
    pairs = PairSettings(options.folder / "extracted").read(Rejects(None))
    parts = PairScorer(
        scorer=at_precision(Scorer("random", model, transform, tokenize, {}), precision),
        pairs=pairs,
        captions={"title": CaptionIndex.of(batch["captions"] for batch in pairs.batches())},
        folder=root,
        rejects=Rejects(None),
        batch_size=options.batch,
        workers=options.workers,
    )
    parts.embed_texts(0, 1, lambda done, total: None)
    waited = parts.score(0, 1, lambda done, total: None)
    scores = parts.read()
    with (options.folder / WAITED).open("a", encoding="utf-8") as file:
        file.write(f"{waited}\n")
    shutil.rmtree(root)
    return scores


if __name__ == "__main__":
    main()
