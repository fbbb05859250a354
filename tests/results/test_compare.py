import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control, ttest_rel

from ssleval.core import Metric, Samples, digest
from ssleval.errors import ConfigError, DataError, UnknownNameError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of
from ssleval.results import Result, Score, record
from ssleval.results.compare import compare, markdown, mismatches, pairings, unlike_precision
from ssleval.results.lookup import stored_results
from tests.results.test_leaderboard import right, store


def store_errors(folder: Path, model: str, errors: np.ndarray, seed: int = 0) -> Result:
    """A depth-like result: mean error in metres, less is better."""
    samples, metric = (
        Samples([str(i) for i in range(len(errors))], {"rmse": errors}),
        Metric("rmse", mean_of("rmse"), False),
    )
    found = estimates([metric], samples)["rmse"]
    interval = found.low, found.high
    score = Score(found.value, interval, len(errors), "metre", False, describe(metric.statistic))
    made = Result(
        model=model,
        task="depth",
        dataset="scenes",
        key=digest([model, "depth", seed]),
        metrics={"rmse": score},
        protocol={"version": 1},
        backbone={"name": model},
        data={"test_split": "test", "fingerprints": {"scenes/test": "f"}},
        weights_sha256="0" * 64,
        settings={"seed": seed, "skip_corrupt": False},
    )
    return record.write(folder, made, samples)


def flipped(base: np.ndarray, worse: int, better: int) -> np.ndarray:
    other = base.copy()
    other[np.flatnonzero(base)[:worse]] = False
    other[np.flatnonzero(~base)[:better]] = True
    return other


def test_right_and_wrong_is_tested_by_exact_mcnemar(tmp_path: Path) -> None:
    base = right(0.7)
    first, second = store(tmp_path, "a", base), store(tmp_path, "b", flipped(base, 4, 16))
    (row,) = compare([first], [second])
    assert row.test == "exact McNemar"
    assert row.pvalue == pytest.approx(binomtest(4, 20).pvalue)
    assert row.difference == pytest.approx(12 / 400)
    assert row.ci95[0] < row.difference < row.ci95[1]
    assert row.verdict == "second better"
    (back,) = compare([second], [first])
    assert (back.difference, back.verdict) == (-row.difference, "first better")
    assert back.pvalue == row.pvalue


def test_everything_else_is_tested_by_a_paired_t_test_and_less_may_be_better(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    one = random.gamma(4, 0.1, 60)
    two = one - random.normal(0.03, 0.02, 60)
    (row,) = compare([store_errors(tmp_path, "a", one)], [store_errors(tmp_path, "b", two)])
    assert row.test == "paired t"
    assert row.verdict == "second better", "the error fell"
    ends = ttest_rel(two, one).confidence_interval(0.95)
    assert row.ci95 == pytest.approx((ends.low, ends.high), abs=5e-4)


def test_holm_corrects_over_tasks(tmp_path: Path) -> None:
    base = right(0.7)
    pairs = [
        [store(tmp_path, model, flipped(base, *(counts if model == "b" else (0, 0))), k=k) for model in "ab"]
        for k, counts in ((20, (4, 16)), (10, (5, 15)), (5, (9, 11)))
    ]
    rows = compare(*([pair[side] for pair in pairs] for side in (0, 1)))
    ordered = sorted(row.pvalue for row in rows)
    want = [min(1.0, 3 * ordered[0]), min(1.0, 2 * ordered[1])]
    assert sorted(row.adjusted for row in rows)[:2] == pytest.approx([want[0], max(want)])
    # Holm never rejects more than Benjamini-Hochberg, which scipy has.
    assert np.all(
        np.array([row.adjusted for row in rows]) >= false_discovery_control([r.pvalue for r in rows])
    )


def test_the_smallest_detectable_difference_shrinks_with_items_and_is_never_zero(tmp_path: Path) -> None:
    few, many = right(0.7)[:50], np.tile(right(0.7), 4)
    rows = [
        compare([store(tmp_path / str(n), "a", x)], [store(tmp_path / str(n), "b", x)])[0]
        for n, x in enumerate((few, many))
    ]
    assert [row.pvalue for row in rows] == [1.0, 1.0]
    # Five differing items of n can never give p < 0.05, six can: binomtest(0, 5) and (0, 6).
    assert binomtest(0, 5).pvalue > 0.05 > binomtest(0, 6).pvalue
    assert rows[0].detectable >= 6 / 50
    assert 6 / 1600 <= rows[1].detectable < 0.01
    same = store_errors(tmp_path, "a", np.full(9, 0.5)), store_errors(tmp_path, "b", np.full(9, 0.5))
    (row,) = compare([same[0]], [same[1]])
    assert row.to_dict()["detectable"] is None
    assert "unknown" in markdown([row], "a", "b")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 10}, "protocol.k: 20 against 10"),
        ({"fingerprint": "g"}, "fingerprint.digits/test: f against g"),
        ({"skip_corrupt": True}, "skip_corrupt: False against True"),
    ],
    ids=str,
)
def test_what_must_agree_is_named_when_it_does_not(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    one, two = store(tmp_path, "a", right(0.5)), store(tmp_path, "b", right(0.5), **change)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=words):
        compare([one], [two])


