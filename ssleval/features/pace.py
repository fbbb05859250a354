"""Extraction without waiting: batches are written one behind in a thread, and what is waited for is timed."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ssleval.core import Context
from ssleval.core.devices import usable_cores
from ssleval.core.text import DECODING_LIMITS, counted

T = TypeVar("T")
Later: TypeAlias = Callable[[Callable[[], None]], None]
"""Takes a call to be made in a thread; returns once the call before it is done, or raises its error."""

_LIMITS = 1 / 3
"""Part of the time that is waited for images, from which on decoding is the limit."""
_TELLING = 10.0
"""Seconds below which nobody needs to know."""


@dataclass(slots=True)
class Pace:
    """What the time of extraction goes to."""

    waited: float = 0.0
    """Seconds until images were decoded."""
    _done: float = 0.0

    def timed(self, batches: Iterable[T], context: Context) -> Iterator[T]:
        """Yield batches and add up the time until each comes; where processes must start, not the first."""
        iterator, starting = iter(batches), int(context.num_workers) > 0
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += 0.0 if starting else time.perf_counter() - started
            starting = False
            yield batch

    def count(self, begun: float, write: Callable[[], None]) -> float:
        """Write a batch whose forward pass has ``begun``; return its seconds since the one before."""
        write()
        done = time.perf_counter()
        seconds = done - max(begun, self._done)
        self._done = done
        return seconds


@contextmanager
def one_behind() -> Generator[Later]:
    """Yield what makes calls in a thread, one at a time; all are done at the end, also after an error."""
    last: Future[None] | None = None
    with ThreadPoolExecutor(1, "one-behind") as thread:

        def later(call: Callable[[], None]) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = thread.submit(call)

        yield later
        if last is not None:
            last.result()


def decoding_limits(images: int, seconds: float, waited: float, computed: float, context: Context) -> str:
    """Return in words how far decoding holds up extraction; '' where it does not, or nobody needs to know."""
    if seconds < _TELLING or waited < _LIMITS * seconds or not computed:
        return ""
    workers = int(context.num_workers)
    decoding = workers * seconds if workers else waited
    decoded = images / (seconds if workers else waited)
    enough = math.ceil(decoding / computed)
    faster = "; --pixels fast takes less than half the time" if context.pixels == "exact" else ""
    return (
        f"{DECODING_LIMITS}{decoded:,.0f} images/s by {counted(max(1, workers), 'process', 'processes')}, "
        f"{images / computed:,.0f} images/s through the model; --num-workers {enough} would keep up "
        f"({counted(usable_cores(), 'core')} here){faster}"
    )
