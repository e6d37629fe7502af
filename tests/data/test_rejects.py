from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skygen.data.rejects import Reject, Rejects, read_rejects, write_rejects
from skygen.errors import DataError, StorageError


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_key_is_written_once_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "run" / "rejects.jsonl"
    first = Rejects(path)
    assert not path.exists()
    first.add("a.jpg", "truncated file", "/data/a.jpg")
    first.add("a.jpg", "another reason", "/data/a.jpg")
    again = Rejects(path)
    again.add("a.jpg", "truncated file", "/data/a.jpg")
    again.add("bü.jpg", "no such file", "/data/bü.jpg")
    assert lines(path) == [
        {"key": "a.jpg", "reason": "truncated file", "where": "/data/a.jpg"},
        {"key": "bü.jpg", "reason": "no such file", "where": "/data/bü.jpg"},
    ]
    assert (first.count, again.count) == (1, 2)


def test_two_ledgers_on_one_file_see_each_other(tmp_path: Path) -> None:
    one, other = Rejects(tmp_path / "rejects.jsonl"), Rejects(tmp_path / "rejects.jsonl")
    one.add("a", "bad", "here")
    other.add("a", "bad", "here")
    other.add("b", "bad", "here")
    one.add("b", "bad", "here")
    assert [line["key"] for line in lines(tmp_path / "rejects.jsonl")] == ["a", "b"]
    assert one.count == other.count == 2


def test_a_torn_last_line_is_tolerated_and_the_next_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    Rejects(path).add("a", "bad", "here")
    with path.open("a") as file:
        file.write('{"key": "b", "rea')
    ledger = Rejects(path)
    assert ledger.count == 1
    ledger.add("b", "bad", "here")
    assert path.read_text().splitlines()[-1] == '{"key": "b", "reason": "bad", "where": "here"}'
    assert Rejects(path).count == 2


def test_processes_that_find_the_same_rejects_write_each_once(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    program = (
        "import sys; from pathlib import Path; from skygen.data.rejects import Rejects\n"
        "ledger = Rejects(Path(sys.argv[1]))\n"
        "for number in range(300): ledger.add(f'{number}.jpg', 'bad' * 50, 'here')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert sorted(line["key"] for line in lines(path)) == sorted(f"{number}.jpg" for number in range(300))


def test_a_single_caption_has_its_line_but_does_not_count(tmp_path: Path) -> None:
    ledger = Rejects(tmp_path / "rejects.jsonl")
    ledger.add("a.jpg", "the caption is empty", "metadata.jsonl, row 1", part="caption 2")
    assert ledger.count == 0
    ledger.add("a.jpg", "truncated file", "a.jpg")
    assert ledger.count == Rejects(tmp_path / "rejects.jsonl").count == 1
    assert lines(tmp_path / "rejects.jsonl")[0]["part"] == "caption 2"


def test_a_name_that_is_not_utf_8_is_still_json(tmp_path: Path) -> None:
    Rejects(tmp_path / "rejects.jsonl").add("a\udcff.jpg", "no such file", "a\udcff.jpg")
    assert lines(tmp_path / "rejects.jsonl")[0]["key"] == "a\udcff.jpg"
    assert Rejects(tmp_path / "rejects.jsonl").count == 1


def test_too_much_bad_data_stops_with_counts_file_and_option(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    ledger = Rejects(path)
    ledger.add("a", "bad", "here")
    ledger.add("b", "bad", "here")
    ledger.check(200, 0.01)
    with pytest.raises(DataError) as caught:
        ledger.check(100, 0.01)
    assert str(caught.value) == (
        "2 of 100 rows or images cannot be used (2.0%), more than the 1.0% allowed; "
        f"{path} lists each; mend the data, or allow more with --pairs.max_bad_fraction"
    )


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"rejects\.jsonl: cannot be written"):
        Rejects(tmp_path / "file" / "rejects.jsonl").add("a", "bad", "here")


def test_what_another_process_notes_counts(tmp_path: Path) -> None:
    own, other = Rejects(tmp_path / "rejects.jsonl"), Rejects(tmp_path / "rejects.jsonl")
    other.add("images2/a1_CH_19.jpg", "truncated file", "here")
    assert own.count == 0
    with pytest.raises(DataError, match=r"1 of 10 rows or images cannot be used"):
        own.check(10, 0.05)


def test_many_are_noted_at_once_and_the_first_note_on_a_thing_counts(tmp_path: Path) -> None:
    entries = [
        Reject("a", "first", "here"),
        Reject("b", "bad", "here"),
        Reject("a", "second", "there"),
        Reject("a", "c", "d", "caption 1"),
    ]
    path = tmp_path / "run" / "rejects.jsonl"
    on_disk, in_memory = Rejects(path), Rejects(None)
    for ledger in (on_disk, in_memory):
        ledger.add_all(iter(entries))
        ledger.add_all(entries)
        ledger.add_all([])
        assert (ledger.count, ledger.first_reason) == (2, "first")
    assert [(line["key"], line["reason"]) for line in lines(path)] == [("a", "first"), ("b", "bad"), ("a", "c")]
    assert list(read_rejects(path)) == [entries[0], entries[1], entries[3]]


def test_nothing_to_note_makes_no_file(tmp_path: Path) -> None:
    Rejects(tmp_path / "rejects.jsonl").add_all([])
    assert not (tmp_path / "rejects.jsonl").exists()


def test_a_ledger_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    path.write_text("what was there before")
    entries = [Reject("a\udcff.jpg", "grün", "here\nand there"), Reject("b", "bad", "x", "meta")]
    write_rejects(path, iter(entries))
    assert list(read_rejects(path)) == entries
    assert Rejects(path).count == 1

    def broken() -> Iterator[Reject]:
        yield Reject("c", "bad", "here")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_rejects(path, broken())
    assert list(read_rejects(path)) == entries
    write_rejects(path, [])
    assert list(read_rejects(path)) == []


def test_lines_that_are_no_entries_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    write_rejects(path, [Reject("a", "bad", "here")])
    with path.open("ab") as file:
        file.write(b'\n[1]\n{"key": "b"}\n\xff\xfe\nnull\n{"key": "c", "reason": "bad", "where": "here"}\n{"key": "d", "rea')
    assert [entry.key for entry in read_rejects(path)] == ["a", "c"]
    with pytest.raises(StorageError, match=r"the ledger of bad data .*absent\.jsonl cannot be read: No such file"):
        list(read_rejects(tmp_path / "absent.jsonl"))
