"""How a family is computed with in training: half-precision bases, kept latents and prompts, checkpointing, compiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.diffusions.small_pipelines import KINDS
from torch import nn

from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion, DiffusionModelSettings
from skygen.models.diffusions.family import Conditioning, PromptSource
from skygen.models.diffusions.frozen import LatentEncoder
from skygen.seeding import Seeds

PROMPTS = ("two storage tanks", "")


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, pipeline_folders: dict[str, Path]) -> Path:
    return pipeline_folders[request.param]


def batch(diffusion: Diffusion, height: int = 0) -> Batch:
    shape = (len(PROMPTS), 3, height or diffusion.resolution, diffusion.resolution)
    pixels = torch.rand(shape, generator=Seeds(0).generator("pixels")) * 2 - 1
    return Batch(pixels, PROMPTS, ("0", "1"))


def loss_of(diffusion: Diffusion, given: Batch | None = None) -> torch.Tensor:
    return diffusion.loss(given or batch(diffusion), Seeds(1).generator("noise"))


def draw(diffusion: Diffusion) -> np.ndarray[Any, Any]:
    return np.asarray(diffusion.sample(["a harbor"], [3], num_inference_steps=2)[0]).astype(int)


def attach(diffusion: Diffusion, **settings: Any) -> dict[str, nn.Parameter]:
    """Attach a LoRA with an effect, and return its parameters."""
    parameters = diffusion.attach(LoraSettings(rank=3, lora_alpha=7, **settings), Seeds(1)).parameters
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.normal_(0, 0.1, generator=Seeds(2).generator(name))
    return parameters


def precisions(diffusion: Diffusion) -> dict[str, set[torch.dtype]]:
    """Return the precisions of each part's own weights, and under ``lora`` those of the adapter on any of them."""
    found: dict[str, set[torch.dtype]] = {"lora": set()}
    for part, network in diffusion.pipeline.components.items():
        if isinstance(network, nn.Module):
            for name, parameter in network.named_parameters():
                found.setdefault("lora" if "lora_" in name else part, set()).add(parameter.dtype)
    return found


def test_pitfall_4_1_the_lora_is_float32_over_a_half_precision_base_and_moves(folder: Path, tmp_path: Path) -> None:
    diffusion = Diffusion.load(str(folder), dtype=torch.bfloat16)
    trained = diffusion.attach(LoraSettings(rank=2), Seeds(1))
    before = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
    optimizer = torch.optim.AdamW(trained.parameters.values(), lr=1e-4)
    for step in range(3):
        loss = diffusion.loss(batch(diffusion), Seeds(step).generator("noise"))
        assert loss.dtype == torch.float32
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    first = [name for name in before if "lora_A" in name]
    moved = [float((trained.parameters[name] != before[name]).float().mean()) for name in first]
    assert len(first) >= 16
    assert np.mean(moved) > 0.85  # of a LoRA in bfloat16 9 % after 20 steps; of one block nothing reads the text again
    trained.save(tmp_path)
    loaded = Diffusion.load(str(folder), tmp_path, dtype=torch.bfloat16)
    kept = {name.replace(".default_0", ".default"): p for name, p in loaded.network.named_parameters() if "lora_" in name}
    assert len(kept) == len(before)
    assert all(torch.equal(kept[name], parameter) for name, parameter in trained.parameters.items())
    assert np.array_equal(draw(diffusion), draw(loaded))
    for one in (diffusion, loaded):
        found = precisions(one)
        assert {part: found.pop(part) for part in ("vae", "lora")} == {"vae": {torch.float32}, "lora": {torch.float32}}
        assert len(found) >= 2
        assert all(kinds == {torch.bfloat16} for kinds in found.values())


