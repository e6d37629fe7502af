"""Schedulers by name: how a sampler steps from noise to a picture, on the table of noise that the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from skygen.errors import ConfigError
from skygen.models.diffusions.family import DiffusionFamily

SchedulerName = Literal[
    "model", "ddim", "ddpm", "dpm++_2m", "dpm++_2m_karras", "dpm++_2m_sde", "euler", "euler_a", "unipc", "flow_euler"
]
FLOW = "flow_euler"
KARRAS = "dpm++_2m_karras"

_DPM: Mapping[str, Any] = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False}
SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # latents go beyond [-1, 1]
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", _DPM),
    KARRAS: ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": True}),
    "dpm++_2m_sde": ("DPMSolverMultistepScheduler", {**_DPM, "algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
    FLOW: ("FlowMatchEulerDiscreteScheduler", {}),
}
"""Name to the class of diffusers and what is set in it; all else is the model's own: table, prediction, spacing, shift."""


def build_scheduler(name: SchedulerName, family: DiffusionFamily) -> Any:
    """Return a new scheduler of diffusers, made from the config of the model's own.

    Args:
        name: ``model`` is the model's own kind; ``ddpm``, ``dpm++_2m_sde`` and ``euler_a`` draw noise at every step.
        family: the loaded pipeline.

    Raises:
        ConfigError: it does not go with what the model was trained on.
    """
    import diffusers

    own = family.pipeline.scheduler
    if name == "model":
        return type(own).from_config(own.config)
    flow = family.noising.prediction_type == "flow"
    if flow and name != FLOW:
        raise ConfigError(
            f"generation.scheduler is {name}, which steps along a table of noise, and a {family.pipeline_class} was trained by "
            f"flow matching; set it to {FLOW} or to model."
        )
    if not flow and name == FLOW:
        raise ConfigError(
            f"generation.scheduler is {FLOW}, which is for models of flow matching, and a {family.pipeline_class} predicts "
            f"{family.noising.prediction_type}; set it to euler or to model."
        )
    if name == KARRAS and own.config.get("rescale_betas_zero_snr"):
        raise ConfigError(
            f"generation.scheduler is {KARRAS}, whose steps spread from the largest ratio of noise to signal, and this model's "
            "schedule ends without signal; set it to dpm++_2m or to model."
        )
    kind, changes = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(own.config, **changes)


def begin_between(scheduler: Any, steps: int, strength: float) -> None:
    """Let a scheduler take only the last part of its steps from now on, for a picture that begins as another.

    Args:
        scheduler: of its own, it stays like this.
        steps: of the whole way from noise.
        strength: in (0, 1], the part that is taken; ``int(steps * strength)`` steps, as in diffusers, are at least one.

    Raises:
        ConfigError: no step is left.
    """
    taken = int(steps * strength)
    if taken < 1:
        raise ConfigError(
            f"generation.strength {strength:g} of generation.num_inference_steps {steps} leaves no step; raise one of them."
        )
    set_all, take_step = scheduler.set_timesteps, scheduler.step
    set_begin = getattr(scheduler, "set_begin_index", None)
    begin = (steps - taken) * scheduler.order
    whole: list[Any] = []

    @wraps(set_all)
    def set_timesteps(*arguments: Any, **named: Any) -> None:
        set_all(*arguments, **named)
        whole[:] = [scheduler.timesteps]
        scheduler.timesteps = scheduler.timesteps[begin:]  # what the pipeline goes through
        if set_begin is not None:
            set_begin(begin)

    @wraps(take_step)
    def step(*arguments: Any, **named: Any) -> Any:
        scheduler.timesteps = whole[0]  # a scheduler of several steps counts in all of them which is its last
        return take_step(*arguments, **named)

    scheduler.set_timesteps, scheduler.step = set_timesteps, step
    if set_begin is not None:
        scheduler.set_begin_index = lambda _: set_begin(begin)  # the pipeline of SDXL says 0 before its first step


def noise_to_begin(
    scheduler: Any,
    steps: int,
    latents: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Mix latents with noise at the level of the first step that ``begin_between`` has left.

    Args:
        scheduler: its steps are set by this.
        steps: of the whole way from noise.
        latents: scaled.
        noise: of variance 1.

    Returns:
        What a pipeline takes for its ``latents``, which it multiplies by the scheduler's ``init_noise_sigma``.
    """
    scheduler.set_timesteps(steps, device=latents.device)
    first = scheduler.timesteps[:1]
    if hasattr(scheduler, "scale_noise"):
        mixed: Tensor = scheduler.scale_noise(latents, first, noise)
        return mixed
    mixed = scheduler.add_noise(latents, noise, first.expand(len(latents)))
    return mixed / float(scheduler.init_noise_sigma)
