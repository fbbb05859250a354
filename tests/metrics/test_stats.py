import pickle

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.segmentation import MeanIoU

from ssleval.core import Metric, Samples, Statistic
from ssleval.errors import ContractError
from ssleval.metrics import stats
from ssleval.metrics.stats import (
    bootstrap,
    mean_of,
    mean_per_class_of,
    mean_ratio_of,
    ratio_of,
)


def samples(**columns: np.ndarray) -> Samples:
    count = len(next(iter(columns.values())))
    return Samples([f"item{i}" for i in range(count)], columns)


def random_samples(count: int = 60, classes: int = 4) -> Samples:
    random = np.random.default_rng(7)
    below = random.integers(1, 50, (count, classes))
    values = random.normal(size=count)
    values[::9] = np.nan
    return samples(
        correct=random.random(count) < 0.7,
        label=random.integers(0, classes, count),
        value=values,
        above=random.integers(0, 50, (count, classes)) % (below + 1),
        below=below,
        one=below[:, 0],
    )


STATISTICS: dict[str, Statistic] = {
    "mean": mean_of("value"),
    "ratio": ratio_of("correct", "one"),
    "mean_ratio": mean_ratio_of("above", "below"),
    "mean_per_class": mean_per_class_of("correct", "label"),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_weights_mean_repeating_items(name: str) -> None:
    given, statistic = random_samples(), STATISTICS[name]
    weights = np.random.default_rng(1).integers(0, 4, (3, len(given))).astype(float)
    for row, got in zip(weights, statistic(given, weights), strict=True):
        repeated = np.repeat(np.arange(len(given)), row.astype(int))
        columns = {key: column[repeated] for key, column in given.columns.items()}
        drawn = Samples([str(i) for i in range(len(repeated))], columns)
        assert got == pytest.approx(Metric(name, statistic).score(drawn), rel=1e-12)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_survive_pickling(name: str) -> None:
    given, weights = random_samples(), np.ones((1, 60))
    copy: Statistic = pickle.loads(pickle.dumps(STATISTICS[name]))
    assert copy(given, weights) == STATISTICS[name](given, weights)


def test_mean_leaves_nan_rows_out() -> None:
    given = random_samples()
    assert Metric("m", mean_of("value")).score(given) == pytest.approx(np.nanmean(given["value"]))
    assert np.isnan(Metric("m", mean_of("x")).score(samples(x=np.array([np.nan, np.nan]))))


def test_mean_per_class_is_balanced_accuracy() -> None:
    random = np.random.default_rng(3)
    label = random.choice(5, 300, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    predicted = np.where(random.random(300) < 0.6, label, random.integers(0, 5, 300))
    given = samples(correct=predicted == label, label=label)
    score = Metric("m", mean_per_class_of("correct", "label")).score(given)
    assert score == pytest.approx(balanced_accuracy_score(label, predicted))
    assert score != pytest.approx(given["correct"].mean())


def test_mean_ratio_is_the_mean_iou_of_the_whole_split() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randint(0, 4, (6, 8, 8), generator=generator) for _ in range(2))
    masks = [torch.stack([map_ == c for c in range(4)], 1) for map_ in (predicted, target)]
    above = (masks[0] & masks[1]).sum((2, 3)).numpy()
    below = (masks[0] | masks[1]).sum((2, 3)).numpy()
    # As one image, which is how torchmetrics is made to accumulate over a split.
    reference = MeanIoU(num_classes=4, per_class=False, input_format="index")
    want = reference(predicted.reshape(1, -1, 8), target.reshape(1, -1, 8)).item()
    score = Metric("m", mean_ratio_of("above", "below")).score(samples(above=above, below=below))
    assert score == pytest.approx(want)
    assert score != pytest.approx(np.mean(above / below))


def test_mean_ratio_leaves_absent_classes_out() -> None:
    given = samples(above=np.array([[1, 0], [1, 0]]), below=np.array([[2, 0], [2, 0]]))
    assert Metric("m", mean_ratio_of("above", "below")).score(given) == 0.5


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    ends = bootstrap([Metric("m", mean_of("x"))], samples(x=values))["m"]
    half = norm.ppf(0.975) * values.std() / len(values) ** 0.5
    assert ends == pytest.approx((values.mean() - half, values.mean() + half), abs=0.08 * half)


def test_bootstrap_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    metric = Metric("m", mean_of("x"))
    drawn = [samples(x=random.random(80) < 0.7) for _ in range(300)]
    ends = [bootstrap([metric], one, resamples=300, seed=i)["m"] for i, one in enumerate(drawn)]
    # Five standard deviations of 300 trials around 0.95, less the known small-sample shortfall.
    assert 0.88 <= np.mean([low <= 0.7 <= high for low, high in ends]) <= 1.0
    narrow = [bootstrap([metric], one, resamples=300, level=0.5)["m"] for one in drawn]
    assert 0.35 <= np.mean([low <= 0.7 <= high for low, high in narrow]) <= 0.65


def test_bootstrap_depends_on_the_seed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    given, metrics = random_samples(), [Metric(name, one) for name, one in STATISTICS.items()]
    whole = bootstrap(metrics, given, resamples=101)
    monkeypatch.setattr(stats, "_WEIGHTS_AT_ONCE", 7 * len(given) + 1)
    pieces = bootstrap(metrics, given, resamples=101)
    for name, ends in whole.items():
        assert pieces[name] == pytest.approx(ends, rel=1e-12)
    # One metric alone sees the resamples that it sees among others.
    assert bootstrap(metrics[1:2], given, resamples=101)["ratio"] == pieces["ratio"]
    assert bootstrap(metrics, given, resamples=101, seed=1)["mean"] != pieces["mean"]
    assert bootstrap(metrics, given, resamples=102)["mean"] != pieces["mean"]


def test_bootstrap_holds_few_weights_at_a_time() -> None:
    sizes = [block.shape for block in stats.resample_counts(50_000, 200, 0, stats._WEIGHTS_AT_ONCE)]
    assert sum(rows for rows, _ in sizes) == 200
    assert max(rows * items for rows, items in sizes) <= stats._WEIGHTS_AT_ONCE


def test_resamples_on_which_a_metric_is_undefined_are_left_out() -> None:
    given = samples(x=np.array([0.25, np.nan, np.nan]))
    assert bootstrap([Metric("m", mean_of("x"))], given)["m"] == (0.25, 0.25)
    assert np.isnan(bootstrap([Metric("m", mean_of("x"))], samples(x=np.array([np.nan])))["m"]).all()


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"level": 0.0}, {"level": 1.0}])
def test_impossible_bootstraps_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ContractError, match="bootstrap of 2 items"):
        bootstrap([], samples(x=np.zeros(2)), **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ContractError, match="bootstrap of 0 items"):
        bootstrap([], Samples([], {"x": np.zeros(0)}))
