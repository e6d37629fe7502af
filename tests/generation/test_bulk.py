"""A whole set by several processes: as many pictures as were asked for, or the reason why not."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from skygen.errors import DataError, StorageError
from skygen.generation import bulk
from skygen.generation.bulk import BulkDrawing
from skygen.generation.plan import Plan
from skygen.generation.prompts import Prompt
from skygen.generation.records import RecordShard, describe_file
from skygen.generation.sampling import Sample
from skygen.seeding import Seeds

PLAN = Plan([Prompt(f"prompt {index}") for index in range(11)], 1, Seeds(3))


def make_drawing(folder: Path, rank: int = 0, processes: int = 1, *, lost: Sequence[int] = ()) -> BulkDrawing:
    """Draw pictures of one colour without a model; of those that are lost only the record is there."""

    def draw(indices: Sequence[int], *, rank: int, ahead: int) -> Iterator[Sample]:
        with RecordShard(folder / "samples", rank) as shard:
            for index in indices:
                path = folder / "samples" / "images" / f"{index:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
                record = {"file_name": f"images/{path.name}", "index": index, **describe_file(path)}
                shard.add([record])
                if index in lost:
                    path.unlink()
                yield Sample(index, record)

    return BulkDrawing(PLAN, folder, draw, 2, 8, rank, processes)


def ignore(done: int, total: int) -> None:
    pass


def test_one_process_and_three_make_the_same_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, told = make_drawing(tmp_path / "alone"), list[tuple[int, int]]()
    alone.prepare()
    with caplog.at_level(logging.INFO):
        alone.draw_share(lambda done, total: told.append((done, total)))
    assert told == [(done, 11) for done in range(12)]
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("9 pictures of 8 pixels: about 1 s on 1 process, ")
    assert json.loads((tmp_path / "alone" / "plan.json").read_text())["estimate"]["pictures"] == 9
    assert [record["index"] for record in alone.complete()] == list(range(11))
    several = [make_drawing(tmp_path / "several", rank, 3) for rank in range(3)]
    for each in several:
        each.prepare()
    several[2].draw_share(ignore)
    several[0].draw_share(ignore)
    waiting = threading.Thread(target=several[0].complete, daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()  # for the process in the middle
    several[1].draw_share(ignore)
    waiting.join(20)
    assert not waiting.is_alive()
    names = [sorted(path.name for path in (tmp_path / each / "samples").iterdir()) for each in ("alone", "several")]
    assert names == [["images", "metadata.jsonl"]] * 2
    lists = [(tmp_path / each / "samples" / "metadata.jsonl").read_bytes() for each in ("alone", "several")]
    assert lists[0] == lists[1] and lists[0].count(b"\n") == 11


def test_what_ended_at_an_earlier_start_is_waited_for_again(tmp_path: Path) -> None:
    first = [make_drawing(tmp_path, rank, 2) for rank in range(2)]
    for each in first:
        each.prepare()
        each.draw_share(ignore)
    second = [make_drawing(tmp_path, rank, 2) for rank in range(2)]
    for each in second:
        each.prepare()
    second[0].draw_share(ignore)
    waiting = threading.Thread(target=second[0].complete, daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    second[1].draw_share(ignore)
    waiting.join(20)
    assert not waiting.is_alive()


def test_missing_pictures_end_the_run_with_their_numbers_and_are_drawn_by_the_next(tmp_path: Path) -> None:
    drawing = make_drawing(tmp_path, lost=[0, 1, 3, 4, 6, 9, 10])
    drawing.prepare()
    drawing.draw_share(ignore)
    with pytest.raises(DataError) as raised:
        drawing.complete()
    gone = "; ".join(f"images/{index:06d}.png is not there" for index in (0, 1, 3, 4, 6))
    assert str(raised.value) == (
        f"{tmp_path / 'samples'}: 7 of 11 pictures are missing ({gone}; and 2 more); the same command draws them."
    )
    assert not (tmp_path / "samples" / "metadata.jsonl").exists()
    again = make_drawing(tmp_path)
    again.prepare()
    told: list[tuple[int, int]] = []
    again.draw_share(lambda done, total: told.append((done, total)))
    assert told[0] == (4, 11) and told[-1] == (11, 11)
    assert len(again.complete()) == 11


def test_a_disk_without_room_is_told_of_after_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, size_bytes: int, mend: str) -> int:
        raise StorageError(f"{folder}: {size_bytes} bytes are needed; {mend}.")

    monkeypatch.setattr(bulk, "require_room", refuse)
    drawing = make_drawing(tmp_path)
    drawing.prepare()
    with pytest.raises(StorageError, match=r"bytes are needed; free disk space or take another --run\.root\.$"):
        drawing.draw_share(ignore)
    assert len(list((tmp_path / "samples" / "images").glob("*.png"))) == 2
