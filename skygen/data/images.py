"""The one place that decodes images, and turns them into what a network takes and back."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int32
from PIL import Image, ImageOps, UnidentifiedImageError

from skygen.data.archives import read_bytes
from skygen.data.framing import Size, crop_box
from skygen.data.geotiff import holds_measurements, open_geotiff
from skygen.data.pair import Pair
from skygen.data.rejects import Reject, Rejects
from skygen.data.table import PairList
from skygen.errors import ArchiveError, ImageError, UnavailableError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 40_000_000
"""A 21 kB PNG can unpack to 169 megapixels; 40 megapixels of RGB are 120 MB."""
MAX_SIDE = 16_384
MIN_SIDE = 8
"""A smaller picture shows nothing that could be named or learnt."""
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
"""Pillow's other decoders are left out: among them are some that start programs."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two BigTIFF's
_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations that make height of width."""
_ORIENTATION_IN_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Pieces of a PNG that may say it; they may come after the pixels."""
_READERS, _READ_TOGETHER = 4, 512
"""Threads that read files, and files that are handed to them at a time."""
_GDAL = Lock()


def open_image(source: Path | str | bytes) -> Image.Image:
    """Decode an image in full, so that what is returned cannot fail later.

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB, 16 bits by value / 257 as PNG defines it (a 12-bit
    sensor's PNG therefore comes out dark: stretch such data when preparing it). Transparent areas become black, as areas
    without data are in overhead imagery. EXIF orientation is applied. Of several frames, the first counts. A TIFF of
    measurements (several bands of more than 8 bits, one such band with a place on the ground, or bands that Pillow cannot
    read) is stretched: ``skygen.data.geotiff``.

    Args:
        source: a file, whose path may lead through an archive, or its bytes.

    Returns:
        An RGB image, 8 bits a channel, both sides from 8 to 16,384 pixels and at most 40 megapixels, without metadata.

    Raises:
        ImageError: if it is missing, too large, too small, damaged, cut short, or has float or 32-bit pixels.
    """
    with _as_image_error(), _strict_about_bombs():
        data = source if isinstance(source, bytes) else read_bytes(Path(source))
        if data[:4] in _TIFF and holds_measurements(data):
            return open_geotiff(data, _check_size)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            image.load()  # verify() lets truncated files pass
            upright = ImageOps.exif_transpose(image)
            _check_size(*upright.size)
            return _to_rgb(upright)


def read_size(source: Path | str | bytes) -> Size:
    """Read width and height of an image, as ``open_image`` would give it, from its header; no pixels are decoded.

    Args:
        source: a file, whose path may lead through an archive, or its bytes.

    Returns:
        Of the upright image, in pixels. The image may still turn out to be damaged when it is decoded.

    Raises:
        ImageError: if it is missing, no image, too large or too small.
    """
    with _as_image_error(), _strict_about_bombs():
        return _read_header(source)


def read_sizes(
    pairs: Sequence[Pair], rejects: Rejects, progress: Callable[[int, int], None] = lambda done, total: None
) -> Int32[np.ndarray, "_pairs 2"]:
    """Read width and height of the image of every pair.

    What ``skygen check`` has found is taken from the table; only the headers of the other images are read.

    Args:
        pairs: whose images are looked at.
        rejects: where those that cannot be read are noted.
        progress: is told the images done and in all.

    Returns:
        Width and height of each, in pixels, upright; 0 and 0 of an image that cannot be read.
    """
    sizes = np.zeros((len(pairs), 2), np.int32)
    if isinstance(pairs, PairList):
        for place, name in enumerate(("width", "height")):
            sizes[:, place] = pairs.column(name).fill_null(0).to_numpy()
        sizes[(sizes <= 0).any(1)] = 0
    todo = np.flatnonzero(sizes[:, 0] == 0)
    done = len(pairs) - len(todo)
    progress(done, len(pairs))
    # The filters of warnings are the process's: the threads share those that are set around them.
    with _strict_about_bombs(), ThreadPoolExecutor(_READERS, "size") as pool:
        for start in range(0, len(todo), _READ_TOGETHER):  # a pool given all of them would queue millions
            rows = todo[start : start + _READ_TOGETHER]
            some = [pairs[int(row)] for row in rows]
            bad = []
            for row, pair, found in zip(rows, some, pool.map(_try_header, some), strict=True):
                if isinstance(found, str):
                    bad.append(Reject(pair.key, found, str(pair.image)))
                else:
                    sizes[row] = found
            rejects.add_all(bad)
            progress(done + start + len(rows), len(pairs))
    return sizes


