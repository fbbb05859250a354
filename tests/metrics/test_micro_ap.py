import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import Metric, Samples
from ssleval.core.targets import Groups
from ssleval.metrics import micro_ap
from ssleval.metrics.intervals import estimates
from ssleval.metrics.micro_ap import claims_of, micro_average_precision_of

MICRO = micro_average_precision_of("s", "r", "n")


def claims(queries: int = 12, images: int = 30, seed: int = 0) -> Samples:
    """Right pairs score higher; rounding makes ties within and across queries."""
    random = np.random.default_rng(seed)
    right = random.random((queries, images)) < 0.1
    right[3] = False  # a query without an answer
    scores = np.round(right + random.standard_normal((queries, images)), 1)
    return Samples([str(i) for i in range(queries)], {"s": scores, "r": right, "n": right.sum(axis=1)})


def expected(samples: Samples, weight: np.ndarray) -> float:
    """Scikit-learn's, on the pairs of all queries, each repeated as often as its query is drawn."""
    rows = np.repeat(np.arange(len(samples)), weight.astype(int))
    return float(average_precision_score(samples["r"][rows].reshape(-1), samples["s"][rows].reshape(-1)))


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_one_ranking_of_all_pairs_is_scikit_learns_under_any_draw(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(micro_ap, "_NUMBERS", at_once)
    samples = claims()
    draws = np.random.default_rng(1).multinomial(12, [1 / 12] * 12, 20).astype(float)
    weights = np.concatenate([np.ones((1, 12)), draws])
    found = MICRO(samples, weights)
    assert found == pytest.approx([expected(samples, weight) for weight in weights])


def test_the_interval_is_of_queries_drawn_again() -> None:
    samples = claims()
    random = np.random.default_rng(0)
    draws = [np.bincount(random.integers(0, 12, 12), minlength=12) for _ in range(500)]
    scores = [expected(samples, draw) for draw in draws]
    found = estimates([Metric("m", MICRO)], samples)["m"]
    low, high = np.quantile(scores, [0.025, 0.975])
    assert found.low < found.value < found.high
    # Twelve queries: wider than the percentiles, which hold the true score too seldom.
    assert high - low < found.high - found.low < 1.6 * (high - low)


def test_answers_that_nobody_claims_are_missed_and_junk_is_no_claim() -> None:
    samples = claims()
    whole = MICRO(samples, np.ones((1, 12)))[0]
    more = Samples(samples.ids, {**samples.columns, "n": samples["n"] * 2})
    assert MICRO(more, np.ones((1, 12)))[0] == pytest.approx(whole / 2)
    junk = np.concatenate([samples["s"], np.full((12, 3), np.nan)], axis=1)
    wrong = np.concatenate([samples["r"], np.ones((12, 3), bool)], axis=1)
    padded = Samples(samples.ids, {"s": junk, "r": wrong, "n": samples["n"]})
    assert MICRO(padded, np.ones((1, 12)))[0] == pytest.approx(whole)
    nothing = Samples(samples.ids, {**samples.columns, "r": samples["r"] & False, "n": samples["n"] * 0})
    assert np.isnan(MICRO(nothing, np.ones((1, 12)))[0])


def test_scores_must_be_comparable_across_queries() -> None:
    """Shifting the scores of one query changes no ranking of its own, and the common one all the same."""
    samples = claims()
    shifted = samples["s"] + 5.0 * (np.arange(12) == 3)[:, None]
    moved = Samples(samples.ids, {**samples.columns, "s": shifted})
    assert MICRO(moved, np.ones((1, 12)))[0] < MICRO(samples, np.ones((1, 12)))[0]


def plain_gap(samples: Samples, weight: np.ndarray) -> float:
    """Global average precision by loops: queries as often as drawn, equal confidences at one place."""
    rows = [row for row, count in enumerate(weight) for _ in range(int(count))]
    claimed = [row for row in rows if not np.isnan(samples["s"][row, 0])]
    total = 0.0
    for row in claimed:
        above = [other for other in claimed if samples["s"][other, 0] >= samples["s"][row, 0]]
        hits = sum(bool(samples["r"][other, 0]) for other in above)
        total += bool(samples["r"][row, 0]) * hits / len(above)
    return total / sum(samples["n"][row] for row in rows)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_one_claim_of_each_query_is_global_average_precision(
    monkeypatch: pytest.MonkeyPatch, digits: int
) -> None:
    random = np.random.default_rng(digits)
    right, known = random.random((40, 1)) < 0.5, random.random(40) < 0.8
    scores = np.round(random.standard_normal((40, 1)) + right, digits)
    scores[::7] = np.nan
    samples = Samples([""] * 40, {"s": scores, "r": right & known[:, None], "n": known})
    draws = random.multinomial(40, [1 / 40] * 40, 12).astype(float)
    weights = np.concatenate([np.ones((1, 40)), draws])
    found = MICRO(samples, weights)
    assert found == pytest.approx([plain_gap(samples, weight) for weight in weights])
    # A second claim of nothing takes the general way.
    padded = np.concatenate([scores, np.full((40, 1), np.nan)], axis=1)
    wide = Samples([""] * 40, {"s": padded, "r": np.repeat(samples["r"], 2, axis=1), "n": known})
    assert MICRO(wide, weights) == pytest.approx(found, rel=1e-12)


def test_queries_that_claim_nothing_or_are_never_drawn_leave_nothing_to_divide_by() -> None:
    samples = Samples(["a", "b"], {"s": np.full((2, 1), np.nan), "r": np.ones((2, 1), bool), "n": np.ones(2)})
    assert MICRO(samples, np.ones((1, 2))).tolist() == [0.0]
    assert np.isnan(MICRO(samples, np.zeros((1, 2)))).all()
    claimed = Samples(["a", "b"], {"s": np.ones((2, 1)), "r": np.ones((2, 1), bool), "n": np.array([1, 0])})
    assert MICRO(claimed, np.array([[0.0, 1.0], [1.0, 0.0]])).tolist() == pytest.approx(
        [np.nan, 1.0], nan_ok=True
    )


def test_claims_are_right_wrong_or_of_junk_and_answers_count_though_unclaimed() -> None:
    rows = np.array([[4, 7, 1], [2, 0, 9]])
    similarity = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    answers = [
        Groups(np.array([1]), np.array([4, 5]), np.array([7])),
        Groups(np.array([3]), np.zeros(0, int), np.array([2, 4])),
    ]
    found = claims_of(rows, similarity, answers)
    assert found["right"].tolist() == [[True, False, True], [False, False, False]]
    np.testing.assert_array_equal(found["similarity"], [[0.9, np.nan, 0.7], [np.nan, 0.5, 0.4]])
    assert found["answers"].tolist() == [3, 1]
    assert similarity[0, 1] == 0.8, "what was given stays as it is"
