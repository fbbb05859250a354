"""Killed, stopped, and shared by two processes: the losses stay what they were."""

import os
import signal
import time
from pathlib import Path

import pytest
from tiny_training import losses, pictures, tiny
from training_processes import alone, start, together

from ssleval.train.learner import Learner
from ssleval.train.log import read_log
from ssleval.train.loop import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


def test_a_killed_run_goes_on_as_if_it_had_not_been(data: str, tmp_path: Path) -> None:
    settings = ("run.epochs=8", "run.log_every=1")
    process = start(alone, settings, data, tmp_path / "killed")
    deadline = time.monotonic() + 120
    while len(read_log(tmp_path / "killed")) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert train(tiny(*settings), data, tmp_path / "killed", resume=True).finished
    train(tiny(*settings), data, tmp_path / "whole")
    assert losses(read_log(tmp_path / "killed")) == losses(read_log(tmp_path / "whole"))


def test_sigterm_saves_the_step_it_came_in(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def told(self: Learner, *args: object, **kwargs: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Learner, "step", told)
    stopped = train(tiny(), data, tmp_path / "stopped")
    assert (stopped.step, stopped.finished) == (1, False)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert train(tiny(), data, tmp_path / "stopped", resume=True).finished
    train(tiny(), data, tmp_path / "whole")
    assert losses(read_log(tmp_path / "stopped")) == losses(read_log(tmp_path / "whole"))


def test_two_processes_do_what_one_does(data: str, tmp_path: Path) -> None:
    # Stochastic depth is drawn by each process for itself; everything else is of the whole batch.
    settings = ("model.drop_path=0", "loss.ibot=1", "run.precision=fp32", "run.evaluate_every=2")
    processes = [
        start(together, rank, tmp_path / "meeting", settings, data, tmp_path / "two") for rank in range(2)
    ]
    train(tiny(*settings), data, tmp_path / "one")
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    one, two = (losses(read_log(tmp_path / name)) for name in ("one", "two"))
    assert len(one) == 6
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=2e-4)
    # The first evaluates alone: the other waits for it in the loop, not among the features.
    assert [line["step"] for line in read_log(tmp_path / "two") if "evaluation" in line] == [5]
