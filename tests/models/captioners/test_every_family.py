"""Every family: trained by the recipe for two steps, and loaded by peft alone in a fresh process to the same captions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skygen.data.framing import ImageSettings
from skygen.data.pairs import PairSettings
from skygen.errors import ConfigError
from skygen.miniature.architectures import build_captioner
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptionerSettings, CaptioningSettings
from skygen.models.captioners.families import FAMILIES
from skygen.runs import RunSettings
from skygen.seeding import Seeds
from skygen.training.loop import TrainSettings

from . import build_blip2, build_florence2, build_git, build_idefics3, build_paligemma, build_qwen2_5_vl

BUILDERS: dict[str, Callable[[Path], None]] = {
    "blip": lambda folder: build_captioner(folder, Seeds(7)),
    "blip-2": build_blip2.build,
    "git": build_git.build,
    "idefics3": build_idefics3.build,
    "smolvlm": build_idefics3.build_smolvlm,
    "qwen2_5_vl": build_qwen2_5_vl.build,
    "paligemma": build_paligemma.build,
    "florence2": build_florence2.build,
}
GREEDY = CaptioningSettings(num_beams=1, max_new_tokens=8)
PROGRAM = Path(__file__).parent / "recaption.py"


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Path]]:
    """Base, adapter and an image of its size, by family."""
    from recipes.finetune_captioner import Config, main

    job = tmp_path_factory.mktemp("families")
    found = {}
    for kind, build in BUILDERS.items():
        base = job / kind / "base"
        build(base)
        config = Config(
            run=RunSettings(name="run", root=job / kind),
            pairs=PairSettings(root=world, split="train"),
            model=CaptionerSettings(name=str(base)),
            lora=LoraSettings(rank=4, lora_alpha=12, targets="all"),
            images=ImageSettings(crop=False),
            train=TrainSettings(learning_rate=5e-2, max_train_steps=2, train_batch_size=4),
        )
        main(config)
        side = Captioner.load(str(base)).resolution
        picture = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(picture).save(job / kind / "image.png")
        found[kind] = (base, job / kind / "run" / "adapter", job / kind / "image.png")
    return found


@pytest.fixture(scope="module")
def by_peft_alone(trained: dict[str, tuple[Path, Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The caption of base and of adapter, as a process without skygen writes them."""
    job = tmp_path_factory.mktemp("recaption")
    (job / "job.json").write_text(json.dumps([list(map(str, paths)) for paths in trained.values()]))
    done = subprocess.run([sys.executable, PROGRAM, job], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(trained, json.loads((job / "captions.json").read_text()), strict=True))


def test_every_family_is_built_here() -> None:
    assert sorted(BUILDERS) == sorted(FAMILIES)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_peft_alone_writes_the_same_captions(kind: str, trained: Any, by_peft_alone: dict[str, Any]) -> None:
    base, adapter, image = trained[kind]
    plain, tuned = by_peft_alone[kind]
    picture = Image.open(image)
    assert Captioner.load(str(base)).caption([picture], GREEDY) == [plain]
    assert Captioner.load(str(base), adapter).caption([picture], GREEDY) == [tuned]
    assert plain != tuned  # the two steps have an effect


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_the_adapter_of_another_family_is_one_sentence(kind: str, trained: Any) -> None:
    other = "git" if kind == "blip" else "blip"
    with pytest.raises(ConfigError, match=rf"trained on .*, a {kind} model, and --model\.name .* is a {other} one; give that"):
        Captioner.load(str(trained[other][0]), trained[kind][1])


def test_a_model_that_writes_no_captions_is_one_sentence(stable_diffusion_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a clip_text_model model, which writes no captions here; captioners are of"):
        Captioner.load(str(stable_diffusion_folder / "text_encoder"))
    (stable_diffusion_folder / "odd").mkdir()
    (stable_diffusion_folder / "odd" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"its config\.json names no model that transformers knows; captioners are of"):
        Captioner.load(str(stable_diffusion_folder / "odd"))
