"""The head for surface normals: loss, schedule, and a fit that is a loop over both."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from ssleval.core import Context
from ssleval.core.batches import batches
from ssleval.heads.dense.grid import Fit, LinearHead, at_points, drawn, resized
from ssleval.heads.dense.normals import angular_loss, fit_normals, normal_map, quarter_cosine

GRIDS = torch.randn(4, 3, 3, 5, generator=torch.Generator().manual_seed(1))


def unit_vectors(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((*shape, 3))
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


def written_out(outputs: Tensor, normals: Tensor) -> float:
    """Every pixel by itself: angle by the arc cosine, concentration ELU + 1.01."""
    total = 0.0
    for (x, y, z, raw), normal in zip(outputs.tolist(), normals.tolist(), strict=True):
        cosine = float(np.dot([x, y, z], normal)) / math.sqrt(x * x + y * y + z * z)
        angle = math.acos(min(max(cosine, -1 + 1e-4), 1 - 1e-4))
        kappa = (raw if raw > 0 else math.exp(raw) - 1) + 1.01
        total += math.log(1 + math.exp(-kappa * math.pi)) - math.log(kappa**2 + 1) + kappa * angle
    return total / len(outputs)


def test_the_loss_is_the_published_one() -> None:
    outputs = 2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    normals = torch.from_numpy(unit_vectors((50,)))
    outputs[0, :3], outputs[1, :3] = 3 * normals[0], -2 * normals[1]
    assert float(angular_loss(outputs, normals)) == pytest.approx(written_out(outputs, normals), rel=1e-5)


@pytest.mark.parametrize("raw", [-3.0, 0.0, 2.0])
def test_the_loss_is_the_logarithm_of_a_density_on_the_sphere(raw: float) -> None:
    """Over all directions, exp(-loss) integrates to 2 pi, whatever the concentration."""

    def density(angle: float) -> float:
        normal = torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]], dtype=torch.float64)
        outputs = torch.tensor([[0.0, 0.0, 1.0, raw]], dtype=torch.float64)
        return 2 * math.pi * math.sin(angle) * math.exp(-float(angular_loss(outputs, normal)))

    assert quad(density, 0, math.pi, epsabs=1e-5)[0] == pytest.approx(2 * math.pi, rel=1e-3)


def test_the_schedule_of_probe3d() -> None:
    # Written out from its code: 0.99 * step / warm-up + 0.01, then 0.99 * cos(pi / 2 * rest) + 0.01.
    found = [quarter_cosine(step, 100, 20) for step in (0, 10, 20, 60, 100)]
    assert found == pytest.approx([0.01, 0.505, 1.0, 0.99 * math.cos(math.pi / 4) + 0.01, 0.01])
    assert quarter_cosine(0, 10, 0) == 1.0


def test_the_fit_is_a_loop_over_the_loss_at_known_pixels() -> None:
    normals = unit_vectors((6, 7))
    normals[:2] = 0
    how = Fit(4, 2, 0.1, 0.01, 16, warmup=2)
    found = fit_normals(
        LinearHead(5, 4, normalise=False, seed=2), (lambda rows: GRIDS[torch.from_numpy(rows)],
        lambda _row: normals, 4), how, Context(seed=2),
    )  # fmt: skip
    layer, random = torch.nn.Linear(5, 4), np.random.default_rng([2, 1])
    layer.weight.data = 0.01 * torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    layer.bias.data.zero_()
    optimizer = torch.optim.AdamW(layer.parameters(), weight_decay=0.01)
    for iteration, rows in enumerate(batches(4, 2, 4, 2)):
        points, targets = drawn([normals] * 2, 16, random)
        predicted = at_points(layer(GRIDS[rows]).permute(0, 3, 1, 2), points).transpose(1, 2)
        known = targets.norm(dim=2) > 0.5
        optimizer.zero_grad()
        angular_loss(predicted[known], targets[known]).backward()
        optimizer.param_groups[0]["lr"] = 0.1 * quarter_cosine(iteration, 4, 2)
        optimizer.step()
    torch.testing.assert_close(found.linear.weight, layer.weight, rtol=1e-4, atol=1e-5)


def test_images_without_a_known_normal_teach_nothing() -> None:
    start = LinearHead(5, 4, normalise=False, seed=2)
    found = fit_normals(
        LinearHead(5, 4, normalise=False, seed=2), (lambda rows: GRIDS[torch.from_numpy(rows)],
        lambda _row: np.zeros((6, 7, 3), np.float32), 4), Fit(3, 2, 0.1, 0.0, 8), Context(),
    )  # fmt: skip
    torch.testing.assert_close(found.linear.weight, start.linear.weight)


def test_drawn_vectors_are_those_of_their_pixels() -> None:
    normals = unit_vectors((5, 7))
    points, held = drawn([normals], 40, np.random.default_rng(0))
    columns, rows = (points[0, :, 0] * 7 - 0.5).round().long(), (points[0, :, 1] * 5 - 0.5).round().long()
    assert held.shape == (1, 40, 3)
    torch.testing.assert_close(held[0], torch.from_numpy(normals)[rows, columns])


def test_a_map_is_upsampled_before_it_is_scaled_to_length_1() -> None:
    outputs = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(3))
    found = normal_map(outputs, (9, 8))
    whole = resized(outputs[None], (9, 8))[0, :3]
    torch.testing.assert_close(found, (whole / whole.square().sum(0).sqrt()).permute(1, 2, 0))
