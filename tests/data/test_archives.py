from __future__ import annotations

import io
import multiprocessing
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from skygen import storage
from skygen.data import archives
from skygen.data.archive_members import FEWEST_TO_KEEP
from skygen.data.archives import Archive, read_bytes, split_at_archive
from skygen.data.zip_directory import zip_members
from skygen.errors import ArchiveError
from skygen.seeding import Seeds

TEXT = b"a tile, " * 50
NOISE = Seeds(1).numpy("content").bytes(3000)


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def change(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) > 0
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_zipfile_reads_them(method: int, tmp_path: Path) -> None:
    contents = {"images2/1.jpg": NOISE, "images2/leer.jpg": b"", "images2/grün.jpg": TEXT}
    path = write_zip(tmp_path / "images2.zip", contents.items(), method)
    assert {name: read_bytes(path / name) for name in contents} == contents
    archive = Archive(path)
    assert len(archive) == 3
    assert "images2/grün.jpg" in archive
    assert "images2/2.jpg" not in archive
    assert [(member.name, member.size, member.method) for member in archive.members()] == [
        (name, len(content), method) for name, content in contents.items()
    ]


def test_a_file_in_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "1.jpg").write_bytes(NOISE)
    assert read_bytes(tmp_path / "folder.zip" / "1.jpg") == NOISE


def test_what_is_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", TEXT)])
    for absent in (tmp_path / "absent.jpg", tmp_path / "absent.zip" / "1.jpg", path / "2.jpg", path / "deep" / "2.jpg"):
        with pytest.raises(FileNotFoundError):
            read_bytes(absent)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ArchiveError, match=r"^not a file$"):
        read_bytes(tmp_path / "pipe.jpg")
    with pytest.raises(ArchiveError, match=r"^not a file$"):
        read_bytes(tmp_path)
    with pytest.raises(ArchiveError, match=r"^cannot be opened: File name too long$"):
        read_bytes(tmp_path / ("x" * 300))
    with pytest.raises(ArchiveError, match=r"^cannot be opened: embedded null byte$"):
        read_bytes(tmp_path / "a\0b")
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 100)
    with pytest.raises(ArchiveError, match=rf"^too large: {path.stat().st_size} bytes \(at most 100\)$"):
        read_bytes(path)
    with pytest.raises(ArchiveError, match=r"^too large: 400 bytes \(at most 100\)$"):
        read_bytes(path / "1.jpg")


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", NOISE), ("2.jpg", TEXT)], zipfile.ZIP_STORED)
    change(path, NOISE[1000:1010], bytes(10))
    with pytest.raises(ArchiveError, match=r"^damaged: its CRC-32 is not that of the archive's directory$"):
        read_bytes(path / "1.jpg")
    assert read_bytes(path / "2.jpg") == TEXT


def test_a_damaged_deflated_member_is_found(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", NOISE), ("2.jpg", TEXT)])
    data = bytearray(path.read_bytes())
    place = data.index(b"1.jpg") + 5
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"^damaged: "):
        read_bytes(path / "1.jpg")
    assert read_bytes(path / "2.jpg") == TEXT


