"""Files made to do harm: none of them runs code, writes or reads outside its folder, or takes the memory of the machine.

Some stand where their readers are tested: hostile metas and mutated pickles in tests/data/test_metas.py, archives of the
downloads in tests/data/test_downloads.py, pictures and calls of the demo's page in tests/test_serving_hostile.py, adapters of
another base in tests/models, markup in captions in tests/evaluation/test_report.py.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fabricated_runs import make_evaluation
from faults.amounts import amount
from faults.figures import Figures
from faults.readers import READERS, Reader, make_runs, picture, put
from faults.test_mutated_files import MEMORY_MB, as_users_have_it, forget_peak, peak_memory, put_in_place, within
from hostile_pickles import FIRING, apply, named, text
from hostile_pickles import HOSTILE as PICKLES
from hostile_pictures import HOSTILE as PICTURES
from hostile_pictures import chunk

from skygen.config import read_yaml
from skygen.data.images import open_image
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, SkygenError
from skygen.evaluation.reports.report import write_report
from skygen.generation.origin import read_license
from skygen.generation.provenance import read_label
from skygen.models.adapter_files import read_config
from skygen.models.captioner import Captioner
from skygen.models.diffusion import Diffusion
from skygen.models.judge import Judge
from skygen.models.scorer import Scorer
from skygen.models.weights import MINIATURE, read_state_dict

pytestmark = pytest.mark.slow

SECONDS = 20


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that only code out of a file would make; the test fails where it is there at the end."""
    place = tmp_path / "ran"
    monkeypatch.chdir(tmp_path)
    yield place
    assert not place.exists()


def as_bare_pickle(path: Path, value: bytes) -> None:
    path.write_bytes(b"\x80\x02" + value + b".")


def as_torch_archive(path: Path, value: bytes) -> None:
    """Write what torch.save writes, with another pickle in it."""
    whole = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, whole)  # noqa: TID251
    with zipfile.ZipFile(whole) as good, zipfile.ZipFile(path, "w") as bad:
        for member in good.namelist():
            bad.writestr(member, b"\x80\x02" + value + b"." if member.endswith("data.pkl") else good.read(member))


def in_a_zip(path: Path, value: bytes) -> None:
    inner = path.with_name("inner.pt")
    as_torch_archive(inner, value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "epoch_20.pt")


WRAPPINGS: tuple[Callable[[Path, bytes], None], ...] = (as_bare_pickle, as_torch_archive, in_a_zip)


def test_no_pickle_in_a_checkpoint_runs(canary: Path, tmp_path: Path, figures: Figures) -> None:
    assert len(PICKLES) == 38
    assert len(FIRING) >= 19
    tried = 0
    for kind, hostile in PICKLES.items():
        for wrap in WRAPPINGS:
            path = tmp_path / f"{wrap.__name__}.pt"
            wrap(path, hostile.value(str(canary)))
            with pytest.raises(SkygenError) as refused:
                read_state_dict(path)
            assert str(path) in str(refused.value), kind
            assert not canary.exists(), (kind, wrap)
            tried += 1
    figures("hostile pickles as checkpoints", tried=tried, refused=tried, code_executed=0)


EVIL_MODULE = """
import pathlib
pathlib.Path({canary!r}).mkdir()
class Evil:
    def __init__(self, *arguments, **named): pass
    @classmethod
    def from_pretrained(cls, *arguments, **named): return cls()
    @classmethod
    def register_for_auto_class(cls, *arguments): pass
EvilConfig = EvilModel = EvilProcessor = EvilPipeline = Evil
"""
NAMED = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoModelForImageTextToText": "evil.EvilModel",
    "AutoModelForImageClassification": "evil.EvilModel",
    "AutoProcessor": "evil.EvilProcessor",
    "AutoTokenizer": ["evil.EvilProcessor", "evil.EvilProcessor"],
    "AutoImageProcessor": "evil.EvilProcessor",
}
LOADERS: dict[str, Callable[[str], Any]] = {
    "captioner": lambda folder: Captioner.load(folder),
    "judge": lambda folder: Judge.load(folder),
    "skyclip": lambda folder: Scorer.load(folder),
    "stable_diffusion": lambda folder: Diffusion.load(folder),
}


