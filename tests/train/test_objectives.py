"""Objectives without a teacher: each against its definition, written out, and in the loop that all share."""

from collections.abc import Callable
from functools import cache, partial
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from ssleval.errors import ConfigError
from ssleval.heads.attentive.lars import Lars
from ssleval.train.config import TrainConfig, read_config
from ssleval.train.learner import Learner
from ssleval.train.lejepa import prediction, sigreg
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.schedules import Rates, rates
from ssleval.train.simclr import nt_xent
from ssleval.train.state import read_state
from ssleval.train.vicreg import covariance, invariance, variance
from ssleval.train.views import Views
from ssleval.train.watch import CollapseWatch, collapsed_projections
from tests.train.tiny_training import losses, pictures, tiny, without_teacher
from tests.train.training_processes import as_pair, start

OBJECTIVES = {
    "simclr": {"simclr"},
    "vicreg": {"invariance", "variance", "covariance"},
    "lejepa": {"prediction", "sigreg"},
}
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


def written_out_invariance(z: Tensor) -> Tensor:
    pairs = [(view, partner) for view in range(len(z)) for partner in range(2) if view != partner]
    terms = [((z[view, n] - z[partner, n]) ** 2).mean() for view, partner in pairs for n in range(z.shape[1])]
    return torch.stack(terms).mean()


def written_out_variance(z: Tensor, least: float) -> Tensor:
    terms: list[Tensor] = []
    for crop in z:
        for channel in crop.T:
            squares = ((channel - channel.sum() / len(channel)) ** 2).sum() / (len(channel) - 1)
            terms.append((least - (squares + 0.0001) ** 0.5).clamp(min=0))
    return torch.stack(terms).mean()


def written_out_covariance(z: Tensor) -> Tensor:
    """Return the mean over crops of the published term of one crop, twice: the published loss adds up two."""
    terms: list[Tensor] = []
    for crop in z:
        count, channels = crop.shape
        for i in range(channels):
            for j in range(channels):
                if i != j:
                    together = (crop[:, i] - crop[:, i].mean()) @ (crop[:, j] - crop[:, j].mean())
                    terms.append((together / (count - 1)) ** 2 / channels)
    return 2 * torch.stack(terms).sum() / len(z)


def written_out_prediction(z: Tensor) -> Tensor:
    terms = [((crop[n] - (z[0, n] + z[1, n]) / 2) ** 2).mean() for crop in z for n in range(z.shape[1])]
    return torch.stack(terms).mean()


DIRECTIONS = functional.normalize(torch.randn(6, 7, generator=torch.Generator().manual_seed(9)), dim=0)
sliced = partial(sigreg, directions=DIRECTIONS)