def test_encrypted_and_unknown_methods_are_told(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", TEXT)])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"^encrypted$"):
        read_bytes(path / "1.jpg")
    other = write_zip(tmp_path / "b.zip", [("1.jpg", TEXT)], zipfile.ZIP_BZIP2)
    with pytest.raises(ArchiveError) as caught:
        read_bytes(other / "1.jpg")
    assert str(caught.value) == "packed by method 12, which is not read here; pack the archive anew, stored or deflated"


def test_a_bomb_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", bytes(50_000_000))])
    assert path.stat().st_size < 60_000
    change(path, struct.pack("<L", 50_000_000), struct.pack("<L", 1000))
    with pytest.raises(ArchiveError, match=r"^damaged: unpacks to more than its 1000 bytes$"):
        read_bytes(path / "1.jpg")
    change(path, struct.pack("<L", 1000), struct.pack("<L", 0x7FFFFFFF))
    with pytest.raises(ArchiveError, match=r"^too large: 2147483647 bytes"):
        open_new(path).read("1.jpg")


def open_new(path: Path) -> Archive:
    return Archive(path)


def test_what_is_no_zip_says_so_and_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_zip(tmp_path / "whole.zip", [(f"{n}.jpg", NOISE) for n in range(5)]).read_bytes()
    contents = {"cut": whole[:-30], "half": whole[: len(whole) // 2], "empty": b"", "text": b"not a zip " * 100}
    for name, content in contents.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(content)
        with pytest.raises(ArchiveError) as caught:
            read_bytes(path / "1.jpg")
        assert str(caught.value) == (
            f"the archive {path} cannot be read: it has no directory at its end: it is cut short, or no zip; "
            "download or pack it again"
        )
        monkeypatch.setattr(archives, "load_index", lambda path: pytest.fail("listed again"))
        with pytest.raises(ArchiveError, match="it is cut short, or no zip"):
            read_bytes(path / "2.jpg")
        monkeypatch.undo()
    lost = tmp_path / "lost.zip"
    lost.write_bytes(whole[3000:])  # the end is there, the beginning is not
    with pytest.raises(ArchiveError, match="its directory is not where it says: it is cut short or damaged"):
        read_bytes(lost / "1.jpg")


def test_an_empty_zip_has_no_members(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [])
    assert len(Archive(path)) == 0
    with pytest.raises(FileNotFoundError):
        read_bytes(path / "1.jpg")


def write_zip64(path: Path, content: bytes = TEXT) -> None:
    with zipfile.ZipFile(path, "w") as file:
        with file.open("big.jpg", "w", force_zip64=True) as member:
            member.write(content)
        file.writestr("small.jpg", NOISE)


def test_zip64_sizes_and_a_zip64_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits of zero, ``zipfile`` writes everything in the form that a zip above 4 GB has."""
    write_zip64(tmp_path / "a.zip")
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    write_zip64(tmp_path / "b.zip")
    monkeypatch.undo()
    assert b"PK\x06\x07" not in (tmp_path / "a.zip").read_bytes()
    assert b"PK\x06\x07" in (tmp_path / "b.zip").read_bytes()
    (tmp_path / "c.zip").write_bytes(b"#!/bin/sh\n" * 9 + (tmp_path / "b.zip").read_bytes())
    for name in "abc":
        assert read_bytes(tmp_path / f"{name}.zip" / "big.jpg") == TEXT
        assert read_bytes(tmp_path / f"{name}.zip" / "small.jpg") == NOISE


def test_more_members_than_16_bits_count(tmp_path: Path) -> None:
    """With a Zip64 directory, and as a writer leaves it that has none and lets the count overflow."""
    path = tmp_path / "many.zip"
    count = 65_600
    heads, directory = bytearray(), bytearray()
    for number in range(count):
        name, content = b"%d.jpg" % number, b"%d" % number
        fields = (20, 0, 0, 0, 0, zlib.crc32(content), len(content), len(content), len(name))
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *fields, 0, 0, 0, 0, 0, len(heads)) + name
        heads += struct.pack("<4s5H3L2H", b"PK\3\4", *fields, 0) + name + content
    start, size = len(heads), len(directory)
    short = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count % 65_536, count % 65_536, size, start, 0)
    path.write_bytes(heads + directory + short)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "zip64.zip").write_bytes(heads + directory + end64 + locator + end)
    for archive in (Archive(path), Archive(tmp_path / "zip64.zip")):
        assert len(archive) == count
        assert [archive.read(f"{number}.jpg") for number in (0, 65_535, 65_599)] == [b"0", b"65535", b"65599"]
    data = bytearray(write_zip(tmp_path / "wrong.zip", [("1.jpg", TEXT), ("2.jpg", TEXT)]).read_bytes())
    data[-12:-10] = b"\3\0"
    (tmp_path / "wrong.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match="its directory lists 2 of 3 members"):
        Archive(tmp_path / "wrong.zip")


def test_bytes_before_the_zip_and_a_comment_after_it(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", NOISE), ("2.jpg", TEXT)])
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"PK\x01\x02 a comment " * 3000
    (tmp_path / "b.zip").write_bytes(b"\x7fELF" * 1000 + path.read_bytes())
    for name in ("a.zip", "b.zip"):
        assert read_bytes(tmp_path / name / "1.jpg") == NOISE
        assert read_bytes(tmp_path / name / "2.jpg") == TEXT


def test_data_descriptors(tmp_path: Path) -> None:
    """A zip written to a pipe has its sizes after each member, and in its directory."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.jpg", NOISE)
        file.writestr("2.jpg", TEXT)
    (tmp_path / "a.zip").write_bytes(pipe.data)
    assert b"PK\x07\x08" in pipe.data
    assert [read_bytes(tmp_path / "a.zip" / f"{number}.jpg") for number in (1, 2)] == [NOISE, TEXT]


def test_names_in_the_old_code_page_and_with_backslashes(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("gr?n.jpg", TEXT), ("d/x.jpg", NOISE)])
    change(path, b"gr?n.jpg", b"gr\x81n.jpg")  # cp437
    change(path, b"d/x.jpg", b"d\\x.jpg")  # as old programs for Windows wrote
    assert read_bytes(path / "grün.jpg") == TEXT
    assert read_bytes(path / "d/x.jpg") == NOISE
    odd = write_zip(tmp_path / "b.zip", [("grün.jpg", TEXT)])
    change(odd, "grün.jpg".encode(), b"gr\xff\xfen.jpg")  # said to be UTF-8
    assert read_bytes(odd / os.fsdecode(b"gr\xff\xfen.jpg")) == TEXT


@pytest.mark.parametrize("inside", ["images2/", "images2/images2/", "", "home/me/images2/", "data/"])
def test_an_image_is_found_however_deep_its_archive_was_packed(inside: str, tmp_path: Path) -> None:
    members = [(f"{inside}{number}.jpg", b"%d" % number) for number in range(20)]
    mac = [
        (f"__MACOSX/{inside}._1.jpg", b"mac"),
        (f"{inside}.DS_Store", b"mac"),
        (f"{inside}._1.jpg", b"mac"),
        (inside or "x/", b""),
    ]
    path = write_zip(tmp_path / "images2.zip", mac + members)
    assert [read_bytes(path / f"images2/{number}.jpg") for number in range(20)] == [content for _, content in members]
    assert len(Archive(path)) == 20
    with pytest.raises(FileNotFoundError):
        read_bytes(path / "images2/20.jpg")


def test_an_image_of_another_folder_is_never_taken_for_a_missing_one(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "all.zip", [("all/trees/1.jpg", b"tree"), ("all/roads/1.jpg", b"road"), ("all/roads/2.jpg", b"r")]
    )
    assert read_bytes(path / "all/roads/1.jpg") == b"road"
    assert read_bytes(path / "trees/1.jpg") == b"tree"
    for absent in ("all/trees/2.jpg", "all/water/1.jpg", "trees/2.jpg"):
        with pytest.raises(FileNotFoundError):
            read_bytes(path / absent)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("1.jpg", b"old"), ("2.jpg", b"two"), ("1.jpg", b"new")])
    assert [read_bytes(path / f"{number}.jpg") for number in (1, 2)] == [b"new", b"two"]
    assert len(Archive(path)) == 2