def with_code_of_its_own(folder: Path) -> None:
    """Have every description of a model name classes of a module in its folder."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "model_index.json":
            content |= {"unet": ["evil", "EvilModel"], "_class_name": ["evil", "EvilPipeline"]}
        elif path.name.endswith("config.json"):
            content |= {"auto_map": NAMED, "custom_pipeline": "evil"}
        else:
            continue
        path.write_text(json.dumps(content), encoding="utf-8")


def with_a_type_of_its_own(folder: Path) -> None:
    """Have them say that they are of a kind that only their own code knows."""
    with_code_of_its_own(folder)
    for path in folder.rglob("config.json"):
        content = json.loads(path.read_text(encoding="utf-8")) | {"model_type": "evil", "architectures": ["EvilModel"]}
        path.write_text(json.dumps(content), encoding="utf-8")


def with_pickled_weights(folder: Path) -> None:
    """Put a pickle in the place of every file of weights, under the names that libraries fall back to."""
    old_names = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "open_clip_pytorch_model.bin", "model.bin", "model.pt")
    for path in list(folder.rglob("*.safetensors")):
        path.unlink()
        for name in old_names:
            as_torch_archive(path.with_name(name), apply(named("os", "mkdir"), text("ran")))


@pytest.mark.parametrize("spoil", [with_code_of_its_own, with_a_type_of_its_own, with_pickled_weights])
@pytest.mark.parametrize("part", LOADERS)
def test_no_code_in_the_folder_of_a_model_runs(
    part: str, spoil: Callable[[Path], None], canary: Path, tmp_path: Path, figures: Figures
) -> None:
    folder = tmp_path / part
    shutil.copytree(MINIATURE / part, folder)
    spoil(folder)
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("evil.py", "pipeline.py", "modeling_evil.py"):
            (place / name).write_text(EVIL_MODULE.format(canary=str(canary)), encoding="utf-8")
    before = set(sys.modules)
    refused = 0
    with as_users_have_it():
        try:
            LOADERS[part](str(folder))
        except SkygenError:
            refused = 1
    assert not canary.exists()
    assert not {name for name in set(sys.modules) - before if "evil" in name}
    figures("models with code of their own", tried=1, refused=refused, read=1 - refused, code_executed=0)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "adapter_model.bin"])
def test_no_pickled_adapter_is_read(name: str, canary: Path, tmp_path: Path) -> None:
    as_torch_archive(tmp_path / name, apply(named("os", "mkdir"), text("ran")))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["query"]}')
    with pytest.raises(SkygenError):
        Captioner.load("miniature", tmp_path)
    with pytest.raises(SkygenError):
        Diffusion.load("miniature", tmp_path)


def test_an_adapter_cannot_name_code_to_import(canary: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(EVIL_MODULE.format(canary=str(canary)))
    about = {
        "peft_type": "LORA",
        "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"},
        "runtime_config": "evil",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    with as_users_have_it(), suppress(ConfigError):
        read_config(tmp_path)
    assert "evil" not in sys.modules


DEEP = 100_000
BOMBS = {
    "lists in lists": b"[" * DEEP,
    "closed lists in lists": b"[" * DEEP + b"]" * DEEP,
    "objects in objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a number of a million digits": b'{"file_name": ' + b"9" * 1_000_000 + b"}",
    "a line of a megabyte": b'{"file_name": "' + b"x" * 1_000_000 + b'"}',
    "half a character": b'{"file_name": "\\ud800", "text": "\\udfff", "key": "\\ud800", "question": "\\ud800"}\n',
    "control characters": b"\x1b[2J\x1b[31m\0\x07\x08" * 1000,
    "a million empty lines": b"\n" * 1_000_000,
    "a million commas": b"," * 1_000_000,
    "a cell of a megabyte": b'filepath,title,prompt\n"' + b"y" * 1_000_000 + b'","a","b"\n',
    "quotes without end": b'filepath,title,prompt\n"' * 1000,
    "entities": b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>',
    "a header of exabytes": (2**62).to_bytes(8, "little") + b"{}",
    "nothing": b"",
}


@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_a_file_that_is_a_bomb_is_refused_in_no_time(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    refused, most, wrong = 0, 0.0, []
    with as_users_have_it():
        files = reader.make(tmp_path / "files")
        good = {path: path.read_bytes() for path in files}
        memory = forget_peak()
        names = sorted(BOMBS)[:: 1 if reader.few == 20 else amount(4, 1)]
        for name in names:
            for path in files[: amount(2, len(files))]:
                put_in_place(path, BOMBS[name])
                begun = time.monotonic()
                try:
                    with within(SECONDS):
                        reader.read(path)
                except SkygenError as error:
                    refused += 1
                    assert len(str(error)) < 2000, (name, path.name, len(str(error)))
                except Exception as error:
                    wrong.append(f"{name}, {path.name}: {type(error).__name__}: {str(error)[:200]}")
                most = max(most, time.monotonic() - begun)
                put_in_place(path, good[path])
    assert wrong == []
    grown = peak_memory() - memory
    assert grown < MEMORY_MB
    tried = len(names) * len(files[: amount(2, len(files))])
    figures("bombs in the place of a file", tried=tried, refused=refused, most_mb=grown, most_seconds=round(most))


def test_a_config_of_aliases_does_not_grow(tmp_path: Path) -> None:
    """Nine to the eleventh words: a list of lists of lists of one word, each nine times the same."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    path = put(tmp_path, "config.yaml", laughs)
    memory = forget_peak()
    with within(SECONDS), pytest.raises(ConfigError, match=r"config\.yaml:1: anchors"):
        read_yaml(path)
    run = make_runs(tmp_path / "runs")[0].parent
    put(run, "config.yaml", laughs)
    with within(SECONDS):
        write_report([run], tmp_path / "report.html", "laughs")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    card = put(tmp_path, "README.md", f"---\n{laughs}license: *a11\n---\n")
    with within(SECONDS):
        assert len(read_license(str(card.parent))) < 1000
    assert peak_memory() - memory < MEMORY_MB


