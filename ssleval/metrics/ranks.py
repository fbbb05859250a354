"""How sure a rank is: confidence sets for the ranks of models, on one board and over many. Imports no torch.

Scores of models on the same images err together, so draws of all scores at once come from the moves of
`influence`. The rank of a model lies between one more than the models shown to be better and the number of
models less those shown to be worse, with differences to all others tested at once by their largest
studentised deviation, step by step.

Source:
    Mogstad, Romano, Shaikh & Wilhelm 2024, Inference for ranks, sec. 3 (marginal sets).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from ssleval.core import Metric, Samples
from ssleval.metrics.influence import influence_of, spread, units_of
from ssleval.metrics.paired import aligned, pseudo_variance

DRAWS = 1000
_MM_STEPS = 50
"""Of the Bradley-Terry fit."""
_COMPARED_AT_ONCE = 2_000_000
"""Pairs of models times draws: what memory holds of them."""


@dataclass(frozen=True, slots=True)
class Moves:
    """How the scores of the models on one board move with each unit of its test set."""

    scores: Float[np.ndarray, " m"]
    """Larger is better: of an error the sign is turned."""
    moves: Float[np.ndarray, "u m"]
    """Their sum of squares is the variance of a score."""
    own: float
    """Variance that every score has beside it: of pseudo-items, where outcomes are right or wrong."""
    freedom: float
    """Degrees of freedom of the variances."""
    ids: tuple[str, ...]
    """Of the rows: boards with the same ones err together."""


def moves_of(metric: Metric, runs: Sequence[Samples]) -> Moves:
    """Return the moves of the scores of ``runs``, one per model, on the items that all share.

    Errors are those of `paired_test`.
    """
    ids, runs = aligned(runs)
    units, sign = units_of(runs), 1.0 if metric.higher_is_better else -1.0
    columns: list[np.ndarray] = []
    freedoms: list[float] = []
    for run in runs:
        influence = influence_of(metric, run, units)
        variance, freedom = spread(influence, of_difference=True)
        by_unit = influence.by_unit
        squares = float((by_unit**2).sum())
        columns.append(sign * by_unit * (np.sqrt(variance / squares) if squares else 1.0))
        freedoms.append(freedom)
    shrink, own = pseudo_variance(metric, runs)
    scores = sign * np.array([metric.score(run) for run in runs])
    return Moves(scores, np.stack(columns, axis=1) * shrink**0.5, own, min(freedoms), tuple(ids))


def draws_of_scores(
    boards: Sequence[Moves], draws: int = DRAWS, seed: int = 0
) -> list[Float[np.ndarray, "r m"]]:
    """Return draws of the scores of every board, as if other images had been drawn.

    Boards of the same images, such as k-NN and a linear probe on one test set, are drawn together.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[int, np.ndarray] = {}
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for place, board in enumerate(boards):
        groups.setdefault((len(board.moves), board.ids), []).append(place)
    for places in groups.values():
        moves = np.concatenate([boards[place].moves for place in places], axis=1)
        own = np.concatenate([np.full(len(boards[place].scores), boards[place].own) for place in places])
        values, vectors = np.linalg.eigh(moves.T @ moves + np.diag(own))
        errors = rng.standard_normal((draws, len(own))) * np.sqrt(values.clip(0)) @ vectors.T
        freedom = min(boards[place].freedom for place in places)
        errors *= np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)))
        parts = np.split(errors, np.cumsum([len(boards[place].scores) for place in places])[:-1], axis=1)
        drawn |= {place: boards[place].scores + part for place, part in zip(places, parts, strict=True)}
    return [drawn[place] for place in range(len(boards))]


def rank_sets(
    values: Float[np.ndarray, " m"], draws: Float[np.ndarray, "r m"], level: float = 0.95
) -> Int[np.ndarray, "m 2"]:
    """Return the lowest and the highest rank of every model; rank 1 has the largest of ``values``.

    Args:
        values: what ranks.
        draws: draws of them, whose spread is the error of ``values``.
        level: how often the set of one model holds its rank.
    """
    errors, count = draws - draws.mean(axis=0), len(values)
    sets = np.tile([1, count], (count, 1))
    for model in range(count):
        gaps = values[model] - values
        shown = _apart(gaps, np.abs(errors[:, [model]] - errors), level)
        sets[model] += (shown & (gaps < 0)).sum(), -(shown & (gaps > 0)).sum()
    return sets


def _apart(
    gaps: Float[np.ndarray, " m"], deviations: Float[np.ndarray, "r m"], level: float
) -> Bool[np.ndarray, " m"]:
    """Return which of the differences are shown, each with an error that all share."""
    scale = np.sqrt((deviations**2).mean(axis=0))
    # A difference without an error is shown wherever it is not zero.
    known = scale == 0
    sizes = np.abs(gaps) / np.where(known, 1.0, scale)
    deviations = deviations / np.where(known, 1.0, scale)
    left, shown = ~known, known & (gaps != 0)
    while left.any():
        bound = np.quantile(deviations[:, left].max(axis=1), level)
        found = left & (sizes > bound)
        if not found.any():
            break
        shown, left = shown | found, left & ~found
    return shown