def test_a_path_is_split_at_its_archive(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip" / "b.ZIP", [("c.tar/x.zip", TEXT)])
    assert split_at_archive(path / "c.tar" / "x.zip") == (path, "c.tar/x.zip")
    assert read_bytes(path / "c.tar" / "x.zip") == TEXT
    assert split_at_archive(tmp_path / "a.zip" / "x.jpg") is None


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars(form: int, tmp_path: Path) -> None:
    long = "x" * 60 + "/" + "y" * 90 + ".jpg"
    contents = {"./1.jpg": NOISE, "2.jpg": b"", long: TEXT} | ({"grün.jpg": TEXT} if form == tarfile.PAX_FORMAT else {})
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    assert {name: read_bytes(tmp_path / "a.tar" / name.removeprefix("./")) for name in contents} == contents
    assert len(Archive(tmp_path / "a.tar")) == len(contents)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "a.tar" / "link.jpg")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:2000])
    with pytest.raises(ArchiveError, match=r"the archive .*cut\.tar cannot be read: .*; download or pack it again"):
        read_bytes(tmp_path / "cut.tar" / "1.jpg")


def write_many(path: Path, stamp: str = "") -> dict[str, bytes]:
    contents = {f"images2/{number}.jpg": f"{stamp}{number}".encode() * (number % 50) for number in range(FEWEST_TO_KEEP)}
    write_zip(path, contents.items())
    return contents


