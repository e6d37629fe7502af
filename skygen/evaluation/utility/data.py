"""The images of a utility test: which are trained on, which are tested on, and that no image is both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, final

from skygen.data.benchmarks import Benchmark, benchmark_from_pairs
from skygen.data.images import open_image
from skygen.data.pair import Pair, to_words
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError, DataError, ImageError
from skygen.evaluation.utility.trials import (
    Trial,
    UtilitySettings,
    check_classes,
    check_no_overlap,
    check_prompts,
    compose,
    fingerprint_images,
    order_by_class,
)
from skygen.seeding import Seeds

Drawn = dict[str, list[tuple[Pair, str]]]
"""Images of each class in the order of a draw, each with the hash of its pixels."""


@final
@dataclass(frozen=True, slots=True)
class UtilityData:
    """What is trained and tested on.

    Args:
        real: training images.
        synthetic: the other ones.
        test: images with labels, the class names sorted.
        test_mark: fingerprint of these.
        test_contents: where each lies, by the hash of its pixels.
        origins: what drew the synthetic ones.
    """

    real: PairList
    synthetic: PairList
    test: Benchmark
    test_mark: str
    test_contents: dict[str, str]
    origins: list[str]


@final
@dataclass(frozen=True, slots=True)
class TrainingImages:
    """What a trial is trained on.

    Args:
        real: how many distinct real images.
        synthetic: how many distinct synthetic ones.
        shown: what one round of training shows.
        mark: fingerprint of the distinct ones.
    """

    real: int
    synthetic: int
    shown: list[Pair]
    mark: str


def read_data(
    real: PairSettings,
    synthetic: PairSettings,
    records: Sequence[Mapping[str, Any]],
    settings: UtilitySettings,
    rejects: Rejects,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UtilityData:
    """Read what there is, refuse what cannot be compared, and look at the test images.

    Args:
        real: which real images are trained on; those of ``settings.test_split`` are tested on.
        synthetic: which synthetic images there are.
        records: what ``generate`` has noted of them; empty where somebody else drew them.
        settings: of the test.
        rejects: where images that cannot be read are noted.
        progress: is told how many test images were looked at, and of how many.

    Raises:
        ConfigError: training and test are one split, or a prompt came from a test image.
        DataError: there are too few images of a class, or too many cannot be read.
    """
    if real.split == settings.test_split:
        raise ConfigError(f"--real.split and --utility.test_split are both {real.split}; test on other images.")
    training, drawn, tested = real.read(rejects), synthetic.read(rejects), _read_test(real, settings, rejects)
    keys = set(drawn.column("key").to_pylist())
    used = [record for record in records if record.get("file_name") in keys]
    prompts = used or [{"file_name": pair.key, "text": pair.captions[0]} for pair in drawn]
    captions = {caption for row in training.column("captions").to_pylist() for caption in row}
    check_prompts(prompts, [pair.key for pair in tested], {caption for pair in tested for caption in pair.captions}, captions)
    counts = [Counter(filter(None, name_classes_of(pairs))) for pairs in (training, tested, drawn)]
    classes = check_classes(counts[0], counts[1], counts[2], settings)
    test = benchmark_from_pairs(tested, settings.test_split).spread(settings.test_limit)
    contents: dict[Path, str] = {}
    key_of = {pair.image: pair.key for pair in tested}
    for number, image in enumerate(test.images, start=1):
        if (content := hash_pixels(image, key_of[image], rejects)) is not None:
            contents[image] = content
        progress(number, len(test.images))
    rejects.check(len(test.images), real.max_bad_fraction, bad=len(test.images) - len(contents))
    kept = [(image, label) for image, label in zip(test.images, test.labels, strict=True) if image in contents]
    test = replace(test, images=tuple(image for image, _ in kept), labels=tuple(label for _, label in kept))
    mark = fingerprint_images(
        [key_of[image] for image, _ in kept], [classes[label] for _, label in kept], [contents[image] for image, _ in kept]
    )
    where = {content: str(image) for image, content in contents.items()}
    return UtilityData(training, drawn, test, mark, where, list_origins(used))


def draw_images(data: UtilityData, settings: UtilitySettings, seeds: Seeds, rejects: Rejects) -> tuple[Drawn, Drawn]:
    """Draw the real and the synthetic images of a repetition, as many as its largest trial needs.

    Args:
        data: what is drawn from.
        settings: how many.
        seeds: of the repetition.
        rejects: where images that cannot be read are noted; another is drawn in their place.

    Raises:
        ConfigError: one of them is a test image.
        DataError: too few can be read.
    """
    classes, most = data.test.class_names, max(settings.shots)
    real = _draw_readable(data.real, classes, most, "real", seeds, rejects)
    synthetic = _draw_readable(data.synthetic, classes, most * max(settings.multiples), "synthetic", seeds, rejects)
    training = {content: str(pair.image) for part in (real, synthetic) for some in part.values() for pair, content in some}
    check_no_overlap(training, data.test_contents)
    return real, synthetic


def take_images(trial: Trial, drawn: tuple[Drawn, Drawn], settings: UtilitySettings) -> TrainingImages:
    """Put a trial's training images together."""
    real, synthetic, shown = compose(trial, *drawn, settings.batches)
    used = [*real, *synthetic]
    mark = fingerprint_images(
        [pair.key for pair, _ in used], [pair.class_name or "" for pair, _ in used], [content for _, content in used]
    )
    return TrainingImages(len(real), len(synthetic), [pair for pair, _ in shown], mark)


