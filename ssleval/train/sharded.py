"""Weights, gradients and the optimiser's state shared out over processes (FSDP2), and made whole again.

A process holds its share of every tensor and sees a block whole only while it computes with it. Checkpoints
and models are whole: they do not tell how many processes wrote them, and one process can go on with them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ssleval.backbones.vit import Vit
from ssleval.errors import ConfigError
from ssleval.train.networks import Network


def share_out(network: Network, device: torch.device) -> None:
    """Give every process its part of ``network``, on ``device``: block by block, and the rest as one.

    Raises:
        ConfigError: there is one process.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        raise ConfigError(
            "train: run.shard shares a network out over processes, and there is one; start several with "
            "torchrun --nproc-per-node N -m ssleval train ..., or leave it out"
        )
    blocks = network.backbone.blocks if isinstance(network.backbone, Vit) else []
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    # The default keeps the outermost part whole until a backward pass, and a teacher has none.
    for part in (*blocks, network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(network, "assignments")


def whole(state: Any, *, keep: bool = True) -> Any:
    """Return a state with every shared tensor whole and on the CPU. All processes must ask for it.

    ``keep=False`` takes part and lets go of what comes, which is for processes that do not write it.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, Mapping):
        return {name: whole(value, keep=keep) for name, value in state.items()}
    if isinstance(state, list):
        return [whole(value, keep=keep) for value in state]
    return state


def as_placed(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return a whole state, shared out as the tensors of ``network`` are."""
    placed = network.state_dict()
    return {name: _like(value, placed[name]) if name in placed else value for name, value in state.items()}


def optimizer_as_placed(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a whole state of an optimiser, shared out as the weights are that it moves."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = {
        index: {name: _like(value, weights[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}


def _like(value: Any, placed: Tensor) -> Any:
    # An optimiser also counts steps, in a scalar that is every process's own.
    if not isinstance(placed, DTensor) or value.shape != placed.shape:
        return value
    own = value.to(placed.device)
    return distribute_tensor(own, placed.device_mesh, placed.placements, src_data_rank=None)
