"""Weights that are not here, with a hub that is switched off and one that refuses: code 69 and what to fetch, at once."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.figures import Figures
from faults.forking import ROOT, Forks
from faults.programs import World, caption, draw, evaluate_images, finetune_captioner, finetune_diffusion, generate, score_pairs

from skygen.errors import UnavailableError

pytestmark = pytest.mark.slow
MOST_SECONDS = 10.0
"""From the start of a program that has imported everything to its end."""
HUB = "run `hf download {name}`, then copy that cache here (HF_HOME) or give the downloaded folder's path in place of the name."
INCEPTION = "weights-inception-2015-12-05-6726825d.pth from release v0.2.0 of torch-fidelity"
BLIP, SD, DINO = "Salesforce/blip-image-captioning-base", "stable-diffusion-v1-5/stable-diffusion-v1-5", "facebook/dinov2-base"
SKYCLIP, JUDGE = "SkyCLIP_ViT_L14_top30pct", "google/vit-base-patch16-224"


@dataclass(frozen=True, slots=True)
class Missing:
    """A weight that is not here.

    Args:
        words: of the command that wants it.
        remedy: words of the sentence that it ends with.
    """

    words: list[str]
    remedy: str


def missing_weights(world: World, root: Path, home: Path) -> dict[str, Missing]:
    """List a weight of each kind."""
    checkpoints = home / "checkpoints"
    skyclip = f"{SKYCLIP}: its weights are not here; run `skygen download {SKYCLIP}`, or download "
    local = f"and copy what it brings to {checkpoints}/"
    inception = {"features__extractors": "inception", "features__inception": root / "inception.pth"}
    return {
        "captioner to train": Missing(finetune_captioner(world, root, model__name=BLIP), HUB.format(name=BLIP)),
        "captioner to write with": Missing(caption(world, root, model__name=BLIP), HUB.format(name=BLIP)),
        "diffusion model to train": Missing(finetune_diffusion(world, root, model__name=SD), HUB.format(name=SD)),
        "diffusion model to draw with": Missing(generate(world, root, model__name=SD), HUB.format(name=SD)),
        "adapter": Missing(generate(world, root, model__adapter=root / "none"), f"{root / 'none'}: no "),
        "SkyCLIP": Missing(score_pairs(world, root, scorer__name="skyclip-vit-l14-top30pct"), skyclip),
        "RemoteCLIP": Missing(score_pairs(world, root, scorer__name="remoteclip-vit-b32"), local),
        "CLIP of OpenAI's": Missing(score_pairs(world, root, scorer__name="openai-vit-b32"), local),
        "further scorer": Missing(score_pairs(world, root, scorer__also="georsclip-vit-b32"), local),
        "judge": Missing(evaluate_images(world, root, judge__name=JUDGE), HUB.format(name=JUDGE)),
        "Inception": Missing(evaluate_images(world, root, **inception), INCEPTION),
        "DINO": Missing(evaluate_images(world, root, features__extractors=DINO), HUB.format(name=DINO)),
    }


KINDS = list(missing_weights(World(*[Path()] * 5), Path(), Path()))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Programs that may ask a hub, which refuses every connection."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else gets the port
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        server = Forks(tmp_path_factory.mktemp("refused"), {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint})
        yield server
        server.close()


def require_remedy(programs: Forks, words: list[str], *remedies: str) -> float:
    """Require that a program ends with 69 and one sentence soon; return after how many seconds."""
    fork = programs.start(words)
    said = fork.finish(UnavailableError.exit_code)
    assert "Traceback" not in said, said
    (sentence,) = [line for line in said.splitlines() if line.startswith("skygen: ")]
    for remedy in remedies:
        assert remedy in sentence, sentence
    assert fork.seconds < MOST_SECONDS
    return fork.seconds


@pytest.mark.parametrize("hub", ["switched off", "refusing"])
def test_missing_weights_end_with_69_and_what_to_fetch(
    hub: str, small_world: World, forks: Forks, refused: Forks, tmp_path: Path, figures: Figures
) -> None:
    programs = forks if hub == "switched off" else refused
    draw(small_world, tmp_path, forks)
    took = {}
    for kind in KINDS:
        missing = missing_weights(small_world, tmp_path / kind, programs.home)[kind]
        took[kind] = require_remedy(programs, missing.words, missing.remedy)
    slowest = round(1000 * max(took.values()))
    figures(f"weights not here, hub {hub}", kinds=len(took), ended_with_69=len(took), most_milliseconds=slowest)


@pytest.mark.parametrize("hub", ["switched off", "refusing"])
def test_a_part_of_a_download_is_never_used(
    hub: str, small_world: World, forks: Forks, refused: Forks, tmp_path: Path, figures: Figures
) -> None:
    programs = forks if hub == "switched off" else refused
    for name, source, index in ((BLIP, small_world.captioner, "config.json"), (SD, small_world.diffusion, "model_index.json")):
        lay_part(programs.hub / "hub", name, source / index)
    require_remedy(
        programs, caption(small_world, tmp_path / "captioner", model__name=BLIP), f"{BLIP}: its files are not all here"
    )
    require_remedy(programs, generate(small_world, tmp_path / "drawn", model__name=SD), f"{SD}: its files are not all here")
    checkpoints = programs.home / "checkpoints"
    checkpoints.mkdir(parents=True)
    words = score_pairs(small_world, tmp_path / "scored", scorer__name="skyclip-vit-l14-top30pct")
    (checkpoints / f"{SKYCLIP}.zip.part").write_bytes(b"PK\3\4" + bytes(1000))
    require_remedy(programs, words, f"{SKYCLIP}: its weights are not here")
    (checkpoints / f"{SKYCLIP}.zip.part").rename(checkpoints / f"{SKYCLIP}.zip")
    require_remedy(programs, words, str(checkpoints / f"{SKYCLIP}.zip"))
    figures(f"parts of downloads, hub {hub}", kinds=4, ended_with_69=4, used=0)


def lay_part(cache: Path, name: str, index: Path) -> None:
    """Lay into the hub's cache what a broken-off download leaves: the first small file, and a blob that is not all there."""
    folder = cache / f"models--{name.replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    for part in ("refs", "blobs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "blobs" / f"{'a' * 64}.incomplete").write_bytes(bytes(10_000))
    (folder / "snapshots" / revision / index.name).write_bytes(index.read_bytes())


def test_a_recipe_looks_for_weights_before_it_imports_what_would_read_them(tmp_path: Path) -> None:
    """As a user starts it: all of it takes less processor time than ten seconds, which do not depend on what else runs."""
    places = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "SKYGEN_HOME": str(tmp_path / "home")}
    command = [sys.executable, "recipes/finetune_diffusion.py", "recipes/configs/finetune_diffusion/stable_diffusion_1_5.yaml"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command.append(f"--run.root={tmp_path}")
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, check=False, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == UnavailableError.exit_code, ended.stderr
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("skygen: ") and HUB.format(name=SD) in sentence
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MOST_SECONDS
