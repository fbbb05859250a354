import numpy as np
import pytest

from ssleval.core import Samples, statistics
from ssleval.errors import ContractError, DataError
from ssleval.metrics.recorded import describe, statistic_from

SAMPLES = Samples(
    [str(i) for i in range(6)],
    {
        "a": np.array([1.0, 0, 1, 1, 0, 1]),
        "b": np.array([1, 1, 2, 2, 3, 3]),
        "c": np.arange(12.0).reshape(6, 2),
        "d": np.arange(12.0).reshape(6, 2) + 3,
        "e": np.arange(12).reshape(6, 2) % 3 == 0,
        "f": np.arange(6 * 75).reshape(6, 15, 5) % 7 == 0,
        "g": np.arange(6 * 9).reshape(6, 3, 3) % 5,
    },
)
COLUMNS = {
    "mean_of": ("a",),
    "mean_per_class_of": ("a", "b"),
    "mean_ratio_of": ("c", "d"),
    "ratio_of": ("a", "b"),
    "mean_average_precision_of": ("c", "e"),
    "eleven_point_precision_of": ("c", "e"),
    "mean_corruption_error_of": ("f",),
    "micro_average_precision_of": ("c", "e", "b"),
    "matched_mean_iou_of": ("g",),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_statistic_comes_back_from_its_description(name: str) -> None:
    statistic = statistics.get(name)(*COLUMNS[name])
    described = describe(statistic)
    assert described["name"] == name
    weights = np.random.default_rng(0).integers(1, 4, (5, 6)).astype(float)
    again = statistic_from(described)(SAMPLES, weights)
    np.testing.assert_array_equal(again, statistic(SAMPLES, weights))


def test_a_statistic_of_unknown_making_is_refused() -> None:
    with pytest.raises(
        ContractError,
        match=r"none of adaptive_calibration_error_of, auroc_of, calibration_error_of, coco_average",
    ):
        describe(lambda _, weights: weights.sum(1))


@pytest.mark.parametrize(
    "described", [{}, {"name": "eval", "columns": {}}, {"name": "mean_of", "columns": {"other": "a"}}]
)
def test_an_unknown_description_is_refused(described: dict[str, object]) -> None:
    with pytest.raises(DataError, match="is unknown here"):
        statistic_from(described)
