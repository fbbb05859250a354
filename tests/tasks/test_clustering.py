from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

from ssleval.core import Geometry, Readout, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.tasks.clustering import Clustering
from tests.tasks.feature_tables import CONTEXT, Tables, blobs, dataset, evaluated

QUICK = Clustering(fits=3, batch_size=20)


def run(task: Clustering, tables: Tables, seed: int = 0, **card: object) -> tuple[dict[str, float], Samples]:
    samples = evaluated(task, tables, dataset(tables, **card), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


def test_separable_classes_are_found_and_noise_is_not() -> None:
    found, _ = run(QUICK, blobs(0.1))
    assert [found[name] for name in ("nmi", "ari", "accuracy")] == pytest.approx([1.0] * 3)
    assert found["silhouette"] > 0.8
    found, _ = run(QUICK, blobs(np.inf, test=300))
    assert found["nmi"] < 0.05
    assert abs(found["ari"]) < 0.02
    assert found["accuracy"] < 0.45


def test_scores_are_those_of_mteb_s_evaluator_by_scikit_learn() -> None:
    tables = blobs(1.5, test=300)
    found, samples = run(QUICK, tables)
    labels, features = tables.targets["test"], tables.features(Readout("pooled"), "test")
    single: dict[str, list[float]] = {"nmi": [], "ari": [], "accuracy": []}
    for seed in np.random.SeedSequence(0).generate_state(3):
        model = MiniBatchKMeans(3, batch_size=20, n_init="auto", random_state=int(seed)).fit(features)
        single["nmi"].append(float(normalized_mutual_info_score(labels, model.labels_)))
        single["ari"].append(float(adjusted_rand_score(labels, model.labels_)))
        matrix = confusion_matrix(labels, model.labels_)
        single["accuracy"].append(matrix[linear_sum_assignment(matrix, maximize=True)].sum() / 300)
    for name, values in single.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-12)
        assert samples[name].mean(axis=0) == pytest.approx(values, abs=1e-12)
    assert found["std@nmi"] == pytest.approx(np.std(single["nmi"], ddof=1), abs=1e-12)
    assert 0.2 < found["nmi"] < 0.95


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "lloyd"},
        {"batch_size": 60},
        {"iterations": 1},
        {"fits": 2},
        {"clusters": 5},
        {"scaling": "unit"},
        {"scaling": "standard"},
        {"readout": "mean"},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, Any]) -> None:
    one, other = (run(task, blobs(2.0, test=300)) for task in (QUICK, replace(QUICK, **change)))
    assert one[0]["nmi"] != other[0]["nmi"]


def test_silhouettes_are_between_as_many_as_are_asked_for() -> None:
    one, other = (run(replace(QUICK, silhouettes_among=among), blobs(2.0)) for among in (90, 40))
    assert np.isnan(other[1]["silhouette"]).sum() == 3 * 50
    assert one[0]["silhouette"] != other[0]["silhouette"]


def test_the_seed_draws_the_starts_and_all_else_is_the_same() -> None:
    tables = blobs(2.0, test=300)
    (_, first), (_, again), (_, other) = (run(QUICK, tables, seed) for seed in (0, 0, 1))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first.columns)
    assert (first["cluster"] != other["cluster"]).any()


def test_as_many_clusters_as_the_scored_images_have_classes() -> None:
    tables = blobs(0.5, test=90)
    tables.targets["test"] = tables.targets["test"] % 2
    tables.targets["train"][0] = 2
    _, samples = run(QUICK, tables)
    assert samples["cluster"].max() == 1
    assert run(replace(QUICK, clusters=4), tables)[1]["cluster"].max() == 3


def test_only_the_scored_split_is_read() -> None:
    tables = blobs()
    _, samples = run(QUICK, tables)
    assert [request.split for request in tables.asked] == ["test"]
    assert tables.asked[0].geometry == Geometry(256, "short", 224, "bicubic")
    assert samples["label"].tolist() == tables.targets["test"].tolist()
    assert replace(QUICK, preprocessing="card").requests(dataset(tables))[0].geometry is None


def test_the_bound_of_passes_is_that_of_the_library_and_recorded() -> None:
    data = dataset(blobs())
    assert Clustering().resolved(data).iterations == 100
    assert Clustering(algorithm="lloyd").resolved(data).iterations == 300
    assert Clustering(iterations=7).resolved(data).iterations == 7
    assert Clustering().amounts(data) == {"test": (1, 90), "fits": (1, 10)}


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="clusters=1"):
        Clustering(clusters=1)
    for change in ({"fits": 0}, {"batch_size": 0}, {"silhouettes_among": 1}):
        with pytest.raises(ConfigError, match=rf"^clustering\.{next(iter(change))}="):
            Clustering(**change)  # pyright: ignore[reportArgumentType]
    assert "std@nmi" not in [metric.name for metric in Clustering(fits=1).metrics]
    assert run(replace(QUICK, fits=1), blobs(0.1))[0]["nmi"] == pytest.approx(1)
    with pytest.raises(NotApplicableError, match="one label per image"):
        run(QUICK, blobs(), target="none")
