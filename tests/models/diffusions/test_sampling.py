"""Drawing: the same bytes in any batch, schedulers by name, adapters by strength, pictures from pictures, and previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from models.diffusions.small_pipelines import KINDS
from PIL import Image

from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.diffusions.lora import DiffusionAdapter
from skygen.models.diffusions.sampling import PREVIEW_SIDE, SamplingSettings, preview_images
from skygen.models.diffusions.schedulers import SCHEDULERS, SchedulerName
from skygen.seeding import Seeds

PROMPTS = ["a harbor", "a dam in a forest", "", "two storage tanks", "a harbor"]
NUMBERS = [1, 2, 3, 4, 5]
NAMES = get_args(SchedulerName)
TABLES = [name for name in NAMES if name not in ("model", "flow_euler")]


@pytest.fixture(scope="module")
def models(pipeline_folders: dict[str, Path]) -> dict[str, Diffusion]:
    return {kind: Diffusion.load(str(folder)) for kind, folder in pipeline_folders.items()}


def settings(**changes: Any) -> SamplingSettings:
    return SamplingSettings(**{"num_inference_steps": 4} | changes)


def draw(diffusion: Diffusion, size: int = len(PROMPTS), count: int = len(PROMPTS), **asked: Any) -> np.ndarray[Any, Any]:
    """Draw the first prompts, some at a time; ``images`` go with them."""
    images, drawn = asked.pop("images", []), []
    for start in range(0, count, size):
        own = slice(start, min(start + size, count))
        drawn += diffusion.sample(PROMPTS[own], NUMBERS[own], images=images[own], settings=settings(**asked))
    return np.stack([np.asarray(image) for image in drawn])


def beginnings(count: int = len(PROMPTS)) -> list[Image.Image]:
    pixels = torch.rand((count, 48, 40, 3), generator=Seeds(0).generator("beginnings")) * 255
    return [Image.fromarray(one.numpy().astype(np.uint8)) for one in pixels]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model", "euler_a"])
def test_a_picture_is_the_same_bytes_in_any_batch(models: dict[str, Diffusion], kind: str, name: str) -> None:
    asked = {"scheduler": "model" if kind == "stable_diffusion_3" else name}
    together = draw(models[kind], **asked)
    assert len(together) == 5
    assert all(np.array_equal(draw(models[kind], size, **asked), together) for size in (1, 2, 3))
    begun = draw(models[kind], images=beginnings(), strength=0.5, **asked)
    assert np.array_equal(draw(models[kind], 2, images=beginnings(), strength=0.5, **asked), begun)
    assert not np.array_equal(begun, together)


def test_the_miniature_draws_the_same_bytes_in_any_batch() -> None:
    diffusion = Diffusion.load()
    assert np.array_equal(draw(diffusion), draw(diffusion, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_that_of_the_pipeline_alone(models: dict[str, Diffusion], kind: str) -> None:
    diffusion = models[kind]
    for guidance in (5.0, 1.0):
        ours = draw(diffusion, count=2, guidance_scale=guidance)
        for place in range(2):
            plain = diffusion.pipeline(
                PROMPTS[place],
                generator=torch.Generator().manual_seed(NUMBERS[place]),
                num_inference_steps=4,
                guidance_scale=guidance,
            ).images[0]
            assert np.array_equal(ours[place], np.asarray(plain))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in ("model", "ddim", "euler", "unipc")
     if kind != "stable_diffusion_3" or name == "model"],  # flow matching has one scheduler
)  # fmt: skip
def test_a_picture_from_a_picture_is_that_of_diffusers(models: dict[str, Diffusion], kind: str, name: SchedulerName) -> None:
    import diffusers

    from skygen.models.diffusions.schedulers import build_scheduler

    diffusion, begun = models[kind], beginnings(1)[0].resize((32, 32))
    parts = {**diffusion.pipeline.components, "scheduler": build_scheduler(name, diffusion.family)}
    more = {"requires_safety_checker": False} if kind == "stable_diffusion" else {}
    more |= {"add_watermarker": False} if kind == "stable_diffusion_xl" else {}
    plain = getattr(diffusers, diffusion.family.pipeline_class.replace("Pipeline", "Img2ImgPipeline"))(**parts, **more)
    plain.set_progress_bar_config(disable=True)
    sides = {"height": 32, "width": 32} if kind == "stable_diffusion_3" else {}
    wanted = plain(
        "a harbor",
        image=begun,
        strength=0.5,
        generator=torch.Generator().manual_seed(1),
        num_inference_steps=4,
        guidance_scale=5.0,
        **sides,
    ).images[0]
    ours = draw(diffusion, count=1, images=[begun], scheduler=name, strength=0.5, resolution=32)[0]
    assert np.abs(ours.astype(int) - np.asarray(wanted, int)).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_strength_says_how_many_steps_are_taken(models: dict[str, Diffusion], kind: str) -> None:
    begun, side = beginnings(1), models[kind].resolution
    taken: list[tuple[int, int]] = []
    shots = [
        np.asarray(
            models[kind].sample(
                ["a dam"],
                [7],
                images=begun,
                settings=settings(num_inference_steps=10, strength=strength),
                on_step=lambda done, total: taken.append((done, total)),
            )[0],
            int,
        )
        for strength in (0.1, 0.5)
    ]
    assert shots[0].shape == (side, side, 3)
    assert taken == [(1, 1), *((done, 5) for done in range(1, 6))]
    assert not np.array_equal(*shots)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_every_scheduler_draws_a_picture_of_its_own(models: dict[str, Diffusion], kind: str) -> None:
    diffusion, own = models[kind], models[kind].pipeline.scheduler
    before = draw(diffusion, count=1)
    pictures = {name: draw(diffusion, count=1, scheduler=name, num_inference_steps=6) for name in TABLES}
    assert set(TABLES) | {"flow_euler"} == set(SCHEDULERS)
    assert len({picture.tobytes() for picture in pictures.values()}) >= 6  # few steps of some are the same
    assert all(picture.std() > 1 for picture in pictures.values())
    assert diffusion.pipeline.scheduler is own
    assert np.array_equal(draw(diffusion, count=1), before)


def test_a_scheduler_that_makes_no_sense_is_refused(models: dict[str, Diffusion], pipeline_folders: dict[str, Path]) -> None:
    flow = (
        r"^generation\.scheduler is {0}, which steps along a table of noise, and a StableDiffusion3Pipeline was trained by "
        r"flow matching; set it to flow_euler or to model\.$"
    )
    for name in TABLES:
        with pytest.raises(ConfigError, match=flow.format(name.replace("+", r"\+"))):
            draw(models["stable_diffusion_3"], count=1, scheduler=name)
    assert np.array_equal(
        draw(models["stable_diffusion_3"], count=1, scheduler="flow_euler"), draw(models["stable_diffusion_3"], count=1)
    )
    with pytest.raises(ConfigError, match=r"^generation\.scheduler is flow_euler, .* predicts epsilon; set it to euler or to"):
        draw(models["stable_diffusion_xl"], count=1, scheduler="flow_euler")
    ending = Diffusion.load(str(pipeline_folders["stable_diffusion"]), objective=DiffusionSettings(zero_terminal_snr=True))
    with pytest.raises(ConfigError, match=r"schedule ends without signal; set it to dpm\+\+_2m or to model\.$"):
        draw(ending, count=1, scheduler="dpm++_2m_karras")
    others = [name for name in TABLES if name != "dpm++_2m_karras"]
    assert len(others) == 7
    assert all(draw(ending, count=1, scheduler=name).std() > 1 for name in others)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_inference_steps": 0}, "generation.num_inference_steps is 0; it must be 1 or more."),
        ({"guidance_scale": float("nan")}, "generation.guidance_scale is nan; it must be a number, 0 or more."),
        ({"guidance_rescale": 1.5}, "generation.guidance_rescale is 1.5; it must be between 0 and 1."),
        ({"lora_scale": -1.0}, "generation.lora_scale is -1; it must be a number, 0 or more."),
        ({"strength": 0.0}, "generation.strength is 0; it must be above 0, and 1 at most."),
        ({"lora_scale": 0.5}, "generation.lora_scale is 0.5, and this model has no adapter; set it to 1."),
        ({"width": 33}, "generation.width is 33; this model draws sides that are multiples of 4 pixels."),
        ({"resolution": 34}, "generation.height is 34; this model draws sides that are multiples of 4 pixels."),
        (
            {"guidance_rescale": 0.7},
            "generation.guidance_rescale is 0.7, and the pipeline of a StableDiffusion3Pipeline does not rescale; leave it "
            "out.",
        ),
        (
            {"strength": 0.1, "images": beginnings(1)},
            "generation.strength 0.1 of generation.num_inference_steps 4 leaves no step; raise one of them.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(models: dict[str, Diffusion], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        draw(models["stable_diffusion_3"], count=1, **changes)
    assert str(refused.value) == sentence.replace("height is 34", "resolution is 34")


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_need_not_be_square(models: dict[str, Diffusion], kind: str) -> None:
    assert draw(models[kind], count=1, height=32, width=48).shape == (1, 32, 48, 3)
    assert draw(models[kind], count=1, resolution=48, width=32, images=beginnings(1)).shape == (1, 48, 32, 3)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_guidance_is_rescaled_on_wish(models: dict[str, Diffusion], kind: str) -> None:
    plain, none, full = (draw(models[kind], count=1, guidance_rescale=value) for value in (None, 0.0, 1.0))
    assert np.array_equal(plain, none)
    assert not np.array_equal(plain, full)


def save_adapter(folder: Path, base: Path, seed: int, **objective: Any) -> Path:
    """Save a LoRA whose second matrices, which begin at zero, are drawn."""
    adapter = Diffusion.load(str(base), objective=DiffusionSettings(**objective)).attach(LoraSettings(rank=2), Seeds(seed))
    assert isinstance(adapter, DiffusionAdapter)
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.normal_(0, 0.1, generator=Seeds(seed).generator(name))
    adapter.save(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_acts_as_strongly_as_asked(
    models: dict[str, Diffusion], pipeline_folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    base, adapted = (
        models[kind],
        Diffusion.load(str(pipeline_folders[kind]), save_adapter(tmp_path / "a", pipeline_folders[kind], 1)),
    )
    whole = draw(adapted, count=1)
    trainable = [parameter.requires_grad for parameter in adapted.network.parameters()]
    half, none = (draw(adapted, count=1, lora_scale=scale) for scale in (0.5, 0.0))
    assert np.array_equal(none, draw(base, count=1))
    assert len({picture.tobytes() for picture in (whole, half, none)}) == 3
    assert np.array_equal(draw(adapted, count=1), whole)
    assert [parameter.requires_grad for parameter in adapted.network.parameters()] == trainable
    weighed = Diffusion.load(str(pipeline_folders[kind]), adapters=[(tmp_path / "a", 0.5)])
    assert np.array_equal(draw(weighed, count=1), half)
    assert weighed.adapters == ((tmp_path / "a", 0.5),)


@pytest.mark.parametrize("kind", KINDS)
def test_several_adapters_act_together(pipeline_folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    name, one, two = (
        str(pipeline_folders[kind]),
        *(save_adapter(tmp_path / str(seed), pipeline_folders[kind], seed) for seed in (1, 2)),
    )
    alone = draw(Diffusion.load(name, one), count=1)
    assert np.array_equal(draw(Diffusion.load(name, one, adapters=[(two, 0.0)]), count=1), alone)
    both = draw(Diffusion.load(name, one, adapters=[(two, 1.0)]), count=1)
    assert not np.array_equal(both, alone)
    assert np.array_equal(draw(Diffusion.load(name, adapters=[(one, 1.0), (two, 1.0)]), count=1), both)
    with pytest.raises(UnavailableError, match=r"no pytorch_lora_weights\.safetensors there"):
        Diffusion.load(name, one, adapters=[(tmp_path, 1.0)])


def test_adapters_that_do_not_go_together_are_refused(pipeline_folders: dict[str, Path], tmp_path: Path) -> None:
    base = pipeline_folders["stable_diffusion"]
    one = save_adapter(tmp_path / "one", base, 1)
    two = save_adapter(tmp_path / "two", base, 2, zero_terminal_snr=True)
    with pytest.raises(
        ConfigError,
        match=r"^--model\.adapter \S+two: trained on a schedule that ends in noise, and \S+one was not; draw with one of",
    ):
        Diffusion.load(str(base), one, adapters=[(two, 1.0)])
    foreign = save_adapter(tmp_path / "foreign", pipeline_folders["stable_diffusion_3"], 1)
    with pytest.raises(ConfigError, match=r"trained for a StableDiffusion3Pipeline, and --model\.name \S+ is a"):
        Diffusion.load(str(base), one, adapters=[(foreign, 1.0)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_are_told_and_can_end_the_drawing(models: dict[str, Diffusion], kind: str) -> None:
    diffusion, told, seen = models[kind], list[tuple[int, int]](), list[tuple[int, tuple[int, int]]]()
    quiet = draw(diffusion, count=2)
    watched = diffusion.sample(
        PROMPTS[:2],
        NUMBERS[:2],
        settings=settings(),
        on_step=lambda done, total: told.append((done, total)),
        on_preview=lambda place, image: seen.append((place, image.size)),
        preview_every=2,
    )
    assert told == [(done, 8) for done in range(1, 9)]
    assert [place for place, _ in seen] == [0, 0, 1, 1]
    assert np.array_equal(np.stack([np.asarray(image) for image in watched]), quiet)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt(f"{done} of {total}")

    own = diffusion.pipeline.scheduler
    with pytest.raises(KeyboardInterrupt, match="1 of 4"):
        diffusion.sample(["a dam"], [1], settings=settings(), on_step=stop)
    assert diffusion.pipeline.scheduler is own
    assert np.array_equal(draw(diffusion, count=2), quiet)


@pytest.mark.parametrize("name", [*TABLES, "flow_euler"])
def test_a_preview_is_what_the_denoiser_takes_the_picture_to_be(models: dict[str, Diffusion], name: str) -> None:
    """A denoiser that knows the noise sees the clean picture at every step, whichever scheduler steps."""
    diffusion = models["stable_diffusion_3" if name == "flow_euler" else "stable_diffusion"]
    network, family = diffusion.network, diffusion.family
    own, velocity = network.forward, family.noising.prediction_type == "v_prediction"
    clean: list[torch.Tensor] = []

    def forward(noisy: torch.Tensor | None = None, time: torch.Tensor | None = None, **named: Any) -> tuple[torch.Tensor]:
        noisy = named.get("hidden_states") if noisy is None else noisy
        time = named["timestep"] if time is None else time
        assert noisy is not None
        if not clean:
            clean.append(torch.randn(noisy[:1].shape, generator=Seeds(0).generator("clean")))
        if name == "flow_euler":
            sigma = (time.flatten()[0] / 1000).clamp_min(1e-3)
            return ((noisy - clean[0]) / sigma,)
        level = family.noising.alphas_cumprod[int(time.flatten()[0].round())]
        noise = (noisy - level.sqrt() * clean[0]) / (1 - level).sqrt()
        return (level.sqrt() * noise - (1 - level).sqrt() * clean[0],) if velocity else (noise,)

    seen: list[Image.Image] = []
    network.forward = forward
    try:
        drawn = diffusion.sample(
            ["a dam"],
            [1],
            settings=settings(scheduler=name, num_inference_steps=6),
            on_preview=lambda _place, image: seen.append(image),
            preview_every=1,
        )
    finally:
        network.forward = own
    wanted = np.asarray(preview_images(family, clean[0])[0], int)
    assert len(seen) == 6
    assert max(int(np.abs(np.asarray(image, int) - wanted).max()) for image in seen) <= 2
    assert drawn[0].size == seen[0].size  # no larger than what a preview shows


def test_units_of_one_size_give_the_same_bytes_whoever_else_is_in_them(models: dict[str, Diffusion]) -> None:
    diffusion = models["stable_diffusion"]
    asked = {"settings": settings(), "together": 4}
    whole = [np.asarray(image) for image in diffusion.sample(PROMPTS[:4], NUMBERS[:4], **asked)]
    first = np.asarray(diffusion.sample(PROMPTS[:1], NUMBERS[:1], **asked)[0])
    others = [np.asarray(image) for image in diffusion.sample([PROMPTS[0], *PROMPTS[2:]], [NUMBERS[0], 7, 8, 9], **asked)]
    assert np.array_equal(first, whole[0]) and np.array_equal(others[0], whole[0])
    alone = draw(diffusion, 1, 4)
    assert np.abs(np.stack(whole).astype(int) - alone).max() <= 2


def test_a_preview_is_small(models: dict[str, Diffusion]) -> None:
    diffusion = models["stable_diffusion_3"]
    channels = diffusion.pipeline.vae.config.latent_channels
    noise = 50 * torch.randn((2, channels, 96, 48), generator=Seeds(0).generator("noise"))
    previews = preview_images(diffusion.family, noise)
    factor = int(diffusion.pipeline.vae_scale_factor)
    assert [image.size for image in previews] == [(PREVIEW_SIDE // 2 * factor, PREVIEW_SIDE * factor)] * 2


def test_a_prompt_is_read_again_once_its_encoder_has_changed(stable_diffusion_folder: Path) -> None:
    diffusion, calls = Diffusion.load(str(stable_diffusion_folder)), list[int]()
    encoder = diffusion.pipeline.text_encoder
    encoder.register_forward_hook(lambda *_: calls.append(1))
    before = draw(diffusion)
    assert len(calls) == 4  # three of the prompts are the null prompt or come twice
    assert np.array_equal(draw(diffusion), before)
    assert len(calls) == 4
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    assert not np.array_equal(draw(diffusion), before)
    assert len(calls) == 8