def written_out_sigreg(z: Tensor, knots: int, limit: float, directions: Tensor = DIRECTIONS) -> Tensor:
    """Return the integral over [-limit, limit] by the trapezoid rule, with complex exponentials."""
    terms: list[Tensor] = []
    points = torch.linspace(-limit, limit, 2 * knots - 1, dtype=torch.float64)
    for crop in z:
        for direction in directions.double().T:
            scalars = crop @ direction
            empirical = torch.stack([torch.exp(1j * point * scalars).mean() for point in points])
            normal = torch.exp(-(points**2) / 2)
            values = (empirical - normal).abs() ** 2 * normal
            terms.append(len(scalars) * torch.trapezoid(values, points))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (partial(nt_xent, temperature=0.1), partial(written_out_nt_xent, temperature=0.1)),
        (partial(nt_xent, temperature=0.7), partial(written_out_nt_xent, temperature=0.7)),
        (invariance, written_out_invariance),
        (partial(variance, least=1.0), partial(written_out_variance, least=1.0)),
        (partial(variance, least=2.0), partial(written_out_variance, least=2.0)),
        (covariance, written_out_covariance),
        (prediction, written_out_prediction),
        (
            partial(sigreg, directions=DIRECTIONS, knots=17, limit=3.0),
            partial(written_out_sigreg, knots=17, limit=3.0),
        ),
        (
            partial(sigreg, directions=DIRECTIONS, knots=5, limit=1.0),
            partial(written_out_sigreg, knots=5, limit=1.0),
        ),
    ],
    ids=[
        "nt_xent",
        "nt_xent at 0.7",
        "invariance",
        "variance",
        "variance of 2",
        "covariance",
        "prediction",
        "sigreg",
        "sigreg by 5 knots",
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


def stopped(*_: object) -> tuple[bool, bool]:
    return True, True


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
        patch.setattr("ssleval.train.loop._Run._agreed_to_stop_or_save", stopped)
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
        ("simclr", "optim.kind=adamw"),
        ("vicreg", "vicreg.invariance=5"),
        ("vicreg", "vicreg.variance=5"),
        ("vicreg", "vicreg.covariance=5"),
        ("vicreg", "vicreg.deviation=5"),
        ("vicreg", "vicreg.layers=2"),
        ("vicreg", "vicreg.hidden=12"),
        ("vicreg", "vicreg.projection=12"),
        ("vicreg", "vicreg.batch_norm=false"),
        ("lejepa", "lejepa.weight=0.2"),
        ("lejepa", "lejepa.directions=8"),
        ("lejepa", "lejepa.knots=5"),
        ("lejepa", "lejepa.limit=2"),
        ("lejepa", "lejepa.layers=2"),
        ("lejepa", "lejepa.hidden=12"),
        ("lejepa", "lejepa.projection=12"),
        ("lejepa", "lejepa.batch_norm=false"),
    ],
)
def test_every_setting_changes_the_losses(
    objective: str, setting: str, plain: Callable[[str], list[tuple[int, float]]], data: str, tmp_path: Path
) -> None:
    train(without_teacher(objective, "run.epochs=1", setting), data, tmp_path)
    assert losses(read_log(tmp_path)) != plain(objective)


@pytest.fixture(scope="module")
def plain(data: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[tuple[int, float]]]:
    """Return what measures the losses of an objective with its own settings, once."""

    @cache
    def measured(objective: str) -> list[tuple[int, float]]:
        out = tmp_path_factory.mktemp(objective)
        train(without_teacher(objective, "run.epochs=1"), data, out)
        return losses(read_log(out))

    return measured


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


def test_two_processes_compare_the_images_of_both(data: str, tmp_path: Path) -> None:
    settings = [(objective, "optim.kind=adamw", "run.shard=false") for objective in OBJECTIVES]
    settings += [("simclr", "optim.kind=lars", "run.shard=true")]
    runs: list[tuple[TrainConfig, Path]] = []
    for number, (objective, kind, shard) in enumerate(settings):
        # On CPUs, batch norm is over the images of one process.
        stated = (f"{objective}.batch_norm=false", "optim.lr=0.02", kind)
        train(without_teacher(objective, *stated), data, tmp_path / f"one{number}")
        runs.append((without_teacher(objective, *stated, shard), tmp_path / f"two{number}"))
    processes = [start(as_pair, rank, tmp_path / "meeting", runs, data) for rank in range(2)]
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    for number, _ in enumerate(settings):
        ours, theirs = (losses(read_log(tmp_path / f"{name}{number}")) for name in ("two", "one"))
        assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=2e-4)
        mine, yours = (load_file(tmp_path / f"{name}{number}/teacher.safetensors") for name in ("two", "one"))
        torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_some_steps_lower_the_loss_and_tell_images_apart(objective: str) -> None:
    crop = ("views.global_size=8", "views.local_size=4", "optim.kind=adamw", "run.batch_size=16")
    learner = Learner(without_teacher(objective, *crop), torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    patterns = torch.randn(16, 3, 8, 8, generator=random)
    rates = Rates(0.01, weight_decay=0.0, momentum=0.0, teacher_temp=1.0, freeze_last_layer=False)
    found: list[float] = []
    for _ in range(60):
        crops = patterns + 0.3 * torch.randn(2, 16, 3, 8, 8, generator=random)
        terms = learner.step(Views(crops, crops[:1, ..., 2:6, 2:6]), None, rates, watched=True)
        found.append(sum(terms[name].item() for name in OBJECTIVES[objective]))
        assert not collapsed_projections({name: value.item() for name, value in terms.items()})
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_lars_scales_steps_to_the_length_of_the_weights() -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=random) for shape in ((3, 2), (3,)))
    steps = [(torch.randn(3, 2, generator=random), torch.randn(3, generator=random)) for _ in range(3)]
    ours = [torch.nn.Parameter(weight.clone()), torch.nn.Parameter(bias.clone())]
    kept = torch.nn.Parameter(torch.ones(2))
    groups: list[dict[str, Any]] = [
        {"params": [ours[0], kept], "decays": True}, {"params": [ours[1]], "decays": False}
    ]  # fmt: skip
    optimizer = Lars(groups, lr=0.0, momentum=0.9)
    moments = [torch.zeros(3, 2), torch.zeros(3)]
    for rate, gradients in zip((0.5, 0.3, 0.2), steps, strict=True):
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, 0.1 if group["decays"] else 0.0
        ours[0].grad, ours[1].grad = gradients
        optimizer.step()
        update = gradients[0] + 0.1 * weight
        moments[0] = 0.9 * moments[0] + 0.001 * weight.norm() / update.norm() * update
        moments[1] = 0.9 * moments[1] + gradients[1]
        weight, bias = weight - rate * moments[0], bias - rate * moments[1]
    torch.testing.assert_close(ours[0].detach(), weight)
    torch.testing.assert_close(ours[1].detach(), bias)
    assert kept.detach().equal(torch.ones(2))


