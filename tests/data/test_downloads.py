from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from data.faulty_server import (
    Fault,
    Handler,
    Server,
    break_off_after,
    change_to,
    etag_of,
    find_offset,
    ignore_range,
    promise,
    refuse,
    serving,
    shift_range,
)

from skygen.data.benchmarks import BENCHMARK_SETS, read_benchmark
from skygen.data.downloads import plan as download_plan
from skygen.data.downloads import unpacking
from skygen.data.downloads.catalogue import BASE_URL, GROUPS, PUBLISHED, find_files
from skygen.data.downloads.job import Outcome, download
from skygen.data.downloads.plan import Item, format_plan, plan
from skygen.data.downloads.receipts import Busy, alone, read_receipts
from skygen.data.downloads.server import Missing, Patience, answering, read_retry_after, seconds_to_wait
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, StorageError, UnavailableError
from skygen.models.backbones import SKYSCRIPT_BACKBONES
from skygen.storage import to_words

META = "meta2.zip"
TABLE = "SkyScript_val_5K_filtered_by_CLIP_laion_RS"


@pytest.fixture(autouse=True)
def _alone_with_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(download_plan.BASE_VARIABLE, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


class Waits:
    """Counts waits instead of waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)

    @property
    def patience(self) -> Patience:
        return Patience(tries=4, timeout=5, sleep=self)


def make_zip(members: dict[str, bytes], **attributes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return file.getvalue()


def noise(count: int) -> bytes:
    return b"".join(hashlib.sha256(index.to_bytes(4, "big")).digest() for index in range(count // 32 + 1))[:count]


def some_zip(count: int = 200_000) -> bytes:
    return make_zip({"meta2/a.pickle": noise(count)})


def fetch_meta(server: Server, root: Path, waits: Waits | None = None, **options: Any) -> tuple[Outcome, ...]:
    items = plan(["meta2"], root, server.url, ask=False)
    return download(items, patience=(waits or Waits()).patience, **options)


def assert_whole(root: Path, content: bytes, name: str = META) -> None:
    """The file is there and right, has its receipt, and nothing else is left."""
    assert (root / name).read_bytes() == content
    receipt = read_receipts(root)[name]
    assert (receipt.size, receipt.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sorted(path.name for path in root.iterdir()) == [".skygen", name]


# ------------------------------------------------------------------------------------------------ catalogue and plan


def test_the_catalogue_is_complete_and_consistent() -> None:
    assert {group: len(files) for group, files in GROUPS.items()} == {
        "images": 6, "metas": 6, "tables": 12, "benchmarks": 14, "checkpoints": 6,
        "part2": 2, "part3": 2, "part4": 2, "part5": 2, "part6": 2, "part7": 2,
    }  # fmt: skip
    assert len({file.name for file in PUBLISHED}) == len({file.path for file in PUBLISHED}) == len(PUBLISHED) == 44
    assert sum(file.md5 is not None for file in PUBLISHED) == 9
    checkpoints = {f"{BASE_URL}/{file.path}" for file in GROUPS["checkpoints"]}
    assert checkpoints == {known.url for known in SKYSCRIPT_BACKBONES.values()}
    for name, backbone in SKYSCRIPT_BACKBONES.items():  # a scorer's name fetches what the scorer looks for
        assert [file.place for file in find_files([name])] == [f"{backbone.archive}.zip"]


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["images2"], ["images2.zip"]),
        (["META3.zip"], ["meta3.zip"]),
        (["part4"], ["images4.zip", "meta4.zip"]),
        (["part4", "images4"], ["images4.zip", "meta4.zip"]),
        ([f"{TABLE}.csv"], [f"dataframe/{TABLE}.csv"]),
        (["rsicb"], ["benchmark/rsicb256.zip"]),
        (["rsicb256"], ["benchmark/rsicb256.zip"]),
        (["skyscript_cls"], ["benchmark/SkyScript_cls.zip"]),
        (["SkyCLIP_ViT_L14_top30pct"], ["ckpt/SkyCLIP_ViT_L14_top30pct.zip"]),
    ],
)
def test_names(names: list[str], paths: list[str]) -> None:
    assert [file.path for file in find_files(names)] == paths


def test_an_unknown_name_lists_those_near_it() -> None:
    with pytest.raises(ConfigError) as caught:
        find_files(["images2", "SkyCLIP_ViT_L14_top3pct"])
    assert str(caught.value) == (
        "SkyCLIP_ViT_L14_top3pct: not one of SkyScript's published files (did you mean SkyCLIP_ViT_L14_top30pct or "
        "SkyCLIP_ViT_L14_top50pct or SkyCLIP_ViT_L14_top30pct_filtered_by_CLIP_laion_RS?); give such a name, or a group: "
        "images, metas, tables, benchmarks, checkpoints, part2, part3, part4, part5, part6, part7."
    )
    with pytest.raises(ConfigError, match=r"^zzzz: not one of SkyScript's published files; give such a name, or a group: "):
        find_files(["zzzz"])
    with pytest.raises(ConfigError, match=r"^nothing is named to download; give names of files or groups, which are images, "):
        find_files([])


def test_the_address_can_be_a_mirrors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert plan(["meta2"], tmp_path, ask=False)[0].url == f"{BASE_URL}/meta2.zip"
    monkeypatch.setenv("SKYGEN_DOWNLOAD_BASE", "https://mirror.example/SkyScript/")
    assert plan(["meta2"], tmp_path, ask=False)[0].url == "https://mirror.example/SkyScript/meta2.zip"
    for address in ("ftp://mirror.example", "mirror.example", "file:///etc"):
        monkeypatch.setenv("SKYGEN_DOWNLOAD_BASE", address)
        with pytest.raises(ConfigError, match=rf"^SKYGEN_DOWNLOAD_BASE is '{address}'; give the address of a mirror, such as "):
            plan(["meta2"], tmp_path)


def test_a_plan_says_sizes_states_and_places(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    server.files = {"meta2.zip": some_zip(), "meta3.zip": bytes(5000), "benchmark/aid.zip": bytes(1_234_567)}
    fetch_meta(server, root)
    (root / "meta3.zip.part").write_bytes(bytes(2000))
    items = plan(["meta2", "meta3", "aid", "SkyCLIP_ViT_B32_top50pct"], root, server.url)
    assert [(item.state, item.on_disk, item.size, item.exact, item.left) for item in items] == [
        ("here", 0, None, False, 0),
        ("partly", 2000, 5000, True, 3000),
        ("absent", 0, 1_234_567, True, 1_234_567),
        ("absent", 0, None, False, 0),
    ]
    lines = format_plan(items).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "name size to",
        f"meta2 already there {root}/meta2.zip",
        f"meta3 5 kB 2 kB are there {root}/meta3.zip",
        f"aid 1.23 MB {root}/benchmark/aid",
        f"SkyCLIP_ViT_B32_top50pct not on the server {tmp_path}/home/checkpoints/SkyCLIP_ViT_B32_top50pct.zip",
        "3 of 4 to download: about 1.24 MB",
    ]


def test_a_plan_without_the_server_is_of_approximate_sizes(tmp_path: Path) -> None:
    with serving() as gone:
        address = gone.url
    items = plan(["images2", "images3", "meta2"], tmp_path, address)
    assert [(item.size, item.exact) for item in items] == [(9_700_000_000, False)] * 2 + [(None, False)]
    lines = format_plan(items).splitlines()
    assert "about 9.7 GB" in lines[1]
    assert "unknown" in lines[3]
    assert lines[-1] == "3 of 3 to download: about 19.4 GB, and 1 of unknown size; the server did not say the sizes"
    assert list(tmp_path.iterdir()) == []


def test_sizes_in_words() -> None:
    sizes = (0, 999, 1000, 1_234_567, 999_600_000, 19_434_569_022)
    assert [to_words(size) for size in sizes] == ["0 bytes", "999 bytes", "1 kB", "1.23 MB", "1 GB", "19.4 GB"]


# ------------------------------------------------------------------------------------------------------- the transfer


def test_a_download_and_what_it_leaves(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    told: list[tuple[int, int]] = []
    assert fetch_meta(server, tmp_path, progress=lambda done, total: told.append((done, total))) == (
        Outcome("meta2", tmp_path / META, "downloaded"),
    )
    assert_whole(tmp_path, content)
    assert told[-1] == (len(content), len(content))
    assert sorted(done for done, _ in told) == [done for done, _ in told]
    assert server.requests()[0]["Accept-Encoding"] == "identity"
    assert fetch_meta(server, tmp_path) == (Outcome("meta2", tmp_path / META, "already there"),)
    assert len(server.requests()) == 1


@pytest.mark.parametrize("breaks", [1, 3, 9])
def test_a_connection_that_breaks_off_is_taken_up_again(server: Server, tmp_path: Path, breaks: int) -> None:
    """Nine breaks are more than the four tries: a try that brought something is not in vain."""
    server.files[META] = content = some_zip()
    server.faults[META] = deque([break_off_after(20_000)] * breaks)
    waits = Waits()
    fetch_meta(server, tmp_path, waits)
    assert_whole(tmp_path, content)
    assert [(headers.get("Range"), headers.get("If-Range")) for headers in server.requests()] == [(None, None)] + [
        (f"bytes={20_000 * count}-", etag_of(content)) for count in range(1, breaks + 1)
    ]
    assert len(waits.seconds) == breaks
    assert all(0.5 <= wait <= 1 for wait in waits.seconds)


def interrupt(server: Server, root: Path, after: int = 70_000) -> None:
    """Have a first command end with a part on the disk."""
    server.faults[META].extend([break_off_after(after)] + [refuse(503)] * 4)
    with pytest.raises(UnavailableError):
        fetch_meta(server, root)
    assert (root / f"{META}.part").stat().st_size == after
    server.faults[META].clear()
    server.log.clear()


def test_a_later_command_goes_on_from_there(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    interrupt(server, tmp_path)
    told: list[tuple[int, int]] = []
    fetch_meta(server, tmp_path, progress=lambda done, total: told.append((done, total)))
    assert_whole(tmp_path, content)
    assert [(headers["Range"], headers["If-Range"]) for headers in server.requests()] == [("bytes=70000-", etag_of(content))]
    assert told[-1] == (len(content) - 70_000, len(content) - 70_000)


@pytest.mark.parametrize(
    ("fault", "requests"), [(ignore_range, 1), (shift_range, 2), (refuse(416), 2), (change_to(some_zip(150_000)), 1)]
)  # fmt: skip
def test_a_part_that_does_not_fit_is_fetched_from_the_start(
    server: Server, tmp_path: Path, fault: Fault, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.files[META] = some_zip()
    interrupt(server, tmp_path)
    server.faults[META].append(fault)
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, server.files[META])
    assert "what came" not in caplog.text  # it was told by its answer, not by its damage
    assert ["Range" in headers for headers in server.requests()] == [True, False][:requests]


def test_a_file_that_changes_between_two_pieces_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.files[META] = some_zip(200_000)
    new = some_zip(210_000)
    server.faults[META] = deque([break_off_after(90_000), change_to(new, break_off_after(50_000)), break_off_after(50_000)])
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, new)
    assert [headers.get("Range") for headers in server.requests()] == [None, "bytes=90000-", "bytes=50000-", "bytes=100000-"]
    assert len({headers.get("If-Range") for headers in server.requests()}) == 3


@pytest.mark.parametrize("spoil", ["missing", "nonsense", "shorter"])
def test_a_part_of_unknown_origin_is_fetched_from_the_start(server: Server, tmp_path: Path, spoil: str) -> None:
    server.files[META] = content = some_zip()
    interrupt(server, tmp_path)
    version = tmp_path / f"{META}.part.json"
    assert json.loads(version.read_text()) == {"total": len(content), "etag": etag_of(content), "last_modified": None}
    if spoil == "missing":
        version.unlink()
    elif spoil == "nonsense":
        version.write_text('{"total": "all"')
    else:
        version.write_text(json.dumps({"total": 60_000, "etag": etag_of(content), "last_modified": None}))
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert ["Range" in headers for headers in server.requests()] == [False]


def test_a_part_that_is_whole_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """The kill came after the last byte and before the file had its name."""
    server.files[META] = content = some_zip()
    interrupt(server, tmp_path)
    (tmp_path / f"{META}.part").write_bytes(content)
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert server.requests() == []


def test_a_weak_etag_is_not_relied_on(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    date = "Wed, 04 Dec 2024 10:00:00 GMT"

    def break_off(handler: Handler, _: bytes) -> None:
        handler.answer(200, content[:50_000], {"ETag": 'W/"x"', "Last-Modified": date}, length=len(content))

    server.faults[META].append(break_off)
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert server.requests()[1]["If-Range"] == date


@pytest.mark.parametrize("code", [404, 403, 410])
def test_a_file_that_the_server_lacks(server: Server, tmp_path: Path, code: int) -> None:
    server.files[META] = some_zip()
    server.faults[META].append(refuse(code))
    waits = Waits()
    with pytest.raises(UnavailableError, match=rf"^{server.url}/meta2\.zip: the server answers {code} \w.*; it may have moved"):
        fetch_meta(server, tmp_path, waits)
    assert waits.seconds == []
    assert [path.name for path in tmp_path.iterdir()] == [".skygen"]


def test_one_missing_file_does_not_keep_the_others_away(server: Server, tmp_path: Path) -> None:
    server.files = {"meta3.zip": some_zip()}
    told: list[tuple[int, int]] = []
    items = plan(["meta2", "meta3", "meta4"], tmp_path, server.url, ask=False)
    with pytest.raises(UnavailableError, match=r"meta2\.zip: the server answers 404 .* \(and 1 other file failed too\)\.$"):
        download(items, patience=Waits().patience, progress=lambda done, total: told.append((done, total)))
    assert_whole(tmp_path, server.files["meta3.zip"], "meta3.zip")
    assert told[-1][0] == told[-1][1]


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    server.faults[META] = deque([refuse(503), refuse(429, Retry_After="7"), refuse(500, Retry_After="9999")])
    waits = Waits()
    fetch_meta(server, tmp_path, waits)
    assert_whole(tmp_path, content)
    assert 0.5 <= waits.seconds[0] <= 1
    assert waits.seconds[1:] == [7.0, 300.0]


def test_a_server_that_stays_in_trouble_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    server.faults[META] = deque([break_off_after(33_333)] + [refuse(503)] * 99)
    waits = Waits()
    with pytest.raises(UnavailableError) as caught:
        fetch_meta(server, tmp_path, waits)
    assert str(caught.value) == (
        f"{server.url}/meta2.zip: given up for now (the server answers 503 Service Unavailable); 33,333 of "
        f"{len(content):,} bytes are in {tmp_path / META}.part, and the same command goes on from there."
    )
    assert len(waits.seconds) == 3
    assert (tmp_path / f"{META}.part").read_bytes() == content[:33_333]


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with serving() as gone:
        pass
    waits = Waits()
    with pytest.raises(UnavailableError, match=r"meta2\.zip: given up for now \(.*[Cc]onnect.*\); 0 bytes are in "):
        fetch_meta(gone, tmp_path, waits)
    assert len(waits.seconds) == 3
    assert waits.seconds == sorted(waits.seconds)


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    server.files[META] = some_zip()
    server.faults[META] = deque([lambda handler, content: time.sleep(4)])
    waits = Waits()
    download(plan(["meta2"], tmp_path, server.url, ask=False), patience=replace(waits.patience, timeout=2))
    assert_whole(tmp_path, server.files[META])
    assert len(waits.seconds) == 1


def test_a_server_that_breaks_off_and_forgets_is_given_up(server: Server, tmp_path: Path) -> None:
    def break_off(handler: Handler, content: bytes) -> None:
        handler.answer(200, content[:50_000], {"ETag": etag_of(content)}, length=len(content))

    server.files[META] = some_zip()
    server.faults[META] = deque([break_off] * 99)
    with pytest.raises(UnavailableError, match="given up for now"):
        fetch_meta(server, tmp_path)
    assert len(server.requests()) < 10


@pytest.mark.parametrize("length", [100_000, 300_000])
def test_a_lie_about_the_length_is_found_out(server: Server, tmp_path: Path, length: int) -> None:
    """Too long: it looks like a broken connection. Too short: what came is no archive."""
    server.files[META] = content = some_zip()
    server.faults[META].append(promise(length))
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)


def test_a_lie_that_is_kept_up_is_never_accepted(server: Server, tmp_path: Path) -> None:
    server.files[META] = some_zip()
    server.faults[META] = deque([promise(100_000)] * 99)
    with pytest.raises(DataError) as caught:
        fetch_meta(server, tmp_path)
    assert str(caught.value) == (
        f"{server.url}/meta2.zip: what came, twice, cannot be read as a zip archive (File is not a zip file); it was removed: "
        "try again later, or use another mirror."
    )
    assert [path.name for path in tmp_path.iterdir()] == [".skygen"]
    assert read_receipts(tmp_path) == {}


def test_a_piece_longer_than_promised_is_not_accepted(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    interrupt(server, tmp_path)

    def too_much(handler: Handler, content: bytes) -> None:
        offset, total = find_offset(handler, content), len(content)
        span = f"bytes {offset}-{total - 1}/{total}"
        handler.answer(206, content[offset:] + b"more", {"ETag": etag_of(content), "Content-Range": span})

    server.faults[META].append(too_much)
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert ["Range" in headers for headers in server.requests()] == [True, False]


@pytest.mark.parametrize("name", ["meta2", TABLE])
def test_a_web_page_in_place_of_the_file(server: Server, tmp_path: Path, name: str) -> None:
    item = plan([name], tmp_path, server.url, ask=False)[0]
    path = item.file.path
    server.files[path] = b"<!DOCTYPE html><html><title>Welcome to Airport WiFi</title>" + b" " * 2000
    with pytest.raises(UnavailableError) as caught:
        download([item], patience=Waits().patience)
    assert str(caught.value) == (
        f"{item.url}: the server sends something else, beginning with '<!DOCTYPE html><html><title>Welcome to A'; open the "
        "address in a browser to see whether it asks to log in, or use another mirror."
    )
    assert not item.target.exists()


def test_a_web_page_does_not_cost_what_had_come(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    interrupt(server, tmp_path)
    server.faults[META].append(refuse(200, b"<html>log in</html>"))
    with pytest.raises(UnavailableError, match="the server sends something else, beginning with '<html>log in</html>'"):
        fetch_meta(server, tmp_path)
    assert (tmp_path / f"{META}.part").read_bytes() == content[:70_000]
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert server.requests()[-1]["Range"] == "bytes=70000-"


def test_an_answer_without_a_length_is_not_taken(server: Server, tmp_path: Path) -> None:
    def chunked(handler: Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    server.files[META] = some_zip()
    server.faults[META].append(chunked)
    with pytest.raises(UnavailableError, match=r"the server does not say how long the file is; use another mirror\.$"):
        fetch_meta(server, tmp_path)


def test_redirects_are_followed_on_the_way_up_only(server: Server, tmp_path: Path) -> None:
    server.files = {"elsewhere/meta2.zip": some_zip()}
    server.faults[META].append(refuse(302, Location=f"{server.url}/elsewhere/meta2.zip"))
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, server.files["elsewhere/meta2.zip"])
    (tmp_path / META).unlink()
    server.faults[META].append(refuse(302, Location="ftp://127.0.0.1/meta2.zip"))
    with pytest.raises(UnavailableError, match=r"sends us on to ftp://127\.0\.0\.1/meta2\.zip, which is not HTTPS"):
        fetch_meta(server, tmp_path)
    server.faults[META] = deque([refuse(302, Location=f"{server.url}/{META}")] * 20)
    with pytest.raises(UnavailableError, match="more than 5 redirects follow each other"):
        fetch_meta(server, tmp_path)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"Location": str(request.url.copy_with(scheme="http"))})

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.raises(UnavailableError) as caught,
        answering(client, "GET", "https://server.example/meta2.zip"),
    ):
        pass
    assert str(caught.value) == (
        "https://server.example/meta2.zip: the server sends us on to http://server.example/meta2.zip, which is not HTTPS; it "
        "is not followed."
    )


def test_waits_double_and_differ_by_file() -> None:
    patience = Patience()
    waits = [seconds_to_wait("https://a/1", tried, None, patience) for tried in range(1, 10)]
    assert all(2.0 ** (count - 1) / 2 <= wait <= 2.0 ** (count - 1) for count, wait in enumerate(waits[:6], start=1))
    assert all(30 <= wait <= 60 for wait in waits[6:])
    assert waits == [seconds_to_wait("https://a/1", tried, None, patience) for tried in range(1, 10)]
    assert waits[0] != seconds_to_wait("https://a/2", 1, None, patience)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert read_retry_after("12") == 12.0
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    later = read_retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100)))
    assert later is not None and 95 < later <= 100
    assert [read_retry_after(text) for text in (None, "soon", "")] == [None, None, None]


# ---------------------------------------------------------------------------------------- kills, disks, other processes


DOWNLOADING = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell has it ignored
from skygen.data.downloads.plan import plan
from skygen.data.downloads.job import download
download(plan(["meta2"], Path(sys.argv[1]), sys.argv[2], ask=False))
"""


def start_download(server: Server, root: Path, after: int = 120_000) -> subprocess.Popen[bytes]:
    """Start a process that downloads, and wait until it has ``after`` bytes and the server has fallen silent."""

    def stall(handler: Handler, content: bytes) -> None:
        offset, total = find_offset(handler, content), len(content)
        span = {"Content-Range": f"bytes {offset}-{total - 1}/{total}"} if offset else {}
        code = 206 if offset else 200
        handler.answer(code, content[offset:][: after - offset], {"ETag": etag_of(content), **span}, length=total - offset)
        handler.wfile.flush()
        time.sleep(20)

    server.faults[META].append(stall)
    process = subprocess.Popen([sys.executable, "-c", DOWNLOADING, str(root), server.url], stderr=subprocess.PIPE)
    part, deadline = root / f"{META}.part", time.monotonic() + 60
    while not part.is_file() or part.stat().st_size < after - 20_000:  # the last bytes may be in its buffer
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on_to_the_exact_bytes(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    server.files[META] = content = some_zip(500_000)
    kept = []
    for after in (120_000, 300_000):
        process = start_download(server, tmp_path, after)
        process.send_signal(number)
        process.communicate(timeout=30)
        kept.append((tmp_path / f"{META}.part").read_bytes())
    assert [content.startswith(part) for part in kept] == [True, True]
    assert 100_000 <= len(kept[0]) <= 120_000 < 280_000 <= len(kept[1]) <= 300_000
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert [headers.get("Range") for headers in server.requests()] == [None, *(f"bytes={len(part)}-" for part in kept)]
    assert [headers.get("If-Range") for headers in server.requests()] == [None, etag_of(content), etag_of(content)]


def test_two_processes_do_not_fetch_the_same_file(server: Server, tmp_path: Path) -> None:
    server.files = {META: some_zip(), "meta3.zip": some_zip(1000)}
    process = start_download(server, tmp_path)
    try:
        items = plan(["meta2", "meta3"], tmp_path, server.url, ask=False)
        with pytest.raises(UnavailableError) as caught:
            download(items, patience=Waits().patience)
        assert re.sub(r"since [\d: -]+", "since … ", str(caught.value)) == (
            f"{tmp_path / META}: process {process.pid} on {socket.gethostname()} (since … UTC) is at work there; wait until "
            "it has ended, stop it, or fetch other files meanwhile."
        )
        assert (tmp_path / "meta3.zip").read_bytes() == server.files["meta3.zip"]
    finally:
        process.kill()
        process.communicate()
    fetch_meta(server, tmp_path)
    assert (tmp_path / META).read_bytes() == server.files[META]


def test_a_lock_is_let_go_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path, META):
        _ = 1 / 0
    with alone(tmp_path, META):
        pass


def test_too_little_space_is_said_beforehand(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {META: some_zip(), "benchmark/aid.zip": bytes(1_000_000)}
    items = plan(["meta2", "aid"], tmp_path / "new" / "data", server.url)
    free = shutil.disk_usage(tmp_path)._replace(free=202_100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(StorageError) as caught:
        download(items)
    assert str(caught.value) == (
        f"{tmp_path}: 2.2 MB are needed and 200 MB to spare, but 202 MB are free; free disk space, choose another folder, or "
        "download less at once."
    )
    assert server.requests() == []
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, block: bytes) -> int:
        self.room -= len(block)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(block)


def test_a_disk_that_fills_up_keeps_what_it_has(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files[META] = content = some_zip(500_000)
    whole_open = Path.open

    def tight_open(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = whole_open(path, mode, *args, **options)
        return FullDisk(file, 200_000) if mode == "ab" and path.suffix == ".part" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", tight_open)
        with pytest.raises(StorageError) as caught:
            fetch_meta(server, tmp_path)
    kept = (tmp_path / f"{META}.part").read_bytes()
    assert 0 < len(kept) <= 200_000 and content.startswith(kept)
    assert str(caught.value) == (
        f"{tmp_path / META}.part: cannot be written (No space left on device) after {len(kept):,} bytes, which are kept; free "
        "disk space or choose another place, and give the same command again to go on."
    )
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)
    assert server.requests()[-1]["Range"] == f"bytes={len(kept)}-"


# ------------------------------------------------------------------------------------------------------- verification


def with_md5(items: tuple[Item, ...], content: bytes) -> tuple[Item, ...]:
    md5 = hashlib.md5(content).hexdigest()
    return tuple(replace(item, file=replace(item.file, md5=md5)) for item in items)


def test_a_wrong_md5_is_fetched_once_more_and_then_refused(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = some_zip(), some_zip(190_000)
    items = with_md5(plan(["meta2"], tmp_path, server.url, ask=False), right)
    server.files[META] = wrong
    server.faults[META] = deque([ignore_range, change_to(right)])
    download(items, patience=Waits().patience)
    assert_whole(tmp_path, right)
    (sentence,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    bad, good = (hashlib.md5(content).hexdigest() for content in (wrong, right))
    assert sentence == (
        f"{server.url}/meta2.zip: what came has the MD5 {bad} instead of {good}; it is removed, and fetched once more."
    )
    (tmp_path / META).unlink()
    server.files[META] = wrong
    with pytest.raises(DataError, match=rf"meta2\.zip: what came, twice, has the MD5 {bad} instead of {good}; it was removed"):
        download(items, patience=Waits().patience)
    assert [path.name for path in tmp_path.iterdir()] == [".skygen"]


def test_a_damaged_member_is_found(server: Server, tmp_path: Path) -> None:
    content = bytearray(some_zip())
    content[100_000] ^= 1
    server.files[META] = bytes(content)
    with pytest.raises(DataError, match=r"what came, twice, is damaged in its member meta2/a\.pickle; it was removed"):
        fetch_meta(server, tmp_path)


def test_the_first_download_is_what_later_ones_are_held_against(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    fetch_meta(server, tmp_path)
    (tmp_path / META).unlink()
    server.files[META] = some_zip(190_000)
    with pytest.raises(DataError, match=r"is not what it was on \d{4}-\d\d-\d\d \(SHA-256 \w{12}, then \w{12}; if it was publ"):
        fetch_meta(server, tmp_path)
    assert not (tmp_path / META).exists()
    server.files[META] = content
    fetch_meta(server, tmp_path)
    assert_whole(tmp_path, content)


def test_verify_reads_what_is_there(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    fetch_meta(server, tmp_path)
    assert fetch_meta(server, tmp_path, verify=True) == (Outcome("meta2", tmp_path / META, "checked"),)
    flipped = bytearray(content)
    flipped[1000] ^= 1
    (tmp_path / META).write_bytes(flipped)
    assert fetch_meta(server, tmp_path)[0].done == "already there"
    with pytest.raises(DataError, match=rf"^{tmp_path / META}: is not what it was on .*; move it away, and give the same"):
        fetch_meta(server, tmp_path, verify=True)
    (tmp_path / META).write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"meta2\.zip: is {len(content) - 1:,} bytes where {len(content):,} are right"):
        fetch_meta(server, tmp_path)
    assert (tmp_path / META).read_bytes() == content[:-1]
    assert len(server.requests()) == 1


def test_a_file_that_was_put_there_by_hand_is_checked_once(server: Server, tmp_path: Path) -> None:
    server.files[META] = content = some_zip()
    (tmp_path / META).write_bytes(content)
    assert fetch_meta(server, tmp_path)[0].done == "checked"
    assert_whole(tmp_path, content)
    assert fetch_meta(server, tmp_path)[0].done == "already there"
    assert server.log == []
    (tmp_path / "meta3.zip").write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"meta3\.zip: cannot be read as a zip archive .*; move it away"):
        download(plan(["meta3"], tmp_path, server.url, ask=False))
    assert (tmp_path / "meta3.zip").stat().st_size == len(content) - 100


def test_damaged_receipts_are_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".skygen").mkdir()
    for text in ("{", "[]", '{"meta2.zip": {"size": "1"}}'):
        (tmp_path / ".skygen" / "downloads.json").write_text(text)
        with pytest.raises(DataError, match=r"downloads\.json: cannot be read \(.*\); remove it, and the files it stood for"):
            fetch_meta(server, tmp_path)


def test_tables_are_fetched_into_the_folder(server: Server, tmp_path: Path) -> None:
    content = b"filepath,title\n" + b"images2/a1_CH_19.jpg,a satellite image\n" * 2000
    server.files[f"dataframe/{TABLE}.csv"] = content
    server.faults[f"dataframe/{TABLE}.csv"].append(break_off_after(1000))
    download(plan([TABLE], tmp_path, server.url), patience=Waits().patience)
    assert_whole(tmp_path, content, f"{TABLE}.csv")


@pytest.mark.parametrize(
    ("head", "good"),
    [
        (b"filepath,title\nx", True),
        (b'\xef\xbb\xbf"filepath","title"\r\n', True),
        (b"title,filepath", True),
        (b"filepaths,title\n", False),
        (b"<html>filepath</html>", False),
        (b"", False),
    ],
)
def test_the_beginning_of_a_table(head: bytes, good: bool) -> None:
    assert unpacking.begins_well("a.csv", head) is good


def test_checkpoints_go_where_a_scorer_looks(server: Server, tmp_path: Path) -> None:
    name, folder = "SkyCLIP_ViT_B32_top50pct", tmp_path / "home" / "checkpoints"
    server.files[f"ckpt/{name}.zip"] = content = make_zip({f"{name}/epoch_20.pt": noise(5000)})
    (outcome,) = download(plan([name], tmp_path, server.url), patience=Waits().patience)
    assert outcome.path == folder / f"{name}.zip"
    assert_whole(folder, content, f"{name}.zip")
    (folder / f"{name}.zip").rename(folder / f"{name}.safetensors")
    (item,) = plan([name], tmp_path, server.url)
    assert item.state == "here"
    assert download([item], verify=True) == (Outcome(name, folder / f"{name}.safetensors", "already there"),)


# --------------------------------------------------------------------------------------------------------- benchmarks


def surface_files(prefix: str = "surface/", images: str = "surface/") -> dict[str, bytes]:
    rows = "".join(f"surface/test/{number}.jpg,x,{number % 5}\n" for number in range(10))
    files = {f"{images}test/{number}.jpg": b"jpeg" for number in range(10)}
    files[f"{prefix}img_txt_pairs_test.csv"] = f"filepath,title,label_v1\n{rows}".encode()
    files[f"{prefix}classnames_v1.txt"] = b"asphalt\nconcrete\ngrass\ngravel\nsand\n"
    return files


@pytest.mark.parametrize(
    "files",
    [
        surface_files(),
        surface_files("surface/surface/", "surface/surface/"),
        surface_files("", ""),
        surface_files("", "surface/"),
        surface_files() | {"__MACOSX/surface/._1.jpg": b"", "surface/.DS_Store": b"", "surface/test/": b""},
    ],
    ids=["plain", "nested", "bare", "bare table", "clutter"],
)
def test_a_benchmark_is_unpacked_to_where_it_is_read(server: Server, tmp_path: Path, files: dict[str, bytes]) -> None:
    server.files["benchmark/surface.zip"] = make_zip(files)
    items = plan(["surface"], tmp_path, server.url)
    assert download(items, patience=Waits().patience) == (Outcome("surface", tmp_path / "benchmark" / "surface", "downloaded"),)
    found = read_benchmark(tmp_path / "benchmark", "surface", Rejects(None))
    assert (len(found.images), len(found.class_names)) == (10, 5)
    assert [path.name for path in (tmp_path / "benchmark").iterdir()] == ["surface"]
    assert len([path for path in (tmp_path / "benchmark").rglob("*") if path.is_file()]) == 12
    receipt = read_receipts(tmp_path)["benchmark/surface.zip"]
    assert receipt.files == 12
    assert plan(["surface"], tmp_path, server.url)[0].state == "here"
    assert download(items)[0].done == "already there"
    assert download(items, verify=True)[0].done == "checked"
    (tmp_path / "benchmark" / "surface" / "test" / "3.jpg").unlink()
    with pytest.raises(
        DataError, match=r"surface: holds 11 files of .* bytes, where 12 of .* bytes were unpacked; move it away"
    ):
        download(items, verify=True)


REGULAR = (stat.S_IFREG | 0o644) << 16


@pytest.mark.parametrize(
    ("member", "attributes", "reason"),
    [
        ("../outside.txt", {}, r"its member '\.\./outside\.txt' would land outside the folder"),
        ("surface/../../outside.txt", {}, "would land outside the folder"),
        ("/tmp/outside.txt", {}, "would land outside the folder"),
        ("surface\\..\\outside.txt", {}, "would land outside the folder"),
        ("C:/outside.txt", {}, "would land outside the folder"),
        ("surface/link", {"external_attr": (stat.S_IFLNK | 0o777) << 16}, "its member 'surface/link' is a link or a device"),
        ("surface/pipe", {"external_attr": (stat.S_IFIFO | 0o644) << 16}, "is a link or a device"),
        ("surface/Test/1.JPG", {}, "two of its members would become the same file"),
    ],
)
def test_a_malicious_benchmark_is_refused(
    server: Server, tmp_path: Path, member: str, attributes: dict[str, int], reason: str
) -> None:
    root = tmp_path / "deep" / "data"
    content = io.BytesIO(make_zip(surface_files(), external_attr=REGULAR))
    with zipfile.ZipFile(content, "a") as archive:
        info = zipfile.ZipInfo(member)
        for name, value in attributes.items():
            setattr(info, name, value)
        info.filename = member  # which ZipInfo may have tidied
        archive.writestr(info, b"/etc/passwd")
    server.files["benchmark/surface.zip"] = content.getvalue()
    with pytest.raises(DataError, match=rf"surface\.zip: is not unpacked, since .*{reason}; it is not the published archive: "):
        download(plan(["surface"], root, server.url), patience=Waits().patience)
    assert not (root / "benchmark" / "surface").exists()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and ".skygen" not in path.parts) == [
        "surface.zip"
    ]
    assert read_receipts(root) == {}
    assert not Path("/tmp/outside.txt").exists()


@pytest.mark.parametrize("stored", ["deflated", "lying"])
def test_a_bomb_is_refused(server: Server, tmp_path: Path, stored: str) -> None:
    """One tells its size, 60 MB out of 60 kB; the other says 1,000 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in surface_files().items():
            archive.writestr(name, content)
        archive.writestr("surface/bomb", bytes(60_000_000))
    content = file.getvalue()
    if stored == "lying":
        content = content.replace((60_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    server.files["benchmark/surface.zip"] = content
    reasons = {"deflated": r"unpacks to 60,000,\d+ bytes, more than 25 times", "lying": "is damaged in its member surface/bomb"}
    with pytest.raises(DataError, match=f"what came, twice, {reasons[stored]}"):
        download(plan(["surface"], tmp_path, server.url), patience=Waits().patience)
    assert list((tmp_path / "benchmark").iterdir()) == []


def test_an_archive_without_its_table_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["benchmark/aid.zip"] = make_zip({"aid/x.jpg": b"x"})
    with pytest.raises(DataError, match=r"aid\.zip: holds no aid_img_txt_pairs_test\.csv; it is not the published archive"):
        download(plan(["aid"], tmp_path, server.url), patience=Waits().patience)


def test_a_folder_of_the_users_is_never_overwritten(server: Server, tmp_path: Path) -> None:
    server.files["benchmark/surface.zip"] = make_zip(surface_files())
    own = tmp_path / "benchmark" / "surface"
    own.mkdir(parents=True)
    (own / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=rf"^{own}: is there, but holds no img_txt_pairs_test\.csv; move it away, and give the"):
        download(plan(["surface"], tmp_path, server.url), patience=Waits().patience)
    assert [path.name for path in own.iterdir()] == ["notes.txt"]
    assert server.requests() == []
    (own / BENCHMARK_SETS["surface"].csv).write_text("filepath,title,label_v1\n")
    assert download(plan(["surface"], tmp_path, server.url), verify=True)[0].done == "already there"


def test_a_killed_unpacking_is_begun_anew(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["benchmark/surface.zip"] = make_zip(surface_files())
    folder = tmp_path / "benchmark"
    (folder / ".surface.unpacking" / "test").mkdir(parents=True)
    (folder / ".surface.unpacking" / "left_over.jpg").write_bytes(b"half")
    (folder / "surface.zip").write_bytes(server.files["benchmark/surface.zip"])
    download(plan(["surface"], tmp_path, server.url), patience=Waits().patience)
    assert sorted(path.name for path in folder.iterdir()) == ["surface", "surface.zip"]  # the archive was put there by hand
    assert not (folder / "surface" / "left_over.jpg").exists()
    assert server.requests() == []


def test_a_plan_by_another_process_is_no_obstacle(server: Server, tmp_path: Path) -> None:
    """Between plan and download, another process has brought the file."""
    server.files[META] = some_zip()
    items = plan(["meta2"], tmp_path, server.url)
    fetch_meta(server, tmp_path)
    assert download(items)[0].done == "already there"
    assert len(server.requests()) == 1


def test_every_failure_has_an_exit_code() -> None:
    assert [error.exit_code for error in (UnavailableError, DataError, StorageError)] == [69, 65, 74]
    assert Missing.exit_code == Busy.exit_code == 69