# Aggregates over boards -----------------------------------------------------------------------------


def board_ranks(scores: Float[np.ndarray, "*r m"]) -> Float[np.ndarray, "*r m"]:
    """Return the rank of every model, 1 for the largest score; ties share the mean of their ranks.

    A model without a score (NaN) has no rank; those of the others then span 1 to m all the same.
    """
    ranks = np.asarray(rankdata(-scores, axis=-1, nan_policy="omit"))
    present = (~np.isnan(scores)).sum(axis=-1, keepdims=True)
    return 1 + (ranks - 1) * (scores.shape[-1] - 1) / np.maximum(present - 1, 1)


def mean_rank(ranks: Float[np.ndarray, "*r b m"], weights: Float[np.ndarray, "*r b"]) -> np.ndarray:
    """Return the mean rank of every model over the boards that have it."""
    has = ~np.isnan(ranks) * weights[..., None]
    total = (np.nan_to_num(ranks) * has).sum(axis=-2)
    return np.divide(total, has.sum(axis=-2), out=np.full_like(total, np.nan), where=has.sum(axis=-2) > 0)


def borda(ranks: Float[np.ndarray, "*r b m"], weights: Float[np.ndarray, "*r b"]) -> np.ndarray:
    """Return the Borda count of every model: how many models it leaves behind, summed over boards."""
    return (np.nan_to_num(ranks.shape[-1] - ranks) * weights[..., None]).sum(axis=-2)


def bradley_terry(ranks: Float[np.ndarray, "*r b m"], weights: Float[np.ndarray, "*r b"]) -> np.ndarray:
    """Return the log strength of every model; its mean over models is zero.

    A board is a game of every pair. Half a game, drawn, is added for each pair, without which a model that
    wins everywhere would be infinitely strong. Where all models have all boards, every pair has met equally
    often: the order is then that of the Borda count, and of the mean rank.

    Source:
        Hunter 2004, MM algorithms for generalized Bradley-Terry models, eq. 3; Zermelo 1929, Die Berechnung
        der Turnier-Ergebnisse als ein Maximumproblem der Wahrscheinlichkeitsrechnung (the order).
    """
    *draws, boards, models = ranks.shape
    ranks = np.reshape(ranks, (-1, boards, models))
    weights = np.broadcast_to(np.reshape(weights, (-1, boards)), ranks.shape[:2])
    block = max(1, _COMPARED_AT_ONCE // models**2)
    parts = range(0, len(ranks), block)
    found = [_strengths(ranks[at : at + block], weights[at : at + block]) for at in parts]
    return np.concatenate(found).reshape(*draws, models)


def _strengths(ranks: Float[np.ndarray, "r b m"], weights: Float[np.ndarray, "r b"]) -> np.ndarray:
    models = ranks.shape[-1]
    wins = np.full((len(ranks), models, models), 0.25)
    for board, counts in zip(ranks.swapaxes(0, 1), weights.T, strict=True):
        ahead, level = board[:, :, None] < board[:, None, :], board[:, :, None] == board[:, None, :]
        wins += counts[:, None, None] * (ahead + 0.5 * level)
    wins *= 1 - np.eye(models)
    games, won = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    strength = np.ones_like(won)
    for _ in range(_MM_STEPS):
        strength = won / (games / (strength[:, :, None] + strength[:, None, :])).sum(axis=-1)
        strength /= np.exp(np.log(strength).mean(axis=-1, keepdims=True))
    return np.log(strength)


def other_images(
    boards: Sequence[Float[np.ndarray, " m"]], drawn: Sequence[Float[np.ndarray, "r m"]]
) -> Float[np.ndarray, "r b m"]:
    """Return draws of the ranks on every board, as if other images had been drawn.

    The draws of scores are spread twice as wide as their errors: ranks of draws around observed scores vary
    less than ranks of scores do where models are equal, and sets of them would hold too little (88 % for
    95 % of eight equal models on six boards; 96 % as it is).
    """
    wide = [scores + 2 * (draws - scores) for scores, draws in zip(boards, drawn, strict=True)]
    return np.stack([board_ranks(draws) for draws in wide], axis=1)


def other_boards(
    aggregate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ranks: Float[np.ndarray, "b m"],
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "r m"]:
    """Return draws of an aggregate, as if other boards of this kind had been asked: b drawn of b, again.

    They are widened as Student's t is, since few boards tell little of how boards differ.
    """
    count, rng = len(ranks), np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), draws).astype(np.float64)
    found = aggregate(np.broadcast_to(ranks, (draws, *ranks.shape)), weights)
    centre = np.nanmean(found, axis=0)
    freedom = count - 1
    wider = np.sqrt(count / (count - 1) * freedom / rng.chisquare(freedom, (draws, 1)))
    return centre + (found - centre) * wider
