import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ssleval.core import IGNORED, Samples
from ssleval.errors import ContractError
from ssleval.metrics.segmentation import best_jaccard, confusion, overlap
from ssleval.metrics.stats import mean_ratio_of, ratio_of

CLASSES = 5


def pairs(count: int = 6, present: int = CLASSES) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for size in random.integers(5, 20, (count, 2)).tolist():
        target = random.integers(0, present, size).astype(np.uint8)
        predicted = np.where(random.random(size) < 0.5, target, random.integers(0, present, size))
        target[random.random(size) < 0.2] = IGNORED
        found.append((predicted.astype(np.uint8), target))
    return found


def score(name: str, found: list[tuple[np.ndarray, np.ndarray]]) -> float:
    columns = overlap([confusion(*pair, CLASSES) for pair in found])
    samples = Samples([str(i) for i in range(len(found))], columns)
    statistic = {
        "iou": mean_ratio_of("intersection", "union"),
        "accuracy": mean_ratio_of("intersection", "area"),
        "pixels": ratio_of("correct", "labelled"),
    }[name]
    return float(statistic(samples, np.ones((1, len(samples))))[0])


@pytest.mark.parametrize("present", [CLASSES, CLASSES - 2])
def test_scores_equal_torchmetrics(present: int) -> None:
    found = pairs(present=present)
    references = {
        "iou": MulticlassJaccardIndex(CLASSES, average="none", ignore_index=IGNORED),
        "accuracy": MulticlassAccuracy(CLASSES, average="none", ignore_index=IGNORED),
        "pixels": MulticlassAccuracy(CLASSES, average="micro", ignore_index=IGNORED),
    }
    for name, reference in references.items():
        for predicted, target in found:
            reference.update(torch.from_numpy(predicted).flatten(), torch.from_numpy(target).flatten().long())
        per_class = reference.compute()
        expected = per_class[:present].mean() if per_class.ndim else per_class
        assert score(name, found) == pytest.approx(float(expected), abs=1e-6)


def test_counts_are_summed_before_they_are_divided() -> None:
    one = np.zeros((2, 2), np.uint8)
    half = (np.array([[0, 0], [1, 1]], np.uint8), one)
    assert score("iou", [half, (one, one)]) == pytest.approx((6 / 8 + 0 / 2) / 2)


def test_what_no_mask_can_hold_is_refused() -> None:
    mask = np.zeros((2, 2), np.uint8)
    with pytest.raises(ContractError, match=r"true classes 7\.\.7, expected 0\.\.4 or 255"):
        confusion(mask, mask + 7, CLASSES)
    with pytest.raises(ContractError, match="predicted classes"):
        confusion(mask + 5, mask, CLASSES)


def test_best_jaccard_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    masks = random.random((4, 9, 11)) < 0.4
    objects = random.choice([0, 1, 3, 255], size=(9, 11)).astype(np.uint8)
    expected = [
        max(jaccard_score((objects == number).ravel(), mask.ravel()) for mask in masks) for number in (1, 3)
    ]
    assert best_jaccard(masks, objects).tolist() == pytest.approx(expected)
    assert best_jaccard(masks, np.full((9, 11), 255, np.uint8)).tolist() == []
