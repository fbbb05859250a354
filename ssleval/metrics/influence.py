"""How far a score moves with each unit of the test set: the score less the score without it (the jackknife).

A unit is an item, or a cluster of items that were drawn together. A score that is a mean over parts, such as
the IoUs of classes, is taken apart: a class that few units carry tells little about its own spread. The moves
of two runs are subtracted unit by unit, so the interval of one score and the test of a difference have the
same source.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped

from ssleval.core import Metric, Samples
from ssleval.metrics.calibration import moves_of_errors
from ssleval.metrics.corruption import WORST, image_errors
from ssleval.metrics.detection import THRESHOLDS, class_precisions
from ssleval.metrics.multilabel import precisions_without_each
from ssleval.metrics.recorded import describe
from ssleval.metrics.segmentation import matched_overlap
from ssleval.metrics.separation import FOUND, placements, threshold
from ssleval.metrics.stats import divide, known_values

Units: TypeAlias = Int[np.ndarray, " n"] | None
"""The number of the unit that each row belongs to, from 0; None where each row is its own."""

_WEIGHTS_AT_ONCE = 4_000_000
_MOST_GROUPS = 1000
"""With more units than this, groups of them are left out where there is no closed form."""
_PRIOR_UNITS = 1.0
"""Degrees of freedom that the pooled variance counts for beside that of one part."""


@dataclass(frozen=True, slots=True)
class Influence:
    """The moves of a score with each unit, and how many units each part of the score is known from."""

    moves: Float[np.ndarray, "u k"]
    """Score less score without the unit, by part (k = c); their sum over parts is the move of the score."""
    carriers: Float[np.ndarray, " c"]
    """How many units carry each part."""
    part_of: Int[np.ndarray, " u"] | None = None
    """The only part of every unit, where no unit has several; then k = 1."""
    ceiling: float | None = None
    """What every possible score lies below, none below 0, as far as the statistic and the samples show."""
    labels: Shaped[np.ndarray, " c"] | None = None
    """The class that each part belongs to; None if the parts are no classes."""

    @property
    def units(self) -> int:
        """How many units count: of a score with one part, those that carry it."""
        return int(self.carriers[0]) if len(self.carriers) == 1 else len(self.moves)

    @property
    def by_unit(self) -> Float[np.ndarray, " u"]:
        """The moves of the score itself."""
        return self.moves.sum(axis=1)

    @property
    def bias(self) -> float:
        """How far the score is expected to lie above its limit (Quenouille 1956)."""
        return -float((len(self.moves) - 1) * self.by_unit.mean())

    @property
    def effective(self) -> float:
        """Number of units with which a plain mean is known as well, if all parts vary alike."""
        carried = self.carriers[self.carriers > 0]
        alike = float(len(carried) ** 2 / (1 / carried).sum()) if len(carried) else 0.0
        return min(alike, float(len(self.moves)))

    def squares_by_part(self) -> Float[np.ndarray, " c"]:
        """Return the sum of the squared moves of every part."""
        if self.part_of is None:
            return (self.moves**2).sum(axis=0)
        return np.bincount(self.part_of, self.moves[:, 0] ** 2, minlength=len(self.carriers))

    def __sub__(self, other: "Influence") -> "Influence":
        """Return the influence on the difference of two scores of the same units."""
        carriers = np.maximum(self.carriers, other.carriers)
        return replace(self, moves=self.moves - other.moves, carriers=carriers)


def spread(influence: Influence, *, of_difference: bool = False) -> tuple[float, float]:
    """Return the variance of a score over the draw of units, and the degrees of freedom of that variance.

    Of a score it is the jackknife's, which is rather too large where few units carry a part: that makes up
    for what such a part hides. Of a difference it is shrunk by part, since a test should not be too shy.
    The variance of a part that few units carry is averaged with the pooled variance of all parts, which
    counts as much as one more unit; a part that one unit carries has none of its own. The degrees of freedom
    are few where a few rare units decide, and at most the number of units less one.

    Source:
        Efron & Stein 1981 (jackknife); Bell & McCaffrey 2002 (the shrinking); Smyth 2004, sec. 4 (moderated
        variances).
    """
    if influence.units < 2:
        return float("inf"), 1.0
    shrunk = _shrunk(influence, influence.carriers if of_difference else influence.units)
    squares = shrunk.by_unit**2
    variance = float(squares.sum())
    if len(shrunk.carriers) > 1:
        own = shrunk.squares_by_part()
        variance = max(variance + float((_moderated(own, shrunk.carriers) - own).sum()), 0.0)
    return variance, float(freedom(squares[None], influence.units)[0])


def _shrunk(influence: Influence, count: Float[np.ndarray, " c"] | int) -> Influence:
    # To leave one of m items out moves a mean m / (m - 1) times as far as its variance wants.
    shrink = np.broadcast_to(np.sqrt(1 - 1 / np.maximum(count, 1)), influence.carriers.shape)
    shrink = shrink[None] if influence.part_of is None else shrink[influence.part_of, None]
    return replace(influence, moves=influence.moves * shrink)


def _moderated(variances: Float[np.ndarray, " c"], carriers: Float[np.ndarray, " c"]) -> np.ndarray:
    own = np.maximum(carriers - 1, 0)
    if not own.sum():
        return variances
    pooled = float((own * variances * carriers).sum() / own.sum())
    moderated = (own * variances + _PRIOR_UNITS * pooled / np.maximum(carriers, 1)) / (own + _PRIOR_UNITS)
    return np.where(carriers > 0, moderated, 0.0)


def freedom(squares: Float[np.ndarray, "m u"], units: int) -> Float[np.ndarray, " m"]:
    """Return the degrees of freedom of each variance: few, where a few rare units decide; at most n - 1.

    ``squares`` are of the moves. Relative to its square, the variance of a sample variance is
    (kurtosis - 1) / n, and that of a chi square 2 / freedom.
    """
    total, fourths = squares.sum(axis=1), (squares**2).sum(axis=1)
    kurtosis = np.divide(units * fourths, total**2, out=np.zeros_like(total), where=total > 0)
    estimate = np.divide(2.0 * units, kurtosis - 1, out=np.full_like(total, np.inf), where=kurtosis > 1)
    return np.clip(estimate, 1.0, max(1.0, units - 1.0))


# Units --------------------------------------------------------------------------------------------


def units_of(runs: Sequence[Samples]) -> Units:
    """Return the unit of each row: its cluster in the first run that names clusters; None if none does."""
    for samples in runs:
        if samples.cluster:
            return np.unique(samples[samples.cluster], return_inverse=True)[1].reshape(-1)
    return None


def summed(column: Float[np.ndarray, "n *s"], units: Units) -> Float[np.ndarray, "u *s"]:
    """Return the sum of the rows of every unit."""
    if units is None:
        return column
    sums = np.zeros((int(units.max()) + 1, *column.shape[1:]))
    np.add.at(sums, units, column)
    return sums


# Statistics ---------------------------------------------------------------------------------------


def influence_of(metric: Metric, samples: Samples, units: Units) -> Influence:
    """Return the influence of every unit on a metric: in closed form where its statistic has one."""
    described = describe(metric.statistic)
    closed_form = _CLOSED_FORMS.get(described["name"])
    found = None if closed_form is None else closed_form(samples, units, **described["columns"])
    return found or _left_out(metric, samples, units)


def _mean(samples: Samples, units: Units, column: str) -> Influence:
    values, known = known_values(samples[column])
    return _of_ratios(values[:, None], known.astype(np.float64)[:, None], units)


def _mean_over_fits(samples: Samples, units: Units, scores: str) -> Influence:
    """Return the influence of every unit, then of every fit: these were drawn too."""
    of_units = _mean(Samples(samples.ids, {"mean": samples[scores].mean(axis=1)}), units, "mean")
    by_fit = np.nanmean(samples[scores], axis=0)
    fits = len(by_fit)
    # Their squares sum to the variance of the mean over fits.
    moves = (by_fit - by_fit.mean()) / max(1, fits * (fits - 1)) ** 0.5
    return replace(
        of_units,
        moves=np.concatenate([of_units.moves, moves[:, None]]),
        carriers=of_units.carriers + fits,
    )


def _ratio(samples: Samples, units: Units, numerator: str, denominator: str) -> Influence:
    above, below = (samples[name].astype(np.float64)[:, None] for name in (numerator, denominator))
    return _of_ratios(above, below, units)


def _mean_over_parts(samples: Samples, units: Units, numerator: str, denominator: str) -> Influence | None:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    found = _of_ratios(above, below, units)
    # Where a cluster is all there is of every part, to leave it out is to average the others.
    return None if units is not None and (found.carriers <= 1).all() else found


def _mean_ratio(samples: Samples, units: Units, numerator: str, denominator: str) -> Influence | None:
    found = _mean_over_parts(samples, units, numerator, denominator)
    return found and replace(found, labels=np.arange(len(found.carriers)))


def _matched_mean_iou(samples: Samples, units: Units, confusion: str) -> Influence:
    # One image does not change which predicted class stands for which true one.
    above, below, occurring = matched_overlap(samples[confusion])
    return replace(_of_ratios(above, below, units), labels=np.flatnonzero(occurring))


def _mean_corruption_error(samples: Samples, units: Units, wrong: str) -> Influence:
    values = image_errors(samples[wrong])[:, None]
    return replace(_of_ratios(values, np.ones_like(values), units), ceiling=WORST)


def _mean_per_class(samples: Samples, units: Units, correct: str, label: str) -> Influence | None:
    if units is not None:
        # Where a cluster is all there is of a class, to leave it out is to average the others.
        return None
    values = samples[correct].astype(np.float64)
    labels, part_of, sizes = np.unique(samples[label], return_inverse=True, return_counts=True)
    means = np.bincount(part_of, values) / sizes
    moves = (values - means[part_of]) / np.maximum(sizes - 1, 1)[part_of] / len(labels)
    inside = ((values >= 0) & (values <= 1)).all()
    ceiling = 1.0 if inside else None
    return Influence(moves[:, None], sizes.astype(np.float64), part_of, ceiling, labels)


def _mean_average_precision(samples: Samples, units: Units, scores: str, targets: str) -> Influence | None:
    if units is not None:
        return None
    truth = samples[targets]
    full, without = precisions_without_each(samples[scores].astype(np.float64), truth)
    present = ~np.isnan(full)
    moves = np.where(present, full - without, 0.0) / max(1, present.sum())
    carriers = (truth > 0).sum(axis=0).astype(np.float64)
    return Influence(moves, carriers, None, 1.0, np.arange(truth.shape[1]))


def _calibration_error(
    samples: Samples, units: Units, confidence: str, correct: str, *, adaptive: bool = False
) -> Influence | None:
    if units is not None:
        return None
    moves = moves_of_errors(samples[confidence], samples[correct], adaptive=adaptive)
    known = ~np.isnan(samples[confidence].reshape(len(samples), -1)).all(axis=1)
    return Influence(moves[:, None], np.array([float(known.sum())]), None, 1.0)


def _auroc(samples: Samples, units: Units, score: str, out: str) -> Influence | None:
    outside, values = samples[out].astype(bool), samples[score].astype(np.float64)
    if units is not None or min(outside.sum(), (~outside).sum()) < 2:
        return None
    sizes = np.where(outside, outside.sum(), (~outside).sum())
    placed = placements(values, outside, np.ones((1, len(values))))[0] / (len(values) - sizes)
    moves = (placed - placed[outside].mean()) / (sizes - 1)
    return Influence(moves[:, None], np.array([float(sizes.min())]), None, 1.0)


def _fpr95(samples: Samples, units: Units, score: str, out: str) -> Influence | None:
    """Return the influence through the rate itself, and through the threshold by the curve's slope there.

    To leave one item out would not do: a quantile hardly moves with one item.
    """
    outside, values = samples[out].astype(bool), samples[score].astype(np.float64)
    if units is not None or min(outside.sum(), (~outside).sum()) < 2:
        return None
    count, others = outside.sum(), (~outside).sum()
    reach = min(0.025, 0.5 * float(count) ** (-1 / 3))
    ends = [(values[~outside] >= threshold(values, outside, FOUND + side * reach)).mean() for side in (-1, 1)]
    slope = (ends[1] - ends[0]) / (2 * reach)
    alarm = values >= threshold(values, outside)
    inside = (alarm - alarm[~outside].mean()) / (others - 1)
    moves = np.where(outside, slope * (alarm[outside].mean() - alarm) / (count - 1), inside)
    return Influence(moves[:, None], np.array([float(min(count, others))]), None, 1.0)


def _detection(samples: Samples, units: Units, *, thresholds: int, **columns: str) -> Influence:
    def by_class(weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r c"]:
        return class_precisions(samples, weights, thresholds, columns, smooth=True)

    full = by_class(np.ones((1, len(samples))))[0]
    groups, weights = _without_each(samples, units)
    without = np.concatenate([by_class(rows) for rows in weights])
    # Without the only image that shows a class, the class is not in the mean: its spread is unknown.
    moves = np.nan_to_num(full - without) / max(1, (~np.isnan(full)).sum())
    group_of = (np.arange(len(samples)) if units is None else units) % groups
    shown = summed((samples[columns["objects"]] > 0).astype(np.float64), group_of) > 0
    return Influence(moves, shown.sum(axis=0).astype(np.float64), None, 1.0, np.arange(len(full)))


def _of_ratios(above: Float[np.ndarray, "n c"], below: Float[np.ndarray, "n c"], units: Units) -> Influence:
    """Return the influence on the mean of the ratios of sums, over the columns whose sum below is not 0."""
    inside = ((above >= 0) & (above <= below)).all()
    above, below = summed(above, units), summed(below, units)
    totals, present = below.sum(axis=0), below.sum(axis=0) > 0
    ratios = divide(above.sum(axis=0), totals, 0.0)
    rest = totals - below
    # Without the only unit that carries a class, the class is not in the mean: its spread is unknown.
    alone = rest <= 1e-9 * totals
    moves = np.divide(above - ratios * below, rest, out=np.zeros_like(above), where=~alone)
    carriers = (below != 0).sum(axis=0).astype(np.float64)
    return Influence(moves / max(1, present.sum()), carriers, None, 1.0 if inside else None)


_CLOSED_FORMS: dict[str, Callable[..., Influence | None]] = {
    "mean_of": _mean,
    "mean_over_fits_of": _mean_over_fits,
    "ratio_of": _ratio,
    "mean_ratio_of": _mean_ratio,
    "mean_over_parts_of": _mean_over_parts,
    "mean_per_class_of": _mean_per_class,
    "mean_average_precision_of": _mean_average_precision,
    "coco_average_precision_of": partial(_detection, thresholds=THRESHOLDS),
    "coco_precision_at_half_of": partial(_detection, thresholds=1),
    "matched_mean_iou_of": _matched_mean_iou,
    "mean_corruption_error_of": _mean_corruption_error,
    "calibration_error_of": _calibration_error,
    "adaptive_calibration_error_of": partial(_calibration_error, adaptive=True),
    "auroc_of": _auroc,
    "fpr95_of": _fpr95,
}


def _left_out(metric: Metric, samples: Samples, units: Units) -> Influence:
    """Return the influence of every unit, or group of units, on any statistic, by leaving each out."""
    groups, weights = _without_each(samples, units)
    without = np.concatenate([metric.statistic(samples, rows) for rows in weights])
    full = metric.statistic(samples, np.ones((1, len(samples))))
    scores = np.concatenate([full, without[~np.isnan(without)]])
    inside = bool(((scores >= 0) & (scores <= 1)).all())
    moves = np.nan_to_num(full - without)[:, None]
    return Influence(moves, np.array([float(groups)]), None, 1.0 if inside else None)


def _without_each(samples: Samples, units: Units) -> tuple[int, Iterator[Float[np.ndarray, "r n"]]]:
    """Return how many units, or groups of units, there are, and weights that leave out each in turn."""
    units = np.arange(len(samples)) if units is None else units
    count = int(units.max()) + 1
    groups = math.ceil(count / math.ceil(count / _MOST_GROUPS))
    # Interleaved, since in files sorted by class neighbouring items would make a group of one class.
    group_of = units % groups
    parts = np.array_split(np.arange(groups), math.ceil(groups * len(samples) / _WEIGHTS_AT_ONCE))
    return groups, ((part[:, None] != group_of).astype(np.float64) for part in parts)
