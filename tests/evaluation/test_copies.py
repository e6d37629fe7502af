"""Copies: the hash sees through storing, mirroring and turning, the control says what is near, and one of equals stays."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from skygen.data.images import open_image
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError, DataError
from skygen.evaluation.screening.copies import CopyRule, CopySettings, describe_control, find_duplicates
from skygen.evaluation.screening.nearest_images import ImageSet, Nearest, find_nearest, hash_images
from skygen.evaluation.screening.perceptual_hash import BITS, find_nearest_hash, hash_image, measure_couples, pack, turn
from skygen.evaluation.shards import EmbeddingShards, fill_shards
from skygen.seeding import Seeds

TURNS = [
    lambda image: image,
    ImageOps.mirror,
    ImageOps.flip,
    *(lambda image, way=way: image.transpose(way) for way in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)),
    lambda image: image.transpose(Image.Transpose.ROTATE_270),
    lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    lambda image: image.transpose(Image.Transpose.TRANSVERSE),
]


def recompress(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return open_image(buffer.getvalue())


def texture(seed: int, side: int = 64) -> Image.Image:
    """Coarse noise, as fields and roofs are."""
    grey = Seeds(seed).numpy("texture").integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)


def distance(first: Image.Image, second: Image.Image) -> int:
    return int(measure_couples(hash_image(first)[None], pack(hash_image(second)[None]))[0])


def nearest(similarity: list[float], distances: list[float]) -> Nearest:
    rows, values, bits = np.zeros(len(similarity), np.int64), np.array(similarity), np.array(distances, np.float64)
    return Nearest(rows, values, bits, rows, values, bits)


def test_a_picture_has_the_hashes_of_all_its_eight_orientations() -> None:
    assert len(TURNS) == 8
    for seed in range(20):
        image = texture(seed)
        turned = {pack(hash_image(each(image))[None]).item() for each in TURNS}
        assert turned == set(np.concatenate([pack(signs) for signs in turn(hash_image(image)[None])]).tolist())
        assert len(turned) == 8
        assert all(distance(each(image), image) == 0 for each in TURNS)


def test_unrelated_pictures_differ_in_half_of_the_bits() -> None:
    signs = np.stack([hash_image(texture(seed)) for seed in range(200)]).astype(np.float64)
    differing = (BITS - signs @ signs.T)[np.triu_indices(200, 1)] / 2
    assert differing.mean() == pytest.approx(32, abs=0.5)
    assert differing.std() == pytest.approx(4, abs=0.5)  # that of 64 coins


def test_the_nearest_hash_is_that_of_a_search_by_hand() -> None:
    signs = np.stack([hash_image(texture(seed)) for seed in range(60)])
    among = np.arange(60) % 7 != 3
    own = np.arange(60)
    rows, found = find_nearest_hash(signs, pack(signs), among, own)
    variants = turn(signs).astype(np.int64)
    by_hand = np.stack([(BITS - each @ signs.T.astype(np.int64)) // 2 for each in variants]).min(axis=0)
    by_hand[:, ~among] = BITS + 1
    by_hand[own, own] = BITS + 1
    assert np.array_equal(rows, by_hand.argmin(axis=1))
    assert np.array_equal(found, by_hand.min(axis=1))


def test_stored_anew_a_tile_keeps_its_hash_and_another_one_is_far(world: Path) -> None:
    tiles = [open_image(pair.image) for pair in read_pairs(world, split="train")]
    signs = np.stack([hash_image(tile) for tile in tiles])
    packed, every = pack(signs), np.ones(len(tiles), bool)
    for change in (recompress, lambda tile: recompress(ImageOps.mirror(tile))):
        rows, found = find_nearest_hash(np.stack([hash_image(change(tile)) for tile in tiles]), packed, every)
        assert np.array_equal(rows, np.arange(len(tiles)))
        assert np.mean(found <= CopySettings().hash_distance) >= 0.9
    _, others = find_nearest_hash(signs, packed, every, np.arange(len(tiles)))
    assert others.min() > CopySettings().hash_distance


def test_eurosat_tiles_stored_anew_are_found(shared_data: Callable[[str], Path]) -> None:
    tiles = [open_image(pair.image) for pair in read_pairs(shared_data("eurosat_rgb"), split="train", limit=300)]
    signs = np.stack([hash_image(tile) for tile in tiles])
    mirrored = np.stack([hash_image(ImageOps.mirror(tile)) for tile in tiles])
    stored = np.stack([hash_image(recompress(tile)) for tile in tiles])
    assert np.mean(measure_couples(mirrored, pack(signs)) <= 1) > 0.98
    assert np.mean(measure_couples(stored, pack(signs)) <= 6) > 0.85  # of water and forest little is left but noise
    _, others = find_nearest_hash(signs, pack(signs), np.ones(len(tiles), bool), np.arange(len(tiles)))
    assert np.mean(others <= 6) < 0.02


def image_set(tmp_path: Path, images: dict[str, Image.Image], vectors: np.ndarray) -> ImageSet:
    """Images on the disk with embeddings that the test chooses."""
    tmp_path.mkdir()
    with (tmp_path / "metadata.jsonl").open("w") as lines:
        for name, image in images.items():
            image.save(tmp_path / name)
            lines.write(f'{{"file_name": "{name}", "text": "a tile"}}\n')
    pairs = read_pairs(tmp_path)
    some = PairList.of(pairs, tmp_path)
    embeddings = EmbeddingShards(tmp_path / "embeddings", len(some), 4)
    for number in embeddings.numbers():
        embeddings.write(number, vectors[embeddings.span(number).start : embeddings.span(number).stop].astype(np.float16))
    hashes = EmbeddingShards(tmp_path / "hashes", len(some), 3)
    hash_images(some, hashes, Rejects(None), 0, 1, lambda *_: None)
    return ImageSet(some, embeddings, hashes)


@pytest.fixture
def training(tmp_path: Path) -> ImageSet:
    vectors = Seeds(1).numpy("vectors").normal(size=(10, 16))
    return image_set(tmp_path / "training", {f"{seed}.png": texture(seed) for seed in range(10)}, vectors)


def test_the_nearest_are_those_of_all_couples_and_none_is_compared_with_itself(training: ImageSet, tmp_path: Path) -> None:
    rows = np.array([7, 0, 3], np.int64)
    shards = EmbeddingShards(tmp_path / "found", 3, 2)
    found = find_nearest(training, rows, training, shards, leave_out_own=True)
    vectors = training.embeddings.take(np.arange(10)).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    assert found.row.tolist() == cosines[rows].argmax(axis=1).tolist()
    assert found.similarity == pytest.approx(cosines[rows].max(axis=1), abs=1e-6)
    assert found.hash_similarity == pytest.approx(cosines[rows, found.hash_row], abs=1e-6)
    couples = [distance(texture(int(row)), texture(int(other))) for row, other in zip(rows, found.row, strict=True)]
    assert found.distance.tolist() == couples
    assert (found.hash_distance <= found.distance).all()
    assert (found.hash_row != rows).all()


def test_two_processes_and_a_later_start_find_the_same(training: ImageSet, tmp_path: Path) -> None:
    rows = np.arange(10, dtype=np.int64)
    one = find_nearest(training, rows, training, EmbeddingShards(tmp_path / "one", 10, 2), leave_out_own=True)
    shards = EmbeddingShards(tmp_path / "two", 10, 2)
    shards.write(1, np.full((2, 6), 5.0))  # what is there is not looked for again
    two = find_nearest(training, rows, training, shards, leave_out_own=True)
    assert two.similarity[2:4].tolist() == [5, 5]
    assert np.array_equal(np.delete(two.similarity, [2, 3]), np.delete(one.similarity, [2, 3]))
    shared, asked = EmbeddingShards(tmp_path / "shared", 10, 2), []
    for rank in (1, 0):  # the second waits for nothing: the first has written its share, and this one writes the rest
        own = [number for number in shared.numbers()][rank::2]
        others = [number for number in shared.numbers() if number not in own and not shared.has(number)]
        for number in others if rank == 1 else []:
            shared.write(number, np.ones((2, 1)))
        fill_shards(shared, lambda span: asked.append(span) or np.zeros((2, 1)), rank, 2, lambda *_: None)
    assert asked == [range(2, 4), range(6, 8)]


def test_an_unreadable_picture_is_noted_and_never_found(tmp_path: Path, training: ImageSet) -> None:
    pictures = image_set(tmp_path / "set", {"a.png": texture(3), "b.png": texture(50)}, np.eye(2, 16))
    (tmp_path / "set" / "b.png").write_bytes(b"no image")
    rejects, hashes = Rejects(None), EmbeddingShards(tmp_path / "again", 2)
    hash_images(pictures.pairs, hashes, rejects, 0, 1, lambda *_: None)
    assert rejects.count == 1
    broken = ImageSet(pictures.pairs, pictures.embeddings, hashes)
    found = find_nearest(broken, np.arange(2), training, EmbeddingShards(tmp_path / "found", 2))
    assert found.row[1] == found.hash_row[1] == -1
    assert found.hash_row[0] == 3
    assert found.hash_distance[0] == 0
    assert len(found.read().row) == 1
    with pytest.raises(DataError, match="too few to compare with"):
        find_nearest(training, np.arange(1), ImageSet(training.pairs[:1], EmbeddingShards(tmp_path / "none", 0),
                     EmbeddingShards(tmp_path / "none", 0)), EmbeddingShards(tmp_path / "no", 1))  # fmt: skip


def test_of_real_images_no_more_are_flagged_than_the_quantile_allows() -> None:
    generator = Seeds(5).numpy("control")
    settings, flagged = CopySettings(quantile=0.9), []
    for _ in range(400):
        drawn = generator.normal(size=61)
        rule = CopyRule.of(nearest(drawn[:60].tolist(), [30] * 60), settings)
        assert not rule.is_small
        assert rule.similarity == np.sort(drawn[:60])[54]  # the 55th: ceil(0.9 * 61)
        flagged.append(drawn[60] > rule.similarity)
    assert rule.wrong_share == pytest.approx(6 / 61)
    assert np.mean(flagged) == pytest.approx(6 / 61, abs=0.045)  # three standard errors


def test_a_small_control_says_what_it_can_promise() -> None:
    drawn = [0.5 + place / 100 for place in range(19)]
    rule = CopyRule.of(nearest(drawn, [20] * 19), CopySettings())
    assert rule.is_small
    assert rule.similarity == max(drawn)
    assert rule.wrong_share == 0.05
    said = " ".join(rule.describe("test"))
    assert "one in 20 new real images would exceed" in said
    assert "give 999 or more" in said
    tiny = CopyRule.of(nearest(drawn[:18], [20] * 18), CopySettings())
    assert not tiny.by_similarity(nearest([1.0], [30])).any()
    assert "no cosine alone makes a copy" in " ".join(tiny.describe("test"))
    assert "similarity above" not in " ".join(tiny.describe("test"))
    exact = CopyRule.of(nearest([i / 999 for i in range(999)], [20] * 999), CopySettings())
    assert not exact.is_small


def test_real_images_that_are_in_the_training_data_do_not_hide_copies() -> None:
    rule = CopyRule.of(nearest([1.0, 1.0, *[0.6] * 29, 0.7], [0, 2, *[25] * 30]), CopySettings())
    assert (rule.known, rule.control, rule.similarity) == (2, 30, 0.7)
    found = nearest([0.99, 0.5, 0.6], [30, 1, 30])
    assert rule.by_similarity(found).tolist() == [True, False, False]
    assert rule.by_hash(found).tolist() == [False, True, False]
    blind = CopyRule.of(nearest([1.0], [0]), CopySettings())
    assert not blind.by_similarity(found).any()
    assert describe_control(found, nearest([1.0], [0]), blind, "test")["bounds"]["similarity"] is None


def test_the_curves_are_the_distributions() -> None:
    synthetic, real = nearest([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]), nearest([0.5, 0.6], [7, 9])
    told = describe_control(synthetic, real, CopyRule.of(real, CopySettings()), "test")
    assert told["counts"] == {"synthetic": 4, "real": 2, "real_in_training": 0}
    for level, value in zip(told["levels"], told["similarity"]["synthetic"], strict=True):
        assert value == [0.1, 0.2, 0.3, 0.4][max(0, int(np.ceil(4 * level)) - 1)]
    assert set(told["hash_distance"]["real"]) == {7.0, 9.0}


def test_of_pictures_that_are_alike_by_hash_and_cosine_the_first_stays(tmp_path: Path) -> None:
    one, other = texture(1), texture(2)
    images = {"0.png": one, "1.png": other, "2.png": recompress(one), "3.png": one, "4.png": ImageOps.mirror(one), "5.png": one}
    vectors = np.eye(6, 16)
    vectors[[2, 4]] = vectors[0] + 0.05 * vectors[[2, 4]]
    vectors[5] = vectors[3]  # 3 and 5 have the hash of 0, and another cosine
    rule = CopyRule(0.9, 6, 100, 0, 0.01, 0.99)
    pictures = image_set(tmp_path / "set", images, vectors)
    assert find_duplicates(pictures, np.arange(6), rule).tolist() == [-1, -1, 0, -1, 0, 3]
    assert find_duplicates(pictures, np.array([2, 4, 5]), rule).tolist() == [-1, 2, -1]
    hash_alone = CopyRule(np.inf, 6, 0, 1, 0.0, 0.99)
    assert find_duplicates(pictures, np.arange(6), hash_alone).tolist() == [-1, -1, 0, 0, 0, 0]


@pytest.mark.parametrize("bound", [{"quantile": 1.0}, {"hash_distance": 64}, {"hash_distance": -1}])
def test_bounds_that_cannot_be_meant_are_refused(bound: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--copies\."):
        CopySettings(**bound)
