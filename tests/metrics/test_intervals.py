from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom, binomtest, t

from ssleval.core import Metric, Samples
from ssleval.errors import ContractError
from ssleval.metrics.corruption import WORST, mean_corruption_error_of
from ssleval.metrics.intervals import Estimate, agresti_coull, estimates
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.stats import mean_of, mean_per_class_of, mean_ratio_of, ratio_of


def samples(cluster: str = "", /, **columns: np.ndarray) -> Samples:
    return Samples([str(i) for i in range(len(next(iter(columns.values()))))], columns, cluster)


def estimate(metric: Metric, given: Samples, level: float = 0.95, names: tuple[str, ...] = ()) -> Estimate:
    return estimates([metric], given, level, names)[metric.name]


def outcomes(right: int, count: int) -> Samples:
    return samples(x=np.arange(count) < right)


MEAN = Metric("m", mean_of("x"))


# Proportions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "count"), [(0, 20), (1, 20), (7, 10), (99, 100), (500, 1000), (1, 1)])
def test_a_proportion_has_the_centre_of_wilson_and_holds_his_interval(right: int, count: int) -> None:
    found = estimate(MEAN, outcomes(right, count))
    wilson = binomtest(right, count).proportion_ci(method="wilson")
    assert found.value == right / count
    assert found.low <= wilson.low + 1e-12
    assert found.high >= wilson.high - 1e-12
    if found.low > 0 and found.high < 1:
        assert found.low + found.high == pytest.approx(wilson.low + wilson.high)
    assert found.high - found.low < 1.2 * (wilson.high - wilson.low)


def test_agresti_and_coull_by_hand() -> None:
    # z = 2: two more right and two more wrong items, 4 of 14.
    assert agresti_coull(0.2, 10.0, 2.0) == pytest.approx(
        (2 / 7 - (10 / 49 / 14) ** 0.5 * 2, 2 / 7 + (10 / 49 / 14) ** 0.5 * 2)
    )
    assert agresti_coull(0.0, 20.0, 1.959963985) == pytest.approx((0.0, 0.18980956))


@pytest.mark.parametrize("count", [50, 100, 300])
def test_proportions_are_covered_wherever_they_lie(count: int) -> None:
    ends = [estimate(MEAN, outcomes(right, count)) for right in range(count + 1)]
    low, high = np.array([(one.low, one.high) for one in ends]).T
    for share in np.linspace(0.5, 0.995, 100):
        held = binom.pmf(np.arange(count + 1), count, share)[(low <= share) & (share <= high)].sum()
        assert held >= 0.93, share


def test_where_all_agree_an_interval_still_has_a_width() -> None:
    same, ones = np.repeat(np.arange(5), 20), np.ones(100)
    given = samples(x=ones.astype(bool), f=ones, label=same, wide=np.ones((100, 5)))
    for statistic in (
        mean_of("x"),
        mean_of("f"),
        mean_per_class_of("x", "label"),
        mean_ratio_of("wide", "wide"),
    ):
        found = estimate(Metric("m", statistic), given)
        assert found.value == found.high == 1
        assert 0.94 < found.low < 0.97
    clustered = estimate(MEAN, Samples(given.ids, given.columns, "label"))
    assert clustered.low < 0.6, "five clusters that agree are five observations"


# Means and ratios ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_a_plain_mean_in_its_own_unit_has_students_interval(level: float) -> None:
    values = 3 + np.random.default_rng(0).random(40)
    found = estimate(Metric("m", mean_of("x"), unit="m"), samples(x=values), level)
    error = values.std(ddof=1) / 40**0.5
    assert (found.low, found.high) == pytest.approx(t.interval(level, 39, values.mean(), error))


def test_a_few_outlying_items_leave_few_degrees_of_freedom() -> None:
    values = np.random.default_rng(0).random(200)
    values[:3] += 60
    found = estimate(Metric("m", mean_of("x"), unit="m"), samples(x=values))
    error = values.std(ddof=1) / 200**0.5
    assert found.high - found.value > 1.2 * t.ppf(0.975, 199) * error


def test_an_interval_of_a_fraction_is_about_students_away_from_the_ends() -> None:
    values = np.random.default_rng(0).uniform(0.3, 0.6, 200)
    found = estimate(MEAN, samples(x=values))
    wanted = t.interval(0.95, 199, values.mean(), values.std(ddof=1) / 200**0.5)
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-4)


