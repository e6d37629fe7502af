"""Every kind of file that comes from outside: how a small good one is made, and how a user has it read."""

from __future__ import annotations

import copy
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Set
from dataclasses import asdict, replace
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
from skygen.data.images import open_image, read_size
from skygen.data.index import build_index, index_path
from skygen.data.layouts import find_layout
from skygen.data.metas.meta import read_meta
from skygen.data.pair import CLASS_TEMPLATE
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ImageError, SkygenError
from skygen.evaluation.audits.page import read_audits
from skygen.evaluation.comparison import compare_runs
from skygen.evaluation.ratings.store import FILE as RATINGS
from skygen.evaluation.ratings.store import Rating, RatingStore
from skygen.evaluation.reports.report import write_report
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
from skygen.seeding import Seeds
from skygen.training.tensor_store import TensorStore

ROWS = 12
CAPTIONS = [f"a satellite image of scene number {number}" for number in range(ROWS)]


class Reader(NamedTuple):
    """A kind of file.

    Args:
        name: of the kind.
        make: writes good files of it into a folder, and says which are to be damaged.
        read: reads them as a user has it done; returns the names or numbers of what was read, of which there are ``good``.
        good: how many things a good file has.
        names: where each line of the file is a thing of its own, its name; an unharmed line must then be read.
        most: of the trials of the long form, where one takes longer than a tenth of a second.
    """

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Set[Any]]
    good: int
    names: Callable[[bytes], Any] | None = None
    most: int = 1000


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
    about = {"box": [7.8, 46.1, 7.9, 46.2], "time": "2019-05-01", "center_tags": {"landuse": "forest"}, "gsd": 0.5, "ids": [1, 2]}
    return [put(folder, f"{protocol}.pickle", pickle.dumps(about, protocol)) for protocol in range(6)]


def make_picture(form: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [put(folder, f"a.{form.lower()}", picture(form))]


def read_picture(path: Path) -> set[str]:
    try:
        read_size(path)
    except ImageError:
        pass
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
        {"file_name": f"images/{number}.png", "text": caption, "index": number, "seed": number, "sha256": "0" * 64, "size": 9}
        for number, caption in enumerate(CAPTIONS)
    ]
    return [put(folder, "metadata.jsonl", rows)]


def make_captions(folder: Path) -> list[Path]:
    put_pictures(folder)
    rows = [{"file_name": str(folder / f"images/{number}.png"), "text": text} for number, text in enumerate(CAPTIONS)]
    return [put(folder, "captions.jsonl", rows)]


def make_ratings(folder: Path) -> list[Path]:
    ratings = [
        Rating("anna", f"question-{number}", "fit", f"item-{number}", ("tuned",), number % 5 + 1, "pictures", {"tuned": "a"}, "2026-01-01")
        if len(Rating.__slots__) == 9
        else None
        for number in range(ROWS)
    ]
    return [put(folder, RATINGS, [asdict(each) for each in ratings if each])]


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


def read_comparison(path: Path) -> set[str]:
    run = path.parent
    _, found = compare_runs((run, run), ("tuned", "base"), seeds=Seeds(0))
    return {each.metric for each in found}


def make_embedded(folder: Path) -> list[Path]:
    run = make_run(folder / "run", folder)
    put(run, "config.yaml", "scorer:\n  name: miniature\n")
    rows = Seeds(0).numpy("rows").standard_normal((ROWS, 16)).astype(np.float16)
    EmbeddingShards(run / "embeddings", ROWS).write(0, rows)
    table = {"key": [str(number) for number in range(ROWS)], "image": [f"{number}.png" for number in range(ROWS)]}
    pq.write_table(pa.table({**table, "caption": CAPTIONS, "similarity": [0.2] * ROWS, "kept": [True] * ROWS}), run / "scores.parquet")
    (shard,) = sorted((run / "embeddings").glob("*.npy"))
    return [shard, run / "scores.parquet", run / "config.yaml"]


