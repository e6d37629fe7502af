"""The diffusion objectives against diffusers' own, and at the ends where tables break."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from skygen.models.objectives import (
    PredictionType,
    add_noise,
    flow_noise,
    flow_target,
    logit_normal_sigmas,
    min_snr_weight,
    offset_noise,
    prediction_target,
    rescale_zero_terminal_snr,
    shift_sigmas,
)
from skygen.seeding import Seeds

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ZERO_TERMINAL = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
TIMESTEPS = torch.tensor([0, 1, 2, 17, 500, 998, 999])


def draw(name: str) -> Tensor:
    return torch.randn((len(TIMESTEPS), 4, 3, 3), generator=Seeds(0).generator(name))


@pytest.mark.parametrize("scheduler", [SCHEDULER, ZERO_TERMINAL])
def test_noise_and_velocity_are_those_of_diffusers(scheduler: DDPMScheduler) -> None:
    clean, noise, table = draw("clean"), draw("noise"), scheduler.alphas_cumprod
    noisy = add_noise(clean, noise, TIMESTEPS, table)
    velocity = prediction_target(clean, noise, TIMESTEPS, table, "v_prediction")
    assert torch.allclose(noisy, scheduler.add_noise(clean, noise, TIMESTEPS), atol=1e-6)
    assert torch.allclose(velocity, scheduler.get_velocity(clean, noise, TIMESTEPS), atol=1e-6)
    assert torch.equal(prediction_target(clean, noise, TIMESTEPS, table, "epsilon"), noise)


def test_noise_and_velocity_are_right_in_double_precision() -> None:
    clean, noise, table = draw("clean").double(), draw("noise").double(), SCHEDULER.alphas_cumprod.double()
    alphas = table[TIMESTEPS][:, None, None, None]
    exact = alphas.sqrt() * clean + (1 - alphas).sqrt() * noise
    assert (add_noise(clean, noise, TIMESTEPS, table).double() - exact).abs().max() < 1e-6
    exact = alphas.sqrt() * noise - (1 - alphas).sqrt() * clean
    assert (prediction_target(clean, noise, TIMESTEPS, table, "v_prediction").double() - exact).abs().max() < 1e-6


def test_half_precision_latents_get_their_noise_all_the_same() -> None:
    """diffusers' own add_noise leaves them as they are at the first timesteps."""
    clean, noise = draw("clean").bfloat16(), draw("noise").bfloat16()
    exact = add_noise(clean.float(), noise.float(), TIMESTEPS, SCHEDULER.alphas_cumprod)
    noisy = add_noise(clean, noise, TIMESTEPS, SCHEDULER.alphas_cumprod)
    assert noisy.dtype == torch.float32
    assert torch.equal(noisy, exact)
    assert (noisy - clean.float())[:2].abs().mean() > 0.01


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_is_that_of_diffusers(prediction_type: PredictionType) -> None:
    timesteps = torch.arange(0, 1000, 37)
    snr = compute_snr(SCHEDULER, timesteps)
    expected = snr.clamp(max=5.0) / (snr if prediction_type == "epsilon" else snr + 1)
    weights = min_snr_weight(timesteps, SCHEDULER.alphas_cumprod, 5.0, prediction_type)
    assert torch.allclose(weights, expected.float(), rtol=1e-4)
    assert weights.min() < 0.01 < 0.8 < weights.max()


def test_min_snr_is_finite_for_v_where_no_signal_is_left() -> None:
    timesteps = torch.arange(1000)
    weights = min_snr_weight(timesteps, ZERO_TERMINAL.alphas_cumprod, 5.0, "v_prediction")
    assert ZERO_TERMINAL.alphas_cumprod[-1] == 0
    assert weights.isfinite().all()
    assert weights[-1] == 0
    assert (weights[:-1] > 0).all()


def test_without_a_cap_all_timesteps_weigh_alike() -> None:
    assert torch.equal(min_snr_weight(TIMESTEPS, SCHEDULER.alphas_cumprod, 0.0, "epsilon"), torch.ones(len(TIMESTEPS)))


