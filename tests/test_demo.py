"""The demo: what its studio does, and the page as a browser's client sees it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricated_runs import make_evaluation
from PIL import Image

from demo.studio import LONGEST_PROMPT, Config, Drawing, ServerSettings, Studio
from skygen.errors import ConfigError, UnavailableError
from skygen.models.scorer import ScorerSettings
from skygen.models.weights import ModelSettings

QUICK = {"seed": 3, "steps": 2, "guidance": 2.0, "count": 1, "candidates": 1}
APP = Path(__file__).resolve().parents[1] / "demo" / "app.py"
PROMPT = "An aerial image. It shows: A winding green river."


@pytest.fixture(scope="session")
def studio(
    stable_diffusion_folder: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Studio:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Studio(
        Config(
            ModelSettings(str(stable_diffusion_folder)),
            ModelSettings(str(captioner_folder)),
            ScorerSettings(str(skyclip_folder)),
            ServerSettings(port=port),
        ),
        tmp_path_factory.mktemp("demo"),
        device="cpu",
    )


def draw(studio: Studio, prompt: str = PROMPT, **changed: Any) -> list[tuple[Drawing, ...]]:
    return list(studio.draw(prompt, **{**QUICK, **changed}))


def test_nothing_is_loaded_before_it_is_needed(studio: Studio) -> None:
    fresh = Studio(studio.config, studio.folder, device="cpu")
    assert {"diffusion", "captioner", "scorer"}.isdisjoint(vars(fresh))


def test_missing_weights_are_told_before_the_page_opens(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no model_index\.json there"):
        Studio(Config(ModelSettings("/nowhere/at/all")), tmp_path)


def test_pictures_come_one_after_the_other_and_follow_from_the_seed(studio: Studio) -> None:
    seen = draw(studio, count=2)
    assert [len(drawings) for drawings in seen] == [1, 2]
    again, other = draw(studio, count=2)[-1], draw(studio, seed=4)[-1]
    assert [one.path.read_bytes() for one in seen[-1]] == [one.path.read_bytes() for one in again]
    assert other[0].path.read_bytes() != again[0].path.read_bytes()
    assert all(-1 <= drawing.score <= 1 for drawing in again)


def test_a_picture_says_that_it_is_synthetic_and_what_it_follows_from(studio: Studio) -> None:
    (drawing,) = draw(studio)[-1]
    with Image.open(drawing.path) as image:
        notes = dict(image.info)
    record = json.loads(notes["skygen"])
    assert "trainedAlgorithmicMedia" in notes["XML:com.adobe.xmp"]
    assert (record["text"], record["seed"], record["synthetic"]) == (PROMPT, drawing.seed, True)
    assert (record["model"], record["base"]) == ("base", "stable_diffusion")  # not the folder's path: pictures are given away


def test_best_of_keeps_the_candidate_with_the_highest_score(studio: Studio) -> None:
    (best,) = draw(studio, candidates=3)[-1]
    with Image.open(best.path) as image:
        record = json.loads(image.info["skygen"])
    assert len(record["candidate_scores"]) == 3
    assert best.score == max(record["candidate_scores"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": "  "}, "Write a prompt of 1 to 300 characters; this one has 0."),
        ({"prompt": "a" * (LONGEST_PROMPT + 1)}, "Write a prompt of 1 to 300 characters; this one has 301."),
        ({"steps": 1000}, "The number of steps is 1000; choose 1 to 100."),
        ({"count": 0}, "The number of pictures is 0; choose 1 to 8."),
        ({"candidates": 9}, "The number of candidates is 9; choose 1 to 8."),
        ({"guidance": float("nan")}, "The guidance is nan; choose 1 to 15."),
        ({"seed": None}, "The seed is missing; choose 0 to 2147483647."),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_words(studio: Studio, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}$"):
        draw(studio, **changed)


def test_the_examples_can_be_drawn_and_described(studio: Studio) -> None:
    prompts, pictures = studio.example_prompts(), studio.example_pictures()
    assert len(set(prompts)) == len(set(pictures)) == 6
    assert all(re.match(r"An? (aerial|satellite) image\. It shows: [A-Z]", prompt) for prompt in prompts)
    description = studio.describe(pictures[0])
    assert -1 <= description.score <= 1
    assert description == studio.describe(pictures[0])


def test_words_for_errors_name_no_place_on_this_machine() -> None:
    from demo.tabs.parts import hide_paths

    assert hide_paths("/home/ann/runs/x/y.png: cannot be read; give runs/NAME.") == "y.png: cannot be read; give runs/NAME."
    assert hide_paths("see ~/data/set and (/a/b/c)") == "see set and (c)"
    assert hide_paths("choose 1/2 or a/b") == "choose 1/2 or a/b"


def test_what_people_write_is_never_read_as_markup() -> None:
    from demo.tabs.generate import escape
    from demo.tabs.parts import show_cosines

    shown = show_cosines([("<img src=x onerror=alert(1)>", 0.5), ("far", -0.2)])
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert re.findall(r"width: ([\d.]+)%", shown) == ["50.0", "0.0"]
    assert escape("<b>*x*</b>") == r"\<b\>\*x\*\</b\>"


def test_labels_of_prompts_end_before_gradio_would_cut_them() -> None:
    from demo.tabs.generate import LONGEST_LABEL, shorten

    assert shorten("A winding green river.") == "A winding green river."
    long = "A concrete airport runway next to a strip of woodland and a house and a road."
    assert shorten(long) == "A concrete airport runway next to a strip of woodland."
    assert len(shorten(long)) <= LONGEST_LABEL


@pytest.mark.parametrize(("written", "read"), [("the model's own", None), ("", None), (None, None), ("0", 0.0), ("0.7", 0.7)])
def test_the_rescale_is_the_models_own_unless_a_number_is_chosen(written: str | None, read: float | None) -> None:
    from demo.tabs.generate import read_rescale

    assert read_rescale(written) == read
    with pytest.raises(ConfigError, match=r"^The rescale is 'much'; choose 0 to 1, or “the model's own”\.$"):
        read_rescale("much")


@pytest.fixture(scope="module")
def page(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page as ``make demo`` does, in a process of its own, and give its address."""
    config = studio.config
    models = [f"--diffusion.name={config.diffusion.name}", f"--captioner.name={config.captioner.name}"]
    temporary = tmp_path_factory.mktemp("served")
    run = make_evaluation(temporary / "runs" / "first", temporary)
    shown = [f"--runs={run.parent}", "--rate", str(run), f"--ratings={temporary / 'ratings'}"]
    settings = [*models, f"--scorer.name={config.scorer.name}", f"--server.port={config.server.port}", *shown]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(temporary)}
    server = subprocess.Popen([sys.executable, APP, *settings], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stderr is not None
        address = f"http://127.0.0.1:{config.server.port}/"
        assert server.stderr.readline() == f"The demo: {address[:-1]} (Ctrl-C ends it)\n"
        wait_for(address)
        yield address
    finally:
        server.terminate()
        server.communicate()
    assert list(temporary.glob("skygen-demo-*")) == []


def wait_for(address: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.URLError:
            assert time.monotonic() < end, f"{address} does not answer"
            time.sleep(0.3)


@pytest.mark.slow
def test_the_page_has_its_tabs_and_tells_programs_of_two_functions_alone(page: str) -> None:
    with urllib.request.urlopen(page + "config") as answer:
        parts = json.load(answer)["components"]
    tabs = [part["props"]["label"] for part in parts if part["type"] == "tabitem"]
    assert tabs == ["Generate", "Caption", "Score", "Search", "Compare", "Rate", "About"]
    with urllib.request.urlopen(page + "gradio_api/info") as answer:
        told = json.load(answer)["named_endpoints"]
    assert sorted(told) == ["/describe", "/draw"]
    names = [parameter["parameter_name"] for parameter in told["/draw"]["parameters"]]
    assert names[:6] == ["text", "seed", "steps", "guidance", "count", "candidates"]
    assert all(parameter["parameter_has_default"] for parameter in told["/draw"]["parameters"][1:])


@pytest.mark.slow
def test_an_audit_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    words = [sys.executable, str(APP), "--audit", str(tmp_path), "--runs", str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "holds no audit; give the folder that `skygen audit` has written." in ended.stderr


@pytest.mark.slow
def test_a_drawing_is_seen_while_it_is_made(page: str) -> None:
    from gradio_client import Client

    client = Client(page, verbose=False, download_files=False, analytics_enabled=False)
    try:
        came = list(client.submit(PROMPT, steps=60, guidance=2.0, count=1, candidates=2, api_name="/draw"))
    finally:
        client.close()
    words = [picture["caption"] for pictures in came for picture in pictures]
    assert words[0].startswith("drawing, ")
    assert len(came) > 3
    assert [picture["caption"].partition(" ")[0] for picture in came[-1]] == ["SkyCLIP"]


@pytest.mark.slow
def test_the_page_draws_and_describes(page: str, studio: Studio, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, download_files=str(tmp_path), analytics_enabled=False)
    try:
        (drawn,) = client.predict(PROMPT, 3, 2, 2.0, 1, 1, api_name="/draw")
        (same,) = draw(studio)[-1]
        assert drawn["caption"] == f"SkyCLIP {same.score:.3f}"
        assert Path(drawn["image"]).read_bytes() == same.path.read_bytes()  # the provenance is in there
        picture = studio.example_pictures()[0]
        caption, score = client.predict(handle_file(picture), api_name="/describe")
        expected = studio.describe(picture)
        assert (caption, score) == (expected.caption, f"{expected.score:.3f}")
    finally:
        client.close()


@pytest.mark.slow
def test_the_page_refuses_in_its_own_words(page: str, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    client = Client(page, verbose=False, analytics_enabled=False)
    try:
        with pytest.raises(AppError, match=r"^Write a prompt of 1 to 300 characters; this one has 5000\.$"):
            client.predict("a" * 5000, 3, 2, 2.0, 1, 1, api_name="/draw")
        with pytest.raises(AppError, match=r"^This picture cannot be read: "):
            client.predict(handle_file(bad), api_name="/describe")
    finally:
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["gradio_api/file=/etc/passwd", "gradio_api/file=pyproject.toml", "docs", "openapi.json", "monitoring"]
)
def test_the_page_gives_away_nothing_else(page: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(page + path)
    refused.value.close()
    assert refused.value.code in (403, 404)
