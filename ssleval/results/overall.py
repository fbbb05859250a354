"""Which model is good for what: models x boards, by family of tasks and over all. Imports no torch.

Three aggregates are formed of the ranks on boards: their mean, the Borda count and Bradley-Terry strengths
with boards as games. Each comes with two sets of ranks that hold the model's place 95 times in 100: one for
other test images, one for other boards. Models that lack a board are not ranked unless asked.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ssleval.core.text import some
from ssleval.errors import DataError
from ssleval.metrics.ranks import (
    board_ranks,
    borda,
    bradley_terry,
    draws_of_scores,
    mean_rank,
    moves_of,
    other_boards,
    other_images,
    rank_sets,
)
from ssleval.results.leaderboard import titles
from ssleval.results.ranking import Board, Entry, SamplesReader, headline_samples

FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(
        ("knn", "linear", "logreg", "fewshot", "attentive", "curves", "finetune"), "classification"
    ),
    **dict.fromkeys(("segmentation", "segmentation_knn", "depth", "attention", "discovery"), "dense"),
    "detection": "dense",
    **dict.fromkeys(("retrieval", "copy_detection", "instance_recognition"), "retrieval"),
    **dict.fromkeys(("normals", "segmentation_logreg"), "dense"),
    "correspondence": "correspondence",
    **dict.fromkeys(("video_segmentation", "video_classification"), "video"),
    **dict.fromkeys(("corruptions", "robustness", "shift", "ood"), "robustness"),
    **dict.fromkeys(("zeroshot", "caption_retrieval"), "text"),
    "clustering": "clustering",
    "spectrum": "spectrum",
    "artefacts": "artefacts",
}
"""By task; a task that is not listed is a family of its own."""

FEWEST_BOARDS = 8
"""With fewer, sets of ranks for other boards hold less than they state."""

_AGGREGATES: Mapping[str, tuple[Callable[..., np.ndarray], int]] = {
    "mean_rank": (mean_rank, -1),
    "borda": (borda, 1),
    "bradley_terry": (bradley_terry, 1),
}
"""With the sign that makes the best the largest."""
_MOST_LABELLINGS = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where one model stands by one aggregate over some boards."""

    value: float
    rank: float
    images: tuple[int, int] | None
    """Its lowest and highest rank, if other test images had been drawn; None where a model lacks a board."""
    boards: tuple[int, int] | None
    """The same, if other boards had been asked; None below `FEWEST_BOARDS` boards."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The models over the boards of one family."""

    family: str
    boards: int
    places: Mapping[str, tuple[Place, ...]]
    """By aggregate, one for each model."""


@dataclass(frozen=True, slots=True)
class Group:
    """The models of one kind of supervision."""

    supervision: str
    models: int
    mean_rank: float


@dataclass(frozen=True, slots=True)
class Overall:
    """Models x boards."""

    boards: tuple[Board, ...]
    models: tuple[str, ...]
    """Titles of the ranked models, by mean rank over all boards."""
    cells: Mapping[tuple[str, int], Entry]
    """By title and place of the board."""
    standings: tuple[Standing, ...]
    """Over all boards first, then by family."""
    groups: tuple[Group, ...]
    group_pvalue: float | None
    """Of no difference between groups, by permutation of models; None with one group or too few models."""
    left_out: Mapping[str, tuple[str, ...]]
    """Models that are not ranked, with the boards they lack."""


