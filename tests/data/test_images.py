from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from data.damage import damage, open_damaged
from PIL import Image

from skygen.data.augmentation import dihedral
from skygen.data.images import fit_image, image_to_tensor, open_image, read_size, read_sizes, tensor_to_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects, read_rejects
from skygen.data.table import PairList
from skygen.errors import ImageError
from skygen.seeding import Seeds

PIXELS = Seeds(0).numpy("pixels").integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows, columns, rows + columns], -1).astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_rgb_pixels_come_unchanged_from_bytes_and_from_a_file(form: str, tmp_path: Path) -> None:
    data = encode(Image.fromarray(PIXELS), form)
    (tmp_path / "image").write_bytes(data)
    assert np.array_equal(np.asarray(open_image(data)), PIXELS)
    assert np.array_equal(np.asarray(open_image(tmp_path / "image")), PIXELS)
    assert np.array_equal(np.asarray(open_image(str(tmp_path / "image"))), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "CMYK"])
def test_other_modes_become_rgb_of_the_same_look(mode: str) -> None:
    flat = Image.new("RGB", (16, 16), "white").convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    opened = open_image(encode(flat, form))
    assert (opened.mode, opened.size, opened.info) == ("RGB", (16, 16), {})
    assert opened.getpixel((3, 3)) == (255, 255, 255)


def test_transparent_areas_become_black() -> None:
    rgba = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    rgba.putpixel((0, 0), (200, 100, 50, 0))
    opened = open_image(encode(rgba))
    assert opened.getpixel((0, 0)) == (0, 0, 0)
    assert opened.getpixel((1, 0)) == (200, 100, 50)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((0, 0), 0)
    opened = open_image(encode(palette, transparency=0))
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == ((0, 0, 0), (0, 255, 0))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_their_full_range(form: str) -> None:
    values = np.zeros((16, 16), np.uint16)
    values[0, :4] = [0, 257, 32_896, 65_535]
    opened = open_image(encode(Image.fromarray(values), form))
    assert [opened.getpixel((column, 0)) for column in range(4)] == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


def test_float_and_32_bit_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="float pixels"):
        open_image(encode(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF"))
    with pytest.raises(ImageError, match="more than 16 bits"):
        open_image(encode(Image.fromarray(np.full((16, 16), 70_000, np.int32)), "TIFF"))


def test_exif_orientation_is_applied_and_forgotten() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    opened = open_image(encode(Image.fromarray(PIXELS), "PNG", exif=exif))
    assert np.array_equal(np.asarray(opened), np.rot90(PIXELS, -1))
    assert not opened.getexif()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + rest + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@pytest.mark.parametrize("size", [(7000, 7000), (12_000, 10_000), (20_000, 20_000), (16_385, 100), (60_000, 60_000)])
def test_too_large_images_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="too large"):
        open_image(png_header(*size))


def test_too_small_images_are_refused_and_the_smallest_is_not() -> None:
    with pytest.raises(ImageError, match=r"too small: 7 x 100 pixels \(at least 8 a side\)"):
        open_image(encode(Image.new("RGB", (7, 100))))
    assert open_image(encode(Image.new("RGB", (8, 8)))).size == (8, 8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"])
def test_files_cut_short_are_found(form: str, tmp_path: Path) -> None:
    data = encode(Image.fromarray(np.tile(PIXELS, (4, 4, 1))), form)
    lengths = [int(len(data) * share) for share in (0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)]
    for length in lengths:
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(ImageError):
            open_image(data[:length])
        with pytest.raises(ImageError):
            open_image(tmp_path / "cut")
    open_image(data)


def test_reasons_are_short_and_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^missing: no such file$"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match=r"^not an image in a format read here \(JPEG, PNG, TIFF, WEBP, BMP, GIF\)$"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")
    with pytest.raises(ImageError, match=r"^not a file$"):
        open_image(tmp_path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "GIF"])
def test_damaged_files_give_an_image_or_an_image_error(form: str) -> None:
    data = encode(Image.fromarray(PIXELS), form)
    outcomes = [open_damaged(damaged) for damaged in damage(data, 100, Seeds(0).numpy("damage", form))]
    assert set(outcomes) <= {"RGB", "rejected"}
    assert len(outcomes) == 100


def test_crop_keeps_proportions_and_takes_the_middle() -> None:
    image = gradient(100, 40)
    cropped = fit_image(image, 40)
    assert np.array_equal(np.asarray(cropped), np.asarray(image)[:, 30:70])
    upright = np.asarray(fit_image(image.transpose(Image.Transpose.TRANSPOSE), 40))
    assert np.array_equal(upright.transpose(1, 0, 2), np.asarray(cropped))
    assert {fit_image(image, resolution).size for resolution in (16, 64)} == {(16, 16), (64, 64)}


