"""Batches of pixels and captions from inside the zips, beside a plain PyTorch ``Dataset`` over the same files extracted.

    python -m benchmarks.batches --images 4000 --folder /tmp/skygen-batches

Both decode, resize with Pillow's bicubic filter, crop at random, turn at random, and make float32 tensors in [-1, 1].
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import time
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from skygen.data.batches import Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.seeding import Seeds

LIST = "SkyScript_train_unfiltered_5M.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/skygen-batches"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    zipped, extracted = write_data(options.folder, options.images)
    for workers in (0, 2):
        loaders: dict[str, Callable[[], Iterable[Any]]] = {
            "plain Dataset, extracted": partial(plain_batches, extracted, options, workers),
            "skygen, from the zip": partial(skygen_batches, zipped, options, workers),
        }
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(options.repeats):
            for name, load in loaders.items():
                rates[name].append(measure(load(), options.images))
        plain, ours = rates.values()
        for name, values in rates.items():
            print(f"{workers} workers  {name:26} {statistics.median(values):8,.0f} images/s")
        ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
        print(f"{workers} workers  ratio {ratio:.2f}")


def write_data(folder: Path, count: int) -> tuple[Path, Path]:
    """Write the same JPEGs in a zip and in a folder, each with the pair list: 15 kB on average, 120 to 480 pixels a side."""
    zipped, extracted = folder / "zipped", folder / "extracted"
    if not (zipped / LIST).exists():
        draw = Seeds(0).numpy("batches")
        (extracted / "images2").mkdir(parents=True, exist_ok=True)
        zipped.mkdir(parents=True, exist_ok=True)
        rows = []
        with zipfile.ZipFile(zipped / "images2.zip", "w") as archive:
            for number in range(count):
                width, height = draw.integers(120, 480, size=2).tolist()
                coarse = Image.fromarray(draw.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype="uint8"))
                buffer = io.BytesIO()
                coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
                name = f"images2/a{number}_CH_19.jpg"
                archive.writestr(name, buffer.getvalue())
                (extracted / name).write_bytes(buffer.getvalue())
                rows.append((name, f"a satellite image of building {number}"))
        for place in (extracted, zipped):
            with (place / LIST).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("filepath", "title"), *rows])
    return zipped, extracted


class PlainDataset(Dataset[tuple[torch.Tensor, str]]):
    """What a training script begins with."""

    def __init__(self, root: Path, resolution: int) -> None:
        with (root / LIST).open(newline="", encoding="utf-8") as file:
            self.rows = [(root / row["filepath"], row["title"]) for row in csv.DictReader(file)]
        self.transform = v2.Compose(
            [
                v2.Resize(resolution, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomCrop(resolution),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path, caption = self.rows[index]
        return self.transform(Image.open(path).convert("RGB")), caption


def plain_batches(root: Path, options: argparse.Namespace, workers: int) -> Iterable[Any]:
    return DataLoader(PlainDataset(root, options.resolution), options.batch, shuffle=True, num_workers=workers)


def skygen_batches(root: Path, options: argparse.Namespace, workers: int) -> Iterable[Any]:
    pairs = PairSettings(root).read(Rejects(None))
    stream = PairStream(pairs, ImageSettings(options.resolution), CaptionSettings(), Seeds(0), Rejects(None))
    return load_batches(stream, Positions(0, options.images // options.batch, options.batch), workers)


def measure(batches: Iterable[Any], images: int) -> float:
    """Return images a second, from the first batch asked for to the last."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