def overall(
    boards: Sequence[Board],
    *,
    incomplete: bool = False,
    aggregates: Collection[str] = tuple(_AGGREGATES),
    sets: bool = True,
    read: SamplesReader = headline_samples,
) -> Overall:
    """Aggregate boards.

    Args:
        boards: what models are ranked on.
        incomplete: rank models that lack boards over those that they have.
        aggregates: those to form.
        sets: form sets of ranks, which takes memory and time for every model on every board.
        read: returns the samples of some results of one board.

    Raises:
        DataError: fewer than two models have every board, or, with ``incomplete``, there are fewer than two.
    """
    cells = cells_of(boards)
    names = dict.fromkeys(title for title, _ in cells)
    lacking = {
        name: tuple(board.name for place, board in enumerate(boards) if (name, place) not in cells)
        for name in names
    }
    models = [name for name in names if incomplete or not lacking[name]]
    if len(models) < 2:
        raise DataError(_too_few(boards, lacking, incomplete=incomplete))
    scores = np.array([[_score(cells.get((name, place))) for name in models] for place in range(len(boards))])
    values = mean_rank(board_ranks(scores), np.ones(len(boards)))
    order = np.argsort(values, kind="stable")
    models, scores = [models[place] for place in order], scores[:, order]
    drawn = _drawn(boards, cells, models, read) if sets and not np.isnan(scores).any() else None
    supervision = [_supervision(cells, name, len(boards)) for name in models]
    groups, pvalue = _groups(values[order], supervision)
    return Overall(
        tuple(boards),
        tuple(models),
        cells,
        _standings(boards, scores, drawn, aggregates),
        groups,
        pvalue,
        {name: missing for name, missing in lacking.items() if name not in models},
    )


def family_of(task: str) -> str:
    """Return the family that a task belongs to."""
    return FAMILIES.get(task, task)


def family_order(family: str) -> tuple[int, str]:
    """Return what families are sorted by: the order in which they are listed, unknown ones last."""
    known = ["overall", *dict.fromkeys(FAMILIES.values())]
    return known.index(family) if family in known else len(known), family


def cells_of(boards: Sequence[Board]) -> dict[tuple[str, int], Entry]:
    """Return the entries of all boards, by title of the model and place of the board."""
    title_of = titles(boards)
    return {
        (title_of[entry.label, entry.result.weights_sha256], place): entry
        for place, board in enumerate(boards)
        for entry in board.entries
    }


def _too_few(boards: Sequence[Board], lacking: Mapping[str, tuple[str, ...]], *, incomplete: bool) -> str:
    if incomplete or len(lacking) < 2:
        return f"an overall ranking needs two models; there are results of {len(lacking)}"
    nearest = min((name for name in lacking if lacking[name]), key=lambda name: len(lacking[name]))
    return (
        f"fewer than two models have all {len(boards)} boards; {nearest} lacks {some(lacking[nearest])}; "
        "measure what is missing, or rank over the boards that each model has by --incomplete"
    )


def _score(entry: Entry | None) -> float:
    if entry is None:
        return float("nan")
    score = entry.result.leading
    return score.value if score.higher_is_better else -score.value


def _drawn(
    boards: Sequence[Board],
    cells: Mapping[tuple[str, int], Entry],
    models: Sequence[str],
    read: SamplesReader,
) -> Float[np.ndarray, "r b m"]:
    moves = []
    for place, board in enumerate(boards):
        results = [cells[name, place].result for name in models]
        metric = results[0].metrics[board.headline].metric(board.headline)
        moves.append(moves_of(metric, read(results)))
    return other_images([board.scores for board in moves], draws_of_scores(moves))


def _standings(
    boards: Sequence[Board],
    scores: Float[np.ndarray, "b m"],
    drawn: Float[np.ndarray, "r b m"] | None,
    aggregates: Collection[str],
) -> tuple[Standing, ...]:
    families = dict.fromkeys(family_of(board.task) for board in boards)
    chosen = {"overall": np.arange(len(boards))}
    if len(families) > 1:
        of_board = np.array([family_of(board.task) for board in boards])
        chosen |= {family: np.flatnonzero(of_board == family) for family in families}
    return tuple(
        Standing(
            family, len(rows), _places(scores[rows], None if drawn is None else drawn[:, rows], aggregates)
        )
        for family, rows in chosen.items()
    )


