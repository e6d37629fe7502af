"""What is saved, others load: in a process without skygen, the adapter gives the same outputs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BlipConfig, BlipForConditionalGeneration

from skygen.errors import ConfigError
from skygen.miniature.architectures import build_captioner
from skygen.models.adapters import Adapter, LoraSettings, WholeModel, without_adapter
from skygen.models.captioner import Captioner
from skygen.models.captioners.blip import Blip
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.lora import DiffusionAdapter
from skygen.models.diffusions.unet import LORA_PRESETS
from skygen.seeding import Seeds

PROGRAM = Path(__file__).parent / "reload_adapters.py"
LORA = {"rank": 3, "lora_alpha": 7}  # unequal: a loader that lost alpha would scale by 1
DIFFUSION_PRESETS = ["attention", "attention_ff", "attention_ff_conv", "default"]
CAPTIONER_PRESETS = ["all", "default", "text_decoder", "text_decoder_and_bridge"]


def inputs() -> dict[str, torch.Tensor]:
    seeds = Seeds(0)
    return {
        "latents": torch.randn((2, 8, 16, 16), generator=seeds.generator("latents")),
        "hidden": torch.randn((2, 64, 128), generator=seeds.generator("hidden")),
        "timesteps": torch.tensor([3, 700]),
        "pixels": torch.randn((2, 3, 64, 64), generator=seeds.generator("pixels")),
        "tokens": torch.tensor([[5, 22, 124, 3], [5, 30, 200, 3]]),
    }


def attach(learner: Any, targets: str) -> Adapter | DiffusionAdapter:
    """Attach a LoRA with an effect: its second matrices, which begin at zero, are drawn."""
    adapter = learner.attach(LoraSettings(targets=targets, **LORA), Seeds(1))
    assert isinstance(adapter, Adapter | DiffusionAdapter)
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.normal_(0, 0.1, generator=Seeds(2).generator(name))
    return adapter


@torch.inference_mode()
def outputs_of(learner: Any) -> dict[str, np.ndarray]:
    given = inputs()
    learner.network.eval()
    if isinstance(learner, Diffusion):
        prediction = learner.network(given["latents"], given["timesteps"], given["hidden"]).sample
        (image,) = learner.sample(["a harbor"], [3], num_inference_steps=2, guidance_scale=7.5)
        return {"prediction": prediction.numpy(), "image": np.asarray(image)}
    logits = learner.network(pixel_values=given["pixels"], input_ids=given["tokens"]).logits
    written = learner.network.generate(pixel_values=given["pixels"], num_beams=3, max_new_tokens=8)
    return {"logits": logits.numpy(), "written": written.numpy()}


def second_matrices(adapter: Adapter | DiffusionAdapter) -> int:
    return sum("lora_B" in name for name in adapter.parameters)


@pytest.fixture(scope="module")
def reloaded(
    captioner_folder: Path, stable_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The outputs here, those of a fresh process, and the folder of the saved adapters."""
    job = tmp_path_factory.mktemp("adapters")
    here: dict[str, Any] = {}
    for kind, presets, load in (
        ("diffusion", DIFFUSION_PRESETS, lambda: Diffusion.load(str(stable_diffusion_folder))),
        ("captioner", CAPTIONER_PRESETS, lambda: Captioner.load(str(captioner_folder))),
    ):
        for preset in presets:
            learner: Any = load()
            adapter = attach(learner, preset)
            adapter.save(job / f"{kind}-{preset}")
            here |= {f"{kind}-{preset}-{name}": value for name, value in outputs_of(learner).items()}
            here[f"{kind}-{preset}-loaded"] = second_matrices(adapter)
    np.savez(job / "inputs.npz", **{name: tensor.numpy() for name, tensor in inputs().items()})
    names = {"stable_diffusion": str(stable_diffusion_folder), "captioner": str(captioner_folder)}
    presets = {"diffusion_presets": DIFFUSION_PRESETS, "captioner_presets": CAPTIONER_PRESETS}
    (job / "job.json").write_text(json.dumps(names | presets))
    subprocess.run([sys.executable, str(PROGRAM), str(job)], check=True, capture_output=True)
    return here, dict(np.load(job / "outputs.npz")), job


def test_every_preset_is_looked_at() -> None:
    assert sorted(LORA_PRESETS) == DIFFUSION_PRESETS
    assert sorted(["default", *Blip.lora_presets]) == CAPTIONER_PRESETS


@pytest.mark.parametrize("preset", DIFFUSION_PRESETS)
def test_diffusers_loads_the_adapter_to_the_same_pictures(preset: str, reloaded: Any) -> None:
    here, there, _ = reloaded
    assert there[f"diffusion-{preset}-loaded"] == here[f"diffusion-{preset}-loaded"] >= 16
    assert np.abs(there[f"diffusion-{preset}-prediction"] - here[f"diffusion-{preset}-prediction"]).max() <= 1e-6
    assert np.array_equal(there[f"diffusion-{preset}-image"], here[f"diffusion-{preset}-image"])