def test_pain_1_latents_are_decoded_in_full_precision_beside_a_half_precision_denoiser(folder: Path) -> None:
    full, half = Diffusion.load(str(folder)), Diffusion.load(str(folder), dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    half.pipeline.vae.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    pictures = [draw(full), draw(half)]
    assert seen == [torch.float32]
    assert 0 < np.abs(pictures[0] - pictures[1]).max() < 32
    assert pictures[1].std() > 1


def test_pictures_are_the_pipelines_own_bit_for_bit(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    side, given = diffusion.resolution, {"num_inference_steps": 2, "guidance_scale": 5.0}
    own = [
        diffusion.pipeline(prompt, generator=torch.Generator().manual_seed(seed), height=side, width=side, **given).images[0]
        for prompt, seed in (("a dam", 1), ("a harbor", 2))
    ]  # one by one: a batch of two rounds otherwise
    drawn = diffusion.sample(["a dam", "a harbor"], [1, 2], **given)
    assert len(own) == len(drawn) == 2
    assert all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(own, drawn, strict=True))


def test_a_whole_model_in_half_precision_is_not_trained(pipeline_folders: dict[str, Path]) -> None:
    diffusion = Diffusion.load(str(pipeline_folders["stable_diffusion"]), dtype=torch.bfloat16)
    with pytest.raises(ConfigError) as caught:
        diffusion.attach(LoraSettings(rank=0), Seeds(0))
    assert str(caught.value) == (
        "--lora.rank 0 trains every parameter, which are float32 then: leave --model.dtype out, or set a rank."
    )


def test_settings_name_precision_and_checkpointing(pipeline_folders: dict[str, Path]) -> None:
    settings = DiffusionModelSettings(str(pipeline_folders["stable_diffusion"]), dtype="bfloat16", gradient_checkpointing=True)
    diffusion = Diffusion.of(settings)
    assert (diffusion.network.dtype, diffusion.network.is_gradient_checkpointing) == (torch.bfloat16, True)
    plain = Diffusion.of(replace(settings, dtype="float32", gradient_checkpointing=False))
    assert (plain.network.dtype, plain.network.is_gradient_checkpointing) == (torch.float32, False)


def test_pitfall_4_3_noise_and_target_are_float32_where_latents_come_in_half(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusion = Diffusion.load(str(folder))
    latents: list[torch.Tensor] = []
    draw_noise, seen = type(diffusion.family.noising).draw, []

    def note(noising: Any, given: torch.Tensor, generator: torch.Generator) -> Any:
        latents.append(given)
        seen.append(draw_noise(noising, given, generator))
        return seen[-1]

    monkeypatch.setattr(type(diffusion.family.noising), "draw", note)
    loss_of(diffusion)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss_of(diffusion).dtype == torch.float32
    assert len(seen) == 2
    half = seen[1]
    assert {tensor.dtype for tensor in (latents[1], half.noisy, half.target, half.weight)} == {torch.float32}
    # the noise of the latents too was drawn in float32: what differs is the rounding of the autoencoder alone
    assert torch.allclose(latents[0], latents[1], atol=0.05 * float(latents[0].std()))


def test_pitfall_4_9_training_in_half_precision_does_not_change_how_pictures_are_drawn(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    before = draw(diffusion)
    diffusion.network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of(diffusion)
    assert "forward" not in vars(diffusion.network)  # accelerate's prepare() puts a wrapper there
    assert np.array_equal(before, draw(diffusion))
    assert diffusion.network.training


def test_kept_latents_give_the_loss_of_the_pixels_bit_for_bit(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    given = batch(diffusion)
    with torch.no_grad():
        features = LatentEncoder(diffusion.family).encode(given.pixels)
    kept = Batch(torch.empty(len(PROMPTS), 3, 0, 0), given.captions, given.keys, features)
    encoded: list[int] = []
    expected = loss_of(diffusion)
    diffusion.pipeline.vae.encoder.register_forward_pre_hook(lambda _, __: encoded.append(1))
    assert torch.equal(loss_of(diffusion, kept), expected)
    assert encoded == []
    in_half = loss_of(diffusion, replace(kept, features=features.half()))
    assert in_half.dtype == torch.float32
    assert torch.allclose(in_half, expected, rtol=0.02)


@dataclass
class Kept:
    """Prompts as a cache gives them."""

    by_prompt: dict[str, Conditioning]

    def read(self, prompts: Sequence[str]) -> Conditioning:
        rows = [self.by_prompt[prompt] for prompt in prompts]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Conditioning(torch.cat([row.hidden for row in rows]), torch.cat(pooled) if pooled else None)


def test_kept_prompts_give_the_loss_of_encoded_ones_and_the_encoders_rest(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    with torch.no_grad():
        source = Kept({prompt: diffusion.encode_prompts([prompt]) for prompt in PROMPTS})
    expected = loss_of(diffusion)
    asked: list[int] = []
    diffusion.pipeline.text_encoder.register_forward_pre_hook(lambda _, __: asked.append(1))
    assert isinstance(source, PromptSource)
    diffusion.prompts = source
    assert torch.allclose(loss_of(diffusion), expected, rtol=1e-4)
    assert asked == []
    with pytest.raises(KeyError, match="a dam"):
        loss_of(diffusion, replace(batch(diffusion), captions=("a dam", "")))
    source.by_prompt["a dam"] = source.by_prompt[""]  # a dropped caption is the null prompt's row
    dropped = [loss_of(diffusion, replace(batch(diffusion), captions=(caption, ""))) for caption in ("a dam", "")]
    assert torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[0], expected)


def test_pitfall_4_17_the_sizes_of_a_batch_reach_the_denoiser_in_float32(pipeline_folders: dict[str, Path]) -> None:
    sizes = torch.tensor([[1023, 769, 3, 257, 32, 32], [511, 700, 0, 0, 32, 32]], dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        diffusion = Diffusion.load(str(pipeline_folders["stable_diffusion_xl"]), dtype=dtype)
        seen: list[torch.Tensor] = []
        diffusion.network.register_forward_pre_hook(
            lambda _, __, given, seen=seen: seen.append(given["added_cond_kwargs"]["time_ids"]), with_kwargs=True
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            told = loss_of(diffusion, replace(batch(diffusion), sizes=sizes))
        assert [given.dtype for given in seen] == [torch.float32]
        assert torch.equal(seen[0], sizes)
        assert not torch.equal(told, loss_of(diffusion))
    for kind in ("stable_diffusion", "stable_diffusion_3"):  # which read none
        diffusion = Diffusion.load(str(pipeline_folders[kind]))
        assert torch.equal(loss_of(diffusion, replace(batch(diffusion), sizes=sizes)), loss_of(diffusion))


@pytest.mark.parametrize(("kind", "step"), [(KINDS[0], 16), (KINDS[1], 4), (KINDS[2], 4)])
def test_sides_are_multiples_of_what_the_networks_halve(kind: str, step: int, pipeline_folders: dict[str, Path]) -> None:
    diffusion = Diffusion.load(str(pipeline_folders[kind]))
    assert diffusion.size_step == diffusion.family.size_step == step
    assert diffusion.resolution % step == 0
    assert loss_of(diffusion, batch(diffusion, height=diffusion.resolution - step)).shape == (2,)


def gradient(diffusion: Diffusion, parameters: dict[str, nn.Parameter]) -> list[torch.Tensor]:
    diffusion.network.train()
    Seeds(5).reset_global("dropout")
    loss_of(diffusion).mean().backward()
    gradients = [torch.zeros(()) if p.grad is None else p.grad.clone() for p in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = None
    return gradients


def test_checkpointing_gives_the_same_gradient_bit_for_bit(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    parameters = attach(diffusion, lora_dropout=0.2)
    expected = gradient(diffusion, parameters)
    calls: list[int] = []
    blocks = [module for name, module in diffusion.network.named_modules() if name.endswith(("attn1.to_q", "attn.to_q"))]
    blocks[0].register_forward_pre_hook(lambda _, __: calls.append(1))
    diffusion.enable_gradient_checkpointing()
    found = gradient(diffusion, parameters)
    assert calls == [1, 1]  # forward, and again in the backward pass
    assert len(found) >= 32
    assert sum(bool(one.any()) for one in found) >= 0.8 * len(found)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_text_encoders_wait_on_the_cpu_and_come_back_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second device, by the moves that are asked for: each of an encoder there and back again."""
    diffusion = Diffusion.load(str(folder))
    expected, picture = diffusion.encode_prompts(PROMPTS), draw(diffusion)
    encoders = [part for name, part in diffusion.pipeline.components.items() if name.startswith("text_encoder")]
    assert len(encoders) == {"StableDiffusionPipeline": 1, "StableDiffusionXLPipeline": 2}.get(
        type(diffusion.pipeline).__name__, 3
    )
    moves: list[str] = []
    for encoder in encoders:
        monkeypatch.setattr(encoder, "to", lambda where: moves.append("away" if where == "cpu" else "back"))
    diffusion.offload_text_encoders()
    assert moves == ["away"] * len(encoders)
    for ask in (
        lambda: diffusion.encode_prompts(PROMPTS).hidden.equal(expected.hidden),
        lambda: (draw(diffusion) == picture).all(),
    ):
        moves.clear()
        assert ask()
        assert moves == ["back"] * len(encoders) + ["away"] * len(encoders)
    moves.clear()
    diffusion.prompts = Kept({prompt: diffusion.family.encode_prompts([prompt]) for prompt in PROMPTS})
    loss_of(diffusion)
    assert moves == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
def test_pitfall_4_8_a_compiled_denoiser_saves_the_same_names(pipeline_folders: dict[str, Path], tmp_path: Path) -> None:
    diffusion = Diffusion.load(str(pipeline_folders["stable_diffusion_3"]))
    trained = diffusion.attach(LoraSettings(rank=2), Seeds(1))
    names, picture = list(trained.parameters), draw(diffusion)
    expected = gradient(diffusion, trained.parameters)
    trained.save(tmp_path / "before")
    diffusion.compile()
    compiled = gradient(diffusion, trained.parameters)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert len(compiled) >= 16
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(compiled, expected, strict=True))
    assert list(trained.parameters) == names
    assert not any("_orig_mod" in name for name in [*names, *diffusion.network.state_dict()])
    assert np.array_equal(draw(diffusion), picture)
    trained.save(tmp_path / "after")
    files = [(tmp_path / when / "pytorch_lora_weights.safetensors").read_bytes() for when in ("before", "after")]
    assert files[0] == files[1]
