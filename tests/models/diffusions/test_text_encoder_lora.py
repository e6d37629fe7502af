"""The LoRA of text encoders: trained with the denoiser's, saved beside it, and loaded by plain diffusers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion, DiffusionLoraSettings
from skygen.models.diffusions.family import Conditioning
from skygen.models.diffusions.lora import WEIGHTS_FILE, DiffusionAdapter
from skygen.models.lora_export import export_lora
from skygen.seeding import Seeds

PROGRAM = Path(__file__).parent / "reload_pipelines.py"
ENCODERS = {
    "stable_diffusion": ("text_encoder",),
    "stable_diffusion_xl": ("text_encoder", "text_encoder_2"),
    "stable_diffusion_3": ("text_encoder", "text_encoder_2"),
}
SETTINGS = DiffusionLoraSettings(rank=3, lora_alpha=7, targets="attention_ff", text_encoders=True)
KEPT_REFUSED = (
    "--lora.text_encoders true: trained text encoders say something else at every step, and prompts cannot be kept; set it to "
    "false, or keep no prompts."
)


@pytest.fixture(params=list(ENCODERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch(diffusion: Diffusion) -> Batch:
    pixels = torch.rand((2, 3, diffusion.resolution, diffusion.resolution), generator=Seeds(0).generator("pixels")) * 2 - 1
    return Batch(pixels, ("two storage tanks", "a dam"), ("0", "1"))


def attach(diffusion: Diffusion, settings: LoraSettings = SETTINGS) -> DiffusionAdapter:
    """Attach a LoRA with an effect: its second matrices, which begin at zero, are drawn."""
    adapter = diffusion.attach(settings, Seeds(1), base="the/base")
    assert isinstance(adapter, DiffusionAdapter)
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.normal_(0, 0.1, generator=Seeds(2).generator(name))
    return adapter


def say(diffusion: Diffusion, part: str) -> np.ndarray[Any, Any]:
    encoder = getattr(diffusion.pipeline, part)
    with torch.no_grad():
        return np.asarray(encoder.eval()(torch.arange(1, 9)[None], output_hidden_states=True).hidden_states[-1])


def draw(diffusion: Diffusion) -> np.ndarray[Any, Any]:
    return np.asarray(diffusion.sample(["a harbor"], [3], num_inference_steps=3)[0]).astype(int)


@pytest.fixture(scope="module")
def saved(pipeline_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, Path]:
    """What comes out here, what in a fresh process without skygen, and where the adapters are."""
    job, here = tmp_path_factory.mktemp("saved"), {}
    for kind, parts in ENCODERS.items():
        diffusion = Diffusion.load(str(pipeline_folders[kind]))
        attach(diffusion).save(job / kind)
        here[kind] = draw(diffusion)
        here |= {f"{kind}-{part}": say(diffusion, part) for part in parts}
    (job / "job.json").write_text(
        json.dumps({kind: [str(pipeline_folders[kind]), str(job / kind), "a harbor", 3] for kind in ENCODERS})
    )
    subprocess.run([sys.executable, str(PROGRAM), str(job)], check=True, capture_output=True)
    return here, np.load(job / "outputs.npz"), job


def test_pitfall_4_14_plain_diffusers_loads_the_text_encoders_too(
    kind: str, saved: tuple[dict[str, Any], Any, Path], pipeline_folders: dict[str, Path]
) -> None:
    here, there, job = saved
    base = Diffusion.load(str(pipeline_folders[kind]))
    assert np.array_equal(here[kind], there[kind])
    for part in ENCODERS[kind]:
        assert np.array_equal(here[f"{kind}-{part}"], there[f"{kind}-{part}"])
        assert np.abs(say(base, part) - there[f"{kind}-{part}"]).max() > 0.1
    again = Diffusion.load(str(pipeline_folders[kind]), job / kind)
    assert np.array_equal(draw(again), here[kind])
    half = Diffusion.load(str(pipeline_folders[kind]), job / kind, dtype=torch.bfloat16)
    found = {parameter.dtype for name, parameter in half.pipeline.text_encoder.named_parameters() if "lora_" in name}
    assert found == {torch.float32}


def test_the_file_names_rank_and_alpha_of_every_part(kind: str, saved: tuple[dict[str, Any], Any, Path]) -> None:
    with safe_open(saved[2] / kind / WEIGHTS_FILE, framework="pt") as file:
        settings, keys = json.loads(file.metadata()["lora_adapter_metadata"]), list(file.keys())
    parts = {key.split(".")[0] for key in keys}
    assert len(parts) == len(ENCODERS[kind]) + 1
    assert set(ENCODERS[kind]) < parts
    assert {settings[f"{part}.lora_alpha"] for part in parts} == {7}
    assert {settings[f"{part}.r"] for part in parts} == {3}


def test_names_of_the_denoisers_parameters_stay_and_others_begin_with_their_part(
    kind: str, pipeline_folders: dict[str, Path]
) -> None:
    alone = attach(Diffusion.load(str(pipeline_folders[kind])), LoraSettings(rank=3, targets="attention_ff"))
    diffusion = Diffusion.load(str(pipeline_folders[kind]))
    both = attach(diffusion)
    named = list(both.parameters)
    assert named[: len(alone.parameters)] == list(alone.parameters)
    rest = named[len(alone.parameters) :]
    assert {name.split(".")[0] for name in rest} == set(ENCODERS[kind])
    assert len(rest) >= 24 * len(ENCODERS[kind])
    if kind == "stable_diffusion_3":
        assert diffusion.pipeline.text_encoder_3 is not None
        assert not any("lora_" in name for name, _ in diffusion.pipeline.text_encoder_3.named_parameters())


def test_a_step_moves_the_text_encoders_and_sampling_leaves_their_mode(kind: str, pipeline_folders: dict[str, Path]) -> None:
    diffusion = Diffusion.load(str(pipeline_folders[kind]))
    adapter = attach(diffusion)
    diffusion.network.train()
    diffusion.loss(batch(diffusion), Seeds(1).generator("noise")).mean().backward()
    moved = {
        part: [
            bool(p.grad is not None and p.grad.any()) for name, p in adapter.parameters.items() if name.startswith(f"{part}.")
        ]
        for part in ENCODERS[kind]
    }
    assert len(moved) == len(ENCODERS[kind])
    assert all(sum(some) >= 0.6 * len(some) > 0 for some in moved.values())  # the last layers are not read by SDXL and SD 3
    frozen = [p for name, p in diffusion.pipeline.text_encoder.named_parameters() if "lora_" not in name]
    assert len(frozen) > 10
    assert all(parameter.grad is None for parameter in frozen)
    draw(diffusion)
    assert diffusion.pipeline.text_encoder.training


def test_training_goes_on_from_a_saved_adapter(
    kind: str, saved: tuple[dict[str, Any], Any, Path], pipeline_folders: dict[str, Path]
) -> None:
    diffusion = Diffusion.load(str(pipeline_folders[kind]))
    diffusion.attach(SETTINGS, Seeds(9)).start_from(saved[2] / kind, "the/base")
    assert np.array_equal(draw(diffusion), saved[0][kind])
    alone = Diffusion.load(str(pipeline_folders[kind])).attach(LoraSettings(rank=3, targets="attention_ff"), Seeds(9))
    with pytest.raises(
        ConfigError, match=r"than --lora\.targets, --lora\.rank, --lora\.use_dora and --lora\.text_encoders say;"
    ):
        alone.start_from(saved[2] / kind, "the/base")


def test_prompts_cannot_be_kept_of_what_is_trained(pipeline_folders: dict[str, Path]) -> None:
    class Kept:
        def read(self, prompts: Any) -> Conditioning:
            raise AssertionError

    diffusion = Diffusion.load(str(pipeline_folders["stable_diffusion"]))
    diffusion.prompts = Kept()
    attach(diffusion)
    refused = 0
    for ask in (lambda: diffusion.loss(batch(diffusion), Seeds(1).generator("noise")), diffusion.offload_text_encoders):
        with pytest.raises(ConfigError) as caught:
            ask()
        refused += str(caught.value) == KEPT_REFUSED
    assert refused == 2


def test_settings_that_cannot_go_together_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        DiffusionLoraSettings(rank=0, text_encoders=True)
    assert str(caught.value) == (
        "lora.rank 0 trains the denoiser alone: set lora.text_encoders to false with it, or set a rank"
    )
    with pytest.raises(ConfigError) as caught:
        DiffusionLoraSettings(use_dora=True, text_encoders=True)
    assert str(caught.value) == (
        "lora.use_dora: diffusers leaves out the magnitudes of text encoders when it loads a LoRA; set it to false with "
        "lora.text_encoders"
    )
    with pytest.raises(ConfigError, match=r"^lora\.rank is -1; it must be at least 1"):
        DiffusionLoraSettings(rank=-1)


def test_it_is_exported_for_other_programs(
    saved: tuple[dict[str, Any], Any, Path], pipeline_folders: dict[str, Path], tmp_path: Path
) -> None:
    seen = {}
    for kind in ("stable_diffusion", "stable_diffusion_xl"):
        done = export_lora(saved[2] / kind, "kohya", tmp_path / f"{kind}.safetensors", base=str(pipeline_folders[kind]))
        assert done.difference <= 1e-4 < 0.01 < done.effect
        seen[kind] = {name.split("_")[1] for name in load_file(done.path)}
    assert seen == {"stable_diffusion": {"unet", "te"}, "stable_diffusion_xl": {"unet", "te1", "te2"}}


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
def test_pain_4_a_file_that_diffusers_loads_in_part_is_refused(
    saved: tuple[dict[str, Any], Any, Path], pipeline_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Two kinds of names in one file: the loader looks at the first key, and leaves the other kind out with a warning."""
    tensors = load_file(saved[2] / "stable_diffusion" / WEIGHTS_FILE)
    older = {".lora_A.weight": ".lora.down.weight", ".lora_B.weight": ".lora.up.weight"}
    mixed = {}
    for index, (name, tensor) in enumerate(sorted(tensors.items())):
        for ending, other in older.items():
            name = name.replace(ending, other) if name.startswith("unet.") and index % 8 >= 6 else name
        mixed[name] = tensor
    assert 0 < sum(".lora." in name for name in mixed) < len(mixed)
    save_file(mixed, tmp_path / WEIGHTS_FILE)
    sentence = (
        r"^--model\.adapter \S+: does not fit --model\.name \S+, a StableDiffusionPipeline: \d+ of its \d+ layers are there; "
        r"give the base that it was trained on, or a file with the names of diffusers alone\.$"
    )
    with pytest.raises(ConfigError, match=sentence):
        Diffusion.load(str(pipeline_folders["stable_diffusion"]), tmp_path)