def test_a_random_crop_moves_along_the_long_side_and_repeats_with_its_seed() -> None:
    image = gradient(100, 40)
    crops = [np.asarray(fit_image(image, 40, generator=Seeds(0).numpy("crop", index))) for index in range(200)]
    lefts = [int(crop[0, 0, 1]) for crop in crops]
    for crop, left in zip(crops, lefts, strict=True):
        assert np.array_equal(crop, np.asarray(image)[:, left : left + 40])
    assert min(lefts) < 5 and max(lefts) > 55
    again = fit_image(image, 40, generator=Seeds(0).numpy("crop", 7))
    assert np.array_equal(np.asarray(again), crops[7])


def test_squash_keeps_all_of_the_picture() -> None:
    squashed = np.asarray(fit_image(gradient(100, 40), 20, mode="squash")).astype(int)
    assert squashed.shape == (20, 20, 3)
    assert squashed[0, 0, 1] < 6 and squashed[0, -1, 1] > 93


def test_making_smaller_is_antialiased() -> None:
    checkers = Image.fromarray(((np.indices((256, 256)).sum(0) % 2) * 255).astype(np.uint8)).convert("RGB")
    small = np.asarray(fit_image(checkers, 32)).astype(int)
    assert np.abs(small - 127).max() <= 8


def test_a_long_strip_does_not_become_a_giant() -> None:
    assert fit_image(Image.new("RGB", (16_384, 8)), 512).size == (512, 512)


def test_the_eight_variants_are_the_symmetries_of_the_square() -> None:
    square = gradient(8, 8)
    pixels = np.asarray(square)
    variants = [np.asarray(dihedral(square, variant)) for variant in range(8)]
    assert len({variant.tobytes() for variant in variants}) == 8
    for turns in range(4):
        assert np.array_equal(variants[turns], np.rot90(pixels, turns))
        assert any(np.array_equal(variant, np.rot90(pixels[:, ::-1], turns)) for variant in variants[4:])
    for wrong in (-1, 8):
        with pytest.raises(ValueError, match="there are eight"):
            dihedral(square, wrong)


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([every, every.T, 255 - every], -1))
    tensor = image_to_tensor(image)
    assert (tensor.shape, tensor.dtype) == ((3, 16, 16), torch.float32)
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    assert tensor[0, 0, 1].item() == pytest.approx(2 / 255 - 1)
    assert np.array_equal(np.asarray(tensor_to_image(tensor)), np.asarray(image))
    assert np.array_equal(np.asarray(tensor_to_image(tensor.double().requires_grad_())), np.asarray(image))


def test_values_outside_the_range_are_clamped() -> None:
    image = tensor_to_image(torch.tensor([-3.0, 0.0, 7.0]).reshape(3, 1, 1).expand(3, 8, 8))
    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_only_rgb_becomes_a_tensor() -> None:
    with pytest.raises(ValueError, match="mode is L"):
        image_to_tensor(Image.new("L", (8, 8)))


@pytest.mark.parametrize(
    ("folder", "pattern", "count"),
    [
        ("captioning_samples_rsicd_ucm_sydney", "**/*.tif", 18),
        ("geotiff", "*.tif", 1),
        ("deepforest_neon", "*.tif", 5),
        ("deepforest_neon", "*.png", 4),
        ("sahi_aerial", "*.png", 2),
        ("sahi_aerial", "*.jpg", 2),
    ],
)
def test_real_overhead_images_open(shared_data: Callable[[str], Path], folder: str, pattern: str, count: int) -> None:
    paths = sorted(shared_data(folder).glob(pattern))
    assert len(paths) == count
    for path in paths:
        image = open_image(path)
        assert image.mode == "RGB"
        assert np.asarray(fit_image(image, 32)).std() > 3, path.name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_size_is_read_upright_from_the_header(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(PIXELS), form, exif=exif)
    assert read_size(data) == open_image(data).size == ((40, 60) if orientation >= 5 else (60, 40))


HELD = {"JPEG": "RGB L", "PNG": "RGB L P 1 RGBA I;16", "TIFF": "RGB L P 1 RGBA I;16", "BMP": "RGB L P 1", "GIF": "RGB L P 1"}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in HELD.items() for mode in modes.split()])
def test_a_size_is_that_of_the_opened_image_in_every_format(form: str, mode: str) -> None:
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    data = encode(image, form)
    assert read_size(data) == open_image(data).size == (60, 40)


