import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import Context
from ssleval.errors import ConfigError, ContractError
from ssleval.heads.dense.grid import Fit, LinearHead, at_points, drawn, fit, resized
from ssleval.heads.dense.segmentation import classes_at, fit_classes, poly

HOW = Fit(iterations=20, batch_size=4, learning_rate=0.1, weight_decay=0.0, pixels=16)
GRIDS = torch.randn(6, 3, 3, 5, generator=torch.Generator().manual_seed(0))


def centres(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=2).view(1, -1, 2)


@pytest.mark.parametrize("size", [(3, 5), (12, 20), (7, 11), (2, 3)])
def test_points_are_pixels_of_the_upsampled_grid(size: tuple[int, int]) -> None:
    grid = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    whole = resized(grid, size).view(1, 4, -1)
    torch.testing.assert_close(at_points(grid, centres(*size)), whole)


def test_drawn_pixels_hold_what_the_target_holds_there() -> None:
    target = np.arange(35).reshape(5, 7)
    points, held = drawn([target, target + 100], 50, np.random.default_rng(0))
    columns, rows = (points[..., 0] * 7 - 0.5).round().long(), (points[..., 1] * 5 - 0.5).round().long()
    assert (held[0] == torch.from_numpy(target)[rows[0], columns[0]]).all()
    assert (held[1] == 100 + torch.from_numpy(target)[rows[1], columns[1]]).all()
    assert len(held[0].unique()) > 20


def test_the_loss_at_drawn_pixels_is_the_loss_over_all_of_them() -> None:
    """Upstream computes cross-entropy over every pixel; here its mean over many draws is compared."""
    random = np.random.default_rng(0)
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    mask = random.integers(0, 3, (9, 13)).astype(np.uint8)
    mask[0] = 255
    whole = torch.nn.functional.cross_entropy(
        resized(logits, (9, 13)), torch.from_numpy(mask).long()[None], ignore_index=255, reduction="sum"
    )
    points, held = drawn([mask], 200_000, random)
    part = torch.nn.functional.cross_entropy(
        at_points(logits, points), held.long(), ignore_index=255, reduction="sum"
    )
    assert float(part / held.numel()) == pytest.approx(float(whole) / mask.size, rel=0.01)


def test_the_warm_up_and_decay_of_mmcv() -> None:
    # Written out from mmcv's hook: regular * (1 - (1 - i / warmup) * (1 - ratio)), power 1, minimum 0.
    assert poly(0, 100, 10) == pytest.approx(1e-6)
    assert poly(5, 100, 10) == pytest.approx(0.95 * (1 - 0.5 * (1 - 1e-6)))
    assert poly(10, 100, 10) == pytest.approx(0.9)
    assert poly(99, 100, 0) == pytest.approx(0.01)


def test_a_head_normalises_by_running_statistics_when_it_is_scored() -> None:
    masks = [np.zeros((6, 6), np.uint8), np.ones((6, 6), np.uint8)] * 3
    head = fit_classes(
        lambda rows: GRIDS[torch.from_numpy(rows)],
        lambda row: masks[row],
        6,
        HOW,
        2,
        Context(),
    )
    together, alone = head(GRIDS), head(GRIDS[2:3])
    torch.testing.assert_close(together[2:3], alone)


def steep(outputs: Tensor, points: Tensor, held: Tensor, iteration: int) -> Tensor:
    return 1e3 * outputs.square().sum()


def test_clipping_holds_the_gradient() -> None:
    def steps(clip: float) -> torch.Tensor:
        head = LinearHead(5, 2, normalise=False, seed=0)
        how = Fit(1, 4, 0.1, 0.0, 4, clip)
        fit(
            head,
            lambda rows: GRIDS[torch.from_numpy(rows)],
            lambda _row: np.zeros((4, 4)),
            6,
            how,
            Context(),
            rate=lambda _iteration: 1.0,
            loss=steep,
        )
        (gradient,) = [p.grad for p in head.linear.parameters() if p.grad is not None and p.grad.ndim == 2]
        return gradient

    assert steps(0.0).norm() > 1
    assert steps(0.5).norm() <= 0.5


def test_what_cannot_be_fitted_is_refused() -> None:
    nan = torch.full((6, 3, 3, 5), float("nan"))
    masks = np.zeros((6, 6), np.uint8)
    with pytest.raises(ContractError, match="not finite"):
        fit_classes(
            lambda rows: nan[torch.from_numpy(rows)],
            lambda _row: masks,
            6,
            HOW,
            2,
            Context(),
        )
    with pytest.raises(ConfigError, match="weight_decay=-1"):
        Fit(1, 1, 0.1, -1.0, 1)


def test_the_largest_logit_after_upsampling_wins() -> None:
    # Two classes shout from their own patch, a third is second in both: between them it wins.
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]], [[2.6, 2.6]]])
    assert classes_at(logits, (1, 8)).tolist() == [[0, 0, 0, 2, 2, 1, 1, 1]]
