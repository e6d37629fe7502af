from __future__ import annotations

import builtins
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.damage import damage, open_damaged
from PIL import Image

from skygen.data.geotiff import holds_measurements, read_box
from skygen.data.images import open_image
from skygen.data.pair import Box
from skygen.errors import ImageError
from skygen.seeding import Seeds

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.io import MemoryFile  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

ZURICH = (8.0, 47.0, 8.1, 47.1)


def place_of(box: Any, width: int, height: int) -> Affine:
    west, south, east, north = box
    return Affine((east - west) / width, 0, west, 0, (south - north) / height, north)


def encode(bands: np.ndarray, *, placed: bool = True, crs: str = "EPSG:4326", box: Any = ZURICH, **options: Any) -> bytes:
    count, height, width = bands.shape
    place = {"crs": crs, "transform": place_of(box, width, height)} if placed else {}
    edit = options.pop("edit", None)
    with warnings.catch_warnings(), MemoryFile() as file:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        profile = {
            "driver": "GTiff",
            "count": count,
            "height": height,
            "width": width,
            "dtype": bands.dtype,
            **place,
            **options,
        }
        with file.open(**profile) as dataset:
            dataset.write(bands)
            if edit:
                edit(dataset)
        return bytes(file.read())


def scene(count: int, dtype: Any = np.uint16, size: int = 40) -> np.ndarray:
    draw = Seeds(0).numpy("scene", count).integers(200, 3000, (count, size, size))
    return draw.astype(dtype)


def stretch(bands: np.ndarray, known: np.ndarray) -> np.ndarray:
    low, high = np.percentile(known, [2, 98])
    return np.clip(np.rint((bands.astype(float) - low) / (high - low) * 255), 0, 255).transpose(1, 2, 0)


def pixels(data: bytes) -> np.ndarray:
    image = open_image(data)
    assert (image.mode, image.info) == ("RGB", {})
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64, np.int32])
def test_one_stretch_serves_the_first_three_bands(interleave: str, dtype: Any) -> None:
    bands = scene(5, dtype)
    shown = pixels(encode(bands, interleave=interleave))
    assert np.abs(shown - stretch(bands[:3], bands[:3])).max() <= 1
    assert shown.min() == 0 and shown.max() == 255


def test_the_proportions_of_the_bands_stay_the_colour() -> None:
    """Stretched band by band, this desert would be grey."""
    light = np.linspace(1000, 2000, 1600).reshape(40, 40)
    red, green, blue = np.stack([light * 2, light * 1.5, light]).astype(np.uint16)
    shown = pixels(encode(np.stack([red, green, blue])))
    assert (shown[20, 20, 0] - shown[20, 20, 2]) > 80


def test_bands_are_chosen_by_what_the_file_calls_them() -> None:
    bands = scene(4)

    def blue_first(dataset: Any) -> None:
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]

    assert np.abs(pixels(encode(bands, edit=blue_first)) - stretch(bands[[2, 1, 0]], bands[:3])).max() <= 1

    def sentinel(dataset: Any) -> None:
        dataset.descriptions = ("B01", "B02", "B03", "B04")

    assert np.abs(pixels(encode(bands, edit=sentinel)) - stretch(bands[[3, 2, 1]], bands[1:])).max() <= 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_bands_are_grey(count: int) -> None:
    bands = scene(count)
    shown = pixels(encode(bands))
    assert np.abs(shown - stretch(bands[[0, 0, 0]], bands[:1])).max() <= 1


@pytest.mark.parametrize(("fill", "options"), [(9999, {"nodata": 9999}), (0, {})])
def test_pixels_without_data_are_black_and_do_not_count(fill: int, options: dict[str, Any]) -> None:
    bands = scene(3)
    bands[:, :20] = fill
    shown = pixels(encode(bands, **options))
    assert shown[:20].max() == 0
    assert np.abs(shown[20:] - stretch(bands[:, 20:], bands[:, 20:])).max() <= 1


def test_what_is_no_number_is_black() -> None:
    bands = scene(3, np.float32) / 3000
    known = bands[:, 10:].copy()
    bands[:, :10] = np.nan
    bands[0, 39, 39] = np.inf
    shown = pixels(encode(bands))
    assert shown[:10].max() == 0 and shown[39, 39, 0] == 0
    assert np.abs(shown[11:38] - stretch(bands[:, 11:38], known)).max() <= 1
    assert pixels(encode(np.full((3, 16, 16), np.nan, np.float32))).max() == 0
    assert pixels(encode(np.full((3, 16, 16), 700, np.uint16))).max() == 0


def test_pixels_of_8_bits_stay_as_they_are() -> None:
    bands = scene(7, np.uint8)
    assert np.array_equal(pixels(encode(bands)), bands[:3].transpose(1, 2, 0))
    three = scene(3, np.uint8)
    for options in ({"photometric": "RGB"}, {"interleave": "band"}, {"photometric": "RGB", "interleave": "band"}):
        assert np.array_equal(pixels(encode(three, **options)), three.transpose(1, 2, 0))


def test_16_bits_are_measurements_on_the_ground_or_in_several_bands() -> None:
    assert not holds_measurements(encode(scene(1), placed=False))
    assert holds_measurements(encode(scene(1)))
    assert holds_measurements(encode(scene(3), placed=False))
    assert not holds_measurements(encode(scene(3, np.uint8)))
    assert holds_measurements(encode(scene(13), BIGTIFF="YES"))
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "TIFF", big_tiff=True)
    assert not holds_measurements(buffer.getvalue())


