from itertools import pairwise

import numpy as np
import pytest

from ssleval.core import Metric, Samples
from ssleval.metrics.calibration import (
    adaptive_calibration_error_of,
    calibration,
    calibration_error_of,
    moves_of_errors,
)
from ssleval.metrics.intervals import estimates

ECE = Metric("ece", calibration_error_of("confidence", "correct"))
ADAPTIVE = Metric("adaptive_ece", adaptive_calibration_error_of("confidence", "correct"))


def samples(confidence: np.ndarray, correct: np.ndarray) -> Samples:
    columns = {"confidence": confidence, "correct": correct, "nll": np.zeros(len(correct))}
    return Samples([str(row) for row in range(len(correct))], columns)


def drawn(count: int, seed: int = 0, *, power: float = 1.5) -> Samples:
    """Confidences that come true less often than they say, unless ``power`` is 1."""
    random = np.random.default_rng(seed)
    confidence = 0.1 + 0.9 * random.beta(5, 1.5, count)
    return samples(confidence, random.random(count) < confidence**power)


def guo(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al.'s loop over bins, (lower, upper]."""
    total, edges = 0.0, np.linspace(0, 1, 16)
    for lower, upper in pairwise(edges):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            total += abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
    return total


def torchmetrics(confidence: np.ndarray, correct: np.ndarray) -> float:
    """``_ce_compute`` of torchmetrics with the norm l1, by its buckets."""
    places = np.digitize(confidence, np.linspace(0, 1, 16)) - 1
    count, right, sure = (
        np.bincount(places, weights, minlength=16) for weights in (np.ones(len(places)), correct, confidence)
    )
    share = count / count.sum()
    full = count > 0
    return float((np.abs(right - sure)[full] / count[full] * share[full]).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_guo_and_of_torchmetrics(seed: int) -> None:
    given = drawn(400, seed)
    confidence, correct = given["confidence"], given["correct"]
    assert ECE.score(given) == pytest.approx(guo(confidence, correct), abs=1e-12)
    assert ECE.score(given) == pytest.approx(torchmetrics(confidence, correct), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_adaptive_bins_hold_equally_many_items_in_the_order_of_confidence(seed: int) -> None:
    given = drawn(450, seed)
    order = np.argsort(given["confidence"])
    parts = np.array_split(order, 15)
    gaps = [abs(given["correct"][part].mean() - given["confidence"][part].mean()) for part in parts]
    assert ADAPTIVE.score(given) == pytest.approx(np.mean(gaps), abs=1e-12)


def test_certainty_that_is_right_has_no_error_and_that_is_wrong_has_all() -> None:
    sure = np.ones(20)
    for metric in (ECE, ADAPTIVE):
        assert metric.score(samples(sure, sure > 0)) == 0
        assert metric.score(samples(sure, sure < 0)) == 1


def test_gaps_within_a_bin_cancel_and_those_of_bins_do_not() -> None:
    # 0.6 is a boundary, and of the bin below: 9/15 on the line.
    assert ECE.score(samples(np.array([0.95, 0.95]), np.array([True, False]))) == pytest.approx(0.45)
    assert ECE.score(samples(np.array([0.55, 0.6]), np.array([False, True]))) == pytest.approx(0.075)
    assert ECE.score(samples(np.array([0.55, 0.61]), np.array([False, True]))) == pytest.approx(
        (0.55 + 0.39) / 2
    )


def test_the_order_of_items_with_one_confidence_does_not_count() -> None:
    confidence, correct = np.repeat([0.7, 1.0], 30), np.arange(60) % 3 > 0
    one = samples(confidence, correct)
    order = np.random.default_rng(0).permutation(60)
    assert ADAPTIVE.score(one) == pytest.approx(ADAPTIVE.score(samples(confidence[order], correct[order])))


def test_errors_of_several_classifiers_are_averaged_and_nan_is_none_of_theirs() -> None:
    first, second = drawn(100, 1), drawn(100, 2)
    confidence = np.full((200, 2), np.nan)
    confidence[:100, 0], confidence[100:, 1] = first["confidence"], second["confidence"]
    correct = np.zeros((200, 2), bool)
    correct[:100, 0], correct[100:, 1] = first["correct"], second["correct"]
    for metric in (ECE, ADAPTIVE):
        both = (metric.score(first) + metric.score(second)) / 2
        assert metric.score(samples(confidence, correct)) == pytest.approx(both)


def test_moves_are_the_error_less_that_without_the_item() -> None:
    given = drawn(450)
    moves = moves_of_errors(given["confidence"], given["correct"], adaptive=False)
    without = ECE.statistic(given, 1 - np.eye(450)[:40])
    assert moves[:40] == pytest.approx(ECE.score(given) - without, abs=1e-12)


def test_intervals_hold_the_error_of_the_whole_population() -> None:
    truth, held = [metric.score(drawn(200_000, 99)) for metric in (ECE, ADAPTIVE)], np.zeros(2)
    for seed in range(60):
        found = estimates([ECE, ADAPTIVE], drawn(800, seed))
        ends = [found[metric.name] for metric in (ECE, ADAPTIVE)]
        held += [end.low <= value <= end.high for end, value in zip(ends, truth, strict=True)]
    assert held.min() >= 54


def test_the_columns_carry_a_suffix() -> None:
    names = [metric.name for metric in calibration("@heldout")]
    assert names == ["ece@heldout", "adaptive_ece@heldout", "nll@heldout"]
    assert not any(metric.higher_is_better for metric in calibration())
    assert calibration()[2].unit == "nats"
