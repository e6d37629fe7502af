"""What the processes of a run do together: add up their losses and gradients, and see that they hold the same parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int64
from torch import Tensor, nn

from skygen.errors import SkygenError


def sum_over_processes(
    accelerator: Accelerator,
    losses: Sequence[Float[Tensor, ""]],
    counts: Sequence[float],
    parameters: Mapping[str, nn.Parameter],
) -> Float[Tensor, " sums"]:
    """Add up losses, counts and gradients over all processes; the gradients are replaced by their sums.

    Args:
        accelerator: of the run.
        losses: of this process, on the device.
        counts: of this process.
        parameters: whose gradients are meant; one without counts as zero.

    Returns:
        The loss, then the counts; float64 (float32 on Apple's GPUs, which have no other), on the device.
    """
    device = accelerator.device
    precision = torch.float32 if device.type == "mps" else torch.float64
    counted = torch.tensor(list(counts), dtype=precision).to(device, non_blocking=True)
    loss = torch.stack(list(losses)).to(precision).sum() if losses else torch.zeros((), dtype=precision, device=device)
    own = torch.cat([loss[None], counted])
    if accelerator.num_processes == 1:
        return own
    own = accelerator.reduce(own, "sum")
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters.values()]
    flat = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
    parts = flat.split([gradient.numel() for gradient in gradients])
    for parameter, part in zip(parameters.values(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return own


def clip_mean_gradient(parameters: Sequence[nn.Parameter], images: Float[Tensor, ""], max_norm: float) -> Float[Tensor, ""]:
    """Turn summed gradients into the mean over ``images`` and clip them.

    Args:
        parameters: whose gradients are meant; a list, since an iterator would be empty after its first use.
        images: examples that the sums are over; 0 counts as 1.
        max_norm: of all gradients together; 0 leaves them as they are.

    Returns:
        Their norm before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:  # none yet where not one image of the first update could be read
        torch._foreach_mul_(gradients, (1.0 / images.clamp(min=1)).float())
    return torch.nn.utils.clip_grad_norm_(list(parameters), max_norm or float("inf")).to(images.device)


def checksum(tensors: Mapping[str, Tensor]) -> Int64[Tensor, " tensors"]:
    """Return the sum of the bits of each float32 tensor, read as 32-bit integers: any one value that differs changes it."""
    return torch.stack([tensor.detach().view(torch.int32).sum(dtype=torch.int64) for tensor in tensors.values()])


def require_agreement(accelerator: Accelerator, step: int, tensors: Mapping[str, Tensor]) -> None:
    """See that every process has done the same number of updates and holds the same values, bit for bit.

    It costs one pass over the tensors and one gathering of 8 bytes a tensor.

    Args:
        accelerator: of the run; a single process agrees with itself.
        step: updates done.
        tensors: of float32, by name, the same names everywhere.

    Raises:
        SkygenError: on every process; another step or value somewhere than on the first process.
    """
    if accelerator.num_processes == 1:
        return
    own = torch.cat([torch.tensor([step], dtype=torch.int64, device=accelerator.device), checksum(tensors)])
    first, *others = accelerator.gather(own[None]).cpu()
    for rank, other in enumerate(others, start=1):
        if int(other[0]) != int(first[0]):
            raise SkygenError(
                f"process {rank} goes on after step {int(other[0])} and process 0 after step {int(first[0])}; put --run.root "
                "on a disk that all machines share, and run the same command again."
            )
        differing = (other[1:] != first[1:]).nonzero().flatten().tolist()
        if differing:
            name = list(tensors)[differing[0]]
            raise SkygenError(
                f"step {step}: {name} and {len(differing) - 1} more of {len(tensors)} trained parameters differ between "
                f"process {rank} and process 0, so nothing is saved; run the same command again, which continues from the last "
                "checkpoint, and if it happens again, look for a faulty device among these processes."
            )
