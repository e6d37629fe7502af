"""Without a network and without weights, a recipe says within seconds what to download and where to put it."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HUB = "run `hf download {name}`, then copy that cache here (HF_HOME) or give the downloaded folder's path in place of the name."
CASES = [
    ("finetune_captioner", "blip_base", HUB.format(name="Salesforce/blip-image-captioning-base")),
    ("finetune_diffusion", "stable_diffusion_1_5", HUB.format(name="stable-diffusion-v1-5/stable-diffusion-v1-5")),
    (
        "score_pairs",
        "skyclip_vit_l14",
        "download https://opendatasharing.s3.us-west-2.amazonaws.com/SkyScript/ckpt/SkyCLIP_ViT_L14_top30pct.zip and put it at "
        "{home}/checkpoints/SkyCLIP_ViT_L14_top30pct.zip",
    ),
]
MOST_SECONDS = 10.0
"""Of processor time, which unlike the clock's does not depend on what else the machine does; measured: 2.5."""


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "variant", "remedy"), CASES, ids=[case[0] for case in CASES])
def test_missing_weights_end_with_69_and_a_remedy(recipe: str, variant: str, remedy: str, tmp_path: Path) -> None:
    places = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "SKYGEN_HOME": str(tmp_path / "home")}
    command = [sys.executable, f"recipes/{recipe}.py", f"recipes/configs/{recipe}/{variant}.yaml", f"--run.root={tmp_path}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, check=False, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 69, ended.stderr
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("skygen: ")
    assert remedy.format(home=tmp_path / "home") in sentence
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MOST_SECONDS
