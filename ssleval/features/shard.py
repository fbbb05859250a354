"""Which part of the work this process does, where several share one run (`torchrun`), and what they agree on.

Processes meet at points with names. At each, every process sends a value or an error, and gets those of all:
an error of one is raised in all, so that none waits for another that has gone on.
"""

import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ssleval import errors
from ssleval.core.devices import usable_device
from ssleval.core.faults import forget_frames, located
from ssleval.errors import ConfigError, ContractError, SslevalError
from ssleval.features.group import PeerError, current_group, described

T = TypeVar("T")
R = TypeVar("R")

_CURRENT: ContextVar["Shard | None"] = ContextVar("shard", default=None)


@dataclass(frozen=True, slots=True)
class Message:
    """What one process sends to all at a point where they meet."""

    point: str
    value: Any = None
    error: tuple[str, str] | None = None
    """Name of a class in `ssleval.errors`, '' where it is no error of ours, and the text."""
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``world`` processes; nothing is padded to share it out."""

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = field(default=lambda message: [message], compare=False, repr=False)
    """Sends a message to all processes and returns theirs, by rank."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that evaluates and records."""
        return self.rank == 0

    def part_of(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this process, which follow each other, so that it reads files to their end."""
        first, end = (len(items) * rank // self.world for rank in (self.rank, self.rank + 1))
        return items[first:end]

    def exchange(self, point: str, value: T) -> list[T]:
        """Return the values of all processes, by rank, once all are at this ``point``.

        Raises:
            SslevalError: the error of the first process that has one.
            PeerError: a process has died, or ended by an error that is none of ours.
        """
        if self.world == 1:
            return [value]
        return [message.value for message in self._meet(Message(point, value))]

    @contextmanager
    def agreed(self, point: str) -> Generator[None]:
        """Raise in all processes what is raised inside in one; leave once all are done.

        Inside, processes may meet at other points, but may not wait for each other in other ways.
        """
        try:
            yield
        except Exception as error:
            if self.world > 1 and not getattr(error, "agreed", False):
                self._meet(Message(point, error=_sent(error)), error)
            raise
        self.exchange(point, None)

    def from_leader(self, point: str, produce: Callable[[], T]) -> T:
        """Return what ``produce`` returns in the first process, where alone it is called."""
        with self.agreed(point):
            value = produce() if self.leads else None
        return self.exchange(point, value)[0]  # pyright: ignore[reportReturnType]

    def shared(self, point: str, items: Sequence[T], function: Callable[[T], R]) -> Iterator[R]:
        """Yield ``function(item)`` for all items in order; every process computes its share of them.

        Values must not depend on those of earlier items. They are sent, so they must not lie on a GPU.
        """
        for start in range(0, len(items), self.world):
            mine = start + self.rank
            value = function(items[mine]) if mine < len(items) else None
            yield from self.exchange(point, value)[: len(items) - start]  # pyright: ignore[reportReturnType]

    def total(self, point: str, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on the device of this one's; it may be changed."""
        if self.world == 1:
            return tensor
        if distributed.is_initialized():
            distributed.all_reduce(tensor)
            return tensor
        return torch.stack(self.exchange(point, tensor)).sum(0)

    def same(self, point: str, facts: Mapping[str, Any]) -> None:
        """Refuse, by a ConfigError, a process that has other ``facts`` than the first."""
        if self.world == 1:
            return
        first, *others = self._meet(Message(point, dict(facts)))
        for rank, other in enumerate(others, 1):
            for name, value in first.value.items():
                if (theirs := other.value.get(name)) != value:
                    told = f"{point}: rank {rank} on {other.host} has {name} {theirs}, rank 0 has {value}"
                    raise self.met_by_all(ConfigError(f"{told}; give all processes the same"))

    def _meet(self, message: Message, error: Exception | None = None) -> list[Message]:
        """Send a message and return those of all; ``error`` is this process's own, which it sends."""
        messages: list[Message] = self.gather(message)
        failed = [(rank, other.error) for rank, other in enumerate(messages) if other.error is not None]
        if failed:
            # First what no process goes on after.
            rank, (kind, text) = min(failed, key=lambda one: (bool(one[1][0]), one[0]))
            if error is not None and (rank == self.rank == 0 or not isinstance(error, SslevalError)):
                raise self.met_by_all(error)
            if rank:
                text = f"rank {rank} on {messages[rank].host}: {text}"
            raise self.met_by_all(getattr(errors, kind)(text) if kind else PeerError(text)) from error
        if len({other.point for other in messages}) > 1:
            points = ", ".join(f"rank {rank}: {other.point}" for rank, other in enumerate(messages))
            raise self.met_by_all(ContractError(f"the processes do not do the same work ({points})"))
        return messages

    def met_by_all(self, error: Exception) -> Exception:
        """Note on an error that all processes have met it, and whether another says it."""
        ours = isinstance(error, SslevalError | PeerError)
        vars(error).update(agreed=True, silent=ours and not self.leads)
        return error


def _sent(error: Exception) -> tuple[str, str]:
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
    return (kinds[0], str(error)) if kinds else ("", located(error))


def current_shard() -> Shard:
    """Return the share of this process, joining the group that `torchrun` describes where none is joined.

    Raises:
        ConfigError: the group cannot be joined, or its processes do not fit together.
    """
    if (current := _CURRENT.get()) is not None:
        return current
    if not distributed.is_available() or not (distributed.is_initialized() or described()):
        return Shard()
    if distributed.is_initialized() and distributed.get_world_size() == 1:
        return Shard()
    group = current_group()
    return Shard(group.rank, group.world, group.gather)


@contextmanager
def watching_peers() -> Generator[None]:
    """Raise a PeerError for work inside that fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if current_shard().world > 1 and (lost := current_group().lost()) is not None:
            forget_frames(error)
            raise lost from error
        raise


@contextmanager
def acting_as(shard: Shard) -> Generator[None]:
    """Do the share of ``shard`` inside, whatever group this process belongs to."""
    before = _CURRENT.set(shard)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def alone() -> AbstractContextManager[None]:
    """Let this process do all the work itself, for what the others of its group take no part in."""
    return acting_as(Shard())


def local_device(device: str) -> str:
    """Return the accelerator of this process where several share a machine and ``device`` names none.

    Raises:
        ConfigError: this machine has no such device.
    """
    device, local = usable_device(device), os.environ.get("LOCAL_RANK")
    return usable_device(f"cuda:{local}" if device == "cuda" and local is not None else device)
