from dataclasses import replace
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t, ttest_1samp, ttest_rel

from ssleval.core import Metric, Samples
from ssleval.errors import ContractError, DataError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.paired import (
    Difference,
    holm,
    leaders,
    mcnemar_exact,
    mcnemar_outcomes,
    paired_over_seeds,
    paired_test,
)
from ssleval.metrics.stats import mean_of, mean_per_class_of, mean_ratio_of, ratio_of
from tests.metrics.test_influence import by_parts


def samples(**columns: np.ndarray) -> Samples:
    count = len(next(iter(columns.values())))
    return Samples([f"item{i}" for i in range(count)], columns)


def hard_items() -> tuple[Samples, Samples]:
    """Two runs of which the second is a little better, on items most of which decide for both."""
    hard = np.random.default_rng(5).random(400) < 0.5
    better = hard.copy()
    better[np.flatnonzero(~hard)[:12]] = True
    return samples(x=hard), samples(x=better)


def test_pairing_finds_a_difference_that_two_intervals_hide() -> None:
    first, second = hard_items()
    metric = Metric("m", mean_of("x"))
    apart = [estimates([metric], one)["m"] for one in (first, second)]
    assert apart[0].high > apart[1].low
    found = paired_test(metric, second, first)
    assert found.value == pytest.approx(12 / 400)
    low, high = found.interval()
    assert 0 < low < found.value < high
    assert (found.n, found.separable) == (400, True)
    other = paired_test(metric, first, second)
    assert other.interval() == pytest.approx((-high, -low))
    assert not paired_test(metric, first, first).separable


def test_paired_interval_is_that_of_the_mean_difference() -> None:
    random = np.random.default_rng(2)
    one, two = random.normal(size=1000), random.normal(0.1, 1.0, size=1000)
    found = paired_test(Metric("m", mean_of("x")), samples(x=one), samples(x=two))
    half = norm.ppf(0.975) * (one - two).std() / 1000**0.5
    centre = (one - two).mean()
    assert found.interval() == pytest.approx((centre - half, centre + half), abs=0.08 * half)


def test_pairs_are_matched_by_id() -> None:
    values, shuffled = np.random.default_rng(0).random(30), np.random.default_rng(1).permutation(30)
    first = samples(x=values)
    ids = [str(first.ids[int(i)]) for i in shuffled]
    second = Samples([*ids, "other"], {"x": np.append(values[shuffled], 9.0)})
    found = paired_test(Metric("m", mean_of("x")), first, second)
    assert (found.n, *found.interval()) == pytest.approx((30, 0.0, 0.0))


def test_runs_that_cannot_be_paired_are_refused() -> None:
    metric, first = Metric("m", mean_of("x")), samples(x=np.zeros(2))
    with pytest.raises(DataError, match="share no items"):
        paired_test(metric, first, Samples(["a"], {"x": np.zeros(1)}))
    with pytest.raises(ContractError, match="ids repeat"):
        paired_test(metric, first, Samples(["item0", "item0"], {"x": np.zeros(2)}))


def test_of_a_mean_it_is_the_paired_t_test() -> None:
    random = np.random.default_rng(3)
    one, two = random.normal(size=12), random.normal(0.4, 1.0, size=12)
    found = paired_test(Metric("m", mean_of("x")), samples(x=one), samples(x=two))
    want = ttest_rel(one, two)
    ends = want.confidence_interval(0.9)
    assert found.interval(0.9) == pytest.approx((ends.low, ends.high), abs=1e-9)
    assert found.pvalue() == pytest.approx(want.pvalue)
    above = ttest_rel(one, two + 0.1, alternative="greater")
    assert found.pvalue_below(0.1) == pytest.approx(above.pvalue, abs=0.01)
    assert found.separable == (found.pvalue() < 0.05)


