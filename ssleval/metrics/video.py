"""Video object segmentation: region similarity J and contour accuracy F."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import KDTree

from ssleval.errors import ContractError

TOLERANCE = 0.008
"""How far apart matching contour pixels may lie, as a fraction of the image's diagonal."""


def region_j(predicted: Bool[np.ndarray, "H W"], target: Bool[np.ndarray, "H W"]) -> float:
    """Return intersection over union; 1 if both masks are empty.

    Source:
        Perazzi et al. 2016, sec. 4; davisvideochallenge/davis2017-evaluation, ``db_eval_iou``.
    """
    union = np.count_nonzero(predicted | target)
    return np.count_nonzero(predicted & target) / union if union else 1.0


def contour_f(
    predicted: Bool[np.ndarray, "H W"], target: Bool[np.ndarray, "H W"], tolerance: float = TOLERANCE
) -> float:
    """Return the F-measure of two contours.

    A contour pixel is matched if the other contour passes within ``tolerance`` times the diagonal, rounded up
    to whole pixels. One empty contour scores 0, two score 1.

    Source:
        Perazzi et al. 2016, sec. 4; davisvideochallenge/davis2017-evaluation, ``f_measure``, whose dilation
        by a disk is the same test of Euclidean distance.
    """
    ours, theirs = np.argwhere(boundary(predicted)), np.argwhere(boundary(target))
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    radius = math.ceil(tolerance * math.hypot(*target.shape))
    precision, matched = _near(ours, theirs, radius), _near(theirs, ours, radius)
    return 2 * precision * matched / (precision + matched) if precision + matched else 0.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return the contour of a mask: pixels unlike their right, lower or lower right neighbour.

    The border of the image is not a contour.

    Source:
        davisvideochallenge/davis2017-evaluation, ``_seg2bmap``, after Martin et al. 2004.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, both = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != both)


def recall(scores: Float[np.ndarray, " t"]) -> float:
    """Return the fraction of frames with a score above one half."""
    return float((scores > 0.5).mean())


def decay(scores: Float[np.ndarray, " t"]) -> float:
    """Return the mean score of the first quarter of a clip minus that of the last.

    Neighbouring quarters share a frame.

    Raises:
        ContractError: no frame.

    Source:
        davisvideochallenge/davis2017-evaluation, ``db_statistics``, except for its 8-bit frame numbers, which
        overflow at frame 256.
    """
    if not len(scores):
        raise ContractError("decay of no frames")
    ends = np.round(np.linspace(1, len(scores), 5) + 1e-10).astype(int) - 1
    return float(scores[: ends[1] + 1].mean() - scores[ends[3] :].mean())


def _near(points: Int[np.ndarray, "n 2"], others: Int[np.ndarray, "m 2"], radius: int) -> float:
    distance, _ = KDTree(others).query(points)
    return float((distance <= radius).mean())


def object_scores(
    targets: Iterable[UInt8[np.ndarray, "H W"]],
    predicted: Iterable[UInt8[np.ndarray, "H W"]],
    objects: Sequence[int],
    tolerance: float = TOLERANCE,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield every object of a clip with its J, its F, their mean, and how often and how long it is held.

    Frames are scored as far as there are ``targets``; no mask is predicted beyond them.
    """
    by_frame: list[list[tuple[float, float]]] = []
    for target, mask in zip(targets, predicted, strict=False):
        pairs = [(mask == item, target == item) for item in objects]
        by_frame.append([(region_j(*pair), contour_f(*pair, tolerance)) for pair in pairs])
    for item, scores in zip(objects, np.array(by_frame).transpose(1, 2, 0), strict=True):
        j, f = scores
        means = {"j_and_f": float(scores.mean()), "j": float(j.mean()), "f": float(f.mean())}
        held = {"j_recall": recall(j), "f_recall": recall(f), "j_decay": decay(j), "f_decay": decay(f)}
        yield item, means | held
