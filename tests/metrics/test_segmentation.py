from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ssleval.core import IGNORED, Metric, Samples
from ssleval.errors import ContractError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.segmentation import (
    best_jaccard,
    confusion,
    matched_mean_iou_of,
    matched_overlap,
    overlap,
)
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


def matched(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    samples = Samples([str(i) for i in range(len(counts))], {"confusion": counts})
    return matched_mean_iou_of("confusion")(
        samples, np.ones((1, len(counts))) if weights is None else weights
    )


@pytest.mark.parametrize("present", [CLASSES, CLASSES - 2])
def test_the_best_names_are_the_best_of_all_permutations(present: int) -> None:
    """scikit-learn scores every way to rename the predicted classes; the best of them is wanted."""
    found = [(names, target) for names, target in pairs(present=present)]
    predicted, target = (np.concatenate([pair[side].ravel() for pair in found]) for side in (0, 1))
    predicted, target = predicted[target != IGNORED], target[target != IGNORED]
    scores = [
        jaccard_score(target, np.array(order)[predicted], average="macro", labels=range(present))
        for order in permutations(range(CLASSES))
    ]
    counts = np.stack([confusion(*pair, CLASSES) for pair in found])
    assert matched(counts)[0] == pytest.approx(max(scores))
    # Whatever predicted classes are called.
    assert matched(counts[:, :, [3, 0, 4, 1, 2]])[0] == pytest.approx(max(scores))


def test_names_are_chosen_anew_for_every_draw_of_items() -> None:
    # Image 0 wants classes swapped, image 1 does not, image 2 holds nothing labelled.
    counts = np.array([[[1, 5], [7, 1]], [[4, 2], [1, 6]], [[0, 0], [0, 0]]])
    weights = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 3], [2, 1, 1]])
    alone = [(5 / 7 + 7 / 9) / 2, (4 / 7 + 6 / 9) / 2, np.nan]
    both = counts[0] * 2 + counts[1]
    total = both.sum()
    swapped = (both[0, 1] / (total - both[1, 0]) + both[1, 0] / (total - both[0, 1])) / 2
    np.testing.assert_allclose(matched(counts, weights), [*alone, swapped])
    samples = Samples(["a", "b"], {"confusion": counts[:2]})
    found = estimates([Metric("m", matched_mean_iou_of("confusion"))], samples)["m"]
    assert 0 <= found.low < found.value < found.high <= 1
    assert found.note.startswith("from 2 items")


def test_best_jaccard_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    masks = random.random((4, 9, 11)) < 0.4
    objects = random.choice([0, 1, 3, 255], size=(9, 11)).astype(np.uint8)
    expected = [
        max(jaccard_score((objects == number).ravel(), mask.ravel()) for mask in masks) for number in (1, 3)
    ]
    assert best_jaccard(masks, objects).tolist() == pytest.approx(expected)
    assert best_jaccard(masks, np.full((9, 11), 255, np.uint8)).tolist() == []


def test_matching_by_blocks_of_draws_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (7, 3, 3))
    weights = np.random.default_rng(1).integers(0, 3, (10, 7)).astype(float)
    whole = matched(counts, weights)
    for at_once in (1, 4 * 9):
        monkeypatch.setattr("ssleval.metrics.segmentation._NUMBERS", at_once)
        np.testing.assert_array_equal(matched(counts, weights), whole)


def test_classes_run_from_zero_to_one_less_than_their_number() -> None:
    ends, ignored = np.array([[0, CLASSES - 1]]), np.full((1, 2), IGNORED)
    assert np.flatnonzero(confusion(ends, ends, CLASSES)).tolist() == [0, CLASSES**2 - 1]
    assert not confusion(ends, ignored, CLASSES).any()
    for wrong in (-1, CLASSES):
        with pytest.raises(ContractError, match="true classes"):
            confusion(ends, np.array([[0, wrong]]), CLASSES)
        with pytest.raises(ContractError, match="predicted classes"):
            confusion(np.array([[0, wrong]]), ends, CLASSES)


def test_ignored_pixels_are_background_to_every_object() -> None:
    objects = np.array([[1, IGNORED, 0, 1]], np.uint8)
    masks = np.array([[[True, True, False, False]]])
    assert best_jaccard(masks, objects).tolist() == [pytest.approx(1 / 3)]


def test_a_class_of_one_pixel_counts() -> None:
    assert matched(np.array([[[1, 0], [0, 5]]]))[0] == 1.0
    assert matched_overlap(np.array([[[1, 0], [0, 5]]]))[2].all()
    assert matched(np.array([[[1, 0], [3, 3]]]))[0] == pytest.approx((1 / 4 + 3 / 6) / 2)


def test_matched_intersections_and_unions_have_the_ratio_of_the_score() -> None:
    # Image by image; class 1 is predicted as class 0, and class 2 is in no mask.
    counts = np.array([[[0, 3, 1], [4, 0, 0], [0, 0, 0]], [[1, 2, 0], [5, 1, 2], [0, 0, 0]]])
    above, below, occurring = matched_overlap(counts)
    assert occurring.tolist() == [True, True, False]
    assert above.tolist() == [[3, 4], [2, 5]]
    # Pixels of the class, and those predicted as it, less those that are both.
    assert below.tolist() == [[4 + 3 - 3, 4 + 4 - 4], [3 + 3 - 2, 8 + 6 - 5]]
    assert (above.sum(0) / below.sum(0)).mean() == pytest.approx(matched(counts)[0])