def test_the_detectable_difference_is_found_as_often_as_asked() -> None:
    difference = Difference(0.0, 0.1, 40.0, 41)
    random = np.random.default_rng(0)
    for power, level in ((0.8, 0.05), (0.5, 0.2)):
        true = difference.detectable(power, level)
        drawn = random.normal(true, 0.1 * 41**0.5, (20_000, 41))
        _, pvalues = ttest_1samp(drawn, 0.0, axis=1)
        assert np.mean(np.asarray(pvalues) < level) == pytest.approx(power, abs=0.015)
    assert np.isnan(Difference(0.0, 0.0, 40.0, 41).detectable())


def test_a_handful_of_items_on_which_both_agree_is_no_proof_of_equality() -> None:
    metric = Metric("m", mean_of("x"))
    for count in (8, 200):
        right = samples(x=np.ones(count, bool))
        found = paired_test(metric, right, right)
        # Bonett & Price 2012, one pseudo-item each way: sqrt(2) / (n + 2).
        assert found.error == pytest.approx(2**0.5 / (count + 2))
        assert (found.value, found.pvalue()) == (0.0, 1.0)
    single = paired_test(metric, samples(x=np.ones(1, bool)), samples(x=np.zeros(1, bool)))
    assert not single.separable


def test_every_class_has_its_own_doubt_where_classes_count_alike() -> None:
    metric, label = Metric("m", mean_per_class_of("x", "label")), np.repeat([0, 1], [990, 10])
    both = samples(x=np.ones(1000, bool), label=label)
    found = paired_test(metric, both, both)
    assert found.error == pytest.approx((2 / 992**2 + 2 / 12**2) ** 0.5 / 2)
    assert found.freedom == pytest.approx(9, rel=0.01), (
        "ten items of the rare class are what it is known from"
    )
    random = np.random.default_rng(0)
    one, two = (random.random(1000) < chance for chance in (0.9, 0.8))
    found = paired_test(metric, samples(x=one, label=label), samples(x=two, label=label))
    gaps = one.astype(float) - two
    means = [
        gaps[label == c].var(ddof=1) / n * (n / (n + 2)) ** 2 + 2 / (n + 2) ** 2
        for c, n in ((0, 990), (1, 10))
    ]
    assert found.error == pytest.approx(sum(means) ** 0.5 / 2)


def test_a_rare_class_that_got_worse_is_not_taken_for_as_good() -> None:
    metric, label = Metric("m", mean_per_class_of("x", "label")), np.repeat([0, 1], [990, 10])
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(200):
        # Two points worse, all of it in the rare class; what is tolerable is one.
        before, after = (random.random(1000) < np.where(label == 0, 1.0, rare) for rare in (1.0, 0.96))
        gain = paired_test(metric, samples(x=after, label=label), samples(x=before, label=label))
        passed += gain.pvalue_below(-0.01) <= 0.05
    assert passed <= 10


def one_by_one(metric: Metric, runs: list[Samples]) -> list[int]:
    led = [0]
    for place in range(1, len(runs)):
        led.append(place if paired_test(metric, runs[led[-1]], runs[place]).separable else led[-1])
    return led


