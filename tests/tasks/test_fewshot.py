from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from ssleval.core import Geometry, Readout, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.selection import few_per_class
from ssleval.tasks.fewshot import Fewshot
from tests.tasks.feature_tables import Tables, blobs, dataset, evaluated

QUICK = Fewshot(tries=3, count=5)


def run(task: Fewshot, tables: Tables, **card: object) -> tuple[dict[str, float], Samples]:
    data = dataset(tables, **card)
    task = task.resolved(data)
    samples = evaluated(task, tables, data)
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


def test_separable_classes_need_few_images() -> None:
    found, _ = run(replace(QUICK, shots=(5.0, 1.0, 0.2), ks=(3,)), blobs(0.1))
    assert list(found)[:2] == ["top1@5shot-logreg", "top1@5shot-knn3"]
    assert {score for name, score in found.items() if name.startswith("top1")} == {1.0}
    assert {score for name, score in found.items() if name.startswith("std")} == {0.0}
    assert "top1@20%-knn3" in found


def test_the_score_is_the_mean_over_tries_and_std_their_deviation() -> None:
    tables = blobs(2.0, test=300)
    task = replace(QUICK, classifiers=("knn",))
    found, _ = run(task, tables)
    train, test = (tables.features(Readout("pooled"), split) for split in ("train", "test"))
    labels, single = tables.targets["train"], list[float]()
    for attempt in range(3):
        rows = few_per_class(labels, 5.0, attempt)
        vote = KNeighborsClassifier(5, metric="cosine").fit(train[rows], labels[rows])
        votes = 1 - vote.kneighbors(test)[0]
        weights, near = np.exp(votes / 0.07), labels[rows][vote.kneighbors(test)[1]]
        ballots = np.stack([(weights * (near == label)).sum(axis=1) for label in range(3)], axis=1)
        single.append(float((ballots.argmax(axis=1) == tables.targets["test"]).mean()))
    assert found["top1@5shot-knn5"] == pytest.approx(np.mean(single))
    assert found["std@5shot-knn5"] == pytest.approx(np.std(single, ddof=1))


def test_neighbours_are_those_up_to_the_shots_and_the_shots() -> None:
    names = [metric.name for metric in Fewshot(shots=(12.0,), classifiers=("knn",)).metrics]
    scores = ("top1", "std", "mean_per_class")
    assert names == [f"{score}@12shot-knn{k}" for score in scores for k in (10, 12)]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"shots": (6.0,)}, "logreg"),
        ({"tries": 2}, "logreg"),
        ({"temperature": 3.0}, "knn"),
        ({"ks": (1, 14)}, "knn"),
        ({"smallest": 1e-2}, "logreg"),
        ({"largest": 1e-5}, "logreg"),
        ({"count": 2}, "logreg"),
        ({"held_out": 0.6}, "logreg"),
        ({"readout": "mean"}, "logreg"),
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, object], column: str) -> None:
    tables = blobs(3.0, train=90, test=300)
    base = replace(QUICK, count=8, shots=(20.0,), held_out=0.3)
    answers: list[list[np.ndarray]] = []
    for task in (base, replace(base, **change)):  # pyright: ignore[reportArgumentType]
        _, samples = run(task, tables)
        answers.append([samples[n] for n in samples.columns if n.startswith("correct") and column in n])
    assert not (len(answers[0]) == len(answers[1]) and all(map(np.array_equal, answers[0], answers[1])))


def test_one_shot_has_a_strength_of_its_own() -> None:
    tables = blobs(1.0, test=300)
    found = [
        run(Fewshot(shots=(1.0,), tries=2, classifiers=("logreg",), c_one_shot=c), tables)[1][
            "correct@1shot-logreg"
        ]
        for c in (1e-4, 1e4)
    ]
    assert not np.array_equal(found[0], found[1])


def test_the_metric_is_the_one_of_the_card() -> None:
    tables = blobs(2.0, test=300)
    tables.targets["test"][:] = np.arange(300) % 10 // 8
    found, samples = run(QUICK, tables, metric="mean_per_class", class_names=("a", "b", "c"))
    labels, correct = samples["label"], samples["correct@5shot-logreg"]
    expected = np.mean([correct[labels == label].mean() for label in np.unique(labels)])
    assert found["mean_per_class@5shot-logreg"] == pytest.approx(expected)


def test_geometry_is_shared_with_the_other_tasks_unless_set() -> None:
    (request, _) = Fewshot().requests(dataset(blobs()))
    assert request.geometry == Geometry(256, "short", 224, "bicubic")
    (request, _) = Fewshot(resize=224, crop=200, interpolation="bilinear").requests(dataset(blobs()))
    assert request.geometry == Geometry(224, "short", 200, "bilinear")
    assert Fewshot(preprocessing="card").requests(dataset(blobs()))[0].geometry is None


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="one label"):
        evaluated(Fewshot(), blobs(), dataset(blobs(), target="multilabel"))
    with pytest.raises(NotApplicableError, match="scored by mAP; use the task logreg"):
        Fewshot().resolved(dataset(blobs(), metric="map"))
    with pytest.raises(ConfigError, match="one split"):
        evaluated(Fewshot(), blobs(), dataset(blobs(), test_split="train"))
    with pytest.raises(ConfigError, match="whole numbers"):
        Fewshot(shots=(2.5,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shots": ()},
        {"shots": (0.0,)},
        {"tries": 1},
        {"classifiers": ()},
        {"ks": (0,)},
        {"temperature": 0.0},
        {"smallest": 0.0},
        {"c_one_shot": -1.0},
        {"held_out": 1.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^fewshot.{next(iter(wrong))}="):
        Fewshot(**wrong)
