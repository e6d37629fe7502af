"""The two objectives: a denoising model over a table of alphas, and flow matching."""

from __future__ import annotations

from inspect import signature
from typing import Any, final

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from skygen.errors import ConfigError
from skygen.models import objectives
from skygen.models.diffusions.family import NoisedLatents
from skygen.models.diffusions.settings import MIN_SNR_GAMMA, DiffusionSettings
from skygen.models.objectives import PredictionType

NO_SIGNAL = 1e-8
"""A cumulative alpha below this is a timestep of noise alone."""


@final
class AlphaNoising:
    """Diffusion over a table of cumulative alphas (Ho et al. 2020); epsilon or v is predicted.

    Args:
        alphas_cumprod: the final table, after any rescaling.
        prediction_type: ``epsilon`` or ``v_prediction``.
        settings: the training objective.

    Raises:
        ConfigError: these settings cannot be trained on this table.
    """

    def __init__(
        self, alphas_cumprod: Float[Tensor, " steps"], prediction_type: PredictionType, settings: DiffusionSettings
    ) -> None:
        self.alphas_cumprod = alphas_cumprod
        self.prediction_type: PredictionType = prediction_type
        self.noise_offset = settings.noise_offset
        unset = 0.0 if settings.zero_terminal_snr else MIN_SNR_GAMMA  # min-SNR gives what the rescaling is for no weight
        self.snr_gamma = unset if settings.snr_gamma is None else settings.snr_gamma
        if prediction_type == "epsilon" and settings.zero_terminal_snr:
            raise ConfigError(
                "--diffusion.zero_terminal_snr: this model predicts epsilon, from which no image follows where there is "
                "only noise; set it to false or use a v-prediction model."
            )
        if prediction_type == "epsilon" and float(alphas_cumprod[-1]) < NO_SIGNAL and self.snr_gamma:
            raise ConfigError(
                "--diffusion.snr_gamma: a schedule that ends without signal cannot be weighed with epsilon; "
                "set it to 0 or use a v-prediction model."
            )

    @classmethod
    def of(cls, pipeline: Any, settings: DiffusionSettings) -> AlphaNoising:
        """Take table and prediction from a pipeline's scheduler; ``zero_terminal_snr`` changes that scheduler too.

        Raises:
            ConfigError: the model predicts something else, or cannot be trained with these settings.
        """
        from diffusers import DDPMScheduler

        own = {"rescale_betas_zero_snr": False} if settings.zero_terminal_snr else {}  # rescaled below, in float64
        scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, **own)
        prediction_type = scheduler.config.prediction_type
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ConfigError(
                f"scheduler/scheduler_config.json: prediction_type is {prediction_type}; skygen trains "
                "epsilon and v_prediction."
            )
        table: Tensor = scheduler.alphas_cumprod
        if settings.zero_terminal_snr:
            table = objectives.rescale_zero_terminal_snr(table)
        noising = cls(table, prediction_type, settings)
        if settings.zero_terminal_snr:
            pipeline.scheduler = _ending_in_noise(pipeline.scheduler)
        return noising

    def draw(self, latents: Float[Tensor, "batch channels height width"], generator: torch.Generator) -> NoisedLatents:
        """Draw noise and a timestep for each example, see ``Noising.draw``."""
        device = latents.device
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noise = objectives.offset_noise(noise, self.noise_offset, generator)
        timesteps = torch.randint(len(self.alphas_cumprod), (len(latents),), generator=generator).to(device)
        return self.mix(latents, noise, timesteps)

    def mix(
        self,
        latents: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch channels height width"],
        timesteps: Int[Tensor, " batch"],
    ) -> NoisedLatents:
        """Mix latents with given noise at given timesteps."""
        table, kind = self.alphas_cumprod, self.prediction_type
        return NoisedLatents(
            objectives.add_noise(latents, noise, timesteps, table),
            timesteps,
            objectives.prediction_target(latents, noise, timesteps, table, kind),
            objectives.min_snr_weight(timesteps, table, self.snr_gamma, kind),
        )

    def estimate_clean(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        prediction: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the clean latents that a prediction means; a timestep between two of the table counts as the nearer one."""
        timesteps = times.round().long().clamp(0, len(self.alphas_cumprod) - 1)
        return objectives.clean_estimate(noisy, prediction, timesteps, self.alphas_cumprod, self.prediction_type)


@final
class FlowNoising:
    """Flow matching along straight ways (Esser et al. 2024); sigmas are drawn logit-normal and shifted as the model's own.

    Args:
        shift: of the model's scheduler.
        timesteps: what the denoiser is told is sigma times this.
        settings: the training objective.

    Raises:
        ConfigError: a setting that is for tables of alphas.
    """

    prediction_type: PredictionType = "flow"

    def __init__(self, shift: float, timesteps: int, settings: DiffusionSettings) -> None:
        self.shift = shift
        self.timesteps = timesteps
        if settings.snr_gamma:
            raise ConfigError(
                "--diffusion.snr_gamma: flow matching is weighed by how its noise levels are drawn; leave it out or set it "
                "to 0 for this model."
            )
        if settings.noise_offset:
            raise ConfigError(
                "--diffusion.noise_offset: flow matching already learns from noise alone, and its sampler begins with noise "
                "that has no offset; set it to 0 for this model."
            )
        if settings.zero_terminal_snr:
            raise ConfigError(
                "--diffusion.zero_terminal_snr: flow matching ends in pure noise as it is; set it to false for this model."
            )

    @classmethod
    def of(cls, pipeline: Any, settings: DiffusionSettings) -> FlowNoising:
        """Take the shift from a pipeline's scheduler.

        Raises:
            ConfigError: the scheduler shifts by the size of the image, or the settings do not go with flow matching.
        """
        config = pipeline.scheduler.config
        if config.get("use_dynamic_shifting"):
            raise ConfigError(
                "scheduler/scheduler_config.json: use_dynamic_shifting is true; skygen trains flow matching with one shift, "
                "as Stable Diffusion 3 has it."
            )
        return cls(float(config.shift), int(config.num_train_timesteps), settings)

    def draw(self, latents: Float[Tensor, "batch channels height width"], generator: torch.Generator) -> NoisedLatents:
        """Draw noise and a sigma for each example, see ``Noising.draw``."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        sigmas = objectives.shift_sigmas(objectives.logit_normal_sigmas(len(latents), generator), self.shift)
        return self.mix(latents, noise, sigmas.to(latents.device))

    def mix(
        self,
        latents: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch channels height width"],
        sigmas: Float[Tensor, " batch"],
    ) -> NoisedLatents:
        """Mix latents with given noise at given sigmas; every example weighs the same."""
        return NoisedLatents(
            objectives.flow_noise(latents, noise, sigmas),
            sigmas * self.timesteps,
            objectives.flow_target(latents, noise),
            torch.ones_like(sigmas),
        )

    def estimate_clean(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        prediction: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the clean latents that a prediction means."""
        return objectives.flow_estimate(noisy, prediction, times / self.timesteps)


def _ending_in_noise(scheduler: Any) -> Any:
    """Return a sampler over the rescaled schedule that begins at its last timestep.

    Without ``trailing``, which Lin et al. 2024 ask for too, a sampler begins at another one, and with noise that is none there.
    """
    from diffusers import DDIMScheduler

    known = "rescale_betas_zero_snr" in signature(type(scheduler).__init__).parameters
    kind = type(scheduler) if known else DDIMScheduler
    return kind.from_config(scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
