"""Several ranks in one process: a thread each, which send each other messages through memory."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ssleval.features.shard import Message, Shard, acting_as

T = TypeVar("T")


class Meeting:
    """Where threads meet; one that is left alone fails instead of waiting for ever."""

    def __init__(self, world: int) -> None:
        self.points: list[str] = []
        self._messages: dict[int, Message] = {}
        self._barrier = threading.Barrier(world, timeout=60)

    def gather(self, message: Message, rank: int) -> list[Message]:
        self._messages[rank] = message
        self._barrier.wait()
        messages = [self._messages[rank] for rank in sorted(self._messages)]
        if self._barrier.wait() == 0:
            self.points.append(message.point)
        return messages


def in_ranks(world: int, work: Callable[[Shard], T], meeting: Meeting | None = None) -> list[T | Exception]:
    """Return what ``work`` returns or raises in every rank."""
    meeting, outcomes = meeting or Meeting(world), dict[int, Any]()

    def one(rank: int) -> None:
        shard = Shard(rank, world, lambda message: meeting.gather(message, rank))
        try:
            with acting_as(shard):
                outcomes[rank] = work(shard)
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[rank] for rank in range(world)]
