from collections.abc import Callable

import numpy as np
import pytest

from ssleval.errors import DataError
from ssleval.metrics.spectrum import (
    Spectrum,
    alpha_req,
    dead_dimensions,
    effective_rank,
    eigenspectrum,
    uniformity,
    variance_explained,
)


def matrix(n: int = 400, d: int = 24, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.6
    return (mixed @ np.linalg.qr(random.standard_normal((d, d)))[0] + 0.3).astype(np.float32)


def rank_of(features: np.ndarray) -> float:
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = singular / singular.sum() + 1e-300
    return float(np.exp(-(share * np.log(share)).sum()))


def covariance_of(features: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.cov(features.astype(np.float64), rowvar=False, bias=True))[::-1]


def alpha_of(features: np.ndarray, first: int = 3, last: int = 20) -> float:
    ranks = np.arange(first, last + 1)
    logs = np.log(covariance_of(features)[first - 1 : last])
    return float(-np.polyfit(np.log(ranks), logs, 1, w=ranks**-0.5)[0])


def explained_of(features: np.ndarray) -> float:
    values = covariance_of(features)
    return float(values[:4].sum() / values.sum())


def uniformity_of(features: np.ndarray, t: float = 2.0) -> float:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = ((unit[:, None] - unit[None]) ** 2).sum(-1)[np.triu_indices(len(unit), 1)]
    return float(np.log(np.exp(-t * distances).mean()))


NUMBERS: dict[str, tuple[Callable[[np.ndarray], float], Callable[[np.ndarray], np.ndarray]]] = {
    "rank": (rank_of, lambda x: effective_rank(eigenspectrum(x, centred=False))),
    "alpha": (alpha_of, lambda x: alpha_req(eigenspectrum(x, centred=True), 3, 20)),
    "explained": (explained_of, lambda x: variance_explained(eigenspectrum(x, centred=True), 4)),
    "uniformity": (uniformity_of, lambda x: uniformity(x, t=2.0, limit=10_000, seed=0)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_contributions_average_to_the_number(name: str) -> None:
    reference, ours = NUMBERS[name]
    assert ours(matrix()).mean() == pytest.approx(reference(matrix()), rel=1e-6)


@pytest.mark.parametrize("name", NUMBERS)
def test_contributions_vary_like_the_number_over_fresh_samples(name: str) -> None:
    reference, ours = NUMBERS[name]
    everything = matrix(24_000, seed=1)
    fresh = [reference(part) for part in np.split(everything, 60)]
    errors = [ours(part).std() / np.sqrt(400) for part in np.split(everything[:4000], 10)]
    assert np.mean(errors) == pytest.approx(np.std(fresh), rel=0.3)


def test_effective_rank_counts_equal_directions() -> None:
    features = np.kron(np.eye(6), np.ones((5, 1)))
    assert effective_rank(eigenspectrum(features, centred=False)).mean() == pytest.approx(6)
    assert effective_rank(eigenspectrum(np.ones((5, 3)), centred=False)).mean() == pytest.approx(1)


def test_alpha_is_the_exponent_of_a_power_law() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 30)))[0]
    axes = np.linalg.qr(axes - axes.mean(axis=0))[0] * np.arange(1, 31) ** -0.7
    spectrum = eigenspectrum(axes, centred=True)
    assert alpha_req(spectrum, 1, 30).mean() == pytest.approx(1.4)
    assert alpha_req(spectrum, 11, 500).mean() == pytest.approx(1.4)


def test_every_setting_changes_the_number() -> None:
    spectrum = eigenspectrum(matrix(), centred=True)
    alphas = {float(alpha_req(spectrum, *ranks).mean()) for ranks in ((3, 20), (4, 20), (3, 19))}
    assert len(alphas) == 3
    assert variance_explained(spectrum, 4).mean() < variance_explained(spectrum, 5).mean() < 1
    found = {
        float(np.nanmean(uniformity(matrix(), t=t, limit=limit, seed=seed)))
        for t, limit, seed in ((2.0, 50, 0), (1.0, 50, 0), (2.0, 60, 0), (2.0, 50, 1))
    }
    assert len(found) == 4


def test_uniformity_of_some_images_leaves_out_the_others() -> None:
    found = uniformity(matrix(), t=2.0, limit=50, seed=0)
    kept = ~np.isnan(found)
    assert kept.sum() == 50
    assert found[kept].mean() == pytest.approx(uniformity_of(matrix()[kept]), rel=1e-6)


def test_dead_dimensions_are_those_that_never_change() -> None:
    features = matrix(50, 8)
    features[:, [2, 5]] = 0.25
    assert dead_dimensions(features).tolist() == [0.25] * 50


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(DataError, match="same features"):
        eigenspectrum(np.ones((5, 3), np.float32), centred=True)
    with pytest.raises(DataError, match="at least 2"):
        eigenspectrum(np.ones((1, 3), np.float32), centred=True)
    with pytest.raises(DataError, match="alpha-ReQ"):
        alpha_req(eigenspectrum(matrix(d=5), centred=True), 11, 50)


