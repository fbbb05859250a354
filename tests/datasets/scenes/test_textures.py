from dataclasses import replace

import numpy as np
import pytest

from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.palette import COLORS, MATERIALS, PATTERNS, mixed, surface
from ssleval.datasets.scenes.textures import accent, noise
from ssleval.datasets.scenes.things import Pattern

LATTICE = Draw("lattice").lattice(4096)


def points(count: int, spread: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-spread, spread, (3, count)).astype(np.float32)


def test_noise_at_corners_is_the_table() -> None:
    x, y, z = (np.array([2, -3, 0], np.float32), np.array([5, 1, 0], np.float32), np.zeros(3, np.float32))
    rows = (np.array([2, -3, 0]) + 57 * np.array([5, 1, 0])) % 4096

    np.testing.assert_array_equal(noise(LATTICE, (x, y, z)), LATTICE[rows])


def test_noise_is_smooth_and_fills_its_range() -> None:
    here = points(3000, 20)
    step = np.float32(1e-3)

    value = noise(LATTICE, tuple(here))
    moved = noise(LATTICE, (here[0] + step, here[1], here[2]))

    assert 0 <= value.min() < 0.15
    assert 0.85 < value.max() < 1
    # The steepest slope of the blend between corners 0 and 1 is 1.5 a cell.
    assert np.abs(moved - value).max() <= 1.6e-3
    assert np.abs(moved - value).max() > 0.5e-3


@pytest.mark.parametrize("pattern", PATTERNS)
def test_accent_is_a_share_and_plain_has_none(pattern: Pattern) -> None:
    paint = replace(surface(Draw("s")), pattern=pattern)

    share = accent(paint, points(4000, 1.0))

    assert share.dtype == np.float32
    assert 0 <= share.min() <= share.max() <= 1
    if pattern == "plain":
        assert not share.any()
    else:
        assert 0.05 < share.mean() < 0.95


def test_checks_change_sides_at_every_cell() -> None:
    paint = replace(surface(Draw("s")), pattern="checks", period=1.0)
    cells = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [-1, 0, 0]], np.float32) + np.float32(0.5)

    np.testing.assert_array_equal(accent(paint, np.ascontiguousarray(cells.T)), [0, 1, 0, 1, 1])


def test_surfaces_draw_every_property_evenly_and_independently() -> None:
    drawn = [surface(Draw("many", k)) for k in range(600)]

    colors = np.bincount([paint.color for paint in drawn], minlength=len(COLORS))
    materials = np.bincount([MATERIALS.index(paint.material) for paint in drawn])
    patterns = np.bincount([PATTERNS.index(paint.pattern) for paint in drawn])

    for counts in (colors, materials, patterns):
        assert np.abs(counts - 600 / len(counts)).max() < 4.2 * np.sqrt(600 / len(counts))
    together = np.corrcoef(
        [paint.color for paint in drawn], [PATTERNS.index(paint.pattern) for paint in drawn]
    )
    assert abs(together[0, 1]) < 0.15


def test_mixed_goes_from_one_colour_to_the_other() -> None:
    assert mixed((0.0, 0.2, 1.0), (1.0, 0.4, 0.0), 0.0) == (0.0, 0.2, 1.0)
    np.testing.assert_allclose(mixed((0.0, 0.2, 1.0), (1.0, 0.4, 0.0), 0.25), (0.25, 0.25, 0.75))
