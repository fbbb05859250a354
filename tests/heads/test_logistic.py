import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from ssleval.errors import ConfigError
from ssleval.heads import logistic
from ssleval.heads.logistic import Logistic, fit_best, fit_path

STRENGTHS = np.geomspace(1e-6, 1e5, 8).tolist()


def blobs(n: int, d: int, classes: int, spread: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, channels of unequal scale, far from the origin."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    features = random.standard_normal((classes, d))[labels] + spread * random.standard_normal((n, d))
    return (features * np.arange(1, d + 1) ** -0.5 + 3).astype(np.float32), labels


def objective(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float
) -> float:
    """The objective, written out; one row of weights is the two-class sigmoid."""
    logits = features.astype(np.float64) @ weight.T + bias
    if logits.shape[1] == 1:
        logits = np.concatenate([0 * logits, logits], axis=1)
    loss = np.asarray(logsumexp(logits, axis=1)) - logits[np.arange(len(labels)), labels]
    return float(strength * loss.sum() + 0.5 * (weight**2).sum())


@pytest.fixture
def reference() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says where it stops at max_iter
        yield


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize(
    ("n", "d", "classes"), [(400, 12, 5), (400, 12, 2), (60, 90, 4), (150, 10, 3)], ids=str
)
def test_no_objective_is_worse_than_scikit_learns(n: int, d: int, classes: int) -> None:
    features, labels = blobs(n, d, classes)
    fits = list(fit_path(features, labels, STRENGTHS, num_classes=classes))
    for fit in fits:
        peer = LogisticRegression(C=fit.strength, tol=1e-12, max_iter=1000).fit(
            features.astype(np.float64), labels
        )
        weight = fit.weight.numpy()[1:] if classes == 2 else fit.weight.numpy()
        bias = fit.bias.numpy()[1:] if classes == 2 else fit.bias.numpy()
        ours = objective(features, labels, weight, bias, fit.strength)
        assert ours == pytest.approx(fit.objective, rel=1e-6)
        theirs = objective(features, labels, peer.coef_, np.asarray(peer.intercept_), fit.strength)
        assert ours <= theirs * (1 + 1e-6)
        if fit.strength < 10:
            assert fit.scores(features).argmax(1) == pytest.approx(peer.predict(features))


@pytest.mark.usefixtures("reference")
def test_several_labels_are_one_problem_each() -> None:
    features, labels = blobs(300, 8, 4)
    targets = np.stack([labels == 0, labels >= 2, labels % 2 == 1], axis=1)
    (fit,) = fit_path(features, targets, [0.3], num_classes=3)
    total = 0.0
    for column in range(3):
        peer = LogisticRegression(C=0.3, tol=1e-10, max_iter=1000).fit(features, targets[:, column])
        np.testing.assert_allclose(fit.weight[column], peer.coef_[0], atol=2e-3)
        total += objective(features, targets[:, column].astype(int), peer.coef_, peer.intercept_, 0.3)
    assert fit.objective <= total * (1 + 1e-6)


def test_blocks_and_recomputed_probabilities_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(600, 12, 5)
    whole = list(fit_path(features, labels, STRENGTHS, num_classes=5))
    monkeypatch.setattr(logistic, "_CHUNK_VALUES", 1)
    monkeypatch.setattr(logistic, "_CACHED_VALUES", 0)
    parts = list(fit_path(features, labels, STRENGTHS, num_classes=5))
    np.testing.assert_allclose([fit.objective for fit in parts], [fit.objective for fit in whole], rtol=1e-7)


def test_memory_mapped_half_precision_is_fitted_as_it_is(tmp_path: Path) -> None:
    features, labels = blobs(200, 12, 5)
    half = features.astype(np.float16)
    np.save(tmp_path / "half.npy", half)
    mapped = np.load(tmp_path / "half.npy", mmap_mode="r")
    (one,) = fit_path(mapped, labels, [1.0], num_classes=5)
    (other,) = fit_path(half.astype(np.float32), labels, [1.0], num_classes=5)
    assert one.objective == other.objective


def test_tolerance_changes_the_answer_and_bounds_what_remains() -> None:
    features, labels = blobs(400, 12, 5)
    found = [
        [fit.objective for fit in fit_path(features, labels, [1.0], num_classes=5, tolerance=tolerance)]
        for tolerance in (1e-1, 1e-7, 1e-12)
    ]
    (loose,), (usual,), (tight,) = found
    assert tight * (1 + 1e-6) < loose < tight * (1 + 1e-1)
    assert tight <= usual <= tight * (1 + 1e-6)


def test_a_constant_channel_and_a_constant_matrix_are_harmless() -> None:
    features, labels = blobs(200, 12, 5)
    (plain,) = fit_path(features, labels, [1.0], num_classes=5)
    (padded,) = fit_path(np.pad(features, ((0, 0), (0, 2))), labels, [1.0], num_classes=5)
    assert padded.objective == pytest.approx(plain.objective, rel=1e-7)
    (blind,) = fit_path(np.ones((200, 3), np.float32), labels, [1.0], num_classes=5)
    share = np.bincount(labels) / 200
    np.testing.assert_allclose(blind.bias.softmax(0).numpy(), share, atol=1e-4)


def test_where_nothing_can_be_learnt_the_fit_is_zero() -> None:
    """The gradient vanishes from the start, and with it the first direction."""
    (fit,) = fit_path(np.ones((4, 3), np.float32), np.array([0, 1, 0, 1]), [1.0], num_classes=2)
    assert not fit.weight.any()
    assert not fit.bias.any()


def test_best_strength_is_that_of_held_out_rows_and_is_refitted_on_all() -> None:
    features, labels = blobs(300, 40, 3, spread=4)
    held = np.arange(300) % 4 == 0
    seen: list[float] = []

    def score(scores: np.ndarray, targets: np.ndarray) -> float:
        seen.append(float((scores.argmax(axis=1) == targets).mean()))
        return seen[-1]

    best = fit_best(features, labels, held, STRENGTHS, score, num_classes=3)
    kept = fit_path(features[~held], labels[~held], STRENGTHS, num_classes=3)
    expected = [float((fit.scores(features[held]).argmax(1) == labels[held]).mean()) for fit in kept]
    assert seen == expected
    assert len(set(seen)) > 2
    assert best.strength == STRENGTHS[int(np.argmax(expected))]
    (all_rows,) = fit_path(features, labels, [best.strength], num_classes=3)
    assert best.objective == pytest.approx(all_rows.objective, rel=1e-7)


def test_a_start_is_only_a_start() -> None:
    features, labels = blobs(300, 12, 2)
    cold, warm = [
        next(fit_path(features, labels, [1.0], num_classes=2, tolerance=1e-10, start=start))
        for start in (None, next(fit_path(features[::2], labels[::2], [0.1], num_classes=2)))
    ]
    assert isinstance(warm, Logistic)
    np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-5)


