from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kurtosis

from ssleval.core import Metric, Samples, Statistic
from ssleval.metrics import influence as module
from ssleval.metrics.corruption import mean_corruption_error_of
from ssleval.metrics.influence import Influence, freedom, influence_of, spread, units_of
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.segmentation import matched_mean_iou_of
from ssleval.metrics.stats import (
    mean_of,
    mean_over_fits_of,
    mean_over_parts_of,
    mean_per_class_of,
    mean_ratio_of,
    ratio_of,
)

COUNT = 36


def given(cluster: str = "") -> Samples:
    random = np.random.default_rng(0)
    values = random.random(COUNT)
    values[::7] = np.nan
    columns = {
        "value": values,
        "right": random.random(COUNT) < 0.7,
        "label": random.integers(0, 4, COUNT),
        "count": random.integers(1, 5, COUNT),
        "above": random.integers(0, 5, (COUNT, 3)),
        "below": random.integers(4, 9, (COUNT, 3)) * (random.random((COUNT, 3)) < 0.8),
        # Rounded, so that some scores are equal.
        "scores": np.round(random.normal(size=(COUNT, 3)), 1),
        "targets": random.random((COUNT, 3)) < 0.3,
        "wrong": random.random((COUNT, 15, 5)) < 0.4,
        "confusion": random.integers(0, 9, (COUNT, 3, 3)) + 40 * np.eye(3, dtype=int)[[1, 2, 0]],
        "fits": np.where(np.isnan(values)[:, None], np.nan, random.random((COUNT, 4))),
        "clip": np.arange(COUNT) % 9,
    }
    return Samples([str(i) for i in range(COUNT)], columns, cluster)


STATISTICS: dict[str, Statistic] = {
    "mean": mean_of("value"),
    "mean over fits": mean_over_fits_of("fits"),
    "ratio": ratio_of("right", "count"),
    "mean ratio": mean_ratio_of("above", "below"),
    "mean over parts": mean_over_parts_of("above", "below"),
    "mean per class": mean_per_class_of("right", "label"),
    "mAP": mean_average_precision_of("scores", "targets"),
    "mCE": mean_corruption_error_of("wrong"),
    "matched": matched_mean_iou_of("confusion"),
    "micro-AP": micro_average_precision_of("scores", "targets", "count"),
}


@pytest.mark.parametrize("cluster", ["", "clip"])
@pytest.mark.parametrize("name", STATISTICS)
def test_a_move_is_the_score_less_that_without_the_unit(name: str, cluster: str) -> None:
    samples, metric = given(cluster), Metric(name, STATISTICS[name])
    units = units_of([samples])
    found = influence_of(metric, samples, units)
    for unit in range(9 if cluster else COUNT):
        left = np.flatnonzero((np.arange(COUNT) if units is None else units) != unit)
        columns = {key: column[left] for key, column in samples.columns.items()}
        without = metric.score(Samples([str(i) for i in left], columns))
        assert found.by_unit[unit] == pytest.approx(metric.score(samples) - without, abs=1e-12)


def test_the_variance_of_a_mean_is_that_of_its_items() -> None:
    values = np.random.default_rng(1).random(50)
    samples = Samples([""] * 50, {"x": values})
    found = influence_of(Metric("m", mean_of("x")), samples, None)
    assert spread(found) == pytest.approx((values.var(ddof=1) / 50, 49.0))
    assert found.bias == pytest.approx(0, abs=1e-12)


def test_the_bias_of_a_ratio_is_found() -> None:
    random = np.random.default_rng(2)
    scores: list[float] = []
    biases: list[float] = []
    metric = Metric("m", ratio_of("a", "b"))
    for _ in range(2000):
        below = random.exponential(1, 20)
        samples = Samples([""] * 20, {"a": below**0.5, "b": below})
        scores.append(metric.score(samples))
        biases.append(influence_of(metric, samples, None).bias)
    truth = np.pi**0.5 / 2
    assert np.mean(scores) - truth > 0.015
    assert np.mean(biases) == pytest.approx(np.mean(scores) - truth, rel=0.2)


