"""A training step of a captioner at BLIP-base's shape: the ordinary loop, beside one that reads kept features.

    python -m benchmarks.caption_step --steps 7

Ordinary: the network in float32 with a LoRA of PEFT on its text decoder; ``BlipProcessor`` and the vision tower run in every
step. Ours: a base in ``--dtype``, the LoRA in float32, features from the cache in bfloat16. Weights are random and the same; so
are images, captions (16 tokens, start and end included), layers with a LoRA, its rank, and AdamW's settings. The two take turns
in one process. What is done once, the building of the cache, is printed beside it.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from skygen.data.batches import Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.evaluation.intervals import bootstrap_interval
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner
from skygen.models.captioners.blip import TEXT_DECODER
from skygen.seeding import Seeds
from skygen.training.feature_cache import CachedFeatures, FeatureCacheSettings, build_features
from skygen.training.optimizer import OptimizerSettings, build_optimizer

TOKENS = 16
RESOLUTION = 384
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-2
Step = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of our frozen base")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="skygen-caption-step-"))
    try:
        compare(folder, options)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Build both, and let them take turns."""
    build_network(folder / "network")
    pairs = write_pairs(folder / "data", options.images, folder / "network")
    steps: dict[str, Step] = {
        "ordinary loop": ordinary_steps(folder / "network", pairs, options),
        "skygen, kept features": kept_steps(folder / "network", pairs, folder / "features", options),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(1 + options.steps):
        for name, step in steps.items():
            start = time.perf_counter()
            loss = step()
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
                losses[name].append(loss)
    for name, values in seconds.items():
        print(f"{name:22} {statistics.median(values):8.3f} s a step of {options.batch}, last loss {losses[name][-1]:.3f}")
    plain, own = (np.array(values) for values in seconds.values())
    ratios = plain / own
    low, high = min(ratios), max(ratios)
    if options.steps > 1:
        low, high = bootstrap_interval(ratios, seeds=Seeds(0), statistic=lambda items: float(np.median(items)))
    print(f"{statistics.median(ratios):.2f} times as fast (95 % interval {low:.2f} to {high:.2f}; {options.steps} steps each)")


def build_network(folder: Path) -> None:
    """Write a BLIP of the base size with random weights, and a tokenizer with words of its own."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["a", *(f"word{number}" for number in range(30_521 - len(special)))]
    vocabulary = {piece: place for place, piece in enumerate([*special, *words, "[DEC]", "[ENC]"])}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, bos_token="[DEC]", model_max_length=512)
    vision = {"initializer_range": 0.02}  # the default of 1e-10 would make all images alike
    text = {"num_attention_heads": 12, "bos_token_id": 30_522, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    Seeds(0).reset_global("weights")
    network = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    network.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": RESOLUTION, "width": RESOLUTION})
    BlipProcessor(images, tokenizer).save_pretrained(folder)


def write_pairs(root: Path, count: int, network: Path) -> PairList:
    """Write JPEGs of 384 pixels a side, each with a caption of 16 tokens."""
    from transformers import BertTokenizer

    root.mkdir()
    draw, pairs = Seeds(0).numpy("pairs"), []
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype="uint8"))
        path = root / f"{number}.jpg"
        coarse.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC).save(path, quality=88)
        words = " ".join(f"word{place}" for place in draw.integers(0, 30_000, TOKENS - 2).tolist())
        pairs.append(Pair(path.name, path, (words,)))
    lengths = {len(ids) for ids in BertTokenizer.from_pretrained(network)([pair.captions[0] for pair in pairs]).input_ids}
    if lengths != {TOKENS}:
        raise AssertionError(f"captions have {lengths} tokens, not {TOKENS}")
    return PairList.of(pairs, root)


def ordinary_steps(network: Path, pairs: PairList, options: argparse.Namespace) -> Step:
    """What a fine-tuning script begins with."""
    from peft import LoraConfig, get_peft_model
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor: Any = BlipProcessor.from_pretrained(network)
    base = BlipForConditionalGeneration.from_pretrained(network, use_safetensors=True)
    lora = LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=TEXT_DECODER)
    Seeds(0).reset_global("lora")
    model: Any = get_peft_model(base, lora).to(options.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rows = _rows(len(pairs), options.batch)

    def step() -> float:
        some = [pairs[row] for row in next(rows)]
        images = [Image.open(pair.image).convert("RGB") for pair in some]
        texts = [pair.captions[0] for pair in some]
        inputs = processor(images=images, text=texts, padding=True, return_tensors="pt").to(options.device)
        loss = model(**inputs, labels=inputs.input_ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def kept_steps(network: Path, pairs: PairList, folder: Path, options: argparse.Namespace) -> Step:
    """The same by way of the cache; what building it takes is printed."""
    captioner = Captioner.load(str(network), device=options.device, dtype=options.dtype)
    trained = captioner.attach(LoraSettings(options.rank), Seeds(0))
    captioner.network.train()
    images = ImageSettings(RESOLUTION, crop=False, random_dihedral=False)
    rejects = Rejects(None)
    start = time.perf_counter()
    settings = FeatureCacheSettings(folder, batch_size=options.batch)
    features: CachedFeatures = build_features(captioner, pairs, images, settings, rejects, device=options.device)
    seconds = time.perf_counter() - start
    (store,) = features.stores
    print(f"building the cache {seconds / len(pairs):8.3f} s an image, {store.size_bytes / len(store):,.0f} bytes an image")
    stream = PairStream(pairs, images, CaptionSettings(), Seeds(0), rejects, features)
    batches = iter(load_batches(stream, Positions(0, 1 << 30, options.batch)))
    settings_of_adamw = OptimizerSettings(learning_rate=LEARNING_RATE, adam_weight_decay=WEIGHT_DECAY)
    optimizer = build_optimizer(trained.parameters, settings_of_adamw)
    unused = Seeds(0).generator("unused")

    def step() -> float:
        batch = next(batches).to(torch.device(options.device))
        loss: Any = captioner.loss(batch, unused).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _rows(count: int, batch: int) -> Iterator[list[int]]:
    first = 0
    while True:
        yield [(first + place) % count for place in range(batch)]
        first += batch


if __name__ == "__main__":
    main()
