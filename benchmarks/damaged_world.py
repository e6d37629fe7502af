"""A fabricated SkyScript in zips, with 1 % of every kind of damage: is each row accounted for, and trained on if usable?

    python -m benchmarks.damaged_world --pairs 200000 --folder /tmp/skygen-damaged

A few hundred drawn tiles, each under many names. What is wrong with which row is known, and compared with what
``skygen check`` finds and with what a training sees, with 0, 1 and 4 loader workers.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from skygen.data.batches import Positions, load_batches
from skygen.data.checking import Report, check_images, format_report, report
from skygen.data.framing import ImageSettings
from skygen.data.index import build_index, open_index
from skygen.data.layouts import find_layout
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.miniature.fabricate import fabricate
from skygen.seeding import Seeds

LIST = "SkyScript_train_unfiltered_5M.csv"
PARTS = (2, 3, 4)
SHARE = 0.01
IMAGE_DAMAGE = ("missing", "truncated", "no image", "40 megapixels", "long side", "crc")
ROW_DAMAGE = ("utf-8", "no caption", "upwards", "absolute", "cells", "quote")
KEPT = ("repeated", "no meta", "hostile meta")
"""What costs no pair: a row that says nothing new, a meta that is not there, a meta that would run code."""


class Row(NamedTuple):
    """One pair and what is done to it."""

    key: str
    caption: str
    tile: int
    damage: str


class Hostile:
    """Runs a command when it is unpickled by a reader that trusts it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/skygen-damaged"))
    options = parser.parse_args()
    rows = list(plan_rows(options.pairs))
    root, canary = options.folder / "data", options.folder / "canary"
    if not (root / LIST).exists():
        write_world(root, rows, options.folder / "tiles", canary)
    usable = {row.key for row in rows if row.damage not in (*IMAGE_DAMAGE, *ROW_DAMAGE)}
    account = check_world(root, options.workers)
    print(format_report(account))
    compare("rows accounted for", account_total(account), count_lines(rows))
    compare("usable pairs", account.usable, len(usable))
    compare("repeated rows", account.repeated, sum(row.damage == "repeated" for row in rows))
    compare("ledger lines", ledger_keys(root), {name for row in rows for name in expected_key(row)})
    compare("code that metas ran", canary.exists(), False)
    orders = {workers: train_keys(root, len(usable), workers) for workers in (0, 1, 4)}
    compare("keys seen in training", set(orders[0]), usable)
    compare("each once", len(orders[0]), len(usable))
    for workers in (1, 4):
        compare(f"order with {workers} workers", digest(orders[workers]), digest(orders[0]))


def plan_rows(count: int) -> Iterator[Row]:
    """Name the pairs, and choose what is wrong with each: about a hundredth for each kind of damage."""
    kinds = (*IMAGE_DAMAGE, *ROW_DAMAGE, *KEPT)
    luck = Seeds(0).numpy("damage").random(count)
    tiles = Seeds(0).numpy("tiles").integers(TILES, size=count).tolist()
    for number, (chance, tile) in enumerate(zip(luck.tolist(), tiles, strict=True)):
        place = int(chance / SHARE)
        key = f"images{PARTS[number % len(PARTS)]}/a{100_000_000 + number}_CH_19.jpg"
        yield Row(
            key, f"a satellite image of building, levels of {number % 977}", tile, kinds[place] if place < len(kinds) else ""
        )


TILES = 300


def write_world(root: Path, rows: list[Row], tiles_folder: Path, canary: Path) -> None:
    """Write the archives, then the list, so that a list that is there has its archives."""
    if not tiles_folder.exists():
        fabricate(tiles_folder, pairs=TILES, seed=1)
    tiles = [path.read_bytes() for path in sorted(tiles_folder.glob("images*/*.jpg"))]
    metas = [path.read_bytes() for path in sorted(tiles_folder.glob("meta*/*.pickle"))]
    root.mkdir(parents=True, exist_ok=True)
    hostile = pickle.dumps(Hostile(canary))
    for part in PARTS:
        own = [row for row in rows if row.key.startswith(f"images{part}/")]
        with zipfile.ZipFile(root / f"images{part}.zip", "w") as archive:
            for row in own:
                if row.damage != "missing":
                    archive.writestr(row.key, spoil_image(row, tiles[row.tile]))
        spoil_members(root / f"images{part}.zip", {row.key for row in own if row.damage == "crc"})
        with zipfile.ZipFile(root / f"meta{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for row in own:
                if row.damage != "no meta":
                    name = row.key.replace("images", "meta").replace(".jpg", ".pickle")
                    archive.writestr(name, hostile if row.damage == "hostile meta" else metas[row.tile])
    (root / LIST).write_bytes(b"filepath,title\n" + b"".join(line for row in rows for line in lines_of(row)))


def spoil_image(row: Row, jpeg: bytes) -> bytes:
    """Return the bytes of a pair's image, damaged as planned."""
    match row.damage:
        case "truncated":
            return jpeg[: len(jpeg) // 2]
        case "no image":
            return b"<html><body>404</body></html>"
        case "40 megapixels":
            return blank_png(7_000, 6_000)
        case "long side":
            return blank_png(16_400, 10)
        case _:
            return jpeg


def blank_png(width: int, height: int) -> bytes:
    """Make a large picture of few bytes."""
    if (width, height) not in _PNGS:
        buffer = io.BytesIO()
        Image.new("1", (width, height)).save(buffer, "PNG")
        _PNGS[width, height] = buffer.getvalue()
    return _PNGS[width, height]


_PNGS: dict[tuple[int, int], bytes] = {}


def spoil_members(path: Path, names: set[str]) -> None:
    """Flip a byte in the middle of members' data, which their CRC-32 then tells."""
    with zipfile.ZipFile(path) as archive:
        places = [
            info.header_offset + 30 + len(info.filename) + info.compress_size // 2
            for info in archive.infolist()
            if info.filename in names
        ]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 0xFF]))


