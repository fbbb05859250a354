"""The processes that train one network together."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def world_size() -> int:
    """Return the number of processes; 1 outside a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up ``tensor`` over all processes, in place, and return it."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def gathered(tensor: Float[Tensor, "v b *d"]) -> Float[Tensor, "v n *d"]:
    """Return the rows of all processes, first those of the first. Each process has as many.

    A gradient goes back to the process that a row is of, added up over the losses of all processes.
    """
    return _Gather.apply(tensor) if world_size() > 1 else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        del ctx
        # NCCL takes contiguous memory alone.
        gradient = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        return sum_over_processes(gradient).chunk(world_size(), dim=1)[rank()]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Return the mean over all processes, through which gradients flow to each of them."""
    return gathered(tensor.unsqueeze(1)).mean(dim=1)