def _places(
    scores: Float[np.ndarray, "b m"], drawn: Float[np.ndarray, "r b m"] | None, aggregates: Collection[str]
) -> dict[str, tuple[Place, ...]]:
    ranks, count = board_ranks(scores), len(scores)
    places: dict[str, tuple[Place, ...]] = {}
    by_images = by_boards = None
    # Of models that all have all boards the three orders are one (`bradley_terry`), and so are their sets.
    if drawn is not None:
        means = -mean_rank(ranks, np.ones(count))
        by_images = rank_sets(means, -mean_rank(drawn, np.ones(drawn.shape[:2])))
        if count >= FEWEST_BOARDS:
            by_boards = rank_sets(means, -other_boards(mean_rank, ranks))
    for name in aggregates:
        aggregate, sign = _AGGREGATES[name]
        values = aggregate(ranks, np.ones(count))
        order = board_ranks(sign * values)
        places[name] = tuple(
            Place(float(value), float(rank), _pair(by_images, model), _pair(by_boards, model))
            for model, (value, rank) in enumerate(zip(values, order, strict=True))
        )
    return places


def _pair(sets: Int[np.ndarray, "m 2"] | None, model: int) -> tuple[int, int] | None:
    return None if sets is None else (int(sets[model, 0]), int(sets[model, 1]))


def _supervision(cells: Mapping[tuple[str, int], Entry], name: str, boards: int) -> str:
    entry = next(cells[name, place] for place in range(boards) if (name, place) in cells)
    return str(entry.result.backbone.get("supervision") or "unknown")


def _groups(
    values: Float[np.ndarray, " m"], supervision: Sequence[str]
) -> tuple[tuple[Group, ...], float | None]:
    """Return the groups, best first, and the p-value of a difference between their mean ranks.

    The unit is the model: labels are permuted over models. The statistic is the variance of group means,
    weighted by their sizes.
    """
    labels = np.array(supervision)
    kinds = [kind for kind in dict.fromkeys(supervision) if kind != "unknown"]
    groups = [
        Group(kind, int((labels == kind).sum()), float(values[labels == kind].mean())) for kind in kinds
    ]
    groups.sort(key=lambda group: group.mean_rank)
    known = np.concatenate([values[labels == group.supervision] for group in groups])
    sizes = np.array([group.models for group in groups])
    if len(groups) < 2 or sizes.max() < 2:
        return tuple(groups), None
    observed = _between(np.array([group.mean_rank for group in groups]), sizes)
    drawn = _permuted(known, sizes)
    return tuple(groups), float((drawn >= observed * (1 - 1e-12)).mean())


def _between(means: Float[np.ndarray, "*r g"], sizes: Int[np.ndarray, " g"]) -> Any:
    """Return the variance of group means, weighted by sizes, for every row of them."""
    grand = (means * sizes).sum(axis=-1, keepdims=True) / sizes.sum()
    return ((means - grand) ** 2 * sizes).sum(axis=-1)


def _permuted(values: Float[np.ndarray, " m"], sizes: Int[np.ndarray, " g"]) -> np.ndarray:
    """Return the statistic under every labelling of two groups, or under many drawn at random."""
    count = len(values)
    if len(sizes) == 2 and comb(count, int(sizes[0])) <= _MOST_LABELLINGS:
        orders = np.array(
            [
                [*first, *(other for other in range(count) if other not in first)]
                for first in combinations(range(count), int(sizes[0]))
            ]
        )
    else:
        rng = np.random.default_rng(0)
        drawn = rng.permuted(np.tile(np.arange(count), (_MOST_LABELLINGS, 1)), axis=1)
        # The labelling at hand is one of them, without which a p-value could be 0.
        orders = np.concatenate([drawn, np.arange(count)[None]])
    parts = np.split(values[orders], np.cumsum(sizes)[:-1], axis=1)
    return _between(np.stack([part.mean(axis=1) for part in parts], axis=-1), sizes)
