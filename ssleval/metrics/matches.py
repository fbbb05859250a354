"""Scores of pairs of images, from where points of the first are found in the second."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from ssleval.core import Metric, Samples
from ssleval.core.targets import KeyPoints, Views
from ssleval.metrics.reprojection import errors, errors_of_pairs, known_points, seen_by_both, turned
from ssleval.metrics.stats import mean_of, mean_per_class_of, mean_ratio_of, ratio_of

Matcher: TypeAlias = Callable[[Float[np.ndarray, "k 2"]], Float[np.ndarray, "k 2"]]
"""Takes points of the first image to their matches in the second, all as column and row in pixels."""


Distinct: TypeAlias = Callable[
    [Float[np.ndarray, "n 2"], Float[np.ndarray, "m 2"]], tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]
]
"""Takes points of both images, in pixels, to the rows of matches among them."""


def key_point_metrics(alphas: Sequence[float]) -> tuple[Metric, ...]:
    """Return PCK averaged over pairs, over all points, and over categories of means over pairs."""
    return (
        *(Metric(f"pck@{alpha:g}", mean_of(f"pck@{alpha:g}")) for alpha in alphas),
        *(Metric(f"pck_point@{alpha:g}", ratio_of(f"right@{alpha:g}", "points")) for alpha in alphas),
        *(
            Metric(f"pck_macro@{alpha:g}", mean_per_class_of(f"pck@{alpha:g}", "category"))
            for alpha in alphas
        ),
    )


def key_point_scores(
    pair: KeyPoints,
    matched: Matcher,
    alphas: Sequence[float],
    normalise: Literal["box", "image"],
    *,
    below: bool = False,
) -> dict[str, float]:
    """Return PCK of a pair, how many points are right, how many there are, and the category.

    Nothing where the pair has no point. Distances are at most ``alphas`` times the longer side of the
    thing's box, or of the second image; less than that if ``below``.

    Source:
        Min et al. 2019, arXiv:1908.10543, sec. 3.
    """
    if not len(pair.points):
        return {}
    left, top, right, bottom = pair.box if normalise == "box" else (0, 0, *pair.partner.size)
    distances = np.linalg.norm(matched(pair.points) - pair.partner_points, axis=1)
    compare, side = (np.less if below else np.less_equal), max(right - left, bottom - top)
    correct = {alpha: compare(distances, alpha * side) for alpha in alphas}
    scores: dict[str, float] = {f"pck@{alpha:g}": float(hits.mean()) for alpha, hits in correct.items()}
    scores |= {f"right@{alpha:g}": int(hits.sum()) for alpha, hits in correct.items()}
    return scores | {"points": len(distances), "category": pair.category}


def category_metrics(alphas: Sequence[float]) -> tuple[Metric, ...]:
    """Return recall averaged over categories, within which all points count alike."""
    return tuple(Metric(f"recall@{alpha:g}", mean_ratio_of(f"hits@{alpha:g}", "asked")) for alpha in alphas)


def by_category(samples: Samples, alphas: Sequence[float]) -> Samples:
    """Return samples of key points with the columns of `category_metrics`, ``[n c]``."""
    own = samples["category"][:, None] == np.unique(samples["category"])
    hits = {f"hits@{alpha:g}": samples[f"right@{alpha:g}"][:, None] * own for alpha in alphas}
    return replace(samples, columns={**samples.columns, **hits, "asked": samples["points"][:, None] * own})


def distinct_metrics(
    pixels: Sequence[float], centimetres: Sequence[float], degrees: Sequence[float]
) -> tuple[Metric, ...]:
    """Return recall averaged over pairs, on the surface first, and again by the rotation of the camera."""
    names = [f"recall_cm@{limit:g}" for limit in centimetres] + [f"recall_px@{limit:g}" for limit in pixels]
    lead = [
        f"recall_cm_{low:g}_{high:g}@{limit:g}"
        for limit in centimetres[:1]
        for low, high in pairwise(degrees)
    ]
    return tuple(Metric(name, mean_of(name)) for name in (*names, *lead))


def distinct_scores(
    views: Views,
    distinct: Distinct,
    step: int,
    pixels: Sequence[float],
    centimetres: Sequence[float],
    degrees: Sequence[float],
) -> dict[str, float]:
    """Return recall of the matches that a model trusts most, how many there are, and the cameras' rotation.

    Nothing where one of the images has fewer than two points of known depth. Recall within a range of
    ``degrees`` is NaN for pairs outside it.

    Source:
        evaluate_navi_correspondence.py of probe3d (El Banani et al. 2024, arXiv:2404.08636, sec. 4.1).
    """
    points = [known_points(depth, step, corner=True)[0] for depth in views.depths]
    if min(map(len, points)) < 2:
        return {}
    rows = distinct(points[0], points[1])
    off, metres = errors_of_pairs((points[0][rows[0]], points[1][rows[1]]), views)
    scores: dict[str, float] = {
        f"recall_cm@{limit:g}": float((metres < limit / 100).mean()) for limit in centimetres
    }
    scores |= {f"recall_px@{limit:g}": float((off < limit).mean()) for limit in pixels}
    turn = turned(views.motion)
    for limit, (low, high) in product(centimetres[:1], pairwise(degrees)):
        inside = scores[f"recall_cm@{limit:g}"] if low <= turn < high else float("nan")
        scores[f"recall_cm_{low:g}_{high:g}@{limit:g}"] = inside
    return scores | {"points": len(off), "degrees": turn}


def view_metrics(pixels: Sequence[float], centimetres: Sequence[float]) -> tuple[Metric, ...]:
    """Return recall averaged over pairs."""
    names = [f"recall_px@{limit:g}" for limit in pixels] + [f"recall_cm@{limit:g}" for limit in centimetres]
    return tuple(Metric(name, mean_of(name)) for name in names)


def view_scores(
    views: Views,
    matched: Matcher,
    step: int,
    tolerance: float,
    pixels: Sequence[float],
    centimetres: Sequence[float],
) -> dict[str, float]:
    """Return recall of a pair of views, how many points both show, and the degrees between the cameras.

    Nothing where they share no point. Points are those of `seen_by_both`.

    Source:
        El Banani et al. 2024, arXiv:2404.08636, sec. 4.2.
    """
    seen = seen_by_both(views, step, tolerance)
    if not len(seen.points):
        return {}
    off, metres = errors(matched(seen.points), seen, views)
    scores: dict[str, float] = {f"recall_px@{limit:g}": float((off <= limit).mean()) for limit in pixels}
    scores |= {f"recall_cm@{limit:g}": float((metres <= limit / 100).mean()) for limit in centimetres}
    return scores | {"points": len(off), "degrees": turned(views.motion)}
