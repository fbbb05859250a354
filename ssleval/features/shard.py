"""Which part of the batches this process extracts, where several share one pass (`torchrun`)."""

import atexit
import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import distributed

from ssleval.core.devices import usable_device

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``world`` processes; it takes batches ``rank, rank + world, ...``, and nothing is padded."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that evaluates and records."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            # torch's own barrier would pick a GPU where there are some; of a number on the CPU it is gloo's.
            distributed.all_reduce(torch.zeros(()))

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in some process, once every process is here."""
        flags = torch.tensor(float(flag))
        if self.world > 1:
            distributed.all_reduce(flags)
        return bool(flags)

    def agrees(self, number: int) -> bool:
        """Return whether ``number``, of at most 32 bits, is the same in all processes."""
        total = torch.tensor(number, dtype=torch.float64)
        if self.world > 1:
            distributed.all_reduce(total)
        return int(total) == number * self.world


def current_shard() -> Shard:
    """Return the share of this process, joining the group that `torchrun` describes where none is joined."""
    if _ALONE.get() or not distributed.is_available():
        return Shard()
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Shard()
        # Numbers on the CPU go by gloo in either case; NCCL joins when the first tensor of a GPU does.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return Shard(distributed.get_rank(), distributed.get_world_size())


def _leave() -> None:
    # While the interpreter still runs: gloo's threads drop tensors, which needs Python, and a group that is
    # alive when the interpreter ends can abort the process after its work is done.
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def alone() -> Generator[None]:
    """Let this process do all the work itself, for what the others of its group take no part in."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def local_device(device: str) -> str:
    """Return the accelerator of this process where several share a machine and ``device`` names none.

    Raises:
        ConfigError: this machine has no such device.
    """
    device, local = usable_device(device), os.environ.get("LOCAL_RANK")
    return usable_device(f"cuda:{local}" if device == "cuda" and local is not None else device)