def test_another_split_or_task_is_named(tmp_path: Path) -> None:
    one = store(tmp_path, "a", right(0.5))
    assert mismatches(one, one) == []
    other = replace(one, data={**one.data, "test_split": "val"})
    assert mismatches(one, other) == ["split: test against val"]
    with pytest.raises(DataError, match=r"nothing to compare: one side has knn/digits, the other knn/pets"):
        compare([one], [replace(one, dataset="pets")])


def test_several_seeds_are_paired_seed_by_seed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    hard = random.gamma(4, 0.1, 80)
    sides = [
        [store_errors(tmp_path, model, hard + shift * (seed - 1), seed) for seed in range(3)]
        for model, shift in (("a", 0.0), ("b", 0.05))
    ]
    (row,) = compare(*sides)
    assert row.seeds == 3
    assert row.difference == pytest.approx(0, abs=1e-12)
    # The items agree on every seed's shift; only the three seeds are uncertain, with 2 degrees of freedom.
    assert row.ci95[1] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=0.01)
    (fewer,) = pairings(sides[0][:2], sides[1])
    assert len(fewer.first) == len(fewer.second) == 2
    with pytest.raises(DataError, match=r"seeds \[0, 1\] against \[2\]"):
        compare(sides[0][:2], sides[1][2:])


def test_two_results_of_one_seed_are_not_chosen_between(tmp_path: Path) -> None:
    plain, half = store(tmp_path, "a", right(0.5)), store(tmp_path, "a", right(0.6), precision="bf16")
    with pytest.raises(ConfigError, match="precision fp32 and bf16"):
        compare([plain, half], [store(tmp_path, "b", right(0.5))])
    (row,) = compare([plain], [half])
    assert row.n == 400, "one model in two precisions may be compared"


def test_names_files_and_folders_find_results(tmp_path: Path) -> None:
    one = store(tmp_path, "m", right(0.5), weights="a" * 64)
    assert stored_results("m", tmp_path) == [one]
    assert stored_results(str(one.path), tmp_path) == [one]
    assert stored_results(str(tmp_path / "m"), tmp_path) == [one]
    assert stored_results(str(tmp_path), Path("none")) == [one]
    two = store(tmp_path, "m", right(0.5), weights="b" * 64)
    with pytest.raises(ConfigError, match="say m@aaaaaaaa or m@bbbbbbbb"):
        stored_results("m", tmp_path)
    assert stored_results("m@bbbb", tmp_path) == [two]
    store(tmp_path, "n", right(0.5))
    with pytest.raises(ConfigError, match="holds m, n"):
        stored_results(str(tmp_path), tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean m"):
        stored_results("mm", tmp_path)


def test_the_table_and_the_json_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.cli.test_cli import ssleval

    base = right(0.7)
    store(tmp_path, "a", base)
    store(tmp_path, "b", flipped(base, 0, 20))
    code, out, _ = ssleval(monkeypatch, capsys, "compare", "a", "b", "--results", tmp_path)
    assert code == 0
    assert "| +5.00 [" in out
    assert out.rstrip().endswith("b better |")
    code, line, _ = ssleval(monkeypatch, capsys, "compare", "a", "b", "--results", tmp_path, "--json")
    found = json.loads(line)
    assert (found["difference"], found["n"], found["verdict"]) == (pytest.approx(0.05), 400, "second better")


def test_another_precision_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.cli.test_cli import ssleval

    one, two = store(tmp_path, "a", right(0.7)), store(tmp_path, "b", right(0.7, 1))
    assert not unlike_precision(pairings([one], [two])[0])
    later = replace(one, key="9" * 64, settings={**one.settings, "seed": 1, "precision": "bf16"})
    more = replace(two, key="8" * 64, settings={**two.settings, "seed": 1})
    (mixed,) = pairings([one, later], [two, more])
    assert unlike_precision(mixed) == "bf16 and fp32 against fp32"
    half = replace(two, settings={**two.settings, "precision": "fp16"})
    record.write(tmp_path, half, record.read_samples(two))
    code, _, err = ssleval(monkeypatch, capsys, "compare", "a", "b", "--results", tmp_path)
    assert (code, err) == (0, "knn/digits: fp32 against fp16; that is part of the difference\n")


def test_verdicts_name_models_whatever_they_are_called(tmp_path: Path) -> None:
    base = right(0.6)
    row = compare([store(tmp_path, "a", base)], [store(tmp_path, "b", flipped(base, 0, 60))])[0]
    for first, second in (("run_second", "first"), ("second", "run_first")):
        assert markdown([row], first, second).rstrip().endswith(f"| {second} better |")
