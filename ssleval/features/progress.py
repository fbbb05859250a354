"""Progress on stderr, with images per second and time left: a bar on a terminal, else lines for a log."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta

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

INTERVAL = 30.0
"""Seconds between two lines of a log."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def progress(
    label: str,
    total: int,
    done: int,
    *,
    show: bool,
    detail: Callable[[], str] = str,
    interval: float = INTERVAL,
) -> Generator[Callable[[int], None]]:
    """Yield a function that counts images on: ``total`` there are, ``done`` of them were before.

    On a terminal it advances a bar; elsewhere it writes a line every ``interval`` seconds. ``detail`` returns
    what either says beside the counts.
    """
    if show and not sys.stderr.isatty():
        yield _lines(label, total, done, detail, interval)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(terminal_line(label), total=total, completed=done, detail="")
        yield lambda images: bar.update(task, advance=images, detail=terminal_line(detail()))


def _lines(
    label: str, total: int, done: int, detail: Callable[[], str], interval: float
) -> Callable[[int], None]:
    began = said = time.monotonic()
    count = done

    def advance(images: int) -> None:
        nonlocal said, count
        count, now = count + images, time.monotonic()
        if now < said + interval:
            return
        said, speed = now, (count - done) / (now - began)
        left = timedelta(seconds=round(max(0, total - count) / speed)) if speed else "unknown time"
        line = f"ssleval: {label}: {count:,} of {total:,} images, {speed:,.1f} images/s, {left} left"
        line += f"; {detail()}" if detail() else ""
        print(terminal_line(line), file=sys.stderr, flush=True)  # noqa: T201

    return advance
