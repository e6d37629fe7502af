"""Every kind of file that comes from outside: how a small good one is made, and how a user has it read."""

from __future__ import annotations

import copy
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fabricated_runs import make_evaluation, make_run, write_lines
from PIL import Image
from safetensors.torch import save_file

from skygen.data.archives import close_archives, forget_archives
from skygen.data.benchmarks import BENCHMARK_SETS, read_benchmark
from skygen.data.images import open_image, read_size
from skygen.data.index import build_index, index_path
from skygen.data.layouts import find_layout
from skygen.data.metas.meta import read_meta
from skygen.data.pair import CLASS_TEMPLATE
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ImageError
from skygen.evaluation.audits.audit import audit
from skygen.evaluation.audits.page import read_audits, write_audit
from skygen.evaluation.comparison import compare_runs
from skygen.evaluation.parquet_files import write_parquet
from skygen.evaluation.ratings.store import FILE as RATINGS
from skygen.evaluation.ratings.store import Rating, RatingStore
from skygen.evaluation.reports.report import write_report
from skygen.evaluation.rounds.lineage import open_rounds, trace
from skygen.evaluation.screening.cycle import read_captions
from skygen.evaluation.search.embedded_set import open_run
from skygen.evaluation.search.nearest import search
from skygen.evaluation.shards import EmbeddingShards
from skygen.generation.prompts import PromptSettings, read_prompts
from skygen.generation.provenance import read_label, save_synthetic
from skygen.generation.records import read_metadata
from skygen.models.adapters import LoraSettings, attach_saved
from skygen.models.diffusions.lora import load_adapter
from skygen.models.kohya import read_lora
from skygen.models.weights import read_state_dict
from skygen.runs import Run, RunSettings
from skygen.seeding import Seeds
from skygen.training.tensor_store import TensorStore

ROWS = 12
WHEN = "2026-05-17T10:30:00+00:00"
CAPTIONS = [f"a satellite image of scene number {number}" for number in range(ROWS)]


class Reader(NamedTuple):
    """A kind of file.

    Args:
        name: of the kind.
        make: writes good files of it into a folder, and says which are to be damaged.
        read: reads them as a user has it done; returns the names or numbers of what was read, of which there are ``good``.
        good: how many things a good file has.
        names: where each line of the file is a thing of its own, its name; an unharmed line must then be read.
        few: most trials of the short form, where one takes longer than a tenth of a second.
    """

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Set[Any]]
    good: int
    names: Callable[[bytes], Any] | None = None
    few: int = 20


def picture(form: str, number: int = 0, side: int = 24) -> bytes:
    noise = Seeds(number).numpy("picture").integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, form)
    return file.getvalue()


