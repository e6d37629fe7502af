"""FID and KID: against closed forms, brute force and known distributions; and the networks their features come from."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchmetrics.image.fid import NoTrainInceptionV3
from untrained_inception import UntrainedInception

from skygen.errors import DataError, UnavailableError
from skygen.evaluation.images.features import inception_extractor, scorer_extractor
from skygen.evaluation.images.fidelity import KERNEL_ROWS, fidelity_scores, frechet_distance, kernel_distance
from skygen.evaluation.scores import Score
from skygen.miniature.architectures import build_skyclip
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

SEEDS = Seeds(7)


def normals(count: int, dimension: int, *position: int | str) -> np.ndarray:
    return SEEDS.numpy("test", *position).standard_normal((count, dimension))


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def brute_force_kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        return float((one @ other / len(one) + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        values = [kernel(one, other) for i, one in enumerate(rows) for j, other in enumerate(rows) if i != j]
        return sum(values) / len(values)

    between = [kernel(one, other) for one in real for other in generated]
    return within(real) + within(generated) - 2 * sum(between) / len(between)


def test_the_frechet_distance_is_that_of_the_formula() -> None:
    mixing = normals(12, 12, "mixing")
    real, generated = normals(100, 12, "real"), normals(80, 12, "generated") @ mixing + 0.5
    covariances = np.cov(real.T), np.cov(generated.T)
    root = symmetric_root(covariances[0])
    mean = real.mean(axis=0) - generated.mean(axis=0)
    # (Σ₁Σ₂)^½ and (Σ₁^½ Σ₂ Σ₁^½)^½ have one trace; the second has a symmetric root.
    expected = mean @ mean + np.trace(covariances[0] + covariances[1] - 2 * symmetric_root(root @ covariances[1] @ root))
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_shifted_and_scaled_sets_is_known() -> None:
    real = normals(60, 5, "real")
    spread = np.trace(np.cov(real.T))
    assert frechet_distance(real, real + 3.0) == pytest.approx(5 * 9.0)
    assert frechet_distance(real, 2.0 * (real - real.mean(axis=0)) + real.mean(axis=0)) == pytest.approx(spread)


def test_equal_sets_are_at_frechet_distance_zero() -> None:
    real = normals(300, 32, "real").astype(np.float32)
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-9)


def test_the_kernel_distance_is_that_of_brute_force() -> None:
    real, generated = normals(20, 6, "real"), normals(20, 6, "generated") + 0.7
    assert kernel_distance(real, generated, seeds=SEEDS) == pytest.approx(
        brute_force_kernel_distance(real, generated), rel=1e-9
    )


def test_the_kernel_distance_has_no_bias_from_the_count() -> None:
    values = [kernel_distance(normals(10, 4, i, "a"), normals(10, 4, i, "b"), seeds=SEEDS) for i in range(200)]
    assert np.mean(values) == pytest.approx(0.0, abs=4 * np.std(values) / np.sqrt(200))
    assert min(values) < 0.0 < max(values)


def test_unequal_counts_average_subsets_that_cover_the_larger_set() -> None:
    real, generated = normals(400, 4, "real"), normals(40, 4, "generated") + 1.0
    whole = kernel_distance(real[:40], generated, seeds=SEEDS)
    value = kernel_distance(real, generated, seeds=SEEDS)
    assert value == kernel_distance(real, generated, seeds=SEEDS)
    assert value != kernel_distance(real, generated, seeds=Seeds(8))
    assert value == pytest.approx(whole, rel=0.3)


def test_sets_too_large_for_one_matrix_are_compared_in_subsets() -> None:
    real, generated = normals(KERNEL_ROWS + 500, 4, "real"), normals(KERNEL_ROWS + 300, 4, "generated") + 1.0
    part = kernel_distance(real[:KERNEL_ROWS], generated[:KERNEL_ROWS], seeds=SEEDS)
    assert kernel_distance(real, generated, seeds=SEEDS) == pytest.approx(part, rel=0.05)


def test_torch_s_own_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    kernel_distance(normals(9, 4, "real"), normals(5, 4, "generated"), seeds=SEEDS)
    assert torch.equal(torch.get_rng_state(), before)


def test_scores_carry_counts_and_an_interval_around_the_value() -> None:
    real, generated = normals(120, 4, "real"), normals(100, 4, "generated") + 0.5
    fid, kid = fidelity_scores(real, generated, model="tuned", subset="test", extractor="skyclip:x", seeds=SEEDS, resamples=50)
    assert [fid.name, kid.name] == ["fid", "kid"]
    assert fid.value == frechet_distance(real, generated)
    assert kid.value == kernel_distance(real, generated, seeds=SEEDS)
    for score in (fid, kid):
        assert (score.count, score.model, score.subset, score.extractor) == (100, "tuned", "test", "skyclip:x")
        assert score.interval is not None
        assert score.interval[0] < score.value < score.interval[1]
    again = fidelity_scores(real, generated, model="tuned", subset="test", extractor="skyclip:x", seeds=SEEDS, resamples=50)
    assert again == [fid, kid]


def test_the_interval_moves_with_both_sets() -> None:
    """With a large, or a constant, generated set the real one alone must still open the interval."""
    real = normals(40, 2, "real")
    generated = np.tile(np.eye(2), (500, 1))
    fid, kid = fidelity_scores(real, generated, model="base", subset="", extractor="x", seeds=SEEDS, resamples=50)
    for score in (fid, kid):
        assert score.interval is not None
        assert score.interval[1] - score.interval[0] > 0.1 * score.value


def test_intervals_hold_the_expected_score_of_fresh_sets() -> None:
    def scores(draw: int) -> list[Score]:
        real, generated = normals(60, 3, draw, "real"), normals(60, 3, draw, "generated") * 1.3 + 0.5
        return fidelity_scores(real, generated, model="", subset="", extractor="", seeds=SEEDS, resamples=30)

    for of_one_name in zip(*map(scores, range(16)), strict=True):
        expected = np.mean([score.value for score in of_one_name])
        held = sum(score.interval is not None and score.interval[0] <= expected <= score.interval[1] for score in of_one_name)
        assert held >= 12  # of 16; 15 or 16 are expected at 95 %


def test_with_fewer_images_than_features_only_kid_is_given_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    real, generated = normals(50, 8, "real"), normals(8, 8, "generated")
    with caplog.at_level(logging.WARNING):
        scores = fidelity_scores(real, generated, model="base", subset="", extractor="skyclip:x", seeds=SEEDS, resamples=9)
    assert [score.name for score in scores] == ["kid"]
    assert caplog.messages == [
        "fid of base is left out: with skyclip:x's 8 features it needs at least 9 images on both sides, and there are "
        "50 real and 8 generated ones"
    ]


def test_few_images_have_no_interval_and_one_has_no_score() -> None:
    (kid,) = fidelity_scores(normals(3, 4), normals(9, 4), model="base", subset="", extractor="x", seeds=SEEDS)
    assert (kid.name, kid.count, kid.interval) == ("kid", 9, None)
    assert fidelity_scores(normals(1, 4), normals(9, 4), model="base", subset="", extractor="x", seeds=SEEDS) == []


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="Real images have 4 features and generated ones 5; use one extractor for both"):
        frechet_distance(normals(9, 4), normals(9, 5))
    with pytest.raises(DataError, match="There are 1 generated images, at least 2 are needed; give more"):
        kernel_distance(normals(9, 4), normals(1, 4), seeds=SEEDS)
    damaged = normals(9, 4)
    damaged[3, 1] = np.nan
    with pytest.raises(DataError, match=r"The features of real image 3 are not finite \(1 such images\)"):
        fidelity_scores(damaged, normals(9, 4), model="base", subset="", extractor="x", seeds=SEEDS)


def pictures(*sides: int) -> list[Image.Image]:
    generator = SEEDS.numpy("test pictures")
    return [Image.fromarray(generator.integers(256, size=(side, side, 3), dtype=np.uint8)) for side in sides]


def test_scorer_features_are_embeddings_whose_kernel_is_that_of_the_cosine(tmp_path: Path) -> None:
    build_skyclip(tmp_path, SEEDS)
    scorer = Scorer.load(str(tmp_path))
    extractor = scorer_extractor(scorer)
    features, embeddings = extractor.extract(pictures(64, 80)), scorer.embed_images(pictures(64, 80))
    assert extractor.name == f"skyclip:{tmp_path}"
    assert features.dtype == np.float32
    assert features @ features.T / features.shape[1] == pytest.approx(embeddings @ embeddings.T, abs=1e-5)


def test_inception_features_are_the_pooled_ones_in_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoTrainInceptionV3, "INPUT_IMAGE_SIZE", 80)  # 299 takes 2 s an image
    network = UntrainedInception()
    path = tmp_path / "inception.safetensors"
    save_file(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    extractor = inception_extractor(path, sha256=digest, batch_size=2)
    images = pictures(32, 32, 32, 48)
    features = extractor.extract(images)
    assert extractor.name == f"inception-v3-compat:{digest[:8]}"
    assert features.shape == (4, 2048)
    with torch.inference_mode():
        one = [network(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0].numpy() for image in images]
    assert features == pytest.approx(np.stack(one), rel=1e-3, abs=1e-6)
    assert np.ptp(features, axis=0).max() > 0.0


def test_only_the_inception_of_fid_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(
        UnavailableError, match=r"is not there; download weights-inception-2015-12-05-6726825d\.pth from .*fidelity"
    ):
        inception_extractor(path)
    path.write_bytes(b"another network")
    with pytest.raises(UnavailableError, match=r"its SHA-256 begins with [0-9a-f]{8} instead of 6726825d; download"):
        inception_extractor(path)
