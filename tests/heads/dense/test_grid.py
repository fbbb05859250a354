from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssleval.core import Context, Dataset, DatasetCard, FeatureTable, Readout, Split
from ssleval.core.batches import batches
from ssleval.errors import ConfigError, ContractError
from ssleval.heads.dense import grid as grid_module
from ssleval.heads.dense.grid import (
    Fit,
    LinearHead,
    at_points,
    drawn,
    fit,
    grids_of,
    outputs_of,
    resized,
    targets_of,
)
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
        (lambda rows: GRIDS[torch.from_numpy(rows)], lambda row: masks[row], 6),
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
            (lambda rows: GRIDS[torch.from_numpy(rows)], lambda _row: np.zeros((4, 4)), 6),
            how,
            Context(),
            rate=lambda _iteration, _iterations, _warmup: 1.0,
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
            (lambda rows: nan[torch.from_numpy(rows)], lambda _row: masks, 6),
            HOW,
            2,
            Context(),
        )
    with pytest.raises(ConfigError, match="weight_decay=-1"):
        Fit(1, 1, 0.1, -1.0, 1)
    with pytest.raises(ConfigError, match="no pixels to be drawn"):
        fit_classes((lambda _rows: GRIDS, lambda _row: masks, 6), Fit(1, 4, 0.1, 0.0, 0), 2, Context())


def test_the_largest_logit_after_upsampling_wins() -> None:
    # Two classes shout from their own patch, a third is second in both: between them it wins.
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]], [[2.6, 2.6]]])
    assert classes_at(logits, (1, 8)).tolist() == [[0, 0, 0, 2, 2, 1, 1, 1]]


MASKS = [np.random.default_rng(row).integers(0, 2, (6, 9)).astype(np.uint8) for row in range(6)]
for one in MASKS:
    one[0, :4] = 255


@pytest.mark.parametrize("clip", [0.0, 0.02])
def test_a_fit_is_a_loop_of_adamw(clip: float) -> None:
    """Batches, pixels and first weights are those of the seed; the rate is set at every step."""

    def loss(outputs: Tensor, points: Tensor, held: Tensor, iteration: int) -> Tensor:
        return ((at_points(outputs, points)[:, 0] - held / 255) ** 2).mean() * (1 + iteration)

    def rate(iteration: int, iterations: int, warmup: int) -> float:
        assert (iterations, warmup) == (5, 0)
        return 1 / (1 + iteration)

    how = Fit(5, 4, 0.1, 0.3, 7, clip)
    found = fit(
        LinearHead(5, 2, normalise=False, seed=8), (lambda rows: GRIDS[torch.from_numpy(rows)],
        lambda row: MASKS[row], 6), how, Context(seed=3), rate=rate, loss=loss,
    )  # fmt: skip
    layer, random = nn.Linear(5, 2), np.random.default_rng([3, 1])
    layer.weight.data = 0.01 * torch.randn(2, 5, generator=torch.Generator().manual_seed(8))
    layer.bias.data.zero_()
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1, weight_decay=0.3)
    for iteration, rows in enumerate(batches(6, 4, 5, 3)):
        points, held = drawn([MASKS[row] for row in rows.tolist()], 7, random)
        optimizer.param_groups[0]["lr"] = 0.1 * rate(iteration, 5, 0)
        optimizer.zero_grad()
        loss(layer(GRIDS[rows]).permute(0, 3, 1, 2), points, held, iteration).backward()
        if clip:
            nn.utils.clip_grad_norm_(layer.parameters(), clip)
        optimizer.step()
    torch.testing.assert_close(found.linear.weight, layer.weight)
    torch.testing.assert_close(found.linear.bias, layer.bias)
    assert not found.training