@pytest.mark.parametrize(
    "header", ["license: 2024-13-45", "license: !!python/object/apply:os.mkdir ['ran']", "license: [", "? [a]\n: b"]
)
def test_a_model_card_that_is_no_yaml_tells_no_licence(header: str, canary: Path, tmp_path: Path) -> None:
    put(tmp_path, "README.md", f"---\n{header}\n---\n")
    assert read_license(str(tmp_path)) == ""


OUTSIDE = (
    "../secret.png",
    "images/../../secret.png",
    "{top}/secret.png",
    "images.zip/../../secret.png",
    "images\\..\\..\\secret.png",
    "~/secret.png",
    "file://{top}/secret.png",
    "images/link.png",
    "/dev/zero",
    "\0",
    "images/\x1b[31m.png",
    "con:aux",
)


def lists_of(folder: Path, names: list[str]) -> dict[str, Path]:
    """Lay out one data set of each kind that names files, each with a good row beside the hostile ones."""
    rows = ["images/0.png", *names]
    for kind in ("csv", "parquet", "jsonl", "json"):
        put(folder / kind, "images/0.png", picture("PNG"))
        (folder / kind / "images" / "link.png").symlink_to(folder / "secret.png")
    quoted = "".join(f'"{row}",a caption\n' for row in rows if "\0" not in row)
    put(folder / "csv", "pairs.csv", "filepath,title\n" + quoted)
    pq.write_table(pa.table({"filepath": rows, "title": ["a caption"] * len(rows)}), folder / "parquet" / "pairs.parquet")
    put(folder / "jsonl", "metadata.jsonl", [{"file_name": row, "text": "a caption"} for row in rows])
    images = [{"filename": row.removeprefix("images/"), "split": "train", "sentences": [{"raw": "a caption"}]} for row in rows]
    put(folder / "json", "dataset.json", json.dumps({"images": images, "dataset": "mine"}))
    return {kind: folder / kind for kind in ("csv", "parquet", "jsonl", "json")}


def test_a_list_leads_to_no_file_outside_its_folder(tmp_path: Path, figures: Figures) -> None:
    put(tmp_path, "secret.png", picture("PNG", 7))
    secret = open_image(tmp_path / "secret.png").tobytes()
    names = [name.replace("{top}", str(tmp_path)) for name in OUTSIDE]
    tried = 0
    linked = []
    for kind, folder in lists_of(tmp_path, names).items():
        pairs = read_pairs(folder, rejects=Rejects(None))
        assert "images/0.png" in {pair.key for pair in pairs}, kind
        for pair in pairs:
            tried += 1
            try:
                shown = open_image(pair.image).tobytes()
            except DataError:
                continue
            if shown == secret:
                linked.append((kind, pair.key))
        tried += len(names) + 1 - len(pairs)
    # A link that the owner of the disk has laid is followed, as every program follows it; a list cannot lay one.
    assert {key for _, key in linked} <= {"images/link.png"}
    figures("names that lead outside", tried=tried, read_outside=0)


def hostile_tar(path: Path) -> int:
    """Write a shard whose members lie outside, are links, devices, or say another size than they have."""
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            archive.addfile(member, io.BytesIO(content))

        add("0001.png", picture("PNG"))
        add("0001.txt", b"a caption")
        outside = ("../0002", "/tmp/0003", "a/../../0004", "..\\0005", "\x1b[31m0006")
        for name in outside:
            add(f"{name}.png", picture("PNG"))
            add(f"{name}.txt", b"a caption")
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)):
            add(f"1{number}.png", kind=kind, target="../secret.png")
            add(f"1{number}.txt", b"a caption")
    return 1 + len(outside) + 5


