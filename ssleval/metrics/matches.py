"""Scores of pairs of images, from where points of the first are found in the second."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from ssleval.core import Metric
from ssleval.core.targets import KeyPoints, Views
from ssleval.metrics.reprojection import errors, seen_by_both, turned
from ssleval.metrics.stats import mean_of, mean_per_class_of, ratio_of

Matcher: TypeAlias = Callable[[Float[np.ndarray, "k 2"]], Float[np.ndarray, "k 2"]]
"""Takes points of the first image to their matches in the second, all as column and row in pixels."""


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
    pair: KeyPoints, matched: Matcher, alphas: Sequence[float], normalise: Literal["box", "image"]
) -> dict[str, float]:
    """Return PCK of a pair, how many points are right, how many there are, and the category.

    Nothing where the pair has no point. Distances are at most ``alphas`` times the longer side of the
    thing's box, or of the second image.

    Source:
        Min et al. 2019, arXiv:1908.10543, sec. 3.
    """
    if not len(pair.points):
        return {}
    left, top, right, bottom = pair.box if normalise == "box" else (0, 0, *pair.partner.size)
    distances = np.linalg.norm(matched(pair.points) - pair.partner_points, axis=1)
    correct = {alpha: distances <= alpha * max(right - left, bottom - top) for alpha in alphas}
    scores: dict[str, float] = {f"pck@{alpha:g}": float(hits.mean()) for alpha, hits in correct.items()}
    scores |= {f"right@{alpha:g}": int(hits.sum()) for alpha, hits in correct.items()}
    return scores | {"points": len(distances), "category": pair.category}


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