def test_degrees_of_freedom_follow_from_the_kurtosis() -> None:
    random, n = np.random.default_rng(2), 300
    rare = np.where(np.arange(n) % 50 == 0, 30.0, 0.1) * random.normal(size=n)
    found = influence_of(Metric("m", mean_of("x")), Samples([""] * n, {"x": rare}), None)
    want = 2 * n / (kurtosis(rare, fisher=False) - 1)
    assert spread(found)[1] == pytest.approx(want)
    assert want < 20


def test_a_rare_class_leaves_few_degrees_of_freedom() -> None:
    random, n = np.random.default_rng(3), 200
    below = np.stack([np.ones(n), np.arange(n) < 5], axis=1).astype(float)
    samples = Samples([""] * n, {"above": below * random.random((n, 2)), "below": below})
    variance, freedom = spread(influence_of(Metric("m", mean_ratio_of("above", "below")), samples, None))
    only = Samples(samples.ids, {name: column[:, :1] for name, column in samples.columns.items()})
    common, many = spread(influence_of(Metric("m", mean_ratio_of("above", "below")), only, None))
    assert freedom < 10
    assert many > 150
    assert variance > 4 * common


def test_a_class_that_one_item_carries_is_given_the_spread_of_the_others() -> None:
    random, n = np.random.default_rng(4), 40
    below = np.ones((n, 3))
    below[1:, 2] = 0
    above = below * random.random((n, 3))
    metric = Metric("m", mean_ratio_of("above", "below"))
    found = influence_of(metric, Samples([""] * n, {"above": above, "below": below}), None)
    assert found.carriers.tolist() == [40, 40, 1]
    assert not found.moves[:, 2].any()
    of_one_item = above[:, :2].var(ddof=1) / 9
    assert spread(found)[0] == pytest.approx(of_one_item, rel=0.15)


def test_many_units_are_left_out_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, metric = given(), Metric("m", STATISTICS["micro-AP"])
    alone = spread(influence_of(metric, samples, None))
    monkeypatch.setattr(module, "_MOST_GROUPS", 12)
    found = influence_of(metric, samples, None)
    assert found.moves.shape == (12, 1)
    assert spread(found)[0] == pytest.approx(alone[0], rel=0.6)
    assert spread(found)[1] <= 11


def test_how_much_is_computed_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, metric = given("clip"), Metric("m", STATISTICS["mAP"])
    whole = influence_of(metric, samples, units_of([samples])).moves
    monkeypatch.setattr(module, "_WEIGHTS_AT_ONCE", 100)
    assert influence_of(metric, samples, units_of([samples])).moves == pytest.approx(whole)


@pytest.mark.parametrize("statistic", [mean_ratio_of, mean_over_parts_of])
def test_clusters_that_are_all_of_a_part_vary_as_the_parts_do(statistic: Callable[..., Statistic]) -> None:
    random, part = np.random.default_rng(3), np.arange(60) % 6
    below = (part[:, None] == np.arange(6)).astype(int)
    above = below * (random.random((60, 1)) < np.linspace(0.1, 0.9, 6))
    samples = Samples([str(i) for i in range(60)], {"a": above, "b": below, "part": part}, "part")
    metric = Metric("m", statistic("a", "b"))
    found = influence_of(metric, samples, units_of([samples]))
    ratios = above.sum(0) / below.sum(0)
    assert found.by_unit == pytest.approx((ratios - ratios.mean()) / 5)
    assert spread(found)[0] == pytest.approx(ratios.var(ddof=1) / 6, rel=0.02)


def test_a_single_unit_says_nothing() -> None:
    one = Samples([""], {"x": np.ones(1)})
    assert spread(influence_of(Metric("m", mean_of("x")), one, None)) == (float("inf"), 1.0)


# By hand ------------------------------------------------------------------------------------------


