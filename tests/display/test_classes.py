import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from ssleval.core import Metric, Samples
from ssleval.display.classes import by_class, confusion_csv, markdown, records
from ssleval.errors import NotApplicableError, UnknownNameError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of
from ssleval.results import Result, Score, record

RANDOM = np.random.default_rng(0)
LABEL = RANDOM.choice([0, 1, 2, 4], 300, p=[0.7, 0.2, 0.05, 0.05])
PREDICTED = np.where(RANDOM.random(300) < 0.8 - 0.4 * (LABEL > 0), LABEL, RANDOM.integers(0, 6, 300))
"""Of an imbalanced set; class 3 and 5 are predicted and never shown."""


def stored(folder: Path, metric: Metric, **columns: np.ndarray) -> Result:
    samples = Samples([f"{row}.png" for row in range(len(LABEL))], columns)
    found = estimates([metric], samples)[metric.name]
    score = Score(found.value, (found.low, found.high), len(LABEL), statistic=describe(metric.statistic))
    result = Result(
        "model", "knn", "set", "0123456789abcdef", {metric.name: score}, {}, {},
        {"test_split": "test", "fingerprints": {}}, "", {},
    )  # fmt: skip
    return record.write(folder, result, samples)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    columns = {"label": LABEL, "predicted@20": PREDICTED, "top1@20": LABEL == PREDICTED}
    return stored(tmp_path, Metric("top1@20", mean_of("top1@20")), **columns)


def test_every_class_has_what_scikit_learn_gives(result: Result) -> None:
    found = by_class(result)
    labels = np.unique([*LABEL, *PREDICTED])
    undefined: Any = np.nan
    reference: Any = precision_recall_fscore_support(LABEL, PREDICTED, labels=labels, zero_division=undefined)
    precision, recall, f1, shown = reference
    assert [row.label for row in found.classes] == labels.tolist()
    assert [row.n for row in found.classes] == shown.tolist()
    for name, expected in (("value", recall), ("precision", precision), ("f1", f1)):
        values = [getattr(row, name) for row in found.classes]
        assert [np.nan if value is None else value for value in values] == pytest.approx(
            expected.tolist(), nan_ok=True
        )
    assert found.confusion is not None
    matrix = confusion_matrix(LABEL, PREDICTED)
    assert found.confusion.toarray().tolist() == matrix.tolist()
    assert [list(map(int, line.split(",")[1:])) for line in confusion_csv(found).splitlines()[1:]] == (
        matrix.tolist()
    )
    np.fill_diagonal(matrix, 0)
    assert [row.taken for row in found.classes] == matrix.max(axis=1).tolist()


def test_balanced_accuracy_is_scikit_learns_and_has_an_interval(result: Result) -> None:
    with pytest.warns(UserWarning, match="not in y_true"):
        expected = balanced_accuracy_score(LABEL, PREDICTED)
    found = by_class(result).balanced
    assert found is not None
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert abs(found.value - (LABEL == PREDICTED).mean()) > 0.02
    assert f"{100 * expected:.1f} [" in markdown(by_class(result)).splitlines()[0]


def test_balanced_accuracy_is_of_the_items_that_a_score_is_of(tmp_path: Path) -> None:
    part = RANDOM.random(300) < 0.5
    columns = {"label": LABEL, "top1@part": np.where(part, LABEL == PREDICTED, np.nan)}
    found = by_class(stored(tmp_path, Metric("top1@part", mean_of("top1@part")), **columns)).balanced
    assert found is not None
    recalls = [np.mean(PREDICTED[part & (label == LABEL)] == label) for label in np.unique(LABEL[part])]
    assert found.value == pytest.approx(np.mean(recalls))


def test_outcomes_that_no_single_prediction_decides_have_no_confusion(tmp_path: Path) -> None:
    top5 = (LABEL == PREDICTED) | (RANDOM.random(300) < 0.5)
    columns = {"label": LABEL, "predicted@5": PREDICTED, "top5@5": top5}
    found = by_class(stored(tmp_path, Metric("top5@5", mean_of("top5@5")), **columns))
    assert found.confusion is None
    assert [row.value for row in found.classes] == [top5[label == LABEL].mean() for label in (0, 1, 2, 4)]
    assert {row.precision for row in found.classes} == {None}
    with pytest.raises(NotApplicableError, match="no single prediction"):
        confusion_csv(found)


def test_of_several_labels_classes_have_average_precision_and_no_recall(tmp_path: Path) -> None:
    targets, scores = RANDOM.random((300, 3)) < 0.3, RANDOM.random((300, 3))
    metric = Metric("map", mean_average_precision_of("scores", "targets"))
    found = by_class(stored(tmp_path, metric, scores=scores, targets=targets))
    assert found.balanced is None
    values = [row.value or np.nan for row in found.classes]
    samples = Samples([""] * 300, {"scores": scores, "targets": targets})
    assert float(np.mean(values)) == pytest.approx(metric.score(samples))


def test_a_metric_without_classes_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    plain = stored(tmp_path, Metric("rmse", mean_of("rmse")), rmse=RANDOM.random(300))
    with pytest.raises(NotApplicableError, match="no value for one class"):
        by_class(plain)
    with pytest.raises(UnknownNameError, match="did you mean rmse"):
        by_class(plain, "rmsee")


def test_the_table_has_a_line_for_every_class(result: Result) -> None:
    table = markdown(by_class(result))
    assert len(table.splitlines()) == 2 + 2 + 6
    assert table.splitlines()[2].startswith("| class | top1@20 | n | precision | F1 | mostly taken for |")
    assert json.loads(json.dumps(list(records(by_class(result)))))[0]["label"] == 0
