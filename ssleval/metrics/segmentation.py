"""How well masks agree: counts for each image, from which scores of a whole split are made.

Intersections and unions are summed over images before they are divided, as the field does; averaging
the IoU of single images is another number.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from ssleval.core import IGNORED
from ssleval.errors import ContractError

__all__ = ["best_jaccard", "confusion", "overlap"]


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
