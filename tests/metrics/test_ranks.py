from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from ssleval.core import Metric, Samples
from ssleval.metrics.paired import paired_test
from ssleval.metrics.ranks import (
    board_ranks,
    borda,
    bradley_terry,
    draws_of_scores,
    mean_rank,
    moves_of,
    other_boards,
    other_images,
    rank_sets,
)
from ssleval.metrics.stats import mean_of, mean_per_class_of

TOP1 = Metric("top1", mean_of("right"))


def runs(accuracies: list[float], items: int = 400, seed: int = 0, prefix: str = "") -> list[Samples]:
    """Outcomes on images that are hard for all models alike."""
    rng = np.random.default_rng(seed)
    hardness = rng.random(items)
    ids = [f"{prefix}{item}" for item in range(items)]
    return [
        Samples(ids, {"right": 0.6 * hardness + 0.4 * rng.random(items) < accuracy})
        for accuracy in accuracies
    ]


def draws(covariance: np.ndarray, count: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).multivariate_normal(np.zeros(len(covariance)), covariance, count)


def test_models_far_apart_have_one_rank_each() -> None:
    sets = rank_sets(np.array([0.5, 0.9, 0.7]), draws(np.eye(3) * 1e-4))
    assert sets.tolist() == [[3, 3], [1, 1], [2, 2]]


def test_equal_models_may_have_any_rank() -> None:
    assert rank_sets(np.zeros(4), draws(np.eye(4))).tolist() == [[1, 4]] * 4


@pytest.mark.parametrize(("gap", "shown"), [(1.90, False), (2.02, True)])
def test_of_two_models_the_difference_is_tested_at_the_usual_bound(gap: float, shown: bool) -> None:
    # The difference of two independent scores with variance 1/2 has standard error 1.
    sets = rank_sets(np.array([gap, 0.0]), draws(np.eye(2) / 2))
    assert (sets.tolist() == [[1, 1], [2, 2]]) is shown


@pytest.mark.parametrize(("gap", "shown"), [(1.60, False), (1.70, True)])
def test_the_level_sets_the_bound(gap: float, shown: bool) -> None:
    sets = rank_sets(np.array([gap, 0.0]), draws(np.eye(2) / 2), level=0.9)
    assert (sets.tolist() == [[1, 1], [2, 2]]) is shown


def test_errors_that_models_share_do_not_widen_their_ranks() -> None:
    shared = np.full((2, 2), 100.0) + np.eye(2) / 200
    assert rank_sets(np.array([1.0, 0.0]), draws(shared)).tolist() == [[1, 1], [2, 2]]


def test_many_models_need_a_larger_difference() -> None:
    values = np.array([2.6, *np.zeros(9)])
    # The largest of nine deviations that share a model exceeds 2.6 in more than one of twenty draws.
    assert rank_sets(values, draws(np.eye(10) / 2))[0].tolist() == [1, 10]
    assert rank_sets(values + np.eye(10)[0] * 0.4, draws(np.eye(10) / 2))[0].tolist() == [1, 1]


def test_what_is_shown_no_longer_widens_the_bound_of_what_is_left() -> None:
    # Beside a model far behind, the last two are as two alone: the bound falls from 2.2 to 1.96.
    values = np.array([2.1, 0.0, -50.0])
    assert rank_sets(values, draws(np.eye(3) / 2))[0].tolist() == [1, 1]
    assert rank_sets(np.array([2.1, 0.0, 0.0]), draws(np.eye(3) / 2))[0].tolist() == [1, 3]


def test_without_any_error_values_alone_decide() -> None:
    assert rank_sets(np.array([1.0, 2.0, 2.0]), np.zeros((10, 3))).tolist() == [[3, 3], [1, 2], [1, 2]]


@pytest.mark.parametrize("higher", [True, False])
def test_draws_have_the_errors_of_the_paired_test(higher: bool) -> None:
    made = runs([0.5, 0.55, 0.8])
    metric = Metric("top1", mean_of("right"), higher)
    moves = moves_of(metric, made)
    (drawn,) = draws_of_scores([moves], 20_000)
    sign = 1 if higher else -1
    assert moves.scores == pytest.approx([sign * metric.score(run) for run in made])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        expected = paired_test(metric, made[first], made[second])
        gap = drawn[:, first] - drawn[:, second]
        assert gap.mean() == pytest.approx(sign * expected.value, abs=0.002)
        assert gap.std() == pytest.approx(expected.error, rel=0.03)


def test_draws_of_a_mean_over_classes_have_about_the_errors_of_the_paired_test() -> None:
    labels = np.arange(400) % 10
    made = [Samples(run.ids, {**run.columns, "label": labels}) for run in runs([0.5, 0.6])]
    metric = Metric("per_class", mean_per_class_of("right", "label"))
    (drawn,) = draws_of_scores([moves_of(metric, made)], 20_000)
    expected = paired_test(metric, *made)
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(expected.error, rel=0.06)


