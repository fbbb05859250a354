from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import Geometry, RandomView, Readout
from ssleval.errors import ConfigError
from ssleval.metrics.lidar import lidar
from ssleval.tasks.spectrum import Spectrum
from tests.tasks.feature_tables import CONTEXT, Tables, blobs, dataset, evaluated

SMALL = Spectrum(first=2, last=7, components=3)


def scores(task: Spectrum, tables: Tables, seed: int = 0) -> dict[str, float]:
    samples = evaluated(task, tables, dataset(tables, target="none"), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}


def test_random_features_fill_all_dimensions() -> None:
    found = scores(SMALL, blobs(np.inf, test=3000))
    assert found["effective_rank"] == pytest.approx(8, abs=0.05)
    assert found["alpha_req"] == pytest.approx(0, abs=0.1)
    assert found["explained@3"] == pytest.approx(3 / 8, abs=0.03)
    assert found["dead_dimensions"] == 0


def test_collapsed_features_show() -> None:
    plain = blobs(np.inf, test=500)

    def collapsed(readout: Readout, split: str) -> np.ndarray:
        found = plain.features(readout, split) * np.float32(0.01)
        found[:, 0] += 5
        found[:, 6:] = 0
        return found

    found = scores(SMALL, Tables(plain.targets, collapsed))
    assert found["effective_rank"] < 1.2
    assert found["uniformity"] > -0.01
    assert found["dead_dimensions"] == 2 / 8


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"first": 3}, "alpha_req"),
        ({"last": 6}, "alpha_req"),
        ({"components": 2}, "explained@2"),
        ({"t": 1.0}, "uniformity"),
        ({"pairs_among": 20}, "uniformity"),
        ({"readout": "mean"}, "effective_rank"),
    ],
    ids=str,
)
def test_every_setting_changes_the_number(change: dict[str, object], metric: str) -> None:
    one, other = scores(SMALL, blobs()), scores(replace(SMALL, **change), blobs())  # pyright: ignore[reportArgumentType]
    assert other[metric] != pytest.approx(one.get(metric, one["explained@3"]), rel=1e-6)


def test_only_the_scored_split_is_read_and_labels_are_not_needed() -> None:
    tables = blobs()
    scores(SMALL, tables)
    assert [request.split for request in tables.asked] == ["test"]
    assert tables.asked[0].geometry == Geometry(256, "short", 224, "bicubic")
    (request,) = replace(SMALL, resize=224, crop=200, interpolation="bilinear").requests(dataset(tables))
    assert request.geometry == Geometry(224, "short", 200, "bilinear")
    assert replace(SMALL, preprocessing="card").requests(dataset(tables))[0].geometry is None


def test_lidar_is_computed_where_there_are_views() -> None:
    tables, task = blobs(np.inf, test=400), replace(SMALL, views=3)
    assert "lidar" not in scores(SMALL, tables)
    found = scores(task, tables)["lidar"]
    views = [tables.load(one)[Readout("pooled")] for one in task.requests(dataset(tables))[1:]]
    assert found == pytest.approx(lidar(views, delta=1e-4).mean(), rel=1e-9)
    assert 1 < found < 8


@pytest.mark.parametrize("change", [{"views": 2}, {"views_seed": 1}, {"delta": 1.0}], ids=str)
def test_every_setting_of_lidar_changes_it(change: dict[str, object]) -> None:
    base, tables = replace(SMALL, views=3), blobs()
    other = scores(replace(base, **change), tables)["lidar"]  # pyright: ignore[reportArgumentType]
    assert other != pytest.approx(scores(base, tables)["lidar"], rel=1e-6)


def test_views_are_random_crops_of_the_scored_split() -> None:
    requests = replace(SMALL, views=2, views_seed=3, crop=192).requests(dataset(blobs()))
    assert [(one.split, one.geometry) for one in requests[1:]] == [
        ("test", RandomView(index, 192, "bicubic", 3)) for index in range(2)
    ]


def test_the_seed_draws_the_pairs() -> None:
    task = replace(SMALL, pairs_among=20)
    one, other = (scores(task, blobs(), seed)["uniformity"] for seed in (0, 1))
    assert one != other


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="ranks"):
        Spectrum(first=50)
    with pytest.raises(ConfigError, match="pairs_among"):
        Spectrum(pairs_among=1)
    with pytest.raises(ConfigError, match="LiDAR needs 2 or more"):
        Spectrum(views=1)
    for change in ({"views": -2}, {"views": 2, "delta": 0.0}, {"components": 0}, {"t": 0.0}):
        with pytest.raises(ConfigError, match=rf"^spectrum\.{list(change)[-1]}="):
            Spectrum(**change)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="preprocessing=protocol"):
        Spectrum(views=2, preprocessing="card").requests(dataset(blobs()))
