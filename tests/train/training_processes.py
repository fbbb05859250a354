"""What the tests of the trainer run in processes of their own."""

import multiprocessing
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tiny_training import tiny
from torch import distributed

from ssleval.train.loop import train


def start(target: object, *arguments: object) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssleval.train"])
    process = context.Process(target=target, args=arguments)  # pyright: ignore[reportArgumentType]
    process.start()
    return process


def alone(settings: tuple[str, ...], data: str, out: Path) -> None:
    """Train."""
    train(tiny(*settings), data, out)


def together(rank: int, meeting: Path, settings: tuple[str, ...], data: str, out: Path) -> None:
    """Train as one of two processes."""
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    train(tiny(*settings), data, out)
    distributed.destroy_process_group()