def test_boards_of_the_same_images_are_drawn_together_and_others_apart() -> None:
    first, second, other = runs([0.5, 0.6]), runs([0.5, 0.6]), runs([0.5, 0.6], seed=1, prefix="other")
    drawn = draws_of_scores([moves_of(TOP1, board) for board in (first, second, other)], 20_000)
    correlations = np.corrcoef(np.stack([board[:, 0] for board in drawn]))
    # Half of the difference to 1 are the pseudo-items that every score has for itself.
    assert correlations[0, 1] > 0.95
    assert abs(correlations[0, 2]) < 0.03


def test_draws_are_the_same_for_a_seed() -> None:
    moves = moves_of(TOP1, runs([0.5, 0.6]))
    once, again, other = (draws_of_scores([moves], 5, seed)[0] for seed in (0, 0, 1))
    assert (once == again).all()
    assert (once != other).any()


def test_ranks_share_ties_and_pass_over_models_without_a_score() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1], [0.2, np.nan, 0.3, 0.1]])
    ranks = board_ranks(scores)
    assert ranks[0].tolist() == [1, 2.5, 2.5, 4]
    # Three models span the ranks of four.
    assert ranks[1] == pytest.approx([2.5, np.nan, 1, 4], nan_ok=True)
    assert mean_rank(ranks, np.ones(2)) == pytest.approx([1.75, 2.5, 1.75, 4])
    assert mean_rank(ranks, np.array([3.0, 1.0])) == pytest.approx([1.375, 2.5, 2.125, 4])
    assert borda(ranks, np.ones(2)) == pytest.approx([4.5, 1.5, 4.5, 0])


def test_bradley_terry_is_the_maximum_of_its_likelihood() -> None:
    ranks = board_ranks(np.random.default_rng(0).random((7, 5)))
    weights = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 3.0, 1.0])
    wins = np.full((5, 5), 0.25)
    for row, weight in zip(ranks, weights, strict=True):
        for first in range(5):
            for second in range(5):
                wins[first, second] += weight * (row[first] < row[second])

    def loss(strength: np.ndarray) -> float:
        gaps = strength[:, None] - strength[None]
        return float((np.log1p(np.exp(-gaps)) * wins)[~np.eye(5, dtype=bool)].sum() + strength.sum() ** 2)

    expected = minimize(loss, np.zeros(5), tol=1e-12).x
    assert bradley_terry(ranks, weights) == pytest.approx(expected, abs=1e-3)
    stacked = bradley_terry(np.stack([ranks] * 3), np.stack([weights] * 3))
    np.testing.assert_array_equal(stacked, np.stack([bradley_terry(ranks, weights)] * 3))


def test_a_model_that_always_wins_has_a_finite_strength_and_ties_count_half() -> None:
    ranks = np.array([[1.0, 2.0, 3.0]] * 4)
    strengths = bradley_terry(ranks, np.ones(4))
    assert np.isfinite(strengths).all()
    assert (np.diff(strengths) < 0).all()
    assert bradley_terry(np.array([[1.5, 1.5]]), np.ones(1)) == pytest.approx([0, 0])


@pytest.mark.parametrize(("boards", "models"), [(3, 3), (8, 3), (8, 20), (30, 5)])
def test_where_all_have_all_boards_strengths_are_in_the_order_of_wins(boards: int, models: int) -> None:
    """Also under the weights of a bootstrap, and with ties."""
    random = np.random.default_rng(boards)
    for _ in range(20):
        ranks = board_ranks(random.integers(0, 2 * models, (boards, models)).astype(float))
        weights = random.multinomial(boards, np.full(boards, 1 / boards)).astype(float)
        wins = borda(ranks, weights)
        order = np.argsort(wins, kind="stable")
        steps = np.diff(bradley_terry(ranks, weights)[order])
        assert (steps[np.diff(wins[order]) > 0] > 0).all()
        assert np.abs(steps[np.diff(wins[order]) == 0]).max(initial=0) < 1e-9


def test_draws_of_ranks_are_those_of_scores_twice_as_wide() -> None:
    scores, drawn = np.array([0.0, 1.0]), np.array([[0.4, 1.0], [0.6, 1.0]])
    assert other_images([scores], [drawn]).tolist() == [[[2, 1]], [[1, 2]]]


@pytest.mark.parametrize("aggregate", [mean_rank, borda, bradley_terry])
def test_boards_that_agree_show_the_order_and_boards_that_do_not_show_none(
    aggregate: Callable[..., np.ndarray],
) -> None:
    sign = -1 if aggregate is mean_rank else 1
    alike, mixed = np.array([[1.0, 2.0]] * 11 + [[2.0, 1.0]]), np.array([[1.0, 2.0], [2.0, 1.0]] * 6)
    for ranks, expected in ((alike, [1, 1]), (mixed, [1, 2])):
        values = sign * aggregate(ranks, np.ones(12))
        assert rank_sets(values, sign * other_boards(aggregate, ranks))[0].tolist() == expected


def test_few_boards_are_wider_than_their_resampling() -> None:
    ranks = board_ranks(np.random.default_rng(0).random((8, 2)))
    spread = (ranks[:, 0].std(ddof=1) / 8**0.5) ** 2
    drawn = other_boards(mean_rank, ranks, 50_000)[:, 0]
    # Of Student's t with 7 degrees of freedom.
    assert drawn.var() == pytest.approx(spread * 7 / 5, rel=0.1)
