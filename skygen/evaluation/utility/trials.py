"""Whether synthetic images help: what is trained on what, what must not meet the test, and what came of it.

The classifiers that are compared differ in nothing but their training images: real ones alone, synthetic ones alone, or
both. All are tested on real images. Source: classifiers of generated images are tested so by Ravuri and Vinyals (2019) and, as
"GAN-train", by Shmelkov et al. (2018, section 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, final

from skygen import plain_json
from skygen.config import CountFromZero
from skygen.errors import ConfigError, DataError
from skygen.evaluation.splits import fingerprint_references
from skygen.seeding import Seeds

RESULTS: Final = "results.jsonl"
FEWEST_SEEDS: Final = 3
"""Below it nothing can be said of how far a result moves with the drawn images and the initial weights."""
NAMED: Final = 5
"""Images that a sentence names before it counts the others."""

Share = Literal["union", "balanced"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class UtilitySettings:
    """Which classifiers are trained, on how many images."""

    shots: tuple[int, ...] = (10,)
    """Real images of each class; several numbers make a curve, and the images of a smaller one are among those of a larger."""
    seeds: int = 3
    """Repetitions: each draws its own images and initial weights; fewer than three are reported with a warning."""
    multiples: tuple[int, ...] = (1, 5)
    """Synthetic images for each real one in the mixed arms; the synthetic arm has those of the largest, and no real ones."""
    batches: Share = "union"
    """What a mixed batch is drawn from: ``union``, all images alike; ``balanced``, each real image so many times as often that
    half of what is seen is real."""
    test_split: str = "test"
    """Split of the real data that is tested on."""
    test_csv: Path | None = None
    """Pair list of the test images, where ``--real.csv`` names that of the training images."""
    test_limit: CountFromZero = 0
    """At most so many test images, each class with its share; 0 takes all."""

    def __post_init__(self) -> None:
        for name in ("shots", "multiples"):
            numbers = getattr(self, name)
            if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
                listed = " ".join(map(str, numbers)) or "empty"
                raise ConfigError(f"--utility.{name} is {listed}; give one or more whole numbers from 1, each once.")
        if self.seeds < 1:
            raise ConfigError(f"--utility.seeds is {self.seeds}; give at least 1, better 3.")


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """One composition of the training images.

    Args:
        real: whether the real images are among them.
        multiple: synthetic images for each real one; 0 for none.
    """

    real: bool
    multiple: int

    @property
    def name(self) -> str:
        """Such as ``real``, ``synthetic 5x``, ``real + synthetic 5x``."""
        synthetic = f"synthetic {self.multiple}x" if self.multiple else ""
        return " + ".join(filter(None, ("real" if self.real else "", synthetic)))


REAL: Final = Arm(real=True, multiple=0)


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """One classifier to be trained.

    Args:
        shots: real images of a class.
        seed: number of the repetition, from 0.
        arm: what it is trained on.
    """

    shots: int
    seed: int
    arm: Arm

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm.name}, {self.shots} shots, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Where its checkpoints are kept: such as ``real+synthetic-5x_shots-10_seed-0``."""
        return f"{self.arm.name.replace(' + ', '+').replace(' ', '-')}_shots-{self.shots}_seed-{self.seed}"


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial: a line of ``results.jsonl``.

    Args:
        arm: its name.
        shots: real images of a class.
        seed: number of the repetition.
        real: distinct real images that were trained on.
        synthetic: the same of synthetic ones.
        steps: updates.
        training: fingerprint of these images' names and content.
        test: fingerprint of the test images' names, classes and content.
        predicted: place of the class that was seen in each test image, among the sorted classes; -1 for another.
    """

    arm: str
    shots: int
    seed: int
    real: int
    synthetic: int
    steps: int
    training: str
    test: str
    predicted: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return asdict(self)


def list_arms(multiples: Sequence[int]) -> list[Arm]:
    """List the arms: real alone, synthetic alone, and both in each multiple, ascending."""
    return [REAL, Arm(False, max(multiples)), *(Arm(True, multiple) for multiple in sorted(multiples))]


def plan_trials(settings: UtilitySettings) -> list[Trial]:
    """List all trials, one repetition after the other, so that a part of them is already a comparison."""
    arms = list_arms(settings.multiples)
    return [Trial(shots, seed, arm) for seed in range(settings.seeds) for shots in sorted(settings.shots) for arm in arms]


def order_by_class(class_names: Sequence[str | None], seeds: Seeds, purpose: str) -> dict[str, list[int]]:
    """Put the images of each class into a random order; the first n of it are a draw of n, and within the first n + 1.

    Args:
        class_names: of each image; those without a class are in no order.
        seeds: of the repetition.
        purpose: ``real`` or ``synthetic``.

    Returns:
        Places in ``class_names`` by class, the classes sorted. The order of a class does not depend on the other classes.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(class_names):
        if name:
            places.setdefault(name, []).append(place)
    return {
        name: [places[name][turn] for turn in seeds.numpy(f"{purpose} shots", name).permutation(len(places[name])).tolist()]
        for name in sorted(places)
    }