@pytest.mark.parametrize("centred", [False, True])
def test_blocks_of_rows_change_no_spectrum(monkeypatch: pytest.MonkeyPatch, *, centred: bool) -> None:
    whole = eigenspectrum(matrix(50, 6), centred=centred)
    monkeypatch.setattr("ssleval.metrics.spectrum._ROWS", 7)
    blocks = eigenspectrum(matrix(50, 6), centred=centred)
    np.testing.assert_allclose(blocks.values, whole.values, rtol=1e-9)
    np.testing.assert_allclose(blocks.squares, whole.squares, rtol=1e-6, atol=1e-12)


def test_more_images_than_are_compared_at_a_time_have_the_same_uniformity() -> None:
    features = matrix(1100, 4)
    found = uniformity(features, t=2.0, limit=1100, seed=0)
    assert found.mean() == pytest.approx(uniformity_of(features), rel=1e-6)
    # With one image more than the limit, one is left out.
    assert np.isnan(uniformity(features, t=2.0, limit=1099, seed=0)).sum() == 1


def test_two_images_or_two_directions_are_enough() -> None:
    two = eigenspectrum(np.array([[1.0, 0, 0], [0, 2.0, 0]]), centred=False)
    assert two.values == pytest.approx([2.0, 0.5])
    assert effective_rank(two).mean() == pytest.approx(np.exp(-(2 / 3) * np.log(2 / 3) + np.log(3) / 3))
    assert variance_explained(two, 1).mean() == pytest.approx(0.8)
    # Log 4 over log 2.
    assert alpha_req(two, 1, 2).mean() == pytest.approx(2)
    with pytest.raises(DataError, match="alpha-ReQ needs two of 2"):
        alpha_req(two, 2, 9)


def test_small_features_have_the_spectrum_of_large_ones() -> None:
    large, small = (eigenspectrum(scale * matrix(), centred=True) for scale in (1.0, 1e-9))
    assert effective_rank(small).mean() == pytest.approx(effective_rank(large).mean(), rel=1e-6)
    assert len(small.values) == len(large.values) == 24


def test_a_direction_of_rounding_errors_is_none() -> None:
    features = np.random.default_rng(0).standard_normal((40, 3))
    for small, directions in ((1e-5, 3), (1e-7, 2)):
        assert len(eigenspectrum(features * [1, 1, small], centred=True).values) == directions


def test_images_of_nothing_count_as_orthogonal_to_all() -> None:
    features = np.array([[1.0, 0], [0.0, 1.0], [0.0, 0.0]])
    # Every pair has cosine 0, so distance 2 squared of the unit sphere: the log is -2 t.
    assert uniformity(features, t=1.5, limit=9, seed=0).mean() == pytest.approx(-3.0)


def test_differences_of_rounding_errors_are_none() -> None:
    with pytest.raises(DataError, match="same features"):
        eigenspectrum(1e-14 * matrix(), centred=True)


def test_influences_average_to_zero_whatever_the_derivatives() -> None:
    squares = np.array([[1.0, 5.0], [3.0, 1.0]])
    found = Spectrum(squares.mean(axis=0), squares).contributions(7.0, np.array([10.0, 1.0]))
    assert found.tolist() == [7 - 10 + 2, 7 + 10 - 2]


@pytest.mark.parametrize("name", NUMBERS)
def test_contributions_are_what_the_score_loses_without_the_image(name: str) -> None:
    reference, ours = NUMBERS[name]
    features = matrix()
    found = ours(features)
    for image in (int(found.argmin()), int(found.argmax())):
        lost = 399 * (reference(features) - reference(np.delete(features, image, axis=0)))
        # The influence is the first order of it; of the image farthest out the second shows.
        assert found[image] - found.mean() == pytest.approx(lost, rel=0.2)


def rank_of_values(values: np.ndarray) -> float:
    share = values**0.5 / (values**0.5).sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def alpha_of_values(values: np.ndarray) -> float:
    ranks = np.arange(3, 21)
    return float(-np.polyfit(np.log(ranks), np.log(values[2:20]), 1, w=ranks**-0.5)[0])


BY_VALUES: dict[str, tuple[Callable[[np.ndarray], float], Callable[[Spectrum], np.ndarray]]] = {
    "rank": (rank_of_values, effective_rank),
    "alpha": (alpha_of_values, lambda spectrum: alpha_req(spectrum, 3, 20)),
    "explained": (lambda values: float(values[:4].sum() / values.sum()), lambda s: variance_explained(s, 4)),
}


@pytest.mark.parametrize("name", BY_VALUES)
def test_contributions_are_derivatives_toward_the_image(name: str) -> None:
    score, ours = BY_VALUES[name]
    spectrum, step = eigenspectrum(matrix(60), centred=True), 1e-6
    found = ours(spectrum)
    for image in (0, 17, 59):
        toward = spectrum.values + step * (spectrum.squares[image] - spectrum.values)
        change = (score(toward) - score(spectrum.values)) / step
        assert found[image] - found.mean() == pytest.approx(change, rel=1e-3, abs=1e-5)