def test_offset_noise_adds_one_number_a_channel() -> None:
    noise = draw("noise")
    added = offset_noise(noise, 0.1, Seeds(0).generator("offset")) - noise
    assert torch.allclose(added, added[:, :, :1, :1].expand_as(added), atol=1e-6)
    assert 0.03 < added[:, :, 0, 0].std() < 0.3
    assert offset_noise(noise, 0.0, Seeds(0).generator("offset")) is noise


def test_stable_diffusions_schedule_is_rescaled_as_published() -> None:
    """Lin et al. 2024, table 1: SNR 0.004682 and signal 0.068265 at the end of Stable Diffusion's; the aim is 0."""
    table = SCHEDULER.alphas_cumprod
    assert float(table[-1] / (1 - table[-1])) == pytest.approx(0.004682, abs=5e-7)
    assert float(table[-1].sqrt()) == pytest.approx(0.068265, abs=5e-7)
    rescaled = rescale_zero_terminal_snr(table)
    assert rescaled.dtype == torch.float32
    assert rescaled[-1] == 0
    assert float(rescaled[0]) == pytest.approx(float(table[0]), rel=1e-6)
    assert (rescaled.diff() < 0).all()
    assert torch.allclose(rescaled, ZERO_TERMINAL.alphas_cumprod, atol=1e-5)
    assert torch.allclose(rescale_zero_terminal_snr(rescaled), rescaled, atol=1e-7)


def test_min_snr_is_of_the_table_after_the_rescaling() -> None:
    """Of the table before it, the weight at timestep 990 would be 5 times too large and more."""
    timesteps = torch.tensor([900, 990])
    rescaled = min_snr_weight(timesteps, rescale_zero_terminal_snr(SCHEDULER.alphas_cumprod), 5.0, "v_prediction")
    final = min_snr_weight(timesteps, ZERO_TERMINAL.alphas_cumprod, 5.0, "v_prediction")
    assert torch.allclose(rescaled, final, rtol=1e-2)
    assert (min_snr_weight(timesteps, SCHEDULER.alphas_cumprod, 5.0, "v_prediction") > 1.5 * rescaled).all()


def test_flow_goes_straight_from_the_image_to_the_noise() -> None:
    clean, noise = draw("clean"), draw("noise")
    sigmas = torch.linspace(0, 1, len(TIMESTEPS))
    noisy, velocity = flow_noise(clean, noise, sigmas), flow_target(clean, noise)
    assert torch.equal(noisy[0], clean[0])
    assert torch.equal(noisy[-1], noise[-1])
    assert torch.allclose(noisy, clean + sigmas[:, None, None, None] * velocity, atol=1e-6)
    half = flow_noise(clean.bfloat16(), noise.bfloat16(), sigmas)
    assert half.dtype == flow_target(clean.bfloat16(), noise.bfloat16()).dtype == torch.float32
    assert torch.equal(half, flow_noise(clean.bfloat16().float(), noise.bfloat16().float(), sigmas))


def test_noise_levels_are_logit_normal() -> None:
    sigmas = logit_normal_sigmas(20000, Seeds(0).generator("sigmas"), mean=0.5, deviation=2.0)
    logits = torch.logit(sigmas.double())
    assert ((sigmas > 0) & (sigmas < 1)).all()
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(logits.std()) == pytest.approx(2.0, abs=0.05)
    assert torch.equal(logit_normal_sigmas(5, Seeds(1).generator("s")), logit_normal_sigmas(5, Seeds(1).generator("s")))
    assert float(logit_normal_sigmas(20000, Seeds(0).generator("sigmas")).mean()) == pytest.approx(0.5, abs=0.01)


def test_noise_levels_are_shifted_as_the_scheduler_shifts_them() -> None:
    plain = FlowMatchEulerDiscreteScheduler(shift=1.0).sigmas
    assert torch.allclose(shift_sigmas(plain, 3.0), FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas, atol=1e-6)
    assert torch.equal(shift_sigmas(plain, 1.0), plain)
    assert shift_sigmas(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == [0.0, 0.75, 1.0]
