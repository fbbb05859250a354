"""CKA and shared neighbours against written-out definitions, and their intervals against the jackknife."""

import numpy as np
import pytest

from ssleval.errors import ConfigError, ContractError
from ssleval.metrics.similarity import Gram, Likeness, cka, mutual_knn


def features(seed: int, n: int = 23, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) + 3


def unbiased_hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, on Gram matrices of uncentred features."""
    n, ones = len(first), np.ones(len(first))
    k, m = (part.astype(np.float64) @ part.T.astype(np.float64) for part in (first, second))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return float((np.trace(k @ m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3)))


def debiased_cka(first: np.ndarray, second: np.ndarray) -> float:
    return unbiased_hsic(first, second) / np.sqrt(unbiased_hsic(first, first) * unbiased_hsic(second, second))


def biased_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Kornblith et al. 2019, eq. 3, on centred Gram matrices."""
    n = len(first)
    h = np.eye(n) - 1 / n
    k, m = (h @ (part.astype(np.float64) @ part.T.astype(np.float64)) @ h for part in (first, second))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def shared_neighbours(first: np.ndarray, second: np.ndarray, k: int) -> float:
    """Huh et al. 2024: the mean part of k nearest others, by cosine, that are common."""
    sets = []
    for part in (first.astype(np.float64), second.astype(np.float64)):
        unit = part / np.linalg.norm(part, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        sets.append([set(row[:k]) for row in np.argsort(-cosines, axis=1).tolist()])
    return float(np.mean([len(one & two) / k for one, two in zip(*sets, strict=True)]))


def nearest(part: np.ndarray, width: int) -> np.ndarray:
    unit = part.astype(np.float64) / np.linalg.norm(part.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1)[:, :width]


def jackknifed(values: list[float]) -> float:
    """Tukey's standard error from the scores without each image."""
    return float(np.sqrt((len(values) - 1) / len(values) * np.sum((np.array(values) - np.mean(values)) ** 2)))


def half(one: Likeness) -> float:
    return (one.high - one.low) / 2


@pytest.mark.parametrize("block", [7, 1024])
def test_cka_and_its_interval_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("ssleval.metrics.similarity._BLOCK", block)
    first = features(0)
    second = (first @ np.random.default_rng(2).normal(size=(5, 8)) + features(1, d=8)).astype(np.float32)
    found = cka(Gram(first), Gram(second))
    assert found.value == pytest.approx(debiased_cka(first, second), rel=1e-9)
    without = [debiased_cka(np.delete(first, i, 0), np.delete(second, i, 0)) for i in range(len(first))]
    assert half(found) == pytest.approx(2.0738730679 * jackknifed(without), rel=1e-6)


def test_a_rotation_and_a_scale_change_nothing_and_chance_is_about_zero_where_the_biased_one_is_not() -> None:
    first = features(0, 60, 40)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    assert cka(Gram(first), Gram(7 * first @ rotation - 2)).value == pytest.approx(1, abs=1e-6)
    other = features(9, 60, 40)
    found = cka(Gram(first), Gram(other))
    assert found.low < 0 < found.high
    assert biased_cka(first, other) > 0.35


@pytest.mark.parametrize("k", [1, 3, 10])
def test_shared_neighbours_and_their_interval_are_those_of_the_definition(k: int) -> None:
    first = features(3) - 3
    second = first + 0.7 * (features(4) - 3)
    found = mutual_knn(nearest(first, k + 1), nearest(second, k + 1))
    assert found.value == pytest.approx(shared_neighbours(first, second, k))
    without = [
        shared_neighbours(np.delete(first, i, 0), np.delete(second, i, 0), k) for i in range(len(first))
    ]
    assert half(found) == pytest.approx(2.0738730679 * jackknifed(without), rel=1e-6)


def test_the_interval_holds_the_similarity_of_many_images_as_often_as_it_says() -> None:
    random, mix = np.random.default_rng(0), np.random.default_rng(1).normal(size=(6, 6))
    population = random.normal(size=(20_000, 6)) * [3, 2, 1, 1, 1, 1]
    views = population, population @ mix + random.normal(size=(20_000, 6))
    true = cka(*(Gram(part[:4000]) for part in views)).value
    held = 0
    for _ in range(100):
        rows = random.choice(20_000, 80, replace=False)
        found = cka(*(Gram(part[rows]) for part in views))
        held += found.low <= true <= found.high
    assert 0.87 <= held / 100 <= 0.99


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        (np.ones((4, 3)), ConfigError), (np.full((9, 3), 7.1), ContractError),
        (np.full((9, 3), np.nan), ContractError),
    ],
)  # fmt: skip
def test_what_has_no_similarity_is_refused(vectors: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        Gram(vectors)
