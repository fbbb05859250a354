"""Weights of samples mean what they say: a weight of w is the item counted w times, for every statistic."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssleval.core import Samples, Statistic, statistics
from ssleval.core.corruptions import SEVERITIES
from ssleval.metrics.calibration import adaptive_calibration_error_of, calibration_error_of
from ssleval.metrics.corruption import ALEXNET_ERRORS, mean_corruption_error_of
from ssleval.metrics.detection import coco_average_precision_of, coco_precision_at_half_of
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.multilabel import eleven_point_precision_of, mean_average_precision_of
from ssleval.metrics.segmentation import matched_mean_iou_of
from ssleval.metrics.separation import auroc_of, fpr95_of
from ssleval.metrics.stats import (
    mean_of,
    mean_over_fits_of,
    mean_over_parts_of,
    mean_per_class_of,
    mean_ratio_of,
    ratio_of,
)

Column = Callable[[np.random.Generator, int], np.ndarray]

STATISTICS: dict[str, tuple[Statistic, dict[str, Column]]] = {
    "mean_of": (mean_of("x"), {"x": lambda random, n: random.random(n)}),
    "ratio_of": (
        ratio_of("a", "b"),
        {"a": lambda random, n: random.random(n), "b": lambda random, n: random.integers(1, 9, n)},
    ),
    "mean_over_fits_of": (mean_over_fits_of("x"), {"x": lambda random, n: random.random((n, 3))}),
    "mean_ratio_of": (
        mean_ratio_of("a", "b"),
        {
            "a": lambda random, n: random.integers(0, 5, (n, 3)),
            "b": lambda random, n: random.integers(5, 9, (n, 3)),
        },
    ),
    "mean_over_parts_of": (
        mean_over_parts_of("a", "b"),
        {
            "a": lambda random, n: random.integers(0, 5, (n, 3)),
            "b": lambda random, n: random.integers(5, 9, (n, 3)),
        },
    ),
    "mean_per_class_of": (
        mean_per_class_of("x", "c"),
        {
            "x": lambda random, n: random.integers(0, 2, n) == 1,
            "c": lambda random, n: random.integers(0, 3, n),
        },
    ),
    "mean_average_precision_of": (
        mean_average_precision_of("s", "t"),
        {"s": lambda random, n: random.random((n, 3)), "t": lambda random, n: random.random((n, 3)) < 0.5},
    ),
    "eleven_point_precision_of": (
        eleven_point_precision_of("s", "t"),
        {"s": lambda random, n: random.random((n, 3)), "t": lambda random, n: random.random((n, 3)) < 0.5},
    ),
    "mean_corruption_error_of": (
        mean_corruption_error_of("w"),
        {"w": lambda random, n: random.random((n, len(ALEXNET_ERRORS), len(SEVERITIES))) < 0.5},
    ),
    "micro_average_precision_of": (
        micro_average_precision_of("s", "r", "n"),
        {
            "s": lambda random, n: random.random((n, 4)),
            "r": lambda random, n: random.random((n, 4)) < 0.5,
            "n": lambda _, n: np.full(n, 4),
        },
    ),
    "calibration_error_of": (
        calibration_error_of("p", "c"),
        {"p": lambda random, n: random.random(n), "c": lambda random, n: random.random(n) < 0.5},
    ),
    "adaptive_calibration_error_of": (
        adaptive_calibration_error_of("p", "c"),
        {"p": lambda random, n: random.random((n, 2)), "c": lambda random, n: random.random((n, 2)) < 0.5},
    ),
    "auroc_of": (
        auroc_of("s", "o"),
        {"s": lambda random, n: random.random(n).round(1), "o": lambda _, n: np.arange(n) % 2 == 1},
    ),
    "fpr95_of": (
        fpr95_of("s", "o"),
        {"s": lambda random, n: random.random(n).round(1), "o": lambda _, n: np.arange(n) % 2 == 1},
    ),
    **{
        name: (
            made("s", "l", "m", "i", "o"),
            {
                "s": lambda random, n: random.random((n, 4)),
                "l": lambda random, n: random.integers(-1, 2, (n, 4)),
                "m": lambda random, n: random.integers(0, 1024, (n, 4)).astype(np.uint16),
                "i": lambda random, n: (random.integers(0, 9, (n, 4)) // 8).astype(np.uint16),
                "o": lambda random, n: random.integers(3, 7, (n, 2)),
            },
        )
        for name, made in {
            "coco_average_precision_of": coco_average_precision_of,
            "coco_precision_at_half_of": coco_precision_at_half_of,
        }.items()
    },
    "matched_mean_iou_of": (
        matched_mean_iou_of("m"),
        {"m": lambda random, n: random.integers(0, 9, (n, 3, 3))},
    ),
}


def test_all_of_these_can_be_recorded() -> None:
    assert set(STATISTICS) <= set(statistics)


@pytest.mark.parametrize("name", STATISTICS)
@given(weights=st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(any), seed=st.integers(0, 99))
def test_a_weight_is_a_number_of_repetitions(name: str, weights: list[int], seed: int) -> None:
    statistic, made = STATISTICS[name]
    random, count = np.random.default_rng(seed), len(weights)
    columns = {column: make(random, count) for column, make in made.items()}
    whole = Samples([str(item) for item in range(count)], columns)
    repeated = np.repeat(np.arange(count), weights)
    drawn = Samples(
        [str(item) for item in repeated], {column: rows[repeated] for column, rows in columns.items()}
    )
    weighted = statistic(whole, np.array([weights, [1] * count], float))
    counted = statistic(drawn, np.ones((1, len(repeated))))
    np.testing.assert_allclose(weighted[0], counted[0], rtol=1e-9)


@pytest.mark.parametrize("name", STATISTICS)
@given(seed=st.integers(0, 99), count=st.integers(2, 12))
def test_the_order_of_items_does_not_matter(name: str, seed: int, count: int) -> None:
    statistic, made = STATISTICS[name]
    random = np.random.default_rng(seed)
    columns = {column: make(random, count) for column, make in made.items()}
    order = random.permutation(count)
    ids = [str(item) for item in range(count)]
    straight = statistic(Samples(ids, columns), np.ones((1, count)))
    moved = Samples(ids, {column: rows[order] for column, rows in columns.items()})
    turned = statistic(moved, np.ones((1, count)))
    np.testing.assert_allclose(straight, turned, rtol=1e-9)