def test_classes_are_fitted_behind_a_normalisation_at_a_rate_that_falls_to_zero() -> None:
    how = Fit(4, 3, 0.1, 0.01, 8)
    found = fit_classes(
        (lambda rows: GRIDS[torch.from_numpy(rows)], lambda row: MASKS[row], 6), how, 2, Context(seed=2)
    )
    norm, layer, random = nn.BatchNorm1d(5), nn.Linear(5, 2), np.random.default_rng([2, 1])
    layer.weight.data = 0.01 * torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    layer.bias.data.zero_()
    optimizer = torch.optim.AdamW([*norm.parameters(), *layer.parameters()], weight_decay=0.01)
    for iteration, rows in enumerate(batches(6, 3, 4, 2)):
        points, held = drawn([MASKS[row] for row in rows.tolist()], 8, random)
        logits = layer(norm(GRIDS[rows].flatten(0, 2))).view(3, 3, 3, 2).permute(0, 3, 1, 2)
        each = nn.functional.cross_entropy(
            at_points(logits, points), held.long(), ignore_index=255, reduction="none"
        )
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - iteration / 4)
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    torch.testing.assert_close(found.linear.weight, layer.weight, rtol=1e-4, atol=1e-5)
    assert isinstance(found.norm, nn.BatchNorm1d)
    torch.testing.assert_close(found.norm.weight, norm.weight, rtol=1e-4, atol=1e-5)


def test_a_task_names_the_warm_up_as_a_part_of_its_iterations() -> None:
    task = SimpleNamespace(
        iterations=11, batch_size=2, learning_rate=0.5, weight_decay=0.1, pixels=3, clip=1.5, warmup=0.25, x=1
    )
    assert Fit.of(task) == Fit(11, 2, 0.5, 0.1, 3, 1.5, 3)
    plain = Fit(11, 2, 0.5, 0.1, 3)
    assert (plain.clip, plain.warmup) == (0, 0)


def test_maps_of_several_readouts_lie_one_behind_the_other_and_tokens_everywhere() -> None:
    random = np.random.default_rng(0)
    patches, other, token = Readout("patches"), Readout("patches", -2), Readout("cls")
    arrays = {
        patches: random.normal(size=(5, 2, 3, 4)).astype(np.float16),
        other: random.normal(size=(5, 2, 3, 4)).astype(np.float16),
        token: random.normal(size=(5, 4)).astype(np.float16),
    }
    table, rows = FeatureTable(list("abcde"), None, arrays, np.arange(5)), np.array([3, 0])
    alone = grids_of(table, [patches], "cpu")(rows)
    assert alone.dtype == torch.float32
    np.testing.assert_array_equal(alone, arrays[patches][rows].astype(np.float32))
    repeated = np.broadcast_to(arrays[token][:, None, None], (5, 2, 3, 4))
    expected = np.concatenate([repeated, arrays[patches], arrays[other]], axis=3)[rows]
    np.testing.assert_array_equal(grids_of(table, [token, patches, other], "cpu")(rows), expected)


def test_targets_are_decoded_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def load(row: int) -> np.ndarray:
        decoded.append(row)
        return np.full((2, 3), row, np.uint8)

    def opened(load: object) -> Dataset:
        split = Split(list("abcdefgh"), lambda _row: None, None, "f", load)  # pyright: ignore[reportArgumentType]
        return Dataset(DatasetCard("d", "mask", ("a",), lengths={"train": 8}), lambda _name: split)

    monkeypatch.setattr(grid_module, "TARGETS_HELD", 12)
    target = targets_of(opened(load), "train", np.array([4, 2, 7]))
    assert [int(target(row)[0, 0]) for row in (0, 1, 2, 2, 1, 0)] == [4, 2, 7, 7, 2, 4]
    assert decoded == [4, 2, 7, 7]
    with pytest.raises(ContractError, match="d/train opened without the targets"):
        targets_of(opened(None), "train", np.array([0]))


def test_outputs_come_image_by_image() -> None:
    grids = torch.randn(35, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    head = LinearHead(5, 2, normalise=False, seed=0)
    found = list(outputs_of(head, lambda rows: grids[torch.from_numpy(rows)], 35))
    torch.testing.assert_close(torch.stack(found), head(grids).detach())
