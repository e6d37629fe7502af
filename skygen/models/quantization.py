"""How the weights of a large base are held in memory."""

from __future__ import annotations

from typing import Any, Literal

from skygen.errors import UnavailableError

Quantization = Literal["none", "nf4"]


def loading_options(dtype: Literal["float32", "bfloat16"], quantization: Quantization) -> dict[str, Any]:
    """Return what ``from_pretrained`` is given.

    Args:
        dtype: of the weights; of the arithmetic, where they are quantized.
        quantization: ``nf4``: 4-bit NormalFloat with doubly quantized scales (Dettmers et al. 2023, QLoRA).

    Raises:
        UnavailableError: no library for it, or no GPU.
    """
    import torch

    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if quantization == "none":
        return options
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise UnavailableError("--model.quantization nf4 needs bitsandbytes: pip install 'skygen[quantized]'.")
    if not torch.cuda.is_available():
        raise UnavailableError("--model.quantization nf4 needs a GPU, and torch sees none; leave it out.")
    from transformers import BitsAndBytesConfig

    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=options["dtype"],
    )
    return options | {"device_map": {"": torch.cuda.current_device()}}
