"""Tensors come back as they were put in, or not at all."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from skygen.errors import DataError, StorageError
from skygen.seeding import Seeds
from skygen.training import tensor_store
from skygen.training.tensor_store import TensorStore


def keys_of(*names: int | str) -> np.ndarray:
    return np.stack([np.frombuffer(sha256(str(name).encode()).digest(), np.uint8) for name in names])


def rows(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn((count, 5, 3), generator=Seeds(seed).generator("rows")).to(dtype)


@pytest.fixture
def filled(tmp_path: Path) -> TensorStore:
    """Two shards: rows 0 to 3, rows 4 to 6."""
    store = TensorStore(tmp_path / "store")
    store.add(keys_of(*range(4)), rows(7)[:4])
    store.add(keys_of(*range(4, 7)), rows(7)[4:])
    return store


def shards(store: TensorStore) -> list[Path]:
    return sorted(store.folder.iterdir())


def shard_of(store: TensorStore, *names: int) -> Path:
    return store.folder / f"{sha256(keys_of(*names).tobytes()).hexdigest()}.safetensors"


def flip_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_tensor_comes_back_bit_for_bit_after_opening_again(tmp_path: Path, dtype: torch.dtype) -> None:
    values = rows(6, dtype)
    TensorStore(tmp_path).add(keys_of(*range(4)), values[:4])
    TensorStore(tmp_path).add(keys_of(4, 5), values[4:])
    store = TensorStore(tmp_path)
    slots = store.locate(keys_of(5, 0, 3, 1, 4, 2))
    assert sorted(slots.tolist()) == list(range(6))
    assert len(store) == 6
    for slot, name in zip(slots.tolist(), (5, 0, 3, 1, 4, 2), strict=True):
        read = store.read(slot)
        assert read.dtype == dtype
        assert torch.equal(read, values[name])


def test_tensors_without_a_shape_are_kept_too(tmp_path: Path) -> None:
    TensorStore(tmp_path).add(keys_of("a", "b"), torch.tensor([1.5, -2.0]))
    store = TensorStore(tmp_path)
    assert [store.read(slot).item() for slot in store.locate(keys_of("b", "a")).tolist()] == [-2.0, 1.5]


def test_what_is_not_there_is_minus_one(filled: TensorStore, tmp_path: Path) -> None:
    assert filled.locate(keys_of("other", 6, "another", 0)).tolist() == [-1, 6, -1, 0]
    assert filled.locate(np.empty((0, 32), np.uint8)).tolist() == []
    empty = TensorStore(tmp_path / "nothing")
    assert empty.locate(keys_of(0, 1)).tolist() == [-1, -1]
    assert (len(empty), empty.size_bytes, empty.form) == (0, 0, None)
    assert not empty.folder.exists()  # looking makes no folder
    with pytest.raises(ValueError, match=r"slot is -1; .* has 7, the first being 0"):
        filled.read(-1)


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    """The index is sorted by the first 8 bytes alone."""
    keys = np.zeros((6, 32), np.uint8)
    keys[:, 31] = [3, 1, 2, 5, 4, 9]
    TensorStore(tmp_path).add(keys[:5], torch.arange(5.0))
    store = TensorStore(tmp_path)
    slots = store.locate(keys[[4, 0, 5, 2, 1, 3]])
    assert slots[2] == -1
    assert [store.read(slot).item() for slot in slots[[0, 1, 3, 4, 5]].tolist()] == [4.0, 0.0, 2.0, 1.0, 3.0]


def test_many_keys_are_located_as_a_dictionary_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_store, "_AT_ONCE", 1000)
    keys = Seeds(0).numpy("keys").integers(0, 256, (20_000, 32), dtype=np.uint8)
    store = TensorStore(tmp_path)
    for start in range(0, 10_000, 2_500):
        store.add(keys[start : start + 2_500], torch.zeros(2_500, 1))
    order = Seeds(0).numpy("order").permutation(20_000)
    expected = np.where(order < 10_000, order, -1)
    assert np.array_equal(store.locate(keys[order]), expected)


def test_a_key_that_two_shards_have_is_found_once(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    store.add(keys_of(0, 1), rows(3)[:2])
    store.add(keys_of(1, 2), rows(3)[1:])
    assert len(shards(store)) == 2
    again = TensorStore(tmp_path)
    found = [again.read(slot) for slot in again.locate(keys_of(0, 1, 2)).tolist()]
    assert torch.equal(torch.stack(found), rows(3))


def test_a_shard_is_named_by_its_keys_and_writing_it_twice_is_writing_it_once(filled: TensorStore) -> None:
    assert set(shards(filled)) == {shard_of(filled, 0, 1, 2, 3), shard_of(filled, 4, 5, 6)}
    filled.add(keys_of(4, 5, 6), rows(3, seed=1))
    assert len(shards(filled)) == 2
    assert len(filled) == 7
    assert torch.equal(filled.read(4), rows(3, seed=1)[0])
    filled.add(np.empty((0, 32), np.uint8), torch.empty(0, 5, 3))
    assert len(shards(filled)) == 2


def test_the_layout_is_that_of_the_documentation(filled: TensorStore) -> None:
    tensors = load_file(shard_of(filled, 4, 5, 6))
    assert sorted(tensors) == ["checksums", "keys", "values"]
    assert torch.equal(tensors["values"], rows(7)[4:])
    assert np.array_equal(tensors["keys"].numpy(), keys_of(4, 5, 6))
    assert tensors["checksums"].dtype == torch.int64
    assert filled.size_bytes == sum(path.stat().st_size for path in shards(filled))


@pytest.mark.parametrize(
    ("values", "said"), [(torch.zeros(1, 5, 4), "5 x 4 float32"), (torch.zeros(1, 5, 3).half(), "5 x 3 float16")]
)
def test_another_shape_or_dtype_is_refused(filled: TensorStore, values: Tensor, said: str) -> None:
    with pytest.raises(DataError) as refusal:
        filled.add(keys_of("new"), values)
    assert str(refusal.value) == (
        f"{filled.folder}: holds tensors of 5 x 3 float32, new tensors of {said}; keep each kind in a folder of its own."
    )
    assert len(shards(filled)) == 2
    TensorStore(filled.folder.with_name("second")).add(keys_of("new"), values)
    other = filled.folder.with_name("second").iterdir().__next__()
    other.rename(filled.folder / other.name)
    with pytest.raises(DataError, match="keep each kind in a folder of its own"):
        TensorStore(filled.folder)


def test_a_flipped_bit_is_an_error_that_names_the_shard(filled: TensorStore) -> None:
    path = shard_of(filled, 4, 5, 6)
    data = path.read_bytes()
    flip_bit(path, data.index(rows(7)[5].numpy().tobytes()) + 7)
    store = TensorStore(filled.folder)
    slots = store.locate(keys_of(4, 5, 6)).tolist()
    assert torch.equal(store.read(slots[0]), rows(7)[4])
    with pytest.raises(StorageError) as error:
        store.read(slots[1])
    assert str(error.value) == (
        f"{path}: row 1 is not what was written; delete it, and the same command makes its features again."
    )
    assert torch.equal(store.read(slots[2]), rows(7)[6])


def test_no_flipped_bit_anywhere_gives_a_wrong_tensor(tmp_path: Path) -> None:
    """Every 5th byte of a whole shard: header, keys, values, checksums."""
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    TensorStore(tmp_path / "store").add(keys_of(0, 1), values)
    (path,) = (tmp_path / "store").iterdir()
    sound, refused = path.read_bytes(), 0
    for place in range(0, len(sound), 5):
        flip_bit(path, place)
        try:
            store = TensorStore(tmp_path / "store")
            found = {row: store.read(slot) for row, slot in enumerate(store.locate(keys_of(0, 1)).tolist()) if slot >= 0}
            refused += len(found) < 2
            assert all(torch.equal(value, values[row]) for row, value in found.items()), place
        except (StorageError, DataError):
            refused += 1
        path.write_bytes(sound)
    assert refused > 30


@pytest.mark.parametrize("damage", ["truncated", "empty", "no safetensors", "keys missing", "unequal", "keys changed"])
def test_a_shard_that_cannot_be_read_is_left_out_with_a_warning(
    filled: TensorStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard_of(filled, 0, 1, 2, 3)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    if damage in ("truncated", "empty", "no safetensors"):
        path.write_bytes({"truncated": path.read_bytes()[:-9], "empty": b"", "no safetensors": b"x" * 999}[damage])
    else:
        changed = {
            "keys missing": {"values": tensors["values"], "checksums": tensors["checksums"]},
            "unequal": {**tensors, "values": tensors["values"][:3].clone()},
            "keys changed": {**tensors, "keys": tensors["keys"].flip(0).clone()},
        }
        save_file(changed[damage], path)
    with caplog.at_level(logging.WARNING, logger="skygen"):
        store = TensorStore(filled.folder)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path}: ")
    assert caplog.messages[0].endswith("; its tensors are made again; it may be deleted")
    assert store.locate(keys_of(0, 1, 2, 3)).tolist() == [-1] * 4
    found = [store.read(slot) for slot in store.locate(keys_of(4, 5, 6)).tolist()]
    assert torch.equal(torch.stack(found), rows(7)[4:])
    store.add(keys_of(0, 1, 2, 3), rows(7)[:4])
    assert (TensorStore(filled.folder).locate(keys_of(*range(7))) >= 0).all()


def test_a_shard_that_has_gone_is_explained(filled: TensorStore) -> None:
    store = TensorStore(filled.folder)
    slot = int(store.locate(keys_of(5))[0])
    path = shard_of(filled, 4, 5, 6)
    path.unlink()
    with pytest.raises(StorageError, match=r"delete it, and the same command makes its features again\.$"):
        store.read(slot)
    store.forget_keys()
    with pytest.raises(StorageError, match=r"No such file or directory"):
        store.locate(keys_of(5))


def test_a_copy_reads_the_same_slots_though_shards_have_come(filled: TensorStore) -> None:
    store = TensorStore(filled.folder)
    slots = store.locate(keys_of(*range(7)))
    store.read(0)  # so that a file is mapped
    packed = pickle.dumps(store)
    for name in range(20, 30):
        filled.add(keys_of(name), rows(1))
    copy = pickle.loads(packed)  # noqa: TID251  # what a DataLoader does
    assert len(packed) < 2000  # neither keys nor files
    assert torch.equal(torch.stack([copy.read(slot) for slot in slots.tolist()]), rows(7))
    assert np.array_equal(copy.locate(keys_of(*range(7))), slots)


def add_some(folder: Path, first: int) -> None:
    store = TensorStore(folder)
    for name in range(first, first + 20):
        store.add(keys_of(name), torch.full((1, 4), float(name)))


def test_processes_add_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_some, args=(tmp_path, first)) for first in (0, 10, 20)]  # 10 to 29 come twice
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 40  # no half-written file is left
    store = TensorStore(tmp_path)
    assert [store.read(slot)[0].item() for slot in store.locate(keys_of(*range(40))).tolist()] == list(range(40))


def test_few_shards_are_mapped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_store, "_MAPPED", 2)
    store = TensorStore(tmp_path)
    for name in range(6):
        store.add(keys_of(name), torch.tensor([[float(name)]]))
    assert [store.read(slot).item() for slot in (0, 5, 1, 4, 2, 3, 0)] == [0, 5, 1, 4, 2, 3, 0]
    assert len(store._mapped) == 2