@pytest.mark.parametrize(
    "kind", ["right or wrong", "numbers", "both", "alike", "a value missing", "other items", "one item"]
)
def test_leaders_of_many_runs_are_those_found_one_by_one(kind: str) -> None:
    random = np.random.default_rng(3)
    count = 1 if kind == "one item" else 60
    hard, ids = random.random(count), tuple(f"item{i}" for i in range(count))
    runs = [
        Samples(ids, {"x": hard + 0.2 * random.random(count) + 0.03 * place > 0.6})
        if kind == "right or wrong" or (kind == "both" and place % 2)
        else Samples(ids, {"x": hard + 0.02 * place + random.exponential(0.1, count) ** 2})
        for place in range(40, 0, -1)
    ]
    if kind == "alike":
        runs = [Samples(ids, {"x": np.round(8 * hard) + place // 2}) for place in range(40, 0, -1)]
    if kind == "a value missing":
        runs[7].columns["x"][3] = np.nan
    if kind == "other items":
        runs[7] = Samples([*ids[1:], "another"], runs[7].columns)
    metric = Metric("m", mean_of("x"))
    found = leaders(metric, runs)
    assert found == one_by_one(metric, runs)
    assert kind == "one item" or 3 < len(set(found)) < 30


def test_leaders_by_other_statistics_are_those_found_one_by_one() -> None:
    random = np.random.default_rng(4)
    ids, below = tuple(f"item{i}" for i in range(50)), random.random(50) + 1
    runs = [
        Samples(ids, {"above": below * random.random(50) * level, "below": below})
        for level in (0.9, 0.85, 0.5, 0.5)
    ]
    metric = Metric("m", ratio_of("above", "below"))
    assert leaders(metric, runs) == one_by_one(metric, runs) == [0, 0, 2, 2]


def test_a_constant_difference_leaves_no_doubt() -> None:
    values = np.random.default_rng(0).random(30) * 0 + 0.5
    found = paired_test(Metric("m", mean_of("x")), samples(x=values + 1), samples(x=values))
    assert (found.error, found.pvalue(), found.pvalue_below(2.0)) == (0.0, 0.0, 1.0)
    assert Difference(0.0, 0.0, 5.0, 6).pvalue() == 1.0


def test_probe_seeds_add_their_own_variance() -> None:
    random = np.random.default_rng(4)
    item, metric = random.normal(size=300), Metric("m", mean_of("x"))
    shifts = np.array([0.0, 0.3, -0.3, 0.12])
    runs = [samples(x=item + random.normal(0, 0.1, 300) + shift) for shift in shifts]
    base = [samples(x=item + random.normal(0, 0.1, 300)) for _ in shifts]
    one = paired_test(metric, runs[0], base[0])
    found = paired_over_seeds(metric, runs, base)
    gaps = [metric.score(a) - metric.score(b) for a, b in zip(runs, base, strict=True)]
    assert found.value == pytest.approx(np.mean(gaps))
    # Almost all of it is seeds, so that the error is theirs and there are as few degrees of freedom.
    assert found.error == pytest.approx(np.std(gaps, ddof=1) / 2, rel=0.02)
    assert found.error > 5 * one.error
    assert found.freedom == pytest.approx(3, abs=0.1)


def test_equal_seeds_add_nothing() -> None:
    metric, random = Metric("m", mean_of("x")), np.random.default_rng(4)
    first, second = samples(x=random.random(40)), samples(x=random.random(40))
    once, thrice = (paired_over_seeds(metric, [first] * k, [second] * k) for k in (1, 3))
    assert (once.value, once.error) == pytest.approx((thrice.value, thrice.error))
    with pytest.raises(ContractError, match="2 with 1 run:"):
        paired_over_seeds(metric, [first, first], [second])


def test_a_few_items_that_decide_leave_few_degrees_of_freedom() -> None:
    metric, random = Metric("m", mean_of("x")), np.random.default_rng(6)
    even, zero = random.normal(size=200), samples(x=np.zeros(200))
    rare = np.where(np.arange(200) < 6, 30 * even, 1e-3 * even)
    all_alike, few = (paired_test(metric, samples(x=x), zero) for x in (even, rare))
    assert all_alike.freedom > 150
    # Six items of 200 hold all the variance: 2n / (kurtosis - 1), computed apart.
    centred = rare - rare.mean()
    kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
    assert few.freedom == pytest.approx(400 / (kurtosis - 1), rel=0.35)
    assert few.freedom < 12
    assert few.pvalue() > 2 * norm.sf(abs(few.value) / few.error)


def test_mcnemar_counts_shared_items_of_right_and_wrong() -> None:
    first, second = samples(x=np.array([1, 1, 0, 0, 1], bool)), samples(x=np.array([1, 0, 1, 1, 1], bool))
    metric = Metric("m", mean_of("x"))
    assert mcnemar_outcomes(metric, first, second) == (1, 2)
    fewer = Samples(["item1", "item3"], {"x": np.array([0, 1], bool)})
    assert mcnemar_outcomes(metric, first, fewer) == (1, 1)
    assert mcnemar_outcomes(metric, samples(x=np.full(5, 0.5)), second) is None
    labelled = samples(x=np.ones(4, bool), label=np.arange(4) % 2)
    assert mcnemar_outcomes(Metric("m", mean_per_class_of("x", "label")), labelled, labelled) is None


@pytest.mark.parametrize(("one", "two"), [(0, 0), (0, 5), (1, 9), (8, 8), (40, 22), (300, 251)])
def test_mcnemar_is_the_exact_binomial_test(one: int, two: int) -> None:
    want = binomtest(one, one + two).pvalue if one + two else 1.0
    assert mcnemar_exact(one, two) == pytest.approx(want, rel=1e-9)
    assert mcnemar_exact(two, one) == mcnemar_exact(one, two)


def test_mcnemar_stays_exact_where_powers_of_two_overflow() -> None:
    tail = sum(comb(2000, i) for i in range(951))
    assert mcnemar_exact(950, 1050) == pytest.approx(float(Fraction(2 * tail, 2**2000)), rel=1e-12)
    with pytest.raises(ContractError, match="-1"):
        mcnemar_exact(-1, 3)


def test_holm_by_hand() -> None:
    # Holm 1979's rule on p = .01 .04 .03 .005: 4 x .005, 3 x .01, 2 x .03, then not below the last.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


def test_holm_rejects_what_the_definition_rejects() -> None:
    pvalues = np.random.default_rng(0).random(40) ** 4
    for alpha in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for step, i in enumerate(np.argsort(pvalues)):
            if pvalues[i] > alpha / (len(pvalues) - step):
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(holm(list(pvalues)) <= alpha).tolist()) == rejected


def test_over_several_seeds_a_mean_is_that_of_the_averaged_items() -> None:
    random, n = np.random.default_rng(3), 60
    ones, others = ([samples(x=random.gamma(2, 1, n)) for _ in range(2)] for _ in range(2))
    metric = Metric("x", mean_of("x"))
    gaps = np.mean([one["x"] - other["x"] for one, other in zip(ones, others, strict=True)], axis=0)
    by_seed = [metric.score(one) - metric.score(other) for one, other in zip(ones, others, strict=True)]
    found = paired_over_seeds(metric, ones, others)
    assert found.value == pytest.approx(gaps.mean())
    assert found.error == pytest.approx((gaps.var(ddof=1) / n + np.var(by_seed, ddof=1) / 2) ** 0.5)


def test_items_without_a_value_are_left_out_of_a_difference() -> None:
    values = np.array([1.0, np.nan, 2.0, 4.0])
    runs = [Samples(list("abcd"), {"x": values + shift}) for shift in (0.0, 0.5)]
    found = paired_test(Metric("x", mean_of("x")), runs[0], runs[1])
    assert (found.value, found.error) == pytest.approx((-0.5, 0.0))
    assert found.n == 3


def test_outcomes_of_a_part_are_compared_as_if_there_were_no_others() -> None:
    metric, random = Metric("x", mean_of("x")), np.random.default_rng(1)
    outcomes = [random.integers(0, 2, 40).astype(float) for _ in range(2)]
    part = [Samples([f"{i}" for i in range(40)], {"x": right}) for right in outcomes]
    among = [
        Samples([f"{i}" for i in range(90)], {"x": np.concatenate([right, np.full(50, np.nan)])})
        for right in outcomes
    ]
    assert paired_test(metric, *among) == paired_test(metric, *part)
    assert mcnemar_outcomes(metric, *among) == mcnemar_outcomes(metric, *part)
    # Where the same items are right, pseudo-items keep the error above 0.
    assert paired_test(metric, among[0], among[0]).error > 0
    with pytest.raises(DataError, match="no item has a value in both"):
        paired_test(metric, among[0], Samples(among[0].ids, {"x": np.full(90, np.nan)}))


def test_a_difference_of_mean_ious_varies_as_items_drawn_again() -> None:
    random, n = np.random.default_rng(7), 200
    below = random.integers(1, 50, (n, 3))
    hard = random.random((n, 3))
    first, second = (
        samples(a=below * (hard + gain * random.random((n, 3))) / 2, b=below) for gain in (0.9, 0.8)
    )
    metric = Metric("m", mean_ratio_of("a", "b"))
    drawn = random.multinomial(n, np.full(n, 1 / n), 4000).astype(float)
    spread = (metric.statistic(first, drawn) - metric.statistic(second, drawn)).std()
    assert paired_test(metric, first, second).error == pytest.approx(spread, rel=0.06)


# Clusters -----------------------------------------------------------------------------------------


def clustered(random: np.random.Generator, ids: tuple[str, ...]) -> Samples:
    clip = np.arange(len(ids)) // 8
    chance = random.beta(1.2, 0.6, clip[-1] + 1)[clip]
    return Samples(ids, {"x": random.random(len(ids)) < chance, "clip": clip}, "clip")


def test_clusters_are_what_a_difference_is_known_from() -> None:
    metric, ids = Metric("m", mean_of("x")), tuple(f"item{i}" for i in range(160))
    random = np.random.default_rng(8)
    first, second = clustered(random, ids), clustered(random, ids)
    found = paired_test(metric, first, second)
    gaps = (first["x"].astype(float) - second["x"]).reshape(20, 8).mean(axis=1)
    assert found.error == pytest.approx((gaps.var(ddof=1) / 20) ** 0.5, rel=0.03)
    assert found.freedom <= 19
    alone = paired_test(metric, Samples(ids, first.columns), Samples(ids, second.columns))
    assert found.error > 1.2 * alone.error
    assert mcnemar_outcomes(metric, first, second) is None, "McNemar's test takes items as independent"
    # Samples stored by an earlier version do not name their clusters.
    assert paired_test(metric, first, Samples(ids, second.columns)) == found
    assert paired_test(metric, Samples(ids, first.columns), second) == found


def test_leaders_of_clustered_runs_are_those_found_one_by_one() -> None:
    ids = tuple(f"item{i}" for i in range(160))
    metric, random = Metric("m", mean_of("x")), np.random.default_rng(9)
    runs = sorted((clustered(random, ids) for _ in range(20)), key=metric.score, reverse=True)
    assert leaders(metric, runs) == one_by_one(metric, runs)


def test_clusters_survive_the_matching_of_items() -> None:
    random, metric = np.random.default_rng(8), Metric("m", mean_of("x"))
    ids = tuple(f"item{i}" for i in range(160))
    first, second = clustered(random, ids), clustered(random, ids)
    fewer = Samples(ids[:80], {name: column[:80] for name, column in second.columns.items()}, "clip")
    found = paired_test(metric, first, fewer)
    assert found.n == 80
    assert found.freedom <= 9


# By hand ------------------------------------------------------------------------------------------


def test_a_difference_without_a_level_is_that_of_five_percent_and_eighty_percent_power() -> None:
    difference = Difference(0.5, 0.2, 9.0, 10)
    assert difference.interval() == difference.interval(0.95)
    half = 0.2 * t.ppf(0.975, 9)
    assert difference.interval() == pytest.approx((0.5 - half, 0.5 + half))
    assert difference.detectable() == pytest.approx(0.2 * (t.ppf(0.975, 9) + t.ppf(0.8, 9)))
    assert difference.pvalue() == pytest.approx(2 * t.sf(2.5, 9))
    assert replace(difference, value=-0.5).pvalue() == pytest.approx(2 * t.sf(2.5, 9))
    assert difference.pvalue_below(0.3) == pytest.approx(t.sf(1, 9))


def test_what_is_not_known_at_all_is_not_separable() -> None:
    assert not Difference(0.0, 0.0, 5.0, 6).separable
    assert Difference(np.nan, np.nan, 5.0, 6).pvalue() == 1.0
    assert Difference(0.25, np.inf, 1.0, 1).pvalue() == 1.0
    assert [Difference(0.5, 0.0, 5.0, 6).pvalue_below(bound) for bound in (0.25, 0.5, 0.75)] == [0, 0.5, 1]


def test_degrees_of_freedom_of_items_and_seeds_together_are_satterthwaites() -> None:
    random, n, metric = np.random.default_rng(11), 40, Metric("m", mean_of("x"))
    ones = [samples(x=random.normal(size=n)) for _ in range(3)]
    zeros = [samples(x=np.zeros(n)) for _ in range(3)]
    found = paired_over_seeds(metric, ones, zeros)
    averaged = samples(x=np.mean([one["x"] for one in ones], axis=0))
    items = paired_test(metric, averaged, zeros[0])
    of_seeds = np.var([one["x"].mean() for one in ones], ddof=1) / 3
    assert found.error == pytest.approx((items.error**2 + of_seeds) ** 0.5)
    wanted = found.error**4 / (items.error**4 / items.freedom + of_seeds**2 / 2)
    assert found.freedom == pytest.approx(wanted)


def test_outcomes_have_as_many_degrees_of_freedom_as_items_less_one() -> None:
    metric, random = Metric("m", mean_of("x")), np.random.default_rng(12)
    first, second = (samples(x=random.random(30) < chance) for chance in (0.9, 0.5))
    found = paired_test(metric, first, second)
    gaps = first["x"].astype(float) - second["x"]
    variance = gaps.var(ddof=1) / 30 * (30 / 32) ** 2 + 2 / 32**2
    assert (found.error, found.freedom) == (pytest.approx(variance**0.5), 29.0)
    one = paired_test(metric, samples(x=np.ones(1, bool)), samples(x=np.ones(1, bool)))
    assert one.freedom == 1


def test_classes_of_one_item_have_only_their_pseudo_items() -> None:
    metric, label = Metric("m", mean_per_class_of("x", "label")), np.array([0, 0, 0, 1, 2, 3, 3])
    first, second = np.array([1, 1, 0, 1, 0, 1, 0], bool), np.array([0, 1, 0, 0, 0, 0, 0], bool)
    found = paired_test(metric, samples(x=first, label=label), samples(x=second, label=label))
    # Gaps of class 0 are 1, 0, 0: their variance is 1/3; those of class 3 are 1, 0: 1/2.
    parts = np.array([(1 / 3 / 3) * (3 / 5) ** 2 + 2 / 25, 2 / 9, 2 / 9, 1 / 2 / 2 * (2 / 4) ** 2 + 2 / 16])
    assert found.error == pytest.approx(parts.sum() ** 0.5 / 4)
    assert found.freedom == pytest.approx(parts.sum() ** 2 / (parts**2 / [2, 1, 1, 1]).sum())
    assert found.value == pytest.approx((1 / 3 + 1 + 1 / 2) / 4)


def test_a_probe_without_items_that_differ_still_has_the_doubt_of_its_seeds() -> None:
    metric = Metric("m", mean_of("x"))
    ones = [samples(x=np.full(6, value)) for value in (0.25, 0.5)]
    found = paired_over_seeds(metric, ones, [samples(x=np.zeros(6))] * 2)
    assert (found.value, found.error, found.freedom) == pytest.approx((0.375, 0.125, 1.0))


def test_no_runs_are_refused() -> None:
    with pytest.raises(ContractError, match="0 with 0 runs"):
        paired_over_seeds(Metric("m", mean_of("x")), [], [])
    both = [samples(x=np.zeros(2))]
    with pytest.raises(ContractError, match="1 with 0 runs"):
        paired_over_seeds(Metric("m", mean_of("x")), both, [])


def test_items_of_other_runs_are_matched_whatever_their_order() -> None:
    metric, ids = Metric("m", mean_of("x")), ["a", "b", "c", "d"]
    first = Samples(ids, {"x": np.array([1.0, 2, 3, 4])})
    second = Samples(["d", "b", "a"], {"x": np.array([4.0, 0, 1])})
    found = paired_test(metric, first, second)
    # Items a, b and d: gaps 0, 2 and 0.
    assert (found.n, found.value) == (3, pytest.approx(2 / 3))
    assert found.error == pytest.approx((np.var([0, 2, 0], ddof=1) / 3) ** 0.5)


@pytest.mark.parametrize("kind", ["right or wrong", "numbers"])
def test_equal_runs_share_one_rank_and_clear_steps_do_not(kind: str) -> None:
    ids, metric = tuple(f"item{i}" for i in range(40)), Metric("m", mean_of("x"))
    rows = [np.arange(40) < right for right in (40, 40, 20, 20, 0)]
    runs = [Samples(ids, {"x": row if kind == "right or wrong" else 0.25 + row * 1.5}) for row in rows]
    assert leaders(metric, runs) == [0, 0, 2, 2, 4]
    assert leaders(metric, runs[:1]) == [0]
    assert leaders(metric, runs[:2]) == [0, 0]


def test_holm_keeps_the_order_of_equal_values_and_stops_at_one() -> None:
    assert holm([0.5, 0.02, 0.02]).tolist() == [0.5, 0.06, 0.06]
    assert holm([0.3, 0.6, 0.2]).tolist() == pytest.approx([0.6, 0.6, 0.6])


@pytest.mark.parametrize("kind", [bool, np.int64, np.float64])
def test_outcomes_are_outcomes_whatever_their_type(kind: type) -> None:
    metric, random = Metric("m", mean_of("x")), np.random.default_rng(12)
    first, second = (random.random(30) < chance for chance in (0.9, 0.5))
    found = paired_test(metric, *(samples(x=side.astype(kind)) for side in (first, second)))
    assert found == paired_test(metric, samples(x=first), samples(x=second))
    discordant = int((first & ~second).sum()), int((second & ~first).sum())
    assert mcnemar_outcomes(metric, *(samples(x=side.astype(kind)) for side in (first, second))) == discordant
    # Of two runs that are no outcomes, one alone does not make the pair one.
    other = samples(x=np.linspace(0, 1, 30))
    assert mcnemar_outcomes(metric, samples(x=first.astype(kind)), other) is None
    assert mcnemar_outcomes(metric, other, samples(x=first.astype(kind))) is None


@pytest.mark.parametrize("seed", range(12))
def test_leaders_of_few_items_are_those_found_one_by_one(seed: int) -> None:
    random, count = np.random.default_rng(seed), 4 + seed
    ids, metric = tuple(f"item{i}" for i in range(count)), Metric("m", mean_of("x"))
    hard = random.random(count)
    levels = np.linspace(1.4, 0.0, 10)
    rows = {
        "outcomes": [hard < level + random.normal(0, 0.1, count) for level in levels],
        "numbers": [random.random(count) * 0.3 + level for level in levels],
    }
    rows["both"] = [rows["outcomes" if place % 3 else "numbers"][place] for place in range(10)]
    for values in rows.values():
        runs = [Samples(ids, {"x": row}) for row in values]
        assert leaders(metric, runs) == one_by_one(metric, runs)


def test_the_error_of_a_difference_is_shrunk_by_class() -> None:
    random, below = np.random.default_rng(13), np.ones((40, 3))
    below[3:, 2] = 0
    sides = [below * random.random((40, 3)) for _ in range(2)]
    found = paired_test(Metric("m", mean_ratio_of("a", "b")), *(samples(a=above, b=below) for above in sides))
    gaps, carriers = sides[0] - sides[1], below.sum(axis=0)
    # Without one of m items a mean moves by the item's distance from it, divided by m - 1; three classes.
    moves = below * (gaps - gaps.sum(axis=0) / carriers) / (carriers - 1) / 3
    assert found.error == pytest.approx(by_parts(moves, carriers.tolist(), difference=True) ** 0.5)
