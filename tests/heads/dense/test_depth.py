import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import Context
from ssleval.heads.dense.depth import Bins, annealed, depth_at, depth_map, fit_depth, sig_loss
from ssleval.heads.dense.grid import Fit, resized

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
        head = fit_depth(
            lambda rows: grids[torch.from_numpy(rows)],
            lambda _row: depths,
            4,
            Fit(5, 2, 0.1, 0.0, 16),
            BINS,
            Context(),
        )
        return head.linear.weight.detach()

    torch.testing.assert_close(fitted(0.0), fitted(8.5))
    assert not torch.allclose(fitted(0.0), fitted(3.0))
