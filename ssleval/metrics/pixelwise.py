"""What segmentation tasks score: pixel counts of every image, and the scores that papers make of them."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Int64, Integer

from ssleval.core import Metric
from ssleval.metrics.segmentation import confusion
from ssleval.metrics.stats import mean_ratio_of, ratio_of

OVERLAP_METRICS = (
    Metric("mean_iou", mean_ratio_of("intersection", "union")),
    Metric("mean_accuracy", mean_ratio_of("intersection", "area")),
    Metric("pixel_accuracy", ratio_of("correct", "labelled")),
)
"""Mean IoU, mean accuracy of classes and accuracy of pixels, of the columns that `overlap` makes."""


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
