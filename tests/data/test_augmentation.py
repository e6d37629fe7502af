"""Random changes to an image, and the settings that choose them."""

import numpy as np
import pytest
from PIL import Image

from skygen.data.augmentation import QUARTER_TURNS, color_jitter, dihedral
from skygen.data.framing import ImageSettings, frame
from skygen.errors import ConfigError
from skygen.seeding import Seeds


def picture(width: int, height: int) -> Image.Image:
    """A picture whose red says the column and whose green says the row."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, 90)], axis=-1).astype(np.uint8))


def random_resized_crop(image: Image.Image, resolution: int, draw: np.random.Generator) -> Image.Image:
    return frame(image.size, ImageSettings(resolution, random_resized_crop=True), draw).apply(image)


def test_a_resized_crop_keeps_two_thirds_of_the_area_and_moves() -> None:
    source, seen = picture(200, 120), set()
    for seed in range(60):
        pixels = np.asarray(random_resized_crop(source, 32, Seeds(seed).numpy("draw")), dtype=float)
        assert pixels.shape == (32, 32, 3)
        width = (pixels[16, 31, 0] - pixels[16, 0, 0]) * 32 / 31
        height = (pixels[31, 16, 1] - pixels[0, 16, 1]) * 32 / 31
        assert 0.6 <= width * height / (200 * 120) <= 1.05  # 8-bit rounding and the filter's edges
        assert 0.45 <= width / height <= 2.2
        seen.add((round(pixels[16, 0, 0]), round(pixels[0, 16, 1])))
    assert len(seen) > 30


def test_the_same_draw_gives_the_same_crop() -> None:
    first, second = (random_resized_crop(picture(90, 64), 16, Seeds(5).numpy("draw")) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_an_image_that_no_rectangle_fits_is_taken_whole() -> None:
    strip = picture(255, 4)
    assert (
        random_resized_crop(strip, 16, Seeds(0).numpy("draw")).tobytes()
        == strip.resize((16, 16), Image.Resampling.BICUBIC).tobytes()
    )


def test_jitter_stays_within_its_strength_and_does_nothing_at_zero() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    levels = [int(np.asarray(color_jitter(grey, 0.4, Seeds(seed).numpy("draw")))[0, 0, 0]) for seed in range(80)]
    assert 58 <= min(levels) < 75 and 125 < max(levels) <= 141
    assert color_jitter(picture(20, 20), 0.0, Seeds(0).numpy("draw")).tobytes() == picture(20, 20).tobytes()


def test_the_first_four_variants_are_turns_without_a_flip() -> None:
    pixels = np.asarray(picture(6, 6))
    turned = [np.asarray(dihedral(picture(6, 6), variant)) for variant in range(QUARTER_TURNS)]
    assert all(np.array_equal(one, np.rot90(pixels, turns)) for turns, one in enumerate(turned))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"set images\.random_dihedral to false"):
        ImageSettings(random_rotation=True)
    with pytest.raises(ConfigError, match=r"color_jitter is 1\.5; it must be in \[0, 1\]"):
        ImageSettings(color_jitter=1.5)
