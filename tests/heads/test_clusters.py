from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.preprocessing import StandardScaler, normalize

from ssleval.errors import DataError
from ssleval.heads.clusters import fit_predict, scaled


def points(count: int = 300, width: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = 3 * random.standard_normal((4, width))
    return (centres[np.arange(count) % 4] + random.standard_normal((count, width))).astype(np.float32)


@pytest.mark.parametrize("batch_size", [0, 50])
def test_a_fit_is_the_library_s_with_that_seed(batch_size: int) -> None:
    shared: dict[str, Any] = {"n_clusters": 6, "n_init": 1, "max_iter": 40}
    for seed in (3, 4):
        model = (
            MiniBatchKMeans(**shared, batch_size=50, random_state=seed)
            if batch_size
            else KMeans(**shared, tol=0, random_state=seed)
        )
        found = fit_predict(points(), 6, [seed], batch_size=batch_size, iterations=40)
        assert found[:, 0].tolist() == np.asarray(model.fit_predict(points())).tolist()


def test_lloyd_ends_where_every_point_is_in_the_cluster_of_the_nearest_mean() -> None:
    x = points()
    (found,) = fit_predict(x, 7, [0], batch_size=0, iterations=300).T
    means = np.stack([x[found == cluster].mean(axis=0) for cluster in range(7)])
    assert (((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == found).all()


def test_threads_change_nothing() -> None:
    before = torch.get_num_threads()
    found = list[np.ndarray]()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(fit_predict(points(3000), 9, range(6), batch_size=0, iterations=30))
    finally:
        torch.set_num_threads(before)
    assert (found[0] == found[1]).all()
    assert len({column.tobytes() for column in found[0].T}) > 1


def test_scaling_is_that_of_scikit_learn() -> None:
    x = points() * np.array([1, 20, 1, 1, 1], np.float32) + 4
    assert scaled(x, "none") is x
    np.testing.assert_allclose(scaled(x, "unit"), normalize(x), rtol=1e-5)
    np.testing.assert_allclose(scaled(x, "standard"), StandardScaler().fit_transform(x), atol=1e-4)
    dead = np.zeros((3, 2), np.float32)
    assert not scaled(dead, "standard").any()
    assert not scaled(dead, "unit").any()


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(DataError, match="4 clusters of 300 images, which have 1 different"):
        fit_predict(np.ones((300, 2), np.float32), 4, [0], batch_size=0, iterations=5)
    with pytest.raises(DataError, match="5 clusters of 3 images"):
        fit_predict(points(3), 5, [0], batch_size=0, iterations=5)
    broken = points()
    broken[4, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit_predict(broken, 4, [0], batch_size=0, iterations=5)
