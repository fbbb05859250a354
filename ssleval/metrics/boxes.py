"""How well one found object fits those that are annotated: by boxes, and by masks."""

import numpy as np
from jaxtyping import Bool, Float, Integer

from ssleval.core import IGNORED


def boxes_of(objects: Integer[np.ndarray, "H W"]) -> Float[np.ndarray, "m 4"]:
    """Return left, top, right and bottom (exclusive) of every object of a mask, in order of its number.

    0 is background; ignored pixels are no object.
    """
    boxes: list[tuple[int, ...]] = []
    for number in [number for number in np.unique(objects).tolist() if number not in {0, IGNORED}]:
        rows, columns = np.where(objects == number)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return np.array(boxes, np.float64).reshape(-1, 4)


def box_overlaps(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, " m"]:
    """Return the intersection over union of a box with each of ``others``."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = [(one[..., 2:] - one[..., :2]).prod(axis=-1) for one in (box, others)]
    return shared / (areas[0] + areas[1] - shared)


def saliency(
    found: Bool[np.ndarray, "H W"],
    true: Bool[np.ndarray, "H W"],
    counted: Bool[np.ndarray, "H W"],
    beta_squared: float,
) -> dict[str, float]:
    """Return the F-measure, intersection over union and accuracy of a mask, ``max_f`` and so on.

    Only pixels of ``counted`` count. The mask is binary, so that the F-measure is the same at all thresholds
    between 0 and 1, and the largest mean over images is the mean. Precision of an empty mask is 1, and recall
    where nothing is true.

    Source:
        YangtaoWANG95/TokenCut, unsupervised_saliency_detection/metric.py.
    """
    found, true = found[counted], true[counted]
    both, either = float((found & true).sum()), float((found | true).sum())
    precision = both / found.sum() if found.any() else 1.0
    recall = both / true.sum() if true.any() else 1.0
    below = beta_squared * precision + recall
    return {
        "max_f": (1 + beta_squared) * precision * recall / below if below else 0.0,
        "iou": both / either if either else 1.0,
        "accuracy": float((found == true).mean()),
    }