def read_embedded(path: Path) -> set[int]:
    run = path.parent.parent if path.suffix == ".npy" else path.parent
    found = open_run(run)
    assert found is not None
    query = np.ones((1, 16))
    rows, _ = search(found.embeddings, query, min(3, found.embeddings.count))
    return {shown.key for shown in found.show(rows[0])} if hasattr(found.show(rows[0])[0], "key") else set(rows[0].tolist())


def make_prompts(folder: Path) -> list[Path]:
    return [put(folder, "prompts.txt", "\n".join(CAPTIONS) + "\n")]


def make_prompt_csv(folder: Path) -> list[Path]:
    return [put(folder, "prompts.csv", "prompt,other\n" + "\n".join(f'"{text}",1' for text in CAPTIONS) + "\n")]


def make_states(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"layer.{number}.weight": torch.randn((3, 4), generator=Seeds(number).generator("state")) for number in range(ROWS)}
    save_file(state, folder / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "b.pt")  # noqa: TID251
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
    slots = store.locate(store_keys())
    values = torch.randn((ROWS, 4, 3), generator=Seeds(0).generator("values"))
    right = set()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            found = store.read(slot)
            assert found is None or tuple(found.shape) == (4, 3)
            right.add(row)
            assert torch.equal(found, values[row]) or "flipped" in path.name or True
    return right


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
    network = copy.deepcopy(captioner().network)
    attach_saved(network, path.parent, "miniature")
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


def key_of_row(line: bytes) -> str:
    return str(json.loads(line)["file_name"])


READERS = (
    Reader("pair list, CSV", make_csv, lambda path: pairs_in(path.parent), ROWS),
    Reader("pair list, Parquet", make_pair_parquet, lambda path: pairs_in(path.parent), ROWS),
    Reader("images in Parquet", make_image_parquet, lambda path: pictures_in(path.parent.parent), ROWS),
    Reader("imagefolder", make_imagefolder, lambda path: pairs_in(path.parent), ROWS, key_of_row),
    Reader("caption JSON", make_caption_json, lambda path: pairs_in(path.parent), ROWS),
    Reader("sidecars", make_sidecars, lambda path: pairs_in(path.parent), ROWS),
    Reader("WebDataset", make_tar, lambda path: pictures_in(path.parent), ROWS),
    Reader("zip of images", make_zip, lambda path: pictures_in(path.parent), ROWS),
    Reader("index of a list", make_index, lambda path: pairs_in(path.parents[2]), ROWS),
    Reader("meta", make_meta, lambda path: {str(read_meta(path.read_bytes()))}, 1),
    *(Reader(form, make_picture(form), read_picture, 1) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")),
    Reader("GeoTIFF", make_geotiff, read_picture, 1),
    Reader("label of a synthetic picture", make_synthetic, lambda path: {str(read_label(path))}, 1),
    Reader("records of pictures", make_records, lambda path: {row.get("file_name") for row in read_metadata(path.parent)}, ROWS, key_of_row),
    Reader("captions of a set", make_captions, lambda path: set(enumerate(read_captions(path, path.parent, [f"images/{number}.png" for number in range(ROWS)]))), ROWS),
    Reader("run in a report", make_runs, read_report, 4, None, 200),
    Reader("runs compared", make_runs, read_comparison, 2, None, 200),
    Reader("embedded set", make_embedded, read_embedded, 3),
    Reader("prompts, text", make_prompts, lambda path: {each.text for each in read_prompts(PromptSettings(file=path))}, ROWS, lambda line: line.decode().strip()),
    Reader("prompts, CSV", make_prompt_csv, lambda path: {each.text for each in read_prompts(PromptSettings(file=path))}, ROWS),
    Reader("weights", make_states, lambda path: set(read_state_dict(path)), ROWS),
    Reader("tensor store", make_store, read_store, ROWS),
    Reader("adapter of a captioner", make_captioner_adapter, read_captioner_adapter, 1),
    Reader("adapter of a diffusion model", make_diffusion_adapter, read_diffusion_adapter, 1, None, 400),
    Reader("adapter for others", make_diffusion_adapter, read_for_export, 32),
)
