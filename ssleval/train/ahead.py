"""Views of the next step, made on a GPU while it computes this one."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise

import torch

from ssleval.train.views import Views


def made_ahead(makers: Iterable[Callable[[], Views]], device: torch.device) -> Iterator[Views]:
    """Yield what each of ``makers`` returns; on a GPU, begin the next one first, on a stream of its own.

    Elsewhere, making views earlier would only take memory.
    """
    if device.type != "cuda":
        for make in makers:
            yield make()
        return
    side = torch.cuda.Stream(device)

    def begun() -> Iterator[tuple[Views, torch.cuda.Event]]:
        for make in makers:
            # Left before the generator pauses: the stream is of the thread, not of the generator.
            with torch.cuda.stream(side):
                views, done = make(), torch.cuda.Event()
            done.record(side)
            yield views, done

    for now, _ in pairwise(chain(begun(), [None])):
        assert now is not None
        views, done = now
        here = torch.cuda.current_stream(device)
        here.wait_event(done)
        for part in (views.globals, views.locals, views.undistorted):
            if part is not None:
                # Its memory was taken on the other stream, which must not reuse it too early.
                part.record_stream(here)
        yield views