def many() -> tuple[list[Metric], Samples]:
    random, n = np.random.default_rng(5), 60
    below, targets = random.integers(0, 9, (n, 4)), random.random((n, 3)) < 0.3
    columns = {
        "right": random.random(n) < 0.97,
        "ap": random.beta(9, 0.3, n),
        "above": np.floor(below * random.beta(9, 0.5, (n, 4))),
        "below": below,
        "count": np.ones(n),
        "scores": targets * 4.0 + random.normal(size=(n, 3)),
        "targets": targets,
        "label": random.integers(0, 6, n),
        "clip": np.arange(n) // 3,
    }
    made = [
        mean_of("right"), mean_of("ap"), ratio_of("ap", "count"), mean_ratio_of("above", "below"),
        mean_per_class_of("right", "label"), mean_average_precision_of("scores", "targets"),
        micro_average_precision_of("scores", "targets", "count"),
    ]  # fmt: skip
    return [Metric(str(place), statistic) for place, statistic in enumerate(made)], samples(**columns)


@pytest.mark.parametrize("cluster", ["", "clip"])
def test_limits_of_fractions_are_fractions_and_widen_with_the_level(cluster: str) -> None:
    metrics, given = many()
    given = Samples(given.ids, given.columns, cluster)
    levels = [estimates(metrics, given, level) for level in (0.5, 0.8, 0.95, 0.999)]
    for metric in metrics:
        ends = [(found[metric.name].low, found[metric.name].high) for found in levels]
        value = metric.score(given)
        assert all(found[metric.name].value == value for found in levels)
        assert all(0 <= low <= value <= high <= 1 for low, high in ends)
        assert all(wide[0] <= low and high <= wide[1] for (low, high), wide in pairwise(ends))
    assert estimates(metrics, given) == levels[2], "nothing is drawn"
    assert estimates(metrics[3:4], given)["3"] == levels[2]["3"], "no metric depends on the others"


def test_rows_without_a_value_do_not_count() -> None:
    known = np.random.default_rng(1).random(40)
    found = estimate(MEAN, samples(x=np.append(known, [np.nan] * 30)))
    assert (found.low, found.high) == pytest.approx(
        (estimate(MEAN, samples(x=known)).low, estimate(MEAN, samples(x=known)).high), rel=0.01
    )
    right = np.append(np.ones(9), [np.nan, 0])
    assert estimate(MEAN, samples(x=right)).low == pytest.approx(estimate(MEAN, outcomes(9, 10)).low)
    nothing = estimate(MEAN, samples(x=np.array([np.nan])))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_one_item_tells_nothing_of_its_spread() -> None:
    found = estimate(Metric("m", mean_of("x"), unit="m"), samples(x=np.array([2.5])))
    assert (found.value, found.low, found.high, found.note) == (2.5, 2.5, 2.5, "from 1 item")
    fraction = estimate(MEAN, samples(x=np.array([0.5])))
    assert fraction.low < 0.2
    assert fraction.high > 0.8


# Clusters -----------------------------------------------------------------------------------------


