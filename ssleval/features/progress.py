"""A progress bar on stderr, with images per second and time left."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ssleval.core.escape import terminal_line


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def progress(label: str, total: int, done: int, *, show: bool) -> Generator[Callable[[int], None]]:
    """Yield a function that advances a bar of ``total`` images, ``done`` of them before; terminals only."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    hidden = not (show and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task(terminal_line(label), total=total, completed=done)
        yield lambda images: bar.update(task, advance=images)
