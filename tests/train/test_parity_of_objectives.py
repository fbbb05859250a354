"""Twenty steps of every recipe without a teacher against loops written out, in float64."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ssleval.train.config import TrainConfig
from ssleval.train.learner import Learner
from ssleval.train.schedules import rates
from tests.train import test_mae
from tests.train.test_objectives import (
    written_out_covariance,
    written_out_invariance,
    written_out_nt_xent,
    written_out_prediction,
    written_out_sigreg,
    written_out_variance,
)
from tests.train.test_parity import BATCH, EPOCHS, PER_EPOCH, batches, cosine
from tests.train.tiny_training import in_double, without_teacher

LENGTH = ("run.epochs=4", "optim.warmup_epochs=1", "optim.lr=0.05")


def charged(config: TrainConfig, network: Any, crops: Sequence[Tensor], masks: Tensor) -> Tensor:
    """Return the loss, given the two global crops of all images and the two local ones."""
    if config.loss.objective == "mae":
        mae = network.objective
        return test_mae.written_out(network.backbone, mae, crops[0], masks, normalised=config.mae.normalised)
    tokens = [network.backbone(torch.cat(part))[:, 0] for part in (list(crops[:2]), list(crops[2:]))]
    z = network.objective.projector(torch.cat(tokens)).unflatten(0, (4, BATCH))
    if config.loss.objective == "simclr":
        return written_out_nt_xent(z, config.simclr.temperature)
    if config.loss.objective == "vicreg":
        terms = (written_out_invariance(z), written_out_variance(z, 1.0), written_out_covariance(z))
        return 25 * terms[0] + 25 * terms[1] + terms[2]
    lejepa = config.lejepa
    drawn = functional.normalize(torch.randn(z.shape[-1], lejepa.directions), dim=0)
    gaussian = written_out_sigreg(z, lejepa.knots, lejepa.limit, drawn)
    return (1 - lejepa.weight) * written_out_prediction(z) + lejepa.weight * gaussian


def lars(rate: float, decay: float) -> Callable[[Tensor, dict[str, Tensor]], None]:
    """Return the update of a weight by LARS, as SimCLR and VICReg write it, with a momentum of 0.9."""

    def update(weight: Tensor, state: dict[str, Tensor]) -> None:
        assert weight.grad is not None
        change = weight.grad
        if weight.ndim > 1:
            change = change + decay * weight
            if weight.norm() > 0 and change.norm() > 0:
                change = change * (0.001 * weight.norm() / change.norm())
        state["moment"] = 0.9 * state.get("moment", torch.zeros_like(weight)) + change
        weight -= rate * state["moment"]

    return update


def adamw(
    rate: float, decay: float, step: int, betas: tuple[float, float]
) -> Callable[[Tensor, dict[str, Tensor]], None]:
    """Return the update of a weight by AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

    def update(weight: Tensor, state: dict[str, Tensor]) -> None:
        assert weight.grad is not None
        for name, beta, value in (("first", betas[0], weight.grad), ("second", betas[1], weight.grad**2)):
            state[name] = beta * state.get(name, torch.zeros_like(weight)) + (1 - beta) * value
        first, second = (
            state[name] / (1 - beta ** (step + 1)) for name, beta in zip(state, betas, strict=True)
        )
        weight *= 1 - rate * (decay if weight.ndim > 1 else 0.0)
        weight -= rate * first / (second.sqrt() + 1e-8)

    return update


SMALL = {
    "simclr": ("views.local_crops=2",),
    "vicreg": ("views.local_crops=2",),
    "lejepa": ("views.local_crops=2", "lejepa.directions=5"),
    "mae": test_mae.SMALL,
}


@pytest.mark.parametrize("objective", sorted(SMALL))
def test_twenty_steps_are_those_of_the_loop_written_out(objective: str) -> None:
    with in_double():
        compare(without_teacher(objective, *SMALL[objective], *LENGTH))


def compare(config: TrainConfig) -> None:
    learner, optim = Learner(config, torch.device("cpu")), config.optim
    network: Any = copy.deepcopy(learner.student)
    rate = cosine(optim.lr * BATCH / optim.lr_batch, optim.min_lr, PER_EPOCH)
    decay = cosine(optim.weight_decay, optim.weight_decay_end)
    states: dict[str, dict[str, Tensor]] = {}
    for step, (views, masks) in enumerate(batches()):
        exact = masks[:BATCH].int().argsort(dim=1, descending=True, stable=True).argsort(dim=1) < 12
        torch.manual_seed(step)
        terms = learner.step(
            views, exact if config.mae and config.loss.objective == "mae" else None,
            rates(config, step, PER_EPOCH), watched=True,
        )  # fmt: skip
        torch.manual_seed(step)
        network.zero_grad()
        loss = charged(config, network, [*views.globals, *views.locals], exact)
        loss.backward()
        trained = [(name, one) for name, one in network.named_parameters() if one.grad is not None]
        norm = math.sqrt(sum(float(one.grad.pow(2).sum()) for _, one in trained if one.grad is not None))
        for _, one in trained if optim.clip else ():
            one.grad *= min(1.0, optim.clip / (float(one.grad.norm()) + 1e-6))
        betas = (optim.beta1, optim.beta2)
        update = (
            lars(rate[step], decay[step])
            if optim.kind == "lars"
            else adamw(rate[step], decay[step], step, betas)
        )
        with torch.no_grad():
            for name, one in trained:
                update(one, states.setdefault(name, {}))
        found = sum(
            float(terms[name])
            for name in ("simclr", "invariance", "variance", "covariance", "prediction", "sigreg", "mae")
            if name in terms
        )
        assert found == pytest.approx(loss.item(), rel=1e-6), step
        assert float(terms["gradient_norm"]) == pytest.approx(norm, rel=1e-6), step
    assert EPOCHS * PER_EPOCH == 20
    for (name, ours), theirs in zip(learner.student.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=name)
