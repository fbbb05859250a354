"""How well masks agree: counts for each image, from which scores of a whole split are made.

Intersections and unions are summed over images before they are divided, as the field does; averaging
the IoU of single images is another number.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from ssleval.core import IGNORED, Samples, Statistic
from ssleval.errors import ContractError

_NUMBERS = 8_000_000
"""Counts of resamples held at a time: 64 MB."""


def confusion(
    predicted: Integer[np.ndarray, "H W"], target: Integer[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "c c"]:
    """Count pixels by class (rows) and predicted class (columns); ignored ones count nowhere.

    Raises:
        ContractError: a class is outside ``0..num_classes - 1``.
    """
    labelled = target != IGNORED
    true, found = target[labelled].astype(np.int64), predicted[labelled].astype(np.int64)
    for kind, classes in (("true", true), ("predicted", found)):
        if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
            raise ContractError(
                f"{kind} classes {classes.min()}..{classes.max()}, expected 0..{num_classes - 1} or {IGNORED}"
            )
    flat = np.bincount(true * num_classes + found, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def overlap(counts: Sequence[Integer[np.ndarray, "c c"]]) -> dict[str, Int64[np.ndarray, "n ..."]]:
    """Return columns of samples from the counts of every image.

    ``intersection``, ``union`` and ``area [n c]`` are pixels of a class that were found, that are of it
    or were taken for it, and that are of it; ``correct`` and ``labelled [n]`` are pixels of any class.
    Mean IoU is `mean_ratio_of` intersection and union: classes in no mask, true or predicted, are left out.

    Source:
        Everingham et al. 2010, sec. 4.2; as ``pre_eval`` and ``eval_metrics`` of mmseg.
    """
    intersection = np.stack([np.diagonal(one) for one in counts]).astype(np.int64)
    area, claimed = (np.stack([one.sum(axis) for one in counts]).astype(np.int64) for axis in (1, 0))
    return {
        "intersection": intersection,
        "union": area + claimed - intersection,
        "area": area,
        "correct": intersection.sum(1),
        "labelled": area.sum(1),
    }


def matched_mean_iou_of(confusion: str) -> Statistic:
    """Return the statistic that gives predicted classes their best names before it averages IoUs.

    The column ``[n c c]`` holds `confusion` of every image. They are summed over items, and every class
    takes one predicted class, so that the IoUs add up to the most: two classes mistaken for each other
    throughout cost nothing. Averaged over the classes that occur in the masks of the items drawn.

    Source:
        Kuhn 1955; as ``PredsmIoU`` of open-hummingbird-eval, which counts absent classes as 0.
    """
    return partial(_matched_mean_iou, confusion=confusion)


def _matched_mean_iou(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, confusion: str
) -> Float[np.ndarray, " r"]:
    counts = samples[confusion]
    classes = counts.shape[1]
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    found: list[float] = []
    rows = max(1, _NUMBERS // classes**2)
    for start in range(0, len(weights), rows):
        totals = (weights[start : start + rows] @ flat).reshape(-1, classes, classes)
        found.extend(_matched(total) for total in totals)
    return np.array(found)


def _matched(total: Float[np.ndarray, "c c"]) -> float:
    # Dear to import, and every reader of results imports this module.
    from scipy.optimize import linear_sum_assignment

    area, claimed = total.sum(1), total.sum(0)
    if not area.any():
        return float("nan")
    union = area[:, None] + claimed - total
    iou = np.divide(total, union, out=np.zeros_like(total), where=union > 0)
    return float(iou[linear_sum_assignment(iou, maximize=True)].sum() / (area > 0).sum())


def best_jaccard(
    masks: Bool[np.ndarray, "m H W"], objects: Integer[np.ndarray, "H W"]
) -> Float[np.ndarray, " o"]:
    """Return, for every object in order of its number, the Jaccard index of the mask that fits it best.

    0 is background; ignored pixels are no object, and count as background of every one.

    Source:
        Muzammal-Naseer/IPViT, evaluate_segmentation.py, ``get_per_sample_jaccard``.
    """
    numbers = [number for number in np.unique(objects).tolist() if number not in {0, IGNORED}]
    found = np.zeros(len(numbers))
    for place, number in enumerate(numbers):
        target = objects == number
        found[place] = ((masks & target).sum((1, 2)) / (masks | target).sum((1, 2))).max()
    return found