def test_the_effective_number_of_units_is_harmonic_over_parts_that_have_any() -> None:
    def effective(units: int, *carriers: float) -> float:
        return Influence(np.zeros((units, len(carriers))), np.array(carriers, float)).effective

    assert effective(9, 2, 1, 0) == pytest.approx(4 / (1 / 2 + 1))
    assert effective(4, 4, 0, 2) == 4.0, "no more than there are"
    assert effective(3, 0) == 0.0


def test_units_of_a_single_part_are_those_that_carry_it() -> None:
    assert Influence(np.zeros((5, 1)), np.array([3.0])).units == 3
    assert Influence(np.zeros((5, 2)), np.array([3.0, 4.0])).units == 5


def test_degrees_of_freedom_by_hand() -> None:
    squares = np.array([[1.0, 1, 1, 1], [4, 0, 0, 0], [0, 0, 0, 0], [3, 1, 0, 0]])
    # Alike: as many as there are, less one. One of four: kurtosis 4, 8 / 3. Last: 4 x 10 / 16, 8 / 1.5 > 3.
    assert freedom(squares, 4) == pytest.approx([3, 8 / 3, 3, 3])
    assert freedom(np.array([[9.0, 1, 0, 0, 0, 0, 0, 0]]), 8) == pytest.approx([16 / (8 * 82 / 100 - 1)])
    assert freedom(np.array([[1.0]]), 1).tolist() == [1]
    assert freedom(np.array([[1000.0] + [0] * 99]), 100) == pytest.approx([200 / 99])


def by_parts(moves: np.ndarray, carriers: list[float], *, difference: bool) -> float:
    """The variance in words: each part's sum of squares and, beside it, one unit of the pooled variance."""
    shrunk = moves.copy()
    for part, count in enumerate(carriers):
        units = count if difference else len(moves)
        shrunk[:, part] *= max(0.0, 1 - 1 / max(units, 1)) ** 0.5
    own = (shrunk**2).sum(axis=0).tolist()
    degrees = [max(count - 1, 0) for count in carriers]
    pooled = sum(d * s * c for d, s, c in zip(degrees, own, carriers, strict=True)) / sum(degrees)
    variance = float((shrunk.sum(axis=1) ** 2).sum())
    for d, s, c in zip(degrees, own, carriers, strict=True):
        variance += ((d * s + pooled / c) / (d + 1) if c else 0.0) - s
    return max(variance, 0.0)


@pytest.mark.parametrize("difference", [False, True])
def test_the_variance_of_a_mean_of_parts_is_moderated(*, difference: bool) -> None:
    moves = np.array([[0.5, 0.25, 0], [-0.25, 0, 0], [-0.5, -0.5, 0], [0.25, 0, 0], [0.125, 0.25, 0]])
    for carriers in ([5.0, 3.0, 0.0], [5.0, 3.0, 1.0]):
        found = spread(Influence(moves, np.array(carriers)), of_difference=difference)[0]
        assert found == pytest.approx(by_parts(moves, carriers, difference=difference))
    # Moves that cancel between parts leave no variance, never less.
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert spread(Influence(opposite, np.array([2.0, 2.0])), of_difference=difference)[0] >= 0


@pytest.mark.parametrize("difference", [False, True])
def test_units_that_have_one_part_each_are_moderated_alike(*, difference: bool) -> None:
    part_of, values = np.array([0, 0, 0, 1, 1, 2]), np.array([0.5, -0.25, 0.125, 0.25, -0.5, 0.0])
    wide = np.zeros((6, 3))
    wide[np.arange(6), part_of] = values
    narrow = Influence(values[:, None], np.array([3.0, 2, 1]), part_of)
    found = spread(narrow, of_difference=difference)
    assert found == pytest.approx(spread(Influence(wide, np.array([3.0, 2, 1])), of_difference=difference))
    assert found[0] == pytest.approx(by_parts(wide, [3.0, 2, 1], difference=difference))


