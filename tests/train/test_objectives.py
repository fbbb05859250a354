"""Objectives without a teacher: each against its definition, written out, and in the loop that all share."""

from collections.abc import Callable
from math import exp, log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssleval.errors import ConfigError
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.simclr import nt_xent
from ssleval.train.state import read_state
from ssleval.train.watch import CollapseWatch
from tests.train.tiny_training import losses, pictures, tiny, without_teacher
from tests.train.training_processes import as_pair, start

OBJECTIVES = {"simclr": {"simclr"}}
"""Objectives, and the terms of their losses."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


def written_out_nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's eq. 1, averaged over crops and their partners; only global crops are partners."""
    unit = projections / projections.norm(dim=-1, keepdim=True)
    terms: list[Tensor] = []
    for view in range(len(unit)):
        for partner in range(2):
            for image in range(unit.shape[1]):
                if view == partner:
                    continue
                own = (unit[view, image] @ unit[partner, image] / temperature).exp()
                others = [
                    (unit[view, image] @ unit[key, other] / temperature).exp()
                    for key in range(2)
                    for other in range(unit.shape[1])
                    if other != image
                ]
                terms.append(-(own / (own + torch.stack(others).sum())).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda z: nt_xent(z, 0.1), lambda z: written_out_nt_xent(z, 0.1)),
        (lambda z: nt_xent(z, 0.7), lambda z: written_out_nt_xent(z, 0.7)),
    ],
)
def test_values_and_gradients_are_those_of_the_definition(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], views: int
) -> None:
    given = torch.randn(views, 5, 6, generator=torch.Generator().manual_seed(views))
    mine, wanted = given.clone().requires_grad_(), given.double().requires_grad_()
    found, right = ours(mine), theirs(wanted)
    found.backward()
    right.backward()
    assert found.item() == pytest.approx(right.item(), rel=1e-6)
    assert mine.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(mine.grad.double(), wanted.grad, rtol=1e-5, atol=1e-6)


def test_two_crops_of_two_images_cost_what_simclr_says() -> None:
    # The partner is the same, the two crops of the other image are at a right angle.
    projections = torch.eye(2).expand(2, 2, 2)
    assert float(nt_xent(projections, 0.5)) == pytest.approx(log(1 + 2 * exp(-2)), rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_trains_and_resumes_bit_for_bit(objective: str, data: str, tmp_path: Path) -> None:
    settings = ("run.log_every=1", "optim.momentum=0", "optim.momentum_end=0")
    config = without_teacher(objective, *settings)
    train(config, data, tmp_path / "whole")
    lines = read_log(tmp_path / "whole")
    assert all(OBJECTIVES[objective] <= set(line) for line in lines)
    assert [sum(line[term] for term in OBJECTIVES[objective]) for line in lines] == pytest.approx(
        [line["loss"] for line in lines]
    )
    assert all(line["projection_rank"] > 1 and line["feature_rank"] > 1 for line in lines)
    assert not {"information", "teacher_entropy", "kl"} & set(lines[0])
    # Without a moving average, the model is the student, batch-norm statistics included.
    state = read_state(tmp_path / "whole" / "checkpoints" / "last.pt")
    assert all(torch.equal(value, state["student"][name]) for name, value in state["teacher"].items())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssleval.train.loop._Run._agreed_to_stop_or_save", lambda *_: (True, True))
        assert not train(config, data, tmp_path / "parts").finished
    assert train(config, data, tmp_path / "parts", resume=True).finished
    assert losses(read_log(tmp_path / "parts")) == losses(lines)
    ours, theirs = (load_file(tmp_path / name / "teacher.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("objective", "setting"),
    [
        ("simclr", "simclr.temperature=0.5"),
        ("simclr", "simclr.layers=3"),
        ("simclr", "simclr.hidden=8"),
        ("simclr", "simclr.projection=8"),
        ("simclr", "simclr.batch_norm=false"),
        ("simclr", "loss.koleo=0.1"),
        ("simclr", "views.local_crops=0"),
    ],
)
def test_every_setting_changes_the_losses(objective: str, setting: str, data: str, tmp_path: Path) -> None:
    for name, settings in (("plain", ()), ("changed", (setting,))):
        train(without_teacher(objective, "run.epochs=1", *settings), data, tmp_path / name)
    assert losses(read_log(tmp_path / "changed")) != losses(read_log(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("simclr.temperature=0.2",), "simclr.temperature=0.2 is a setting of simclr, and loss.objective is"),
        (("loss.objective=simclr",), "loss.teacher_temp=0.07 is a setting of distillation, and"),
    ],
)
def test_settings_of_another_objective_are_refused(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        tiny(*settings)
    assert "\n" not in str(raised.value)


def test_settings_of_self_distillation_are_refused_but_for_koleo() -> None:
    assert without_teacher("simclr", "loss.koleo=0.1").loss.koleo == 0.1
    for setting in ("loss.teacher_temp=0.07", "loss.ibot=1.0", "loss.centering=none", "head.hidden=12"):
        with pytest.raises(ConfigError, match=f"{setting} is a setting of distillation"):
            without_teacher("simclr", setting)


@pytest.mark.parametrize("shard", ["false", "true"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_compare_the_images_of_both(
    objective: str, shard: str, data: str, tmp_path: Path
) -> None:
    # On CPUs, batch norm is over the images of one process.
    settings = (f"{objective}.batch_norm=false", "optim.kind=adamw", "optim.lr=0.05")
    train(without_teacher(objective, *settings), data, tmp_path / "one")
    config = without_teacher(objective, *settings, f"run.shard={shard}")
    processes = [start(as_pair, n, tmp_path / "meeting", config, data, tmp_path / "two") for n in range(2)]
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    ours, theirs = (losses(read_log(tmp_path / name)) for name in ("two", "one"))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=2e-4)
    mine, yours = (load_file(tmp_path / name / "teacher.safetensors") for name in ("two", "one"))
    torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_is_compared_as_a_whole(objective: str) -> None:
    for settings in (("run.accumulate=2",), ("run.batch_size=1",)):
        with pytest.raises(ConfigError, match="compares all images of a batch"):
            without_teacher(objective, *settings).check_batch(1)


def test_a_run_of_one_objective_says_nothing_of_the_others() -> None:
    assert "simclr" not in tiny().to_dict()
    assert "simclr" in without_teacher("simclr").to_dict()


def test_a_model_without_heads_cannot_be_distilled(data: str, tmp_path: Path) -> None:
    train(without_teacher("simclr", "run.epochs=1"), data, tmp_path)
    path = tmp_path / "checkpoints" / "last.pt"
    with pytest.raises(ConfigError, match=r"loss\.objective=simclr and has no heads to distil"):
        Learner(tiny(f"loss.distill={path}", "model.drop_path=0"), torch.device("cpu"))
    # Its backbone is a start like any other.
    Learner(tiny(f"model.init={path}"), torch.device("cpu"))


def test_projections_on_a_point_or_a_line_are_a_collapse_and_said_once() -> None:
    healthy = {"projection_spread": 0.9, "projection_rank": 8.0}
    watch = CollapseWatch(1)
    assert not watch.warning(healthy | {"projection_spread": 0.0}, 0)
    assert not watch.warning(healthy, 1)
    assert "on one point" in watch.warning(healthy | {"projection_spread": 0.001}, 1)
    assert not watch.warning(healthy | {"projection_spread": 0.001}, 2)
    assert "on one line" in CollapseWatch(1).warning(healthy | {"projection_rank": 1.1}, 1)