@pytest.mark.parametrize("preset", CAPTIONER_PRESETS)
def test_peft_loads_the_adapter_to_the_same_captions(preset: str, reloaded: Any) -> None:
    here, there, _ = reloaded
    assert there[f"captioner-{preset}-loaded"] == here[f"captioner-{preset}-loaded"] == there[f"captioner-{preset}-file"] >= 30
    assert np.abs(there[f"captioner-{preset}-logits"] - here[f"captioner-{preset}-logits"]).max() <= 1e-5
    assert np.array_equal(there[f"captioner-{preset}-written"], here[f"captioner-{preset}-written"])


def test_wider_presets_adapt_more_layers(reloaded: Any) -> None:
    here, _, _ = reloaded
    counts = {
        name: here[f"{name}-loaded"] for name in (*(f"diffusion-{p}" for p in DIFFUSION_PRESETS[:3]), "captioner-default")
    }
    assert counts["diffusion-attention"] < counts["diffusion-attention_ff"] < counts["diffusion-attention_ff_conv"]
    assert counts["captioner-default"] < here["captioner-all-loaded"]
    assert here["diffusion-default-loaded"] == counts["diffusion-attention"]


def test_skygen_loads_its_own_adapters(reloaded: Any, captioner_folder: Path, stable_diffusion_folder: Path) -> None:
    here, _, job = reloaded
    diffusion = outputs_of(Diffusion.load(str(stable_diffusion_folder), job / "diffusion-attention_ff_conv"))
    captioner = outputs_of(Captioner.load(str(captioner_folder), job / "captioner-all"))
    assert np.array_equal(diffusion["image"], here["diffusion-attention_ff_conv-image"])
    assert np.abs(captioner["logits"] - here["captioner-all-logits"]).max() <= 1e-5


@pytest.mark.parametrize("kind", ["diffusion", "captioner"])
def test_a_learner_computes_as_its_base_for_a_while(kind: str, captioner_folder: Path, stable_diffusion_folder: Path) -> None:
    learner: Any = (
        Diffusion.load(str(stable_diffusion_folder)) if kind == "diffusion" else Captioner.load(str(captioner_folder))
    )
    base = outputs_of(learner)
    with without_adapter(learner.network):
        assert all(np.array_equal(outputs_of(learner)[name], base[name]) for name in base)
    attach(learner, "default")
    tuned = outputs_of(learner)
    with without_adapter(learner.network):
        inside = outputs_of(learner)
    after = outputs_of(learner)
    first = next(iter(base))
    assert len(base) == 2
    assert all(np.array_equal(inside[name], base[name]) for name in base)
    assert all(np.array_equal(after[name], tuned[name]) for name in base)
    assert np.abs(tuned[first] - base[first]).max() > 1e-3


def test_the_same_adapter_is_the_same_bytes(
    captioner_folder: Path, stable_diffusion_folder: Path, reloaded: Any, tmp_path: Path
) -> None:
    _, _, job = reloaded
    attach(Diffusion.load(str(stable_diffusion_folder)), "attention_ff_conv").save(tmp_path / "diffusion-attention_ff_conv")
    attach(Captioner.load(str(captioner_folder)), "all").save(tmp_path / "captioner-all")
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 5
    assert [path for path in files if (tmp_path / path).read_bytes() != (job / path).read_bytes()] == []