def compose(
    trial: Trial, real: Mapping[str, Sequence[Item]], synthetic: Mapping[str, Sequence[Item]], share: Share
) -> tuple[list[Item], list[Item], list[Item]]:
    """Put the training images of a trial together.

    Args:
        trial: which.
        real: drawn images by class, at least ``shots`` of each.
        synthetic: the same, at least ``shots`` times the multiple of each.
        share: see ``UtilitySettings.batches``.

    Returns:
        The distinct real images, the distinct synthetic ones, and what one round of training shows: both, the real ones
        repeated where batches are balanced.
    """
    used = [item for drawn in real.values() for item in drawn[: trial.shots]] if trial.arm.real else []
    drawn = [item for items in synthetic.values() for item in items[: trial.shots * trial.arm.multiple]]
    times = trial.arm.multiple if share == "balanced" and trial.arm.real and trial.arm.multiple else 1
    return used, drawn, used * times + drawn


def check_classes(real: Counter[str], test: Counter[str], synthetic: Counter[str], settings: UtilitySettings) -> list[str]:
    """Refuse sets of which the planned comparison cannot be made.

    Args:
        real: training images of each class; so for the two others.
        test: test images.
        synthetic: synthetic images.
        settings: how many are needed.

    Returns:
        The classes, sorted.

    Raises:
        DataError: a set has too few images of a class, or the test has other classes than the training.
    """
    classes, largest = sorted(real), max(settings.shots)
    if len(classes) < 2 or real.keys() != test.keys():
        unlike = ", ".join(sorted(real.keys() ^ test.keys())[:NAMED]) or "there is only one"
        raise DataError(
            f"--real.root: training and test images must have the same classes, two or more ({unlike}); give images "
            "with a class each, such as one folder a class, or choose with --real.classes."
        )
    if not synthetic:
        raise DataError(
            "--synthetic.root: no record has a class; draw with --prompts.made_of classes or --prompts.template "
            '"a satellite image of {}" and a file of class names, or give each line of metadata.jsonl its "class".'
        )
    needs = (
        (real, largest, "real", "--utility.shots", False),
        (synthetic, largest * max(settings.multiples), "synthetic", "--utility.multiples", True),
    )
    for found, needed, kind, flag, drawn in needs:
        if short := [f"{name} ({found[name]})" for name in classes if found[name] < needed]:
            known = f" Its classes are {', '.join(sorted(found)[:12])}; they must be called as the real ones." if drawn else ""
            raise DataError(
                f"--{kind}.root: {needed} images of each class are needed, and there are fewer of {', '.join(short)}; "
                f"lower {flag}, or {'draw' if drawn else 'read'} more.{known}"
            )
    return classes


def check_no_overlap(training: Mapping[str, str], test: Mapping[str, str]) -> None:
    """Refuse to test on what was trained on.

    Args:
        training: name of an image by the hash of its pixels.
        test: the same of the test images.

    Raises:
        ConfigError: an image is in both.
    """
    both = [f"{test[content]} is {training[content]}" for content in test if content in training]
    if both:
        raise ConfigError(
            f"{len(both)} test images are among the training images, pixel for pixel ({_name_some(both)}); take them out "
            "of one of the two, or the test is none."
        )


def check_prompts(
    records: Iterable[Mapping[str, Any]], test_keys: Collection[str], test_captions: Collection[str], known: Collection[str]
) -> None:
    """Refuse synthetic images that were drawn from what is known of the test images.

    Args:
        records: of the synthetic images: ``key`` of the pair whose caption was the prompt, and ``text``, where they have them.
        test_keys: of the test images.
        test_captions: of the test images.
        known: captions of the training images, which may stand in the test as well.

    Raises:
        ConfigError: a record names a test image, or its prompt is the caption of test images alone.
    """
    keys, texts, caught = set(test_keys), set(test_captions) - set(known), []
    for record in records:
        key, text = str(record.get("key")), str(record.get("text"))
        if key in keys or text in texts:
            caught.append(f"{record.get('file_name')}: {f'the key {key}' if key in keys else f'the words {text!r}'}")
    if caught:
        raise ConfigError(
            f"--synthetic.root: {len(caught)} prompts came from test images ({_name_some(caught)}); draw from the captions of "
            "the training split or from class names."
        )


def fingerprint_images(keys: Sequence[str], about: Sequence[str], hashes: Sequence[str]) -> str:
    """Hash names, what is said of them, and content: 16 hexadecimal digits."""
    return fingerprint_references(keys, list(zip(about, hashes, strict=True)))


def read_outcomes(path: Path) -> list[Outcome]:
    """Read ``results.jsonl``; a last line that a kill cut short is left out.

    Raises:
        DataError: a line is not as it was written.
    """
    if not path.exists():
        return []
    outcomes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = plain_json.parse(line)
            outcomes.append(Outcome(**{**row, "predicted": tuple(map(int, row["predicted"]))}))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}, is damaged; take it out, and the same command does it again.") from error
    return outcomes


def _name_some(names: Sequence[str]) -> str:
    more = f"; and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
