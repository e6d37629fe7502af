"""Many at once: each gets what it has asked for, and the server does not grow."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving_client import ROOT, Served, file_of, free_port, serving

from demo.studio import Config, Studio
from skygen.models.scorer import ScorerSettings
from skygen.models.weights import ModelSettings
from skygen.studio.pictures import Request

pytestmark = pytest.mark.slow

CLIENTS, DRAWN, DESCRIBED = 8, 5, 5
STEPS, GUIDANCE, SIDE = 1, 2.0, 32
"""The least that can be asked for: what is tested is the serving, not the drawing."""
PATIENT = {"timeout": 120.0}
"""Seconds; by default a client waits 5, and here eight begin at once while the models are read."""
FIRST, MORE, DESCRIBED_EVERY = 20, 200, 4
MOST_GROWTH = 30.0
"""MB that the server may grow by in 200 jobs; a picture that stayed for each would be seen from 150 kB on."""
PROMPT = "An aerial image. It shows: A winding green river."


@pytest.fixture(scope="module")
def alone(
    stable_diffusion_folder: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Studio:
    """The same models, in this process, asked by nobody else."""
    names = ModelSettings(str(stable_diffusion_folder)), ModelSettings(str(captioner_folder))
    config = Config(*names, ScorerSettings(str(skyclip_folder)))
    return Studio(config, tmp_path_factory.mktemp("alone"), device="cpu")


@pytest.fixture(scope="module")
def page(alone: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config, port = alone.config, free_port()
    settings = [f"--diffusion.name={config.diffusion.name}", f"--captioner.name={config.captioner.name}"]
    settings += [f"--scorer.name={config.scorer.name}", f"--server.port={port}"]
    with serving(ROOT / "demo" / "app.py", tmp_path_factory.mktemp("load"), *settings, port=port) as served:
        yield served


def tell(figures: str) -> None:
    """Show figures; pytest has them with -s, and where a test fails."""
    sys.stderr.write(f"{figures}\n")


def draw_alone(studio: Studio, seed: int) -> str:
    *_, last = studio.watch(Request(PROMPT, seed, STEPS, GUIDANCE, width=SIDE, height=SIDE))
    return hashlib.sha256(last.drawings[0].path.read_bytes()).hexdigest()


def test_each_of_many_clients_gets_its_own_picture(page: Served, alone: Studio, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    tiles = alone.example_pictures()

    def visit(number: int) -> tuple[dict[int, str], list[tuple[int, tuple[str, str]]], float]:
        kept = str(tmp_path / str(number))
        client = Client(page.address, verbose=False, analytics_enabled=False, download_files=kept, httpx_kwargs=PATIENT)
        pictures, captions, longest = {}, [], 0.0
        try:
            for turn in range(max(DRAWN, DESCRIBED)):
                begun = time.monotonic()
                seed, tile = 100 * number + turn, (number + turn) % len(tiles)
                (drawn,) = client.predict(
                    PROMPT, seed=seed, steps=STEPS, guidance=GUIDANCE, count=1, width=SIDE, height=SIDE, api_name="/draw"
                )
                pictures[seed] = hashlib.sha256(Path(drawn["image"]).read_bytes()).hexdigest()
                captions.append((tile, client.predict(handle_file(tiles[tile]), api_name="/describe")))
                longest = max(longest, time.monotonic() - begun)
        finally:
            client.close()
        return pictures, captions, longest

    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        visits = list(pool.map(visit, range(CLIENTS)))  # an answer of 5xx is raised here
    took = time.monotonic() - begun
    jobs = CLIENTS * (DRAWN + DESCRIBED)
    tell(f"{CLIENTS} clients, {jobs} jobs: {took:.1f} s, the longest pair {max(visit[2] for visit in visits):.1f} s")

    drawn = {seed: digest for pictures, _, _ in visits for seed, digest in pictures.items()}
    assert len(drawn) == CLIENTS * DRAWN
    assert drawn == {seed: draw_alone(alone, seed) for seed in drawn}
    described = [alone.describe(tile) for tile in tiles]
    said = [(tile, told) for _, captions, _ in visits for tile, told in captions]
    assert len(said) == CLIENTS * DESCRIBED
    assert said == [(tile, (described[tile].caption, f"{described[tile].score:.3f}")) for tile, _ in said]


def test_every_field_of_every_function_refuses_what_it_cannot_hold(page: Served) -> None:
    functions = json.loads(page.ask("/gradio_api/info").text)["named_endpoints"]
    assert {"/draw", "/describe"} <= functions.keys()
    tried = 0
    for name, function in functions.items():
        usual = [field["parameter_default"] for field in function["parameters"]]
        for place, wrong in ((place, wrong) for place in range(len(usual)) for wrong in ({"a": 1}, file_of("/etc/passwd"))):
            answer = page.call(name.strip("/"), [*usual[:place], wrong, *usual[place + 1 :]])
            assert answer.status == 422 or "event: error" in answer.text, (name, place, answer)
            assert '"error": null' not in answer.text, (name, place, answer)
            assert not any(secret in answer.text for secret in (str(ROOT), str(page.folder), "Traceback")), answer
            tried += 1
    assert tried > 20


def test_the_server_does_not_grow(page: Served, alone: Studio) -> None:
    """One visitor, as gradio keeps something of each of the last 256 visitors: of this page some 0.2 MB."""
    usual = json.loads(page.ask("/gradio_api/info").text)["named_endpoints"]["/draw"]["parameters"]
    asked = {field["parameter_name"]: field["parameter_default"] for field in usual}
    asked |= {"text": PROMPT, "steps": STEPS, "guidance": GUIDANCE, "count": 1, "width": SIDE, "height": SIDE}
    (tile,) = json.loads(page.upload(alone.example_pictures()[0].read_bytes(), "tile.png").text)

    def work(jobs: range) -> None:
        for number in jobs:
            described = number % DESCRIBED_EVERY == 0
            data = [file_of(tile), 1] if described else list((asked | {"seed": number}).values())
            answer = page.call("describe" if described else "draw", data, session_hash="one")
            assert "event: complete" in answer.text, answer

    work(range(FIRST))
    before, begun = page.resident(), time.monotonic()
    work(range(FIRST, FIRST + MORE))
    after, took = page.resident(), time.monotonic() - begun
    tell(f"resident after {FIRST} jobs {before:.0f} MB, after {MORE} more {after:.0f} MB; {took / MORE:.2f} s a job")
    assert after - before < MOST_GROWTH
