import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import Samples
from ssleval.display.report.items import item_view
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.paired import right_or_wrong
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of, mean_per_class_of, mean_ratio_of, ratio_of
from ssleval.results import Score

RANDOM = np.random.default_rng(0)
N = 60


def samples(**columns: np.ndarray) -> Samples:
    return Samples([str(i) for i in range(N)], columns)


def score(statistic: object) -> Score:
    return Score(0.5, (0.4, 0.6), N, statistic=describe(statistic))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "statistic", [mean_of("top1@20"), mean_per_class_of("top1@20", "label")], ids=["mean", "per_class"]
)
def test_classes_of_a_mean_are_means_within_labels(statistic: object) -> None:
    label, correct = RANDOM.integers(3, 9, N), RANDOM.random(N) < 0.5
    view = item_view(
        samples(**{"label": label, "top1@20": correct, "predicted@20": label, "predicted@5": -label}),
        score(statistic),
    )
    assert view is not None
    assert view.classes is not None
    table = pd.DataFrame({"label": label, "correct": correct.astype(float)})
    means = table.groupby("label")["correct"].agg(["mean", "size"])
    np.testing.assert_array_equal(view.classes.labels, means.index)
    np.testing.assert_allclose(view.classes.values, means["mean"])
    np.testing.assert_array_equal(view.classes.counts, means["size"])
    np.testing.assert_array_equal(view.predicted, label)
    assert view.values is not None
    assert right_or_wrong(view.values)


def test_a_mean_without_labels_has_items_alone() -> None:
    view = item_view(samples(rmse=RANDOM.random(N)), score(mean_of("rmse")))
    assert view is not None
    assert view.classes is None
    assert view.labels is None
    assert view.values is not None
    assert not right_or_wrong(view.values)


def test_a_mean_ratio_gives_each_class_its_ratio_of_sums_and_each_item_its_mean_ratio() -> None:
    above, below = RANDOM.integers(0, 4, (N, 3)), RANDOM.integers(0, 3, (N, 3)) + 3
    below[:, 2] = 0
    below[0] = 0
    view = item_view(samples(i=above, u=below), score(mean_ratio_of("i", "u")))
    assert view is not None
    assert view.classes is not None
    assert view.values is not None
    np.testing.assert_allclose(view.classes.values[:2], (above.sum(0) / below.sum(0).clip(1))[:2])
    assert np.isnan(view.classes.values[2])
    assert np.isnan(view.values[0])
    assert view.values[1] == pytest.approx(np.mean(above[1, :2] / below[1, :2]))
    assert view.classes.counts.tolist() == [N - 1, N - 1, 0]


def test_a_ratio_gives_each_item_its_own() -> None:
    above, below = RANDOM.random(N), RANDOM.integers(0, 3, N)
    view = item_view(samples(a=above, b=below), score(ratio_of("a", "b")))
    assert view is not None
    assert view.values is not None
    np.testing.assert_allclose(view.values[below > 0], (above / below.clip(1))[below > 0])
    assert np.isnan(view.values[below == 0]).all()


def test_average_precision_is_of_classes_and_of_no_item() -> None:
    scores, targets = RANDOM.random((N, 3)), RANDOM.random((N, 3)) < 0.3
    view = item_view(samples(s=scores, t=targets), score(mean_average_precision_of("s", "t")))
    assert view is not None
    assert view.values is None
    assert view.classes is not None
    want = [average_precision_score(targets[:, c], scores[:, c]) for c in range(3)]
    np.testing.assert_allclose(view.classes.values, want)


def test_an_unknown_statistic_has_no_view() -> None:
    assert item_view(samples(x=np.zeros(N)), Score(0.0, (0.0, 0.0), N, statistic={"name": "other"})) is None