@pytest.mark.parametrize("factor", [-30, 3, 12])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_start_that_is_far_off_and_sure_of_itself_is_left(classes: int, factor: float) -> None:
    """Where probabilities are nearly 0 or 1 there is no curvature, and a whole Newton step goes too far."""
    features, labels = blobs(300, 12, classes, 0.5)
    (cold,) = fit_path(features, labels, [100.0], num_classes=classes, tolerance=1e-10)
    sure = Logistic(factor * cold.weight, factor * cold.bias, 100.0, 0.0)
    (fit,) = fit_path(features, labels, [100.0], num_classes=classes, tolerance=1e-10, start=sure)
    np.testing.assert_allclose(fit.weight, cold.weight, atol=2e-5)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many evaluations and products with the Hessian there were."""
    calls = {"evaluate": 0, "curve": 0}

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(logistic._Problem, name)

        def method(self: Any, *given: Any) -> Any:
            calls[name] += 1
            return original(self, *given)

        return method

    for name in calls:
        monkeypatch.setattr(logistic._Problem, name, counted(name))
    return calls


@pytest.mark.parametrize("classes", [2, 4])
def test_a_fit_that_begins_where_it_ends_ends_at_once(calls: dict[str, int], classes: int) -> None:
    features, labels = blobs(300, 12, classes)
    (fit,) = fit_path(features, labels, [1.0], num_classes=classes, tolerance=1e-10)
    calls["evaluate"] = 0
    (again,) = fit_path(features, labels, [1.0], num_classes=classes, start=fit)
    assert calls["evaluate"] == 2
    np.testing.assert_allclose(again.weight, fit.weight, atol=1e-5)


def test_a_path_costs_few_products(calls: dict[str, int]) -> None:
    """A fit begins where the two before it point to; a Newton step is solved no better than it need be."""
    features, labels = blobs(600, 30, 5)
    list(fit_path(features, labels, np.geomspace(1e-6, 1e5, 23).tolist(), num_classes=5))
    # It takes 102 and 1248; other rounding, a few more or less.
    assert calls["evaluate"] <= 115
    assert calls["curve"] <= 1400


def test_many_rows_are_scored_as_few_are() -> None:
    features, labels = blobs(17_000, 3, 3)
    (fit,) = fit_path(features, labels, [1.0], num_classes=3)
    expected = features.astype(np.float64) @ fit.weight.numpy().T + fit.bias.numpy()
    np.testing.assert_allclose(fit.scores(features), expected, rtol=1e-9, atol=1e-9)
    (two,) = fit_path(features, labels > 0, [1.0], num_classes=2)
    assert (two.scores(features[:9])[:, 0] == 0).all()


@pytest.mark.parametrize("strengths", [[], [0.0, 1.0], [1.0, 0.1], [1.0, 1.0]], ids=str)
def test_strengths_that_are_no_path_are_refused(strengths: list[float]) -> None:
    with pytest.raises(ConfigError, match="positive and increasing"):
        next(fit_path(*blobs(20, 3, 2), strengths, num_classes=2))


def test_no_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="no training rows"):
        next(fit_path(np.zeros((0, 3), np.float32), np.zeros(0, int), [1.0], num_classes=2))
