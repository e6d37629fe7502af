"""GeoTIFFs that are more than a picture: reflectance of 12 to 16 bits, many bands, floats, and where on the ground they lie.

Format: OGC GeoTIFF 1.1 (19-008r4), read by rasterio's GDAL from memory and by its GTiff driver alone, so that a file cannot
lead GDAL to another file or to the network.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from skygen.data.pair import Box
from skygen.errors import ImageError

LOW, HIGH = 2.0, 98.0
"""Percentiles that become black and white."""
MOST_SAMPLED = 1_000_000
"""Pixels that the percentiles are taken of; of a larger picture every second, third and so on in both directions."""
LARGEST_BLOCK = 512 << 20
"""Bytes of the pieces that a file is compressed in: GDAL unpacks a whole one, with all bands, to read any of it."""
_BIG = ord("+")  # 43, BigTIFF's number where TIFF has 42
_BITS, _SAMPLES = 258, 277
_GEOREFERENCED = (33550, 33922, 34264, 34735)  # ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory
_NUMBERS = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"})
_RGB_NAMES = (("red", "b4", "b04"), ("green", "b3", "b03"), ("blue", "b2", "b02"))
"""Descriptions of bands; the numbers are Sentinel-2's and Landsat 8's."""


def holds_measurements(data: bytes) -> bool:
    """Say whether a TIFF needs ``open_geotiff``: Pillow cannot read it, or would show it nearly black.

    The second are several bands of more than 8 bits, and one such band with a place on the ground. One band without is a
    16-bit picture, as PNG has them.

    Args:
        data: the file; of one whose first directory is damaged Pillow says what is wrong.
    """
    source = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if data[2] == _BIG or data[3] == _BIG else data[:8])
        source.seek(tags.next)
        tags.load(source)
        bits, samples = tags.get(_BITS, (1,)), int(tags.get(_SAMPLES, 1))
        deep = max(bits if isinstance(bits, tuple) else (bits,)) > 8
    except Exception:  # Pillow raises almost any type
        return False
    if samples > TiffImagePlugin.MAX_SAMPLESPERPIXEL or (deep and (samples > 1 or any(tag in tags for tag in _GEOREFERENCED))):
        return True
    try:
        Image.open(source, formats=("TIFF",)).close()
    except UnidentifiedImageError:
        return True
    return False


def open_geotiff(data: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Show a GeoTIFF as 8-bit RGB: red, green and blue between the 2nd and the 98th percentile of the valid pixels.

    One stretch serves all three bands. Stretched one by one, a desert comes out grey and a lake white; captions name colours,
    and the bands' proportions are the colour. Pixels of 8 bits stay as they are.

    The bands are those that the file calls red, green and blue, or describes as B4, B3 and B2; else the first three, or the
    first alone, in grey. Pixels without data become black: those of the file's mask or nodata value, those that are no number,
    and, where the file names no nodata value, those that are 0 in all bands.

    Args:
        data: the file.
        check_size: raises an ``ImageError`` for a width and height that are not accepted; asked before pixels are read.

    Returns:
        An RGB image.

    Raises:
        ImageError: if it is damaged, too large, or complex, or rasterio is not installed.
    """
    with _opened(data) as dataset:
        check_size(dataset.width, dataset.height)
        places = _choose_bands(dataset)
        kind = dataset.dtypes[0]  # a TIFF's bands share one
        if kind not in _NUMBERS:
            raise ImageError(f"pixels of type {kind}, which are no brightness")
        _check_blocks(dataset)
        bands = dataset.read(places)
        valid = _find_valid(dataset, places, bands)
    pixels = _stretch(bands, valid) if bands.dtype != np.uint8 else bands * valid
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (3, *valid.shape)).transpose(1, 2, 0)))


