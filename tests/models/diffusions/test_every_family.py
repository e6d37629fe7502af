"""What holds for each family: it trains its adapter alone, and plain diffusers draws the same pictures with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.diffusions.small_pipelines import KINDS

from skygen.checkpoints import hash_file
from skygen.data.batch import Batch
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import Adapter, LoraSettings, WholeModel
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.diffusions.families import FAMILIES
from skygen.models.diffusions.family import DiffusionFamily, Noising
from skygen.models.diffusions.lora import DiffusionAdapter
from skygen.seeding import Seeds

PROGRAM = Path(__file__).parent / "reload_pipelines.py"
PRESETS = {
    "stable_diffusion": ("attention", "attention_ff", "attention_ff_conv"),
    "stable_diffusion_xl": ("attention", "attention_ff", "attention_ff_conv"),
    "stable_diffusion_3": ("attention", "attention_ff"),
}
LORA = {"rank": 3, "lora_alpha": 7}  # unequal: a loader that lost alpha would scale by 1
PROMPTS = ["two storage tanks", "a dam in a forest", ""]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def diffusion(kind: str, pipeline_folders: dict[str, Path]) -> Diffusion:
    return Diffusion.load(str(pipeline_folders[kind]))


def batch(side: int) -> Batch:
    pixels = torch.rand((len(PROMPTS), 3, side, side), generator=Seeds(0).generator("pixels")) * 2 - 1
    return Batch(pixels, tuple(PROMPTS), tuple(map(str, range(len(PROMPTS)))))


def attach(diffusion: Diffusion, targets: str) -> DiffusionAdapter:
    """Attach a LoRA with an effect: its second matrices, which begin at zero, are drawn."""
    adapter = diffusion.attach(LoraSettings(targets=targets, **LORA), Seeds(1), base="the/base")
    assert isinstance(adapter, DiffusionAdapter)
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.normal_(0, 0.1, generator=Seeds(2).generator(name))
    return adapter


def draw(diffusion: Diffusion, seed: int = 3) -> np.ndarray[Any, Any]:
    return np.asarray(diffusion.sample(["a harbor"], [seed], num_inference_steps=3)[0])


def test_every_family_is_looked_at(pipeline_folders: dict[str, Path]) -> None:
    named = {json.loads((folder / "model_index.json").read_text())["_class_name"] for folder in pipeline_folders.values()}
    assert named == set(FAMILIES)
    sizes = [sum(path.stat().st_size for path in pipeline_folders[kind].rglob("*") if path.is_file()) for kind in KINDS[1:]]
    assert len(sizes) == 2
    assert max(sizes) < 10e6


def test_a_family_is_what_the_model_asks_for(diffusion: Diffusion, kind: str) -> None:
    assert isinstance(diffusion.family, DiffusionFamily)
    assert isinstance(diffusion.family.noising, Noising)
    assert type(diffusion.pipeline).__name__ == diffusion.family.pipeline_class
    assert diffusion.network is getattr(diffusion.pipeline, diffusion.family.network_name)
    assert tuple(diffusion.family.lora_presets) == PRESETS[kind]
    assert diffusion.resolution == {"stable_diffusion": 64}.get(kind, 32)


def test_two_steps_change_the_adapter_alone(diffusion: Diffusion) -> None:
    def weights() -> dict[str, torch.Tensor]:
        parts = {name: part for name, part in diffusion.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        return {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}

    trained = diffusion.attach(LoraSettings(rank=2, targets="attention_ff"), Seeds(1))
    before, optimizer = weights(), torch.optim.AdamW(trained.parameters.values(), lr=1e-2)
    for step in range(2):
        diffusion.loss(batch(diffusion.resolution), Seeds(step).generator("noise")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = [name for name, value in weights().items() if not torch.equal(value, before[name])]
    frozen = [name for name in before if "lora_" not in name]
    assert len(frozen) > 100
    assert [name for name in changed if "lora_" not in name] == []
    assert len(changed) >= 0.9 * len(trained.parameters) > 20  # of the last transformer block nothing reads the text again


def test_the_loss_is_one_number_an_image_and_follows_from_the_generator(diffusion: Diffusion) -> None:
    losses = [diffusion.loss(batch(diffusion.resolution), Seeds(seed).generator("noise")) for seed in (1, 1, 2)]
    assert losses[0].shape == (3,)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert all(bool((loss > 0).all()) for loss in losses)


def test_the_loss_of_what_is_kept_is_that_of_the_images(diffusion: Diffusion) -> None:
    """Mean and variance of the latents are enough to draw them anew."""
    given, generator = batch(diffusion.resolution), Seeds(1).generator("noise")
    expected = diffusion.loss(given, Seeds(1).generator("noise"))
    with torch.no_grad():
        kept, conditioning = diffusion.family.encode_images(given.pixels), diffusion.encode_prompts(given.captions)
    latents = diffusion.family.scale_latents(kept.sample(generator)).contiguous()  # as what is kept on a disk is
    assert torch.equal(diffusion.denoising_loss(latents, conditioning, generator), expected)
    other = diffusion.family.scale_latents(kept.sample(generator))
    assert not torch.equal(other, latents)
    assert (kept.mean.dtype, kept.log_variance.shape) == (torch.float32, kept.mean.shape)


def test_prompts_are_encoded_as_the_sampler_encodes_them(diffusion: Diffusion, kind: str) -> None:
    more = {"prompt_2": None, "prompt_3": None} if kind == "stable_diffusion_3" else {}
    prompts = PROMPTS[:2]
    expected = diffusion.pipeline.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, **more
    )
    said, null = diffusion.encode_prompts(prompts), diffusion.encode_prompts(["", ""])
    assert torch.equal(said.hidden, expected[0])
    assert torch.equal(null.hidden, expected[1])
    assert not torch.equal(said.hidden, null.hidden)
    if kind == "stable_diffusion":
        assert (said.pooled, null.pooled, len(expected)) == (None, None, 2)
        return
    assert said.pooled is not None
    assert null.pooled is not None
    assert torch.equal(said.pooled, expected[2])
    assert torch.equal(null.pooled, expected[3])


def test_longer_prompts_are_cut_where_the_sampler_cuts_them(diffusion: Diffusion) -> None:
    long = "a harbor and " * 300
    assert torch.equal(diffusion.encode_prompts([long]).hidden, diffusion.encode_prompts([long + "a dam"]).hidden)


def test_latents_are_scaled_and_come_back(diffusion: Diffusion) -> None:
    config = diffusion.pipeline.vae.config
    raw = diffusion.family.encode_images(batch(diffusion.resolution).pixels)
    drawn = raw.sample(Seeds(1).generator("noise"))
    scaled = diffusion.family.scale_latents(drawn)
    assert torch.allclose(scaled, (drawn - (config.shift_factor or 0.0)) * config.scaling_factor, atol=1e-6)
    with torch.no_grad():
        decoded, expected = diffusion.family.decode_latents(scaled), diffusion.pipeline.vae.decode(drawn).sample
    assert torch.allclose(decoded, expected, atol=1e-4)
    by_library = diffusion.pipeline.vae.encode(batch(diffusion.resolution).pixels).latent_dist
    assert torch.equal(drawn, by_library.sample(Seeds(1).generator("noise")))


def test_a_picture_follows_from_its_own_seed_in_any_batch(diffusion: Diffusion) -> None:
    diffusion.network.train()
    together = [np.asarray(image, np.int16) for image in diffusion.sample(PROMPTS, [1, 2, 3], num_inference_steps=2)]
    alone = np.asarray(diffusion.sample(PROMPTS[1:2], [2], num_inference_steps=2)[0], np.int16)
    assert len(together) == 3
    assert np.abs(together[1] - alone).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 20
    assert diffusion.network.training


@pytest.fixture(scope="module")
def reloaded(pipeline_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Path]]:
    """The picture here and that of a fresh process without skygen, and the adapter, of each family and preset."""
    job = tmp_path_factory.mktemp("reloaded")
    here: dict[str, Any] = {}
    jobs: dict[str, list[Any]] = {}
    for kind in KINDS:
        for preset in PRESETS[kind]:
            diffusion, name = Diffusion.load(str(pipeline_folders[kind])), f"{kind}-{preset}"
            adapter = attach(diffusion, preset)
            adapter.save(job / name)
            here[name] = draw(diffusion)
            here[f"{name}-loaded"] = sum("lora_B" in key for key in adapter.parameters)
            jobs[name] = [str(pipeline_folders[kind]), str(job / name), "a harbor", 3]
    (job / "job.json").write_text(json.dumps(jobs))
    subprocess.run([sys.executable, str(PROGRAM), str(job)], check=True, capture_output=True)
    there = np.load(job / "outputs.npz")
    return {name: (here[name], there[name], job / name) for name in jobs} | {
        f"{name}-loaded": (here[f"{name}-loaded"], there[f"{name}-loaded"], job / name) for name in jobs
    }


@pytest.mark.parametrize("name", [f"{kind}-{preset}" for kind in KINDS for preset in PRESETS[kind]])
def test_diffusers_loads_the_adapter_to_the_same_picture(
    name: str, reloaded: dict[str, tuple[Any, Any, Path]], pipeline_folders: dict[str, Path]
) -> None:
    here, there, folder = reloaded[name]
    assert reloaded[f"{name}-loaded"][0] == reloaded[f"{name}-loaded"][1] >= 16
    assert np.array_equal(here, there)
    kind = name.split("-")[0]
    base = draw(Diffusion.load(str(pipeline_folders[kind])))
    assert np.abs(base.astype(int) - here.astype(int)).max() > 5
    assert np.array_equal(draw(Diffusion.load(str(pipeline_folders[kind]), folder)), here)


def test_wider_presets_adapt_more_layers(reloaded: dict[str, tuple[Any, Any, Path]]) -> None:
    for kind in KINDS:
        counts = [reloaded[f"{kind}-{preset}-loaded"][0] for preset in PRESETS[kind]]
        assert counts == sorted(set(counts))
        assert len(counts) >= 2


def test_an_adapter_of_another_family_is_refused(
    kind: str, pipeline_folders: dict[str, Path], reloaded: dict[str, tuple[Any, Any, Path]], tmp_path: Path
) -> None:
    refused = 0
    for other in KINDS:
        adapter = reloaded[f"{other}-attention"][2]
        foreign = tmp_path / other  # without skygen.json, as another program leaves it
        foreign.mkdir()
        (foreign / "pytorch_lora_weights.safetensors").write_bytes((adapter / "pytorch_lora_weights.safetensors").read_bytes())
        if other == kind:
            assert np.array_equal(draw(Diffusion.load(str(pipeline_folders[kind]), foreign)), reloaded[f"{kind}-attention"][0])
            continue
        for folder, reason in (
            (adapter, r"trained for a \w+, and --model\.name \S+ is a \w+; give the base that it was trained on\.$"),
            (foreign, r"(adapts a \w+, and|does not fit) --model\.name [^\n]*; give the base that it was trained on\.$"),
        ):
            with pytest.raises(ConfigError, match=rf"^--model\.adapter \S+: {reason}"):
                Diffusion.load(str(pipeline_folders[kind]), folder)
            refused += 1
    assert refused == 4


def test_training_goes_on_from_a_saved_adapter(
    kind: str, pipeline_folders: dict[str, Path], reloaded: dict[str, tuple[Any, Any, Path]]
) -> None:
    here, _, folder = reloaded[f"{kind}-attention"]
    diffusion = Diffusion.load(str(pipeline_folders[kind]))
    diffusion.attach(LoraSettings(targets="attention", **LORA), Seeds(9)).start_from(folder, "the/base")
    assert np.array_equal(draw(diffusion), here)
    narrow = Diffusion.load(str(pipeline_folders[kind])).attach(LoraSettings(rank=2), Seeds(9))
    with pytest.raises(ConfigError, match=r"holds other layers or another rank than --lora\.targets, .*it was trained\.$"):
        narrow.start_from(folder, "the/base")
    other = KINDS[KINDS.index(kind) - 1]
    with pytest.raises(ConfigError, match=r": trained for a \w+, and --model\.name the/base is a \w+; give the base"):
        narrow.start_from(reloaded[f"{other}-attention"][2], "the/base")


def test_what_is_said_beside_an_adapter(kind: str, reloaded: dict[str, tuple[Any, Any, Path]], diffusion: Diffusion) -> None:
    folder = reloaded[f"{kind}-attention"][2]
    assert json.loads((folder / "skygen.json").read_text()) == {
        "pipeline": diffusion.family.pipeline_class,
        "base": "the/base",
        "zero_terminal_snr": False,
        "sha256": {"pytorch_lora_weights.safetensors": hash_file(folder / "pytorch_lora_weights.safetensors")},
    }
    assert sorted(path.name for path in folder.iterdir()) == ["pytorch_lora_weights.safetensors", "skygen.json"]


def test_rank_zero_trains_and_saves_the_whole_model(diffusion: Diffusion, tmp_path: Path) -> None:
    trained = diffusion.attach(LoraSettings(rank=0), Seeds(0))
    assert isinstance(trained, WholeModel)
    assert not isinstance(trained, Adapter)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.mul_(1.01)
    trained.save(tmp_path / "model")
    assert np.array_equal(draw(Diffusion.load(str(tmp_path / "model"))), draw(diffusion))


def test_other_pipelines_are_refused(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    known = "StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline"
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(
        ConfigError,
        match=rf"^--model\.name \S+: its model_index\.json is of the class FluxPipeline; skygen draws with {known}\.$",
    ):
        Diffusion.load(str(tmp_path))
    with pytest.raises(ConfigError, match=rf"^the pipeline is of the class object; skygen draws with {known}\.$"):
        Diffusion(object(), DiffusionSettings())


def test_a_pipeline_that_lacks_a_part_is_explained(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(stable_diffusion_folder, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    named = json.loads(index.read_text())
    del named["text_encoder"]
    index.write_text(json.dumps(named))
    with pytest.raises(
        UnavailableError, match=r": its model_index\.json does not name every part of a StableDiffusionPipeline; copy"
    ):
        Diffusion.load(str(tmp_path / "model"))
