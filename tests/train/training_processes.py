"""What the tests of the trainer run in processes of their own."""

import multiprocessing
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from ssleval.train import loop
from ssleval.train.config import TrainConfig
from ssleval.train.learner import Learner
from ssleval.train.loop import train
from tests.train.tiny_training import tiny


def start(target: object, *arguments: object) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.preloaded"])
    process = context.Process(target=target, args=arguments)  # pyright: ignore[reportArgumentType]
    process.start()
    return process


def alone(settings: tuple[str, ...], data: str, out: Path) -> None:
    """Train."""
    train(tiny(*settings), data, out)


def killed(step: int, settings: tuple[str, ...], data: str, out: Path) -> None:
    """Train until the system ends the process in the middle of a step."""
    _signal_in_step(step, signal.SIGKILL)
    train(tiny(*settings), data, out)


def together(rank: int, meeting: Path, settings: tuple[str, ...], data: str, out: Path, until: int) -> None:
    """Train as one of two processes, from where ``out`` stands; told to stop in step ``until``, if not 0."""
    _meet(rank, meeting)
    if until and rank == 0:
        _signal_in_step(until, signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        progress, shown = loop.progress, list[bool]()

        def noted(*arguments: Any, show: bool, **others: Any) -> Any:
            shown.append(show)
            return progress(*arguments, show=False, **others)

        patch.setattr(loop, "progress", noted)
        train(tiny(*settings), data, out, resume=True)
    # One process tells how far both are.
    assert shown == [rank == 0]
    distributed.destroy_process_group()


def as_pair(rank: int, meeting: Path, runs: list[tuple[TrainConfig, Path]], data: str) -> None:
    """Train as one of two processes, one run after the other."""
    _meet(rank, meeting)
    for config, out in runs:
        train(config, data, out)
    distributed.destroy_process_group()


def holds(rank: int, meeting: Path, config: TrainConfig, out: Path) -> None:
    """Write down how many weights of student and teacher one of two processes holds."""
    _meet(rank, meeting)
    learner = Learner(config, torch.device("cpu"))
    weights = [*learner.student.parameters(), *learner.teacher.parameters()]
    held = sum(weight.to_local().numel() for weight in weights if isinstance(weight, DTensor))
    (out / f"{rank}.txt").write_text(str(held))
    distributed.destroy_process_group()


def _meet(rank: int, meeting: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)


def _signal_in_step(number: int, what: signal.Signals) -> None:
    step, done = Learner.step, []

    def counted(self: Learner, *args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == number:
            signal.raise_signal(what)
        return step(self, *args, **kwargs)

    Learner.step = counted