def test_parts_of_one_unit_each_have_no_pool() -> None:
    moves = np.array([[0.5, 0], [0, -0.25]])
    found = spread(Influence(moves, np.ones(2)))
    assert found[0] == pytest.approx((0.5**2 + 0.25**2) / 2)
    assert spread(Influence(moves, np.ones(2)), of_difference=True)[0] == 0


def test_a_difference_is_carried_by_what_carries_either_side() -> None:
    one = Influence(np.array([[1.0, 2], [3, 4]]), np.array([2.0, 1]), ceiling=1.0)
    other = Influence(np.array([[0.5, 0], [0, 1]]), np.array([1.0, 2]))
    found = one - other
    assert found.moves.tolist() == [[0.5, 2], [3, 3]]
    assert found.carriers.tolist() == [2, 2]


BOUNDED = {
    "mean": mean_of("x"),
    "ratio": ratio_of("x", "one"),
    "per class": mean_per_class_of("x", "label"),
}


@pytest.mark.parametrize(
    ("values", "bounded"), [((0, 1, 1), True), ((0, 0.5, 1.01), False), ((-0.01, 0.5, 1), False)]
)
@pytest.mark.parametrize("name", BOUNDED)
def test_a_score_is_bounded_if_all_its_values_are(
    name: str, values: tuple[float, ...], *, bounded: bool
) -> None:
    columns = {"x": np.array(values, float), "one": np.ones(3), "label": np.array([0, 0, 1])}
    found = influence_of(Metric("m", BOUNDED[name]), Samples(list("abc"), columns), None)
    assert found.ceiling == (1.0 if bounded else None)


@pytest.mark.parametrize(
    ("answers", "right", "ceiling"), [(1.0, True, 1.0), (0.5, True, None), (1.0, False, 1.0)]
)
def test_a_score_without_a_closed_form_is_bounded_if_all_its_parts_are(
    *, answers: float, right: bool, ceiling: float | None
) -> None:
    columns = {"s": np.ones((3, 1)), "r": np.full((3, 1), right), "n": np.full(3, answers)}
    metric = Metric("m", micro_average_precision_of("s", "r", "n"))
    found = influence_of(metric, Samples(list("abc"), columns), None)
    assert found.ceiling == ceiling
    assert found.carriers.tolist() == [3]


def test_groups_of_units_are_as_even_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, metric = given(), Metric("m", STATISTICS["micro-AP"])
    for most, groups in ((36, 36), (35, 18), (18, 18), (17, 12), (1, 1)):
        monkeypatch.setattr(module, "_MOST_GROUPS", most)
        assert influence_of(metric, samples, None).moves.shape == (groups, 1)
    monkeypatch.setattr(module, "_MOST_GROUPS", 17)
    found = influence_of(metric, samples, None)
    for group in range(12):
        left = np.flatnonzero(np.arange(COUNT) % 12 != group)
        without = Samples(list(map(str, left)), {name: c[left] for name, c in samples.columns.items()})
        assert found.by_unit[group] == pytest.approx(metric.score(samples) - metric.score(without))


def test_a_unit_without_which_there_is_no_score_does_not_move_it() -> None:
    columns = {"s": np.array([[2.0], [1]]), "r": np.array([[True], [False]]), "n": np.array([1, 0])}
    found = influence_of(
        Metric("m", micro_average_precision_of("s", "r", "n")), Samples(list("ab"), columns), None
    )
    assert found.by_unit.tolist() == [0, 0]


def test_a_class_of_one_pixel_occurs() -> None:
    # Pixel by pixel: image 0 has class 0 right once, image 1 has class 1 right four times.
    confusion = np.array([[[1, 0], [0, 0]], [[0, 0], [1, 4]]])
    found = influence_of(
        Metric("m", matched_mean_iou_of("confusion")), Samples(list("ab"), {"confusion": confusion}), None
    )
    assert (found.labels is not None, found.carriers.tolist()) == (True, [2, 1])