@pytest.mark.parametrize("kind", [b"eXIf", b"tEXt"])
def test_an_orientation_that_a_png_says_after_its_pixels_counts(kind: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    text = b"Raw profile type exif\0\nexif\n%8d\n" % len(raw) + raw.hex().encode() + b"\n"
    body = raw.removeprefix(b"Exif\0\0") if kind == b"eXIf" else text
    plain = encode(Image.fromarray(PIXELS))
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    data = plain[:-12] + chunk + plain[-12:]
    assert read_size(data) == open_image(data).size == (40, 60)
    assert read_size(plain) == (60, 40)


def test_a_size_is_refused_for_the_reasons_that_an_image_is(tmp_path: Path) -> None:
    small = encode(Image.new("RGB", (7, 100)))
    large = [png_header(*size) for size in ((7000, 7000), (16_385, 100))]
    wrong: list[Path | bytes] = [tmp_path / "absent.jpg", tmp_path, b"no image", b"", small, *large]
    for source in wrong:
        with pytest.raises(ImageError) as opened:
            open_image(source)
        with pytest.raises(ImageError) as measured:
            read_size(source)
        assert str(measured.value) == str(opened.value)
    assert len(wrong) == 7


def test_no_pixels_are_decoded_for_a_size() -> None:
    data = encode(Image.fromarray(np.tile(PIXELS, (10, 10, 1))), "JPEG")
    assert read_size(data[: len(data) // 2]) == (600, 400)
    with pytest.raises(ImageError, match="truncated"):
        open_image(data[: len(data) // 2])


def test_real_images_of_every_kind_have_the_size_that_they_open_with(shared_data: Callable[[str], Path]) -> None:
    folders = ("captioning_samples_rsicd_ucm_sydney", "geotiff", "deepforest_neon", "sahi_aerial")
    suffixes = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}
    paths = [path for folder in folders for path in sorted(shared_data(folder).rglob("*")) if path.suffix.lower() in suffixes]
    assert len(paths) >= 32
    for path in paths:
        assert read_size(path) == open_image(path).size, path


def make_pairs(folder: Path, count: int) -> list[Pair]:
    pairs = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (8 + number % 90, 9 + number % 70)).save(path)
        pairs.append(Pair(path.name, path, ("a field",)))
    return pairs


def test_sizes_of_many_come_in_order_and_the_unreadable_are_noted(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 600)
    (tmp_path / "17.png").write_bytes(b"no image")
    (tmp_path / "599.png").unlink()
    told: list[tuple[int, int]] = []
    rejects = Rejects(tmp_path / "rejects.jsonl")
    sizes = read_sizes(pairs, rejects, lambda done, total: told.append((done, total)))
    assert (sizes.dtype, sizes.shape) == (np.dtype("int32"), (600, 2))
    good = [(0, 0) if number in (17, 599) else (8 + number % 90, 9 + number % 70) for number in range(600)]
    assert list(map(tuple, sizes.tolist())) == good
    assert [(entry.key, entry.reason.split(" (")[0]) for entry in read_rejects(tmp_path / "rejects.jsonl")] == [
        ("17.png", "not an image in a format read here"),
        ("599.png", "missing: no such file"),
    ]
    assert told == [(0, 600), (512, 600), (600, 600)]
    assert read_sizes([], rejects).shape == (0, 2)


def test_sizes_that_a_check_has_found_are_taken_from_the_table(tmp_path: Path) -> None:
    chosen = PairList.of(make_pairs(tmp_path, 9), tmp_path)
    (part,) = chosen.tables
    table = part.table
    for name, values in (("width", [100, None, 300]), ("height", [50, None, 60])):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values * 3, pa.int32()))
    known = PairList([replace(part, table=table)], np.array([0, 1, 2, 8, 4]))
    (tmp_path / "0.png").unlink()  # nobody looks at it
    rejects = Rejects(None)
    assert read_sizes(known, rejects).tolist() == [[100, 50], [9, 10], [300, 60], [300, 60], [12, 13]]
    assert rejects.count == 0


def test_sizes_of_an_archive_are_read_without_unpacking_it(tmp_path: Path) -> None:
    make_pairs(tmp_path, 3)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for number in range(3):
            archive.write(tmp_path / f"{number}.png", f"pictures/{number}.png")
    members = [tmp_path / "pictures.zip" / "pictures" / f"{number}.png" for number in range(3)]
    assert list(map(read_size, members)) == [(8, 9), (9, 10), (10, 11)]