def test_the_index_of_a_large_archive_is_kept_and_made_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images2.zip"
    write_many(path)
    kept = tmp_path / ".skygen" / "images2.zip.members.arrow"
    Archive(path)
    before = kept.stat()
    monkeypatch.setattr("skygen.data.archive_members.list_members", lambda path: pytest.fail("listed again"))
    assert Archive(path).read("images2/49.jpg") == b"49" * 49
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:500])
    assert Archive(path).read("images2/49.jpg") == b"49" * 49
    assert kept.stat().st_size == before.st_size
    write_many(path, "new ")
    program = (
        "import sys; from pathlib import Path; from skygen.data.archives import read_bytes\n"
        "print(read_bytes(Path(sys.argv[1]) / 'images2/3.jpg').decode())"
    )
    shown = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    assert shown.stdout == "new 3new 3new 3\n"
    small = write_zip(tmp_path / "small.zip", [("1.jpg", b"")])
    Archive(small)
    assert [entry.name for entry in (tmp_path / ".skygen").iterdir()] == ["images2.zip.members.arrow"]


def test_the_index_of_a_read_only_folder_is_kept_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    path = tmp_path / "data" / "images2.zip"
    contents = write_many(path)
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    assert Archive(path).read("images2/7.jpg") == contents["images2/7.jpg"]
    assert [entry.name for entry in path.parent.iterdir()] == ["images2.zip"]
    (kept,) = (tmp_path / "home" / "derived").glob("*/*")
    assert kept.name == "images2.zip.members.arrow"
    (path.parent / ".skygen").mkdir()
    kept.rename(path.parent / ".skygen" / kept.name)  # made by one who may write there, and used by all others
    monkeypatch.setattr("skygen.data.archive_members.list_members", lambda path: pytest.fail("listed again"))
    assert Archive(path).read("images2/7.jpg") == contents["images2/7.jpg"]


