"""The first section of the page: models x boards, with ranks by family of tasks."""

from collections.abc import Sequence
from typing import Any

from ssleval.errors import DataError
from ssleval.results import matrix
from ssleval.results.leaderboard import columns
from ssleval.results.overall import Overall, Standing, cells_of, family_of, family_order, overall
from ssleval.results.ranking import Board, SamplesReader, headline_samples

MOST_CELLS = 2000
"""Of more results, ranks have no sets, which would take minutes."""


def overview(boards: Sequence[Board], read: SamplesReader = headline_samples) -> dict[str, Any]:
    """Return models, ranked ones first, with the places of their results among all entries of ``boards``.

    Where fewer than two models have every board, none is ranked, and ``why`` says so.
    """
    cells, why = cells_of(boards), ""
    try:
        found = overall(boards, aggregates=("mean_rank",), sets=len(cells) <= MOST_CELLS, read=read)
    except DataError as error:
        found, why = _unranked(boards), str(error).partition(";")[0]
    ranked = () if why else found.models
    rows = {id(entry): row for row, entry in enumerate(one for board in boards for one in board.entries)}
    measured: dict[str, list[int | None]] = {name: [None] * len(boards) for name in ranked}
    for (name, place), entry in cells.items():
        measured.setdefault(name, [None] * len(boards))[place] = rows[id(entry)]
    others = sorted(measured.keys() - set(ranked), key=lambda name: (measured[name].count(None), name))
    return {
        "models": [
            {"name": name, "ranked": name in ranked, "rows": measured[name]} for name in (*ranked, *others)
        ],
        "columns": columns(boards),
        "families": _families(boards),
        "why": why,
        **_tables(found),
    }


def _families(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the families in their usual order, with the places of their boards."""
    families = [family_of(board.task) for board in boards]
    return [
        {"name": family, "boards": [place for place, of in enumerate(families) if of == family]}
        for family in sorted(set(families), key=family_order)
    ]


def _unranked(boards: Sequence[Board]) -> Overall:
    cells = cells_of(boards)
    return Overall(tuple(boards), tuple(dict.fromkeys(name for name, _ in cells)), cells, (), (), None, {})


def _tables(found: Overall) -> dict[str, Any]:
    return {
        "standings": {one.family: _places(one) for one in found.standings},
        "groups": [[group.supervision, group.models, group.mean_rank] for group in found.groups],
        "pvalue": found.group_pvalue,
        # As lines: in texts of the page, the end of a line is shown and ends none.
        "csv": matrix.csv(found).split("\n"),
        "latex": matrix.latex(found).split("\n"),
    }


def _places(standing: Standing) -> list[tuple[float, tuple[int, int] | None, tuple[int, int] | None]]:
    """Return for every ranked model its mean rank, and its ranks on other images and on other boards."""
    return [(round(place.value, 4), place.images, place.boards) for place in standing.places["mean_rank"]]
