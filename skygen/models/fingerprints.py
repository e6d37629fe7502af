"""A short name for weights: other values have another one."""

from __future__ import annotations

from hashlib import sha256

import torch
from torch import nn


def fingerprint_weights(module: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Name the weights and buffers of a module, a LoRA on it not counted.

    SHA-256 of every value: about a second for each gigabyte.

    Args:
        module: of any size.
        dtype: what floating-point values are rounded to before; with bfloat16 a model has one name however it was loaded.

    Returns:
        16 hexadecimal digits.
    """
    digest = sha256()
    for name, tensor in module.state_dict().items():
        if ".lora_" in name:
            continue
        rounded = tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        digest.update(f"{name.replace('.base_layer.', '.')} {tuple(rounded.shape)} {rounded.dtype} ".encode())
        digest.update(rounded.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
