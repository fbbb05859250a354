import numpy as np
import pytest
from sklearn.decomposition import PCA

from ssleval.errors import DataError
from ssleval.heads import whitening
from ssleval.heads.whitening import learn_pca_whitening, learn_whitening

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.standard_normal((200, 6)) @ RANDOM.standard_normal((6, 6)) + 3 * np.arange(6)
OTHERS = RANDOM.standard_normal((9, 6)) + 1


def test_centred_whitening_is_scikit_learns() -> None:
    """Up to the sign of a direction and the divisor n - 1, which inner products show."""
    ours = learn_whitening(VECTORS, centred=True, floor=0.0)(OTHERS)
    theirs = PCA(whiten=True).fit(VECTORS).transform(OTHERS)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T * 200 / 199, rtol=1e-3, atol=1e-3)
    whitened = learn_whitening(VECTORS, centred=True)(VECTORS).astype(np.float64)
    np.testing.assert_allclose(whitened.T @ whitened / 200, np.eye(6), atol=1e-4)


def test_dinos_whitening_is_that_of_outer_products_as_they_are() -> None:
    """Independently: S^-1/2 of the mean outer product, by a singular value decomposition."""
    ours = learn_whitening(VECTORS, centred=False, floor=0.0)(OTHERS)
    _, roots, directions = np.linalg.svd(VECTORS / np.sqrt(200), full_matrices=False)
    theirs = (OTHERS - VECTORS.mean(axis=0)) @ directions.T / roots
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, rtol=1e-3, atol=1e-3)
    centred = learn_whitening(VECTORS, centred=True, floor=0.0)(OTHERS)
    assert np.abs(ours @ ours.T - centred @ centred.T).max() > 0.1


def test_small_variances_are_raised_to_the_floor() -> None:
    thin = VECTORS * np.array([1, 1, 1, 1, 1, 1e-6])
    whiten = learn_whitening(thin, centred=True, floor=0.01)
    variances = np.linalg.eigvalsh(np.cov(thin.T, bias=True))
    gains = np.linalg.norm(whiten.matrix, axis=1)
    assert gains.max() == pytest.approx((variances.max() * 0.01) ** -0.5)
    usual = np.linalg.norm(learn_whitening(thin, centred=True).matrix, axis=1)
    assert usual.max() == pytest.approx((variances.max() * 1e-5) ** -0.5), "1e-5, as in DINO's class PCA"


def test_fewer_images_than_channels_are_refused() -> None:
    with pytest.raises(DataError, match="of 6 channels needs as many images that are not scored, got 5"):
        learn_whitening(VECTORS[:5], centred=True)
    assert learn_whitening(VECTORS[:6], centred=False).matrix.shape == (6, 6)


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
@pytest.mark.parametrize(("dim", "shrinkage"), [(6, 1.0), (3, 1.0), (3, 0.5), (2, 0.0), (512, 1.0)])
def test_principal_directions_are_those_of_a_singular_value_decomposition(
    monkeypatch: pytest.MonkeyPatch, at_once: int, dim: int, shrinkage: float
) -> None:
    monkeypatch.setattr(whitening, "_ROWS", at_once)
    ours = learn_pca_whitening(VECTORS, dim=dim, shrinkage=shrinkage)(OTHERS).astype(np.float64)
    mean = VECTORS.mean(axis=0)
    _, roots, directions = np.linalg.svd((VECTORS - mean) / np.sqrt(200))
    theirs = (OTHERS - mean) @ directions[:dim].T / roots[:dim] ** shrinkage
    assert ours.shape == (9, min(dim, 6))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, rtol=1e-3, atol=1e-3)


def test_few_images_or_dead_channels_give_few_directions() -> None:
    with pytest.raises(
        DataError, match="to 6 dimensions: the 5 images it is learnt on vary in 4; offer more"
    ):
        learn_pca_whitening(VECTORS[:5], dim=6, shrinkage=1.0)
    dead = VECTORS * np.array([1, 1, 1, 1, 1, 0])
    with pytest.raises(DataError, match="to 6 dimensions: the 200 images it is learnt on vary in 5"):
        learn_pca_whitening(dead, dim=512, shrinkage=0.5)
    with pytest.raises(DataError, match="vary in 0"):
        learn_pca_whitening(VECTORS * 0 + 1, dim=1, shrinkage=1.0)
    assert learn_pca_whitening(VECTORS[:5], dim=4, shrinkage=1.0).matrix.shape == (4, 6)
    assert learn_pca_whitening(dead, dim=6, shrinkage=0.0).matrix.shape == (6, 6), "nothing is divided"


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_a_direction_that_only_rounding_varies_is_dead(noise: float) -> None:
    """Of vectors of a layer norm without bias, whose channels sum to 0 up to the rounding of float32."""
    random = np.random.default_rng(1)
    drawn = random.standard_normal(192) + noise * random.standard_normal((1500, 192))
    normed = (drawn - drawn.mean(axis=1, keepdims=True)).astype(np.float32)
    vectors = normed / np.linalg.norm(normed, axis=1, keepdims=True)
    with pytest.raises(DataError, match="vary in 191"):
        learn_pca_whitening(vectors, dim=192, shrinkage=1.0)
    assert learn_pca_whitening(vectors, dim=191, shrinkage=1.0).matrix.shape == (191, 192)
