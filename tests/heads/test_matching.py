import numpy as np
import pytest
import torch
from torch.nn import functional

from ssleval.heads import matching
from ssleval.heads.matching import match, match_corners, match_pixels, most_distinct, mutual, tokens_at


def grids(seed: int = 0, dims: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 7, dims, generator=generator), torch.randn(5, 8, dims, generator=generator)


def points(count: int = 40) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1))


def centres(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], dim=2).flatten(0, 1)


@pytest.mark.parametrize("size", [(33, 50), (10, 16), (5, 8), (64, 41), (3, 5)])
def test_pixels_are_compared_as_if_every_token_were_upsampled(size: tuple[int, int]) -> None:
    """Also where pixels and patches coincide, and where patches are the finer."""
    first, second = grids()
    height, width = size
    fine = functional.interpolate(second.permute(2, 0, 1)[None], size, mode="bilinear")[0].flatten(1)
    places = centres(height, width) * torch.tensor([8, 5])
    # Half a patch from the edge, give or take half a pixel.
    half = torch.tensor([4 / width, 2.5 / height])
    outside = ((places < 0.5 - half) | (places > torch.tensor([7.5, 4.5]) + half)).any(1)
    assert (0 < outside.sum() < len(outside) / 2) == (size in {(33, 50), (64, 41)})
    expected = []
    for token in tokens_at(first, points()):
        cosines = functional.cosine_similarity(fine, token[:, None], dim=0)
        expected.append(centres(height, width)[cosines.masked_fill(outside, -2).argmax()])
    found = match(first, second, points(), size, "pixels")
    assert torch.allclose(found, torch.stack(expected))


def test_patches_are_compared_at_their_centres() -> None:
    first, second = grids()
    found = match(first, second, points(), (33, 50), "patches")
    cosines = functional.cosine_similarity(
        tokens_at(first, points())[:, None], second.flatten(0, 1)[None], dim=2
    )
    assert torch.allclose(found, centres(5, 8)[cosines.argmax(1)])
    assert not torch.allclose(found, match(first, second, points(), (33, 50), "pixels"))


def test_an_image_matches_itself() -> None:
    first, _ = grids(dims=24)
    at = centres(6, 7)
    assert torch.allclose(match(first, first, at, (60, 70), "patches"), at)
    # Also at the edges, beyond whose patches tokens repeat.
    assert (match(first, first, at, (61, 71), "pixels") - at).abs().max() < 1 / 60
    assert match(first[:1, :1], first[:1, :1], at, (6, 7), "pixels").unique(dim=0).shape == (1, 2)
    assert torch.allclose(tokens_at(first, at), first.flatten(0, 1), atol=1e-5)


def test_how_many_points_are_held_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = match(*grids(), points(), (33, 50), "pixels")
    monkeypatch.setattr(matching, "CHUNK", 7)
    assert torch.equal(match(*grids(), points(), (33, 50), "pixels"), found)


def test_mutual_neighbours_choose_each_other() -> None:
    first, second = (grid.flatten(0, 1) for grid in grids())
    cosines = functional.cosine_similarity(first[:, None], second[None], dim=2)
    expected = {
        (i, j)
        for i in range(42)
        for j in range(40)
        if cosines[i].argmax() == j and cosines[:, j].argmax() == i
    }
    found = mutual(first, second)
    assert {(int(i), int(j)) for i, j in found} == expected
    values = [float(cosines[i, j]) for i, j in found]
    assert values == sorted(values, reverse=True)
    assert 0 < len(expected) < 40


@pytest.mark.parametrize("positions", ["pixels", "patches"])
def test_points_in_pixels_are_fractions_times_sizes(positions: matching.Positions) -> None:
    first, second = grids()
    sizes = [(70, 60), (96, 55)]
    found = match_pixels(points().numpy() * np.array(sizes[0]), (first, second), sizes, positions)
    expected = match(first, second, points(), (55, 96), positions).numpy() * [96, 55]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pairs_that_are_equally_good_come_in_the_order_of_the_first() -> None:
    where = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = mutual(torch.eye(40), torch.eye(40)[where])
    assert found.tolist() == [[row, where.tolist().index(row)] for row in range(40)]


def test_the_corner_of_the_nearest_patch_is_probe3ds() -> None:
    """Written out: corners aligned, point (x, y) lies at x (w - 1), y (h - 1) patches."""
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 5, 5, 4, generator=generator)
    points = np.array([[0.0, 0.0], [1.0, 1.0], [0.3, 0.8], [0.55, 0.2]])
    unit = (first / first.norm(dim=2, keepdim=True)).numpy()
    keys = (second / second.norm(dim=2, keepdim=True)).numpy()
    expected: list[list[float]] = []
    for x, y in points * 4:
        left, top = min(int(x), 3), min(int(y), 3)
        across, down = x - left, y - top
        upper = unit[top, left] * (1 - across) + unit[top, left + 1] * across
        lower = unit[top + 1, left] * (1 - across) + unit[top + 1, left + 1] * across
        row, column = np.unravel_index((keys @ (upper * (1 - down) + lower * down)).argmax(), (5, 5))
        expected.append([column / 5, row / 5])
    np.testing.assert_allclose(match_corners(points, (first, second)), expected)


@pytest.mark.parametrize("count", [3, 40])
def test_the_most_distinct_matches_are_those_of_the_ratio_test(count: int) -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 30, 6)).astype(np.float32)
    unit, keys = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (first, second))
    distances = np.sort(1 - unit @ keys.T, axis=1)
    order = np.argsort(distances[:, 0] / distances[:, 1])[:count]
    rows, others = most_distinct(torch.from_numpy(first), torch.from_numpy(second), count)
    assert rows.tolist() == order.tolist()
    assert others.tolist() == (unit @ keys.T).argmax(1)[order].tolist()