def test_items_repeated_in_clusters_count_once() -> None:
    values = np.random.default_rng(2).random((50, 1)).repeat(4, axis=1).ravel()
    once = estimate(MEAN, samples(x=values[::4]))
    clustered = estimate(MEAN, samples("clip", x=values, clip=np.arange(200) // 4))
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    alone = estimate(MEAN, samples(x=values))
    assert clustered.high - clustered.low > 1.9 * (alone.high - alone.low)


def test_a_score_over_clusters_varies_as_clusters_drawn_again() -> None:
    random = np.random.default_rng(3)
    clip = np.repeat(np.arange(60), random.integers(1, 9, 60))
    hard = random.normal(0, 1, (60, 3))[clip]
    below = random.integers(5, 50, (len(clip), 3))
    above = below / (1 + np.exp(-hard - random.normal(0, 0.5, below.shape)))
    metric, given = (
        Metric("m", mean_ratio_of("above", "below"), unit="number"),
        samples("clip", above=above, below=below, clip=clip),
    )
    drawn = random.multinomial(60, np.full(60, 1 / 60), 4000)
    spread = metric.statistic(given, drawn[:, clip].astype(float)).std()
    found = estimate(metric, given)
    assert (found.high - found.low) / (2 * t.ppf(0.975, 59)) == pytest.approx(spread, rel=0.1)
    alone = estimate(metric, Samples(given.ids, given.columns))
    assert alone.high - alone.low < 0.7 * (found.high - found.low)


def test_macro_averages_over_groups_are_a_mean_of_groups() -> None:
    random = np.random.default_rng(4)
    group = np.array([f"group{i}" for i in range(12) for _ in range(i + 1)])
    ap = random.random(len(group))
    means = np.array([ap[group == name].mean() for name in np.unique(group)])
    metric = Metric("m", mean_per_class_of("ap", "group"), unit="number")
    found = estimate(metric, samples("group", ap=ap, group=group))
    wanted = t.interval(0.95, 11, means.mean(), means.std(ddof=1) / 12**0.5)
    # The means have somewhat heavy tails, so that they leave fewer than 11 degrees of freedom.
    assert (found.low, found.high) == pytest.approx(wanted, abs=3e-3)
    assert found.low < wanted[0]


# Notes --------------------------------------------------------------------------------------------


def test_a_note_names_the_classes_that_few_items_show() -> None:
    below = np.ones((30, 4))
    below[2:, 1] = 0
    below[:, 3] = 0
    metric, given = Metric("m", mean_ratio_of("below", "below")), samples(below=below)
    assert estimate(metric, given).note == "in no item: 1 class (3); in one or two items: 1 class (1)"
    named = estimate(metric, given, names=("road", "car", "sky", "train")).note
    assert named == "in no item: 1 class (train); in one or two items: 1 class (car)"
    assert estimate(metric, samples(below=below[:, ::2])).note == ""


def test_a_note_says_what_others_make_of_an_absent_class() -> None:
    # Classes 0 and 2 of four are tested, half of each rightly: 0.5 here, 0.25 by the metric DINOv2 pins.
    label = np.repeat([0, 2], 20)
    metric, given = (
        Metric("m", mean_per_class_of("x", "label")),
        samples(x=np.arange(40) % 2 == 0, label=label),
    )
    found = estimate(metric, given, names=("a", "b", "c", "d"))
    assert found.value == 0.5
    assert found.note == "in no item: 2 classes (b, d), left out of the mean (DINOv2's metric counts 0)"
    targets = np.zeros((40, 2), bool)
    targets[:20, 0] = True
    precision = Metric("m", mean_average_precision_of("s", "t"))
    found = estimate(
        precision, samples(s=np.stack([targets[:, 0], label], axis=1), t=targets), names=("a", "b")
    )
    assert found.value == 1
    assert found.note == "in no item: 1 class (b), left out of the mean (scikit-learn counts 0)"
    grouped = samples(x=label > 0, group=label)
    assert estimate(Metric("m", mean_per_class_of("x", "group")), grouped, names=("a", "b", "c")).note == ""


def test_a_note_lists_no_more_than_five_classes() -> None:
    given = samples(x=np.ones(40, bool), label=np.arange(40) // 2)
    found = estimate(Metric("m", mean_per_class_of("x", "label")), given)
    assert found.note == "in one or two items: 20 classes (0, 1, 2, 3, 4 and 15 more)"


def test_a_note_says_where_items_or_clusters_are_few() -> None:
    assert estimate(MEAN, outcomes(7, 8)).note == "from 8 items"
    assert estimate(MEAN, outcomes(9, 10)).note == ""
    assert estimate(MEAN, samples("clip", x=np.ones(90), clip=np.arange(90) % 6)).note == "from 6 clusters"


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_impossible_intervals_are_refused(level: float) -> None:
    with pytest.raises(ContractError, match="interval of 2 items, level"):
        estimates([], samples(x=np.zeros(2)), level)
    with pytest.raises(ContractError, match="interval of 0 items"):
        estimates([], Samples([], {"x": np.zeros(0)}))


# Coverage, of few simulations: benchmarks/coverage.py has more ------------------------------------


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held: dict[str, list[bool]] = {"accuracy": [], "mean": [], "clusters": []}
    for run in range(300):
        random = np.random.default_rng(run)
        chance = random.beta(4, 1, 20).repeat(5)
        drawn = {
            "accuracy": (outcomes(int(random.binomial(100, 0.99)), 100), 0.99),
            "mean": (samples(x=random.beta(4, 0.4, 60)), 4 / 4.4),
            "clusters": (samples("clip", x=random.random(100) < chance, clip=np.arange(100) // 5), 0.8),
        }
        for name, (given, truth) in drawn.items():
            found = estimate(MEAN, given)
            held[name].append(found.low <= truth <= found.high)
    # Four standard deviations of 300 trials around 0.95 to 0.985.
    assert all(0.90 <= np.mean(one) <= 1.0 for one in held.values()), held


# By hand ------------------------------------------------------------------------------------------


def proportion(share: float, size: float, quantile: float) -> tuple[float, float]:
    """Wilson's centre, and around it the plain interval of as many items and those that were added."""
    items, right = size + quantile**2, share * size + quantile**2 / 2
    half = quantile * (right / items * (1 - right / items) / items) ** 0.5
    return max(0.0, right / items - half), min(1.0, right / items + half)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_fraction_has_the_interval_of_as_many_items_as_vary_alike(level: float) -> None:
    values = np.tile([0.125, 0.875, 0.5, 0.25, 0.75], 8)
    found = estimate(MEAN, samples(x=values), level)
    size = 0.25 / (values.var(ddof=1) / 40)
    wanted = proportion(0.5, size, float(t.ppf((1 + level) / 2, 39)))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, *wanted))


def test_a_score_with_another_ceiling_has_the_interval_of_its_share() -> None:
    wrong = np.random.default_rng(0).random((40, 15, 5)) < np.linspace(0.1, 0.9, 40)[:, None, None]
    metric = Metric("m", mean_corruption_error_of("wrong"), higher_is_better=False)
    found = estimate(metric, samples(wrong=wrong))
    errors = np.array([
        0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324,
        0.564592, 0.853204, 0.646056, 0.717840, 0.606500,
    ])  # fmt: skip
    assert pytest.approx(np.mean(1 / errors)) == WORST
    images = (wrong.mean(axis=2) / errors).mean(axis=1)
    share = images.mean() / WORST
    size = share * (1 - share) * WORST**2 / (images.var(ddof=1) / 40)
    low, high = proportion(share, size, float(t.ppf(0.975, 39)))
    assert (found.low, found.high) == pytest.approx((low * WORST, high * WORST))
    always = estimate(metric, samples(wrong=np.ones((9, 15, 5), bool)))
    assert (always.value, always.high) == pytest.approx((WORST, WORST))
    assert always.low < 0.8 * WORST


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_equal_values_have_the_interval_of_as_many_items(value: float) -> None:
    found = estimate(MEAN, samples(x=np.full(12, value), y=np.zeros(12)))
    whole = value in {0.0, 1.0}
    quantile = 1.959963984540054 if whole else float(t.ppf(0.975, 11))
    low, high = proportion(value, 12, quantile)
    assert (found.low, found.high) == pytest.approx((min(low, value), max(high, value)))


def test_the_bias_that_the_jackknife_sees_widens_an_interval() -> None:
    below = np.array([1.0, 1, 1, 1, 9])
    above = 3 * below**0.5
    found = estimate(Metric("m", ratio_of("a", "b"), unit="m"), samples(a=above, b=below))
    without = [np.delete(above, i).sum() / np.delete(below, i).sum() for i in range(5)]
    moves = above.sum() / below.sum() - np.array(without)
    variance = (moves**2).sum() * 4 / 5 + (4 * moves.mean()) ** 2
    kurtosis = 5 * (moves**4).sum() / (moves**2).sum() ** 2
    half = variance**0.5 * t.ppf(0.975, min(4, 10 / (kurtosis - 1)))
    assert (found.value, found.low, found.high) == pytest.approx((21 / 13, 21 / 13 - half, 21 / 13 + half))


def test_three_items_are_not_few_and_labels_without_a_name_are_numbers() -> None:
    label, metric = np.repeat([0, 1, 4, 7], [12, 3, 2, 1]), Metric("m", mean_per_class_of("x", "label"))
    found = estimate(metric, samples(x=label > 0, label=label), names=("a", "b", "c", "d", "e", "f", "g"))
    assert found.note == (
        "in no item: 4 classes (c, d, f, g), left out of the mean (DINOv2's metric counts 0); "
        "in one or two items: 2 classes (e, 7)"
    )
    named = samples(x=np.arange(14) % 2 == 0, label=np.array(["cat"] * 12 + ["dog", "owl"]))
    note = estimate(Metric("m", mean_per_class_of("x", "label")), named).note
    assert note == "in one or two items: 2 classes (dog, owl)"
    clusters = samples("clip", below=np.repeat([[1, 0], [1, 1]], [22, 2], axis=0), clip=np.arange(24) // 2)
    note = estimate(Metric("m", mean_ratio_of("below", "below")), clusters, names=("sky", "car")).note
    assert note == "in one or two clusters: 1 class (car)"
