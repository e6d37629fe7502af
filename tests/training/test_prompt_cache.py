"""What frozen text encoders say of a prompt is computed once, and is what they would have said of this very prompt."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from models.diffusions.small_pipelines import KINDS
from torch import Tensor

from skygen.errors import ConfigError, DataError, StorageError
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.family import Conditioning, PromptSource
from skygen.models.diffusions.frozen import PromptEncoder
from skygen.training import prompt_cache
from skygen.training.feature_cache import FeatureCacheSettings
from skygen.training.prompt_cache import FrozenPromptEncoder, KeptPrompts, build_prompts

CAPTIONS = tuple(f"an aerial image of {count} ships" for count in range(13))


class Letters:
    """Says 8 numbers of a prompt, which no other prompt has, and counts what it is asked."""

    def __init__(self, fingerprint: str = "letters", fail_after: int | None = None) -> None:
        self.fingerprint, self.fail_after = fingerprint, fail_after
        self.asked: list[str] = []
        self.batches: list[int] = []

    def encode(self, prompts: Sequence[str]) -> Tensor:
        assert not torch.is_grad_enabled()
        if list(prompts) != [""]:  # the null prompt alone shows the shape
            if len(self.batches) == self.fail_after:
                raise KeyboardInterrupt
            self.batches.append(len(prompts))
            self.asked += prompts
        return torch.tensor([list(sha256(prompt.encode()).digest()[:8]) for prompt in prompts], dtype=torch.float32) / 7

    def unpack(self, rows: Tensor) -> Conditioning:
        return Conditioning(rows[:, :6].float().reshape(len(rows), 3, 2), rows[:, 6:].float())

    def encoder_fingerprint(self) -> str:
        return self.fingerprint


@pytest.fixture
def settings(tmp_path: Path) -> FeatureCacheSettings:
    return FeatureCacheSettings(tmp_path / "features", "float32", shard_size=5, batch_size=3)


def build(encoder: Any, settings: FeatureCacheSettings, prompts: Sequence[str] = CAPTIONS, **more: Any) -> KeptPrompts:
    return build_prompts(encoder, prompts, settings, **more)


@torch.no_grad()
def count_right(kept: PromptSource, prompts: Sequence[str]) -> int:
    """Check all prompts against the encoder, bit for bit, and count them."""
    found, expected = kept.read(prompts), Letters().unpack(Letters().encode(prompts))
    assert found.pooled is not None
    assert expected.pooled is not None
    equal = (found.hidden == expected.hidden).all(dim=(1, 2)) & (found.pooled == expected.pooled).all(dim=1)
    return int(equal.sum())


def test_every_prompt_is_encoded_once_and_read_bit_for_bit(settings: FeatureCacheSettings) -> None:
    encoder = Letters()
    assert isinstance(encoder, FrozenPromptEncoder)
    kept = build(encoder, settings, CAPTIONS * 3)
    assert isinstance(kept, PromptSource)
    assert sorted(encoder.asked) == sorted(["", *CAPTIONS])  # the null prompt too
    assert max(encoder.batches) == 3
    assert sorted(path.parent.name for path in (settings.root or Path()).rglob("*.safetensors")) == ["letters-float32"] * 3
    again = Letters()
    assert count_right(build(again, settings), CAPTIONS) == 13
    assert again.asked == []


def test_pain_5_a_prompt_is_found_by_its_text_whatever_the_order_and_the_repetitions(settings: FeatureCacheSettings) -> None:
    build(Letters(), settings)
    encoder = Letters()
    kept = build(encoder, settings, CAPTIONS[::-1][:9])
    assert encoder.asked == []
    for prompts in (CAPTIONS[4:8], (CAPTIONS[9], "", CAPTIONS[9], CAPTIONS[2], ""), ("",), CAPTIONS[::-1]):
        assert count_right(kept, prompts) == len(prompts)


def test_pain_5_a_prompt_that_was_not_kept_is_an_error_and_never_another_prompt(settings: FeatureCacheSettings) -> None:
    kept = build(Letters(), settings)
    for prompt in ("An aerial image of 3 ships", f"{CAPTIONS[3]} ", "x" * 99):
        with pytest.raises(DataError) as refusal:
            kept.read([CAPTIONS[0], prompt])
        shown = prompt if len(prompt) < 80 else "x" * 79 + "…"
        assert str(refusal.value) == (
            f'{settings.root}/letters-float32: "{shown}" is not among the prompts that were kept; run the same command again, '
            "or leave --features.root out."
        )
    assert count_right(kept, CAPTIONS) == 13


def test_pain_6_stale_prompts_are_not_served_when_a_letter_an_encoder_or_the_dtype_changes(
    settings: FeatureCacheSettings,
) -> None:
    build(Letters(), settings)
    edited = [*CAPTIONS[:5], "an aerial image of 5 ship", *CAPTIONS[6:]]
    encoder = Letters()
    assert count_right(build(encoder, settings, edited), edited) == 13
    assert encoder.asked == [edited[5]]
    for other, changed in ((Letters("other"), settings), (Letters(), replace(settings, dtype="float16"))):
        build(other, changed)
        assert len(other.asked) == 14
    unchanged = Letters()
    build(unchanged, settings)
    assert unchanged.asked == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_are_float32_rounded_to_the_dtype_that_was_kept(settings: FeatureCacheSettings, dtype: Any) -> None:
    found = build(Letters(), replace(settings, dtype=dtype)).read(CAPTIONS[:3])
    with torch.no_grad():
        exact = Letters().unpack(Letters().encode(CAPTIONS[:3]).to(getattr(torch, dtype)))
    assert found.hidden.dtype == torch.float32
    assert torch.equal(found.hidden, exact.hidden)
    assert found.sizes is None


def test_a_broken_off_build_goes_on_with_the_rest_alone(settings: FeatureCacheSettings) -> None:
    first = Letters(fail_after=4)  # batches of 3 and 2 make a shard of 5: two shards
    with pytest.raises(KeyboardInterrupt):
        build(first, settings)
    second = Letters()
    assert count_right(build(second, settings), CAPTIONS) == 13
    assert len(second.asked) == 4
    assert set(first.asked[:10]) | set(second.asked) == {"", *CAPTIONS}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_prompts_without_overlap(settings: FeatureCacheSettings, processes: int) -> None:
    """Each process works when the one before waits for it: the second of its waits is that for what the others make."""
    encoders, found = [Letters() for _ in range(processes)], []

    def start(index: int) -> Callable[[], None]:
        waits = []

        def wait() -> None:
            waits.append(index)
            if len(waits) == 2 and index + 1 < processes:
                start(index + 1)()

        def run() -> None:
            found.append(build(encoders[index], settings, process_index=index, processes=processes, wait=wait))

        return run

    start(0)()
    assert [count_right(kept, CAPTIONS) for kept in found] == [13] * processes
    asked = [prompt for encoder in encoders for prompt in encoder.asked]
    assert set(asked) | {""} == {"", *CAPTIONS}  # where the null prompt is all of a batch, it is not counted
    assert len(asked) == len(set(asked))
    assert all(0 < len(encoder.asked) < 14 for encoder in encoders)


def test_a_flipped_bit_is_found_and_the_shard_made_again(settings: FeatureCacheSettings) -> None:
    kept = build(Letters(), settings)
    with torch.no_grad():
        value = Letters().encode(CAPTIONS[6:7]).numpy().tobytes()
    (path,) = [path for path in kept.store.folder.iterdir() if value in path.read_bytes()]
    data = bytearray(path.read_bytes())
    data[data.index(value) + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        StorageError, match=r"is not what was written; delete it, and the same command makes its features again\.$"
    ):
        build(Letters(), settings).read(CAPTIONS[6:7])
    path.unlink()
    encoder = Letters()
    assert count_right(build(encoder, settings), CAPTIONS) == 13
    assert 0 < len(encoder.asked) <= 5


def test_sizes_are_said_before_and_speed_after(settings: FeatureCacheSettings, caplog: pytest.LogCaptureFixture) -> None:
    build(Letters(), settings, CAPTIONS[:4])
    shown: list[tuple[int, int]] = []
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="skygen"):
        build(Letters(), settings, progress=lambda done, total: shown.append((done, total)))
    before, after = caplog.messages
    assert before.startswith("prompts: 14 different ones, 5 are there; 648 bytes of 1.01 kB are missing, ")
    assert before.endswith(" are free")
    assert after.startswith("prompts: made 9 in ")
    assert after.endswith(" prompts a second")
    assert shown == [(0, 9), (3, 9), (5, 9), (8, 9), (9, 9)]


def test_too_little_room_is_refused_before_anything_is_built(
    settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6 - 900, 900))
    encoder = Letters()
    with pytest.raises(StorageError) as refusal:
        build(encoder, settings)
    assert str(refusal.value) == (
        f"{settings.root}: 1.01 kB are needed and 900 bytes are free; free disk space, or choose another --features.root or "
        "fewer pairs."
    )
    assert encoder.asked == []
    assert not (settings.root or Path()).exists()


def test_without_a_root_nothing_is_kept(settings: FeatureCacheSettings) -> None:
    with pytest.raises(ConfigError, match=r"^--features\.root must be set: the folder where features are kept\.$"):
        build(Letters(), replace(settings, root=None))


def test_pain_1_a_prompt_whose_row_is_not_finite_is_named(settings: FeatureCacheSettings) -> None:
    class Overflowing(Letters):
        def encode(self, prompts: Sequence[str]) -> Tensor:
            rows = super().encode(prompts)
            rows[[prompt == CAPTIONS[7] for prompt in prompts]] = self.value
            return rows

        value = torch.inf

    with pytest.raises(DataError) as refusal:
        build(Overflowing(), settings)
    assert str(refusal.value) == (
        f'the prompt "{CAPTIONS[7]}": the encoder gives features that are not finite numbers; leave it out of the data, or use '
        "weights that compute in float32."
    )
    large = Overflowing("large")
    large.value = 1e5
    with pytest.raises(DataError) as refusal:
        build(large, replace(settings, dtype="float16"))
    assert str(refusal.value) == (
        f'the prompt "{CAPTIONS[7]}": its features are too large for float16; set --features.dtype to float32.'
    )


def test_rows_that_were_just_read_come_from_memory(settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "HELD_BYTES", 2 * 8 * 4)  # two rows
    kept = build(Letters(), settings)
    read: list[int] = []
    original = type(kept.store).read

    def counting(store: Any, slot: int) -> Tensor:
        read.append(slot)
        return original(store, slot)

    monkeypatch.setattr(type(kept.store), "read", counting)
    for prompts, reads in (
        ((CAPTIONS[0], CAPTIONS[0], ""), 1),
        ((CAPTIONS[0], CAPTIONS[1]), 1),
        (("", CAPTIONS[1]), 0),
        ((CAPTIONS[2],), 1),  # the one that was used longest ago goes
        ((CAPTIONS[1], CAPTIONS[2], ""), 0),
        ((CAPTIONS[0],), 1),
        (CAPTIONS, 13 - 2),
    ):
        read.clear()
        assert count_right(kept, prompts) == len(prompts)
        assert len(read) == reads, prompts


def test_a_prompt_of_half_a_character_and_one_of_many_letters_are_kept(settings: FeatureCacheSettings) -> None:
    strange = ["\ud800", "été 東京", "x" * 5_000, " ", "\n"]

    class Lengths(Letters):
        def encode(self, prompts: Sequence[str]) -> Tensor:
            return torch.tensor([[float(len(prompt)), *map(float, range(7))] for prompt in prompts])

    found = build(Lengths(), settings, strange).read(strange)
    assert found.hidden[:, 0, 0].tolist() == [1, 6, 5000, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_every_family_are_what_its_encoders_say(
    kind: str, pipeline_folders: dict[str, Path], settings: FeatureCacheSettings
) -> None:
    prompts = ["two storage tanks", "a dam in a forest", "a harbor", "two storage tanks"]
    family = Diffusion.load(str(pipeline_folders[kind])).family
    kept = build(PromptEncoder(family), settings, prompts)
    with torch.no_grad():
        direct = family.encode_prompts([*prompts, ""])
    found = kept.read([*prompts, ""])
    assert torch.allclose(found.hidden, direct.hidden, atol=1e-5)  # of other batches
    assert not torch.allclose(found.hidden[0], direct.hidden[1], atol=1e-2)
    assert (found.pooled is None) == (direct.pooled is None) == (kind == "stable_diffusion")
    if found.pooled is not None and direct.pooled is not None:
        assert torch.allclose(found.pooled, direct.pooled, atol=1e-5)
    if kind == "stable_diffusion_xl":
        assert not found.hidden[-1].any()  # its null prompt is all zeros
    assert len(kept.store) == 4
    with torch.no_grad():
        next(iter(family.pipeline.text_encoder.parameters())).view(-1)[0].add_(1e-3)
    changed = PromptEncoder(family)
    assert len(build(changed, settings, prompts).store) == 4
    assert len(list((settings.root or Path()).iterdir())) == 2
