"""What is shown of an image, and that what is recorded of it is true of the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from skygen.data.augmentation import dihedral
from skygen.data.framing import Framing, ImageSettings, Size, crop_box, frame, list_buckets, nearest_bucket
from skygen.errors import ConfigError
from skygen.seeding import Seeds

SD, XL = (512, 64), (1024, 64)
GRIDS = [SD, XL, (512, 8), (512, 32), (500, 64), (100, 7), (64, 16)]
BUCKETED = ImageSettings(resolution=512, aspect_buckets=True, bucket_step=64)


def random_sizes(count: int, largest: int = 4000) -> list[Size]:
    draw = Seeds(1).numpy("sizes")
    sides = np.exp(draw.uniform(math.log(8), math.log(largest), (count, 2))).astype(int).tolist()
    return [(width, height) for width, height in sides]


def test_buckets_of_stable_diffusion_in_closed_form() -> None:
    assert list_buckets(*SD) == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert [nearest_bucket(size, *SD) for size in ((512, 512), (4, 3), (3, 4), (1000, 100), (10, 100))] == [
        (512, 512),
        (576, 448),
        (448, 576),
        (640, 384),
        (384, 640),
    ]


@pytest.mark.parametrize(("resolution", "step"), GRIDS)
def test_buckets_are_multiples_of_the_step_of_about_the_area_and_come_in_twins(resolution: int, step: int) -> None:
    buckets = list_buckets(resolution, step)
    assert len(buckets) >= 3
    for width, height in buckets:
        assert width % step == height % step == 0
        assert resolution**2 - step * max(width, height) <= width * height <= resolution**2 or width == height
        assert max(width, height) <= 2 * min(width, height)
        assert (height, width) in buckets
    side = resolution // step * step
    assert (side, side) in buckets
    assert nearest_bucket((99, 99), resolution, step) == (side, side)


@pytest.mark.parametrize(("resolution", "step"), GRIDS)
def test_the_bucket_of_a_turned_image_is_the_turned_bucket(resolution: int, step: int) -> None:
    buckets = list_buckets(resolution, step)
    ties = [(a[0] * b[0], a[1] * b[1]) for a in buckets for b in buckets]  # and shapes half way between two buckets
    sizes = [*random_sizes(500), *buckets, *ties]
    for width, height in sizes:
        wide, high = nearest_bucket((width, height), resolution, step)
        assert nearest_bucket((height, width), resolution, step) == (high, wide)
    assert len({nearest_bucket(size, resolution, step) for size in sizes}) == len(buckets)


def test_the_nearest_bucket_is_the_nearest() -> None:
    sizes = random_sizes(300)
    assert len(sizes) == 300
    for width, height in sizes:
        near = nearest_bucket((width, height), *XL)
        gap = abs(math.log(near[0] / near[1] / (width / height)))
        assert gap <= min(abs(math.log(w / h / (width / height))) for w, h in list_buckets(*XL)) + 1e-9


def test_the_crop_is_the_largest_box_of_the_proportions_and_in_the_middle() -> None:
    assert crop_box((100, 40), (512, 512)) == (30, 0, 70, 40)
    assert crop_box((40, 101), (512, 512)) == (0, 30, 40, 70)
    assert crop_box((8, 16_384), (640, 384)) == (0, 8189, 8, 8194)
    for size in random_sizes(400):
        for target in list_buckets(*SD):
            left, top, right, bottom = crop_box(size, target)
            assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
            assert (right - left, bottom - top)[0] == size[0] or bottom - top == size[1]
            assert abs((right - left) - (bottom - top) * target[0] / target[1]) <= 0.5 * max(1, target[0] / target[1]) or (
                min(right - left, bottom - top) == 1
            )
            assert abs(left - (size[0] - right)) <= 1 and abs(top - (size[1] - bottom)) <= 1


def test_a_random_crop_differs_from_the_middle_one_in_its_place_alone() -> None:
    settings = ImageSettings(resolution=64)
    middle = frame((300, 100), settings)
    places = set()
    for index in range(300):
        drawn = frame((300, 100), settings, Seeds(2).numpy("crop", index))
        assert (drawn.target, drawn.scale, drawn.box[2] - drawn.box[0]) == (middle.target, middle.scale, 100)
        places.add(drawn.box[0])
    assert min(places) < 10 and max(places) > 190
    centred = ImageSettings(resolution=64, center_crop=True)
    assert frame((300, 100), centred, Seeds(2).numpy("crop", 0)) == middle
    assert frame((300, 100), ImageSettings(resolution=64, crop=False)).box == (0, 0, 300, 100)


def test_a_random_resized_crop_is_now_and_then_the_whole_image() -> None:
    settings, changed = ImageSettings(resolution=16, random_resized_crop=True), 0
    for index in range(50):
        framing = frame((90, 40), settings, Seeds(3).numpy("crop", index))
        left, top, right, bottom = framing.box
        changed += (right - left) * (bottom - top) < 90 * 40
    assert 20 < changed < 50  # an image of 9:4 holds not every rectangle
    assert frame((255, 9), settings, Seeds(0).numpy("crop")).box == (0, 0, 255, 9)  # no rectangle of 1:2 fits
    assert frame((90, 40), settings).box == (0, 0, 90, 40)


def test_scale_is_that_of_the_side_that_is_enlarged_more() -> None:
    assert Framing((100, 50), (0, 0, 100, 50), (512, 512)).scale == 10.24
    assert frame((1024, 2048), ImageSettings(resolution=512)).scale == 0.5
    assert frame((512, 512), BUCKETED).scale == 1.0
    assert frame((256, 192), BUCKETED).scale == pytest.approx(2.3333, abs=0.01)


def mark(size: Size, place: tuple[int, int]) -> Image.Image:
    """Make a black picture with one white pixel."""
    image = Image.new("RGB", size)
    image.putpixel(place, (255, 255, 255))
    return image


def find(image: Image.Image) -> tuple[int, int]:
    ((row, column),) = np.argwhere(np.asarray(image)[..., 0] > 100)
    return int(column), int(row)


@pytest.mark.parametrize("variant", range(8))
@pytest.mark.parametrize(
    ("original", "box"), [((90, 40), (31, 0, 71, 40)), ((37, 64), (0, 9, 37, 46)), ((50, 50), (3, 7, 43, 37))]
)
def test_the_sizes_of_a_turned_image_are_those_of_the_turned_whole(
    original: Size, box: tuple[int, int, int, int], variant: int
) -> None:
    """A white pixel of the crop lies as far from the corner of the whole turned image as the sizes say."""
    left, top, right, bottom = box
    framing = Framing(original, box, (right - left, bottom - top), variant)
    places = [(left, top), (right - 1, bottom - 1), (left + 5, top + 11)]
    for place in places:
        whole = dihedral(mark(original, place), variant)
        shown = framing.apply(mark(original, place))
        (x, y), (column, row) = find(whole), find(shown)
        assert framing.sizes == (whole.height, whole.width, y - row, x - column, shown.height, shown.width)
        assert shown.size == framing.shape


@pytest.mark.parametrize("variant", range(8))
def test_the_crop_is_told_in_pixels_of_the_resized_image(variant: int) -> None:
    """Twice as large: the corner is twice as far, the original's sides stay what they were."""
    box = (30, 0, 70, 40)
    plain, doubled = (Framing((90, 40), box, (side, side), variant) for side in (40, 80))
    assert doubled.sizes[:2] == plain.sizes[:2]
    assert doubled.sizes[2:] == tuple(2 * value for value in plain.sizes[2:])
    assert sorted(plain.sizes[2:4]) in ([0, 20], [0, 30])


