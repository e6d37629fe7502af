"""A frozen base too large for one GPU: its weights are dealt out to the processes, and each block is gathered when it computes.

What is trained stays whole on every process, as the loop, the checkpoints and the adapters know it.
"""

from __future__ import annotations

from collections.abc import Iterable

from accelerate import Accelerator, DistributedType
from torch import nn

from skygen.errors import ConfigError


def shard_frozen(network: nn.Module, trained: Iterable[nn.Parameter], accelerator: Accelerator) -> bool:
    """Shard the frozen parameters of a network where the launcher was told to (``recipes/launch/fsdp.yaml``).

    FSDP2 of torch: a block's weights are gathered for its forward and again for its backward pass. Call it once, when the
    adapter is attached and before the first step. From then on all processes must call the network equally often.

    Args:
        network: whose class names in ``_no_split_modules`` what is gathered together, as those of diffusers and transformers.
        trained: parameters that stay whole on every process.
        accelerator: of the run.

    Returns:
        Whether it is sharded.

    Raises:
        ConfigError: the network names no blocks, or nothing of it is frozen.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = set(getattr(network, "_no_split_modules", None) or ())
    blocks = [module for module in network.modules() if type(module).__name__ in names and module is not network]
    if not blocks:
        raise ConfigError(
            f"{type(network).__name__}: says of no block that it is gathered as one, so FSDP cannot shard it; start with "
            "recipes/launch/many_gpus.yaml."
        )
    whole = set(trained)
    if all(parameter in whole for parameter in network.parameters()):
        raise ConfigError("FSDP shards what is frozen, and all of this model is trained; give a LoRA with --lora.rank.")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*reversed(blocks), network):  # the inner before the outer
        fully_shard(module, mesh=mesh, ignored_params=whole)
    return True


def is_sharded(network: nn.Module) -> bool:
    """Say whether parameters of a network are dealt out to the processes, so that all of them have to call it together."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in network.parameters())
