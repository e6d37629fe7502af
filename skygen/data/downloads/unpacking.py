"""What a downloaded file must be before it is used, and benchmarks' archives turned into folders with nothing astray."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from skygen.errors import DataError, StorageError
from skygen.storage import flush_to_disk, storage_error

MOST_MEMBERS = 2_000_000
MOST_MEMBER_BYTES = 2_000_000_000
MOST_TIMES = 25
"""An archive of JPEGs unpacks to its own size, one of tables to about ten times that; a bomb, to a thousand times."""
SPARED_BYTES = 50_000_000
"""To so little an archive may unpack, whatever its own size."""
_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")  # of a first member; of an archive without members
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_BLOCK = 1 << 20


def begins_well(name: str, head: bytes) -> bool:
    """Say whether first bytes can be those of a published file, rather than of a page that says why there is none.

    Args:
        name: of the file, with its ending.
        head: its first 512 bytes, or all of it.
    """
    if name.endswith(".zip"):
        return head.startswith(_SIGNATURES)
    header = head.removeprefix(b"\xef\xbb\xbf").splitlines()[:1] or [b""]
    return b"filepath" in [cell.strip(b' "') for cell in header[0].split(b",")]


def find_fault(path: Path, name: str, *, deep: bool) -> str | None:
    """Look for damage in a file that is all there.

    Args:
        path: of the file.
        name: as it is published; the file itself may still be called otherwise.
        deep: read every member of an archive against its CRC-32.

    Returns:
        A few words, or None if nothing is wrong.
    """
    with path.open("rb") as file:
        if not begins_well(name, file.read(512)):
            return "is not a zip archive" if name.endswith(".zip") else "has no column filepath"
    if not name.endswith(".zip"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if not archive.infolist():
                return "is an empty archive"
            if reason := _find_excess(archive.infolist(), path.stat().st_size):
                return reason
            if deep and (bad := _first_bad(archive)):
                return f"is damaged in its member {bad}"
    except _BROKEN as error:
        return f"cannot be read as a zip archive ({error})"
    return None


def unpack(archive: Path, folder: Path, table: str) -> tuple[int, int]:
    """Turn a benchmark's archive into its folder, whole or not at all.

    The folder's content is what lies beside the table, however deeply the archive nests it.

    Args:
        archive: a zip.
        folder: to be made.
        table: name of the pair list that the folder must hold.

    Returns:
        How many files were written, and their bytes.

    Raises:
        DataError: a member would land outside the folder, is a link, is encrypted or damaged, unpacks to far more than it
            should, or the table is not among them.
        StorageError: the disk does not take it.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        with zipfile.ZipFile(archive) as content:
            members = _check(archive, content.infolist())
            written = _place(archive, members, folder.name, table)
            total = sum(member.file_size for member in members)
            _check_space(archive, folder, total)
            for member, path in zip(members, written, strict=True):
                _extract(content, member, temporary / path)
        flush_to_disk(temporary)
        temporary.rename(folder)
        flush_to_disk(folder.parent)
    except _BROKEN as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); remove it and download it again.") from error
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(members), total


def measure_folder(folder: Path) -> tuple[int, int]:
    """Count the files below a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not _is_clutter(PurePosixPath(path.name))]
    return len(sizes), sum(sizes)


def _first_bad(archive: zipfile.ZipFile) -> str | None:
    """Return the first member that does not fit its own checksum."""
    for member in archive.infolist():
        try:
            with archive.open(member) as file:
                while file.read(_BLOCK):
                    pass
        except _BROKEN:
            return member.filename
    return None


def _check(archive: Path, members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the members that are files, without what file managers leave; refuse an archive that is up to something."""
    if len(members) > MOST_MEMBERS:
        raise _refusal(archive, f"it has {len(members):,} members")
    for member in members:
        if reason := _find_danger(member):
            raise _refusal(archive, f"its member {member.filename!a} {reason}")
    kept = [member for member in members if not member.is_dir() and not _is_clutter(PurePosixPath(member.filename))]
    if reason := _find_excess(kept, archive.stat().st_size):
        raise _refusal(archive, f"it {reason}")
    return kept


def _find_excess(members: Sequence[zipfile.ZipInfo], size: int) -> str | None:
    """Tell a bomb by the sizes that it declares, to which ``zipfile`` holds it."""
    total = sum(member.file_size for member in members)
    if total > MOST_TIMES * size + SPARED_BYTES:
        return f"unpacks to {total:,} bytes, more than {MOST_TIMES} times its own size"
    return None


def _find_danger(member: zipfile.ZipInfo) -> str | None:
    name, mode = member.filename, member.external_attr >> 16
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":" or min(name, default=" ") < " ":
        return "would land outside the folder"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is a link or a device"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > MOST_MEMBER_BYTES:
        return f"unpacks to {member.file_size:,} bytes"
    return None


def _refusal(archive: Path, reason: str) -> DataError:
    return DataError(f"{archive}: is not unpacked, since {reason}; it is not the published archive: remove it.")


def _is_clutter(path: PurePosixPath) -> bool:
    return "__MACOSX" in path.parts or path.name in {".DS_Store", "Thumbs.db"} or path.name.startswith("._")


def _place(archive: Path, members: Sequence[zipfile.ZipInfo], folder: str, table: str) -> list[PurePosixPath]:
    """Return where each member goes, relative to the folder."""
    paths = [PurePosixPath(member.filename) for member in members]
    tables = [path for path in paths if path.name == table]
    if not tables:
        raise DataError(f"{archive}: holds no {table}; it is not the published archive: remove it and download it again.")
    top = min(tables, key=lambda path: len(path.parts)).parent
    placed = [_below(path, top, folder) for path in paths]
    if len({str(path).casefold() for path in placed}) < len(placed):
        raise _refusal(archive, "two of its members would become the same file")
    return placed


def _below(path: PurePosixPath, top: PurePosixPath, folder: str) -> PurePosixPath:
    if top.parts and path.is_relative_to(top):
        return path.relative_to(top)
    # The table lies bare while the images, which it names from the folder above, have that folder around them.
    return PurePosixPath(*path.parts[1:]) if len(path.parts) > 1 and path.parts[0] == folder else path


def _check_space(archive: Path, folder: Path, total: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if total > free:
        raise StorageError(f"{folder}: unpacking {archive.name} needs {total:,} bytes, and {free:,} are free; free disk space.")


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write one member; of what it holds beyond its own entry's size, zipfile reads nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, _BLOCK)
