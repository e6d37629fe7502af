"""Every family is loaded whole or not at all, trained by the recipe, and loaded by peft alone to the same captions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.captioners.small_networks import NETWORKS, UNEQUAL, image_of, losses, pictures, pixels
from PIL import Image

from skygen.data.framing import ImageSettings
from skygen.data.pairs import PairSettings
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptionerSettings, CaptioningSettings
from skygen.models.captioners.families import FAMILIES
from skygen.models.captioners.family import Family
from skygen.runs import RunSettings
from skygen.training.loop import TrainSettings

GREEDY = CaptioningSettings(num_beams=1, max_new_tokens=8)
PROGRAM = Path(__file__).parent / "recaption.py"
OWN_SIZE = [kind for kind in NETWORKS if kind != "qwen2_5_vl"]  # its processor cuts pixels into patches at once


@pytest.fixture(scope="module")
def trained(
    world: Path, folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path, Path]]:
    """Base, adapter and an image of its size, by family."""
    from recipes.finetune_captioner import Config, main

    job = tmp_path_factory.mktemp("families")
    found = {}
    for kind in FAMILIES:
        base = folder_of(kind)
        config = Config(
            run=RunSettings(name="run", root=job / kind),
            pairs=PairSettings(root=world, split="train"),
            model=CaptionerSettings(name=str(base)),
            lora=LoraSettings(rank=4, lora_alpha=12, targets="all"),
            images=ImageSettings(crop=False),
            train=TrainSettings(learning_rate=5e-2, max_train_steps=2, train_batch_size=4),
        )
        main(config)
        adapter = job / kind / "run" / "adapter"
        side = json.loads((adapter / "skygen.json").read_text())["resolution"]
        pictures(side, 1)[0].save(job / kind / "image.png")
        found[kind] = (base, adapter, job / kind / "image.png")
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
    assert {network.model_type for network in NETWORKS.values()} == set(FAMILIES)
    assert [kind for kind in FAMILIES if NETWORKS[kind].model_type != kind] == []


def test_the_list_of_families_leads_to_it(kind: str, folder: Path, captioner: Captioner) -> None:
    network = NETWORKS[kind]
    assert type(captioner.family).__name__ == FAMILIES[network.model_type][1]
    assert isinstance(captioner.family, Family)
    assert captioner.network.config.model_type == network.model_type
    assert captioner.family.prompt == network.prompt
    assert captioner.resolution == network.side
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_tower_and_bridge_give_places_that_tell_the_images_apart(kind: str, captioner: Captioner) -> None:
    network = NETWORKS[kind]
    with torch.no_grad():
        features = captioner.family.encode(pixels(network.side))
    image = image_of(captioner.family)
    assert features.shape == (3, *network.seen)
    assert image.shape == (3, *network.read)
    assert min(float((image[0] - image[row]).abs().max()) for row in (1, 2)) > 0.1
    assert len(set(captioner.caption(pictures(network.side), CaptioningSettings(max_new_tokens=9)))) > 1


@pytest.mark.parametrize("kind", OWN_SIZE)
def test_pixels_reach_the_network_as_the_processor_would_bring_them(own: Captioner) -> None:
    processor = own.processor.image_processor
    processor.do_image_splitting = False  # Idefics3's
    expected = processor(pictures(own.resolution), return_tensors="pt").pixel_values.flatten(0, -4)
    assert torch.allclose(own.family._pixels.normalise(pixels(own.resolution)), expected, atol=1e-5)


def test_the_hooks_that_loading_in_four_bits_leaves_change_nothing(captioner: Captioner, own: Captioner) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    modules = list(own.network.modules())
    for module in modules:
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert len(modules) > 50
    images = pictures(own.resolution)
    assert torch.equal(losses(own, UNEQUAL), losses(captioner, UNEQUAL))
    assert own.caption(images, GREEDY) == captioner.caption(images, GREEDY)


def test_a_saved_model_is_the_same_model(kind: str, own: Captioner, tmp_path: Path) -> None:
    network = NETWORKS[kind]
    expected = losses(own, UNEQUAL)
    own.ask_as({"prompt": network.other_prompt, "resolution": network.other_side})
    own.save_model(tmp_path / "copy")
    again = Captioner.load(str(tmp_path / "copy"))
    assert (again.family.prompt, again.resolution) == (network.other_prompt, network.other_side)
    assert torch.equal(losses(again, UNEQUAL), losses(own, UNEQUAL))
    again.ask_as({"prompt": network.prompt, "resolution": network.side})
    assert torch.equal(losses(again, UNEQUAL), expected)


@pytest.mark.parametrize("missing", ["tokenizer*", "tokenizer.json"])
def test_a_folder_without_its_tokenizer_is_one_sentence(folder: Path, missing: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part", ignore=shutil.ignore_patterns(missing))
    assert len(list((tmp_path / "part").iterdir())) < len(list(folder.iterdir()))
    sentence = f"{tmp_path / 'part'}: the files of its tokenizer are not here; copy or download all of the model again."
    with pytest.raises(UnavailableError, match=f"^{re.escape(sentence)}$"):
        Captioner.load(str(tmp_path / "part"))


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_peft_alone_writes_the_same_captions(kind: str, own: Captioner, trained: Any, by_peft_alone: dict[str, Any]) -> None:
    base, adapter, image = trained[kind]
    plain, tuned = by_peft_alone[kind]
    picture = Image.open(image)
    own.family.use_resolution(picture.width)
    assert own.caption([picture], GREEDY) == [plain]
    assert Captioner.load(str(base), adapter).caption([picture], GREEDY) == [tuned]
    assert plain != tuned  # the two steps have an effect


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_the_adapter_of_another_family_is_one_sentence(kind: str, trained: Any) -> None:
    other = "git" if kind == "blip" else "blip"
    with pytest.raises(ConfigError, match=rf"trained on .*, a {kind} model, and --model\.name .* is a {other} one; give that"):
        Captioner.load(str(trained[other][0]), trained[kind][1])


def test_a_model_that_writes_no_captions_is_one_sentence(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a clip_text_model model, which writes no captions here; captioners are of"):
        Captioner.load(str(stable_diffusion_folder / "text_encoder"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"its config\.json names no model that transformers knows; captioners are of"):
        Captioner.load(str(tmp_path))
