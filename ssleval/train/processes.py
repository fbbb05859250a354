"""The processes that train one network together."""

from torch import Tensor, distributed


def world_size() -> int:
    """Return the number of processes; 1 outside a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up ``tensor`` over all processes, in place, and return it."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor
