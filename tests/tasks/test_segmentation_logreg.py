from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from sklearn.preprocessing import StandardScaler

from ssleval.core import Dataset, Geometry, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.tasks.segmentation_logreg import SegmentationLogreg
from tests.tasks.dense_tables import dense_dataset, masks, one_hot, tables
from tests.tasks.feature_tables import CONTEXT, Tables, evaluated

TARGETS = {"train": masks(24), "test": masks(10, seed=1)}
TASK = SegmentationLogreg(size=16)


def data(**card: object) -> Dataset:
    return dense_dataset(TARGETS, **{"target": "mask", "class_names": ("a", "b", "c"), **card})


def scores(task: SegmentationLogreg, source: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    samples = evaluated(task, source, data(), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


def published(source: Tables, *, standardise: bool, seed: int = 0) -> float:
    """The published evaluation with scikit-learn: scaler, logistic regression, macro Jaccard of pixels."""
    tokens = {
        split: np.asarray(source.features(TASK.requests(data())[0].readouts[0], split), np.float64)
        for split in TARGETS
    }
    pixels = {
        split: np.stack(rows).reshape(len(rows), 4, 4, 4, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16)
        for split, rows in TARGETS.items()
    }
    order = np.random.default_rng(seed).permutation(24)
    held = np.isin(np.arange(24), order[:2])
    flat = {split: grid.reshape(-1, grid.shape[3]) for split, grid in tokens.items()}
    kept = np.repeat(~held, 16)
    if standardise:
        scaler = StandardScaler().fit(flat["train"][kept])
        flat = {split: np.asarray(scaler.transform(rows)) for split, rows in flat.items()}
    labels = np.array([np.bincount(patch).argmax() for patch in pixels["train"]])

    def fitted(rows: np.ndarray, strength: float) -> LogisticRegression:
        rows = rows & (labels != 255)
        model = LogisticRegression(C=strength, tol=1e-10, max_iter=5000)
        return model.fit(flat["train"][rows], labels[rows])

    def score(model: LogisticRegression, features: np.ndarray, target: np.ndarray) -> float:
        predicted = np.repeat(model.predict(features), 16)
        known = target.ravel() != 255
        return float(jaccard_score(target.ravel()[known], predicted[known], average="macro"))

    strengths = 10 ** np.linspace(-6, 5, 8)
    judged = [score(fitted(kept, c), flat["train"][~kept], pixels["train"][~kept]) for c in strengths]
    best = fitted(np.ones(24 * 16, bool), strengths[int(np.argmax(judged))])
    return score(best, flat["test"], pixels["test"])


@pytest.mark.parametrize("standardise", [True, False])
def test_the_score_is_that_of_the_published_evaluation(standardise: bool) -> None:
    source = tables(TARGETS, one_hot, noise=0.8)
    found, samples = scores(replace(TASK, standardise=standardise), source)
    assert found["mean_iou"] == pytest.approx(published(source, standardise=standardise), abs=1e-9)
    assert len(samples) == 10


def test_classes_that_tokens_say_are_found_to_the_patch() -> None:
    assert scores(TASK, tables(TARGETS, one_hot, noise=0.01))[0]["mean_iou"] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"size": 32},
        {"standardise": False},
        {"smallest": 1e-7, "largest": 1e-5},
        {"count": 3, "smallest": 1e-3, "largest": 1e-1},
        {"held_out": 0.5},
        {"every": 3},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, object]) -> None:
    source = tables(TARGETS, one_hot, noise=1.5)
    changed = scores(replace(TASK, **change), source)[1]  # pyright: ignore[reportArgumentType]
    assert (scores(TASK, source)[1]["intersection"] != changed["intersection"]).any()


def test_a_loose_tolerance_changes_the_answer() -> None:
    source, large = tables(TARGETS, one_hot, noise=0.5), replace(TASK, smallest=1.0, largest=100.0, count=2)
    loose = scores(replace(large, tolerance=0.9), source)[1]["intersection"]
    assert (scores(large, source)[1]["intersection"] != loose).any()


def test_the_seed_decides_which_images_are_held_out() -> None:
    source = tables(TARGETS, one_hot, noise=1.5)
    first, same, *others = (scores(TASK, source, seed)[1]["intersection"] for seed in (0, 0, 1, 2, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert any((first != other).any() for other in others)


def test_requests_are_normed_patches_of_squares() -> None:
    train, test = SegmentationLogreg(interpolation="bilinear").requests(data())
    assert train.geometry == test.geometry == Geometry(224, "square", None, "bilinear")
    assert [str(one) for one in train.readouts] == ["patches[-1]"]


def test_what_it_cannot_do_is_refused() -> None:
    source = tables(TARGETS, one_hot)
    with pytest.raises(NotApplicableError, match="needs a class for every pixel"):
        evaluated(TASK, source, data(target="label"))
    with pytest.raises(ConfigError, match=r"C from 1 to 1; smallest < largest"):
        replace(TASK, smallest=1.0, largest=1.0)
    with pytest.raises(ConfigError, match=r"held_out=0\.01 of 24 images is none"):
        scores(replace(TASK, held_out=0.01), source)