def name_classes_of(pairs: Sequence[Pair]) -> list[str | None]:
    """Return the class of each pair in words; None where it is not known."""
    names = pairs.column("class_name").to_pylist() if isinstance(pairs, PairList) else [pair.class_name for pair in pairs]
    words = {name: to_words(name) if name else None for name in set(names)}
    return [words[name] for name in names]


def list_origins(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what drew the synthetic images, each base with its adapter once."""
    named = {(str(record["base"]), str(record.get("adapter") or "")) for record in records if record.get("base")}
    return [f"{base} with the adapter {adapter}" if adapter else base for base, adapter in sorted(named)]


def hash_pixels(image: Path, key: str, rejects: Rejects) -> str | None:
    """Hash what an image shows, whatever file format it lies in; note one that cannot be decoded, and return None."""
    try:
        picture = open_image(image)
    except ImageError as error:
        rejects.add(key, str(error), where=str(image))
        return None
    return sha256(f"{picture.width}x{picture.height}".encode() + picture.tobytes()).hexdigest()


def _read_test(real: PairSettings, settings: UtilitySettings, rejects: Rejects) -> list[Pair]:
    """Read the pairs of the test split that have a class."""
    chosen = replace(
        real,
        split=settings.test_split,
        csv=settings.test_csv or real.csv,
        limit=0,
        max_images_per_caption=0,
        caption_temperature=1.0,
        balance="none",
    )
    return [pair for pair in chosen.read(rejects) if pair.class_name]


def _draw_readable(pairs: PairList, classes: Sequence[str], count: int, kind: str, seeds: Seeds, rejects: Rejects) -> Drawn:
    """Draw images of each class that can be decoded; their keys say which kind they are, their captions are the class.

    Raises:
        DataError: there are too few.
    """
    orders = order_by_class(name_classes_of(pairs), seeds, kind)
    drawn: Drawn = {}
    for name in classes:
        found = drawn.setdefault(name, [])
        for place in orders[name]:
            if len(found) == count:
                break
            pair = pairs[place]
            if (content := hash_pixels(pair.image, pair.key, rejects)) is not None:
                # one caption for all: a caption that names a direction would keep its image from being turned
                found.append((replace(pair, key=f"{kind}/{pair.key}", captions=(name,), class_name=name), content))
        if len(found) < count:
            raise DataError(f"--{kind}.root: {len(found)} images of {name} can be read, {count} are needed; see rejects.jsonl.")
    return drawn
