from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from ssleval.core import Geometry, Readout, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.selection import hold_out
from ssleval.metrics.recorded import describe
from ssleval.tasks.logreg import Logreg
from tests.tasks.feature_tables import CONTEXT, Tables, blobs, dataset, evaluated

QUICK = Logreg(count=6)


def run(task: Logreg, tables: Tables, seed: int = 0, **card: object) -> tuple[float, Samples]:
    data = dataset(tables, **card)
    task = task.resolved(data)
    samples = evaluated(task, tables, data, replace(CONTEXT, seed=seed))
    return task.metrics[0].score(samples), samples


def test_separable_classes_are_separated_and_unlike_ones_are_at_chance() -> None:
    assert run(QUICK, blobs(0.1))[0] == 1.0
    assert run(QUICK, blobs(np.inf, test=600))[0] == pytest.approx(1 / 3, abs=0.08)


def test_it_is_scikit_learn_with_the_best_held_out_strength_on_all_rows() -> None:
    tables = blobs(2.0, train=150, test=300)
    _, samples = run(QUICK, tables)
    train = tables.features(Readout("pooled"), "train").astype(np.float64)
    labels = tables.targets["train"]
    held = hold_out(labels, 0.1, 0)
    accuracies = [
        LogisticRegression(C=strength, tol=1e-10, max_iter=2000)
        .fit(train[~held], labels[~held])
        .score(train[held], labels[held])
        for strength in np.geomspace(1e-6, 1e5, 6)
    ]
    strength = np.geomspace(1e-6, 1e5, 6)[int(np.argmax(accuracies))]
    assert samples["strength"][0] == pytest.approx(strength)
    peer = LogisticRegression(C=strength, tol=1e-10, max_iter=2000).fit(train, labels)
    agreeing = peer.predict(tables.features(Readout("pooled"), "test")) == samples["predicted"]
    assert agreeing.mean() > 0.99


def test_several_labels_give_mean_average_precision() -> None:
    tables = blobs(1.5, train=120, test=150)
    for split, labels in tables.targets.items():
        tables.targets[split] = np.stack([labels == 0, labels != 1], axis=1)
    plain = blobs(1.5, train=120, test=150)
    both = Tables(tables.targets, plain.features)
    score, samples = run(QUICK, both, target="multilabel", metric="map", class_names=("x", "y"))
    expected = [average_precision_score(samples["targets"][:, c], samples["scores"][:, c]) for c in (0, 1)]
    assert score == pytest.approx(np.mean(expected))
    assert score > 0.6
    assert describe(Logreg(metric="map").metrics[0].statistic)["name"] == "mean_average_precision_of"


def test_tolerance_reaches_the_solver() -> None:
    tables = blobs(1.5, train=120)
    targets = {split: labels[:, None] == [0, 1] for split, labels in tables.targets.items()}
    card: dict[str, object] = {"target": "multilabel", "metric": "map", "class_names": ("x", "y")}
    exact, loose = (
        run(replace(QUICK, tolerance=tolerance), Tables(targets, tables.features), 0, **card)[1]["scores"]
        for tolerance in (1e-9, 1e-1)
    )
    assert not np.allclose(exact, loose, rtol=1e-4)


def test_the_metric_is_the_one_of_the_card() -> None:
    tables = blobs(2.0, test=300)
    tables.targets["test"][:] = np.arange(300) % 10 // 8
    score, samples = run(QUICK, tables, metric="mean_per_class", class_names=("a", "b", "c"))
    labels = samples["label"]
    expected = np.mean([samples["correct"][labels == label].mean() for label in np.unique(labels)])
    assert score == pytest.approx(expected)
    assert score != pytest.approx(samples["correct"].mean())


@pytest.mark.parametrize(
    "change",
    [
        {"smallest": 2e-3},
        {"largest": 1e-5},
        {"count": 2},
        {"held_out": 0.5},
        {"readout": "mean"},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, object]) -> None:
    tables = blobs(3.0, train=90, test=300)
    base = Logreg(count=12, held_out=0.2)
    one, other = run(base, tables)[1], run(replace(base, **change), tables)[1]  # pyright: ignore[reportArgumentType]
    same = one["strength"][0] == other["strength"][0]
    assert not (same and np.array_equal(one["predicted"], other["predicted"]))


def test_the_seed_decides_what_is_held_out() -> None:
    tables = blobs(3.0, train=90)
    strengths = {run(Logreg(count=12), tables, seed)[1]["strength"][0] for seed in range(6)}
    assert len(strengths) > 1
    assert np.array_equal(run(QUICK, tables)[1]["predicted"], run(QUICK, tables)[1]["predicted"])


def test_geometry_is_shared_with_the_other_tasks_unless_set() -> None:
    (request, _) = Logreg().requests(dataset(blobs()))
    assert request.geometry == Geometry(256, "short", 224, "bicubic")
    (request, _) = Logreg(resize=224, crop=200, interpolation="bilinear").requests(dataset(blobs()))
    assert request.geometry == Geometry(224, "short", 200, "bilinear")
    assert Logreg(preprocessing="card").requests(dataset(blobs()))[0].geometry is None


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="needs one label per image or several"):
        evaluated(Logreg(), blobs(), dataset(blobs(), target="mask"))
    with pytest.raises(ConfigError, match="cannot score"):
        Logreg(metric="map").resolved(dataset(blobs()))
    with pytest.raises(ConfigError, match="one split"):
        evaluated(Logreg(), blobs(), dataset(blobs(), test_split="train"))
    with pytest.raises(ConfigError, match=r"logreg\.count=1: expected a whole number >= 2"):
        Logreg(count=1)
    with pytest.raises(ConfigError, match=r"logreg\.held_out=0\.0"):
        Logreg(held_out=0.0)
    with pytest.raises(ConfigError, match=r"logreg\.tolerance=0\.0"):
        Logreg(tolerance=0.0)
    with pytest.raises(ConfigError, match="smallest < largest"):
        Logreg(smallest=1.0, largest=1.0)
