"""Agreement of masks: counts per image, from which the score of a whole split is computed.

Intersections and unions are summed over images before they are divided, as is usual; the mean of the IoUs of
single images is another number.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from ssleval.core import IGNORED, Metric, Samples
from ssleval.errors import ContractError
from ssleval.metrics.stats import Scores, Weights, divide, mean_ratio_of, ratio_of, statistic

_NUMBERS = 8_000_000
"""Counts held at a time: 64 MB."""


def confusion(
    predicted: Integer[np.ndarray, "H W"], target: Integer[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "c c"]:
    """Count pixels by class (rows) and predicted class (columns); ignored pixels are left out.

    Raises:
        ContractError: a class is outside ``0..num_classes - 1``.
    """
    labelled = target != IGNORED
    true, ours = target[labelled].astype(np.int64), predicted[labelled].astype(np.int64)
    for kind, classes in (("true", true), ("predicted", ours)):
        if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
            raise ContractError(
                f"{kind} classes {classes.min()}..{classes.max()}, expected 0..{num_classes - 1} or {IGNORED}"
            )
    flat = np.bincount(true * num_classes + ours, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def confusions(
    classes: Iterable[Callable[[tuple[int, int]], Integer[np.ndarray, "H W"]]],
    masks: Callable[[int], Integer[np.ndarray, "H W"]],
    num_classes: int,
) -> list[Int64[np.ndarray, "c c"]]:
    """Return the `confusion` of every image, at the resolution of its mask.

    Args:
        classes: for every image a function that gives the predicted classes at a size (H, W).
        masks: gives the mask of an image by its number.
        num_classes: how many classes there are.
    """
    counts: list[Int64[np.ndarray, "c c"]] = []
    for row, classes_at in enumerate(classes):
        mask = masks(row)
        height, width = mask.shape
        counts.append(confusion(classes_at((height, width)), mask, num_classes))
    return counts


OVERLAP_METRICS = (
    Metric("mean_iou", mean_ratio_of("intersection", "union")),
    Metric("mean_accuracy", mean_ratio_of("intersection", "area")),
    Metric("pixel_accuracy", ratio_of("correct", "labelled")),
)
"""Mean IoU, mean accuracy of classes and accuracy of pixels, of the columns that `overlap` makes."""


def overlap(counts: Sequence[Integer[np.ndarray, "c c"]]) -> dict[str, Int64[np.ndarray, "n ..."]]:
    """Return columns of samples from the `confusion` of every image.

    In pixels per class, ``[n c]``: ``intersection`` of prediction and target, their ``union``, and ``area``
    of the target. In pixels of all classes, ``[n]``: ``correct`` and ``labelled``. Mean IoU is
    `mean_ratio_of` intersection and union; classes in no mask, true or predicted, are left out.

    Source:
        Everingham et al. 2010, sec. 4.2; as ``pre_eval`` and ``eval_metrics`` of mmseg.
    """
    intersection = np.stack([np.diagonal(count) for count in counts]).astype(np.int64)
    area, claimed = (np.stack([c.sum(axis) for c in counts]).astype(np.int64) for axis in (1, 0))
    return {
        "intersection": intersection,
        "union": area + claimed - intersection,
        "area": area,
        "correct": intersection.sum(1),
        "labelled": area.sum(1),
    }


@statistic
def matched_mean_iou_of(samples: Samples, weights: Weights, confusion: str) -> Scores:
    """Return the statistic that assigns predicted classes to true ones before it averages IoUs.

    The column ``[n c c]`` holds the `confusion` of every image. It is summed over items, and the one-to-one
    assignment with the largest sum of IoUs is used: two classes that are always swapped cost nothing. The
    mean is over the classes that occur in the masks of the items drawn.

    Source:
        Kuhn 1955; as ``PredsmIoU`` of open-hummingbird-eval, which counts absent classes as 0.
    """
    counts = samples[confusion]
    classes = counts.shape[1]
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    scores: list[float] = []
    rows = max(1, _NUMBERS // classes**2)
    for start in range(0, len(weights), rows):
        totals = (weights[start : start + rows] @ flat).reshape(-1, classes, classes)
        scores.extend(_matched(total) for total in totals)
    return np.array(scores)


def _matched(total: Float[np.ndarray, "c c"]) -> float:
    area = total.sum(1)
    if not area.any():
        return float("nan")
    iou = _pairwise_iou(total)
    return float(iou[_assigned(iou)].sum() / (area > 0).sum())


def matched_overlap(
    counts: Integer[np.ndarray, "n c c"],
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"], Bool[np.ndarray, " c"]]:
    """Return intersections and unions of the k true classes that occur with those assigned to them.

    The third array says which classes occur. The mean of the k ratios of sums is the matched mean IoU.
    """
    total = counts.sum(axis=0, dtype=np.float64)
    occurring = total.sum(axis=1) > 0
    true, ours = (places[occurring] for places in _assigned(_pairwise_iou(total)))
    area, claimed = (counts.sum(axis=axis, dtype=np.float64) for axis in (2, 1))
    intersection = counts[:, true, ours].astype(np.float64)
    return intersection, area[:, true] + claimed[:, ours] - intersection, occurring


def _pairwise_iou(total: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c c"]:
    return divide(total, total.sum(1)[:, None] + total.sum(0) - total, 0.0)


def _assigned(iou: Float[np.ndarray, "c c"]) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    # Slow to import, and every reader of results imports this module.
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(iou, maximize=True)


def best_jaccard(
    masks: Bool[np.ndarray, "m H W"], objects: Integer[np.ndarray, "H W"]
) -> Float[np.ndarray, " o"]:
    """Return the largest Jaccard index over ``masks`` for every object, in order of its number.

    0 is background; ignored pixels are no object, and are background to every object.

    Source:
        Muzammal-Naseer/IPViT, evaluate_segmentation.py, ``get_per_sample_jaccard``.
    """
    numbers = [number for number in np.unique(objects).tolist() if number not in {0, IGNORED}]
    best = np.zeros(len(numbers))
    for place, number in enumerate(numbers):
        target = objects == number
        best[place] = ((masks & target).sum((1, 2)) / (masks | target).sum((1, 2))).max()
    return best