def test_the_saved_file_names_rank_and_alpha(reloaded: Any) -> None:
    _, _, job = reloaded
    config = json.loads((job / "captioner-all" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 7)
    names = load_file(job / "diffusion-default" / "pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in names} == {"unet"}


def test_a_fresh_adapter_changes_nothing_and_follows_from_the_seed(captioner_folder: Path) -> None:
    def fresh(seed: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        learner = Captioner.load(str(captioner_folder))
        trained = learner.attach(LoraSettings(rank=4), Seeds(seed))
        return {name: p.detach().clone() for name, p in trained.parameters.items()}, outputs_of(learner)["logits"]

    (one, logits), (same, _), (other, _) = fresh(1), fresh(1), fresh(2)
    assert np.array_equal(logits, outputs_of(Captioner.load(str(captioner_folder)))["logits"])
    assert all(torch.equal(one[name], same[name]) for name in one)
    first = [name for name in one if "lora_A" in name]
    assert len(first) > 10
    assert not any(torch.equal(one[name], other[name]) for name in first)


def test_an_unknown_preset_names_the_known_ones(captioner_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--lora\.targets everything: this model has default, text_decoder, .*, all\."):
        Captioner.load(str(captioner_folder)).attach(LoraSettings(targets="everything"), Seeds(0))


def test_rank_zero_trains_and_saves_the_whole_model(captioner_folder: Path, tmp_path: Path) -> None:
    learner = Captioner.load(str(captioner_folder))
    trained = learner.attach(LoraSettings(rank=0), Seeds(0))
    assert isinstance(trained, WholeModel)
    assert trained.folder_name == "model"
    assert len(trained.parameters) == len(list(learner.network.parameters())) > 100
    with torch.no_grad():
        next(iter(trained.parameters.values())).add_(0.1)
    trained.save(tmp_path / "model")
    assert np.array_equal(outputs_of(Captioner.load(str(tmp_path / "model")))["logits"], outputs_of(learner)["logits"])


@pytest.mark.parametrize("option", ["use_dora", "use_rslora"])
def test_dora_and_rslora_are_loaded_to_the_same_captions(option: str, captioner_folder: Path, tmp_path: Path) -> None:
    learner = Captioner.load(str(captioner_folder))
    plain = outputs_of(learner)["logits"]
    adapter = learner.attach(LoraSettings(targets="all", **LORA, **{option: True}), Seeds(1))
    assert isinstance(adapter, Adapter)
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=Seeds(2).generator(name)), alpha=0.1)
    assert any("magnitude" in name for name in adapter.parameters) == (option == "use_dora")
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    adapter.save(tmp_path / "adapter")
    reloaded = outputs_of(Captioner.load(str(captioner_folder), tmp_path / "adapter"))
    assert np.allclose(reloaded["logits"], outputs_of(learner)["logits"], atol=1e-5)
    assert not np.allclose(reloaded["logits"], plain, atol=1e-2)


def test_an_adapter_of_other_weights_another_size_or_another_family_is_refused(captioner_folder: Path, tmp_path: Path) -> None:
    learner = Captioner.load(str(captioner_folder))
    learner.attach(LoraSettings(rank=2), Seeds(1), base="the/base").save(tmp_path / "adapter")
    other = tmp_path / "other"
    build_captioner(other, Seeds(8))
    with pytest.raises(ConfigError, match=r"trained on the/base, and --model\.name .*other has other weights; give the base"):
        Captioner.load(str(other), tmp_path / "adapter")
    network = BlipForConditionalGeneration(wider(other))
    network.save_pretrained(other)
    with pytest.raises(ConfigError, match=r"trained on the/base, whose text_decoder\.\S+ has other sizes in"):
        Captioner.load(str(other), tmp_path / "adapter")
    about = tmp_path / "adapter" / "skygen.json"
    about.write_text(about.read_text().replace('"blip"', '"git"'))
    with pytest.raises(ConfigError, match=r"trained on the/base, a git model, and --model\.name .* is a blip one; give that"):
        Captioner.load(str(captioner_folder), tmp_path / "adapter")


def wider(folder: Path) -> Any:
    config = BlipConfig.from_pretrained(folder)
    config.text_config.hidden_size = 320
    return config


def test_an_adapter_knows_its_resolution(captioner_folder: Path, tmp_path: Path) -> None:
    learner = Captioner.load(str(captioner_folder))
    learner.family.use_resolution(96)
    learner.attach(LoraSettings(rank=2), Seeds(1)).save(tmp_path / "adapter")
    assert Captioner.load(str(captioner_folder)).resolution == 64
    assert Captioner.load(str(captioner_folder), tmp_path / "adapter").resolution == 96
    with pytest.raises(ConfigError, match=r"this BLIP sees patches of 8; give a multiple of that\.$"):
        learner.family.use_resolution(100)


def test_training_goes_on_from_a_saved_adapter(captioner_folder: Path, tmp_path: Path) -> None:
    first = Captioner.load(str(captioner_folder))
    attach(first, "all").save(tmp_path / "adapter")
    second = Captioner.load(str(captioner_folder))
    trained = second.attach(LoraSettings(targets="all", **LORA), Seeds(5))
    trained.start_from(tmp_path / "adapter", "the/base")
    assert np.array_equal(outputs_of(first)["logits"], outputs_of(second)["logits"])
    narrow = Captioner.load(str(captioner_folder)).attach(LoraSettings(rank=2, targets="all"), Seeds(5))
    with pytest.raises(ConfigError, match=r"holds other layers or another rank than --lora\.targets"):
        narrow.start_from(tmp_path / "adapter", "the/base")
    whole = Captioner.load(str(captioner_folder)).attach(LoraSettings(rank=0), Seeds(5))
    with pytest.raises(ConfigError, match=r"--lora\.rank 0 trains the/base as a whole"):
        whole.start_from(tmp_path / "adapter", "the/base")
