import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import Context
from ssleval.core.batches import batches
from ssleval.errors import ContractError
from ssleval.heads.dense import depth
from ssleval.heads.dense.depth import Bins, annealed, depth_at, depth_map, fit_bins, sig_loss
from ssleval.heads.dense.grid import Examples, Fit, LinearHead, drawn, resized

BINS = Bins(0.5, 8.0, 16, 4)
LOGITS = 3 * torch.randn(2, 16, 3, 5, generator=torch.Generator().manual_seed(0))


def reference(logits: Tensor, bins: Bins, size: tuple[int, int]) -> Tensor:
    """The published head, step by step: upsample, rectify, add 0.1, normalise, mix, resize."""
    fine = torch.nn.functional.interpolate(logits, scale_factor=bins.upsample, mode="bilinear")
    weights = torch.relu(fine) + 0.1
    weights = weights / weights.sum(dim=1, keepdim=True)
    depths = torch.linspace(bins.nearest, bins.farthest, bins.count).view(1, -1, 1, 1)
    return resized((weights * depths).sum(dim=1, keepdim=True), size)[:, 0]


@pytest.mark.parametrize("size", [(12, 20), (30, 41), (7, 6)])
def test_points_hold_what_the_published_head_computes_everywhere(size: tuple[int, int]) -> None:
    whole = reference(LOGITS, BINS, size)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    points = torch.stack([(x + 0.5) / size[1], (y + 0.5) / size[0]], dim=2).view(1, -1, 2).expand(2, -1, -1)
    torch.testing.assert_close(depth_at(LOGITS, points, BINS), whole.flatten(1))
    torch.testing.assert_close(depth_map(LOGITS[1], BINS, size), whole[1])


@pytest.mark.parametrize("changed", [Bins(0.4, 8.0, 16, 4), Bins(0.5, 9.0, 16, 4), Bins(0.5, 8.0, 16, 2)])
def test_every_number_of_the_bins_changes_the_depth(changed: Bins) -> None:
    assert not torch.allclose(depth_map(LOGITS[0], changed, (9, 9)), depth_map(LOGITS[0], BINS, (9, 9)))


def test_the_loss_is_eigens() -> None:
    predicted, target = torch.rand(50) + 0.5, torch.rand(50) + 0.5
    g = np.log(predicted.numpy() + 1e-3) - np.log(target.numpy() + 1e-3)
    expected = math.sqrt(np.var(g, ddof=1) + 0.15 * np.mean(g) ** 2)
    assert float(sig_loss(predicted, target)) == pytest.approx(expected, rel=1e-5)
    early = float(sig_loss(predicted, target, centred=False))
    assert early == pytest.approx(math.sqrt(0.15 * np.mean(g) ** 2), rel=1e-4)


def test_a_scale_costs_little_and_a_wrong_order_much() -> None:
    target = torch.linspace(1, 5, 40)
    assert sig_loss(2 * target, target) < 0.4 * sig_loss(target.flip(0), target)


def test_the_schedule_of_mmcv() -> None:
    # Written out from mmcv: minimum + (base - minimum) / 2 * (1 + cos), warm-up from a thousandth.
    assert annealed(0, 100, 30) == pytest.approx(1e-3)
    half = 0.5 * (1 + math.cos(math.pi * 0.15))
    assert annealed(15, 100, 30) == pytest.approx(half * (1 - 0.5 * (1 - 1e-3)), rel=1e-6)
    assert annealed(50, 100, 30) == pytest.approx(0.5, rel=1e-6)
    assert annealed(100, 100, 30) == pytest.approx(1e-8)