def test_no_place_for_an_index_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    contents = write_many(tmp_path / "data" / "images2.zip")
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    assert Archive(tmp_path / "data" / "images2.zip").read("images2/7.jpg") == contents["images2/7.jpg"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Arrow's threads are idle when it forks
def test_forked_and_spawned_processes_read_one_zip_at_once(tmp_path: Path) -> None:
    path = tmp_path / "images2.zip"
    contents = {f"images2/{number}.jpg": NOISE[number % 500 : number % 500 + number] for number in range(2200)}
    write_zip(path, contents.items())
    with zipfile.ZipFile(path) as file:
        wanted = [file.read(name) for name in contents]
    names = list(contents)
    assert read_bytes(path / names[5]) == wanted[5]  # so that forked processes share one open file
    places = [place for seed in range(4) for place in Seeds(seed).numpy("order").permutation(len(names)).tolist()]
    pools = [ProcessPoolExecutor(count, multiprocessing.get_context(kind)) for kind, count in (("fork", 4), ("spawn", 2))]
    asked = [pool.map(read_bytes, [path / names[place] for place in places], chunksize=50, timeout=60) for pool in pools]
    for got in asked:
        assert sum(content == wanted[place] for content, place in zip(got, places, strict=True)) == 8800
    for pool in pools:
        pool.shutdown()


def mutate(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(draw.integers(1, 3))):
        # Half of the changes hit the directory, where the numbers stand.
        start = data.index(b"PK\x01\x02") if draw.random() < 0.5 else 0
        place = min(int(draw.integers(start, len(data))), len(changed))
        match int(draw.integers(4)):
            case 0:
                changed[place : place + 1] = draw.bytes(1)
            case 1:
                size = int(draw.integers(1, 9))
                changed[place : place + size] = b"\xff" * size
            case 2 if draw.random() < 0.3:
                del changed[place : place + int(draw.integers(1, 40))]
            case 3 if draw.random() < 0.3:
                changed[place:place] = draw.bytes(int(draw.integers(1, 20)))
            case _:
                changed[place : place + 2] = draw.bytes(2)
    return bytes(changed[: int(draw.integers(len(changed)))] if draw.random() < 0.05 else changed)


def test_mutated_zips_give_the_right_bytes_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a/1.jpg": NOISE[:300], "a/2.jpg": TEXT, "a/grün.jpg": NOISE[:50], "a/4.jpg": b""}
    write_zip(tmp_path / "plain.zip", contents.items())
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    write_zip(tmp_path / "zip64.zip", contents.items(), zipfile.ZIP_STORED)
    right = refused = missing = 0
    for number in range(500):
        draw = Seeds(number).numpy("zip")
        path = tmp_path / f"{number}.zip"
        path.write_bytes(mutate((tmp_path / ("zip64.zip" if number % 2 else "plain.zip")).read_bytes(), draw))
        for name, content in contents.items():
            try:
                assert read_bytes(path / name) == content
                right += 1
            except FileNotFoundError:
                missing += 1
            except ArchiveError as error:
                refused += 1
                assert len(str(error)) < 300
    assert right + refused + missing == 2000
    assert min(right, refused) > 400
    assert missing > 10


def test_mutated_tars_end_in_nothing_but_a_reason(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name in ("1.jpg", "grün.jpg", "y" * 120 + ".jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(TEXT)
            file.addfile(entry, io.BytesIO(TEXT))
    read = refused = 0
    for number in range(300):
        draw = Seeds(number).numpy("tar")
        data = bytearray(buffer.getvalue())
        for _ in range(int(draw.integers(1, 8))):
            place = int(draw.integers(len(data)))
            data[place : place + int(draw.integers(0, 12))] = draw.bytes(int(draw.integers(0, 12)))
        if number % 3 == 0:  # a header with a sum that fits, so that its numbers are believed
            data[124:136] = draw.bytes(12)
            data[148:156] = b"        "
            data[148:156] = b"%06o\0 " % sum(data[:512])
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data)
        try:
            read_bytes(path / "1.jpg")
            read += 1
        except (ArchiveError, FileNotFoundError):
            refused += 1
    assert (read + refused, min(read, refused) > 20) == (300, True)


def test_a_directory_of_wrong_numbers_does_not_end_in_another_error(tmp_path: Path) -> None:
    """Zip64 numbers of 64 bits, an extra field that is cut, and a method of 16 bits."""
    path = write_zip(tmp_path / "a.zip", [("1.jpg", TEXT), ("2.jpg", TEXT)])
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02")
    sizes = slice(entry + 20, entry + 28)
    for number, extra in enumerate([
        struct.pack("<2H3Q", 1, 24, 2**64 - 1, 2**64 - 1, 2**64 - 1),
        struct.pack("<2HQ", 1, 24, 5),
        struct.pack("<4H", 9, 0, 1, 400),
        struct.pack("<4HQ", 9, 0, 1, 400, 7),
    ]):  # fmt: skip
        changed = bytearray(data)
        changed[sizes] = b"\xff" * 8
        changed[entry + 30 : entry + 32] = struct.pack("<H", len(extra))
        changed[entry + 46 + 5 : entry + 46 + 5] = extra
        end = changed.rindex(b"PK\x05\x06")
        changed[end + 12 : end + 16] = struct.pack("<L", end - entry)
        other = tmp_path / f"{number}.zip"
        other.write_bytes(changed)
        with pytest.raises(ArchiveError, match=r"^too large: \d+ bytes|a Zip64 field of its directory is too short"):
            read_bytes(other / "1.jpg")
    odd = bytearray(data)
    odd[entry + 10 : entry + 12] = b"\xff\xff"
    (tmp_path / "method.zip").write_bytes(odd)
    with pytest.raises(ArchiveError, match="packed by method 32767, which is not read here"):
        read_bytes(tmp_path / "method.zip" / "1.jpg")
    assert read_bytes(tmp_path / "method.zip" / "2.jpg") == TEXT
    assert [fields[0] for fields in zip_members(path)] == ["1.jpg", "2.jpg"]
