"""How often do the stated 95 % sets of ranks hold the true rank? ``python -m benchmarks.rank_coverage``.

Boards are drawn on which all models are equally good on average, and get the same images right or wrong
more often than chance. The true rank of every model is then 1, shared by all. ``--trials`` says how many
draws. Exits with 1 where a set holds it in less than 93 or more than 99 %. The true rank is the first, so
that only one side of a set can miss it: of one difference, 97.5 % are expected; sets of three are coarse.
"""

import argparse
import sys

import numpy as np

from ssleval.core import Metric, Samples
from ssleval.metrics.ranks import (
    board_ranks,
    draws_of_scores,
    mean_rank,
    moves_of,
    other_boards,
    other_images,
    rank_sets,
)
from ssleval.metrics.stats import mean_of

LEAST, MOST = 0.93, 0.99
METRIC = Metric("top1", mean_of("right"))
ITEMS, DRAWS = 300, 500
AGGREGATES = "mean rank, Borda and Bradley-Terry"
"""Of models that have all boards, one order and one set."""


def board(rng: np.random.Generator, models: int, name: str) -> list[Samples]:
    """Draw outcomes of equal models on images that are hard for all alike."""
    hardness = rng.standard_normal((ITEMS, 1))
    right = hardness + rng.standard_normal((ITEMS, models)) < 1.2
    return [Samples([f"{name}{item}" for item in range(ITEMS)], {"right": column}) for column in right.T]


def holding(sets: np.ndarray) -> float:
    """Return the share of models whose set holds rank 1."""
    return float((sets[:, 0] == 1).mean())


def on_one_board(trials: int, models: int) -> dict[str, float]:
    """Return how often the sets of one board hold the true rank."""
    held: list[float] = []
    for trial in range(trials):
        moves = moves_of(METRIC, board(np.random.default_rng(trial), models, ""))
        (drawn,) = draws_of_scores([moves], DRAWS, trial)
        held.append(holding(rank_sets(moves.scores, drawn)))
    return {"one board, other images": float(np.mean(held))}


def over_boards(trials: int, models: int, boards: int) -> dict[str, float]:
    """Return how often the sets of the aggregates hold the true rank, for other images and other boards."""
    held: dict[str, list[float]] = {}
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        moves = [moves_of(METRIC, board(rng, models, f"{place}-")) for place in range(boards)]
        scores = [one.scores for one in moves]
        ranks, drawn = (
            board_ranks(np.stack(scores)),
            other_images(scores, draws_of_scores(moves, DRAWS, trial)),
        )
        values = -mean_rank(ranks, np.ones(boards))
        images = -mean_rank(drawn, np.ones(drawn.shape[:2]))
        others = -other_boards(mean_rank, ranks, DRAWS, trial)
        for by, draws in (("images", images), ("boards", others)):
            held.setdefault(f"{AGGREGATES}, other {by}", []).append(holding(rank_sets(values, draws)))
    return {name: float(np.mean(shares)) for name, shares in held.items()}


def main() -> int:
    """Print the share of true ranks held, for three numbers of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    trials = parser.parse_args().trials
    missed = False
    for models in (3, 8, 20):
        for name, share in {**on_one_board(trials, models), **over_boards(trials, models, 8)}.items():
            missed |= not LEAST <= share <= MOST
            print(f"| {models} | {name} | {100 * share:.1f} |", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
