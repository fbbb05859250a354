from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import (
    adjusted_rand_score,
    confusion_matrix,
    normalized_mutual_info_score,
    silhouette_score,
    v_measure_score,
)

from ssleval.core import Metric, Samples
from ssleval.errors import DataError
from ssleval.metrics.clustering import (
    Agreement,
    matched_accuracy,
    mutual_information,
    rand_index,
    silhouettes,
)
from ssleval.metrics.intervals import estimates
from ssleval.metrics.stats import mean_over_fits_of


def accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    matrix = confusion_matrix(labels, clusters)
    return float(matrix[linear_sum_assignment(-matrix)].sum() / len(labels))


REFERENCES: dict[str, tuple[Agreement, Callable[[np.ndarray, np.ndarray], float]]] = {
    "nmi": (mutual_information, normalized_mutual_info_score),
    "v": (mutual_information, v_measure_score),
    "ari": (rand_index, adjusted_rand_score),
    "accuracy": (matched_accuracy, accuracy),
}


def drawn(count: int, classes: int, clusters: int, agree: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    return labels, np.where(
        random.random(count) < agree, labels % clusters, random.integers(clusters, size=count)
    )


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("classes", "clusters"), [(7, 7), (3, 9), (9, 3), (2, 1), (40, 40)])
def test_contributions_average_to_the_score_of_the_libraries(name: str, classes: int, clusters: int) -> None:
    ours, theirs = REFERENCES[name]
    for agree in (0.0, 0.4, 1.0):
        labels, found = drawn(500, classes, clusters, agree, seed=classes)
        # Numbers of classes and clusters are names only.
        assert ours(10 * labels + 3, found + 5).mean() == pytest.approx(theirs(labels, found), abs=1e-12)


@pytest.mark.parametrize("name", ["nmi", "ari"])
def test_a_contribution_is_how_the_score_moves_with_the_image(name: str) -> None:
    ours, theirs = REFERENCES[name]
    labels, found = drawn(2000, 4, 5, 0.7, seed=1)
    moves = ours(labels, found) - theirs(labels, found)
    for image in range(6):
        twice = [np.append(part, part[image]) for part in (labels, found)]
        gained = theirs(twice[0], twice[1]) - theirs(labels, found)
        assert gained * len(labels) == pytest.approx(moves[image], abs=0.01)


@pytest.mark.parametrize("name", ["nmi", "ari"])
def test_the_interval_over_images_is_as_wide_as_their_draw_makes_it(name: str) -> None:
    ours, theirs = REFERENCES[name]
    scores = [theirs(*drawn(400, 4, 4, 0.7, seed)) for seed in range(300)]
    contributions = ours(*drawn(400, 4, 4, 0.7, seed=1000))
    assert contributions.std() / 20 == pytest.approx(np.std(scores), rel=0.15)


def test_the_interval_is_over_images_and_fits() -> None:
    random = np.random.default_rng(0)
    images, fits = random.normal(0, 0.1, (500, 1)), random.normal(0.5, 0.05, (1, 6))
    metric = Metric("x", mean_over_fits_of("x"), unit="index")

    def half(values: np.ndarray) -> float:
        ids = [str(row) for row in range(len(values))]
        found = estimates([metric], Samples(ids, {"x": values}))["x"]
        assert found.value == pytest.approx(values.mean(), abs=1e-12)
        return (found.high - found.low) / 2

    over_images, over_fits = np.std(images, ddof=1) / 500**0.5, np.std(fits, ddof=1) / 6**0.5
    assert half(images + 0 * fits) == pytest.approx(1.965 * over_images, rel=1e-2)
    both = (over_images**2 + over_fits**2) ** 0.5
    # Six fits decide: Student's quantile is that of a few degrees of freedom.
    assert 1.96 < half(images + fits) / both < 2.9
    assert half(images[:, :1] + 0.5) == pytest.approx(1.965 * over_images, rel=1e-2)


def test_one_class_is_refused_and_lone_images_agree() -> None:
    with pytest.raises(DataError, match="one class"):
        mutual_information(np.zeros(5, int), np.arange(5))
    assert rand_index(np.arange(5), np.arange(5)).tolist() == [1.0] * 5


def test_silhouettes_are_scikit_learn_s_of_the_images_drawn() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((80, 3)).astype(np.float32)
    clusters = random.integers(4, size=(80, 2))
    found = silhouettes(features, clusters, limit=80, seed=0)
    for fit in range(2):
        expected = silhouette_score(features.astype(np.float64), clusters[:, fit])
        assert found[:, fit].mean() == pytest.approx(expected, abs=1e-5)
    few = silhouettes(features, clusters, limit=50, seed=0)
    assert np.isnan(few).all(axis=1).sum() == 30
    assert (np.isnan(few) != np.isnan(silhouettes(features, clusters, limit=50, seed=1))).any()
    rows = np.flatnonzero(~np.isnan(few[:, 0]))
    expected = silhouette_score(features[rows].astype(np.float64), clusters[rows, 0])
    assert few[rows, 0].mean() == pytest.approx(expected, abs=1e-5)


def test_a_partition_without_a_next_cluster_has_silhouettes_of_zero() -> None:
    whole = np.stack([np.zeros(9, int), np.arange(9)], axis=1)
    assert not silhouettes(np.random.default_rng(0).random((9, 2)), whole, limit=9, seed=0).any()