def test_unknown_and_far_pixels_teach_nothing() -> None:
    grids = torch.randn(4, 3, 3, 5, generator=torch.Generator().manual_seed(1))

    def fitted(fill: float) -> Tensor:
        depths = np.full((6, 6), fill, np.float32)
        depths[:, :3] = np.linspace(1, 4, 18).reshape(6, 3)
        head = fit_bins(
            LinearHead(5, BINS.count, normalise=False, seed=0),
            (lambda rows: grids[torch.from_numpy(rows)], lambda _row: depths, 4),
            Fit(5, 2, 0.1, 0.0, 16),
            BINS,
            Context(),
        )
        return head.linear.weight.detach()

    torch.testing.assert_close(fitted(0.0), fitted(8.5))
    assert not torch.allclose(fitted(0.0), fitted(3.0))


GRIDS = torch.randn(4, 3, 3, 5, generator=torch.Generator().manual_seed(1))


def fitted(depths: np.ndarray, how: Fit, grids: Tensor = GRIDS) -> torch.nn.Linear:
    unfitted = LinearHead(5, BINS.count, normalise=False, seed=2)
    read: Examples = (lambda rows: grids[torch.from_numpy(rows)], lambda _row: depths, 4)
    return fit_bins(unfitted, read, how, BINS, Context(seed=2)).linear


def test_the_fit_is_a_loop_over_the_published_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "UNCENTRED", 2)
    depths = np.random.default_rng(0).uniform(0.5, 12, (6, 6)).astype(np.float32)
    depths[:2], depths[2] = 0, 8  # unknown, and as far as the last bin
    found = fitted(depths, Fit(4, 2, 0.1, 0.01, 16, warmup=2))
    layer, random = torch.nn.Linear(5, 16), np.random.default_rng([2, 1])
    layer.weight.data = 0.01 * torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
    layer.bias.data.zero_()
    optimizer = torch.optim.AdamW(layer.parameters(), weight_decay=0.01)
    for iteration, rows in enumerate(batches(4, 2, 4, 2)):
        points, metres = drawn([depths] * 2, 16, random)
        predicted = depth_at(layer(GRIDS[rows]).permute(0, 3, 1, 2), points, BINS)
        known = (metres > 0) & (metres <= 8)
        optimizer.zero_grad()
        sig_loss(predicted[known], metres[known], centred=iteration >= 2).backward()
        optimizer.param_groups[0]["lr"] = 0.1 * annealed(iteration, 4, 2)
        optimizer.step()
    torch.testing.assert_close(found.weight, layer.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pixels", "moves"), [(1, False), (2, True)])
def test_a_single_pixel_has_no_variance_and_teaches_nothing(
    monkeypatch: pytest.MonkeyPatch, pixels: int, moves: bool
) -> None:
    monkeypatch.setattr(depth, "UNCENTRED", 0)
    initial = 0.01 * torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
    ramp = np.linspace(1, 4, 36, dtype=np.float32).reshape(6, 6)
    found = fitted(ramp, Fit(2, 1, 0.1, 0.0, pixels)).weight
    assert found.isfinite().all()
    assert torch.allclose(found, initial) != moves


def test_the_loss_is_centred_after_a_hundred_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the toolbox, whose SigLoss has ``warm_iter=100``."""
    centred: list[bool] = []

    def recorded(predicted: Tensor, target: Tensor, *, centred: bool) -> Tensor:
        seen(centred)
        return (predicted - target).square().mean()

    seen = centred.append
    monkeypatch.setattr(depth, "sig_loss", recorded)
    fitted(np.full((6, 6), 3, np.float32), Fit(102, 1, 1e-3, 0.0, 2))
    assert centred == [False] * 100 + [True] * 2


def test_a_head_without_a_positive_logit_is_refused() -> None:
    """Nothing passes the rectifier where a blank backbone meets a bias of zero."""
    with pytest.raises(ContractError, match=r"lower depth\.learning_rate"):
        fitted(np.full((6, 6), 3, np.float32), Fit(2, 1, 0.1, 0.0, 4), 0 * GRIDS)
    some = torch.cat([0 * GRIDS[:3], GRIDS[3:]])
    fitted(np.full((6, 6), 3, np.float32), Fit(2, 6, 1e-6, 0.0, 4), some)