def put(folder: Path, name: str, content: bytes | str | Iterable[Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_lines(path, content)
    return path


def put_pictures(folder: Path) -> None:
    for number in range(ROWS):
        put(folder, f"images/{number}.png", picture("PNG", number))


def pairs_in(folder: Path) -> set[str]:
    return {pair.key for pair in read_pairs(folder, rejects=Rejects(None))}


def pictures_in(folder: Path) -> set[str]:
    """Read a data set and decode its pictures; those that cannot be decoded are rejects."""
    found = set()
    forget_archives()
    try:
        for pair in read_pairs(folder, rejects=Rejects(None)):
            try:
                open_image(pair.image)
            except ImageError:
                continue
            found.add(pair.key)
    finally:
        close_archives()
    return found


def make_csv(folder: Path) -> list[Path]:
    put_pictures(folder)
    lines = [f"images/{number}.png,{caption}" for number, caption in enumerate(CAPTIONS)]
    return [put(folder, "pairs.csv", "filepath,title\n" + "\n".join(lines) + "\n")]


def make_pair_parquet(folder: Path) -> list[Path]:
    put_pictures(folder)
    table = pa.table({"filepath": [f"images/{number}.png" for number in range(ROWS)], "title": CAPTIONS})
    pq.write_table(table, folder / "pairs.parquet", row_group_size=5)
    return [folder / "pairs.parquet"]


def make_image_parquet(folder: Path) -> list[Path]:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": picture("PNG", number), "path": f"{number}.png"} for number in range(ROWS)], kind)
    put(folder, "data/x.txt", "")
    pq.write_table(pa.table({"image": images, "text": CAPTIONS}), folder / "data" / "train-0.parquet", row_group_size=5)
    return [folder / "data" / "train-0.parquet"]


def make_imagefolder(folder: Path) -> list[Path]:
    put_pictures(folder)
    rows = [{"file_name": f"images/{number}.png", "text": caption} for number, caption in enumerate(CAPTIONS)]
    return [put(folder, "metadata.jsonl", rows)]


def make_caption_json(folder: Path) -> list[Path]:
    put_pictures(folder)
    images = [
        {"filename": f"{number}.png", "split": "train", "sentences": [{"raw": caption, "tokens": caption.split()}]}
        for number, caption in enumerate(CAPTIONS)
    ]
    return [put(folder, "dataset.json", json.dumps({"images": images, "dataset": "mine"}))]


def make_sidecars(folder: Path) -> list[Path]:
    paths = []
    for number, caption in enumerate(CAPTIONS):
        put(folder, f"{number}.png", picture("PNG", number))
        about = {"caption": caption, "type": "Lake", "date": "2019-05", "center_coordinates": [7.8, 46.1]}
        paths.append(put(folder, f"{number}.json", json.dumps(about)))
    return paths


def make_tar(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "000000.tar", "w") as archive:
        for number, caption in enumerate(CAPTIONS):
            for ending, content in (("png", picture("PNG", number)), ("txt", caption.encode()), ("json", b'{"a": 1}')):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return [folder / "000000.tar"]


def make_zip(folder: Path) -> list[Path]:
    lines = [f"images2/{number}.png,{caption}" for number, caption in enumerate(CAPTIONS)]
    put(folder, "pairs.csv", "filepath,title\n" + "\n".join(lines) + "\n")
    with zipfile.ZipFile(folder / "images2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(ROWS):
            archive.writestr(f"images2/{number}.png", picture("PNG", number))
    return [folder / "images2.zip"]


def make_index(folder: Path) -> list[Path]:
    """Index a list: the Arrow file is mapped, and what it says is believed."""
    make_csv(folder)
    layout = find_layout(folder, None, None, None, CLASS_TEMPLATE)
    build_index(layout, None, lambda done, total: None)
    return [index_path(layout)]


def make_meta(folder: Path) -> list[Path]:
    about = {
        "box": [7.8, 46.1, 7.9, 46.2],
        "time": "2019-05-01",
        "center_tags": {"landuse": "forest"},
        "gsd": 0.5,
        "ids": [1, 2],
    }
    return [put(folder, f"{protocol}.pickle", pickle.dumps(about, protocol)) for protocol in range(6)]


def make_picture(form: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [put(folder, f"a.{form.lower()}", picture(form))]


def read_picture(path: Path) -> set[str]:
    with suppress(ImageError):
        read_size(path)
    return {str(open_image(path).size)}


def make_geotiff(folder: Path) -> list[Path]:
    import rasterio
    from rasterio.transform import from_bounds

    folder.mkdir(parents=True, exist_ok=True)
    values = Seeds(0).numpy("scene").integers(200, 3000, (4, 40, 40)).astype(np.uint16)
    place = {"crs": "EPSG:4326", "transform": from_bounds(8.0, 47.0, 8.1, 47.1, 40, 40)}
    for name, options in (("plain", {}), ("tiled", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"})):
        profile = {"driver": "GTiff", "count": 4, "height": 40, "width": 40, "dtype": "uint16", **place, **options}
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(values)
    return [folder / "plain.tif", folder / "tiled.tif"]


def make_synthetic(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"synthetic": True, "text": CAPTIONS[0], "seed": 3, "model": "tuned", "base": "miniature"}
    image = open_image(picture("PNG"))
    paths = [folder / f"a.{ending}" for ending in ("png", "jpg", "webp")]
    for path in paths:
        save_synthetic(image, path, record)
    return paths


def make_records(folder: Path) -> list[Path]:
    rows = [
        {
            "file_name": f"images/{number}.png",
            "text": caption,
            "index": number,
            "seed": number,
            "sha256": "0" * 64,
            "size": 9,
            "base": "miniature",
            "base_fingerprint": "b" * 16,
            "adapter": "",
            "adapter_sha256": "",
        }
        for number, caption in enumerate(CAPTIONS)
    ]
    return [put(folder, "metadata.jsonl", rows)]


def make_captions(folder: Path) -> list[Path]:
    put_pictures(folder)
    rows = [{"file_name": str(folder / f"images/{number}.png"), "text": text} for number, text in enumerate(CAPTIONS)]
    return [put(folder, "captions.jsonl", rows)]


def make_ratings(folder: Path) -> list[Path]:
    ratings = [
        Rating(
            f"{number:016x}", "five", "pictures", f"{number}.png", "anna", ("tuned",), 1 + number % 5, {"run": "0" * 16}, WHEN
        )
        for number in range(ROWS)
    ]
    return [put(folder, RATINGS, map(asdict, ratings))]


def make_runs(folder: Path) -> list[Path]:
    """Make a run of each kind that a report knows, in one folder."""
    run = make_evaluation(folder / "run", folder)
    put_pictures(run)
    references = [f"scene {number}" for number in range(ROWS)]
    put(run, "captions.jsonl", [
        {"image": f"images/{number}.png", "references": [references[number]], "captions": {"tuned": caption, "base": caption}}
        for number, caption in enumerate(CAPTIONS)
    ])  # fmt: skip
    put(run, "log.jsonl", [
        {"step": step, "loss": 1 / step, "gradient_norm": 1.0, "images": 4, "images_per_second": 10.0, "data_seconds": 0.1,
         "learning_rate": 1e-4, "skipped": False}
        for step in range(1, 6)
    ])  # fmt: skip
    put(run, "screened.jsonl", [
        {"file_name": f"images/{number}.png", "verdict": "kept", "copied_by": ["hash"]} for number in range(ROWS)
    ])  # fmt: skip
    numbers = {"similarity": np.linspace(0.1, 0.3, ROWS), "mismatched": np.linspace(0.0, 0.2, ROWS)}
    images = [f"images/{number}.png" for number in range(ROWS)]
    kept = [number % 2 == 0 for number in range(ROWS)]
    pq.write_table(pa.table({"image": images, "caption": CAPTIONS, **numbers, "kept": kept}), run / "scores.parquet")
    names = ("metrics.json", "run_status.json", "environment.json", "config.yaml", "pictures.jsonl", "items.jsonl")
    return [run / name for name in (*names, "captions.jsonl", "log.jsonl", "screened.jsonl", "scores.parquet", "0.png")]


def read_report(path: Path) -> set[str]:
    run = path.parent
    written = write_report([run], run.parent / "report.html", "damaged", markdown=True, model_card=True)
    text = (run.parent / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    return {each.name for each in written}


@dataclass(frozen=True)
class RunAlone:
    run: RunSettings


def go_on(path: Path) -> set[str]:
    """Begin a run anew in the folder of one that was broken off."""
    settings = RunSettings("run", path.parent.parent)
    with Run(settings, RunAlone(settings)) as run:
        run.truncate_log(3)
    return {"finished"}


def make_audit(folder: Path) -> list[Path]:
    make_imagefolder(folder / "data")
    pairs = PairSettings(folder / "data").read(Rejects(None))
    write_audit([audit(pairs.batches(), "mine")], folder)
    return [folder / "audit.json"]


def make_round(folder: Path) -> list[Path]:
    top = folder / "round-0"
    make_imagefolder(folder / "data")
    records = make_records(top / "set" / "samples")
    put(top, "screen/screened.jsonl", [
        {"file_name": f"images/{number}.png", "skyclip_score": 0.25, "verdict": "kept", "reasons": []} for number in range(ROWS)
    ])  # fmt: skip
    put(top, "training/config.yaml", f"pairs:\n  root: {folder / 'data'}\n")
    return [*records, top / "screen" / "screened.jsonl", top / "training" / "config.yaml"]


def read_round(path: Path) -> set[str]:
    top = next(parent for parent in path.parents if parent.name == "round-0")
    return {row["file"] for row in trace(open_rounds([top]))}


def make_benchmark(folder: Path) -> list[Path]:
    known = BENCHMARK_SETS["SkyScript_cls"]
    place = folder / known.folder
    rows = [f"{known.folder}/val/{number}.jpg,a title,{('barn', 'dam')[number % 2]}" for number in range(ROWS)]
    for number in range(ROWS):
        put(place, f"val/{number}.jpg", b"x")
    return [put(place, known.csv, "\n".join(["filepath,title,label", *rows, ""])), put(place, "classnames.txt", "barn\ndam\n")]


def read_comparison(path: Path) -> set[str]:
    run = path.parent
    _, found = compare_runs((run, run), ("tuned", "base"), seeds=Seeds(0))
    return {each.metric for each in found}


def make_embedded(folder: Path) -> list[Path]:
    run = make_run(folder / "run", folder)
    put(run, "config.yaml", "scorer:\n  name: miniature\n")
    rows = Seeds(0).numpy("rows").standard_normal((ROWS, 16)).astype(np.float16)
    EmbeddingShards(run / "embeddings", ROWS).write(0, rows)
    table: dict[str, Any] = {
        "key": [str(number) for number in range(ROWS)],
        "image": [f"{number}.png" for number in range(ROWS)],
    }
    write_parquet(
        run / "scores.parquet",
        [pa.table({**table, "caption": CAPTIONS, "similarity": [0.2] * ROWS, "kept": [True] * ROWS})],
    )
    (shard,) = sorted((run / "embeddings").glob("*.npy"))
    return [shard, run / "scores.parquet", run / "config.yaml"]


def read_embedded(path: Path) -> set[int]:
    run = path.parent.parent if path.suffix == ".npy" else path.parent
    found = open_run(run)
    assert found is not None
    query = np.ones((1, 16))
    rows, _ = search(found.embeddings, query, min(3, found.embeddings.count))
    return {shown.image for shown in found.show(rows[0])}


def make_prompts(folder: Path) -> list[Path]:
    return [put(folder, "prompts.txt", "\n".join(CAPTIONS) + "\n")]


def make_prompt_csv(folder: Path) -> list[Path]:
    return [put(folder, "prompts.csv", "prompt,other\n" + "\n".join(f'"{text}",1' for text in CAPTIONS) + "\n")]


def make_states(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"layer.{number}.weight": torch.randn((3, 4), generator=Seeds(number).generator("state")) for number in range(ROWS)
    }
    save_file(state, folder / "a.safetensors")
    beside = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(beside, folder / "b.pt")  # noqa: TID251
    torch.save(state, folder / "c.pt", _use_new_zipfile_serialization=False)  # noqa: TID251
    with zipfile.ZipFile(folder / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "b.pt", "d/b.pt")
    return [folder / name for name in ("a.safetensors", "b.pt", "c.pt", "d.zip")]


def make_store(folder: Path) -> list[Path]:
    store = TensorStore(folder)
    values = torch.randn((ROWS, 4, 3), generator=Seeds(0).generator("values"))
    for start in (0, 6):
        store.add(store_keys()[start : start + 6], values[start : start + 6])
    return sorted(folder.glob("*.safetensors"))


def store_keys() -> np.ndarray:
    return Seeds(1).numpy("keys").integers(0, 256, (ROWS, 32), dtype=np.uint8)


def read_store(path: Path) -> set[int]:
    store = TensorStore(path.parent)
    found = {row: store.read(slot) for row, slot in enumerate(store.locate(store_keys()).tolist()) if slot >= 0}
    assert {tuple(value.shape) for value in found.values()} <= {(4, 3)}
    return set(found)


@cache
def captioner() -> Any:
    from skygen.models.captioner import Captioner

    return Captioner.load("miniature")


@cache
def diffusion() -> Any:
    from skygen.models.diffusion import Diffusion

    return Diffusion.load("miniature")


def make_captioner_adapter(folder: Path) -> list[Path]:
    learner = copy.deepcopy(captioner())
    learner.attach(LoraSettings(rank=2), Seeds(1)).save(folder)
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))


def read_captioner_adapter(path: Path) -> set[str]:
    learner = copy.deepcopy(captioner())
    learner.ask_as(attach_saved(learner.network, path.parent, "miniature"))
    return {"adapter"}


def make_diffusion_adapter(folder: Path) -> list[Path]:
    from skygen.models.diffusions.settings import DiffusionLoraSettings

    learner = copy.deepcopy(diffusion())
    adapter = learner.attach(DiffusionLoraSettings(rank=2), Seeds(1))
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.normal_(0, 0.1, generator=Seeds(2).generator(name))
    adapter.save(folder)
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))


def read_diffusion_adapter(path: Path) -> set[str]:
    family = copy.deepcopy(diffusion().family)
    load_adapter(family, path.parent, "miniature")
    return {"adapter"}


def read_for_export(path: Path) -> set[str]:
    modules, _ = read_lora(path.parent / "pytorch_lora_weights.safetensors")
    return {module.name for module in modules}


def read_pair_folder(path: Path) -> set[str]:
    return pairs_in(path.parent)


def read_picture_folder(path: Path) -> set[str]:
    return pictures_in(path.parent)


def read_one_meta(path: Path) -> set[str]:
    return {str(read_meta(path.read_bytes()))}


def read_one_label(path: Path) -> set[str]:
    return {str(read_label(path))}


def read_prompt_file(path: Path) -> set[str]:
    return {prompt.text for prompt in read_prompts(PromptSettings(file=path))}


def read_caption_file(path: Path) -> set[int]:
    names = [f"images/{number}.png" for number in range(ROWS)]
    return set(range(len(read_captions(path, path.parent, names))))


def read_rating_file(path: Path) -> set[str]:
    return {rating.question for rating in RatingStore(path.parent).read().kept}


def read_record_file(path: Path) -> set[Any]:
    return {record.get("file_name") for record in read_metadata(path.parent) if isinstance(record.get("file_name"), str)}


def read_one_benchmark(path: Path) -> set[Path]:
    return set(read_benchmark(path.parents[1], "SkyScript_cls", Rejects(None)).images)


def key_of_row(line: bytes) -> str:
    return str(json.loads(line)["file_name"])


def key_of_rating(line: bytes) -> str:
    return str(json.loads(line)["question"])


def text_of_line(line: bytes) -> str:
    return line.decode().strip()


READERS = (
    Reader("pair list, CSV", make_csv, read_pair_folder, ROWS),
    Reader("pair list, Parquet", make_pair_parquet, read_pair_folder, ROWS),
    Reader("index of a list", make_index, lambda path: pairs_in(path.parents[2]), ROWS),
    Reader("images in Parquet", make_image_parquet, lambda path: pictures_in(path.parent.parent), ROWS),
    Reader("imagefolder", make_imagefolder, read_pair_folder, ROWS, key_of_row),
    Reader("caption JSON", make_caption_json, read_pair_folder, ROWS),
    Reader("sidecars", make_sidecars, read_pair_folder, ROWS),
    Reader("WebDataset", make_tar, read_picture_folder, ROWS),
    Reader("zip of images", make_zip, read_picture_folder, ROWS),
    Reader("benchmark", make_benchmark, read_one_benchmark, ROWS),
    Reader("meta", make_meta, read_one_meta, 1),
    *(Reader(form, make_picture(form), read_picture, 1) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")),
    Reader("GeoTIFF", make_geotiff, read_picture, 1),
    Reader("label of a synthetic picture", make_synthetic, read_one_label, 1),
    Reader("prompts, text", make_prompts, read_prompt_file, ROWS, text_of_line),
    Reader("prompts, CSV", make_prompt_csv, read_prompt_file, ROWS),
    Reader("records of pictures", make_records, read_record_file, ROWS, key_of_row),
    Reader("captions of a set", make_captions, read_caption_file, ROWS),
    Reader("ratings", make_ratings, read_rating_file, ROWS, key_of_rating),
    Reader("audit", make_audit, lambda path: {each.name for each in read_audits(path)}, 1),
    Reader("rounds", make_round, read_round, ROWS),
    Reader("run in a report", make_runs, read_report, 3, few=6),
    Reader("runs compared", make_runs, read_comparison, 2),
    Reader("run that goes on", make_runs, go_on, 1),
    Reader("embedded set", make_embedded, read_embedded, 3),
    Reader("weights", make_states, lambda path: set(read_state_dict(path)), ROWS),
    Reader("tensor store", make_store, read_store, ROWS),
    Reader("adapter of a captioner", make_captioner_adapter, read_captioner_adapter, 1),
    Reader("adapter of a diffusion model", make_diffusion_adapter, read_diffusion_adapter, 1, few=10),
    Reader("adapter for others", make_diffusion_adapter, read_for_export, 56),
)
