"""What a denoiser takes a picture to be while it is still drawn.

Half-way the latents are half noise, and what is decoded of them looks alike whatever is drawn. What the denoiser predicts at
that step says which picture it is going for. Its call is listened to, so that it does not matter which scheduler steps.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, final

from jaxtyping import Float, Num
from torch import Tensor

from skygen.models.diffusions.family import DiffusionFamily


@final
class CleanEstimate:
    """Listens to a denoiser for a while.

    Args:
        family: the loaded pipeline.
        guidance_scale: weight of the prompt; above 1 each call holds the null prompts, then the prompts.
    """

    def __init__(self, family: DiffusionFamily, guidance_scale: float) -> None:
        self._noising, self._guidance_scale = family.noising, guidance_scale
        self._network: Any = getattr(family.pipeline, family.network_name)
        self._call: tuple[Tensor, Tensor, Tensor] | None = None

    def __enter__(self) -> CleanEstimate:
        self._handle = self._network.register_forward_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._handle.remove()

    def read(self) -> Float[Tensor, "batch channels height width"]:
        """Return the clean latents that the last call means, guidance included, scaled, float32."""
        assert self._call is not None, "the denoiser has not been called"
        noisy, times, prediction = self._call
        if self._guidance_scale > 1:
            null, told = prediction.float().chunk(2)
            noisy, times, prediction = noisy.chunk(2)[1], times.chunk(2)[1], null + self._guidance_scale * (told - null)
        return self._noising.estimate_clean(noisy, prediction, times)

    def _note(self, network: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        """Keep a call: UNets of diffusers get latents and timestep by position, transformers by name."""
        noisy = arguments[0] if arguments else named["hidden_states"]
        time = arguments[1] if len(arguments) > 1 else named["timestep"]
        prediction = output[0] if isinstance(output, tuple) else output.sample
        self._call = noisy, _one_a_row(time, noisy), prediction


def _one_a_row(time: Any, noisy: Float[Tensor, "rows channels height width"]) -> Num[Tensor, " rows"]:
    times: Tensor = time if isinstance(time, Tensor) else noisy.new_tensor(time)
    return times.to(noisy.device).reshape(-1).expand(len(noisy))
