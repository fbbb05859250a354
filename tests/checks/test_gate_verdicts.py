"""Outcomes of the gate, from results that are written by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_rel

from ssleval.checks.gate.verdicts import DEFAULT_MARGIN, Verdict, judge, overall
from ssleval.errors import ConfigError
from ssleval.metrics.paired import Difference
from ssleval.results import Result, record
from ssleval.results.compare import pairings
from tests.results.test_compare import flipped, store_errors
from tests.results.test_leaderboard import right, store


def test_the_same_weights_under_another_name_pass(tmp_path: Path) -> None:
    one = store_errors(tmp_path, "a", np.random.default_rng(0).random(50))
    same = record.write(tmp_path, replace(one, model="b", key="1" * 64), record.read_samples(one))
    (verdict,) = judge(pairings([one], [same]), {"depth": 0.01})
    assert (verdict.outcome, verdict.reason) == ("pass", "the same weights under the same protocol")
    other = record.write(tmp_path, replace(same, weights_sha256="2" * 64), record.read_samples(one))
    (verdict,) = judge(pairings([one], [other]), {"depth": 0.01})
    assert verdict.outcome == "inconclusive"


def one_task(folder: Path, worse: int, better: int, items: int = 2) -> Verdict:
    base = np.tile(right(0.7), items)
    sides = (store(folder, "a", base), store(folder, "b", flipped(base, worse, better)))
    (verdict,) = judge(pairings(*([side] for side in sides)), {"knn": 0.02})
    return verdict


@pytest.mark.parametrize(
    ("worse", "better", "outcome"),
    [(0, 0, "pass"), (15, 15, "pass"), (4, 0, "pass"), (25, 9, "inconclusive"), (45, 0, "fail")],
)
def test_outcomes_of_800_items_at_a_margin_of_two_points(
    tmp_path: Path, worse: int, better: int, outcome: str
) -> None:
    verdict = one_task(tmp_path, worse, better)
    assert verdict.outcome == outcome, verdict
    assert verdict.gain == pytest.approx((better - worse) / 800)
    assert verdict.ci90[0] < verdict.gain < verdict.ci90[1]
    assert (outcome == "pass") == (verdict.ci90[0] > -0.02)


def depth(folder: Path, shift: float) -> list[Result]:
    random = np.random.default_rng(0)
    hard = random.gamma(4, 0.1, 80)
    return [store_errors(folder, "a", hard), store_errors(folder, "b", hard + random.normal(shift, 0.02, 80))]


def test_errors_count_the_other_way_and_need_a_margin_of_their_own(tmp_path: Path) -> None:
    one, two = depth(tmp_path, 0.05)
    (verdict,) = judge(pairings([one], [two]), {"depth": 0.03})
    assert verdict.outcome == "fail"
    assert verdict.gain == pytest.approx(-0.05, abs=0.01)
    (verdict,) = judge(pairings([two], [one]), {"depth/scenes": 0.03})
    assert verdict.outcome == "pass"
    with pytest.raises(ConfigError, match="scored in metre"):
        judge(pairings([one], [two]), {})


def test_failing_is_corrected_over_tasks_and_agrees_with_a_t_test(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    hard, noise = random.gamma(4, 0.1, 80), random.normal(size=80)
    change = 0.034 + 0.02 * (noise - noise.mean()) / noise.std()
    one, two = store_errors(tmp_path, "a", hard), store_errors(tmp_path, "b", hard + change)
    (pair,) = pairings([one], [two])
    (alone,) = judge([pair], {"depth": 0.03})
    _, want = ttest_1samp(change, 0.03, alternative="greater")
    want = float(np.asarray(want))
    assert alone.pvalue == pytest.approx(want, abs=0.01)
    assert want < 0.05 < 4 * want
    assert [verdict.outcome for verdict in judge([pair], {"depth": 0.03})] == ["fail"]
    assert {verdict.outcome for verdict in judge([pair] * 4, {"depth": 0.03})} == {"inconclusive"}


def test_one_failure_outweighs_what_is_inconclusive(tmp_path: Path) -> None:
    folders = (tmp_path / name for name in "abc")
    passed, open_, failed = (
        one_task(folder, *counts) for folder, counts in zip(folders, [(0, 0), (25, 9), (45, 0)], strict=True)
    )
    assert overall([passed]) == "pass"
    assert overall([passed, open_]) == "inconclusive"
    assert overall([passed, open_, failed]) == "fail"


def test_without_a_margin_a_fraction_has_one_point(tmp_path: Path) -> None:
    base = np.tile(right(0.7), 2)
    pairs = pairings([store(tmp_path, "a", base)], [store(tmp_path, "b", flipped(base, 30, 15))])
    (verdict,), (asked,) = judge(pairs, {}), judge(pairs, {"knn/digits": 0.01})
    assert verdict == asked
    assert verdict.margin == DEFAULT_MARGIN == 0.01
    assert judge(pairs, {"knn": 0.02, "knn/digits": 0.03})[0].margin == 0.03


def test_only_a_margin_of_a_fraction_can_pass_everything(tmp_path: Path) -> None:
    base = right(0.7)
    pairs = pairings([store(tmp_path, "a", base)], [store(tmp_path, "b", flipped(base, 3, 1))])
    assert judge(pairs, {"knn": 0.99})[0].margin == 0.99
    for margin in (1.0, 1.5):
        with pytest.raises(ConfigError, match="passes everything"):
            judge(pairs, {"knn": margin})
    one, two = depth(tmp_path, 0.05)
    assert judge(pairings([one], [two]), {"depth": 1.5})[0].margin == 1.5


def test_the_interval_is_that_of_a_one_sided_test_at_five_percent(tmp_path: Path) -> None:
    one, two = depth(tmp_path, 0.001)
    (verdict,) = judge(pairings([one], [two]), {"depth": 0.03})
    before, after = (record.read_samples(side)["rmse"] for side in (one, two))
    wanted = ttest_rel(before, after).confidence_interval(0.9)
    assert verdict.ci90 == pytest.approx((wanted.low, wanted.high), rel=0.02)


@pytest.mark.parametrize(("pvalue", "outcome"), [(0.05, "pass"), (0.0500001, "inconclusive")])
def test_a_p_value_of_exactly_the_level_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pvalue: float, outcome: str
) -> None:
    def always(self: Difference, bound: float) -> float:
        del self, bound
        return pvalue

    monkeypatch.setattr(Difference, "pvalue_below", always)
    (verdict,) = judge(pairings(*([one] for one in depth(tmp_path, 0.05))), {"depth": 1.0})
    assert verdict.outcome == outcome


def test_a_difference_without_noise_is_no_doubt_unless_there_is_none(tmp_path: Path) -> None:
    errors = np.full(50, 0.5)
    one = store_errors(tmp_path, "a", errors)
    for shift, outcome in ((0.25, "fail"), (0.0625, "pass"), (0.0, "inconclusive")):
        two = store_errors(tmp_path, f"b{shift}", errors + shift)
        two = record.write(tmp_path, replace(two, weights_sha256="2" * 64), record.read_samples(two))
        (verdict,) = judge(pairings([one], [two]), {"depth": 0.125})
        assert verdict.outcome == outcome
        assert ("the noise is unknown" in verdict.reason) == (shift == 0)


def by_seed(folder: Path, model: str, errors: np.ndarray, shifts: tuple[float, ...]) -> list[Result]:
    return [store_errors(folder, model, errors + shift, seed) for seed, shift in enumerate(shifts)]


def test_scores_are_means_over_seeds_and_all_seeds_must_be_the_same(tmp_path: Path) -> None:
    errors = np.random.default_rng(0).gamma(4, 0.1, 60)
    ours, theirs = by_seed(tmp_path, "a", errors, (0.0, 0.2)), by_seed(tmp_path, "b", errors, (0.0, 0.4))
    (verdict,) = judge(pairings(ours, theirs), {"depth": 0.2})
    assert (verdict.baseline, verdict.candidate) == pytest.approx((errors.mean() + 0.1, errors.mean() + 0.2))
    assert verdict.gain == pytest.approx(-0.1)
    # The first seed is the same on both sides, but not the second.
    assert (verdict.seeds, verdict.outcome) == (2, "inconclusive")
    assert verdict.reason.endswith("use more images or more seeds")


def test_the_advice_is_the_size_at_which_an_equal_candidate_passes(tmp_path: Path) -> None:
    one, two = depth(tmp_path, 0.0)
    gaps = record.read_samples(two)["rmse"] - record.read_samples(one)["rmse"]
    error = gaps.std(ddof=1) / 80**0.5
    margin = gaps.mean() + 0.5 * error
    (verdict,) = judge(pairings([one], [two]), {"depth": margin})
    # Four times as many images halve the error; found where 5 % and 80 % quantiles of t fit into the margin.
    needed = 80 * ((t.ppf(0.95, 79) + t.ppf(0.8, 79)) * error / margin) ** 2
    said = int(verdict.reason.split("takes about ")[1].split()[0].replace(",", ""))
    assert said == pytest.approx(needed, rel=0.05)
    assert needed > 160
    (verdict,) = judge(pairings(*([one] for one in depth(tmp_path, 0.05))), {"depth": 0.05})
    assert verdict.reason.endswith("it is worse by about the margin; use many more images or a wider margin")


def test_one_item_tells_of_no_noise(tmp_path: Path) -> None:
    sides = ([store_errors(tmp_path, name, np.array([error]))] for name, error in (("a", 0.5), ("b", 0.6)))
    (verdict,) = judge(pairings(*sides), {"depth": 0.2})
    assert (verdict.outcome, verdict.reason.endswith("takes many more images")) == ("inconclusive", True)
    assert verdict.to_dict()["ci90"] == [None, None]
    assert one_task(tmp_path / "other", 25, 9).to_dict()["ci90"] == list(one_task(tmp_path, 25, 9).ci90)


def test_another_precision_is_said_to_be_part_of_the_difference(tmp_path: Path) -> None:
    base = np.tile(right(0.7), 2)
    sides = store(tmp_path, "a", base), store(tmp_path, "b", flipped(base, 15, 15), precision="fp16")
    (verdict,) = judge(pairings(*([side] for side in sides)), {"knn": 0.02})
    assert verdict.outcome == "pass"
    assert verdict.reason.endswith("if at all; fp32 against fp16 is part of the difference")
    assert "part of" not in one_task(tmp_path / "other", 15, 15).reason