def test_a_larger_picture_is_judged_by_a_part_of_its_pixels() -> None:
    bands = scene(3, size=1500)
    assert np.abs(pixels(encode(bands)) - stretch(bands, bands)).max() <= 1


def test_sizes_are_refused_before_pixels_are_read() -> None:
    sparse = {"SPARSE_OK": "TRUE", "tiled": True, "compress": "deflate"}
    with MemoryFile() as file:
        where = place_of(ZURICH, 7000, 7000)
        with file.open("GTiff", 7000, 7000, 4, "EPSG:4326", where, "uint16", **sparse):
            pass
        data = bytes(file.read())
    assert len(data) < 100_000
    with pytest.raises(ImageError, match=r"^too large: 7000 x 7000 pixels \(at most 40 megapixels and 16384 a side\)$"):
        open_image(data)
    with pytest.raises(ImageError, match=r"^too small: 7 x 7 pixels"):
        open_image(encode(scene(4, size=7)))
    with MemoryFile() as file:
        strip = {"blockysize": 6000, "SPARSE_OK": "TRUE", "compress": "deflate", "interleave": "pixel"}
        with file.open("GTiff", 6000, 6000, 13, "EPSG:4326", where, "uint16", **strip):
            pass
        data = bytes(file.read())
    with pytest.raises(
        ImageError, match=r"^too large: it is compressed in pieces of 936,000,000 bytes \(at most 536,870,912\)$"
    ):
        open_image(data)


def test_complex_pixels_are_no_brightness() -> None:
    with pytest.raises(ImageError, match=r"^pixels of type complex64, which are no brightness$"):
        open_image(encode(scene(2).astype(np.complex64)))


def test_damage_gives_an_image_or_an_image_error() -> None:
    data = encode(scene(5), compress="deflate")
    outcomes = [open_damaged(damaged) for damaged in damage(data, 150, Seeds(0).numpy("damage"))]
    for length in (0, 4, 8, 100, 400, 1000, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageError):
            open_image(data[:length])
    assert set(outcomes) == {"RGB", "rejected"}
    assert len(outcomes) == 150


def test_without_rasterio_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(scene(4))
    original = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "rasterio":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError) as caught:
        open_image(data)
    assert str(caught.value) == (
        "a GeoTIFF of more than 8 bits or with many bands, which needs rasterio: pip install 'skygen[geo]'"
    )


def test_no_other_format_is_opened(tmp_path: Path) -> None:
    """GDAL's virtual format names other files and addresses; only the GTiff driver may see the bytes."""
    vrt = b'<VRTDataset rasterXSize="16" rasterYSize="16"><SRS>/vsicurl/http://localhost/x.tif</SRS></VRTDataset>'
    with pytest.raises(ImageError, match=r"^not an image in a format read here"):
        open_image(vrt)
    with pytest.raises(ImageError, match=r"^damaged or cut short: "):
        read_box(vrt)


def test_nothing_is_logged_and_nothing_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert pixels(encode(scene(13), placed=False)).max() == 255
        assert read_box(encode(scene(3), placed=False)) is None
    assert caplog.records == []


def test_the_box_of_a_file_in_degrees() -> None:
    box = read_box(encode(scene(3)))
    assert box is not None and np.allclose(box, ZURICH)
    assert read_box(encode(scene(1), box=(-180, -90, 180, 90))) == Box(-180, -90, 180, 90)
    assert read_box(encode(scene(1), box=(179, 0, 181, 1))) is None  # over the 180th meridian
    metres = (465_000.0, 5_247_000.0, 466_000.0, 5_248_000.0)
    box = read_box(encode(scene(1), crs="EPSG:32632", box=metres))
    assert box is not None and 8.5 < box.west < box.east < 8.6 and 47.3 < box.south < box.north < 47.5


def test_real_files_show_as_pillow_shows_them_and_say_where_they_lie(shared_data: Callable[[str], Path]) -> None:
    paths = [*shared_data("geotiff").glob("*.tif"), *shared_data("deepforest_neon").glob("*.tif")]
    assert len(paths) == 6
    boxes = {}
    for path in paths:
        data = path.read_bytes()
        assert np.array_equal(pixels(data), np.asarray(Image.open(path)))
        box = read_box(data)
        assert box is not None
        boxes[path.name] = tuple(round(float(side), 2) for side in box)
    assert boxes["RGB.byte.tif"] == (-78.96, 23.56, -76.57, 25.55)  # the Bahamas
    assert boxes["OSBS_029.tif"] == (-81.99, 29.69, -81.99, 29.69)  # Ordway-Swisher, Florida
    assert boxes["australia.tif"][:2] == (132.96, -12.68)


def test_a_real_scene_in_16_bits_keeps_its_look(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("geotiff") / "RGB.byte.tif"
    plain = np.asarray(Image.open(path)).transpose(2, 0, 1)
    shown = pixels(encode(plain.astype(np.uint16) * 40, nodata=0))
    outside = ~plain.any(axis=0)
    assert outside.sum() > 100_000 and shown[outside].max() == 0
    assert np.corrcoef(shown[~outside].ravel(), plain.transpose(1, 2, 0)[~outside].ravel())[0, 1] > 0.97
    assert np.median(shown[~outside]) > 30
