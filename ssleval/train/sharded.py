"""Weights, gradients and optimiser state sharded over processes (FSDP2), and gathered again.

Each process holds a shard of every tensor and gathers a block only while it computes with it. Checkpoints
and models hold full tensors, so that any number of processes can resume from them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ssleval.backbones.vit import Vit
from ssleval.errors import ConfigError
from ssleval.train.gram import GramTeacher
from ssleval.train.networks import Network
from ssleval.train.processes import world_size


def shard(network: Network | GramTeacher, device: torch.device) -> None:
    """Shard ``network`` over all processes, on ``device``: each block, then the rest."""
    if world_size() == 1:
        raise ConfigError(
            "train: run.shard shards a network over processes, and there is one; start several with "
            "torchrun --nproc-per-node N -m ssleval train ..., or leave it out"
        )
    blocks = network.backbone.blocks if isinstance(network.backbone, Vit) else []
    mesh = init_device_mesh(device.type, (world_size(),))
    # By default the outermost module stays gathered until the backward pass, and a teacher has none.
    for part in (*blocks, network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def gathered(state: Any, *, keep: bool = True) -> Any:
    """Return a state with sharded tensors in full, on the CPU. Every process must call it.

    ``keep=False`` drops the full tensors, for processes that do not write them.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, Mapping):
        return {name: gathered(value, keep=keep) for name, value in state.items()}
    if isinstance(state, list):
        return [gathered(value, keep=keep) for value in state]
    return state


def as_sharded(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return a full state, sharded as the tensors of ``network`` are."""
    ours = network.state_dict()
    return {name: _like(value, ours[name]) if name in ours else value for name, value in state.items()}


def optimizer_as_sharded(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the full state of an optimiser, sharded as its weights are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = {
        index: {name: _like(value, weights[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}


def _like(value: Any, ours: Tensor) -> Any:
    # The step counters of an optimiser are scalars, which every process holds itself.
    if not isinstance(ours, DTensor) or value.shape != ours.shape:
        return value
    return distribute_tensor(value.to(ours.device), ours.device_mesh, ours.placements, src_data_rank=None)
