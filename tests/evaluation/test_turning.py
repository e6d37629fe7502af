"""Turned pictures: against pixels turned by NumPy, pictures that look the same from every side, and real tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.errors import ConfigError, DataError, ImageError
from skygen.evaluation.images.turning import turned_scores
from skygen.evaluation.scores import Score
from skygen.models.scorer import Picture, Scorer
from skygen.seeding import Seeds

SEEDS = Seeds(7)
TEXTS = ["a pier", "a field", "a road", "a forest", "a lake", "a town", "a quarry"]


@pytest.fixture(scope="module")
def scorer(skyclip_folder: Path) -> Scorer:
    return Scorer.load(str(skyclip_folder), batch_size=3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven pictures, of different sizes, bright on one side."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number in range(len(TEXTS)):
        pixels = SEEDS.numpy("pixels", number).integers(0, 120, (64 + 2 * number, 64 + 4 * number, 3))
        pixels[:, : 20 + number] += 130
        found.append(folder / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(found[-1])
    return found


def score(scorer: Scorer, paths: Sequence[Path], texts: Sequence[str] = TEXTS, **settings: object) -> tuple[Score, Score]:
    turned, change = turned_scores(scorer, paths, texts, model="tuned", subset="test", seeds=SEEDS, **settings)  # type: ignore[arg-type]
    return turned, change


def test_the_means_are_those_of_pixels_turned_by_numpy(scorer: Scorer, paths: list[Path]) -> None:
    cosines = np.empty((4, len(paths)))
    for place, (path, text) in enumerate(zip(paths, TEXTS, strict=True)):
        pixels = np.asarray(Image.open(path))
        for quarters in range(4):
            picture = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, quarters)))
            cosines[quarters, place] = scorer.similarity([picture], [text])[0]
    turned, change = score(scorer, paths)
    assert (turned.name, change.name) == ("skyclip_score_turned", "skyclip_score_turned_change")
    assert turned.value == pytest.approx(cosines[1:].mean(), abs=1e-5)
    assert change.value == pytest.approx(np.abs(cosines[1:] - cosines[0]).mean(), abs=1e-5)
    assert change.value > 1e-3
    for one in (turned, change):
        assert (one.count, one.model, one.subset) == (len(paths), "tuned", "test")
        assert one.extractor == f"skyclip:{scorer.name}"
        assert one.interval is not None
        assert one.interval[0] < one.value < one.interval[1]


def test_embeddings_at_hand_spare_a_fourth_pass(scorer: Scorer, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    upright = scorer.embed_images(paths)
    expected = score(scorer, paths)
    batches: list[int] = []
    original = Scorer.embed_images

    def noting(self: Scorer, images: Sequence[Picture]) -> np.ndarray:
        batches.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Scorer, "embed_images", noting)
    given = score(scorer, paths, upright=upright)
    assert [one.value for one in given] == pytest.approx([one.value for one in expected], abs=1e-6)
    assert batches == [3, 3, 3, 3, 3, 3, 1, 1, 1]  # three turns of each batch of pictures, and no picture upright


def test_pictures_that_look_the_same_from_every_side_change_nothing(scorer: Scorer, tmp_path: Path) -> None:
    rows, columns = np.mgrid[-31.5:32.5, -31.5:32.5]
    rings = (127 + 127 * np.cos(np.hypot(rows, columns) / 3)).astype(np.uint8)
    path = tmp_path / "rings.png"
    Image.fromarray(np.repeat(rings[..., None], 3, axis=2)).save(path)
    turned, change = score(scorer, [path], ["a fountain"])
    assert change.value == pytest.approx(0.0, abs=1e-6)
    assert turned.value == pytest.approx(float(scorer.similarity([path], ["a fountain"])[0]), abs=1e-6)
    assert (turned.count, turned.interval) == (1, None)


def test_of_many_pictures_a_seeded_sample_is_turned_each_with_its_own_prompt(scorer: Scorer, paths: list[Path]) -> None:
    upright = scorer.embed_images(paths)
    some = score(scorer, paths, limit=4)
    assert [one.count for one in some] == [4, 4]
    assert some == score(scorer, paths, limit=4)
    assert [one.value for one in score(scorer, paths, limit=4, upright=upright)] == pytest.approx(
        [one.value for one in some], abs=1e-6
    )
    chosen = sorted(SEEDS.numpy("pictures to turn", len(paths)).permutation(len(paths))[:4])
    alone = score(scorer, [paths[row] for row in chosen], [TEXTS[row] for row in chosen])
    assert [one.value for one in alone] == pytest.approx([one.value for one in some], abs=1e-6)


def test_real_tiles_keep_their_score_when_turned(shared_data: Callable[[str], Path]) -> None:
    every = sorted(shared_data("eurosat_rgb").rglob("*.jpg"))
    paths = [every[row] for row in SEEDS.numpy("tiles").permutation(len(every))[:60]]
    texts = [f"a satellite image of {path.parent.name}" for path in paths]
    scorer = Scorer.load("miniature")
    turned, change = score(scorer, paths, texts)
    upright = scorer.similarity(paths, texts)
    assert turned.count == 60
    assert turned.value == pytest.approx(upright.mean(), abs=0.03)
    assert 0.0 < change.value < upright.std()


def test_what_cannot_be_turned_is_refused(scorer: Scorer, paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no picture to turn"):
        score(scorer, [], [])
    with pytest.raises(DataError, match="There are 7 pictures but 2 prompts; give one for each picture"):
        score(scorer, paths, TEXTS[:2])
    with pytest.raises(DataError, match="There are 7 pictures but 3 upright embeddings"):
        score(scorer, paths, upright=np.eye(3, 128))
    with pytest.raises(ConfigError, match="limit is 0; turn at least 1 picture"):
        score(scorer, paths, limit=0)
    with pytest.raises(ImageError, match="missing"):
        score(scorer, [tmp_path / "nowhere.png"], ["a pier"])