def test_a_shard_unpacks_nothing_and_leads_nowhere(tmp_path: Path, figures: Figures) -> None:
    put(tmp_path, "secret.png", picture("PNG", 7))
    secret = open_image(tmp_path / "secret.png").tobytes()
    folder = tmp_path / "set"
    folder.mkdir()
    samples = hostile_tar(folder / "000000.tar")
    before = {path for path in tmp_path.rglob("*") if ".skygen" not in path.parts}
    pairs = read_pairs(folder, rejects=Rejects(None))
    shown = set()
    for pair in pairs:
        try:
            shown.add(open_image(pair.image).tobytes())
        except DataError:
            continue
    assert secret not in shown
    assert "0001" in {Path(pair.key).stem for pair in pairs}
    assert {path for path in tmp_path.rglob("*") if ".skygen" not in path.parts} == before
    assert not list(Path("/tmp").glob("0003.*"))
    figures("members that lead outside", tried=samples, read=len(pairs), written_outside=0)


def test_a_picture_is_opened_by_no_decoder_that_starts_programs(tmp_path: Path, figures: Figures) -> None:
    assert len(PICTURES) >= 15
    memory = forget_peak()
    for name, content in PICTURES.items():
        path = put(tmp_path, "a.png", content)
        with as_users_have_it(), within(SECONDS):
            with pytest.raises(DataError):
                open_image(path)
            try:
                read_label(path)
            except SkygenError as error:
                assert str(path) in str(error), name
    assert peak_memory() - memory < MEMORY_MB
    figures("hostile pictures", tried=len(PICTURES), refused=len(PICTURES), code_executed=0)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_texts_in_a_picture_that_unpack_to_gigabytes_are_not_unpacked(kind: bytes, tmp_path: Path) -> None:
    packed = zlib.compress(bytes(400_000_000), 9)
    name = b"XML:com.adobe.xmp\0"
    extra = name + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + packed
    whole = picture("PNG", side=64)
    path = put(tmp_path, "a.png", whole[:33] + chunk(kind, extra) + whole[33:])
    memory = forget_peak()
    for read in (open_image, read_label):
        with as_users_have_it(), within(SECONDS):
            try:
                read(path)
            except SkygenError as error:
                assert str(error)
    assert peak_memory() - memory < MEMORY_MB


def test_a_caption_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    """Here it is 200 MB of one letter, in some kilobytes of Parquet; read, it would be in memory three times."""
    put(tmp_path, "images/0.png", picture("PNG"))
    table = pa.table({"filepath": ["images/0.png"], "title": ["a" * 200_000_000]})
    pq.write_table(table, tmp_path / "pairs.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "pairs.parquet").stat().st_size < 1_000_000
    del table
    pa.default_memory_pool().release_unused()
    memory = forget_peak()
    with within(SECONDS), pytest.raises(DataError, match=r"bytes of text in 1 rows; it is no list of pairs\.$"):
        read_pairs(tmp_path)
    assert peak_memory() - memory < MEMORY_MB // 3


MARKUP = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</textarea><svg/onload=alert(1)>", "{{7*7}}{%raw%}",
          "javascript:alert(1)", "\u202egnp.exe", "\x1b]0;title\x07", "=HYPERLINK(1)", "a\0b", "&lt;b&gt;")  # fmt: skip


def test_markup_in_every_text_of_a_run_is_shown_as_text(tmp_path: Path, figures: Figures) -> None:
    from fabricated_runs import Page

    plain = make_evaluation(tmp_path / "plain", tmp_path)
    write_report([plain], tmp_path / "plain.html", "title")
    expected = {tag for tag, _ in Page((tmp_path / "plain.html").read_text(encoding="utf-8")).tags}
    for number, markup in enumerate(MARKUP):
        run = make_evaluation(tmp_path / f"run{number}", tmp_path, protocol=markup)
        for name in ("pictures.jsonl", "items.jsonl", "metrics.json", "environment.json", "run_status.json"):
            path = run / name
            escaped = json.dumps(markup)[1:-1]
            path.write_text(
                path.read_text().replace("tuned", escaped).replace("prompt number", escaped).replace("c0ffee", escaped)
            )
        write_report([run], tmp_path / "report.html", markup, markdown=True, model_card=True)
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert {tag for tag, _ in page.tags} <= expected | {"p", "li", "ul"}, markup
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")], markup
        assert not [value for value in page.values("a", "href") if value.startswith("javascript")], markup
        outside_of_code = re.sub(r"`[^`]*`", "", (tmp_path / "report.md").read_text(encoding="utf-8"))
        assert "<script>alert" not in outside_of_code
    figures("markup in a run", tried=len(MARKUP) * 6, code_executed=0)