def read_box(data: bytes) -> Box | None:
    """Read where a GeoTIFF lies, as the box around it in degrees (WGS 84).

    Returns:
        None where the file does not say, or says what is no place on Earth, or lies across the 180th meridian.

    Raises:
        ImageError: if it is damaged, or rasterio is not installed.
    """
    with _opened(data) as dataset:
        from rasterio.errors import RasterioError
        from rasterio.warp import transform_bounds

        if dataset.crs is None or dataset.transform.is_identity:
            return None
        try:
            west, south, east, north = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
        except (RasterioError, ValueError):
            return None
    if not all(map(math.isfinite, (west, south, east, north))):
        return None
    rounding = 1e-9  # of the transformation: a global mosaic ends at 180.00000000000003
    if not (-180 - rounding <= west <= east <= 180 + rounding and -90 - rounding <= south <= north <= 90 + rounding):
        return None
    return Box(max(west, -180.0), max(south, -90.0), min(east, 180.0), min(north, 90.0))


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
        from rasterio.io import MemoryFile
    except ImportError:
        raise ImageError(
            "a GeoTIFF of more than 8 bits or with many bands, which needs rasterio: pip install 'skygen[geo]'"
        ) from None
    try:
        with (
            warnings.catch_warnings(),
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=64),
            MemoryFile(data) as file,
        ):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with file.open(driver="GTiff") as dataset:
                yield dataset
    except (RasterioError, OSError) as error:
        cause = str(error.__cause__ or error).split("\n")[0]
        raise ImageError(f"damaged or cut short: {cause}") from error


def _choose_bands(dataset: Any) -> list[int]:
    """Return the numbers, from 1, of the red, green and blue band, or of the one band that is shown in grey."""
    meaning = [color.name for color in dataset.colorinterp]
    described = [(text or "").strip().lower() for text in dataset.descriptions]
    if all(name in meaning for name in ("red", "green", "blue")):
        return [meaning.index(name) + 1 for name in ("red", "green", "blue")]
    found = [next((place for place, text in enumerate(described, start=1) if text in names), 0) for names in _RGB_NAMES]
    if all(found):
        return found
    return [1, 2, 3] if dataset.count >= 3 else [1]


def _check_blocks(dataset: Any) -> None:
    together = dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1
    for (height, width), kind in zip(dataset.block_shapes, dataset.dtypes, strict=True):
        size = height * width * together * np.dtype(kind).itemsize
        if size > LARGEST_BLOCK:
            raise ImageError(f"too large: it is compressed in pieces of {size:,} bytes (at most {LARGEST_BLOCK:,})")


def _find_valid(
    dataset: Any, places: list[int], bands: Shaped[np.ndarray, "bands height width"]
) -> Bool[np.ndarray, "height width"]:
    """Say which pixels hold data in any of the bands."""
    from rasterio.enums import MaskFlags

    flags = {flag for place in places for flag in dataset.mask_flag_enums[place - 1]}
    if MaskFlags.all_valid not in flags:
        valid = dataset.read_masks(places).any(axis=0)
    elif np.issubdtype(bands.dtype, np.unsignedinteger) and bands.dtype != np.uint8:
        valid = bands.any(axis=0)
    else:
        valid = np.ones(bands.shape[1:], dtype=bool)
    return valid & np.isfinite(bands).any(axis=0) if np.issubdtype(bands.dtype, np.floating) else valid


def _stretch(
    bands: Shaped[np.ndarray, "bands height width"], valid: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "bands height width"]:
    low, high = _find_limits(bands, valid)
    pixels = np.zeros(bands.shape, dtype=np.uint8)
    rows = max(1, MOST_SAMPLED // valid.shape[1])  # at a time: as floats, the whole would take sixteen bytes a pixel
    for top in range(0, len(valid), rows):
        part = (slice(None), slice(top, top + rows))
        level = (bands[part].astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
        known = valid[part[1]] & np.isfinite(level)
        pixels[part] = np.clip(np.rint(np.where(known, level, 0)), 0, 255)
    return pixels


def _find_limits(
    bands: Shaped[np.ndarray, "bands height width"], valid: Bool[np.ndarray, "height width"]
) -> tuple[float, float]:
    """Return the values that become black and white; a picture of one value becomes black."""
    step = math.isqrt(max(1, -(-valid.size // MOST_SAMPLED) - 1)) + 1 if valid.size > MOST_SAMPLED else 1
    some = bands[:, ::step, ::step][:, valid[::step, ::step]].astype(np.float64)
    values: Float[np.ndarray, " values"] = some[np.isfinite(some)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (LOW, HIGH)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0
