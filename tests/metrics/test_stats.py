import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.segmentation import MeanIoU

from ssleval.core import Metric, Samples, Statistic
from ssleval.metrics.stats import (
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
