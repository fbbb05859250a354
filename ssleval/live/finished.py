"""Finished results in the tools that people track experiments with: a run for every model."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ssleval.live.evaluator import scores
from ssleval.live.trackers import Tool, check_trackers, tracker
from ssleval.results import Result


@contextmanager
def tracked(names: Sequence[str], folder: Path) -> Generator[Callable[[Result], None]]:
    """Yield what logs a result to the tools called ``names``; results of a model that follow share a run.

    Event files are written below ``folder``. What is wrong with a name is raised at once.
    """
    check_trackers(names)
    begun: dict[str, list[Tool]] = {}
    with ExitStack() as runs:

        def track(result: Result) -> None:
            if result.model not in begun:
                runs.close()
                begun.clear()
                begun[result.model] = [tracker(name, folder, result.model) for name in names]
                for log in begun[result.model]:
                    runs.callback(log.close)
            for log in begun[result.model]:
                log.log(scores([result]), step=0)

        yield track