def lines_of(row: Row) -> Iterator[bytes]:
    """Yield a pair's lines in the list."""
    whole = f'{row.key},"{row.caption}"\n'.encode()
    match row.damage:
        case "utf-8":
            yield whole.replace(b"satellite", b"satell\xefte")
        case "no caption":
            yield f"{row.key},  \n".encode()
        case "upwards":
            yield f'../{row.key},"{row.caption}"\n'.encode()
        case "absolute":
            yield f'/etc/{row.key},"{row.caption}"\n'.encode()
        case "cells":
            yield whole.replace(b"\n", b",x,y\n")
        case "quote":
            yield f'{row.key},"{row.caption}\n'.encode()
        case "repeated":
            yield whole
            yield whole
        case _:
            yield whole


def count_lines(rows: list[Row]) -> int:
    return sum(len(list(lines_of(row))) for row in rows)


def expected_key(row: Row) -> Iterator[str]:
    """Name the ledger's entry of a pair; that of a row is its number in the list, told apart by its kind alone here."""
    if row.damage in (*IMAGE_DAMAGE, *KEPT):
        yield row.key


def ledger_keys(root: Path) -> set[str]:
    """Read which pairs the ledger names; rows are counted by ``account_total``."""
    lines = (root / ".skygen" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {key for key in (json.loads(line)["key"] for line in lines) if not key.startswith(LIST)}


def check_world(root: Path, workers: int) -> Report:
    """Index and check, timed."""
    layout = find_layout(root, None, None, None, "{}")
    start = time.perf_counter()
    index = build_index(layout, None, lambda done, total: None)
    print(f"indexed in {time.perf_counter() - start:.0f} s: {index.counts}")
    start = time.perf_counter()
    check_images(index, lambda done, total: None, workers=workers, again=True)
    print(f"checked in {time.perf_counter() - start:.0f} s")
    found = open_index(layout)
    if found is None:
        raise AssertionError("the index became stale")
    return report(found, root / ".skygen" / "rejects.jsonl")


def account_total(account: Report) -> int:
    return account.usable + account.joined + account.repeated + sum(account.absent.values()) + sum(account.rejected.values())


def train_keys(root: Path, usable: int, workers: int) -> list[str]:
    """Read one round of the training stream, and return the keys in the order they come."""
    pairs = PairSettings(root, max_bad_fraction=0.5).read(Rejects(None))
    stream = PairStream(pairs, ImageSettings(32), CaptionSettings(), Seeds(0), Rejects(None))
    batch = 50
    start = time.perf_counter()
    loader = load_batches(stream, Positions(0, -(-len(pairs) // batch), batch), workers)
    keys = [key for some in loader for key in some.keys][: len(pairs)]
    print(f"{workers} workers: {len(keys):,} of {usable:,} pairs in {time.perf_counter() - start:.0f} s")
    return keys


def digest(keys: list[str]) -> str:
    return sha256("\n".join(keys).encode()).hexdigest()[:16]


def compare(what: str, found: object, expected: object) -> None:
    """Say whether something is as it must be, and stop if it is not."""
    shown = f"{len(found):,} of them" if isinstance(found, set) else found
    print(f"{'ok' if found == expected else 'WRONG'}  {what}: {shown}")
    if found != expected:
        detail = Counter(found) - Counter(expected) if isinstance(found, set) and isinstance(expected, set) else expected
        raise SystemExit(f"{what}: expected {str(detail)[:500]}")


if __name__ == "__main__":
    main()