PUBLISHED = {
    "simclr": {
        "model.arch": "timm:resnet50", "simclr.temperature": 0.1, "simclr.projection": 128, "optim.lr": 0.3,
        "optim.kind": "lars", "optim.weight_decay": 1e-6, "optim.warmup_epochs": 10.0, "run.epochs": 100,
        "views.global_scale": (0.08, 1.0), "views.hue": 0.2, "views.local_crops": 0,
    },
    "vicreg": {
        "model.arch": "timm:resnet50", "vicreg.invariance": 25.0, "vicreg.variance": 25.0,
        "vicreg.covariance": 1.0, "vicreg.hidden": 8192, "vicreg.projection": 8192, "vicreg.layers": 3,
        "optim.lr": 0.3, "optim.kind": "lars", "optim.weight_decay": 1e-6, "run.epochs": 100,
        "views.solarize": (0.0, 0.2, 0.0), "views.blur": (1.0, 0.1, 0.5),
    },
    "lejepa": {
        "lejepa.weight": 0.05, "lejepa.directions": 1024, "lejepa.knots": 17, "lejepa.limit": 3.0,
        "optim.lr": 5e-4, "optim.weight_decay": 0.05, "optim.weight_decay_end": 0.05, "optim.min_lr": 5e-7,
        "views.global_scale": (0.3, 1.0), "views.local_crops": 6, "views.local_size": 98,
        "run.precision": "bf16",
    },
}  # fmt: skip
"""Some values of the published configurations, written down from those files."""


@pytest.mark.parametrize("objective", PUBLISHED)
def test_recipes_have_the_published_values_and_keep_the_student(objective: str) -> None:
    config = read_config(objective)
    settings = config.settings()
    assert {name: settings[name] for name in PUBLISHED[objective]} == PUBLISHED[objective]
    assert config.fitted() == (config, [])
    assert rates(config, 500, 10).momentum == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_is_compared_as_a_whole(objective: str) -> None:
    for settings in (("run.accumulate=2",), ("run.batch_size=1",)):
        with pytest.raises(ConfigError, match="compares all images of a batch"):
            without_teacher(objective, *settings).check_batch(1)


def test_vicreg_without_any_term_is_refused() -> None:
    with pytest.raises(ConfigError, match="invariance, variance, covariance are 0; nothing would be learnt"):
        without_teacher("vicreg", "vicreg.invariance=0", "vicreg.variance=0", "vicreg.covariance=0")


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
