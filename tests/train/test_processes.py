"""Killed, stopped, and shared by two processes: the losses stay what they were."""

import shutil
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from ssleval.errors import ConfigError
from ssleval.train import sharded
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.networks import untrained
from ssleval.train.state import read_state
from tests.train.tiny_training import losses, pictures, tiny
from tests.train.training_processes import holds, killed, start, together


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("step", [4, 7])
def test_a_killed_run_goes_on_as_if_it_had_not_been(data: str, tmp_path: Path, step: int) -> None:
    settings = ("run.epochs=4", "run.log_every=1")
    process = start(killed, step, settings, data, tmp_path / "killed")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 0 < len(read_log(tmp_path / "killed")) < step
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


# Stochastic depth is drawn by each process for itself; everything else is of the whole batch.
SHARED = ("model.drop_path=0", "loss.ibot=1", "run.precision=fp32", "run.evaluate_every=2")


# Its teacher is a copy after one step and again after two.
GRAM = (
    "gram.weight=2", "gram.start_epochs=0.34", "gram.renewals=1", "gram.renew_epochs=0.34",
    "gram.crop_size=32", "gram.tokens=masked",
)  # fmt: skip


def as_two(settings: tuple[str, ...], data: str, out: Path, *, until: int = 0) -> None:
    """Train in two processes, from where ``out`` stands to the end or to a step."""
    with TemporaryDirectory() as meeting:
        arguments = (Path(meeting) / "file", settings, data, out, until)
        for process in [start(together, rank, *arguments) for rank in range(2)]:
            process.join(180)
            assert process.exitcode == 0


@pytest.fixture(scope="module")
def one(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process does."""
    out = tmp_path_factory.mktemp("alone") / "one"
    train(tiny(*SHARED), data, out)
    return out


@pytest.mark.parametrize(
    "settings",
    [
        (),
        pytest.param(("run.shard=true",), marks=pytest.mark.slow),
        ("run.shard=true", "run.accumulate=2"),
    ],
)
def test_two_processes_do_what_one_does(
    data: str, tmp_path: Path, one: Path, settings: tuple[str, ...]
) -> None:
    as_two((*SHARED, *settings), data, tmp_path / "two")
    ours, theirs = losses(read_log(tmp_path / "two")), losses(read_log(one))
    assert len(ours) == 6
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=2e-4)
    # The first evaluates alone: the other waits for it in the loop, not among the features.
    assert [line["step"] for line in read_log(tmp_path / "two") if "evaluation" in line] == [5]
    same_files(tmp_path / "two", one)


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        # No class token is charged, and patches have a head of their own.
        (("loss.dino=0", "loss.shared_head=false", "head.patch_prototypes=20"), ()),
        (("loss.distill={teacher}",), ("run.shard=true",)),
        pytest.param(GRAM, (), marks=pytest.mark.slow),
        ((*GRAM, "loss.local=0.5", "head.weight_norm=false"), ("run.shard=true", "run.accumulate=2")),
    ],
    ids=["ibot alone", "distilled", "gram", "gram, shared out"],
)
def test_two_processes_do_so_whatever_is_charged(
    data: str, tmp_path: Path, one: Path, settings: tuple[str, ...], more: tuple[str, ...]
) -> None:
    teacher = one / "checkpoints" / "last.pt"
    stated = (*SHARED, "run.epochs=1", *(setting.format(teacher=teacher) for setting in settings))
    train(tiny(*stated), data, tmp_path / "one")
    as_two((*stated, *more), data, tmp_path / "two")
    ours, theirs = (losses(read_log(tmp_path / name)) for name in ("two", "one"))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=2e-4)


def same_files(ours: Path, theirs: Path) -> None:
    """Compare the models of two runs, and what their checkpoints hold, which must be whole."""
    mine, yours = (load_file(folder / "teacher.safetensors") for folder in (ours, theirs))
    torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-4)
    one, two = (read_state(folder / "checkpoints" / "last.pt") for folder in (ours, theirs))
    torch.testing.assert_close(one["student"], two["student"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one["optimizer"]["state"], two["optimizer"]["state"], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("clip_by", ["tensor", "module"])
def test_a_network_shared_out_is_gone_on_with_by_two_and_by_one(
    data: str, tmp_path: Path, clip_by: str
) -> None:
    settings = (*SHARED, f"optim.clip_by={clip_by}", "optim.clip=0.1", "run.evaluate_every=0")
    train(tiny(*settings), data, tmp_path / "plain")
    as_two((*settings, "run.shard=true"), data, tmp_path / "whole")
    as_two((*settings, "run.shard=true"), data, tmp_path / "two", until=2)
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    as_two((*settings, "run.shard=true"), data, tmp_path / "two")
    train(tiny(*settings), data, tmp_path / "one", resume=True)
    whole, two, one, plain = (losses(read_log(tmp_path / name)) for name in ("whole", "two", "one", "plain"))
    assert two == whole
    for others in (one, plain):
        assert [loss for _, loss in others] == pytest.approx([loss for _, loss in whole], rel=2e-4)


def test_every_process_holds_half_of_a_network_shared_out(tmp_path: Path) -> None:
    config = tiny(*SHARED, "run.shard=true")
    weights = sum(weight.numel() for weight in untrained(config, drop_path=0.0).parameters())
    processes = [start(holds, rank, tmp_path / "meeting", config, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(180)
    held = [int((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)]
    assert sum(held) == 2 * weights
    assert max(held) < 1.1 * weights


def test_networks_are_shared_out_on_the_device_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[object] = []

    def described(*arguments: object) -> tuple[object, ...]:
        return arguments

    def noted(part: object, *, mesh: object, **_: object) -> None:
        parts.append(mesh)

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(sharded, "init_device_mesh", described)
    monkeypatch.setattr(sharded, "fully_shard", noted)
    sharded.shard(untrained(tiny(), drop_path=0.0), torch.device("cuda:1"))
    assert parts == [("cuda", (2,))] * 3


def test_one_process_has_nobody_to_share_with(data: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is one; start several with torchrun"):
        train(tiny("run.shard=true"), data, tmp_path)
