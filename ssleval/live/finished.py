"""Finished results in the tools that people track experiments with: a run for every model."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssleval.live.evaluator import scores
from ssleval.live.trackers import check_trackers, tracker
from ssleval.results import Result


@contextmanager
def tracked(names: Sequence[str], folder: Path) -> Generator[Callable[[Result], None]]:
    """Yield what logs a result to the tools called ``names``; results of a model that follow share a run.

    Event files are written below ``folder``. What is wrong with a name is raised at once.
    """
    check_trackers(names)
    begun: dict[str, list[Any]] = {}

    def end() -> None:
        for log in (log for logs in begun.values() for log in logs):
            log.close()
        begun.clear()

    def track(result: Result) -> None:
        if result.model not in begun:
            end()
            begun[result.model] = [tracker(name, folder, result.model) for name in names]
        for log in begun[result.model]:
            log.log(scores([result]), step=0)

    try:
        yield track
    finally:
        end()