def test_a_bucketed_image_keeps_its_shape_when_it_is_turned() -> None:
    image = Image.fromarray(Seeds(0).numpy("pixels").integers(0, 256, (300, 420, 3), dtype=np.uint8))
    framing = frame(image.size, BUCKETED)
    assert framing.target == (576, 448)
    shapes = [framing._replace(variant=variant).apply(image).size for variant in range(8)]
    assert shapes == [(576, 448), (448, 576)] * 4
    assert [framing._replace(variant=variant).shape for variant in range(8)] == shapes


def test_a_long_strip_does_not_become_a_giant() -> None:
    assert frame((16_384, 8), BUCKETED).apply(Image.new("RGB", (16_384, 8))).size == (640, 384)


def test_which_images_are_the_same_each_time() -> None:
    settings: dict[str, bool | dict[str, object]] = {
        "random crop": {},
        "middle": {"center_crop": True},
        "squash": {"crop": False},
        "buckets": {"aspect_buckets": True},
        "resized crop": {"random_resized_crop": True, "crop": False},
        "jitter": {"crop": False, "color_jitter": 0.1},
    }
    fixed = {name: ImageSettings(**options).is_fixed for name, options in settings.items()}  # type: ignore[arg-type]
    assert [name for name, is_fixed in fixed.items() if is_fixed] == ["middle", "squash", "buckets"]
    assert len(fixed) == 6


def test_steps_that_no_model_or_resolution_takes_are_refused() -> None:
    asked = ImageSettings(aspect_buckets=True, bucket_step=12)
    with pytest.raises(
        ConfigError,
        match=r"^images\.bucket_step is 12; this model takes sides that are multiples of 8: set a multiple of that, or 0 for "
        r"the model's own$",
    ):
        asked.for_model(512, 8)
    assert asked.for_model(512, 4).bucket_step == 12
    assert ImageSettings(aspect_buckets=True).for_model(512, 64).bucket_step == 64
    with pytest.raises(ConfigError, match=r"^images\.aspect_buckets: this model looks at squares alone; set it to false$"):
        ImageSettings(aspect_buckets=True).for_model(512)
    with pytest.raises(ConfigError, match=r"^images\.bucket_step is 600; it must be at most the resolution, 512$"):
        list_buckets(512, 600)
    with pytest.raises(ValueError, match="the bucket step is 0"):
        list_buckets(512, 0)