def open_readable(places: Sequence[tuple[str, Path]], rejects: Rejects) -> list[tuple[int, Image.Image]]:
    """Decode those images that can be; the others go to the ledger.

    Args:
        places: key and file of each.
        rejects: where the unreadable ones are noted.

    Returns:
        Each image that could be read, with its place in ``places``.
    """
    read = []
    for index, (key, path) in enumerate(places):
        try:
            read.append((index, open_image(path)))
        except ImageError as error:
            rejects.add(key, str(error), where=str(path))
    return read


def list_images(place: Path) -> list[Path]:
    """List the image files of a folder and the folders in it, sorted; a single file is a list of itself.

    Raises:
        UnavailableError: if there is no such place, or no image in it.
    """
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    paths = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
    if not paths:
        raise UnavailableError(f"{place}: there is no image; give an image file, or a folder with JPEG, PNG or TIFF files.")
    return paths


def fit_image(
    image: Image.Image,
    resolution: int,
    *,
    mode: Literal["crop", "squash"] = "crop",
    generator: np.random.Generator | None = None,
) -> Image.Image:
    """Bring an image to a square, with Pillow's bicubic filter, which is antialiased when it makes smaller.

    Args:
        image: of any size.
        resolution: side of the result in pixels.
        mode: ``crop`` keeps the proportions and the largest square; ``squash`` keeps all of the picture.
        generator: places the square at random along the long side; without it, it is the middle one.

    Returns:
        An image of ``resolution`` by ``resolution`` pixels.
    """
    if mode == "squash":
        return image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    box = crop_box(image.size, (resolution, resolution), generator)
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)


def image_to_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Turn an RGB image into float32 values in [-1, 1]: 0 becomes -1, 255 becomes 1."""
    import torch

    if image.mode != "RGB":
        raise ValueError(f"the image's mode is {image.mode}; images come from open_image, which makes RGB")
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def tensor_to_image(tensor: Float[Tensor, "3 height width"]) -> Image.Image:
    """Turn values in [-1, 1] into an RGB image, rounding to the nearest; values outside are clamped.

    It inverts ``image_to_tensor`` exactly. The tensor may be of any float type and on any device.
    """
    import torch

    pixels = tensor.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).add(1.0).mul(127.5).round()
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _try_header(pair: Pair) -> Size | str:
    """Return the size of a pair's image, or why it cannot be read."""
    try:
        with _as_image_error():
            return _read_header(pair.image)
    except ImageError as error:
        return str(error)


def _read_header(source: Path | str | bytes) -> Size:
    data = source if isinstance(source, bytes) else read_bytes(Path(source))
    if data[:4] in _TIFF and holds_measurements(data):
        return _read_geotiff_header(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        if image.format == "TIFF":  # Pillow gives the upright size of these
            return image.size
        if image.format == "PNG" and any(mark in data for mark in _ORIENTATION_IN_PNG):
            image.load()
        exif = Image.Image.getexif(image)  # not PngImageFile's, which decodes every PNG that says nothing
        width, height = image.size
        return (height, width) if exif.get(_ORIENTATION) in _ON_ITS_SIDE else (width, height)


class _SizeFound(Exception):
    """Ends the reading of a GeoTIFF where its size is known, before its pixels are read."""


def _read_geotiff_header(data: bytes) -> Size:
    found: list[Size] = []

    def stop(width: int, height: int) -> None:
        _check_size(width, height)
        found.append((width, height))
        raise _SizeFound

    try:
        with _GDAL:  # rasterio's warnings are silenced for the whole process, one file after the other
            open_geotiff(data, stop)
    except _SizeFound:
        return found[0]
    raise ImageError("damaged or unreadable: the GeoTIFF does not say how large it is")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(f"too large: {width} x {height} pixels (at most 40 megapixels and 16384 a side)")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"too small: {width} x {height} pixels (at least {MIN_SIDE} a side)")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("float pixels, whose white is not defined: convert the image to 8 bits first")
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    rgb = image.convert("RGB")
    rgb.info = {}  # the orientation and colour profile of the file are no longer true of it
    return rgb


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ImageError("pixels of more than 16 bits, whose white is not defined: convert the image to 8 bits first")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


@contextmanager
def _strict_about_bombs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # such as a damaged EXIF block
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("error", message="Truncated File Read", category=UserWarning)
        yield


@contextmanager
def _as_image_error() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("missing: no such file") from None
    except ArchiveError as error:
        raise ImageError(str(error)) from error
    except UnidentifiedImageError:
        raise ImageError(f"not an image in a format read here ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too large: more than 40 megapixels") from None
    except Exception as error:  # on damaged files Pillow's decoders raise almost any type
        if "truncated" in str(error).lower():
            raise ImageError("truncated: the file ends before the picture does") from error
        raise ImageError(f"damaged or unreadable: {type(error).__name__}: {error}") from error
